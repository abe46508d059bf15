"""Block types."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID, uuid4

import pytest

from prefect_db import (
    Backend,
    BadValue,
    NotFound,
    UniqueViolation,
    UsageError,
    blocks,
)
from prefect_db.blocks import (
    BlockTypeFilter,
)
from prefect_db.filters import AnyOf, Name
from tests.contract.blocks import (
    UNSTORABLE,
    content,
    new_document,
    new_type,
    refused,
)


def test_a_type_is_read_back_as_it_was_returned(db: Backend) -> None:
    created = new_type(db, "thing", logo_url="https://logo", documentation_url="https://doc")
    assert blocks.get_type(db, created.id) == created
    assert blocks.get_type_by_slug(db, "thing") == created


def test_a_type_takes_the_callers_id(db: Backend) -> None:
    id = uuid4()
    assert new_type(db, id=id).id == id


def test_a_type_that_is_not_there_is_none(db: Backend) -> None:
    assert blocks.get_type(db, uuid4()) is None
    assert blocks.get_type_by_slug(db, "thing") is None


def test_description_and_example_of_a_new_type_are_escaped_but_for_quotes(db: Backend) -> None:
    created = new_type(db, description="a & <b> \"c\" 'd'", code_example="x > 1 & y")
    stored = blocks.get_type(db, created.id)
    assert stored is not None
    assert stored.description == "a &amp; &lt;b&gt; \"c\" 'd'"
    assert stored.code_example == "x &gt; 1 &amp; y"


def test_a_second_type_of_a_slug_is_refused(db: Backend) -> None:
    new_type(db, "thing")
    with refused(db, UniqueViolation):
        blocks.create_type(db, "Another", "thing")


def test_a_second_type_of_a_name_is_its_own(db: Backend) -> None:
    first = blocks.create_type(db, "Thing", "thing")
    second = blocks.create_type(db, "Thing", "thing-2")
    assert second.slug == "thing-2"
    assert second.id != first.id


@pytest.mark.parametrize("text", UNSTORABLE)
def test_a_type_with_an_unstorable_text_is_refused(db: Backend, text: str) -> None:
    with refused(db, BadValue):
        new_type(db, description=text)


def test_types_are_found_by_part_of_the_name_and_in_its_order(db: Backend) -> None:
    for slug in ("s3-bucket", "bucket", "secret"):
        new_type(db, slug)
    found = blocks.find_types(db, BlockTypeFilter(name=Name(like_="BUCK")))
    assert [block_type.slug for block_type in found] == ["bucket", "s3-bucket"]


def test_types_are_found_by_slug(db: Backend) -> None:
    for slug in ("a", "b", "c"):
        new_type(db, slug)
    found = blocks.find_types(db, BlockTypeFilter(slug=AnyOf(any_=["c", "a", "z"])))
    assert [block_type.slug for block_type in found] == ["a", "c"]


def test_types_come_in_pages(db: Backend) -> None:
    for slug in ("a", "b", "c"):
        new_type(db, slug)
    assert [block_type.slug for block_type in blocks.find_types(db, limit=1, offset=1)] == ["b"]


@pytest.mark.parametrize("limit", [-1, 2**70])
def test_a_limit_that_is_none_is_refused(db: Backend, limit: int) -> None:
    for find in (blocks.find_types, blocks.find_schemas, blocks.find_documents):
        with pytest.raises(BadValue):
            find(db, limit=limit)


def test_an_update_of_a_type_changes_what_is_given_unescaped(db: Backend) -> None:
    created = new_type(db, logo_url="old", description="stays", documentation_url="old")
    updated = blocks.update_type(db, created.id, logo_url="a & b", documentation_url=None)
    assert (updated.logo_url, updated.documentation_url) == ("a & b", None)
    assert updated.description == "stays"
    assert blocks.get_type(db, created.id) == updated


def test_an_update_of_a_type_to_what_is_there_but_escaped_writes_nothing(db: Backend) -> None:
    created = new_type(db, description="a & b")
    before = content(db)
    assert blocks.update_type(db, created.id, description="a & b") == created
    assert content(db) == before


def test_an_update_of_a_type_cannot_change_other_columns(db: Backend) -> None:
    created = new_type(db)
    changes: Any = {"slug": "other"}
    with refused(db, UsageError, "slug cannot be changed"):
        blocks.update_type(db, created.id, **changes)


def test_deleting_a_type_deletes_its_schemas_and_documents(db: Backend) -> None:
    document = new_document(db, "a")
    blocks.delete_type(db, document.block_type_id)
    assert blocks.find_schemas(db) == []
    assert blocks.count_documents(db) == 0


def test_a_protected_type_can_be_updated_but_not_deleted(db: Backend) -> None:
    protected = new_type(db, is_protected=True)
    assert blocks.update_type(db, protected.id, logo_url="new").logo_url == "new"
    with refused(db, UsageError, "protected"):
        blocks.delete_type(db, protected.id)


@pytest.mark.parametrize(
    "operation",
    [
        lambda db, type_id: blocks.update_type(db, type_id, logo_url="x"),
        blocks.delete_type,
        blocks.delete_schema,
        blocks.delete_document,
        lambda db, doc_id: blocks.update_document(db, doc_id, data={}),
        blocks.update_document,
    ],
)
def test_changing_what_is_not_there_is_not_found(
    db: Backend, operation: Callable[[Backend, UUID], Any]
) -> None:
    id = uuid4()
    with refused(db, NotFound, str(id)):
        operation(db, id)
