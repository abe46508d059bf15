"""Block types, schemas and documents, and the configuration that holds their key."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import orjson
import pytest
from cryptography.fernet import Fernet

from prefect_db import (
    Backend,
    BadValue,
    CheckViolation,
    ConfigurationError,
    Error,
    ForeignKeyViolation,
    NotFound,
    UniqueViolation,
    UsageError,
    blocks,
    configuration,
)
from prefect_db.blocks import (
    BlockDocumentFilter,
    BlockDocumentSort,
    BlockSchema,
    BlockSchemaFilter,
    BlockType,
    BlockTypeFilter,
    encryption,
)
from prefect_db.filters import AnyOf, Name, Tags
from prefect_db.values import Json

MASK = "********"
UNSTORABLE = ("a\0b", "a\ud800b")
TABLES = (
    "block_type",
    "block_schema",
    "block_schema_reference",
    "block_document",
    "block_document_reference",
    "configuration",
)


@pytest.fixture(autouse=True)
def _no_key_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PREFECT_SERVER_ENCRYPTION_KEY", raising=False)
    monkeypatch.delenv("ORION_ENCRYPTION_KEY", raising=False)


def content(db: Backend) -> list[set[tuple[Any, ...]]]:
    return [{tuple(row) for row in db.rows(f"SELECT * FROM {table}")} for table in TABLES]


@contextmanager
def refused(
    db: Backend, kind: type[Error], match: str | None = None
) -> Iterator[pytest.ExceptionInfo[Error]]:
    """The block raises exactly this error and leaves the database as it was."""
    before = content(db)
    with pytest.raises(Error, match=match) as raised:
        yield raised
    assert type(raised.value) is kind
    assert content(db) == before


def new_type(db: Backend, slug: str = "thing", **given: Any) -> BlockType:
    return blocks.create_type(db, slug.title(), slug, **given)


def block_fields(slug: str, **given: Any) -> dict[str, Any]:
    fields = {"block_type_slug": slug, "title": slug.title(), "type": "object", "properties": {}}
    return {**fields, "block_schema_references": {}, **given}


def new_schema(db: Backend, slug: str = "thing", **fields: Any) -> BlockSchema:
    """A schema of the type with this slug, which is made if it is missing."""
    block_type = blocks.get_type_by_slug(db, slug) or new_type(db, slug)
    return blocks.create_schema(db, block_fields(slug, **fields), block_type.id)


def new_document(
    db: Backend, name: str, data: dict[str, Any] | None = None, *, slug: str = "thing", **given: Any
) -> blocks.BlockDocument:
    found = blocks.get_type_by_slug(db, slug)
    schemas = (
        blocks.find_schemas(db, BlockSchemaFilter(block_type_id=AnyOf(any_=[found.id])))
        if found
        else []
    )
    schema = schemas[0] if schemas else new_schema(db, slug)
    return blocks.create_document(db, name, data or {}, schema.id, schema.block_type_id, **given)


def reference(document: blocks.BlockDocument) -> dict[str, Any]:
    return {"$ref": {"block_document_id": str(document.id)}}


def read(db: Backend, document: blocks.BlockDocument, *, secrets: bool = True) -> Any:
    found = blocks.get_document(db, document.id, include_secrets=secrets)
    return found and found.data


# --- types


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


# --- checksums

GITHUB = {
    "block_schema_references": {},
    "block_type_slug": "github-credentials",
    "description": "Block used to manage GitHub authentication.",
    "properties": {
        "token": {
            "description": "A GitHub personal access token (PAT).",
            "format": "password",
            "title": "Token",
            "type": "string",
            "writeOnly": True,
        }
    },
    "secret_fields": ["token"],
    "title": "GitHubCredentials",
    "type": "object",
}
KUBERNETES = {
    "title": "KubernetesCredentials",
    "description": "Credentials block for generating configured Kubernetes API clients.",
    "type": "object",
    "properties": {"cluster_config": {"$ref": "#/definitions/KubernetesClusterConfig"}},
    "block_type_slug": "kubernetes-credentials",
    "secret_fields": [],
    "block_schema_references": {
        "cluster_config": {
            "block_schema_checksum": "sha256:90d421e948bfbe4cdc98b124995f0edd0f84b083"
            "7549ad1390423bad8e31cf3b",
            "block_type_slug": "kubernetes-cluster-config",
        }
    },
    "definitions": {
        "KubernetesClusterConfig": {
            "block_type_slug": "kubernetes-cluster-config",
            "title": "KubernetesClusterConfig",
        }
    },
}
CHILD = {
    "block_schema_references": {},
    "block_type_slug": "u",
    "properties": {"s": {"type": "string"}},
    "title": "U",
    "type": "object",
}
CHILD_CHECKSUM = "sha256:574227c23c74e8a06b580135804c8b76a5ddfcaa75abbac05ebfe223f7cefda0"
PARENT = {
    "block_schema_references": {
        "c": {"block_schema_checksum": CHILD_CHECKSUM, "block_type_slug": "u"}
    },
    "block_type_slug": "t",
    "definitions": {
        "U": {**CHILD, "secret_fields": ["s"]},
        "M": {"properties": {}, "title": "M", "type": "object"},
        "E": {},
    },
    "properties": {"c": {"$ref": "#/definitions/U"}, "m": {"$ref": "#/definitions/M"}},
    "title": "Té",
    "type": "object",
}
PARENT_CHECKSUM = "sha256:49da00ca710c1f8baa71c4eced4ae43f2a1253d8fc8b025c4df9100e273fc736"


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (GITHUB, "sha256:74a34b668838ba661d9160ab127053dd44a22dd04e89562839645791e70d046a"),
        (KUBERNETES, "sha256:957fa8dca90bd1b5fb9c575ee09e80b454116c0b134287fbc2eff47a72564c3b"),
        (CHILD, CHILD_CHECKSUM),
        (PARENT, PARENT_CHECKSUM),
    ],
)
def test_the_checksum_is_prefects(fields: dict[str, Any], expected: str) -> None:
    assert blocks.checksum(fields) == expected


def test_the_checksum_leaves_the_fields_as_they_are() -> None:
    before = orjson.dumps(PARENT)
    blocks.checksum(PARENT)
    assert orjson.dumps(PARENT) == before


def test_the_checksum_does_not_depend_on_the_order_of_keys() -> None:
    assert blocks.checksum(dict(reversed(PARENT.items()))) == PARENT_CHECKSUM


def test_secret_fields_do_not_count_in_nested_objects_either() -> None:
    fields = {"properties": {"secret_fields": ["x"], "a": {}}}
    assert blocks.checksum(fields) == blocks.checksum({"properties": {"a": {}}})


def test_definitions_that_refer_to_each_other_count_once() -> None:
    definitions = {
        "A": {"properties": {"b": {"$ref": "#/definitions/B"}}},
        "B": {"properties": {"a": {"$ref": "#/definitions/A"}}},
    }
    fields = {"properties": {"a": {"$ref": "#/definitions/A"}}, "definitions": definitions}
    unused = {**definitions, "C": {"title": "C"}}
    assert blocks.checksum({**fields, "definitions": unused}) == blocks.checksum(fields)


def test_a_definition_that_only_another_definition_refers_to_counts() -> None:
    block = {"block_type_slug": "b", "properties": {"m": {"$ref": "#/definitions/M"}}}
    fields = {"properties": {}, "definitions": {"B": block, "M": {"title": "M"}}}
    without = {"properties": {}, "definitions": {"M": {"title": "M"}}}
    assert blocks.checksum(fields) != blocks.checksum(without)
    assert blocks.checksum(without) == blocks.checksum({"properties": {}})


def test_a_definition_that_is_empty_does_not_count() -> None:
    fields = {"properties": {"v": {"$ref": "#/definitions/JsonValue"}}}
    assert blocks.checksum({**fields, "definitions": {"JsonValue": {}}}) == blocks.checksum(fields)


@pytest.mark.parametrize("value", [float("nan"), {1, 2}, object()])
def test_fields_that_are_no_json_have_no_checksum(value: Any) -> None:
    with pytest.raises(BadValue):
        blocks.checksum({"a": value})


# --- schemas


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


def type_id(db: Backend, slug: str) -> UUID:
    block_type = blocks.get_type_by_slug(db, slug)
    assert block_type is not None
    return block_type.id


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


# --- documents


def test_a_document_is_read_back_with_its_secrets_if_asked(db: Backend) -> None:
    new_schema(db, secret_fields=["password"])
    data = {"user": "ü", "password": "s3cr3t", "n": [1, None, {"a": 2**70}]}
    created = new_document(db, "a", data)
    assert created.data == {**data, "password": MASK}
    assert blocks.get_document(db, created.id) == created
    assert read(db, created) == data


def test_a_document_that_is_not_there_is_none(db: Backend) -> None:
    assert blocks.get_document(db, uuid4()) is None
    assert blocks.get_document_by_name(db, "thing", "a") is None


def test_a_document_is_stored_as_a_token_of_its_json_text(db: Backend) -> None:
    document = new_document(db, "a", {"user": "ü", "n": [1, 2]})
    row = db.row("SELECT data, block_type_name FROM block_document WHERE id = ?", (document.id,))
    assert row is not None
    assert row["block_type_name"] == "Thing"
    key = configuration.get(db, "ENCRYPTION_KEY")
    assert key is not None
    assert (
        Fernet(key["fernet_key"]).decrypt(row.json("data")) == b'{"user": "\\u00fc", "n": [1, 2]}'
    )
    assert row["data"] == json.dumps(row.json("data"))


def test_a_document_that_prefect_stored_is_read(db: Backend) -> None:
    schema = new_schema(db, secret_fields=["value"])
    configuration.set(
        db, "ENCRYPTION_KEY", {"fernet_key": "T9hhAF0Fe3Fi5msqnGZ7Wn97ifL1xGygz7ELFfQpAXY="}
    )
    now = datetime.now(UTC)
    db.execute(
        "INSERT INTO block_document (id, created, updated, name, data, block_schema_id,"
        " block_type_id, block_type_name, is_anonymous) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            id := uuid4(),
            now,
            now,
            "api-key",
            Json(
                "gAAAAABrBIFZgBbMJcD1-A59V2VtHTp22ZXwJjr_E_G6djQ0all-8qRBitvt5xF64SGuW1oaA_o-"
                "HfG1NQs2NM3wiIxtJMdQTnJRP8FM3sfL7DC0u-SPxHY="
            ),
            schema.id,
            schema.block_type_id,
            "Thing",
            False,
        ),
    )
    document = blocks.get_document(db, id, include_secrets=True)
    assert document is not None
    assert document.data == {"value": "s3cr3t"}


def test_secrets_are_in_no_repr(db: Backend) -> None:
    document = new_document(db, "a", {"password": "s3cr3t"})
    shown = repr(blocks.get_document(db, document.id, include_secrets=True))
    assert "s3cr3t" not in shown
    assert "'a'" in shown


def test_secrets_are_in_no_error(db: Backend) -> None:
    schema = new_schema(db)
    data = {"password": "s3cr3t", "other": {"s3cr3t"}}
    with pytest.raises(BadValue) as raised:
        blocks.create_document(db, "a", data, schema.id, schema.block_type_id)
    assert "s3cr3t" not in str(raised.value)


@pytest.mark.parametrize("name", [None, ""])
def test_an_anonymous_document_without_a_name_gets_one(db: Backend, name: str | None) -> None:
    schema = new_schema(db)
    document = blocks.create_document(
        db, name, {}, schema.id, schema.block_type_id, is_anonymous=True
    )
    assert document.is_anonymous
    assert UUID(document.name.removeprefix("anonymous-")).version == 4


@pytest.mark.parametrize("name", [None, "", *UNSTORABLE])
def test_a_name_that_is_missing_or_unstorable_is_refused(db: Backend, name: str | None) -> None:
    schema = new_schema(db)
    with refused(db, BadValue):
        blocks.create_document(db, name, {}, schema.id, schema.block_type_id)


@pytest.mark.parametrize(
    "data",
    [
        {"a": float("nan")},
        {"a": {1}},
        {"a": "\0"},
        {"a": "\ud800"},
        {1: "a"},
        [1],
        {"a": {"$ref": {}}},
        {"a": {"$ref": "x"}},
        {"a": {"$ref": {"block_document_id": None}}},
        {"a": {"$ref": {"block_document_id": "x"}}},
    ],
)
def test_data_that_is_no_json_object_or_reference_is_refused(db: Backend, data: Any) -> None:
    document = new_document(db, "there")
    with refused(db, BadValue):
        blocks.create_document(db, "a", data, document.block_schema_id, document.block_type_id)
    with refused(db, BadValue):
        blocks.update_document(db, document.id, data=data)


def test_a_second_document_of_a_name_is_refused(db: Backend) -> None:
    new_document(db, "a")
    with refused(db, UniqueViolation):
        new_document(db, "a")
    assert new_document(db, "a", slug="other").name == "a"


def test_a_second_document_of_an_id_is_refused(db: Backend) -> None:
    document = new_document(db, "a", id=uuid4())
    with refused(db, UniqueViolation):
        new_document(db, "b", id=document.id)


def test_a_document_of_an_unknown_type_or_schema_is_refused(db: Backend) -> None:
    schema = new_schema(db)
    for schema_id, block_type_id in ((schema.id, uuid4()), (uuid4(), schema.block_type_id)):
        # Nor does the key that is made for it stay.
        with refused(db, ForeignKeyViolation):
            blocks.create_document(db, "a", {}, schema_id, block_type_id)


def test_a_reference_to_an_unknown_document_is_refused(db: Backend) -> None:
    document = new_document(db, "there")
    data = {"a": {"$ref": {"block_document_id": uuid4()}}}
    with refused(db, ForeignKeyViolation):
        new_document(db, "a", data)
    with refused(db, ForeignKeyViolation):
        blocks.update_document(db, document.id, data=data)


def document_references(db: Backend) -> set[tuple[Any, ...]]:
    rows = db.rows(
        "SELECT p.name, r.name, c.name FROM block_document_reference AS r"
        " JOIN block_document AS p ON p.id = r.parent_block_document_id"
        " JOIN block_document AS c ON c.id = r.reference_block_document_id"
    )
    return {tuple(row) for row in rows}


def test_a_reference_is_a_row_and_not_in_the_encrypted_data(db: Backend) -> None:
    child = new_document(db, "child", {"x": 1})
    parent = new_document(db, "parent", {"a": 1, "c": reference(child)})
    assert document_references(db) == {("parent", "c", "child")}
    blocks.delete_document(db, child.id)
    assert read(db, parent) == {"a": 1}


def test_a_reference_deeper_in_the_data_is_data(db: Backend) -> None:
    child = new_document(db, "child")
    data = {"a": {"b": reference(child)}, "l": [reference(child)]}
    assert read(db, new_document(db, "parent", data)) == data
    assert document_references(db) == set()


def test_referred_documents_are_read_in_their_place(db: Backend) -> None:
    new_schema(db, "low", secret_fields=["password"])
    new_schema(db, "top", secret_fields=["token"])
    low = new_document(db, "low-1", {"password": "p", "token": "shown"}, slug="low")
    mid = new_document(db, "mid-1", {"x": 1, "low": reference(low)}, slug="mid")
    top = new_document(db, "top-1", {"token": "t", "mid": reference(mid)}, slug="top")
    assert read(db, top) == {
        "token": "t",
        "mid": {"x": 1, "low": {"password": "p", "token": "shown"}},
    }
    shown = blocks.get_document(db, top.id)
    assert shown is not None
    assert shown.data == {
        "token": MASK,
        "mid": {"x": 1, "low": {"password": MASK, "token": "shown"}},
    }
    assert shown.block_document_references == {
        "mid": {
            "block_document": {
                "id": mid.id,
                "name": "mid-1",
                "block_type": blocks.get_type_by_slug(db, "mid"),
                "is_anonymous": False,
                "block_document_references": {
                    "low": {
                        "block_document": {
                            "id": low.id,
                            "name": "low-1",
                            "block_type": blocks.get_type_by_slug(db, "low"),
                            "is_anonymous": False,
                            "block_document_references": {},
                        }
                    }
                },
            }
        }
    }


def test_a_document_that_two_refer_to_is_read_for_each_alone(db: Backend) -> None:
    child = new_document(db, "child", {"x": 1})
    new_document(db, "one", {"c": reference(child)})
    new_document(db, "two", {"c": reference(child), "d": reference(child)})
    _, one, two = blocks.find_documents(db)
    one.data["c"]["x"] = two.data["d"]["x"] = 2
    assert two.data["c"] == {"x": 1}


def test_documents_are_read_in_three_queries_however_many_and_deep(db: Backend) -> None:
    document = new_document(db, "doc-0")
    for n in range(1, 20):
        document = new_document(db, f"doc-{n}", {"c": reference(document)})
    before = db.stats().acquires
    assert len(blocks.find_documents(db)) == 20
    assert db.stats().acquires - before == 3


def test_documents_nest_50_deep_and_no_deeper(db: Backend) -> None:
    document = new_document(db, "doc-0", {"x": 1})
    for n in range(1, 51):
        document = new_document(db, f"doc-{n}", {"c": reference(document)})
    data = read(db, document)
    for _ in range(50):
        data = data["c"]
    assert data == {"x": 1}
    with refused(db, BadValue, "50 deep"):
        new_document(db, "doc-51", {"c": reference(document)})


def test_a_document_is_read_by_type_and_name_anonymous_or_not(db: Backend) -> None:
    new_document(db, "a", slug="other")
    document = new_document(db, "a", {"x": 1}, is_anonymous=True)
    assert blocks.get_document_by_name(db, "thing", "a") == document
    assert blocks.get_document_by_name(db, "thing", "A") is None


def test_anonymous_documents_are_found_only_when_asked_for(db: Backend) -> None:
    new_document(db, "a")
    new_document(db, "b", is_anonymous=True)

    def names(filter: BlockDocumentFilter | None) -> list[str]:
        found = [document.name for document in blocks.find_documents(db, filter)]
        assert blocks.count_documents(db, filter) == len(found)
        return found

    assert names(None) == ["a"]
    assert names(BlockDocumentFilter(is_anonymous=True)) == ["b"]
    assert names(BlockDocumentFilter(is_anonymous=None)) == ["a", "b"]


def test_documents_are_found_by_id_type_and_name(db: Backend) -> None:
    first = new_document(db, "my-first")
    new_document(db, "second")
    other = new_document(db, "my-other", slug="other")
    filters = {
        "my-first": BlockDocumentFilter(id=AnyOf(any_=[first.id])),
        "my-other": BlockDocumentFilter(block_type_id=AnyOf(any_=[other.block_type_id])),
        "second": BlockDocumentFilter(name=Name(any_=["second", "third"])),
        "my-first, my-other": BlockDocumentFilter(name=Name(like_="MY-")),
    }
    for names, filter in filters.items():
        found = blocks.find_documents(db, filter)
        assert ", ".join(document.name for document in found) == names


def test_documents_come_sorted_and_in_pages(db: Backend) -> None:
    for name, slug in (("c", "two"), ("a", "two"), ("b", "one")):
        new_document(db, name, slug=slug)
    for sort, names in {
        BlockDocumentSort.NAME_ASC: "abc",
        BlockDocumentSort.NAME_DESC: "cba",
        BlockDocumentSort.BLOCK_TYPE_AND_NAME_ASC: "bac",
    }.items():
        assert "".join(d.name for d in blocks.find_documents(db, sort=sort)) == names
        [second] = blocks.find_documents(db, sort=sort, limit=1, offset=1)
        assert second.name == names[1]


# --- masks


def masked(db: Backend, secret_fields: list[str], data: dict[str, Any]) -> Any:
    new_schema(db, secret_fields=secret_fields)
    return read(db, new_document(db, "a", data), secrets=False)


@pytest.mark.parametrize("secret", ["s", "", 5, False, [1, 2], {}])
def test_any_secret_is_eight_asterisks(db: Backend, secret: Any) -> None:
    assert masked(db, ["a.b", "none"], {"a": {"b": secret, "c": 1}}) == {"a": {"b": MASK, "c": 1}}


def test_a_secret_that_is_null_is_shown(db: Backend) -> None:
    assert masked(db, ["a"], {"a": None}) == {"a": None}


def test_everything_below_a_star_is_masked(db: Backend) -> None:
    data = {"a": {"b": {"c": 1, "d": {"e": None}}, "f": 2}}
    assert masked(db, ["a.b.*"], data) == {"a": {"b": {"c": MASK, "d": {"e": MASK}}, "f": 2}}


def test_a_secret_that_is_an_object_shows_its_keys_alone(db: Backend) -> None:
    assert masked(db, ["value"], {"value": {"user": "u", "password": "p"}}) == {
        "value": {"user": MASK, "password": MASK}
    }


def test_masks_sent_back_keep_the_secrets(db: Backend) -> None:
    new_schema(db, secret_fields=["password", "value", "extra.*"])
    data = {"password": "p", "value": {"k": "v"}, "extra": {"a": 1, "b": {"c": None}}, "x": 1}
    document = new_document(db, "a", data)
    for merge in (True, False):
        shown = {**read(db, document, secrets=False), "x": 2}
        blocks.update_document(db, document.id, data=shown, merge_existing_data=merge)
        assert read(db, document) == {**data, "x": 2}


def test_a_mask_for_a_whole_object_keeps_it(db: Backend) -> None:
    new_schema(db, secret_fields=["value"])
    document = new_document(db, "a", {"value": {"k": "v"}})
    blocks.update_document(db, document.id, data={"value": MASK})
    assert read(db, document) == {"value": {"k": "v"}}


def test_another_secret_replaces_the_secret(db: Backend) -> None:
    new_schema(db, secret_fields=["password"])
    document = new_document(db, "a", {"password": "old"})
    blocks.update_document(db, document.id, data={"password": "new"})
    assert read(db, document) == {"password": "new"}


def test_a_mask_for_what_is_not_stored_below_a_star_is_refused(db: Backend) -> None:
    new_schema(db, secret_fields=["extra.*"])
    document = new_document(db, "a", {"extra": {"old": 1}})
    with refused(db, BadValue, "not stored"):
        blocks.update_document(db, document.id, data={"extra": {"renamed": MASK}})


# --- updates


def test_an_update_merges_at_the_top_level(db: Backend) -> None:
    document = new_document(db, "a", {"x": {"y": 1}, "z": 1})
    updated = blocks.update_document(db, document.id, data={"x": {"w": 2}, "v": 3})
    assert updated.data == {"x": {"w": 2}, "z": 1, "v": 3}
    assert blocks.get_document(db, document.id) == updated


def test_an_update_without_merging_replaces_the_data(db: Backend) -> None:
    document = new_document(db, "a", {"x": 1, "z": 1})
    blocks.update_document(db, document.id, data={"x": 2}, merge_existing_data=False)
    assert read(db, document) == {"x": 2}


def test_an_update_makes_the_references_those_that_are_sent(db: Backend) -> None:
    one, two = new_document(db, "one", {"n": 1}), new_document(db, "two", {"n": 2})
    parent = new_document(
        db, "parent", {"a": reference(one), "b": reference(one), "c": reference(one), "d": 1}
    )
    kept = db.value("SELECT id FROM block_document_reference WHERE name = 'a'")
    blocks.update_document(
        db, parent.id, data={"a": reference(one), "b": reference(two), "d": reference(two)}
    )
    assert document_references(db) == {
        ("parent", "a", "one"),
        ("parent", "b", "two"),
        ("parent", "d", "two"),
    }
    assert db.value("SELECT id FROM block_document_reference WHERE name = 'a'") == kept
    assert read(db, parent) == {"a": {"n": 1}, "b": {"n": 2}, "d": {"n": 2}}


def test_a_reference_takes_the_place_of_a_value(db: Backend) -> None:
    child = new_document(db, "child")
    parent = new_document(db, "parent", {"c": 1})
    blocks.update_document(db, parent.id, data={"c": reference(child)})
    blocks.delete_document(db, child.id)
    assert read(db, parent) == {}


def test_a_nul_that_prefect_encrypted_survives_an_update_of_other_keys(db: Backend) -> None:
    document = new_document(db, "a")
    token = encryption.writing(db).encrypt({"old": "a\0b"})
    db.execute("UPDATE block_document SET data = ?", (Json(token),))
    blocks.update_document(db, document.id, data={"new": 1})
    assert read(db, document) == {"old": "a\0b", "new": 1}


def test_an_update_without_data_changes_nothing(db: Backend) -> None:
    document = new_document(db, "a", {"x": 1})
    other = new_schema(db, title="Other")
    before = content(db)
    assert blocks.update_document(db, document.id, block_schema_id=other.id) == document
    assert content(db) == before


def test_an_update_can_give_a_document_another_schema_of_its_type(db: Backend) -> None:
    document = new_document(db, "a", {"x": 1})
    other = new_schema(db, title="Other", secret_fields=["x"])
    updated = blocks.update_document(db, document.id, data={}, block_schema_id=other.id)
    assert (updated.block_schema_id, updated.data) == (other.id, {"x": MASK})


def test_an_update_to_a_schema_that_does_not_fit_is_refused(db: Backend) -> None:
    document = new_document(db, "a")
    other = new_schema(db, "other")
    with refused(db, CheckViolation, "another block type"):
        blocks.update_document(db, document.id, data={}, block_schema_id=other.id)
    with refused(db, ForeignKeyViolation):
        blocks.update_document(db, document.id, data={}, block_schema_id=uuid4())


def test_a_document_cannot_refer_to_itself(db: Backend) -> None:
    schema = new_schema(db)
    id = uuid4()
    data = {"me": {"$ref": {"block_document_id": id}}}
    with refused(db, CheckViolation):
        blocks.create_document(db, "a", data, schema.id, schema.block_type_id, id=id)
    document = new_document(db, "a", id=id)
    with refused(db, CheckViolation):
        blocks.update_document(db, document.id, data=data)


def test_references_cannot_form_a_circle(db: Backend) -> None:
    low = new_document(db, "low")
    mid = new_document(db, "mid", {"c": reference(low)})
    top = new_document(db, "top", {"c": reference(mid)})
    with refused(db, CheckViolation, "through others"):
        blocks.update_document(db, low.id, data={"x": 1, "c": reference(top)})


@pytest.mark.only("postgres", "SQLite has one writer at a time")
def test_two_transactions_cannot_each_close_half_of_a_circle(db: Backend) -> None:
    b, d = new_document(db, "b-end"), new_document(db, "d-end")
    a, c = new_document(db, "a", {"c": reference(b)}), new_document(db, "c", {"c": reference(d)})
    with ThreadPoolExecutor(1) as pool, db.transaction() as txn:
        blocks.update_document(txn, b.id, data={"c": reference(c)})
        other = pool.submit(blocks.update_document, db, d.id, data={"c": reference(a)})
        deadline = time.monotonic() + 30
        while not other.done() and time.monotonic() < deadline:
            if db.value("SELECT count(*) FROM pg_locks WHERE NOT granted"):
                break
        txn.execute("SELECT 1")
    # It waits for the first one, so its outcome is known after that.
    with pytest.raises(CheckViolation):
        other.result(30)


def test_a_document_and_its_secrets_are_updated_one_after_the_other(db: Backend) -> None:
    document = new_document(db, "a")

    def add(n: int) -> None:
        blocks.update_document(db, document.id, data={f"k{n}": n})

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(add, range(24)))
    assert read(db, document) == {f"k{n}": n for n in range(24)}


def test_operations_take_part_in_the_callers_transaction(db: Backend) -> None:
    document = new_document(db, "a", {"x": 1})
    before = content(db)
    with db.transaction() as txn:
        blocks.update_document(txn, document.id, data={"x": 2})
        with pytest.raises(NotFound):
            blocks.delete_document(txn, uuid4())
        blocks.create_document(txn, "b", {}, document.block_schema_id, document.block_type_id)
        assert blocks.count_documents(txn) == 2
        txn.rollback()
    assert content(db) == before


# --- deleting what is the default result storage


@pytest.mark.parametrize("what", ["document", "schema", "type"])
def test_the_default_result_storage_is_forgotten_with_its_document(db: Backend, what: str) -> None:
    key = "server-default-result-storage"
    document, other = new_document(db, "a"), new_document(db, "b", slug="other")
    configuration.set(db, key, {"default_result_storage_block_id": str(document.id)})
    blocks.delete_document(db, other.id)
    assert configuration.get(db, key) is not None
    if what == "document":
        blocks.delete_document(db, document.id)
    elif what == "schema":
        blocks.delete_schema(db, document.block_schema_id)
    else:
        blocks.delete_type(db, document.block_type_id)
    assert configuration.get(db, key) is None


# --- encryption


@pytest.mark.parametrize("variable", ["PREFECT_SERVER_ENCRYPTION_KEY", "ORION_ENCRYPTION_KEY"])
def test_a_key_of_the_environment_is_used_and_none_stored(
    db: Backend, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    key = Fernet.generate_key()
    monkeypatch.setenv(variable, key.decode())
    document = new_document(db, "a", {"x": 1})
    token = db.row("SELECT data FROM block_document")
    assert token is not None
    assert Fernet(key).decrypt(token.json("data")) == b'{"x": 1}'
    assert configuration.get(db, "ENCRYPTION_KEY") is None
    assert read(db, document) == {"x": 1}


def test_the_newer_variable_wins(db: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    key = Fernet.generate_key()
    monkeypatch.setenv("PREFECT_SERVER_ENCRYPTION_KEY", key.decode())
    monkeypatch.setenv("ORION_ENCRYPTION_KEY", Fernet.generate_key().decode())
    document = new_document(db, "a", {"x": 1})
    monkeypatch.delenv("ORION_ENCRYPTION_KEY")
    assert read(db, document) == {"x": 1}


def test_an_empty_newer_variable_hides_the_older_one(
    db: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_SERVER_ENCRYPTION_KEY", "")
    monkeypatch.setenv("ORION_ENCRYPTION_KEY", Fernet.generate_key().decode())
    new_document(db, "a")
    assert configuration.get(db, "ENCRYPTION_KEY") is not None


def test_another_key_in_the_environment_is_an_error_that_names_it(
    db: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    document = new_document(db, "a", {"x": 1})
    key = Fernet.generate_key().decode()
    monkeypatch.setenv("PREFECT_SERVER_ENCRYPTION_KEY", key)
    with pytest.raises(BadValue, match="key of PREFECT_SERVER_ENCRYPTION_KEY") as raised:
        blocks.get_document(db, document.id)
    assert key not in str(raised.value)
    with refused(db, BadValue, "key of PREFECT_SERVER_ENCRYPTION_KEY"):
        blocks.update_document(db, document.id, data={"x": 2})


def test_another_key_in_the_configuration_is_an_error_that_names_it(db: Backend) -> None:
    document = new_document(db, "a", {"x": 1})
    configuration.set(db, "ENCRYPTION_KEY", {"fernet_key": Fernet.generate_key().decode()})
    with pytest.raises(BadValue, match="key of the row ENCRYPTION_KEY of the table configuration"):
        blocks.get_document(db, document.id)


def test_a_document_that_was_never_encrypted_is_an_error(db: Backend) -> None:
    document = new_document(db, "a")
    db.execute("UPDATE block_document SET data = ?", ({},))
    with pytest.raises(BadValue, match=str(document.id)):
        blocks.get_document(db, document.id)


@pytest.mark.parametrize("key", ["short", "é" * 44, "A" * 43 + "!"])
def test_a_variable_that_is_no_key_is_an_error_that_does_not_show_it(
    db: Backend, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    schema = new_schema(db)
    monkeypatch.setenv("PREFECT_SERVER_ENCRYPTION_KEY", key)
    with refused(db, ConfigurationError, "PREFECT_SERVER_ENCRYPTION_KEY") as raised:
        blocks.create_document(db, "a", {}, schema.id, schema.block_type_id)
    assert key not in str(raised.value)


@pytest.mark.parametrize("value", [{}, {"fernet_key": 5}, {"fernet_key": "short"}])
def test_a_configuration_row_that_is_no_key_is_an_error(db: Backend, value: dict[str, Any]) -> None:
    schema = new_schema(db)
    configuration.set(db, "ENCRYPTION_KEY", value)
    with refused(db, BadValue, "ENCRYPTION_KEY"):
        blocks.create_document(db, "a", {}, schema.id, schema.block_type_id)


def test_reading_without_any_key_is_an_error_and_makes_none(db: Backend) -> None:
    document = new_document(db, "a")
    db.execute("DELETE FROM configuration")
    with refused(db, ConfigurationError, "no key"):
        blocks.get_document(db, document.id)


def test_without_cryptography_documents_are_neither_written_nor_read(
    db: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    document = new_document(db, "a", {"x": 1})
    for name in [name for name in sys.modules if name.partition(".")[0] == "cryptography"]:
        # None is how Python marks a module that cannot be imported.
        monkeypatch.setitem(sys.modules, name, None)
    with refused(db, ConfigurationError, r"pip install 'prefect-db\[blocks\]'"):
        blocks.create_document(db, "b", {}, document.block_schema_id, document.block_type_id)
    with refused(db, ConfigurationError, r"prefect-db\[blocks\]"):
        blocks.update_document(db, document.id, data={"x": 2})
    with refused(db, ConfigurationError, r"prefect-db\[blocks\]"):
        blocks.find_documents(db)


def test_the_first_uses_of_encryption_agree_on_one_key(db: Backend) -> None:
    schema = new_schema(db)
    ready = threading.Barrier(8)

    def create(n: int) -> None:
        ready.wait(30)
        blocks.create_document(db, f"doc-{n}", {"n": n}, schema.id, schema.block_type_id)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(create, range(8)))
    assert [document.data["n"] for document in blocks.find_documents(db)] == list(range(8))
    assert db.value("SELECT count(*) FROM configuration") == 1


def test_a_cipher_shows_no_key(db: Backend) -> None:
    cipher = encryption.writing(db)
    key = configuration.get(db, "ENCRYPTION_KEY")
    assert key is not None
    assert key["fernet_key"] not in repr(cipher)


# --- configuration


def test_a_configuration_is_read_back(db: Backend) -> None:
    assert configuration.get(db, "k") is None
    configuration.set(db, "k", {"a": [1, "ü"]})
    assert configuration.get(db, "k") == {"a": [1, "ü"]}


def test_setting_a_configuration_again_keeps_its_row(db: Backend) -> None:
    configuration.set(db, "k", {"a": 1})
    query = "SELECT id, created FROM configuration"
    before = db.rows(query)
    configuration.set(db, "k", {"a": 2})
    assert configuration.get(db, "k") == {"a": 2}
    assert list(db.rows(query)) == list(before)


def test_the_default_of_a_configuration_is_stored_once(db: Backend) -> None:
    assert configuration.setdefault(db, "k", {"a": 1}) == {"a": 1}
    assert configuration.setdefault(db, "k", {"a": 2}) == {"a": 1}


@pytest.mark.parametrize("value", [None, "x", [1], {"a": float("nan")}, {"a": "\0"}])
def test_a_configuration_that_is_no_object_is_refused(db: Backend, value: Any) -> None:
    with refused(db, BadValue):
        configuration.set(db, "k", value)
    with refused(db, BadValue):
        configuration.setdefault(db, "k", value)
