"""Block types. Rules: Prefect's server, models/block_types.py."""

from __future__ import annotations

import html
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, TypedDict, Unpack
from uuid import UUID

from prefect_db.blocks.filters import BlockSchemaFilter, BlockTypeFilter, of_types
from prefect_db.errors import NotFound, UsageError
from prefect_db.filters import page
from prefect_db.ids import given_or_new
from prefect_db.queryable import Queryable
from prefect_db.row import Record
from prefect_db.values import to_uuid


@dataclass(slots=True)
class BlockType(Record):
    """A kind of block; description and code_example may be HTML-escaped, see `create_type`."""

    id: UUID
    created: datetime
    updated: datetime
    name: str
    slug: str
    logo_url: str | None
    documentation_url: str | None
    description: str | None
    code_example: str | None
    is_protected: bool


class BlockTypeChanges(TypedDict, total=False):
    """What `update_type` can change."""

    logo_url: str | None
    documentation_url: str | None
    description: str | None
    code_example: str | None


_CHANGES: Final = tuple(BlockTypeChanges.__annotations__)


def create_type(
    db: Queryable,
    name: str,
    slug: str,
    *,
    logo_url: str | None = None,
    documentation_url: str | None = None,
    description: str | None = None,
    code_example: str | None = None,
    is_protected: bool = False,
    id: UUID | None = None,
) -> BlockType:
    """A new block type. As Prefect does, `&`, `<` and `>` in description and code_example are
    escaped for HTML.

    Raises:
        UniqueViolation: Another block type has this slug or id. The name need not be unique.
        BadValue: A text has a NUL or a lone surrogate.
    """
    now = datetime.now(UTC)
    block_type = BlockType(
        id=given_or_new(id),
        created=now,
        updated=now,
        name=name,
        slug=slug,
        logo_url=logo_url,
        documentation_url=documentation_url,
        description=_escape(description),
        code_example=_escape(code_example),
        is_protected=is_protected,
    )
    db.execute(
        f"INSERT INTO block_type ({BlockType.columns}) VALUES ({BlockType.marks})",
        block_type.params(),
    )
    return block_type


def get_type(db: Queryable, block_type_id: UUID) -> BlockType | None:
    """The block type with this id, or None."""
    return db.row(
        f"SELECT {BlockType.columns} FROM block_type WHERE id = ?",
        (to_uuid(block_type_id),),
        into=BlockType,
    )


def get_type_by_slug(db: Queryable, slug: str) -> BlockType | None:
    """The block type of exactly this slug, or None."""
    return db.row(
        f"SELECT {BlockType.columns} FROM block_type WHERE slug = ?", (slug,), into=BlockType
    )


def find_types(
    db: Queryable,
    filter: BlockTypeFilter | None = None,
    *,
    schemas: BlockSchemaFilter | None = None,
    limit: int | None = 200,
    offset: int = 0,
) -> list[BlockType]:
    """The block types that the filter lets through, by name, a page of them.

    Args:
        schemas: Only types that have such a schema.
    """
    where = of_types(db.dialect, filter, schemas)
    return db.rows(
        f"SELECT {BlockType.columns} FROM block_type{where.sql} ORDER BY name, id LIMIT ? OFFSET ?",
        (*where.params, *page(limit, offset)),
        into=BlockType,
    )


def update_type(
    db: Queryable, block_type_id: UUID, **changes: Unpack[BlockTypeChanges]
) -> BlockType:
    """The block type with these changes, unescaped. Nothing is written if all are there already,
    escaped or not: clients send them whenever they save a block.

    Raises:
        NotFound: There is no such block type.
        UsageError: One of the changes is none of `BlockTypeChanges`.
        BadValue: A text has a NUL or a lone surrogate.
    """
    values: dict[str, Any] = dict(changes)
    unknown = [name for name in values if name not in _CHANGES]
    if unknown:
        raise UsageError(f"{', '.join(unknown)} cannot be changed; {', '.join(_CHANGES)} can")
    block_type_id = to_uuid(block_type_id)
    block_type = get_type(db, block_type_id)
    if block_type is not None and all(
        _unescape(getattr(block_type, name)) == _unescape(value) for name, value in values.items()
    ):
        return block_type
    assignments = "".join(f"{name} = ?, " for name in values)
    updated = db.row(
        f"UPDATE block_type SET {assignments}updated = {db.dialect.clock} WHERE id = ?"
        f" RETURNING {BlockType.columns}",
        (*values.values(), block_type_id),
        into=BlockType,
    )
    if updated is None:
        raise NotFound(f"no block type {block_type_id}")
    return updated


def delete_type(db: Queryable, block_type_id: UUID) -> None:
    """Delete a block type with its schemas and documents, and the flow runs whose infrastructure
    one of those is.

    Raises:
        NotFound: There is no such block type.
        UsageError: It is protected.
    """
    block_type_id = to_uuid(block_type_id)
    with db.unit() as txn:
        if not txn.execute(
            "DELETE FROM block_type WHERE id = ? AND NOT is_protected", (block_type_id,)
        ):
            if get_type(txn, block_type_id) is None:
                raise NotFound(f"no block type {block_type_id}")
            raise UsageError(f"the block type {block_type_id} is protected from deletion")
        forget_default_storage(txn)


def forget_default_storage(db: Queryable) -> None:
    """Delete the setting that names a document as default result storage if that is gone: with a
    setting that leads nowhere, Prefect's clients cannot store a result."""
    document_id = db.dialect.pick(
        sqlite="json_extract(configuration.value, '$.default_result_storage_block_id')",
        postgres="configuration.value ->> 'default_result_storage_block_id'",
    )
    db.execute(
        "DELETE FROM configuration WHERE key = 'server-default-result-storage' AND NOT EXISTS"
        f" (SELECT 1 FROM block_document AS d WHERE CAST(d.id AS VARCHAR) = {document_id})"
    )


def _escape(text: str | None) -> str | None:
    return None if text is None else html.escape(text, quote=False)


def _unescape(text: Any) -> Any:
    return html.unescape(text) if isinstance(text, str) else text
