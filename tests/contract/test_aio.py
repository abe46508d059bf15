"""`prefect_db.aio`: one hop per unit of work, and cancellation at each point of it."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from functools import partial
from typing import Any, Final, assert_type

import pytest

from prefect_db import (
    Backend,
    BackendClosed,
    Cancelled,
    ConfigurationError,
    ForkedBackend,
    Queryable,
    Transaction,
    Unavailable,
    UniqueViolation,
    UsageError,
    aio,
    connect,
    flows,
    observe,
)
from prefect_db.flows import Flow
from tests.faults import BOUND, in_process, until
from tests.migrations import watched_driver

_who: ContextVar[str] = ContextVar("who", default="nobody")

_FOREVER: Final = 2 * BOUND

Use = Callable[[aio.AsyncBackend], Awaitable[None]]


@pytest.fixture
def use(url: str) -> Iterator[Callable[..., None]]:
    """Runs a coroutine function with a bridge to a database with the table `item`, in bounded
    time, and looks whether it left a thread or a connection, and whole transactions."""
    before = set(threading.enumerate())
    with connect(url, migrate=False) as db:
        db.execute("CREATE TABLE item (id bigint NOT NULL PRIMARY KEY, half bigint)")

    def use(body: Use, **options: Any) -> None:
        async def main() -> None:
            async with (
                asyncio.timeout(BOUND),
                aio.connect(url, migrate=False, **options) as db,
            ):
                await body(db)
                await _assert_sound(db)

        asyncio.run(main())

    yield use
    until(lambda: set(threading.enumerate()) <= before)


async def _assert_sound(db: aio.AsyncBackend) -> None:
    """No connection is in use, and 100 uses of the pool, at the same time, work."""
    assert db.backend.stats().in_use == 0
    ids = range(-100, 0)
    await asyncio.gather(*[db.run(_add, id_) for id_ in ids])
    assert await _ids(db, "WHERE id < 0") == list(ids)
    assert db.backend.stats().in_use == 0
    assert db.backend.stats().broken == 0


def test_the_result_is_that_of_an_entity_function(url: str) -> None:
    async def main() -> None:
        async with aio.connect(url) as db:
            made = await db.run(flows.create, "etl", tags=["prod"])
            assert made.tags == ["prod"]
            found = await db.run(flows.get, made.id)
            assert_type(found, Flow | None)
            assert found == made
            await db.run(flows.delete, made.id)
            assert await db.run(flows.get, made.id) is None
            renamed = await db.transaction(lambda txn: flows.create(txn, "other").name)
            assert_type(renamed, str)
            assert renamed == "other"

    asyncio.run(main())


def test_it_can_be_observed(use: Callable[..., None]) -> None:
    counter = observe.Counter()

    async def body(db: aio.AsyncBackend) -> None:
        counter.reset()
        await db.run(_add, 1)
        assert counter.acquires == 1
        await db.transaction(lambda txn: _add(txn, 2))
        assert counter.calls["COMMIT"] == 1

    use(body, observer=counter)


def test_exceptions_pass(use: Callable[..., None]) -> None:
    async def body(db: aio.AsyncBackend) -> None:
        await db.run(_add, 1)
        with pytest.raises(UniqueViolation) as caught:
            await db.run(_add, 1)
        assert caught.value.sql is not None
        with pytest.raises(ZeroDivisionError):
            await db.transaction(_add_and_fail)
        assert await _ids(db) == [1]

    use(body)


def test_context_variables_are_seen(use: Callable[..., None]) -> None:
    async def body(db: aio.AsyncBackend) -> None:
        async def caller(name: str) -> tuple[str, str]:
            _who.set(name)
            return (
                await db.run(lambda backend: _who.get()),
                await db.transaction(lambda txn: _who.get()),
            )

        names = [f"caller {n}" for n in range(20)]
        assert await asyncio.gather(*map(caller, names)) == [(name, name) for name in names]
        assert await db.run(lambda backend: _who.get()) == "nobody"

    use(body)


def test_a_transaction_is_tried_again(use: Callable[..., None]) -> None:
    attempts: list[int] = []

    def work(txn: Transaction) -> str:
        _add(txn, len(attempts))
        attempts.append(1)
        if len(attempts) < 3:
            raise Unavailable("the link is lost")
        return "done"

    async def body(db: aio.AsyncBackend) -> None:
        assert await db.transaction(work) == "done"
        assert await _ids(db) == [2]
        attempts.clear()
        with pytest.raises(Unavailable):
            await db.transaction(work, 2)

    use(body)


def test_a_transactions_options_count(use: Callable[..., None]) -> None:
    async def body(db: aio.AsyncBackend) -> None:
        with pytest.raises(UsageError, match="timeout=-1"):
            await db.transaction(lambda txn: None, timeout=-1)
        with pytest.raises(Exception, match=r"read-?only"):
            await db.transaction(lambda txn: _add(txn, 1), read_only=True)

    use(body)


def test_work_that_waits_for_a_thread_is_not_begun(use: Callable[..., None]) -> None:
    async def body(db: aio.AsyncBackend) -> None:
        begun, go_on = threading.Event(), threading.Event()
        first = asyncio.create_task(db.run(lambda backend: _pause(begun, go_on)))
        await _until(begun.is_set)
        second = asyncio.create_task(db.run(_add, 1))
        third = asyncio.create_task(db.run(_add, 2))
        await asyncio.sleep(0)
        assert isinstance(await _cancel(second), Cancelled)
        go_on.set()
        await asyncio.gather(first, third)
        assert await _ids(db) == [2]

    use(body, pool_size=1)


@pytest.mark.parametrize("way", ["verb", "transaction", "connection"])
def test_work_that_waits_for_a_connection_is_left(use: Callable[..., None], way: str) -> None:
    def work(backend: Backend) -> None:
        if way == "verb":
            _add(backend, 1)
        elif way == "transaction":
            backend.run(lambda txn: _add(txn, 1))
        else:
            with backend.connection() as native:
                native.execute("INSERT INTO item (id) VALUES (1)")

    async def body(db: aio.AsyncBackend) -> None:
        with _borrowed(db.backend):
            task = asyncio.create_task(db.run(work))
            await _until(lambda: db.backend.stats().waiting == 1)
            assert isinstance(await _cancel(task), Cancelled)
            # Without waiting for who has the connection.
            assert db.backend.stats().in_use == 1
        await _until(lambda: db.backend.stats().in_use == 0)
        assert await _ids(db) == []

    use(body, pool_size=1)


@pytest.mark.parametrize("way", ["statement", "transaction", "savepoint", "stream", "connection"])
def test_a_running_statement_is_interrupted(use: Callable[..., None], way: str) -> None:
    async def body(db: aio.AsyncBackend) -> None:
        began = threading.Event()
        task = asyncio.create_task(db.run(_LONG_WAYS[way], began))
        await _until(began.is_set)
        await asyncio.sleep(0.1)
        assert isinstance(await _cancel(task), Cancelled)
        assert await _ids(db) == []

    use(body)


def test_a_wait_for_anothers_lock_is_interrupted(url: str, use: Callable[..., None]) -> None:
    async def body(db: aio.AsyncBackend) -> None:
        await db.run(_add, 1)
        with connect(url, migrate=False) as other, other.transaction() as txn:
            txn.execute("UPDATE item SET half = 5")
            task = asyncio.create_task(db.run(Backend.execute, "UPDATE item SET half = 6"))
            await _until(lambda: db.backend.stats().in_use == 1)
            await asyncio.sleep(0.3)
            assert isinstance(await _cancel(task), Cancelled)
        assert await db.run(Backend.value, "SELECT half FROM item") == 5

    use(body, busy_timeout=_FOREVER)


def test_a_transaction_between_statements_is_rolled_back(use: Callable[..., None]) -> None:
    async def body(db: aio.AsyncBackend) -> None:
        begun, go_on = threading.Event(), threading.Event()
        later: list[str] = []

        def work(txn: Transaction) -> None:
            _add(txn, 1)
            _pause(begun, go_on)
            _add(txn, 2)
            later.append("a second statement ran")

        task = asyncio.create_task(db.transaction(work))
        await _until(begun.is_set)
        task.cancel()
        await asyncio.sleep(0.1)
        task.cancel()
        await asyncio.sleep(0.1)
        assert not task.done()
        go_on.set()
        assert isinstance(await _outcome(task), Cancelled)
        assert await _ids(db) == []
        assert not later

    use(body)


def test_a_transaction_before_its_commit_is_rolled_back(use: Callable[..., None]) -> None:
    async def body(db: aio.AsyncBackend) -> None:
        begun, go_on = threading.Event(), threading.Event()

        def work(txn: Transaction) -> None:
            _add(txn, 1)
            _pause(begun, go_on)

        task = asyncio.create_task(db.transaction(work))
        await _until(begun.is_set)
        task.cancel()
        await asyncio.sleep(0)
        go_on.set()
        assert isinstance(await _outcome(task), Cancelled)
        assert await _ids(db) == []

    use(body)


def test_work_that_hides_its_cancellation_gets_no_further(use: Callable[..., None]) -> None:
    async def body(db: aio.AsyncBackend) -> None:
        begun, go_on = threading.Event(), threading.Event()

        def work(backend: Backend) -> str:
            _pause(begun, go_on)
            for id_ in range(10):
                with suppress(Cancelled):
                    _add(backend, id_)
            return "as if nothing had been"

        task = asyncio.create_task(db.run(work))
        await _until(begun.is_set)
        task.cancel()
        await asyncio.sleep(0)
        go_on.set()
        outcome = await _outcome(task)
        assert isinstance(outcome, aio.Completed)
        assert outcome.result == "as if nothing had been"
        assert await _ids(db) == []

    use(body)


@pytest.mark.parametrize(
    ("point", "fails", "outcome", "saved"),
    [
        ("BEGIN", False, Cancelled, False),
        ("begun", False, Cancelled, False),
        ("ROLLBACK", True, ZeroDivisionError, False),
        ("rolled back", True, ZeroDivisionError, False),
        ("release", True, ZeroDivisionError, False),
        ("COMMIT", False, aio.Completed, True),
        ("committed", False, aio.Completed, True),
        ("release", False, aio.Completed, True),
        ("released", False, aio.Completed, True),
    ],
)
def test_a_cancel_in_a_step_of_the_transaction_itself(
    url: str,
    use: Callable[..., None],
    point: str,
    fails: bool,
    outcome: type[BaseException],
    saved: bool,
) -> None:
    """Only a BEGIN is interrupted; none of the others is, and each comes to its end."""
    armed, begun, go_on = threading.Event(), threading.Event(), threading.Event()
    interrupts = 0

    def watch(step: str) -> None:
        nonlocal interrupts
        interrupts += step == "interrupt"
        if step == point and armed.is_set():
            armed.clear()
            _pause(begun, go_on)

    async def body(db: aio.AsyncBackend) -> None:
        armed.set()
        task = asyncio.create_task(db.transaction(_add_and_fail if fails else partial(_add, id_=9)))
        await _until(begun.is_set)
        task.cancel()
        try:
            if outcome is Cancelled:
                await _until(lambda: interrupts > 1)
            else:
                await asyncio.sleep(0.1)
                assert interrupts == 0
            assert not task.done()
        finally:
            go_on.set()
        assert isinstance(await _outcome(task), outcome)
        assert await _ids(db) == ([9] if saved else [])

    use(body, driver=watched_driver(url, watch))


@pytest.mark.only("postgres", "nothing runs long at SQLite's COMMIT")
def test_a_commit_is_not_interrupted(use: Callable[..., None]) -> None:
    async def body(db: aio.AsyncBackend) -> None:
        await db.run(_make_commit_linger, 1.0)
        committing = (
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE query = 'COMMIT' AND wait_event = 'PgSleep'"
        )

        def work(txn: Transaction) -> str:
            _add(txn, 7)
            return "saved"

        task = asyncio.create_task(db.transaction(work))
        while not await db.run(Backend.value, committing):
            pass
        outcome = await _cancel(task)
        assert isinstance(outcome, aio.Completed)
        assert outcome.result == "saved"
        assert await _ids(db) == [7]

    use(body)


def test_work_that_was_done_says_so(use: Callable[..., None]) -> None:
    async def body(db: aio.AsyncBackend) -> None:
        waited_for, done = threading.Event(), threading.Event()

        def work(backend: Backend) -> str:
            assert waited_for.wait(BOUND)
            _add(backend, 1)
            done.set()
            return "saved"

        task = asyncio.create_task(db.run(work))
        await asyncio.sleep(0)
        waited_for.set()
        # The event loop is held up, so that it cannot know.
        assert done.wait(BOUND)
        time.sleep(0.1)
        outcome = await _cancel(task)
        assert isinstance(outcome, aio.Completed)
        assert outcome.result == "saved"
        assert await _ids(db) == [1]

    use(body)


def test_a_timeout_ends_the_statement(use: Callable[..., None]) -> None:
    async def body(db: aio.AsyncBackend) -> None:
        with pytest.raises(TimeoutError) as caught:
            async with asyncio.timeout(0.2):
                await db.run(_run_long)
        assert caught.value.__cause__ is not None
        assert isinstance(caught.value.__cause__.__cause__, Cancelled)

    use(body)


def test_an_interrupt_reaches_no_other_work(use: Callable[..., None]) -> None:
    async def body(db: aio.AsyncBackend) -> None:
        async def cancel_at_once(n: int) -> None:
            task = asyncio.create_task(db.run(_run_long))
            await asyncio.sleep(0.002 * (n % 10))
            await _cancel(task)

        async def read(n: int) -> None:
            for _ in range(20):
                counted = await db.run(Backend.value, _counting(db.backend, 20_000))
                assert counted == 20_000

        async with asyncio.TaskGroup() as group:
            for n in range(40):
                group.create_task(cancel_at_once(n))
            for n in range(10):
                group.create_task(read(n))

    use(body, pool_size=4)


def test_a_cancelled_group_leaves_whole_transactions(use: Callable[..., None]) -> None:
    def work(id_: int, txn: Transaction) -> None:
        _add(txn, 2 * id_)
        txn.value(_counting(txn, 20_000))
        _add(txn, 2 * id_ + 1)

    async def body(db: aio.AsyncBackend) -> None:
        tasks: list[asyncio.Task[None]] = []
        with pytest.raises(ExceptionGroup):
            async with asyncio.TaskGroup() as group:
                tasks += [group.create_task(db.transaction(partial(work, n))) for n in range(50)]
                await _until(lambda: sum(task.done() for task in tasks) > 3)
                raise ValueError
        # Those that waited for SQLite's writer were left, and let it pass in their turn.
        await _until(lambda: db.backend.stats().in_use == 0)
        ids = await _ids(db)
        done = [n for n, task in enumerate(tasks) if not task.cancelled()]
        assert 3 < len(done) < 50
        assert {id_ // 2 for id_ in ids} >= set(done)
        assert ids == [id_ for n in sorted({id_ // 2 for id_ in ids}) for id_ in (2 * n, 2 * n + 1)]

    use(body)


def test_a_thousand_tasks_share_the_pool(use: Callable[..., None]) -> None:
    async def body(db: aio.AsyncBackend) -> None:
        await asyncio.gather(*[db.run(_add, n) for n in range(1000)])
        assert await _ids(db) == list(range(1000))

    use(body)


def test_the_event_loop_goes_on(use: Callable[..., None]) -> None:
    async def body(db: aio.AsyncBackend) -> None:
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                await asyncio.sleep(0.01)
                ticks += 1

        heart = asyncio.create_task(tick())
        task = asyncio.create_task(db.run(_run_long))
        await _until(lambda: ticks >= 50)
        assert not task.done()
        await _cancel(task)
        heart.cancel()

    use(body)


def test_several_event_loops_share_it(use: Callable[..., None]) -> None:
    async def body(db: aio.AsyncBackend) -> None:
        async def other_loop(thread: int) -> None:
            for n in range(20):
                await db.run(_add, 100 * thread + n)
            await _cancel(asyncio.create_task(db.run(_run_long)))

        def work(thread: int) -> None:
            asyncio.run(other_loop(thread))

        await asyncio.gather(*[asyncio.to_thread(work, thread) for thread in range(4)])
        assert len(await _ids(db)) == 80

    use(body)


def test_close_waits_for_work_in_flight(url: str, use: Callable[..., None]) -> None:
    async def main() -> None:
        async with aio.connect(url, migrate=False, pool_size=1) as db:
            begun, go_on = threading.Event(), threading.Event()

            def work(txn: Transaction) -> None:
                _add(txn, 1)
                _pause(begun, go_on)

            tasks = [
                asyncio.create_task(db.transaction(work)),
                asyncio.create_task(db.run(_add, 2)),
            ]
            await _until(begun.is_set)
            closing = [asyncio.create_task(db.close()) for _ in range(2)]
            await asyncio.sleep(0.05)
            assert not any(task.done() for task in closing)
            with pytest.raises(BackendClosed):
                await db.run(_add, 3)
            go_on.set()
            await asyncio.gather(*tasks, *closing)
            await db.close()
            for refused in (db.run(_add, 3), db.transaction(lambda txn: _add(txn, 3))):
                with pytest.raises(BackendClosed):
                    await refused
            with pytest.raises(BackendClosed):
                db.backend  # noqa: B018

    asyncio.run(main())
    with connect(url, migrate=False) as db:
        assert _find_ids(db) == [1, 2]


def test_a_cancelled_close_interrupts_the_work(url: str, use: Callable[..., None]) -> None:
    async def main() -> None:
        async with aio.connect(url, migrate=False, pool_size=2) as db:
            tasks = [asyncio.create_task(db.run(_run_long)) for _ in range(5)]
            await _until(lambda: db.backend.stats().in_use > 0)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await db.close()
            ended = await asyncio.gather(*tasks, return_exceptions=True)
            assert {type(each) for each in ended} == {Cancelled}

    asyncio.run(main())


def test_opening_errors_pass(backend_name: str, url: str) -> None:
    async def main() -> None:
        with pytest.raises(ConfigurationError, match="pool_size=0"):
            async with aio.connect(url, pool_size=0):
                pass
        with pytest.raises((ConfigurationError, Unavailable)):
            async with aio.connect(f"{url.partition('?')[0]}/missing/folder/x"):
                pass

    asyncio.run(main())


def test_it_is_entered_once(url: str) -> None:
    async def main() -> None:
        db = aio.connect(url, migrate=False)
        with pytest.raises(UsageError, match="async with"):
            await db.run(_add, 1)
        async with db:
            with pytest.raises(UsageError, match="once"):
                await db.__aenter__()
        with pytest.raises(UsageError, match="once"):
            await db.__aenter__()
        never = aio.connect(url)
        await never.close()

    asyncio.run(main())


def test_a_cancelled_opening_leaves_nothing(url: str) -> None:
    before = set(threading.enumerate())

    async def main() -> None:
        async def open_and_wait() -> None:
            async with aio.connect(url):
                await asyncio.sleep(_FOREVER)

        for hops in range(1, 6):
            task = asyncio.create_task(open_and_wait())
            await asyncio.sleep(0.01 * hops)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(main())
    until(lambda: set(threading.enumerate()) <= before)
    with connect(url) as db:
        assert flows.find(db) == []


@pytest.mark.direct("its program connects as one does without PgBouncer")
def test_ctrl_c_ends_the_statement(url: str, use: Callable[..., None]) -> None:
    in_process(_interrupted_main, url)
    with connect(url, migrate=False) as db:
        assert _find_ids(db) == [1]


def _interrupted_main(url: str) -> None:
    # A shell starts what runs in its background with SIGINT ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)

    async def main() -> None:
        async with aio.connect(url, migrate=False) as db:
            await db.run(_add, 1)

            def work(txn: Transaction) -> None:
                _add(txn, 2)
                threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
                txn.execute(_long(txn))

            try:
                await db.transaction(work)
            finally:
                assert db.backend.stats().in_use == 0

    with pytest.raises(KeyboardInterrupt):
        asyncio.run(main())


@pytest.mark.direct("its program connects as one does without PgBouncer")
def test_a_forked_child_is_refused(url: str, use: Callable[..., None]) -> None:
    in_process(_fork_main, url)


def _fork_main(url: str) -> None:
    async def use_in_child(db: aio.AsyncBackend) -> None:
        with pytest.raises(ForkedBackend):
            await db.run(_add, 1)
        await db.close()

    async def main() -> None:
        async with aio.connect(url, migrate=False) as db:
            await db.run(_add, 0)
            child = os.fork()
            if child == 0:
                status = 1
                try:
                    asyncio._set_running_loop(None)
                    asyncio.run(use_in_child(db))
                    status = 0
                finally:
                    os._exit(status)
            assert os.waitpid(child, 0)[1] == 0
            await db.run(_add, 2)
            assert await _ids(db) == [0, 2]

    asyncio.run(main())


def _add(db: Queryable, id_: int) -> None:
    db.execute("INSERT INTO item (id) VALUES (?)", (id_,))


def _add_and_fail(txn: Transaction) -> None:
    _add(txn, 9)
    raise ZeroDivisionError


def _find_ids(db: Queryable, where: str = "") -> list[int]:
    return [row[0] for row in db.rows(f"SELECT id FROM item {where} ORDER BY id")]


async def _ids(db: aio.AsyncBackend, where: str = "WHERE id >= 0") -> list[int]:
    return await db.run(_find_ids, where)


def _pause(begun: threading.Event, go_on: threading.Event) -> None:
    begun.set()
    assert go_on.wait(BOUND)


def _counting(db: Queryable, limit: int) -> str:
    return db.dialect.pick(
        sqlite="WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i <"
        f" {limit}) SELECT count(*) FROM n",
        postgres=f"SELECT count(*) FROM generate_series(1, {limit})",
    )


def _long(db: Queryable) -> str:
    return db.dialect.pick(sqlite=_counting(db, 10**10), postgres=f"SELECT pg_sleep({_FOREVER})")


def _run_long(db: Queryable) -> None:
    db.execute(_long(db))


def _long_statement(backend: Backend, began: threading.Event) -> None:
    began.set()
    _run_long(backend)


def _long_transaction(backend: Backend, began: threading.Event) -> None:
    with backend.transaction() as txn:
        _add(txn, 1)
        began.set()
        _run_long(txn)


def _long_savepoint(backend: Backend, began: threading.Event) -> None:
    with backend.transaction() as txn:
        _add(txn, 1)
        with txn.transaction() as inner:
            _add(inner, 2)
            began.set()
            _run_long(inner)


def _long_stream(backend: Backend, began: threading.Event) -> None:
    with backend.transaction() as txn:
        _add(txn, 1)
        for _ in txn.stream(
            txn.dialect.pick(
                sqlite=_counting(txn, 10**10).replace("count(*)", "i"),
                postgres="SELECT generate_series(1, 10000000000)",
            ),
            batch=10,
        ):
            began.set()


def _long_native(backend: Backend, began: threading.Event) -> None:
    try:
        with backend.connection() as native:
            began.set()
            native.execute(_long(backend))
    except Exception as error:
        raise Cancelled(str(error)) from error


_LONG_WAYS: Final = {
    "statement": _long_statement,
    "transaction": _long_transaction,
    "savepoint": _long_savepoint,
    "stream": _long_stream,
    "connection": _long_native,
}


def _make_commit_linger(backend: Backend, seconds: float) -> None:
    backend.execute(
        "CREATE FUNCTION linger() RETURNS trigger LANGUAGE plpgsql AS"
        f" 'BEGIN PERFORM pg_sleep({seconds}); RETURN NULL; END'"
    )
    backend.execute(
        "CREATE CONSTRAINT TRIGGER linger AFTER INSERT ON item DEFERRABLE INITIALLY DEFERRED"
        " FOR EACH ROW WHEN (new.id = 7) EXECUTE FUNCTION linger()"
    )


@contextmanager
def _borrowed(backend: Backend) -> Iterator[None]:
    """Hold, in another thread, the connection that writes."""
    begun, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        with backend.borrowed():
            _pause(begun, go_on)

    with ThreadPoolExecutor(1) as threads:
        held = threads.submit(hold)
        assert begun.wait(BOUND)
        try:
            yield
        finally:
            go_on.set()
            held.result(BOUND)


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(BOUND):
        while not condition():
            await asyncio.sleep(0.005)


async def _cancel(task: asyncio.Task[Any]) -> BaseException | None:
    task.cancel()
    return await _outcome(task)


async def _outcome(task: asyncio.Task[Any]) -> BaseException | None:
    """What the CancelledError of a task says of its work."""
    with pytest.raises(asyncio.CancelledError) as caught:
        await task
    return caught.value.__cause__
