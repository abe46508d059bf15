"""Task runs. Rules: Prefect's server, models/task_runs.py.

A client sends its tasks' states as events, see `record`; only the placeholder of a subflow is
made and moved through the API, with `create` and `set_state`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Any
from uuid import UUID

from prefect_db import new_runs, run_states, state_changes
from prefect_db.errors import NotFound, SerializationFailure
from prefect_db.filters import order_of, page
from prefect_db.ids import given_or_new
from prefect_db.queryable import Queryable
from prefect_db.row import Record
from prefect_db.run_filters import FlowFilter, FlowRunFilter, of_task_runs
from prefect_db.run_filters import OfFlowRun as OfFlowRun
from prefect_db.run_filters import SubflowRuns as SubflowRuns
from prefect_db.run_filters import TaskRunFilter as TaskRunFilter
from prefect_db.run_pages import task_run_page
from prefect_db.states import (
    TASK_RUN_POLICY,
    State,
    StateColumns,
    StateType,
    complete_policy,
)
from prefect_db.task_run_events import record as record
from prefect_db.values import (
    check_text,
    to_datetime,
    to_list,
    to_object,
    to_text,
    to_uuid,
    uuid_text,
)


@dataclass(slots=True)
class TaskRun(Record):
    """A run of a task."""

    id: UUID
    created: datetime
    updated: datetime
    name: str
    state_type: StateType | None
    state_name: str | None
    state_timestamp: datetime | None
    state_id: UUID | None
    run_count: int
    expected_start_time: datetime | None
    next_scheduled_start_time: datetime | None
    start_time: datetime | None
    end_time: datetime | None
    total_run_time: timedelta
    flow_run_id: UUID | None
    task_key: str
    dynamic_key: str
    cache_key: str | None
    cache_expiration: datetime | None
    task_version: str | None
    flow_run_run_count: int
    empirical_policy: dict[str, Any]
    task_inputs: dict[str, Any]
    tags: list[str]
    labels: dict[str, Any] | None


class TaskRunSort(Enum):
    """How `find` orders task runs: NULL is smallest, and the id decides between equals."""

    ID_DESC = "id DESC"
    EXPECTED_START_TIME_ASC = "expected_start_time ASC NULLS FIRST, id ASC"
    EXPECTED_START_TIME_DESC = "expected_start_time DESC NULLS LAST, id DESC"
    NAME_ASC = "name ASC, id ASC"
    NAME_DESC = "name DESC, id DESC"
    NEXT_SCHEDULED_START_TIME_ASC = "next_scheduled_start_time ASC NULLS FIRST, id ASC"
    END_TIME_DESC = "end_time DESC NULLS LAST, id DESC"


def create(
    db: Queryable,
    name: str,
    task_key: str,
    dynamic_key: str,
    *,
    flow_run_id: UUID | None = None,
    state: State | None = None,
    id: UUID | None = None,
    cache_key: str | None = None,
    cache_expiration: datetime | None = None,
    task_version: str | None = None,
    empirical_policy: Mapping[str, Any] | None = None,
    task_inputs: Mapping[str, Any] | None = None,
    tags: Sequence[str] = (),
    labels: Mapping[str, Any] | None = None,
) -> TaskRun:
    """The task run with this flow run, task key and dynamic key: a new one, in `state` if that is
    given, or the one that is there, unchanged.

    Raises:
        UniqueViolation: Another task run has this id.
        ForeignKeyViolation: There is no such flow run.
        BadValue: A value cannot be stored.
    """
    now = datetime.now(UTC)
    run_id = given_or_new(id)
    labels = dict(labels or {})
    if flow_run_id is not None:
        flow_run_id = to_uuid(flow_run_id)
        labels = {"prefect.flow-run.id": uuid_text(flow_run_id), **labels}
    columns = StateColumns(empirical_policy=complete_policy(empirical_policy, TASK_RUN_POLICY))
    first = None
    if state is not None:
        first = state_changes.entry(db.dialect, "task_run", run_id, flow_run_id, state)
        columns.enter(first.state)
    run = TaskRun(
        id=run_id,
        created=now,
        updated=now,
        name=check_text(name),
        state_type=columns.state_type,
        state_name=columns.state_name,
        state_timestamp=columns.state_timestamp,
        state_id=columns.state_id,
        run_count=columns.run_count,
        expected_start_time=columns.expected_start_time,
        next_scheduled_start_time=columns.next_scheduled_start_time,
        start_time=columns.start_time,
        end_time=columns.end_time,
        total_run_time=columns.total_run_time,
        flow_run_id=flow_run_id,
        task_key=check_text(task_key),
        dynamic_key=check_text(dynamic_key),
        cache_key=to_text(cache_key),
        cache_expiration=None if cache_expiration is None else to_datetime(cache_expiration),
        task_version=to_text(task_version),
        flow_run_run_count=0,
        empirical_policy=columns.empirical_policy,
        task_inputs=to_object(task_inputs or {}),
        tags=to_list(tags),
        labels=labels,
    )
    created = new_runs.create(db, "task_run", run, first)
    return run if created else _by_natural_key(db, flow_run_id, task_key, dynamic_key)


def get(db: Queryable, task_run_id: UUID, *, for_update: bool = False) -> TaskRun | None:
    """The task run with this id, or None.

    With `for_update`, inside a transaction, nobody else changes it until that ends.
    """
    lock = db.dialect.pick(sqlite="", postgres=" FOR UPDATE") if for_update else ""
    return db.row(
        f"SELECT {TaskRun.columns} FROM task_run WHERE id = ?{lock}",
        (to_uuid(task_run_id),),
        into=TaskRun,
    )


def find(
    db: Queryable,
    filter: TaskRunFilter | None = None,
    *,
    flows: FlowFilter | None = None,
    flow_runs: FlowRunFilter | None = None,
    sort: TaskRunSort = TaskRunSort.ID_DESC,
    limit: int | None = 200,
    offset: int = 0,
) -> list[TaskRun]:
    """The task runs that the filter lets through, a page of them.

    Args:
        flows: Only task runs of runs of such flows.
        flow_runs: Only task runs of such flow runs.
    """
    bounds = page(limit, offset)
    order = order_of(sort, TaskRunSort)
    statement = task_run_page(db, TaskRun.columns, order, bounds, filter, flows, flow_runs)
    return db.rows(statement.sql, statement.params, into=TaskRun, prepare=statement.prepare)


def count(
    db: Queryable,
    filter: TaskRunFilter | None = None,
    *,
    flows: FlowFilter | None = None,
    flow_runs: FlowRunFilter | None = None,
) -> int:
    """How many task runs the filters let through; see `find`."""
    where = of_task_runs(db.dialect, filter, flows, flow_runs)
    sql = f"SELECT count(*) FROM task_run{where.sql}"
    return int(db.value(sql, where.params, prepare=not where.sql))


def count_by_state(
    db: Queryable,
    filter: TaskRunFilter | None = None,
    *,
    flows: FlowFilter | None = None,
    flow_runs: FlowRunFilter | None = None,
) -> dict[StateType | None, int]:
    """How many of them are in each type of state; None is for those without a state."""
    where = of_task_runs(db.dialect, filter, flows, flow_runs)
    return run_states.count_by_state(db, "task_run", where)


def delete(db: Queryable, task_run_id: UUID) -> None:
    """Delete a task run with its states; a subflow's run stays, without its parent.

    Raises:
        NotFound: There is no such task run.
    """
    if not db.execute("DELETE FROM task_run WHERE id = ?", (to_uuid(task_run_id),)):
        raise NotFound(f"no task run {task_run_id}")


def history(db: Queryable, task_run_id: UUID) -> list[State]:
    """The states of a task run, oldest first; none if there is no such run."""
    return run_states.history(db, "task_run", to_uuid(task_run_id))


def get_states(db: Queryable, state_ids: Sequence[UUID]) -> dict[UUID, State]:
    """The states of task runs with these ids, by id: the present ones of many runs in one query.

    There is none for an id that no state has.
    """
    return run_states.get(db, "task_run", state_ids)


def set_state(db: Queryable, task_run_id: UUID, state: State) -> State:
    """Put a task run into a state: the state's row and all columns that follow from it.

    Which transitions are allowed is the caller's to decide; see `get(..., for_update=True)`.

    Returns:
        The state as stored: its time is moved by microseconds if the run has one of that time.

    Raises:
        NotFound: There is no such task run.
        UniqueViolation: Another state has this id.
    """
    return state_changes.set_state(db, "task_run", to_uuid(task_run_id), state)


def _by_natural_key(
    db: Queryable, flow_run_id: UUID | None, task_key: str, dynamic_key: str
) -> TaskRun:
    same = "flow_run_id = ?" if flow_run_id else "flow_run_id IS NULL"
    rows = db.rows(
        f"SELECT {TaskRun.columns} FROM task_run WHERE {same} AND task_key = ?"
        " AND dynamic_key = ? ORDER BY id LIMIT 1",
        (*([flow_run_id] if flow_run_id else []), task_key, dynamic_key),
        into=TaskRun,
    )
    if not rows:
        raise SerializationFailure("the task run was deleted meanwhile")
    return rows[0]
