"""One address, behind which a standby was and the primary is now, with no connection cut."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg_pool import ConnectionPool

from prefect_db import Backend, ReadOnly, Standby, connect
from prefect_db.testing import PostgresServer, Proxy, postgres_cluster, postgres_standby, proxy
from tests.faults.postgres import TABLE, found, use_all, write
from tests.faults.report import RecordFault

pytestmark = pytest.mark.only("postgres", "SQLite has no second server")

_SIZE = 3


@pytest.fixture(scope="module")
def primary() -> Iterator[PostgresServer]:
    with postgres_cluster({"synchronous_commit": "on"}) as primary:
        with psycopg.connect(primary.url, autocommit=True) as admin:
            admin.execute(TABLE)
        yield primary


@pytest.fixture(scope="module")
def standby(primary: PostgresServer) -> Iterator[PostgresServer]:
    with postgres_standby(primary) as standby:
        yield standby
        # Before its standby, without which it could not end what it commits.
        primary.kill()


@pytest.fixture
def address(primary: PostgresServer, standby: PostgresServer) -> Iterator[Proxy]:
    """It leads to the standby."""
    with psycopg.connect(primary.url, autocommit=True) as admin:
        # Only then is it sure that no standby comes later.
        admin.execute("SET synchronous_commit TO remote_apply; TRUNCATE ledger")
    with proxy(standby.url) as address:
        yield address


@pytest.fixture
def db(address: Proxy, primary: PostgresServer) -> Iterator[Backend]:
    """All of its connections lead to the standby, and new ones to the primary."""
    with connect(address.url, migrate=False, pool_size=_SIZE) as db:
        use_all(db, _SIZE, read_only=True)
        address.lead_to(primary.url)
        yield db
        assert (db.stats().in_use, db.stats().waiting) == (0, 0)


def _insert(db: Backend) -> None:
    db.execute("INSERT INTO ledger (key) VALUES ('a')")


def _lock(db: Backend) -> None:
    db.rows("SELECT key FROM ledger FOR UPDATE")


def _begin(db: Backend) -> None:
    with db.transaction(timeout=5.0):
        pytest.fail("a standby begins no transaction that writes")


@pytest.mark.parametrize("refused", [_insert, _lock, _begin])
def test_the_first_refusal_is_the_last(
    db: Backend, refused: Any, record_fault: RecordFault
) -> None:
    with pytest.raises(Standby, match="the server is a standby") as caught:
        refused(db)
    assert caught.value.code == "25006"
    assert len(use_all(db, _SIZE)) == _SIZE
    db.run(lambda txn: write(txn, "a"), attempts=1)
    assert found(db) == ["a"] * 2
    assert db.stats().broken == 1
    record_fault("address moved from standby to primary", acknowledged=1)


def test_run_goes_on(db: Backend, record_fault: RecordFault) -> None:
    db.run(lambda txn: write(txn, "a"), attempts=2)
    assert found(db) == ["a"] * 2
    record_fault("address moved from standby to primary, run()", acknowledged=1)


def test_run_waits_for_the_address_to_move(
    db: Backend, address: Proxy, primary: PostgresServer, standby: PostgresServer
) -> None:
    address.lead_to(standby.url)
    moving = threading.Timer(0.5, address.lead_to, [primary.url])
    moving.start()
    db.run(lambda txn: write(txn, "a"), attempts=60)
    moving.join()
    assert found(db) == ["a"] * 2


def test_run_gives_up_where_there_never_is_a_primary(standby: PostgresServer) -> None:
    with connect(standby.url, migrate=False) as db:
        with pytest.raises(ReadOnly, match="let the URL lead to the primary"):
            db.run(lambda txn: write(txn, "a"))
        assert db.stats().broken == 4


def test_a_write_that_the_caller_has_forsworn_ends_no_connection(db: Backend) -> None:
    before = use_all(db, _SIZE, read_only=True)
    for attempts in (1, 5):
        with pytest.raises(ReadOnly) as caught:
            db.run(lambda txn: write(txn, "a"), attempts, read_only=True)
        assert type(caught.value) is ReadOnly
    assert use_all(db, _SIZE, read_only=True) == before
    assert db.stats().broken == 0


def test_nor_does_a_reader_who_asks_for_what_a_standby_has_not(db: Backend) -> None:
    """It refuses that BEGIN with the code with which it refuses one that would write."""
    before = use_all(db, _SIZE, read_only=True)
    with pytest.raises(ReadOnly) as caught:
        db.run(lambda txn: txn.value("SELECT 1"), read_only=True, isolation="serializable")
    assert type(caught.value) is ReadOnly
    assert use_all(db, _SIZE, read_only=True) == before
    assert db.stats().broken == 0


def test_a_connection_of_a_hosts_pool_is_replaced_by_that(
    address: Proxy, primary: PostgresServer
) -> None:
    pool: ConnectionPool[Any]
    with ConnectionPool(address.url, min_size=1, max_size=1, open=True) as pool:
        with connect(pool=pool, migrate=False) as db:
            address.lead_to(primary.url)
            db.run(lambda txn: write(txn, "a"), attempts=2)
            assert found(db) == ["a"] * 2
