"""The driver of PostgreSQL, over psycopg 3 and psycopg_pool."""

from __future__ import annotations

import itertools
import math
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any, Final, Self, TypeVar, cast

import psycopg
import psycopg_pool
from psycopg import RawCursor, RawServerCursor
from psycopg.adapt import AdaptersMap
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import TransactionStatus
from psycopg.pq.abc import PGresult
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
    execute_alone,
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
# Seconds that a connection is kept at hand before the pool may renew it.
_KEEP: Final = 60.0
# Rows of a result that a kept cursor may hold on to.
_KEPT_ROWS: Final = 1000
_CANCEL_TIMEOUT: Final = 5.0
_LONGEST_TIMEOUT: Final = 2**31 - 1  # milliseconds, about 24 days

_IN_TRANSACTION: Final = (
    TransactionStatus.INTRANS,
    TransactionStatus.INERROR,
    TransactionStatus.ACTIVE,
)

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
        self._kept: RawCursor[tuple[Any, ...]] | None = None

    def _cursor(self) -> RawCursor[tuple[Any, ...]]:
        return RawCursor(self.native, row_factory=tuple_row)

    def execute(self, statement: Statement, values: Sequence[Any]) -> Result:
        # A cursor knows how to load what it has loaded: one for each call would cost a fifth of a
        # read. Not kept while it is in use, nor after an error.
        cursor = self._kept or self._cursor()
        self._kept = None
        try:
            cursor.execute(cast(Any, statement.text), values)
            # Not `description`: it makes an object for each column.
            has_rows = statement.reads or cursor.rownumber is not None
            rows = cursor.fetchall() if has_rows else []
        except (psycopg.Error, UnicodeError) as error:
            translated = self._error(error, statement.sql)
            if translated.message == CHANGED_RESULT and not self.in_transaction:
                self._run("DEALLOCATE ALL")
                return self.execute(statement, values)
            raise translated from error
        affected = 0 if statement.reads else max(cursor.rowcount, 0)
        columns = _Columns(self.native, cursor.pgresult)
        if len(rows) <= _KEPT_ROWS:
            self._kept = cursor
        return Result(rows, affected, columns)

    def executemany(self, statement: Statement, rows: Sequence[Sequence[Any]]) -> int:
        cursor = self._cursor()
        try:
            cursor.executemany(cast(Any, statement.text), rows)
        except (psycopg.Error, UnicodeError) as error:
            first = _first(error)
            raise self._error(first, statement.sql) from first
        return max(cursor.rowcount, 0)

    def stream(self, statement: Statement, values: Sequence[Any], batch: int) -> Iterator[Result]:
        name = f"prefect_db_{next(_cursor_names)}"
        cursor = RawServerCursor(self.native, name, row_factory=tuple_row)
        leave_json_as_text(cursor)
        try:
            try:
                cursor.execute(cast(Any, statement.text), values)
                while rows := cursor.fetchmany(batch):
                    yield Result(rows, 0, cursor)
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
        return self.native.pgconn.transaction_status in _IN_TRANSACTION

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


class _Columns:
    """The columns of a result whose cursor may be at other work by now."""

    __slots__ = ("_native", "_result")

    def __init__(self, native: Native, result: PGresult | None) -> None:
        self._native = native
        self._result = result

    @property
    def description(self) -> list[tuple[str]]:
        """As DB-API has it; the names only."""
        result = self._result
        if result is None:
            return []
        encoding = self._native.info.encoding
        return [((result.fname(at) or b"").decode(encoding),) for at in range(result.nfields)]


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


class _PooledConnection(psycopg.Connection[tuple[Any, ...]]):
    """Knows its wrapper, when it was last given back, when it goes to the pool at the latest, and
    who observes."""

    wrapper: PostgresConnection | None = None
    used_at: float = 0.0
    keep_until: float = 0.0
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
    """A `psycopg_pool.ConnectionPool` of `Options.pool_size` connections.

    A connection that is given back, and that nobody waits for, is kept at hand: through the pool
    and back again takes a third of the time of a read. What is not used for a while, or was at
    hand for long, goes to the pool, which checks, renews and closes connections.
    """

    def __init__(self, settings: Settings, parameters: dict[str, Any]) -> None:
        options = settings.options
        self._settings = settings
        self._timeout = options["pool_timeout"]
        self._broken = 0
        self._lent: dict[_PooledConnection, int] = {}
        self._at_hand: list[_PooledConnection] = []
        self._wanting: list[int] = []
        self._taken_at_hand = 0
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
        me = threading.get_ident()
        native = self._take_at_hand()
        if native is None:
            # Seen by who gives one back from now on; and one given back before is at hand.
            self._wanting.append(me)
            try:
                native = self._take_at_hand() or self._from_pool()
            finally:
                self._wanting.remove(me)
        self._lent[native] = me
        if native.wrapper is None:
            native.wrapper = PostgresConnection(native)
        return native.wrapper

    def _take_at_hand(self) -> _PooledConnection | None:
        try:
            native = self._at_hand.pop()
        except IndexError:
            return None
        now = time.monotonic()
        if now - native.used_at > _IDLE:
            self._pool.putconn(native)
            return None
        native.used_at = now
        self._taken_at_hand += 1
        return native

    def _from_pool(self) -> _PooledConnection:
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
        native.used_at = time.monotonic()
        native.keep_until = native.used_at + _KEEP
        return native

    def _getconn(self, timeout: float) -> _PooledConnection | None:
        try:
            return self._pool.getconn(timeout)
        except psycopg_pool.PoolTimeout:
            return None
        except psycopg_pool.PoolClosed as error:
            raise BackendClosed("close() was called") from error

    def execute(self, statement: Statement, values: Sequence[Any]) -> Result:
        native = self._take_at_hand() if statement.reads else None
        if native is None or native.wrapper is None:
            return execute_alone(self, statement, values)
        # As there, for a statement that leaves nothing to undo if it ends well.
        self._lent[native] = threading.get_ident()
        try:
            result = native.wrapper.execute(statement, values)
        except BaseException:
            self.release(native.wrapper, again=True)
            raise
        self._keep(native)
        return result

    def release(self, connection: Connection, *, again: bool = False) -> None:
        native: _PooledConnection = connection.native
        holder = self._lent.get(native)
        if holder is None or (again and holder != threading.get_ident()):
            return
        clean(connection)
        if native.closed:
            self._broken += 1
            native.close()
        elif native.used_at < native.keep_until and not self._wanting:
            self._keep(native)
            return
        self._put_back(native, again)
        # Another thread may have it by now.
        if self._lent.get(native) == holder:
            del self._lent[native]

    def _keep(self, native: _PooledConnection) -> None:
        del self._lent[native]
        self._at_hand.append(native)
        if self._wanting or self._pool.closed:
            self._empty_hand()

    def _put_back(self, native: _PooledConnection, again: bool) -> None:
        try:
            self._pool.putconn(native)
        except ValueError:
            if not again:
                raise

    def _empty_hand(self) -> None:
        """For those who wait at the pool, or as it is closed."""
        while self._at_hand:
            with suppress(IndexError):
                self._pool.putconn(self._at_hand.pop())

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
            acquires=counted.get("requests_num", 0) + self._taken_at_hand,
            waited_seconds=counted.get("requests_wait_ms", 0) / 1000,
            timeouts=counted.get("requests_errors", 0),
            broken=counted.get("connections_lost", 0) + self._broken,
        )

    def close(self) -> None:
        self._pool.close()
        self._empty_hand()


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
