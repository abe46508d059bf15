"""Events and the resources that they are about. Rules: Prefect's server, events/storage.

Writing is idempotent: a client sends an event again when it is not sure that it arrived.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal
from uuid import UUID

from prefect_db.errors import BadValue
from prefect_db.filters import Among, AnyOf, Time, Where
from prefect_db.ids import uuid7
from prefect_db.queryable import Queryable
from prefect_db.row import Record
from prefect_db.values import Array, as_utc, check_text, to_datetime, to_list, to_object, to_uuid

RESOURCE_ID: Final = "prefect.resource.id"
RESOURCE_ROLE: Final = "prefect.resource.role"
MAX_NAME: Final = 1024
MAX_RELATED: Final = 100
MAX_LABELS: Final = 500

Labels = dict[str, str]


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
    batch = list({event.id: event for event in reversed([*map(parse, events)])}.values())[::-1]
    if not batch:
        return 0
    with db.transaction() as txn:
        stored = _ids(txn, "SELECT id FROM events WHERE id", batch)
        now = datetime.now(UTC)
        # In the order of ids: writers of the same events then wait for each other in one order.
        batch = [
            replace(event, recorded=now)
            for event in sorted(batch, key=lambda event: event.id)
            if event.id not in stored
        ]
        written = txn.executemany(
            f"INSERT INTO events ({Event.columns}, created, updated)"
            f" VALUES ({Event.marks}, ?, ?) ON CONFLICT (id) DO NOTHING",
            [(*event.params(), now, now) for event in batch],
        )
        if written < len(batch):
            # Another writer has committed some of them since; with their resources, which ours
            # do not have yet.
            theirs = _ids(
                txn, "SELECT DISTINCT event_id FROM event_resources WHERE event_id", batch
            )
            batch = [event for event in batch if event.id not in theirs]
        txn.executemany(
            "INSERT INTO event_resources (id, created, updated, occurred, resource_id,"
            " resource_role, resource, event_id) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            [(uuid7(), now, now, *row) for event in batch for row in _resources(event)],
        )
        return len(batch)


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


def _ids(txn: Queryable, sql: str, events: list[Event]) -> set[UUID | None]:
    listed = txn.dialect.pick(
        sqlite="IN (SELECT value FROM json_each(?))", postgres="= ANY(CAST(? AS uuid[]))"
    )
    return {
        row.uuid(0) for row in txn.rows(f"{sql} {listed}", (Array([event.id for event in events]),))
    }


def _resources(event: Event) -> list[tuple[datetime, str, str, dict[str, str], UUID]]:
    rows = []
    for at, labels in enumerate([event.resource, *event.related]):
        others = {k: v for k, v in labels.items() if k not in (RESOURCE_ID, RESOURCE_ROLE)}
        role = labels[RESOURCE_ROLE] if at else ""
        rows.append((event.occurred, labels[RESOURCE_ID], role, others, event.id))
    return rows


@dataclass(slots=True, kw_only=True)
class EventFilter:
    """Which events; a field that is not given tests nothing, and lists are alternatives.

    Attributes:
        id: These events.
        name, exclude_name: Of, or not of, exactly these names.
        prefix, exclude_prefix: With, or without, a name that begins so.
        resource_id: About one of these resources.
        related_id: With one of these as a related resource.
        any_resource_id: With one of these as either.
        since, until: Not before, not after (both inclusive).
    """

    id: Sequence[UUID] | None = None
    name: Sequence[str] | None = None
    exclude_name: Sequence[str] | None = None
    prefix: Sequence[str] | None = None
    exclude_prefix: Sequence[str] | None = None
    resource_id: Sequence[str] | None = None
    related_id: Sequence[str] | None = None
    any_resource_id: Sequence[str] | None = None
    since: datetime | None = None
    until: datetime | None = None


Order = Literal["ASC", "DESC"]


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
    position = None if after is None else _position(after)
    found: dict[UUID, Event] = {}
    while len(found) <= limit:
        events = _page(db, filter or EventFilter(), order, limit + 1, position)
        found |= {event.id: event for event in events}
        if len(events) <= limit:
            break
        # An event that has a resource in two roles comes twice; so there may be too few.
        position = (events[-1].occurred, events[-1].id)
    page = list(found.values())[:limit]
    return Page(page, _token(page[-1]) if len(found) > limit else None)


def _page(
    db: Queryable,
    filter: EventFilter,
    order: Order,
    limit: int,
    position: tuple[datetime, UUID] | None,
) -> list[Event]:
    # With one resource, its entries in event_resources are already in the order of time.
    roles = _roles(filter)
    driver = next((role for role, ids in roles if len(ids) == 1), None)
    where = Where(db.dialect)
    source, occurred, event_id = "events AS e", "e.occurred", "e.id"
    if driver is not None:
        source = "event_resources AS r JOIN events AS e ON e.id = r.event_id"
        occurred, event_id = "r.occurred", "r.event_id"
        where.add(f"r.resource_id = ?{driver}", dict(roles)[driver][0])
    _filter(where, db, filter, occurred, [pair for pair in roles if pair[0] != driver])
    if position is not None:
        where.add(f"({occurred}, {event_id}) {'<' if order == 'DESC' else '>'} (?, ?)", *position)
    columns = ", ".join(f"e.{name}" for name in Event.columns.split(", "))
    return db.rows(
        f"SELECT {columns} FROM {source}{where.sql}"
        f" ORDER BY {occurred} {order}, {event_id} {order} LIMIT ?",
        (*where.params, limit),
        into=Event,
    )


def _roles(filter: EventFilter) -> list[tuple[str, Sequence[str]]]:
    """What the filter says of resources: a condition on their role, and their ids."""
    pairs = [
        (" AND r.resource_role = ''", filter.resource_id),
        (" AND r.resource_role <> ''", filter.related_id),
        ("", filter.any_resource_id),
    ]
    return [(role, ids) for role, ids in pairs if ids is not None]


def _filter(
    where: Where,
    db: Queryable,
    filter: EventFilter,
    occurred: str,
    roles: list[tuple[str, Sequence[str]]],
) -> None:
    """Add the filter's conditions, with those on resources that are left."""
    where.among("e.id", "uuid", AnyOf(any_=filter.id))
    where.among("e.event", "text", Among(any_=filter.name, not_any_=filter.exclude_name))
    for prefixes, exclude in ((filter.prefix, False), (filter.exclude_prefix, True)):
        if prefixes is not None:
            where.group(_prefixes(db, prefixes, exclude=exclude))
    bounds = Time(after_=filter.since, before_=filter.until)
    where.time(occurred, bounds)
    for role, ids in roles:
        inner = Where(db.dialect)
        inner.among("r.resource_id", "text", AnyOf(any_=ids))
        inner.time("r.occurred", bounds)
        where.add(
            f"e.id IN (SELECT r.event_id FROM event_resources AS r{inner.sql}{role})",
            *inner.params,
        )


def _prefixes(db: Queryable, prefixes: Sequence[str], *, exclude: bool) -> Where:
    """Names that begin so, or do not; case counts on both engines."""
    inner = Where(db.dialect, "and_" if exclude else "or_")
    for prefix in to_list(prefixes):
        # On SQLite LIKE ignores case; a range up to the last code point there is does not.
        test, params = db.dialect.pick(
            sqlite=("e.event >= ? AND e.event < ?", (prefix, f"{prefix}\U0010ffff")),
            postgres=("starts_with(e.event, ?)", (prefix,)),
        )
        inner.add(f"NOT ({test})" if exclude else f"({test})", *params)
    if not prefixes and not exclude:
        inner.add("1 = 0")
    return inner


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
    """How many events the filter lets through."""
    where = _everything(db, filter)
    return int(db.value(f"SELECT count(*) FROM events AS e{where.sql}", where.params))


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
    where = _everything(db, filter)
    return db.rows(
        "SELECT e.event AS value, e.event AS label, count(*) AS count,"
        " min(e.occurred) AS start_time, max(e.occurred) AS end_time"
        f" FROM events AS e{where.sql} GROUP BY e.event ORDER BY count(*) DESC, e.event",
        where.params,
        into=EventCount,
    )


def count_by_resource(db: Queryable, filter: EventFilter | None = None) -> list[EventCount]:
    """How many events there were about each resource; the most frequent first."""
    where = _everything(db, filter)
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
    """How many events there were in each span of time, from the one that holds `filter.since` to
    the one that holds `filter.until` (now, if not given); those without events too.

    Args:
        db: Where.
        unit: What a span is measured in.
        filter: Which events; it must have `since`.
        interval: How many units a span is long, 0.01 to 10,000.

    Raises:
        BadValue: There would be over 1000 spans, or an argument is wrong.
    """
    if unit not in _SECONDS or not 0.01 <= interval <= 10_000 or filter.since is None:
        raise BadValue(
            f"unit={unit!r}, interval={interval!r}, since={filter.since}; a unit is"
            f" {', '.join(_SECONDS)}, an interval 0.01 to 10,000, and `since` must be given"
        )
    span = timedelta(seconds=_SECONDS[unit] * interval)
    since, until = as_utc(filter.since), as_utc(filter.until or datetime.now(UTC))
    start = _ORIGIN + (since - _ORIGIN) // span * span
    spans = max((until - start) // span + 1, 0)
    if spans > MAX_SPANS:
        raise BadValue(f"{spans} spans of time; at most {MAX_SPANS}: narrow the range")
    where = _everything(db, replace(filter, since=since, until=until))
    microseconds = db.dialect.pick(
        sqlite="(CAST(strftime('%s', substr(e.occurred, 1, 19)) AS INTEGER) * 1000000"
        " + CAST(substr(e.occurred, 21, 6) AS INTEGER))",
        postgres="CAST(extract(epoch FROM e.occurred) * 1000000 AS bigint)",
    )
    rows = db.rows(
        f"SELECT ({microseconds} - CAST(? AS bigint)) / CAST(? AS bigint) AS span,"
        f" count(*) AS events FROM events AS e{where.sql} GROUP BY 1",
        (_microseconds(start - _EPOCH), _microseconds(span), *where.params),
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


def _everything(db: Queryable, filter: EventFilter | None) -> Where:
    filter = filter or EventFilter()
    where = Where(db.dialect)
    _filter(where, db, filter, "e.occurred", _roles(filter))
    return where


def trim(
    db: Queryable,
    before: datetime,
    *,
    name: str | None = None,
    batch: int = 500,
    progress: Callable[[int], object] | None = None,
    dry_run: bool = False,
) -> int:
    """Delete events that occurred before a time, oldest first; how many there were.

    Each batch is a transaction of its own, so that others get their turn; what is left is whole
    whenever this is interrupted.

    Args:
        db: Where; a Backend.
        before: The limit, itself kept.
        name: Only events of this name.
        batch: How many to delete at a time.
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
    deleted = 0
    while True:
        with db.transaction() as txn:
            rows = txn.rows(
                f"SELECT id FROM events WHERE occurred < ?{named} ORDER BY occurred, id LIMIT ?",
                (*params, batch),
            )
            ids = Array([row.uuid(0) for row in rows])
            txn.execute(f"DELETE FROM event_resources WHERE event_id {listed}", (ids,))
            deleted += txn.execute(f"DELETE FROM events WHERE id {listed}", (ids,))
        if progress is not None:
            progress(deleted)
        if len(rows) < batch:
            return deleted
