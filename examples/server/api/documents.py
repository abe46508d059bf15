"""Block documents as clients see them: with their schema and type."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from prefect_db import Queryable, blocks
from prefect_db.blocks import (
    BlockDocument,
    BlockSchema,
    BlockSchemaFilter,
    BlockType,
    BlockTypeFilter,
)
from prefect_db.filters import AnyOf


def describe(db: Queryable, documents: Sequence[BlockDocument]) -> list[dict[str, Any]]:
    """The answers that stand for these documents."""
    schema_ids = list({document.block_schema_id for document in documents})
    schemas = {
        schema["id"]: schema
        for schema in describe_schemas(
            db, blocks.find_schemas(db, BlockSchemaFilter(id=AnyOf(any_=schema_ids)), limit=None)
        )
    }
    types = _types(db, [document.block_type_id for document in documents])
    return [
        {
            **{f.name: getattr(document, f.name) for f in fields(document)},
            "block_schema": schemas.get(document.block_schema_id),
            "block_type": types.get(document.block_type_id),
        }
        for document in documents
    ]


def describe_schemas(db: Queryable, schemas: Sequence[BlockSchema]) -> list[dict[str, Any]]:
    """The answers that stand for these schemas."""
    types = _types(db, [schema.block_type_id for schema in schemas])
    return [
        {
            **{f.name: getattr(schema, f.name) for f in fields(schema)},
            "block_type": types.get(schema.block_type_id),
        }
        for schema in schemas
    ]


def _types(db: Queryable, ids: Sequence[Any]) -> dict[Any, BlockType]:
    wanted = BlockTypeFilter(id=AnyOf(any_=list(set(ids))))
    return {type.id: type for type in blocks.find_types(db, wanted, limit=None)}
