"""Hooks around every statement and every event of the pool: `connect(url, observer=...)`.

docs/observability.md shows them in use.
"""

from __future__ import annotations

import collections
import logging
import math
import re
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, Protocol, Self, TypeVar
from urllib.parse import parse_qs, unquote

from prefect_db.errors import ConfigurationError

if TYPE_CHECKING:
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import TracerProvider

    from prefect_db.drivers.base import Purpose, Settings

Verb = Literal["execute", "executemany", "stream", "begin", "commit", "rollback"]

_log = logging.getLogger("prefect_db")

# One host, which may be an IPv6 address in brackets, and a port.
_PLACE: Final = re.compile(r"(\[.*\]|[^,:]*)(?::(\d*))?")
_LONGEST_TEXT: Final = 500


class Database(NamedTuple):
    """Where something happened; never a password.

    Attributes:
        system: `sqlite` or `postgresql`: the scheme of its URL.
        name: SQLite's file or `:memory:`; PostgreSQL's database. Empty if the URL does not say.
        host: The server's host, if the URL names just one.
        port: The server's port, if the URL says.
    """

    system: str
    name: str
    host: str | None = None
    port: int | None = None


@dataclass(frozen=True, slots=True)
class Event:
    """Something that begins and ends.

    Attributes:
        database: Where.
    """

    database: Database


@dataclass(frozen=True, slots=True)
class Execute(Event):
    """One call of the driver; on PostgreSQL a round trip (a stream's first and last are two).

    Attributes:
        verb: `execute` for `row`, `rows`, `value`, `execute` and savepoints; `stream` for each
            batch that is fetched; `executemany`; `begin`, `commit` or `rollback`.
        sql: The statement as its author wrote it; BEGIN, COMMIT or ROLLBACK.
        batch: How many parameter rows `executemany` was given; 1 for all else.
        transaction: The number of the transaction that it is in, unique in the process; None in
            autocommit.
        savepoint: The innermost savepoint that it is in, or None.
        params: The bound parameters, or those of each row of `executemany`; None unless the
            observer asks for them.
    """

    verb: Verb
    sql: str
    batch: int = 1
    transaction: int | None = None
    savepoint: str | None = None
    params: Sequence[Any] | None = None


@dataclass(frozen=True, slots=True)
class Acquire(Event):
    """A connection is borrowed from the pool: the time is what its caller waits.

    Attributes:
        purpose: `read` for one statement that only reads, `snapshot` for a read-only transaction,
            or `write`.
    """

    purpose: Purpose


@dataclass(frozen=True, slots=True)
class Release(Event):
    """A borrowed connection is given back; what was left open on it is rolled back.

    Attributes:
        purpose: What it was borrowed for.
        used: Seconds that it was lent.
    """

    purpose: Purpose
    used: float


@dataclass(frozen=True, slots=True)
class Connect(Event):
    """The pool opens a connection: a first, another, or one in the place of a broken one."""


@dataclass(frozen=True, slots=True)
class Close(Event):
    """The pool closes a connection, or finds that it was lost."""


@dataclass(frozen=True, slots=True)
class Retry(Event):
    """`Backend.run` waits before it runs a transaction again.

    Attributes:
        attempt: The number of the attempt to come: 2 or more.
        delay: Seconds that it waits.
        error: What the last attempt raised.
    """

    attempt: int
    delay: float
    error: BaseException


class Outcome(NamedTuple):
    """How an event ended.

    Attributes:
        seconds: How long it took.
        rows: Rows fetched.
        affected: Rows affected.
        error: What it raised, or None. Its `__cause__`, the driver's own error, may quote values.
    """

    seconds: float
    rows: int
    affected: int
    error: BaseException | None


class Observer:
    """Told of each event's start and end. Subclass it, and pass one to `connect(observer=...)`.

    Its methods are called in the thread that does the work, by several threads at once, and must
    be quick. What they raise is logged, once, and harms nobody. Statements that they run on the
    Backend itself are not observed.

    Attributes:
        params: Set it to True to be given the parameters of statements.
    """

    params: bool = False

    def start(self, event: Event) -> Any:
        """An event begins. What is returned is handed to `end`."""

    def end(self, event: Event, context: Any, outcome: Outcome) -> None:
        """The event has ended, well or not. `context` is what `start` returned."""


class _Closable(Protocol):
    def close(self) -> None: ...


C = TypeVar("C", bound=_Closable)

# An observer, what it was told of, and the context that it returned.
_Told = tuple[Observer, Event, Any]


class Hooks:
    """The observers of one Backend. Internal, but drivers report with `connect` and `close`."""

    def __init__(self, observers: Sequence[Observer], database: Database) -> None:
        self.database = database
        self._observers = tuple(observers)
        self._failed: set[int] = set()
        self._inside: set[int] = set()

    def around(self, event: Event, params: Sequence[Any] | None = None) -> Around:
        """A context manager: the event's start and end."""
        return Around(self, event, params)

    def connect(self, open_: Callable[[], C]) -> C:
        """Open a connection, and tell of it."""
        connection: C | None = None
        try:
            with self.around(Connect(self.database)):
                connection = open_()
        except BaseException:
            if connection is not None:
                connection.close()
            raise
        return connection

    def close(self, close: Callable[[], None]) -> None:
        """Close a connection, or let go of a lost one, and tell of it."""
        with self.around(Close(self.database)):
            close()

    def start(self, event: Event, params: Sequence[Any] | None, told: list[_Told]) -> None:
        """Tell all observers, each what it asks for, and note in `told` who was told."""
        me = threading.get_ident()
        if me in self._inside:
            return
        self._inside.add(me)
        try:
            for observer in self._observers:
                seen = event
                if observer.params and isinstance(event, Execute):
                    seen = replace(event, params=params)
                try:
                    told.append((observer, seen, observer.start(seen)))
                except Exception:  # noqa: BLE001
                    self._complain(observer)
        finally:
            self._inside.discard(me)

    def end(self, told: list[_Told], outcome: Outcome) -> None:
        """Tell those that were told of the start, the last first."""
        if not told:
            return
        me = threading.get_ident()
        self._inside.add(me)
        observer, event, context = told.pop()
        try:
            observer.end(event, context, outcome)
        except Exception:  # noqa: BLE001
            self._complain(observer)
        finally:
            self._inside.discard(me)
            # After a KeyboardInterrupt, too: every start has its end.
            self.end(told, outcome)

    def _complain(self, observer: Observer) -> None:
        if id(observer) not in self._failed:
            self._failed.add(id(observer))
            _log.exception("%r raised; this is logged once, and the work goes on", observer)


class Around:
    """One event's start and end; made by `Hooks.around`.

    Attributes:
        rows, affected: For its `Outcome`; to be set inside the block.
    """

    __slots__ = ("_event", "_hooks", "_params", "_started", "_told", "affected", "rows")

    def __init__(self, hooks: Hooks, event: Event, params: Sequence[Any] | None) -> None:
        self._hooks = hooks
        self._event = event
        self._params = params
        self._told: list[_Told] = []
        self._started = time.perf_counter()
        self.rows = 0
        self.affected = 0

    def __enter__(self) -> Self:
        try:
            self._hooks.start(self._event, self._params, self._told)
            self._started = time.perf_counter()
        except BaseException as error:
            self.__exit__(None, error, None)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        seconds = time.perf_counter() - self._started
        self._hooks.end(self._told, Outcome(seconds, self.rows, self.affected, error))


def hooks_of(observer: Observer | Sequence[Observer] | None, settings: Settings) -> Hooks | None:
    """What `connect(observer=...)` was given, checked; None if nobody observes.

    Raises:
        ConfigurationError: It is no Observer, and no list or tuple of them.
    """
    observers = (
        () if observer is None else observer if isinstance(observer, (list, tuple)) else (observer,)
    )
    for each in observers:
        if not isinstance(each, Observer):
            raise ConfigurationError(
                f"observer={each!r}; it takes a prefect_db.observe.Observer, or a tuple of them"
            )
    return Hooks(observers, _database(settings)) if observers else None


def _database(settings: Settings) -> Database:
    if settings.scheme != "postgresql":
        return Database(settings.scheme, settings.path)
    if "://" not in settings.masked:
        # A pool of the host's.
        return Database(settings.scheme, "")
    # What is masked has no password, and is all that anybody may see.
    head, _, parameters = settings.masked.partition("://")[2].partition("?")
    netloc, _, path = head.rpartition("@")[2].partition("/")
    query = {name: values[-1] for name, values in parse_qs(parameters).items()}
    name = query.get("dbname") or unquote(path)
    place = _PLACE.fullmatch(netloc)
    host = query.get("host") or (unquote(place[1]).strip("[]") if place else "")
    port = query.get("port") or (place[2] if place else None) or ""
    if not place or not host or "," in host:
        return Database(settings.scheme, name)
    return Database(settings.scheme, name, host, int(port) if port.isdecimal() else None)


class Counter(Observer):
    """Counts calls of the driver, for tests that hold an operation to its number of statements.

    Attributes:
        calls: How often each SQL text was sent, BEGIN, COMMIT and ROLLBACK included;
            `calls.total()` is how many calls there were: on PostgreSQL, round trips.
        acquires: Connections borrowed.
        retries: Times that `Backend.run` ran a transaction again.
    """

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self.reset()

    def reset(self) -> None:
        """Begin again at 0."""
        self.calls: collections.Counter[str] = collections.Counter()
        self.acquires = 0
        self.retries = 0

    def start(self, event: Event) -> None:
        with self._mutex:
            if isinstance(event, Execute):
                self.calls[event.sql] += 1
            elif isinstance(event, Acquire):
                self.acquires += 1
            elif isinstance(event, Retry):
                self.retries += 1


class _SlowLog(Observer):
    def __init__(self, seconds: float, logger: logging.Logger, params: bool) -> None:
        self._seconds = seconds
        self._logger = logger
        self.params = params

    def end(self, event: Event, context: Any, outcome: Outcome) -> None:
        if outcome.seconds < self._seconds:
            return
        failed = f", {type(outcome.error).__name__}" if outcome.error is not None else ""
        if isinstance(event, Execute):
            params = f" with {_shortened(repr(event.params))}" if event.params else ""
            self._logger.warning(
                "slow statement: %.3f s, %d rows, %d affected%s: %s%s",
                outcome.seconds,
                outcome.rows,
                outcome.affected,
                failed,
                _shortened(event.sql),
                params,
            )
        elif isinstance(event, Acquire):
            self._logger.warning(
                "slow acquire: %.3f s, to %s%s", outcome.seconds, event.purpose, failed
            )


def log_slow(
    seconds: float, logger: logging.Logger | None = None, *, params: bool = False
) -> Observer:
    """An observer that logs slow statements, and slow waits for a connection, one line each.

    Args:
        seconds: What takes as long or longer is a WARNING.
        logger: Where; `logging.getLogger("prefect_db")` if not given.
        params: Log the parameters too. They may be secret.

    Raises:
        ConfigurationError: `seconds` is no number from 0.
    """
    if not isinstance(seconds, (int, float)) or not 0 <= seconds < math.inf:
        raise ConfigurationError(f"seconds={seconds!r}; it takes a number of seconds from 0")
    return _SlowLog(seconds, logger or _log, params)


def opentelemetry(
    tracer_provider: TracerProvider | None = None,
    meter_provider: MeterProvider | None = None,
    *,
    params: bool = False,
) -> Observer:
    """An observer that makes OpenTelemetry spans and metrics, named as its semantic conventions
    for databases say (docs/observability.md lists them).

    Args:
        tracer_provider: Where spans go; the global provider if not given.
        meter_provider: Where metrics go; the global provider if not given.
        params: Put the parameters of single statements on their spans. They may be secret.

    Raises:
        ConfigurationError: The extra `otel` is not installed.
    """
    try:
        from prefect_db.otel import OpenTelemetry
    except ImportError as error:
        raise ConfigurationError(
            f"OpenTelemetry cannot be imported ({error}); pip install 'prefect-db[otel]'"
        ) from error
    return OpenTelemetry(tracer_provider, meter_provider, params=params)


def _shortened(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST_TEXT else f"{line[:_LONGEST_TEXT]}..."
