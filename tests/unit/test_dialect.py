"""What a dialect compiles once, picks, and binds."""

from __future__ import annotations

import json
from collections import OrderedDict, UserList
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from typing import Any, NamedTuple
from uuid import UUID

import pytest

from prefect_db.dialect import POSTGRES, SQLITE, Dialect
from prefect_db.errors import BadValue, Error, ParameterCount, UsageError
from prefect_db.values import Array, Json

BOTH = pytest.mark.parametrize("dialect", [SQLITE, POSTGRES], ids=["sqlite", "postgres"])

MOMENT = datetime(2026, 1, 2, 3, 4, 5, 6, UTC)
SOME_ID = UUID("516e0656-0ca1-4460-be09-b8164d5929d1")


class Color(StrEnum):
    RED = "red"


class Level(IntEnum):
    HIGH = 40


class Kind(Enum):
    ONE = "one"
    AT = MOMENT


class Text(str):
    __slots__ = ()


class Number(int):
    pass


class Id(UUID):
    pass


class Pair(NamedTuple):
    a: int
    b: int


class Moment(datetime):
    pass


class Duration(timedelta):
    pass


def bind(dialect: Dialect, value: Any) -> Any:
    (bound,) = dialect.bind(dialect.compile("SELECT ?"), [value])
    return bound


@BOTH
class TestValues:
    @pytest.mark.parametrize(
        "value",
        [None, True, False, 0, -1, 2**63 - 1, -(2**63), 1.5, float("inf"), "", "ä😀", b"\0"],
    )
    def test_what_both_engines_have_is_bound_as_it_is(self, dialect: Dialect, value: Any) -> None:
        bound = bind(dialect, value)
        assert bound == value
        assert type(bound) is type(value)

    @pytest.mark.parametrize("value", [bytearray(b"ab"), memoryview(b"ab")])
    def test_buffers_are_bound_as_bytes(self, dialect: Dialect, value: Any) -> None:
        assert bind(dialect, value) == b"ab"
        assert type(bind(dialect, value)) is bytes

    @pytest.mark.parametrize(
        ("value", "text"),
        [
            ({}, "{}"),
            ([], "[]"),
            ({"b": 1, "a": ["ä", None, True, 1.0]}, '{"b": 1, "a": ["\\u00e4", null, true, 1.0]}'),
            (OrderedDict(a=1), '{"a": 1}'),
            ([(1, 2)], "[[1, 2]]"),
            (Json(None), "null"),
            (Json("a"), '"a"'),
            (Json(1), "1"),
            (Json({"a": 1}), '{"a": 1}'),
        ],
    )
    def test_json_is_bound_as_text(self, dialect: Dialect, value: Any, text: str) -> None:
        bound = bind(dialect, value)
        assert bound == text if dialect is SQLITE else json.loads(bound) == json.loads(text)

    @pytest.mark.parametrize(
        ("value", "bound"), [(Color.RED, "red"), (Level.HIGH, 40), (Kind.ONE, "one")]
    )
    def test_enums_are_bound_as_their_values(
        self, dialect: Dialect, value: Enum, bound: Any
    ) -> None:
        assert bind(dialect, value) == bound
        assert type(bind(dialect, value)) is type(bound)

    def test_the_value_of_an_enum_is_bound_as_such_a_value(self, dialect: Dialect) -> None:
        assert bind(dialect, Kind.AT) == bind(dialect, MOMENT)

    @pytest.mark.parametrize(
        ("value", "plain"),
        [
            (Text("a"), "a"),
            (Number(5), 5),
            (Id(str(SOME_ID)), SOME_ID),
            (Moment(2026, 1, 2, 3, 4, 5, 6, UTC), MOMENT),
            (Duration(1), timedelta(1)),
        ],
    )
    def test_subclasses_are_bound_as_their_bases(
        self, dialect: Dialect, value: Any, plain: Any
    ) -> None:
        assert bind(dialect, value) == bind(dialect, plain)

    @pytest.mark.parametrize(
        "value",
        [
            "a\0b",
            "\ud800",
            Text("a\0"),
            2**63,
            -(2**63) - 1,
            Number(2**63),
            float("nan"),
            Decimal("NaN"),
            Decimal("Infinity"),
            datetime(2026, 1, 1),
            Moment(2026, 1, 1),
            datetime.min.replace(tzinfo=timezone(timedelta(hours=1))),
            datetime.max.replace(tzinfo=timezone(timedelta(hours=-1))),
            timedelta.max,
            timedelta.min,
            {"a": float("nan")},
            [float("inf")],
            {"a": {1}},
            [b"a"],
            [MOMENT],
            {"a": "\0"},
            {"\0": 1},
            [["\ud800"]],
            {(1, 2): 1},
            Json(float("nan")),
            Json("\0"),
            {1},
            (1, 2),
            1j,
            date(2026, 1, 1),
            object(),
            int,
            Array([2**63]),
            Array(["\0"]),
            Array([object()]),
        ],
        ids=repr,
    )
    def test_what_cannot_be_stored_is_refused_alike(self, dialect: Dialect, value: Any) -> None:
        with pytest.raises(BadValue) as caught:
            bind(dialect, value)
        assert caught.value.sql == "SELECT ?"

    def test_a_refusal_does_not_tell_the_value(self, dialect: Dialect) -> None:
        for value in ("hidden\0", {"a": "hidden\0"}, ["hidden", {1}], {"hidden"}, ("hidden",)):
            with pytest.raises(BadValue) as caught:
                bind(dialect, value)
            assert "hidden" not in str(caught.value)
            assert "hidden" not in repr(caught.value)

    def test_values_keep_their_order(self, dialect: Dialect) -> None:
        statement = dialect.compile("SELECT ?, ?, ?")
        assert dialect.bind(statement, (1, None, "a")) == [1, None, "a"]


class TestSQLite:
    @pytest.mark.parametrize(
        ("value", "bound"),
        [
            (SOME_ID, "516e0656-0ca1-4460-be09-b8164d5929d1"),
            (MOMENT, "2026-01-02 03:04:05.000006"),
            (timedelta(hours=25), "1970-01-02 01:00:00.000000"),
            (timedelta(0), "1970-01-01 00:00:00.000000"),
            (Decimal("1.50"), "1.50"),
            (Array([]), "[]"),
            (Array([1, None, "a", True]), '[1, null, "a", true]'),
            (Array([SOME_ID]), '["516e0656-0ca1-4460-be09-b8164d5929d1"]'),
            (Array([MOMENT, Color.RED]), '["2026-01-02 03:04:05.000006", "red"]'),
        ],
    )
    def test_what_the_engine_lacks_is_bound_as_text(self, value: Any, bound: str) -> None:
        assert bind(SQLITE, value) == bound


class TestPostgres:
    @pytest.mark.parametrize("value", [SOME_ID, MOMENT, timedelta(hours=25), Decimal("1.50")])
    def test_what_the_engine_has_is_bound_as_it_is(self, value: Any) -> None:
        assert bind(POSTGRES, value) == value

    def test_times_are_bound_in_utc(self) -> None:
        there = MOMENT.astimezone(timezone(timedelta(hours=5)))
        assert bind(POSTGRES, there).tzinfo is UTC
        assert bind(POSTGRES, there) == MOMENT

    def test_an_array_is_bound_as_a_list_of_bound_values(self) -> None:
        values = [1, None, "a", SOME_ID, Color.RED, {"a": 1}]
        assert bind(POSTGRES, Array(values)) == [1, None, "a", SOME_ID, "red", '{"a":1}']


def test_an_array_has_a_copy_of_the_values() -> None:
    values = [1]
    array = Array(values)
    values.append(2)
    assert array.values == [1]


@BOTH
class TestParameters:
    @pytest.mark.parametrize(
        ("sql", "params"),
        [
            ("SELECT 1", (1,)),
            ("SELECT ?", ()),
            ("SELECT ?", (1, 2)),
            ("SELECT ?, ?", [1]),
            ("SELECT '?'", [1]),
        ],
    )
    def test_another_number_of_parameters_is_refused(
        self, dialect: Dialect, sql: str, params: Any
    ) -> None:
        with pytest.raises(ParameterCount) as caught:
            dialect.bind(dialect.compile(sql), params)
        assert caught.value.sql == sql

    def test_the_refusal_tells_both_numbers_and_no_value(self, dialect: Dialect) -> None:
        with pytest.raises(ParameterCount, match="1 placeholders, 2 parameters") as caught:
            dialect.bind(dialect.compile("SELECT ?"), ("hidden", "hidden"))
        assert "hidden" not in str(caught.value)

    @pytest.mark.parametrize(
        "params", ["a", b"a", {"a": 1}, {1}, 1, None, iter([1]), range(1), UserList([1])], ids=repr
    )
    def test_parameters_are_a_tuple_or_a_list(self, dialect: Dialect, params: Any) -> None:
        with pytest.raises(UsageError, match="not a tuple or a list"):
            dialect.bind(dialect.compile("SELECT ?"), params)

    def test_a_named_tuple_is_a_tuple(self, dialect: Dialect) -> None:
        assert dialect.bind(dialect.compile("SELECT ?, ?"), Pair(1, 2)) == [1, 2]

    def test_the_parameters_are_left_alone(self, dialect: Dialect) -> None:
        params: list[Any] = [SOME_ID, {"a": 1}]
        dialect.bind(dialect.compile("SELECT ?, ?"), params)
        assert params == [SOME_ID, {"a": 1}]


@BOTH
class TestDialect:
    def test_pick_gives_what_is_for_this_engine(self, dialect: Dialect) -> None:
        assert dialect.pick(sqlite="sqlite", postgres="postgres") == dialect.name

    def test_a_statement_is_compiled_once(self, dialect: Dialect) -> None:
        assert dialect.compile("SELECT ?, 'once'") is dialect.compile("SELECT ?, 'once'")

    def test_an_error_is_raised_each_time(self, dialect: Dialect) -> None:
        for _ in range(2):
            with pytest.raises(Error):
                dialect.compile("SELECT '")

    def test_the_cache_is_bounded(self, dialect: Dialect) -> None:
        first = dialect.compile("SELECT 'the first'")
        for number in range(5_000):
            dialect.compile(f"SELECT {number}")
        assert dialect.compile("SELECT 'the first'") is not first

    def test_the_repr_names_the_engine(self, dialect: Dialect) -> None:
        assert repr(dialect) == f"<Dialect {dialect.name}>"


def test_each_engine_has_its_own_cache() -> None:
    assert SQLITE.compile("SELECT ?").text == "SELECT ?"
    assert POSTGRES.compile("SELECT ?").text == "SELECT $1"
