"""What is fed with any text at all: each target returns, or an assertion of it fails.

Run by hypothesis in `test_fuzz.py`; a coverage-guided fuzzer can call the same functions.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

from psycopg.conninfo import conninfo_to_dict

from prefect_db import BadValue, ConfigurationError, ProgrammingError, config, text_search, values
from prefect_db.dialect import POSTGRES, SQLITE
from prefect_db.events import _position
from prefect_db.observe import Observer, hooks_of
from prefect_db.row import Row
from prefect_db.tokens import POSTGRES_TOKENS, SQLITE_TOKENS, Token, compile_statement, tokens


def rewrite(sql: str) -> None:
    """Refused as wrong SQL, or rewritten in its placeholders alone."""
    for pattern, numbered in ((SQLITE_TOKENS, False), (POSTGRES_TOKENS, True)):
        try:
            statement = compile_statement(sql, pattern, numbered=numbered)
        except ProgrammingError:
            continue
        found = list(tokens(pattern, sql))
        assert statement.sql == sql
        assert statement.placeholders == sum(token.kind == "mark" for token in found)
        if not numbered:
            assert statement.text == sql
            continue
        written = list(tokens(pattern, statement.text))
        natives = [token.text for token in written if token.kind == "native"]
        assert natives == [f"${n + 1}" for n in range(statement.placeholders)]
        marks = ("mark", "literal", "native")
        assert _without(sql, found, marks) == _without(statement.text, written, marks)


def _without(sql: str, found: list[Token], kinds: tuple[str, ...]) -> str:
    kept, end = [], 0
    for token in found:
        if token.kind in kinds:
            kept.append(sql[end : token.start])
            end = token.end
    # A blank keeps a placeholder from melting into its neighbours.
    return "".join([*kept, sql[end:]]).replace(" ", "")


def split(script: str) -> None:
    """Refused, or cut into parts that stand where they are said to stand, and are not cut again."""
    for dialect in (SQLITE, POSTGRES):
        try:
            parts = dialect.split(script)
        except ProgrammingError:
            continue
        for offset, part in parts:
            assert script[offset : offset + len(part)] == part
            assert dialect.split(part) == [(0, part)]


def url(text: str) -> None:
    """Refused as a setting, or settings of which a driver, and who observes, can make something."""
    given: tuple[dict[str, str], ...] = (
        {},
        {"PREFECT_DATABASE_URL": text},
        {"PREFECT_DATABASE_PATH": text},
    )
    for environment in given:
        try:
            settings = config.load(None if environment else text, {}, environment)
        except ConfigurationError:
            continue
        assert settings.scheme
        hooks = hooks_of(Observer(), settings)
        assert hooks is not None
        password = _password(settings.url) if settings.scheme == "postgresql" else None
        if password and len(password) > 3 and password not in settings.url.replace(password, "", 1):
            assert password not in settings.masked
            assert password not in repr((settings, hooks.database))


def _password(url: str) -> str | None:
    try:
        found = conninfo_to_dict(url).get("password")
    except Exception:  # noqa: BLE001
        # libpq refuses it, when it is opened.
        return None
    return None if found is None else str(found)


def page_token(text: str) -> None:
    """Refused, or a position: a time in UTC and an id."""
    for token in (text, base64.urlsafe_b64encode(text.encode("utf-8", "replace")).decode()):
        try:
            occurred, event_id = _position(token)
        except BadValue:
            continue
        assert occurred.tzinfo is UTC
        assert isinstance(event_id, UUID)


def json_text(text: str) -> None:
    """Read, or refused, as by the stdlib; and what was read can be written and read again."""
    try:
        expected = json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        expected = ...
    try:
        value = values.load_json(text)
    except BadValue:
        assert expected is ...
        return
    assert repr(value) == repr(expected)
    try:
        dumped = values.dump_json(value)
    except BadValue:
        # A NUL, a lone surrogate, or a number too large for a float.
        return
    assert dumped == json.dumps(value)
    assert repr(values.load_json(dumped)) == repr(value)
    assert repr(json.loads(values.dump_jsonb(value))) == repr(value)


def _refuse(constant: str) -> Any:
    raise ValueError(constant)


def stored_text(text: str) -> None:
    """Read by each accessor of a row as what it says, or refused."""
    row = Row((text,), {"a": 0})
    kinds: dict[str, type] = {
        "int": int,
        "float": float,
        "bool": bool,
        "uuid": UUID,
        "datetime": datetime,
        "timedelta": timedelta,
        "bytes": bytes,
        "text": str,
    }
    for accessor, kind in kinds.items():
        try:
            value: Any = getattr(row, accessor)("a")
        except BadValue as error:
            assert len(text) < 5 or text.isalpha() or text not in str(error)
            continue
        assert type(value) is kind
        if isinstance(value, datetime):
            # CPython 3.11 passes over what follows the sixth digit of an offset's fraction.
            assert value.tzinfo is UTC or "+" in text or "-" in text[10:]
            assert values.read_datetime(values.datetime_text(value)) == value
        elif isinstance(value, timedelta):
            assert values.read_timedelta(values.timedelta_text(value)) == value
        elif isinstance(value, UUID):
            assert value == UUID(text)
            assert values.read_uuid(str(value)) == value


def given_text(text: str) -> None:
    """A client's text as an id or a time: the one that the stdlib reads, or refused."""
    with suppress(BadValue):
        assert values.to_uuid(text) == UUID(text)
    try:
        moment = values.to_datetime(text)
    except BadValue:
        pass
    else:
        assert moment.tzinfo is UTC
        assert moment == datetime.fromisoformat(text)


def search(text: str) -> None:
    """Refused, or terms that are all of the query."""
    try:
        terms = text_search.parse(text)
    except BadValue:
        return
    for term in (*terms.include, *terms.exclude, *terms.required):
        assert term
        assert len(term) <= len(text)


TARGETS: Final[dict[str, Callable[[str], None]]] = {
    function.__name__: function
    for function in (
        rewrite,
        split,
        url,
        page_token,
        json_text,
        stored_text,
        given_text,
        search,
    )
}
