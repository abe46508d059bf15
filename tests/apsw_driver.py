"""A third driver, over apsw: another binding of SQLite. Written against the seam alone."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import apsw

from prefect_db.dialect import SQLITE, Dialect
from prefect_db.drivers.base import Connection, Isolation, Pool, Result, Settings
from prefect_db.drivers.sqlite import SQLitePool, make_file
from prefect_db.errors import Error, TransactionAborted, UsageError, from_sqlite
from prefect_db.tokens import Statement


class Described:
    """The columns of a result."""

    description: Any = ()


class ApswConnection:
    def __init__(self, native: apsw.Connection) -> None:
        self.native = native
        self._deadline: float | None = None

    def execute(self, statement: Statement, values: Sequence[Any]) -> Result:
        try:
            before = self.native.total_changes()
            cursor, described = self._start(statement, values)
            rows = cursor.fetchall()
        except apsw.Error as error:
            raise self._error(error, statement.sql) from error
        changed = self.native.total_changes() > before
        return Result(rows, self.native.changes() if changed else 0, described)

    def executemany(self, statement: Statement, rows: Sequence[Sequence[Any]]) -> int:
        return sum(self.execute(statement, row).affected for row in rows)

    def stream(self, statement: Statement, values: Sequence[Any], batch: int) -> Iterator[Result]:
        try:
            cursor, described = self._start(statement, values)
            try:
                while rows := list(islice(cursor, batch)):
                    yield Result(rows, 0, described)
            finally:
                cursor.close()
        except apsw.Error as error:
            raise self._error(error, statement.sql) from error

    def _start(self, statement: Statement, values: Sequence[Any]) -> tuple[apsw.Cursor, Described]:
        cursor = self.native.cursor()
        described = Described()

        def note_columns(cursor: apsw.Cursor, sql: str, bindings: object) -> bool:
            described.description = cursor.get_description()
            return True

        # After the last row, which may be at once, apsw does not tell of them any more.
        cursor.exec_trace = note_columns
        cursor.execute(statement.text, tuple(values))
        return cursor, described

    def begin(self, *, read_only: bool, isolation: Isolation | None, timeout: float | None) -> None:
        self._run("BEGIN" if read_only else "BEGIN IMMEDIATE")
        if timeout is not None:
            self._deadline = time.monotonic() + timeout
            self.native.set_progress_handler(self._is_late, 10_000)

    def _is_late(self) -> bool:
        return self._deadline is not None and time.monotonic() > self._deadline

    def commit(self) -> None:
        if not self.in_transaction:
            raise TransactionAborted("SQLite has rolled back")
        self._run("COMMIT")
        self._forget_deadline()

    def rollback(self) -> None:
        self._forget_deadline()
        if self.in_transaction:
            self._run("ROLLBACK")

    def _forget_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline = None
            self.native.set_progress_handler(None)

    @property
    def in_transaction(self) -> bool:
        return not self.closed and self.native.in_transaction

    @property
    def closed(self) -> bool:
        try:
            self.native.total_changes()
        except apsw.ConnectionClosedError:
            return True
        return False

    def interrupt(self) -> None:
        self.native.interrupt()

    def close(self) -> None:
        self.native.close()

    def _run(self, sql: str) -> None:
        try:
            self.native.execute(sql)
        except apsw.Error as error:
            raise self._error(error, sql) from error

    def _error(self, error: apsw.Error, sql: str) -> Error:
        code = getattr(error, "extendedresult", None)
        if code is None:
            return UsageError(str(error), sql=sql)
        return from_sqlite(code, str(error), sql=sql, timed_out=self._is_late())


class HostConnection(ApswConnection):
    def begin(self, *, read_only: bool, isolation: Isolation | None, timeout: float | None) -> None:
        if not self.in_transaction:
            raise UsageError("begin a transaction first")

    def close(self) -> None:
        """Nothing: the connection is the host's."""


class ApswDriver:
    """For URLs like `apsw:////absolute/path`."""

    @property
    def dialect(self) -> Dialect:
        return SQLITE

    def open(self, settings: Settings) -> Pool:
        if settings.path != ":memory:":
            make_file(settings.path)
        return SQLitePool(lambda read_only: _open(settings, read_only), settings)

    def wrap(self, native: Any) -> Connection | None:
        return HostConnection(native) if isinstance(native, apsw.Connection) else None


def _open(settings: Settings, read_only: bool) -> ApswConnection:
    native = apsw.Connection(settings.path)
    native.set_busy_timeout(int(settings.options["busy_timeout"] * 1000))
    native.execute("PRAGMA journal_mode = WAL")
    native.execute("PRAGMA foreign_keys = ON")
    if read_only:
        native.execute("PRAGMA query_only = ON")
    return ApswConnection(native)
