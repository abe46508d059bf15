"""`wrap()`: the verbs in a transaction, and on a connection, that stay the host's."""

from __future__ import annotations

import asyncio
import gc
import sqlite3
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import apsw
import psycopg
import pytest
from psycopg.pq import TransactionStatus
from psycopg.rows import dict_row

from prefect_db import (
    Error,
    OutOfOrder,
    Queryable,
    TransactionAborted,
    UniqueViolation,
    UsageError,
    connect,
    wrap,
)
from tests.apsw_driver import ApswDriver
from tests.faults import in_thread


@pytest.fixture
def path(url: str) -> str:
    """What the drivers' own connect() takes for the database, which has the table `item`."""
    with connect(url, migrate=False) as db:
        db.execute("CREATE TABLE item (id bigint NOT NULL PRIMARY KEY, document json)")
    return url.removeprefix("sqlite:///")


@pytest.fixture(params=["own default", "IMMEDIATE"])
def host(request: pytest.FixtureRequest, backend_name: str, path: str) -> Iterator[Any]:
    """A connection that begins transactions by itself, as those of the DB-API do."""
    if backend_name == "postgres":
        host: Any = psycopg.connect(path)
    elif request.param == "IMMEDIATE":
        host = sqlite3.connect(path, isolation_level="IMMEDIATE")
    else:
        host = sqlite3.connect(path)
    yield host
    host.close()


@pytest.fixture
def manual(backend_name: str, path: str) -> Iterator[Any]:
    """A connection that is in autocommit until its host says BEGIN."""
    if backend_name == "postgres":
        manual: Any = psycopg.connect(path, autocommit=True)
    else:
        manual = sqlite3.connect(path, isolation_level=None)
    yield manual
    manual.close()


def test_a_wrapped_connection_is_a_queryable(host: Any) -> None:
    assert isinstance(wrap(host), Queryable)


def test_what_is_written_is_the_hosts_to_commit(host: Any, path: str) -> None:
    wrapped = wrap(host)
    assert wrapped.execute("INSERT INTO item (id) VALUES (1)") == 1
    assert wrapped.executemany("INSERT INTO item (id) VALUES (?)", [(2,), (3,)]) == 2
    with wrapped.transaction() as txn:
        txn.execute("INSERT INTO item (id) VALUES (4)")
    assert _ids(wrapped) == [1, 2, 3, 4]
    assert _seen_by_others(path) == []
    host.commit()
    assert _seen_by_others(path) == [1, 2, 3, 4]


def test_what_is_written_is_the_hosts_to_roll_back(host: Any) -> None:
    wrapped = wrap(host)
    with wrapped.transaction() as txn:
        txn.execute("INSERT INTO item (id) VALUES (1)")
    wrapped.executemany("INSERT INTO item (id) VALUES (?)", [(2,)])
    host.rollback()
    assert _ids(wrapped) == []


def test_the_connection_and_its_transaction_outlive_the_wrapper(host: Any, path: str) -> None:
    wrapped = wrap(host)
    wrapped.execute("INSERT INTO item (id) VALUES (1)")
    del wrapped
    gc.collect()
    assert _in_transaction(host)
    host.commit()
    assert _seen_by_others(path) == [1]


def test_one_wrapper_serves_many_transactions_of_the_host(host: Any, path: str) -> None:
    wrapped = wrap(host)
    for n in range(3):
        with wrapped.transaction() as txn:
            txn.execute("INSERT INTO item (id) VALUES (?)", (n,))
        host.commit()
    assert _seen_by_others(path) == [0, 1, 2]


def test_an_error_in_a_savepoint_leaves_the_hosts_work(host: Any, path: str) -> None:
    wrapped = wrap(host)
    host.execute("INSERT INTO item (id) VALUES (1)")
    with pytest.raises(UniqueViolation), wrapped.transaction() as txn:
        txn.execute("INSERT INTO item (id) VALUES (2)")
        txn.execute("INSERT INTO item (id) VALUES (1)")
    with wrapped.transaction() as txn:
        txn.execute("INSERT INTO item (id) VALUES (3)")
        with suppress(KeyError), txn.transaction() as inner:
            inner.execute("INSERT INTO item (id) VALUES (4)")
            raise KeyError
    host.commit()
    assert _seen_by_others(path) == [1, 3]


def test_a_swallowed_error_in_a_savepoint_is_told_at_its_end(host: Any) -> None:
    with pytest.raises(TransactionAborted), wrap(host).transaction() as txn:
        txn.execute("INSERT INTO item (id) VALUES (1)")
        with suppress(UniqueViolation):
            txn.execute("INSERT INTO item (id) VALUES (1)")
    host.commit()
    assert _ids(wrap(host)) == []


def test_executemany_is_all_or_none_inside_the_hosts_work(host: Any, path: str) -> None:
    wrapped = wrap(host)
    wrapped.execute("INSERT INTO item (id) VALUES (1)")
    with pytest.raises(UniqueViolation):
        wrapped.executemany("INSERT INTO item (id) VALUES (?)", [(2,), (3,), (1,)])
    host.commit()
    assert _seen_by_others(path) == [1]


def test_after_an_error_the_host_decides(host: Any) -> None:
    wrapped = wrap(host)
    wrapped.execute("INSERT INTO item (id) VALUES (1)")
    with pytest.raises(UniqueViolation):
        wrapped.execute("INSERT INTO item (id) VALUES (1)")
    assert _in_transaction(host)
    host.rollback()
    wrapped.execute("INSERT INTO item (id) VALUES (2)")
    assert _ids(wrapped) == [2]


def test_outside_a_transaction_a_statement_is_saved_at_once(manual: Any, path: str) -> None:
    assert wrap(manual).execute("INSERT INTO item (id) VALUES (1)") == 1
    assert _seen_by_others(path) == [1]
    assert not _in_transaction(manual)


def test_outside_a_transaction_there_is_none_to_be_part_of(manual: Any) -> None:
    """To begin one would mean to commit it, and that is the host's."""
    wrapped = wrap(manual)
    with pytest.raises(UsageError, match="begin"):
        wrapped.transaction()
    with pytest.raises(UsageError, match="begin"):
        wrapped.executemany("INSERT INTO item (id) VALUES (?)", [(1,)])
    assert not _in_transaction(manual)
    assert _ids(wrapped) == []


def test_a_transaction_that_the_host_began_by_hand_is_joined(manual: Any, path: str) -> None:
    wrapped = wrap(manual)
    manual.execute("BEGIN")
    wrapped.executemany("INSERT INTO item (id) VALUES (?)", [(1,)])
    with suppress(UniqueViolation), wrapped.transaction() as txn:
        txn.execute("INSERT INTO item (id) VALUES (2)")
        txn.execute("INSERT INTO item (id) VALUES (2)")
    assert _in_transaction(manual)
    assert _seen_by_others(path) == []
    manual.execute("COMMIT")
    assert _seen_by_others(path) == [1]


@pytest.mark.only("postgres", "sqlite3 has no such block")
def test_a_block_of_psycopg_is_joined(manual: Any, path: str) -> None:
    with manual.transaction():
        wrap(manual).executemany("INSERT INTO item (id) VALUES (?)", [(1,)])
        with pytest.raises(KeyError), manual.transaction():
            wrap(manual).execute("INSERT INTO item (id) VALUES (2)")
            raise KeyError
        assert _seen_by_others(path) == []
    assert _seen_by_others(path) == [1]


def test_a_savepoint_takes_no_options(host: Any) -> None:
    with pytest.raises(UsageError, match="outermost"):
        wrap(host).transaction(read_only=True)


def test_the_hosts_row_factory_changes_nothing_and_stays(host: Any, backend_name: str) -> None:
    host.row_factory = sqlite3.Row if backend_name == "sqlite" else dict_row
    wrapped = wrap(host)
    wrapped.execute("INSERT INTO item (id, document) VALUES (?, ?)", (1, {"a": [1]}))
    row = wrapped.row("SELECT id, document FROM item")
    assert row is not None
    assert (row[0], row["id"], row.json("document")) == (1, 1, {"a": [1]})
    assert [row["id"] for row in wrapped.stream("SELECT id FROM item")] == [1]
    assert host.execute("SELECT id FROM item").fetchone()["id"] == 1


@pytest.mark.only("postgres", "sqlite3 has no loaders of a connection's own")
def test_the_hosts_loaders_stay(host: Any) -> None:
    wrapped = wrap(host)
    assert wrapped.value("""SELECT '{"a": 1}'::jsonb""") == '{"a": 1}'
    assert host.execute("""SELECT '{"a": 1}'::jsonb""").fetchone() == ({"a": 1},)


@pytest.mark.only("sqlite", "psycopg has no progress handler")
def test_the_hosts_progress_handler_stays(path: str) -> None:
    called: list[int] = []
    host = sqlite3.connect(path)
    host.set_progress_handler(lambda: called.append(1), 1)
    wrap(host).value("SELECT count(*) FROM item")
    assert called
    host.close()


@pytest.mark.only("sqlite", "psycopg's connections know of no thread")
def test_a_connection_may_be_lent_to_another_thread_with_its_wrapper(path: str) -> None:
    host = sqlite3.connect(path, check_same_thread=False)
    assert in_thread(lambda: wrap(host).value("SELECT count(*) FROM item")) == 0
    host.close()


def test_a_wrapper_belongs_to_the_thread_that_made_it(host: Any) -> None:
    wrapped = wrap(host)
    with pytest.raises(OutOfOrder):
        in_thread(lambda: wrapped.execute("INSERT INTO item (id) VALUES (1)"))
    with pytest.raises(OutOfOrder):
        in_thread(wrapped.transaction)


def test_the_wrapper_is_not_used_while_a_savepoint_is_open(host: Any) -> None:
    wrapped = wrap(host)
    with wrapped.transaction() as txn:
        with pytest.raises(OutOfOrder):
            wrapped.execute("INSERT INTO item (id) VALUES (1)")
        txn.execute("INSERT INTO item (id) VALUES (2)")
    assert _ids(wrapped) == [2]


def test_a_closed_connection_says_so(host: Any) -> None:
    wrapped = wrap(host)
    host.close()
    with pytest.raises(Error, match="closed"):
        wrapped.value("SELECT 1")


@pytest.mark.parametrize("thing", [None, "sqlite:///host.db", object(), sqlite3, sqlite3.Row])
def test_other_things_are_not_wrapped(thing: object) -> None:
    with pytest.raises(UsageError, match="cannot be wrapped"):
        wrap(thing)


def test_a_cursor_is_not_wrapped(host: Any) -> None:
    with pytest.raises(UsageError, match="cannot be wrapped"):
        wrap(host.cursor())


@pytest.mark.only("postgres", "sqlite3 has no such connection")
def test_an_asynchronous_connection_is_not_wrapped(path: str) -> None:
    async def work() -> None:
        async with await psycopg.AsyncConnection.connect(path) as host:
            with pytest.raises(UsageError, match="AsyncConnection"):
                wrap(host)

    asyncio.run(work())


@pytest.mark.only("sqlite", "apsw is a binding of SQLite")
def test_a_connection_of_another_driver_is_wrapped_by_that_driver(path: str) -> None:
    # It brings an SQLite of its own, and two of them in one process undo each other's locks.
    host, other = apsw.Connection(path), apsw.Connection(path)
    with pytest.raises(UsageError, match=r"apsw\.Connection cannot be wrapped"):
        wrap(host)
    wrapped = wrap(host, driver=ApswDriver())
    host.execute("BEGIN IMMEDIATE")
    assert wrapped.executemany("INSERT INTO item (id) VALUES (?)", [(1,), (2,)]) == 2
    assert list(other.execute("SELECT id FROM item")) == []
    host.execute("COMMIT")
    assert list(other.execute("SELECT id FROM item")) == [(1,), (2,)]
    host.close()
    other.close()


@pytest.mark.only("sqlite", "one engine is enough")
def test_a_driver_does_not_wrap_what_is_not_its_own(tmp_path: Path) -> None:
    host = sqlite3.connect(tmp_path / "host.db")
    with pytest.raises(UsageError, match="cannot be wrapped"):
        wrap(host, driver=ApswDriver())
    host.close()


def _ids(db: Queryable) -> list[int]:
    return [row["id"] for row in db.rows("SELECT id FROM item ORDER BY id")]


def _seen_by_others(path: str) -> list[int]:
    url = path if path.startswith("postgresql:") else f"sqlite:///{path}"
    with connect(url, migrate=False) as db:
        return _ids(db)


def _in_transaction(host: Any) -> bool:
    if isinstance(host, sqlite3.Connection):
        return host.in_transaction
    status: TransactionStatus = host.info.transaction_status
    return status is not TransactionStatus.IDLE


@pytest.mark.only("postgres", "SQLite stores durations as text")
@pytest.mark.direct("it is about a session's own setting")
def test_durations_in_a_style_of_the_hosts_are_told(host: Any) -> None:
    host.execute("SET IntervalStyle TO 'iso_8601'")
    with pytest.raises(UsageError, match="SET IntervalStyle TO 'postgres'"):
        wrap(host).value("SELECT interval '1 day'")
    host.rollback()
    host.execute("SET IntervalStyle TO 'postgres'")
    assert wrap(host).value("SELECT interval '1 day'") == timedelta(1)
