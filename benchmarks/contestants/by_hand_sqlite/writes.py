"""Writes of one thing; the caller has begun a transaction where there are several statements."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, timedelta
from functools import cache
from typing import Any, Final

from benchmarks.contestants.base import Change, Execute, NewFlow, NewFlowRun, NewTaskRun
from benchmarks.contestants.by_hand_sqlite.rows import Row, flow_of, flow_run_of, task_run_of
from benchmarks.contestants.by_hand_sqlite.values import (
    CLOCK,
    ZERO,
    json_text,
    marks,
    now_text,
    read_json,
    read_time,
    time_text,
)
from prefect_db.flow_runs import FlowRun
from prefect_db.flows import Flow
from prefect_db.states import FLOW_RUN_POLICY, TASK_RUN_POLICY, TERMINAL, State, StateType
from prefect_db.task_runs import TaskRun

_NEW_FLOW: Final = (
    f"INSERT INTO flow ({Flow.columns}) VALUES ({marks(Flow.columns)})"
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
    f" VALUES (?, ?, ?, ?, ?, ?, ?, ?, {marks(_FIRST)})"
    f" ON CONFLICT (flow_id, idempotency_key) DO NOTHING RETURNING {FlowRun.columns}"
)
_STATE_OF_RUN: Final = "UPDATE flow_run SET state_id = ? WHERE id = ?"
_NEW_TASK_RUN: Final = (
    "INSERT INTO task_run (id, created, updated, name, flow_run_id, task_key, dynamic_key, tags,"
    f" labels, state_id, {_FIRST}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, {marks(_FIRST)})"
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
_NEW_RUN: Final[Row] = (None, None, None, None, 0, None, None, None, None, ZERO)
_FLOW_RUN_POLICY: Final = json_text(FLOW_RUN_POLICY)
_TASK_RUN_POLICY: Final = json_text(TASK_RUN_POLICY)


def create_flow(execute: Execute, new: NewFlow) -> Flow:
    now = now_text()
    params = (str(new.id), now, now, new.name, json_text(new.tags), json_text(new.labels))
    row = execute(_NEW_FLOW, params).fetchone()
    return flow_of(row or execute(_FLOW_BY_NAME, (new.name,)).fetchone())


def create_flow_run(execute: Execute, new: NewFlowRun) -> FlowRun:
    now, run_id, flow_id, state = now_text(), str(new.id), str(new.flow_id), new.state
    (inherited,) = execute(_FLOW_LABELS, (flow_id,)).fetchone()
    labels = {**(read_json(inherited) if inherited else {}), "prefect.flow.id": flow_id}
    columns = _entered((*_NEW_RUN, _FLOW_RUN_POLICY), state, time_text(state.timestamp))
    row = execute(
        _NEW_FLOW_RUN,
        (
            run_id,
            now,
            now,
            new.name,
            flow_id,
            json_text(new.parameters),
            json_text(new.tags),
            json_text(labels),
            *columns[1:],
        ),
    ).fetchone()
    details = {**state.state_details, "flow_run_id": run_id}
    _insert_state(execute, _NEW_FLOW_RUN_STATE, run_id, state, details, now)
    execute(_STATE_OF_RUN, (columns[0], run_id))
    run = flow_run_of(row)
    run.state_id = state.id
    return run


def create_task_run(execute: Execute, new: NewTaskRun) -> TaskRun:
    now, run_id, flow_run_id, state = now_text(), str(new.id), str(new.flow_run_id), new.state
    (inherited,) = execute(_FLOW_RUN_LABELS, (flow_run_id,)).fetchone()
    labels = {**(read_json(inherited) if inherited else {}), "prefect.flow-run.id": flow_run_id}
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
            json_text(new.tags),
            json_text(labels),
            *_entered((*_NEW_RUN, _TASK_RUN_POLICY), state, time_text(state.timestamp)),
        ),
    ).fetchone()
    details = {**state.state_details, "flow_run_id": flow_run_id, "task_run_id": run_id}
    _insert_state(execute, _NEW_TASK_RUN_STATE, run_id, state, details, now)
    return task_run_of(row)


def set_state(execute: Execute, change: Change) -> State:
    run_id, state = str(change.flow_run_id), change.state
    *before, parent = execute(_BEFORE, (run_id,)).fetchone()
    assert parent is None
    details = {**state.state_details, "flow_run_id": run_id}
    timestamp = _insert_state(execute, _NEW_FLOW_RUN_STATE, run_id, state, details, now_text())
    # Only what changes: each column that is assigned costs the entries of its indexes.
    changed = {
        name: value
        for name, old, value in zip(
            _COLUMNS, before, _entered(before, state, timestamp), strict=True
        )
        if value is not old
    }
    execute(_update(tuple(changed)), (*changed.values(), run_id))
    moment = (
        state.timestamp if timestamp == time_text(state.timestamp) else read_time(timestamp + "Z")
    )
    return State(state.id, state.type, state.name, moment, state.message, details, state.data)


@cache
def _update(names: tuple[str, ...]) -> str:
    assignments = ", ".join(f"{name} = ?" for name in names)
    return f"UPDATE flow_run SET {assignments}, updated = {CLOCK} WHERE id = ?"


def _insert_state(
    execute: Execute, sql: str, run_id: str, state: State, details: dict[str, Any], now: str
) -> str:
    """The time that the state is stored with: it moves until the run has none of that time."""
    assert state.data is None
    moment, text = state.timestamp, json_text(details)
    while True:
        timestamp = time_text(moment)
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
        total = (read_time(total) + (read_time(timestamp) - read_time(entered))).isoformat(
            " ", "microseconds"
        )
    due = None
    if state.type is StateType.SCHEDULED:
        due = time_text(read_time(state.state_details["scheduled_time"]).astimezone(UTC))
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
