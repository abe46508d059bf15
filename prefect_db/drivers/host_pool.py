"""PostgreSQL over the host's own `psycopg_pool.ConnectionPool`."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import psycopg
import psycopg_pool
from psycopg import RawCursor

from prefect_db.dialect import POSTGRES, Dialect
from prefect_db.drivers.base import (
    Connection,
    Pool,
    Purpose,
    Result,
    Settings,
    Stats,
    clean,
    execute_alone,
)
from prefect_db.drivers.postgres import (
    Native,
    PostgresConnection,
    check_version,
    leave_json_as_text,
)
from prefect_db.errors import BackendClosed, ConfigurationError, Error, PoolTimeout, Unavailable
from prefect_db.tokens import Statement

# What psycopg's conversions of times depend on. The server reports them: comparing asks nobody.
_SESSION: Final = {"TimeZone": "UTC", "IntervalStyle": "postgres", "DateStyle": "ISO, MDY"}


def settings_of(pool: Any, settings: Settings, given: list[str]) -> Settings:
    """The settings of a Backend over this pool.

    Args:
        pool: What was given as `connect(pool=...)`.
        settings: The defaults, with `pool_timeout` if that was given.
        given: The names of the other arguments that were given.

    Raises:
        ConfigurationError: It is no open ConnectionPool, or another argument contradicts it.
    """
    if not isinstance(pool, psycopg_pool.ConnectionPool):
        kind = f"{type(pool).__module__}.{type(pool).__qualname__}"
        raise ConfigurationError(f"pool is a {kind}; it takes an open psycopg_pool.ConnectionPool")
    if given:
        raise ConfigurationError(
            f"pool= says where the database is, and how to connect; leave out {', '.join(given)}"
        )
    if pool.closed:
        raise ConfigurationError(f"the pool {pool.name!r} is closed; open it first")
    masked = f"the host's pool {pool.name!r}"
    options = settings.options | {"pool_size": pool.max_size or settings.options["pool_size"]}
    return Settings("pool", "postgresql", "", "", masked, options)


@dataclass(slots=True)
class _Before:
    """How the host had a connection set up."""

    autocommit: bool
    prepare_threshold: int | None
    session: dict[str, str]


class LoanConnection(PostgresConnection):
    """A connection of the host's pool, set up as ours for as long as it is lent."""

    def __init__(self, native: Native) -> None:
        super().__init__(native)
        self._before = _Before(native.autocommit, native.prepare_threshold, {})

    def _cursor(self) -> RawCursor[tuple[Any, ...]]:
        return leave_json_as_text(super()._cursor())

    def set_up(self) -> None:
        """Autocommit, times in UTC, and no prepared statement that would stay behind."""
        native = self.native
        native.set_autocommit(True)
        native.prepare_threshold = None
        for name, wanted in _SESSION.items():
            found = native.info.parameter_status(name) or ""
            if found != wanted and not (name == "DateStyle" and found.startswith("ISO")):
                self._before.session[name] = found
                self._set(name, wanted)

    def restore(self) -> None:
        """Set it up as the host had it."""
        native = self.native
        for name, value in self._before.session.items():
            self._set(name, value)
        native.prepare_threshold = self._before.prepare_threshold
        native.set_autocommit(self._before.autocommit)

    def _set(self, name: str, value: str) -> None:
        quoted = value.replace("'", "''")
        self._run(f"SET {name} TO '{quoted}'")


class HostPool:
    """Lends connections of the host's pool, and gives each back as it was. Never closes it."""

    def __init__(self, pool: psycopg_pool.ConnectionPool[Any], timeout: float) -> None:
        self._pool = pool
        self._timeout = timeout
        self._lent: dict[Native, int] = {}
        self._closed = False
        self._acquires = self._timeouts = self._broken = 0

    def acquire(self, purpose: Purpose) -> Connection:
        if self._closed:
            raise BackendClosed("close() was called")
        native = self._getconn()
        self._lent[native] = threading.get_ident()
        self._acquires += 1
        connection = LoanConnection(native)
        try:
            connection.set_up()
        except BaseException as error:
            self.release(connection, again=True)
            if isinstance(error, psycopg.Error):
                raise Unavailable(f"the connection cannot be used ({error})") from error
            raise
        return connection

    def _getconn(self) -> Native:
        try:
            native: Native = self._pool.getconn(self._timeout)
        except psycopg_pool.PoolTimeout as timeout:
            self._timeouts += 1
            stats = self.stats()
            error = PoolTimeout(f"no connection within {self._timeout:g} s; {stats}")
            error.stats = stats
            raise error from timeout
        except psycopg_pool.PoolClosed as error:
            raise BackendClosed("the host has closed its pool") from error
        return native

    def execute(self, statement: Statement, values: Sequence[Any]) -> Result:
        return execute_alone(self, statement, values)

    def release(self, connection: Connection, *, again: bool = False) -> None:
        assert isinstance(connection, LoanConnection)
        native = connection.native
        holder = self._lent.get(native)
        if holder is None or (again and holder != threading.get_ident()):
            return
        clean(connection)
        if connection.misled:
            native.close()
        try:
            if not native.closed:
                connection.restore()
        except (psycopg.Error, Error):
            # Rather no connection than one that is not as the host knows it.
            native.close()
        self._broken += native.closed
        try:
            self._pool.putconn(native)
        except ValueError:
            if not again:
                raise
        # Another thread may have it by now.
        if self._lent.get(native) == holder:
            del self._lent[native]

    def stats(self) -> Stats:
        counted = self._pool.get_stats()
        return Stats(
            size=counted.get("pool_size", 0),
            in_use=len(self._lent),
            waiting=counted.get("requests_waiting", 0),
            acquires=self._acquires,
            waited_seconds=counted.get("requests_wait_ms", 0) / 1000,
            timeouts=self._timeouts,
            broken=self._broken,
        )

    def close(self) -> None:
        """Lend nothing more."""
        self._closed = True


class HostPoolDriver:
    """The driver of one host's pool."""

    def __init__(self, pool: psycopg_pool.ConnectionPool[Any]) -> None:
        self._pool = pool

    @property
    def dialect(self) -> Dialect:
        return POSTGRES

    def open(self, settings: Settings) -> Pool:
        pool = HostPool(self._pool, settings.options["pool_timeout"])
        connection = pool.acquire("read")
        try:
            check_version(connection.native)
        finally:
            pool.release(connection)
        return pool

    def wrap(self, native: Any) -> Connection | None:
        return None
