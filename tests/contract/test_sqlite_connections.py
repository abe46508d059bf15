"""SQLite: one writer, readers that do not wait for it, the file and its settings."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, Final

import pytest

from prefect_db import (
    Backend,
    Busy,
    ConfigurationError,
    MultipleRows,
    PoolTimeout,
    Queryable,
    Retryable,
    UsageError,
    connect,
    flows,
)
from tests.faults import BOUND, in_thread, until

pytestmark = pytest.mark.only("sqlite", "PostgreSQL has a server, and no file of ours")

# What another process may hold, and this library must not wait for.
_AT_ONCE: Final = 0.0

_WRITES: Final[dict[str, Callable[[Backend], Any]]] = {
    "execute": lambda db: db.execute("INSERT INTO item (id) VALUES (9)"),
    "executemany": lambda db: db.executemany("INSERT INTO item (id) VALUES (?)", [(9,)]),
    "transaction": lambda db: db.transaction().__enter__(),
    "run": lambda db: db.run(lambda txn: None),
    "connection": lambda db: db.connection().__enter__(),
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "test.db"


@pytest.fixture
def db(path: Path) -> Iterator[Backend]:
    with _open(path) as db:
        db.execute("CREATE TABLE item (id INTEGER PRIMARY KEY, n INTEGER)")
        yield db
        assert db.stats().in_use == 0


@pytest.fixture
def stranger(db: Backend, path: Path) -> Iterator[sqlite3.Connection]:
    """A connection that waits for nothing, as another process may have it."""
    stranger = sqlite3.connect(path, timeout=_AT_ONCE, isolation_level=None)
    yield stranger
    stranger.close()


def test_transactions_that_read_before_they_write_wait_for_each_other(
    db: Backend, path: Path
) -> None:
    """Begun deferred, the second would fail with BUSY_SNAPSHOT at once."""
    _add(db, 1)
    with _open(path) as other, ThreadPoolExecutor(2) as threads:
        list(threads.map(_count_up, [db, other]))
    assert db.value("SELECT n FROM item") == 200


def test_a_transaction_has_the_write_lock_from_its_begin(
    db: Backend, stranger: sqlite3.Connection
) -> None:
    with db.transaction():
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            stranger.execute("INSERT INTO item (id) VALUES (1)")


@pytest.mark.parametrize("verb", ["row", "rows", "value", "execute"])
def test_a_returning_statement_leaves_no_lock(
    db: Backend, stranger: sqlite3.Connection, verb: str
) -> None:
    """SQLite commits it when all of its rows were fetched, and not before."""
    getattr(db, verb)("INSERT INTO item (id) VALUES (1) RETURNING id")
    stranger.execute("INSERT INTO item (id) VALUES (2)")
    with suppress(MultipleRows):
        getattr(db, verb)("INSERT INTO item (id) VALUES (3), (4) RETURNING id")
    stranger.execute("INSERT INTO item (id) VALUES (5)")
    assert _ids(db) == [1, 2, 3, 4, 5]


def test_a_read_leaves_no_lock(db: Backend, stranger: sqlite3.Connection) -> None:
    """A connection that still reads keeps the log from being moved into the file."""
    _add(db, 1, 2)
    with suppress(MultipleRows):
        db.value("SELECT id FROM item")
    with db.transaction(read_only=True) as txn:
        next(txn.stream("SELECT id FROM item", batch=1))
    assert stranger.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0


def test_a_read_does_not_wait_for_a_writer(db: Backend) -> None:
    with db.transaction() as txn:
        _add(txn, 1)
        assert _ids(db) == []
        assert in_thread(lambda: _ids(db)) == []
        with db.transaction(read_only=True) as snapshot:
            assert _ids(snapshot) == []
    assert _ids(db) == [1]


def test_a_read_sees_what_was_just_written(db: Backend) -> None:
    for n in range(3):
        _add(db, n)
        assert len(_ids(db)) == n + 1


def test_a_long_read_only_transaction_delays_nobody(db: Backend) -> None:
    with db.transaction(read_only=True) as long:
        assert _ids(long) == []
        _add(db, 1)
        assert _ids(db) == [1]
        with db.transaction() as txn:
            _add(txn, 2)
        with db.transaction(read_only=True) as short:
            assert _ids(short) == [1, 2]
    assert _ids(db) == [1, 2]


def test_a_read_only_transaction_sees_one_state(db: Backend) -> None:
    with db.transaction(read_only=True) as txn:
        assert _ids(txn) == []
        _add(db, 1)
        assert _ids(txn) == []
    with db.transaction(read_only=True) as txn:
        assert _ids(txn) == [1]


def test_many_read_only_transactions_at_a_time(db: Backend) -> None:
    with ThreadPoolExecutor(20) as threads:
        together = threading.Barrier(20)

        def work(_: int) -> int:
            with db.transaction(read_only=True) as txn:
                together.wait(BOUND)
                return len(_ids(txn))

        assert list(threads.map(work, range(20))) == [0] * 20
    assert db.stats().in_use == 0
    assert db.stats().size < 10


@pytest.mark.parametrize("write", _WRITES.values(), ids=_WRITES)
def test_a_write_inside_ones_own_transaction_is_refused_at_once(
    path: Path, write: Callable[[Backend], Any]
) -> None:
    """It would wait for itself."""
    with _open(path, pool_timeout=10_000) as db:
        db.execute("CREATE TABLE item (id INTEGER PRIMARY KEY)")
        with db.transaction() as txn:
            _add(txn, 1)
            with pytest.raises(UsageError, match="use the transaction"):
                write(db)
            _add(txn, 2)
        assert _ids(db) == [1, 2]
        assert db.stats().in_use == 0


def test_a_read_inside_ones_own_transaction_is_refused_in_memory() -> None:
    with connect(":memory:", migrate=False, pool_timeout=10_000) as db, db.transaction():
        with pytest.raises(UsageError, match="use the transaction"):
            db.value("SELECT 1")


def test_a_newcomer_does_not_pass_a_writer_who_waits(db: Backend) -> None:
    order: list[str] = []

    def wait() -> None:
        with db.transaction():
            order.append("waiter")

    with ThreadPoolExecutor(1) as threads:
        with db.transaction():
            waiting = threads.submit(wait)
            _until_waiting(db, 1)
        with db.transaction():
            order.append("newcomer")
        waiting.result(BOUND)
    assert order == ["waiter", "newcomer"]


def test_who_gave_up_waiting_is_not_served(path: Path) -> None:
    with _open(path, pool_timeout=0.05) as db:
        with db.transaction():
            with pytest.raises(PoolTimeout) as caught:
                in_thread(db.transaction().__enter__)
            assert (caught.value.stats.in_use, db.stats().waiting) == (1, 0)
        with db.transaction():
            assert db.stats().in_use == 1
        assert db.stats().in_use == 0


def test_a_database_in_memory_is_one_for_all_threads() -> None:
    with connect(":memory:", migrate=False) as db:
        db.execute("CREATE TABLE item (id INTEGER PRIMARY KEY)")
        with ThreadPoolExecutor(4) as threads:
            list(threads.map(lambda n: _add(db, n), range(100)))
            assert threads.submit(_ids, db).result(BOUND) == list(range(100))
        with db.transaction(read_only=True) as txn:
            assert len(_ids(txn)) == 100


def test_in_memory_a_read_waits_for_the_writer() -> None:
    with connect(":memory:", migrate=False) as db, ThreadPoolExecutor(1) as threads:
        db.execute("CREATE TABLE item (id INTEGER PRIMARY KEY)")
        with db.transaction() as txn:
            _add(txn, 1)
            waiting = threads.submit(_ids, db)
            _until_waiting(db, 1)
            _add(txn, 2)
        assert waiting.result(BOUND) == [1, 2]


def test_each_database_in_memory_is_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with connect(":memory:") as one, connect("sqlite://", migrate=False) as two:
        one.execute("CREATE TABLE item (id INTEGER PRIMARY KEY)")
        assert two.value("SELECT count(*) FROM sqlite_master") == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("pragma", "value"),
    [("journal_mode", "wal"), ("foreign_keys", 1), ("synchronous", 1)],
)
def test_every_connection_has_the_settings(db: Backend, pragma: str, value: object) -> None:
    for queryable in _one_of_each(db):
        assert queryable.value(f"SELECT * FROM pragma_{pragma}") == value


def test_a_file_is_put_into_wal_by_the_first_write(path: Path) -> None:
    def mode(db: Backend) -> object:
        return db.value("SELECT * FROM pragma_journal_mode")

    with closing(sqlite3.connect(path)) as native:
        native.execute("CREATE TABLE item (id INTEGER PRIMARY KEY)")
    before = path.read_bytes()
    with _open(path) as db:
        assert _ids(db) == []
        with db.transaction(read_only=True) as txn:
            assert _ids(txn) == []
        assert mode(db) == "delete"
        assert path.read_bytes() == before
        _add(db, 1)
        assert mode(db) == "wal"
    with _open(path) as db:
        assert mode(db) == "wal"


@pytest.mark.parametrize("writes", ["statement", "transaction", "many"])
def test_a_reader_in_the_way_of_wal_is_waited_for(path: Path, writes: str) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as reader:
        reader.execute("CREATE TABLE item (id INTEGER PRIMARY KEY)")
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM item").fetchall()
        with _open(path, busy_timeout=0.2) as db:
            write: Callable[[], object] = {
                "statement": lambda: _add(db, 1),
                "transaction": lambda: db.run(lambda txn: _add(txn, 1), 1),
                "many": lambda: db.executemany("INSERT INTO item (id) VALUES (?)", [(1,)]),
            }[writes]
            with pytest.raises(Busy):
                write()
            assert db.stats().in_use == 0
            reader.execute("COMMIT")
            write()
            assert _ids(db) == [1]
            assert db.value("SELECT * FROM pragma_journal_mode") == "wal"


@pytest.mark.parametrize(("value", "number"), [("OFF", 0), ("NORMAL", 1), ("FULL", 2)])
def test_how_safe_a_commit_is_is_an_option(path: Path, value: Any, number: int) -> None:
    with _open(path, synchronous=value) as db:
        for queryable in _one_of_each(db):
            assert queryable.value("SELECT * FROM pragma_synchronous") == number


def test_the_lock_of_another_is_waited_for(db: Backend, stranger: sqlite3.Connection) -> None:
    """Also after a transaction that would have waited less."""
    with db.transaction(timeout=0.05):
        pass
    stranger.execute("BEGIN IMMEDIATE")
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(_add, db, 1)
        until(lambda: db.stats().in_use == 1)
        ends = time.monotonic() + 0.5
        until(lambda: time.monotonic() > ends)
        stranger.execute("COMMIT")
        waiting.result(BOUND)
    assert _ids(db) == [1]


def test_a_lock_that_is_held_too_long_is_busy(path: Path, stranger: sqlite3.Connection) -> None:
    stranger.execute("BEGIN IMMEDIATE")
    with _open(path, busy_timeout=0.3) as db:
        began = time.monotonic()
        with pytest.raises(Busy) as caught:
            _add(db, 1)
        with pytest.raises(Busy), db.transaction():
            pass
        assert time.monotonic() - began > 0.5
        assert isinstance(caught.value, Retryable)
        assert _ids(db) == []
        stranger.execute("COMMIT")
        _add(db, 1)


def test_run_tries_again_when_the_lock_was_held_too_long(
    path: Path, stranger: sqlite3.Connection
) -> None:
    with _open(path, busy_timeout=0.05) as db, ThreadPoolExecutor(1) as threads:
        stranger.execute("BEGIN IMMEDIATE")
        running = threads.submit(db.run, lambda txn: _add(txn, 1), 20)
        until(lambda: db.stats().acquires > 1)
        stranger.execute("COMMIT")
        running.result(BOUND)
        assert _ids(db) == [1]


def test_the_lock_of_a_killed_process_is_free(db: Backend, path: Path) -> None:
    program = (
        "import sqlite3, sys; c = sqlite3.connect(sys.argv[1], isolation_level=None);"
        "c.execute('BEGIN IMMEDIATE'); c.execute('INSERT INTO item (id) VALUES (1)');"
        "print('ready', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.kill()
        process.wait(BOUND)
        _add(db, 2)
    assert _ids(db) == [2]


def test_a_new_file_is_its_owners_alone(path: Path) -> None:
    before = os.umask(0)
    try:
        with _open(path) as db:
            db.execute("CREATE TABLE item (id INTEGER PRIMARY KEY)")
            modes = {file.name: file.stat().st_mode & 0o777 for file in path.parent.iterdir()}
    finally:
        os.umask(before)
    assert modes == {"test.db": 0o600, "test.db-wal": 0o600, "test.db-shm": 0o600}


def test_the_mode_of_a_file_that_is_there_stays(path: Path) -> None:
    path.touch()
    path.chmod(0o640)
    _open(path).close()
    assert path.stat().st_mode & 0o777 == 0o640


def test_a_closed_database_is_one_file(path: Path) -> None:
    with _open(path) as db:
        db.execute("CREATE TABLE item (id INTEGER PRIMARY KEY)")
        with db.transaction(read_only=True) as txn:
            assert _ids(txn) == []
    assert list(path.parent.iterdir()) == [path]


def test_a_file_that_is_no_database_is_refused_and_stays(path: Path) -> None:
    path.write_text("no database " * 1000)
    with pytest.raises(ConfigurationError, match="test.db"):
        _open(path)
    assert path.read_text() == "no database " * 1000


@pytest.mark.parametrize(
    "name",
    [
        "two words.db",
        "what?mode=ro.db",
        "a#b.db",
        "100%.db",
        "%41.db",
        "Zoë 東京 \N{GRINNING FACE}.db",
        'it\'s "quoted"; --.db',
        "file:odd.db",
        "-dash.db",
        "~",
        "a\\b.db",
        "new\nline.db",
    ],
)
def test_any_name_is_that_files_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("PREFECT_DATABASE_PATH", name)
    monkeypatch.chdir(tmp_path)
    for expected in ([], [1]):
        with connect(migrate=False) as db:
            db.execute("CREATE TABLE IF NOT EXISTS item (id INTEGER PRIMARY KEY)")
            with db.transaction(read_only=True) as txn:
                assert _ids(txn) == _ids(db) == expected
            db.execute("INSERT INTO item (id) VALUES (1) ON CONFLICT DO NOTHING")
    assert [file.name for file in tmp_path.iterdir()] == [name]


def test_the_file_is_the_same_after_a_change_of_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(tmp_path)
    with connect("sqlite:///test.db", migrate=False) as db:
        db.execute("CREATE TABLE item (id INTEGER PRIMARY KEY)")
        monkeypatch.chdir(elsewhere)
        with db.transaction(read_only=True) as txn:
            assert _ids(txn) == []
    assert list(elsewhere.iterdir()) == []


def test_a_trigger_is_one_statement(db: Backend) -> None:
    db.execute("CREATE TRIGGER t AFTER INSERT ON item BEGIN UPDATE item SET n = 7; END")
    _add(db, 1)
    assert db.value("SELECT n FROM item") == 7


def test_the_hosts_sqlite3_is_not_changed(path: Path) -> None:
    program = (
        "import sqlite3, sys; from datetime import UTC, datetime, timedelta;"
        "from uuid import uuid4;"
        "before = [dict(sqlite3.adapters), dict(sqlite3.converters), sqlite3.threadsafety];"
        "import prefect_db; db = prefect_db.connect(f'sqlite:///{sys.argv[1]}');"
        "db.execute('CREATE TABLE item (a TIMESTAMP, b DATE, c, d, e)');"
        "db.execute('INSERT INTO item VALUES (?, ?, ?, ?, ?)',"
        " (datetime.now(UTC), timedelta(1), uuid4(), {'a': 1}, True)); db.close();"
        "assert before == [sqlite3.adapters, sqlite3.converters, sqlite3.threadsafety]"
    )
    subprocess.run([sys.executable, "-c", program, path], check=True, timeout=BOUND)


def _open(path: Path, **options: Any) -> Backend:
    return connect(f"sqlite:///{path}", migrate=False, **options)


def _add(db: Queryable, *ids: int) -> None:
    for id_ in ids:
        db.execute("INSERT INTO item (id) VALUES (?)", (id_,))


def _ids(db: Queryable) -> list[int]:
    return [row["id"] for row in db.rows("SELECT id FROM item ORDER BY id")]


def _until_waiting(db: Backend, count: int) -> None:
    until(lambda: db.stats().waiting == count)


def _count_up(db: Backend) -> None:
    for _ in range(100):
        with db.transaction() as txn:
            n = txn.value("SELECT coalesce(n, 0) FROM item WHERE id = 1")
            txn.execute("UPDATE item SET n = ? WHERE id = 1", (n + 1,))


def _one_of_each(db: Backend) -> Iterator[Queryable]:
    """The writer, the reader, and a connection of a read-only transaction."""
    yield db
    with db.transaction() as txn:
        yield txn
    with db.transaction(read_only=True) as txn:
        yield txn


def test_a_reader_that_was_closed_is_replaced_by_the_next_read(url: str) -> None:
    with connect(url) as db:
        pool: Any = db._pool
        pool._readers.items[0].close()
        assert flows.count(db) == 0
        assert (db.stats().broken, db.stats().in_use) == (1, 0)


@pytest.mark.parametrize(
    "sql",
    ["UPDATE item SET returning_at = ? WHERE id = 1", "UPDATE item SET id = ? RETURNING id"],
    ids=["in a name", "as a clause"],
)
def test_executemany_counts_no_rows_of_a_trigger(sql: str) -> None:
    """Where there is a RETURNING, or seems to be, statements run one by one."""
    with connect(":memory:", migrate=False) as db:
        db.execute("CREATE TABLE item (id integer, returning_at integer)")
        db.execute("CREATE TABLE seen (id integer)")
        db.execute(
            "CREATE TRIGGER see AFTER UPDATE ON item BEGIN INSERT INTO seen VALUES (new.id); END"
        )
        db.execute("INSERT INTO item (id) VALUES (1)")
        assert db.executemany(sql, [(1,), (1,)]) == 2
        assert db.value("SELECT count(*) FROM seen") == 2
