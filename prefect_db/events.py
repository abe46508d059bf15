"""Events and the resources that they are about. Rules: Prefect's server, events/storage.

Writing is idempotent: a client sends an event again when it is not sure that it arrived.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from operator import attrgetter
from typing import Any, Final, Literal, TypeVar
from uuid import UUID

from prefect_db.errors import BadValue
from prefect_db.event_filters import RESOURCE_ID as RESOURCE_ID
from prefect_db.event_filters import RESOURCE_ROLE as RESOURCE_ROLE
from prefect_db.event_filters import AnyResource as AnyResource
from prefect_db.event_filters import EventFilter as EventFilter
from prefect_db.event_filters import EventId as EventId
from prefect_db.event_filters import EventName as EventName
from prefect_db.event_filters import Occurred as Occurred
from prefect_db.event_filters import Order as Order
from prefect_db.event_filters import Place, conditions_of, driver_of
from prefect_db.event_filters import Related as Related
from prefect_db.event_filters import Resource as Resource
from prefect_db.filters import Where
from prefect_db.ids import uuid7
from prefect_db.pace import Pace
from prefect_db.queryable import Queryable
from prefect_db.row import Record
from prefect_db.text_search import Text as Text
from prefect_db.values import (
    Array,
    as_utc,
    check_text,
    dump_json,
    read_uuid,
    to_datetime,
    to_object,
    to_uuid,
)

MAX_NAME: Final = 1024
MAX_RELATED: Final = 100
MAX_LABELS: Final = 500

Labels = dict[str, str]


T = TypeVar("T")


@dataclass(slots=True)
class Event(Record):
    """Something that happened to a resource.

    Attributes:
        occurred: The sender's time.
        event: Its name, as in `prefect.flow-run.Running`.
        resource_id: The label `prefect.resource.id` of `resource`.
        resource: What it happened to: all labels.
        related_resource_ids: The ids of `related`, in order.
        related: The labels of other resources; each has a `prefect.resource.role`.
        payload: Anything else.
        received: When the server accepted it.
        recorded: When it was written.
        follows: The event before it, if the sender says so.
    """

    id: UUID
    occurred: datetime
    event: str
    resource_id: str
    resource: Labels
    related_resource_ids: list[str]
    related: list[Labels]
    payload: dict[str, Any]
    received: datetime
    recorded: datetime
    follows: UUID | None


def make(
    event: str,
    resource: Mapping[str, str],
    *,
    occurred: datetime | str | None = None,
    related: Sequence[Mapping[str, str]] = (),
    payload: Mapping[str, Any] | None = None,
    id: UUID | str | None = None,
    follows: UUID | str | None = None,
    received: datetime | str | None = None,
) -> Event:
    """An event to `write`: `make(**frame)` takes a client's JSON as it is.

    Raises:
        BadValue: No resource id, a related resource without a role, a name over 1024
            characters, over 100 related resources, over 500 labels, or a wrong id or time.
    """
    now = datetime.now(UTC)
    if not isinstance(event, str) or len(check_text(event)) > MAX_NAME:
        raise BadValue(f"an event's name is a text of at most {MAX_NAME} characters")
    if len(related) > MAX_RELATED:
        raise BadValue(f"{len(related)} related resources; an event has at most {MAX_RELATED}")
    resources = [to_object(labels) for labels in (resource, *related)]
    for labels in resources:
        if not all(isinstance(text, str) for pair in labels.items() for text in pair):
            raise BadValue("the labels of a resource are texts")
        if not labels.get(RESOURCE_ID) or len(labels) > MAX_LABELS:
            raise BadValue(f"a resource has a {RESOURCE_ID}, and at most {MAX_LABELS} labels")
    if not all(labels.get(RESOURCE_ROLE) for labels in resources[1:]):
        raise BadValue(f"a related resource has a {RESOURCE_ROLE}")
    return Event(
        id=uuid7() if id is None else to_uuid(id),
        occurred=now if occurred is None else to_datetime(occurred),
        event=event,
        resource_id=resources[0][RESOURCE_ID],
        resource=resources[0],
        related_resource_ids=[labels[RESOURCE_ID] for labels in resources[1:]],
        related=resources[1:],
        payload=to_object(payload or {}),
        received=now if received is None else to_datetime(received),
        recorded=now,
        follows=None if follows is None else to_uuid(follows),
    )


def write(db: Queryable, events: Iterable[Event | Mapping[str, Any]]) -> int:
    """Write events with their resources, all or none; how many were new.

    Args:
        db: Where.
        events: Made by `make`, or a client's JSON, which must have an id.

    An event whose id is stored already, or comes twice, is left as it was.

    Raises:
        BadValue: See `make`.
    """
    new = {event.id: event for event in reversed([*map(parse, events)])}
    if not new:
        return 0
    # In the order of ids: writers of the same events then wait for each other in one order.
    ids = sorted(new, key=attrgetter("int"))
    few = db.dialect.pick(sqlite=_FEW, postgres=_MANY)
    written = 0
    with db.unit() as txn:
        now = txn.dialect.bind_one(datetime.now(UTC))
        for part in _parts(ids, _MANY):
            stored = _ids(txn, "SELECT id FROM events WHERE id", part)
            missing = [new[id] for id in part if id not in stored]
            written += sum(_write(txn, batch, now) for batch in _parts(missing, few))
    return written


# How many events are looked for, and how many are made ready, at a time. The latter is Python, and
# other threads wait for it: on SQLite they get their turn at each of its statements, and take it
# from this one for a while, so that there are few. On PostgreSQL each batch is some round trips.
_MANY: Final = 1000
_FEW: Final = 64
# Rows of a statement, whose parameters SQLite counts up to 32,766.
_ROWS: Final = 256


def _parts(items: list[T], size: int) -> Iterator[list[T]]:
    for at in range(0, len(items), size):
        yield items[at : at + size]


def _write(txn: Queryable, events: list[Event], now: Any) -> int:
    """Write events, in the order of their ids; how many of them were new."""
    bind = txn.dialect.bind_one
    # What many rows share is brought to its stored form here, once. On PostgreSQL the default of a
    # column costs less than a parameter; SQLite's has milliseconds, where Prefect writes more.
    batch = [(bind(event.id), bind(event.occurred), event) for event in events]
    names, stamps = txn.dialect.pick(sqlite=(", created, updated", (now, now)), postgres=("", ()))
    written = _insert(
        txn,
        f"INSERT INTO events ({Event.columns}{names})",
        (
            (
                event_id,
                occurred,
                event.event,
                event.resource_id,
                event.resource,
                event.related_resource_ids,
                event.related,
                event.payload,
                event.received,
                now,
                event.follows,
                *stamps,
            )
            for event_id, occurred, event in batch
        ),
        "ON CONFLICT (id) DO NOTHING",
    )
    if written < len(batch):
        # Another writer has committed some of them since; with their resources, which ours do not
        # have yet.
        ids = [event.id for event in events]
        theirs = _ids(txn, "SELECT DISTINCT event_id FROM event_resources WHERE event_id", ids)
        batch = [each for each in batch if each[2].id not in theirs]
    _insert(
        txn,
        "INSERT INTO event_resources (id, occurred, resource_id, resource_role, resource,"
        f" event_id{names})",
        (
            # A column of json, not jsonb, on PostgreSQL: it keeps the text as it is.
            (uuid7(), occurred, resource_id, role, dump_json(labels), event_id, *stamps)
            for event_id, occurred, event in batch
            for resource_id, role, labels in _resources(event)
        ),
    )
    return len(batch)


def _insert(txn: Queryable, into: str, rows: Iterable[tuple[Any, ...]], conflict: str = "") -> int:
    """Insert rows; how many."""
    row = f"({', '.join('?' * (into.count(',') + 1))})"
    if txn.dialect.name == "postgres":
        return txn.executemany(f"{into} VALUES {row} {conflict}", rows)
    rows = list(rows)
    # By powers of two, so that there are few statements to prepare.
    at, size, written = 0, _ROWS, 0
    while at < len(rows):
        while size > len(rows) - at:
            size //= 2
        values = [value for values in rows[at : at + size] for value in values]
        sql = f"{into} VALUES {', '.join([row] * size)} {conflict}"
        written += txn.execute(sql, values)
        at += size
    return written


def parse(event: Event | Mapping[str, Any]) -> Event:
    """The event of a client's JSON; an event itself.

    Raises:
        BadValue: See `make`; or there is no id, or a key that no event has.
    """
    if isinstance(event, Event):
        return event
    if not event.get("id"):
        raise BadValue("an event without an id: it could not be known again")
    try:
        return make(**event)
    except (TypeError, ValueError, AttributeError) as error:
        raise BadValue(f"an event with the keys {', '.join(map(str, event))}") from error


def _ids(txn: Queryable, sql: str, ids: list[UUID]) -> set[UUID]:
    """Those of the ids that the statement finds."""
    listed = txn.dialect.pick(
        sqlite="IN (SELECT value FROM json_each(?))", postgres="= ANY(CAST(? AS uuid[]))"
    )
    return {read_uuid(row[0]) for row in txn.rows(f"{sql} {listed}", (Array(ids),))}


def _resources(event: Event) -> Iterator[tuple[str, str, Labels]]:
    """The id, the role and the other labels of each."""
    for at, labels in enumerate((event.resource, *event.related)):
        role = labels[RESOURCE_ROLE] if at else ""
        others = dict(labels)
        others.pop(RESOURCE_ROLE, None)
        yield others.pop(RESOURCE_ID), role, others


@dataclass(slots=True)
class Page:
    """A page of events.

    Attributes:
        events: The events, by time.
        next: What to pass as `after` for the page that follows; None if this is the last.
    """

    events: list[Event]
    next: str | None


def query(
    db: Queryable,
    filter: EventFilter | None = None,
    *,
    order: Order = "DESC",
    limit: int = 50,
    after: str | None = None,
) -> Page:
    """A page of the events that the filter lets through, newest first, or oldest with "ASC".

    The cost of a page does not grow with the number of pages before it: the next one begins at a
    place, not at a count.

    Raises:
        BadValue: `limit` is below 1, `order` is neither, or `after` is no page's `next`.
    """
    if order not in ("ASC", "DESC") or not isinstance(limit, int) or limit < 1:
        raise BadValue(f"order={order!r}, limit={limit!r}; order is ASC or DESC, limit at least 1")
    place = None if after is None else Place(*_position(after), order)
    found: dict[int, Event] = {}
    while len(found) <= limit:
        events = _page(db, filter or EventFilter(), order, limit + 1, place)
        found |= {event.id.int: event for event in events}
        if len(events) <= limit:
            break
        # An event that has a resource in two roles comes twice; so there may be too few.
        place = Place(events[-1].occurred, events[-1].id, order)
    page = list(found.values())[:limit]
    return Page(page, _token(page[-1]) if len(found) > limit else None)


def _page(
    db: Queryable,
    filter: EventFilter,
    order: Order,
    limit: int,
    place: Place | None,
) -> list[Event]:
    if filter.resource is not None and filter.resource.distinct:
        return _distinct_page(db, filter, order, limit, place)
    # With one resource, its entries in event_resources are already in the order of time.
    driver = driver_of(filter)
    source, occurred, event_id = "events AS e", "e.occurred", "e.id"
    if driver is not None:
        # Not as a join of PostgreSQL's: to plan one, it looks for the lowest id that is left, which
        # takes milliseconds while others trim.
        source = db.dialect.pick(
            sqlite="event_resources AS r JOIN events AS e ON e.id = r.event_id",
            postgres="event_resources AS r CROSS JOIN LATERAL"
            " (SELECT * FROM events WHERE id = r.event_id OFFSET 0) AS e",
        )
        occurred, event_id = "r.occurred", "r.event_id"
    where = conditions_of(db.dialect, filter, driver, place)
    return db.rows(
        f"SELECT {_COLUMNS} FROM {source}{where.sql}"
        f" ORDER BY {occurred} {order}, {event_id} {order} LIMIT ?",
        (*where.params, limit),
        into=Event,
        # Of a time alone, all pages are read along the same index.
        prepare=replace(filter, occurred=None) == EventFilter(),
    )


def _distinct_page(
    db: Queryable,
    filter: EventFilter,
    order: Order,
    limit: int,
    place: Place | None,
) -> list[Event]:
    """Of each resource the first event; which one that is, no page changes."""
    where = conditions_of(db.dialect, filter)
    first = Where(db.dialect)
    first.add("e.place = 1")
    if place is not None:
        sign = "<" if order == "DESC" else ">"
        first.add(f"(e.occurred, e.id) {sign} (?, ?)", place.occurred, place.id)
    return db.rows(
        f"SELECT {Event.columns} FROM (SELECT {_COLUMNS}, row_number() OVER (PARTITION BY"
        f" e.resource_id ORDER BY e.occurred {order}, e.id {order}) AS place"
        f" FROM events AS e{where.sql}) AS e{first.sql}"
        f" ORDER BY e.occurred {order}, e.id {order} LIMIT ?",
        (*where.params, *first.params, limit),
        into=Event,
        prepare=False,
    )


_COLUMNS: Final = ", ".join(f"e.{name}" for name in Event.columns.split(", "))


def _token(event: Event) -> str:
    text = json.dumps([event.occurred.isoformat(), str(event.id)])
    return base64.urlsafe_b64encode(text.encode()).decode()


def _position(token: str) -> tuple[datetime, UUID]:
    try:
        occurred, event_id = json.loads(base64.b64decode(token, altchars=b"-_", validate=True))
        return to_datetime(occurred), to_uuid(event_id)
    except (ValueError, TypeError, RecursionError, binascii.Error, BadValue) as error:
        raise BadValue("`after` is not the `next` of a page") from error


def count(db: Queryable, filter: EventFilter | None = None) -> int:
    """How many events the filter lets through; if they are to be distinct, of how many resources.

    The counts by something take all of them, as in Prefect.
    """
    filter = filter or EventFilter()
    where = conditions_of(db.dialect, filter)
    distinct = filter.resource is not None and filter.resource.distinct
    counted = "DISTINCT e.resource_id" if distinct else "*"
    sql = f"SELECT count({counted}) FROM events AS e{where.sql}"
    return int(db.value(sql, where.params, prepare=not where.params))


@dataclass(slots=True)
class EventCount(Record):
    """How many events there were of a kind, and from when to when.

    Attributes:
        value: The event's name, the resource's id, or the number of the span of time from 0.
        label: The event's name, the resource's newest name, or the span's beginning.
        start_time, end_time: Of the first and the last; of a span of time, its own.
    """

    value: str
    label: str
    count: int
    start_time: datetime
    end_time: datetime


def count_by_event(db: Queryable, filter: EventFilter | None = None) -> list[EventCount]:
    """How many events there were of each name; the most frequent first."""
    where = conditions_of(db.dialect, filter or EventFilter())
    return db.rows(
        "SELECT e.event AS value, e.event AS label, count(*) AS count,"
        " min(e.occurred) AS start_time, max(e.occurred) AS end_time"
        f" FROM events AS e{where.sql} GROUP BY e.event ORDER BY count(*) DESC, e.event",
        where.params,
        into=EventCount,
        prepare=False,
    )


def count_by_resource(db: Queryable, filter: EventFilter | None = None) -> list[EventCount]:
    """How many events there were about each resource; the most frequent first."""
    where = conditions_of(db.dialect, filter or EventFilter())
    name = db.dialect.pick(
        sqlite="json_extract(e.resource, '$.\"{}\"')", postgres="e.resource ->> '{}'"
    )
    label = (
        f"coalesce({name.format('prefect.resource.name')}, {name.format('prefect.name')},"
        " e.resource_id)"
    )
    return db.rows(
        f"WITH named AS (SELECT e.resource_id, e.occurred, {label} AS label, row_number() OVER"
        " (PARTITION BY e.resource_id ORDER BY e.occurred DESC, e.id DESC) AS recency"
        f" FROM events AS e{where.sql})"
        " SELECT resource_id AS value, max(CASE WHEN recency = 1 THEN label END) AS label,"
        " count(*) AS count, min(occurred) AS start_time, max(occurred) AS end_time"
        " FROM named GROUP BY resource_id ORDER BY 3 DESC, 2, 1",
        where.params,
        into=EventCount,
        prepare=False,
    )


Unit = Literal["week", "day", "hour", "minute", "second"]

_SECONDS: Final[dict[Unit, int]] = {
    "week": 604_800,
    "day": 86_400,
    "hour": 3_600,
    "minute": 60,
    "second": 1,
}
# A Monday: where Prefect's spans of time begin.
_ORIGIN: Final = datetime(2024, 4, 1, tzinfo=UTC)
MAX_SPANS: Final = 1000


def count_by_time(
    db: Queryable,
    unit: Unit,
    filter: EventFilter,
    *,
    interval: float = 1.0,
) -> list[EventCount]:
    """How many events there were in each span of time, from the one that holds the filter's
    `occurred.since` to the one that holds `occurred.until` (now, if not given); those without
    events too.

    Args:
        db: Where.
        unit: What a span is measured in.
        filter: Which events; its `occurred` must have `since`.
        interval: How many units a span is long, 0.01 to 10,000.

    Raises:
        BadValue: There would be over 1000 spans, or an argument is wrong.
    """
    occurred = filter.occurred or Occurred()
    if unit not in _SECONDS or not 0.01 <= interval <= 10_000 or occurred.since is None:
        raise BadValue(
            f"unit={unit!r}, interval={interval!r}, since={occurred.since}; a unit is"
            f" {', '.join(_SECONDS)}, an interval 0.01 to 10,000, and `since` must be given"
        )
    span = timedelta(seconds=_SECONDS[unit] * interval)
    since, until = as_utc(occurred.since), as_utc(occurred.until or datetime.now(UTC))
    start = _ORIGIN + (since - _ORIGIN) // span * span
    spans = max((until - start) // span + 1, 0)
    if spans > MAX_SPANS:
        raise BadValue(f"{spans} spans of time; at most {MAX_SPANS}: narrow the range")
    where = conditions_of(db.dialect, replace(filter, occurred=Occurred(since=since, until=until)))
    microseconds = db.dialect.pick(
        sqlite="(CAST(strftime('%s', substr(e.occurred, 1, 19)) AS INTEGER) * 1000000"
        " + CAST(substr(e.occurred, 21, 6) AS INTEGER))",
        postgres="CAST(extract(epoch FROM e.occurred) * 1000000 AS bigint)",
    )
    rows = db.rows(
        f"SELECT ({microseconds} - CAST(? AS bigint)) / CAST(? AS bigint) AS span,"
        f" count(*) AS events FROM events AS e{where.sql} GROUP BY 1",
        (_microseconds(start - _EPOCH), _microseconds(span), *where.params),
        prepare=False,
    )
    counts = {int(row[0]): int(row[1]) for row in rows}
    return [
        EventCount(
            value=str(at),
            label=(start + at * span).isoformat(),
            count=counts.get(at, 0),
            start_time=start + at * span,
            end_time=start + (at + 1) * span - timedelta(microseconds=1),
        )
        for at in range(spans)
    ]


_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def _microseconds(duration: timedelta) -> int:
    return duration // timedelta(microseconds=1)


def trim(
    db: Queryable,
    before: datetime,
    *,
    name: str | None = None,
    batch: int = 500,
    progress: Callable[[int], object] | None = None,
    dry_run: bool = False,
) -> int:
    """Delete events that occurred before a time, oldest first; how many this call deleted.

    Each batch is a transaction of its own, so that others get their turn; what is left is whole
    whenever this is interrupted.

    Args:
        db: Where; a Backend.
        before: The limit, itself kept.
        name: Only events of this name.
        batch: How many to delete at a time, at most; fewer if that takes long.
        progress: Called after each batch with the number deleted so far.
        dry_run: Only count them.
    """
    if batch < 1:
        raise BadValue(f"batch={batch}; it is at least 1")
    named = " AND event = ?" if name is not None else ""
    before = to_datetime(before)
    params = (before, name) if name is not None else (before,)
    if dry_run:
        return int(db.value(f"SELECT count(*) FROM events WHERE occurred < ?{named}", params))
    listed = db.dialect.pick(
        sqlite="IN (SELECT value FROM json_each(?))", postgres="= ANY(CAST(? AS uuid[]))"
    )
    # Two that trim at the same time would wait for each other's rows, each in its own order.
    lock = db.dialect.pick(sqlite="", postgres=" FOR UPDATE SKIP LOCKED")
    deleted = 0
    pace = Pace(batch)
    while True:
        asked = pace.size
        with pace.timed(), db.unit() as txn:
            rows = txn.rows(
                f"SELECT id FROM events WHERE occurred < ?{named}"
                f" ORDER BY occurred, id LIMIT ?{lock}",
                (*params, asked),
            )
            ids = Array([row.uuid(0) for row in rows])
            txn.execute(f"DELETE FROM event_resources WHERE event_id {listed}", (ids,))
            deleted += txn.execute(f"DELETE FROM events WHERE id {listed}", (ids,))
        if progress is not None:
            progress(deleted)
        if len(rows) < asked:
            return deleted
