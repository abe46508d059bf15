"""What tests of PostgreSQL's faults share: sessions to kill, a table to write, a ledger to keep."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

import psycopg

from prefect_db import Backend, CommitUnknown, Transaction
from prefect_db.testing import Ledger, Verdict, judge
from tests.faults import BOUND, until

_SESSIONS: Final = (
    "SELECT pid FROM pg_stat_activity"
    " WHERE datname = current_database() AND pid <> pg_backend_pid()"
    " AND backend_type LIKE 'client%'"
)
# Two rows make one write: a half of it is to be seen. No key keeps a second one out.
PARTS: Final = 2
TABLE: Final = "CREATE TABLE ledger (key text NOT NULL)"


def sessions(admin: psycopg.Connection[Any], where: str = "true") -> set[int]:
    """The server's processes that serve others in the database."""
    return {row[0] for row in admin.execute(f"{_SESSIONS} AND {where}")}


def kill_sessions(admin: psycopg.Connection[Any], where: str = "true") -> int:
    """End those sessions, as pg_terminate_backend does; how many."""
    killed = sessions(admin, where)
    for pid in killed:
        admin.execute("SELECT pg_terminate_backend(%s)", (pid,))
    until(lambda: not killed & sessions(admin))
    return len(killed)


def use_all(db: Backend, number: int, *, read_only: bool = False) -> set[int]:
    """Use so many connections at the same time; their sessions' process ids."""
    together = threading.Barrier(number)

    def work(_: int) -> int:
        with db.transaction(read_only=read_only) as txn:
            pid: int = txn.value("SELECT pg_backend_pid()")
            together.wait(BOUND)
            return pid

    with ThreadPoolExecutor(number) as threads:
        return set(threads.map(work, range(number)))


def write(txn: Transaction, key: str) -> None:
    """One write, in `PARTS`."""
    for _ in range(PARTS):
        txn.execute("INSERT INTO ledger (key) VALUES (?)", (key,))


class Writers:
    """Threads that write through `run()`, on and on, and note in a ledger what they were told.

    Attributes:
        errors: What `run` raised, besides CommitUnknown.
        doubts: How many commits ended in CommitUnknown.
        pause: The longest time, in seconds, in which nobody's write was acknowledged.
    """

    def __init__(self, db: Backend, path: Path, threads: int, attempts: int) -> None:
        self.errors: list[BaseException] = []
        self.doubts = 0
        self.pause = 0.0
        self._mutex = threading.Lock()
        self._db = db
        self._path = path
        self._attempts = attempts
        self._done = threading.Event()
        self._saved = [0.0] * threads
        self._threads = [
            threading.Thread(target=self._work, args=(number,)) for number in range(threads)
        ]

    def _work(self, thread: int) -> None:
        with Ledger(self._path) as ledger:
            number = 0
            while not self._done.is_set():
                number += 1
                key = f"{thread}.{number}"
                ledger.intend(key)
                try:
                    self._db.run(partial(write, key=key), self._attempts)
                except CommitUnknown:
                    self.doubts += 1
                except BaseException as error:  # noqa: BLE001
                    self.errors.append(error)
                    return
                else:
                    ledger.acknowledge(key)
                    self._note(thread)

    def _note(self, thread: int) -> None:
        with self._mutex:
            now = time.monotonic()
            last = max(self._saved)
            if last:
                self.pause = max(self.pause, now - last)
            self._saved[thread] = now

    def until_all_wrote(self, bound: float = BOUND) -> float:
        """Wait until each thread has saved something from now on; in how many seconds the first
        one did."""
        since = time.monotonic()
        until(lambda: bool(self.errors) or max(self._saved) > since, bound)
        first = time.monotonic() - since
        until(lambda: bool(self.errors) or min(self._saved) > since, bound)
        return first

    def __enter__(self) -> Writers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        for thread in self._threads:
            thread.join(BOUND)

    def verdict(self, found: Callable[[], list[str]]) -> Verdict:
        """What became of all writes."""
        return judge([self._path], found(), parts=PARTS)


@contextmanager
def writers(db: Backend, path: Path, threads: int = 8, attempts: int = 5) -> Iterator[Writers]:
    """Writers at work; each has written once when the block begins, and none fails."""
    with Writers(db, path, threads, attempts) as made:
        made.until_all_wrote()
        yield made
    assert made.errors == [], made.errors


def found(db: Backend) -> list[str]:
    """The key of each row."""
    return db.run(lambda txn: [row["key"] for row in txn.rows("SELECT key FROM ledger")])
