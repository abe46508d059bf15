"""JSON in and out: a request's JSON becomes a dataclass, an answer's dataclasses become JSON."""

from __future__ import annotations

import dataclasses
import functools
import json
import typing
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from enum import Enum, StrEnum
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union
from uuid import UUID

import orjson

T = TypeVar("T")


class Invalid(Exception):
    """A request that is not as the API wants it; answered with 422.

    Attributes:
        loc: Where in the request it is wrong: keys and indexes.
        body: The request's JSON, as far as it was read.
    """

    def __init__(self, message: str, loc: Sequence[str | int] = (), body: Any = None) -> None:
        super().__init__(message)
        self.message = message
        self.loc = list(loc)
        self.body = body


def parse(content: bytes) -> Any:
    """The JSON value of a request's content.

    Raises:
        Invalid: It is none.
    """
    try:
        # Not orjson: it reads integers over 64 bits as floats. NaN becomes null, as in Prefect.
        return json.loads(content, parse_constant=lambda _: None)
    except (ValueError, RecursionError) as error:
        raise Invalid(f"JSON decode error: {error}", ["body"]) from error


def read(kind: type[T], body: Any) -> T:
    """A request's JSON as a value of a type, mostly a dataclass, of whose fields those without a
    default must be there. A key that is no field is refused, unless it is null and so says nothing:
    clients send all that they know.

    Raises:
        Invalid: It does not fit; says where.
    """
    try:
        value: T = _read(kind, body, ["body"])
    except Invalid as invalid:
        invalid.body = body
        raise
    return value


def _read(kind: Any, value: Any, loc: list[str | int]) -> Any:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return value
    if origin is typing.Annotated:
        value = _read(arguments[0], value, loc)
        for check in arguments[1:]:
            if complaint := check(value):
                raise Invalid(complaint, loc)
        return value
    if origin in (Union, UnionType):
        return _read(_alternative(arguments, value), value, loc)
    if origin is Literal:
        return _one_of(value, arguments, loc)
    if origin in (list, Sequence):
        items = _expect(list, value, loc)
        return [_read(arguments[0], item, [*loc, at]) for at, item in enumerate(items)]
    if origin is tuple:
        items = _expect(list, value, loc)
        if len(items) != len(arguments):
            _refuse(f"a list of {len(arguments)}", loc)
        each = zip(arguments, items, strict=True)
        return tuple(_read(kind, item, [*loc, at]) for at, (kind, item) in enumerate(each))
    if origin in (dict, Mapping):
        pairs = _expect(dict, value, loc).items()
        return {key: _read(arguments[1], item, [*loc, key]) for key, item in pairs}
    if dataclasses.is_dataclass(kind):
        return _record(kind, _expect(dict, value, loc), loc)
    return _scalar(kind, value, loc)


def _alternative(kinds: Sequence[Any], value: Any) -> Any:
    """The kind, of several, that a JSON value is of."""
    if value is None and NoneType in kinds:
        return NoneType
    others = [kind for kind in kinds if kind is not NoneType]
    lists = [kind for kind in others if typing.get_origin(kind) in (list, Sequence)]
    return (lists or others)[0] if isinstance(value, list) else others[0]


def _record(kind: Any, value: dict[str, Any], loc: list[str | int]) -> Any:
    types, required = _fields(kind)
    for key in value:
        if key not in types and value[key] is not None:
            raise Invalid("Extra inputs are not permitted", [*loc, key])
    for key in required:
        if key not in value:
            raise Invalid("Field required", [*loc, key])
    return kind(
        **{key: _read(types[key], value[key], [*loc, key]) for key in types if key in value}
    )


@functools.cache
def _fields(kind: Any) -> tuple[dict[str, Any], list[str]]:
    types = typing.get_type_hints(kind, include_extras=True)
    fields = dataclasses.fields(kind)
    missing = dataclasses.MISSING
    required = [f.name for f in fields if f.default is missing and f.default_factory is missing]
    return {f.name: types[f.name] for f in fields}, required


def _scalar(kind: Any, value: Any, loc: list[str | int]) -> Any:
    if kind is NoneType:
        return None if value is None else _refuse("null", loc)
    if kind is float:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return float(value) if is_number else _refuse("a number", loc)
    if kind is int:
        is_int = isinstance(value, int) and not isinstance(value, bool)
        return value if is_int else _refuse("an integer", loc)
    if issubclass(kind, StrEnum):
        return kind(_one_of(value, [member.value for member in kind], loc))
    if issubclass(kind, Enum):
        # The sorts, whose values are SQL.
        return kind[_one_of(value, list(kind.__members__), loc)]
    if kind in (UUID, datetime):
        try:
            return _PARSERS[kind](_expect(str, value, loc))
        except (ValueError, OverflowError):
            return _refuse({UUID: "a UUID", datetime: "an ISO 8601 time"}[kind], loc)
    return _expect(kind, value, loc)


def to_time(text: str) -> datetime:
    """The time of an ISO 8601 text, in UTC unless it says otherwise."""
    time = datetime.fromisoformat(text)
    return time if time.tzinfo else time.replace(tzinfo=UTC)


_PARSERS: dict[Any, Any] = {UUID: UUID, datetime: to_time}
_NAMES = {list: "a list", dict: "an object", str: "a string", bool: "true or false"}


def _expect(kind: type[T], value: Any, loc: list[str | int]) -> T:
    if not isinstance(value, kind):
        _refuse(_NAMES[kind], loc)
    result: T = value
    return result


def _one_of(value: Any, values: Sequence[Any], loc: list[str | int]) -> Any:
    if value not in values:
        _refuse(", ".join(map(repr, values)), loc)
    return value


def _refuse(expected: str, loc: list[str | int]) -> typing.NoReturn:
    raise Invalid(f"Input should be {expected}", loc)


def dump(value: Any) -> bytes:
    """The JSON of an answer: records are objects, times end in Z, durations are seconds."""
    try:
        return orjson.dumps(value, _plain, orjson.OPT_UTC_Z)
    except TypeError:
        # An integer over 64 bits among a run's parameters, say.
        return json.dumps(value, default=_plain_for_json).encode()


def _plain(value: Any) -> Any:
    if isinstance(value, timedelta):
        return value.total_seconds()
    raise TypeError(f"a {type(value).__name__} is no JSON")


def _plain_for_json(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    return str(value) if isinstance(value, UUID) else _plain(value)
