"""Ctrl-C, and signal handlers that raise: at any moment, and in the middle of a long statement.

Afterwards the connection is clean for the next caller, and the data is all or nothing.
"""

from __future__ import annotations

import gc
import itertools
import logging
import os
import random
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, Final

import pytest

from prefect_db import Backend, BackendClosed, Queryable, connect
from prefect_db.testing import Ledger, judge
from tests.faults import (
    BOUND,
    ENDED,
    in_process,
    kill,
    open_files,
    raise_on_signals,
    start_process,
    until,
)
from tests.faults.postgres import PARTS, TABLE, found, write
from tests.faults.report import RecordFault, compare

# Seconds: a long statement lasts longer than what is prompt by so much that both are safe to tell.
_LONG: Final = 40
_PROMPT: Final = 15


class Alarm(Exception):
    """What a host's signal handler may raise."""


@pytest.fixture
def db(url: str) -> Iterator[Backend]:
    with connect(url, migrate=False, pool_size=2) as db:
        db.execute("CREATE TABLE item (id bigint NOT NULL, half varchar NOT NULL)")
        yield db
        assert db.stats().in_use == 0


@pytest.fixture(params=[KeyboardInterrupt, Alarm])
def kind(request: pytest.FixtureRequest) -> Iterator[type[BaseException]]:
    """What SIGINT raises: Python's own exception, or one of the host's handler."""
    kind: type[BaseException] = request.param

    def handle(number: int, frame: FrameType | None) -> None:
        raise kind

    before = signal.signal(signal.SIGINT, handle)
    yield kind
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("way", ["statement", "transaction", "savepoint", "stream"])
def test_a_signal_ends_a_long_statement(
    db: Backend, kind: type[BaseException], way: str, record_fault: RecordFault
) -> None:
    with _prompt(kind), _signal_during_statement(db):
        _WAYS[way](db)
    record_fault("signal in a long statement", verdict=compare([], _halves(db)))
    assert db.stats().in_use == 0


@pytest.mark.only("sqlite", "the driver of PostgreSQL has no handler that SQLite calls")
def test_a_signal_is_pending_when_sqlite_first_looks(url: str, kind: type[BaseException]) -> None:
    """On a connection whose statements were all short until now. In one step of the machine, and
    so without a look, this one searches a text for a second or so."""
    slow_step = "instr(hex(zeroblob(1000000)), hex(zeroblob(10000)) || '1')"
    with connect(url, migrate=False) as db:
        with _prompt(kind), _signal_during_statement(db), db.transaction() as txn:
            txn.value(
                f"WITH RECURSIVE n (i) AS (SELECT {slow_step} UNION ALL SELECT i + 1 FROM n"
                f" WHERE i < {10_000_000 * _LONG // 4}) SELECT count(*) FROM n"
            )
        # And it goes on looking.
        assert db.value("SELECT 1") == 1
        with _prompt(kind), _signal_during_statement(db), db.transaction() as txn:
            txn.value(_long(db))


def test_a_signal_ends_a_long_executemany(
    db: Backend, kind: type[BaseException], record_fault: RecordFault
) -> None:
    with _prompt(kind), _signal_during_statement(db):
        _WAYS["executemany"](db)
    record_fault("signal in a long statement", verdict=compare([], _halves(db)))
    assert db.stats().in_use == 0
    _insert(db, 1)
    assert _halves(db) == [(1, "a"), (1, "b")]


@pytest.mark.only("postgres", "SQLite's statements end with the thread that runs them")
def test_a_signal_ends_the_statement_on_the_server_too(
    db: Backend, kind: type[BaseException]
) -> None:
    with _prompt(kind), _signal_during_statement(db), db.transaction() as txn:
        txn.execute(_long(db))
    running = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep%'"
    until(
        lambda: db.value(f"{running} AND state <> 'idle' AND datname = current_database()") == 0,
        _PROMPT,
    )


@pytest.mark.only("postgres", "nothing runs long at SQLite's COMMIT")
def test_a_signal_during_commit_leaves_all_or_nothing(
    db: Backend, kind: type[BaseException], record_fault: RecordFault
) -> None:
    db.execute(
        "CREATE FUNCTION linger() RETURNS trigger LANGUAGE plpgsql AS"
        f" 'BEGIN PERFORM pg_sleep({_LONG}); RETURN NULL; END'"
    )
    db.execute(
        "CREATE CONSTRAINT TRIGGER linger AFTER INSERT ON item DEFERRABLE INITIALLY DEFERRED"
        " FOR EACH ROW WHEN (new.half = 'b') EXECUTE FUNCTION linger()"
    )
    with _prompt(kind), _signal_during_statement(db), db.transaction() as txn:
        txn.execute("INSERT INTO item (id, half) VALUES (1, 'a')")
        txn.execute("INSERT INTO item (id, half) VALUES (1, 'b')")
    assert db.stats().in_use == 0
    assert len(_halves(db)) in (0, 2)
    record_fault("signal during COMMIT", acknowledged=0)


def test_a_signal_ends_the_wait_for_a_connection(
    url: str, kind: type[BaseException], record_fault: RecordFault
) -> None:
    with connect(url, migrate=False, pool_size=1, pool_timeout=_LONG) as db:
        held, done = threading.Event(), threading.Event()

        def hold() -> None:
            with db.transaction():
                held.set()
                done.wait(BOUND)

        holder = threading.Thread(target=hold)
        holder.start()
        try:
            assert held.wait(BOUND)
            with _prompt(kind), _signal_when(lambda: db.stats().waiting == 1), db.transaction():
                pass
            assert (db.stats().in_use, db.stats().waiting) == (1, 0)
        finally:
            done.set()
            holder.join()
        with db.transaction():
            assert db.stats().in_use == 1
        assert db.stats().in_use == 0
    record_fault("signal in a wait for a connection")


def test_a_signal_ends_the_wait_for_the_lock_of_another(
    url: str, db: Backend, kind: type[BaseException], record_fault: RecordFault
) -> None:
    _insert(db, 1)
    with (
        connect(url, migrate=False) as other,
        connect(url, migrate=False, busy_timeout=_LONG) as waiting,
        other.transaction() as holder,
    ):
        holder.execute("UPDATE item SET half = 'theirs'")
        with _prompt(kind), _signal_during_statement(waiting), waiting.transaction() as txn:
            txn.execute("UPDATE item SET half = 'mine'")
        assert waiting.stats().in_use == 0
        holder.rollback()
        assert waiting.execute("UPDATE item SET half = 'mine'") == 2
    record_fault("signal in a wait for a lock", acknowledged=1)


def test_a_handler_that_raises_nothing_disturbs_nothing(db: Backend) -> None:
    seen: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda number, frame: seen.append(number))
    try:
        with _signal_during_statement(db, signal.SIGUSR1), db.transaction() as txn:
            _insert(txn, 1)
            txn.execute(_long(db, 2))
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert seen == [signal.SIGUSR1]
    assert len(_halves(db)) == 2


@pytest.mark.parametrize(
    "way",
    [
        "statement",
        "read",
        "executemany",
        "connection",
        "write",
        "read-only",
        "nested",
        "rollback",
        "run",
    ],
)
def test_an_interrupt_at_any_step_leaves_the_pool_as_it_was(
    url: str, way: str, record_fault: RecordFault
) -> None:
    steps = int(in_process(_interrupt_at_every_step, url, way))
    record_fault("KeyboardInterrupt at each step", times=steps)


def test_an_interrupt_at_any_step_of_close_leaves_nothing_open(
    url: str, record_fault: RecordFault
) -> None:
    steps = int(in_process(_interrupt_close, url))
    record_fault("KeyboardInterrupt at each step", times=steps)


def test_signals_at_random_moments_leave_whole_rows_and_a_pool_as_it_was(
    url: str, record_fault: RecordFault
) -> None:
    times, acknowledged, lost = map(int, in_process(_interrupt_at_random, url).split())
    record_fault("signals at random moments", times=times, acknowledged=acknowledged, lost=lost)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_a_worker_that_is_ended_while_it_writes_loses_nothing(
    url: str, number: signal.Signals, tmp_path: Path, record_fault: RecordFault
) -> None:
    path, times = tmp_path / "ledger", 6
    with connect(url, migrate=False) as db:
        db.execute(TABLE)
        for started in range(times):
            worker = start_process(write_on_and_on, url, str(path), str(started))
            code = kill(worker, "written", after=random.uniform(0, 0.3), number=number)
            assert code in (0, -signal.SIGINT if number is signal.SIGINT else ENDED)
        verdict = judge([path], found(db), parts=PARTS)
        record_fault(f"worker ended by {number.name}", times=times, verdict=verdict)
        assert verdict.acknowledged >= times


def write_on_and_on(url: str, path: str, worker: str) -> None:
    """As a host's worker, which ends in an orderly way when it is told to."""
    told = raise_on_signals()
    with connect(url, migrate=False) as db, Ledger(Path(path)) as ledger:
        for number in itertools.takewhile(lambda _: not told.is_set(), itertools.count()):
            key = f"{worker}.{number}"
            ledger.intend(key)
            db.run(partial(write, key=key))
            ledger.acknowledge(key)
            if number == 0:
                print("written", flush=True)


def _in_transaction(db: Backend) -> None:
    with db.transaction() as txn:
        _insert(txn, 1)
        txn.execute(_long(db))


def _in_savepoint(db: Backend) -> None:
    with db.transaction() as txn:
        _insert(txn, 1)
        with txn.transaction() as inner:
            _insert(inner, 2)
            inner.execute(_long(db))


def _in_executemany(db: Backend) -> None:
    long = _long(db).removeprefix("SELECT ")
    numbered = db.dialect.pick(
        sqlite=f"INSERT INTO item (id, half) SELECT ?, ({_long(db)})",
        postgres=f"INSERT INTO item (id, half) SELECT ?, {long}",
    )
    db.executemany(numbered, [(1,), (2,)])


def _in_stream(db: Backend) -> None:
    with db.transaction() as txn:
        _insert(txn, 1)
        list(txn.stream(_long(db)))


_WAYS: Final[dict[str, Callable[[Backend], Any]]] = {
    "statement": lambda db: db.execute(_long(db)),
    "transaction": _in_transaction,
    "savepoint": _in_savepoint,
    "executemany": _in_executemany,
    "stream": _in_stream,
}


@contextmanager
def _prompt(kind: type[BaseException]) -> Iterator[None]:
    began = time.monotonic()
    with pytest.raises(kind):
        yield
    assert time.monotonic() - began < _PROMPT


@contextmanager
def _signal_when(condition: Callable[[], bool], number: int = signal.SIGINT) -> Iterator[None]:
    """Send this process a signal, from another thread, soon after something is so."""

    def send() -> None:
        until(condition)
        time.sleep(0.2)
        os.kill(os.getpid(), number)

    sender = threading.Thread(target=send)
    sender.start()
    try:
        yield
    finally:
        sender.join()


def _signal_during_statement(db: Backend, number: int = signal.SIGINT) -> Any:
    return _signal_when(lambda: db.stats().in_use == 1, number)


def _long(db: Queryable, seconds: int = _LONG) -> str:
    return db.dialect.pick(
        sqlite="WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i <"
        f" {10_000_000 * seconds // 4}) SELECT count(*) FROM n",
        postgres=f"SELECT pg_sleep({seconds})",
    )


def _insert(db: Queryable, id_: int) -> None:
    with db.transaction() as txn:
        txn.execute("INSERT INTO item (id, half) VALUES (?, 'a')", (id_,))
        txn.execute("INSERT INTO item (id, half) VALUES (?, 'b')", (id_,))


def _halves(db: Queryable) -> list[tuple[Any, ...]]:
    return [tuple(row) for row in db.rows("SELECT id, half FROM item ORDER BY id, half")]


def _write(db: Backend, id_: int) -> None:
    with db.transaction() as txn:
        txn.execute("INSERT INTO item (id, half) VALUES (?, 'a')", (id_,))
        txn.execute("INSERT INTO item (id, half) VALUES (?, 'b')", (id_,))


def _write_many(db: Backend, id_: int) -> None:
    db.executemany("INSERT INTO item (id, half) VALUES (?, ?)", [(id_, "a"), (id_, "b")])


def _roll_back(db: Backend, id_: int) -> None:
    with db.transaction() as txn:
        txn.execute("INSERT INTO item (id, half) VALUES (?, 'a')", (id_,))
        txn.rollback()


def _use_native(db: Backend, id_: int) -> None:
    with db.connection() as native:
        native.execute(f"INSERT INTO item (id, half) VALUES ({id_}, 'a'), ({id_}, 'b')")


def _read_only(db: Backend, id_: int) -> None:
    with db.transaction(read_only=True, timeout=60) as txn:
        for row in txn.stream("SELECT id, half FROM item"):
            assert len(row) == 2


def _nested(db: Backend, id_: int) -> None:
    with db.transaction() as txn:
        txn.execute("INSERT INTO item (id, half) VALUES (?, 'a')", (id_,))
        with txn.transaction() as inner:
            inner.execute("INSERT INTO item (id, half) VALUES (?, 'b')", (id_,))
        with suppress(KeyError), txn.transaction() as inner:
            inner.execute("INSERT INTO item (id, half) VALUES (?, 'c')", (id_,))
            raise KeyError


_STEPS: Final[dict[str, Callable[[Backend, int], Any]]] = {
    "statement": lambda db, id_: db.execute("DELETE FROM item WHERE id < 0"),
    "read": lambda db, id_: db.rows("SELECT id FROM item"),
    "write": _write,
    "read-only": _read_only,
    "nested": _nested,
    "executemany": _write_many,
    "rollback": _roll_back,
    "connection": _use_native,
    "run": lambda db, id_: db.run(lambda txn: _insert(txn, id_)),
}


_WRITING: Final = [_STEPS[way] for way in ("executemany", "connection", "write", "nested", "run")]


def _expect_noise() -> None:
    """Connections that are given up are logged, and transactions that never ended warned of;
    and Python tells of what is raised where it cannot be passed on, at the end of an object."""
    logging.disable()
    warnings.simplefilter("ignore", ResourceWarning)
    sys.unraisablehook = lambda _: None


def _interrupt_at_every_step(url: str, way: str) -> None:
    """Raise KeyboardInterrupt wherever in the library's own code a signal can."""
    _expect_noise()
    with connect(url, migrate=False, pool_size=2) as db:
        db.execute("CREATE TABLE item (id bigint NOT NULL, half varchar NOT NULL)")
        _insert(db, 0)
        step = 1
        while _interrupted(_STEPS[way], db, step):
            assert db.stats().in_use == 0, f"a connection is lost at step {step}"
            step += 1
        assert step > 10
        _assert_whole(db)
    print(step - 1)


def _interrupt_close(url: str) -> None:
    _expect_noise()
    connect(url, migrate=False).close()
    step, before = 0, open_files()
    interrupted = True
    while interrupted:
        step += 1
        db = connect(url, migrate=False, pool_size=2)
        db.value("SELECT 1")
        with db.transaction(read_only=True) as txn:
            txn.value("SELECT 1")
        interrupted = _interrupted(lambda db, _: db.close(), db, step)
        with suppress(BackendClosed):
            db.close()
            db.value("SELECT 1")
            raise AssertionError("it was not closed")
        # What the first one did not come to is closed when the Backend is collected.
        del db, txn
        gc.collect()
        assert open_files() == before, f"a connection is left open at step {step}"
    assert step > 10
    print(step - 1)


def _interrupted(operation: Callable[[Backend, int], Any], db: Backend, step: int) -> bool:
    """Interrupt an operation at one of its steps; False if it has fewer.

    Python looks for signals where a function of its own begins, and after each call of one in C.
    """

    steps = 0

    def profile(frame: FrameType, event: str, arg: object) -> None:
        nonlocal steps
        own = frame.f_globals.get("__name__", "").startswith("prefect_db.")
        if own and event in ("call", "c_return"):
            steps += 1
            if steps == step:
                raise KeyboardInterrupt(f"{frame.f_code.co_qualname}, line {frame.f_lineno}")

    with suppress(KeyboardInterrupt):
        try:
            sys.setprofile(profile)
            operation(db, step)
        finally:
            sys.setprofile(None)
    return steps >= step


def _interrupt_at_random(url: str) -> None:
    """Let signals arrive, whenever they may, in some hundreds of small transactions."""
    _expect_noise()
    armed = False
    interrupts = 0

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal armed, interrupts
        if armed:
            armed = False
            interrupts += 1
            raise KeyboardInterrupt

    def send() -> None:
        while not done.wait(random.uniform(0, 0.004)):
            os.kill(os.getpid(), signal.SIGINT)

    done = threading.Event()
    signal.signal(signal.SIGINT, handle)
    operations = list(_STEPS.values())
    with connect(url, migrate=False, pool_size=2) as db:
        db.execute("CREATE TABLE item (id bigint NOT NULL, half varchar NOT NULL)")
        sender = threading.Thread(target=send)
        sender.start()
        ends = time.monotonic() + 10
        id_ = 0
        _insert(db, id_)
        saved = {id_}
        while interrupts < 300 and time.monotonic() < ends:
            id_ += 1
            with suppress(KeyboardInterrupt):
                armed = True
                operation = operations[id_ % len(operations)]
                operation(db, id_)
                if operation in _WRITING:
                    saved.add(id_)
                # Here: one that comes while the block ends would not be suppressed.
                armed = False
        done.set()
        sender.join()
        assert interrupts > 50
        assert db.stats().in_use == 0, db.stats()
        lost = saved - {id_ for id_, _ in _halves(db)}
        _assert_whole(db)
    print(interrupts, len(saved), len(lost))


def _assert_whole(db: Backend) -> None:
    halves = _halves(db)
    ids = {id_ for id_, _ in halves}
    assert halves == [(id_, half) for id_ in sorted(ids) for half in "ab"]
    _insert(db, 1_000_000)
    assert len(_halves(db)) == len(halves) + 2
