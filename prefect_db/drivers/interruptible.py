"""Any driver, with a way to stop, from another thread, what one thread does with its pool.

Wraps the seam: a `Job` knows which connections its thread holds, so an interrupt reaches its
statements and no one else's.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any, TypeVar

from prefect_db.dialect import Dialect
from prefect_db.drivers.base import (
    Connection,
    Driver,
    Isolation,
    Pool,
    Purpose,
    Result,
    Settings,
    Stats,
    execute_alone,
)
from prefect_db.errors import Cancelled, Error
from prefect_db.tokens import Statement

T = TypeVar("T")


class Job:
    """What one thread does with the connections of a pool."""

    def __init__(self) -> None:
        # Held while it is interrupted, and over all that an interrupt must not touch.
        self.uninterrupted = threading.Lock()
        self._held: list[Connection] = []
        self._doubtful: set[Connection] = set()
        self._stopped = False
        self._waiting = False

    def stop(self) -> bool:
        """Let it begin no statement and no COMMIT from now on: those raise Cancelled.

        Returns:
            True if it holds no connection, and waits for one that it will not use.
        """
        # This order, and the opposite one in `acquire`, need no lock.
        self._stopped = True
        return self._waiting

    def check(self) -> None:
        """Raise Cancelled if it was stopped."""
        if self._stopped:
            raise Cancelled("the work was cancelled")

    def interrupt(self) -> None:
        """Interrupt its running statement, if one is. It may take as long as a connect does."""
        with self.uninterrupted:
            for connection in self._held:
                try:
                    connection.interrupt()
                except Error:
                    # It may still arrive: on a statement of the connection's next user.
                    self._doubtful.add(connection)

    def acquire(self, borrow: Callable[[], Connection]) -> Connection:
        """Borrow a connection, for this job to hold."""
        self._waiting = not self._held
        try:
            self.check()
            connection = borrow()
        finally:
            self._waiting = False
        self._held.append(connection)
        return connection

    def let_go(self, connection: Connection) -> None:
        """Hold it no longer: it is given back next."""
        with self.uninterrupted:
            with suppress(ValueError):
                self._held.remove(connection)
            if connection in self._doubtful:
                self._doubtful.discard(connection)
                connection.close()


class Current(threading.local):
    """The job of this thread, if it does one."""

    job: Job | None = None


class InterruptibleDriver:
    """A driver whose pools lend each job connections that its `Job` can interrupt."""

    def __init__(self, driver: Driver, current: Current) -> None:
        self._driver = driver
        self._current = current

    @property
    def dialect(self) -> Dialect:
        return self._driver.dialect

    def open(self, settings: Settings) -> Pool:
        job = self._current.job
        if job is not None:
            # It may be one of many attempts.
            job.check()
        return _Pool(self._driver.open(settings), self._current)

    def wrap(self, native: Any) -> Connection | None:
        return self._driver.wrap(native)


class _Pool:
    def __init__(self, pool: Pool, current: Current) -> None:
        self._pool = pool
        self._current = current
        self.stats: Callable[[], Stats] = pool.stats
        self.close: Callable[[], None] = pool.close

    def acquire(self, purpose: Purpose) -> Connection:
        job = self._current.job
        if job is None:
            return self._pool.acquire(purpose)
        connection = _Connection(job, job.acquire(lambda: self._pool.acquire(purpose)))
        try:
            job.check()
        except Cancelled:
            self.release(connection)
            raise
        return connection

    def execute(self, statement: Statement, values: Sequence[Any]) -> Result:
        return execute_alone(self, statement, values)

    def release(self, connection: Connection, *, again: bool = False) -> None:
        if isinstance(connection, _Connection):
            connection.job.let_go(connection.inner)
            connection = connection.inner
        self._pool.release(connection, again=again)


class _Connection:
    """A connection that a job holds."""

    def __init__(self, job: Job, inner: Connection) -> None:
        self.job = job
        self.inner = inner
        self.interrupt: Callable[[], None] = inner.interrupt
        self.close: Callable[[], None] = inner.close

    @property
    def native(self) -> Any:
        return self.inner.native

    def execute(self, statement: Statement, values: Sequence[Any]) -> Result:
        self.job.check()
        return self.inner.execute(statement, values)

    def executemany(self, statement: Statement, rows: Sequence[Sequence[Any]]) -> int:
        self.job.check()
        return self.inner.executemany(statement, rows)

    def stream(self, statement: Statement, values: Sequence[Any], batch: int) -> Iterator[Result]:
        self.job.check()
        batches = self.inner.stream(statement, values, batch)
        try:
            for each in batches:
                self.job.check()
                yield each
        finally:
            close = getattr(batches, "close", None)
            if close is not None:
                close()

    def begin(self, *, read_only: bool, isolation: Isolation | None, timeout: float | None) -> None:
        self.job.check()
        self.inner.begin(read_only=read_only, isolation=isolation, timeout=timeout)

    def commit(self) -> None:
        with self.job.uninterrupted:
            self.job.check()
            self.inner.commit()

    def rollback(self) -> None:
        with self.job.uninterrupted:
            self.inner.rollback()

    @property
    def in_transaction(self) -> bool:
        return self.inner.in_transaction

    @property
    def closed(self) -> bool:
        return self.inner.closed
