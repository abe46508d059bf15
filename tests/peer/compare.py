"""What two databases of a kind store, in a form in which only true differences are left."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

import psycopg

Row = dict[str, str]

# What orders the rows of a table the same way on both sides. Artifacts by when they were made.
ORDER: Final = {
    "flow": "id",
    "flow_run": "id",
    "flow_run_state": "flow_run_id, timestamp",
    "task_run": "id",
    "task_run_state": "task_run_id, timestamp",
    "artifact": "created",
    "events": "id",
    "event_resources": "event_id, resource_role, resource_id, CAST(resource AS TEXT)",
    "log": "timestamp, message, name, level, flow_run_id, task_run_id",
    "configuration": "key",
}
# Of the clock of whoever wrote the row.
CLOCKS: Final = ("created", "updated", "recorded")
# A run time that is the sum of its states' times, of which some run backwards.
BACKWARDS: Final = "<as the states say, backwards>"
_UUID: Final = re.compile("[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_TIME: Final = re.compile(r"(20\d\d-\d\d-\d\d)([ T])(\d\d:\d\d:\d\d)(\.\d+)?(Z|\+00(?::00)?)?")
_SQLITE_TIME: Final = re.compile(r"text '\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{6}'")


def stored(url: str) -> dict[str, list[Row]]:
    """The rows of all compared tables: on SQLite each value with its type and raw text, on
    PostgreSQL as the server writes it."""
    if url.startswith("sqlite:///"):
        with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as native:
            native.row_factory = sqlite3.Row
            return {
                table: [_raw(row) for row in native.execute(_sqlite_sql(native, table, order))]
                for table, order in ORDER.items()
            }
    with psycopg.connect(url) as connection:
        connection.execute("SET timezone = 'UTC'")
        return {
            table: _as_text(connection, table, order + ", ctid") for table, order in ORDER.items()
        }


def _sqlite_sql(native: sqlite3.Connection, table: str, order: str) -> str:
    names = [row[1] for row in native.execute(f"PRAGMA table_info({table})")]
    typed = ", ".join(f'typeof("{name}") AS "typeof {name}", "{name}"' for name in names)
    return f"SELECT {typed} FROM {table} ORDER BY {order}, rowid"


def _raw(row: sqlite3.Row) -> Row:
    names = [name for name in row.keys() if not name.startswith("typeof ")]  # noqa: SIM118
    return {name: f"{row[f'typeof {name}']} {row[name]!r}" for name in names}


def _as_text(connection: psycopg.Connection[Any], table: str, order: str) -> list[Row]:
    names = [
        row[0]
        for row in connection.execute(
            "SELECT attname FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0"
            " AND NOT attisdropped",
            (table,),
        )
    ]
    listed = ", ".join(f'CAST("{name}" AS text)' for name in names)
    rows = connection.execute(f"SELECT {listed} FROM {table} ORDER BY {order}".encode())
    return [dict(zip(names, map(repr, row), strict=True)) for row in rows]


@dataclass
class Canon:
    """Makes the rows of one database comparable with those of another.

    Ids that no caller gave become numbers by first appearance, and times that the writer's clock
    gave become numbers by their order, so that what was equal stays equal.

    Attributes:
        given: The ids that were given.
        since: When writing began.
    """

    given: set[UUID]
    since: datetime
    _seen: dict[tuple[str, str], str] = field(default_factory=dict)

    def rows(self, tables: dict[str, list[Row]]) -> dict[str, list[Row]]:
        """The rows, canonical; what the writer's clock alone decides is checked, and left out."""
        until = datetime.now(UTC) + timedelta(seconds=1)
        since = self.since - timedelta(seconds=1)
        canonical = {
            table: [self._row(table, row, since, until) for row in rows]
            for table, rows in tables.items()
        }
        _replay(tables, canonical, since, until)
        ids: dict[str, str] = {}
        given = {str(each) for each in self.given}

        def number(match: re.Match[str]) -> str:
            text = match[0]
            return text if text in given else ids.setdefault(text, f"<id {len(ids)}>")

        clocks = sorted({moment for moment in _times(canonical) if since <= moment <= until})
        ranks = {moment: rank for rank, moment in enumerate(clocks)}

        def clock(match: re.Match[str]) -> str:
            moment = _moment(match)
            if moment not in ranks:
                return match[0]
            # The form stays: a six-digit fraction is one of the promises.
            return f"<clock {ranks[moment]}{match[2]}{match[5] or ''}>"

        return {
            table: [
                {name: _TIME.sub(clock, _UUID.sub(number, value)) for name, value in row.items()}
                for row in rows
            ]
            for table, rows in canonical.items()
        }

    def _row(self, table: str, row: Row, since: datetime, until: datetime) -> Row:
        canonical = dict(row)
        for name in CLOCKS:
            if name not in row:
                continue
            value = row[name]
            match = _TIME.search(value)
            assert match is not None, f"{table}.{name} holds {value}"
            assert since <= _moment(match) <= until, f"{table}.{name} holds {value}"
            if value.startswith("text "):
                assert _SQLITE_TIME.fullmatch(value), f"{table}.{name} holds {value}"
            key = (f"{table}.{name}", row["id"])
            before = self._seen.get(key)
            self._seen[key] = value
            changed = before is not None and before != value
            canonical[name] = "<changed since>" if changed else "<unchanged>"
        if table in ("event_resources", "log", "configuration"):
            # Nobody names these by it.
            del canonical["id"]
        return canonical


def _replay(
    tables: dict[str, list[Row]],
    canonical: dict[str, list[Row]],
    since: datetime,
    until: datetime,
) -> None:
    """A run time that has the clock's times, or times that run backwards, is compared with what
    the run's own states make."""
    for table in ("flow_run", "task_run"):
        states: dict[str, list[Row]] = {}
        for state in sorted(tables[f"{table}_state"], key=lambda row: row["created"]):
            states.setdefault(state[f"{table}_id"], []).append(state)
        for row in canonical[table]:
            entered = states.get(row["id"], [])
            times = [_only(state["timestamp"]) for state in entered]
            spans = [
                ended - begun
                for state, begun, ended in zip(entered, times, times[1:], strict=False)
                if "RUNNING" in state["type"]
            ]
            backwards = any(span < timedelta() for span in spans)
            clock = any(since <= moment <= until for moment in times)
            total = sum(spans, timedelta())
            if (backwards or clock) and _duration(row["total_run_time"]) == total:
                row["total_run_time"] = BACKWARDS if backwards else "<as the states say>"


def _only(value: str) -> datetime:
    match = _TIME.search(value)
    assert match is not None, value
    return _moment(match)


def _duration(value: str) -> timedelta:
    """The duration of SQLite's text, or of PostgreSQL's."""
    epoch = re.fullmatch(r"text '(\d{4}-.*)'", value)
    if epoch:
        return datetime.fromisoformat(epoch[1]) - datetime(1970, 1, 1)
    days, sign, hours, minutes, seconds = re.fullmatch(
        r"'(?:(-?\d+) days?)? ?([+-])?(?:(\d+):(\d\d):([\d.]+))?'", value
    ).groups("0")  # type: ignore[union-attr]
    time = timedelta(hours=int(hours), minutes=int(minutes), seconds=float(seconds))
    return timedelta(days=int(days)) + (-time if sign == "-" else time)


def _times(tables: dict[str, list[Row]]) -> Iterable[datetime]:
    for rows in tables.values():
        for row in rows:
            for value in row.values():
                yield from map(_moment, _TIME.finditer(value))


def _moment(match: re.Match[str]) -> datetime:
    return datetime.fromisoformat(f"{match[1]} {match[3]}{(match[4] or '.0').ljust(7, '0')}+00:00")


@dataclass
class Difference:
    """One value that differs.

    Attributes:
        key: What tells which row it is.
        theirs: In Prefect's database; None if the row is not there.
        ours: In ours; None if the row is not there.
        row: Their row, or ours.
    """

    table: str
    key: str
    column: str
    theirs: str | None
    ours: str | None
    row: Row

    def __str__(self) -> str:
        theirs, ours = self.theirs or "nothing", self.ours or "nothing"
        # Long values are the same for the most part.
        pairs = enumerate(zip(theirs, ours, strict=False))
        same = next((at for at, (a, b) in pairs if a != b), 0)
        begin = max(0, same - 50)
        return (
            f"{self.table} {self.key} {self.column}:"
            f"\n    Prefect {theirs[begin : same + 90]}\n    ours    {ours[begin : same + 90]}"
        )


def differences(theirs: dict[str, list[Row]], ours: dict[str, list[Row]]) -> Iterable[Difference]:
    """Each value in which the rows of the two differ."""
    for table, order in ORDER.items():
        keys = [name for name in re.findall(r"[a-z_]+", order) if name in ("id", "key")] or [
            name for name in order.split(", ") if "(" not in name
        ]
        # Rows that are on one side alone do not shift the others.
        left, right = _keyed(theirs[table], keys), _keyed(ours[table], keys)
        for key in {**left, **right}:
            their, our = left.get(key), right.get(key)
            if their is None or our is None:
                row = their or our or {}
                yield Difference(table, key, "row", _text(their), _text(our), row)
                continue
            for column in {**their, **our}:
                if their.get(column) != our.get(column):
                    yield Difference(table, key, column, their.get(column), our.get(column), their)


def _text(row: Row | None) -> str | None:
    return None if row is None else str(row)


def _keyed(rows: list[Row], names: list[str]) -> dict[str, Row]:
    keyed: dict[str, Row] = {}
    for row in rows:
        key = base = ", ".join(row[name] for name in names if name in row)
        number = 1
        while key in keyed:
            number += 1
            key = f"{base} no. {number}"
        keyed[key] = row
    return keyed
