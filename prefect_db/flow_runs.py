"""Flow runs. Rules: Prefect's server, models/flow_runs.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Any, Final, TypedDict, Unpack
from uuid import UUID

from prefect_db import new_runs, run_states, state_changes
from prefect_db.errors import NotFound, SerializationFailure, UsageError
from prefect_db.filters import order_of, page
from prefect_db.ids import given_or_new, slug
from prefect_db.queryable import Queryable
from prefect_db.retention import trim as trim
from prefect_db.row import Record
from prefect_db.run_filters import CreatedBy as CreatedBy
from prefect_db.run_filters import FlowFilter, TaskRunFilter, of_flow_runs
from prefect_db.run_filters import FlowRunFilter as FlowRunFilter
from prefect_db.run_pages import STARTED, flow_run_page
from prefect_db.states import (
    FLOW_RUN_POLICY,
    State,
    StateColumns,
    StateType,
    complete_policy,
)
from prefect_db.values import check_text, to_bool, to_list, to_object, to_text, to_uuid, uuid_text


@dataclass(slots=True)
class FlowRun(Record):
    """A run of a flow."""

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
    flow_id: UUID
    flow_version: str | None
    deployment_id: UUID | None
    deployment_version: str | None
    parameters: dict[str, Any]
    context: dict[str, Any]
    empirical_policy: dict[str, Any]
    tags: list[str]
    labels: dict[str, Any] | None
    idempotency_key: str | None
    auto_scheduled: bool
    parent_task_run_id: UUID | None
    infrastructure_document_id: UUID | None
    infrastructure_pid: str | None
    work_queue_id: UUID | None
    work_queue_name: str | None
    created_by: dict[str, Any] | None
    job_variables: dict[str, Any] | None


class FlowRunSort(Enum):
    """How `find` orders flow runs: NULL is smallest, and the id decides between equals."""

    ID_DESC = "id DESC"
    START_TIME_ASC = f"{STARTED} ASC NULLS FIRST, id ASC"
    START_TIME_DESC = f"{STARTED} DESC NULLS LAST, id DESC"
    EXPECTED_START_TIME_ASC = "expected_start_time ASC NULLS FIRST, id ASC"
    EXPECTED_START_TIME_DESC = "expected_start_time DESC NULLS LAST, id DESC"
    NAME_ASC = "name ASC, id ASC"
    NAME_DESC = "name DESC, id DESC"
    NEXT_SCHEDULED_START_TIME_ASC = "next_scheduled_start_time ASC NULLS FIRST, id ASC"
    END_TIME_DESC = "end_time DESC NULLS LAST, id DESC"


def create(
    db: Queryable,
    flow_id: UUID,
    *,
    name: str | None = None,
    state: State | None = None,
    id: UUID | None = None,
    idempotency_key: str | None = None,
    parameters: Mapping[str, Any] | None = None,
    context: Mapping[str, Any] | None = None,
    empirical_policy: Mapping[str, Any] | None = None,
    tags: Sequence[str] = (),
    labels: Mapping[str, Any] | None = None,
    flow_version: str | None = None,
    parent_task_run_id: UUID | None = None,
    deployment_id: UUID | None = None,
    deployment_version: str | None = None,
    auto_scheduled: bool = False,
    infrastructure_document_id: UUID | None = None,
    infrastructure_pid: str | None = None,
    work_queue_id: UUID | None = None,
    work_queue_name: str | None = None,
    created_by: Mapping[str, Any] | None = None,
    job_variables: Mapping[str, Any] | None = None,
) -> FlowRun:
    """A new run of a flow, in `state` if that is given; or the run that this flow has with the
    same idempotency key, unchanged. Without a name it gets one like `brisk-heron`.

    Raises:
        UniqueViolation: Another flow run has this id.
        ForeignKeyViolation: There is no such flow, parent task run or infrastructure document.
        BadValue: A value cannot be stored.
    """
    now = datetime.now(UTC)
    flow_id = to_uuid(flow_id)
    run_id = given_or_new(id)
    parent_task_run_id = _id(parent_task_run_id)
    columns = StateColumns(empirical_policy=complete_policy(empirical_policy, FLOW_RUN_POLICY))
    first = None
    if state is not None:
        first = state_changes.entry(db.dialect, "flow_run", run_id, parent_task_run_id, state)
        columns.enter(first.state)
    if job_variables is None and not idempotency_key:
        # Prefect's two ways of inserting differ in what they make of no variables.
        job_variables = {}
    run = FlowRun(
        id=run_id,
        created=now,
        updated=now,
        name=check_text(name or slug()),
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
        flow_id=flow_id,
        flow_version=to_text(flow_version),
        deployment_id=_id(deployment_id),
        deployment_version=to_text(deployment_version),
        parameters=to_object(parameters or {}),
        context=to_object(context or {}),
        empirical_policy=columns.empirical_policy,
        tags=to_list(tags),
        labels={"prefect.flow.id": uuid_text(flow_id), **(labels or {})},
        idempotency_key=to_text(idempotency_key),
        auto_scheduled=to_bool(auto_scheduled),
        parent_task_run_id=parent_task_run_id,
        infrastructure_document_id=_id(infrastructure_document_id),
        infrastructure_pid=to_text(infrastructure_pid),
        work_queue_id=_id(work_queue_id),
        work_queue_name=to_text(work_queue_name),
        created_by=None if created_by is None else {**_CREATOR, **to_object(created_by)},
        job_variables=None if job_variables is None else to_object(job_variables),
    )
    if first is None or parent_task_run_id is None:
        created = new_runs.create(db, "flow_run", run, first)
    else:
        with db.unit() as txn:
            created = new_runs.create(txn, "flow_run", run, first)
            if created:
                state_changes.copy_state(txn, run_id, parent_task_run_id, first.state)
    return run if created else _by_idempotency_key(db, flow_id, idempotency_key)


def get(db: Queryable, flow_run_id: UUID, *, for_update: bool = False) -> FlowRun | None:
    """The flow run with this id, or None.

    With `for_update`, inside a transaction, nobody else changes it until that ends.
    """
    lock = db.dialect.pick(sqlite="", postgres=" FOR UPDATE") if for_update else ""
    return db.row(
        f"SELECT {FlowRun.columns} FROM flow_run WHERE id = ?{lock}",
        (to_uuid(flow_run_id),),
        into=FlowRun,
    )


def find(
    db: Queryable,
    filter: FlowRunFilter | None = None,
    *,
    flows: FlowFilter | None = None,
    task_runs: TaskRunFilter | None = None,
    sort: FlowRunSort = FlowRunSort.ID_DESC,
    limit: int | None = 200,
    offset: int = 0,
) -> list[FlowRun]:
    """The flow runs that the filter lets through, a page of them.

    Args:
        flows: Only runs of such flows.
        task_runs: Only runs that have such a task run.
    """
    bounds = page(limit, offset)
    order = order_of(sort, FlowRunSort)
    statement = flow_run_page(db, FlowRun.columns, order, bounds, filter, flows, task_runs)
    return db.rows(statement.sql, statement.params, into=FlowRun, prepare=statement.prepare)


def count(
    db: Queryable,
    filter: FlowRunFilter | None = None,
    *,
    flows: FlowFilter | None = None,
    task_runs: TaskRunFilter | None = None,
) -> int:
    """How many flow runs the filters let through; see `find`."""
    where = of_flow_runs(db.dialect, filter, flows, task_runs)
    sql = f"SELECT count(*) FROM flow_run{where.sql}"
    return int(db.value(sql, where.params, prepare=not where.sql))


def count_by_state(
    db: Queryable,
    filter: FlowRunFilter | None = None,
    *,
    flows: FlowFilter | None = None,
    task_runs: TaskRunFilter | None = None,
) -> dict[StateType | None, int]:
    """How many of them are in each type of state; None is for those without a state."""
    where = of_flow_runs(db.dialect, filter, flows, task_runs)
    return run_states.count_by_state(db, "flow_run", where)


class FlowRunChanges(TypedDict, total=False):
    """What `update` can change; a key that is not given stays as it is."""

    name: str | None
    flow_version: str | None
    parameters: Mapping[str, Any]
    empirical_policy: Mapping[str, Any]
    tags: Sequence[str]
    infrastructure_pid: str | None
    job_variables: Mapping[str, Any] | None


_CHANGES: Final = tuple(FlowRunChanges.__annotations__)


def update(db: Queryable, flow_run_id: UUID, **changes: Unpack[FlowRunChanges]) -> FlowRun:
    """The flow run with these changes. `name=None` makes up a new name.

    Raises:
        NotFound: There is no such flow run.
        UsageError: One of the changes is none of `FlowRunChanges`.
    """
    values: dict[str, Any] = dict(changes)
    unknown = [name for name in values if name not in _CHANGES]
    if unknown:
        raise UsageError(f"{', '.join(unknown)} cannot be changed; {', '.join(_CHANGES)} can")
    if "name" in values:
        values["name"] = check_text(values["name"] or slug())
    if "tags" in values:
        values["tags"] = to_list(values["tags"])
    for name in ("parameters", "job_variables"):
        if values.get(name) is not None:
            values[name] = to_object(values[name])
    if "empirical_policy" in values:
        values["empirical_policy"] = complete_policy(values["empirical_policy"], FLOW_RUN_POLICY)
    assignments = "".join(f"{name} = ?, " for name in values)
    run = db.row(
        f"UPDATE flow_run SET {assignments}updated = {db.dialect.clock} WHERE id = ?"
        f" RETURNING {FlowRun.columns}",
        (*values.values(), to_uuid(flow_run_id)),
        into=FlowRun,
    )
    return _found(run, flow_run_id)


def merge_labels(db: Queryable, flow_run_id: UUID, labels: Mapping[str, Any]) -> FlowRun:
    """The flow run with these labels added to its own; where both have one, the new one wins.

    Raises:
        NotFound: There is no such flow run.
    """
    with db.unit() as txn:
        run = _found(get(txn, flow_run_id, for_update=True), flow_run_id)
        merged = txn.row(
            f"UPDATE flow_run SET labels = ?, updated = {db.dialect.clock} WHERE id = ?"
            f" RETURNING {FlowRun.columns}",
            ({**(run.labels or {}), **labels}, flow_run_id),
            into=FlowRun,
        )
        return _found(merged, flow_run_id)


def delete(db: Queryable, flow_run_id: UUID) -> None:
    """Delete a flow run with its states and task runs. Subflow runs, events and logs stay.

    Raises:
        NotFound: There is no such flow run.
    """
    if not db.execute("DELETE FROM flow_run WHERE id = ?", (to_uuid(flow_run_id),)):
        raise NotFound(f"no flow run {flow_run_id}")


def history(db: Queryable, flow_run_id: UUID) -> list[State]:
    """The states of a flow run, oldest first; none if there is no such run."""
    return run_states.history(db, "flow_run", to_uuid(flow_run_id))


def get_states(db: Queryable, state_ids: Sequence[UUID]) -> dict[UUID, State]:
    """The states of flow runs with these ids, by id: the present ones of many runs in one query.

    There is none for an id that no state has.
    """
    return run_states.get(db, "flow_run", state_ids)


def set_state(db: Queryable, flow_run_id: UUID, state: State) -> State:
    """Put a flow run into a state: the state's row and all columns that follow from it. The
    placeholder task run of a subflow gets a copy.

    Which transitions are allowed is the caller's to decide; see `get(..., for_update=True)`.

    Returns:
        The state as stored: its time is moved by microseconds if the run has one of that time.

    Raises:
        NotFound: There is no such flow run.
        UniqueViolation: Another state has this id.
    """
    return state_changes.set_state(db, "flow_run", to_uuid(flow_run_id), state)


def _found(run: FlowRun | None, flow_run_id: UUID) -> FlowRun:
    if run is None:
        raise NotFound(f"no flow run {flow_run_id}")
    return run


def _id(value: Any) -> UUID | None:
    return None if value is None else to_uuid(value)


# What Prefect stores of a creator, in its order.
_CREATOR: Final = {"id": None, "type": None, "display_value": None}


def _by_idempotency_key(db: Queryable, flow_id: UUID, key: str | None) -> FlowRun:
    run = db.row(
        f"SELECT {FlowRun.columns} FROM flow_run WHERE flow_id = ? AND idempotency_key = ?",
        (flow_id, key),
        into=FlowRun,
    )
    if run is None:
        raise SerializationFailure("the flow run was deleted meanwhile")
    return run
