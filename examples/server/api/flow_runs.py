"""/flow_runs"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Annotated, Any
from uuid import UUID

from starlette.exceptions import HTTPException

from examples.server import lifecycle, orchestration
from examples.server.api.filters import RunFilters
from examples.server.api.proposals import SetState, StateCreate
from examples.server.api.runs import describe
from examples.server.calls import MAX_LIMIT, Call, Limit, Offset, Reply, found
from examples.server.checks import Label
from examples.server.errors import Missing
from examples.server.routing import delete, get, patch, post
from prefect_db import Backend, NotFound, Queryable, flow_runs, logs, states
from prefect_db.flow_runs import FlowRun, FlowRunSort
from prefect_db.states import StateType

MAX_PARAMETERS = 524_288


def fits(parameters: Mapping[str, Any]) -> str | None:
    size = len(json.dumps(parameters, separators=(",", ":"), ensure_ascii=False).encode())
    if size > MAX_PARAMETERS:
        return f"Flow run parameters have {size} bytes; at most {MAX_PARAMETERS} are allowed"
    return None


@dataclass(slots=True, kw_only=True)
class FlowRunCreate:
    flow_id: UUID
    name: str | None = None
    state: StateCreate | None = None
    flow_version: str | None = None
    parameters: Annotated[Mapping[str, Any], fits] = field(default_factory=dict)
    context: Mapping[str, Any] = field(default_factory=dict)
    parent_task_run_id: UUID | None = None
    infrastructure_document_id: UUID | None = None
    empirical_policy: Mapping[str, Any] = field(default_factory=dict)
    tags: list[str] = field(default_factory=list)
    labels: Mapping[str, Label] | None = None
    idempotency_key: str | None = None
    work_queue_name: str | None = None
    job_variables: Mapping[str, Any] | None = None
    deployment_id: UUID | None = None


@dataclass(slots=True, kw_only=True)
class FlowRunQuery(RunFilters):
    sort: FlowRunSort | None = None
    limit: Limit = None
    offset: Offset = 0


def create(db: Backend, call: Call) -> Reply:
    body = call.read(FlowRunCreate)
    given = {f.name: getattr(body, f.name) for f in fields(body)}
    del given["state"]
    state = body.state.make() if body.state else states.pending()

    def work(txn: Queryable) -> dict[str, Any]:
        run = flow_runs.create(txn, **given, state=state)
        described = _describe(txn, [run])[0]
        if run.state_id == state.id:
            lifecycle.emit(txn, run.id, None, described["state"])
        return described

    run = db.run(work)
    return Reply(run, call.status(run["created"]))


def read(db: Queryable, call: Call) -> dict[str, Any]:
    return _describe(db, [found(flow_runs.get(db, call.id), "flow run")])[0]


def query(db: Queryable, call: Call) -> list[dict[str, Any]]:
    body = call.read(FlowRunQuery)
    runs = flow_runs.find(
        db,
        body.flow_runs,
        **body.others("flow_runs"),
        sort=body.sort or FlowRunSort.ID_DESC,
        limit=MAX_LIMIT if body.limit is None else body.limit,
        offset=body.offset,
    )
    return _describe(db, runs)


def count(db: Queryable, call: Call) -> int:
    body = call.read(RunFilters)
    return flow_runs.count(db, body.flow_runs, **body.others("flow_runs"))


@dataclass(slots=True, kw_only=True)
class FlowRunUpdate:
    """What a PATCH can change; what is not in the body stays as it is."""

    name: str | None = None
    flow_version: str | None = None
    parameters: Annotated[Mapping[str, Any], fits] = field(default_factory=dict)
    empirical_policy: Mapping[str, Any] = field(default_factory=dict)
    tags: list[str] = field(default_factory=list)
    infrastructure_pid: str | None = None
    job_variables: Mapping[str, Any] | None = None


def update(db: Backend, call: Call) -> None:
    body = call.read(FlowRunUpdate)
    changes: Any = {name: getattr(body, name) for name in call.json() if hasattr(body, name)}

    def work(txn: Queryable) -> None:
        if body.job_variables is not None:
            run = found(flow_runs.get(txn, call.id, for_update=True), "flow run")
            if run.state_type is not StateType.SCHEDULED or run.deployment_id is None:
                raise HTTPException(
                    400, f"Job variables for a flow run in state {run.state_type} cannot be updated"
                )
        flow_runs.update(txn, call.id, **changes)

    db.run(work)


def merge_labels(db: Queryable, call: Call) -> None:
    labels = call.read(dict[str, Label])
    try:
        flow_runs.merge_labels(db, call.id, labels)
    except NotFound as error:
        raise Missing(f"There is no flow run {call.id}") from error


def remove(db: Backend, call: Call) -> None:
    def work(txn: Queryable) -> None:
        flow_runs.delete(txn, call.id)
        logs.delete(txn, call.id)

    db.run(work)


def set_state(db: Backend, call: Call) -> Reply:
    body = call.read(SetState)
    state = body.state.make()
    result = db.run(
        lambda txn: orchestration.set_flow_run_state(txn, call.id, state, force=body.force)
    )
    entered = result["state"]
    return Reply(result, call.status(entered.timestamp if entered else None))


def _describe(db: Queryable, runs: list[FlowRun]) -> list[dict[str, Any]]:
    return describe(db, runs, flow_runs.get_states)


ROUTES = [
    post("/flow_runs/", create),
    post("/flow_runs/filter", query),
    post("/flow_runs/count", count),
    get("/flow_runs/{id:uuid}", read),
    patch("/flow_runs/{id:uuid}", update),
    patch("/flow_runs/{id:uuid}/labels", merge_labels),
    delete("/flow_runs/{id:uuid}", remove),
    post("/flow_runs/{id:uuid}/set_state", set_state),
]
