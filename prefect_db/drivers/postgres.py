"""The driver of PostgreSQL, over psycopg 3."""

from __future__ import annotations

import itertools
import math
import re
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any, Final, NoReturn, Self, TypeVar, cast

import psycopg
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
)
from prefect_db.drivers.lending import Lending
from prefect_db.errors import (
    CHANGED_RESULT,
    BackendClosed,
    BadValue,
    CommitUnknown,
    ConfigurationError,
    Error,
    PoolTimeout,
    ProgrammingError,
    Standby,
    TransactionAborted,
    Unavailable,
    UsageError,
    from_sqlstate,
)
from prefect_db.observe import Hooks
from prefect_db.tokens import Statement

MINIMUM_VERSION: Final = 14
# Seconds: a connection that was idle for longer is checked, an older one replaced; for so long a
# server that went away may be on its way back, looked for after waits that double.
_IDLE: Final = 1.0
_LIFETIME: Final = 3600.0
_PATIENCE: Final = 2.0
_FIRST_WAIT: Final = 0.05
# Rows of a result that a kept cursor may hold on to.
_KEPT_ROWS: Final = 1000
_CANCEL_TIMEOUT: Final = 5.0
_NOT_SUPPORTED: Final = "0A000"
_READ_ONLY: Final = "25006"
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
# what we say, whatever the server's settings.
_LAST_OPTIONS: Final = (
    "-c TimeZone=UTC -c IntervalStyle=postgres -c DateStyle=ISO"
    r" -c default_transaction_isolation=read\ committed"
)
# A peer that is gone without a word is noticed after 25 seconds: by one who waits for its answer
# (10 + 3 * 5 seconds), and by one who sends to it (milliseconds). The kernel's own defaults are two
# hours and a quarter of one.
_NETWORK: Final = {
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 25_000,
}
# PgBouncer gives each of its clients their own of these two, whatever session they come to have.
_PGBOUNCER_SESSION: Final = "SET TimeZone TO 'UTC'; SET DateStyle TO 'ISO'"
# What all of its sessions must begin with: a duration in another style may be read as another one,
# and a statement outside a transaction has no isolation but the session's.
_PGBOUNCER_NEEDS: Final = {
    "IntervalStyle": "postgres",
    "default_transaction_isolation": "read committed",
}

_PGBOUNCER_REFUSAL: Final = "unsupported startup parameter"
# Of what libpq says: what it is about, and what to do. OpenSSL does not tell it more closely.
_NEVER_HEALS: Final = {
    "certificate verify failed": "the server's certificate has expired, or sslrootcert names a file"
    " without the authority that signed it",
    "does not match host name": "name the server in the URL as its certificate does",
    "(?:certificate|private key) file": "sslrootcert takes a file of authorities' certificates, and"
    " sslcert with sslkey those of the client, in PEM and readable by this process",
    r"(?:invalid|weak) sslmode": "it takes disable, allow, prefer, require, verify-ca or"
    " verify-full",
}
# That a prepared statement is not there, or is there already: another client's, or on another of
# the servers' sessions.
_MISPLACED: Final = ("26000", "42P05")

# What psycopg raises; the last where it reads a duration in a style that it does not know.
_FOREIGN: Final = (psycopg.Error, UnicodeError, NotImplementedError)

_cursor_names = itertools.count(1)


class PostgresConnection:
    """One psycopg connection in autocommit mode.

    Attributes:
        misled: It should have led to a server that takes writes, and leads to a standby.
    """

    def __init__(self, native: Native) -> None:
        self.native = native
        self.misled = False
        self._kept: RawCursor[tuple[Any, ...]] | None = None

    def _cursor(self) -> RawCursor[tuple[Any, ...]]:
        return RawCursor(self.native, row_factory=tuple_row)

    def execute(self, statement: Statement, values: Sequence[Any]) -> Result:
        # A cursor knows how to load what it has loaded: one for each call would find that out
        # anew. Not kept while it is in use, nor after an error.
        cursor = self._kept or self._cursor()
        self._kept = None
        try:
            prepare = None if statement.prepare else False
            cursor.execute(cast(Any, statement.text), values, prepare=prepare)
            # Not `description`: it makes an object for each column.
            has_rows = statement.reads or cursor.rownumber is not None
            rows = cursor.fetchall() if has_rows else []
        except _FOREIGN as error:
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
        handled = sys.exception()
        try:
            cursor.executemany(cast(Any, statement.text), rows)
        except _FOREIGN as error:
            first = _first(error, handled)
            if not isinstance(first, _FOREIGN):
                raise first from None
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
        except _FOREIGN as error:
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

    def _is_at_work(self) -> bool:
        return self.native.pgconn.transaction_status == TransactionStatus.ACTIVE

    def close(self) -> None:
        if self._is_at_work():
            # A signal's exception came in the middle: the server would go on with the statement.
            with suppress(Unavailable):
                self.interrupt()
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
        if isinstance(error, NotImplementedError):
            return UsageError(f"{error}; SET IntervalStyle TO 'postgres' on it", sql=sql)
        if not isinstance(error, psycopg.Error):
            return BadValue("a text that is no valid Unicode", sql=sql)
        message = (error.diag.message_primary or str(error)).strip()
        # psycopg may find the socket dead, and leave the statement, before libpq does. Where it is
        # the statement that psycopg does not like, as COPY, that is a ProgrammingError of its own.
        left = (
            isinstance(error, psycopg.OperationalError)
            and error.sqlstate is None
            and self._is_at_work()
        )
        if left:
            self.close()
        if left or self.native.closed:
            lost = Unavailable(f"the connection is lost ({message})", sql=sql, code=error.sqlstate)
            lost.sent = True
            return lost
        if error.sqlstate is None:
            # psycopg's own, before anything was sent.
            if isinstance(error, psycopg.DataError):
                return BadValue(message, sql=sql)
            return ProgrammingError(message, sql=sql)
        if error.sqlstate in _MISPLACED and '"_pg3_' in message:
            message += "; through PgBouncer in transaction mode, connect(pgbouncer=True)"
        by_standby = self._is_refused_by_standby(error.sqlstate, sql)
        # Whoever is in no transaction, and begins none with `read_only`, wants to write: a standby
        # lets nobody else begin.
        if by_standby and not self.in_transaction and "READ ONLY" not in sql:
            self.misled = True
            return Standby(message, sql=sql, code=_READ_ONLY)
        return from_sqlstate(
            _READ_ONLY if by_standby else error.sqlstate,
            message,
            sql=sql,
            constraint=error.diag.constraint_name,
            table=error.diag.table_name,
            column=error.diag.column_name,
            detail=error.diag.message_detail,
            position=int(error.diag.statement_position or 0),
        )

    def _is_refused_by_standby(self, sqlstate: str, sql: str) -> bool:
        # A standby has a code of its own for the refused write, but not for the transaction's.
        begin = sqlstate == _NOT_SUPPORTED and sql.startswith("BEGIN")
        return (begin or sqlstate == _READ_ONLY) and (
            self.native.info.parameter_status("in_hot_standby") == "on"
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


def _first(error: BaseException, handled: BaseException | None) -> BaseException:
    """The error itself; or the one before it, of which it is an effect.

    psycopg's `executemany` is a pipeline. If the server's error comes when the last row was sent,
    psycopg raises what became of the rows after it, and has the error as the context. So it is
    with what a signal handler raised: the pipeline cannot end while a statement runs.

    Args:
        error: What `executemany` raised.
        handled: What its caller was handling: the context that any error there has.
    """
    before = error.__context__
    if before is None or before is handled:
        return error
    effect = isinstance(error, psycopg.errors.PipelineAborted) or not isinstance(
        before, psycopg.Error
    )
    return before if effect else error


class _Native(psycopg.Connection[tuple[Any, ...]]):
    """Knows who observes."""

    # To psycopg: it is in a pool, whose Backend warns if it was never closed.
    _pool = None
    hooks: Hooks | None = None

    @classmethod
    def connect(cls, *args: Any, **kwargs: Any) -> Self:
        hooks: Hooks | None = kwargs.pop("hooks")
        if hooks is None:
            return super().connect(*args, **kwargs)
        native = hooks.connect(lambda: super(_Native, cls).connect(*args, **kwargs))
        native.hooks = hooks
        return native

    def close(self) -> None:
        # Lost ones, that are closed already, are told of as well: once.
        hooks, self.hooks = self.hooks, None
        if hooks is None:
            super().close()
        else:
            hooks.close(super().close)


class _Place:
    """A place in the pool: empty until somebody needs a connection that no other place has free."""

    __slots__ = ("connection", "opened_at", "used_at")

    def __init__(self) -> None:
        self.connection: _PooledConnection | None = None
        self.opened_at = self.used_at = 0.0


class _PooledConnection(PostgresConnection):
    """Knows its place."""

    def __init__(self, native: Native, place: _Place) -> None:
        super().__init__(native)
        self.place = place


class PostgresPool:
    """At most `Options.pool_size` connections, lent first come, first served.

    Whoever gets a place without a connection opens one, in its own thread: it is told at once
    why that fails, and a server that is back is used at once. There is no other thread that a
    fork would lose, or that waits longer and longer to look again.
    """

    def __init__(self, settings: Settings, parameters: dict[str, Any]) -> None:
        """Open one connection.

        Raises:
            Unavailable, ConfigurationError: As `connect`.
        """
        self._settings = settings
        self._parameters = parameters
        self._timeout = settings.options["pool_timeout"]
        self._broken = 0
        self._closed = False
        first = _Place()
        self._open(first, patience=0.0)
        # The first that is free is lent: so no more are opened than are in use at a time.
        empty = [_Place() for _ in range(settings.options["pool_size"] - 1)]
        self._lending = Lending([first, *empty])

    def acquire(self, purpose: Purpose) -> _PooledConnection:
        place = self._lending.acquire(self._timeout) or self._none_free()
        try:
            self._check_open()
            connection = place.connection
            if connection is None or not self._usable(place, connection):
                connection = self._open(place, min(self._timeout, _PATIENCE))
            return connection
        except BaseException:
            if self._lending.held_by_caller(place):
                self._lending.release(place)
            if self._closed:
                self._close_free()
            raise

    def _none_free(self) -> NoReturn:
        self._check_open()
        stats = self.stats()
        error = PoolTimeout(f"no connection within {self._timeout:g} s; {stats}")
        error.stats = stats
        raise error

    def _check_open(self) -> None:
        if self._closed:
            raise BackendClosed("close() was called")

    def _usable(self, place: _Place, connection: _PooledConnection) -> bool:
        """True if it works, as far as one may know; else it is closed."""
        native = connection.native
        now = time.monotonic()
        if native.closed:
            self._broken += 1
        elif now - place.opened_at < _LIFETIME:
            if now - place.used_at < _IDLE:
                return True
            try:
                native.execute(b"")
            except psycopg.Error:
                self._broken += 1
            else:
                return True
        place.connection = None
        native.close()
        return False

    def _open(self, place: _Place, patience: float) -> _PooledConnection:
        """Connect, again and again for so many seconds: a restart of the server takes a moment."""
        deadline = time.monotonic() + patience
        wait = _FIRST_WAIT
        while True:
            try:
                native = connect(self._settings, self._parameters)
            except Unavailable:
                if time.monotonic() + wait > deadline:
                    raise
                time.sleep(wait)
                wait *= 2
            else:
                break
        connection = place.connection = _PooledConnection(native, place)
        place.opened_at = place.used_at = time.monotonic()
        return connection

    def execute(self, statement: Statement, values: Sequence[Any]) -> Result:
        # As `execute_alone`, where nothing is left to undo if all ends well.
        connection = self.acquire("read" if statement.reads else "write")
        try:
            result = connection.execute(statement, values)
            if statement.reads or not connection.in_transaction:
                self._give_back(connection.place)
            else:
                self.release(connection)
        except BaseException:
            self.release(connection, again=True)
            raise
        return result

    def release(self, connection: Connection, *, again: bool = False) -> None:
        assert isinstance(connection, _PooledConnection)
        place = connection.place
        if place.connection is not connection:
            return
        if again and not self._lending.held_by_caller(place):
            self._lending.serve()
            return
        clean(connection)
        if connection.closed or connection.misled:
            self._distrust_others(connection)
            # If it was lost: what observes is told.
            connection.close()
        self._give_back(place)

    def _distrust_others(self, connection: _PooledConnection) -> None:
        """What befell one may have befallen all: have them replaced, or looked at, before they are
        used again."""
        for place in self._lending.items:
            if connection.misled:
                place.opened_at = -math.inf
            else:
                place.used_at = -math.inf

    def _give_back(self, place: _Place) -> None:
        place.used_at = time.monotonic()
        self._lending.release(place)
        if self._closed:
            self._close_free()

    def stats(self) -> Stats:
        lending = self._lending
        connections = [place.connection for place in lending.items]
        return Stats(
            size=sum(each is not None and not each.closed for each in connections),
            in_use=lending.in_use,
            waiting=lending.waiting,
            acquires=lending.acquires,
            waited_seconds=lending.waited,
            timeouts=lending.timeouts,
            broken=self._broken,
        )

    def close(self) -> None:
        """Close all connections; one that is in use is closed when it is given back."""
        self._closed = True
        self._close_free()

    def _close_free(self) -> None:
        for place in self._lending.take_free():
            if place.connection is not None:
                place.connection.close()


def connect(settings: Settings, parameters: dict[str, Any]) -> Native:
    """A new connection, ready for use.

    Raises:
        Unavailable: libpq cannot connect; the message is libpq's.
        ConfigurationError: The URL, the server's certificate or its version cannot work.
    """
    try:
        native = _Native.connect(settings.url, hooks=settings.hooks, **parameters)
    except psycopg.ProgrammingError as error:
        raise ConfigurationError(
            f"{settings.source} is {settings.masked}, which is no PostgreSQL URL: {error}"
        ) from error
    except psycopg.OperationalError as error:
        # Where it timed out, psycopg's frames hold on to the socket.
        error.__traceback__ = None
        reason = " ".join(str(error).split())
        if _PGBOUNCER_REFUSAL in reason:
            raise ConfigurationError(
                f"{settings.source} is {settings.masked}: {reason}; that is PgBouncer, which needs"
                " connect(pgbouncer=True)"
            ) from error
        for pattern, advice in _NEVER_HEALS.items():
            if re.search(pattern, reason):
                message = f"{settings.source} is {settings.masked}: {reason}; {advice}"
                raise _kind(settings)(message) from error
        raise Unavailable(f"{settings.masked}: {reason}", code=error.sqlstate) from error
    try:
        check_version(native)
        if settings.options["pgbouncer"]:
            _check_pgbouncer(native, settings)
            native.execute(_PGBOUNCER_SESSION.encode())
    except BaseException as error:
        native.close()
        if isinstance(error, psycopg.Error):
            raise Unavailable(f"{settings.masked}: {error}", code=error.sqlstate) from error
        raise
    return native


def _kind(settings: Settings) -> type[Error]:
    """Of the error for what does not heal: of several hosts, another may be back soon."""
    given = conninfo_to_dict(settings.url)
    several = any("," in str(given.get(name, "")) for name in ("host", "hostaddr"))
    return Unavailable if several else ConfigurationError


def _check_pgbouncer(native: Native, settings: Settings) -> None:
    for name, needed in _PGBOUNCER_NEEDS.items():
        row = native.execute(f"SHOW {name}".encode()).fetchone()
        if row != (needed,):
            raise ConfigurationError(
                f"{settings.masked}: its sessions begin with {name} = {row and row[0]!r}, which is"
                f" not to be changed through PgBouncer; ALTER ROLE ... SET {name} = '{needed}', or"
                " SET it in the connect_query of PgBouncer's configuration"
            )


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
        return PostgresPool(settings, _parameters(settings))

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
        parameters["options"] = f"{given.get('options', '')} {_LAST_OPTIONS}"
    defaults = {
        "application_name": options["application_name"],
        "connect_timeout": max(1, math.ceil(options["connect_timeout"])),
        **_NETWORK,
    }
    # psycopg looks for some of them, such as connect_timeout, in the arguments alone.
    parameters |= {name: given.get(name, default) for name, default in defaults.items()}
    return parameters
