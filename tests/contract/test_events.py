"""Events: written once whoever sends them, found by page, counted, and trimmed."""

from __future__ import annotations

import base64
import math
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta, timezone
from time import monotonic
from typing import Any, Final
from uuid import UUID

import pytest

from prefect_db import Backend, BadValue, Queryable, connect, events
from prefect_db.events import Event, EventCount, EventFilter, Order, Unit
from prefect_db.testing import create_database

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


def frame(**changes: Any) -> dict[str, Any]:
    """A client's JSON."""
    return {
        "occurred": "2030-01-01T12:00:00.500000Z",
        "event": "prefect.flow-run.heartbeat",
        "resource": {
            "prefect.resource.id": "prefect.flow-run.997b3e6f",
            "prefect.resource.name": "spiritual-pogona",
        },
        "related": [
            {
                "prefect.resource.id": "prefect.flow.c9c9ea11",
                "prefect.resource.role": "flow",
                "prefect.resource.name": "nightly-ötl",
            },
            {"prefect.resource.id": "prefect.tag.prod", "prefect.resource.role": "tag"},
        ],
        "payload": {"n": 1, "deep": {"ü": [None]}},
        "id": "01a20999-46f0-74d3-aad7-0cf6ac972a73",
        "follows": "01a20999-46ef-74d3-aad7-0cf6ac972a73",
        **changes,
    }


def everything(db: Queryable) -> list[Event]:
    return events.query(db, order="ASC", limit=100_000).events


def sizes(db: Queryable) -> tuple[int, int]:
    """How many rows `events` has, and `event_resources`."""
    row = db.row(
        "SELECT (SELECT count(*) FROM events) AS e, (SELECT count(*) FROM event_resources) AS r"
    )
    assert row is not None
    return row[0], row[1]


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    """Eight threads, which end before the database does: name it after `db`."""
    with ThreadPoolExecutor(8) as pool:
        yield pool


def wait_until(met: Callable[[], bool]) -> None:
    deadline = monotonic() + 30
    while not met():
        assert monotonic() < deadline, "not met within 30 seconds"
        threading.Event().wait(0.005)


def waiting(db: Backend) -> int:
    """How many wait for a lock that another transaction holds."""
    if db.dialect.name == "sqlite":
        return db.stats().waiting
    return int(
        db.value(
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
    )


class TestMake:
    def test_it_takes_a_clients_json(self) -> None:
        event = events.make(**frame())
        assert event == Event(
            id=UUID("01a20999-46f0-74d3-aad7-0cf6ac972a73"),
            occurred=at(0.5),
            event="prefect.flow-run.heartbeat",
            resource_id="prefect.flow-run.997b3e6f",
            resource=frame()["resource"],
            related_resource_ids=["prefect.flow.c9c9ea11", "prefect.tag.prod"],
            related=frame()["related"],
            payload={"n": 1, "deep": {"ü": [None]}},
            received=event.received,
            recorded=event.recorded,
            follows=UUID("01a20999-46ef-74d3-aad7-0cf6ac972a73"),
        )

    def test_an_event_without_id_gets_a_time_ordered_one(self) -> None:
        assert events.make("x", resource("r")).id.version == 7

    def test_an_event_without_time_occurs_now(self) -> None:
        before = datetime.now(UTC)
        event = events.make("x", resource("r"))
        assert before <= event.occurred == event.received <= datetime.now(UTC)

    def test_it_is_received_now_unless_said_otherwise(self) -> None:
        before = datetime.now(UTC)
        assert before <= events.make("x", resource("r"), occurred=NOON).received

    def test_it_may_say_when_it_was_received(self) -> None:
        event = events.make("x", resource("r"), received=NOON)
        assert event.received == NOON

    def test_times_are_in_utc(self) -> None:
        zone = timezone(timedelta(hours=7))
        assert events.make("x", resource("r"), occurred=NOON.astimezone(zone)).occurred == NOON

    def test_there_is_nothing_else_unless_given(self) -> None:
        event = events.make("x", resource("r"))
        assert (event.related, event.related_resource_ids, event.payload, event.follows) == (
            [],
            [],
            {},
            None,
        )

    def test_given_labels_are_copied(self) -> None:
        about, other = resource("r"), related("o", "flow")
        event = events.make("x", about, related=[other])
        about["a"] = other["a"] = "changed"
        assert "a" not in event.resource
        assert "a" not in event.related[0]

    @pytest.mark.parametrize(
        ("name", "many", "labels"), [(1024, 100, 500), (1, 0, 1)], ids=["most", "least"]
    )
    def test_the_limits_are_within(self, name: int, many: int, labels: int) -> None:
        about = resource("r", **{f"label-{number}": "" for number in range(labels - 1)})
        events.make("n" * name, about, related=[related("o", "tag")] * many)

    @pytest.mark.parametrize(
        "changes",
        [
            pytest.param({"event": "n" * 1025}, id="a name over 1024 characters"),
            pytest.param({"event": 5}, id="a number as a name"),
            pytest.param({"resource": {}}, id="no resource id"),
            pytest.param({"resource": resource("")}, id="an empty resource id"),
            pytest.param({"related": [{"prefect.resource.role": "tag"}]}, id="no related id"),
            pytest.param({"related": [resource("o")]}, id="no role"),
            pytest.param({"related": [related("o", "")]}, id="an empty role"),
            pytest.param({"related": [related("", "tag")]}, id="an empty related id"),
            pytest.param({"related": [related("o", "tag")] * 101}, id="101 related resources"),
            pytest.param(
                {"resource": resource("r", **{f"label-{n}": "" for n in range(500)})},
                id="501 labels",
            ),
            pytest.param(
                {"related": [related("o", "tag", **{f"label-{n}": "" for n in range(499)})]},
                id="501 labels of a related resource",
            ),
            pytest.param({"id": "no id"}, id="no id"),
            pytest.param({"id": 5}, id="a number as an id"),
            pytest.param({"follows": "no id"}, id="follows no id"),
            pytest.param({"occurred": "soon"}, id="no time"),
            pytest.param({"occurred": 5}, id="a number as a time"),
            pytest.param({"occurred": "2030-01-01T12:00:00"}, id="a time without zone"),
            pytest.param({"occurred": datetime(2030, 1, 1)}, id="a datetime without zone"),
            pytest.param({"received": "2030-01-01"}, id="received on a date"),
        ],
    )
    def test_what_is_no_event_is_refused(self, changes: dict[str, Any]) -> None:
        with pytest.raises(BadValue):
            events.make(**frame(**changes))


class TestWrite:
    @pytest.mark.parametrize("size", [0, 1, 2, 5000])
    def test_a_batch_of_any_size(self, db: Backend, size: int) -> None:
        batch = [make(number, number, "x", "r", ("o", "tag")) for number in range(size)]
        assert events.write(db, batch) == size
        assert sizes(db) == (size, 2 * size)

    def test_what_is_written_is_found(self, db: Backend) -> None:
        event = events.make(**frame())
        events.write(db, [event])
        (found,) = everything(db)
        assert found == replace(event, recorded=found.recorded)

    def test_a_clients_json_is_written_as_it_is(self, db: Backend) -> None:
        events.write(db, [frame()])
        (found,) = everything(db)
        made = events.make(**frame())
        assert found == replace(made, received=found.received, recorded=found.recorded)

    def test_a_batch_may_be_an_iterator(self, db: Backend) -> None:
        assert events.write(db, iter([make(1), make(2)])) == 2

    def test_it_is_recorded_when_it_is_written(self, db: Backend) -> None:
        event = replace(make(1), recorded=NOON)
        before = datetime.now(UTC)
        events.write(db, [event])
        (found,) = everything(db)
        assert before <= found.recorded <= datetime.now(UTC)

    def test_the_given_event_is_left_as_it_is(self, db: Backend) -> None:
        event = replace(make(1), recorded=NOON)
        events.write(db, [event])
        assert event.recorded == NOON

    def test_the_row_has_the_forms_of_prefect(self, db: Backend) -> None:
        events.write(db, [frame()])
        row = db.row(
            "SELECT id, occurred, event, resource_id, resource, related_resource_ids, related,"
            " payload, follows FROM events"
        )
        assert row is not None
        assert tuple(row) == db.dialect.pick(
            sqlite=(
                "01a20999-46f0-74d3-aad7-0cf6ac972a73",
                "2030-01-01 12:00:00.500000",
                "prefect.flow-run.heartbeat",
                "prefect.flow-run.997b3e6f",
                '{"prefect.resource.id": "prefect.flow-run.997b3e6f",'
                ' "prefect.resource.name": "spiritual-pogona"}',
                '["prefect.flow.c9c9ea11", "prefect.tag.prod"]',
                '[{"prefect.resource.id": "prefect.flow.c9c9ea11", "prefect.resource.role": "flow",'
                ' "prefect.resource.name": "nightly-\\u00f6tl"},'
                ' {"prefect.resource.id": "prefect.tag.prod", "prefect.resource.role": "tag"}]',
                '{"n": 1, "deep": {"\\u00fc": [null]}}',
                "01a20999-46ef-74d3-aad7-0cf6ac972a73",
            ),
            postgres=(
                UUID("01a20999-46f0-74d3-aad7-0cf6ac972a73"),
                at(0.5),
                "prefect.flow-run.heartbeat",
                "prefect.flow-run.997b3e6f",
                '{"prefect.resource.id": "prefect.flow-run.997b3e6f",'
                ' "prefect.resource.name": "spiritual-pogona"}',
                '["prefect.flow.c9c9ea11", "prefect.tag.prod"]',
                '[{"prefect.resource.id": "prefect.flow.c9c9ea11",'
                ' "prefect.resource.name": "nightly-ötl", "prefect.resource.role": "flow"},'
                ' {"prefect.resource.id": "prefect.tag.prod", "prefect.resource.role": "tag"}]',
                '{"n": 1, "deep": {"ü": [null]}}',
                UUID("01a20999-46ef-74d3-aad7-0cf6ac972a73"),
            ),
        )

    def test_the_resources_have_the_forms_of_prefect(self, db: Backend) -> None:
        """Without the labels of id and role; `json`, which keeps the text on PostgreSQL."""
        events.write(db, [frame()])
        rows = db.rows(
            "SELECT resource_id, resource_role, resource, occurred, event_id FROM event_resources"
            " ORDER BY resource_id"
        )
        id = UUID("01a20999-46f0-74d3-aad7-0cf6ac972a73")
        where = db.dialect.pick(
            sqlite=("2030-01-01 12:00:00.500000", str(id)), postgres=(at(0.5), id)
        )
        assert [tuple(row) for row in rows] == [
            (
                "prefect.flow-run.997b3e6f",
                "",
                '{"prefect.resource.name": "spiritual-pogona"}',
                *where,
            ),
            (
                "prefect.flow.c9c9ea11",
                "flow",
                '{"prefect.resource.name": "nightly-\\u00f6tl"}',
                *where,
            ),
            ("prefect.tag.prod", "tag", "{}", *where),
        ]

    def test_a_primary_resource_has_no_role_whatever_its_labels_say(self, db: Backend) -> None:
        about = resource("r", **{"prefect.resource.role": "tag"})
        events.write(db, [events.make("x", about, id=numbered(1))])
        assert db.value("SELECT resource_role FROM event_resources") == ""

    def test_a_resource_in_two_roles_has_a_row_for_each(self, db: Backend) -> None:
        events.write(db, [make(1, 0, "x", "r", ("r", "tag"), ("r", "flow"), ("r", "flow"))])
        roles = db.rows("SELECT resource_role FROM event_resources ORDER BY 1")
        assert [row[0] for row in roles] == ["", "flow", "flow", "tag"]


class TestRepetition:
    def test_a_stored_event_is_left_as_it_was(self, db: Backend) -> None:
        events.write(db, [make(1, 0, "first")])
        before = everything(db)
        assert events.write(db, [make(1, 5, "second", "other", ("o", "tag"))]) == 0
        assert everything(db) == before
        assert sizes(db) == (1, 1)

    def test_the_first_of_two_in_a_batch_is_written(self, db: Backend) -> None:
        batch = [make(1, 0, "first"), make(1, 5, "second", "other", ("o", "tag"))]
        assert events.write(db, batch) == 1
        assert [event.event for event in everything(db)] == ["first"]
        assert sizes(db) == (1, 1)

    def test_new_events_beside_stored_ones_are_written(self, db: Backend) -> None:
        events.write(db, [make(number) for number in range(0, 100, 2)])
        assert events.write(db, [make(number) for number in range(100)]) == 50
        assert sizes(db) == (100, 100)

    def test_a_batch_of_5000_stored_events(self, db: Backend) -> None:
        batch = [make(number, 0, "x", "r", ("o", "tag")) for number in range(5000)]
        events.write(db, batch)
        assert events.write(db, batch) == 0
        assert sizes(db) == (5000, 10_000)

    def test_an_id_may_be_written_in_other_letters(self, db: Backend) -> None:
        events.write(db, [frame()])
        assert events.write(db, [frame(id=frame()["id"].upper())]) == 0


class TestAllOrNothing:
    def test_a_bad_event_among_good_ones(self, db: Backend) -> None:
        with pytest.raises(BadValue):
            events.write(db, [make(1), frame(resource={}), make(2)])
        assert sizes(db) == (0, 0)

    def test_a_bad_value_among_good_ones(self, db: Backend) -> None:
        with pytest.raises(BadValue):
            events.write(db, [make(1), frame(payload={"a": "\0"}), make(2)])
        assert sizes(db) == (0, 0)

    @pytest.mark.parametrize(
        "changes",
        [
            pytest.param({"id": None}, id="no id"),
            pytest.param({"id": ""}, id="an empty id"),
            pytest.param({"unknown": 1}, id="an unknown key"),
            pytest.param({"resource": None}, id="null as a resource"),
            pytest.param({"resource": "r"}, id="text as a resource"),
            pytest.param({"resource": {"prefect.resource.id": 5}}, id="a number as a resource id"),
            pytest.param({"resource": resource("r") | {"a": [1]}}, id="a list as a label"),
            pytest.param({"related": None}, id="null as related"),
            pytest.param({"related": "o"}, id="text as related"),
            pytest.param({"related": [None]}, id="null among related"),
            pytest.param({"related": [related("o", "tag") | {"a": 5}]}, id="a number as a label"),
            pytest.param({"related": [{**related("o", "x"), "prefect.resource.role": 5}]}, id="5"),
            pytest.param({"payload": "x"}, id="text as a payload"),
            pytest.param({"payload": [1]}, id="a list as a payload"),
            pytest.param({"payload": {"a": float("nan")}}, id="NaN in a payload"),
            pytest.param({"payload": {"a": {1}}}, id="a set in a payload"),
            pytest.param({"event": "a\0"}, id="NUL in a name"),
            pytest.param({"event": None}, id="no name"),
            pytest.param({"resource": resource("a\0")}, id="NUL in a resource id"),
            pytest.param({"resource": resource("r", a="\ud800")}, id="a surrogate in a label"),
            pytest.param({"related": [related("o", "a\0")]}, id="NUL in a role"),
            pytest.param({"occurred": "2030-01-01"}, id="a time without zone"),
        ],
    )
    def test_a_clients_json_that_is_no_event(self, db: Backend, changes: dict[str, Any]) -> None:
        with pytest.raises(BadValue):
            events.write(db, [make(1), frame(**changes)])
        assert sizes(db) == (0, 0)

    def test_a_caller_that_rolls_back(self, db: Backend) -> None:
        with db.transaction() as txn:
            events.write(txn, [make(1)])
            txn.rollback()
        assert sizes(db) == (0, 0)


class TestConcurrentWriters:
    def test_writers_of_overlapping_events_write_each_once(
        self, db: Backend, pool: ThreadPoolExecutor
    ) -> None:
        batch = [make(number, number, "x", "r", ("o", "tag")) for number in range(400)]

        def work(start: int) -> int:
            return events.write(db, batch[start : start + 200])

        written = list(pool.map(work, [0, 100, 200, 0, 100, 200, 150, 50]))
        assert sum(written) == 400
        assert sizes(db) == (400, 800)

    def test_resources_are_written_once_for_each_event(
        self, db: Backend, pool: ThreadPoolExecutor
    ) -> None:
        batch = [make(number, number, "x", "r", ("o", "tag")) for number in range(200)]
        list(pool.map(lambda _: events.write(db, batch), range(8)))
        counts = db.rows("SELECT count(*) FROM event_resources GROUP BY event_id")
        assert {int(row[0]) for row in counts} == {2}

    def test_writers_of_different_orders_do_not_disturb_each_other(
        self, db: Backend, pool: ThreadPoolExecutor
    ) -> None:
        batch = [make(number, number, "x", "r", ("o", "tag")) for number in range(300)]

        def work(seed: int) -> int:
            own = random.Random(seed).sample(batch, len(batch))
            return sum(events.write(db, own[start : start + 100]) for start in (0, 100, 200))

        assert sum(pool.map(work, range(8))) == 300
        assert sizes(db) == (300, 600)

    def test_one_that_waited_writes_only_what_the_other_did_not(
        self, db: Backend, pool: ThreadPoolExecutor
    ) -> None:
        with db.transaction() as txn:
            events.write(txn, [make(number) for number in (1, 2, 3)])
            waiter = pool.submit(events.write, db, [make(number) for number in (2, 3, 4)])
            wait_until(lambda: waiter.done() or waiting(db) > 0)
        assert waiter.result() == 1
        assert sizes(db) == (4, 4)

    def test_one_that_waited_for_a_rollback_writes_all(
        self, db: Backend, pool: ThreadPoolExecutor
    ) -> None:
        with db.transaction() as txn:
            events.write(txn, [make(number) for number in (1, 2, 3)])
            waiter = pool.submit(events.write, db, [make(number) for number in (2, 3, 4)])
            wait_until(lambda: waiter.done() or waiting(db) > 0)
            txn.rollback()
        assert waiter.result() == 3
        assert sizes(db) == (3, 3)


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


FILTERS: Final[list[tuple[str, EventFilter | None, list[int]]]] = [
    ("none", None, [1, 2, 3, 4, 5, 6, 7, 8]),
    ("nothing asked", EventFilter(), [1, 2, 3, 4, 5, 6, 7, 8]),
    ("ids", EventFilter(id=[numbered(2), numbered(5), numbered(99)]), [2, 5]),
    ("no id", EventFilter(id=[]), []),
    ("name", EventFilter(name=["prefect.flow-run.Running", "x"]), [2, 8]),
    ("name in other letters", EventFilter(name=["X"]), []),
    ("no name", EventFilter(name=[]), []),
    ("not the name", EventFilter(exclude_name=["x", "prefect.flow_run.Odd"]), [1, 2, 4, 5, 6, 7]),
    ("not no name", EventFilter(exclude_name=[]), [1, 2, 3, 4, 5, 6, 7, 8]),
    ("prefix", EventFilter(prefix=["prefect.flow-run."]), [1, 2, 7]),
    ("prefixes", EventFilter(prefix=["prefect.flow-run.R", "prefect.task"]), [2, 4, 5]),
    ("a whole name as prefix", EventFilter(prefix=["x"]), [8]),
    ("the empty prefix", EventFilter(prefix=[""]), [1, 2, 3, 4, 5, 6, 7, 8]),
    ("no prefix", EventFilter(prefix=[]), []),
    ("a wildcard in a prefix is a character", EventFilter(prefix=["prefect.flow_run"]), [3]),
    ("a percent in a prefix is a character", EventFilter(prefix=["prefect%"]), []),
    ("the case of a prefix", EventFilter(prefix=["Prefect.Flow-run."]), [6]),
    ("not the prefix", EventFilter(exclude_prefix=["prefect.flow-run."]), [3, 4, 5, 6, 8]),
    ("not the prefixes", EventFilter(exclude_prefix=["prefect.", "x"]), [6]),
    ("not no prefix", EventFilter(exclude_prefix=[]), [1, 2, 3, 4, 5, 6, 7, 8]),
    (
        "prefix and not prefix",
        EventFilter(prefix=["prefect."], exclude_prefix=["prefect.flow-run."]),
        [3, 4, 5],
    ),
    (
        "name and not prefix",
        EventFilter(name=["x", "prefect.flow_run.Odd"], exclude_prefix=["prefect."]),
        [8],
    ),
    ("resource", EventFilter(resource_id=["prefect.flow-run.r"]), [1, 2, 7]),
    ("resources", EventFilter(resource_id=["task", "other"]), [3, 4, 5]),
    ("a resource like a pattern", EventFilter(resource_id=["100%"]), [6]),
    ("a resource with a quote", EventFilter(resource_id=["ünï'code"]), [8]),
    ("no resource", EventFilter(resource_id=[]), []),
    ("an unknown resource", EventFilter(resource_id=["nowhere"]), []),
    ("related", EventFilter(related_id=["prefect.flow-run.r"]), [3, 4, 5, 7]),
    ("related ones", EventFilter(related_id=["prefect.flow.f", "prefect.tag.t"]), [1, 2, 4, 7]),
    ("no related one", EventFilter(related_id=[]), []),
    ("either", EventFilter(any_resource_id=["prefect.flow-run.r"]), [1, 2, 3, 4, 5, 7]),
    ("either of two", EventFilter(any_resource_id=["task", "prefect.flow.f"]), [1, 2, 4, 5, 7]),
    ("neither", EventFilter(any_resource_id=[]), []),
    (
        "resource and related",
        EventFilter(resource_id=["prefect.flow-run.r"], related_id=["prefect.tag.t"]),
        [2],
    ),
    (
        "resource, related and either",
        EventFilter(
            resource_id=["task"],
            related_id=["prefect.flow-run.r", "nowhere"],
            any_resource_id=["prefect.tag.t"],
        ),
        [4],
    ),
    ("resource and no related", EventFilter(resource_id=["task"], related_id=[]), []),
    ("since", EventFilter(since=at(4)), [4, 5, 6, 7, 8]),
    ("since a little later", EventFilter(since=at(4.000001)), [6, 7, 8]),
    ("until", EventFilter(until=at(4)), [1, 2, 3, 4, 5]),
    ("until a little earlier", EventFilter(until=at(3.999999)), [1, 2, 3]),
    ("since and until", EventFilter(since=at(4), until=at(4)), [4, 5]),
    ("until before since", EventFilter(since=at(5), until=at(4)), []),
    (
        "in another zone",
        EventFilter(since=at(7).astimezone(timezone(timedelta(hours=-5)))),
        [7, 8],
    ),
    (
        "resource since and until",
        EventFilter(resource_id=["prefect.flow-run.r"], since=at(2), until=at(6)),
        [2],
    ),
    (
        "resource and prefix",
        EventFilter(any_resource_id=["prefect.flow-run.r"], prefix=["prefect.task-run."]),
        [4, 5],
    ),
    (
        "all of it",
        EventFilter(
            id=[numbered(number) for number in range(1, 8)],
            name=["prefect.task-run.Running", "prefect.task-run.Completed"],
            exclude_name=["prefect.task-run.Completed"],
            prefix=["prefect.task"],
            exclude_prefix=["prefect.flow"],
            resource_id=["task"],
            related_id=["prefect.tag.t"],
            any_resource_id=["prefect.flow-run.r"],
            since=at(1),
            until=at(8),
        ),
        [4],
    ),
]

filtered = pytest.mark.parametrize(
    ("filter", "numbers"), [pytest.param(*row[1:], id=row[0]) for row in FILTERS]
)


@pytest.fixture(scope="module")
def filled(
    backend_name: str, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Backend]:
    """A database with these events that no test changes."""
    with ExitStack() as stack:
        if backend_name == "sqlite":
            url = f"sqlite:///{tmp_path_factory.mktemp('events')}/test.db"
        else:
            url = stack.enter_context(create_database(request.getfixturevalue("postgres_url")))
        db = stack.enter_context(connect(url))
        fill(db)
        yield db


class TestQuery:
    @filtered
    @pytest.mark.parametrize("order", ["ASC", "DESC"])
    def test_a_filter_lets_through(
        self, filled: Backend, filter: EventFilter | None, numbers: list[int], order: Order
    ) -> None:
        found = [event.id.int for event in events.query(filled, filter, order=order).events]
        assert found == (numbers if order == "ASC" else numbers[::-1])

    @filtered
    def test_a_filter_counts_what_it_lets_through(
        self, filled: Backend, filter: EventFilter | None, numbers: list[int]
    ) -> None:
        assert events.count(filled, filter) == len(numbers)

    @filtered
    @pytest.mark.parametrize("order", ["ASC", "DESC"])
    def test_pages_of_a_filter_visit_each_event_once(
        self, filled: Backend, filter: EventFilter | None, numbers: list[int], order: Order
    ) -> None:
        """An event that has a resource in two roles too."""
        visited = [
            event.id.int for page in pages(filled, filter, order=order, limit=1) for event in page
        ]
        assert visited == (numbers if order == "ASC" else numbers[::-1])

    def test_the_newest_come_first_unless_said_otherwise(self, filled: Backend) -> None:
        assert [event.id.int for event in events.query(filled).events] == [8, 7, 6, 5, 4, 3, 2, 1]

    def test_a_page_has_50_events_unless_said_otherwise(self, db: Backend) -> None:
        events.write(db, [make(number, number) for number in range(51)])
        assert len(events.query(db).events) == 50

    def test_the_last_page_has_no_next(self, filled: Backend) -> None:
        assert events.query(filled, limit=8).next is None

    def test_a_page_that_is_not_the_last_has_a_next(self, filled: Backend) -> None:
        assert events.query(filled, limit=7).next is not None

    def test_no_events_are_one_empty_page(self, db: Backend) -> None:
        page = events.query(db)
        assert (page.events, page.next) == ([], None)

    def test_an_event_in_many_roles_comes_once(self, db: Backend) -> None:
        events.write(db, [make(1, 1, "x", "r", *[("r", f"role-{n}") for n in range(60)])])
        page = events.query(db, EventFilter(any_resource_id=["r"]), limit=1)
        assert [event.id.int for event in page.events] == [1]
        assert page.next is None

    def test_a_page_is_full_though_events_are_in_many_roles(self, db: Backend) -> None:
        roles = [("r", f"role-{number}") for number in range(7)]
        events.write(db, [make(number, number, "x", "r", *roles) for number in range(20)])
        page = events.query(db, EventFilter(any_resource_id=["r"]), limit=15, order="ASC")
        assert [event.id.int for event in page.events] == list(range(15))
        assert page.next is not None

    @pytest.mark.parametrize(
        "given",
        [
            {"limit": 0},
            {"limit": -1},
            {"limit": 1.5},
            {"limit": None},
            {"limit": "1"},
            {"order": "asc"},
            {"order": "RANDOM()"},
            {"order": None},
        ],
        ids=repr,
    )
    def test_a_page_that_cannot_be_is_refused(self, filled: Backend, given: Any) -> None:
        with pytest.raises(BadValue):
            events.query(filled, **given)

    @pytest.mark.parametrize(
        "given",
        [
            {"since": datetime(2030, 1, 1)},
            {"until": datetime(2030, 1, 1)},
            {"id": ["no id"]},
            {"id": str(numbered(1))},
            {"name": "x"},
            {"exclude_name": "x"},
            {"prefix": "x"},
            {"exclude_prefix": "x"},
            {"resource_id": "task"},
            {"related_id": "task"},
            {"any_resource_id": "task"},
            {"name": ["\0"]},
            {"prefix": ["\0"]},
            {"resource_id": ["\ud800"]},
        ],
        ids=repr,
    )
    def test_a_bad_filter_is_refused(self, filled: Backend, given: Any) -> None:
        with pytest.raises(BadValue):
            events.query(filled, EventFilter(**given))


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


class TestPaging:
    @pytest.fixture
    def crowded(self, db: Backend) -> Backend:
        """Hundred events, ten at each moment."""
        events.write(db, [make(number, number // 10) for number in range(100)])
        return db

    @pytest.mark.parametrize("order", ["ASC", "DESC"])
    @pytest.mark.parametrize("limit", [1, 7, 10, 99, 100, 101])
    def test_pages_visit_each_event_once_in_order(
        self, crowded: Backend, order: Order, limit: int
    ) -> None:
        visited = [
            event.id.int for page in pages(crowded, order=order, limit=limit) for event in page
        ]
        expected = list(range(100))
        assert visited == (expected if order == "ASC" else expected[::-1])

    def test_all_pages_but_the_last_are_full(self, crowded: Backend) -> None:
        assert [len(page) for page in pages(crowded, limit=30)] == [30, 30, 30, 10]

    def test_the_last_page_is_not_empty(self, crowded: Backend) -> None:
        assert [len(page) for page in pages(crowded, limit=50)] == [50, 50]

    @pytest.mark.parametrize("order", ["ASC", "DESC"])
    def test_events_that_come_meanwhile_do_not_move_the_pages(
        self, crowded: Backend, order: Order
    ) -> None:
        """Those before the place where we are stay unseen, those after it come in their turn."""
        visited = []
        for number, page in enumerate(pages(crowded, order=order, limit=7)):
            visited += [event.id.int for event in page]
            # One at either end, and one at the very moment of the page's end.
            events.write(
                crowded,
                [
                    make(1000 + 3 * number, -1 - number),
                    make(1001 + 3 * number, 100 + number),
                    make(1002 + 3 * number, visited[-1] // 10 if visited[-1] < 1000 else 0),
                ],
            )
            if number > 40:
                break
        old = [number for number in visited if number < 1000]
        assert old == (list(range(100)) if order == "ASC" else list(range(99, -1, -1)))
        assert len(visited) == len(set(visited))

    def test_deleting_what_was_seen_does_not_move_the_pages(self, crowded: Backend) -> None:
        visited = []
        for page in pages(crowded, order="ASC", limit=7):
            visited += [event.id.int for event in page]
            events.trim(crowded, page[-1].occurred)
        assert visited == list(range(100))

    def test_a_token_is_of_the_url_safe_alphabet(self, crowded: Backend) -> None:
        token = events.query(crowded, limit=1).next
        assert token is not None
        assert base64.urlsafe_b64decode(token)

    @pytest.mark.parametrize(
        "token",
        [
            "",
            "x",
            "not a token",
            "ü",
            "\0",
            "!!!!",
            base64.urlsafe_b64encode(b"[]").decode(),
            base64.urlsafe_b64encode(b"null").decode(),
            base64.urlsafe_b64encode(b"{}").decode(),
            base64.urlsafe_b64encode(b"[1, 2]").decode(),
            base64.urlsafe_b64encode(b"[" * 100_000).decode(),
            base64.urlsafe_b64encode(b'["2030-01-01T00:00:00", "x"]').decode(),
            base64.urlsafe_b64encode(
                b'["2030-01-01T00:00:00", "00000000-0000-0000-0000-000000000001"]'
            ).decode(),
            base64.urlsafe_b64encode(b'["2030-01-01T00:00:00Z", "no id"]').decode(),
            base64.urlsafe_b64encode(b'["2030-01-01T00:00:00Z", "x", 1]').decode(),
            base64.urlsafe_b64encode(b"\xff\xfe").decode(),
        ],
        ids=lambda token: ascii(token[:20]),
    )
    def test_what_is_no_token_is_refused(self, crowded: Backend, token: str) -> None:
        with pytest.raises(BadValue, match="not the `next` of a page"):
            events.query(crowded, after=token)


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
        filter = EventFilter(any_resource_id=["resource-1"], since=at(10_000))
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
        filter = EventFilter(related_id=["prefect.flow-run.r"])
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
        filter = EventFilter(since=since, until=until)
        found = events.count_by_time(db, unit, filter, interval=interval)
        assert found == Spans(unit, interval).count(batch, since, until)

    def test_spans_without_events_are_there(self, db: Backend) -> None:
        events.write(db, [make(1, 0), make(2, 180)])
        found = events.count_by_time(db, "minute", EventFilter(since=at(0), until=at(240)))
        assert [each.count for each in found] == [1, 0, 0, 1, 0]

    def test_no_events_give_spans_of_none(self, db: Backend) -> None:
        found = events.count_by_time(db, "minute", EventFilter(since=at(0), until=at(60)))
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
        filter = EventFilter(since=begin, until=MONDAY)
        assert events.count_by_time(db, unit, filter) == Spans(unit, 1).count(batch, begin, MONDAY)

    def test_events_of_long_ago(self, db: Backend) -> None:
        moments = [
            datetime(1969, 12, 31, 23, 59, 59, 999_999, UTC),
            datetime(1970, 1, 1, tzinfo=UTC),
        ]
        events.write(db, [replace(make(n), occurred=moment) for n, moment in enumerate(moments)])
        filter = EventFilter(since=moments[0], until=moments[1])
        found = events.count_by_time(db, "second", filter)
        assert [each.count for each in found] == [1, 1]

    def test_a_span_ends_a_microsecond_before_the_next(self, db: Backend) -> None:
        first, second = events.count_by_time(db, "hour", EventFilter(since=at(0), until=at(3600)))
        assert second.start_time - first.end_time == timedelta(microseconds=1)

    def test_it_goes_on_until_now_unless_said_otherwise(self, db: Backend) -> None:
        since = datetime.now(UTC) - timedelta(hours=5)
        events.write(db, [make(1), replace(make(2), occurred=since)])
        found = events.count_by_time(db, "hour", EventFilter(since=since))
        assert sum(each.count for each in found) == 1
        assert found[-1].start_time <= datetime.now(UTC)

    def test_until_before_since_gives_no_more_than_none(self, db: Backend) -> None:
        fill(db)
        filter = EventFilter(since=at(9000), until=at(0))
        assert events.count_by_time(db, "second", filter) == []

    def test_only_those_of_the_filter(self, db: Backend) -> None:
        fill(db)
        filter = EventFilter(resource_id=["prefect.flow-run.r"], since=at(0), until=at(8))
        found = events.count_by_time(db, "second", filter)
        assert [each.count for each in found] == [0, 1, 1, 0, 0, 0, 0, 1, 0]

    def test_a_thousand_spans_are_within(self, db: Backend) -> None:
        filter = EventFilter(since=at(0), until=at(999))
        assert len(events.count_by_time(db, "second", filter)) == 1000

    @pytest.mark.parametrize(
        ("unit", "interval", "filter"),
        [
            pytest.param("second", 1.0, EventFilter(since=at(0), until=at(1000)), id="1001 spans"),
            pytest.param(
                "second", 0.01, EventFilter(since=at(0), until=at(100)), id="10,001 short spans"
            ),
            pytest.param("second", 0.009, EventFilter(since=at(0), until=at(1)), id="too short"),
            pytest.param("second", 0.0, EventFilter(since=at(0), until=at(1)), id="no length"),
            pytest.param("second", -1.0, EventFilter(since=at(0), until=at(1)), id="negative"),
            pytest.param("second", math.nan, EventFilter(since=at(0), until=at(1)), id="NaN"),
            pytest.param("second", math.inf, EventFilter(since=at(0), until=at(1)), id="endless"),
            pytest.param("week", 1e300, EventFilter(since=at(0), until=at(1)), id="1e300 weeks"),
            pytest.param("week", 1e6, EventFilter(since=at(0), until=at(1)), id="a million weeks"),
            pytest.param("month", 1.0, EventFilter(since=at(0), until=at(1)), id="months"),
            pytest.param("DAY", 1.0, EventFilter(since=at(0), until=at(1)), id="capitals"),
            pytest.param("day", 1.0, EventFilter(), id="no since"),
            pytest.param("day", 1.0, EventFilter(until=at(1)), id="until alone"),
            pytest.param(
                "day", 1.0, EventFilter(since=datetime(2030, 1, 1), until=at(1)), id="naive since"
            ),
            pytest.param(
                "day", 1.0, EventFilter(since=at(0), until=datetime(2030, 1, 2)), id="naive until"
            ),
        ],
    )
    def test_what_cannot_be_counted_is_refused(
        self, filled: Backend, unit: Any, interval: float, filter: EventFilter
    ) -> None:
        with pytest.raises(BadValue):
            events.count_by_time(filled, unit, filter, interval=interval)


class Watched(Queryable):
    """A Backend whose transactions are counted."""

    def __init__(self, db: Backend) -> None:
        self._db = db
        self.transactions = 0

    @property
    def dialect(self) -> Any:
        return self._db.dialect

    def _run(self, sql: str, params: Any) -> Any:
        return self._db._run(sql, params)

    def executemany(self, sql: str, seq_of_params: Any) -> int:
        return self._db.executemany(sql, seq_of_params)

    def transaction(self, **options: Any) -> Any:
        self.transactions += 1
        return self._db.transaction(**options)


class TestTrim:
    def test_what_occurred_before_is_deleted(self, db: Backend) -> None:
        fill(db)
        assert events.trim(db, at(4)) == 3
        assert [event.id.int for event in everything(db)] == [4, 5, 6, 7, 8]

    def test_its_resources_are_deleted_and_the_others_stay(self, db: Backend) -> None:
        fill(db)
        events.trim(db, at(4))
        left = {row.uuid(0) for row in db.rows("SELECT event_id FROM event_resources")}
        assert left == {numbered(number) for number in (4, 5, 6, 7, 8)}

    def test_only_those_of_a_name(self, db: Backend) -> None:
        fill(db)
        assert events.trim(db, at(100), name="prefect.task-run.Running") == 1
        assert [event.id.int for event in everything(db)] == [1, 2, 3, 5, 6, 7, 8]

    def test_only_the_old_ones_of_a_name(self, db: Backend) -> None:
        events.write(db, [make(number, number, "x") for number in range(10)])
        events.write(db, [make(number, 0, "y") for number in range(10, 20)])
        assert events.trim(db, at(4), name="x") == 4
        assert events.count(db) == 16

    @pytest.mark.parametrize("name", ["x%", "X", ""])
    def test_a_name_must_be_exact(self, db: Backend, name: str) -> None:
        events.write(db, [make(1, 0, "x")])
        assert events.trim(db, at(100), name=name) == 0

    def test_nothing_old_deletes_nothing(self, db: Backend) -> None:
        fill(db)
        assert events.trim(db, at(1)) == 0
        assert events.count(db) == 8

    @pytest.mark.parametrize("batch", [1, 3, 10, 25, 26, 500])
    def test_any_size_of_batch_deletes_all(self, db: Backend, batch: int) -> None:
        events.write(db, [make(number, number % 5, "x", "r", ("o", "tag")) for number in range(25)])
        assert events.trim(db, at(100), batch=batch) == 25
        assert sizes(db) == (0, 0)

    @pytest.mark.parametrize(
        ("batch", "transactions"), [(5, range(5, 7)), (10, range(3, 4)), (500, range(1, 2))]
    )
    def test_each_batch_is_a_transaction(
        self, db: Backend, batch: int, transactions: range
    ) -> None:
        events.write(db, [make(number, number) for number in range(25)])
        watched = Watched(db)
        events.trim(watched, at(100), batch=batch)
        assert watched.transactions in transactions

    def test_others_write_while_it_trims(self, db: Backend, pool: ThreadPoolExecutor) -> None:
        events.write(db, [make(number, number) for number in range(300)])
        trimming = pool.submit(events.trim, db, at(1000), batch=3)
        for number in range(1000, 1030):
            events.write(db, [make(number, 2000)])
        assert trimming.result() == 300
        assert events.count(db) == 30

    def test_two_that_trim_at_once_delete_each_event_once(
        self, db: Backend, pool: ThreadPoolExecutor
    ) -> None:
        events.write(db, [make(number, number, "x", "r", ("o", "tag")) for number in range(300)])
        work = [pool.submit(events.trim, db, at(1000), batch=20) for _ in range(4)]
        assert sum(future.result() for future in work) == 300
        assert sizes(db) == (0, 0)

    @pytest.mark.parametrize("batch", [0, -1])
    def test_a_batch_has_at_least_one(self, db: Backend, batch: int) -> None:
        with pytest.raises(BadValue):
            events.trim(db, at(100), batch=batch)

    def test_a_limit_without_zone_is_refused(self, db: Backend) -> None:
        fill(db)
        with pytest.raises(BadValue):
            events.trim(db, datetime(2040, 1, 1))
        assert events.count(db) == 8
