"""Which events: Prefect's filter of them, and the conditions that it becomes.

All that is given is required. A list is one of alternatives, and an empty one tests nothing, as
in Prefect. Rules: Prefect's server, events/filters.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal
from uuid import UUID

from prefect_db.dialect import Dialect
from prefect_db.errors import BadValue
from prefect_db.filters import AnyOf, Time, Where, escape_like
from prefect_db.text_search import Text, conditions
from prefect_db.values import check_text, to_datetime, to_list, to_object

RESOURCE_ID: Final = "prefect.resource.id"
RESOURCE_ROLE: Final = "prefect.resource.role"

Patterns = Mapping[str, str | Sequence[str]]


@dataclass(slots=True, kw_only=True)
class Occurred:
    """Not before `since`, not after `until` (both inclusive)."""

    since: datetime | None = None
    until: datetime | None = None


@dataclass(slots=True, kw_only=True)
class EventName:
    """A name that begins so, or is one of these; one that does not, or is none of those."""

    prefix: Sequence[str] | None = None
    exclude_prefix: Sequence[str] | None = None
    name: Sequence[str] | None = None
    exclude_name: Sequence[str] | None = None


@dataclass(slots=True, kw_only=True)
class EventId:
    """One of these events."""

    id: Sequence[UUID] | None = None


@dataclass(slots=True, kw_only=True)
class Resource:
    """What the event is about.

    Attributes:
        id: One of these.
        id_prefix: An id that begins so.
        labels: For each label a pattern, or alternatives, none of which nothing matches: `*` is
            any text, `?` any character, and `!` in front is for what does not match. What does
            not have the label never matches.
        distinct: Of each resource only the newest event, or the oldest where those come first.
    """

    id: Sequence[str] | None = None
    id_prefix: Sequence[str] | None = None
    labels: Patterns | None = None
    distinct: bool = False


@dataclass(slots=True, kw_only=True)
class Related:
    """A related resource that meets all of this.

    Attributes:
        id: One of these.
        role: In one of these roles; "" is that of the resource which the event is about.
        resources_in_roles: One of these pairs of an id and a role.
        labels: As in `Resource`; the label `prefect.resource.role` takes no patterns.
    """

    id: Sequence[str] | None = None
    role: Sequence[str] | None = None
    resources_in_roles: Sequence[tuple[str, str]] | None = None
    labels: Patterns | None = None


@dataclass(slots=True, kw_only=True)
class AnyResource:
    """A resource, related or not, that meets all of this; see `Resource` and `Related`."""

    id: Sequence[str] | None = None
    id_prefix: Sequence[str] | None = None
    labels: Patterns | None = None


@dataclass(slots=True, kw_only=True)
class EventFilter:
    """Which events; a field that is not given tests nothing.

    Attributes:
        related, any_resource: One, or several, each of which a resource must meet.
        text: Searched is the event's name, and the JSON of its resource, related ones, payload.
    """

    occurred: Occurred | None = None
    event: EventName | None = None
    id: EventId | None = None
    resource: Resource | None = None
    related: Related | Sequence[Related] | None = None
    any_resource: AnyResource | Sequence[AnyResource] | None = None
    text: Text | None = None


Leaf = Resource | Related | AnyResource
Order = Literal["ASC", "DESC"]


@dataclass(slots=True)
class Place:
    """Where a page begins: after the event of this time and id, in this order."""

    occurred: datetime
    id: UUID
    order: Order

    def before(self, occurred: Occurred) -> bool:
        """Whether all of a span of time comes after it."""
        if self.order == "DESC":
            return occurred.until is not None and to_datetime(occurred.until) < self.occurred
        return occurred.since is not None and to_datetime(occurred.since) > self.occurred


def driver_of(filter: EventFilter) -> Leaf | None:
    """What asks for one resource by its id: its entries in event_resources are in order of time."""
    for leaf in _leaves(filter):
        if len(set(_ids(leaf))) == 1:
            return leaf
    return None


def conditions_of(
    dialect: Dialect, filter: EventFilter, driver: Leaf | None = None, place: Place | None = None
) -> Where:
    """The filter as conditions on `events AS e`; those of the driver are on the entries of
    `event_resources AS r` that are joined to it. With a place, what comes after it.

    Raises:
        BadValue: A list that is none, a text that cannot be stored, or over 200 characters long.
    """
    where = Where(dialect)
    column, event_id = ("e.occurred", "e.id") if driver is None else ("r.occurred", "r.event_id")
    occurred = filter.occurred or Occurred()
    bounds = Time(after_=occurred.since, before_=occurred.until)
    if place is None or place.before(occurred):
        where.time(column, bounds)
    elif place.order == "DESC":
        # The place is the upper bound: beside another, SQLite would read all that is between them.
        where.time(column, Time(after_=occurred.since))
        where.add(f"({column}, {event_id}) < (?, ?)", place.occurred, place.id)
        bounds.before_ = place.occurred
    else:
        where.time(column, Time(before_=occurred.until))
        where.add(f"({column}, {event_id}) > (?, ?)", place.occurred, place.id)
        bounds.after_ = place.occurred
    if filter.id is not None:
        _among(where, "e.id", "uuid", filter.id.id)
    if filter.event is not None:
        _name(where, dialect, filter.event)
    for leaf in _leaves(filter):
        _resource(where, dialect, bounds, leaf, joined=leaf is driver)
    if filter.text is not None:
        for condition in conditions(dialect, _searched(dialect), filter.text):
            where.group(condition)
    return where


def _leaves(filter: EventFilter) -> list[Leaf]:
    leaves: list[Leaf] = []
    for given, kind in (
        (filter.resource, Resource),
        (filter.related, Related),
        (filter.any_resource, AnyResource),
    ):
        if given is not None:
            listed = [given] if isinstance(given, kind) else to_list(given)
            if not all(isinstance(leaf, kind) for leaf in listed):
                raise BadValue(f"something else where a {kind.__name__} belongs")
            leaves += listed
    return leaves


def _among(where: Where, column: str, kind: str, values: Sequence[object] | None) -> None:
    if values is not None and (listed := to_list(values)):
        where.among(column, kind, AnyOf(any_=listed if kind == "uuid" else _texts(listed)))


def _texts(values: Sequence[object]) -> list[str]:
    return [check_text(value) for value in to_list(values)]


def _name(where: Where, dialect: Dialect, leaf: EventName) -> None:
    _prefixes(where, dialect, "e.event", leaf.prefix)
    _among(where, "e.event", "text", leaf.name)
    others = Where(dialect, "or_")
    _prefixes(others, dialect, "e.event", leaf.exclude_prefix)
    _among(others, "e.event", "text", leaf.exclude_name)
    if others.sql:
        where.add(f"NOT ({others.test})", *others.params)


def _prefixes(where: Where, dialect: Dialect, column: str, prefixes: Sequence[str] | None) -> None:
    """A text that begins so; case counts on both engines."""
    inner = Where(dialect, "or_")
    for prefix in _texts(prefixes or []):
        # On SQLite LIKE ignores case; a range up to the last code point there is does not.
        if dialect.name == "sqlite":
            inner.add(f"({column} >= ? AND {column} < ?)", prefix, f"{prefix}\U0010ffff")
        else:
            inner.add(f"starts_with({column}, ?)", prefix)
    if inner.sql:
        where.group(inner)


def _ids(leaf: Leaf) -> list[str]:
    if isinstance(leaf, Related) and leaf.resources_in_roles and not leaf.id:
        return [id for id, _ in _pairs(leaf)]
    return _texts(leaf.id or [])


def _pairs(leaf: Related) -> list[tuple[str, str]]:
    pairs = [_texts(pair) for pair in to_list(leaf.resources_in_roles or [])]
    if any(len(pair) != 2 for pair in pairs):
        raise BadValue("a resource in a role is a pair of an id and a role")
    return [(id, role) for id, role in pairs]


def _resource(where: Where, dialect: Dialect, bounds: Time, leaf: Leaf, *, joined: bool) -> None:
    """What a leaf asks of the entry of a resource in event_resources: of the joined one, or that
    there is one.
    """
    entry = Where(dialect)
    _among(entry, "r.resource_id", "text", leaf.id)
    if isinstance(leaf, Related):
        _among(entry, "r.resource_role", "text", leaf.role)
        pairs = Where(dialect, "or_")
        for pair in _pairs(leaf):
            pairs.add("(r.resource_id = ? AND r.resource_role = ?)", *pair)
        if pairs.sql:
            entry.group(pairs)
    elif isinstance(leaf, Resource):
        _prefixes(where, dialect, "e.resource_id", leaf.id_prefix)
    else:
        _prefixes(entry, dialect, "r.resource_id", leaf.id_prefix)
    labels = to_object(leaf.labels or {})
    for label, patterns in labels.items():
        _label(entry, dialect, leaf, check_text(label), patterns)
    if not entry.sql and not labels:
        return
    if isinstance(leaf, Resource):
        entry.add("r.resource_role = ''")
    elif isinstance(leaf, Related) and not leaf.role:
        entry.add("r.resource_role <> ''")
    if joined:
        where.group(entry)
    elif _ids(leaf):
        entry.time("r.occurred", bounds)
        where.add(
            f"e.id IN (SELECT r.event_id FROM event_resources AS r{entry.sql})", *entry.params
        )
    else:
        # Many entries may be so: looking at those of each event finds the first page soon.
        where.exists("event_resources AS r", "r.event_id = e.id", entry)


def _label(
    entry: Where, dialect: Dialect, leaf: Leaf, label: str, patterns: str | Sequence[str]
) -> None:
    """A label's patterns. Those of an id and a role have columns; as in Prefect, there an empty
    list tests nothing.
    """
    listed = [check_text(patterns)] if isinstance(patterns, str) else _texts(patterns)
    if label == RESOURCE_ID:
        if patterns:
            entry.group(_matches(dialect, "r.resource_id", listed))
    elif label == RESOURCE_ROLE and not isinstance(leaf, Resource):
        if patterns:
            _among(entry, "r.resource_role", "text", listed)
    elif listed:
        inner = Where(dialect)
        inner.add("l.key = ?", label)
        inner.group(_matches(dialect, "l.value", listed))
        each = dialect.pick(sqlite="json_each", postgres="json_each_text")
        entry.add(f"EXISTS (SELECT 1 FROM {each}(r.resource) AS l{inner.sql})", *inner.params)
    else:
        entry.add("1 = 0")


def _matches(dialect: Dialect, column: str, patterns: list[str]) -> Where:
    """A text that matches one of the patterns; case counts on both engines."""
    where = Where(dialect, "or_")
    for pattern in patterns:
        test, wanted = f"{column} = ?", pattern.removeprefix("!")
        if "*" in wanted or "?" in wanted:
            if dialect.name == "sqlite":
                test, wanted = f"{column} GLOB ?", wanted.replace("[", "[[]")
            else:
                test = f"{column} LIKE ? ESCAPE '\\'"
                wanted = escape_like(wanted).replace("*", "%").replace("?", "_")
        where.add(f"NOT ({test})" if pattern.startswith("!") else test, wanted)
    return where


def _searched(dialect: Dialect) -> str:
    """What a text search looks through: the name and all JSON, as PostgreSQL writes it out."""
    columns = ["e.resource", "e.related", "e.payload"]
    if dialect.name == "postgres":
        columns = [f"CAST({column} AS text)" for column in columns]
    json = " || ' ' || ".join(columns)
    return f"e.event || ' ' || {dialect.pick(sqlite=_unescaped(json), postgres=json)}"


def _unescaped(json: str) -> str:
    r"""JSON text of SQLite with `\u00f6`, as Prefect stores it, turned into the character.

    json_extract does that, if it takes the whole for one string: so what else has a backslash
    gets another one. Control characters stay escaped, as PostgreSQL has them.
    """
    # An escaped backslash hides as a character that JSON text cannot have.
    string = r"replace(json, '\\', char(1))"
    for old, new in [
        (r"'\'", r"'\\'"),
        (r"'\\u'", r"'\u'"),
        (r"'\u000'", r"'\\u000'"),
        (r"'\u001'", r"'\\u001'"),
        ("'\"'", "'\\\"'"),
        ("char(1)", r"'\\\\'"),
    ]:
        string = f"replace({string}, {old}, {new})"
    return (
        rf"""(SELECT CASE WHEN instr(json, '\u') THEN json_extract('"' || {string} || '"', '$')"""
        f" ELSE json END FROM (SELECT {json} AS json))"
    )
