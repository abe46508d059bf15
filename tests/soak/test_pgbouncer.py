"""PgBouncer in transaction mode: what is told without the option, and faults with it.

The contract itself is run through it by `pytest --pgbouncer tests/contract`.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import psycopg
import pytest

from prefect_db import ConfigurationError, Error, connect
from prefect_db.testing import PostgresServer, create_database, postgres_cluster
from tests.faults import BOUND
from tests.faults.postgres import TABLE, found, kill_sessions, use_all, writers
from tests.faults.report import RecordFault
from tests.pgbouncer import pgbouncer

pytestmark = pytest.mark.only("postgres", "SQLite has no server")


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with postgres_cluster({"synchronous_commit": "on"}) as server:
        with psycopg.connect(server.url, autocommit=True) as admin:
            admin.execute(TABLE)
        yield server


def test_without_the_option_it_is_told_what_to_do(server: PostgresServer) -> None:
    with pgbouncer(server.url) as route:
        with pytest.raises(ConfigurationError, match=r"needs connect\(pgbouncer=True\)"):
            connect(route(server.url), migrate=False)


def test_without_the_option_where_it_was_not_refused_at_first(server: PostgresServer) -> None:
    """Two clients share a session, and give different statements one name."""
    more = "ignore_startup_parameters = options\ndefault_pool_size = 1"
    with pgbouncer(server.url, more) as route:
        url = route(server.url)
        with connect(url, migrate=False) as one, connect(url, migrate=False) as two:
            with pytest.raises(Error, match=r"connect\(pgbouncer=True\)"):
                for _ in range(20):
                    one.value("SELECT CAST(? AS integer)", (1,))
                    two.value("SELECT CAST(? AS text)", ("a",))


_DEFAULTS: Final = {
    "TimeZone": "Asia/Kolkata",
    "DateStyle": "German",
    "IntervalStyle": "iso_8601",
    "default_transaction_isolation": "serializable",
}
_NEEDED: Final = {"IntervalStyle": "postgres", "default_transaction_isolation": "read committed"}


@pytest.mark.parametrize("name", _NEEDED)
def test_sessions_that_begin_otherwise_are_refused(server: PostgresServer, name: str) -> None:
    """Once in a session of PgBouncer's, a setting cannot be relied on: the next is of another."""
    with create_database(server.url) as url, pgbouncer(server.url) as route:
        _set_defaults(url, {name: _DEFAULTS[name]})
        with pytest.raises(ConfigurationError, match=f"ALTER ROLE ... SET {name} = '"):
            connect(route(url), migrate=False, pgbouncer=True)


@pytest.mark.parametrize("where", ["database", "connect_query"])
def test_in_all_of_its_sessions_values_are_read_alike(server: PostgresServer, where: str) -> None:
    with create_database(server.url) as url, ExitStack() as stack:
        _set_defaults(url, _DEFAULTS | (_NEEDED if where == "database" else {}))
        query = "; ".join(f"SET {name} = ''{value}''" for name, value in _NEEDED.items())
        to = f" connect_query='{query}'" if where == "connect_query" else ""
        route = stack.enter_context(pgbouncer(server.url, database=to))
        db = stack.enter_context(connect(route(url), migrate=False, pgbouncer=True, pool_size=4))
        together = threading.Barrier(4)

        def look(_: int) -> tuple[object, ...]:
            alone = db.value("SELECT current_setting('transaction_isolation')")
            with db.transaction() as txn:
                together.wait(BOUND)
                row = txn.row(
                    "SELECT pg_backend_pid(), interval '-1 day -02:03:04.5',"
                    " timestamptz '2026-02-03 04:05:06+00'"
                )
                assert row is not None
                return (*row, alone)

        with ThreadPoolExecutor(4) as threads:
            seen = list(threads.map(look, range(4)))
        assert len({pid for pid, *_ in seen}) == 4
        duration, moment = -timedelta(1, 7384.5), datetime(2026, 2, 3, 4, 5, 6, tzinfo=UTC)
        assert {tuple(rest) for _, *rest in seen} == {(duration, moment, "read committed")}


def _set_defaults(url: str, defaults: dict[str, str]) -> None:
    with psycopg.connect(url, autocommit=True) as admin:
        for name, value in defaults.items():
            admin.execute(f"ALTER DATABASE {admin.info.dbname} SET {name} TO '{value}'")


def test_sessions_that_are_killed_behind_it_under_load(
    server: PostgresServer, tmp_path: Path, record_fault: RecordFault
) -> None:
    killed, slowest = 0, 0.0
    with pgbouncer(server.url) as route, psycopg.connect(server.url, autocommit=True) as admin:
        with connect(route(server.url), migrate=False, pgbouncer=True) as db:
            with writers(db, tmp_path / "ledger") as at_work:
                for _ in range(10):
                    killed += kill_sessions(admin, f"random() < {random.choice([0.3, 1])}")
                    slowest = max(slowest, at_work.until_all_wrote())
            verdict = at_work.verdict(lambda: found(db))
            record_fault(
                "sessions killed behind PgBouncer", times=killed, verdict=verdict, recovery=slowest
            )
            use_all(db, 10)
            assert (db.stats().size, db.stats().in_use, db.stats().waiting) == (10, 0, 0)
