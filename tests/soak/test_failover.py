"""The primary is gone, its synchronous standby takes over: nothing acknowledged is lost, and a
Backend whose URL names both goes on by itself."""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import psycopg
import pytest

from prefect_db import connect
from prefect_db.testing import postgres_cluster, postgres_standby, proxy
from tests.faults import LINUX
from tests.faults.postgres import TABLE, found, use_all, writers
from tests.faults.report import RecordFault

pytestmark = pytest.mark.only("postgres", "SQLite has no second server")

# Seconds in which whoever watches over the servers notices.
_NOTICE: Final = 1.0
# Seconds in which the primary lives on without its standby.
_ALONE: Final = 0.5
_THREADS: Final = 16
_SIZE: Final = 10
# As long as a failover may take: each attempt waits for a moment, and two seconds between.
_ATTEMPTS: Final = 60
# What only the network's silence tells is noticed after a second or two, for the test's sake.
_SHORT: Final = "tcp_user_timeout=1000&keepalives_idle=1&keepalives_interval=1&keepalives_count=1"


@pytest.mark.parametrize(
    "fault",
    [
        "killed",
        pytest.param("unreachable", marks=LINUX),
        "cut off from its standby, and killed",
    ],
)
def test_a_standby_takes_over(fault: str, tmp_path: Path, record_fault: RecordFault) -> None:
    with ExitStack() as stack:
        primary = stack.enter_context(postgres_cluster({"synchronous_commit": "on"}))
        with psycopg.connect(primary.url, autocommit=True) as admin:
            admin.execute(TABLE)
        link = stack.enter_context(proxy(primary.url))
        standby = stack.enter_context(postgres_standby(primary, url=link.url))
        # Stopped before its standby, without which it could not end what it commits.
        stack.callback(primary.kill)
        first, second = (stack.enter_context(proxy(each.url)) for each in (primary, standby))
        url = (
            f"postgresql://postgres@127.0.0.1:{first.port},127.0.0.1:{second.port}/postgres"
            f"?target_session_attrs=read-write&{_SHORT}"
        )
        with connect(url, migrate=False, pool_size=_SIZE, connect_timeout=2) as db:
            with writers(db, tmp_path / "ledger", _THREADS, _ATTEMPTS) as at_work:
                if fault == "unreachable":
                    first.black_hole()
                else:
                    if fault.startswith("cut off"):
                        # What it acknowledged from now on would be lost with it.
                        link.refuse()
                        link.cut()
                        time.sleep(_ALONE)
                    primary.kill()
                time.sleep(_NOTICE)
                standby.promote()
                at_work.until_all_wrote()
            verdict = at_work.verdict(lambda: found(db))
            record_fault(
                f"primary {fault}, standby promoted {_NOTICE:g} s later",
                verdict=verdict,
                recovery=at_work.pause,
            )
            assert len(use_all(db, _SIZE)) == _SIZE
            assert (db.stats().size, db.stats().in_use, db.stats().waiting) == (_SIZE, 0, 0)
