"""Values, as psycopg takes and gives them."""

from __future__ import annotations

import json
from typing import Any, Final

import orjson

from prefect_db.states import StateType

TYPES: Final = {kind.value: kind for kind in StateType}
read_json = orjson.loads


# For a column of json, which is text: the library's is the stdlib's form, as on SQLite.
json_text_as_stored = json.JSONEncoder().encode


def json_text(value: Any) -> str:
    """For a column of jsonb, whose form is the server's."""
    return orjson.dumps(value).decode()


def marks(columns: str) -> str:
    return ", ".join(["%s"] * (columns.count(",") + 1))
