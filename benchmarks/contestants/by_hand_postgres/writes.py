"""Writes of one thing: a statement each."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, Final

from benchmarks.contestants.base import Change, Execute, NewFlow, NewFlowRun, NewTaskRun
from benchmarks.contestants.by_hand_postgres.rows import flow_of, flow_run_of, task_run_of
from benchmarks.contestants.by_hand_postgres.values import json_text, marks
from prefect_db.flow_runs import FlowRun
from prefect_db.flows import Flow
from prefect_db.states import FLOW_RUN_POLICY, TASK_RUN_POLICY, TERMINAL, State, StateType
from prefect_db.task_runs import TaskRun

_NEW_FLOW: Final = (
    f"INSERT INTO flow ({Flow.columns}) VALUES ({marks(Flow.columns)})"
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
_FLOW_RUN_POLICY: Final = json_text(FLOW_RUN_POLICY)
_TASK_RUN_POLICY: Final = json_text(TASK_RUN_POLICY)


def create_flow(execute: Execute, new: NewFlow) -> Flow:
    now = datetime.now(UTC)
    params = (new.id, now, now, new.name, json_text(new.tags), json_text(new.labels))
    row = execute(_NEW_FLOW, params).fetchone()
    return flow_of(row or execute(_FLOW_BY_NAME, (new.name,)).fetchone())


def create_flow_run(execute: Execute, new: NewFlowRun) -> FlowRun:
    details = {**new.state.state_details, "flow_run_id": str(new.id)}
    params = {
        "id": new.id,
        "now": datetime.now(UTC),
        "name": new.name,
        "flow_id": new.flow_id,
        "parameters": json_text(new.parameters),
        "policy": _FLOW_RUN_POLICY,
        "tags": json_text(new.tags),
        "labels": json_text({"prefect.flow.id": str(new.flow_id)}),
        **_of_state(new.state, details),
    }
    return flow_run_of(execute(_CREATE_FLOW_RUN, params).fetchone())


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
        "tags": json_text(new.tags),
        "labels": json_text({"prefect.flow-run.id": str(new.flow_run_id)}),
        **_of_state(new.state, details),
    }
    return task_run_of(execute(_CREATE_TASK_RUN, params).fetchone())


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
        "details": json_text(details),
        "runs": int(runs),
        "expected": due or moment,
        "due": due,
        "start": moment if runs or ends else None,
        "end": moment if ends else None,
    }
