"""Secrets in a document's data, masked and put back.

A schema names them by their paths: `password`, `auth.token`, or with a star, `auth.*`, for all
that is below. Lists are not entered: a secret is a whole list, or not in one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

from prefect_db.errors import BadValue

MASK: Final = "********"
_ABSENT: Final = object()


def mask(data: dict[str, Any], secret_fields: Iterable[str]) -> dict[str, Any]:
    """The data with its secrets masked.

    A secret that is an object has all its values masked, where Prefect shows it. As in Prefect,
    null shows, except below a star.
    """
    for secret_field in secret_fields:
        if data:
            data = _mask(data, secret_field.split("."))
    return data


def unmask(
    data: dict[str, Any], stored: dict[str, Any], secret_fields: Iterable[str]
) -> dict[str, Any]:
    """The data with the stored secrets where a client sent the masks back that it had read.

    Raises:
        BadValue: There is no stored value for a mask below a star: a key was renamed.
    """
    for secret_field in secret_fields:
        data = _unmask(data, stored, secret_field.split("."))
    return data


def _mask(value: Any, path: Sequence[str]) -> Any:
    if path and path[0] != "*":
        if isinstance(value, dict) and path[0] in value:
            return {**value, path[0]: _mask(value[path[0]], path[1:])}
        return value
    if isinstance(value, dict) and value:
        return {key: _mask(item, path) for key, item in value.items()}
    return value if value is None and not path else MASK


def _unmask(value: Any, stored: Any, path: Sequence[str]) -> Any:
    if path and path[0] != "*":
        if isinstance(value, dict) and path[0] in value:
            below = _unmask(value[path[0]], _item(stored, path[0]), path[1:])
            return {**value, path[0]: below}
        return value
    if isinstance(value, dict):
        return {key: _unmask(item, _item(stored, key), path) for key, item in value.items()}
    if value != MASK:
        return value
    if not path:
        return value if stored is None or stored is _ABSENT else stored
    if stored is _ABSENT:
        raise BadValue("eight asterisks in the place of a secret that is not stored")
    return stored


def _item(value: Any, key: str) -> Any:
    return value.get(key, _ABSENT) if isinstance(value, dict) else _ABSENT
