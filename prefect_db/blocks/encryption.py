"""The cipher of block documents: Fernet, with the keys where Prefect's server has them.

The current key, which encrypts, is that of the environment or, if there is none, that of a row of
`configuration`. Documents are decrypted with it or, while it replaces another one, with that: one
of a variable of our own, or one that `rotate_key` keeps in the row.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any, Final
from uuid import UUID

from prefect_db import configuration
from prefect_db.errors import BadValue, ConfigurationError
from prefect_db.queryable import Queryable
from prefect_db.values import load_json

ROW: Final = "ENCRYPTION_KEY"
CURRENT: Final = "fernet_key"
PREVIOUS: Final = "previous_key"
# Beside the documents in one statement: those of one moment, whatever a rotation does meanwhile.
STORED_KEYS: Final = f"(SELECT value FROM configuration WHERE key = '{ROW}')"

_VARIABLE: Final = "PREFECT_SERVER_ENCRYPTION_KEY"
_OLDER_VARIABLE: Final = "ORION_ENCRYPTION_KEY"
_FALLBACKS: Final = "PREFECT_DB_ENCRYPTION_KEY_FALLBACKS"
_ROW_NAMED: Final = f"the row {ROW} of the table configuration"


class Cipher:
    """Encrypts the data of documents, and decrypts it. Neither it nor its errors show a key."""

    __slots__ = ("_all", "_current", "_source")

    def __init__(self, current: Any, fallbacks: list[Any], source: str) -> None:
        from cryptography.fernet import MultiFernet

        self._current = current
        self._all = MultiFernet([current, *fallbacks])
        self._source = source

    def encrypt(self, data: Mapping[str, Any]) -> str:
        """The token of a document's data, which is JSON."""
        token: bytes = self._current.encrypt(json.dumps(data).encode())
        return token.decode()

    def decrypt(self, token: Any, document_id: UUID) -> str:
        """The JSON text of a document's data.

        Raises:
            BadValue: It was encrypted with another key, or is no token at all.
        """
        from cryptography.fernet import InvalidToken

        try:
            return self._all.decrypt(token).decode()
        except (InvalidToken, TypeError, ValueError):
            # A UnicodeDecodeError would carry the secret.
            raise BadValue(
                f"the data of block document {document_id} is not encrypted with the key of"
                f" {self._source}"
            ) from None

    def renew(self, token: Any) -> str | None:
        """The token of the same data with the current key; None if it is one already.

        Raises:
            BadValue: It was encrypted with another key, or is no token at all.
        """
        from cryptography.fernet import InvalidToken

        try:
            self._current.decrypt(token)
            return None
        except (InvalidToken, TypeError, ValueError):
            pass
        try:
            return self._all.rotate(token).decode()
        except (InvalidToken, TypeError, ValueError):
            raise BadValue("data that is encrypted with another key") from None


def parse(text: str, document_id: UUID) -> dict[str, Any]:
    """The data of a document, fresh at each call.

    Raises:
        BadValue: It is no JSON object.
    """
    try:
        data = load_json(text)
    except BadValue:
        # Its cause would carry the secret.
        data = None
    if not isinstance(data, dict):
        raise BadValue(f"the data of block document {document_id} is no JSON object")
    return data


def hold_keys(txn: Queryable) -> Any:
    """The value of the key row, or None: no rotation replaces it until this transaction ends.

    Who writes a document calls it first, before any lock on documents: so no document is saved
    with a key that has been replaced, and a rotation is not waited for in a circle.
    """
    lock = txn.dialect.pick(sqlite="", postgres=" FOR SHARE")
    row = txn.row(f"SELECT value FROM configuration WHERE key = ?{lock}", (ROW,))
    return row.json("value") if row else None


def reading(stored: Any) -> Cipher:
    """The cipher that decrypts.

    Args:
        stored: The value of the key row, or None.

    Raises:
        ConfigurationError: The package cryptography is missing, there is no key, or one of the
            environment is none.
        BadValue: The stored key is none.
    """
    variable = _variable()
    fallbacks = _fallbacks()
    if variable is not None:
        return Cipher(_of_variable(variable), [*fallbacks, *_of_row_if_any(stored)], variable)
    if stored is not None:
        current, *previous = _of_row(stored)
        return Cipher(current, [*previous, *fallbacks], _ROW_NAMED)
    if fallbacks:
        return Cipher(fallbacks[0], fallbacks[1:], _FALLBACKS)
    raise ConfigurationError(
        f"no key for the block documents: {_VARIABLE} is not set, and {_ROW_NAMED} is missing"
    )


def writing(txn: Queryable) -> Cipher:
    """The cipher that encrypts, until the transaction ends. If there is no key, one is stored.

    Raises:
        ConfigurationError: The package cryptography is missing, or a key of the environment is
            none.
        BadValue: The stored key is none.
    """
    stored = hold_keys(txn)
    if stored is None and _variable() is None:
        configuration.setdefault(txn, ROW, {CURRENT: new_key()})
        stored = hold_keys(txn)
    return reading(stored)


def is_of_environment() -> bool:
    """Whether the current key is that of the environment."""
    return _variable() is not None


def new_key() -> str:
    """A random key."""
    key: bytes = _fernet().generate_key()
    return key.decode()


def _variable() -> str | None:
    """The variable that holds the current key, if one does."""
    # An empty newer variable hides the older one, as it does in Prefect.
    variable = _VARIABLE if _VARIABLE in os.environ else _OLDER_VARIABLE
    return variable if os.environ.get(variable) else None


def _of_variable(variable: str) -> Any:
    return _one_of_variable(os.environ[variable], variable)


def _fallbacks() -> list[Any]:
    keys = [key.strip() for key in os.environ.get(_FALLBACKS, "").split(",")]
    return [_one_of_variable(key, _FALLBACKS) for key in keys if key]


def _one_of_variable(key: str, variable: str) -> Any:
    try:
        return _fernet()(key.encode())
    except ValueError:
        # Its cause may carry the key.
        raise ConfigurationError(
            f"{variable} is no Fernet key; it takes 32 bytes in URL-safe base64, 44 characters"
        ) from None


def _of_row(value: Any) -> list[Any]:
    """The current key and, during a rotation, the previous one."""
    try:
        keys = [value[CURRENT], *([value[PREVIOUS]] if PREVIOUS in value else [])]
        return [_fernet()(key.encode()) for key in keys]
    except (KeyError, AttributeError, TypeError, ValueError):
        raise BadValue(f"{_ROW_NAMED} holds no Fernet key") from None


def _of_row_if_any(value: Any) -> list[Any]:
    """The same where the row is not in use: what is in it need not be right."""
    try:
        return _of_row(value)
    except BadValue:
        return []


def _fernet() -> Any:
    try:
        from cryptography.fernet import Fernet
    except ImportError as error:
        raise ConfigurationError(
            "block documents are encrypted, and the package cryptography is missing; run"
            " pip install 'prefect-db[blocks]'"
        ) from error
    return Fernet
