"""/events, but for how they come in: that is `ingest`."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

from starlette.exceptions import HTTPException

from examples.server.bodies import Invalid, dump, parse, read
from examples.server.calls import Call, at_least, at_most
from examples.server.routing import get, post
from prefect_db import Queryable, events
from prefect_db.events import EventCount, EventFilter, Occurred, Order, Unit

MAX_PAGE = 50
LOOK_BACK = timedelta(days=180)


@dataclass(slots=True, kw_only=True)
class OrderedFilter(EventFilter):
    """Prefect has the order of a page in its filter."""

    order: Order = "DESC"

    def bounded(self) -> OrderedFilter:
        """The filter with Prefect's bounds, where none are given: half a year back, until now."""
        now = datetime.now(UTC)
        midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
        given = self.occurred or Occurred()
        occurred = Occurred(since=given.since or midnight - LOOK_BACK, until=given.until or now)
        return replace(self, occurred=occurred)


@dataclass(slots=True, kw_only=True)
class EventQuery:
    filter: OrderedFilter | None = None
    limit: Annotated[int, at_least(0), at_most(MAX_PAGE)] = MAX_PAGE


@dataclass(slots=True, kw_only=True)
class EventCounting:
    filter: OrderedFilter
    time_unit: Unit = "day"
    time_interval: Annotated[float, at_least(0.01)] = 1.0


@dataclass(slots=True, kw_only=True)
class Position:
    """Where the page that follows begins: what its token holds."""

    filter: OrderedFilter
    limit: int
    total: int
    after: str


def query(db: Queryable, call: Call) -> dict[str, Any]:
    body = call.read(EventQuery)
    # The bounds are those of the first page, on every page that follows.
    filter = (body.filter or OrderedFilter()).bounded()
    total = events.count(db, filter)
    return _page(db, call, filter, body.limit, total, None)


def query_next(db: Queryable, call: Call) -> dict[str, Any]:
    try:
        token = base64.b64decode(call.query["page-token"], validate=True)
        position = read(Position, parse(token))
    except (KeyError, binascii.Error, Invalid) as error:
        raise HTTPException(403) from error
    return _page(db, call, position.filter, position.limit, position.total, position.after)


def _page(
    db: Queryable, call: Call, filter: OrderedFilter, limit: int, total: int, after: str | None
) -> dict[str, Any]:
    if limit == 0:
        return {"events": [], "total": total, "next_page": None}
    page = events.query(db, filter, order=filter.order, limit=limit, after=after)
    link = None
    if page.next is not None:
        following = Position(filter=filter, limit=limit, total=total, after=page.next)
        token = base64.b64encode(dump(following)).decode()
        link = f"{call.base_url}api/events/filter/next?page-token={token}"
    return {"events": page.events, "total": total, "next_page": link}


def count_by(db: Queryable, call: Call) -> list[EventCount]:
    body = call.read(EventCounting)
    filter = body.filter.bounded()
    match call.path["countable"]:
        case "event":
            return events.count_by_event(db, filter)
        case "resource":
            return events.count_by_resource(db, filter)
        case "time":
            return events.count_by_time(db, body.time_unit, filter, interval=body.time_interval)
        case "day" if body.time_unit == "day":
            return events.count_by_time(db, "day", filter)
    raise Invalid("Input should be 'day', 'time', 'event' or 'resource'", ["path", "countable"])


ROUTES = [
    post("/events/filter", query),
    get("/events/filter/next", query_next),
    post("/events/count-by/{countable}", count_by),
]
