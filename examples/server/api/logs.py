"""/logs"""

from __future__ import annotations

from dataclasses import dataclass, fields
from datetime import datetime
from uuid import UUID

from examples.server.calls import MAX_LIMIT, Call, Limit, Offset, Reply
from examples.server.routing import post
from prefect_db import Queryable, logs
from prefect_db.logs import Log, LogFilter, LogSort


@dataclass(slots=True, kw_only=True)
class LogCreate:
    name: str
    level: int
    message: str
    timestamp: datetime
    flow_run_id: UUID | None = None
    task_run_id: UUID | None = None


@dataclass(slots=True, kw_only=True)
class LogQuery:
    logs: LogFilter | None = None
    sort: LogSort | None = None
    limit: Limit = None
    offset: Offset = 0


@dataclass(slots=True, kw_only=True)
class LogCount:
    logs: LogFilter | None = None


def write(db: Queryable, call: Call) -> Reply:
    lines = call.read(list[LogCreate])
    logs.write(db, [{f.name: getattr(line, f.name) for f in fields(line)} for line in lines])
    return Reply(None, 201)


def query(db: Queryable, call: Call) -> list[Log]:
    body = call.read(LogQuery)
    return logs.find(
        db,
        body.logs,
        sort=body.sort or LogSort.TIMESTAMP_ASC,
        limit=MAX_LIMIT if body.limit is None else body.limit,
        offset=body.offset,
    )


def count(db: Queryable, call: Call) -> int:
    """Not one of Prefect's calls."""
    return logs.count(db, call.read(LogCount).logs)


ROUTES = [
    post("/logs/", write),
    post("/logs/filter", query),
    post("/logs/count", count),
]
