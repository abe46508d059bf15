"""Reads: a statement each."""

from __future__ import annotations

from typing import Final
from uuid import UUID

from benchmarks.contestants.base import Execute, Pages
from benchmarks.contestants.by_hand_postgres.rows import event_of, flow_of, flow_run_of, state_of
from benchmarks.contestants.by_hand_postgres.values import TYPES
from prefect_db.events import Event
from prefect_db.flow_runs import FlowRun
from prefect_db.flows import Flow
from prefect_db.states import State, StateType

_FLOW: Final = f"SELECT {Flow.columns} FROM flow WHERE id = %s"
_FLOW_RUN: Final = f"SELECT {FlowRun.columns} FROM flow_run WHERE id = %s"
_FIND: Final = (
    f"SELECT {FlowRun.columns} FROM flow_run"
    " WHERE flow_run.state_type = 'COMPLETED' ORDER BY id DESC LIMIT {}"
)
_PAGE: Final = (
    f"SELECT {Event.columns} FROM events WHERE occurred >= %s AND {{}}"
    " ORDER BY occurred DESC, id DESC LIMIT %s"
)
_FIRST_PAGE: Final = _PAGE.format("occurred <= %s")
# The place is the upper bound: beside another one, all that is between them would be read.
_NEXT_PAGE: Final = _PAGE.format("(occurred, id) < (%s, %s)")
_COUNT: Final = "SELECT state_type, count(*) FROM task_run GROUP BY state_type"
_HISTORY: Final = (
    "SELECT s.id, s.type, s.name, s.timestamp, s.message, s.state_details,"
    " coalesce(CAST(s.data AS text), CAST(a.data AS text)) FROM flow_run_state AS s"
    " LEFT JOIN artifact AS a ON a.id = s.result_artifact_id"
    " WHERE s.flow_run_id = %s ORDER BY s.timestamp, s.id"
)


def read_flow(execute: Execute, flow_id: UUID) -> Flow | None:
    row = execute(_FLOW, (flow_id,)).fetchone()
    return None if row is None else flow_of(row)


def read_flow_run(execute: Execute, flow_run_id: UUID) -> FlowRun | None:
    row = execute(_FLOW_RUN, (flow_run_id,)).fetchone()
    return None if row is None else flow_run_of(row)


def find_flow_runs(execute: Execute, limit: int) -> list[FlowRun]:
    return [flow_run_of(row) for row in execute(_FIND.format(limit)).fetchall()]


def event_page(execute: Execute, page: Pages) -> list[Event]:
    # One more than are wanted: so one knows whether there is a next page.
    if page.after is None:
        rows = execute(_FIRST_PAGE, (page.since, page.until, page.size + 1)).fetchall()
    else:
        params = (page.since, *page.after, page.size + 1)
        rows = execute(_NEXT_PAGE, params).fetchall()
    return [event_of(row) for row in rows[: page.size]]


def count_by_state(execute: Execute, _: None) -> dict[StateType | None, int]:
    rows = execute(_COUNT).fetchall()
    return {None if kind is None else TYPES[kind]: number for kind, number in rows}


def history(execute: Execute, flow_run_id: UUID) -> list[State]:
    return [state_of(row) for row in execute(_HISTORY, (flow_run_id,)).fetchall()]
