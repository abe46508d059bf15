"""The key of the documents is replaced. With faults and beside others: tests/faults/."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from cryptography.fernet import Fernet

from prefect_db import Backend, BadValue, ConfigurationError, UsageError, blocks, configuration
from prefect_db.values import Json
from tests.contract.blocks import (
    content,
    many_documents,
    new_document,
    new_schema,
    read,
    refused,
    stored_keys,
    under_key,
)

KEY = "PREFECT_SERVER_ENCRYPTION_KEY"
FALLBACKS = "PREFECT_DB_ENCRYPTION_KEY_FALLBACKS"


def new_key() -> str:
    return Fernet.generate_key().decode()


@pytest.mark.parametrize("number", [0, 1, 9, 10, 11, 25])
def test_all_documents_are_encrypted_with_a_new_key(db: Backend, number: int) -> None:
    many_documents(db, number)
    former = stored_keys(db)["fernet_key"]
    before = blocks.find_documents(db)
    assert blocks.rotate_key(db, batch=10) == number
    value = stored_keys(db)
    assert list(value) == ["fernet_key"]
    assert value["fernet_key"] != former
    assert under_key(db, value["fernet_key"]) == number
    # `updated` too is what it was.
    assert blocks.find_documents(db) == before


def test_anonymous_documents_are_among_them(db: Backend) -> None:
    document = new_document(db, "a", {"x": 1}, is_anonymous=True)
    assert blocks.rotate_key(db) == 1
    assert read(db, document) == {"x": 1}


def test_where_there_was_no_key_one_is_made(db: Backend) -> None:
    assert blocks.rotate_key(db) == 0
    assert list(stored_keys(db)) == ["fernet_key"]


def test_whatever_else_the_key_row_holds_stays(db: Backend) -> None:
    configuration.set(db, "ENCRYPTION_KEY", {"fernet_key": new_key(), "note": "ours"})
    blocks.rotate_key(db)
    assert stored_keys(db)["note"] == "ours"


@pytest.mark.parametrize("batch", [0, -1, 10_001, 2**70, True, 1.5, "10", None])
def test_a_batch_out_of_bounds_is_refused(db: Backend, batch: Any) -> None:
    new_document(db, "a")
    with refused(db, BadValue, "from 1 to 10000"):
        blocks.rotate_key(db, batch=batch)


def test_each_batch_is_a_transaction_of_its_own(db: Backend) -> None:
    many_documents(db, 20)

    def acquires(batch: int) -> int:
        before = db.stats().acquires
        blocks.rotate_key(db, batch=batch)
        return db.stats().acquires - before

    # The keys before and after, and each batch twice: the second time to see that all is done.
    assert acquires(10_000) == 2 + 2
    assert acquires(3) == 2 + 2 * 7


def test_within_a_transaction_it_is_refused(db: Backend) -> None:
    many_documents(db, 3)
    before = content(db)
    with db.transaction() as txn, pytest.raises(UsageError):
        blocks.rotate_key(txn)
    assert content(db) == before


def foreign(db: Backend, number: int) -> list[str]:
    """The ids of documents that are encrypted with a key that nobody knows, and that key."""
    ids = [str(new_document(db, f"foreign-{n}", {"secret": "s3cr3t"}).id) for n in range(number)]
    key = new_key()
    token = Fernet(key).encrypt(b'{"secret": "s3cr3t"}').decode()
    db.execute("UPDATE block_document SET data = ? WHERE name LIKE 'foreign-%'", (Json(token),))
    return [key, *sorted(ids)]


def test_a_document_that_no_key_fits_is_named_and_the_others_are_encrypted_anew(
    db: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    many_documents(db, 20)
    former = stored_keys(db)["fernet_key"]
    key, id = foreign(db, 1)
    with pytest.raises(BadValue, match=f"1 block documents .* none of the keys: {id}:") as raised:
        blocks.rotate_key(db, batch=7)
    value = stored_keys(db)
    assert value["previous_key"] == former
    for secret in (key, former, value["fernet_key"], "s3cr3t"):
        assert secret not in repr(raised.value)
    assert under_key(db, value["fernet_key"]) == 20
    # It goes on with the same key when that of the document is there.
    monkeypatch.setenv(FALLBACKS, key)
    assert blocks.rotate_key(db) == 1
    assert stored_keys(db) == {"fernet_key": value["fernet_key"]}
    monkeypatch.delenv(FALLBACKS)
    document = blocks.get_document_by_name(db, "thing", "foreign-0", include_secrets=True)
    assert document is not None
    assert document.data == {"secret": "s3cr3t"}


def test_of_many_such_documents_the_first_are_named(db: Backend) -> None:
    _, *ids = foreign(db, 12)
    with pytest.raises(BadValue, match=f"^12 block.*: {', '.join(ids[:10])}, [.]{{3}}:"):
        blocks.rotate_key(db)


def test_a_document_that_was_never_encrypted_is_named(db: Backend) -> None:
    document = new_document(db, "a")
    db.execute("UPDATE block_document SET data = ?", ({},))
    with pytest.raises(BadValue, match=str(document.id)):
        blocks.rotate_key(db)


def test_a_key_row_that_holds_no_key_is_left_alone(db: Backend) -> None:
    new_document(db, "a")
    configuration.set(db, "ENCRYPTION_KEY", {"fernet_key": "short"})
    with refused(db, BadValue, "ENCRYPTION_KEY"):
        blocks.rotate_key(db)


def test_an_interrupted_rotation_goes_on_with_its_key(db: Backend) -> None:
    many_documents(db, 5)
    former, new = stored_keys(db)["fernet_key"], new_key()
    configuration.set(db, "ENCRYPTION_KEY", {"fernet_key": new, "previous_key": former})
    new_document(db, "between", {"x": 1})
    assert blocks.rotate_key(db) == 5
    assert stored_keys(db) == {"fernet_key": new}
    assert under_key(db, new) == 6


def test_many_at_once_end_with_one_key(db: Backend) -> None:
    many_documents(db, 50)
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda _: blocks.rotate_key(db, batch=5), range(8)))
    value = stored_keys(db)
    assert list(value) == ["fernet_key"]
    assert under_key(db, value["fernet_key"]) == 50


# --- keys of the environment


def test_from_one_key_of_the_environment_to_another(
    db: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The four steps of the docstring, with a process of each step that can read all."""
    former, new = new_key(), new_key()
    monkeypatch.setenv(KEY, former)
    many_documents(db, 20)

    monkeypatch.setenv(FALLBACKS, new)
    assert len(blocks.find_documents(db)) == 20

    monkeypatch.setenv(KEY, new)
    monkeypatch.setenv(FALLBACKS, former)
    document = new_document(db, "between", {"x": 1})
    # A process that is still at the first step.
    monkeypatch.setenv(KEY, former)
    monkeypatch.setenv(FALLBACKS, new)
    assert read(db, document) == {"x": 1}

    monkeypatch.setenv(KEY, new)
    monkeypatch.setenv(FALLBACKS, former)
    assert blocks.rotate_key(db, batch=7) == 20
    assert blocks.rotate_key(db, batch=7) == 0
    monkeypatch.delenv(FALLBACKS)
    assert len(blocks.find_documents(db)) == 21
    assert under_key(db, new) == 21
    assert configuration.get(db, "ENCRYPTION_KEY") is None


def test_from_the_database_into_the_environment(
    db: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    many_documents(db, 20)
    before = stored_keys(db)
    monkeypatch.setenv(KEY, key := new_key())
    assert len(blocks.find_documents(db)) == 20
    assert blocks.rotate_key(db) == 20
    assert under_key(db, key) == 20
    assert stored_keys(db) == before


def test_from_the_environment_into_the_database(
    db: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KEY, former := new_key())
    many_documents(db, 20)
    monkeypatch.delenv(KEY)
    with pytest.raises(ConfigurationError, match="no key"):
        blocks.find_documents(db)
    monkeypatch.setenv(FALLBACKS, former)
    assert blocks.rotate_key(db) == 20
    monkeypatch.delenv(FALLBACKS)
    assert len(blocks.find_documents(db)) == 20
    assert under_key(db, stored_keys(db)["fernet_key"]) == 20


def test_a_rotation_that_was_interrupted_in_the_database_ends_in_the_environment(
    db: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    many_documents(db, 5)
    former = stored_keys(db)["fernet_key"]
    value = {"fernet_key": new_key(), "previous_key": former}
    configuration.set(db, "ENCRYPTION_KEY", value)
    new_document(db, "between")
    monkeypatch.setenv(KEY, key := new_key())
    assert blocks.rotate_key(db) == 6
    assert under_key(db, key) == 6


def test_without_the_former_key_of_the_environment_all_are_named(
    db: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KEY, new_key())
    new_schema(db)
    document = new_document(db, "a", {"x": 1})
    monkeypatch.setenv(KEY, new_key())
    with refused(db, BadValue, f"1 block documents .*: {document.id}"):
        blocks.rotate_key(db)
