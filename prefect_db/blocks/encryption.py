"""The cipher of block documents: Fernet, with the key where Prefect's server has it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any, Final
from uuid import UUID

from prefect_db import configuration
from prefect_db.errors import BadValue, ConfigurationError
from prefect_db.queryable import Queryable

_VARIABLE: Final = "PREFECT_SERVER_ENCRYPTION_KEY"
_OLDER_VARIABLE: Final = "ORION_ENCRYPTION_KEY"
_ROW: Final = "ENCRYPTION_KEY"
_ROW_NAMED: Final = f"the row {_ROW} of the table configuration"


class Cipher:
    """Encrypts the data of documents, and decrypts it. Neither it nor its errors show a key."""

    __slots__ = ("_fernet", "_source")

    def __init__(self, fernet: Any, source: str) -> None:
        self._fernet = fernet
        self._source = source

    def encrypt(self, data: Mapping[str, Any]) -> str:
        """The token of a document's data, which is JSON."""
        token: bytes = self._fernet.encrypt(json.dumps(data).encode())
        return token.decode()

    def decrypt(self, token: Any, document_id: UUID) -> str:
        """The JSON text of a document's data.

        Raises:
            BadValue: It was encrypted with another key, or is no token at all.
        """
        from cryptography.fernet import InvalidToken

        try:
            text: bytes = self._fernet.decrypt(token)
        except (InvalidToken, TypeError) as error:
            raise BadValue(
                f"the data of block document {document_id} is not encrypted with the key of"
                f" {self._source}"
            ) from error
        return text.decode()


def reading(db: Queryable) -> Cipher:
    """The cipher that decrypts.

    Raises:
        ConfigurationError: The package cryptography is missing, there is no key, or the one of
            the environment is none.
        BadValue: The stored key is none.
    """
    cipher = _of_environment()
    if cipher is not None:
        return cipher
    stored = configuration.get(db, _ROW)
    if stored is None:
        raise ConfigurationError(
            f"no key for the block documents: {_VARIABLE} is not set, and {_ROW_NAMED} is missing"
        )
    return _of_row(stored)


def writing(db: Queryable) -> Cipher:
    """The cipher that encrypts. If there is no key, one is made and stored.

    Raises:
        ConfigurationError: The package cryptography is missing, or the key of the environment is
            none.
        BadValue: The stored key is none.
    """
    cipher = _of_environment()
    if cipher is not None:
        return cipher
    new = _fernet().generate_key().decode()
    return _of_row(configuration.setdefault(db, _ROW, {"fernet_key": new}))


def _of_environment() -> Cipher | None:
    # An empty newer variable hides the older one, as it does in Prefect.
    variable = _VARIABLE if _VARIABLE in os.environ else _OLDER_VARIABLE
    key = os.environ.get(variable)
    if not key:
        return None
    try:
        return Cipher(_fernet()(key.encode()), variable)
    except ValueError as error:
        raise ConfigurationError(
            f"{variable} is no Fernet key; it takes 32 bytes in URL-safe base64, 44 characters"
        ) from error


def _of_row(value: Mapping[str, Any]) -> Cipher:
    try:
        return Cipher(_fernet()(value["fernet_key"].encode()), _ROW_NAMED)
    except (KeyError, AttributeError, TypeError, ValueError) as error:
        raise BadValue(f"{_ROW_NAMED} holds no Fernet key") from error


def _fernet() -> Any:
    try:
        from cryptography.fernet import Fernet
    except ImportError as error:
        raise ConfigurationError(
            "block documents are encrypted, and the package cryptography is missing; run"
            " pip install 'prefect-db[blocks]'"
        ) from error
    return Fernet
