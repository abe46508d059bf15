"""/flows"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated

from examples.server.api.filters import RunFilters
from examples.server.calls import MAX_LIMIT, Call, Limit, Offset, Reply, found
from examples.server.checks import Label, is_name
from examples.server.routing import delete, get, patch, post
from prefect_db import Queryable, flows
from prefect_db.flows import Flow, FlowSort


@dataclass(slots=True, kw_only=True)
class FlowCreate:
    name: Annotated[str, is_name]
    tags: list[str] = field(default_factory=list)
    labels: Mapping[str, Label] | None = None


@dataclass(slots=True, kw_only=True)
class FlowUpdate:
    tags: list[str] = field(default_factory=list)


@dataclass(slots=True, kw_only=True)
class FlowQuery(RunFilters):
    sort: FlowSort | None = None
    limit: Limit = None
    offset: Offset = 0


def create(db: Queryable, call: Call) -> Reply:
    body = call.read(FlowCreate)
    flow = flows.create(db, body.name, tags=body.tags, labels=body.labels or {})
    return Reply(flow, call.status(flow.created))


def read(db: Queryable, call: Call) -> Flow:
    return found(flows.get(db, call.id), "flow")


def read_by_name(db: Queryable, call: Call) -> Flow:
    return found(flows.get_by_name(db, call.path["name"]), "flow")


def query(db: Queryable, call: Call) -> list[Flow]:
    body = call.read(FlowQuery)
    return flows.find(
        db,
        body.flows,
        **body.others("flows"),
        sort=body.sort or FlowSort.NAME_ASC,
        limit=MAX_LIMIT if body.limit is None else body.limit,
        offset=body.offset,
    )


def count(db: Queryable, call: Call) -> int:
    body = call.read(RunFilters)
    return flows.count(db, body.flows, **body.others("flows"))


def update(db: Queryable, call: Call) -> None:
    flows.update(db, call.id, tags=call.read(FlowUpdate).tags)


def remove(db: Queryable, call: Call) -> None:
    flows.delete(db, call.id)


ROUTES = [
    post("/flows/", create),
    post("/flows/filter", query),
    post("/flows/count", count),
    get("/flows/name/{name}", read_by_name),
    get("/flows/{id:uuid}", read),
    patch("/flows/{id:uuid}", update),
    delete("/flows/{id:uuid}", remove),
]
