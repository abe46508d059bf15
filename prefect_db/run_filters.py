"""The filters of flows, flow runs and task runs, and what they become in SQL.

They are one module as each can be asked for with the others: flows by their runs, runs by their
flow. The names and the meaning are Prefect's, schemas/filters.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from prefect_db.dialect import Dialect
from prefect_db.filters import (
    Among,
    AnyOf,
    Name,
    Operator,
    Reference,
    State,
    Tags,
    Time,
    Where,
)
from prefect_db.values import to_list


@dataclass(slots=True, kw_only=True)
class FlowFilter:
    """Which flows; a field that is not given tests nothing."""

    id: Among | None = None
    name: Name | None = None
    tags: Tags | None = None
    operator: Operator = "and_"


@dataclass(slots=True, kw_only=True)
class CreatedBy:
    """Who created a run, as its `created_by` says."""

    id_: Sequence[UUID] | None = None
    type_: Sequence[str] | None = None
    is_null_: bool | None = None
    operator: Operator = "and_"


@dataclass(slots=True, kw_only=True)
class FlowRunFilter:
    """Which flow runs; a field that is not given tests nothing.

    `start_time` compares the time when a run started or, before that, is expected to.
    `parent_flow_run_id` finds the subflow runs of these runs. `flow_id` is not Prefect's: there,
    one asks by a FlowFilter.
    """

    id: Among | None = None
    name: Name | None = None
    tags: Tags | None = None
    flow_id: AnyOf | None = None
    deployment_id: Reference | None = None
    work_queue_name: Reference | None = None
    state: State | None = None
    flow_version: AnyOf | None = None
    start_time: Time | None = None
    end_time: Time | None = None
    expected_start_time: Time | None = None
    next_scheduled_start_time: Time | None = None
    parent_flow_run_id: AnyOf | None = None
    parent_task_run_id: Reference | None = None
    idempotency_key: Among | None = None
    created_by: CreatedBy | None = None
    operator: Operator = "and_"


@dataclass(slots=True, kw_only=True)
class SubflowRuns:
    """Whether a flow run has this task run as its parent."""

    exists_: bool | None = None


@dataclass(slots=True, kw_only=True)
class OfFlowRun:
    """The task runs of these flow runs; or of any, as is asked if nothing is given; or of none.

    `is_null_=True` makes `any_` irrelevant, as in Prefect.
    """

    any_: Sequence[UUID] | None = None
    is_null_: bool | None = False


@dataclass(slots=True, kw_only=True)
class TaskRunFilter:
    """Which task runs; a field that is not given tests nothing."""

    id: AnyOf | None = None
    name: Name | None = None
    tags: Tags | None = None
    state: State | None = None
    start_time: Time | None = None
    end_time: Time | None = None
    expected_start_time: Time | None = None
    subflow_runs: SubflowRuns | None = None
    flow_run_id: OfFlowRun | None = None
    operator: Operator = "and_"


def of_flows(
    dialect: Dialect,
    filter: FlowFilter | None,
    flow_runs: FlowRunFilter | None,
    task_runs: TaskRunFilter | None,
) -> Where:
    """The condition on `flow`: the filter's, and that a run like this has a task run like that."""
    where = Where(dialect)
    where.group(_flow(dialect, filter))
    if flow_runs is not None or task_runs is not None:
        runs = of_flow_runs(dialect, flow_runs, None, task_runs)
        where.exists("flow_run", "flow_run.flow_id = flow.id", runs)
    return where


def of_flow_runs(
    dialect: Dialect,
    filter: FlowRunFilter | None,
    flows: FlowFilter | None,
    task_runs: TaskRunFilter | None,
) -> Where:
    """The condition on `flow_run`: the filter's, and that its flow and a task run are like this."""
    where = Where(dialect)
    where.group(_flow_run(dialect, filter))
    if flows is not None:
        where.exists("flow", "flow.id = flow_run.flow_id", _flow(dialect, flows))
    if task_runs is not None:
        tasks = _task_run(dialect, task_runs)
        where.exists("task_run", "task_run.flow_run_id = flow_run.id", tasks)
    return where


def of_task_runs(
    dialect: Dialect,
    filter: TaskRunFilter | None,
    flows: FlowFilter | None,
    flow_runs: FlowRunFilter | None,
) -> Where:
    """The condition on `task_run`: the filter's, and that its flow run and flow are like this."""
    where = Where(dialect)
    where.group(_task_run(dialect, filter))
    if flows is not None or flow_runs is not None:
        runs = of_flow_runs(dialect, flow_runs, flows, None)
        where.exists("flow_run", "flow_run.id = task_run.flow_run_id", runs)
    return where


def _flow(dialect: Dialect, filter: FlowFilter | None) -> Where:
    filter = filter or FlowFilter()
    where = Where(dialect, filter.operator)
    where.among("flow.id", "uuid", filter.id)
    where.name("flow.name", filter.name)
    where.tags("flow.tags", filter.tags)
    return where


def _flow_run(dialect: Dialect, filter: FlowRunFilter | None) -> Where:
    filter = filter or FlowRunFilter()
    where = Where(dialect, filter.operator)
    where.among("flow_run.id", "uuid", filter.id)
    where.name("flow_run.name", filter.name)
    where.tags("flow_run.tags", filter.tags)
    where.among("flow_run.flow_id", "uuid", filter.flow_id)
    where.reference("flow_run.deployment_id", "uuid", filter.deployment_id)
    where.reference("flow_run.work_queue_name", "varchar", filter.work_queue_name)
    where.state("flow_run", filter.state)
    where.among("flow_run.flow_version", "varchar", filter.flow_version)
    started = "coalesce(flow_run.start_time, flow_run.expected_start_time)"
    where.time(started, filter.start_time, null_column="flow_run.start_time")
    where.time("flow_run.end_time", filter.end_time)
    where.time("flow_run.expected_start_time", filter.expected_start_time)
    where.time("flow_run.next_scheduled_start_time", filter.next_scheduled_start_time)
    _parents(where, dialect, filter.parent_flow_run_id)
    where.reference("flow_run.parent_task_run_id", "uuid", filter.parent_task_run_id)
    where.among("flow_run.idempotency_key", "varchar", filter.idempotency_key)
    _created_by(where, dialect, filter.created_by)
    return where


def _parents(where: Where, dialect: Dialect, leaf: AnyOf | None) -> None:
    if leaf is None:
        return
    inner = Where(dialect)
    if leaf.any_ is not None:
        parents = Where(dialect)
        parents.among("t.flow_run_id", "uuid", leaf)
        tasks = f"SELECT t.id FROM task_run AS t{parents.sql}"
        inner.add(f"flow_run.parent_task_run_id IN ({tasks})", *parents.params)
    where.group(inner)


def _created_by(where: Where, dialect: Dialect, leaf: CreatedBy | None) -> None:
    if leaf is None:
        return
    inner = Where(dialect, leaf.operator)
    for key, values in (("id", leaf.id_), ("type", leaf.type_)):
        column = dialect.pick(
            sqlite=f"json_extract(flow_run.created_by, '$.{key}')",
            postgres=f"flow_run.created_by ->> '{key}'",
        )
        if values is not None:
            texts = [str(value) for value in to_list(values)]
            inner.among(f"({column})", "text", AnyOf(any_=texts))
    inner.null("flow_run.created_by", leaf.is_null_)
    where.group(inner)


def _task_run(dialect: Dialect, filter: TaskRunFilter | None) -> Where:
    filter = filter or TaskRunFilter()
    where = Where(dialect, filter.operator)
    where.among("task_run.id", "uuid", filter.id)
    where.name("task_run.name", filter.name)
    where.tags("task_run.tags", filter.tags)
    where.state("task_run", filter.state)
    where.time("task_run.start_time", filter.start_time)
    where.time("task_run.end_time", filter.end_time)
    where.time("task_run.expected_start_time", filter.expected_start_time)
    if filter.subflow_runs is not None:
        inner = Where(dialect)
        if filter.subflow_runs.exists_ is not None:
            exists = "EXISTS" if filter.subflow_runs.exists_ else "NOT EXISTS"
            inner.add(
                f"{exists} (SELECT 1 FROM flow_run AS f WHERE f.parent_task_run_id = task_run.id)"
            )
        where.group(inner)
    if filter.flow_run_id is not None:
        _of_flow_run(where, dialect, filter.flow_run_id)
    return where


def _of_flow_run(where: Where, dialect: Dialect, leaf: OfFlowRun) -> None:
    inner = Where(dialect)
    if leaf.is_null_ or leaf.any_ is None:
        inner.null("task_run.flow_run_id", leaf.is_null_)
    else:
        inner.among("task_run.flow_run_id", "uuid", AnyOf(any_=leaf.any_))
    where.group(inner)
