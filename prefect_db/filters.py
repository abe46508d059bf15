"""The leaves of the entities' filters, and the WHERE clause that they become.

The names and the meaning are Prefect's: parts of one leaf are all required; `any_=[]` matches
nothing; an empty `not_any_` or `all_` tests nothing; a non-empty `not_any_` leaves out NULL too.
`like_` is a case-insensitive "contains" that takes `%` and `_` literally.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Any, Final, Literal

from prefect_db.dialect import Dialect
from prefect_db.errors import BadValue, listing
from prefect_db.states import StateType
from prefect_db.values import Array, to_list, to_uuid

Operator = Literal["and_", "or_"]


@dataclass(slots=True, kw_only=True)
class AnyOf:
    """One of these values."""

    any_: Sequence[Any] | None = None


@dataclass(slots=True, kw_only=True)
class Among:
    """One of these values, none of those."""

    any_: Sequence[Any] | None = None
    not_any_: Sequence[Any] | None = None


@dataclass(slots=True, kw_only=True)
class Name:
    """One of these names; a name that contains this text."""

    any_: Sequence[str] | None = None
    like_: str | None = None


@dataclass(slots=True, kw_only=True)
class Reference:
    """One of these values; or whether there is a value at all."""

    any_: Sequence[Any] | None = None
    is_null_: bool | None = None
    operator: Operator = "and_"


@dataclass(slots=True, kw_only=True)
class Tags:
    """All of these tags; any of these; or whether the list of tags is empty."""

    all_: Sequence[str] | None = None
    any_: Sequence[str] | None = None
    is_null_: bool | None = None
    operator: Operator = "and_"


@dataclass(slots=True, kw_only=True)
class Time:
    """Not after, not before (both inclusive); or whether there is a time at all."""

    before_: datetime | None = None
    after_: datetime | None = None
    is_null_: bool | None = None


@dataclass(slots=True, kw_only=True)
class State:
    """The current state's type and name."""

    type: Among | None = None
    name: Among | None = None
    operator: Operator = "and_"


class Where:
    """Fragments of a WHERE clause with their parameters, joined by AND or OR.

    Attributes:
        params: What the `?` of the clause take.
    """

    def __init__(self, dialect: Dialect, operator: Operator = "and_") -> None:
        if operator not in ("and_", "or_"):
            raise BadValue(f"operator={operator!r}; it is 'and_' or 'or_'")
        self._dialect = dialect
        self._joint = " AND " if operator == "and_" else " OR "
        self._parts: list[str] = []
        self.params: list[Any] = []

    @property
    def sql(self) -> str:
        """` WHERE ...`, or nothing if there is no fragment."""
        return f" WHERE {self.test}" if self._parts else ""

    @property
    def test(self) -> str:
        """The condition alone; true if there is no fragment."""
        return self._joint.join(self._parts) or "1 = 1"

    def add(self, fragment: str, *params: Any) -> None:
        """Add a condition."""
        self._parts.append(fragment)
        self.params += params

    def group(self, other: Where) -> None:
        """Add another clause's condition; one that asks nothing is true, which counts in an OR."""
        if other._parts or self._joint == " OR ":
            self.add(other.test if len(other._parts) == 1 else f"({other.test})", *other.params)

    def among(self, column: str, kind: str, leaf: AnyOf | Among | Name | None) -> None:
        """`any_` and `not_any_` of a leaf; `kind` is the column's type on PostgreSQL."""
        if leaf is None:
            return
        inner = Where(self._dialect)
        if leaf.any_ is not None:
            inner._one_of(column, kind, _values(leaf.any_, kind))
        if isinstance(leaf, Among) and leaf.not_any_:
            sql = self._dialect.pick(
                sqlite="NOT IN (SELECT value FROM json_each(?))",
                postgres=f"<> ALL(CAST(? AS {kind}[]))",
            )
            inner.add(f"{column} {sql}", Array(_values(leaf.not_any_, kind)))
        self.group(inner)

    def _one_of(self, column: str, kind: str, values: list[Any]) -> None:
        if len(values) == 1:
            # So that SQLite knows: along an index of this column and another, it has their order.
            mark = self._dialect.pick(sqlite="?", postgres=f"CAST(? AS {kind})")
            self.add(f"{column} = {mark}", *values)
        else:
            # One parameter, however many the values are: so there is one statement to prepare.
            sql = self._dialect.pick(
                sqlite="IN (SELECT value FROM json_each(?))", postgres=f"= ANY(CAST(? AS {kind}[]))"
            )
            self.add(f"{column} {sql}", Array(values))

    def name(self, column: str, leaf: Name | None) -> None:
        """A `Name` of a column."""
        if leaf is not None:
            inner = Where(self._dialect)
            inner.among(column, "varchar", leaf)
            if leaf.like_ is not None:
                like = self._dialect.pick(sqlite="LIKE", postgres="ILIKE")
                inner.add(f"{column} {like} ? ESCAPE '\\'", f"%{escape_like(leaf.like_)}%")
            self.group(inner)

    def reference(self, column: str, kind: str, leaf: Reference | None) -> None:
        """A `Reference` of a column."""
        if leaf is not None:
            inner = Where(self._dialect, leaf.operator)
            if leaf.any_ is not None:
                inner.among(column, kind, AnyOf(any_=leaf.any_))
            inner.null(column, leaf.is_null_)
            self.group(inner)

    def null(self, column: str, is_null: bool | None) -> None:
        """Whether a column is NULL, if that is asked."""
        if is_null is not None:
            self.add(f"{column} IS {'' if is_null else 'NOT '}NULL")

    def time(self, column: str, leaf: Time | None, *, null_column: str | None = None) -> None:
        """A `Time` of a column; `is_null_` may look at another one than the bounds."""
        if leaf is not None:
            inner = Where(self._dialect)
            if leaf.before_ is not None:
                inner.add(f"{column} <= ?", leaf.before_)
            if leaf.after_ is not None:
                inner.add(f"{column} >= ?", leaf.after_)
            inner.null(null_column or column, leaf.is_null_)
            self.group(inner)

    def tags(self, column: str, leaf: Tags | None) -> None:
        """A `Tags` of a JSON column."""
        if leaf is None:
            return
        inner = Where(self._dialect, leaf.operator)
        # Which follows, but PostgreSQL must be told so to use an index of such rows alone.
        tagged = f"{column} <> CAST('[]' AS jsonb)"
        if leaf.all_:
            wanted = list(dict.fromkeys(to_list(leaf.all_)))
            inner.add(
                self._dialect.pick(
                    sqlite=f"(SELECT count(DISTINCT t.value) FROM json_each({column}) AS t WHERE"
                    " t.value IN (SELECT value FROM json_each(?))) = ?",
                    postgres=f"({column} ??& CAST(? AS text[]) AND {tagged})",
                ),
                Array(wanted),
                *self._dialect.pick(sqlite=(len(wanted),), postgres=()),
            )
        if leaf.any_ is not None:
            inner.add(
                self._dialect.pick(
                    sqlite=f"EXISTS (SELECT 1 FROM json_each({column}) AS t WHERE"
                    " t.value IN (SELECT value FROM json_each(?)))",
                    postgres=f"({column} ??| CAST(? AS text[]) AND {tagged})",
                ),
                Array(leaf.any_),
            )
        if leaf.is_null_ is not None:
            empty = self._dialect.pick(sqlite="'[]'", postgres="CAST('[]' AS jsonb)")
            inner.add(f"{column} {'=' if leaf.is_null_ else '<>'} {empty}")
        self.group(inner)

    def state(self, table: str, leaf: State | None) -> None:
        """A `State` of the state_type and state_name of a table."""
        if leaf is None:
            return
        inner = Where(self._dialect, leaf.operator)
        # Unlike elsewhere, a part that asks nothing is not true in an OR: Prefect leaves it out.
        if (types := types_of(leaf)) is not None:
            # In the text, as the best plan depends on how many there are. Not `= ANY(...)`: SQLite
            # would take a list for something to search in.
            listed = ", ".join([f"'{type}'" for type in types])
            test = f"= {listed}" if len(types) == 1 else f"IN ({listed})"
            inner.add(f"{table}.state_type {test}" if types else "1 = 0")
        if leaf.name is not None and (leaf.name.any_ is not None or leaf.name.not_any_):
            inner.among(f"{table}.state_name", "varchar", leaf.name)
        self.group(inner)

    def exists(self, table: str, joined: str, other: Where) -> None:
        """That a row of another table, joined so, meets that table's clause."""
        self.add(f"EXISTS (SELECT 1 FROM {table} WHERE {joined} AND ({other.test}))", *other.params)


def _values(values: Sequence[Any], kind: str) -> list[Any]:
    """The values, if they are of the column's kind: SQLite would compare it with anything."""
    listed = to_list(values)
    return [to_uuid(value) for value in listed] if kind == "uuid" else listed


_STATE_TYPES: Final = tuple(StateType)


def types_of(leaf: State) -> list[StateType] | None:
    """The types of state that are let through; None if that is not asked.

    Raises:
        BadValue: There is no such type of state.
    """
    if leaf.type is None or (leaf.type.any_ is None and not leaf.type.not_any_):
        return None
    wanted = _STATE_TYPES if leaf.type.any_ is None else _types(leaf.type.any_)
    unwanted = _types(leaf.type.not_any_) if leaf.type.not_any_ else ()
    return [type for type in _STATE_TYPES if type in wanted and type not in unwanted]


def _types(values: Sequence[Any]) -> set[StateType]:
    try:
        return {StateType(value) for value in to_list(values)}
    except ValueError as error:
        raise BadValue(f"{error}; there are {', '.join(StateType)}") from error


def escape_like(text: str) -> str:
    """The text with LIKE's wildcards taken literally, for `ESCAPE '\\'`."""
    return text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")


def order_of(sort: Enum, kind: type[Enum]) -> str:
    """What stands after ORDER BY: one of these sorts, and nothing else.

    Raises:
        BadValue: It is none of them.
    """
    if not isinstance(sort, kind):
        names = listing([member.name for member in kind])
        raise BadValue(f"a {type(sort).__name__} as a sort; it takes {kind.__name__}: {names}")
    order: str = sort.value
    return order


_LONGEST_PAGE: Final = 2**62 - 1


def page(limit: int | None, offset: int) -> tuple[int, int]:
    """Check a page's bounds; no limit is the largest. Their sum has 64 bits, too.

    Raises:
        BadValue: One is negative, over 62 bits or no whole number.
    """
    for name, value in (("limit", limit), ("offset", offset)):
        if value is not None and (not isinstance(value, int) or not 0 <= value <= _LONGEST_PAGE):
            raise BadValue(f"{name}={value!r}; it is a whole number from 0 to {_LONGEST_PAGE}")
    return _LONGEST_PAGE if limit is None else int(limit), int(offset)
