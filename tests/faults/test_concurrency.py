"""Many threads on one Backend, many processes on one database: no error, and every write there."""

from __future__ import annotations

import faulthandler
import random
import sys
import threading
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from types import FrameType
from typing import Any, Final
from urllib.parse import quote

import pytest

from prefect_db import Backend, Queryable, Transaction, connect, events, logs
from tests.faults import BOUND, end_process, in_process, start_process, until
from tests.faults.report import RecordFault, compare

_THREADS: Final = 8
_OPERATIONS: Final = 500
_STEP: Final = 1000


@pytest.fixture
def db(url: str) -> Iterator[Backend]:
    with connect(url, migrate=False) as db:
        db.execute("CREATE TABLE item (id bigint NOT NULL PRIMARY KEY, n bigint NOT NULL)")
        db.execute("INSERT INTO item (id, n) VALUES (-1, 0)")
        yield db
        assert db.stats().in_use == 0


def test_eight_threads_with_five_hundred_mixed_operations_each(
    db: Backend, record_fault: RecordFault
) -> None:
    def work(thread: int) -> list[int]:
        saved: list[int] = []
        for key in range(thread * _STEP, thread * _STEP + _OPERATIONS):
            _OPERATION[key % len(_OPERATION)](db, key, saved)
        return saved

    with ThreadPoolExecutor(_THREADS) as threads:
        saved = [key for keys in threads.map(work, range(_THREADS)) for key in keys]
    record_fault(
        "mixed operations of eight threads",
        times=_THREADS * _OPERATIONS,
        verdict=compare(saved, _ids(db)),
    )
    assert len(saved) > 2 * _OPERATIONS
    counting = sum(
        _OPERATION[key % len(_OPERATION)] is _count
        for thread in range(_THREADS)
        for key in range(thread * _STEP, thread * _STEP + _OPERATIONS)
    )
    assert db.value("SELECT n FROM item WHERE id = -1") == counting
    stats = db.stats()
    assert (stats.in_use, stats.waiting, stats.timeouts, stats.broken) == (0, 0, 0, 0)


@pytest.mark.parametrize("entity", ["events", "logs"])
def test_trims_at_the_same_time_share_the_work(
    url: str, entity: str, record_fault: RecordFault
) -> None:
    """The rows lie in another order than that of their times, in which they are deleted."""
    number, callers = 3000, 6
    now = datetime.now(UTC)
    times = [now - timedelta(seconds=n) for n in range(number)]
    random.shuffle(times)
    together = threading.Barrier(callers)

    with connect(url) as db, ThreadPoolExecutor(callers) as threads:

        def trim(batch: int) -> int:
            together.wait(BOUND)
            return _TRIMS[entity](db, now + timedelta(1), batch=batch)

        _fill(db, times)
        assert sum(threads.map(trim, range(90, 90 + callers))) == number
    record_fault("trims at the same time", times=callers)


@pytest.mark.only("postgres", "SQLite has one writer at a time")
@pytest.mark.parametrize("entity", ["events", "logs"])
def test_a_trim_leaves_to_others_what_they_are_deleting(url: str, entity: str) -> None:
    """To wait for them is to wait for each other, sooner or later: a deadlock."""
    impatient = f"{url}&options={quote('-c statement_timeout=5s')}"
    now = datetime.now(UTC)
    table = {"events": "events", "logs": "log"}[entity]
    with connect(url) as other, connect(impatient) as db:
        _fill(db, [now - timedelta(seconds=n) for n in range(10)])
        with other.transaction() as txn:
            some = f"SELECT id FROM {table} LIMIT 3"
            assert txn.execute(f"DELETE FROM {table} WHERE id IN ({some})") == 3
            assert _TRIMS[entity](db, now + timedelta(1)) == 7
        assert db.value(f"SELECT count(*) FROM {table}") == 0


_TRIMS: Final[dict[str, Callable[..., int]]] = {"events": events.trim, "logs": logs.trim}


def _fill(db: Backend, times: list[datetime]) -> None:
    about = {"prefect.resource.id": "x"}
    events.write(db, [events.make("a.b", about, occurred=time) for time in times])
    logs.write(db, [logs.make("a", 20, "b", time) for time in times])


def test_four_processes_with_four_threads_each(
    url: str, db: Backend, record_fault: RecordFault
) -> None:
    processes = [start_process(_work_beside_others, url, str(number)) for number in range(4)]
    for process in processes:
        end_process(process)
    saved = [worker * _STEP + n for worker in range(16) for n in range(200)]
    record_fault(
        "four processes with four threads each", times=16, verdict=compare(saved, _ids(db))
    )
    assert db.value("SELECT n FROM item WHERE id = -1") == 16 * 200


def test_a_transaction_that_is_collected_at_any_moment_stops_nobody(
    url: str, record_fault: RecordFault
) -> None:
    """Python's collector runs wherever memory is asked for, also inside the pool's own steps."""
    moments = int(in_process(_collect_at_every_moment, url))
    record_fault("transaction collected during another's begin", times=moments)


def _locking(db: Queryable) -> str:
    """Reads what is written next: PostgreSQL is to keep others from it until then."""
    lock = db.dialect.pick(sqlite="", postgres=" FOR UPDATE")
    return f"SELECT n FROM item WHERE id = -1{lock}"


def _insert(db: Queryable, key: int) -> None:
    assert db.execute("INSERT INTO item (id, n) VALUES (?, 0)", (key,)) == 1


def _ids(db: Queryable) -> list[int]:
    return [row["id"] for row in db.rows("SELECT id FROM item WHERE id >= 0 ORDER BY id")]


def _statement(db: Backend, key: int, saved: list[int]) -> None:
    _insert(db, key)
    saved.append(key)


def _transaction(db: Backend, key: int, saved: list[int]) -> None:
    with db.transaction() as txn:
        assert txn.row("SELECT id FROM item WHERE id = ?", (key,)) is None
        _insert(txn, key)
        assert txn.value("SELECT n FROM item WHERE id = ?", (key,)) == 0
    saved.append(key)


def _two_rows(db: Backend, key: int, saved: list[int]) -> None:
    both = [key, key + _OPERATIONS]
    assert db.executemany("INSERT INTO item (id, n) VALUES (?, 0)", [(id_,) for id_ in both]) == 2
    saved.extend(both)


def _read_own(db: Backend, key: int, saved: list[int]) -> None:
    for id_ in saved[-3:]:
        assert db.value("SELECT id FROM item WHERE id = ?", (id_,)) == id_


def _read_all_own(db: Backend, key: int, saved: list[int]) -> None:
    between = (key // _STEP * _STEP, key // _STEP * _STEP + _STEP - 1)
    with db.transaction(read_only=True) as txn:
        rows = txn.stream("SELECT id FROM item WHERE id BETWEEN ? AND ?", between, 50)
        assert sorted(row["id"] for row in rows) == sorted(saved)


def _count(db: Backend, key: int, saved: list[int]) -> None:
    def work(txn: Transaction) -> None:
        n = txn.value(_locking(txn))
        assert txn.execute("UPDATE item SET n = ? WHERE id = -1", (n + 1,)) == 1

    db.run(work)


def _fail(db: Backend, key: int, saved: list[int]) -> None:
    with suppress(KeyError), db.transaction() as txn:
        _insert(txn, key)
        raise KeyError


def _half(db: Backend, key: int, saved: list[int]) -> None:
    with db.transaction() as txn:
        with suppress(KeyError), txn.transaction() as inner:
            _insert(inner, key + _OPERATIONS)
            raise KeyError
        _insert(txn, key)
    saved.append(key)


_OPERATION: Final[list[Callable[[Backend, int, list[int]], None]]] = [
    _statement,
    _transaction,
    _two_rows,
    _read_own,
    _read_all_own,
    _count,
    _fail,
    _half,
]


def _work_beside_others(url: str, process: str) -> None:
    with connect(url, migrate=False) as db, ThreadPoolExecutor(4) as threads:

        def work(thread: int) -> None:
            first = (int(process) * 4 + thread) * _STEP
            for key in range(first, first + 200):
                with db.transaction() as txn:
                    n = txn.value(_locking(txn))
                    _insert(txn, key)
                    txn.execute("UPDATE item SET n = ? WHERE id = -1", (n + 1,))

        list(threads.map(work, range(4)))


def _collect_at_every_moment(url: str) -> None:
    faulthandler.dump_traceback_later(BOUND, exit=True)
    with connect(url, migrate=False, pool_size=1) as db:
        moment = 1
        while _collected_at(db, moment):
            moment += 1
        assert db.stats().in_use == 0
    assert moment > 20
    faulthandler.cancel_dump_traceback_later()
    print(moment - 1)


def _collected_at(db: Backend, moment: int) -> bool:
    """End a transaction in the middle of another's begin; False if that took fewer steps."""

    steps = 0

    def suspended() -> Generator[None, None, None]:
        with db.transaction():
            yield

    def trace(frame: FrameType, event: str, arg: object) -> Any:
        nonlocal steps
        if frame.f_globals.get("__name__", "").startswith("prefect_db."):
            steps += event == "line"
            if steps == moment:
                close()
            return trace
        return None

    def close() -> None:
        # It may be the other's turn to close it.
        with suppress(ValueError):
            garbage.close()

    def work() -> None:
        sys.settrace(trace)
        with db.transaction():
            pass

    garbage = suspended()
    next(garbage)
    thread = threading.Thread(target=work)
    thread.start()
    until(lambda: not thread.is_alive() or db.stats().waiting == 1)
    close()
    thread.join()
    return steps >= moment
