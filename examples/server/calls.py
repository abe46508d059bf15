"""What the functions of `api/` get and give: a request that was read, the content of an answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, TypeVar
from uuid import UUID

from examples.server.bodies import Invalid, parse, read
from prefect_db import Backend, NotFound

T = TypeVar("T")


@dataclass(slots=True)
class Call:
    """One request.

    Attributes:
        path: What the path's `{...}` stand for.
        query: The parameters of its query.
        content: Its body.
        base_url: Where the server is, as the client sees it.
        received: When it came: what was created since then, it created.
    """

    path: Mapping[str, Any]
    query: Mapping[str, str]
    content: bytes
    base_url: str
    received: datetime

    @property
    def id(self) -> UUID:
        """The id in the path."""
        given: UUID = self.path["id"]
        return given

    def read(self, kind: type[T]) -> T:
        """The body's JSON, as `bodies.read` reads it."""
        return read(kind, self.json())

    def json(self) -> Any:
        """The body's JSON."""
        return parse(self.content)

    def flag(self, name: str) -> bool:
        """A parameter of the query that is true or, as when it is not given, false."""
        text = self.query.get(name, "false").lower()
        if text not in ("true", "1", "false", "0"):
            raise Invalid("Input should be true or false", ["query", name])
        return text in ("true", "1")

    def uuid(self, name: str) -> UUID:
        """A parameter of the query that is an id."""
        try:
            return UUID(self.query[name])
        except (KeyError, ValueError) as error:
            raise Invalid("Input should be a UUID", ["query", name]) from error

    def status(self, created: datetime | None) -> int:
        """201 for what this request created, 200 for what was there."""
        return 201 if created is not None and created >= self.received else 200


@dataclass(slots=True)
class Reply:
    """An answer that is not just a 200 with its content."""

    content: Any
    status: int


# Its result is a Reply, or the content of a 200, or None for a 204.
Handler = Callable[[Backend, Call], Any]


def found(value: T | None, what: str) -> T:
    """The value, which must be there; or else the answer is a 404."""
    if value is None:
        raise NotFound(f"There is no {what}")
    return value


def at_least(least: float) -> Callable[[float], str | None]:
    """A check for `Annotated`: what is wrong with a number, if anything is."""
    return lambda value: (
        None if value >= least else f"Input should be greater than or equal to {least}"
    )


def at_most(most: float) -> Callable[[float], str | None]:
    """A check for `Annotated`: what is wrong with a number, if anything is."""
    return lambda value: None if value <= most else f"Input should be less than or equal to {most}"


MAX_LIMIT = 200
Limit = Annotated[int, at_least(0), at_most(MAX_LIMIT)] | None
Offset = Annotated[int, at_least(0)]
