"""PostgreSQL ends a session, at any point of its work: what the caller is told, and that the pool
gets over it without losing a place or a write."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import psycopg
import pytest
from psycopg.pq import TransactionStatus

from prefect_db import Backend, CommitUnknown, TransactionAborted, Unavailable, connect
from prefect_db.testing import proxy
from tests.faults import BOUND, until
from tests.faults.postgres import (
    TABLE,
    found,
    kill_sessions,
    sessions,
    use_all,
    write,
    writers,
)
from tests.faults.report import RecordFault

pytestmark = pytest.mark.only("postgres", "SQLite has no sessions that another may end")

_SIZE: Final = 4
_ASLEEP: Final = "wait_event = 'PgSleep'"


@pytest.fixture
def admin(url: str) -> Iterator[psycopg.Connection[Any]]:
    """A session that is not the Backend's."""
    with psycopg.connect(url, autocommit=True) as admin:
        yield admin


@pytest.fixture
def db(url: str) -> Iterator[Backend]:
    with connect(url, migrate=False, pool_size=_SIZE) as db:
        db.execute(TABLE)
        yield db
        # Whatever happened: all places are there, and nobody waits or holds one.
        assert len(use_all(db, _SIZE)) == _SIZE
        stats = db.stats()
        assert (stats.size, stats.in_use, stats.waiting, stats.timeouts) == (_SIZE, 0, 0, 0)


def test_while_idle_nobody_notices(
    db: Backend, admin: psycopg.Connection[Any], record_fault: RecordFault
) -> None:
    use_all(db, _SIZE)
    killed = kill_sessions(admin)
    assert killed == _SIZE
    time.sleep(1.1)
    began = time.monotonic()
    for _ in range(_SIZE):
        assert db.value("SELECT 1") == 1
    assert db.stats().broken >= 1
    record_fault("sessions killed while idle", times=killed, recovery=time.monotonic() - began)


def _killed_just_now(db: Backend, admin: psycopg.Connection[Any]) -> None:
    """All sessions, so soon after their last use that the pool takes them for alive."""
    while True:
        use_all(db, _SIZE)
        began = time.monotonic()
        kill_sessions(admin)
        if time.monotonic() - began < 0.5:
            return


def test_just_before_a_statement_it_is_unavailable_and_was_sent(
    db: Backend, admin: psycopg.Connection[Any], record_fault: RecordFault
) -> None:
    """Whether it was too late for the statement, nobody can tell; so it is not done again."""
    _killed_just_now(db, admin)
    with pytest.raises(Unavailable) as caught:
        db.execute("INSERT INTO ledger (key) VALUES ('a')")
    assert caught.value.sent
    # One caller is told, and no other, whichever connection is next.
    with ThreadPoolExecutor(_SIZE) as threads:
        for each in [threads.submit(db.value, "SELECT pg_sleep(0.2)") for _ in range(_SIZE)]:
            each.result(BOUND)
    assert found(db) == []
    record_fault("sessions killed just before a statement", times=_SIZE, acknowledged=0)


@pytest.mark.parametrize("options", [{}, {"read_only": True, "timeout": BOUND}])
def test_just_before_a_transaction_nobody_notices(
    db: Backend, admin: psycopg.Connection[Any], options: Any, record_fault: RecordFault
) -> None:
    _killed_just_now(db, admin)
    with db.transaction(**options) as txn:
        assert txn.value("SELECT 1") == 1
    assert db.stats().broken >= 1
    _killed_just_now(db, admin)
    db.run(lambda txn: txn.value("SELECT 1"), attempts=1, **options)
    record_fault("sessions killed just before a transaction", times=2 * _SIZE)


def test_in_a_statement_it_is_unavailable_and_was_sent(
    db: Backend, admin: psycopg.Connection[Any], record_fault: RecordFault
) -> None:
    with ThreadPoolExecutor(1) as threads:
        working = threads.submit(db.execute, "SELECT pg_sleep(600)")
        until(lambda: bool(sessions(admin, _ASLEEP)))
        kill_sessions(admin, _ASLEEP)
        began = time.monotonic()
        with pytest.raises(Unavailable) as caught:
            working.result(BOUND)
    assert caught.value.sent
    assert caught.value.code == "57P01"
    assert db.value("SELECT 1") == 1
    assert db.stats().broken == 1
    record_fault("session killed in a statement", recovery=time.monotonic() - began)


@pytest.mark.parametrize("at_once", [False, True])
def test_in_a_transaction_it_is_unavailable_and_nothing_is_saved(
    db: Backend, admin: psycopg.Connection[Any], at_once: bool, record_fault: RecordFault
) -> None:
    """Told by the next statement, or by the COMMIT if there is none: then it is unknown."""
    with pytest.raises(CommitUnknown if at_once else Unavailable) as caught:
        with db.transaction() as txn:
            write(txn, "a")
            kill_sessions(admin, "state = 'idle in transaction'")
            if not at_once:
                txn.value("SELECT 1")
    assert not isinstance(caught.value, TransactionAborted)
    assert found(db) == []
    record_fault("session killed in a transaction", acknowledged=0)


def test_run_begins_the_transaction_again(
    db: Backend, admin: psycopg.Connection[Any], record_fault: RecordFault
) -> None:
    attempts = []

    def work(txn: Any) -> None:
        attempts.append(txn)
        write(txn, "a")
        if len(attempts) <= 2:
            kill_sessions(admin, "state = 'idle in transaction'")
        write(txn, "a")

    db.run(work)
    assert len(attempts) == 3
    assert found(db) == ["a"] * 4
    record_fault("session killed in run()", times=2, acknowledged=1)


def test_during_commit_it_is_unknown_and_not_done_again(
    db: Backend, admin: psycopg.Connection[Any], record_fault: RecordFault
) -> None:
    """A trigger has it stand still there."""
    db.execute(
        "CREATE FUNCTION linger() RETURNS trigger LANGUAGE plpgsql AS"
        " 'BEGIN PERFORM pg_sleep(600); RETURN NULL; END'"
    )
    db.execute(
        "CREATE CONSTRAINT TRIGGER linger AFTER INSERT ON ledger DEFERRABLE INITIALLY DEFERRED"
        " FOR EACH ROW EXECUTE FUNCTION linger()"
    )
    attempts = []

    def work(txn: Any) -> None:
        attempts.append(txn)
        txn.execute("INSERT INTO ledger (key) VALUES ('a')")

    with ThreadPoolExecutor(1) as threads:
        working = threads.submit(db.run, work)
        until(lambda: bool(sessions(admin, _ASLEEP)))
        kill_sessions(admin, _ASLEEP)
        with pytest.raises(CommitUnknown):
            working.result(BOUND)
    assert len(attempts) == 1
    assert found(db) == []
    record_fault("session killed during COMMIT", acknowledged=0)


@pytest.mark.parametrize("answered", [False, True])
def test_a_commit_whose_request_or_answer_is_lost_is_unknown(
    db: Backend, url: str, answered: bool, record_fault: RecordFault
) -> None:
    """It was saved if the answer was lost: to do it again would do it twice."""
    attempts = []

    def work(txn: Any) -> None:
        attempts.append(txn)
        write(txn, "a")

    with proxy(url) as network, connect(network.url, migrate=False, pool_size=1) as far:
        network.cut_at(b"COMMIT\0", answered=answered)
        with pytest.raises(CommitUnknown):
            far.run(work)
        assert len(attempts) == 1
        assert found(far) == (["a"] * 2 if answered else [])
    lost = "answer" if answered else "request"
    record_fault(f"connection cut: COMMIT's {lost} lost", acknowledged=0)


@pytest.mark.parametrize("answered", [False, True])
def test_a_begin_that_is_lost_is_done_again(db: Backend, url: str, answered: bool) -> None:
    with proxy(url) as network, connect(network.url, migrate=False, pool_size=1) as far:
        network.cut_at(b"BEGIN", answered=answered)
        far.run(lambda txn: write(txn, "a"), attempts=1)
        assert found(far) == ["a"] * 2
        assert far.stats().broken == 1


def test_a_begin_for_which_there_is_no_server_is_unavailable(db: Backend, url: str) -> None:
    with proxy(url) as network, connect(network.url, migrate=False, pool_timeout=0.1) as far:
        network.refuse()
        network.cut()
        with pytest.raises(Unavailable) as caught:
            with far.transaction():
                pytest.fail("it has not begun")
        assert not caught.value.sent
        assert (far.stats().in_use, far.stats().size) == (0, 0)
        network.heal()
        assert far.value("SELECT 1") == 1
        assert far.stats().broken == 1


def test_many_under_load_lose_nothing(
    db: Backend, url: str, tmp_path: Path, record_fault: RecordFault
) -> None:
    killed, slowest = 0, 0.0
    with connect(url, migrate=False, pool_size=_SIZE) as other, writers(other, tmp_path / "l") as w:
        with psycopg.connect(url, autocommit=True) as admin:
            for _ in range(10):
                killed += kill_sessions(admin, f"random() < {random.choice([0.3, 1])}")
                slowest = max(slowest, w.until_all_wrote())
    verdict = w.verdict(lambda: found(db))
    record_fault("sessions killed under load", times=killed, verdict=verdict, recovery=slowest)


def test_a_socket_that_psycopg_finds_dead_before_libpq_does_is_a_lost_connection(
    db: Backend,
) -> None:
    """As may happen when it is reset: there is an error to be polled, and nothing to be read. A
    pipe that nobody reads is such a file."""
    with db.borrowed() as connection, ThreadPoolExecutor(1) as threads:
        sleep = db.dialect.compile("SELECT pg_sleep(2)")
        asleep = threads.submit(connection.execute, sleep, ())
        until(lambda: connection.native.pgconn.transaction_status == TransactionStatus.ACTIVE)
        reader, writer = os.pipe()
        os.close(reader)
        os.dup2(writer, connection.native.fileno())
        os.close(writer)
        with pytest.raises(Unavailable, match="the connection is lost") as caught:
            asleep.result(BOUND)
        assert caught.value.sent
        assert connection.closed
    assert db.value("SELECT 1") == 1
    assert db.stats().broken == 1
