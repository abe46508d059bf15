"""The codecs, held against the stdlib: json, uuid and datetime."""

from __future__ import annotations

import copy
import json
import pickle
import re
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from typing import Any
from uuid import UUID, uuid4
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from prefect_db import values
from prefect_db.dialect import POSTGRES, SQLITE
from prefect_db.errors import BadValue
from prefect_db.row import converter

MANY = settings(deadline=None, max_examples=200)


@dataclass
class Holding:
    it: Any


def in_record(text: str) -> Any:
    """What a record reads a JSON text as, on both engines."""
    on_sqlite, on_postgres = (
        converter(Holding, dialect).many([(text,)])[0].it for dialect in (SQLITE, POSTGRES)
    )
    assert exactly(on_sqlite) == exactly(on_postgres)
    return on_sqlite


# No NUL and no lone surrogate: those are refused.
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXTS
)
JSON_VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner) | st.dictionaries(TEXTS, inner), max_leaves=20
)
DIGITS = st.text("0123456789", min_size=1, max_size=40)
NUMBERS = st.builds(
    "{}{}{}{}".format,
    st.sampled_from(["", "-"]),
    DIGITS,
    st.just("") | DIGITS.map(".{}".format),
    st.just("") | st.builds("{}{}".format, st.sampled_from(["e", "E+", "e-"]), st.integers(0, 500)),
)
ZONES = st.sampled_from(
    [
        UTC,
        timezone(timedelta(0)),
        timezone(timedelta(hours=14)),
        timezone(-timedelta(hours=23, minutes=59, seconds=59, microseconds=1)),
        ZoneInfo("UTC"),
        ZoneInfo("Europe/Berlin"),
        ZoneInfo("Asia/Kathmandu"),
    ]
)
MOMENTS = st.datetimes(
    datetime(1, 1, 3), datetime(9999, 12, 29), timezones=ZONES, allow_imaginary=False
)
DURATIONS = st.timedeltas(datetime.min - datetime(1970, 1, 1), datetime.max - datetime(1970, 1, 1))
RUBBISH_UUIDS = [
    "",
    "x",
    "0" * 31,
    "0" * 33,
    "0x" + "0" * 30,
    "0X" + "0" * 30,
    "0_" + "0" * 30,
    "0_0" * 10 + "00",
    "+" + "0" * 31,
    " " + "0" * 31,
    "0" * 31 + " ",
    " " * 2 + "0" * 30,
    "\n" + "0" * 30 + "\t",
    "0" * 31 + "\0",
    "٣" * 32,
    "０" * 32,
    "g" * 32,
    "00 00" * 8,
    "-" * 32,
]


class Color(StrEnum):
    RED = "red"


class Level(IntEnum):
    HIGH = 40


class Label(str):
    __slots__ = ()


class Firsts(dict[str, list[int]]):
    """Says of itself something else than it holds."""

    def items(self) -> Any:
        return [(key, values[0]) for key, values in super().items()]


@dataclass
class Alike:
    it: int

    def __eq__(self, other: object) -> bool:
        return other == {"it": self.it}

    __hash__ = None  # type: ignore[assignment]


SOME_ID = UUID("0c1a2b3c-0000-7000-8000-000000000001")


class Plain(Enum):
    ONE = 1
    NAN = float("nan")


def refuse(word: str) -> Any:
    raise ValueError(word)


def stdlib_json(text: str) -> Any:
    """What the stdlib reads, but NaN and Infinity, which are no JSON."""
    return json.loads(text, parse_constant=refuse)


def exactly(value: Any) -> str:
    """A text that tells 1 from 1.0 and True, -0.0 from 0.0, and one order of keys from another."""
    return repr(value)


@pytest.fixture(params=[values.dump_json, values.dump_jsonb])
def dump(request: pytest.FixtureRequest) -> Callable[[Any], str]:
    chosen: Callable[[Any], str] = request.param
    return chosen


class TestDumpJson:
    @given(JSON_VALUES)
    @MANY
    def test_it_is_the_default_form_of_the_stdlib(self, value: Any) -> None:
        assert values.dump_json(value) == json.dumps(value)

    @given(JSON_VALUES)
    @MANY
    def test_for_jsonb_it_says_the_same(self, value: Any) -> None:
        assert exactly(json.loads(values.dump_jsonb(value))) == exactly(value)

    @pytest.mark.parametrize(
        "value",
        [
            (1, (2,)),
            Color.RED,
            [Level.HIGH],
            {Color.RED: Level.HIGH},
            Label("a"),
            OrderedDict(b=1, a=2),
            Firsts(a=[1, 2]),
            [Firsts(a=[1, 2])],
            {7: 1, None: 2, True: 3, 1.5: 4},
            10**400,
            -0.0,
            1e-320,
            "\\u0000 and \\ud800 spelled out",
            '\x01\x7f\u2028😀"\\/',
            "\ue000",
        ],
        ids=repr,
    )
    def test_odd_values_too(self, value: Any) -> None:
        text = json.dumps(value)
        assert values.dump_json(value) == text
        assert exactly(json.loads(values.dump_jsonb(value))) == exactly(json.loads(text))

    @pytest.mark.parametrize(
        "value",
        [
            float("nan"),
            [float("inf")],
            {"a": -float("inf")},
            {float("nan"): 1},
            {1},
            b"a",
            {"a": float("nan"), "b": None},
            [None, {"a": [float("-inf")]}],
            datetime(2026, 1, 1, tzinfo=UTC),
            [date(2026, 1, 1)],
            Holding(1),
            Alike(1),
            SOME_ID,
            {"id": SOME_ID, "none": None},
            {SOME_ID: 1},
            Plain.ONE,
            [Plain.NAN],
            {Plain.ONE: 1},
            Decimal(1),
            1j,
            object(),
            {(1, 2): 3},
            {b"a": 1},
            10**5000,
        ],
        ids=lambda value: type(value).__name__,
    )
    def test_what_is_no_json_is_refused(self, dump: Callable[[Any], str], value: Any) -> None:
        with pytest.raises(BadValue, match="not a JSON value"):
            dump(value)

    def test_a_cycle_is_refused(self, dump: Callable[[Any], str]) -> None:
        cycle: list[Any] = []
        cycle.append({"a": cycle})
        with pytest.raises(BadValue, match="not a JSON value"):
            dump(cycle)

    def test_nesting_too_deep_for_the_stdlib_is_refused(self, dump: Callable[[Any], str]) -> None:
        deep: list[Any] = []
        for _ in range(100_000):
            deep = [deep]
        with pytest.raises(BadValue, match="not a JSON value"):
            dump(deep)

    @pytest.mark.parametrize("bad", ["a\0", "\ud800", "\udfffa", "\udc00\ud800a", Label("\0")])
    @pytest.mark.parametrize(
        "wrap",
        [
            lambda bad: bad,
            lambda bad: [[bad]],
            lambda bad: ("a", (bad,)),
            lambda bad: {bad: 1},
            lambda bad: {"a": {"b": bad}},
            lambda bad: {"a": [{bad: None}]},
        ],
    )
    def test_a_nul_or_a_lone_surrogate_is_refused_anywhere(
        self, dump: Callable[[Any], str], wrap: Any, bad: str
    ) -> None:
        with pytest.raises(BadValue, match=r"NUL|surrogate"):
            dump(wrap(bad))


class TestLoadJson:
    @given(
        JSON_VALUES | st.recursive(st.text() | st.floats() | st.integers(), st.lists),
        st.booleans(),
        st.sampled_from([None, 0, 1, "\t"]),
        st.sampled_from([(",", ":"), (", ", ": "), (" ,\n", " :\r ")]),
    )
    @MANY
    def test_it_reads_what_the_stdlib_reads(
        self, value: Any, ascii_only: bool, indent: Any, separators: tuple[str, str]
    ) -> None:
        text = json.dumps(value, ensure_ascii=ascii_only, indent=indent, separators=separators)
        self.check(text)

    @given(NUMBERS)
    @example("-0")
    @example("-0.0")
    @example("0e0")
    @example("1e400")
    @example("-1e400")
    @example("1e-400")
    @example("4.9e-324")
    @example("1.7976931348623158e308")
    @example("9007199254740993")
    @example("9007199254740993.0")
    @example("9223372036854775807")
    @example("9223372036854775808")
    @example("18446744073709551615")
    @example("18446744073709551616")
    @example("123456789012345678.5")
    @example("0.1000000000000000055511151231257827")
    @MANY
    def test_numbers_come_as_from_the_stdlib(self, number: str) -> None:
        self.check(number)
        self.check(f'[{{"a":{number}}},{number}]')

    @given(
        st.lists(
            st.sampled_from(
                [
                    *["{", "}", "[", "]", ",", ":", " ", '"a"', '"', "1", "-", "0", ".", "e"],
                    *["true", "null", "NaN", "\\", "\\u", "d800", "\\ud83d\\ude00"],
                    *["\ufeff", "\0", "'", "é"],
                ]
            ),
            max_size=12,
        ).map("".join)
    )
    @settings(MANY, max_examples=500)
    def test_any_text_is_read_or_refused_as_by_the_stdlib(self, text: str) -> None:
        self.check(text)

    @pytest.mark.parametrize(
        "text",
        [
            '"\\ud800"',
            '["\\udc00\\ud800"]',
            '{"\\ud800": 1}',
            '"\\u0000"',
            '{"a": 1, "b": 2, "a": 3}',
            '{"a": {"b": 1}, "a": {}}',
            '["twenty characters, and \ud800"]',
            "[" * 500 + "]" * 500,
            f"[{10**400}]",
            f'{{"a": -{2**64}}}',
            " \t\r\n[ ] ",
            "",
            " ",
            "[1,]",
            '{"a":1,}',
            "01",
            "1.",
            ".5",
            "+1",
            "1_0",
            "0x1",
            "nul",
            "NaN",
            "[Infinity]",
            "-Infinity",
            "\ufeff1",
            "\xa01",
            '"\t"',
            "// 1",
            "'a'",
            '"a" "b"',
            "1\0",
            "٣",
        ],
    )
    def test_odd_texts(self, text: str) -> None:
        self.check(text)

    @pytest.mark.parametrize("before", range(20))
    @pytest.mark.parametrize("number", ["9223372036854775809", f"{2**64}", f"-{10**30}"])
    def test_a_long_integer_is_exact_wherever_it_stands(self, number: str, before: int) -> None:
        self.check(f'["{"x" * before}",{number},"{"x" * 50}"]')

    @pytest.mark.parametrize("depth", [900, 1023, 1024, 1025, 100_000])
    def test_deep_nesting_is_read_or_refused(self, depth: int) -> None:
        try:
            value = values.load_json("[" * depth + "]" * depth)
        except BadValue:
            assert depth > 900
            return
        seen = 1
        while value:
            (value,) = value
            seen += 1
        assert seen == depth

    def test_the_refusal_does_not_tell_the_text(self) -> None:
        with pytest.raises(BadValue) as caught:
            values.load_json('{"password": hidden}')
        assert "hidden" not in str(caught.value)

    def check(self, text: str) -> None:
        try:
            expected = stdlib_json(text)
        except ValueError:
            with pytest.raises(BadValue):
                values.load_json(text)
            with pytest.raises(BadValue):
                in_record(text)
        else:
            assert exactly(values.load_json(text)) == exactly(expected)
            # A record may remember of the first time how it is to be read.
            assert exactly(in_record(text)) == exactly(expected)

    def test_only_so_many_texts_are_remembered(self) -> None:
        for number in range(5000):
            assert in_record(f'{{"number": {number}}}') == {"number": number}
            assert len(values.plain_json) <= 2048


class TestReadJson:
    @pytest.mark.parametrize("text", ["{}", "[]", '{"a": []}', "[[]]"])
    def test_each_reading_is_a_fresh_value(self, text: str) -> None:
        first = values.read_json(text)
        assert first == stdlib_json(text)
        assert first is not values.read_json(text)

    @pytest.mark.parametrize("number", [0, 1, -1.5, 2**63 - 1])
    def test_a_number_that_sqlite_made_of_the_text_stays(self, number: float) -> None:
        assert exactly(values.read_json(number)) == exactly(number)

    @given(JSON_VALUES)
    @MANY
    def test_what_was_dumped_is_read_again(self, value: Any) -> None:
        assert exactly(values.read_json(values.dump_json(value))) == exactly(value)


class TestDatetime:
    @given(MOMENTS)
    @MANY
    def test_the_stored_text_is_read_as_the_same_moment_in_utc(self, moment: datetime) -> None:
        read = values.read_datetime(values.datetime_text(moment))
        assert read == moment.astimezone(UTC)
        assert read.tzinfo is UTC

    @given(MOMENTS)
    @MANY
    def test_the_stored_text_is_utc_with_six_digits_and_no_zone(self, moment: datetime) -> None:
        text = values.datetime_text(moment)
        assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{6}", text)
        assert text == moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S.%f").zfill(26)

    def test_texts_sort_as_the_moments_do(self) -> None:
        moments = [datetime(1, 1, 1), datetime(999, 1, 1), datetime(2026, 1, 1), datetime.max]
        texts = [values.datetime_text(moment.replace(tzinfo=UTC)) for moment in moments]
        assert texts == sorted(texts)

    @pytest.mark.parametrize(
        ("text", "moment"),
        [
            ("2026-01-02 03:04:05.774000", datetime(2026, 1, 2, 3, 4, 5, 774000, UTC)),
            ("2026-01-02 03:04:05", datetime(2026, 1, 2, 3, 4, 5, 0, UTC)),
            ("2026-01-02T03:04:05.000006", datetime(2026, 1, 2, 3, 4, 5, 6, UTC)),
            ("0001-01-01 00:00:00.000000", datetime(1, 1, 1, tzinfo=UTC)),
        ],
    )
    def test_stored_texts_are_read(self, text: str, moment: datetime) -> None:
        assert values.read_datetime(text) == moment

    @pytest.mark.parametrize(
        "text",
        [
            *["", "x", "0", "2026-13-01 00:00:00", "2026-01-01T00:00:00Z", "now"],
            *["2026-01-01 00:00:00+02:00", "2026-01-01", "20260101", "2026-W01", "2026-W01-1"],
        ],
    )
    def test_a_text_that_is_no_stored_time_is_refused(self, text: str) -> None:
        """A date alone would come out without a time zone."""
        with pytest.raises((ValueError, BadValue)):
            values.read_datetime(text)

    def test_a_datetime_is_read_in_utc(self) -> None:
        there = datetime(2026, 7, 1, 12, tzinfo=ZoneInfo("Europe/Berlin"))
        assert values.read_datetime(there) == there
        assert values.read_datetime(there).tzinfo is UTC

    @pytest.mark.parametrize("convert", [values.as_utc, values.datetime_text, values.read_datetime])
    def test_a_naive_datetime_is_refused(self, convert: Any) -> None:
        with pytest.raises(BadValue, match="time zone"):
            convert(datetime(2026, 1, 1))

    @pytest.mark.parametrize(
        "moment",
        [
            datetime.min.replace(tzinfo=timezone(timedelta(hours=1))),
            datetime.max.replace(tzinfo=timezone(timedelta(hours=-1))),
        ],
    )
    def test_a_moment_outside_the_years_of_utc_is_refused(self, moment: datetime) -> None:
        with pytest.raises(BadValue, match="9999"):
            values.datetime_text(moment)

    def test_the_hour_that_comes_twice_keeps_its_place(self) -> None:
        first = datetime(2026, 10, 25, 2, 30, tzinfo=ZoneInfo("Europe/Berlin"))
        assert values.datetime_text(first) == "2026-10-25 00:30:00.000000"
        assert values.datetime_text(first.replace(fold=1)) == "2026-10-25 01:30:00.000000"


class TestToDatetime:
    @pytest.mark.parametrize(
        "given_",
        [
            "2026-01-02T03:04:05Z",
            "2026-01-02T04:04:05+01:00",
            "2026-01-02 03:04:05+00:00",
            datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
            datetime(2026, 1, 2, 4, 4, 5, tzinfo=ZoneInfo("Europe/Berlin")),
        ],
    )
    def test_a_clients_time_is_read_in_utc(self, given_: Any) -> None:
        read = values.to_datetime(given_)
        assert read == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
        assert read.tzinfo is UTC

    @pytest.mark.parametrize(
        "given_",
        [
            *["", "x", "2026-01-02T03:04:05", "2026-01-02", "0001-01-01T00:00:00+01:00", None, 0],
            *[1.5, b"2026-01-02T03:04:05Z", datetime(2026, 1, 1), timedelta(1)],
        ],
        ids=repr,
    )
    def test_what_is_no_time_is_refused(self, given_: Any) -> None:
        with pytest.raises(BadValue):
            values.to_datetime(given_)


class TestTimedelta:
    @given(DURATIONS)
    @MANY
    def test_the_stored_text_is_read_as_the_same_duration(self, duration: timedelta) -> None:
        assert values.read_timedelta(values.timedelta_text(duration)) == duration

    @pytest.mark.parametrize(
        ("duration", "text"),
        [
            (timedelta(0), "1970-01-01 00:00:00.000000"),
            (timedelta(seconds=5.825841), "1970-01-01 00:00:05.825841"),
            (timedelta(hours=25), "1970-01-02 01:00:00.000000"),
            (timedelta(microseconds=-1), "1969-12-31 23:59:59.999999"),
            (timedelta(days=-719162), "0001-01-01 00:00:00.000000"),
        ],
    )
    def test_the_stored_text_is_the_epoch_and_the_duration(
        self, duration: timedelta, text: str
    ) -> None:
        assert values.timedelta_text(duration) == text

    @pytest.mark.parametrize(
        "duration", [timedelta.max, timedelta.min, timedelta(days=-719163), timedelta(days=2932897)]
    )
    def test_a_duration_that_no_datetime_holds_is_refused(self, duration: timedelta) -> None:
        with pytest.raises(BadValue, match="1970"):
            values.timedelta_text(duration)

    @pytest.mark.parametrize(
        ("stored", "duration"),
        [
            (0, timedelta(0)),
            (1.5, timedelta(seconds=1.5)),
            ("1970-01-01 00:00:01", timedelta(seconds=1)),
            (timedelta(days=3), timedelta(days=3)),
        ],
    )
    def test_other_stored_forms_are_read(self, stored: Any, duration: timedelta) -> None:
        assert values.read_timedelta(stored) == duration


class TestUUID:
    @given(st.uuids())
    @MANY
    def test_the_stored_text_is_read_as_the_same_uuid(self, value: UUID) -> None:
        for text in (str(value), str(value).upper(), value.hex):
            assert values.read_uuid(text) == value == UUID(text)

    def test_it_is_a_uuid_in_every_respect(self) -> None:
        value = uuid4()
        read = values.read_uuid(str(value))
        assert type(read) is UUID
        assert hash(read) == hash(value)
        assert (str(read), repr(read), read.version) == (str(value), repr(value), 4)
        assert read.is_safe is value.is_safe
        assert pickle.loads(pickle.dumps(read)) == value
        assert copy.deepcopy(read) == value
        assert not read < value

    def test_a_uuid_stays(self) -> None:
        value = uuid4()
        assert values.read_uuid(value) is value

    @pytest.mark.parametrize("text", RUBBISH_UUIDS, ids=repr)
    def test_rubbish_is_refused(self, text: str) -> None:
        """More strictly than by uuid.UUID, which takes what int() takes."""
        with pytest.raises(ValueError):
            values.read_uuid(text)

    @given(st.text("0123456789abcdef", min_size=16, max_size=16), st.text("0Aagx_-+ \n٣"))
    @MANY
    def test_only_hexadecimal_digits_are_read(self, digits: str, other: str) -> None:
        text = digits + other[:16].ljust(16, "0")
        if re.fullmatch(r"[0-9a-fA-F]{32}", text):
            assert values.read_uuid(text) == UUID(text)
        else:
            with pytest.raises(ValueError):
                values.read_uuid(text)


class TestToUUID:
    def test_a_clients_uuid_is_read(self) -> None:
        value = uuid4()
        assert values.to_uuid(value) is value
        assert values.to_uuid(str(value)) == value

    @pytest.mark.parametrize("given_", [*RUBBISH_UUIDS, None, 1, b"0" * 32, ["0" * 32]], ids=repr)
    def test_what_is_no_uuid_is_refused(self, given_: Any) -> None:
        with pytest.raises(BadValue):
            values.to_uuid(given_)


class TestText:
    @given(TEXTS)
    @MANY
    def test_a_text_stays(self, text: str) -> None:
        assert values.check_text(text) is text

    @pytest.mark.parametrize(
        ("text", "reason"),
        [("\0", "NUL"), ("a\0b", "NUL"), ("\ud800", "surrogate"), ("a\udfff", "surrogate")],
    )
    def test_what_postgresql_cannot_hold_is_refused(self, text: str, reason: str) -> None:
        with pytest.raises(BadValue, match=reason):
            values.check_text(text)

    @pytest.mark.parametrize(
        ("stored", "text"),
        [
            ("a", "a"),
            ("", ""),
            (1, "1"),
            (1.5, "1.5"),
            (True, "1"),
            (False, "0"),
            (b"\xc3\xa4", "ä"),
            (Decimal("1.50"), "1.50"),
            (UUID(int=1), "00000000-0000-0000-0000-000000000001"),
            (timedelta(hours=1), "1970-01-01 01:00:00.000000"),
            (datetime(2026, 1, 1, tzinfo=UTC), "2026-01-01 00:00:00.000000"),
        ],
    )
    def test_it_is_read_in_the_form_of_sqlite(self, stored: Any, text: str) -> None:
        assert values.read_text(stored) == text


class TestBytesAndBool:
    @pytest.mark.parametrize("stored", [b"ab", bytearray(b"ab"), memoryview(b"ab"), "ab"])
    def test_bytes_are_read(self, stored: Any) -> None:
        assert values.read_bytes(stored) == b"ab"
        assert type(values.read_bytes(stored)) is bytes

    @pytest.mark.parametrize("stored", [5, 10**15, 1.5, True, [1, 2]], ids=repr)
    def test_what_is_no_bytes_is_refused(self, stored: Any) -> None:
        """bytes(5) would be five zeros."""
        with pytest.raises((TypeError, ValueError, BadValue)):
            values.read_bytes(stored)

    @pytest.mark.parametrize(
        ("stored", "value"), [(True, True), (False, False), (1, True), (0, False), (2, True)]
    )
    def test_truth_is_read(self, stored: Any, value: bool) -> None:
        assert values.read_bool(stored) is value

    @pytest.mark.parametrize("stored", ["false", "0", "", b"\0", timedelta(1)], ids=repr)
    def test_what_is_no_truth_value_is_refused(self, stored: Any) -> None:
        with pytest.raises((TypeError, ValueError, BadValue)):
            values.read_bool(stored)
