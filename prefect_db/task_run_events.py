"""Task runs from a client's events. Rules: Prefect's server, services/task_run_recorder.py.

Events come late, twice and out of order. Each leaves its state; the run's row is that of the
event that occurred last.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

from prefect_db import events
from prefect_db.errors import BadValue
from prefect_db.events import Event
from prefect_db.queryable import Queryable
from prefect_db.states import (
    TASK_RUN_POLICY,
    State,
    StateType,
    complete_details,
    complete_policy,
)
from prefect_db.values import (
    Array,
    Json,
    check_text,
    read_uuid,
    to_datetime,
    to_list,
    to_object,
    to_uuid,
)

_PREFIX: Final = "prefect.task-run."
_FLOW_RUN_PREFIX: Final = "prefect.flow-run."

NaturalKey = tuple[UUID, str, str]


def _duration(value: Any) -> timedelta:
    return value if isinstance(value, timedelta) else timedelta(seconds=value)


def _count(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 2**31:
        raise BadValue("a count that is no whole number of 31 bits")
    return value


def _policy(value: Any) -> dict[str, Any]:
    return complete_policy(value, TASK_RUN_POLICY)


# The columns that a payload can give, how they are read, and what a new row has without them.
_COLUMNS: Final[dict[str, tuple[Any, Any]]] = {
    "name": (check_text, ""),
    "task_key": (check_text, ""),
    "dynamic_key": (check_text, ""),
    "cache_key": (check_text, None),
    "cache_expiration": (to_datetime, None),
    "task_version": (check_text, None),
    "flow_run_run_count": (_count, 0),
    "empirical_policy": (_policy, _policy({})),
    "task_inputs": (to_object, {}),
    "tags": (to_list, []),
    "labels": (to_object, None),
    "run_count": (_count, 0),
    "expected_start_time": (to_datetime, None),
    "next_scheduled_start_time": (to_datetime, None),
    "start_time": (to_datetime, None),
    "end_time": (to_datetime, None),
    "total_run_time": (_duration, timedelta()),
}
_READERS: Final = [(name, read, default is None) for name, (read, default) in _COLUMNS.items()]
_REQUIRED: Final = ("name", "task_key", "dynamic_key")
_STATE_COLUMNS: Final = ("state_id", "state_type", "state_name", "state_timestamp")
_INSERTED: Final = ("id", "created", "updated", "flow_run_id", *_COLUMNS, *_STATE_COLUMNS)


@dataclass(slots=True)
class _Change:
    """What one event says of a task run."""

    task_run_id: UUID
    flow_run_id: UUID | None
    columns: dict[str, Any]
    state: State

    @property
    def natural_key(self) -> NaturalKey | None:
        if self.flow_run_id is None:
            return None
        return self.flow_run_id, self.columns["task_key"], self.columns["dynamic_key"]


def record(db: Queryable, batch: Iterable[Event | Mapping[str, Any]]) -> int:
    """Record the states of task runs that events tell of; how many states were new.

    Events that are not a client's account of a task run are passed over, so a whole stream can
    be given. Order and repetition do not matter, within a batch or between them.

    Args:
        db: Where.
        batch: Events, or a client's JSON.

    Raises:
        ForeignKeyViolation: A flow run that an event names is not there (yet): try again later.
        BadValue: An event's payload is not that of a task run.
    """
    changes = [_change(event) for event in map(events.parse, batch) if _is_account(event)]
    if not changes:
        return 0
    with db.unit() as txn:
        _lock(txn, changes)
        existing = _find(txn, changes)
        canonical = _canonical_ids(changes, existing)
        new = _new_states(txn, changes, canonical)
        _upsert(txn, new, existing, canonical)
        raced = _raced(txn, new, existing)
        _insert_states(txn, new, canonical | raced)
        return len(new)


def _is_account(event: Event) -> bool:
    return (
        event.event.startswith("prefect.task-run")
        and event.resource.get("prefect.orchestration") == "client"
    )


def _change(event: Event) -> _Change:
    try:
        given = event.payload["task_run"]
        proposed = {"id": event.id, "timestamp": event.occurred, **event.payload["validated_state"]}
        task_run_id = to_uuid(given.get("id") or _object_id(event.resource_id, _PREFIX))
        flow_run_id = given.get("flow_run_id") or next(
            (
                _object_id(labels[events.RESOURCE_ID], _FLOW_RUN_PREFIX)
                for labels in event.related
                if labels[events.RESOURCE_ROLE] == "flow-run"
            ),
            None,
        )
        flow_run_id = None if flow_run_id is None else to_uuid(flow_run_id)
        columns = {
            # None only where NULL may be stored.
            name: None if (value := given[name]) is None and nullable else read(value)
            for name, read, nullable in _READERS
            if name in given
        }
        if not all(isinstance(columns.get(name), str) for name in _REQUIRED):
            raise BadValue(f"a task run without {', '.join(_REQUIRED)}")
        kind = StateType(proposed["type"])
        state = State(
            id=to_uuid(proposed["id"]),
            type=kind,
            name=check_text(proposed.get("name") or kind.capitalize()),
            timestamp=to_datetime(proposed["timestamp"]),
            message=None if (text := proposed.get("message")) is None else check_text(text),
            state_details=complete_details(
                {
                    **(proposed.get("state_details") or {}),
                    "flow_run_id": flow_run_id,
                    # Known when it is written: the run may be stored under another id.
                    "task_run_id": None,
                },
                datetime.now(UTC) if kind is StateType.SCHEDULED else None,
            ),
            data=proposed.get("data"),
        )
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise BadValue(f"event {event.id} has no payload of a task run") from error
    return _Change(task_run_id, flow_run_id, columns, state)


def _object_id(resource_id: str, prefix: str) -> UUID:
    if not resource_id.startswith(prefix):
        raise BadValue(f"the resource {resource_id} is no {prefix}<id>")
    return to_uuid(resource_id.removeprefix(prefix))


def _lock(txn: Queryable, changes: list[_Change]) -> None:
    """One recorder at a time for each task run, be it stored or not yet, in one order for all.

    On SQLite the transaction has the write lock.
    """
    if txn.dialect.name == "sqlite":
        return
    names = {repr(change.natural_key or change.task_run_id) for change in changes}
    digests = [hashlib.blake2b(name.encode(), digest_size=8).digest() for name in names]
    keys = sorted(int.from_bytes(digest, signed=True) for digest in digests)
    txn.rows(
        "SELECT pg_advisory_xact_lock(k) FROM unnest(CAST(? AS bigint[])) AS k", (Array(keys),)
    )


@dataclass(slots=True)
class _Existing:
    """The task runs of a batch that are stored, locked until the transaction ends."""

    ids: set[UUID]
    by_key: dict[NaturalKey, UUID]


def _find(txn: Queryable, changes: list[_Change]) -> _Existing:
    lock = txn.dialect.pick(sqlite="", postgres=" ORDER BY t.id FOR UPDATE OF t")
    listed = txn.dialect.pick(
        sqlite="IN (SELECT value FROM json_each(?))", postgres="= ANY(CAST(? AS uuid[]))"
    )
    rows = txn.rows(
        f"SELECT t.id FROM task_run AS t WHERE t.id {listed}{lock}",
        (Array([change.task_run_id for change in changes]),),
    )
    keys = {change.natural_key for change in changes} - {None}
    return _Existing({read_uuid(row[0]) for row in rows}, _by_key(txn, keys, lock))


def _by_key(txn: Queryable, keys: set[NaturalKey | None], lock: str = "") -> dict[NaturalKey, UUID]:
    listed = [key for key in keys if key is not None]
    if not listed:
        return {}
    if txn.dialect.name == "sqlite":
        source = (
            "json_each(?) AS k JOIN task_run AS t ON t.flow_run_id = json_extract(k.value, '$[0]')"
            " AND t.task_key = json_extract(k.value, '$[1]')"
            " AND t.dynamic_key = json_extract(k.value, '$[2]')"
        )
        params: tuple[Any, ...] = (Json([[str(key[0]), key[1], key[2]] for key in listed]),)
    else:
        source = (
            "unnest(CAST(? AS uuid[]), CAST(? AS text[]), CAST(? AS text[]))"
            " AS k (flow_run_id, task_key, dynamic_key)"
            " JOIN task_run AS t USING (flow_run_id, task_key, dynamic_key)"
        )
        params = tuple(Array([key[at] for key in listed]) for at in range(3))
    rows = txn.rows(
        f"SELECT t.id, t.flow_run_id, t.task_key, t.dynamic_key FROM {source}{lock}", params
    )
    return {(read_uuid(row[1]), row[2], row[3]): read_uuid(row[0]) for row in rows}


def _canonical_ids(changes: list[_Change], existing: _Existing) -> dict[UUID, UUID]:
    """The id under which each task run is, or will be, stored: one natural key, one row."""
    canonical: dict[UUID, UUID] = {}
    by_key = dict(existing.by_key)
    for change in sorted(
        changes, key=lambda change: (change.state.timestamp, change.state.id), reverse=True
    ):
        task_run_id, key = change.task_run_id, change.natural_key
        if key is not None and key in by_key:
            canonical.setdefault(task_run_id, by_key[key])
        canonical.setdefault(task_run_id, task_run_id)
        if key is not None:
            by_key.setdefault(key, canonical[task_run_id])
    return canonical


def _new_states(
    txn: Queryable, changes: list[_Change], canonical: dict[UUID, UUID]
) -> list[_Change]:
    """The changes whose states are not stored, once each, by time. A state that would have the
    time of another of its run is moved by microseconds."""
    listed = txn.dialect.pick(
        sqlite="IN (SELECT value FROM json_each(?))", postgres="= ANY(CAST(? AS uuid[]))"
    )
    rows = txn.rows(
        f"SELECT id, task_run_id, timestamp FROM task_run_state WHERE task_run_id {listed}",
        (Array(list(set(canonical.values()))),),
    )
    known = {row.uuid(0) for row in rows}
    taken = {(row.uuid(1), row.datetime(2)) for row in rows}
    new = []
    for change in sorted(changes, key=lambda change: (change.state.timestamp, change.state.id)):
        state, task_run_id = change.state, canonical[change.task_run_id]
        if state.id in known:
            continue
        while (task_run_id, state.timestamp) in taken:
            state.timestamp += timedelta(microseconds=1)
        known.add(state.id)
        taken.add((task_run_id, state.timestamp))
        new.append(change)
    return new


def _upsert(
    txn: Queryable, new: list[_Change], existing: _Existing, canonical: dict[UUID, UUID]
) -> None:
    """Insert or update the rows of the runs, each by its newest event."""
    newest = {canonical[change.task_run_id]: change for change in new}
    now = txn.dialect.bind_one(datetime.now(UTC))
    groups: dict[str, list[tuple[Any, ...]]] = {}
    for task_run_id, change in sorted(newest.items()):
        key = change.natural_key
        by_id = key is None or (key not in existing.by_key and task_run_id in existing.ids)
        sql = _upsert_sql(tuple(change.columns), by_id=by_id)
        groups.setdefault(sql, []).append(_row(task_run_id, change, now))
    for sql, rows in groups.items():
        txn.executemany(sql, rows)


def _upsert_sql(given: tuple[str, ...], *, by_id: bool) -> str:
    """Columns that the event does not give keep what they have."""
    target = "id" if by_id else "flow_run_id, task_key, dynamic_key"
    updated = ("flow_run_id", *given, *_STATE_COLUMNS, "updated")
    return (
        f"INSERT INTO task_run ({', '.join(_INSERTED)})"
        f" VALUES ({', '.join('?' * len(_INSERTED))}) ON CONFLICT ({target}) DO UPDATE SET"
        f" {', '.join(f'{name} = excluded.{name}' for name in updated)}"
        " WHERE task_run.state_timestamp < excluded.state_timestamp"
    )


def _row(task_run_id: UUID, change: _Change, now: Any) -> tuple[Any, ...]:
    columns = [change.columns.get(name, default) for name, (_, default) in _COLUMNS.items()]
    state = change.state
    return (
        task_run_id,
        now,
        now,
        change.flow_run_id,
        *columns,
        state.id,
        state.type,
        state.name,
        state.timestamp,
    )


def _raced(txn: Queryable, new: list[_Change], existing: _Existing) -> dict[UUID, UUID]:
    """Ids that another transaction gave to these natural keys since we looked. On SQLite there
    can be none: the transaction has had the write lock all the time."""
    if txn.dialect.name == "sqlite":
        return {}
    fresh = {change.natural_key for change in new} - set(existing.by_key)
    stored = _by_key(txn, fresh)
    return {
        change.task_run_id: stored[change.natural_key]
        for change in new
        if change.natural_key is not None and change.natural_key in stored
    }


def _insert_states(txn: Queryable, new: list[_Change], canonical: dict[UUID, UUID]) -> None:
    now = txn.dialect.bind_one(datetime.now(UTC))
    txn.executemany(
        "INSERT INTO task_run_state (id, created, updated, task_run_id, type, timestamp, name,"
        " message, state_details, data) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
        " ON CONFLICT (id) DO NOTHING",
        (
            (
                change.state.id,
                now,
                now,
                canonical[change.task_run_id],
                change.state.type,
                change.state.timestamp,
                change.state.name,
                change.state.message,
                change.state.state_details | {"task_run_id": str(canonical[change.task_run_id])},
                # A client's result is kept here, where those of the API are artifacts.
                None if change.state.data is None else Json(change.state.data),
            )
            for change in new
        ),
    )
