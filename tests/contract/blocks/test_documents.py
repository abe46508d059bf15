"""Block documents, and how they nest."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import pytest
from cryptography.fernet import Fernet

from prefect_db import (
    Backend,
    BadValue,
    ForeignKeyViolation,
    UniqueViolation,
    blocks,
    configuration,
)
from prefect_db.blocks import (
    BlockDocumentFilter,
    BlockDocumentSort,
)
from prefect_db.filters import AnyOf, Name
from prefect_db.values import Json
from tests.contract.blocks import (
    MASK,
    UNSTORABLE,
    document_references,
    new_document,
    new_schema,
    read,
    reference,
    refused,
)


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


def test_documents_are_read_in_two_queries_however_many_and_deep(db: Backend) -> None:
    document = new_document(db, "doc-0")
    for n in range(1, 20):
        document = new_document(db, f"doc-{n}", {"c": reference(document)})
    before = db.stats().acquires
    assert len(blocks.find_documents(db)) == 20
    assert db.stats().acquires - before == 2


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
