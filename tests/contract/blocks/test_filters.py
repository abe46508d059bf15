"""Block types, schemas and documents by each other's filters."""

from __future__ import annotations

from typing import Any

import pytest

from prefect_db import Backend, BadValue, blocks
from prefect_db.blocks import BlockDocumentFilter, BlockSchemaFilter, BlockTypeFilter
from prefect_db.filters import AnyOf, Name, Tags
from tests.contract.blocks import new_type


@pytest.fixture
def db(db: Backend) -> Backend:
    """Types `a`, with schemas of versions 1 and 2, `b`, with one of version 2, and `none`.

    Each schema has a document of its name, and `a-1` an anonymous one too.
    """
    new_type(db, "none")
    for slug, versions in (("a", "12"), ("b", "2")):
        block_type = new_type(db, slug)
        for version in versions:
            name = f"{slug}-{version}"
            schema = blocks.create_schema(
                db, {"title": name}, block_type.id, version=version, capabilities=["x", name]
            )
            blocks.create_document(db, name, {}, schema.id, block_type.id)
            if name == "a-1":
                blocks.create_document(
                    db, "hidden", {}, schema.id, block_type.id, is_anonymous=True
                )
    return db


@pytest.mark.parametrize(
    ("schemas", "slugs"),
    [
        (None, ["a", "b", "none"]),
        (BlockSchemaFilter(), ["a", "b"]),
        (BlockSchemaFilter(version=AnyOf(any_=["1"])), ["a"]),
        (BlockSchemaFilter(version=AnyOf(any_=["2"])), ["a", "b"]),
        (BlockSchemaFilter(version=AnyOf(any_=[])), []),
        (BlockSchemaFilter(block_capabilities=Tags(all_=["x", "b-2"])), ["b"]),
        # No single schema of `a` has both.
        (BlockSchemaFilter(block_capabilities=Tags(all_=["a-1", "a-2"])), []),
        (
            BlockSchemaFilter(
                version=AnyOf(any_=["1"]),
                block_capabilities=Tags(all_=["b-2"]),
                operator="or_",
            ),
            ["a", "b"],
        ),
    ],
)
def test_types_are_found_by_their_schemas(
    db: Backend, schemas: BlockSchemaFilter | None, slugs: list[str]
) -> None:
    assert [found.slug for found in blocks.find_types(db, schemas=schemas)] == slugs
    only_b = BlockTypeFilter(slug=AnyOf(any_=["b"]))
    found = blocks.find_types(db, only_b, schemas=schemas)
    assert [each.slug for each in found] == [slug for slug in slugs if slug == "b"]


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ({"types": BlockTypeFilter()}, ["a-1", "a-2", "b-2"]),
        ({"types": BlockTypeFilter(slug=AnyOf(any_=["a", "none"]))}, ["a-1", "a-2"]),
        ({"types": BlockTypeFilter(name=Name(like_="B"))}, ["b-2"]),
        ({"schemas": BlockSchemaFilter(version=AnyOf(any_=["2"]))}, ["a-2", "b-2"]),
        (
            {
                "types": BlockTypeFilter(slug=AnyOf(any_=["a"])),
                "schemas": BlockSchemaFilter(block_capabilities=Tags(all_=["a-2"])),
            },
            ["a-2"],
        ),
        (
            {
                "filter": BlockDocumentFilter(is_anonymous=True),
                "types": BlockTypeFilter(slug=AnyOf(any_=["a"])),
            },
            ["hidden"],
        ),
        (
            {
                "filter": BlockDocumentFilter(
                    name=Name(any_=["hidden"]), is_anonymous=False, operator="or_"
                ),
                "schemas": BlockSchemaFilter(version=AnyOf(any_=["1"])),
            },
            ["a-1", "hidden"],
        ),
    ],
)
def test_documents_are_found_and_counted_by_their_types_and_schemas(
    db: Backend, given: dict[str, Any], names: list[str]
) -> None:
    assert [found.name for found in blocks.find_documents(db, **given)] == names
    assert blocks.count_documents(db, **given) == len(names)


def test_wrong_values_in_another_filter_are_refused(db: Backend) -> None:
    wrong = BlockSchemaFilter(id=AnyOf(any_=["no uuid"]))
    with pytest.raises(BadValue):
        blocks.find_types(db, schemas=wrong)
    with pytest.raises(BadValue):
        blocks.find_documents(db, schemas=wrong)
    with pytest.raises(BadValue):
        blocks.count_documents(db, types=BlockTypeFilter(slug=AnyOf(any_="a")))
