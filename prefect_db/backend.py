"""`Backend`: one process's access to one database."""

from __future__ import annotations

import math
import random
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, NoReturn, Self, TypeVar

from prefect_db import process
from prefect_db.drivers.base import (
    Connection,
    Driver,
    Isolation,
    Pool,
    Purpose,
    Result,
    Settings,
    Stats,
)
from prefect_db.errors import (
    BackendClosed,
    Error,
    ForkedBackend,
    Retryable,
    Unavailable,
    UsageError,
)
from prefect_db.queryable import Queryable
from prefect_db.transaction import Transaction

if TYPE_CHECKING:
    from prefect_db.observe import Hooks

T = TypeVar("T")

# Seconds: the longest waits before attempts 2, 3, ... are 0.05, 0.1, 0.2, ... and at most 2.
_FIRST_WAIT: Final = 0.05
_LONGEST_WAIT: Final = 2.0


class Backend(Queryable):
    """A database, opened by `connect()`. Share it between threads; one per process.

    A context manager that closes it. Each verb outside a transaction is a transaction of its own.
    """

    __slots__ = ("_closed", "_dialect", "_hooks", "_pool", "_process", "_settings")

    def __init__(self, driver: Driver, settings: Settings) -> None:
        self._closed = True
        self._settings = settings
        self._dialect = driver.dialect
        self._process = process.current
        self._hooks = settings.hooks
        pool = driver.open(settings)
        self._pool: Pool = pool if self._hooks is None else _observed(pool, self._hooks)
        self._closed = False

    def __repr__(self) -> str:
        return f"<Backend {self._settings.masked}{' closed' if self._closed else ''}>"

    def _run(self, sql: str, params: Sequence[Any], prepare: bool = True) -> Result:
        dialect = self._dialect
        statement = dialect.compile(sql, prepare)
        values = dialect.bind(statement, params)
        if self._closed or self._process is not process.current:
            self._check()
        return self._pool.execute(statement, values)

    def executemany(self, sql: str, seq_of_params: Iterable[Sequence[Any]]) -> int:
        with self.transaction() as txn:
            return txn.executemany(sql, seq_of_params)

    def transaction(
        self,
        *,
        read_only: bool = False,
        isolation: Isolation | None = None,
        timeout: float | None = None,
    ) -> Transaction:
        """A transaction, as a context manager: `with db.transaction() as txn:`.

        Args:
            read_only: Refuse writes. On SQLite such a transaction does not wait for writers.
            isolation: For PostgreSQL; `read committed` if not given, whatever the server's
                default. SQLite's transactions are serializable.
            timeout: Seconds. No statement may run longer, nor one begin later; QueryTimeout.

        Raises, from its block: besides the errors of `Queryable`, TransactionAborted if a failed
        statement's error was swallowed (nothing was saved), CommitUnknown if the connection broke
        during COMMIT, and Retryable ones; see `run`.
        """
        if timeout is not None and not 0 < timeout < math.inf:
            raise UsageError(f"timeout={timeout}; it is a number of seconds above 0")
        if isolation not in (None, "read committed", "repeatable read", "serializable"):
            raise UsageError(
                f"isolation={isolation!r}; it is 'read committed', 'repeatable read' or"
                " 'serializable'"
            )
        return Transaction(
            self._dialect,
            self._acquire,
            self._pool,
            read_only=read_only,
            isolation=isolation,
            timeout=timeout,
        )

    def unit(self) -> Transaction:
        return self.transaction()

    def run(
        self,
        fn: Callable[[Transaction], T],
        attempts: int = 5,
        *,
        read_only: bool = False,
        isolation: Isolation | None = None,
        timeout: float | None = None,
    ) -> T:
        """What `fn(txn)` returns, run in a transaction, again if that failed for others' sake.

        On a Retryable error and on Unavailable (outside COMMIT, so nothing was saved) the whole
        transaction is run again, at most `attempts` times in all, after waits that double, each
        of a random length up to that (full jitter). `fn` must have no effects besides the
        transaction's. CommitUnknown is never retried.

        Raises:
            Retryable, Unavailable: The last attempt's.
        """
        if attempts < 1:
            raise UsageError(f"attempts={attempts}; it is at least 1")
        for attempt in range(1, attempts + 1):
            try:
                with self.transaction(
                    read_only=read_only, isolation=isolation, timeout=timeout
                ) as txn:
                    return fn(txn)
            except (Retryable, Unavailable) as error:
                if attempt == attempts:
                    raise
                self._wait(attempt + 1, error)
        raise AssertionError("unreachable")

    def _wait(self, attempt: int, failure: Error) -> None:
        delay = random.uniform(0, min(_FIRST_WAIT * 2 ** (attempt - 2), _LONGEST_WAIT))
        if self._hooks is None:
            time.sleep(delay)
        else:
            from prefect_db.observe import Retry

            with self._hooks.around(Retry(self._hooks.database, attempt, delay, failure)):
                time.sleep(delay)

    def stats(self) -> Stats:
        """The pool's statistics now; `Stats` says what each number means."""
        self._check()
        return self._pool.stats()

    @contextmanager
    def connection(self) -> Iterator[Any]:
        """The driver's own connection, for what the verbs do not do: COPY, LISTEN, EXPLAIN.

        In autocommit; what is left open on it is rolled back at the end of the block. It raises
        the driver's own errors, and must not be used after the block.
        """
        with self.borrowed() as connection:
            yield connection.native

    def close(self) -> None:
        """Close all connections; one that is in use, when its user is done. Twice is no error."""
        if self._process is not process.current:
            # The connections are the parent's; closing them here would end its sessions.
            return
        if not self._closed:
            self._closed = True
            self._pool.close()

    def __reduce__(self) -> NoReturn:
        # Else `multiprocessing` would tell of what in it cannot be pickled, and not what to do.
        raise ForkedBackend("it cannot be passed to another process")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @contextmanager
    def borrowed(self) -> Iterator[Connection]:
        """One connection of the driver seam, for a sequence that must stay on it: migrations."""
        connection = self._acquire("write")
        try:
            yield connection
        finally:
            try:
                self._pool.release(connection)
            except BaseException:
                self._pool.release(connection, again=True)
                raise

    def __del__(self) -> None:
        if not getattr(self, "_closed", True) and self._process is process.current:
            warnings.warn(f"{self!r} was never closed", ResourceWarning, stacklevel=2)
            self.close()

    def _check(self) -> None:
        if self._process is not process.current:
            opened, used = self._process.pid, process.current.pid
            raise ForkedBackend(f"opened by process {opened}, used by process {used}")
        if self._closed:
            raise BackendClosed("close() was called")

    def _acquire(self, purpose: Purpose) -> Connection:
        if self._closed or self._process is not process.current:
            self._check()
        return self._pool.acquire(purpose)


def _observed(pool: Pool, hooks: Hooks) -> Pool:
    from prefect_db.drivers.observed import ObservedPool

    return ObservedPool(pool, hooks)
