"""What comparisons of blocks share: documents made and changed on either side."""

from __future__ import annotations

from dataclasses import asdict, fields, is_dataclass
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from prefect.server import models
from prefect.server.schemas import actions
from pydantic import BaseModel

from prefect_db import (
    Backend,
    blocks,
)
from tests.peer.prefect_peer import Prefect

MASK = "********"


def plain(value: Any) -> Any:
    """A value of either side as JSON objects and lists."""
    if isinstance(value, BaseModel):
        value = value.model_dump()
    elif is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


def same(ours: Any, theirs: Any) -> None:
    """Demands that a record of ours has the values of Prefect's object, in every field."""
    assert ours is not None
    assert theirs is not None
    names = [field.name for field in fields(ours)]
    assert {name: unordered(plain(getattr(ours, name))) for name in names} == {
        name: unordered(plain(getattr(theirs, name))) for name in names
    }


def unordered(value: Any) -> Any:
    """The same with the references of unions in one order: Prefect reads them in any."""
    if isinstance(value, dict):
        return {key: unordered(item) for key, item in value.items()}
    if isinstance(value, list):
        items = [unordered(item) for item in value]
        if all(isinstance(item, dict) and "block_schema_checksum" in item for item in items):
            items.sort(key=repr)
        return items
    return value


def rows_of(prefect: Prefect, name: str) -> list[Any]:
    """All rows of a table, as objects of Prefect's ORM."""

    async def read(session: Any) -> list[Any]:
        table = getattr(prefect.interface, name)
        return list((await session.execute(sa.select(table))).scalars().unique())

    return prefect.read(read)


def new_schemas(db: Backend) -> dict[str, blocks.BlockSchema]:
    """A schema with secrets for each of three types."""
    return {
        slug: blocks.create_schema(
            db,
            {"title": slug, "block_type_slug": slug, "secret_fields": ["password", "extra.*"]},
            blocks.create_type(db, slug, slug).id,
        )
        for slug in ("low", "mid", "top")
    }


def create_ours(db: Backend, schema: blocks.BlockSchema, name: str, data: Any) -> UUID:
    return blocks.create_document(db, name, data, schema.id, schema.block_type_id).id


def create_theirs(prefect: Prefect, schema: blocks.BlockSchema, name: str, data: Any) -> UUID:
    made = prefect.write(
        models.block_documents.create_block_document,
        actions.BlockDocumentCreate(
            name=name,
            data=data,
            block_schema_id=schema.id,
            block_type_id=schema.block_type_id,
        ),
    )
    id: UUID = made.id
    return id


def reference(id: UUID) -> dict[str, Any]:
    return {"$ref": {"block_document_id": str(id)}}


def update_theirs(prefect: Prefect, id: UUID, data: Any, **given: Any) -> None:
    update = actions.BlockDocumentUpdate(data=data, **given)
    assert prefect.write(models.block_documents.update_block_document, id, update)
