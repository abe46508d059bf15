"""`connect(pool=...)`: over a host's own pool, whose connections go back as they came."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, timedelta
from typing import Any
from uuid import uuid4

import psycopg
import psycopg_pool
import pytest
from psycopg import RawCursor
from psycopg.pq import TransactionStatus
from psycopg.rows import dict_row
from psycopg.types.json import set_json_loads

from prefect_db import (
    BackendClosed,
    ConfigurationError,
    PoolTimeout,
    Unavailable,
    aio,
    connect,
    flow_runs,
    flows,
    observe,
    states,
)
from tests.faults import BOUND

pytestmark = pytest.mark.only("postgres", "SQLite has no pools of connections")

HostPool = psycopg_pool.ConnectionPool[Any]

_SHOWN = ("TimeZone", "IntervalStyle", "DateStyle", "plan_cache_mode", "search_path")


@pytest.fixture(params=["as psycopg does", "as a host may"])
def pool(request: pytest.FixtureRequest, url: str) -> Iterator[HostPool]:
    def configure(connection: psycopg.Connection[Any]) -> None:
        connection.execute(
            "SET TimeZone TO 'America/New_York'; SET IntervalStyle TO 'iso_8601';"
            " SET DateStyle TO 'SQL, DMY'"
        )
        connection.commit()
        connection.prepare_threshold = 1
        connection.cursor_factory = RawCursor
        set_json_loads(lambda text: "the host's", connection)

    odd = request.param == "as a host may"
    with psycopg_pool.ConnectionPool(
        url,
        min_size=1,
        max_size=2,
        kwargs={"row_factory": dict_row} if odd else {},
        configure=configure if odd else None,
        open=True,
    ) as pool:
        yield pool


def test_entities_work_on_it(pool: HostPool) -> None:
    with connect(pool=pool) as db:
        flow = flows.create(db, "etl", tags=["a"], labels={"a": 1})
        assert flows.get(db, flow.id) == flow
        assert flow.labels == {"a": 1}
        run = flow_runs.create(db, flow.id, state=states.pending())
        db.run(lambda txn: flow_runs.set_state(txn, run.id, states.running()))
        found = flow_runs.get(db, run.id)
        assert found is not None
        assert found.created.tzinfo is UTC
        assert found.total_run_time == timedelta(0)
        with db.transaction() as txn:
            names = [each["name"] for each in txn.stream("SELECT name, labels FROM flow")]
        assert names == ["etl"]
        assert db.stats().in_use == 0
        assert "host's pool" in repr(db)


def test_it_can_be_observed(pool: HostPool) -> None:
    counter = observe.Counter()
    with connect(pool=pool, observer=counter) as db:
        counter.reset()
        assert flows.count(db) == 0
        assert (counter.calls.total(), counter.acquires) == (1, 1)


@pytest.mark.direct("the host's settings of a session are not kept by PgBouncer")
def test_connections_go_back_as_they_came(pool: HostPool) -> None:
    before = _look(pool)
    with connect(pool=pool) as db:
        flow = flows.create(db, "etl")
        for _ in range(10):
            flows.get(db, flow.id)
        with pytest.raises(ZeroDivisionError), db.transaction(timeout=9.0) as txn:
            flows.create(txn, "undone")
            raise ZeroDivisionError
        with db.connection() as native:
            native.execute("BEGIN")
        assert _look(pool) == before
    assert _look(pool) == before


def test_the_pool_stays_open(pool: HostPool) -> None:
    for _ in range(2):
        db = connect(pool=pool)
        db.close()
        with pytest.raises(BackendClosed):
            db.value("SELECT 1")
        with pool.connection() as native:
            native.execute("SELECT 1")
            assert native.info.transaction_status == TransactionStatus.INTRANS


def test_a_closed_pool_says_so(pool: HostPool) -> None:
    with connect(pool=pool) as db:
        pool.close()
        with pytest.raises(BackendClosed, match="host"):
            db.value("SELECT 1")
        with pytest.raises(ConfigurationError, match="is closed; open it"):
            connect(pool=pool)


def test_waiting_for_a_connection_has_an_end(pool: HostPool) -> None:
    with connect(pool=pool, pool_timeout=0.1) as db:
        with pool.connection(), pool.connection():
            with pytest.raises(PoolTimeout) as caught:
                db.value("SELECT 1")
        assert caught.value.stats.in_use == 0
        assert db.stats().timeouts == 1
        assert db.value("SELECT 1") == 1


def test_a_lost_connection_is_replaced(pool: HostPool, url: str) -> None:
    with connect(pool=pool) as db, psycopg.connect(url, autocommit=True) as admin:
        with pytest.raises(Unavailable), db.transaction() as txn:
            pid = txn.value("SELECT pg_backend_pid()")
            admin.execute("SELECT pg_terminate_backend(%s, 10000)", (pid,))
            txn.value("SELECT 1")
        assert db.value("SELECT 1") == 1
        assert db.stats().broken == 1
        assert db.stats().in_use == 0


@pytest.mark.direct("the host's settings of a session are not kept by PgBouncer")
def test_threads_share_it_with_the_host(pool: HostPool) -> None:
    with connect(pool=pool) as db:
        before = _look(pool)

        def work(thread: int) -> None:
            for _ in range(20):
                if thread % 2:
                    flows.create(db, str(uuid4()))
                else:
                    assert _look(pool) == before

        with ThreadPoolExecutor(6) as threads:
            list(threads.map(work, range(6)))
        assert len(flows.find(db)) == 60


@pytest.mark.direct("the host's settings of a session are not kept by PgBouncer")
def test_the_bridge_for_asyncio_lends_from_it(pool: HostPool) -> None:
    async def main() -> None:
        async with aio.connect(pool=pool) as db:
            flow = await db.run(flows.create, "etl")
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2):
                    await db.run(lambda backend: backend.execute(f"SELECT pg_sleep({BOUND})"))
            assert db.backend.stats().in_use == 0
            assert await db.run(flows.get, flow.id) == flow

    before = _look(pool)
    asyncio.run(main())
    assert _look(pool) == before


@pytest.mark.parametrize(
    "wrong", ["postgresql:///", object(), 7, psycopg_pool.AsyncConnectionPool(open=False)]
)
def test_something_else_is_no_pool(backend_name: str, wrong: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"it takes an open psycopg_pool\.ConnectionPool"):
        connect(pool=wrong)


@pytest.mark.parametrize(
    "other",
    [
        {"url": "postgresql:///"},
        {"pool_size": 3},
        {"pgbouncer": True},
        {"readers": 1, "application_name": "x"},
    ],
)
def test_other_settings_contradict_it(pool: HostPool, other: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=f"leave out {', '.join(other)}"):
        connect(pool=pool, **other)


def _look(pool: HostPool) -> dict[str, Any]:
    """How one of the pool's connections is set up, for the host."""
    with pool.connection() as native:
        assert native.info.transaction_status == TransactionStatus.IDLE
        found: dict[str, Any] = {
            name: getattr(native, name)
            for name in ("autocommit", "prepare_threshold", "row_factory", "cursor_factory")
        }
        tuples = RawCursor(native, row_factory=psycopg.rows.tuple_row)
        for name in _SHOWN:
            found[name] = tuples.execute(f"SHOW {name}".encode(), prepare=False).fetchone()
        found["json"] = tuples.execute(
            b"""SELECT '{"a": 1}'::jsonb, '[]'::json""", prepare=False
        ).fetchone()
        found["prepared"] = tuples.execute(
            b"SELECT statement FROM pg_prepared_statements", prepare=False
        ).fetchall()
    return found
