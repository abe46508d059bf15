"""The filters of block types, schemas and documents, and what they become in SQL.

They are one module as each can be asked for with the others. The names and the meaning are
Prefect's, schemas/filters.py.
"""

from __future__ import annotations

from dataclasses import dataclass

from prefect_db.dialect import Dialect
from prefect_db.filters import AnyOf, Name, Operator, Tags, Where


@dataclass(slots=True, kw_only=True)
class BlockTypeFilter:
    """Which block types; a field that is not given tests nothing.

    `id` and `name.any_` are not Prefect's.
    """

    id: AnyOf | None = None
    name: Name | None = None
    slug: AnyOf | None = None


@dataclass(slots=True, kw_only=True)
class BlockSchemaFilter:
    """Which block schemas; a field that is not given tests nothing."""

    id: AnyOf | None = None
    block_type_id: AnyOf | None = None
    block_capabilities: Tags | None = None
    version: AnyOf | None = None
    operator: Operator = "and_"


@dataclass(slots=True, kw_only=True)
class BlockDocumentFilter:
    """Which block documents; a field that is not given tests nothing.

    Attributes:
        is_anonymous: None for anonymous documents and others alike.
    """

    id: AnyOf | None = None
    block_type_id: AnyOf | None = None
    name: Name | None = None
    is_anonymous: bool | None = False
    operator: Operator = "and_"


def of_types(
    dialect: Dialect, filter: BlockTypeFilter | None, schemas: BlockSchemaFilter | None
) -> Where:
    """The condition on `block_type`: the filter's, and that a schema of it is like this."""
    where = Where(dialect)
    where.group(_type(dialect, filter))
    if schemas is not None:
        joined = "block_schema.block_type_id = block_type.id"
        where.exists("block_schema", joined, of_schemas(dialect, schemas))
    return where


def of_schemas(dialect: Dialect, filter: BlockSchemaFilter | None) -> Where:
    """The condition on `block_schema`."""
    filter = filter or BlockSchemaFilter()
    where = Where(dialect, filter.operator)
    where.among("block_schema.id", "uuid", filter.id)
    where.among("block_schema.block_type_id", "uuid", filter.block_type_id)
    where.tags("block_schema.capabilities", filter.block_capabilities)
    where.among("block_schema.version", "varchar", filter.version)
    return where


def of_documents(
    dialect: Dialect,
    filter: BlockDocumentFilter | None,
    types: BlockTypeFilter | None,
    schemas: BlockSchemaFilter | None,
) -> Where:
    """The condition on `block_document`: the filter's, and that its type and schema are such."""
    where = Where(dialect)
    where.group(_document(dialect, filter))
    if types is not None:
        joined = "block_type.id = block_document.block_type_id"
        where.exists("block_type", joined, _type(dialect, types))
    if schemas is not None:
        joined = "block_schema.id = block_document.block_schema_id"
        where.exists("block_schema", joined, of_schemas(dialect, schemas))
    return where


def _type(dialect: Dialect, filter: BlockTypeFilter | None) -> Where:
    filter = filter or BlockTypeFilter()
    where = Where(dialect)
    where.among("block_type.id", "uuid", filter.id)
    where.name("block_type.name", filter.name)
    where.among("block_type.slug", "varchar", filter.slug)
    return where


def _document(dialect: Dialect, filter: BlockDocumentFilter | None) -> Where:
    filter = filter or BlockDocumentFilter()
    where = Where(dialect, filter.operator)
    where.among("block_document.id", "uuid", filter.id)
    where.among("block_document.block_type_id", "uuid", filter.block_type_id)
    where.name("block_document.name", filter.name)
    if filter.is_anonymous is not None:
        negation = "" if filter.is_anonymous else "NOT "
        where.add(f"{negation}block_document.is_anonymous")
    return where
