"""What differs between SQLite and PostgreSQL, as pure functions behind one `Dialect` each.

SQL is written once, with `?`. A dialect compiles it to what its engine takes, and binds Python
values to what its engine stores.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum
from functools import lru_cache
from typing import Any, Final, Literal, Protocol, TypeVar

from prefect_db.errors import BadValue, ParameterCount, UsageError
from prefect_db.tokens import (
    POSTGRES_TOKENS,
    SQLITE_TOKENS,
    Statement,
    compile_statement,
    split_script,
)
from prefect_db.values import POSTGRES_CODECS, SQLITE_CODECS, Array, Codec, dump_json

T = TypeVar("T")

DialectName = Literal["sqlite", "postgres"]


class Compile(Protocol):
    """See `Dialect.compile`."""

    def __call__(self, sql: str, prepare: bool = True, /) -> Statement: ...


class _Codecs(dict[type, Codec]):
    """What brings the values of each type to the engine's form; `other` does for the rest."""

    def __init__(self, codecs: Mapping[type, Codec], other: Codec) -> None:
        super().__init__(codecs)
        self._other = other

    def __missing__(self, kind: type) -> Codec:
        return self._other


class Dialect:
    """One engine's SQL; `SQLITE` and `POSTGRES` are the two there are.

    Attributes:
        name: `sqlite` or `postgres`.
        compile: Compiles SQL with `?`, and whether to `prepare` it, to a `Statement`. Cached;
            raises ProgrammingError.
        clock: The database's time as Prefect writes it to `updated`: SQLite's has milliseconds.
    """

    __slots__ = ("_codecs", "_tokens", "clock", "compile", "name")

    def __init__(
        self,
        name: DialectName,
        compile_: Compile,
        tokens: str,
        codecs: Mapping[type, Codec],
    ) -> None:
        self.name: DialectName = name
        self.compile = compile_
        self.clock = self.pick(
            sqlite="strftime('%Y-%m-%d %H:%M:%f000', 'now')", postgres="CURRENT_TIMESTAMP"
        )
        self._tokens = tokens
        self._codecs = _Codecs(codecs, self._bind_other)

    def __repr__(self) -> str:
        return f"<Dialect {self.name}>"

    def pick(self, *, sqlite: T, postgres: T) -> T:
        """The one for this engine, where a statement cannot be the same on both."""
        return sqlite if self.name == "sqlite" else postgres

    def split(self, script: str) -> list[tuple[int, str]]:
        """The statements of a script, each with its offset and without its semicolon.

        Raises:
            ProgrammingError: A quote, a comment or a BEGIN is never closed.
        """
        return split_script(script, self._tokens)

    def bind(self, statement: Statement, params: Sequence[Any]) -> list[Any]:
        """The parameters as the engine takes them.

        Raises:
            ParameterCount: Not as many as the statement has placeholders.
            BadValue: A value that cannot be stored as it is.
            UsageError: `params` is neither a tuple nor a list.
        """
        if type(params) is not tuple and not isinstance(params, (tuple, list)):
            raise UsageError(
                f"params is a {type(params).__name__}, not a tuple or a list", sql=statement.sql
            )
        if len(params) != statement.placeholders:
            raise ParameterCount(
                f"{statement.placeholders} placeholders, {len(params)} parameters",
                sql=statement.sql,
            )
        codecs = self._codecs
        try:
            return [
                value
                # Most are texts, and most of those ASCII: as `check_text`, without its call.
                if value is None
                or ((kind := type(value)) is str and value.isascii() and "\0" not in value)
                else codecs[kind](value)
                for value in params
            ]
        except BadValue as error:
            error.sql = statement.sql
            raise

    def _bind_other(self, value: Any) -> Any:
        if value is None or value is True or value is False:
            return value
        if isinstance(value, Enum):
            return self.bind_one(value.value)
        if isinstance(value, Array):
            values = [self.bind_one(item) for item in value.values]
            return dump_json(values) if self.name == "sqlite" else values
        for kind, codec in self._codecs.items():
            if isinstance(value, kind):
                return codec(value)
        raise BadValue(
            f"a {type(value).__name__} is no parameter; bind text, numbers, bytes, UUID, aware"
            " datetime, timedelta, Enum, dict or list (stored as JSON), or an Array"
        )

    def bind_one(self, value: Any) -> Any:
        """One parameter as the engine takes it. Bound again it stays so: what the rows of a batch
        have in common need not be brought to its form in each of them.

        Raises:
            BadValue: See `bind`.
        """
        return self._codecs[type(value)](value)


@lru_cache(maxsize=1024)
def _compile_sqlite(sql: str, prepare: bool = True) -> Statement:
    return compile_statement(sql, SQLITE_TOKENS, numbered=False)._replace(prepare=prepare)


@lru_cache(maxsize=1024)
def _compile_postgres(sql: str, prepare: bool = True) -> Statement:
    return compile_statement(sql, POSTGRES_TOKENS, numbered=True)._replace(prepare=prepare)


SQLITE: Final = Dialect("sqlite", _compile_sqlite, SQLITE_TOKENS, SQLITE_CODECS)
POSTGRES: Final = Dialect("postgres", _compile_postgres, POSTGRES_TOKENS, POSTGRES_CODECS)
