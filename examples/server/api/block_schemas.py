"""/block_schemas and /block_capabilities"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from starlette.exceptions import HTTPException

from examples.server.api.documents import describe_schemas
from examples.server.calls import MAX_LIMIT, Call, Limit, Offset, Reply, found
from examples.server.routing import delete, get, post
from prefect_db import Backend, ForeignKeyViolation, Queryable, UsageError, blocks
from prefect_db.blocks import BlockSchemaFilter


@dataclass(slots=True, kw_only=True)
class BlockSchemaCreate:
    block_type_id: UUID
    fields: Mapping[str, Any] = field(default_factory=dict)
    capabilities: list[str] = field(default_factory=list)
    version: str = "non-versioned"


@dataclass(slots=True, kw_only=True)
class BlockSchemaQuery:
    block_schemas: BlockSchemaFilter | None = None
    limit: Limit = None
    offset: Offset = 0


def create(db: Backend, call: Call) -> Reply:
    body = call.read(BlockSchemaCreate)

    def work(txn: Queryable) -> dict[str, Any]:
        found(blocks.get_type(txn, body.block_type_id), f"block type {body.block_type_id}")
        schema = blocks.create_schema(
            txn,
            body.fields,
            body.block_type_id,
            capabilities=body.capabilities,
            version=body.version,
        )
        return describe_schemas(txn, [schema])[0]

    try:
        schema = db.run(work)
    except ForeignKeyViolation as error:
        raise HTTPException(409, error.message) from error
    return Reply(schema, call.status(schema["created"]))


def read(db: Queryable, call: Call) -> dict[str, Any]:
    schema = found(blocks.get_schema(db, call.id), "block schema")
    return describe_schemas(db, [schema])[0]


def read_by_checksum(db: Queryable, call: Call) -> dict[str, Any]:
    checksum, version = call.path["checksum"], call.query.get("version")
    schema = found(blocks.get_schema_by_checksum(db, checksum, version), "block schema")
    return describe_schemas(db, [schema])[0]


def query(db: Queryable, call: Call) -> list[dict[str, Any]]:
    body = call.read(BlockSchemaQuery)
    limit = MAX_LIMIT if body.limit is None else body.limit
    schemas = blocks.find_schemas(db, body.block_schemas, limit=limit, offset=body.offset)
    return describe_schemas(db, schemas)


def remove(db: Queryable, call: Call) -> None:
    try:
        blocks.delete_schema(db, call.id)
    except UsageError as error:
        raise HTTPException(403, "The block type of this schema is protected.") from error


def capabilities(db: Queryable, call: Call) -> list[str]:
    return blocks.available_capabilities(db)


ROUTES = [
    post("/block_schemas/", create),
    post("/block_schemas/filter", query),
    get("/block_schemas/{id:uuid}", read),
    get("/block_schemas/checksum/{checksum}", read_by_checksum),
    delete("/block_schemas/{id:uuid}", remove),
    get("/block_capabilities/", capabilities),
]
