"""The seam between the library and an engine's driver: three small protocols.

A driver knows how to open, use and close connections, and turns its own exceptions into
`prefect_db.errors`. It knows no entity and gets SQL that is already in its engine's form. A new
one proves itself with `prefect_db.testing.DriverContract`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, TypedDict

from prefect_db.dialect import Dialect
from prefect_db.errors import Error
from prefect_db.tokens import Statement

if TYPE_CHECKING:
    # A tenth of the time that it takes to import the library; few observe.
    from prefect_db.observe import Hooks

Isolation = Literal["read committed", "repeatable read", "serializable"]

# What a connection is borrowed for: one statement that only reads, a transaction that only reads,
# or anything that may write.
Purpose = Literal["read", "snapshot", "write"]


class Options(TypedDict, total=False):
    """What `connect()` takes besides the URL; it says what each is."""

    pool_size: int
    pool_timeout: float
    connect_timeout: float
    start_timeout: float
    application_name: str
    pgbouncer: bool
    busy_timeout: float
    synchronous: Literal["OFF", "NORMAL", "FULL", "EXTRA"]
    readers: int


@dataclass(slots=True)
class Settings:
    """Where the database is, and all options.

    Attributes:
        source: What the settings were read from, for messages: a variable, or the URL.
        scheme: The URL's scheme without a `+driver` suffix.
        url: The URL as the driver takes it; it may hold a password, so it is in no repr.
        path: The file of an engine that has one, or `:memory:`.
        masked: The URL without its password, for messages.
        hooks: Set if somebody observes: a pool then opens and closes its connections by
            `hooks.connect` and `hooks.close`. All else is told without it.
    """

    source: str
    scheme: str
    url: str = field(repr=False)
    path: str = field(repr=False)
    masked: str
    options: Options
    hooks: Hooks | None = field(default=None, repr=False)


class Stats(NamedTuple):
    """A pool's statistics at one moment: three that go up and down, four that count from the
    Backend's start. Reading them takes no connection and waits for nobody; each is right at the
    time when it is read, which is not quite the same for all.

    Attributes:
        size: Open connections, idle and borrowed. SQLite: the writer, `readers`, and those of
            read-only transactions, of which some stay open; one for `:memory:`. PostgreSQL: up
            to `pool_size`, opened as they are needed.
        in_use: Connections borrowed now: open transactions, and statements that run. One that
            stays above 0 when nothing runs is a transaction that was never ended.
        waiting: Callers that wait now for a connection. Above 0 for long means that transactions
            are too long, or on PostgreSQL that `pool_size` is too small.
        acquires: How often a connection was asked for.
        waited_seconds: Seconds that callers have waited for one, together;
            `waited_seconds / acquires` is the mean wait.
        timeouts: Callers that gave up after `pool_timeout`: each got a PoolTimeout.
        broken: Connections that were lost and replaced, as after a restart of the server.
    """

    size: int
    in_use: int
    waiting: int
    acquires: int
    waited_seconds: float
    timeouts: int
    broken: int


@dataclass(slots=True)
class Result:
    """What a statement gave: its rows, the number of rows affected, and its columns.

    Attributes:
        cursor: Has the DB-API's `description` of the columns, read only where names are needed.
    """

    rows: list[tuple[Any, ...]]
    affected: int
    cursor: Any

    def names(self) -> tuple[str, ...]:
        """The columns' names."""
        return names_of(self.cursor)


def names_of(cursor: Any) -> tuple[str, ...]:
    """The names of the columns that a DB-API cursor describes."""
    return tuple([column[0] for column in cursor.description or ()])


class Connection(Protocol):
    """One connection, in autocommit until `begin`. All methods raise `prefect_db.Error` alone."""

    @property
    def native(self) -> Any:
        """The driver's own connection."""

    def execute(self, statement: Statement, values: Sequence[Any]) -> Result:
        """Run one statement and fetch all of its rows: a cursor left open would hold a lock."""

    def executemany(self, statement: Statement, rows: Sequence[Sequence[Any]]) -> int:
        """Run a statement once per row; the number of rows affected."""

    def stream(self, statement: Statement, values: Sequence[Any], batch: int) -> Iterator[Result]:
        """The rows of a query, `batch` at a time."""

    def begin(self, *, read_only: bool, isolation: Isolation | None, timeout: float | None) -> None:
        """Begin a transaction; `timeout` in seconds bounds each of its statements."""

    def commit(self) -> None:
        """Commit.

        Raises:
            TransactionAborted: The engine rolled back instead.
            CommitUnknown: The connection broke while it committed.
        """

    def rollback(self) -> None:
        """Roll back whatever transaction is open, if one is."""

    @property
    def in_transaction(self) -> bool:
        """True while the engine has a transaction open."""

    @property
    def closed(self) -> bool:
        """True when it was closed, or is known to be broken."""

    def interrupt(self) -> None:
        """Cancel the running statement, or its wait for a lock, from another thread.

        What comes to run after the call is not cancelled; without a statement it does nothing.

        Raises:
            Unavailable: It is unknown whether the interrupt arrived, or when it will.
        """

    def close(self) -> None:
        """Close it; closing twice is no error."""


def clean(connection: Connection) -> None:
    """For pools: undo what is open on a connection that is given back; close it if that fails."""
    try:
        if connection.in_transaction:
            connection.rollback()
    except Error:
        connection.close()


class Pool(Protocol):
    """The connections of one Backend. Safe to share between threads."""

    def acquire(self, purpose: Purpose) -> Connection:
        """Borrow a connection.

        Raises:
            PoolTimeout: None became free in time.
            Unavailable: The database cannot be reached.
        """

    def execute(self, statement: Statement, values: Sequence[Any]) -> Result:
        """Run one statement outside a transaction; `execute_alone`, or what is faster."""

    def release(self, connection: Connection, *, again: bool = False) -> None:
        """Give it back, clean or not: what is open on it is rolled back.

        Args:
            connection: What was borrowed, in this thread or another.
            again: After a call that was interrupted: only if this thread still has it.
        """

    def stats(self) -> Stats:
        """The statistics now."""

    def close(self) -> None:
        """Close all connections."""


def execute_alone(pool: Pool, statement: Statement, values: Sequence[Any]) -> Result:
    """For pools: borrow a connection, run one statement, and give the connection back."""
    connection = pool.acquire("read" if statement.reads else "write")
    try:
        return connection.execute(statement, values)
    finally:
        # Here, and not in a function: a KeyboardInterrupt may come at the entry of one.
        try:
            pool.release(connection)
        except BaseException:
            pool.release(connection, again=True)
            raise


class Driver(Protocol):
    """An engine's driver, found by the scheme of the URL. Construct it without arguments."""

    @property
    def dialect(self) -> Dialect:
        """The SQL that its engine speaks."""

    def open(self, settings: Settings) -> Pool:
        """Open the database.

        Raises:
            ConfigurationError: The settings cannot work.
            Unavailable: The database cannot be reached.
        """

    def wrap(self, native: Any) -> Connection | None:
        """A Connection over a host's own one, or None if it is another driver's."""
