"""Block documents are encrypted, with the key of the environment or the configuration."""

from __future__ import annotations

import sys
import threading
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from cryptography.fernet import Fernet

from prefect_db import (
    Backend,
    BadValue,
    ConfigurationError,
    blocks,
    configuration,
)
from prefect_db.blocks import (
    encryption,
)
from prefect_db.values import Json
from tests.contract.blocks import (
    new_document,
    new_schema,
    read,
    reference,
    refused,
)


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
    monkeypatch.setenv("PREFECT_SERVER_ENCRYPTION_KEY", Fernet.generate_key().decode())
    document = new_document(db, "a", {"x": 1})
    key = Fernet.generate_key().decode()
    monkeypatch.setenv("PREFECT_SERVER_ENCRYPTION_KEY", key)
    with pytest.raises(BadValue, match="key of PREFECT_SERVER_ENCRYPTION_KEY") as raised:
        blocks.get_document(db, document.id)
    assert key not in str(raised.value)
    with refused(db, BadValue, "key of PREFECT_SERVER_ENCRYPTION_KEY"):
        blocks.update_document(db, document.id, data={"x": 2})


def test_former_keys_are_tried_when_the_current_one_does_not_fit(
    db: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = (Fernet.generate_key().decode() for _ in range(2))
    stored = new_document(db, "stored", {"x": 0})
    monkeypatch.setenv("PREFECT_SERVER_ENCRYPTION_KEY", first)
    former = new_document(db, "former", {"x": 1, "child": reference(stored)})
    monkeypatch.setenv("PREFECT_SERVER_ENCRYPTION_KEY", second)
    monkeypatch.setenv("PREFECT_DB_ENCRYPTION_KEY_FALLBACKS", f" {first} ,,")
    assert read(db, former) == {"x": 1, "child": {"x": 0}}
    blocks.update_document(db, stored.id, data={"x": 2})
    # Back in the database: its key is the current one, and those of the environment former ones.
    monkeypatch.setenv("PREFECT_SERVER_ENCRYPTION_KEY", "")
    monkeypatch.setenv("PREFECT_DB_ENCRYPTION_KEY_FALLBACKS", f"{first},{second}")
    assert read(db, former) == {"x": 1, "child": {"x": 2}}
    db.execute("DELETE FROM configuration")
    assert read(db, former) == {"x": 1, "child": {"x": 2}}


def test_a_stored_key_that_is_not_in_use_need_not_be_one(
    db: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    configuration.set(db, "ENCRYPTION_KEY", {"fernet_key": "short"})
    monkeypatch.setenv("PREFECT_SERVER_ENCRYPTION_KEY", Fernet.generate_key().decode())
    assert read(db, new_document(db, "a", {"x": 1})) == {"x": 1}


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


@pytest.mark.parametrize(
    "variable", ["PREFECT_SERVER_ENCRYPTION_KEY", "PREFECT_DB_ENCRYPTION_KEY_FALLBACKS"]
)
@pytest.mark.parametrize("key", ["short", "é" * 44, "A" * 43 + "!", "\udce9" * 44])
def test_a_variable_that_is_no_key_is_an_error_that_does_not_show_it(
    db: Backend, monkeypatch: pytest.MonkeyPatch, key: str, variable: str
) -> None:
    schema = new_schema(db)
    monkeypatch.setenv(variable, key)
    with refused(db, ConfigurationError, variable) as raised:
        blocks.create_document(db, "a", {}, schema.id, schema.block_type_id)
    assert key not in shown(raised.value)


@pytest.mark.parametrize(
    "value",
    [
        {},
        {"fernet_key": 5},
        {"fernet_key": "short"},
        {"fernet_key": "A" * 43 + "=", "previous_key": "short"},
    ],
)
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


@pytest.mark.parametrize("secret", ["s3cr3t", '["s3cr3t"]', '{"s3cr3t', b"\xff s3cr3t"])
def test_what_was_encrypted_and_is_no_json_object_is_an_error_that_does_not_show_it(
    db: Backend, secret: str | bytes
) -> None:
    document = new_document(db, "a")
    key = configuration.get(db, "ENCRYPTION_KEY")
    assert key is not None
    text = secret.encode() if isinstance(secret, str) else secret
    token = Fernet(key["fernet_key"]).encrypt(text).decode()
    db.execute("UPDATE block_document SET data = ?", (Json(token),))
    operations: list[Callable[[], Any]] = [
        lambda: blocks.get_document(db, document.id),
        lambda: blocks.update_document(db, document.id, data={"x": 1}),
    ]
    for operation in operations:
        with refused(db, BadValue, str(document.id)) as raised:
            operation()
        assert "s3cr3t" not in shown(raised.value)
        assert key["fernet_key"] not in shown(raised.value)


def shown(error: BaseException) -> str:
    """What a log of this error has: its traceback, causes included, and its repr."""
    return "".join(traceback.format_exception(error)) + repr(error) + repr(error.__cause__)


@pytest.mark.parametrize("data", ["{}", '"gAAAAAé"', '"x"', "5"])
def test_data_that_is_no_token_is_an_error(db: Backend, data: str) -> None:
    document = new_document(db, "a")
    cast = db.dialect.pick(sqlite="?", postgres="CAST(CAST(? AS text) AS jsonb)")
    db.execute(f"UPDATE block_document SET data = {cast}", (data,))
    with refused(db, BadValue, str(document.id)):
        blocks.get_document(db, document.id)


def test_a_cipher_shows_no_key(db: Backend) -> None:
    with db.transaction() as txn:
        cipher = encryption.writing(txn)
    key = configuration.get(db, "ENCRYPTION_KEY")
    assert key is not None
    assert key["fernet_key"] not in repr(cipher)
