"""Python values to and from what the engines store, in Prefect's storage formats.

SQLite has text for UUIDs, times (UTC, blank, six digits, no zone), durations (added to the Unix
epoch) and JSON (the stdlib's default form); PostgreSQL has types of its own for all of them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import lru_cache
from typing import Any, Final
from uuid import UUID

import orjson

from prefect_db.errors import BadValue

Codec = Callable[[Any], Any]


class Array:
    """A list bound as one array parameter, for `= ANY(?)` or `IN (SELECT value FROM json_each(?))`.

    A plain list is bound as JSON; this is an array on PostgreSQL and, as SQLite has none, JSON
    text there. PostgreSQL may need the type: `= ANY(CAST(? AS uuid[]))`.
    """

    __slots__ = ("values",)

    def __init__(self, values: Sequence[Any]) -> None:
        self.values = to_list(values)


class Json:
    """A JSON value that is no dict or list: without it a str is a text, and None is SQL NULL."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value


def _refuse_constant(word: str) -> Any:
    raise ValueError(f"{word} is no JSON")


def _json_encoder() -> Callable[[Any], str]:
    """`JSONEncoder(allow_nan=False).encode`, which makes its C encoder anew for each value, which
    takes as long as a small one."""
    encoder = json.JSONEncoder(allow_nan=False)
    make = getattr(json.encoder, "c_make_encoder", None)
    if make is None:
        return encoder.encode
    # No markers of circles: the recursion limit ends those.
    pieces = make(
        None,
        encoder.default,
        json.encoder.encode_basestring_ascii,
        None,
        ": ",
        ", ",
        False,
        False,
        False,
    )
    return lambda value: "".join(pieces(value, 0))


_orjson: Final = orjson.dumps
# What has a way of its own to be JSON, or to be equal to it, is for the stdlib to take or refuse.
_PLAIN_TYPES: Final = (
    orjson.OPT_PASSTHROUGH_SUBCLASS
    | orjson.OPT_PASSTHROUGH_DATACLASS
    | orjson.OPT_PASSTHROUGH_DATETIME
)
decode_json: Final = orjson.loads
_encode_json = _json_encoder()
_decode_json = json.JSONDecoder(parse_constant=_refuse_constant).decode
# Digits of an integer that may have more than 64 bits.
_LONG: Final = 19
_LONG_NUMBER: Final = b"0" * _LONG
_DIGITS_AS_ZERO: Final = bytes.maketrans(b"123456789", b"000000000")


def dump_json(value: Any) -> str:
    """The text that Prefect stores for a JSON value: the stdlib's default form.

    Raises:
        BadValue: The value is no JSON (NaN, a set, a cycle), or a text in it has a NUL or a lone
            surrogate, which PostgreSQL's jsonb cannot hold.
    """
    if not value:
        kind = type(value)
        if kind is dict:
            return "{}"
        if kind is list:
            return "[]"
    try:
        text = _encode_json(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise BadValue(f"not a JSON value ({error})") from error
    if "\\u0000" in text or "\\ud" in text:
        _check_texts(value)
    return text


def dump_jsonb(value: Any) -> str:
    """A JSON text of the value, in any form: PostgreSQL's jsonb has one of its own.

    By orjson, which takes less time than `dump_json` even though what it wrote is read again: it
    would write NaN as null, and a UUID as its text.

    Raises:
        BadValue: As `dump_json`.
    """
    if not value:
        return dump_json(value)
    try:
        encoded = _orjson(value, None, _PLAIN_TYPES)
        if b"\\u0000" not in encoded and decode_json(encoded) == value:
            return encoded.decode()
    except (TypeError, ValueError, RecursionError):
        pass
    return dump_json(value)


def _check_texts(value: Any) -> None:
    if isinstance(value, str):
        check_text(value)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            _check_texts(key)
            _check_texts(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            _check_texts(item)


def _has_no_long_number(text: str) -> bool:
    return _LONG_NUMBER not in text.encode().translate(_DIGITS_AS_ZERO)


# Texts that `decode_json` has read as the stdlib does. Policies, labels and tags come again and
# again, and to look for a long number takes as long as to decode them.
plain_json: Final[set[str]] = set()
_MOST_PLAIN: Final = 2048
_SHORT: Final = 1024


def load_json(text: str) -> Any:
    """The value of a JSON text, as the stdlib reads it, by orjson where the two agree.

    orjson turns integers over 64 bits into floats and refuses lone surrogates and deep nesting.

    Raises:
        BadValue: The text is no JSON.
    """
    try:
        if len(text) < _LONG or _has_no_long_number(text):
            value = decode_json(text)
            if len(text) < _SHORT:
                if len(plain_json) >= _MOST_PLAIN:
                    plain_json.clear()
                plain_json.add(text)
            return value
    except ValueError:
        pass
    try:
        return _decode_json(text)
    except (ValueError, RecursionError) as error:
        raise BadValue(f"a stored text is no JSON ({error})") from error


_EPOCH: Final = datetime(1970, 1, 1)
_MAX_INT: Final = 2**63 - 1


def check_text(value: str) -> str:
    """The text itself.

    Raises:
        BadValue: It is none, or has a NUL or a lone surrogate, which PostgreSQL cannot store.
    """
    if not isinstance(value, str):
        raise BadValue(f"a {type(value).__name__} where a text belongs")
    if "\0" in value:
        raise BadValue("a text with a NUL character")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise BadValue("a text with a lone surrogate") from error
    return value


def to_text(value: Any) -> str | None:
    """The text, or None.

    Raises:
        BadValue: See `check_text`.
    """
    return None if value is None else check_text(value)


def to_bool(value: Any) -> bool:
    """The truth value itself.

    Raises:
        BadValue: It is none.
    """
    if not isinstance(value, bool):
        raise BadValue(f"a {type(value).__name__} where True or False belongs")
    return value


def _bind_int(value: int) -> int:
    if -_MAX_INT - 1 <= value <= _MAX_INT:
        return value
    raise BadValue("an integer of more than 64 bits")


def _bind_float(value: float) -> float:
    if value != value:
        raise BadValue("NaN, which SQLite would store as NULL")
    return value


def _bind_decimal(value: Decimal) -> Decimal:
    if not value.is_finite():
        raise BadValue("a Decimal that is no finite number")
    return value


def as_utc(value: datetime) -> datetime:
    """The same moment in UTC.

    Raises:
        BadValue: It has no time zone, or lies outside the years 1 to 9999.
    """
    if value.tzinfo is UTC:
        return value
    if value.utcoffset() is None:
        raise BadValue("a datetime without a time zone; say which, as in datetime.now(UTC)")
    try:
        return value.astimezone(UTC)
    except OverflowError as error:
        raise BadValue("a datetime outside the years 1 to 9999 in UTC") from error


def to_datetime(value: Any) -> datetime:
    """The aware datetime, in UTC, of a client's: one itself, or its ISO 8601 text.

    Raises:
        BadValue: It is neither, or has no time zone.
    """
    if type(value) is datetime and value.tzinfo is UTC:
        return value
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError as error:
            raise BadValue("a text that is no ISO 8601 time") from error
    if not isinstance(value, datetime):
        raise BadValue(f"a {type(value).__name__} where a time belongs")
    return as_utc(value)


def to_list(values: Any) -> list[Any]:
    """The values as a list.

    Raises:
        BadValue: It is no sequence, or a text, which is one of characters.
    """
    if type(values) is list:
        return values.copy()
    if isinstance(values, (str, bytes, Mapping)) or not isinstance(values, Iterable):
        raise BadValue(f"a {type(values).__name__} where a list belongs")
    return list(values)


def to_object(value: Any) -> dict[str, Any]:
    """The mapping as a JSON object.

    Raises:
        BadValue: It is no mapping.
    """
    # A dict is asked for first: a Mapping is an abstract class, which takes its time.
    if type(value) is not dict and not isinstance(value, Mapping):
        raise BadValue(f"a {type(value).__name__} where an object belongs")
    return dict(value)


def to_uuid(value: Any) -> UUID:
    """The UUID of a client's: one itself, or its text.

    Raises:
        BadValue: It is neither.
    """
    if type(value) is UUID:
        return value
    try:
        return read_uuid(value)
    except (ValueError, TypeError, AttributeError) as error:
        raise BadValue(f"a {type(value).__name__} that is no UUID") from error


def datetime_text(value: datetime) -> str:
    """As SQLite stores it: `2026-01-01 00:00:00.000000`, in UTC."""
    if value.tzinfo is not UTC:
        value = as_utc(value)
    if value.microsecond and type(value) is datetime:
        # Three times as fast; it leaves out microseconds that are zero.
        return _orjson(value)[1:27].decode().replace("T", " ")
    return value.isoformat(" ", "microseconds")[:-6]


def uuid_text(value: UUID) -> str:
    """As SQLite stores it: in lower case, with hyphens."""
    # Three times as fast as str(), which is Python.
    return _orjson(value)[1:-1].decode() if type(value) is UUID else str(value)


def timedelta_text(value: timedelta) -> str:
    """As SQLite stores it: the duration added to the Unix epoch."""
    return _after_epoch(value).isoformat(" ", "microseconds")


def _bind_timedelta(value: timedelta) -> timedelta:
    _after_epoch(value)
    return value


def _after_epoch(value: timedelta) -> datetime:
    try:
        return _EPOCH + value
    except OverflowError as error:
        raise BadValue("a duration that no datetime holds when added to 1970") from error


def _decimal_text(value: Decimal) -> str:
    return str(_bind_decimal(value))


def _json_text(value: Json) -> str:
    return dump_json(value.value)


def _jsonb_text(value: Json) -> str:
    return dump_jsonb(value.value)


def _itself(value: Any) -> Any:
    return value


_COMMON: Final[dict[type, Codec]] = {
    str: check_text,
    int: _bind_int,
    float: _bind_float,
    bytes: bytes,
    bytearray: bytes,
    memoryview: bytes,
    bool: _itself,
}
SQLITE_CODECS: Final[dict[type, Codec]] = {
    **_COMMON,
    UUID: uuid_text,
    datetime: datetime_text,
    timedelta: timedelta_text,
    Decimal: _decimal_text,
    dict: dump_json,
    list: dump_json,
    Json: _json_text,
}
POSTGRES_CODECS: Final[dict[type, Codec]] = {
    **_COMMON,
    UUID: _itself,
    datetime: as_utc,
    timedelta: _bind_timedelta,
    Decimal: _bind_decimal,
    dict: dump_jsonb,
    list: dump_jsonb,
    Json: _jsonb_text,
}

_new_uuid: Final = UUID.__new__
_set_uuid_int: Final = UUID.__dict__["int"].__set__
_set_uuid_safe: Final = UUID.__dict__["is_safe"].__set__
_UNKNOWN_SAFETY: Final = UUID(int=0).is_safe


def uuid_of(number: int) -> UUID:
    """The UUID of 128 bits. Sets the slots itself: the constructor takes twice as long."""
    result: UUID = _new_uuid(UUID)
    _set_uuid_int(result, number)
    _set_uuid_safe(result, _UNKNOWN_SAFETY)
    return result


def read_uuid(value: Any) -> UUID:
    """The UUID of a stored one."""
    if isinstance(value, UUID):
        return value
    digits = value.replace("-", "")
    number = bytes.fromhex(digits)
    # fromhex passes over white space.
    if len(number) != 16 or len(digits) != 32:
        raise ValueError("a UUID has 32 digits")
    return uuid_of(int.from_bytes(number))


# Of a stored text: the same runs and flows are read again and again, and a UUID cannot change.
remembered_uuid: Final = lru_cache(maxsize=4096)(read_uuid)


def read_datetime(value: Any) -> datetime:
    """The aware datetime, in UTC, of a stored one."""
    if type(value) is str:
        return datetime.fromisoformat(value + "Z")
    result: datetime = value
    return result if result.tzinfo is UTC else as_utc(result)


def read_timedelta(value: Any) -> timedelta:
    """The duration of a stored one; a number is one of seconds (Prefect's own default is 0)."""
    if type(value) is str:
        if len(value) < 19:
            raise ValueError("a duration is a time after 1970")
        return datetime.fromisoformat(value) - _EPOCH
    if isinstance(value, timedelta):
        return value
    return timedelta(seconds=value)


def read_json(value: Any) -> Any:
    """The value of a stored JSON text; fresh at each call.

    A JSON number arrives as a number: the columns of SQLite have numeric affinity.
    """
    if type(value) is not str:
        return value
    return decode_json(value) if value in plain_json else load_json(value)


def read_json_from(text: str, jsonb: bool) -> Any:
    """What a JSON text will be read as when it was stored.

    PostgreSQL's jsonb writes out a number, so that a large float comes back as an integer.
    """
    if jsonb and "e+" in text:
        return json.loads(text, parse_float=_read_written_out)
    return read_json(text)


def _read_written_out(digits: str) -> int | float:
    return int(Decimal(digits)) if "e+" in digits else float(digits)


def read_int(value: Any) -> int:
    """The integer of a stored number, or of the text of one."""
    number = int(value)
    if type(value) is not str and number != value:
        raise ValueError("a number that is no integer")
    return number


def read_float(value: Any) -> float:
    """The float of a stored number, or of the text of one."""
    return float(value)


def read_bool(value: Any) -> bool:
    """True for a number that is not zero."""
    if not isinstance(value, (int, float)):
        raise TypeError("a truth value is a number")
    return value != 0


def read_bytes(value: Any) -> bytes:
    """The bytes of a stored value; of a text, its UTF-8."""
    if isinstance(value, str):
        return value.encode()
    if not isinstance(value, (bytes, bytearray, memoryview)):
        raise TypeError("neither bytes nor text")
    return bytes(value)


def read_text(value: Any) -> str:
    """The text of a stored value, in SQLite's form on both engines."""
    kind = type(value)
    if kind is datetime:
        return datetime_text(value)
    if kind is timedelta:
        return timedelta_text(value)
    if kind is bytes:
        text: str = value.decode()
        return text
    return str(int(value) if kind is bool else value)
