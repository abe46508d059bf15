"""Rows and records, from the values that each engine's driver gives."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from enum import IntEnum, StrEnum
from typing import Any, ClassVar, Literal, Self, get_type_hints
from uuid import UUID

import pytest

from prefect_db.dialect import POSTGRES, SQLITE, Dialect
from prefect_db.errors import BadValue, UnknownColumn, UsageError
from prefect_db.row import Record, Row, Rows, column_index, converter

BOTH = pytest.mark.parametrize("dialect", [SQLITE, POSTGRES], ids=["sqlite", "postgres"])

SOME_ID = UUID("516e0656-0ca1-4460-be09-b8164d5929d1")
MOMENT = datetime(2026, 1, 2, 3, 4, 5, 6, UTC)


class Kind(StrEnum):
    GOOD = "GOOD"
    BAD = "BAD"


class Level(IntEnum):
    HIGH = 40


def make_row(**values: Any) -> Row:
    return Row(tuple(values.values()), column_index(tuple(values)))


def holding(value: Any) -> Row:
    return make_row(it=value)


class TestRow:
    def test_a_column_by_index_and_by_name(self) -> None:
        row = make_row(a=1, b="x")
        assert (row[0], row[1], row["a"], row["b"]) == (1, "x", 1, "x")

    def test_a_negative_index_counts_from_the_end(self) -> None:
        assert make_row(a=1, b=2)[-1] == 2

    def test_a_slice_is_a_tuple(self) -> None:
        assert make_row(a=1, b=2, c=3)[1:] == (2, 3)

    def test_it_has_a_length_and_is_iterable(self) -> None:
        row = make_row(a=1, b=2)
        assert len(row) == 2
        assert list(row) == [1, 2]
        first, second = row
        assert (first, second) == (1, 2)

    def test_it_is_a_sequence(self) -> None:
        row = make_row(a=1, b=2)
        assert isinstance(row, Sequence)
        assert list(reversed(row)) == [2, 1]
        assert 2 in row
        assert 3 not in row
        assert row.index(2) == 1
        assert row.count(1) == 1

    def test_the_index_of_a_missing_value_is_an_error_of_the_stdlib(self) -> None:
        with pytest.raises(ValueError):
            make_row(a=1).index(2)

    @pytest.mark.parametrize("column", ["c", "", "A", " a", 2, -3, 10**30])
    def test_an_unknown_column_is_an_error_that_lists_the_columns(self, column: int | str) -> None:
        with pytest.raises(UnknownColumn, match="a, b") as caught:
            make_row(a="hidden", b=2)[column]
        assert repr(column) in str(caught.value)
        assert "hidden" not in str(caught.value)

    def test_an_unknown_column_is_a_lookup_error(self) -> None:
        with pytest.raises(LookupError):
            make_row(a=1)["b"]

    def test_a_name_that_occurs_twice_is_only_reached_by_index(self) -> None:
        row = Row((1, 2, 3), column_index(("a", "b", "a")))
        assert row["b"] == 2
        assert (row[0], row[2]) == (1, 3)
        with pytest.raises(UnknownColumn, match="two of that name"):
            row["a"]

    def test_it_becomes_a_dict(self) -> None:
        assert dict(make_row(a=1, b=None)) == {"a": 1, "b": None}
        assert make_row(a=1, b=2).keys() == ["a", "b"]

    def test_rows_with_the_same_names_and_values_are_equal(self) -> None:
        assert make_row(a=1, b=2) == make_row(a=1, b=2)
        assert hash(make_row(a=1, b=2)) == hash(make_row(a=1, b=2))

    @pytest.mark.parametrize(
        "other", [make_row(a=1, b=3), make_row(a=1, c=2), make_row(a=1), (1, 2), {"a": 1, "b": 2}]
    )
    def test_others_are_not(self, other: Any) -> None:
        assert make_row(a=1, b=2) != other

    def test_the_repr_has_no_values(self) -> None:
        assert repr(make_row(name="hidden", data="hidden")) == "<Row name, data>"
        assert "hidden" not in str(make_row(name="hidden"))

    def test_it_cannot_be_changed(self) -> None:
        row: Any = make_row(a=1)
        with pytest.raises(TypeError):
            row["a"] = 2
        with pytest.raises(AttributeError):
            row.a = 2

    @pytest.mark.parametrize(
        "copied", [copy.copy, copy.deepcopy, lambda r: pickle.loads(pickle.dumps(r))]
    )
    def test_it_can_be_copied(self, copied: Any) -> None:
        row = make_row(a=1, b="x")
        assert copied(row) == row


class TestRows:
    def rows(self) -> Rows:
        return Rows([(1, "a"), (2, "b"), (3, "c")], column_index(("number", "name")))

    def test_a_row_by_index(self) -> None:
        assert self.rows()[0] == make_row(number=1, name="a")
        assert self.rows()[-1]["name"] == "c"

    def test_a_slice_is_rows(self) -> None:
        part = self.rows()[1:]
        assert isinstance(part, Rows)
        assert [row["number"] for row in part] == [2, 3]
        assert part.keys() == ["number", "name"]

    def test_an_index_outside_is_an_index_error(self) -> None:
        with pytest.raises(IndexError):
            self.rows()[3]

    def test_it_has_a_length_and_is_iterable_again_and_again(self) -> None:
        rows = self.rows()
        assert len(rows) == 3
        assert [row["name"] for row in rows] == ["a", "b", "c"] == [row[1] for row in rows]

    def test_it_is_a_sequence(self) -> None:
        rows = self.rows()
        assert isinstance(rows, Sequence)
        assert [row[0] for row in reversed(rows)] == [3, 2, 1]
        assert rows[1] in rows
        assert rows.index(rows[2]) == 2

    def test_no_rows_are_false_and_keep_the_names(self) -> None:
        rows = Rows([], column_index(("a",)))
        assert not rows
        assert self.rows()
        assert rows.keys() == ["a"]

    def test_the_repr_has_no_values(self) -> None:
        rows = Rows([("hidden",), ("hidden",)], column_index(("a",)))
        assert repr(rows) == "<Rows 2 x a>"


class TestAccessors:
    @pytest.mark.parametrize(
        ("accessor", "on_sqlite", "on_postgres", "value"),
        [
            ("text", "a", "a", "a"),
            ("text", "", "", ""),
            ("text", 5, 5, "5"),
            ("text", 1, True, "1"),
            ("text", str(SOME_ID), SOME_ID, str(SOME_ID)),
            ("text", "2026-01-02 03:04:05.000006", MOMENT, "2026-01-02 03:04:05.000006"),
            (
                "text",
                "1970-01-01 00:00:01.000000",
                timedelta(seconds=1),
                "1970-01-01 00:00:01.000000",
            ),
            ("int", 5, 5, 5),
            ("int", "5", Decimal(5), 5),
            ("int", 1, True, 1),
            ("int", 2.0, Decimal("2.0"), 2),
            ("int", -(2**63), -(2**63), -(2**63)),
            ("float", 1.5, 1.5, 1.5),
            ("float", 2, 2, 2.0),
            ("float", "1.5", Decimal("1.5"), 1.5),
            ("bool", 1, True, True),
            ("bool", 0, False, False),
            ("uuid", str(SOME_ID), SOME_ID, SOME_ID),
            ("datetime", "2026-01-02 03:04:05.000006", MOMENT, MOMENT),
            (
                "datetime",
                "2026-01-02 03:04:05.000006",
                MOMENT.astimezone(timezone(timedelta(hours=3))),
                MOMENT,
            ),
            ("timedelta", "1970-01-02 01:00:00.000000", timedelta(hours=25), timedelta(hours=25)),
            ("timedelta", 0, timedelta(0), timedelta(0)),
            ("json", "{}", "{}", {}),
            ("json", "[]", "[]", []),
            ("json", "null", "null", None),
            ("json", '{"a": [1, "ä"]}', '{"a": [1, "ä"]}', {"a": [1, "ä"]}),
            ("json", 5, "5", 5),
            ("bytes", b"\0a", b"\0a", b"\0a"),
            ("bytes", "ä", b"\xc3\xa4", b"\xc3\xa4"),
        ],
    )
    def test_both_engines_give_the_same(
        self, accessor: str, on_sqlite: Any, on_postgres: Any, value: Any
    ) -> None:
        for stored in (on_sqlite, on_postgres):
            row = holding(stored)
            for column in (0, "it"):
                read = getattr(row, accessor)(column)
                assert read == value
                if not isinstance(stored, float):
                    assert type(read) is type(value)

    def test_a_time_is_read_in_utc(self) -> None:
        there = MOMENT.astimezone(timezone(timedelta(hours=3)))
        for stored in ("2026-01-02 03:04:05.000006", MOMENT, there):
            read = holding(stored).datetime("it")
            assert read is not None
            assert read.tzinfo is UTC

    ACCESSORS = ("text", "int", "float", "bool", "uuid", "datetime", "timedelta", "json", "bytes")

    @pytest.mark.parametrize("accessor", ACCESSORS)
    def test_null_is_none(self, accessor: str) -> None:
        assert getattr(holding(None), accessor)("it") is None

    @pytest.mark.parametrize("accessor", ACCESSORS)
    def test_an_unknown_column_is_an_error(self, accessor: str) -> None:
        with pytest.raises(UnknownColumn):
            getattr(holding(1), accessor)("other")

    @pytest.mark.parametrize(
        ("accessor", "stored"),
        [
            ("text", b"\xff"),
            *[("int", stored) for stored in ("x", "", "1.5", SOME_ID, MOMENT)],
            *[("int", stored) for stored in (1.5, Decimal("1.5"), float("inf"), float("nan"))],
            *[("int", Decimal(word)) for word in ("NaN", "Infinity")],
            *[("float", stored) for stored in ("x", "", SOME_ID, MOMENT)],
            *[("bool", stored) for stored in ("x", "false", "0", "", SOME_ID, MOMENT)],
            *[("uuid", stored) for stored in ("x", "", 1, 1.5, b"0" * 32, "0x" + "0" * 30, MOMENT)],
            *[("datetime", stored) for stored in ("x", "", "2026-01-01", 1, 1.5, b"", SOME_ID)],
            ("datetime", datetime(2026, 1, 1)),
            ("datetime", "2026-01-01 00:00:00+00:00"),
            *[("timedelta", stored) for stored in ("x", "", b"", SOME_ID, MOMENT)],
            ("timedelta", "1970-01-01 00:00:00+00:00"),
            *[("timedelta", stored) for stored in (10**20, 1e300, float("inf"), float("nan"))],
            *[("json", stored) for stored in ("x", "", "NaN", "[1,]")],
            *[("bytes", stored) for stored in (5, 1.5, True, SOME_ID, MOMENT)],
        ],
    )
    def test_what_is_no_such_thing_is_a_bad_value_that_names_the_column(
        self, accessor: str, stored: Any
    ) -> None:
        with pytest.raises(BadValue, match=f"column 'it' holds a .* read as {accessor}"):
            getattr(holding(stored), accessor)("it")

    def test_the_refusal_does_not_tell_the_value(self) -> None:
        for accessor in ("int", "float", "uuid", "datetime", "timedelta", "json"):
            with pytest.raises(BadValue) as caught:
                getattr(holding("hidden"), accessor)("it")
            assert "hidden" not in str(caught.value)

    @pytest.mark.parametrize("text", ["{}", "[]", '{"a": []}'])
    def test_json_is_fresh_each_time(self, text: str) -> None:
        row = holding(text)
        assert row.json("it") is not row.json("it")


@dataclass(slots=True)
class Everything(Record):
    a_text: str
    a_number: int
    a_float: float
    a_truth: bool
    an_id: UUID
    a_time: datetime
    a_duration: timedelta
    some_bytes: bytes
    a_kind: Kind
    a_level: Level
    an_object: dict[str, Any]
    a_list: list[str]
    anything: Any


STORED: dict[str, tuple[Any, Any, Any]] = {
    # Its name: on SQLite, on PostgreSQL, and what both become.
    "a_text": ("a", "a", "a"),
    "a_number": (5, 5, 5),
    "a_float": (1.5, 1.5, 1.5),
    "a_truth": (0, False, False),
    "an_id": (str(SOME_ID), SOME_ID, SOME_ID),
    "a_time": ("2026-01-02 03:04:05.000006", MOMENT, MOMENT),
    "a_duration": ("1970-01-01 00:00:01.000000", timedelta(seconds=1), timedelta(seconds=1)),
    "some_bytes": (b"\0a", b"\0a", b"\0a"),
    "a_kind": ("GOOD", "GOOD", Kind.GOOD),
    "a_level": (40, 40, Level.HIGH),
    "an_object": ('{"a": 1}', '{"a": 1}', {"a": 1}),
    "a_list": ('["a"]', '["a"]', ["a"]),
    "anything": ('[null, 1.5, "x"]', '[null, 1.5, "x"]', [None, 1.5, "x"]),
}
MANDATORY = [name for name in STORED if name != "anything"]


def stored_row(dialect: Dialect, **changed: Any) -> tuple[Any, ...]:
    at = dialect.pick(sqlite=0, postgres=1)
    return tuple(({name: kinds[at] for name, kinds in STORED.items()} | changed).values())


def read_one(annotation: Any, dialect: Dialect, stored: Any) -> Any:
    record = dataclasses.make_dataclass("Made", [("it", annotation)])
    (made,) = converter(record, dialect).many([(stored,)])
    return made.it


@BOTH
class TestConverter:
    def test_each_kind_of_field_is_read(self, dialect: Dialect) -> None:
        (record,) = converter(Everything, dialect).many([stored_row(dialect)])
        assert record == Everything(*[kinds[2] for kinds in STORED.values()])

    @pytest.mark.parametrize("name", STORED)
    def test_it_has_the_type_of_the_annotation(self, dialect: Dialect, name: str) -> None:
        (record,) = converter(Everything, dialect).many([stored_row(dialect)])
        assert type(getattr(record, name)) is type(STORED[name][2])

    @pytest.mark.parametrize("name", MANDATORY)
    def test_null_in_a_field_that_is_not_optional_is_a_bad_value(
        self, dialect: Dialect, name: str
    ) -> None:
        with pytest.raises(BadValue, match=rf"column {name} holds a NoneType that Everything"):
            converter(Everything, dialect).many([stored_row(dialect, **{name: None})])

    @pytest.mark.parametrize("name", STORED)
    def test_null_in_an_optional_field_is_none(self, dialect: Dialect, name: str) -> None:
        kind = get_type_hints(Everything)[name]
        assert read_one(kind | None, dialect, None) is None

    @pytest.mark.parametrize("name", STORED)
    def test_an_optional_field_is_read_as_one_that_is_not(
        self, dialect: Dialect, name: str
    ) -> None:
        kind = get_type_hints(Everything)[name]
        on_sqlite, on_postgres, value = STORED[name]
        stored = dialect.pick(sqlite=on_sqlite, postgres=on_postgres)
        assert read_one(kind | None, dialect, stored) == value

    @pytest.mark.parametrize("annotation", [dict, list, dict[str, Any], list[int], dict | None])
    def test_empty_json_is_fresh_in_each_record(self, dialect: Dialect, annotation: Any) -> None:
        record = dataclasses.make_dataclass("Made", [("it", annotation)])
        for text in ("{}", "[]"):
            first, second = converter(record, dialect).many([(text,), (text,)])
            assert first.it == second.it
            assert not first.it
            assert first.it is not second.it

    def test_json_null_is_none(self, dialect: Dialect) -> None:
        assert read_one(Any, dialect, "null") is None

    def test_a_time_is_in_utc(self, dialect: Dialect) -> None:
        there = MOMENT.astimezone(timezone(timedelta(hours=3)))
        stored = dialect.pick(sqlite="2026-01-02 03:04:05.000006", postgres=there)
        read = read_one(datetime, dialect, stored)
        assert read == MOMENT
        assert read.tzinfo is UTC

    @pytest.mark.parametrize(
        ("name", "stored"),
        [
            ("a_kind", "OTHER"),
            ("a_kind", "good"),
            ("a_level", 41),
            ("an_object", "{"),
            ("a_list", ""),
            ("anything", "NaN"),
        ],
    )
    def test_what_the_field_cannot_take_is_a_bad_value_that_names_the_column(
        self, dialect: Dialect, name: str, stored: Any
    ) -> None:
        rows = [stored_row(dialect), stored_row(dialect, **{name: stored})]
        with pytest.raises(BadValue, match=rf"column {name} holds a .* that Everything\.{name}"):
            converter(Everything, dialect).many(rows)

    def test_the_refusal_does_not_tell_the_value(self, dialect: Dialect) -> None:
        with pytest.raises(BadValue) as caught:
            converter(Everything, dialect).many([stored_row(dialect, a_kind="hidden")])
        assert "hidden" not in str(caught.value)

    def test_no_rows_are_no_records(self, dialect: Dialect) -> None:
        assert converter(Everything, dialect).many([]) == []

    def test_it_is_compiled_once(self, dialect: Dialect) -> None:
        assert converter(Everything, dialect) is converter(Everything, dialect)

    def test_the_columns_in_order_are_accepted(self, dialect: Dialect) -> None:
        converter(Everything, dialect).check("SELECT in order", lambda: tuple(STORED))

    @pytest.mark.parametrize(
        "names",
        [
            (),
            tuple(STORED)[1:],
            (*STORED, "more"),
            tuple(reversed(STORED)),
            ("other", *tuple(STORED)[1:]),
        ],
    )
    def test_other_columns_are_refused(self, dialect: Dialect, names: tuple[str, ...]) -> None:
        with pytest.raises(UsageError, match="Everything takes a_text, a_number") as caught:
            converter(Everything, dialect).check("SELECT others", lambda: names)
        assert caught.value.sql == "SELECT others"

    def test_a_refused_statement_is_refused_again(self, dialect: Dialect) -> None:
        for _ in range(2):
            with pytest.raises(UsageError):
                converter(Everything, dialect).check("SELECT again", lambda: ("a",))

    def test_only_a_statement_that_was_found_right_is_checked(self, dialect: Dialect) -> None:
        convert = converter(Everything, dialect)
        convert.check("SELECT right", lambda: tuple(STORED))
        with pytest.raises(UsageError):
            convert.check("SELECT wrong", lambda: ("a",))
        assert "SELECT right" in convert.checked
        assert "SELECT wrong" not in convert.checked

    @pytest.mark.parametrize(
        "annotation",
        [
            *[Decimal, date, set, set[str], tuple, tuple[int, ...], object, None, complex],
            *[int | str, int | str | None, Literal["a"], type, bytearray],
        ],
        ids=repr,
    )
    def test_a_type_that_no_column_has_is_refused(self, dialect: Dialect, annotation: Any) -> None:
        record = dataclasses.make_dataclass("Made", [("it", annotation)])
        with pytest.raises(UsageError, match=r"Made\.it"):
            converter(record, dialect)

    def test_a_type_that_does_not_exist_is_refused(self, dialect: Dialect) -> None:
        with pytest.raises(UsageError, match="Made"):
            converter(dataclasses.make_dataclass("Made", [("it", "Nowhere")]), dialect)

    @pytest.mark.parametrize("into", [dict, tuple, Row, Kind, object, int])
    def test_what_is_no_dataclass_is_refused(self, dialect: Dialect, into: Any) -> None:
        with pytest.raises(UsageError, match="no dataclass"):
            converter(into, dialect)

    @pytest.mark.parametrize("into", ["Everything", holding, 5, Kind.GOOD], ids=repr)
    def test_what_is_no_class_is_refused(self, dialect: Dialect, into: Any) -> None:
        with pytest.raises(UsageError, match="no dataclass"):
            converter(into, dialect)

    @pytest.mark.parametrize("name", ["record", "rows", "made", "v0", "UTC", "read_json"])
    def test_a_field_may_have_any_name(self, dialect: Dialect, name: str) -> None:
        annotations = [("first", UUID), ("second", datetime), ("third", Any), (name, str)]
        record = dataclasses.make_dataclass("Made", annotations)
        stored = dialect.pick(
            sqlite=(str(SOME_ID), "2026-01-01 00:00:00"), postgres=(SOME_ID, MOMENT)
        )
        (made,) = converter(record, dialect).many([(*stored, '{"a": 1}', "x")])
        assert getattr(made, name) == "x"
        assert (made.first, made.third) == (SOME_ID, {"a": 1})

    def test_a_field_that_is_not_given_to_the_constructor_is_no_column(
        self, dialect: Dialect
    ) -> None:
        (made,) = converter(WithDefaults, dialect).many([(1, "x")])
        assert (made.number, made.name, made.cache) == (1, "x", [])

    def test_a_field_that_is_only_given_by_name_is_read(self, dialect: Dialect) -> None:
        (made,) = converter(ByName, dialect).many([(1, "x")])
        assert made == ByName(number=1, name="x")

    def test_a_row_may_have_no_columns(self, dialect: Dialect) -> None:
        record = dataclasses.make_dataclass("Made", [])
        assert converter(record, dialect).many([(), ()]) == [record(), record()]

    @pytest.mark.parametrize("kind", ["Finished", "Frozen", "Own", "Setting"])
    def test_what_a_class_does_when_it_is_made_is_done(self, dialect: Dialect, kind: str) -> None:
        record = globals()[kind]
        (made,) = converter(record, dialect).many([(1, "x")])
        assert made == record(1, "x")
        assert made.name == "x!"

    def test_an_init_may_name_its_arguments_as_it_likes(self, dialect: Dialect) -> None:
        made, _ = converter(Renaming, dialect).many([(1, "x"), (2, "y")])
        assert (made.number, made.name) == (1, "x!")

    def test_an_init_of_a_text_is_one_of_its_own(self, dialect: Dialect) -> None:
        """As of a program that is given to `python -c`; so are those that `dataclass` makes."""
        scope: dict[str, Any] = {"dataclass": dataclass}
        exec(
            "@dataclass\nclass Made:\n    number: int\n"
            "    def __init__(self, number: int) -> None:\n        self.number = number + 1\n",
            scope,
        )
        assert converter(scope["Made"], dialect).many([(1,)])[0].number == 2

    def test_a_column_more_than_when_it_was_checked_is_told(self, dialect: Dialect) -> None:
        with pytest.raises(UsageError, match="2 columns; Counted takes number"):
            converter(Counted, dialect).many([(1, 2)])

    def test_so_is_what_its_new_does(self, dialect: Dialect) -> None:
        before = Counted.made
        assert converter(Counted, dialect).many([(1,), (2,)])[1].number == 2
        assert Counted.made == before + 2


@dataclass(slots=True)
class Finished:
    number: int
    name: str

    def __post_init__(self) -> None:
        self.name += "!"


@dataclass(frozen=True)
class Frozen:
    number: int
    name: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", f"{self.name}!")


@dataclass
class Own:
    number: int
    name: str

    def __init__(self, number: int, name: str) -> None:
        self.number = number
        self.name = f"{name}!"


@dataclass
class Setting:
    number: int
    name: str

    def __setattr__(self, key: str, value: Any) -> None:
        object.__setattr__(self, key, f"{value}!" if key == "name" else value)


@dataclass(init=False)
class Renaming:
    number: int
    name: str

    def __init__(self, first: int, second: str) -> None:
        self.number, self.name = first, f"{second}!"


@dataclass
class Counted:
    number: int
    made: ClassVar[int] = 0

    def __new__(cls, number: int) -> Self:
        cls.made += 1
        return super().__new__(cls)


@dataclass(slots=True)
class WithDefaults:
    number: int
    name: str = "default"
    cache: list[int] = field(default_factory=list, init=False)


@dataclass(slots=True)
class ByName:
    number: int = field(kw_only=True)
    name: str


class TestOfOneEngine:
    @pytest.mark.parametrize(
        ("annotation", "stored", "value"),
        [
            (timedelta, 0, timedelta(0)),
            (bool, 1, True),
            (Any, 5, 5),
        ],
    )
    def test_what_sqlite_stores_in_its_own_way(
        self, annotation: Any, stored: Any, value: Any
    ) -> None:
        assert read_one(annotation, SQLITE, stored) == value

    @pytest.mark.parametrize(
        ("annotation", "stored"),
        [
            (UUID, "x"),
            (UUID, "0x" + "0" * 30),
            (UUID, 5),
            (datetime, "x"),
            (datetime, "2026-01-01"),
            (datetime, 5),
            (timedelta, "x"),
            (timedelta, 10**20),
            (timedelta | None, 1e300),
        ],
    )
    def test_what_sqlite_should_not_hold_is_a_bad_value(self, annotation: Any, stored: Any) -> None:
        with pytest.raises(BadValue, match="column it holds a"):
            read_one(annotation, SQLITE, stored)

    @pytest.mark.parametrize(
        ("annotation", "value"), [(float, 2.5), (int, 2), (float | None, 2.5), (int | None, 2)]
    )
    def test_a_numeric_of_postgresql_is_a_number(self, annotation: Any, value: float) -> None:
        """sum() and avg() of integers are numeric there, and int or float on SQLite."""
        read = read_one(annotation, POSTGRES, Decimal(value))
        assert read == value
        assert type(read) is type(value)


class TestRecord:
    def test_its_fields_are_the_columns(self) -> None:
        assert Everything.columns == ", ".join(STORED)
        assert Everything.marks == ", ".join("?" * len(STORED))

    def test_its_params_are_the_values_in_order(self) -> None:
        values = [kinds[2] for kinds in STORED.values()]
        assert Everything(*values).params() == tuple(values)

    def test_the_fields_of_its_base_come_first(self) -> None:
        assert Derived.columns == "id, name, number"
        assert Derived(SOME_ID, "x", 1).params() == (SOME_ID, "x", 1)

    def test_a_class_variable_is_no_column(self) -> None:
        assert WithConstant.columns == "id"
        assert WithConstant(SOME_ID).params() == (SOME_ID,)

    def test_a_field_declared_again_is_one_column(self) -> None:
        assert Redeclared.columns == "id, name"
        assert [each.name for each in dataclasses.fields(Redeclared)] == ["id", "name"]

    @BOTH
    @pytest.mark.parametrize("kind", ["Derived", "WithConstant", "Redeclared"])
    def test_its_columns_are_what_its_converter_takes(self, dialect: Dialect, kind: str) -> None:
        record = globals()[kind]
        converter(record, dialect).check(
            f"SELECT of {kind}", lambda: tuple(record.columns.split(", "))
        )

    def test_it_has_no_dict(self) -> None:
        assert not hasattr(WithConstant(SOME_ID), "__dict__")


@dataclass(slots=True)
class Base(Record):
    id: UUID
    name: str


@dataclass(slots=True)
class Derived(Base):
    number: int


@dataclass(slots=True)
class WithConstant(Record):
    LIMIT: ClassVar[int] = 5
    id: UUID


@dataclass(slots=True)
class Redeclared(Base):
    id: UUID
