"""The error hierarchy, and the tables that turn SQLSTATEs and SQLite result codes into it.

Every class has one sentence that says what to do; it is part of the message.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any


class Error(Exception):
    """Base of all errors of prefect_db.

    Attributes:
        sql: The statement as its author wrote it, or None. Never the arguments.
        code: The SQLSTATE or SQLite's extended result code, as text, or None.
        position: The character of the statement, from 1, that PostgreSQL points at, or 0.
    """

    hint = ""
    position = 0

    def __init__(
        self, message: str = "", *, sql: str | None = None, code: str | None = None
    ) -> None:
        self.sql = sql
        self.code = code
        self.message = message
        super().__init__(message)

    def __str__(self) -> str:
        code = f" [{self.code}]" if self.code else ""
        text = f"{self.message}{code}"
        return f"{text}: {self.hint}" if text and self.hint else text or self.hint

    def __init_subclass__(cls) -> None:
        if "hint" not in cls.__dict__:
            cls.hint = (cls.__doc__ or "").partition("\n")[0].rstrip(".")


class ConfigurationError(Error):
    """correct the named setting; the message lists what it accepts."""

    hint = ""


class UsageError(Error):
    """the library was called in a way that it cannot carry out; correct the call."""


class TransactionClosed(UsageError):
    """this transaction has ended; begin another one."""


class OutOfOrder(UsageError):
    """use a transaction in the thread that began it, and the innermost one first."""


class ParameterCount(UsageError):
    """pass as many parameters as the statement has placeholders."""


class MultipleRows(UsageError):
    """the statement gave more than one row; use rows(), or narrow it to one."""


class UnknownColumn(UsageError, IndexError, KeyError):
    """name a column that the statement selects, once."""


class BackendClosed(UsageError):
    """this Backend was closed; connect() again."""


class ForkedBackend(UsageError):
    """a Backend belongs to the process that opened it; call connect() in the child process."""


class Unavailable(Error):
    """the database cannot be reached; check the URL and the server, then try again.

    Attributes:
        sent: True if a statement had been sent when the connection broke. Outside a transaction
            it may then have taken effect; inside one, nothing was saved.
    """

    sent: bool = False


class PoolTimeout(Error):
    """every connection stayed in use; shorten transactions or raise pool_size or pool_timeout.

    Attributes:
        stats: The pool's statistics at that moment, a `Stats`.
    """

    stats: Any = None


class ConstraintError(Error):
    """the database refused the row; change it, or what it refers to.

    Attributes:
        constraint: The constraint's name, or None (SQLite names only CHECK constraints).
        table: The table's name, or None (SQLite does not tell it for foreign keys).
        columns: The columns' names, as far as the database tells them.
    """

    constraint: str | None = None
    table: str | None = None
    columns: tuple[str, ...] = ()


class UniqueViolation(ConstraintError):
    """a row with this key is there already; read it, or choose another key."""


class ForeignKeyViolation(ConstraintError):
    """a row that this one refers to is missing, or rows still refer to it."""


class NotNullViolation(ConstraintError):
    """give a value for this column."""


class CheckViolation(ConstraintError):
    """give values that satisfy the constraint."""


class Retryable(Error):
    """nothing was saved; run the whole transaction again, as Backend.run() does."""


class SerializationFailure(Retryable):
    """another transaction changed the same data; run the whole transaction again."""


class Deadlock(Retryable):
    """transactions waited for each other; run this one again, and lock rows in one order."""


class Busy(Retryable):
    """another connection holds the lock; run the transaction again, or wait longer for locks."""


class QueryTimeout(Error):
    """the statement took longer than its timeout; nothing was saved: narrow it or allow more."""


class Cancelled(Error):
    """the statement was interrupted; nothing of it was saved."""


class ReadOnly(Error):
    """the transaction or the database is read-only; write through one that is not."""


class Standby(ReadOnly, Retryable):
    """the server is a standby; let the URL lead to the primary, and after a failover try again.

    A pool replaces the connection: the next one goes where the URL leads by then.
    """


class BadValue(Error):
    """the database cannot hold this value as it is; correct it."""


class ProgrammingError(Error):
    """the database cannot run this SQL; correct the statement."""


class SchemaError(Error):
    """the database lacks a table or column that is needed; migrate it or correct the name."""


class StorageError(Error):
    """the database cannot write or read its storage; free space or repair it, then try again."""


class TransactionAborted(Error):
    """a statement in it had failed, so nothing was saved; let its error leave the block."""


class CommitUnknown(Error):
    """the connection broke during COMMIT; read back whether the data is there before retrying."""


class MigrationError(Error):
    """the schema could not be brought up to date; nothing of this migration remains."""


class Drift(MigrationError):
    """an applied migration was edited; restore its file and put the change into a new one."""


class Missing(MigrationError):
    """an applied migration is no longer there, or a number is missing; restore its file."""


class Ahead(MigrationError):
    """a newer release has migrated this database; use that release."""


class Duplicate(MigrationError):
    """two migrations have one number; renumber the newer."""


class Dirty(MigrationError):
    """a migration outside a transaction did not finish, and is not run again by itself."""


class Failed(MigrationError):
    """correct the statement and start again; the database is as it was before this migration.

    Attributes:
        name: The migration's file, such as `002_add_index/sqlite.sql`.
        line: The line of the failing statement in that file, from 1.
        column: Its column, from 1.
    """

    name: str = ""
    line: int = 0
    column: int = 0


class LockTimeout(MigrationError):
    """another process is migrating; wait for it, or find out why it hangs."""


class NotFound(Error):
    """there is no row with this key."""


_SQLSTATES: dict[str, type[Error]] = {
    "08": Unavailable,
    "0A": ProgrammingError,
    "21": ProgrammingError,
    "22": BadValue,
    "23": ConstraintError,
    "23001": ForeignKeyViolation,
    "23502": NotNullViolation,
    "23503": ForeignKeyViolation,
    "23505": UniqueViolation,
    "23514": CheckViolation,
    "23P01": UniqueViolation,
    "25006": ReadOnly,
    "25P02": TransactionAborted,
    "25P03": Unavailable,
    "25P04": QueryTimeout,
    "26": ProgrammingError,
    "28": Unavailable,
    "2D": UsageError,
    "34": ProgrammingError,
    "3D": Unavailable,
    "3F": SchemaError,
    "40": SerializationFailure,
    "40002": ConstraintError,
    "40003": CommitUnknown,
    "40P01": Deadlock,
    "42": ProgrammingError,
    "42P01": SchemaError,
    "42703": SchemaError,
    "42704": SchemaError,
    "42883": ProgrammingError,
    "53": Unavailable,
    "53100": StorageError,
    "54": ProgrammingError,
    "55P03": Busy,
    "57014": Cancelled,
    "57P": Unavailable,
    "58": StorageError,
    "XX001": StorageError,
    "XX002": StorageError,
}

_SQLITE_CODES: dict[int, type[Error]] = {
    1: ProgrammingError,
    3: StorageError,
    5: Busy,
    6: Busy,
    7: StorageError,
    8: ReadOnly,
    9: Cancelled,
    10: StorageError,
    11: StorageError,
    13: StorageError,
    14: Unavailable,
    15: Busy,
    17: SchemaError,
    18: BadValue,
    19: ConstraintError,
    20: BadValue,
    21: UsageError,
    23: ProgrammingError,
    25: ParameterCount,
    26: StorageError,
    275: CheckViolation,
    787: ForeignKeyViolation,
    1032: Unavailable,
    1299: NotNullViolation,
    1555: UniqueViolation,
    2067: UniqueViolation,
    2579: UniqueViolation,
    3091: BadValue,
}

_NO_RIGHT = "42501"
# PostgreSQL's, to a prepared statement whose table was altered since: it has no code of its own.
CHANGED_RESULT = "cached plan must not change result type"

_MISSING_IN_SQLITE = re.compile(r"no such (table|column|index)|has no column named")
_FAILED_COLUMNS = re.compile(r"constraint failed: (\w+)\.\w+(?:, \w+\.\w+)*")
_FAILED_NAMED = re.compile(r"(?:CHECK constraint failed: (\w+)|.* failed: index '(.+)')", re.DOTALL)
_KEY_DETAIL = re.compile(r"Key \(((?:\w+|\"[^\"]+\")(?:, (?:\w+|\"[^\"]+\"))*)\)=")
_QUOTED_VALUES = re.compile(r'".*"', re.DOTALL)


def from_sqlite(
    extended_code: int, message: str, *, sql: str | None = None, timed_out: bool = False
) -> Error:
    """The error for an extended result code of SQLite (https://www.sqlite.org/rescode.html)."""
    kind = _SQLITE_CODES.get(extended_code) or _SQLITE_CODES.get(extended_code & 0xFF, Error)
    if kind is ProgrammingError and _MISSING_IN_SQLITE.search(message):
        kind = SchemaError
    if kind is Cancelled and timed_out:
        kind = QueryTimeout
    error = kind(message, sql=sql, code=str(extended_code))
    if isinstance(error, ConstraintError):
        if columns := _FAILED_COLUMNS.search(message):
            error.table = columns[1]
            error.columns = tuple(re.findall(r"\w+\.(\w+)", columns[0]))
        elif named := _FAILED_NAMED.fullmatch(message):
            error.constraint = named[1] or named[2]
    return error


def from_sqlstate(
    sqlstate: str,
    message: str,
    *,
    sql: str | None = None,
    constraint: str | None = None,
    table: str | None = None,
    column: str | None = None,
    detail: str | None = None,
    position: int = 0,
) -> Error:
    """The error for a SQLSTATE (https://www.postgresql.org/docs/current/errcodes-appendix.html).

    `detail` is only searched for column names: it quotes the row's values, which stay out.
    """
    kind = (
        _SQLSTATES.get(sqlstate)
        or _SQLSTATES.get(sqlstate[:3])
        or _SQLSTATES.get(sqlstate[:2], Error)
    )
    if sqlstate == "0A000" and message == CHANGED_RESULT:
        kind = Retryable
    if sqlstate == "57014" and "timeout" in message:
        kind = QueryTimeout
    if kind is BadValue:
        # 'invalid input syntax for type uuid: "the value"': the value is the caller's secret.
        message = _QUOTED_VALUES.sub('"..."', message)
    error = kind(message, sql=sql, code=sqlstate)
    error.position = position
    if sqlstate == _NO_RIGHT:
        error.hint = "grant this right to the database's user, or connect as one who has it"
    if isinstance(error, ConstraintError):
        error.constraint = constraint
        error.table = table
        keyed = sqlstate in ("23503", "23505")
        error.columns = (column,) if column else _key_columns(detail if keyed else None)
    return error


def _key_columns(detail: str | None) -> tuple[str, ...]:
    found = _KEY_DETAIL.match(detail or "")
    return tuple(name.strip('"') for name in found[1].split(", ")) if found else ()


def listing(names: Sequence[str]) -> str:
    """`a, b or c`, for messages that say what is accepted."""
    return " or ".join(filter(None, [", ".join(names[:-1]), names[-1] if names else ""]))
