"""`connect()` and `wrap()`: the two ways to a `Queryable`."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, Unpack

from prefect_db import config, drivers
from prefect_db.backend import Backend
from prefect_db.drivers.base import Driver, Options, Settings
from prefect_db.drivers.sqlite import SQLiteDriver
from prefect_db.errors import ConfigurationError, Unavailable, UsageError
from prefect_db.migrate import migrate as apply_migrations
from prefect_db.transaction import HostTransaction

if TYPE_CHECKING:
    from prefect_db.observe import Observer

# Seconds between two attempts to open a database that is not there yet.
_FIRST_WAIT: Final = 0.05
_LONGEST_WAIT: Final = 1.0


def connect(
    url: str | None = None,
    *,
    migrate: bool = True,
    driver: Driver | None = None,
    pool: Any = None,
    observer: Observer | Sequence[Observer] | None = None,
    **options: Unpack[Options],
) -> Backend:
    """Open a database and bring its schema up to date.

    Args:
        url: `sqlite:///relative`, `sqlite:////absolute`, `:memory:` or a PostgreSQL URI as libpq
            takes it; SQLAlchemy's spellings (`sqlite+aiosqlite://`, `postgresql+asyncpg://`) are
            understood. None: PREFECT_DATABASE_BACKEND, PREFECT_DATABASE_PATH and
            PREFECT_DATABASE_URL of the environment decide.
        migrate: Apply pending migrations. A database that Prefect manages is only checked.
        driver: Use this driver instead of the one that the URL's scheme names.
        pool: PostgreSQL: an open `psycopg_pool.ConnectionPool` of the host's, instead of all
            else but `migrate` and `pool_timeout`. It is never closed here, and each connection
            goes back as it came. Loaders and dumpers that the host registered on it, other than
            for JSON, stay in force: leave Prefect's types to psycopg.
        observer: A `prefect_db.observe.Observer`, or a tuple of them: told of every statement and
            of what the pool does.
        pool_size: PostgreSQL: connections at most. 10.
        pool_timeout: Seconds to wait for a free connection. 30.
        connect_timeout: PostgreSQL: seconds for connecting, unless the URL says. 10.
        start_timeout: PostgreSQL: seconds to go on trying while the server cannot be reached, for
            whatever reason, as when it starts at the same time. The last attempt may take longer,
            by `connect_timeout`. 0: the first failure is told at once.
        application_name: PostgreSQL: shown in pg_stat_activity, unless the URL says.
        pgbouncer: PostgreSQL: True for PgBouncer in transaction mode. Migrate with a direct URL.
        busy_timeout: SQLite: seconds to wait for another process's lock. 5.
        synchronous: SQLite: NORMAL, or FULL to lose no commit when the power fails.
        readers: SQLite: connections that read. 1; more are slower, for Python's lock.

    Returns:
        A `Backend`; close it, or use it as a context manager.

    Raises:
        ConfigurationError: A setting is wrong, or the server's certificate is not to be trusted.
        Unavailable: The database cannot be reached, nor could it within `start_timeout`.
        Busy: SQLite: another process keeps all others out for longer than `busy_timeout`.
        StorageError: The database is damaged, or its storage fails.
        MigrationError: The schema cannot be brought up to date.
        SchemaError: Prefect manages the database, and it lacks what our SQL needs.
    """
    return open_backend(*resolve(url, driver, pool, observer, options), migrate=migrate)


def resolve(
    url: str | None,
    driver: Driver | None,
    pool: Any,
    observer: Observer | Sequence[Observer] | None,
    options: Options,
) -> tuple[Driver, Settings]:
    """The driver and the settings that the arguments of `connect()` mean."""
    if pool is not None:
        chosen, settings = _over_pool(pool, url, driver, options)
    else:
        settings = config.load(url, options)
        chosen = driver or _driver_of(settings)
    if observer is not None:
        from prefect_db.observe import hooks_of

        settings.hooks = hooks_of(observer, settings)
    return chosen, settings


def _over_pool(
    pool: Any, url: str | None, driver: Driver | None, options: Options
) -> tuple[Driver, Settings]:
    # Nobody has a pool without psycopg; who has none need not have it.
    from prefect_db.drivers import host_pool

    settings = config.load(":memory:", options)
    given = [name for name in options if name != "pool_timeout"]
    given += [name for name, value in (("url", url), ("driver", driver)) if value is not None]
    return host_pool.HostPoolDriver(pool), host_pool.settings_of(pool, settings, given)


def open_backend(driver: Driver, settings: Settings, *, migrate: bool) -> Backend:
    """The second half of `connect()`."""
    backend = _reached(driver, settings)
    if migrate:
        try:
            apply_migrations(backend)
        except BaseException:
            backend.close()
            raise
    return backend


def _reached(driver: Driver, settings: Settings) -> Backend:
    deadline = time.monotonic() + settings.options["start_timeout"]
    wait = _FIRST_WAIT
    while True:
        try:
            return Backend(driver, settings)
        except Unavailable:
            left = deadline - time.monotonic()
            if left <= 0:
                raise
            time.sleep(min(wait, left))
            wait = min(2 * wait, _LONGEST_WAIT)


def _driver_of(settings: Settings) -> Driver:
    try:
        return drivers.find(settings.scheme)
    except ConfigurationError as error:
        message = f"{settings.source} is {settings.masked}; {error.message}"
        raise ConfigurationError(message) from error.__cause__


def wrap(connection: Any, *, driver: Driver | None = None) -> HostTransaction:
    """The verbs over a connection that the host has, inside the host's transaction.

    Args:
        connection: An open `sqlite3.Connection` or `psycopg.Connection`. It is never committed,
            rolled back or closed here, and its row factory is left alone.
        driver: The driver that knows the connection, if it is another kind.

    Raises:
        UsageError: It is no connection that the driver knows.
    """
    for candidate in [driver] if driver else _known_drivers():
        wrapped = candidate.wrap(connection)
        if wrapped is not None:
            return HostTransaction(candidate.dialect, wrapped)
    raise UsageError(
        f"a {type(connection).__module__}.{type(connection).__qualname__} cannot be wrapped; give"
        " an open sqlite3.Connection or psycopg.Connection"
    )


def _known_drivers() -> list[Driver]:
    # Nobody has a psycopg connection without psycopg.
    known: list[Driver] = [SQLiteDriver()]
    if "psycopg" in sys.modules:
        known.append(drivers.find("postgresql"))
    return known
