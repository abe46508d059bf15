"""Blocks: types, their schemas, and documents, which are encrypted and may be nested."""

from prefect_db.blocks.documents import (
    BlockDocumentSort,
    count_documents,
    create_document,
    delete_document,
    find_documents,
    get_document,
    get_document_by_name,
    update_document,
)
from prefect_db.blocks.fields import checksum
from prefect_db.blocks.filters import BlockDocumentFilter, BlockSchemaFilter, BlockTypeFilter
from prefect_db.blocks.nesting import BlockDocument
from prefect_db.blocks.rotation import rotate_key
from prefect_db.blocks.schemas import (
    BlockSchema,
    available_capabilities,
    create_schema,
    delete_schema,
    find_schemas,
    get_schema,
    get_schema_by_checksum,
)
from prefect_db.blocks.types import (
    BlockType,
    BlockTypeChanges,
    create_type,
    delete_type,
    find_types,
    get_type,
    get_type_by_slug,
    update_type,
)

__all__ = [
    "BlockDocument",
    "BlockDocumentFilter",
    "BlockDocumentSort",
    "BlockSchema",
    "BlockSchemaFilter",
    "BlockType",
    "BlockTypeChanges",
    "BlockTypeFilter",
    "available_capabilities",
    "checksum",
    "count_documents",
    "create_document",
    "create_schema",
    "create_type",
    "delete_document",
    "delete_schema",
    "delete_type",
    "find_documents",
    "find_schemas",
    "find_types",
    "get_document",
    "get_document_by_name",
    "get_schema",
    "get_schema_by_checksum",
    "get_type",
    "get_type_by_slug",
    "rotate_key",
    "update_document",
    "update_type",
]
