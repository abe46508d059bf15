"""Block documents: encrypted, and nested by references. Rules: models/block_documents.py."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from enum import Enum
from typing import Any, TypeVar
from uuid import UUID, uuid4

from prefect_db.blocks import encryption
from prefect_db.blocks.filters import (
    BlockDocumentFilter,
    BlockSchemaFilter,
    BlockTypeFilter,
    of_documents,
)
from prefect_db.blocks.masking import unmask
from prefect_db.blocks.nesting import BlockDocument, Node, columns, read
from prefect_db.blocks.types import forget_default_storage
from prefect_db.errors import BadValue, CheckViolation, NotFound
from prefect_db.filters import order_of
from prefect_db.ids import given_or_new, uuid7
from prefect_db.queryable import Queryable
from prefect_db.values import Json, dump_json, to_uuid

T = TypeVar("T")


class BlockDocumentSort(Enum):
    """How `find_documents` orders them; the id decides between equals."""

    NAME_ASC = "name ASC, id ASC"
    NAME_DESC = "name DESC, id DESC"
    BLOCK_TYPE_AND_NAME_ASC = "block_type_name ASC, name ASC, id ASC"


def create_document(
    db: Queryable,
    name: str | None,
    data: Mapping[str, Any],
    block_schema_id: UUID,
    block_type_id: UUID,
    *,
    is_anonymous: bool = False,
    id: UUID | None = None,
) -> BlockDocument:
    """A new block document; its secrets are masked in the result.

    Args:
        name: None or empty for an anonymous one: a name is made up.
        data: A value `{"$ref": {"block_document_id": id}}` is a reference to another document.

    Raises:
        UniqueViolation: The type has a document of this name, or another one has this id.
        ForeignKeyViolation: The type, the schema, or a document that it refers to is missing.
        CheckViolation: It refers to itself.
        BadValue: `data` is no JSON object, a reference has no id, a text has a NUL or a lone
            surrogate, or the name is missing.
        ConfigurationError: The package cryptography is missing, or the key's setting is wrong.
    """
    if not name:
        if not is_anonymous:
            raise BadValue("a block document without a name that is not anonymous")
        name = f"anonymous-{uuid4()}"
    plain, references = _split(data)
    document_id = given_or_new(id)
    block_schema_id, block_type_id = to_uuid(block_schema_id), to_uuid(block_type_id)
    now = datetime.now(UTC)
    with db.unit() as txn:
        cipher = encryption.writing(txn)
        txn.execute(
            "INSERT INTO block_document (id, created, updated, name, data, block_schema_id,"
            " block_type_id, is_anonymous, block_type_name) VALUES (?, ?, ?, ?, ?, ?, ?, ?,"
            " (SELECT name FROM block_type WHERE id = ?))",
            (
                document_id,
                now,
                now,
                name,
                Json(cipher.encrypt(plain)),
                block_schema_id,
                block_type_id,
                is_anonymous,
                block_type_id,
            ),
        )
        _refer(txn, document_id, references)
        return read(txn, " WHERE id = ?", (document_id,))[0]


def get_document(
    db: Queryable, block_document_id: UUID, *, include_secrets: bool = False
) -> BlockDocument | None:
    """The block document with this id, or None.

    Raises:
        BadValue: It, or one below it, was encrypted with another key than the one in use, or
            references are nested more than 50 deep.
        ConfigurationError: The package cryptography is missing, or the key is.
    """
    return _one(
        read(db, " WHERE id = ?", (to_uuid(block_document_id),), include_secrets=include_secrets)
    )


def get_document_by_name(
    db: Queryable, block_type_slug: str, name: str, *, include_secrets: bool = False
) -> BlockDocument | None:
    """The document of exactly this name, anonymous or not, of the type with this slug, or None.

    Raises:
        BadValue, ConfigurationError: As `get_document`.
    """
    where = " WHERE name = ? AND block_type_id = (SELECT id FROM block_type WHERE slug = ?)"
    return _one(read(db, where, (name, block_type_slug), include_secrets=include_secrets))


def find_documents(
    db: Queryable,
    filter: BlockDocumentFilter | None = None,
    *,
    types: BlockTypeFilter | None = None,
    schemas: BlockSchemaFilter | None = None,
    sort: BlockDocumentSort = BlockDocumentSort.NAME_ASC,
    limit: int | None = 200,
    offset: int = 0,
    include_secrets: bool = False,
) -> list[BlockDocument]:
    """The documents that the filter lets through, a page of them. Anonymous ones only if it says.

    Args:
        types: Only documents of such types.
        schemas: Only documents of such schemas.

    Raises:
        BadValue, ConfigurationError: As `get_document`, for any of them.
    """
    where = of_documents(db.dialect, filter, types, schemas)
    return read(
        db,
        where.sql,
        where.params,
        order=order_of(sort, BlockDocumentSort),
        limit=limit,
        offset=offset,
        include_secrets=include_secrets,
    )


def count_documents(
    db: Queryable,
    filter: BlockDocumentFilter | None = None,
    *,
    types: BlockTypeFilter | None = None,
    schemas: BlockSchemaFilter | None = None,
) -> int:
    """How many documents the filters let through; see `find_documents`."""
    where = of_documents(db.dialect, filter, types, schemas)
    return int(db.value(f"SELECT count(*) FROM block_document{where.sql}", where.params))


def update_document(
    db: Queryable,
    block_document_id: UUID,
    *,
    data: Mapping[str, Any] | None = None,
    block_schema_id: UUID | None = None,
    merge_existing_data: bool = True,
) -> BlockDocument:
    """The block document with new data; its secrets are masked in the result.

    Args:
        data: Replaces, key by key, what is there. A secret that is sent as eight asterisks stays
            what it is. Only the references among it remain: one that is not sent again is gone.
            None: nothing changes at all, the schema neither.
        block_schema_id: Another schema of the same type, with `data` only.
        merge_existing_data: False: keys that are not sent are gone too.

    Raises:
        NotFound: There is no such document.
        ForeignKeyViolation: The schema, or a document that it refers to, is missing.
        CheckViolation: It would refer to itself, directly or through others, or the schema is of
            another type.
        BadValue: As `create_document`, or the present data was encrypted with another key.
        ConfigurationError: The package cryptography is missing, or the key is.
    """
    block_document_id = to_uuid(block_document_id)
    if block_schema_id is not None:
        block_schema_id = to_uuid(block_schema_id)
    if data is None:
        return _found(get_document(db, block_document_id), block_document_id)
    plain, references = _split(data)
    with db.unit() as txn:
        stored_keys = encryption.hold_keys(txn)
        # NO KEY: a reference that another transaction adds to this document need not wait.
        lock = db.dialect.pick(sqlite="", postgres=" FOR NO KEY UPDATE OF d")
        stored = _found(
            txn.row(
                f"SELECT {columns(txn)}, NULL AS key, NULL AS parent_id FROM block_document AS d"
                " JOIN block_schema AS s ON s.id = d.block_schema_id"
                f" WHERE d.id = ?{lock}",
                (block_document_id,),
                into=Node,
            ),
            block_document_id,
        )
        if block_schema_id is not None:
            _check_schema(txn, block_schema_id, stored.block_type_id)
        cipher = encryption.reading(stored_keys)
        present = encryption.parse(cipher.decrypt(stored.data, stored.id), stored.id)
        plain = unmask(plain, present, stored.secret_fields or ())
        if merge_existing_data:
            kept = {key: value for key, value in present.items() if key not in references}
            plain = {**kept, **plain}
        txn.execute(
            "UPDATE block_document SET data = ?, block_schema_id = ?,"
            f" updated = {txn.dialect.clock} WHERE id = ?",
            (
                Json(cipher.encrypt(plain)),
                block_schema_id or stored.block_schema_id,
                block_document_id,
            ),
        )
        _refer_anew(txn, block_document_id, references)
        return read(txn, " WHERE id = ?", (block_document_id,))[0]


def delete_document(db: Queryable, block_document_id: UUID) -> None:
    """Delete a block document, and the flow runs whose infrastructure it is. Documents that refer
    to it lose the reference.

    Raises:
        NotFound: There is no such document.
    """
    block_document_id = to_uuid(block_document_id)
    with db.unit() as txn:
        if not txn.execute("DELETE FROM block_document WHERE id = ?", (block_document_id,)):
            raise NotFound(f"no block document {block_document_id}")
        forget_default_storage(txn)


def _one(documents: list[BlockDocument]) -> BlockDocument | None:
    return documents[0] if documents else None


def _found(document: T | None, block_document_id: UUID) -> T:
    if document is None:
        raise NotFound(f"no block document {block_document_id}")
    return document


def _split(data: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, UUID]]:
    """The data to encrypt, and the ids of the documents that it refers to, by key."""
    if not isinstance(data, Mapping) or not all(isinstance(key, str) for key in data):
        raise BadValue("the data of a block document is no JSON object")
    plain: dict[str, Any] = {}
    references: dict[str, UUID] = {}
    for key, value in data.items():
        if isinstance(value, Mapping) and "$ref" in value:
            reference = value["$ref"]
            if not isinstance(reference, Mapping) or "block_document_id" not in reference:
                raise BadValue(f"the reference {key!r} has no block_document_id")
            references[key] = to_uuid(reference["block_document_id"])
        else:
            plain[key] = value
    # What Prefect encrypted may hold a NUL; it stays when other keys are updated.
    dump_json(plain)
    return plain, references


def _check_schema(txn: Queryable, block_schema_id: UUID, block_type_id: UUID) -> None:
    """Refuse a schema of another type; a missing one is for the foreign key to refuse."""
    row = txn.row("SELECT block_type_id FROM block_schema WHERE id = ?", (block_schema_id,))
    if row is not None and row.uuid("block_type_id") != block_type_id:
        raise CheckViolation(f"block schema {block_schema_id} is of another block type")


def _refer(txn: Queryable, parent_id: UUID, references: Mapping[str, UUID]) -> None:
    now = datetime.now(UTC)
    txn.executemany(
        "INSERT INTO block_document_reference (id, created, updated, name,"
        " parent_block_document_id, reference_block_document_id) VALUES (?, ?, ?, ?, ?, ?)",
        [(uuid7(), now, now, key, parent_id, child_id) for key, child_id in references.items()],
    )


def _refer_anew(txn: Queryable, parent_id: UUID, references: Mapping[str, UUID]) -> None:
    """Make these the references of a document that others may refer to."""
    missing = dict(references)
    gone: list[tuple[UUID | None]] = []
    for row in txn.rows(
        "SELECT id, name, reference_block_document_id AS child_id FROM block_document_reference"
        " WHERE parent_block_document_id = ?",
        (parent_id,),
    ):
        if missing.get(row["name"]) == row.uuid("child_id"):
            del missing[row["name"]]
        else:
            gone.append((row.uuid("id"),))
    if missing and txn.dialect.name == "postgres":
        # Two transactions that each close half of a circle would not see each other.
        txn.execute("LOCK TABLE block_document_reference IN SHARE ROW EXCLUSIVE MODE")
    txn.executemany("DELETE FROM block_document_reference WHERE id = ?", gone)
    _refer(txn, parent_id, missing)
    if missing and txn.row(
        "WITH RECURSIVE below (id) AS ("
        "SELECT reference_block_document_id FROM block_document_reference"
        " WHERE parent_block_document_id = ?"
        " UNION "
        "SELECT r.reference_block_document_id FROM block_document_reference AS r"
        " JOIN below ON below.id = r.parent_block_document_id"
        ") SELECT id FROM below WHERE id = ?",
        (parent_id, parent_id),
    ):
        raise CheckViolation(f"block document {parent_id} would refer to itself through others")
