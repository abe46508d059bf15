"""Block schemas and how they nest. Rules: Prefect's server, models/block_schemas.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

from prefect_db.blocks.fields import (
    DEFINITIONS,
    REFERENCES,
    check_secret_fields,
    checksum,
    definition_of,
    each_reference,
    with_definitions,
)
from prefect_db.blocks.filters import BlockSchemaFilter, of_schemas
from prefect_db.blocks.types import forget_default_storage, get_type_by_slug
from prefect_db.errors import (
    BadValue,
    ForeignKeyViolation,
    NotFound,
    SerializationFailure,
    UsageError,
)
from prefect_db.filters import Where, page
from prefect_db.ids import given_or_new, uuid7
from prefect_db.queryable import Queryable
from prefect_db.row import Record
from prefect_db.values import to_list, to_uuid

_UNVERSIONED: Final = "non-versioned"


@dataclass(slots=True)
class BlockSchema(Record):
    """The fields that documents of a block type have, as a JSON schema.

    Attributes:
        fields: Complete: the references to other schemas, and those schemas as definitions, are
            in it, though they are stored as rows.
    """

    id: UUID
    created: datetime
    updated: datetime
    checksum: str
    fields: dict[str, Any]
    capabilities: list[str]
    version: str
    block_type_id: UUID


def create_schema(
    db: Queryable,
    fields: Mapping[str, Any],
    block_type_id: UUID,
    *,
    capabilities: Sequence[str] = (),
    version: str = _UNVERSIONED,
    id: UUID | None = None,
) -> BlockSchema:
    """The schema of these fields and this version: a new one, or the one that is there, unchanged.

    Schemas that it refers to and that are not there yet are made from its definitions.

    Args:
        fields: As a client sends them: a JSON schema with `block_schema_references` and the
            `definitions` of the schemas that it refers to.

    Raises:
        ForeignKeyViolation: There is no such block type, or none that it refers to by slug.
        UniqueViolation: Another schema has this id.
        BadValue: The fields are no JSON, refer to a schema without defining it, or a text in them
            has a NUL or a lone surrogate.
    """
    block_type_id, id = to_uuid(block_type_id), given_or_new(id)
    found = get_schema_by_checksum(db, checksum(fields), version)
    if found is not None:
        return found
    with db.unit() as txn:
        schema_id = _store(
            txn, fields, {}, block_type_id, capabilities=capabilities, version=version, id=id
        )
        return _read(txn, " WHERE id = ?", (schema_id,))[0]


def get_schema(db: Queryable, block_schema_id: UUID) -> BlockSchema | None:
    """The block schema with this id, or None."""
    return _one(_read(db, " WHERE id = ?", (to_uuid(block_schema_id),)))


def get_schema_by_checksum(
    db: Queryable, checksum: str, version: str | None = None
) -> BlockSchema | None:
    """The block schema with this checksum and version, or None; the newest if no version is given.

    The checksum is the one at creation, which `checksum(fields)` of a schema that was read need
    not be: see `create_schema`.
    """
    where = Where(db.dialect)
    where.add("checksum = ?", checksum)
    if version is not None:
        where.add("version = ?", version)
    return _one(_read(db, where.sql, where.params, limit=1))


def find_schemas(
    db: Queryable,
    filter: BlockSchemaFilter | None = None,
    *,
    limit: int | None = 200,
    offset: int = 0,
) -> list[BlockSchema]:
    """The block schemas that the filter lets through, the newest first, a page of them."""
    where = of_schemas(db.dialect, filter)
    return _read(db, where.sql, where.params, limit=limit, offset=offset)


def delete_schema(db: Queryable, block_schema_id: UUID) -> None:
    """Delete a block schema with its documents, and the flow runs whose infrastructure one of
    those is. Schemas that refer to it lose the reference.

    Raises:
        NotFound: There is no such block schema.
        UsageError: Its type is protected.
    """
    block_schema_id = to_uuid(block_schema_id)
    with db.unit() as txn:
        if not txn.execute(
            "DELETE FROM block_schema WHERE id = ? AND block_type_id IN"
            " (SELECT id FROM block_type WHERE NOT is_protected)",
            (block_schema_id,),
        ):
            if txn.row("SELECT 1 FROM block_schema WHERE id = ?", (block_schema_id,)) is None:
                raise NotFound(f"no block schema {block_schema_id}")
            raise UsageError(f"the type of block schema {block_schema_id} is protected")
        forget_default_storage(txn)


def available_capabilities(db: Queryable) -> list[str]:
    """The capabilities that any schema has, each once, in order."""
    elements = db.dialect.pick(sqlite="json_each", postgres="jsonb_array_elements_text")
    rows = db.rows(f"SELECT DISTINCT c.value FROM block_schema, {elements}(capabilities) AS c")
    return sorted(str(row["value"]) for row in rows)


@dataclass(slots=True)
class _Node(BlockSchema):
    """A schema that was asked for, or one that `parent_id` refers to in `field`."""

    slug: str
    field: str | None
    parent_id: UUID | None


def _read(
    db: Queryable, where: str, params: Sequence[Any], *, limit: int | None = None, offset: int = 0
) -> list[BlockSchema]:
    nodes = db.rows(
        "WITH RECURSIVE chosen (id, place) AS ("
        "SELECT id, row_number() OVER (ORDER BY created DESC, id DESC)"
        f" FROM block_schema{where} ORDER BY created DESC, id DESC LIMIT ? OFFSET ?"
        "), edge (id, created, name, parent_id, child_id) AS ("
        "SELECT r.id, r.created, r.name, parent_block_schema_id, reference_block_schema_id"
        " FROM block_schema_reference AS r JOIN chosen ON chosen.id = parent_block_schema_id"
        # Not UNION ALL: a circle, or a schema that many refer to, must not be walked again.
        " UNION "
        "SELECT r.id, r.created, r.name, parent_block_schema_id, reference_block_schema_id"
        " FROM block_schema_reference AS r JOIN edge ON child_id = parent_block_schema_id"
        "), node (id, field, parent_id, place) AS ("
        "SELECT id, CAST(NULL AS VARCHAR), CAST(NULL AS UUID), place FROM chosen"
        " UNION ALL "
        "SELECT child_id, name, parent_id, row_number() OVER (ORDER BY created, id) FROM edge"
        ") SELECT s.id, s.created, s.updated, s.checksum, s.fields, s.capabilities, s.version,"
        " s.block_type_id, t.slug, node.field, node.parent_id"
        " FROM node JOIN block_schema AS s ON s.id = node.id"
        " JOIN block_type AS t ON t.id = s.block_type_id ORDER BY node.place",
        (*params, *page(limit, offset)),
        into=_Node,
    )
    children: dict[UUID | None, list[_Node]] = {}
    for node in nodes:
        children.setdefault(node.parent_id, []).append(node)
    complete: dict[UUID, dict[str, Any]] = {}
    return [
        BlockSchema(
            id=root.id,
            created=root.created,
            updated=root.updated,
            checksum=root.checksum,
            fields=_complete(root, children, complete),
            capabilities=root.capabilities,
            version=root.version,
            block_type_id=root.block_type_id,
        )
        for root in children.get(None, ())
    ]


def _complete(
    node: _Node,
    children: Mapping[UUID | None, list[_Node]],
    complete: dict[UUID, dict[str, Any]],
) -> dict[str, Any]:
    """The fields of a schema with its references and, by their titles, all schemas below it."""
    if node.id in complete:
        return complete[node.id]
    references: dict[str, Any] = {}
    definitions: dict[str, Any] = {}
    fields = complete[node.id] = {**node.fields, REFERENCES: references}
    for child in children.get(node.id, ()):
        assert child.field is not None
        reference = {"block_schema_checksum": child.checksum, "block_type_slug": child.slug}
        given = references.setdefault(child.field, reference)
        if not isinstance(given, list):
            given = [given]
        if reference not in given:
            references[child.field] = [*given, reference]
        title = child.fields.get("title")
        if title is not None:
            below = dict(_complete(child, children, complete))
            deeper = below.pop(DEFINITIONS, {})
            definitions.update({title: below, **deeper})
    if definitions:
        fields[DEFINITIONS] = {**(fields.get(DEFINITIONS) or {}), **definitions}
    return fields


def _one(schemas: list[BlockSchema]) -> BlockSchema | None:
    return schemas[0] if schemas else None


def _store(
    txn: Queryable,
    fields: Mapping[str, Any],
    definitions: Mapping[str, Any],
    block_type_id: UUID,
    *,
    capabilities: Sequence[str] = (),
    version: str = _UNVERSIONED,
    id: UUID | None = None,
) -> UUID:
    """Store a schema and, by `definitions`, those below it; the id of it or of the one there is.

    The definitions are the outermost schema's: they all count for the checksum of one below.
    """
    definitions = definitions or fields.get(DEFINITIONS) or {}
    sent = {**fields, DEFINITIONS: definitions} if definitions else dict(fields)
    check_secret_fields(sent)
    stored = with_definitions(sent, definitions) if definitions else dict(sent)
    references = stored.pop(REFERENCES, None) or {}
    now = datetime.now(UTC)
    schema = BlockSchema(
        id=given_or_new(id),
        created=now,
        updated=now,
        checksum=checksum(sent),
        fields=stored,
        capabilities=to_list(capabilities),
        version=version,
        block_type_id=block_type_id,
    )
    inserted = txn.execute(
        f"INSERT INTO block_schema ({BlockSchema.columns}) VALUES ({BlockSchema.marks})"
        " ON CONFLICT (checksum, version) DO NOTHING",
        schema.params(),
    )
    if not inserted:
        existing = _newest(txn, "checksum = ? AND version = ?", (schema.checksum, version))
        if existing is None:
            raise SerializationFailure(f"the schema {schema.checksum} was deleted meanwhile")
        return existing
    children: dict[tuple[str, UUID], datetime] = {}
    for field, slug, declared in each_reference(references):
        child_id = _child(txn, stored, definitions, field, slug, declared)
        children.setdefault((field, child_id), datetime.now(UTC))
    txn.executemany(
        "INSERT INTO block_schema_reference (id, created, updated, name, parent_block_schema_id,"
        " reference_block_schema_id) VALUES (?, ?, ?, ?, ?, ?)",
        [
            (uuid7(), now, now, field, schema.id, child_id)
            for (field, child_id), now in children.items()
        ],
    )
    return schema.id


def _child(
    txn: Queryable,
    fields: Mapping[str, Any],
    definitions: Mapping[str, Any],
    field: str,
    slug: str,
    declared: str,
) -> UUID:
    """The id of the schema that a field refers to, made from its definition if need be."""
    block_type = get_type_by_slug(txn, slug)
    if block_type is None:
        raise ForeignKeyViolation(f"the field {field!r} refers to a block type {slug!r}")
    child_id = _newest(txn, "checksum = ?", (declared,))
    if child_id is not None:
        return child_id
    definition = definition_of(fields, definitions, field, slug)
    if definition is None:
        raise BadValue(f"no definition of the block type {slug!r} that {field!r} refers to")
    return _store(txn, definition, definitions, block_type.id)


def _newest(txn: Queryable, condition: str, params: Sequence[Any]) -> UUID | None:
    row = txn.row(
        f"SELECT id FROM block_schema WHERE {condition} ORDER BY created DESC, id DESC LIMIT 1",
        params,
    )
    return row.uuid("id") if row else None
