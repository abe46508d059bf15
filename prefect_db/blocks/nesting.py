"""Block documents as they are read: decrypted, masked, with the documents below in their place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from prefect_db.blocks import encryption
from prefect_db.blocks.filters import BlockTypeFilter
from prefect_db.blocks.masking import mask
from prefect_db.blocks.types import BlockType, find_types
from prefect_db.errors import BadValue
from prefect_db.filters import AnyOf, page
from prefect_db.queryable import Queryable
from prefect_db.row import Record

_DEEPEST: Final = 50


@dataclass(slots=True)
class BlockDocument:
    """The values of a block, decrypted.

    Attributes:
        data: With the data of the documents that it refers to in their place, and, unless they
            were asked for, eight asterisks for each secret. Not in the repr.
        block_document_references: By key of `data`, `{"block_document": {...}}` with the id,
            name, block_type (a `BlockType`), is_anonymous and block_document_references of the
            document that it refers to there.
    """

    id: UUID
    created: datetime
    updated: datetime
    name: str
    data: dict[str, Any] = field(repr=False)
    block_schema_id: UUID
    block_type_id: UUID
    block_type_name: str | None
    is_anonymous: bool
    block_document_references: dict[str, dict[str, Any]]


@dataclass(slots=True)
class Node(Record):
    """A stored document: one that was asked for, or one that `parent_id` refers to at `key`."""

    id: UUID
    created: datetime
    updated: datetime
    name: str
    data: Any
    block_schema_id: UUID
    block_type_id: UUID
    block_type_name: str | None
    is_anonymous: bool
    secret_fields: list[str] | None
    stored_keys: Any = field(repr=False)
    key: str | None
    parent_id: UUID | None


def columns(db: Queryable) -> str:
    """The columns of `Node` but the last two, from block_document AS d and its schema AS s."""
    secret_fields = db.dialect.pick(
        sqlite="json_extract(s.fields, '$.secret_fields')", postgres="s.fields -> 'secret_fields'"
    )
    return (
        "d.id, d.created, d.updated, d.name, d.data, d.block_schema_id, d.block_type_id,"
        f" d.block_type_name, d.is_anonymous, {secret_fields} AS secret_fields,"
        f" {encryption.STORED_KEYS} AS stored_keys"
    )


def read(
    db: Queryable,
    where: str,
    params: Sequence[Any],
    *,
    order: str = "id",
    limit: int | None = None,
    offset: int = 0,
    include_secrets: bool = False,
) -> list[BlockDocument]:
    """The documents that a WHERE clause chooses, with all that is below them, in two queries.

    Raises:
        BadValue: A document was encrypted with another key, or they are nested too deep.
        ConfigurationError: The package cryptography is missing, or the key is.
    """
    nodes = db.rows(
        "WITH RECURSIVE chosen (id, place) AS ("
        f"SELECT id, row_number() OVER (ORDER BY {order})"
        f" FROM block_document{where} ORDER BY {order} LIMIT ? OFFSET ?"
        "), edge (id, created, name, parent_id, child_id) AS ("
        "SELECT r.id, r.created, r.name, parent_block_document_id, reference_block_document_id"
        " FROM block_document_reference AS r JOIN chosen ON chosen.id = parent_block_document_id"
        # Not UNION ALL: a document that many refer to must not be walked again.
        " UNION "
        "SELECT r.id, r.created, r.name, parent_block_document_id, reference_block_document_id"
        " FROM block_document_reference AS r JOIN edge ON child_id = parent_block_document_id"
        "), node (id, key, parent_id, place) AS ("
        "SELECT id, CAST(NULL AS VARCHAR), CAST(NULL AS UUID), place FROM chosen"
        " UNION ALL "
        "SELECT child_id, name, parent_id, row_number() OVER (ORDER BY created, id) FROM edge"
        f") SELECT {columns(db)}, node.key, node.parent_id"
        " FROM node JOIN block_document AS d ON d.id = node.id"
        " JOIN block_schema AS s ON s.id = d.block_schema_id ORDER BY node.place",
        (*params, *page(limit, offset)),
        into=Node,
    )
    return _Tree(db, nodes, include_secrets=include_secrets).documents() if nodes else []


class _Tree:
    """Documents that were asked for, and those below them."""

    def __init__(self, db: Queryable, nodes: list[Node], *, include_secrets: bool) -> None:
        cipher = encryption.reading(nodes[0].stored_keys)
        tokens = {node.id: node.data for node in nodes}
        self._texts = {id: cipher.decrypt(token, id) for id, token in tokens.items()}
        self._below: dict[UUID | None, list[Node]] = {}
        for node in nodes:
            self._below.setdefault(node.parent_id, []).append(node)
        self._types = _types(db, {node.block_type_id for node in nodes if node.parent_id})
        self._include_secrets = include_secrets

    def documents(self) -> list[BlockDocument]:
        return [self._document(node) for node in self._below[None]]

    def _document(self, node: Node) -> BlockDocument:
        data, references = self._nested(node, 0)
        return BlockDocument(
            id=node.id,
            created=node.created,
            updated=node.updated,
            name=node.name,
            data=data,
            block_schema_id=node.block_schema_id,
            block_type_id=node.block_type_id,
            block_type_name=node.block_type_name,
            is_anonymous=node.is_anonymous,
            block_document_references=references,
        )

    def _nested(self, node: Node, depth: int) -> tuple[dict[str, Any], dict[str, Any]]:
        """A document's data and `block_document_references`; each call gives fresh objects."""
        if depth > _DEEPEST:
            raise BadValue(f"references of block documents nested more than {_DEEPEST} deep")
        data = encryption.parse(self._texts[node.id], node.id)
        if not self._include_secrets:
            data = mask(data, node.secret_fields or ())
        references: dict[str, Any] = {}
        for child in self._below.get(node.id, ()):
            assert child.key is not None
            data[child.key], below = self._nested(child, depth + 1)
            references[child.key] = {
                "block_document": {
                    "id": child.id,
                    "name": child.name,
                    "block_type": self._types.get(child.block_type_id),
                    "is_anonymous": child.is_anonymous,
                    "block_document_references": below,
                }
            }
        return data, references


def _types(db: Queryable, ids: set[UUID]) -> dict[UUID, BlockType]:
    if not ids:
        return {}
    found = find_types(db, BlockTypeFilter(id=AnyOf(any_=list(ids))), limit=None)
    return {block_type.id: block_type for block_type in found}
