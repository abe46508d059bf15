"""/task_runs"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from examples.server import orchestration
from examples.server.api.filters import RunFilters
from examples.server.api.proposals import SetState, StateCreate
from examples.server.api.runs import describe
from examples.server.calls import MAX_LIMIT, Call, Limit, Offset, Reply, found
from examples.server.checks import Label, at_most_long, is_task_policy
from examples.server.routing import delete, get, post
from prefect_db import Backend, Queryable, states, task_runs
from prefect_db.task_runs import TaskRun, TaskRunSort


@dataclass(slots=True, kw_only=True)
class TaskRunCreate:
    task_key: str
    dynamic_key: str
    id: UUID | None = None
    name: str | None = None
    state: StateCreate | None = None
    flow_run_id: UUID | None = None
    cache_key: Annotated[str, at_most_long(2000)] | None = None
    cache_expiration: datetime | None = None
    task_version: str | None = None
    empirical_policy: Annotated[Mapping[str, Any], is_task_policy] = field(default_factory=dict)
    tags: list[str] = field(default_factory=list)
    labels: Mapping[str, Label] | None = None
    task_inputs: Mapping[str, list[Any]] = field(default_factory=dict)


@dataclass(slots=True, kw_only=True)
class TaskRunQuery(RunFilters):
    sort: TaskRunSort | None = None
    limit: Limit = None
    offset: Offset = 0


def create(db: Backend, call: Call) -> Reply:
    body = call.read(TaskRunCreate)
    given = {f.name: getattr(body, f.name) for f in fields(body)}
    given["name"] = body.name or f"{body.task_key}-{body.dynamic_key}"
    given["state"] = body.state.make() if body.state else states.pending()
    run = db.run(lambda txn: _describe(txn, [task_runs.create(txn, **given)])[0])
    return Reply(run, call.status(run["created"]))


def read(db: Queryable, call: Call) -> dict[str, Any]:
    return _describe(db, [found(task_runs.get(db, call.id), "task")])[0]


def query(db: Queryable, call: Call) -> list[dict[str, Any]]:
    body = call.read(TaskRunQuery)
    runs = task_runs.find(
        db,
        body.task_runs,
        **body.others("task_runs"),
        sort=body.sort or TaskRunSort.ID_DESC,
        limit=MAX_LIMIT if body.limit is None else body.limit,
        offset=body.offset,
    )
    return _describe(db, runs)


def count(db: Queryable, call: Call) -> int:
    body = call.read(RunFilters)
    return task_runs.count(db, body.task_runs, **body.others("task_runs"))


def remove(db: Queryable, call: Call) -> None:
    task_runs.delete(db, call.id)


def set_state(db: Backend, call: Call) -> Reply:
    body = call.read(SetState)
    state = body.state.make()
    result = db.run(
        lambda txn: orchestration.set_task_run_state(txn, call.id, state, force=body.force)
    )
    entered = result["state"]
    return Reply(result, call.status(entered.timestamp if entered else None))


def _describe(db: Queryable, runs: list[TaskRun]) -> list[dict[str, Any]]:
    return describe(db, runs, task_runs.get_states)


ROUTES = [
    post("/task_runs/", create),
    post("/task_runs/filter", query),
    post("/task_runs/count", count),
    get("/task_runs/{id:uuid}", read),
    delete("/task_runs/{id:uuid}", remove),
    post("/task_runs/{id:uuid}/set_state", set_state),
]
