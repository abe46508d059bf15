"""The pool at its limits: nobody waits for himself, or for ever, and no connection is mislaid."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from typing import Final

import psycopg
import pytest

from prefect_db import Backend, BackendClosed, PoolTimeout, UsageError, aio, connect
from prefect_db.testing import proxy
from tests.faults import BOUND, in_process, in_thread, until
from tests.faults.postgres import sessions, use_all
from tests.faults.report import RecordFault, compare

_MANY: Final = 1000


def _assert_empty(db: Backend) -> None:
    stats = db.stats()
    assert (stats.in_use, stats.waiting) == (0, 0)
    for _ in range(stats.size + 1):
        assert db.value("SELECT 1") == 1
        with db.transaction() as txn:
            assert txn.value("SELECT 1") == 1


def test_a_spike_of_a_thousand_threads(url: str, record_fault: RecordFault) -> None:
    together = threading.Barrier(_MANY)

    def work(key: int) -> None:
        together.wait(BOUND)
        db.execute("INSERT INTO item (id) VALUES (?)", (key,))
        assert db.value("SELECT id FROM item WHERE id = ?", (key,)) == key

    with connect(url, migrate=False) as db, ThreadPoolExecutor(_MANY) as threads:
        db.execute("CREATE TABLE item (id bigint NOT NULL)")
        began = time.monotonic()
        list(threads.map(work, range(_MANY)))
        took = time.monotonic() - began
        verdict = compare(range(_MANY), [row[0] for row in db.rows("SELECT id FROM item")])
        record_fault("1,000 threads at once", verdict=verdict, recovery=took)
        assert (db.stats().timeouts, db.stats().broken) == (0, 0)
        _assert_empty(db)


@pytest.mark.parametrize("size", [1, 3])
def test_a_thread_that_would_wait_for_itself_is_told(url: str, size: int) -> None:
    """SQLite has one that writes, whatever the size."""
    with connect(url, migrate=False, pool_size=size) as db:
        held = size if db.dialect.name == "postgres" else 1
        with ExitStack() as stack:
            for _ in range(held):
                stack.enter_context(db.transaction())
            with pytest.raises(UsageError, match="inside its block use the transaction"):
                stack.enter_context(db.transaction())
        _assert_empty(db)


@pytest.mark.only("postgres", "SQLite has one connection that writes, and so one who holds it")
def test_a_thread_that_holds_one_may_wait_for_those_of_others(url: str) -> None:
    with connect(url, migrate=False, pool_size=2) as db:
        held, done = threading.Event(), threading.Event()

        def hold() -> None:
            with db.transaction():
                held.set()
                assert done.wait(BOUND)

        with ThreadPoolExecutor(1) as threads, db.transaction():
            holder = threads.submit(hold)
            assert held.wait(BOUND)
            threading.Timer(0.2, done.set).start()
            assert db.value("SELECT 1") == 1
            holder.result(BOUND)
        _assert_empty(db)


def test_who_waits_is_served_in_the_order_in_which_they_came(url: str) -> None:
    order: list[int] = []

    def wait(number: int) -> None:
        with db.transaction():
            order.append(number)

    with connect(url, migrate=False, pool_size=1) as db:
        with ThreadPoolExecutor(8) as threads, db.transaction():
            for number in range(8):
                threads.submit(wait, number)
                until(lambda: db.stats().waiting == number + 1)  # noqa: B023
        assert order == list(range(8))
        _assert_empty(db)


def test_a_wait_that_is_too_long_is_told_with_the_numbers(
    url: str, record_fault: RecordFault
) -> None:
    with connect(url, migrate=False, pool_size=1, pool_timeout=0.05) as db:
        with db.transaction():
            for times in range(1, 4):
                with pytest.raises(PoolTimeout) as caught:
                    in_thread(lambda: db.transaction().__enter__())
                stats = caught.value.stats
                assert (stats.in_use, stats.waiting, stats.timeouts) == (1, 0, times)
                assert f"timeouts={times}" in str(caught.value)
        _assert_empty(db)
    record_fault("pool exhausted", times=3)


def test_waits_that_end_just_as_a_connection_is_handed_over(
    url: str, record_fault: RecordFault
) -> None:
    """Time and again: either it is got, or somebody else gets it."""
    timeouts = got = 0

    def work(_: int) -> None:
        nonlocal timeouts, got
        for _ in range(150):
            try:
                with db.transaction():
                    got += 1
                    time.sleep(random.uniform(0, 0.002))
            except PoolTimeout:
                timeouts += 1

    with connect(url, migrate=False, pool_size=1, pool_timeout=0.004) as db:
        with ThreadPoolExecutor(8) as threads:
            list(threads.map(work, range(8)))
        assert timeouts > 20
        assert got > 20
        assert db.stats().timeouts == timeouts
        _assert_empty(db)
    record_fault("waits that time out at the hand-over", times=timeouts)


def test_tasks_that_are_cancelled_just_as_a_connection_is_handed_over(
    url: str, record_fault: RecordFault
) -> None:
    cancelled = done = 0

    async def main() -> None:
        nonlocal cancelled, done
        async with asyncio.timeout(BOUND), aio.connect(url, migrate=False, pool_size=1) as db:
            for _ in range(60):
                tasks = [asyncio.create_task(db.transaction(_pause)) for _ in range(6)]
                await asyncio.sleep(random.uniform(0, 0.006))
                for task in random.sample(tasks, 4):
                    task.cancel()
                for outcome in await asyncio.gather(*tasks, return_exceptions=True):
                    if isinstance(outcome, (asyncio.CancelledError, aio.Completed)):
                        cancelled += 1
                    else:
                        assert outcome is None
                        done += 1
            assert db.backend.stats().in_use == 0
            await db.run(_assert_empty)

    asyncio.run(main())
    assert cancelled > 60
    assert done > 60
    record_fault("tasks cancelled at the hand-over", times=cancelled)


def _pause(txn: object) -> None:
    time.sleep(random.uniform(0, 0.002))


@pytest.mark.only("postgres", "to interrupt SQLite needs no connection of its own")
def test_a_connection_whose_interrupt_did_not_reach_the_server_is_not_used_again(
    url: str, record_fault: RecordFault
) -> None:
    """It might arrive later, in the middle of its next user's statement."""

    async def main() -> None:
        async with (
            asyncio.timeout(BOUND),
            aio.connect(network.url, migrate=False, pool_size=1) as db,
        ):
            before = await db.run(Backend.value, "SELECT pg_backend_pid()")
            task = asyncio.create_task(db.run(Backend.value, "SELECT pg_sleep(1.5)"))
            while not sessions(admin, "wait_event = 'PgSleep'"):
                await asyncio.sleep(0.01)
            # An interrupt is a connection of its own.
            network.refuse()
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
            network.heal()
            assert await db.run(Backend.value, "SELECT pg_backend_pid()") != before
            assert db.backend.stats().in_use == 0

    with proxy(url) as network, psycopg.connect(url, autocommit=True) as admin:
        asyncio.run(main())
    record_fault("interrupt that did not reach the server")


def test_who_waits_when_it_is_closed_is_told_and_who_works_may_end(
    url: str, record_fault: RecordFault
) -> None:
    db = connect(url, migrate=False, pool_size=1, pool_timeout=4 * BOUND)
    db.execute("CREATE TABLE item (id bigint NOT NULL)")
    with ThreadPoolExecutor(50) as threads:
        with db.transaction() as txn:
            waiting = [threads.submit(db.transaction().__enter__) for _ in range(50)]
            until(lambda: db.stats().waiting == 50)
            db.close()
            assert [type(each.exception(BOUND)) for each in waiting] == [BackendClosed] * 50
            txn.execute("INSERT INTO item (id) VALUES (1)")
    with connect(url, migrate=False) as again:
        assert again.value("SELECT count(*) FROM item") == 1
    record_fault("closed with 50 waiting", acknowledged=1)


@pytest.mark.only("postgres", "SQLite opens all but those of read-only transactions at once")
def test_it_opens_as_many_as_are_needed_at_once_and_no_more(url: str) -> None:
    with connect(url, migrate=False, pool_size=5) as db:
        for _ in range(20):
            db.value("SELECT 1")
        assert db.stats().size == 1
        use_all(db, 3)
        assert db.stats().size == 3
        use_all(db, 5)
        for _ in range(20):
            with suppress(PoolTimeout):
                use_all(db, 5)
        assert db.stats().size == 5


@pytest.mark.only("postgres", "SQLite's connections do not grow old")
def test_an_old_connection_is_replaced(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with connect(url, migrate=False, pool_size=1) as db:
        before = use_all(db, 1)
        assert use_all(db, 1) == before
        monkeypatch.setattr("prefect_db.drivers.postgres._LIFETIME", 0.0)
        assert use_all(db, 1) != before
        assert (db.stats().size, db.stats().broken) == (1, 0)


def _leave_open(url: str) -> None:
    db = connect(url, migrate=False)
    _left.append(db)
    with db.transaction() as txn:
        assert txn.value("SELECT 1") == 1
    assert db.value("SELECT 1") == 1


def _leave_open_for_asyncio(url: str) -> None:
    async def main() -> None:
        db = aio.connect(url, migrate=False)
        _left.append(db)
        await db.__aenter__()
        assert await db.run(Backend.value, "SELECT 1") == 1

    asyncio.run(main())


def _leave_one_who_waits(url: str) -> None:
    db = connect(url, migrate=False, pool_size=1, pool_timeout=BOUND)
    _left.append(db)
    done = threading.Event()

    def hold() -> None:
        with db.transaction():
            done.wait(2 * BOUND)

    threading.Thread(target=hold, daemon=True).start()
    until(lambda: db.stats().in_use == 1)
    threading.Thread(target=db.execute, args=("DELETE FROM item",), daemon=True).start()
    until(lambda: db.stats().waiting == 1)


def _leave_one_who_works(url: str) -> None:
    db = connect(url, migrate=False)
    _left.append(db)
    long = db.dialect.pick(
        sqlite="WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n)"
        " SELECT count(*) FROM n",
        postgres="SELECT pg_sleep(600)",
    )
    threading.Thread(target=db.execute, args=(long,), daemon=True).start()
    until(lambda: db.stats().in_use == 1)
    time.sleep(0.1)


# Until the end of the interpreter.
_left: Final[list[object]] = []


@pytest.mark.parametrize(
    "leave", [_leave_open, _leave_open_for_asyncio, _leave_one_who_waits, _leave_one_who_works]
)
def test_an_interpreter_that_ends_says_nothing(
    url: str, leave: Callable[[str], None], record_fault: RecordFault
) -> None:
    """And does not wait for its daemon threads, which may be anywhere in the library."""
    assert in_process(leave, url) == ""
    record_fault("interpreter ends with an open Backend")
