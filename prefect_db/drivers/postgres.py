"""The driver of PostgreSQL, over psycopg 3 and psycopg_pool."""

from __future__ import annotations

import itertools
import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, Self, TypeVar

import psycopg
import psycopg_pool
from psycopg import RawCursor, RawServerCursor
from psycopg.adapt import AdaptersMap
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import TransactionStatus
from psycopg.rows import tuple_row
from psycopg.types.string import TextLoader

from prefect_db.dialect import POSTGRES, Dialect
from prefect_db.drivers.base import (
    Connection,
    Isolation,
    Pool,
    Purpose,
    Result,
    Settings,
    Stats,
    clean,
)
from prefect_db.errors import (
    CHANGED_RESULT,
    BackendClosed,
    BadValue,
    CommitUnknown,
    ConfigurationError,
    Error,
    PoolTimeout,
    ProgrammingError,
    TransactionAborted,
    Unavailable,
    UsageError,
    from_sqlstate,
)
from prefect_db.observe import Hooks
from prefect_db.tokens import Statement

MINIMUM_VERSION: Final = 14
# Seconds: connections idle for longer are checked; callers of an idle pool wait no longer before
# they look whether the server is there.
_IDLE: Final = 1.0
_PATIENCE: Final = 2.0
_CANCEL_TIMEOUT: Final = 5.0
_LONGEST_TIMEOUT: Final = 2**31 - 1  # milliseconds, about 24 days

Names = Callable[[], tuple[str, ...]]
Native = psycopg.Connection[tuple[Any, ...]]
AnyCursor = TypeVar("AnyCursor", RawCursor[tuple[Any, ...]], RawServerCursor[tuple[Any, ...]])

# JSON stays text until somebody reads it: psycopg's own decoding is 70 % of a list read.
_ADAPTERS: Final = AdaptersMap(psycopg.adapters)
_ADAPTERS.register_loader("json", TextLoader)
_ADAPTERS.register_loader("jsonb", TextLoader)

# Times come back in UTC and durations in the one form that psycopg reads, and the isolation is
# what we say, whatever the server's settings; and a filter's plan is made for its values (a
# generic one was 48 times slower).
_FIRST_OPTIONS: Final = "-c plan_cache_mode=force_custom_plan"
_LAST_OPTIONS: Final = (
    "-c TimeZone=UTC -c IntervalStyle=postgres -c DateStyle=ISO"
    r" -c default_transaction_isolation=read\ committed"
)
_PGBOUNCER_SESSION: Final = (
    "SET TimeZone TO 'UTC'; SET IntervalStyle TO 'postgres'; SET DateStyle TO 'ISO'"
)

_cursor_names = itertools.count(1)


class PostgresConnection:
    """One psycopg connection in autocommit mode."""

    def __init__(self, native: Native) -> None:
        self.native = native

    def _cursor(self) -> RawCursor[tuple[Any, ...]]:
        return RawCursor(self.native, row_factory=tuple_row)

    def execute(self, statement: Statement, values: Sequence[Any]) -> Result:
        cursor = self._cursor()
        try:
            cursor.execute(statement.text.encode(), values)
            # Not `description`: it makes an object for each column.
            rows = cursor.fetchall() if cursor.rownumber is not None else []
        except (psycopg.Error, UnicodeError) as error:
            translated = self._error(error, statement.sql)
            if translated.message == CHANGED_RESULT and not self.in_transaction:
                self._run("DEALLOCATE ALL")
                return self.execute(statement, values)
            raise translated from error
        count = cursor.rowcount
        return Result(rows, count if count > 0 and not statement.reads else 0, _names(cursor))

    def executemany(self, statement: Statement, rows: Sequence[Sequence[Any]]) -> int:
        cursor = self._cursor()
        try:
            cursor.executemany(statement.text.encode(), rows)
        except (psycopg.Error, UnicodeError) as error:
            first = _first(error)
            raise self._error(first, statement.sql) from first
        return max(cursor.rowcount, 0)

    def stream(
        self, statement: Statement, values: Sequence[Any], batch: int
    ) -> Iterator[tuple[Names, list[tuple[Any, ...]]]]:
        name = f"prefect_db_{next(_cursor_names)}"
        cursor = RawServerCursor(self.native, name, row_factory=tuple_row)
        leave_json_as_text(cursor)
        try:
            try:
                cursor.execute(statement.text.encode(), values)
                while rows := cursor.fetchmany(batch):
                    yield _names(cursor), rows
            finally:
                # After an error this sends nothing: the cursor is gone with the transaction.
                cursor.close()
        except (psycopg.Error, UnicodeError) as error:
            raise self._error(error, statement.sql) from error

    def begin(self, *, read_only: bool, isolation: Isolation | None, timeout: float | None) -> None:
        # Stated, never inherited: a server's default may be another.
        level = (isolation or "read committed").upper()
        sql = f"BEGIN ISOLATION LEVEL {level} {'READ ONLY' if read_only else 'READ WRITE'}"
        if timeout is not None:
            # LOCAL: a plain SET would stay for the connection's next user.
            milliseconds = min(max(1, int(timeout * 1000)), _LONGEST_TIMEOUT)
            sql += f"; SET LOCAL statement_timeout = {milliseconds}"
        self._run(sql)

    def commit(self) -> None:
        if self.native.pgconn.transaction_status == TransactionStatus.IDLE:
            raise TransactionAborted("a statement has ended the transaction", sql="COMMIT")
        try:
            tag = self._run("COMMIT")
        except Unavailable as error:
            raise CommitUnknown(error.message, sql="COMMIT", code=error.code) from error
        if tag == "ROLLBACK":
            raise TransactionAborted("COMMIT was answered by ROLLBACK", sql="COMMIT")

    def rollback(self) -> None:
        if self.in_transaction:
            self._run("ROLLBACK")

    @property
    def in_transaction(self) -> bool:
        return self.native.pgconn.transaction_status in (
            TransactionStatus.INTRANS,
            TransactionStatus.INERROR,
            TransactionStatus.ACTIVE,
        )

    @property
    def closed(self) -> bool:
        return self.native.closed

    def interrupt(self) -> None:
        try:
            self.native.cancel_safe(timeout=_CANCEL_TIMEOUT)
        except psycopg.Error as error:
            raise Unavailable(f"the server took no interrupt: {error}") from error

    def close(self) -> None:
        self.native.close()

    def _run(self, sql: str) -> str | None:
        """Run statements without parameters; the command tag of the last."""
        cursor = self._cursor()
        try:
            # Unprepared: only so may one call hold two statements.
            cursor.execute(sql.encode(), prepare=False)
        except psycopg.Error as error:
            raise self._error(error, sql) from error
        while cursor.nextset():
            pass
        return cursor.statusmessage

    def _error(self, error: Exception, sql: str) -> Error:
        if not isinstance(error, psycopg.Error):
            return BadValue("a text that is no valid Unicode", sql=sql)
        message = (error.diag.message_primary or str(error)).strip()
        if self.native.closed:
            lost = Unavailable(f"the connection is lost ({message})", sql=sql, code=error.sqlstate)
            lost.sent = True
            return lost
        if error.sqlstate is None:
            # psycopg's own, before anything was sent.
            if isinstance(error, psycopg.DataError):
                return BadValue(message, sql=sql)
            return ProgrammingError(message, sql=sql)
        return from_sqlstate(
            error.sqlstate,
            message,
            sql=sql,
            constraint=error.diag.constraint_name,
            table=error.diag.table_name,
            column=error.diag.column_name,
            detail=error.diag.message_detail,
            position=int(error.diag.statement_position or 0),
        )


class HostConnection(PostgresConnection):
    """A host's own connection, whose adapters are left alone."""

    def _cursor(self) -> RawCursor[tuple[Any, ...]]:
        return leave_json_as_text(super()._cursor())

    def begin(self, *, read_only: bool, isolation: Isolation | None, timeout: float | None) -> None:
        """Nothing, if psycopg has begun a transaction or will: the host will commit."""
        if self.native.autocommit and not self.in_transaction:
            raise UsageError("the host's connection is in autocommit; begin a transaction first")

    def close(self) -> None:
        """Nothing: the connection is the host's."""


def leave_json_as_text(cursor: AnyCursor) -> AnyCursor:
    """Register our loaders for this cursor alone."""
    cursor.adapters.register_loader("json", TextLoader)
    cursor.adapters.register_loader("jsonb", TextLoader)
    return cursor


def _first(error: psycopg.Error | UnicodeError) -> psycopg.Error | UnicodeError:
    """The error itself; or that of the statement before, which had this one fail.

    psycopg's `executemany` is a pipeline. If the server's error comes when the last row was sent,
    psycopg raises what became of the rows after it, and has the error as the context.
    """
    before = error.__context__
    aborted = isinstance(error, psycopg.errors.PipelineAborted)
    return before if aborted and isinstance(before, psycopg.Error) else error


def _names(cursor: psycopg.Cursor[Any] | RawServerCursor[Any]) -> Names:
    return lambda: tuple([column.name for column in cursor.description or ()])


class _PooledConnection(psycopg.Connection[tuple[Any, ...]]):
    """Knows its wrapper, when it was last given back, and who observes."""

    wrapper: PostgresConnection | None = None
    used_at: float = 0.0
    hooks: Hooks | None = None

    @classmethod
    def connect(cls, *args: Any, **kwargs: Any) -> Self:
        hooks: Hooks | None = kwargs.pop("hooks")
        if hooks is None:
            return super().connect(*args, **kwargs)
        native = hooks.connect(lambda: super(_PooledConnection, cls).connect(*args, **kwargs))
        native.hooks = hooks
        return native

    def close(self) -> None:
        # Lost ones, that are closed already, are told of as well: once.
        hooks, self.hooks = self.hooks, None
        if hooks is None:
            super().close()
        else:
            hooks.close(super().close)


class PostgresPool:
    """A `psycopg_pool.ConnectionPool` of `Options.pool_size` connections."""

    def __init__(self, settings: Settings, parameters: dict[str, Any]) -> None:
        options = settings.options
        self._settings = settings
        self._timeout = options["pool_timeout"]
        self._broken = 0
        self._lent: dict[_PooledConnection, int] = {}
        self._pool = psycopg_pool.ConnectionPool(
            settings.url,
            connection_class=_PooledConnection,
            kwargs=parameters | {"hooks": settings.hooks},
            min_size=1,
            max_size=options["pool_size"],
            timeout=options["pool_timeout"],
            configure=_configure_session if options["pgbouncer"] else None,
            check=self._check,
            name=options["application_name"],
            open=False,
        )
        self._parameters = parameters
        try:
            self._pool.open(wait=True, timeout=options["pool_timeout"])
        except BaseException as error:
            self._pool.close()
            if isinstance(error, psycopg_pool.PoolTimeout):
                raise Unavailable(f"{settings.masked}: no connection in time") from error
            raise

    def acquire(self, purpose: Purpose) -> Connection:
        deadline = time.monotonic() + self._timeout
        # With none in use it is not the pool that keeps us waiting: find out soon.
        native = self._getconn(self._timeout if self._lent else min(self._timeout, _PATIENCE))
        if native is None and not self._lent:
            connect(self._settings, self._parameters).close()
            native = self._getconn(max(deadline - time.monotonic(), _PATIENCE))
        if native is None:
            stats = self.stats()
            error = PoolTimeout(f"no connection within {self._timeout:g} s; {stats}")
            error.stats = stats
            raise error
        self._lent[native] = threading.get_ident()
        if native.wrapper is None:
            native.wrapper = PostgresConnection(native)
        return native.wrapper

    def _getconn(self, timeout: float) -> _PooledConnection | None:
        try:
            return self._pool.getconn(timeout)
        except psycopg_pool.PoolTimeout:
            return None
        except psycopg_pool.PoolClosed as error:
            raise BackendClosed("close() was called") from error

    def release(self, connection: Connection, *, again: bool = False) -> None:
        native: _PooledConnection = connection.native
        holder = self._lent.get(native)
        if holder is None or (again and holder != threading.get_ident()):
            return
        clean(connection)
        native.used_at = time.monotonic()
        if native.closed:
            self._broken += 1
            native.close()
        try:
            self._pool.putconn(native)
        except ValueError:
            if not again:
                raise
        # Another thread may have it by now.
        if self._lent.get(native) == holder:
            del self._lent[native]

    def _check(self, native: _PooledConnection) -> None:
        if time.monotonic() - native.used_at > _IDLE:
            try:
                self._pool.check_connection(native)
            except psycopg.Error:
                native.close()
                raise

    def stats(self) -> Stats:
        counted = self._pool.get_stats()
        return Stats(
            size=counted.get("pool_size", 0),
            in_use=len(self._lent),
            waiting=counted.get("requests_waiting", 0),
            acquires=counted.get("requests_num", 0),
            waited_seconds=counted.get("requests_wait_ms", 0) / 1000,
            timeouts=counted.get("requests_errors", 0),
            broken=counted.get("connections_lost", 0) + self._broken,
        )

    def close(self) -> None:
        self._pool.close()


def _configure_session(native: Native) -> None:
    native.execute(_PGBOUNCER_SESSION.encode())


def connect(settings: Settings, parameters: dict[str, Any]) -> Native:
    """One connection outside the pool.

    Raises:
        Unavailable: libpq cannot connect; the message is libpq's.
    """
    try:
        return psycopg.Connection.connect(settings.url, **parameters)
    except psycopg.ProgrammingError as error:
        raise ConfigurationError(
            f"{settings.source} is {settings.masked}, which is no PostgreSQL URL: {error}"
        ) from error
    except psycopg.OperationalError as error:
        reason = " ".join(str(error).split())
        raise Unavailable(f"{settings.masked}: {reason}", code=error.sqlstate) from error


def check_version(native: Native) -> None:
    """Raise ConfigurationError if the server is too old."""
    version = native.info.server_version // 10_000
    if version < MINIMUM_VERSION:
        raise ConfigurationError(
            f"PostgreSQL {version} is too old; at least {MINIMUM_VERSION} is needed"
        )


class PostgresDriver:
    """Opens PostgreSQL databases."""

    @property
    def dialect(self) -> Dialect:
        return POSTGRES

    def open(self, settings: Settings) -> Pool:
        parameters = _parameters(settings)
        with connect(settings, parameters) as native:
            check_version(native)
        return PostgresPool(settings, parameters)

    def wrap(self, native: Any) -> Connection | None:
        if isinstance(native, psycopg.AsyncConnection):
            raise UsageError("an AsyncConnection cannot be wrapped; give a psycopg.Connection")
        return HostConnection(native) if isinstance(native, psycopg.Connection) else None


def _parameters(settings: Settings) -> dict[str, Any]:
    """What is added to the URL; what it says itself, stays."""
    options = settings.options
    try:
        given = conninfo_to_dict(settings.url)
    except psycopg.ProgrammingError:
        # libpq's message may quote a part of the password.
        raise ConfigurationError(
            f"{settings.source} is {settings.masked}, which is no PostgreSQL URL; it takes"
            " postgresql://user:password@host:5432/database, with special characters of the"
            " password percent-encoded, and the parameters of libpq"
        ) from None
    parameters: dict[str, Any] = {"autocommit": True, "context": _ADAPTERS}
    if options["pgbouncer"]:
        parameters["prepare_threshold"] = None
    else:
        parameters["options"] = f"{_FIRST_OPTIONS} {given.get('options', '')} {_LAST_OPTIONS}"
    parameters.setdefault(
        "application_name", given.get("application_name", options["application_name"])
    )
    parameters.setdefault(
        "connect_timeout",
        given.get("connect_timeout", max(1, math.ceil(options["connect_timeout"]))),
    )
    return parameters
