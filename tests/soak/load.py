"""What one process of the load test does: eight threads that read, write, move states and trim."""

from __future__ import annotations

import ctypes
import functools
import gc
import itertools
import json
import logging
import math
import os
import random
import signal
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple
from uuid import UUID

from prefect_db import (
    Backend,
    CommitUnknown,
    Transaction,
    Unavailable,
    connect,
    events,
    flow_runs,
    logs,
    states,
)
from prefect_db.filters import Among, State
from prefect_db.flow_runs import FlowRunFilter
from prefect_db.testing import Ledger
from tests.faults import open_files
from tests.faults.postgres import write

THREADS: Final = 8
BATCH: Final = 500
# Seconds in which connections are opened, with their statements and pages. What is held after them
# is not to grow.
WARM_UP: Final = 5.0
# Events and logs older than this are trimmed.
_KEPT: Final = timedelta(seconds=5)
_STATES: Final = [
    states.scheduled,
    states.pending,
    states.running,
    states.completed,
    states.failed,
]


def work(url: str, ledger: str, rest: str) -> None:
    """Until SIGTERM; then print what it did, and what it holds compared to its beginning.

    Args:
        url: Of a database with flow runs and the table of `tests.faults.postgres`.
        ledger: A file of its own.
        rest: Seconds that each thread rests after each operation.
    """
    # Of connections that were killed, psycopg and the library have much to say.
    logging.disable()
    done = threading.Event()
    signal.signal(signal.SIGTERM, lambda number, frame: done.set())
    before = open_files()
    with connect(url, migrate=False, pool_size=THREADS) as db, Ledger(Path(ledger)) as book:
        worker = _Worker(db, book, float(rest))
        print("ready", flush=True)
        with ThreadPoolExecutor(THREADS) as threads:
            worker.work_together(threads, done, WARM_UP)
            warm, operations = _held(), worker.counts.total()
            worker.work_together(threads, done, math.inf)
            held, operations = _held(), worker.counts.total() - operations
        stats = db.stats()
    report = {
        "reads": worker.counts["read"],
        "writes": worker.counts["write"],
        "doubts": worker.doubts,
        "errors": worker.errors[:5],
        "in_use": stats.in_use,
        "waiting": stats.waiting,
        "size": stats.size,
        "broken": stats.broken,
        "operations": operations,
        "memory": [warm.mebibytes, held.mebibytes],
        "blocks": [warm.blocks, held.blocks],
        "files before": before,
        "files after": open_files(),
    }
    print(json.dumps(report), flush=True)


class _Held(NamedTuple):
    """What the process holds when nothing runs: Python's blocks of memory, and all that is
    resident."""

    blocks: int
    mebibytes: int


def _held() -> _Held:
    # Caches have bounds, and take longer than a short test to reach them.
    for cache in gc.get_objects():
        if isinstance(cache, functools._lru_cache_wrapper):
            cache.cache_clear()
    gc.collect()
    blocks = sys.getallocatedblocks()
    if sys.platform != "linux":
        return _Held(blocks, 0)
    # What the allocator keeps of each thread's memory, in pieces between pieces, is no growth.
    with suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return _Held(blocks, pages * os.sysconf("SC_PAGE_SIZE") // 2**20)


class _Worker:
    def __init__(self, db: Backend, ledger: Ledger, rest: float) -> None:
        self.db = db
        self.counts: Counter[str] = Counter()
        self.doubts = 0
        self.errors: list[str] = []
        self._numbers = itertools.count()
        self._ledger = ledger
        self._rest = rest
        self.runs = [UUID(str(row[0])) for row in db.rows("SELECT id FROM flow_run")]

    def work_together(
        self, threads: ThreadPoolExecutor, done: threading.Event, seconds: float
    ) -> None:
        """All threads, until the event or so many seconds later."""
        ends = time.monotonic() + seconds
        enough = threading.Event()
        running = [threads.submit(self._run, enough) for _ in range(THREADS)]
        # A signal's handler runs in this thread, between two of its steps.
        while not done.wait(0.1) and time.monotonic() < ends:
            pass
        enough.set()
        for each in running:
            each.result()

    def _run(self, done: threading.Event) -> None:
        while not done.is_set():
            operation = random.choices(_OPERATIONS, _WEIGHTS)[0]
            try:
                operation(self, f"{os.getpid()}.{next(self._numbers)}")
            except CommitUnknown:
                self.doubts += 1
            except Exception:  # noqa: BLE001
                self.errors.append(traceback.format_exc())
            self.counts["read" if operation is _read else "write"] += 1
            done.wait(self._rest)

    def save(self, key: str, more: Callable[[Transaction], object]) -> None:
        """One acknowledged write: two rows with its key, and what is done beside them."""

        def both(txn: Transaction) -> None:
            more(txn)
            write(txn, key)

        self._ledger.intend(key)
        self.db.run(both)
        self._ledger.acknowledge(key)


def _read(worker: _Worker, key: str) -> None:
    run = random.choice(worker.runs)
    reads: list[Callable[[Transaction], Any]] = [
        lambda txn: flow_runs.get(txn, run),
        lambda txn: flow_runs.history(txn, run)[:1],
        lambda txn: flow_runs.find(
            txn, FlowRunFilter(state=State(type=Among(any_=["RUNNING"]))), limit=20
        ),
        lambda txn: flow_runs.count_by_state(txn),
        lambda txn: events.query(txn, limit=20),
        lambda txn: logs.find(txn, limit=20),
    ]
    worker.db.run(random.choice(reads), read_only=True)


def _move(worker: _Worker, key: str) -> None:
    run = random.choice(worker.runs)
    state = random.choice(_STATES)()
    worker.save(key, lambda txn: flow_runs.set_state(txn, run, state))


def _emit(worker: _Worker, key: str) -> None:
    batch = [
        events.make("load.event", {"prefect.resource.id": f"load.{key}.{n}"}) for n in range(BATCH)
    ]
    worker.save(key, partial(_write_events, batch=batch))


def _write_events(txn: Transaction, batch: list[events.Event]) -> None:
    assert events.write(txn, batch) == len(batch)


def _log(worker: _Worker, key: str) -> None:
    run = random.choice(worker.runs)
    now = datetime.now(UTC)
    lines = [logs.make("load", 20, f"line {n}", now, flow_run_id=run) for n in range(50)]
    worker.save(key, lambda txn: logs.write(txn, lines))


def _trim(worker: _Worker, key: str) -> None:
    # Not by `run`: each batch is a transaction of its own. What was lost with one is there next.
    before = datetime.now(UTC) - _KEPT
    try:
        events.trim(worker.db, before)
        logs.trim(worker.db, before)
    except Unavailable:
        pass


_OPERATIONS: Final = [_read, _move, _emit, _log, _trim]
_WEIGHTS: Final = [80.0, 14.0, 2.0, 3.0, 1.0]
