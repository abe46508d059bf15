"""Events for tests: made by number, and by the second."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

from prefect_db import Queryable, events
from prefect_db.events import Event, EventFilter, Order

Labels = dict[str, str]

NOON: Final = datetime(2030, 1, 1, 12, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


def numbered(number: int) -> UUID:
    return UUID(int=number)


def resource(id: str, **labels: str) -> Labels:
    return {"prefect.resource.id": id, **labels}


def related(id: str, role: str, **labels: str) -> Labels:
    return {"prefect.resource.id": id, "prefect.resource.role": role, **labels}


def make(
    number: int | None = None,
    seconds: float = 0,
    name: str = "prefect.flow-run.Running",
    about: str = "prefect.flow-run.a",
    *roles: tuple[str, str],
) -> Event:
    """An event at so many seconds after noon, about a resource, with others in their roles."""
    return events.make(
        name,
        resource(about),
        id=None if number is None else numbered(number),
        occurred=at(seconds),
        related=[related(id, role) for id, role in roles],
    )


def fill(db: Queryable) -> None:
    """Events 1 to 8; 4 and 5 occur at one moment."""
    run, flow, tag = "prefect.flow-run.r", "prefect.flow.f", "prefect.tag.t"
    events.write(
        db,
        [
            make(1, 1, "prefect.flow-run.Pending", run, (flow, "flow")),
            make(2, 2, "prefect.flow-run.Running", run, (flow, "flow"), (tag, "tag")),
            make(3, 3, "prefect.flow_run.Odd", "other", (run, "flow-run")),
            make(4, 4, "prefect.task-run.Running", "task", (run, "flow-run"), (tag, "tag")),
            make(5, 4, "prefect.task-run.Completed", "task", (run, "flow-run")),
            make(6, 6, "Prefect.Flow-run.Odd", "100%"),
            make(7, 7, "prefect.flow-run.Completed", run, (flow, "flow"), (run, "self")),
            make(8, 8, "x", "ünï'code"),
        ],
    )


def pages(
    db: Queryable, filter: EventFilter | None = None, *, order: Order = "DESC", limit: int = 3
) -> Iterator[list[Event]]:
    after: str | None = None
    while True:
        page = events.query(db, filter, order=order, limit=limit, after=after)
        yield page.events
        if page.next is None:
            return
        assert page.events
        after = page.next
