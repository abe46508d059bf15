"""Block schemas, and how they nest."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import pytest

from prefect_db import (
    Backend,
    BadValue,
    ForeignKeyViolation,
    UniqueViolation,
    UsageError,
    blocks,
)
from prefect_db.blocks import (
    BlockSchema,
    BlockSchemaFilter,
)
from prefect_db.filters import AnyOf, Tags
from tests.contract.blocks import (
    CHILD,
    CHILD_CHECKSUM,
    PARENT,
    PARENT_CHECKSUM,
    block_fields,
    content,
    new_schema,
    new_type,
    refused,
    type_id,
)


def stored_schema(db: Backend, schema_id: UUID) -> dict[str, Any]:
    row = db.row("SELECT * FROM block_schema WHERE id = ?", (schema_id,))
    assert row is not None
    return {
        "checksum": row["checksum"],
        "fields": row.json("fields"),
        "capabilities": row.json("capabilities"),
        "version": row["version"],
    }


def references_of(db: Backend, schema_id: UUID) -> list[tuple[str, UUID]]:
    rows = db.rows(
        "SELECT name, reference_block_schema_id AS child FROM block_schema_reference"
        " WHERE parent_block_schema_id = ? ORDER BY created, id",
        (schema_id,),
    )
    return [(str(row["name"]), row.uuid("child") or UUID(int=0)) for row in rows]


def nested(db: Backend) -> BlockSchema:
    new_type(db, "u")
    return blocks.create_schema(db, PARENT, new_type(db, "t").id, capabilities=["x"], version="1")


def test_a_schema_is_stored_without_references_and_blocks(db: Backend) -> None:
    schema = nested(db)
    assert stored_schema(db, schema.id) == {
        "checksum": PARENT_CHECKSUM,
        "fields": {
            "block_type_slug": "t",
            "definitions": {"M": {"properties": {}, "title": "M", "type": "object"}},
            "properties": {"c": {"$ref": "#/definitions/U"}, "m": {"$ref": "#/definitions/M"}},
            "title": "Té",
            "type": "object",
        },
        "capabilities": ["x"],
        "version": "1",
    }


@pytest.mark.only("sqlite", "PostgreSQL has a type for JSON, which orders the keys itself")
def test_the_fields_are_stored_as_the_text_that_prefect_stores(db: Backend) -> None:
    schema = new_schema(db, title="Té", secret_fields=["a"])
    assert db.value("SELECT fields FROM block_schema WHERE id = ?", (schema.id,)) == (
        '{"block_type_slug": "thing", "title": "T\\u00e9", "type": "object", "properties": {},'
        ' "secret_fields": ["a"]}'
    )


@pytest.mark.only("sqlite", "PostgreSQL has a type for JSON, which orders the keys itself")
def test_definitions_are_stored_in_the_order_in_which_they_are_referred_to(db: Backend) -> None:
    schema = new_schema(
        db,
        properties={"a": {"$ref": "#/definitions/A"}, "b": {"$ref": "#/definitions/B"}},
        definitions={
            "C": {"title": "C"},
            "B": {"title": "B"},
            "A": {"items": {"$ref": "#/definitions/C"}},
        },
    )
    assert list(stored_schema(db, schema.id)["fields"]["definitions"]) == ["A", "C", "B"]


def test_definitions_that_are_empty_are_stored_as_sent(db: Backend) -> None:
    schema = new_schema(db, definitions={})
    assert stored_schema(db, schema.id)["fields"]["definitions"] == {}


def test_a_missing_child_is_made_from_the_definitions(db: Backend) -> None:
    schema = nested(db)
    [(name, child_id)] = references_of(db, schema.id)
    assert name == "c"
    assert stored_schema(db, child_id) == {
        "checksum": blocks.checksum({**CHILD, "definitions": PARENT["definitions"]}),
        "fields": {
            "block_type_slug": "u",
            "properties": {"s": {"type": "string"}},
            "title": "U",
            "type": "object",
            "secret_fields": ["s"],
        },
        "capabilities": [],
        "version": "non-versioned",
    }


def test_a_child_that_is_there_is_referred_to(db: Backend) -> None:
    child = blocks.create_schema(db, CHILD, new_type(db, "u").id, version="7")
    schema = blocks.create_schema(db, PARENT, new_type(db, "t").id)
    assert references_of(db, schema.id) == [("c", child.id)]


def test_a_schema_is_read_with_its_references_and_definitions(db: Backend) -> None:
    schema = nested(db)
    complete = blocks.get_schema(db, schema.id)
    assert complete == schema
    assert complete.fields == {
        **PARENT,
        "definitions": {
            "U": {**CHILD, "secret_fields": ["s"]},
            "M": {"properties": {}, "title": "M", "type": "object"},
        },
    }
    assert blocks.checksum(complete.fields) == PARENT_CHECKSUM


def three_levels(db: Backend) -> BlockSchema:
    for slug in ("low", "mid", "top"):
        new_type(db, slug)
    low = block_fields("low")
    mid = block_fields(
        "mid",
        properties={"x": {"$ref": "#/definitions/Low"}},
        block_schema_references={
            "x": {"block_schema_checksum": blocks.checksum(low), "block_type_slug": "low"}
        },
    )
    top = block_fields(
        "top",
        properties={"y": {"$ref": "#/definitions/Mid"}},
        block_schema_references={
            "y": {"block_schema_checksum": blocks.checksum(mid), "block_type_slug": "mid"}
        },
        definitions={"Mid": mid, "Low": low, "Side": {"title": "Side"}},
    )
    block_type = blocks.get_type_by_slug(db, "top")
    assert block_type is not None
    return blocks.create_schema(db, top, block_type.id)


def test_schemas_below_the_children_are_definitions_too(db: Backend) -> None:
    fields = three_levels(db).fields
    assert list(fields["definitions"]) == ["Mid", "Low"]
    assert "definitions" not in fields["definitions"]["Mid"]
    assert fields["definitions"]["Mid"]["block_schema_references"]["x"]["block_type_slug"] == "low"


def test_the_definitions_of_the_root_count_for_a_childs_checksum(db: Backend) -> None:
    new_type(db, "child")
    child = block_fields("child", properties={"z": 1})
    parent = block_fields(
        "thing",
        properties={"c": {"$ref": "#/definitions/Child"}},
        block_schema_references={
            "c": {"block_schema_checksum": blocks.checksum(child), "block_type_slug": "child"}
        },
        definitions={
            "Child": child,
            "Other": {"title": "Other", "items": {"$ref": "#/definitions/More"}},
            "More": {"title": "More"},
        },
    )
    schema = blocks.create_schema(db, parent, new_type(db).id)
    shown = schema.fields["block_schema_references"]["c"]["block_schema_checksum"]
    assert shown == blocks.checksum({**child, "definitions": parent["definitions"]})
    assert shown != blocks.checksum(child)


def union(db: Backend, order: tuple[str, str]) -> BlockSchema:
    children = {slug: block_fields(slug) for slug in order}
    for slug in reversed(order):
        blocks.create_schema(db, children[slug], new_type(db, slug).id)
    return new_schema(
        db,
        "thing",
        properties={"c": {"anyOf": [{"$ref": f"#/definitions/{s.title()}"} for s in order]}},
        block_schema_references={
            "c": [
                {"block_schema_checksum": blocks.checksum(fields), "block_type_slug": slug}
                for slug, fields in children.items()
            ]
        },
        definitions={slug.title(): fields for slug, fields in children.items()},
    )


@pytest.mark.parametrize("order", [("a", "b"), ("b", "a")])
def test_the_children_of_a_union_keep_their_order(db: Backend, order: tuple[str, str]) -> None:
    schema = union(db, order)
    shown = [r["block_type_slug"] for r in schema.fields["block_schema_references"]["c"]]
    assert shown == list(order)
    assert blocks.checksum(schema.fields) == schema.checksum


def test_a_child_that_is_listed_twice_is_one_reference(db: Backend) -> None:
    listed = {"block_schema_checksum": CHILD_CHECKSUM, "block_type_slug": "u"}
    blocks.create_schema(db, CHILD, new_type(db, "u").id)
    schema = new_schema(db, block_schema_references={"c": [listed, listed]})
    assert len(references_of(db, schema.id)) == 1


def test_creating_a_schema_again_gives_the_first_one_unchanged(db: Backend) -> None:
    first = nested(db)
    before = content(db)
    again = blocks.create_schema(
        db, PARENT, first.block_type_id, capabilities=["other"], version="1"
    )
    assert again == first
    assert content(db) == before


def test_creating_a_schema_again_needs_no_write(db: Backend) -> None:
    first = nested(db)
    with db.transaction(read_only=True) as txn:
        assert blocks.create_schema(txn, PARENT, first.block_type_id, version="1") == first


def test_another_version_of_a_schema_is_another_row(db: Backend) -> None:
    first = new_schema(db)
    fields = block_fields("thing")
    second = blocks.create_schema(db, fields, first.block_type_id, version="2")
    assert (second.checksum, second.version) == (first.checksum, "2")
    assert second.id != first.id


def test_a_schema_is_read_by_checksum_and_version_or_the_newest(db: Backend) -> None:
    first = new_schema(db)
    second = blocks.create_schema(db, block_fields("thing"), first.block_type_id, version="2")
    assert blocks.get_schema_by_checksum(db, first.checksum) == second
    assert blocks.get_schema_by_checksum(db, first.checksum, "non-versioned") == first
    assert blocks.get_schema_by_checksum(db, first.checksum, "3") is None
    assert blocks.get_schema_by_checksum(db, "sha256:") is None


def test_a_schema_takes_the_callers_id(db: Backend) -> None:
    id = uuid4()
    assert blocks.create_schema(db, block_fields("t"), new_type(db).id, id=id).id == id


def test_a_second_schema_of_an_id_is_refused(db: Backend) -> None:
    schema = new_schema(db)
    with refused(db, UniqueViolation):
        blocks.create_schema(db, block_fields("other"), schema.block_type_id, id=schema.id)


def test_a_schema_of_an_unknown_type_is_refused(db: Backend) -> None:
    with refused(db, ForeignKeyViolation):
        blocks.create_schema(db, block_fields("thing"), uuid4())


def test_a_schema_that_refers_to_an_unknown_type_is_refused(db: Backend) -> None:
    block_type = new_type(db, "t")
    with refused(db, ForeignKeyViolation, "'c' refers to a block type 'u'"):
        blocks.create_schema(db, PARENT, block_type.id)


@pytest.mark.parametrize(
    "fields",
    [
        {**PARENT, "definitions": {}},
        {**PARENT, "definitions": {"M": {"title": "M"}}},
        {**PARENT, "properties": {}},
        {**PARENT, "definitions": []},
        {**PARENT, "definitions": [1]},
        {**PARENT, "block_schema_references": [1]},
        {**PARENT, "block_schema_references": {"c": "u"}},
        {**PARENT, "block_schema_references": {"c": {"block_type_slug": "u"}}},
        {**PARENT, "block_schema_references": {"c": {**CHILD, "block_schema_checksum": 5}}},
        {**PARENT, "secret_fields": "password"},
        {**PARENT, "secret_fields": [1]},
        {"a": float("nan")},
        {"a": {1}},
        {"a": "\0"},
        {"a": "\ud800"},
        [1],
    ],
)
def test_fields_that_are_no_block_schema_are_refused(db: Backend, fields: Any) -> None:
    new_type(db, "u")
    block_type = new_type(db, "t")
    with refused(db, BadValue):
        blocks.create_schema(db, fields, block_type.id)


def test_schemas_that_refer_to_themselves_can_be_read(db: Backend) -> None:
    schema = three_levels(db)
    low = blocks.find_schemas(
        db, BlockSchemaFilter(block_type_id=AnyOf(any_=[type_id(db, "low")]))
    )[0]
    now = datetime.now(UTC)
    db.execute(
        "INSERT INTO block_schema_reference (id, created, updated, name, parent_block_schema_id,"
        " reference_block_schema_id) VALUES (?, ?, ?, ?, ?, ?)",
        (uuid4(), now, now, "back", low.id, schema.id),
    )
    circle = blocks.get_schema(db, schema.id)
    assert circle is not None
    assert set(circle.fields["definitions"]) == {"Mid", "Low", "Top"}


def test_schemas_are_found_the_newest_first_and_in_pages(db: Backend) -> None:
    made = [new_schema(db, title=title).id for title in "abc"]
    assert [schema.id for schema in blocks.find_schemas(db)] == made[::-1]
    assert [schema.id for schema in blocks.find_schemas(db, limit=1, offset=1)] == [made[1]]


def test_schemas_are_found_by_all_of_their_capabilities(db: Backend) -> None:
    block_type = new_type(db)
    for title, capabilities in {"a": ["r", "w"], "b": ["w"], "c": []}.items():
        blocks.create_schema(db, {"title": title}, block_type.id, capabilities=capabilities)
    found = blocks.find_schemas(db, BlockSchemaFilter(block_capabilities=Tags(all_=["w", "r"])))
    assert [schema.fields["title"] for schema in found] == ["a"]


def test_schemas_are_found_by_type_or_version(db: Backend) -> None:
    one, two = new_type(db, "one"), new_type(db, "two")
    for title, block_type, version in (("a", one, "1"), ("b", one, "2"), ("c", two, "2")):
        blocks.create_schema(db, {"title": title}, block_type.id, version=version)
    filter = BlockSchemaFilter(
        block_type_id=AnyOf(any_=[one.id]), version=AnyOf(any_=["2"]), operator="or_"
    )
    assert {s.fields["title"] for s in blocks.find_schemas(db, filter)} == {"a", "b", "c"}
    filter.operator = "and_"
    assert {s.fields["title"] for s in blocks.find_schemas(db, filter)} == {"b"}


def test_schemas_are_read_in_one_query_however_deep_they_nest(db: Backend) -> None:
    three_levels(db)
    before = db.stats().acquires
    assert len(blocks.find_schemas(db)) == 3
    assert db.stats().acquires - before == 1


def test_the_available_capabilities_are_those_of_any_schema(db: Backend) -> None:
    assert blocks.available_capabilities(db) == []
    block_type = new_type(db)
    for title, capabilities in {"a": ["w", "r"], "b": ["w", "notify"], "c": []}.items():
        blocks.create_schema(db, {"title": title}, block_type.id, capabilities=capabilities)
    assert blocks.available_capabilities(db) == ["notify", "r", "w"]


def test_deleting_a_schema_deletes_its_documents_and_references(db: Backend) -> None:
    schema = nested(db)
    [(_, child_id)] = references_of(db, schema.id)
    blocks.create_document(db, "a", {}, child_id, type_id(db, "u"))
    blocks.delete_schema(db, child_id)
    assert blocks.count_documents(db) == 0
    parent = blocks.get_schema(db, schema.id)
    assert parent is not None
    assert parent.fields["block_schema_references"] == {}


def test_a_schema_of_a_protected_type_cannot_be_deleted(db: Backend) -> None:
    schema = blocks.create_schema(db, {}, new_type(db, is_protected=True).id)
    with refused(db, UsageError, "protected"):
        blocks.delete_schema(db, schema.id)


def test_creating_one_schema_in_many_threads_makes_it_once(db: Backend) -> None:
    new_type(db, "u")
    block_type = new_type(db, "t")
    ready = threading.Barrier(8)

    def create(_: int) -> BlockSchema:
        ready.wait(30)
        return blocks.create_schema(db, PARENT, block_type.id)

    with ThreadPoolExecutor(8) as pool:
        created = list(pool.map(create, range(8)))
    assert all(schema == created[0] for schema in created)
    assert db.value("SELECT count(*) FROM block_schema") == 2
    assert db.value("SELECT count(*) FROM block_schema_reference") == 1
