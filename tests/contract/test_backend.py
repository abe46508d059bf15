"""`Backend`: run() and its attempts, connection(), close(), and what a call is checked for."""

from __future__ import annotations

import os
import random
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import pairwise
from typing import Any

import pytest

from prefect_db import (
    Backend,
    BackendClosed,
    Busy,
    CommitUnknown,
    Deadlock,
    Error,
    PoolTimeout,
    ProgrammingError,
    Queryable,
    QueryTimeout,
    ReadOnly,
    SerializationFailure,
    Transaction,
    TransactionAborted,
    Unavailable,
    UniqueViolation,
    UsageError,
    connect,
)
from tests.faults import BOUND, until

_VERBS: dict[str, Callable[[Backend], Any]] = {
    "row": lambda db: db.row("SELECT 1"),
    "rows": lambda db: db.rows("SELECT 1"),
    "value": lambda db: db.value("SELECT 1"),
    "execute": lambda db: db.execute("DELETE FROM item"),
    "executemany": lambda db: db.executemany("DELETE FROM item WHERE id = ?", [(1,)]),
    "transaction": lambda db: db.transaction().__enter__(),
    "read-only transaction": lambda db: db.transaction(read_only=True).__enter__(),
    "run": lambda db: db.run(lambda txn: None),
    "stats": lambda db: db.stats(),
    "connection": lambda db: db.connection().__enter__(),
}
every_verb = pytest.mark.parametrize("verb", _VERBS.values(), ids=_VERBS)


@pytest.fixture
def db(url: str) -> Iterator[Backend]:
    with connect(url, migrate=False) as db:
        db.execute("CREATE TABLE item (id bigint NOT NULL PRIMARY KEY)")
        yield db
        assert db.stats().in_use == 0


def test_run_saves_what_it_did_and_gives_what_it_got(db: Backend) -> None:
    def work(txn: Transaction) -> str:
        _add(txn, 1)
        return "done"

    assert db.run(work) == "done"
    assert _ids(db) == [1]


@pytest.mark.parametrize("kind", [SerializationFailure, Deadlock, Busy, Unavailable])
def test_run_does_all_of_it_again_when_others_are_to_blame(db: Backend, kind: type[Error]) -> None:
    attempts: list[Transaction] = []

    def work(txn: Transaction) -> None:
        attempts.append(txn)
        _add(txn, len(attempts))
        if len(attempts) < 3:
            raise kind("theirs")

    db.run(work)
    assert _ids(db) == [3]
    assert len(set(attempts)) == 3


@pytest.mark.parametrize("attempts", [1, 3])
def test_run_gives_up_with_the_last_error(db: Backend, attempts: int) -> None:
    errors: list[Error] = []

    def work(txn: Transaction) -> None:
        errors.append(Busy(f"number {len(errors)}"))
        raise errors[-1]

    with pytest.raises(Busy) as caught:
        db.run(work, attempts)
    assert len(errors) == attempts
    assert caught.value is errors[-1]


@pytest.mark.parametrize(
    "kind",
    [
        UniqueViolation,
        QueryTimeout,
        PoolTimeout,
        TransactionAborted,
        CommitUnknown,
        KeyError,
        KeyboardInterrupt,
    ],
)
def test_run_does_not_repeat_what_would_fail_again(db: Backend, kind: type[BaseException]) -> None:
    attempts: list[Transaction] = []

    def work(txn: Transaction) -> None:
        attempts.append(txn)
        raise kind

    with pytest.raises(kind):
        db.run(work)
    assert len(attempts) == 1


def test_run_waits_longer_before_each_attempt() -> None:
    """At random, up to 0.05, 0.1, 0.2, ... seconds; this seed gives long ones."""
    began: list[float] = []

    def work(txn: Transaction) -> None:
        began.append(time.monotonic())
        raise Busy

    with connect(":memory:", migrate=False) as db, suppress(Busy):
        random.seed(5)
        waits = [random.uniform(0, longest) for longest in (0.05, 0.1, 0.2, 0.4)]
        random.seed(5)
        db.run(work)
    waited = [after - before for before, after in pairwise(began)]
    assert all(real >= least for real, least in zip(waited, waits, strict=True))


def test_run_is_told_how_often_to_try(db: Backend) -> None:
    calls: list[Transaction] = []
    with pytest.raises(UsageError, match="attempts=0"):
        db.run(calls.append, 0)
    assert calls == []


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({"read_only": True}, ReadOnly),
        ({"timeout": -1}, UsageError),
        ({"isolation": "none"}, UsageError),
    ],
)
def test_run_makes_the_transaction_that_was_asked_for(
    db: Backend, options: dict[str, Any], kind: type[Error]
) -> None:
    with pytest.raises(kind):
        db.run(lambda txn: _add(txn, 1), **options)


def test_the_drivers_own_connection_is_in_autocommit(db: Backend) -> None:
    with db.connection() as native:
        assert type(native).__module__.partition(".")[0] in ("sqlite3", "psycopg", "prefect_db")
        native.execute("INSERT INTO item (id) VALUES (1)")
        if db.dialect.name == "postgres":
            assert db.stats().in_use == 1
    assert _ids(db) == [1]


def test_what_is_left_open_on_the_drivers_own_connection_is_undone(db: Backend) -> None:
    with db.connection() as native:
        native.execute("BEGIN")
        native.execute("INSERT INTO item (id) VALUES (1)")
    assert _ids(db) == []
    _add(db, 2)


def test_what_a_statement_leaves_open_is_undone(url: str, db: Backend) -> None:
    with connect(url, migrate=False, pool_size=1) as one:
        one.execute("BEGIN")
        _add(one, 1)
        one.execute("INSERT INTO item (id) VALUES (2)")
        assert _ids(db) == [1, 2]


def test_an_exception_passes_the_block_of_the_drivers_own_connection(db: Backend) -> None:
    with pytest.raises(KeyError), db.connection() as native:
        native.execute("BEGIN")
        native.execute("INSERT INTO item (id) VALUES (1)")
        raise KeyError
    assert _ids(db) == []


def test_a_broken_connection_of_the_driver_hides_no_exception(db: Backend) -> None:
    with pytest.raises(KeyError), db.connection() as native:
        native.close()
        raise KeyError
    until(lambda: db.stats().in_use == 0)
    _add(db, 1)
    assert _ids(db) == [1]


def test_two_statements_in_one_call_are_refused(db: Backend) -> None:
    with pytest.raises(ProgrammingError, match="two statements"):
        db.execute("INSERT INTO item (id) VALUES (1); INSERT INTO item (id) VALUES (2)")
    assert _ids(db) == []


def test_more_parameters_than_the_engine_takes_are_refused(db: Backend) -> None:
    count = 65_536
    with db.connection() as native:
        if db.dialect.name == "sqlite":
            count = native.getlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER) + 1
    with pytest.raises(ProgrammingError):
        db.value(f"SELECT 1 WHERE 1 IN ({', '.join('?' * count)})", (1,) * count)
    assert _ids(db) == []


@every_verb
def test_a_closed_backend_says_so(url: str, verb: Callable[[Backend], Any]) -> None:
    db = connect(url, migrate=False)
    db.close()
    with pytest.raises(BackendClosed):
        verb(db)


def test_a_backend_closes_at_the_end_of_its_block(url: str) -> None:
    with pytest.raises(KeyError), connect(url, migrate=False) as db:
        raise KeyError
    with pytest.raises(BackendClosed):
        db.value("SELECT 1")


def test_who_waits_for_a_connection_is_told_that_the_backend_was_closed(url: str) -> None:
    db = connect(url, migrate=False, pool_size=1)
    with ThreadPoolExecutor(2) as threads:
        with db.transaction() as txn:
            waiting = [threads.submit(db.transaction().__enter__) for _ in range(2)]
            until(lambda: db.stats().waiting == 2)
            db.close()
            for each in waiting:
                with pytest.raises(BackendClosed):
                    each.result(BOUND)
            assert txn.value("SELECT 1") == 1


def test_a_transaction_that_outlives_the_backend_is_saved(url: str) -> None:
    db = connect(url, migrate=False)
    db.execute("CREATE TABLE item (id bigint NOT NULL PRIMARY KEY)")
    with db.transaction() as txn:
        _add(txn, 1)
        db.close()
        _add(txn, 2)
    with connect(url, migrate=False) as again:
        assert _ids(again) == [1, 2]


def test_a_closed_backend_leaves_no_thread_and_no_open_file(url: str) -> None:
    threads, files = set(threading.enumerate()), _open_files()
    with connect(url, migrate=False) as db:
        db.execute("CREATE TABLE item (id bigint NOT NULL PRIMARY KEY)")
        with db.transaction() as txn, db.transaction(read_only=True) as snapshot:
            _add(txn, 1)
            assert _ids(snapshot) == _ids(db) == []
        assert _open_files() > files
    until(lambda: set(threading.enumerate()) <= threads)
    until(lambda: _open_files() <= files)


def test_a_connection_in_use_at_close_is_closed_when_it_is_given_back(url: str) -> None:
    files = _open_files()
    db = connect(url, migrate=False)
    with db.transaction(), db.transaction(read_only=True):
        db.close()
        assert _open_files() > files
    until(lambda: _open_files() <= files)


def test_verbs_of_many_threads_are_not_mixed_up(db: Backend) -> None:
    sql = db.dialect.pick(sqlite="SELECT ?", postgres="SELECT ?::bigint")

    def work(thread: int) -> list[Any]:
        return [db.value(sql, (thread * 1000 + n,)) for n in range(100)]

    with ThreadPoolExecutor(8) as threads:
        for thread, values in enumerate(threads.map(work, range(8))):
            assert values == [thread * 1000 + n for n in range(100)]


def _add(db: Queryable, id_: int) -> None:
    db.execute("INSERT INTO item (id) VALUES (?)", (id_,))


def _ids(db: Queryable) -> list[int]:
    return [row["id"] for row in db.rows("SELECT id FROM item ORDER BY id")]


def _open_files() -> set[str]:
    """Files and sockets of this process, by descriptor."""
    found = set()
    for descriptor in os.listdir("/dev/fd"):
        with suppress(OSError):
            found.add(f"{descriptor} {os.readlink(f'/dev/fd/{descriptor}')}")
    return found
