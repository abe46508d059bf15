"""The driver of SQLite, over the stdlib's sqlite3."""

from __future__ import annotations

import errno
import math
import os
import random
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, NoReturn, TypeVar

from prefect_db.dialect import SQLITE, Dialect
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
from prefect_db.drivers.lending import Lending
from prefect_db.errors import (
    BackendClosed,
    BadValue,
    Busy,
    Cancelled,
    ConfigurationError,
    Error,
    PoolTimeout,
    QueryTimeout,
    TransactionAborted,
    Unavailable,
    UsageError,
    from_sqlite,
)
from prefect_db.tokens import Statement

MINIMUM_VERSION: Final = (3, 35, 0)  # RETURNING

# Virtual-machine steps between two looks at the clock and at pending signals: about 1 ms.
_WATCH_STEPS: Final = 20_000
# Read-only transactions get connections of their own; so many of them are kept when idle.
_SPARES: Final = 4
# Seconds that SQLite waits for a lock by itself; and at most between two attempts of ours, each a
# random time: SQLite's own pauses grow, so that who waits for long is overtaken by all others.
_LOCK_WAIT: Final = 0.001
_LONGEST_PAUSE: Final = 0.002
# Seconds after which a writer looks at the log's size again; that it tries to shorten it; bytes.
_WAL_INTERVAL: Final = 0.1
_WAL_PATIENCE: Final = 0.25
_LARGE_WAL: Final = 16 * 2**20

# What opening a file fails with if it is the wrong one, or may not be written.
_WRONG_FILE: Final = (
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_NOTADB,
)

# Seconds between two looks whether the file is still there.
_LOOK_EVERY: Final = 1.0

T = TypeVar("T")


def _pragma(sql: str) -> Statement:
    return Statement(sql, sql, 0, False)


# An attempt at a checkpoint waits so long for readers, in milliseconds, and for other writers.
_WAIT_FOR_READERS: Final = _pragma("PRAGMA busy_timeout = 100")
_TRUNCATE: Final = _pragma("PRAGMA wal_checkpoint(TRUNCATE)")
_WAIT_FOR_LOCKS: Final = _pragma(f"PRAGMA busy_timeout = {round(_LOCK_WAIT * 1000)}")


class SQLiteConnection:
    """One sqlite3 connection in autocommit mode (`isolation_level=None`)."""

    def __init__(
        self, native: sqlite3.Connection, busy_timeout: float, *, read_only: bool = False
    ) -> None:
        self.native = native
        self._execute: Callable[[str, Sequence[Any]], sqlite3.Cursor] = native.execute
        self._busy_timeout = busy_timeout
        self._read_only = self._refuses_writes = read_only
        self.wants_wal = False
        self._deadline: float | None = None
        self._give_up_at: float | None = None
        self._stopped_by: BaseException | None = None
        self._interrupted = False
        watch = self._watch()
        # To its yield, and so into its try: what comes before that would raise in sqlite3.
        next(watch)
        native.set_progress_handler(watch.__next__, _WATCH_STEPS)

    def _watch(self) -> Generator[int, None, None]:
        """Called during long statements; not 0 interrupts the statement.

        sqlite3 swallows what a handler raises, and Python raises KeyboardInterrupt at the entry
        of whatever Python code runs next, or where a loop begins again: here, inside this try,
        since a generator enters at its yield. `_error` raises it again.
        """
        stop = 0
        while True:
            try:
                while True:
                    yield stop
                    stop = int(self._deadline is not None and time.monotonic() > self._deadline)
            except GeneratorExit:
                return
            except BaseException as error:  # noqa: BLE001
                self._stopped_by = error
                stop = 1

    def execute(self, statement: Statement, values: Sequence[Any]) -> Result:
        native = self.native
        reads = statement.reads
        if self.wants_wal and not reads:
            self._enter_wal()
        try:
            if reads:
                cursor = self._execute(statement.text, values)
                return Result(cursor.fetchall(), 0, cursor)
            before = native.total_changes
            cursor = self._execute(statement.text, values)
            rows = cursor.fetchall()
            count = cursor.rowcount
            if count < 0:
                # sqlite3 counts only for statements that begin with INSERT, UPDATE or DELETE.
                changed = native.total_changes != before
                count = native.execute("SELECT changes()").fetchone()[0] if changed else 0
        except (sqlite3.Error, OverflowError, UnicodeError) as error:
            if self._may_wait(error) and not native.in_transaction:
                return self._patiently(lambda: self.execute(statement, values))
            raise self._error(error, statement.sql) from error
        return Result(rows, count, cursor)

    def _may_wait(self, error: Exception) -> bool:
        """True if another connection's lock was in the way, and nobody waits for it yet."""
        code = getattr(error, "sqlite_errorcode", 0)
        return code & 0xFF == sqlite3.SQLITE_BUSY and self._give_up_at is None

    def _patiently(self, attempt: Callable[[], T]) -> T:
        """Try again until busy_timeout, or the transaction's deadline, is over.

        SQLite could wait as long by itself, but deaf to signals and interrupts.
        """
        self._interrupted = False
        self._give_up_at = time.monotonic() + self._busy_timeout
        if self._deadline is not None:
            self._give_up_at = min(self._give_up_at, self._deadline)
        try:
            while True:
                try:
                    return attempt()
                except Busy as error:
                    if self._interrupted:
                        raise Cancelled(
                            "interrupted while it waited for another's lock", sql=error.sql
                        ) from error
                    now = time.monotonic()
                    if now > self._give_up_at:
                        if self._deadline is not None and now > self._deadline:
                            raise QueryTimeout(
                                error.message, sql=error.sql, code=error.code
                            ) from error
                        raise
                time.sleep(random.uniform(0, _LONGEST_PAUSE))
        finally:
            self._give_up_at = None

    def executemany(self, statement: Statement, rows: Sequence[Sequence[Any]]) -> int:
        if "RETURNING" in statement.text.upper():
            # From Python 3.12 on, sqlite3's executemany fails with the second row of these.
            return sum(self.execute(statement, row).affected for row in rows)
        try:
            before = self.native.total_changes
            cursor = _tuple_cursor(self.native).executemany(statement.text, rows)
            changed = self.native.total_changes - before
        except (sqlite3.Error, OverflowError, UnicodeError) as error:
            raise self._error(error, statement.sql) from error
        # sqlite3 does not count where there is a WITH.
        return cursor.rowcount if cursor.rowcount > 0 else changed

    def stream(self, statement: Statement, values: Sequence[Any], batch: int) -> Iterator[Result]:
        try:
            cursor = self._execute(statement.text, values)
            try:
                while rows := cursor.fetchmany(batch):
                    yield Result(rows, 0, cursor)
            finally:
                cursor.close()
        except (sqlite3.Error, OverflowError, UnicodeError) as error:
            raise self._error(error, statement.sql) from error

    def begin(self, *, read_only: bool, isolation: Isolation | None, timeout: float | None) -> None:
        # Every isolation level is met: SQLite's transactions are serializable. Deferred, a
        # transaction that reads and then writes fails with BUSY_SNAPSHOT at once, whatever the
        # timeout; so whatever may write takes the lock now.
        if self.wants_wal and not read_only:
            self._enter_wal()
        self._deadline = None if timeout is None else time.monotonic() + timeout
        try:
            self._run("BEGIN" if read_only else "BEGIN IMMEDIATE")
        except BaseException:
            self._deadline = None
            raise
        if read_only and not self._refuses_writes:
            # `:memory:` has one connection for readers and writers.
            self._run("PRAGMA query_only = ON")
            self._refuses_writes = True

    def commit(self) -> None:
        if not self.native.in_transaction:
            raise TransactionAborted("the transaction was rolled back by a trigger or an error")
        self._run("COMMIT")
        self._ended()

    def rollback(self) -> None:
        self._deadline = None
        if self.closed:
            raise Unavailable("the connection was closed")
        if self.native.in_transaction:
            self._run("ROLLBACK")
        self._ended()

    def _ended(self) -> None:
        self._deadline = None
        if self._refuses_writes and not self._read_only:
            self._run("PRAGMA query_only = OFF")
            self._refuses_writes = False

    @property
    def in_transaction(self) -> bool:
        try:
            return self.native.in_transaction
        except sqlite3.ProgrammingError:
            return False

    @property
    def closed(self) -> bool:
        try:
            return self.native.total_changes < 0
        except sqlite3.ProgrammingError:
            return True

    def interrupt(self) -> None:
        self._interrupted = True
        with suppress(sqlite3.ProgrammingError):  # it is closed
            self.native.interrupt()

    def close(self) -> None:
        # The handler refers back to this object: without it both are freed at once.
        with suppress(sqlite3.ProgrammingError):
            self.native.set_progress_handler(None, 0)
        self.native.close()

    def _enter_wal(self) -> None:
        """Switch the file to WAL, before the first write: who only reads, leaves it as it was."""

        def attempt() -> None:
            try:
                self.native.execute("PRAGMA journal_mode = WAL").close()
            except sqlite3.Error as error:
                # SQLite does not wait by itself here, and two may start at once.
                time.sleep(0.01)
                raise self._error(error, "PRAGMA journal_mode = WAL") from error

        if not self.native.in_transaction:
            self._patiently(attempt)
            self.wants_wal = False

    def _run(self, sql: str) -> None:
        try:
            self.native.execute(sql)
        except sqlite3.Error as error:
            if self._may_wait(error):
                return self._patiently(lambda: self._run(sql))
            raise self._error(error, sql) from error

    def _error(self, error: Exception, sql: str) -> Error:
        stopped_by, self._stopped_by = self._stopped_by, None
        if stopped_by is not None:
            raise stopped_by
        code = getattr(error, "sqlite_errorcode", None)
        if code is not None:
            timed_out = self._deadline is not None and time.monotonic() > self._deadline
            return from_sqlite(code, str(error), sql=sql, timed_out=timed_out)
        return _without_code(error, sql)


class HostConnection(SQLiteConnection):
    """A host's own connection: its row factory and progress handler are left alone."""

    def __init__(self, native: sqlite3.Connection) -> None:
        self.native = native
        self._execute = lambda text, values: _tuple_cursor(native).execute(text, values)
        self._busy_timeout = 5.0
        self._read_only = self._refuses_writes = False
        self.wants_wal = False
        self._deadline = None
        self._give_up_at = None
        self._stopped_by = None
        self._interrupted = False

    def begin(self, *, read_only: bool, isolation: Isolation | None, timeout: float | None) -> None:
        """Begin as sqlite3 itself does before a write, if the host has not: it will commit."""
        if self.native.in_transaction:
            return
        # `autocommit` is Python 3.12's; -1 there means that `isolation_level` counts.
        if self.native.isolation_level is None or getattr(self.native, "autocommit", -1) is True:
            raise UsageError("the host's connection is in autocommit; begin a transaction first")
        self._run("BEGIN IMMEDIATE")

    def close(self) -> None:
        """Nothing: the connection is the host's."""


def _tuple_cursor(native: sqlite3.Connection) -> sqlite3.Cursor:
    """A cursor that gives tuples, whatever the connection's row factory."""
    cursor = native.cursor()
    cursor.row_factory = None
    return cursor


def _without_code(error: Exception, sql: str) -> Error:
    """What sqlite3 raises by itself, before SQLite is asked."""
    if isinstance(error, sqlite3.ProgrammingError) and "closed" in str(error):
        return BackendClosed("the connection is closed", sql=sql)
    if isinstance(error, (OverflowError, UnicodeError, sqlite3.DataError)):
        return BadValue("a value that SQLite cannot hold", sql=sql)
    if isinstance(error, sqlite3.InterfaceError):
        return BadValue(str(error), sql=sql)
    return UsageError(str(error), sql=sql)


def open_connection(settings: Settings, *, read_only: bool = False) -> SQLiteConnection:
    """A connection with this library's pragmas.

    Raises:
        ConfigurationError: The file cannot be opened or made, or is no database.
        Busy: Another connection kept all others out for longer than `busy_timeout`.
        StorageError: The database is damaged, or its storage fails.
    """
    try:
        native = sqlite3.connect(
            settings.path,
            timeout=_LOCK_WAIT,
            isolation_level=None,
            check_same_thread=False,
            cached_statements=256,
        )
    except sqlite3.Error as error:
        raise ConfigurationError(
            f"{settings.path}: {error}; name a file that can be opened"
        ) from error
    connection = SQLiteConnection(native, settings.options["busy_timeout"], read_only=read_only)
    try:
        _prepare(connection, settings, read_only=read_only)
    except BaseException:
        connection.close()
        raise
    return connection


def _prepare(connection: SQLiteConnection, settings: Settings, *, read_only: bool) -> None:
    def attempt() -> None:
        native = connection.native
        try:
            mode = native.execute("PRAGMA journal_mode").fetchone()[0]
            connection.wants_wal = mode not in ("wal", "memory") and not read_only
            native.execute("PRAGMA foreign_keys = ON")
            native.execute(f"PRAGMA synchronous = {settings.options['synchronous']}")
            if read_only:
                native.execute("PRAGMA query_only = ON")
        except sqlite3.Error as error:
            raise _not_opened(error, settings.path) from error

    # Somebody may keep readers out for a moment: who recovers the WAL after a crash does.
    connection._patiently(attempt)


def _not_opened(error: sqlite3.Error, path: str) -> Error:
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
    if code & 0xFF in _WRONG_FILE:
        return ConfigurationError(
            f"{path}: {error}; name a SQLite database that can be written, or a new file"
        )
    return from_sqlite(code, f"{path}: {error}")


class SQLitePool:
    """One writer and one reader per process, each lent first come, first served.

    Readers do not wait for the writer (WAL). Read-only transactions get connections of their own,
    opened when needed, so that a long one delays nobody. `:memory:` is one connection for all.

    SQLite goes on with a file that was deleted or replaced, whose new rows nobody will ever see.
    So who writes, or begins a transaction, has the pool look, once a second, whether it is still
    the one that was opened.
    """

    def __init__(self, open_: Callable[[bool], Connection], settings: Settings) -> None:
        self._hooks = hooks = settings.hooks
        self._open = open_ if hooks is None else lambda read: hooks.connect(lambda: open_(read))
        self._timeout = settings.options["pool_timeout"]
        self._memory = settings.path == ":memory:"
        self._mutex = threading.Lock()
        self._spares: list[Connection] = []
        self._snapshots: set[Connection] = set()
        self._opened = 0
        self._broken = 0
        self._closed = False
        self._path = os.path.abspath(settings.path)
        self._file = _identity(self._path)
        self._look_at = math.inf if self._memory else 0.0
        self._wal = f"{self._path}-wal"
        self._look_at_wal = 0.0
        self._writers = self._readers = Lending([self._open(False)])
        if not self._memory:
            readers = settings.options["readers"]
            try:
                self._readers = Lending([self._open(True) for _ in range(readers)])
            except BaseException:
                self.close()
                raise
        self._lent_by = {
            connection: lending
            for lending in (self._writers, self._readers)
            for connection in lending.items
        }

    def acquire(self, purpose: Purpose) -> Connection:
        if purpose == "snapshot" and not self._memory:
            return self._acquire_snapshot()
        if self._closed:
            self._check_open()
        if time.monotonic() > self._look_at:
            self._look_at_file()
        lending = self._readers if purpose == "read" else self._writers
        connection = lending.acquire(self._timeout) or self._none_free()
        try:
            if self._closed:
                self._check_open()
            return self._reopened(connection, lending) if connection.closed else connection
        except BaseException:
            self.release(connection, again=True)
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

    def _look_at_file(self) -> None:
        if _identity(self._path) != self._file:
            raise Unavailable(
                f"{self._path} was deleted or replaced after it was opened; what was written since"
                " then is in the old file: put that back, or end all that use it, remove what the"
                " old one left beside it (-wal, -shm), and connect() again"
            )
        self._look_at = time.monotonic() + _LOOK_EVERY

    def _open_later(self, read_only: bool) -> Connection:
        """One more connection to a file that could be opened: what is in the way is no setting."""
        try:
            return self._open(read_only)
        except ConfigurationError as error:
            raise Unavailable(error.message) from error

    def _reopened(self, closed: Connection, lending: Lending[Connection]) -> Connection:
        """Another in the place of one that was closed, as after a rollback that failed."""
        if self._memory:
            raise Unavailable("the one connection to :memory: was closed, and the data is gone")
        connection = self._open_later(lending is not self._writers)
        lending.replace(closed, connection)
        with self._mutex:
            self._lent_by[connection] = self._lent_by.pop(closed)
            self._broken += 1
        self._close(closed)
        return connection

    def _acquire_snapshot(self) -> Connection:
        connection: Connection | None = None
        if time.monotonic() > self._look_at:
            self._look_at_file()
        try:
            with self._mutex:
                self._check_open()
                self._opened += 1
                if self._spares:
                    connection = self._spares[-1]
                    self._snapshots.add(connection)
                    del self._spares[-1]
                    return connection
            connection = self._open_later(True)
            with self._mutex:
                self._snapshots.add(connection)
            return connection
        except BaseException:
            if connection is not None:
                self._release_snapshot(connection)
            raise

    def execute(self, statement: Statement, values: Sequence[Any]) -> Result:
        if not statement.reads or self._memory:
            return execute_alone(self, statement, values)
        # As there, for a statement that leaves nothing to undo.
        lending = self._readers
        connection = lending.acquire(self._timeout) or self._none_free()
        try:
            return connection.execute(statement, values)
        except BackendClosed:
            if self._closed:
                raise
        finally:
            try:
                lending.release(connection)
                if self._closed:
                    self._close_free()
            except BaseException:
                self.release(connection, again=True)
                raise
        # This connection alone was closed; `acquire` opens another.
        return execute_alone(self, statement, values)

    def release(self, connection: Connection, *, again: bool = False) -> None:
        lending = self._lent_by.get(connection)
        if lending is None:
            self._release_snapshot(connection)
            return
        if not again or lending.held_by_caller(connection):
            clean(connection)
            if lending is self._writers and time.monotonic() > self._look_at_wal:
                self._shorten_wal(connection)
            lending.release(connection)
        else:
            lending.serve()
        if self._closed:
            self._close_free()

    def _shorten_wal(self, connection: Connection) -> None:
        """SQLite begins its log anew only at a moment when nobody reads it, which under load may
        never come: past a size, wait for one. Readers that come meanwhile do without the log."""
        self._look_at_wal = time.monotonic() + _WAL_INTERVAL
        give_up_at = time.monotonic() + _WAL_PATIENCE
        with suppress(OSError, Error):
            if not self._wal_is_large():
                return
            connection.execute(_WAIT_FOR_READERS, ())
            try:
                # In vain while another process, just after its commit, copies from the log, too.
                while self._wal_is_large():
                    if time.monotonic() > give_up_at:
                        # A reader that stays is not to cost each write as much.
                        self._look_at_wal = time.monotonic() + 2 * _WAL_PATIENCE
                        break
                    connection.execute(_TRUNCATE, ())
                    time.sleep(random.uniform(0, _LONGEST_PAUSE))
            finally:
                connection.execute(_WAIT_FOR_LOCKS, ())

    def _wal_is_large(self) -> bool:
        return os.stat(self._wal).st_size > _LARGE_WAL

    def _release_snapshot(self, connection: Connection) -> None:
        with self._mutex:
            if connection not in self._snapshots:
                return
            clean(connection)
            keep = len(self._spares) < _SPARES and not self._closed and not connection.closed
            # Kept before it is given up: an interrupt between the two loses nothing.
            if keep and connection not in self._spares:
                self._spares.append(connection)
            self._snapshots.discard(connection)
        if not keep:
            self._close(connection)

    def stats(self) -> Stats:
        lendings = list({self._writers, self._readers})
        return Stats(
            size=sum(len(each.items) for each in lendings)
            + len(self._spares)
            + len(self._snapshots),
            in_use=sum(each.in_use for each in lendings) + len(self._snapshots),
            waiting=sum(each.waiting for each in lendings),
            acquires=sum(each.acquires for each in lendings) + self._opened,
            waited_seconds=sum(each.waited for each in lendings),
            timeouts=sum(each.timeouts for each in lendings),
            broken=self._broken,
        )

    def close(self) -> None:
        """Close all connections; one that is in use is closed when it is given back."""
        with self._mutex:
            self._closed = True
            spares, self._spares = self._spares, []
        for connection in spares:
            self._close(connection)
        self._close_free()

    def _close_free(self) -> None:
        for lending in {self._writers, self._readers}:
            for connection in lending.take_free():
                self._close(connection)

    def _close(self, connection: Connection) -> None:
        if self._hooks is None:
            connection.close()
        else:
            self._hooks.close(connection.close)


class SQLiteDriver:
    """Opens SQLite databases."""

    @property
    def dialect(self) -> Dialect:
        return SQLITE

    def open(self, settings: Settings) -> Pool:
        if sqlite3.sqlite_version_info < MINIMUM_VERSION:
            raise ConfigurationError(
                f"SQLite {sqlite3.sqlite_version} is too old; at least"
                f" {'.'.join(map(str, MINIMUM_VERSION))} is needed"
            )
        if settings.path != ":memory:":
            make_file(settings.path)
            # Connections are opened later, too: after a change of directory; and SQLite may take
            # a relative `file:x` for a URI.
            settings = replace(settings, path=os.path.abspath(settings.path))
        return SQLitePool(
            lambda read_only: open_connection(settings, read_only=read_only), settings
        )

    def wrap(self, native: Any) -> Connection | None:
        return HostConnection(native) if isinstance(native, sqlite3.Connection) else None


def _identity(path: str) -> tuple[int, int] | None:
    """What tells a file from another that gets its name."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def make_file(path: str) -> None:
    """Make the file if it is missing, for its owner alone: it may come to hold secrets.

    Raises:
        ConfigurationError: It cannot be made, with the reason.
    """
    try:
        _make(os.path.realpath(path))
    except (OSError, ValueError) as error:
        reason: object = error.strerror if isinstance(error, OSError) else error
        folder = Path(path).absolute().parent
        if isinstance(error, OSError) and not folder.is_dir():
            reason = f"the folder {folder} does not exist"
        raise ConfigurationError(
            f"the SQLite file {path if path.isprintable() else repr(path)} cannot be opened"
            f" ({reason}); PREFECT_DATABASE_PATH or the URL must name a file in a folder that"
            " exists and can be written"
        ) from error


def _make(path: str) -> None:
    """Make the file without opening one that SQLite may have open: to close that would end all
    locks of this process on it, and another process would delete the log of its connections."""
    try:
        if sys.platform == "linux":
            os.mknod(path, 0o600)
        else:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    except FileExistsError:
        if os.path.isdir(path):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR)) from None
        if not os.access(path, os.R_OK | os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES)) from None
