"""Block documents with new data: merged or replaced, references and circles."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

import pytest

from prefect_db import (
    Backend,
    CheckViolation,
    ForeignKeyViolation,
    NotFound,
    blocks,
)
from prefect_db.blocks import (
    encryption,
)
from prefect_db.values import Json
from tests.contract.blocks import (
    MASK,
    content,
    document_references,
    new_document,
    new_schema,
    read,
    reference,
    refused,
)


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
