"""psycopg by hand: one connection in autocommit, the same statements, the same records.

As `by_hand_sqlite`, with what PostgreSQL has: a change of state and a new run are one statement
each, so one round trip; what follows from the state before is computed there.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Final
from uuid import UUID

import orjson
import psycopg
from psycopg.types.string import TextLoader

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

Execute = Callable[..., Any]
Row = tuple[Any, ...]

_TYPES: Final = {kind.value: kind for kind in StateType}
_load = orjson.loads
_ZERO: Final = timedelta()


# For a column of json, which is text: the library's is the stdlib's form, as on SQLite.
_dump_text = json.JSONEncoder().encode


def _dump(value: Any) -> str:
    """For a column of jsonb, whose form is the server's."""
    return orjson.dumps(value).decode()


def _marks(columns: str) -> str:
    return ", ".join(["%s"] * (columns.count(",") + 1))


# Reads.

_FLOW: Final = f"SELECT {Flow.columns} FROM flow WHERE id = %s"
_FLOW_RUN: Final = f"SELECT {FlowRun.columns} FROM flow_run WHERE id = %s"
_FIND: Final = (
    f"SELECT {FlowRun.columns} FROM flow_run"
    " WHERE flow_run.state_type = ANY(CAST(%s AS state_type[])) ORDER BY id DESC LIMIT %s"
)
_PAGE: Final = (
    f"SELECT {Event.columns} FROM events WHERE occurred >= %s AND occurred <= %s{{}}"
    " ORDER BY occurred DESC, id DESC LIMIT %s"
)
_FIRST_PAGE: Final = _PAGE.format("")
_NEXT_PAGE: Final = _PAGE.format(" AND (occurred, id) < (%s, %s)")
_COUNT: Final = "SELECT state_type, count(*) FROM task_run GROUP BY state_type"
_HISTORY: Final = (
    "SELECT s.id, s.type, s.name, s.timestamp, s.message, s.state_details,"
    " coalesce(CAST(s.data AS text), CAST(a.data AS text)) FROM flow_run_state AS s"
    " LEFT JOIN artifact AS a ON a.id = s.result_artifact_id"
    " WHERE s.flow_run_id = %s ORDER BY s.timestamp, s.id"
)


def read_flow(execute: Execute, flow_id: UUID) -> Flow | None:
    row = execute(_FLOW, (flow_id,)).fetchone()
    return None if row is None else _flow(row)


def read_flow_run(execute: Execute, flow_run_id: UUID) -> FlowRun | None:
    row = execute(_FLOW_RUN, (flow_run_id,)).fetchone()
    return None if row is None else _flow_run(row)


def find_flow_runs(execute: Execute, limit: int) -> list[FlowRun]:
    return [_flow_run(row) for row in execute(_FIND, (["COMPLETED"], limit)).fetchall()]


def event_page(execute: Execute, page: Pages) -> list[Event]:
    # One more than are wanted: so one knows whether there is a next page.
    if page.after is None:
        rows = execute(_FIRST_PAGE, (page.since, page.until, page.size + 1)).fetchall()
    else:
        params = (page.since, page.until, *page.after, page.size + 1)
        rows = execute(_NEXT_PAGE, params).fetchall()
    return [_event(row) for row in rows[: page.size]]


def count_by_state(execute: Execute, _: None) -> dict[StateType | None, int]:
    rows = execute(_COUNT).fetchall()
    return {None if kind is None else _TYPES[kind]: number for kind, number in rows}


def history(execute: Execute, flow_run_id: UUID) -> list[State]:
    return [_state(row) for row in execute(_HISTORY, (flow_run_id,)).fetchall()]


def _flow(row: Row) -> Flow:
    id, created, updated, name, tags, labels = row
    return Flow(id, created, updated, name, _load(tags), None if labels is None else _load(labels))


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
        id,
        created,
        updated,
        name,
        None if state_type is None else _TYPES[state_type],
        state_name,
        state_timestamp,
        state_id,
        run_count,
        expected,
        next_start,
        start,
        end,
        total,
        flow_id,
        version,
        deployment_id,
        deployment_version,
        _load(parameters),
        _load(context),
        _load(policy),
        _load(tags),
        None if labels is None else _load(labels),
        key,
        auto,
        parent_id,
        document_id,
        pid,
        queue_id,
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
        id,
        created,
        updated,
        name,
        None if state_type is None else _TYPES[state_type],
        state_name,
        state_timestamp,
        state_id,
        run_count,
        expected,
        next_start,
        start,
        end,
        total,
        flow_run_id,
        task_key,
        dynamic_key,
        cache_key,
        cache_expiration,
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
        id,
        occurred,
        event,
        resource_id,
        _load(resource),
        _load(related_ids),
        _load(related),
        _load(payload),
        received,
        recorded,
        follows,
    )


def _state(row: Row) -> State:
    id, kind, name, timestamp, message, details, data = row
    return State(
        id,
        _TYPES[kind],
        name,
        timestamp,
        message,
        _load(details),
        None if data is None else _load(data),
    )


# Writes: a statement each.

_NEW_FLOW: Final = (
    f"INSERT INTO flow ({Flow.columns}) VALUES ({_marks(Flow.columns)})"
    f" ON CONFLICT (name) DO NOTHING RETURNING {Flow.columns}"
)
_FLOW_BY_NAME: Final = f"SELECT {Flow.columns} FROM flow WHERE name = %s"
_NEW_STATE: Final = (
    "INSERT INTO {0}_state (id, created, updated, {0}_id, type, timestamp, name, message,"
    " state_details) SELECT %(state_id)s, %(now)s, %(now)s, id, %(type)s, %(timestamp)s,"
    " %(state_name)s, %(message)s, %(details)s FROM {1}"
    " ON CONFLICT ({0}_id, timestamp) DO NOTHING"
)
_FIRST_STATE: Final = (
    "state_id, state_type, state_name, state_timestamp, run_count, expected_start_time,"
    " next_scheduled_start_time, start_time, end_time, total_run_time"
)
_FIRST_VALUES: Final = (
    "%(state_id)s, CAST(%(type)s AS state_type), %(state_name)s, %(timestamp)s, %(runs)s,"
    " %(expected)s, CAST(%(due)s AS timestamptz), CAST(%(start)s AS timestamptz),"
    " CAST(%(end)s AS timestamptz), interval '0'"
)
_CREATE_FLOW_RUN: Final = (
    "WITH run AS (INSERT INTO flow_run (id, created, updated, name, flow_id, parameters,"
    f" empirical_policy, tags, labels, {_FIRST_STATE}) SELECT %(id)s, %(now)s, %(now)s,"
    " %(name)s, %(flow_id)s, %(parameters)s, %(policy)s, %(tags)s,"
    " coalesce((SELECT labels FROM flow WHERE id = %(flow_id)s), '{}') || %(labels)s,"
    f" {_FIRST_VALUES} ON CONFLICT (flow_id, idempotency_key) DO NOTHING"
    f" RETURNING {FlowRun.columns}),"
    f" state AS ({_NEW_STATE.format('flow_run', 'run')})"
    f" SELECT {FlowRun.columns} FROM run"
)
_CREATE_TASK_RUN: Final = (
    "WITH run AS (INSERT INTO task_run (id, created, updated, name, flow_run_id, task_key,"
    f" dynamic_key, empirical_policy, tags, labels, {_FIRST_STATE}) SELECT %(id)s, %(now)s,"
    " %(now)s, %(name)s, %(flow_run_id)s, %(task_key)s, %(dynamic_key)s, %(policy)s, %(tags)s,"
    " coalesce((SELECT labels FROM flow_run WHERE id = %(flow_run_id)s), '{}') || %(labels)s,"
    f" {_FIRST_VALUES} ON CONFLICT (flow_run_id, task_key, dynamic_key) DO NOTHING"
    f" RETURNING {TaskRun.columns}),"
    f" state AS ({_NEW_STATE.format('task_run', 'run')})"
    f" SELECT {TaskRun.columns} FROM run"
)
_ENDED: Final = ", ".join(f"'{kind}'" for kind in sorted(TERMINAL))
_DUE: Final = "CAST(%(due)s AS timestamptz)"
_END: Final = "CAST(%(end)s AS timestamptz)"
_SET_STATE: Final = f"""
WITH before AS (
    SELECT id, CASE WHEN state_id IS NOT NULL THEN state_type END AS type, state_timestamp,
        expected_start_time, next_scheduled_start_time, start_time, end_time, total_run_time,
        coalesce(empirical_policy -> 'resuming' = 'true', false) AS resuming, parent_task_run_id
    FROM flow_run WHERE id = %(id)s FOR UPDATE
), state AS ({_NEW_STATE.format("flow_run", "before")} RETURNING id)
UPDATE flow_run AS run SET
    state_id = %(state_id)s, state_type = %(type)s, state_name = %(state_name)s,
    state_timestamp = %(timestamp)s, updated = CURRENT_TIMESTAMP,
    run_count = run.run_count + CASE WHEN before.resuming THEN 0 ELSE %(runs)s END,
    expected_start_time = coalesce(before.expected_start_time, %(expected)s),
    next_scheduled_start_time = CASE WHEN before.type = 'SCHEDULED' OR {_DUE} IS NOT NULL
        THEN {_DUE} ELSE before.next_scheduled_start_time END,
    start_time = CASE
        WHEN %(runs)s = 1 OR ({_END} IS NOT NULL AND before.end_time IS NULL)
        THEN coalesce(before.start_time, %(timestamp)s) ELSE before.start_time END,
    end_time = CASE
        WHEN {_END} IS NOT NULL
        THEN coalesce(before.end_time, {_END})
        WHEN before.type IN ({_ENDED}) THEN NULL ELSE before.end_time END,
    total_run_time = before.total_run_time + CASE
        WHEN before.type = 'RUNNING' AND before.state_timestamp IS NOT NULL
        THEN %(timestamp)s - before.state_timestamp ELSE interval '0' END,
    empirical_policy = CASE
        WHEN before.resuming AND (%(runs)s = 1 OR {_END} IS NOT NULL)
        THEN run.empirical_policy || '{{"resuming": false}}' ELSE run.empirical_policy END
FROM before, state WHERE run.id = before.id RETURNING before.parent_task_run_id
"""
_FLOW_RUN_POLICY: Final = _dump(FLOW_RUN_POLICY)
_TASK_RUN_POLICY: Final = _dump(TASK_RUN_POLICY)


def create_flow(execute: Execute, new: NewFlow) -> Flow:
    now = datetime.now(UTC)
    params = (new.id, now, now, new.name, _dump(new.tags), _dump(new.labels))
    row = execute(_NEW_FLOW, params).fetchone()
    return _flow(row or execute(_FLOW_BY_NAME, (new.name,)).fetchone())


def create_flow_run(execute: Execute, new: NewFlowRun) -> FlowRun:
    details = {**new.state.state_details, "flow_run_id": str(new.id)}
    params = {
        "id": new.id,
        "now": datetime.now(UTC),
        "name": new.name,
        "flow_id": new.flow_id,
        "parameters": _dump(new.parameters),
        "policy": _FLOW_RUN_POLICY,
        "tags": _dump(new.tags),
        "labels": _dump({"prefect.flow.id": str(new.flow_id)}),
        **_of_state(new.state, details),
    }
    return _flow_run(execute(_CREATE_FLOW_RUN, params).fetchone())


def create_task_run(execute: Execute, new: NewTaskRun) -> TaskRun:
    details = {
        **new.state.state_details,
        "flow_run_id": str(new.flow_run_id),
        "task_run_id": str(new.id),
    }
    params = {
        "id": new.id,
        "now": datetime.now(UTC),
        "name": new.name,
        "flow_run_id": new.flow_run_id,
        "task_key": new.task_key,
        "dynamic_key": new.dynamic_key,
        "policy": _TASK_RUN_POLICY,
        "tags": _dump(new.tags),
        "labels": _dump({"prefect.flow-run.id": str(new.flow_run_id)}),
        **_of_state(new.state, details),
    }
    return _task_run(execute(_CREATE_TASK_RUN, params).fetchone())


def set_state(execute: Execute, change: Change) -> State:
    state = change.state
    details = {**state.state_details, "flow_run_id": str(change.flow_run_id)}
    params = {
        "id": change.flow_run_id,
        "now": datetime.now(UTC),
        **_of_state(state, details),
    }
    moment = state.timestamp
    # No row: the run has a state of that time.
    while (row := execute(_SET_STATE, params).fetchone()) is None:
        moment += timedelta(microseconds=1)
        params["timestamp"] = moment
    assert row[0] is None
    return State(state.id, state.type, state.name, moment, state.message, details, state.data)


def _of_state(state: State, details: dict[str, Any]) -> dict[str, Any]:
    assert state.data is None
    runs, ends = state.type is StateType.RUNNING, state.type in TERMINAL
    moment, due = state.timestamp, None
    if state.type is StateType.SCHEDULED:
        due = datetime.fromisoformat(state.state_details["scheduled_time"])
    return {
        "state_id": state.id,
        "type": state.type.value,
        "state_name": state.name,
        "timestamp": moment,
        "message": state.message,
        "details": _dump(details),
        "runs": int(runs),
        "expected": due or moment,
        "due": due,
        "start": moment if runs or ends else None,
        "end": moment if ends else None,
    }


# Batches; the caller has begun a transaction.

_STORED: Final = "SELECT id FROM events WHERE id = ANY(CAST(%s AS uuid[]))"
_NEW_EVENT: Final = (
    f"INSERT INTO events ({Event.columns}, created, updated)"
    f" VALUES ({_marks(Event.columns)}, %s, %s) ON CONFLICT (id) DO NOTHING"
)
_NEW_RESOURCE: Final = (
    "INSERT INTO event_resources (id, created, updated, occurred, resource_id, resource_role,"
    " resource, event_id) VALUES (%s, %s, %s, %s, %s, %s, %s, %s)"
)


def write_events(execute: Execute, executemany: Execute, batch: list[Event]) -> int:
    new = {event.id: event for event in batch}
    for (stored,) in execute(_STORED, (list(new),)).fetchall():
        del new[stored]
    now = datetime.now(UTC)
    events, resources = [], []
    for event_id, event in sorted(new.items()):
        events.append(
            (
                event_id,
                event.occurred,
                event.event,
                event.resource_id,
                _dump(event.resource),
                _dump(event.related_resource_ids),
                _dump(event.related),
                _dump(event.payload),
                event.received,
                now,
                event.follows,
                now,
                now,
            )
        )
        for role, labels in involved(event):
            resources.append(
                (
                    uuid7(),
                    now,
                    now,
                    event.occurred,
                    labels["prefect.resource.id"],
                    role,
                    _dump_text(others(labels)),
                    event_id,
                )
            )
    executemany(_NEW_EVENT, events)
    executemany(_NEW_RESOURCE, resources)
    return len(events)


_LOCK: Final = "SELECT pg_advisory_xact_lock(k) FROM unnest(CAST(%s AS bigint[])) AS k"
_TASK_RUNS: Final = (
    "SELECT t.id FROM task_run AS t WHERE t.id = ANY(CAST(%s AS uuid[]))"
    " ORDER BY t.id FOR UPDATE OF t"
)
_TASK_RUNS_BY_KEY: Final = (
    "SELECT t.id, t.flow_run_id, t.task_key, t.dynamic_key"
    " FROM unnest(CAST(%s AS uuid[]), CAST(%s AS text[]), CAST(%s AS text[]))"
    " AS k (flow_run_id, task_key, dynamic_key)"
    " JOIN task_run AS t USING (flow_run_id, task_key, dynamic_key)"
    " ORDER BY t.id FOR UPDATE OF t"
)
_TASK_RUN_STATES: Final = (
    "SELECT id, task_run_id, timestamp FROM task_run_state"
    " WHERE task_run_id = ANY(CAST(%s AS uuid[]))"
)
_RECORDED: Final = (
    "name, task_key, dynamic_key, empirical_policy, task_inputs, tags, labels, run_count,"
    " flow_run_run_count, expected_start_time, start_time, end_time, total_run_time, state_id,"
    " state_type, state_name, state_timestamp"
)
_UPSERT: Final = (
    f"INSERT INTO task_run (id, created, updated, flow_run_id, {_RECORDED})"
    f" VALUES (%s, %s, %s, %s, {_marks(_RECORDED)})"
    " ON CONFLICT (flow_run_id, task_key, dynamic_key) DO UPDATE SET"
    f" {', '.join(f'{name} = excluded.{name}' for name in _RECORDED.split(', '))},"
    " updated = excluded.updated WHERE task_run.state_timestamp < excluded.state_timestamp"
)
_RECORDED_STATE: Final = (
    "INSERT INTO task_run_state (id, created, updated, task_run_id, type, timestamp, name,"
    " message, state_details, data) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s)"
    " ON CONFLICT (id) DO NOTHING"
)
_NO_DETAILS: Final = complete_details({})


def record_task_runs(execute: Execute, executemany: Execute, batch: list[Event]) -> int:
    """Of events that are complete, as those of a client are: each has every column."""
    ids = list({UUID(event.resource_id.removeprefix("prefect.task-run.")) for event in batch})
    keys = list({natural_key(event) for event in batch})
    execute(_LOCK, (sorted({hash(key) for key in keys}),)).fetchall()
    execute(_TASK_RUNS, (ids,)).fetchall()
    canonical = {
        (str(flow_run_id), task_key, dynamic_key): id
        for id, flow_run_id, task_key, dynamic_key in execute(
            _TASK_RUNS_BY_KEY, tuple([key[at] for key in keys] for at in range(3))
        ).fetchall()
    }
    stored = execute(_TASK_RUN_STATES, (ids,)).fetchall()
    known = {id for id, _, _ in stored}
    taken = {(task_run_id, timestamp) for _, task_run_id, timestamp in stored}
    now = datetime.now(UTC)
    newest: dict[UUID, Row] = {}
    states = []
    for event in sorted(batch, key=lambda event: (event.occurred, event.id)):
        if event.id in known:
            continue
        known.add(event.id)
        key = natural_key(event)
        task_run_id = canonical.get(key)
        if task_run_id is None:
            task_run_id = UUID(event.resource_id.removeprefix("prefect.task-run."))
            canonical[key] = task_run_id
        run, proposed = event.payload["task_run"], event.payload["validated_state"]
        timestamp = event.occurred
        while (task_run_id, timestamp) in taken:
            timestamp += timedelta(microseconds=1)
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
            run.get("expected_start_time"),
            run.get("start_time"),
            run.get("end_time"),
            timedelta(seconds=run["total_run_time"]),
            event.id,
            proposed["type"],
            proposed["name"],
            timestamp,
        )
        details = {
            **_NO_DETAILS,
            **proposed["state_details"],
            "flow_run_id": key[0],
            "task_run_id": str(task_run_id),
        }
        states.append(
            (
                event.id,
                now,
                now,
                task_run_id,
                proposed["type"],
                timestamp,
                proposed["name"],
                proposed["message"],
                _dump(details),
                None if proposed["data"] is None else _dump(proposed["data"]),
            )
        )
    executemany(_UPSERT, [newest[id] for id in sorted(newest)])
    execute(_TASK_RUNS_BY_KEY, tuple([key[at] for key in keys] for at in range(3))).fetchall()
    executemany(_RECORDED_STATE, states)
    return len(states)


SINGLE: Final[dict[str, Callable[..., Any]]] = {
    "create_flow": create_flow,
    "read_flow": read_flow,
    "create_flow_run": create_flow_run,
    "read_flow_run": read_flow_run,
    "set_state": set_state,
    "find_flow_runs": find_flow_runs,
    "create_task_run": create_task_run,
    "event_page": event_page,
    "count_by_state": count_by_state,
    "history": history,
}
IN_TRANSACTION: Final[dict[str, Callable[..., Any]]] = {}
BATCHES: Final[dict[str, Callable[..., Any]]] = {
    "record_task_runs": record_task_runs,
    "write_events": write_events,
}
BEGIN: Final = "BEGIN"


def leave_json_as_text(connection: Any) -> None:
    """JSON is then read by orjson: psycopg's own way takes twice as long."""
    for name in ("json", "jsonb"):
        connection.adapters.register_loader(name, TextLoader)


class ByHandPostgres(Tabled):
    """The functions above over a connection, with as little as possible between them."""

    name = "by hand"

    def __init__(self, url: str) -> None:
        self.connection = psycopg.connect(url, autocommit=True, options="-c TimeZone=UTC")
        leave_json_as_text(self.connection)
        execute = self.connection.execute
        self.operations = {name: partial(work, execute) for name, work in SINGLE.items()} | {
            name: partial(self._transaction, partial(work, execute, self._executemany))
            for name, work in BATCHES.items()
        }

    def close(self) -> None:
        self.connection.close()

    def _executemany(self, sql: str, rows: list[Row]) -> None:
        self.connection.cursor().executemany(sql, rows)

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
