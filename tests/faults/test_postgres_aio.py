"""Sessions killed and connections cut under tasks that write through the bridge for asyncio."""

from __future__ import annotations

import asyncio
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any, Final

import psycopg
import pytest

from prefect_db import CommitUnknown, aio
from prefect_db.testing import Ledger, Proxy, judge, proxy
from tests.faults import BOUND, until
from tests.faults.postgres import PARTS, TABLE, found, kill_sessions, use_all, write
from tests.faults.report import RecordFault

pytestmark = pytest.mark.only("postgres", "SQLite has no sessions that another may end")

_SIZE: Final = 4
_TASKS: Final = 12
_ROUNDS: Final = 6


class _Tasks:
    """Write on and on, and note in a ledger what they were told."""

    def __init__(self, db: aio.AsyncBackend, ledger: Ledger) -> None:
        self._db = db
        self._ledger = ledger
        self._done = False
        self._saved = [0.0] * _TASKS
        self._tasks = [asyncio.create_task(self._work(number)) for number in range(_TASKS)]

    async def _work(self, task: int) -> None:
        number = 0
        while not self._done:
            number += 1
            key = f"{task}.{number}"
            self._ledger.intend(key)
            try:
                await self._db.transaction(partial(write, key=key))
            except CommitUnknown:
                continue
            self._ledger.acknowledge(key)
            self._saved[task] = time.monotonic()

    async def until_all_wrote(self) -> float:
        """Wait until each has saved something from now on; in how many seconds the last did."""
        since = time.monotonic()
        async with asyncio.timeout(BOUND):
            while min(self._saved) < since:
                await asyncio.sleep(0.005)
                for task in self._tasks:
                    if task.done():
                        task.result()
        return time.monotonic() - since

    async def end(self) -> None:
        self._done = True
        await asyncio.gather(*self._tasks)


async def _break(
    network: Proxy, admin: psycopg.Connection[Any], tasks: _Tasks
) -> tuple[int, float]:
    """How many connections were lost, and the longest time until all tasks went on."""
    lost, slowest = 0, 0.0
    for _ in range(_ROUNDS):
        lost += await asyncio.to_thread(kill_sessions, admin)
        slowest = max(slowest, await tasks.until_all_wrote())
        lost += network.cut()
        slowest = max(slowest, await tasks.until_all_wrote())
    return lost, slowest


def test_under_load_nothing_is_lost(url: str, tmp_path: Path, record_fault: RecordFault) -> None:
    before = set(threading.enumerate())

    async def main(network: Proxy, admin: psycopg.Connection[Any], ledger: Ledger) -> None:
        async with aio.connect(network.url, migrate=False, pool_size=_SIZE) as db:
            tasks = _Tasks(db, ledger)
            await tasks.until_all_wrote()
            lost, slowest = await _break(network, admin, tasks)
            await tasks.end()
            verdict = judge([tmp_path / "ledger"], await db.run(found), parts=PARTS)
            assert verdict.sound, verdict
            assert len(await asyncio.to_thread(use_all, db.backend, _SIZE)) == _SIZE
            stats = db.backend.stats()
            assert (stats.size, stats.in_use, stats.waiting, stats.timeouts) == (_SIZE, 0, 0, 0)
            record_fault(
                "sessions killed and connections cut under tasks",
                times=lost,
                acknowledged=verdict.acknowledged,
                lost=len(verdict.lost),
                duplicated=len(verdict.duplicated),
                recovery=slowest,
            )

    with psycopg.connect(url, autocommit=True) as admin, Ledger(tmp_path / "ledger") as ledger:
        admin.execute(TABLE)
        with proxy(url) as network:
            asyncio.run(main(network, admin, ledger))
    until(lambda: set(threading.enumerate()) <= before)
