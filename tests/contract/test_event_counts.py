"""Events, counted by name, by resource and by time."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import pytest

from prefect_db import Backend, BadValue, events
from prefect_db.events import (
    AnyResource,
    Event,
    EventCount,
    EventFilter,
    Occurred,
    Related,
    Resource,
    Unit,
)
from tests.contract.sample_events import Labels, at, fill, make, numbered, resource


def counted(events_: list[Event], key: Callable[[Event], str]) -> dict[str, tuple[Any, ...]]:
    groups: dict[str, list[Event]] = {}
    for event in events_:
        groups.setdefault(key(event), []).append(event)
    return {
        value: (
            len(group),
            min(event.occurred for event in group),
            max(event.occurred for event in group),
        )
        for value, group in groups.items()
    }


def random_events(seed: int, many: int = 300) -> list[Event]:
    chosen = random.Random(seed)
    return [
        make(
            number,
            chosen.randint(0, 50_000_000) / 1000,
            f"event-{chosen.randint(0, 6)}",
            f"resource-{chosen.randint(0, 9)}",
            (f"resource-{chosen.randint(0, 9)}", "tag"),
        )
        for number in range(many)
    ]


@pytest.fixture
def filled(db: Backend) -> Backend:
    fill(db)
    return db


class TestCountByEvent:
    def test_counts_are_those_of_python(self, db: Backend) -> None:
        batch = random_events(1)
        events.write(db, batch)
        found = events.count_by_event(db)
        assert {each.value: (each.count, each.start_time, each.end_time) for each in found} == (
            counted(batch, lambda event: event.event)
        )

    def test_the_most_frequent_comes_first_and_names_decide(self, db: Backend) -> None:
        names = ["b", "c", "c", "a", "d", "d", "d"]
        events.write(db, [make(number, 0, name) for number, name in enumerate(names)])
        assert [(each.value, each.count) for each in events.count_by_event(db)] == [
            ("d", 3),
            ("c", 2),
            ("a", 1),
            ("b", 1),
        ]

    def test_the_label_is_the_name(self, db: Backend) -> None:
        events.write(db, [make(1, 0, "x")])
        assert [each.label for each in events.count_by_event(db)] == ["x"]

    def test_only_those_of_the_filter(self, db: Backend) -> None:
        batch = random_events(2)
        events.write(db, batch)
        filter = EventFilter(
            occurred=Occurred(since=at(10_000)), any_resource=AnyResource(id=["resource-1"])
        )
        kept = [
            event
            for event in batch
            if "resource-1" in (event.resource_id, *event.related_resource_ids)
            and event.occurred >= at(10_000)
        ]
        found = events.count_by_event(db, filter)
        assert {each.value: each.count for each in found} == Counter(event.event for event in kept)

    def test_nothing_gives_nothing(self, db: Backend) -> None:
        assert events.count_by_event(db) == []


class TestCountByResource:
    def test_counts_are_those_of_python(self, db: Backend) -> None:
        batch = random_events(3)
        events.write(db, batch)
        found = events.count_by_resource(db)
        assert {each.value: (each.count, each.start_time, each.end_time) for each in found} == (
            counted(batch, lambda event: event.resource_id)
        )

    def test_the_most_frequent_comes_first_and_labels_decide(self, db: Backend) -> None:
        ids = ["b", "c", "c", "a", "d", "d", "d"]
        events.write(db, [make(number, 0, "x", id) for number, id in enumerate(ids)])
        assert [(each.value, each.count) for each in events.count_by_resource(db)] == [
            ("d", 3),
            ("c", 2),
            ("a", 1),
            ("b", 1),
        ]

    @pytest.mark.parametrize(
        ("labels", "label"),
        [
            ({}, "r"),
            ({"prefect.name": "by name"}, "by name"),
            ({"prefect.resource.name": "by resource name"}, "by resource name"),
            (
                {"prefect.name": "x", "prefect.resource.name": "by resource name"},
                "by resource name",
            ),
        ],
    )
    def test_the_label_is_the_resources_name(self, db: Backend, labels: Labels, label: str) -> None:
        events.write(db, [events.make("x", resource("r", **labels), id=numbered(1))])
        assert [each.label for each in events.count_by_resource(db)] == [label]

    def test_the_label_is_the_newest_name(self, db: Backend) -> None:
        for number, name in [(1, "old"), (3, "new"), (2, "between")]:
            about = resource("r", **{"prefect.resource.name": name})
            events.write(db, [events.make("x", about, id=numbered(number), occurred=at(number))])
        assert [each.label for each in events.count_by_resource(db)] == ["new"]

    def test_only_those_of_the_filter(self, db: Backend) -> None:
        fill(db)
        filter = EventFilter(related=Related(id=["prefect.flow-run.r"]))
        assert {each.value: each.count for each in events.count_by_resource(db, filter)} == {
            "task": 2,
            "other": 1,
            "prefect.flow-run.r": 1,
        }


SECONDS: Final[dict[Unit, int]] = {
    "week": 604_800,
    "day": 86_400,
    "hour": 3600,
    "minute": 60,
    "second": 1,
}
MONDAY: Final = datetime(2024, 4, 1, tzinfo=UTC)


@dataclass
class Spans:
    """What `count_by_time` is to give, counted one event at a time."""

    unit: Unit
    interval: float

    def count(self, given: list[Event], since: datetime, until: datetime) -> list[EventCount]:
        length = timedelta(seconds=SECONDS[self.unit] * self.interval)
        first, last = (since - MONDAY) // length, (until - MONDAY) // length
        counts = Counter(
            (event.occurred - MONDAY) // length
            for event in given
            if since <= event.occurred <= until
        )
        return [
            EventCount(
                value=str(span - first),
                label=(MONDAY + span * length).isoformat(),
                count=counts[span],
                start_time=MONDAY + span * length,
                end_time=MONDAY + (span + 1) * length - timedelta(microseconds=1),
            )
            for span in range(first, last + 1)
        ]


class TestCountByTime:
    @pytest.mark.parametrize(
        ("unit", "interval", "since", "until"),
        [
            ("week", 1, at(-700_000), at(2_000_000)),
            ("day", 1, at(-90_000), at(60_000)),
            ("day", 2, at(-90_000), at(90_000)),
            ("day", 0.5, at(0), at(50_000)),
            ("hour", 1, at(100), at(50_000)),
            ("hour", 0.25, at(100.5), at(30_000)),
            ("hour", 7, at(100), at(50_000)),
            ("minute", 1, at(30), at(50_000)),
            ("minute", 1.5, at(30), at(50_000)),
            ("second", 100, at(1), at(49_999)),
            ("second", 1, at(100), at(1000)),
            ("second", 0.5, at(20_000.25), at(20_400)),
            ("second", 0.01, at(25_000), at(25_009)),
            ("second", 0.015, at(25_000), at(25_010)),
        ],
    )
    def test_counts_are_those_of_python(
        self, db: Backend, unit: Unit, interval: float, since: datetime, until: datetime
    ) -> None:
        batch = random_events(4)
        events.write(db, batch)
        filter = EventFilter(occurred=Occurred(since=since, until=until))
        found = events.count_by_time(db, unit, filter, interval=interval)
        assert found == Spans(unit, interval).count(batch, since, until)

    def test_spans_without_events_are_there(self, db: Backend) -> None:
        events.write(db, [make(1, 0), make(2, 180)])
        found = events.count_by_time(
            db, "minute", EventFilter(occurred=Occurred(since=at(0), until=at(240)))
        )
        assert [each.count for each in found] == [1, 0, 0, 1, 0]

    def test_no_events_give_spans_of_none(self, db: Backend) -> None:
        found = events.count_by_time(
            db, "minute", EventFilter(occurred=Occurred(since=at(0), until=at(60)))
        )
        assert [each.count for each in found] == [0, 0]

    @pytest.mark.parametrize("unit", SECONDS)
    def test_spans_before_their_origin(self, db: Backend, unit: Unit) -> None:
        """Prefect counts them from 2024-04-01; there are some before."""
        length = timedelta(seconds=SECONDS[unit])
        begin = MONDAY - 3 * length
        moments = [
            begin,
            begin + length - timedelta(microseconds=1),
            begin + length,
            MONDAY - timedelta(microseconds=1),
            MONDAY,
        ]
        batch = [replace(make(number), occurred=moment) for number, moment in enumerate(moments)]
        events.write(db, batch)
        filter = EventFilter(occurred=Occurred(since=begin, until=MONDAY))
        assert events.count_by_time(db, unit, filter) == Spans(unit, 1).count(batch, begin, MONDAY)

    def test_events_of_long_ago(self, db: Backend) -> None:
        moments = [
            datetime(1969, 12, 31, 23, 59, 59, 999_999, UTC),
            datetime(1970, 1, 1, tzinfo=UTC),
        ]
        events.write(db, [replace(make(n), occurred=moment) for n, moment in enumerate(moments)])
        filter = EventFilter(occurred=Occurred(since=moments[0], until=moments[1]))
        found = events.count_by_time(db, "second", filter)
        assert [each.count for each in found] == [1, 1]

    def test_a_span_ends_a_microsecond_before_the_next(self, db: Backend) -> None:
        first, second = events.count_by_time(
            db, "hour", EventFilter(occurred=Occurred(since=at(0), until=at(3600)))
        )
        assert second.start_time - first.end_time == timedelta(microseconds=1)

    def test_it_goes_on_until_now_unless_said_otherwise(self, db: Backend) -> None:
        since = datetime.now(UTC) - timedelta(hours=5)
        events.write(db, [make(1), replace(make(2), occurred=since)])
        found = events.count_by_time(db, "hour", EventFilter(occurred=Occurred(since=since)))
        assert sum(each.count for each in found) == 1
        assert found[-1].start_time <= datetime.now(UTC)

    def test_until_before_since_gives_no_more_than_none(self, db: Backend) -> None:
        fill(db)
        filter = EventFilter(occurred=Occurred(since=at(9000), until=at(0)))
        assert events.count_by_time(db, "second", filter) == []

    def test_only_those_of_the_filter(self, db: Backend) -> None:
        fill(db)
        filter = EventFilter(
            occurred=Occurred(since=at(0), until=at(8)),
            resource=Resource(id=["prefect.flow-run.r"]),
        )
        found = events.count_by_time(db, "second", filter)
        assert [each.count for each in found] == [0, 1, 1, 0, 0, 0, 0, 1, 0]

    def test_a_thousand_spans_are_within(self, db: Backend) -> None:
        filter = EventFilter(occurred=Occurred(since=at(0), until=at(999)))
        assert len(events.count_by_time(db, "second", filter)) == 1000

    @pytest.mark.parametrize(
        ("unit", "interval", "filter"),
        [
            pytest.param(
                "second",
                1.0,
                EventFilter(occurred=Occurred(since=at(0), until=at(1000))),
                id="1001 spans",
            ),
            pytest.param(
                "second",
                0.01,
                EventFilter(occurred=Occurred(since=at(0), until=at(100))),
                id="10,001 short spans",
            ),
            pytest.param(
                "second",
                0.009,
                EventFilter(occurred=Occurred(since=at(0), until=at(1))),
                id="too short",
            ),
            pytest.param(
                "second",
                0.0,
                EventFilter(occurred=Occurred(since=at(0), until=at(1))),
                id="no length",
            ),
            pytest.param(
                "second",
                -1.0,
                EventFilter(occurred=Occurred(since=at(0), until=at(1))),
                id="negative",
            ),
            pytest.param(
                "second",
                math.nan,
                EventFilter(occurred=Occurred(since=at(0), until=at(1))),
                id="NaN",
            ),
            pytest.param(
                "second",
                math.inf,
                EventFilter(occurred=Occurred(since=at(0), until=at(1))),
                id="endless",
            ),
            pytest.param(
                "week",
                1e300,
                EventFilter(occurred=Occurred(since=at(0), until=at(1))),
                id="1e300 weeks",
            ),
            pytest.param(
                "week",
                1e6,
                EventFilter(occurred=Occurred(since=at(0), until=at(1))),
                id="a million weeks",
            ),
            pytest.param(
                "month", 1.0, EventFilter(occurred=Occurred(since=at(0), until=at(1))), id="months"
            ),
            pytest.param(
                "DAY", 1.0, EventFilter(occurred=Occurred(since=at(0), until=at(1))), id="capitals"
            ),
            pytest.param("day", 1.0, EventFilter(), id="no since"),
            pytest.param("day", 1.0, EventFilter(occurred=Occurred(until=at(1))), id="until alone"),
            pytest.param(
                "day",
                1.0,
                EventFilter(occurred=Occurred(since=datetime(2030, 1, 1), until=at(1))),
                id="naive since",
            ),
            pytest.param(
                "day",
                1.0,
                EventFilter(occurred=Occurred(since=at(0), until=datetime(2030, 1, 2))),
                id="naive until",
            ),
        ],
    )
    def test_what_cannot_be_counted_is_refused(
        self, filled: Backend, unit: Any, interval: float, filter: EventFilter
    ) -> None:
        with pytest.raises(BadValue):
            events.count_by_time(filled, unit, filter, interval=interval)
