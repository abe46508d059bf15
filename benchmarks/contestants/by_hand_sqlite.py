"""The stdlib's sqlite3 by hand: one connection, the same statements, the same records.

What one writes who knows the schema, and does not need what the library is for: no pool, no
errors that say what to do, no checks of what callers give, no filter that is put together. Each
operation is a function of the two methods that run SQL, so that `sqlalchemy_core` does the same.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from functools import cache, partial
from typing import Any, Final
from uuid import UUID

import orjson

from benchmarks.contestants.base import (
    Change,
    NewFlow,
    NewFlowRun,
    NewTaskRun,
    Pages,
    Tabled,
)
from benchmarks.contestants.events_by_hand import involved, natural_key, others
from prefect_db.events import Event
from prefect_db.flow_runs import FlowRun
from prefect_db.flows import Flow
from prefect_db.ids import uuid7
from prefect_db.states import (
    FLOW_RUN_POLICY,
    TASK_RUN_POLICY,
    TERMINAL,
    State,
    StateType,
    complete_details,
)
from prefect_db.task_runs import TaskRun
from prefect_db.values import read_uuid

Execute = Callable[..., Any]
Row = tuple[Any, ...]

_CLOCK: Final = "strftime('%Y-%m-%d %H:%M:%f000', 'now')"
_EPOCH: Final = datetime(1970, 1, 1)
_ZERO: Final = "1970-01-01 00:00:00.000000"
_TYPES: Final = {kind.value: kind for kind in StateType}
_time = datetime.fromisoformat
_load = orjson.loads
_dump = json.JSONEncoder().encode


def _text(moment: datetime) -> str:
    return moment.isoformat(" ", "microseconds")[:-6]


def _now() -> str:
    return _text(datetime.now(UTC))


def _marks(columns: str) -> str:
    return ", ".join("?" * (columns.count(",") + 1))


# Reads.

_FLOW: Final = f"SELECT {Flow.columns} FROM flow WHERE id = ?"
_FLOW_RUN: Final = f"SELECT {FlowRun.columns} FROM flow_run WHERE id = ?"
_FIND: Final = (
    f"SELECT {FlowRun.columns} FROM flow_run"
    " WHERE flow_run.state_type IN (SELECT value FROM json_each(?)) ORDER BY id DESC LIMIT ?"
)
_PAGE: Final = (
    f"SELECT {Event.columns} FROM events WHERE occurred >= ? AND occurred <= ?{{}}"
    " ORDER BY occurred DESC, id DESC LIMIT ?"
)
_FIRST_PAGE: Final = _PAGE.format("")
_NEXT_PAGE: Final = _PAGE.format(" AND (occurred, id) < (?, ?)")
_COUNT: Final = "SELECT state_type, count(*) FROM task_run GROUP BY state_type"
_HISTORY: Final = (
    "SELECT s.id, s.type, s.name, s.timestamp, s.message, s.state_details,"
    " coalesce(s.data, a.data) FROM flow_run_state AS s"
    " LEFT JOIN artifact AS a ON a.id = s.result_artifact_id"
    " WHERE s.flow_run_id = ? ORDER BY s.timestamp, s.id"
)


def read_flow(execute: Execute, flow_id: UUID) -> Flow | None:
    row = execute(_FLOW, (str(flow_id),)).fetchone()
    return None if row is None else _flow(row)


def read_flow_run(execute: Execute, flow_run_id: UUID) -> FlowRun | None:
    row = execute(_FLOW_RUN, (str(flow_run_id),)).fetchone()
    return None if row is None else _flow_run(row)


def find_flow_runs(execute: Execute, limit: int) -> list[FlowRun]:
    rows = execute(_FIND, ('["COMPLETED"]', limit)).fetchall()
    return [_flow_run(row) for row in rows]


def event_page(execute: Execute, page: Pages) -> list[Event]:
    span = (_text(page.since), _text(page.until))
    # One more than are wanted: so one knows whether there is a next page.
    if page.after is None:
        rows = execute(_FIRST_PAGE, (*span, page.size + 1)).fetchall()
    else:
        occurred, event_id = page.after
        place = (_text(occurred), str(event_id))
        rows = execute(_NEXT_PAGE, (*span, *place, page.size + 1)).fetchall()
    return [_event(row) for row in rows[: page.size]]


def count_by_state(execute: Execute, _: None) -> dict[StateType | None, int]:
    rows = execute(_COUNT).fetchall()
    return {None if kind is None else _TYPES[kind]: number for kind, number in rows}


def history(execute: Execute, flow_run_id: UUID) -> list[State]:
    rows = execute(_HISTORY, (str(flow_run_id),)).fetchall()
    return [_state(row) for row in rows]


def _flow(row: Row) -> Flow:
    id, created, updated, name, tags, labels = row
    return Flow(
        read_uuid(id),
        _time(created + "Z"),
        _time(updated + "Z"),
        name,
        _load(tags),
        None if labels is None else _load(labels),
    )


def _flow_run(row: Row) -> FlowRun:
    # fmt: off
    (
        id, created, updated, name, state_type, state_name, state_timestamp, state_id, run_count,
        expected, next_start, start, end, total, flow_id, version, deployment_id,
        deployment_version, parameters, context, policy, tags, labels, key, auto, parent_id,
        document_id, pid, queue_id, queue_name, creator, variables,
    ) = row
    # fmt: on
    return FlowRun(
        read_uuid(id),
        _time(created + "Z"),
        _time(updated + "Z"),
        name,
        None if state_type is None else _TYPES[state_type],
        state_name,
        None if state_timestamp is None else _time(state_timestamp + "Z"),
        None if state_id is None else read_uuid(state_id),
        run_count,
        None if expected is None else _time(expected + "Z"),
        None if next_start is None else _time(next_start + "Z"),
        None if start is None else _time(start + "Z"),
        None if end is None else _time(end + "Z"),
        _time(total) - _EPOCH,
        read_uuid(flow_id),
        version,
        None if deployment_id is None else read_uuid(deployment_id),
        deployment_version,
        _load(parameters),
        _load(context),
        _load(policy),
        _load(tags),
        None if labels is None else _load(labels),
        key,
        auto != 0,
        None if parent_id is None else read_uuid(parent_id),
        None if document_id is None else read_uuid(document_id),
        pid,
        None if queue_id is None else read_uuid(queue_id),
        queue_name,
        None if creator is None else _load(creator),
        None if variables is None else _load(variables),
    )


def _task_run(row: Row) -> TaskRun:
    # fmt: off
    (
        id, created, updated, name, state_type, state_name, state_timestamp, state_id, run_count,
        expected, next_start, start, end, total, flow_run_id, task_key, dynamic_key, cache_key,
        cache_expiration, version, flow_run_run_count, policy, inputs, tags, labels,
    ) = row
    # fmt: on
    return TaskRun(
        read_uuid(id),
        _time(created + "Z"),
        _time(updated + "Z"),
        name,
        None if state_type is None else _TYPES[state_type],
        state_name,
        None if state_timestamp is None else _time(state_timestamp + "Z"),
        None if state_id is None else read_uuid(state_id),
        run_count,
        None if expected is None else _time(expected + "Z"),
        None if next_start is None else _time(next_start + "Z"),
        None if start is None else _time(start + "Z"),
        None if end is None else _time(end + "Z"),
        _time(total) - _EPOCH,
        None if flow_run_id is None else read_uuid(flow_run_id),
        task_key,
        dynamic_key,
        cache_key,
        None if cache_expiration is None else _time(cache_expiration + "Z"),
        version,
        flow_run_run_count,
        _load(policy),
        _load(inputs),
        _load(tags),
        None if labels is None else _load(labels),
    )


def _event(row: Row) -> Event:
    # fmt: off
    (
        id, occurred, event, resource_id, resource, related_ids, related, payload, received,
        recorded, follows,
    ) = row
    # fmt: on
    return Event(
        read_uuid(id),
        _time(occurred + "Z"),
        event,
        resource_id,
        _load(resource),
        _load(related_ids),
        _load(related),
        _load(payload),
        _time(received + "Z"),
        _time(recorded + "Z"),
        None if follows is None else read_uuid(follows),
    )


def _state(row: Row) -> State:
    id, kind, name, timestamp, message, details, data = row
    return State(
        read_uuid(id),
        _TYPES[kind],
        name,
        _time(timestamp + "Z"),
        message,
        _load(details),
        None if data is None else _load(data),
    )


# Writes; the caller has begun a transaction.

_NEW_FLOW: Final = (
    f"INSERT INTO flow ({Flow.columns}) VALUES ({_marks(Flow.columns)})"
    f" ON CONFLICT (name) DO NOTHING RETURNING {Flow.columns}"
)
_FLOW_BY_NAME: Final = f"SELECT {Flow.columns} FROM flow WHERE name = ?"
_FLOW_LABELS: Final = "SELECT labels FROM flow WHERE id = ?"
_FLOW_RUN_LABELS: Final = "SELECT labels FROM flow_run WHERE id = ?"
# Not its state_id: SQLite looks at once whether that state is there.
_FIRST: Final = (
    "state_type, state_name, state_timestamp, run_count, expected_start_time,"
    " next_scheduled_start_time, start_time, end_time, total_run_time, empirical_policy"
)
_NEW_FLOW_RUN: Final = (
    "INSERT INTO flow_run (id, created, updated, name, flow_id, parameters, tags, labels,"
    f" {_FIRST})"
    f" VALUES (?, ?, ?, ?, ?, ?, ?, ?, {_marks(_FIRST)})"
    f" ON CONFLICT (flow_id, idempotency_key) DO NOTHING RETURNING {FlowRun.columns}"
)
_STATE_OF_RUN: Final = "UPDATE flow_run SET state_id = ? WHERE id = ?"
_NEW_TASK_RUN: Final = (
    "INSERT INTO task_run (id, created, updated, name, flow_run_id, task_key, dynamic_key, tags,"
    f" labels, state_id, {_FIRST}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, {_marks(_FIRST)})"
    f" ON CONFLICT (flow_run_id, task_key, dynamic_key) DO NOTHING RETURNING {TaskRun.columns}"
)
_NEW_STATE: Final = (
    "INSERT INTO {0}_state (id, created, updated, {0}_id, type, timestamp, name, message,"
    " state_details) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
    " ON CONFLICT ({0}_id, timestamp) DO NOTHING"
)
_NEW_FLOW_RUN_STATE: Final = _NEW_STATE.format("flow_run")
_NEW_TASK_RUN_STATE: Final = _NEW_STATE.format("task_run")
_DERIVED: Final = (
    "state_id, state_type, state_name, state_timestamp, run_count, expected_start_time,"
    " next_scheduled_start_time, start_time, end_time, total_run_time, empirical_policy"
)
_BEFORE: Final = f"SELECT {_DERIVED}, parent_task_run_id FROM flow_run WHERE id = ?"
_COLUMNS: Final = _DERIVED.split(", ")
_NEW_RUN: Final[Row] = (None, None, None, None, 0, None, None, None, None, _ZERO)
_FLOW_RUN_POLICY: Final = _dump(FLOW_RUN_POLICY)
_TASK_RUN_POLICY: Final = _dump(TASK_RUN_POLICY)


def create_flow(execute: Execute, new: NewFlow) -> Flow:
    now = _now()
    params = (str(new.id), now, now, new.name, _dump(new.tags), _dump(new.labels))
    row = execute(_NEW_FLOW, params).fetchone()
    return _flow(row or execute(_FLOW_BY_NAME, (new.name,)).fetchone())


def create_flow_run(execute: Execute, new: NewFlowRun) -> FlowRun:
    now, run_id, flow_id, state = _now(), str(new.id), str(new.flow_id), new.state
    (inherited,) = execute(_FLOW_LABELS, (flow_id,)).fetchone()
    labels = {**(_load(inherited) if inherited else {}), "prefect.flow.id": flow_id}
    columns = _entered((*_NEW_RUN, _FLOW_RUN_POLICY), state, _text(state.timestamp))
    row = execute(
        _NEW_FLOW_RUN,
        (
            run_id,
            now,
            now,
            new.name,
            flow_id,
            _dump(new.parameters),
            _dump(new.tags),
            _dump(labels),
            *columns[1:],
        ),
    ).fetchone()
    details = {**state.state_details, "flow_run_id": run_id}
    _insert_state(execute, _NEW_FLOW_RUN_STATE, run_id, state, details, now)
    execute(_STATE_OF_RUN, (columns[0], run_id))
    run = _flow_run(row)
    run.state_id = state.id
    return run


def create_task_run(execute: Execute, new: NewTaskRun) -> TaskRun:
    now, run_id, flow_run_id, state = _now(), str(new.id), str(new.flow_run_id), new.state
    (inherited,) = execute(_FLOW_RUN_LABELS, (flow_run_id,)).fetchone()
    labels = {**(_load(inherited) if inherited else {}), "prefect.flow-run.id": flow_run_id}
    row = execute(
        _NEW_TASK_RUN,
        (
            run_id,
            now,
            now,
            new.name,
            flow_run_id,
            new.task_key,
            new.dynamic_key,
            _dump(new.tags),
            _dump(labels),
            *_entered((*_NEW_RUN, _TASK_RUN_POLICY), state, _text(state.timestamp)),
        ),
    ).fetchone()
    details = {**state.state_details, "flow_run_id": flow_run_id, "task_run_id": run_id}
    _insert_state(execute, _NEW_TASK_RUN_STATE, run_id, state, details, now)
    return _task_run(row)


def set_state(execute: Execute, change: Change) -> State:
    run_id, state = str(change.flow_run_id), change.state
    *before, parent = execute(_BEFORE, (run_id,)).fetchone()
    assert parent is None
    details = {**state.state_details, "flow_run_id": run_id}
    timestamp = _insert_state(execute, _NEW_FLOW_RUN_STATE, run_id, state, details, _now())
    # Only what changes: each column that is assigned costs the entries of its indexes.
    changed = {
        name: value
        for name, old, value in zip(
            _COLUMNS, before, _entered(before, state, timestamp), strict=True
        )
        if value is not old
    }
    execute(_update(tuple(changed)), (*changed.values(), run_id))
    moment = state.timestamp if timestamp == _text(state.timestamp) else _time(timestamp + "Z")
    return State(state.id, state.type, state.name, moment, state.message, details, state.data)


@cache
def _update(names: tuple[str, ...]) -> str:
    assignments = ", ".join(f"{name} = ?" for name in names)
    return f"UPDATE flow_run SET {assignments}, updated = {_CLOCK} WHERE id = ?"


def _insert_state(
    execute: Execute, sql: str, run_id: str, state: State, details: dict[str, Any], now: str
) -> str:
    """The time that the state is stored with: it moves until the run has none of that time."""
    assert state.data is None
    moment, text = state.timestamp, _dump(details)
    while True:
        timestamp = _text(moment)
        params = (
            str(state.id),
            now,
            now,
            run_id,
            state.type.value,
            timestamp,
            state.name,
            state.message,
            text,
        )
        if execute(sql, params).rowcount:
            return timestamp
        moment += timedelta(microseconds=1)


def _entered(before: Sequence[Any], state: State, timestamp: str) -> Row:
    """The columns that follow from a state, from those before, all as stored."""
    # fmt: off
    (
        state_id, kind, _, entered, run_count, expected, next_start, start, end, total, policy,
    ) = before
    # fmt: on
    kind = None if state_id is None else kind
    runs, ends = state.type is StateType.RUNNING, state.type in TERMINAL
    if runs and start is None:
        start = timestamp
    if kind in TERMINAL and not ends:
        end = None
    if ends and end is None:
        end = timestamp
        start = start or timestamp
    if kind == "RUNNING" and entered is not None:
        total = (_time(total) + (_time(timestamp) - _time(entered))).isoformat(" ", "microseconds")
    due = None
    if state.type is StateType.SCHEDULED:
        due = _text(_time(state.state_details["scheduled_time"]).astimezone(UTC))
    if kind == "SCHEDULED" or due is not None:
        next_start = due
    if '"resuming": true' in policy:
        if runs or ends:
            policy = policy.replace('"resuming": true', '"resuming": false')
    elif runs:
        run_count += 1
    return (
        str(state.id),
        state.type.value,
        state.name,
        timestamp,
        run_count,
        expected or due or timestamp,
        next_start,
        start,
        end,
        total,
        policy,
    )


# Batches.

_STORED: Final = "SELECT id FROM events WHERE id IN (SELECT value FROM json_each(?))"
_NEW_EVENT: Final = (
    f"INSERT INTO events ({Event.columns}, created, updated)"
    f" VALUES ({_marks(Event.columns)}, ?, ?) ON CONFLICT (id) DO NOTHING"
)
_NEW_RESOURCE: Final = (
    "INSERT INTO event_resources (id, created, updated, occurred, resource_id, resource_role,"
    " resource, event_id) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
)


def write_events(execute: Execute, executemany: Execute, batch: list[Event]) -> int:
    new = {str(event.id): event for event in batch}
    for (stored,) in execute(_STORED, (_dump(list(new)),)).fetchall():
        del new[stored]
    now = _now()
    events, resources = [], []
    for event_id, event in sorted(new.items()):
        occurred = _text(event.occurred)
        events.append(
            (
                event_id,
                occurred,
                event.event,
                event.resource_id,
                _dump(event.resource),
                _dump(event.related_resource_ids),
                _dump(event.related),
                _dump(event.payload),
                _text(event.received),
                now,
                None if event.follows is None else str(event.follows),
                now,
                now,
            )
        )
        for role, labels in involved(event):
            resources.append(
                (
                    str(uuid7()),
                    now,
                    now,
                    occurred,
                    labels["prefect.resource.id"],
                    role,
                    _dump(others(labels)),
                    event_id,
                )
            )
    executemany(_NEW_EVENT, events)
    executemany(_NEW_RESOURCE, resources)
    return len(events)


_TASK_RUNS: Final = "SELECT id FROM task_run WHERE id IN (SELECT value FROM json_each(?))"
_TASK_RUNS_BY_KEY: Final = (
    "SELECT t.id, t.flow_run_id, t.task_key, t.dynamic_key FROM json_each(?) AS k"
    " JOIN task_run AS t ON t.flow_run_id = json_extract(k.value, '$[0]')"
    " AND t.task_key = json_extract(k.value, '$[1]')"
    " AND t.dynamic_key = json_extract(k.value, '$[2]')"
)
_TASK_RUN_STATES: Final = (
    "SELECT id, task_run_id, timestamp FROM task_run_state"
    " WHERE task_run_id IN (SELECT value FROM json_each(?))"
)
_RECORDED: Final = (
    "name, task_key, dynamic_key, empirical_policy, task_inputs, tags, labels, run_count,"
    " flow_run_run_count, expected_start_time, start_time, end_time, total_run_time, state_id,"
    " state_type, state_name, state_timestamp"
)
_UPSERT: Final = (
    f"INSERT INTO task_run (id, created, updated, flow_run_id, {_RECORDED})"
    f" VALUES (?, ?, ?, ?, {_marks(_RECORDED)})"
    " ON CONFLICT (flow_run_id, task_key, dynamic_key) DO UPDATE SET"
    f" {', '.join(f'{name} = excluded.{name}' for name in _RECORDED.split(', '))},"
    " updated = excluded.updated WHERE task_run.state_timestamp < excluded.state_timestamp"
)
_RECORDED_STATE: Final = (
    "INSERT INTO task_run_state (id, created, updated, task_run_id, type, timestamp, name,"
    " message, state_details, data) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
    " ON CONFLICT (id) DO NOTHING"
)


def record_task_runs(execute: Execute, executemany: Execute, batch: list[Event]) -> int:
    """Of events that are complete, as those of a client are: each has every column."""
    listed = _dump(list({event.resource_id.removeprefix("prefect.task-run.") for event in batch}))
    keys = _dump([natural_key(event) for event in batch])
    execute(_TASK_RUNS, (listed,)).fetchall()
    canonical = {
        (flow_run_id, task_key, dynamic_key): id
        for id, flow_run_id, task_key, dynamic_key in execute(_TASK_RUNS_BY_KEY, (keys,)).fetchall()
    }
    stored = execute(_TASK_RUN_STATES, (listed,)).fetchall()
    known = {id for id, _, _ in stored}
    taken = {(task_run_id, timestamp) for _, task_run_id, timestamp in stored}
    now = _now()
    newest: dict[str, Row] = {}
    states = []
    for event in sorted(batch, key=lambda event: (event.occurred, event.id)):
        state_id = str(event.id)
        if state_id in known:
            continue
        known.add(state_id)
        key = natural_key(event)
        task_run_id = canonical.setdefault(key, event.resource_id.removeprefix("prefect.task-run."))
        run, proposed = event.payload["task_run"], event.payload["validated_state"]
        moment = event.occurred
        while (task_run_id, timestamp := _text(moment)) in taken:
            moment += timedelta(microseconds=1)
        taken.add((task_run_id, timestamp))
        newest[task_run_id] = (
            task_run_id,
            now,
            now,
            key[0],
            run["name"],
            run["task_key"],
            run["dynamic_key"],
            _dump({**TASK_RUN_POLICY, **run["empirical_policy"]}),
            _dump(run["task_inputs"]),
            _dump(run["tags"]),
            _dump(run["labels"]),
            run["run_count"],
            run["flow_run_run_count"],
            _given_time(run.get("expected_start_time")),
            _given_time(run.get("start_time")),
            _given_time(run.get("end_time")),
            (_EPOCH + timedelta(seconds=run["total_run_time"])).isoformat(" ", "microseconds"),
            state_id,
            proposed["type"],
            proposed["name"],
            timestamp,
        )
        details = {
            **proposed["state_details"],
            "flow_run_id": key[0],
            "task_run_id": task_run_id,
        }
        states.append(
            (
                state_id,
                now,
                now,
                task_run_id,
                proposed["type"],
                timestamp,
                proposed["name"],
                proposed["message"],
                _dump({**_NO_DETAILS, **details}),
                None if proposed["data"] is None else _dump(proposed["data"]),
            )
        )
    executemany(_UPSERT, sorted(newest.values()))
    executemany(_RECORDED_STATE, states)
    return len(states)


_NO_DETAILS: Final = complete_details({})


def _given_time(text: str | None) -> str | None:
    return None if text is None else _text(_time(text).astimezone(UTC))


SINGLE: Final[dict[str, Callable[..., Any]]] = {
    "create_flow": create_flow,
    "read_flow": read_flow,
    "read_flow_run": read_flow_run,
    "find_flow_runs": find_flow_runs,
    "event_page": event_page,
    "count_by_state": count_by_state,
    "history": history,
}
IN_TRANSACTION: Final[dict[str, Callable[..., Any]]] = {
    "create_flow_run": create_flow_run,
    "set_state": set_state,
    "create_task_run": create_task_run,
}
BATCHES: Final[dict[str, Callable[..., Any]]] = {
    "record_task_runs": record_task_runs,
    "write_events": write_events,
}
BEGIN: Final = "BEGIN IMMEDIATE"
PRAGMAS: Final = (
    "PRAGMA journal_mode = WAL",
    "PRAGMA foreign_keys = ON",
    "PRAGMA synchronous = NORMAL",
)


class ByHandSQLite(Tabled):
    """The functions above over a connection, with as little as possible between them."""

    name = "by hand"

    def __init__(self, url: str) -> None:
        self.connection = sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)
        for pragma in PRAGMAS:
            self.connection.execute(pragma).close()
        execute = self.connection.execute
        self.operations = (
            {name: partial(work, execute) for name, work in SINGLE.items()}
            | {
                name: partial(self._transaction, partial(work, execute))
                for name, work in IN_TRANSACTION.items()
            }
            | {
                name: partial(
                    self._transaction, partial(work, execute, self.connection.executemany)
                )
                for name, work in BATCHES.items()
            }
        )

    def close(self) -> None:
        self.connection.close()

    def _transaction(self, work: Callable[[Any], Any], given: Any) -> Any:
        execute = self.connection.execute
        execute(BEGIN)
        try:
            result = work(given)
        except BaseException:
            execute("ROLLBACK")
            raise
        execute("COMMIT")
        return result
