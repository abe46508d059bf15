"""Events: written once whoever sends them, found by page, counted, and trimmed."""

from __future__ import annotations

import base64
import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from time import monotonic
from typing import Any
from uuid import UUID

import pytest

from prefect_db import Backend, BadValue, Queryable, events
from prefect_db.events import AnyResource, Event, EventFilter, Order
from tests.contract.sample_events import (
    NOON,
    at,
    fill,
    make,
    numbered,
    pages,
    related,
    resource,
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


@pytest.fixture
def filled(db: Backend) -> Backend:
    fill(db)
    return db


class TestQuery:
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
        page = events.query(db, EventFilter(any_resource=AnyResource(id=["r"])), limit=1)
        assert [event.id.int for event in page.events] == [1]
        assert page.next is None

    def test_a_page_is_full_though_events_are_in_many_roles(self, db: Backend) -> None:
        roles = [("r", f"role-{number}") for number in range(7)]
        events.write(db, [make(number, number, "x", "r", *roles) for number in range(20)])
        page = events.query(
            db, EventFilter(any_resource=AnyResource(id=["r"])), limit=15, order="ASC"
        )
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


class Watched(Queryable):
    """A Backend whose transactions are counted."""

    def __init__(self, db: Backend) -> None:
        self._db = db
        self._dialect = db.dialect
        self.transactions = 0

    def _run(self, sql: str, params: Any, prepare: bool = True) -> Any:
        return self._db._run(sql, params)

    def executemany(self, sql: str, seq_of_params: Any) -> int:
        return self._db.executemany(sql, seq_of_params)

    def transaction(self, **options: Any) -> Any:
        return self._db.transaction(**options)

    def unit(self) -> Any:
        self.transactions += 1
        return self._db.unit()


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
