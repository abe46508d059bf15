"""The server's own settings: rows of `configuration`, a JSON object by key."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from prefect_db.errors import BadValue, SerializationFailure
from prefect_db.ids import uuid7
from prefect_db.queryable import Queryable


def get(db: Queryable, key: str) -> dict[str, Any] | None:
    """The value of this key, or None."""
    row = db.row("SELECT value FROM configuration WHERE key = ?", (key,))
    return row.json("value") if row else None


def set(db: Queryable, key: str, value: Mapping[str, Any]) -> None:
    """Store a value under this key, in place of any other.

    Raises:
        BadValue: The value is no JSON object, or a text has a NUL or a lone surrogate.
    """
    now = datetime.now(UTC)
    db.execute(
        "INSERT INTO configuration (id, created, updated, key, value) VALUES (?, ?, ?, ?, ?)"
        f" ON CONFLICT (key) DO UPDATE SET value = excluded.value, updated = {db.dialect.clock}",
        (uuid7(), now, now, key, _object(value)),
    )


def setdefault(db: Queryable, key: str, value: Mapping[str, Any]) -> dict[str, Any]:
    """The value of this key, which becomes `value` if there is none: for all callers the same.

    Raises:
        BadValue: As `set`.
    """
    now = datetime.now(UTC)
    stored = get(db, key)
    if stored is None:
        db.execute(
            "INSERT INTO configuration (id, created, updated, key, value) VALUES (?, ?, ?, ?, ?)"
            " ON CONFLICT (key) DO NOTHING",
            (uuid7(), now, now, key, _object(value)),
        )
        stored = get(db, key)
    if stored is None:
        raise SerializationFailure(f"the configuration {key!r} was deleted meanwhile")
    return stored


def _object(value: Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise BadValue(f"a {type(value).__name__} where a JSON object belongs")
    return dict(value)
