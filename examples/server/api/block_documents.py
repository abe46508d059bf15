"""/block_documents"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any
from uuid import UUID

from starlette.exceptions import HTTPException

from examples.server.api.documents import describe
from examples.server.bodies import Invalid
from examples.server.calls import MAX_LIMIT, Call, Limit, Offset, Reply, found
from examples.server.checks import is_slug
from examples.server.routing import delete, get, patch, post
from prefect_db import Backend, CheckViolation, Queryable, UniqueViolation, blocks
from prefect_db.blocks import BlockDocumentFilter, BlockDocumentSort


@dataclass(slots=True, kw_only=True)
class BlockDocumentCreate:
    block_schema_id: UUID
    block_type_id: UUID
    name: Annotated[str, is_slug] | None = None
    data: Mapping[str, Any] = field(default_factory=dict)
    is_anonymous: bool = False


@dataclass(slots=True, kw_only=True)
class BlockDocumentUpdate:
    block_schema_id: UUID | None = None
    data: Mapping[str, Any] | None = None
    merge_existing_data: bool = True


@dataclass(slots=True, kw_only=True)
class BlockDocumentCount:
    block_documents: BlockDocumentFilter | None = None


@dataclass(slots=True, kw_only=True)
class BlockDocumentQuery(BlockDocumentCount):
    include_secrets: bool = False
    sort: BlockDocumentSort | None = None
    limit: Limit = None
    offset: Offset = 0


def create(db: Backend, call: Call) -> Reply:
    body = call.read(BlockDocumentCreate)
    if not body.name and not body.is_anonymous:
        raise Invalid("Names must be provided for block documents.", ["body"], call.json())

    def work(txn: Queryable) -> dict[str, Any]:
        document = blocks.create_document(
            txn,
            body.name,
            body.data,
            body.block_schema_id,
            body.block_type_id,
            is_anonymous=body.is_anonymous,
        )
        return describe(txn, [document])[0]

    try:
        return Reply(db.run(work), 201)
    except UniqueViolation as error:
        raise HTTPException(409, "Block already exists") from error
    except CheckViolation as error:
        raise HTTPException(400, error.message) from error


def read(db: Queryable, call: Call) -> dict[str, Any]:
    document = blocks.get_document(db, call.id, include_secrets=call.flag("include_secrets"))
    return describe(db, [found(document, "block document")])[0]


def query(db: Queryable, call: Call) -> list[dict[str, Any]]:
    body = call.read(BlockDocumentQuery)
    documents = blocks.find_documents(
        db,
        body.block_documents,
        sort=body.sort or BlockDocumentSort.NAME_ASC,
        limit=MAX_LIMIT if body.limit is None else body.limit,
        offset=body.offset,
        include_secrets=body.include_secrets,
    )
    return describe(db, documents)


def count(db: Queryable, call: Call) -> int:
    return blocks.count_documents(db, call.read(BlockDocumentCount).block_documents)


def update(db: Backend, call: Call) -> None:
    body = call.read(BlockDocumentUpdate)
    try:
        db.run(
            lambda txn: blocks.update_document(
                txn,
                call.id,
                data=body.data,
                block_schema_id=body.block_schema_id,
                merge_existing_data=body.merge_existing_data,
            )
        )
    except CheckViolation as error:
        raise HTTPException(400, error.message) from error


def remove(db: Queryable, call: Call) -> None:
    blocks.delete_document(db, call.id)


ROUTES = [
    post("/block_documents/", create),
    post("/block_documents/filter", query),
    post("/block_documents/count", count),
    get("/block_documents/{id:uuid}", read),
    patch("/block_documents/{id:uuid}", update),
    delete("/block_documents/{id:uuid}", remove),
]
