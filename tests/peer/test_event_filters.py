"""Generated filters of events and logs let through what they let through in Prefect.

Each filter is made of values from pools. Some values have the name of a rule of
docs/differences.md: where one of those is in a filter, Prefect may find something else.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

import pytest
import sqlalchemy
from hypothesis import given
from hypothesis import strategies as st
from prefect.server import models
from prefect.server.events.filters import EventFilter as PrefectEventFilter
from prefect.server.events.storage import database as prefect_events
from prefect.server.schemas.filters import LogFilter as PrefectLogFilter
from prefect.server.utilities.text_search_parser import parse_text_search_query

from prefect_db import Backend, BadValue, events, logs
from prefect_db.events import (
    AnyResource,
    EventFilter,
    EventId,
    EventName,
    Occurred,
    Related,
    Resource,
    Text,
)
from prefect_db.filters import AnyOf, Reference, Time
from prefect_db.logs import Level, LogFilter
from prefect_db.text_search import parse
from tests.peer.prefect_peer import Prefect

NOON: Final = datetime(2026, 1, 1, 12, tzinfo=UTC)
EVENTS, LOGS = 2000, 1000
EVENT_FILTERS, LOG_FILTERS = 300, 100

NAMES = ["prefect.flow-run.Running", "prefect.flow-run.Failed", "prefect.task-run.Running"]
NAMES += ["prefect.flow_run.odd", "100%.done", "Prefect.Flow-Run.Big", "größe.Über", "x"]
IDS = [f"prefect.flow-run.{number}" for number in range(12)] + ["prefect.flow.a", "prefect.flow_b"]
IDS += ["tag.ü", "tag.'q\"", "UPPER.x", "a%b", "a*b"]
ROLES = ["flow", "tag", "flow-run", "creator", "rôle"]
LABELS: dict[str, list[str]] = {
    "env": ["prod", "production", "dev", "", "50%", "a_b", "[x]", "back\\slash"],
    "prefect.resource.name": ["nightly", "nightly-2", "größe", "Größe", "日本", "🎉 party"],
    "team": ["Core", "core", "Data Team"],
    "schlüssel": ["wert", "ünï"],
}
WORDS = ["connection", "timeout", "error", "prod", "nightly", "Running", "50%", "a_b", "x", "hi"]
WORDS += ["größe", "ÜBER", "日本", "🎉", "\\", '"', "100", "Δοκιμή"]


def at(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


def sample_events(chosen: random.Random) -> list[dict[str, Any]]:
    def labels() -> dict[str, str]:
        keys = chosen.sample(sorted(LABELS), chosen.randint(0, 3))
        return {key: chosen.choice(LABELS[key]) for key in keys}

    return [
        {
            "id": UUID(int=chosen.getrandbits(128), version=4),
            # No two at one time: so the order is total, in Prefect too.
            "occurred": at(number + chosen.random()),
            "event": chosen.choice(NAMES),
            "resource": {"prefect.resource.id": chosen.choice(IDS), **labels()},
            "related": [
                {
                    "prefect.resource.id": chosen.choice(IDS),
                    "prefect.resource.role": chosen.choice(ROLES),
                    **labels(),
                }
                for _ in range(chosen.randint(0, 3))
            ],
            "payload": {"message": " ".join(chosen.sample(WORDS, chosen.randint(0, 3)))},
        }
        for number in range(EVENTS)
    ]


@dataclass
class Made:
    """A filter as JSON, and the rules by which Prefect may differ on it."""

    json: dict[str, Any]
    rules: set[str]


@dataclass
class Maker:
    chosen: random.Random
    ids: list[str]
    backend: str
    rules: set[str] = field(default_factory=set)

    def some(self, pool: list[Any], most: int = 3) -> list[Any]:
        """One or more; sometimes none, or what nothing has."""
        if self.chosen.random() < 0.05:
            return []
        return self.chosen.sample([*pool, "nothing"], self.chosen.randint(1, most))

    def odd(self, value: str, rule: str, *backends: str) -> str:
        if self.backend in (backends or ("sqlite", "postgres")):
            self.rules.add(rule)
        return value

    def prefixes(self, pool: list[str]) -> list[str]:
        kind = self.chosen.random()
        if kind < 0.1:
            return [self.odd("prefect.flow_", "a wildcard in a prefix")]
        if kind < 0.2:
            return [self.odd("PREFECT.flow", "the case of a prefix", "sqlite")]
        given = [value for value in self.some(pool) if "_" not in value and "%" not in value]
        # On SQLite Prefect's own do not know case: only prefixes for which that is the same.
        same = [value for value in given if value.islower()]
        return [
            value[: self.chosen.randint(1, len(value))] for value in same if value[0] != "p"
        ] + [value for value in same if value[0] == "p" and "." in value]

    def pattern(self, value: str) -> str:
        kind = self.chosen.random()
        if kind < 0.1 and value.lower() != value.upper():
            value = self.odd(value.upper(), "the case of a pattern", "sqlite")
        elif value.lower() in ("core", "größe"):
            self.odd(value, "the case of a pattern", "sqlite")
        if value and self.chosen.random() < 0.5:
            cut = self.chosen.randrange(len(value))
            value = value[:cut] + self.chosen.choice("*?") + value[cut + 1 :]
        if self.chosen.random() < 0.2:
            value += "*"
            self.odd(value, "the case of a pattern", "sqlite")
        return f"!{value}" if self.chosen.random() < 0.2 else value

    def labels(self) -> dict[str, Any]:
        keys = self.chosen.sample(sorted(LABELS), self.chosen.randint(0, 2))
        found: dict[str, Any] = {}
        for key in keys:
            values = [self.pattern(value) for value in self.some(LABELS[key], 2)]
            found[key] = values[0] if len(values) == 1 else values
            if not key.isascii():
                self.odd(key, "labels beyond ASCII", "sqlite")
        if self.chosen.random() < 0.2:
            found["prefect.resource.id"] = [self.pattern(value) for value in self.some(IDS, 2)]
        if self.chosen.random() < 0.1:
            found["prefect.resource.role"] = self.some(ROLES, 2)
        return found

    def fields(self, **makers: Callable[[], Any]) -> dict[str, Any]:
        """One field, sometimes two."""
        names = self.chosen.sample(sorted(makers), min(self.chosen.choice([1, 1, 2]), len(makers)))
        return {name: makers[name]() for name in names}

    def query(self) -> str:
        terms = []
        for word in self.chosen.sample(WORDS, self.chosen.randint(1, 3)):
            term = word if self.chosen.random() < 0.7 else word.swapcase()
            if not term.isascii():
                self.odd(term, "text beyond ASCII")
            if "\\" in term:
                self.odd(term, "escapes of JSON", "sqlite")
            if self.chosen.random() < 0.3 and '"' not in term and "\\" not in term:
                term = f'"{term}"'
            terms.append(self.chosen.choice(["", "", "", "-", "!", "+"]) + term)
        if self.chosen.random() < 0.05:
            terms.append(self.odd("u00f6", "escapes of JSON", "sqlite"))
        return " ".join(terms)

    def several(self, one: Callable[[], dict[str, Any]]) -> Any:
        return one() if self.chosen.random() < 0.7 else [one() for _ in range(2)]

    def event_filter(self) -> Made:
        def resource() -> dict[str, Any]:
            made = self.fields(
                id=lambda: self.some(IDS),
                id_prefix=lambda: self.prefixes(IDS),
                labels=self.labels,
            )
            return {**made, "distinct": self.chosen.random() < 0.3}

        def related() -> dict[str, Any]:
            return self.fields(
                id=lambda: self.some(IDS),
                role=lambda: self.some(ROLES),
                resources_in_roles=lambda: [
                    (self.chosen.choice(IDS), self.chosen.choice(ROLES)) for _ in range(3)
                ],
                labels=self.labels,
            )

        def any_resource() -> dict[str, Any]:
            return self.fields(
                id=lambda: self.some(IDS, 1),
                id_prefix=lambda: self.prefixes(IDS),
                labels=self.labels,
            )

        def event() -> dict[str, Any]:
            return self.fields(
                prefix=lambda: self.prefixes(NAMES),
                exclude_prefix=lambda: self.prefixes(NAMES),
                name=lambda: self.some(NAMES),
                exclude_name=lambda: self.some(NAMES),
            )

        self.rules = set()
        since = self.chosen.choice([0, 0, 500, 1200])
        made = self.fields(
            event=event,
            id=lambda: {"id": self.chosen.sample(self.ids, self.chosen.choice([0, 1, 30]))},
            resource=resource,
            related=lambda: self.several(related),
            any_resource=lambda: self.several(any_resource),
            text=lambda: {"query": self.query()},
        )
        occurred = {"since": at(since), "until": at(since + self.chosen.choice([100, 700, 2001]))}
        order = self.chosen.choice(["ASC", "DESC"])
        return Made({**made, "occurred": occurred, "order": order}, self.rules)

    def log_filter(self, runs: list[UUID]) -> Made:
        self.rules = set()
        made = self.fields(
            level=lambda: {"ge_": self.chosen.choice([10, 20, 30]), "le_": 40},
            timestamp=lambda: {"after_": at(100), "before_": at(900)},
            flow_run_id=lambda: {"any_": self.chosen.sample(runs, self.chosen.randint(0, 2))},
            task_run_id=lambda: {"is_null_": self.chosen.random() < 0.5},
        )
        made["text"] = {"query": self.query()}
        made["operator"] = self.chosen.choice(["and_", "and_", "or_"])
        return Made(made, self.rules)


def our_event_filter(made: dict[str, Any]) -> EventFilter:
    def each(kind: type[Any], given: Any) -> Any:
        return [kind(**one) for one in given] if isinstance(given, list) else kind(**given)

    kinds = {
        "occurred": Occurred,
        "event": EventName,
        "id": EventId,
        "resource": Resource,
        "related": Related,
        "any_resource": AnyResource,
        "text": Text,
    }
    return EventFilter(
        **{name: each(kinds[name], given) for name, given in made.items() if name in kinds}
    )


def our_log_filter(made: dict[str, Any]) -> LogFilter:
    kinds = {
        "level": Level,
        "timestamp": Time,
        "flow_run_id": AnyOf,
        "task_run_id": Reference,
        "text": Text,
    }
    parts = {name: kinds[name](**given) for name, given in made.items() if name in kinds}
    return LogFilter(**parts, operator=made["operator"])


@pytest.fixture
def searching(prefect: Prefect, backend_name: str) -> Prefect:
    """A Prefect that can search text: it needs concat(), which SQLite has since 3.44."""
    if backend_name == "sqlite":
        engine = prefect.call(prefect.interface.engine)

        def add_concat(connection: Any, _: Any) -> None:
            connection.create_function("concat", -1, lambda *texts: "".join(map(str, texts)))

        sqlalchemy.event.listen(engine.sync_engine, "connect", add_concat)
    return prefect


def explained(made: Made, same: bool, compared: Counter[str], what: str) -> bool:
    compared[what] += 1
    if not same:
        for rule in made.rules:
            compared[f"{what} that differ by {rule}"] += 1
    return same or bool(made.rules)


def test_event_filters(
    searching: Prefect, managed: Backend, backend_name: str, compared: Counter[str]
) -> None:
    chosen = random.Random(20)
    batch = sample_events(chosen)
    events.write(managed, batch)
    maker = Maker(chosen, [str(event["id"]) for event in batch], backend_name)
    wrong = []
    found_some = 0
    for _ in range(EVENT_FILTERS):
        made = maker.event_filter()
        theirs, total, _ = searching.read(
            prefect_events.query_events, PrefectEventFilter.model_validate(made.json), EVENTS
        )
        filter = our_event_filter(made.json)
        ours = events.query(managed, filter, order=made.json["order"], limit=EVENTS).events
        same = [event.id for event in ours] == [event.id for event in theirs] and (
            events.count(managed, filter) == total
        )
        found_some += 0 < len(ours) < EVENTS
        if not explained(made, same, compared, f"{backend_name} event filters"):
            wrong.append((made.json, len(ours), len(theirs), total))
    assert wrong == []
    assert found_some > EVENT_FILTERS / 2


def test_log_filters(
    searching: Prefect, managed: Backend, backend_name: str, compared: Counter[str]
) -> None:
    chosen = random.Random(21)
    runs = [UUID(int=chosen.getrandbits(128), version=4) for _ in range(5)]
    logs.write(
        managed,
        [
            logs.make(
                chosen.choice(["prefect.flow_runs", "prefect.task_runs", "größe", "x"]),
                chosen.choice([10, 20, 30, 40, 50]),
                " ".join(chosen.sample(WORDS, chosen.randint(0, 4))),
                at(number),
                flow_run_id=chosen.choice([*runs, None]),
                task_run_id=chosen.choice([*runs, None, None]),
            )
            for number in range(LOGS)
        ],
    )
    maker = Maker(chosen, [], backend_name)
    wrong = []
    for _ in range(LOG_FILTERS):
        made = maker.log_filter(runs)
        theirs = searching.read(
            models.logs.read_logs, log_filter=PrefectLogFilter.model_validate(made.json)
        )
        filter = our_log_filter(made.json)
        ours = logs.find(managed, filter, limit=None)
        same = [log.id for log in ours] == [log.id for log in theirs]
        assert logs.count(managed, filter) == len(ours)
        if not explained(made, same, compared, f"{backend_name} log filters"):
            wrong.append((made.json, len(ours), len(theirs)))
    assert wrong == []


@given(st.text(st.sampled_from('ab-!+"\\ \t\u3000üß'), max_size=200) | st.text(max_size=200))
def test_queries_are_taken_apart_alike(query: str) -> None:
    theirs = parse_text_search_query(query)
    try:
        ours = parse(query)
    except BadValue:
        assert "\0" in query
        return
    assert (ours.include, ours.exclude, ours.required) == (
        theirs.include,
        theirs.exclude,
        theirs.required,
    )
