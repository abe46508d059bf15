"""Logs of runs. Rules: Prefect's server, models/logs.py."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from typing import Any
from uuid import UUID

from prefect_db.errors import BadValue
from prefect_db.filters import AnyOf, Operator, Reference, Time, Where, order_of, page
from prefect_db.ids import uuid7
from prefect_db.pace import Pace
from prefect_db.queryable import Queryable
from prefect_db.row import Record
from prefect_db.text_search import Text as Text
from prefect_db.text_search import conditions
from prefect_db.values import Array, to_datetime, to_uuid

_MAX_LEVEL = 2**15 - 1


@dataclass(slots=True)
class Log(Record):
    """One line of a run's log.

    Attributes:
        name: The logger's name.
        level: Python's number of it: 20 is INFO, 40 ERROR.
        timestamp: The client's time.
    """

    id: UUID
    created: datetime
    updated: datetime
    name: str
    level: int
    flow_run_id: UUID | None
    task_run_id: UUID | None
    message: str
    timestamp: datetime


@dataclass(slots=True, kw_only=True)
class Level:
    """At least, at most (both inclusive)."""

    ge_: int | None = None
    le_: int | None = None


@dataclass(slots=True, kw_only=True)
class LogFilter:
    """Which logs; a field that is not given tests nothing.

    Attributes:
        text: Searched is the message, with the logger's name behind it.
    """

    level: Level | None = None
    timestamp: Time | None = None
    flow_run_id: AnyOf | None = None
    task_run_id: Reference | None = None
    text: Text | None = None
    operator: Operator = "and_"


class LogSort(Enum):
    """How `find` orders logs; the id decides between equals."""

    TIMESTAMP_ASC = "timestamp ASC, id ASC"
    TIMESTAMP_DESC = "timestamp DESC, id DESC"


def make(
    name: str,
    level: int,
    message: str,
    timestamp: datetime | str,
    *,
    flow_run_id: UUID | str | None = None,
    task_run_id: UUID | str | None = None,
) -> Log:
    """A log line to `write`: `make(**line)` takes a client's JSON as it is.

    NUL characters are left out of name and message, as in Prefect: PostgreSQL cannot store them,
    and a log line is worth more than they are.

    Raises:
        BadValue: A level over 32767, a time without a zone, or an id that is no UUID.
    """
    for text in (name, message):
        if not isinstance(text, str):
            raise BadValue(f"a {type(text).__name__} where a log line's text belongs")
    _check_level(level)
    now = datetime.now(UTC)
    return Log(
        id=uuid7(),
        created=now,
        updated=now,
        name=name.replace("\0", ""),
        level=level,
        flow_run_id=None if flow_run_id is None else to_uuid(flow_run_id),
        task_run_id=None if task_run_id is None else to_uuid(task_run_id),
        message=message.replace("\0", ""),
        timestamp=to_datetime(timestamp),
    )


def write(db: Queryable, logs: Iterable[Log | Mapping[str, Any]]) -> int:
    """Write log lines, made by `make` or as a client's JSON, all or none; how many there were.

    The runs that they name need not exist.

    Raises:
        BadValue: See `make`.
        UniqueViolation: A line was written before.
    """
    lines = [log if isinstance(log, Log) else _from_json(log) for log in logs]
    for line in lines:
        _check_level(line.level)
    return db.executemany(
        f"INSERT INTO log ({Log.columns}) VALUES ({Log.marks})", [line.params() for line in lines]
    )


def _check_level(level: int) -> None:
    if not isinstance(level, int) or not -_MAX_LEVEL - 1 <= level <= _MAX_LEVEL:
        raise BadValue(f"level={level!r}; it is a whole number of 16 bits")


def _from_json(line: Mapping[str, Any]) -> Log:
    try:
        return make(**line)
    except TypeError as error:
        raise BadValue(f"a log line with the keys {', '.join(map(str, line))}") from error


def find(
    db: Queryable,
    filter: LogFilter | None = None,
    *,
    sort: LogSort = LogSort.TIMESTAMP_ASC,
    limit: int | None = 200,
    offset: int = 0,
) -> list[Log]:
    """The log lines that the filter lets through, a page of them."""
    where = _where(db, filter)
    order = order_of(sort, LogSort)
    return db.rows(
        f"SELECT {Log.columns} FROM log{where.sql} ORDER BY {order} LIMIT ? OFFSET ?",
        (*where.params, *page(limit, offset)),
        into=Log,
        prepare=not where.params,
    )


def count(db: Queryable, filter: LogFilter | None = None) -> int:
    """How many log lines the filter lets through."""
    where = _where(db, filter)
    return int(
        db.value(f"SELECT count(*) FROM log{where.sql}", where.params, prepare=not where.params)
    )


def delete(db: Queryable, flow_run_id: UUID) -> int:
    """Delete the log lines of a flow run and its tasks; how many there were."""
    return db.execute("DELETE FROM log WHERE flow_run_id = ?", (to_uuid(flow_run_id),))


def _where(db: Queryable, filter: LogFilter | None) -> Where:
    filter = filter or LogFilter()
    where = Where(db.dialect, filter.operator)
    bounds = Where(db.dialect)
    if filter.level is not None and filter.level.ge_ is not None:
        bounds.add("level >= ?", filter.level.ge_)
    if filter.level is not None and filter.level.le_ is not None:
        bounds.add("level <= ?", filter.level.le_)
    if filter.level is not None:
        where.group(bounds)
    where.time("timestamp", filter.timestamp)
    where.among("flow_run_id", "uuid", filter.flow_run_id)
    where.reference("task_run_id", "uuid", filter.task_run_id)
    if filter.text is not None:
        # As in Prefect, each kind of term stands for itself in an OR, and an empty search for none.
        for condition in conditions(db.dialect, "message || ' ' || name", filter.text):
            where.group(condition)
    return where


def trim(
    db: Queryable,
    before: datetime,
    *,
    batch: int = 1000,
    progress: Callable[[int], object] | None = None,
    dry_run: bool = False,
) -> int:
    """Delete log lines of before a time, oldest first, whatever their runs; how many this
    call deleted.

    Each batch is a transaction of its own, so that others get their turn.

    Args:
        db: Where; a Backend.
        before: The limit of their timestamps, itself kept.
        batch: How many to delete at a time, at most; fewer if that takes long.
        progress: Called after each batch with the number deleted so far.
        dry_run: Only count them.
    """
    if batch < 1:
        raise BadValue(f"batch={batch}; it is at least 1")
    before = to_datetime(before)
    if dry_run:
        return int(db.value("SELECT count(*) FROM log WHERE timestamp < ?", (before,)))
    listed = db.dialect.pick(
        sqlite="IN (SELECT value FROM json_each(?))", postgres="= ANY(CAST(? AS uuid[]))"
    )
    # As events.trim.
    lock = db.dialect.pick(sqlite="", postgres=" FOR UPDATE SKIP LOCKED")
    deleted = 0
    pace = Pace(batch)
    while True:
        asked = pace.size
        with pace.timed(), db.unit() as txn:
            rows = txn.rows(
                f"SELECT id FROM log WHERE timestamp < ? ORDER BY timestamp LIMIT ?{lock}",
                (before, asked),
            )
            ids = Array([row.uuid(0) for row in rows])
            deleted += txn.execute(f"DELETE FROM log WHERE id {listed}", (ids,))
        if progress is not None:
            progress(deleted)
        if len(rows) < asked:
            return deleted
