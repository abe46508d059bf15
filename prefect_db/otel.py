"""Spans and metrics for OpenTelemetry, by its semantic conventions for databases:
https://opentelemetry.io/docs/specs/semconv/db/. Made by `observe.opentelemetry()`."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

from opentelemetry import metrics, trace
from opentelemetry.metrics import MeterProvider
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, TracerProvider

from prefect_db.errors import Error, PoolTimeout
from prefect_db.observe import (
    Acquire,
    Close,
    Connect,
    Database,
    Event,
    Execute,
    Observer,
    Outcome,
    Release,
    Retry,
)

_SCOPE: Final = "prefect_db"
_SCHEMA: Final = "https://opentelemetry.io/schemas/1.33.0"

# The conventions' buckets, in seconds.
_BUCKETS: Final = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10)

# After white space, comments and parentheses.
_FIRST_WORD: Final = re.compile(r"(?:[\s(]|--[^\n]*\n|/\*.*?\*/)*+([A-Za-z]+)", re.DOTALL)

Attributes = dict[str, str | int]


class OpenTelemetry(Observer):
    """A CLIENT span for each call of the driver, an event on the caller's span for each retry,
    and the metrics of calls and of the pool."""

    def __init__(
        self,
        tracer_provider: TracerProvider | None,
        meter_provider: MeterProvider | None,
        *,
        params: bool,
    ) -> None:
        self.params = params
        self._tracer = trace.get_tracer(_SCOPE, tracer_provider=tracer_provider, schema_url=_SCHEMA)
        meter = metrics.get_meter(_SCOPE, meter_provider=meter_provider, schema_url=_SCHEMA)
        self._duration = meter.create_histogram(
            "db.client.operation.duration",
            "s",
            "Duration of database client operations.",
            explicit_bucket_boundaries_advisory=_BUCKETS,
        )
        self._connections = meter.create_up_down_counter(
            "db.client.connection.count", "{connection}", "Open connections, by their state."
        )
        self._pending = meter.create_up_down_counter(
            "db.client.connection.pending_requests", "{request}", "Callers waiting for one."
        )
        self._timeouts = meter.create_counter(
            "db.client.connection.timeouts", "{timeout}", "Callers that gave up waiting."
        )
        self._create_time, self._wait_time, self._use_time = (
            meter.create_histogram(f"db.client.connection.{name}", "s", description)
            for name, description in (
                ("create_time", "The time to open a connection."),
                ("wait_time", "The time to get an open connection from the pool."),
                ("use_time", "The time from borrowing a connection to giving it back."),
            )
        )

    def start(self, event: Event) -> Span | None:
        if isinstance(event, Execute):
            return self._start_span(event)
        if isinstance(event, Acquire):
            self._pending.add(1, _pool(event.database))
        elif isinstance(event, Retry):
            retry: dict[str, str | int | float] = {
                "attempt": event.attempt,
                "delay": event.delay,
                "error.type": type(event.error).__qualname__,
            }
            trace.get_current_span().add_event("prefect_db.retry", retry)
        return None

    def end(self, event: Event, context: Span | None, outcome: Outcome) -> None:
        pool = _pool(event.database)
        if isinstance(event, Execute):
            self._end_call(event, context, outcome)
        elif isinstance(event, Acquire):
            self._pending.add(-1, pool)
            if outcome.error is None:
                self._wait_time.record(outcome.seconds, pool)
                self._move(pool, idle=-1, used=1)
            elif isinstance(outcome.error, PoolTimeout):
                self._timeouts.add(1, pool)
        elif isinstance(event, Release):
            self._use_time.record(event.used, pool)
            self._move(pool, idle=1, used=-1)
        elif isinstance(event, Connect) and outcome.error is None:
            self._create_time.record(outcome.seconds, pool)
            self._move(pool, idle=1)
        elif isinstance(event, Close):
            self._move(pool, idle=-1)

    def _move(self, pool: Attributes, *, idle: int, used: int = 0) -> None:
        self._connections.add(idle, pool | {"db.client.connection.state": "idle"})
        if used:
            self._connections.add(used, pool | {"db.client.connection.state": "used"})

    def _start_span(self, event: Execute) -> Span:
        attributes = dict(_common(event.database)) | _operation(event)
        attributes["db.query.text"] = event.sql
        if event.batch > 1:
            attributes["db.operation.batch.size"] = event.batch
        elif event.params is not None and event.verb in ("execute", "stream"):
            for n, value in enumerate(event.params):
                attributes[f"db.query.parameter.{n}"] = str(value)
        target = event.database.name or event.database.host or event.database.system
        name = f"{attributes['db.operation.name']} {target}"
        return self._tracer.start_span(name, kind=SpanKind.CLIENT, attributes=attributes)

    def _end_call(self, event: Execute, span: Span | None, outcome: Outcome) -> None:
        failure = _failure(outcome.error)
        self._duration.record(
            outcome.seconds, _common(event.database) | _operation(event) | failure
        )
        if span is None:
            return
        if outcome.error is not None:
            span.set_attributes(failure)
            # Not `record_exception`: the driver's own error, which is the cause, quotes values.
            told = str(outcome.error) if isinstance(outcome.error, Error) else None
            span.set_status(Status(StatusCode.ERROR, told))
        span.end()


def _failure(error: BaseException | None) -> Attributes:
    if error is None:
        return {}
    failure: Attributes = {"error.type": type(error).__qualname__}
    if isinstance(error, Error) and error.code:
        failure["db.response.status_code"] = error.code
    return failure


def _operation(event: Execute) -> Attributes:
    found = _FIRST_WORD.match(event.sql)
    word = found[1].upper() if found else "OTHER"
    return {"db.operation.name": f"BATCH {word}" if event.batch > 1 else word}


@lru_cache(maxsize=64)
def _common(database: Database) -> Attributes:
    common: Attributes = {"db.system.name": database.system}
    if database.name:
        common["db.namespace"] = database.name
    if database.host:
        common["server.address"] = database.host
        if database.port:
            common["server.port"] = database.port
    return common


@lru_cache(maxsize=64)
def _pool(database: Database) -> Attributes:
    place = f"{database.host}:{database.port or 5432}/" if database.host else ""
    return {"db.client.connection.pool.name": f"{place}{database.name}"}
