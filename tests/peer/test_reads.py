"""Every row of the databases that real Prefect servers filled, read by both, field by field."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Any

import pytest
import sqlalchemy as sa
from prefect.server import models
from prefect.server.events.schemas.events import ReceivedEvent
from prefect.server.schemas import core
from prefect.server.schemas import states as prefect_states
from pydantic import BaseModel

from prefect_db import Backend, connect, events, flow_runs, flows, logs, states, task_runs
from prefect_db.states import StateType, estimated_run_time, estimated_start_time_delta
from tests.peer.prefect_peer import Prefect

Compare = Callable[[str, Any, Any], None]


@pytest.fixture
def db(real_url: str) -> Iterator[Backend]:
    with connect(real_url) as db:
        yield db


@pytest.fixture
def prefect(real_url: str) -> Iterator[Prefect]:
    with Prefect(real_url) as prefect:
        yield prefect


@pytest.fixture
def same(compared: Counter[str], backend_name: str) -> Compare:
    """Demands that a record of ours has the values of Prefect's object, in every field."""

    def compare(kind: str, ours: Any, theirs: Any) -> None:
        assert ours is not None
        names = [field.name for field in fields(ours)]
        if isinstance(theirs, BaseModel):
            # What Prefect's API gives does not have all columns.
            names = [name for name in names if name in type(theirs).model_fields]
        assert len(names) > 5
        given = {name: getattr(ours, name) for name in names}
        assert given == {name: plain(getattr(theirs, name)) for name in names}
        compared[f"{backend_name} records read: {kind}"] += 1

    return compare


def plain(value: Any) -> Any:
    """A value of Prefect's as our records have it: JSON where the column holds JSON."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


def rows_of(prefect: Prefect, name: str) -> list[Any]:
    """All rows of a table, as objects of Prefect's ORM."""

    async def read(session: Any) -> list[Any]:
        table = getattr(prefect.interface, name)
        return list((await session.execute(sa.select(table))).scalars().unique())

    rows = prefect.read(read)
    assert rows
    return rows


def test_flows(db: Backend, prefect: Prefect, same: Compare) -> None:
    rows = rows_of(prefect, "Flow")
    for row in rows:
        same("flow", flows.get(db, row.id), row)
        same("flow", flows.get_by_name(db, row.name), row)
    assert len(flows.find(db, limit=None)) == len(rows)


def test_flow_runs(db: Backend, prefect: Prefect, same: Compare) -> None:
    rows = rows_of(prefect, "FlowRun")
    for row in rows:
        run = flow_runs.get(db, row.id)
        same("flow_run", run, row)
        same("flow_run", run, core.FlowRun.model_validate(row, from_attributes=True))
        assert run is not None
        check_estimates(run, row)
    assert len(flow_runs.find(db, limit=None)) == len(rows)


def test_task_runs(db: Backend, prefect: Prefect, same: Compare) -> None:
    rows = rows_of(prefect, "TaskRun")
    for row in rows:
        run = task_runs.get(db, row.id)
        same("task_run", run, row)
        same("task_run", run, core.TaskRun.model_validate(row, from_attributes=True))
        assert run is not None
        check_estimates(run, row)
    assert len(task_runs.find(db, limit=None)) == len(rows)


def check_estimates(run: Any, row: Any) -> None:
    """The clock goes on between the two, so theirs lies between ours before and after."""
    for ours, theirs in [
        (estimated_run_time, "estimated_run_time"),
        (estimated_start_time_delta, "estimated_start_time_delta"),
    ]:
        before = ours(run, datetime.now(UTC))
        value = getattr(row, theirs)
        assert before <= value <= ours(run, datetime.now(UTC))


def test_flow_run_states(db: Backend, prefect: Prefect, same: Compare) -> None:
    with_data = 0
    for row in rows_of(prefect, "FlowRun"):
        theirs = prefect.read(models.flow_run_states.read_flow_run_states, row.id)
        ours = flow_runs.history(db, row.id)
        assert len(ours) == len(theirs) > 0
        for state, stored in zip(ours, theirs, strict=True):
            same("flow_run_state", state, stored)
            same("flow_run_state", state, as_state(stored))
            with_data += state.data is not None
    # Results are in `artifact`.
    assert with_data > 0


def as_state(stored: Any) -> prefect_states.State:
    return prefect_states.State.model_validate(stored, from_attributes=True)


def test_task_run_states(db: Backend, prefect: Prefect, same: Compare) -> None:
    for row in rows_of(prefect, "TaskRun"):
        theirs = prefect.read(models.task_run_states.read_task_run_states, row.id)
        ours = task_runs.history(db, row.id)
        assert len(ours) == len(theirs) > 0
        for state, stored in zip(ours, theirs, strict=True):
            same("task_run_state", state, stored)
            same("task_run_state", state, as_state(stored))


def test_logs(db: Backend, prefect: Prefect, same: Compare) -> None:
    ours = {log.id: log for log in logs.find(db, limit=None)}
    rows = rows_of(prefect, "Log")
    for row in rows:
        same("log", ours[row.id], row)
    assert len(ours) == len(rows)


def test_events(db: Backend, prefect: Prefect, same: Compare) -> None:
    ours = {event.id: event for event in events.query(db, limit=1000).events}
    rows = rows_of(prefect, "Event")
    for row in rows:
        event = ours[row.id]
        same("event", event, row)
        seen = ReceivedEvent.model_validate(row, from_attributes=True)
        assert event.resource == seen.resource.root
        assert event.related == [related.root for related in seen.related]
        assert event.payload == seen.payload
    assert len(ours) == len(rows)


def test_event_resources(db: Backend, prefect: Prefect, compared: Counter[str]) -> None:
    """We have no record of them: they are what the filters of events look at."""
    name = db.dialect.name
    for row in rows_of(prefect, "EventResource"):
        stored = db.row("SELECT * FROM event_resources WHERE id = ?", (row.id,))
        assert stored is not None
        assert stored.datetime("occurred") == row.occurred
        assert stored.json("resource") == row.resource
        assert stored.uuid("event_id") == row.event_id
        assert (stored["resource_id"], stored["resource_role"]) == (
            row.resource_id,
            row.resource_role,
        )
        compared[f"{name} records read: event_resource"] += 1


@pytest.mark.parametrize("kind", StateType)
@pytest.mark.parametrize("lateness", [timedelta(hours=-1), timedelta(0), timedelta(hours=1)])
def test_estimates_of_runs_under_way(
    db: Backend, prefect: Prefect, kind: StateType, lateness: timedelta
) -> None:
    """The recorded runs have all ended; these are in every state there is."""
    flow = flows.create(db, "estimates")
    expected = datetime.now(UTC) - lateness
    run = flow_runs.create(db, flow.id, state=states.scheduled(expected))
    flow_runs.set_state(db, run.id, states.make(kind))
    flow_runs.set_state(db, run.id, states.running())
    flow_runs.set_state(db, run.id, states.make(kind))
    for number, state in enumerate([None, states.make(kind)]):
        task_runs.create(db, "task", "task", str(number), flow_run_id=run.id, state=state)
    for row in [*rows_of(prefect, "FlowRun"), *rows_of(prefect, "TaskRun")]:
        ours = flow_runs.get(db, row.id) or task_runs.get(db, row.id)
        check_estimates(ours, row)
