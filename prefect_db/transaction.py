"""`Transaction`: begin, savepoints, the honest commit, and a rollback that hides no error."""

from __future__ import annotations

import enum
import time
import warnings
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from threading import get_ident
from types import TracebackType
from typing import Any, Final, Self, TypeVar, overload
from weakref import WeakSet

from prefect_db import process
from prefect_db.dialect import Dialect
from prefect_db.drivers.base import Connection, Isolation, Pool, Purpose, Result
from prefect_db.errors import (
    BadValue,
    Cancelled,
    CommitUnknown,
    Error,
    ForkedBackend,
    OutOfOrder,
    QueryTimeout,
    TransactionAborted,
    TransactionClosed,
    Unavailable,
    UsageError,
)
from prefect_db.queryable import Queryable
from prefect_db.row import Row, Rows, column_index, converter
from prefect_db.tokens import Statement

T = TypeVar("T")


class Status(enum.Enum):
    """Where a transaction stands."""

    NEW = "new"
    ACTIVE = "active"
    FAILED = "failed"
    """A statement failed: only a rollback, of it or of a savepoint around it, is left."""
    COMMITTED = "committed"
    ROLLED_BACK = "rolled back"
    UNKNOWN = "unknown"
    """The connection broke while it committed."""


# To look up a member of an Enum takes three times as long, and each statement looks.
_ACTIVE: Final = Status.ACTIVE
_FAILED: Final = Status.FAILED


class _Scope(Queryable):
    """What a transaction and a savepoint have in common: the verbs on one connection, used by
    one thread, innermost scope first."""

    __slots__ = (
        "_connection",
        "_deadline",
        "_depth",
        "_dialect",
        "_inner",
        "_process",
        "_streams",
        "_thread",
        "_written",
        "status",
    )

    def __init__(self, dialect: Dialect, depth: int = 0) -> None:
        self.status = Status.NEW
        self._depth = depth
        self._written = False
        self._dialect = dialect
        self._connection: Connection | None = None
        self._deadline: float | None = None
        self._thread = 0
        self._process = process.current
        self._inner: _Scope | None = None
        self._streams: WeakSet[_Stream] | None = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.status.value}>"

    def _ready(self, sql: str | None = None) -> Connection:
        """The connection, if a statement may run here and now."""
        connection = self._connection
        if connection is None or self.status is not _ACTIVE:
            if self.status is Status.FAILED:
                raise TransactionAborted("an earlier statement failed", sql=sql)
            if self.status is Status.NEW:
                raise UsageError("not begun; write `with db.transaction() as txn:`", sql=sql)
            raise TransactionClosed(f"the transaction is {self.status.value}", sql=sql)
        if (
            self._inner is not None
            or self._thread != get_ident()
            or self._process is not process.current
        ):
            self._check_order(sql)
        if self._deadline is not None and time.monotonic() > self._deadline:
            self.status = Status.FAILED
            raise QueryTimeout("the transaction's time is over", sql=sql)
        return connection

    def _check_order(self, sql: str | None) -> None:
        if self._process is not process.current:
            raise self._forked("used")
        if self._thread != get_ident():
            raise OutOfOrder("used from another thread than the one that began it", sql=sql)
        if self._inner is not None:
            raise OutOfOrder("used while a transaction inside it is open", sql=sql)

    def _forked(self, what: str) -> ForkedBackend:
        begun, current = self._process.pid, process.current.pid
        return ForkedBackend(f"begun by process {begun}, {what} by process {current}")

    def _run(self, sql: str, params: Sequence[Any], prepare: bool = True) -> Result:
        statement = self._dialect.compile(sql, prepare)
        values = self._dialect.bind(statement, params)
        connection = self._ready(sql)
        try:
            result = connection.execute(statement, values)
        except BaseException:
            # PostgreSQL refuses everything after an error; SQLite would go on with half of it.
            self.status = Status.FAILED
            raise
        # A SELECT FOR UPDATE has a count, too.
        if result.affected and not sql.startswith("SELECT"):
            self._written = True
        return result

    def executemany(self, sql: str, seq_of_params: Iterable[Sequence[Any]]) -> int:
        statement = self._dialect.compile(sql)
        rows = [self._dialect.bind(statement, params) for params in seq_of_params]
        connection = self._ready(sql)
        if not rows:
            return 0
        try:
            affected = connection.executemany(statement, rows)
        except BaseException:
            self.status = Status.FAILED
            raise
        if affected:
            self._written = True
        return affected

    @overload
    def stream(self, sql: str, params: Sequence[Any] = ..., batch: int = ...) -> Iterator[Row]: ...
    @overload
    def stream(
        self, sql: str, params: Sequence[Any] = ..., batch: int = ..., *, into: type[T]
    ) -> Iterator[T]: ...
    def stream(
        self,
        sql: str,
        params: Sequence[Any] = (),
        batch: int = 1000,
        into: Any = None,
    ) -> Iterator[Any]:
        """The rows of a query, fetched `batch` at a time: for results too large for memory.

        It ends with the transaction: what was not read by then raises TransactionClosed.
        """
        if batch < 1:
            raise BadValue(f"batch={batch}; it is a number of rows, at least 1")
        statement = self._dialect.compile(sql)
        values = self._dialect.bind(statement, params)
        batches = self._ready(sql).stream(statement, values, batch)
        stream = _Stream(self, batches, sql, into)
        if self._streams is None:
            self._streams = WeakSet()
        self._streams.add(stream)
        return stream

    def transaction(
        self,
        *,
        read_only: bool = False,
        isolation: Isolation | None = None,
        timeout: float | None = None,
    ) -> Savepoint:
        """A savepoint: its block is undone if an exception leaves it, and nothing else is.

        Raises:
            UsageError: An option was given: those are the outermost transaction's.
        """
        if read_only or isolation is not None or timeout is not None:
            raise UsageError("read_only, isolation and timeout belong to the outermost transaction")
        return Savepoint(self)

    def unit(self) -> AbstractContextManager[Queryable]:
        return _Unit(self)

    def _end_streams(self) -> None:
        if self._streams is not None:
            for stream in list(self._streams):
                stream.close()

    def _forget(self) -> None:
        if self._inner is not None:
            self._inner._forget()
        self.status = Status.ROLLED_BACK
        self._connection = None


class _Unit(AbstractContextManager[Queryable]):
    """What `unit` gives in a transaction."""

    __slots__ = ("_scope", "_written_before")

    def __init__(self, scope: _Scope) -> None:
        self._scope = scope
        self._written_before = False

    def __enter__(self) -> Queryable:
        scope = self._scope
        scope._ready()
        self._written_before, scope._written = scope._written, False
        return scope

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        scope = self._scope
        if error is not None and scope._written and scope.status is Status.ACTIVE:
            scope.status = Status.FAILED
        scope._written = scope._written or self._written_before


class _Stream(Iterator[Any]):
    """What `stream` gives. Not a generator: one that is closed would end as if all were read."""

    def __init__(
        self,
        scope: _Scope,
        batches: Iterator[Result],
        sql: str,
        into: Any,
    ) -> None:
        self._scope = scope
        self._batches = batches
        self._sql = sql
        self._into = into
        self._made: Iterator[Any] = iter(())

    def __next__(self) -> Any:
        for made in self._made:
            self._scope._ready(self._sql)
            return made
        self._made = iter(self._next_batch())
        return next(self._made)

    def _next_batch(self) -> Sequence[Any]:
        scope = self._scope
        scope._ready(self._sql)
        try:
            batch = next(self._batches, None)
        except BaseException:
            scope.status = Status.FAILED
            raise
        if batch is None:
            return ()
        if self._into is None:
            return Rows(batch.rows, column_index(batch.names()))
        convert = converter(self._into, scope.dialect)
        if self._sql not in convert.checked:
            convert.check(self._sql, batch.names)
        return convert.many(batch.rows)

    def close(self) -> None:
        """Let go of the cursor."""
        close = getattr(self._batches, "close", None)
        if close is not None:
            close()


class _Block(_Scope):
    """A scope that is a context manager and ends with its block."""

    __slots__ = ()

    def rollback(self) -> None:
        """Undo and leave, on purpose: what is used of it afterwards raises TransactionClosed."""
        if self.status not in (_ACTIVE, _FAILED):
            self._ready()
        self._check_order(None)
        self._undo()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self.status not in (_ACTIVE, _FAILED):
            return
        if self._process is not process.current:
            # What a child sent would be its parent's words.
            self._forget()
            if error is None:
                raise self._forked("ended")
        elif error is not None:
            self._abandon()
        elif self._inner is not None:
            self._abandon()
            raise OutOfOrder("ended while a transaction inside it is open; it was rolled back")
        elif self.status is _FAILED:
            self._abandon()
            raise TransactionAborted("a statement failed and its error was not passed on")
        else:
            self._finish()

    def _abandon(self) -> None:
        """Undo because of an error, which a failure to undo must not hide."""
        if self._inner is not None:
            self._inner._forget()
        try:
            self._undo()
        except Cancelled:
            # The work was told to stop: a savepoint need not be undone, as all of it will be.
            pass
        except Error as error:
            # Not at the top: it is slow to import, and this is rare.
            import logging

            logging.getLogger("prefect_db").warning("rollback failed: %s", error)

    @abstractmethod
    def _undo(self) -> None:
        """Roll back, and let go of the connection."""

    @abstractmethod
    def _finish(self) -> None:
        """Commit, and let go of the connection."""


class Transaction(_Block):
    """A transaction on one connection; made by `Backend.transaction()`, used as a context manager.

    Commits when its block ends, rolls back on any exception. It belongs to the thread that
    entered it.

    Attributes:
        status: A `Status`.
    """

    __slots__ = ("_acquire", "_isolation", "_pool", "_purpose", "_read_only", "_timeout")

    def __init__(
        self,
        dialect: Dialect,
        acquire: Callable[[Purpose], Connection],
        pool: Pool,
        *,
        read_only: bool,
        isolation: Isolation | None,
        timeout: float | None,
    ) -> None:
        super().__init__(dialect)
        self._acquire = acquire
        self._purpose: Purpose = "snapshot" if read_only else "write"
        self._pool = pool
        self._read_only = read_only
        self._isolation: Isolation | None = isolation
        self._timeout = timeout

    def __enter__(self) -> Self:
        if self.status is not Status.NEW:
            raise TransactionClosed("a transaction can be entered once")
        connection = self._acquire(self._purpose)
        try:
            self._connection = connection
            if self._timeout is not None:
                self._deadline = time.monotonic() + self._timeout
            try:
                connection.begin(
                    read_only=self._read_only, isolation=self._isolation, timeout=self._timeout
                )
            except Unavailable:
                if not connection.closed:
                    raise
                self._begin_on_another()
            self._thread = get_ident()
            self.status = Status.ACTIVE
        except BaseException:
            self._close(Status.ROLLED_BACK)
            raise
        return self

    def _begin_on_another(self) -> None:
        """Begin again, where the pool lent a connection that was lost: nothing is lost with it."""
        self._close(Status.NEW)
        self._connection = connection = self._acquire(self._purpose)
        if self._timeout is not None:
            self._deadline = time.monotonic() + self._timeout
        connection.begin(
            read_only=self._read_only, isolation=self._isolation, timeout=self._timeout
        )

    def _undo(self) -> None:
        try:
            self._end_streams()
            if self._connection is not None:
                self._connection.rollback()
        finally:
            self._close(Status.ROLLED_BACK)

    def _finish(self) -> None:
        status = Status.ROLLED_BACK
        try:
            connection = self._ready("COMMIT")
            self._end_streams()
            connection.commit()
            status = Status.COMMITTED
        except (CommitUnknown, KeyboardInterrupt):
            status = Status.UNKNOWN
            raise
        finally:
            self._close(status)

    def _close(self, status: Status) -> None:
        connection = self._connection
        self._connection = None
        self.status = status
        if connection is not None:
            try:
                self._pool.release(connection)
            except BaseException:
                # A KeyboardInterrupt, which may have come before anything was done.
                self._pool.release(connection, again=True)
                raise

    def __del__(self) -> None:
        if getattr(self, "_connection", None) is not None and self._process is process.current:
            try:
                warnings.warn(f"{self!r} was never ended", ResourceWarning, stacklevel=2)
            finally:
                self._abandon()


class Savepoint(_Block):
    """A transaction inside a transaction."""

    __slots__ = ("_name", "_outer")

    def __init__(self, outer: _Scope) -> None:
        super().__init__(outer.dialect, outer._depth + 1)
        self._outer = outer
        self._name = f"s{self._depth}"

    def __enter__(self) -> Self:
        if self.status is not Status.NEW:
            raise TransactionClosed("a transaction can be entered once")
        outer = self._outer
        connection = outer._ready("SAVEPOINT")
        self._send(connection, f"SAVEPOINT {self._name}")
        self._connection = connection
        self._deadline = outer._deadline
        self._thread = outer._thread
        outer._inner = self
        self.status = Status.ACTIVE
        return self

    def _undo(self) -> None:
        self._end_streams()
        connection = self._leave(Status.ROLLED_BACK)
        if connection.in_transaction:
            self._send(connection, f"ROLLBACK TO SAVEPOINT {self._name}")
            self._send(connection, f"RELEASE SAVEPOINT {self._name}")
        else:
            # A trigger, or an interrupted write, has ended the whole transaction.
            self._outer.status = Status.FAILED

    def _finish(self) -> None:
        try:
            self._ready("RELEASE SAVEPOINT")
            self._end_streams()
        except BaseException:
            self._abandon()
            raise
        connection = self._leave(Status.COMMITTED)
        self._outer._written = self._outer._written or self._written
        self._send(connection, f"RELEASE SAVEPOINT {self._name}")

    def _leave(self, status: Status) -> Connection:
        connection = self._connection
        assert connection is not None
        self.status = status
        self._connection = None
        self._outer._inner = None
        return connection

    def _send(self, connection: Connection, sql: str) -> None:
        try:
            connection.execute(Statement(sql, sql, 0, False), ())
        except BaseException:
            self._outer.status = Status.FAILED
            raise


class HostTransaction(_Scope):
    """The verbs on a connection, and in a transaction, that are the host's; made by `wrap()`.

    Nothing here commits, rolls back or closes them. After an error the host decides.
    """

    __slots__ = ()

    def __init__(self, dialect: Dialect, connection: Connection) -> None:
        super().__init__(dialect)
        self._connection = connection
        self._thread = get_ident()
        self.status = Status.ACTIVE

    def _ready(self, sql: str | None = None) -> Connection:
        self.status = Status.ACTIVE
        return super()._ready(sql)

    def executemany(self, sql: str, seq_of_params: Iterable[Sequence[Any]]) -> int:
        with self.transaction() as txn:
            return txn.executemany(sql, seq_of_params)

    def transaction(
        self,
        *,
        read_only: bool = False,
        isolation: Isolation | None = None,
        timeout: float | None = None,
    ) -> Savepoint:
        """A savepoint in the host's transaction.

        Raises:
            UsageError: An option was given, or the host has begun no transaction.
        """
        self._ready().begin(read_only=False, isolation=None, timeout=None)
        return super().transaction(read_only=read_only, isolation=isolation, timeout=timeout)

    def unit(self) -> Savepoint:
        """A savepoint: the host, who commits, is not told that a transaction has failed."""
        return self.transaction()
