"""What we do otherwise than Prefect with blocks, on purpose. Each test shows both."""

from __future__ import annotations

import pytest
from prefect.server import models
from prefect.server.schemas import core

from prefect_db import (
    Backend,
    BadValue,
    ForeignKeyViolation,
    UsageError,
    blocks,
)
from tests.peer.blocks import (
    MASK,
    create_ours,
    create_theirs,
    new_schemas,
    update_theirs,
)
from tests.peer.prefect_peer import Prefect


def test_a_secret_that_is_an_object_is_masked(prefect: Prefect, managed: Backend) -> None:
    schema = new_schemas(managed)["low"]
    id = create_ours(managed, schema, "a", {"password": {"user": "u", "token": "s3cr3t"}})
    ours = blocks.get_document(managed, id)
    theirs = prefect.read(models.block_documents.read_block_document_by_id, id)
    assert ours is not None
    assert ours.data == {"password": {"user": MASK, "token": MASK}}
    assert theirs.data == {"password": {"user": "u", "token": "s3cr3t"}}


def test_a_new_type_is_the_one_that_was_made(prefect: Prefect, managed: Backend) -> None:
    """Prefect looks it up by its name, which need not be unique."""
    first = blocks.create_type(managed, "Thing", "thing-1")
    assert blocks.create_type(managed, "Thing", "thing-2").slug == "thing-2"
    theirs = prefect.write(
        models.block_types.create_block_type, core.BlockType(name="Thing", slug="thing-3")
    )
    assert theirs.id == first.id


def test_a_document_of_an_unknown_type_is_a_foreign_key_violation(
    prefect: Prefect, managed: Backend
) -> None:
    schema = new_schemas(managed)["low"]
    schema.block_type_id = schema.id
    with pytest.raises(ForeignKeyViolation):
        create_ours(managed, schema, "a", {})
    with pytest.raises(AssertionError, match="not found"):
        create_theirs(prefect, schema, "a", {})


def test_what_is_protected_is_not_deleted(prefect: Prefect, managed: Backend) -> None:
    """In Prefect, its routes see to that."""
    block_type = blocks.create_type(managed, "Thing", "thing", is_protected=True)
    schema = blocks.create_schema(managed, {}, block_type.id)
    with pytest.raises(UsageError, match="protected"):
        blocks.delete_schema(managed, schema.id)
    with pytest.raises(UsageError, match="protected"):
        blocks.delete_type(managed, block_type.id)
    assert prefect.write(models.block_types.delete_block_type, block_type.id)


def test_a_mask_for_what_is_not_stored_is_refused(prefect: Prefect, managed: Backend) -> None:
    schema = new_schemas(managed)["low"]
    id = create_ours(managed, schema, "a", {"extra": {"old": 1}})
    with pytest.raises(BadValue, match="not stored"):
        blocks.update_document(managed, id, data={"extra": {"renamed": MASK}})
    with pytest.raises(KeyError):
        update_theirs(prefect, id, {"extra": {"renamed": MASK}})
