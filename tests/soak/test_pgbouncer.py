"""PgBouncer in transaction mode: what is told without the option, and faults with it.

The contract itself is run through it by `pytest --pgbouncer tests/contract`.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from prefect_db import ConfigurationError, Error, connect
from prefect_db.testing import PostgresServer, postgres_cluster
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
            assert verdict.sound, verdict
            use_all(db, 10)
            assert (db.stats().size, db.stats().in_use, db.stats().waiting) == (10, 0, 0)
    record_fault(
        "sessions killed behind PgBouncer",
        times=killed,
        acknowledged=verdict.acknowledged,
        lost=len(verdict.lost),
        duplicated=len(verdict.duplicated),
        recovery=slowest,
    )
