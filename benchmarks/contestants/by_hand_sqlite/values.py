"""Values, as SQLite holds them."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Final

import orjson

from prefect_db.states import StateType

CLOCK: Final = "strftime('%Y-%m-%d %H:%M:%f000', 'now')"
EPOCH: Final = datetime(1970, 1, 1)
ZERO: Final = "1970-01-01 00:00:00.000000"
TYPES: Final = {kind.value: kind for kind in StateType}
read_time = datetime.fromisoformat
read_json = orjson.loads
json_text = json.JSONEncoder().encode


def time_text(moment: datetime) -> str:
    return moment.isoformat(" ", "microseconds")[:-6]


def now_text() -> str:
    return time_text(datetime.now(UTC))


def marks(columns: str) -> str:
    return ", ".join("?" * (columns.count(",") + 1))
