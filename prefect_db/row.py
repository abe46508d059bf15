"""Rows as the database gives them, and records: dataclasses whose fields are the column list."""

from __future__ import annotations

import dataclasses
import inspect
import types
import typing
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from enum import Enum
from functools import lru_cache
from operator import attrgetter
from typing import Any, ClassVar, TypeVar, overload
from uuid import UUID

from prefect_db import values
from prefect_db.dialect import Dialect
from prefect_db.errors import BadValue, UnknownColumn, UsageError

T = TypeVar("T")

Column = int | str

# What reading a value that is something else may raise.
_UNREADABLE = (ValueError, TypeError, KeyError, AttributeError, ArithmeticError, BadValue)


class Row(Sequence[Any]):
    """One row: `row[0]`, `row["name"]`, or a typed accessor.

    Indexing gives what the driver gave, which may be text on SQLite and a UUID or datetime on
    PostgreSQL. The typed accessors take an index or a name and give the same Python value on
    both engines, None for SQL NULL; BadValue if the value is no such thing; UnknownColumn if
    there is no such column, or two of that name.
    """

    __slots__ = ("_index", "_values")

    def __init__(self, row: tuple[Any, ...], index: dict[str, int]) -> None:
        self._values = row
        self._index = index

    @overload
    def __getitem__(self, column: Column) -> Any: ...
    @overload
    def __getitem__(self, column: slice) -> tuple[Any, ...]: ...
    def __getitem__(self, column: Column | slice) -> Any:
        try:
            return self._values[self._index[column] if isinstance(column, str) else column]
        except (KeyError, IndexError):
            raise UnknownColumn(
                f"no column {column!r} among {', '.join(self._index)}, or two of that name"
            ) from None

    def __len__(self) -> int:
        return len(self._values)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._values)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Row):
            return self._values == other._values and self._index == other._index
        return NotImplemented

    def __hash__(self) -> int:
        return hash(self._values)

    def __repr__(self) -> str:
        """The columns' names only: values may be secret."""
        return f"<Row {', '.join(self._index)}>"

    def keys(self) -> list[str]:
        """The columns' names, so that dict(row) works."""
        return list(self._index)

    def _read(self, column: Column, read: Callable[[Any], T]) -> T | None:
        value = self[column]
        if value is None:
            return None
        try:
            return read(value)
        except _UNREADABLE as error:
            raise BadValue(
                f"column {column!r} holds a {type(value).__name__} that cannot be read as"
                f" {read.__name__.removeprefix('read_')}"
            ) from error

    def text(self, column: Column) -> str | None:
        """As text; times and durations in the form that SQLite stores."""
        return self._read(column, values.read_text)

    def int(self, column: Column) -> int | None:
        """As an integer."""
        return self._read(column, values.read_int)

    def float(self, column: Column) -> float | None:
        """As a float."""
        return self._read(column, values.read_float)

    def bool(self, column: Column) -> bool | None:
        """As a truth value: SQLite stores 0 and 1."""
        return self._read(column, values.read_bool)

    def uuid(self, column: Column) -> UUID | None:
        """As a UUID."""
        return self._read(column, values.read_uuid)

    def datetime(self, column: Column) -> datetime | None:
        """As an aware datetime in UTC."""
        return self._read(column, values.read_datetime)

    def timedelta(self, column: Column) -> timedelta | None:
        """As a duration."""
        return self._read(column, values.read_timedelta)

    def json(self, column: Column) -> Any:
        """The value of a JSON text, decoded."""
        return self._read(column, values.read_json)

    def bytes(self, column: Column) -> bytes | None:
        """As bytes."""
        return self._read(column, values.read_bytes)


class Rows(Sequence[Row]):
    """All rows of a result, in memory: the connection is free again."""

    __slots__ = ("_index", "_rows")

    def __init__(self, rows: list[tuple[Any, ...]], index: dict[str, int]) -> None:
        self._rows = rows
        self._index = index

    @overload
    def __getitem__(self, at: int) -> Row: ...
    @overload
    def __getitem__(self, at: slice) -> Rows: ...
    def __getitem__(self, at: int | slice) -> Row | Rows:
        if isinstance(at, slice):
            return Rows(self._rows[at], self._index)
        return Row(self._rows[at], self._index)

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[Row]:
        index = self._index
        return (Row(row, index) for row in self._rows)

    def __repr__(self) -> str:
        return f"<Rows {len(self._rows)} x {', '.join(self._index)}>"

    def keys(self) -> list[str]:
        """The columns' names."""
        return list(self._index)


@lru_cache(maxsize=512)
def column_index(names: tuple[str, ...]) -> dict[str, int]:
    """Where each name stands. One that occurs twice is left out: it would be ambiguous."""
    return {name: at for at, name in enumerate(names) if names.count(name) == 1}


def _getter(names: tuple[str, ...]) -> Callable[[Any], tuple[Any, ...]]:
    if len(names) > 1:
        return attrgetter(*names)
    # Of one name it gives the value, and no tuple.
    return lambda record: tuple([getattr(record, name) for name in names])


class Record:
    """Base of the records: `@dataclass(slots=True)` classes whose fields are columns.

    Attributes:
        names: The fields' names, in order.
        columns: They as a column list.
        marks: A `?` for each of them.
    """

    __slots__ = ()
    names: ClassVar[tuple[str, ...]]
    columns: ClassVar[str]
    marks: ClassVar[str]
    _values: ClassVar[Callable[[Any], tuple[Any, ...]]]

    def __init_subclass__(cls) -> None:
        bases = [base for base in reversed(cls.__mro__) if base not in (Record, object)]
        names = dict.fromkeys(
            name
            for base in bases
            for name, annotation in inspect.get_annotations(base).items()
            if "ClassVar" not in str(annotation)
        )
        cls.names = tuple(names)
        cls.columns = ", ".join(names)
        cls._values = _getter(cls.names)
        cls.marks = ", ".join("?" * len(names))

    def params(self) -> tuple[Any, ...]:
        """The fields' values, in the order of `columns`."""
        return type(self)._values(self)


class Converter:
    """Makes records of one type from the tuples of one engine; compiled once, see `converter`."""

    __slots__ = ("_many", "_names", "_readers", "_record", "checked")

    def __init__(self, record: type[Any], dialect: Dialect) -> None:
        self._record = record
        self._many, self._readers = _compile(record, dialect)
        self._names = tuple(self._readers)
        self.checked: set[str] = set()

    def check(self, sql: str, names: Callable[[], tuple[str, ...]]) -> None:
        """Refuse a statement that does not select the record's columns, in order.

        One that was `checked` need not be again.
        """
        if names() != self._names:
            raise UsageError(
                f"selects {', '.join(names())}; {self._record.__name__} takes"
                f" {', '.join(self._names)}",
                sql=sql,
            )
        if len(self.checked) > 1024:
            self.checked.clear()
        self.checked.add(sql)

    def many(self, rows: list[tuple[Any, ...]]) -> list[Any]:
        """The records of these tuples."""
        try:
            return self._many(rows)
        except _UNREADABLE as error:
            raise self._explained(rows) from error

    def _explained(self, rows: list[tuple[Any, ...]]) -> BadValue | UsageError:
        for row in rows:
            if len(row) != len(self._names):
                # A column was added since the statement was checked.
                return UsageError(
                    f"{len(row)} columns; {self._record.__name__} takes {', '.join(self._names)}"
                )
            for (name, read), value in zip(self._readers.items(), row, strict=True):
                try:
                    read(value)
                except _UNREADABLE:
                    return BadValue(
                        f"column {name} holds a {type(value).__name__} that"
                        f" {self._record.__name__}.{name} cannot take"
                    )
        return BadValue(f"a row that {self._record.__name__} cannot take")


@lru_cache(maxsize=256)
def converter(record: type[Any], dialect: Dialect) -> Converter:
    """The converter of a dataclass for an engine.

    Raises:
        UsageError: It is no dataclass, or a field's type is none that a column can have.
    """
    return Converter(record, dialect)


# One expression per kind of field, of a variable `{v}`: what a loop over reader functions would
# do takes 1.3 times as long (see the benchmarks).
_SQLITE_EXPRESSIONS = {
    UUID: "remembered_uuid({v})",
    # Not '+00:00': after a date alone that would be taken for its time.
    datetime: "fromisoformat({v} + 'Z')",
    timedelta: "read_timedelta({v})",
    bool: "{v} != 0",
    bytes: "{v}",
    # A number arrives as one: SQLite's JSON columns have numeric affinity.
    Any: (
        "{{}} if {v} == '{{}}' else [] if {v} == '[]' else"
        " decode_json({v}) if type({v}) is str and {v} in plain_json else read_json({v})"
    ),
}
_POSTGRES_EXPRESSIONS = {
    **_SQLITE_EXPRESSIONS,
    UUID: "{v}",
    datetime: "{v} if {v}.tzinfo is UTC else read_datetime({v})",
    timedelta: "{v}",
    bool: "{v}",
}
# Of these kinds the expression takes None for a value; the others raise.
_PASS_NONE = (bool, Any)
_PLAIN = (str, int, float)
# A sum, say, is a numeric of PostgreSQL; and SQLite's columns take any kind of number.
_NUMBERS = {
    int: "{v} if type({v}) is int else read_int({v})",
    float: "{v} if type({v}) is float else read_float({v})",
}


Reader = Callable[[Any], Any]
Maker = Callable[[list[tuple[Any, ...]]], list[Any]]


def _compile(record: type[Any], dialect: Dialect) -> tuple[Maker, dict[str, Reader]]:
    """What makes the records of rows, and what reads each column."""
    scope: dict[str, Any] = {
        "record": record,
        "new": object.__new__,
        "UTC": UTC,
        "fromisoformat": datetime.fromisoformat,
        "remembered_uuid": values.remembered_uuid,
        "read_datetime": values.read_datetime,
        "read_timedelta": values.read_timedelta,
        "plain_json": values.plain_json,
        "decode_json": values.decode_json,
        "read_json": values.read_json,
        "read_int": values.read_int,
        "read_float": values.read_float,
        "missing": _missing,
    }
    expressions = _expressions(record, dialect, scope)
    variables = "".join(f"v{at}, " for at in range(len(expressions)))
    if _only_assigns(record, tuple(expressions)):
        assignments = "; ".join(f"made.{name} = {value}" for name, value in expressions.items())
        make = f"made = new(record); {assignments}"
    else:
        by_name = {field.name for field in dataclasses.fields(record) if field.kw_only}
        arguments = ", ".join(
            f"{name}={value}" if name in by_name else value
            for name, value in sorted(expressions.items(), key=lambda item: item[0] in by_name)
        )
        make = f"made = record({arguments})"
    exec(
        "def many(rows):\n"
        "    records = []\n"
        f"    for ({variables}) in rows:\n"
        f"        {make}\n"
        "        records.append(made)\n"
        "    return records\n",
        scope,
    )
    readers = {
        name: eval(f"lambda v{at}: {expression}", scope)
        for at, (name, expression) in enumerate(expressions.items())
    }
    return scope["many"], readers


def _expressions(record: type[Any], dialect: Dialect, scope: dict[str, Any]) -> dict[str, str]:
    """What reads each field, of the variables v0, v1, ...; adds to `scope` what they need."""
    if not isinstance(record, type) or not dataclasses.is_dataclass(record):
        raise UsageError(f"into={record!r} is no dataclass")
    try:
        hints = typing.get_type_hints(record)
    except NameError as error:
        raise UsageError(f"{record.__name__} has a field of an unknown type: {error}") from error
    table: dict[Any, str] = {
        **dialect.pick(sqlite=_SQLITE_EXPRESSIONS, postgres=_POSTGRES_EXPRESSIONS),
        **_NUMBERS,
        str: "{v}",
    }
    expressions = {}
    names = [field.name for field in dataclasses.fields(record) if field.init]
    for at, name in enumerate(names):
        kind, optional = _kind(record, name, hints[name])
        v = f"v{at}"
        if isinstance(kind, type) and issubclass(kind, Enum):
            scope[f"enum{at}"] = {member.value: member for member in kind}
            expression = f"enum{at}[{v}]"
        else:
            expression = table[kind].format(v=v)
        if optional and expression != v:
            expression = f"None if {v} is None else {expression}"
        elif not optional and (expression == v or kind in _PASS_NONE):
            expression = f"({expression}) if {v} is not None else missing()"
        expressions[name] = expression
    return expressions


def _only_assigns(record: Any, names: tuple[str, ...]) -> bool:
    """True if a record is made by assigning its fields: `dataclass` wrote its `__init__`, and that
    does nothing else. To do so where the values are takes less than half the time of a call."""
    code = getattr(record.__init__, "__code__", None)
    return (
        code is not None
        and code.co_qualname == "__create_fn__.<locals>.__init__"
        # A `__post_init__`, or what sets the fields of a frozen one, would be among them.
        and sorted(code.co_names) == sorted(names)
        and record.__new__ is object.__new__
        and record.__setattr__ is object.__setattr__
        and type(record).__call__ is type.__call__
    )


def _missing() -> None:
    raise TypeError("NULL in a field that is not optional")


def _kind(record: type[Any], name: str, hint: Any) -> tuple[Any, bool]:
    """The column's kind (Any for JSON), and whether it may be NULL."""
    optional = False
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        members = [member for member in typing.get_args(hint) if member is not type(None)]
        optional = len(members) < len(typing.get_args(hint))
        hint = members[0] if len(members) == 1 else hint
    if typing.get_origin(hint) in (dict, list) or hint in (dict, list):
        return Any, optional
    if hint is Any:
        return Any, True
    known = (*_PLAIN, UUID, datetime, timedelta, bool, bytes)
    if hint in known or (isinstance(hint, type) and issubclass(hint, Enum)):
        return hint, optional
    raise UsageError(f"{record.__name__}.{name}: {hint} is no type of a column")
