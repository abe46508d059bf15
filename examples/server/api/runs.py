"""Runs as clients see them: with the present state, and with times that go on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from prefect_db import Queryable, states
from prefect_db.flow_runs import FlowRun
from prefect_db.states import State
from prefect_db.task_runs import TaskRun

GetStates = Callable[[Queryable, list[UUID]], dict[UUID, State]]


def describe(
    db: Queryable, runs: Sequence[FlowRun] | Sequence[TaskRun], get_states: GetStates
) -> list[dict[str, Any]]:
    """The answers that stand for these runs, with one more query for all of their states."""
    now = datetime.now(UTC)
    current = get_states(db, [run.state_id for run in runs if run.state_id])
    return [
        {
            **{f.name: getattr(run, f.name) for f in fields(run)},
            "labels": run.labels or {},
            "state": current.get(run.state_id) if run.state_id else None,
            "estimated_run_time": states.estimated_run_time(run, now),
            "estimated_start_time_delta": states.estimated_start_time_delta(run, now),
        }
        for run in runs
    ]
