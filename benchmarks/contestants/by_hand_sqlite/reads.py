"""Reads: a statement each."""

from __future__ import annotations

from typing import Final
from uuid import UUID

from benchmarks.contestants.base import Execute, Pages
from benchmarks.contestants.by_hand_sqlite.rows import event_of, flow_of, flow_run_of, state_of
from benchmarks.contestants.by_hand_sqlite.values import TYPES, time_text
from prefect_db.events import Event
from prefect_db.flow_runs import FlowRun
from prefect_db.flows import Flow
from prefect_db.states import State, StateType

_FLOW: Final = f"SELECT {Flow.columns} FROM flow WHERE id = ?"
_FLOW_RUN: Final = f"SELECT {FlowRun.columns} FROM flow_run WHERE id = ?"
_FIND: Final = (
    f"SELECT {FlowRun.columns} FROM flow_run"
    " WHERE flow_run.state_type = 'COMPLETED' ORDER BY id DESC LIMIT ?"
)
_PAGE: Final = (
    f"SELECT {Event.columns} FROM events WHERE occurred >= ? AND {{}}"
    " ORDER BY occurred DESC, id DESC LIMIT ?"
)
_FIRST_PAGE: Final = _PAGE.format("occurred <= ?")
# The place is the upper bound: beside another one, all that is between them would be read.
_NEXT_PAGE: Final = _PAGE.format("(occurred, id) < (?, ?)")
_COUNT: Final = "SELECT state_type, count(*) FROM task_run GROUP BY state_type"
_HISTORY: Final = (
    "SELECT s.id, s.type, s.name, s.timestamp, s.message, s.state_details,"
    " coalesce(s.data, a.data) FROM flow_run_state AS s"
    " LEFT JOIN artifact AS a ON a.id = s.result_artifact_id"
    " WHERE s.flow_run_id = ? ORDER BY s.timestamp, s.id"
)


def read_flow(execute: Execute, flow_id: UUID) -> Flow | None:
    row = execute(_FLOW, (str(flow_id),)).fetchone()
    return None if row is None else flow_of(row)


def read_flow_run(execute: Execute, flow_run_id: UUID) -> FlowRun | None:
    row = execute(_FLOW_RUN, (str(flow_run_id),)).fetchone()
    return None if row is None else flow_run_of(row)


def find_flow_runs(execute: Execute, limit: int) -> list[FlowRun]:
    rows = execute(_FIND, (limit,)).fetchall()
    return [flow_run_of(row) for row in rows]


def event_page(execute: Execute, page: Pages) -> list[Event]:
    # One more than are wanted: so one knows whether there is a next page.
    since, until, limit = time_text(page.since), time_text(page.until), page.size + 1
    if page.after is None:
        rows = execute(_FIRST_PAGE, (since, until, limit)).fetchall()
    else:
        occurred, event_id = page.after
        rows = execute(_NEXT_PAGE, (since, time_text(occurred), str(event_id), limit)).fetchall()
    return [event_of(row) for row in rows[: page.size]]


def count_by_state(execute: Execute, _: None) -> dict[StateType | None, int]:
    rows = execute(_COUNT).fetchall()
    return {None if kind is None else TYPES[kind]: number for kind, number in rows}


def history(execute: Execute, flow_run_id: UUID) -> list[State]:
    rows = execute(_HISTORY, (str(flow_run_id),)).fetchall()
    return [state_of(row) for row in rows]
