"""Migrations beside traffic, and when their session, their index or their right is lost."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest

from prefect_db import Backend, Dirty, Error, Failed, LockTimeout, Unavailable, connect, migrate
from tests.faults import BOUND, start_process, until
from tests.faults.postgres import kill_sessions, sessions
from tests.faults.report import RecordFault
from tests.migrations import add, watched
from tests.migrations.catalogue import catalogue

pytestmark = pytest.mark.only("postgres", "SQLite locks the whole file, and makes indexes at once")

# In the package, the name is the function's.
_MODULE = sys.modules["prefect_db.migrate"]
_INDEX = "-- no-transaction\nCREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS a__n ON a (n)"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "migrations"
    add(folder, "001_a", "CREATE TABLE a (n integer); INSERT INTO a (n) VALUES (1), (1)")
    return folder


@pytest.fixture
def db(url: str, folder: Path) -> Iterator[Backend]:
    with connect(url, migrate=False) as db:
        migrate(db, directory=folder, owner="app")
        yield db


@pytest.fixture
def admin(url: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(url, autocommit=True) as admin:
        yield admin


def test_one_that_waits_for_a_table_holds_up_nobody_who_came_later(
    db: Backend, folder: Path, monkeypatch: pytest.MonkeyPatch, record_fault: RecordFault
) -> None:
    """Whoever reads the table would stand in the queue behind it, until the first reader ends."""
    monkeypatch.setattr(_MODULE, "_TABLE_WAIT", 0.2)
    add(folder, "002_a", "ALTER TABLE a ADD COLUMN t text")
    tries = "SELECT count(*) FROM pg_locks WHERE NOT granted AND mode = 'AccessExclusiveLock'"
    with ThreadPoolExecutor(1) as threads:
        with db.transaction() as reader:
            reader.value("SELECT count(*) FROM a")
            migrating = threads.submit(migrate, db, directory=folder, owner="app")
            for _ in range(3):
                until(lambda: migrating.done() or db.value(tries) == 1)
                with db.transaction(timeout=BOUND / 4) as other:
                    assert other.value("SELECT count(*) FROM a") == 2
            assert not migrating.done()
        assert migrating.result(BOUND) == ["app/002_a"]
    assert "t" in str(catalogue(db)["a"])
    record_fault("migration of a table in use", times=3)


def test_one_that_never_gets_its_table_says_which_statement_waits(
    db: Backend, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_MODULE, "_TABLE_WAIT", 0.1)
    before = catalogue(db)
    add(folder, "002_a", "CREATE TABLE b (n integer);\nALTER TABLE a ADD COLUMN t text")
    with db.transaction() as reader:
        reader.value("SELECT count(*) FROM a")
        with pytest.raises(LockTimeout, match="ALTER TABLE a ADD COLUMN t text"):
            migrate(db, directory=folder, owner="app", lock_timeout=0.3)
    assert catalogue(db) == before
    assert migrate(db, directory=folder, owner="app") == ["app/002_a"]


def test_the_wait_for_a_table_is_no_setting_of_the_session(url: str, folder: Path) -> None:
    with connect(url, migrate=False, pool_size=1) as db:
        migrate(db, directory=folder, owner="app")
        assert db.value("SHOW lock_timeout") == "0"


def test_an_invalid_index_is_not_taken_for_a_good_one(
    db: Backend, folder: Path, record_fault: RecordFault
) -> None:
    """CREATE INDEX CONCURRENTLY leaves one when it fails; IF NOT EXISTS then does nothing."""
    add(folder, "002_index", "", _INDEX)
    with pytest.raises(Failed):
        migrate(db, directory=folder, owner="app")
    db.execute("DELETE FROM a")
    db.execute("DELETE FROM _migrations WHERE id = 'app/002_index'")
    with pytest.raises(Failed, match=r"postgres\.sql:2:48: the index a__n is invalid") as caught:
        migrate(db, directory=folder, owner="app")
    _follow(db, caught.value, "DROP INDEX CONCURRENTLY a__n")
    db.execute("DELETE FROM _migrations WHERE id = 'app/002_index'")
    assert migrate(db, directory=folder, owner="app") == ["app/002_index"]
    assert not _index(db).endswith("invalid")
    record_fault("invalid index left behind")


def migrate_folder(url: str, folder: str) -> None:
    with connect(url, migrate=False) as db:
        migrate(db, directory=folder, owner="app")


@pytest.mark.parametrize("killed", ["process", "session"])
def test_one_that_is_killed_while_it_makes_an_index(
    url: str,
    db: Backend,
    admin: psycopg.Connection[Any],
    folder: Path,
    killed: str,
    record_fault: RecordFault,
) -> None:
    """It waits for who writes to the table: of a process that dies then, the session goes on, and
    keeps the migration lock."""
    making = "query LIKE 'CREATE UNIQUE INDEX%' AND wait_event_type = 'Lock'"
    db.execute("DELETE FROM a")
    add(folder, "002_index", "", _INDEX)
    with db.transaction() as writer:
        writer.execute("INSERT INTO a (n) VALUES (2)")
        process = start_process(migrate_folder, url, str(folder))
        try:
            until(lambda: process.poll() is not None or bool(sessions(admin, making)))
            if killed == "process":
                process.kill()
                process.wait()
                with pytest.raises(LockTimeout, match="migration lock"):
                    migrate(db, directory=folder, owner="app", lock_timeout=0.1)
            assert kill_sessions(admin, making) == 1
            errors = process.communicate(timeout=BOUND)[1]
        finally:
            process.kill()
            process.wait()
    assert ("Unavailable" in errors) == (killed == "session")
    assert _index(db).endswith("invalid")
    with pytest.raises(Dirty, match="began and did not end; undo what it did") as dirty:
        migrate(db, directory=folder, owner="app")
    _follow(db, dirty.value, "DELETE FROM _migrations WHERE id = 'app/002_index'")
    with pytest.raises(Failed, match="the index a__n is invalid") as failed:
        migrate(db, directory=folder, owner="app")
    _follow(db, failed.value, "DROP INDEX CONCURRENTLY a__n")
    _follow(db, dirty.value, "DELETE FROM _migrations WHERE id = 'app/002_index'")
    assert migrate(db, directory=folder, owner="app") == ["app/002_index"]
    assert not _index(db).endswith("invalid")
    record_fault(f"{killed} killed in CREATE INDEX CONCURRENTLY")


def _index(db: Backend) -> str:
    [index] = [each for each in catalogue(db)["a"] if "a__n" in each]
    return index


def _follow(db: Backend, error: Error, statement: str) -> None:
    """Do what an error says is to be done."""
    assert statement in str(error)
    db.execute(statement)


def test_an_invalid_index_of_others_is_not_minded(db: Backend, folder: Path) -> None:
    with pytest.raises(Error):
        db.execute("CREATE UNIQUE INDEX CONCURRENTLY theirs ON a (n)")
    add(folder, "002_index", "", "-- no-transaction\nCREATE INDEX CONCURRENTLY a__n ON a (n)")
    assert migrate(db, directory=folder, owner="app") == ["app/002_index"]


def test_one_whose_session_dies_is_undone_and_another_process_does_it(
    url: str,
    db: Backend,
    admin: psycopg.Connection[Any],
    folder: Path,
    record_fault: RecordFault,
) -> None:
    """With the session, its lock is gone: the other begins while the first still thinks that it
    has it."""
    reached, going = threading.Event(), threading.Event()

    def watch(sql: str) -> None:
        if "CREATE TABLE c" in sql:
            reached.set()
            assert going.wait(BOUND)

    add(folder, "002_b", "CREATE TABLE b (n integer)")
    add(folder, "003_c", "INSERT INTO b (n) VALUES (1); CREATE TABLE c (n integer)")
    with watched(url, watch) as first, ThreadPoolExecutor(1) as threads:
        migrating = threads.submit(migrate, first, directory=folder, owner="app")
        try:
            until(lambda: reached.is_set() or migrating.done())
            [pid] = sessions(admin, "state = 'idle in transaction'")
            admin.execute("SELECT pg_terminate_backend(%s)", (pid,))
            assert migrate(db, directory=folder, owner="app") == ["app/003_c"]
        finally:
            going.set()
        assert isinstance(migrating.exception(BOUND), Unavailable)
    assert db.value("SELECT count(*) FROM b") == 1
    assert db.value("SELECT count(*) FROM _migrations WHERE id LIKE 'app/%'") == 3
    record_fault("migration's session and lock lost midway")


def test_a_right_that_is_missing_is_told(url: str, admin: psycopg.Connection[Any]) -> None:
    role = f"reader_{admin.info.backend_pid}"
    admin.execute(f"CREATE ROLE {role} LOGIN")
    try:
        with pytest.raises(Error, match="permission denied for schema public") as caught:
            connect(url.replace("postgres@", f"{role}@"))
    finally:
        admin.execute(f"DROP ROLE {role}")
    assert caught.value.code == "42501"
    assert "grant this right to the database's user" in str(caught.value)
