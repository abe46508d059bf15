"""A pool and its connections, observed: what `connect(observer=...)` puts between the library and
any driver. Without an observer none of this is in the way."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Sequence
from typing import Any, Final

from prefect_db.drivers.base import (
    Connection,
    Isolation,
    Pool,
    Purpose,
    Result,
    Stats,
    clean,
    execute_alone,
)
from prefect_db.observe import Acquire, Around, Execute, Hooks, Release, Verb
from prefect_db.tokens import Statement

_numbers: Final = itertools.count(1)


class ObservedConnection:
    """A borrowed connection, from its acquire to its release."""

    def __init__(self, inner: Connection, hooks: Hooks, purpose: Purpose) -> None:
        self.inner = inner
        self.purpose: Purpose = purpose
        self.since = time.perf_counter()
        self._hooks = hooks
        self._transaction: int | None = None
        self._savepoints: list[str] = []

    @property
    def native(self) -> Any:
        return self.inner.native

    @property
    def in_transaction(self) -> bool:
        return self.inner.in_transaction

    @property
    def closed(self) -> bool:
        return self.inner.closed

    def execute(self, statement: Statement, values: Sequence[Any]) -> Result:
        with self._around("execute", statement.sql, values) as around:
            result = self.inner.execute(statement, values)
            around.rows = len(result.rows)
            around.affected = result.affected
        if self._transaction is not None:
            self._note_savepoint(statement.sql)
        return result

    def executemany(self, statement: Statement, rows: Sequence[Sequence[Any]]) -> int:
        with self._around("executemany", statement.sql, rows, len(rows)) as around:
            around.affected = self.inner.executemany(statement, rows)
        return around.affected

    def stream(self, statement: Statement, values: Sequence[Any], batch: int) -> Iterator[Result]:
        batches = self.inner.stream(statement, values, batch)
        try:
            while True:
                with self._around("stream", statement.sql, values) as around:
                    fetched = next(batches, None)
                    around.rows = len(fetched.rows) if fetched else 0
                if fetched is None:
                    return
                yield fetched
        finally:
            close = getattr(batches, "close", None)
            if close is not None:
                close()

    def begin(self, *, read_only: bool, isolation: Isolation | None, timeout: float | None) -> None:
        self._transaction = next(_numbers)
        self._savepoints.clear()
        try:
            with self._around("begin", "BEGIN"):
                self.inner.begin(read_only=read_only, isolation=isolation, timeout=timeout)
        finally:
            self._note_end()

    def commit(self) -> None:
        try:
            with self._around("commit", "COMMIT"):
                self.inner.commit()
        finally:
            self._note_end()

    def rollback(self) -> None:
        if not self.inner.in_transaction:
            # Nothing is sent.
            self.inner.rollback()
            return
        try:
            with self._around("rollback", "ROLLBACK"):
                self.inner.rollback()
        finally:
            self._note_end()

    def interrupt(self) -> None:
        self.inner.interrupt()

    def close(self) -> None:
        self.inner.close()

    def _around(
        self, verb: Verb, sql: str, params: Sequence[Any] | None = None, batch: int = 1
    ) -> Around:
        savepoint = self._savepoints[-1] if self._savepoints else None
        hooks = self._hooks
        event = Execute(hooks.database, verb, sql, batch, self._transaction, savepoint)
        return hooks.around(event, params)

    def _note_savepoint(self, sql: str) -> None:
        """Savepoints are statements to a driver."""
        if sql.startswith("SAVEPOINT "):
            self._savepoints.append(sql.removeprefix("SAVEPOINT "))
        elif sql.startswith("RELEASE SAVEPOINT ") and self._savepoints:
            self._savepoints.pop()

    def _note_end(self) -> None:
        if not self.inner.in_transaction:
            self._transaction = None
            self._savepoints.clear()


class ObservedPool:
    """A pool whose connections are observed while they are lent."""

    def __init__(self, inner: Pool, hooks: Hooks) -> None:
        self._inner = inner
        self._hooks = hooks

    def acquire(self, purpose: Purpose) -> Connection:
        connection: Connection | None = None
        try:
            with self._hooks.around(Acquire(self._hooks.database, purpose)):
                connection = self._inner.acquire(purpose)
            return ObservedConnection(connection, self._hooks, purpose)
        except BaseException:
            # A KeyboardInterrupt while observers were told.
            if connection is not None:
                self._inner.release(connection)
            raise

    def execute(self, statement: Statement, values: Sequence[Any]) -> Result:
        return execute_alone(self, statement, values)

    def release(self, connection: Connection, *, again: bool = False) -> None:
        assert isinstance(connection, ObservedConnection)
        if again:
            self._inner.release(connection.inner, again=True)
            return
        used = time.perf_counter() - connection.since
        with self._hooks.around(Release(self._hooks.database, connection.purpose, used)):
            # The pool would do so, unseen.
            clean(connection)
            self._inner.release(connection.inner)

    def stats(self) -> Stats:
        return self._inner.stats()

    def close(self) -> None:
        self._inner.close()
