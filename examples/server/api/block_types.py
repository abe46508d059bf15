"""/block_types"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Annotated

from starlette.exceptions import HTTPException

from examples.server.api.documents import describe
from examples.server.calls import MAX_LIMIT, Call, Limit, Offset, Reply, found
from examples.server.checks import is_name, is_slug
from examples.server.routing import delete, get, patch, post
from prefect_db import Backend, Queryable, UniqueViolation, UsageError, blocks
from prefect_db.blocks import BlockDocumentFilter, BlockType, BlockTypeFilter
from prefect_db.filters import AnyOf


@dataclass(slots=True, kw_only=True)
class BlockTypeUpdate:
    logo_url: str | None = None
    documentation_url: str | None = None
    description: str | None = None
    code_example: str | None = None


@dataclass(slots=True, kw_only=True)
class BlockTypeCreate(BlockTypeUpdate):
    name: Annotated[str, is_name]
    slug: Annotated[str, is_slug]


@dataclass(slots=True, kw_only=True)
class BlockTypeQuery:
    block_types: BlockTypeFilter | None = None
    limit: Limit = None
    offset: Offset = 0


def create(db: Queryable, call: Call) -> Reply:
    body = call.read(BlockTypeCreate)
    if body.name.lower().startswith("prefect"):
        raise HTTPException(403, "Names that begin with Prefect are Prefect's own.")
    try:
        given = {f.name: getattr(body, f.name) for f in fields(body)}
        return Reply(blocks.create_type(db, **given), 201)
    except UniqueViolation as error:
        raise HTTPException(409, f'Block type with name "{body.name}" already exists') from error


def read(db: Queryable, call: Call) -> BlockType:
    return found(blocks.get_type(db, call.id), "block type")


def read_by_slug(db: Queryable, call: Call) -> BlockType:
    return found(blocks.get_type_by_slug(db, call.path["slug"]), "block type")


def query(db: Queryable, call: Call) -> list[BlockType]:
    body = call.read(BlockTypeQuery)
    limit = MAX_LIMIT if body.limit is None else body.limit
    return blocks.find_types(db, body.block_types, limit=limit, offset=body.offset)


def update(db: Queryable, call: Call) -> None:
    body = call.read(BlockTypeUpdate)
    changes = {f.name: getattr(body, f.name) for f in fields(body) if f.name in call.json()}
    blocks.update_type(db, call.id, **changes)


def remove(db: Queryable, call: Call) -> None:
    try:
        blocks.delete_type(db, call.id)
    except UsageError as error:
        raise HTTPException(403, "The block type is protected.") from error


def read_documents(db: Queryable, call: Call) -> list[dict[str, object]]:
    block_type = read_by_slug(db, call)
    documents = blocks.find_documents(
        db,
        BlockDocumentFilter(block_type_id=AnyOf(any_=[block_type.id])),
        limit=None,
        include_secrets=call.flag("include_secrets"),
    )
    return describe(db, documents)


def read_document(db: Backend, call: Call) -> dict[str, object]:
    document = blocks.get_document_by_name(
        db, call.path["slug"], call.path["name"], include_secrets=call.flag("include_secrets")
    )
    return describe(db, [found(document, "block document")])[0]


ROUTES = [
    post("/block_types/", create),
    post("/block_types/filter", query),
    get("/block_types/{id:uuid}", read),
    get("/block_types/slug/{slug}", read_by_slug),
    get("/block_types/slug/{slug}/block_documents", read_documents),
    get("/block_types/slug/{slug}/block_documents/name/{name}", read_document),
    patch("/block_types/{id:uuid}", update),
    delete("/block_types/{id:uuid}", remove),
]
