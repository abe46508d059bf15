"""`Queryable`: the verbs that Backend and Transaction share, and all that an entity may know."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any, TypeVar, overload

from prefect_db.dialect import Dialect
from prefect_db.drivers.base import Isolation, Result
from prefect_db.errors import MultipleRows
from prefect_db.row import Row, Rows, column_index, converter

T = TypeVar("T")


class Queryable(ABC):
    """A `Backend` or a `Transaction`: the first argument of every entity function, which so runs
    on its own or inside its caller's transaction.

    In all verbs `sql` is one statement with a `?` for each of `params`, a tuple or list; `into`
    is a record: a dataclass whose fields are the columns that the statement selects, in order.
    `prepare=False` is for a statement whose best plan depends on its parameters, as that of a
    filter: PostgreSQL then plans it anew each time, instead of once for all of them.

    All verbs raise what the database says, as the classes of `prefect_db.errors`, and:
    ProgrammingError for SQL that cannot be sent, ParameterCount, BadValue for a value that
    cannot be stored or converted, UsageError for a record that does not fit, Unavailable,
    PoolTimeout, BackendClosed, ForkedBackend and, in a transaction, TransactionClosed,
    TransactionAborted and OutOfOrder.
    """

    __slots__ = ()

    _dialect: Dialect

    @property
    def dialect(self) -> Dialect:
        """The SQL of the engine."""
        return self._dialect

    @abstractmethod
    def _run(self, sql: str, params: Sequence[Any], prepare: bool = True) -> Result:
        """Run one statement and fetch all of its rows."""

    @overload
    def row(self, sql: str, params: Sequence[Any] = ..., *, prepare: bool = ...) -> Row | None: ...
    @overload
    def row(
        self, sql: str, params: Sequence[Any], into: type[T], *, prepare: bool = ...
    ) -> T | None: ...
    def row(
        self, sql: str, params: Sequence[Any] = (), into: Any = None, *, prepare: bool = True
    ) -> Any:
        """The one row, as a `Row` or record, or None.

        Raises:
            MultipleRows: There are more.
        """
        result = self._run(sql, params, prepare)
        rows = result.rows
        if not rows:
            return None
        if len(rows) > 1:
            raise MultipleRows(f"{len(rows)} rows", sql=sql)
        if into is None:
            return Row(rows[0], column_index(result.names()))
        convert = converter(into, self._dialect)
        if sql not in convert.checked:
            convert.check(sql, result.names)
        return convert.many(rows)[0]

    @overload
    def rows(self, sql: str, params: Sequence[Any] = ..., *, prepare: bool = ...) -> Rows: ...
    @overload
    def rows(
        self, sql: str, params: Sequence[Any], into: type[T], *, prepare: bool = ...
    ) -> list[T]: ...
    def rows(
        self, sql: str, params: Sequence[Any] = (), into: Any = None, *, prepare: bool = True
    ) -> Any:
        """All rows, as `Rows` or a list of records, in memory: the connection is free again."""
        result = self._run(sql, params, prepare)
        if into is None:
            return Rows(result.rows, column_index(result.names()))
        convert = converter(into, self._dialect)
        if sql not in convert.checked:
            convert.check(sql, result.names)
        return convert.many(result.rows)

    def value(self, sql: str, params: Sequence[Any] = (), *, prepare: bool = True) -> Any:
        """The first column of the one row, as the driver gives it; None if there is no row.

        Raises:
            MultipleRows: There are more.
        """
        rows = self._run(sql, params, prepare).rows
        if len(rows) > 1:
            raise MultipleRows(f"{len(rows)} rows", sql=sql)
        return rows[0][0] if rows else None

    def execute(self, sql: str, params: Sequence[Any] = ()) -> int:
        """Run a statement; the number of rows affected (0 for one that only reads, or for DDL)."""
        return self._run(sql, params).affected

    @abstractmethod
    def executemany(self, sql: str, seq_of_params: Iterable[Sequence[Any]]) -> int:
        """Run a statement once for each parameters, all or none; the number of rows affected."""

    @abstractmethod
    def transaction(
        self,
        *,
        read_only: bool = False,
        isolation: Isolation | None = None,
        timeout: float | None = None,
    ) -> AbstractContextManager[Queryable]:
        """A transaction; inside one, a savepoint. See `Backend.transaction`."""

    @abstractmethod
    def unit(self) -> AbstractContextManager[Queryable]:
        """For a function of several statements: a transaction; inside one, that itself.

        An error that leaves the block after something was written fails the caller's transaction,
        as a failed statement does: half of the function's work is never saved. If nothing was
        written yet, the transaction is as it was.
        """
