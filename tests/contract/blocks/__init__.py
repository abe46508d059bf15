"""What tests of blocks share: short ways to make types, schemas and documents."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import pytest
from cryptography.fernet import Fernet, InvalidToken

from prefect_db import Backend, Error, Queryable, blocks, configuration
from prefect_db.blocks import BlockSchema, BlockSchemaFilter, BlockType, encryption
from prefect_db.filters import AnyOf
from prefect_db.values import Json

MASK = "********"
UNSTORABLE = ("a\0b", "a\ud800b")
TABLES = (
    "block_type",
    "block_schema",
    "block_schema_reference",
    "block_document",
    "block_document_reference",
    "configuration",
)
CHILD = {
    "block_schema_references": {},
    "block_type_slug": "u",
    "properties": {"s": {"type": "string"}},
    "title": "U",
    "type": "object",
}
CHILD_CHECKSUM = "sha256:574227c23c74e8a06b580135804c8b76a5ddfcaa75abbac05ebfe223f7cefda0"
PARENT = {
    "block_schema_references": {
        "c": {"block_schema_checksum": CHILD_CHECKSUM, "block_type_slug": "u"}
    },
    "block_type_slug": "t",
    "definitions": {
        "U": {**CHILD, "secret_fields": ["s"]},
        "M": {"properties": {}, "title": "M", "type": "object"},
        "E": {},
    },
    "properties": {"c": {"$ref": "#/definitions/U"}, "m": {"$ref": "#/definitions/M"}},
    "title": "Té",
    "type": "object",
}
PARENT_CHECKSUM = "sha256:49da00ca710c1f8baa71c4eced4ae43f2a1253d8fc8b025c4df9100e273fc736"


def content(db: Backend) -> list[set[tuple[Any, ...]]]:
    return [{tuple(row) for row in db.rows(f"SELECT * FROM {table}")} for table in TABLES]


@contextmanager
def refused(
    db: Backend, kind: type[Error], match: str | None = None
) -> Iterator[pytest.ExceptionInfo[Error]]:
    """The block raises exactly this error and leaves the database as it was."""
    before = content(db)
    with pytest.raises(Error, match=match) as raised:
        yield raised
    assert type(raised.value) is kind
    assert content(db) == before


def new_type(db: Queryable, slug: str = "thing", **given: Any) -> BlockType:
    return blocks.create_type(db, slug.title(), slug, **given)


def block_fields(slug: str, **given: Any) -> dict[str, Any]:
    fields = {"block_type_slug": slug, "title": slug.title(), "type": "object", "properties": {}}
    return {**fields, "block_schema_references": {}, **given}


def new_schema(db: Queryable, slug: str = "thing", **fields: Any) -> BlockSchema:
    """A schema of the type with this slug, which is made if it is missing."""
    block_type = blocks.get_type_by_slug(db, slug) or new_type(db, slug)
    return blocks.create_schema(db, block_fields(slug, **fields), block_type.id)


def new_document(
    db: Queryable,
    name: str,
    data: dict[str, Any] | None = None,
    *,
    slug: str = "thing",
    **given: Any,
) -> blocks.BlockDocument:
    found = blocks.get_type_by_slug(db, slug)
    schemas = (
        blocks.find_schemas(db, BlockSchemaFilter(block_type_id=AnyOf(any_=[found.id])))
        if found
        else []
    )
    schema = schemas[0] if schemas else new_schema(db, slug)
    return blocks.create_document(db, name, data or {}, schema.id, schema.block_type_id, **given)


def reference(document: blocks.BlockDocument) -> dict[str, Any]:
    return {"$ref": {"block_document_id": str(document.id)}}


def read(db: Backend, document: blocks.BlockDocument, *, secrets: bool = True) -> Any:
    found = blocks.get_document(db, document.id, include_secrets=secrets)
    return found and found.data


def type_id(db: Backend, slug: str) -> UUID:
    block_type = blocks.get_type_by_slug(db, slug)
    assert block_type is not None
    return block_type.id


def document_references(db: Backend) -> set[tuple[Any, ...]]:
    rows = db.rows(
        "SELECT p.name, r.name, c.name FROM block_document_reference AS r"
        " JOIN block_document AS p ON p.id = r.parent_block_document_id"
        " JOIN block_document AS c ON c.id = r.reference_block_document_id"
    )
    return {tuple(row) for row in rows}


def many_documents(db: Backend, number: int) -> list[UUID]:
    """The ids of new documents `{"n": 0}`, `{"n": 1}`, ..., made faster than one by one."""
    schema = new_schema(db)
    now = datetime.now(UTC)
    ids = [uuid4() for _ in range(number)]
    with db.transaction() as txn:
        cipher = encryption.writing(txn)
        txn.executemany(
            "INSERT INTO block_document (id, created, updated, name, data, block_schema_id,"
            " block_type_id, is_anonymous) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            [
                (
                    id,
                    now,
                    now,
                    f"doc-{n}",
                    Json(cipher.encrypt({"n": n})),
                    schema.id,
                    schema.block_type_id,
                    False,
                )
                for n, id in enumerate(ids)
            ],
        )
    return ids


def stored_keys(db: Backend) -> dict[str, Any]:
    """The value of the key row."""
    value = configuration.get(db, "ENCRYPTION_KEY")
    assert value is not None
    return value


def under_key(db: Backend, key: str) -> int:
    """How many documents are encrypted with this key."""
    fernet = Fernet(key)
    found = 0
    for row in db.rows("SELECT data FROM block_document"):
        with suppress(InvalidToken):
            fernet.decrypt(row.json("data"))
            found += 1
    return found
