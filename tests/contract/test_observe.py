"""Observers: told of each statement, pool event and retry once, and unable to do harm."""

from __future__ import annotations

import gc
import json
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any, Final

import psycopg
import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from prefect_db import (
    Backend,
    Busy,
    Cancelled,
    ConfigurationError,
    Error,
    PoolTimeout,
    Queryable,
    QueryTimeout,
    SerializationFailure,
    Unavailable,
    UniqueViolation,
    config,
    connect,
    flows,
    observe,
)
from prefect_db.observe import (
    Acquire,
    Close,
    Connect,
    Event,
    Execute,
    Observer,
    Outcome,
    Release,
    Retry,
)
from tests.faults import BOUND, until

_INSERT: Final = "INSERT INTO item (id, label) VALUES (?, ?)"
_SECRET: Final = "hunter2-is-secret"

_ITEM: Final = "CREATE TABLE item (id bigint NOT NULL PRIMARY KEY, label varchar UNIQUE)"


class Recorder(Observer):
    """Notes what it is told."""

    def __init__(self, *, params: bool = False) -> None:
        self.params = params
        self.started: list[Event] = []
        self.ended: list[tuple[Event, Outcome]] = []
        self.misled: list[Event] = []

    def start(self, event: Event) -> object:
        self.started.append(event)
        return [event]

    def end(self, event: Event, context: Any, outcome: Outcome) -> None:
        if context[0] is not event:
            self.misled.append(event)
        self.ended.append((event, outcome))

    def of(self, *kinds: type[Event]) -> list[tuple[Any, Outcome]]:
        return [pair for pair in self.ended if isinstance(pair[0], kinds)]

    def story(self) -> list[str]:
        """What was told of statements and borrowed connections, in the order of the ends."""
        return [_told(*pair) for pair in self.of(Execute, Acquire, Release)]

    def check(self) -> None:
        """Each start has its one end, with the context that it returned."""
        assert self.misled == []
        assert sorted(map(id, self.started)) == sorted(id(event) for event, _ in self.ended)

    def clear(self) -> None:
        self.started.clear()
        self.ended.clear()


def _told(event: Event, outcome: Outcome) -> str:
    failed = f" {type(outcome.error).__name__}" if outcome.error else ""
    if isinstance(event, Execute):
        counts = f" rows={outcome.rows} affected={outcome.affected}"
        within = "".join([" txn" * (event.transaction is not None), f" {event.savepoint or ''}"])
        return f"{event.verb} {event.sql}{counts}{within.rstrip()}{failed}"
    assert isinstance(event, (Acquire, Release))
    return f"{type(event).__name__.lower()} {event.purpose}{failed}"


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def db(url: str, recorder: Recorder) -> Iterator[Backend]:
    with _open(url, recorder) as db:
        db.execute(_ITEM)
        recorder.clear()
        yield db
        assert db.stats().in_use == 0
    recorder.check()


@pytest.mark.parametrize(
    ("work", "told"),
    [
        pytest.param(
            lambda db: db.row("SELECT id FROM item WHERE id = ?", (9,)),
            ["acquire read", "execute SELECT id FROM item WHERE id = ? rows=0 affected=0"],
            id="row",
        ),
        pytest.param(
            lambda db: db.rows("SELECT 1 UNION SELECT 2"),
            ["acquire read", "execute SELECT 1 UNION SELECT 2 rows=2 affected=0"],
            id="rows",
        ),
        pytest.param(
            lambda db: db.value("SELECT 1"),
            ["acquire read", "execute SELECT 1 rows=1 affected=0"],
            id="value",
        ),
        pytest.param(
            lambda db: db.execute(_INSERT, (1, "a")),
            ["acquire write", f"execute {_INSERT} rows=0 affected=1"],
            id="execute",
        ),
        pytest.param(
            lambda db: db.executemany(_INSERT, [(1, "a"), (2, "b")]),
            [
                "acquire write",
                "begin BEGIN rows=0 affected=0 txn",
                f"executemany {_INSERT} rows=0 affected=2 txn",
                "commit COMMIT rows=0 affected=0 txn",
            ],
            id="executemany",
        ),
        pytest.param(
            lambda db: _stream(db, "SELECT 1 UNION SELECT 2 UNION SELECT 3", 2),
            [
                "acquire snapshot",
                "begin BEGIN rows=0 affected=0 txn",
                "stream SELECT 1 UNION SELECT 2 UNION SELECT 3 rows=2 affected=0 txn",
                "stream SELECT 1 UNION SELECT 2 UNION SELECT 3 rows=1 affected=0 txn",
                "stream SELECT 1 UNION SELECT 2 UNION SELECT 3 rows=0 affected=0 txn",
                "commit COMMIT rows=0 affected=0 txn",
            ],
            id="stream",
        ),
        pytest.param(
            lambda db: db.run(lambda txn: txn.execute("DELETE FROM item")),
            [
                "acquire write",
                "begin BEGIN rows=0 affected=0 txn",
                "execute DELETE FROM item rows=0 affected=0 txn",
                "commit COMMIT rows=0 affected=0 txn",
            ],
            id="run",
        ),
    ],
)
def test_each_verb_is_told_of_once(
    db: Backend, recorder: Recorder, work: Callable[[Backend], Any], told: list[str]
) -> None:
    work(db)
    purpose = told[0].removeprefix("acquire ")
    assert recorder.story() == [*told, f"release {purpose}"]


def test_a_failed_statement_is_told_of_with_its_error(db: Backend, recorder: Recorder) -> None:
    with pytest.raises(Error) as caught:
        db.rows("SELECT nothing FROM item")
    assert [_told(*pair).split()[0] for pair in recorder.ended] == ["acquire", "execute", "release"]
    assert recorder.of(Execute)[0][1].error is caught.value
    assert recorder.of(Release)[0][1].error is None


def test_what_is_never_sent_is_not_told_of(db: Backend, recorder: Recorder) -> None:
    for sql, params in (("SELECT ?", ()), ("SELECT 'x", ()), ("SELECT ?", (object(),))):
        with pytest.raises(Error):
            db.rows(sql, params)
    with db.transaction() as txn:
        txn.executemany(_INSERT, [])
    assert [event.sql for event, _ in recorder.of(Execute)] == ["BEGIN", "COMMIT"]


def test_savepoints_and_their_transaction(db: Backend, recorder: Recorder) -> None:
    with db.transaction() as txn:
        with suppress(KeyError), txn.transaction() as outer:
            with outer.transaction() as inner:
                inner.value("SELECT 1")
            raise KeyError
        txn.value("SELECT 2")
    assert [told.replace(" rows=0 affected=0", "") for told in recorder.story()] == [
        "acquire write",
        "begin BEGIN txn",
        "execute SAVEPOINT s1 txn",
        "execute SAVEPOINT s2 txn s1",
        "execute SELECT 1 rows=1 affected=0 txn s2",
        "execute RELEASE SAVEPOINT s2 txn s2",
        "execute ROLLBACK TO SAVEPOINT s1 txn s1",
        "execute RELEASE SAVEPOINT s1 txn s1",
        "execute SELECT 2 rows=1 affected=0 txn",
        "commit COMMIT txn",
        "release write",
    ]
    first = {event.transaction for event, _ in recorder.of(Execute)}
    recorder.clear()
    with db.transaction():
        pass
    assert len(first) == 1
    assert first.isdisjoint(event.transaction for event, _ in recorder.of(Execute))


def test_what_follows_a_transaction_on_its_connection_is_outside(
    db: Backend, recorder: Recorder
) -> None:
    one = db.dialect.compile("SELECT 1")
    with db.borrowed() as connection:
        for end in (connection.commit, connection.rollback):
            connection.begin(read_only=False, isolation=None, timeout=None)
            connection.execute(db.dialect.compile("SAVEPOINT mine"), ())
            end()
            connection.execute(one, ())
    told = [event for event, _ in recorder.of(Execute)]
    assert [event.transaction is None for event in told] == [False, False, False, True] * 2
    assert [event.savepoint for event in told] == [None, None, "mine", None] * 2


def test_a_rollback_is_told_of_once(db: Backend, recorder: Recorder) -> None:
    with pytest.raises(KeyError), db.transaction() as txn:
        txn.execute(_INSERT, (1, "a"))
        raise KeyError
    with db.transaction() as txn:
        txn.rollback()
    with pytest.raises(UniqueViolation), db.transaction() as txn:
        txn.executemany(_INSERT, [(1, "a"), (1, "b")])
    verbs = [event.verb for event, _ in recorder.of(Execute)]
    assert verbs == [
        *("begin", "execute", "rollback"),
        *("begin", "rollback"),
        *("begin", "executemany", "rollback"),
    ]
    assert recorder.of(Execute)[6][1].error.__class__ is UniqueViolation


def test_a_failed_commit_is_told_of_and_what_undoes_it(db: Backend, recorder: Recorder) -> None:
    db.execute(
        "CREATE TABLE part (item_id bigint REFERENCES item (id) DEFERRABLE INITIALLY DEFERRED)"
    )
    recorder.clear()
    with pytest.raises(Error) as caught, db.transaction() as txn:
        txn.execute("INSERT INTO part (item_id) VALUES (9)")
    told = recorder.of(Execute)
    undone = db.dialect.pick(sqlite=["rollback"], postgres=[])
    assert [event.verb for event, _ in told] == ["begin", "execute", "commit", *undone]
    assert told[2][1].error is caught.value


def test_an_abandoned_transaction_is_told_of_to_its_end(db: Backend, recorder: Recorder) -> None:
    with pytest.warns(ResourceWarning, match="never ended"):
        db.transaction().__enter__().execute(_INSERT, (1, "a"))
        gc.collect()
    verbs = [event.verb for event, _ in recorder.of(Execute)]
    assert verbs == ["begin", "execute", "rollback"]
    assert len(recorder.of(Release)) == 1


def test_what_a_host_leaves_open_is_rolled_back_and_told_of(
    db: Backend, recorder: Recorder
) -> None:
    with db.connection() as native:
        native.execute("BEGIN")
    assert [event.verb for event, _ in recorder.of(Execute)] == ["rollback"]


def test_a_statement_out_of_time_is_told_of(db: Backend, recorder: Recorder) -> None:
    with pytest.raises(QueryTimeout), db.transaction(timeout=0.1) as txn:
        txn.value(_endless(db))
    errors = [outcome.error.__class__ for _, outcome in recorder.of(Execute)]
    assert errors == [type(None), QueryTimeout, type(None)]


def test_cancelled_work_is_told_of(db: Backend, recorder: Recorder) -> None:
    with db.borrowed() as connection, ThreadPoolExecutor(1) as threads:
        statement = db.dialect.compile(_endless(db))
        running = threads.submit(connection.execute, statement, ())
        while not running.done():
            connection.interrupt()
        with pytest.raises(Cancelled):
            running.result(BOUND)
    assert isinstance(recorder.of(Execute)[0][1].error, Cancelled)


@pytest.mark.only("sqlite", "its second writer finds the lock taken when it begins")
def test_a_retry_after_busy_is_told_of(url: str, recorder: Recorder) -> None:
    class Opener(Observer):
        """Ends the other's transaction while the retry waits."""

        def start(self, event: Event) -> None:
            if isinstance(event, Retry):
                blocking.rollback()

    with _open(url) as other, _open(url, recorder, Opener(), busy_timeout=0) as db:
        db.execute(_ITEM)
        with other.transaction() as blocking:
            db.run(lambda txn: txn.execute(_INSERT, (1, "a")))
    [(event, outcome)] = recorder.of(Retry)
    assert (event.attempt, type(event.error), outcome.error) == (2, Busy, None)
    assert event.delay >= 0
    begins = [o.error.__class__ for e, o in recorder.of(Execute) if e.verb == "begin"]
    assert begins == [Busy, type(None)]
    recorder.check()


@pytest.mark.only("postgres", "SQLite's transactions are one after another")
def test_a_retry_after_a_serialization_failure_is_told_of(
    db: Backend, recorder: Recorder, url: str
) -> None:
    db.execute(_INSERT, (1, "a"))
    others = iter(["b"])

    def work(txn: Queryable) -> None:
        txn.value("SELECT label FROM item")
        for label in others:
            other.execute("UPDATE item SET label = ?", (label,))
        txn.execute("UPDATE item SET label = ?", ("c",))

    with _open(url) as other:
        db.run(work, isolation="repeatable read")
    [(event, _)] = recorder.of(Retry)
    assert (event.attempt, type(event.error)) == (2, SerializationFailure)
    verbs = [event.verb for event, _ in recorder.of(Execute)][1:]
    work_once = ["begin", "execute", "execute"]
    assert verbs == [*work_once, "rollback", *work_once, "commit"]


def test_each_retry_is_told_of_and_the_last_attempt_is_none(
    db: Backend, recorder: Recorder
) -> None:
    def fail(txn: Queryable) -> None:
        raise SerializationFailure("again")

    with pytest.raises(SerializationFailure):
        db.run(fail, attempts=3)
    assert [event.attempt for event, _ in recorder.of(Retry)] == [2, 3]


def test_a_wait_for_a_connection_is_told_of(url: str, recorder: Recorder) -> None:
    with _open(url, recorder, pool_size=1) as db, ThreadPoolExecutor(1) as threads:
        with db.transaction():
            waiting = threads.submit(db.execute, _ITEM)
            until(lambda: db.stats().waiting == 1)
            assert len(recorder.started) - len(recorder.ended) == 1
        waiting.result(BOUND)
        waits = [outcome for _, outcome in recorder.of(Acquire)]
        assert [wait.error for wait in waits] == [None, None]
        assert waits[1].seconds > 0
    recorder.check()


def test_an_exhausted_pool_is_told_of(url: str, recorder: Recorder) -> None:
    with _open(url, recorder, pool_size=1, pool_timeout=0.1) as db:
        with ThreadPoolExecutor(1) as threads, db.transaction():
            with pytest.raises(PoolTimeout) as caught:
                threads.submit(db.execute, _ITEM).result(BOUND)
        errors = [outcome.error for _, outcome in recorder.of(Acquire)]
        assert errors == [None, caught.value]
        assert len(recorder.of(Release)) == 1
    recorder.check()


def test_connections_are_told_of_from_their_opening_to_their_closing(
    url: str, recorder: Recorder
) -> None:
    with _open(url, recorder) as db:
        with db.transaction(read_only=True), db.transaction():
            pass
        opened = len(recorder.of(Connect))
        assert opened == db.stats().size
        assert recorder.of(Close) == []
    assert len(recorder.of(Close)) == len(recorder.of(Connect))
    recorder.check()


@pytest.mark.direct("PgBouncer hides what is lost behind it")
def test_a_lost_connection_is_told_of_and_the_one_in_its_place(
    db: Backend, recorder: Recorder, url: str
) -> None:
    opened = len(recorder.of(Connect))
    with db.connection() as native:
        if isinstance(native, psycopg.Connection):
            _terminate(url, native.info.backend_pid)
            with suppress(psycopg.Error):
                native.execute("SELECT 1")
        else:
            native.close()
    db.execute(_INSERT, (1, "a"))
    assert len(recorder.of(Connect)) == opened + 1
    assert len(recorder.of(Close)) == 1
    assert db.stats().broken == 1


@pytest.mark.direct("PgBouncer hides what is lost behind it")
@pytest.mark.only("postgres", "SQLite has no server")
def test_an_idle_connection_that_was_lost_is_told_of(
    db: Backend, recorder: Recorder, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prefect_db.drivers.postgres._IDLE", -1.0)
    with db.connection() as native:
        pid = native.info.backend_pid
    _terminate(url, pid)
    db.execute(_INSERT, (1, "a"))
    assert len(recorder.of(Close)) == 1


@pytest.mark.direct("PgBouncer hides what is lost behind it")
@pytest.mark.only("postgres", "a SQLite file is opened at once, or never")
def test_a_connection_that_cannot_be_opened_is_told_of(
    db: Backend, recorder: Recorder, url: str
) -> None:
    name = db.value("SELECT current_database()")
    with psycopg.connect(url, dbname="postgres", autocommit=True) as admin:
        admin.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
        with db.connection() as native:
            native.close()
        with pytest.raises(Unavailable):
            db.value("SELECT 1")
        assert any(outcome.error for _, outcome in recorder.of(Connect))
        admin.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')


@pytest.mark.parametrize("method", ["start", "end"])
def test_an_observer_that_raises_harms_nobody(
    url: str, recorder: Recorder, method: str, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*arguments: object) -> None:
        raise RuntimeError("a bug of the observer")

    bad = Observer()
    setattr(bad, method, fail)
    with _open(url, bad, recorder, bad) as db:
        db.execute(_ITEM)
        db.run(lambda txn: txn.execute(_INSERT, (1, "a")))
        with pytest.raises(UniqueViolation):
            db.execute(_INSERT, (1, "a"))
        assert db.value("SELECT count(*) FROM item") == 1
        assert db.stats().in_use == 0
    recorder.check()
    assert len(recorder.of(Execute)) == 6
    [record] = caplog.records
    assert (record.name, record.levelname) == ("prefect_db", "ERROR")
    assert "a bug of the observer" in caplog.text


@pytest.mark.parametrize("method", ["start", "end"])
@pytest.mark.parametrize("kind", [Acquire, Execute, Release])
@pytest.mark.parametrize("verb", ["execute", "begin", "commit", "rollback"])
def test_an_interrupt_in_an_observer_passes_and_leaves_nothing_behind(
    url: str, method: str, kind: type[Event], verb: str
) -> None:
    armed: list[bool] = []

    class Interrupted(Recorder):
        def start(self, event: Event) -> object:
            self._strike("start", event)
            return super().start(event)

        def end(self, event: Event, context: Any, outcome: Outcome) -> None:
            super().end(event, context, outcome)
            self._strike("end", event)

        def _strike(self, now: str, event: Event) -> None:
            hit = now == method and isinstance(event, kind)
            if armed and hit and getattr(event, "verb", verb) == verb:
                armed.clear()
                raise KeyboardInterrupt

    first, struck = Recorder(), Interrupted()
    with _open(url, first, struck) as db:
        db.execute(_ITEM)
        armed.append(True)
        with pytest.raises(KeyboardInterrupt), db.transaction() as txn:
            txn.execute(_INSERT, (1, "a"))
            if verb == "rollback":
                txn.rollback()
        assert not armed
        assert db.stats().in_use == 0
        db.execute("DELETE FROM item")
        db.execute(_INSERT, (1, "a"))
    first.check()
    struck.check()


def test_an_observer_that_uses_the_backend_is_not_told_of_its_own_statements(
    url: str, recorder: Recorder
) -> None:
    class Auditor(Observer):
        def end(self, event: Event, context: Any, outcome: Outcome) -> None:
            if isinstance(event, Release):
                observed.execute("INSERT INTO audit (n) VALUES (1)")

    with _open(url) as db:
        db.execute("CREATE TABLE audit (n bigint)")
    with _open(url, recorder, Auditor()) as observed:
        observed.value("SELECT 1")
        assert [event.sql for event, _ in recorder.of(Execute)] == ["SELECT 1"]
        assert observed.value("SELECT count(*) FROM audit") == 1


def test_without_an_observer_nothing_of_it_is_called(db: Backend, url: str) -> None:
    called: set[str] = set()

    def note(frame: FrameType, event: str, argument: object) -> None:
        called.add(Path(frame.f_code.co_filename).name)

    with connect(url) as unobserved:
        sys.setprofile(note)
        try:
            flow = flows.create(unobserved, "etl")
            unobserved.run(lambda txn: flows.get(txn, flow.id))
            unobserved.executemany(_INSERT, [(1, "a")])
            with unobserved.transaction(read_only=True) as txn:
                list(txn.stream("SELECT 1"))
        finally:
            sys.setprofile(None)
    assert "backend.py" in called
    assert called.isdisjoint({"observe.py", "observed.py"})


def test_several_observers_are_nested(url: str) -> None:
    order: list[str] = []

    class Named(Observer):
        def __init__(self, name: str) -> None:
            self.name = name

        def start(self, event: Event) -> None:
            order.append(f"{self.name} starts {type(event).__name__}")

        def end(self, event: Event, context: Any, outcome: Outcome) -> None:
            order.append(f"{self.name} ends {type(event).__name__}")

    with _open(url, Named("a"), Named("b")) as db:
        order.clear()
        with db.borrowed():
            pass
        assert order[:4] == [
            *("a starts Acquire", "b starts Acquire", "b ends Acquire", "a ends Acquire")
        ]


@pytest.mark.parametrize("observer", [Observer, object(), "log", [1], (Recorder(), print)])
def test_what_is_no_observer_is_refused(observer: Any) -> None:
    with pytest.raises(ConfigurationError, match="observer="):
        connect(":memory:", observer=observer)


@pytest.mark.parametrize("observer", [None, (), []])
def test_no_observer(observer: Any) -> None:
    with connect(":memory:", observer=observer) as db:
        assert db.value("SELECT 1") == 1


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("sqlite:////a/b.db", ("sqlite", "/a/b.db", None, None)),
        (":memory:", ("sqlite", ":memory:", None, None)),
        ("postgresql://u:s3cret@h:5433/d", ("postgresql", "d", "h", 5433)),
        ("postgresql+asyncpg://h/d%20e?password=s3cret", ("postgresql", "d e", "h", None)),
        ("postgresql://[::1]:1/d", ("postgresql", "d", "::1", 1)),
        ("postgresql:///d?host=/tmp&port=5", ("postgresql", "d", "/tmp", 5)),
        ("postgresql://%2Ftmp/d", ("postgresql", "d", "/tmp", None)),
        ("postgresql://u:s3cret@a:1,b:2/d", ("postgresql", "d", None, None)),
        ("postgresql:///?dbname=d&host=a,b", ("postgresql", "d", None, None)),
        ("postgresql://", ("postgresql", "", None, None)),
        ("postgresql://h/d?port=x", ("postgresql", "d", "h", None)),
        ("postgresql://h:99999/d", ("postgresql", "d", "h", 99999)),
        ("postgresql://h:/d", ("postgresql", "d", "h", None)),
        ("postgresql://u]:s3cret@h/d#e", ("postgresql", "d#e", "h", None)),
    ],
)
def test_the_database_that_events_name(url: str, expected: tuple[object, ...]) -> None:
    settings = config.load(url, {})
    hooks = observe.hooks_of(Observer(), settings)
    assert hooks is not None
    assert hooks.database == expected
    assert "s3" not in repr(hooks.database)


def test_the_counter_counts_what_is_sent(url: str) -> None:
    counter = observe.Counter()
    with connect(url, observer=counter) as db:
        counter.reset()
        flow = flows.create(db, "etl")
        assert counter.calls.total() == 1
        counter.reset()
        assert db.run(lambda txn: flows.get(txn, flow.id)) == flow
        assert counter.calls["BEGIN"] == counter.calls["COMMIT"] == 1
        assert counter.calls.total() == 3
        assert (counter.acquires, counter.retries) == (1, 0)


def test_the_counter_counts_for_all_threads(url: str) -> None:
    counter = observe.Counter()
    with _open(url, counter) as db, ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda _: db.value("SELECT 1"), range(200)))
    assert counter.calls == {"SELECT 1": 200}


class Telescope:
    """OpenTelemetry in memory."""

    def __init__(self, *, params: bool = False) -> None:
        self.spans = InMemorySpanExporter()
        tracing = TracerProvider(shutdown_on_exit=False)
        tracing.add_span_processor(SimpleSpanProcessor(self.spans))
        self.reader = InMemoryMetricReader()
        metering = MeterProvider([self.reader], shutdown_on_exit=False)
        self.tracer = tracing.get_tracer("test")
        self.observer = observe.opentelemetry(tracing, metering, params=params)

    def finished(self) -> Sequence[ReadableSpan]:
        return self.spans.get_finished_spans()

    def points(self, name: str) -> list[Any]:
        data = self.reader.get_metrics_data()
        return [
            point
            for resource in (data.resource_metrics if data else ())
            for scope in resource.scope_metrics
            for metric in scope.metrics
            if metric.name == name
            for point in metric.data.data_points
        ]


def _logging(params: bool) -> Observer:
    return observe.log_slow(0, params=params)


@pytest.mark.parametrize("params", [False, True])
def test_parameters_are_told_only_if_asked_for(
    url: str, params: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither when a statement succeeds nor when it fails, though PostgreSQL quotes the row."""
    recorder, telescope = Recorder(params=params), Telescope(params=params)
    unasked = Recorder()
    observers = (recorder, telescope.observer, _logging(params), unasked)
    with connect(url, migrate=False, observer=observers) as db:
        db.execute(_ITEM)
        db.execute(_INSERT, (1, _SECRET))
        with pytest.raises(UniqueViolation):
            db.execute(_INSERT, (2, _SECRET))
        with pytest.raises(UniqueViolation):
            db.executemany(_INSERT, [(3, _SECRET), (4, _SECRET)])
        with db.transaction() as txn:
            list(txn.stream("SELECT id FROM item WHERE label = ?", (_SECRET,)))
    spans = "".join(span.to_json() for span in telescope.finished())
    metrics = repr(telescope.reader.get_metrics_data())
    assert [
        _SECRET in text for text in (repr(recorder.ended), spans, caplog.text, repr(unasked.ended))
    ] == [params, params, params, False]
    assert _SECRET not in metrics
    if params:
        asked = [event.params for event, _ in recorder.of(Execute) if event.verb != "stream"]
        assert [2, _SECRET] in asked
        assert [[3, _SECRET], [4, _SECRET]] in asked
        assert recorder.of(Execute)[1][0].params == [1, _SECRET]


def test_slow_statements_and_waits_are_logged(url: str, caplog: pytest.LogCaptureFixture) -> None:
    with _open(url, observe.log_slow(0)) as db:
        db.execute(_ITEM)
        caplog.clear()
        db.rows("SELECT 1\n  UNION\tSELECT 2")
        acquire, statement = caplog.records
        assert acquire.getMessage().endswith(" s, to read")
        assert statement.getMessage().startswith("slow statement: 0.")
        assert statement.getMessage().endswith(" s, 2 rows, 0 affected: SELECT 1 UNION SELECT 2")
        assert {record.levelname for record in caplog.records} == {"WARNING"}
        caplog.clear()
        with pytest.raises(Error):
            db.execute(f"DELETE FROM missing WHERE '{'x' * 1000}' = '\n'")
        line = caplog.records[1].getMessage()
        assert ", 0 affected, SchemaError: DELETE" in line
        assert line.endswith("xxx...")
        assert len(line) < 600
        assert "\n" not in line


def test_slow_waits_that_fail_are_logged(url: str, caplog: pytest.LogCaptureFixture) -> None:
    log = logging.getLogger("tests.slow")
    slow = observe.log_slow(0.05, log)
    with _open(url, slow, pool_size=1, pool_timeout=0.1) as db:
        caplog.clear()
        with ThreadPoolExecutor(1) as threads, db.transaction():
            with pytest.raises(PoolTimeout):
                threads.submit(db.execute, _ITEM).result(BOUND)
    [line] = [record.getMessage() for record in caplog.records if record.name == log.name]
    assert line.startswith("slow acquire: ")
    assert line.endswith(" s, to write, PoolTimeout")


def test_what_is_fast_is_not_logged(url: str, caplog: pytest.LogCaptureFixture) -> None:
    with _open(url, observe.log_slow(BOUND)) as db:
        db.execute(_ITEM)
    assert not caplog.records


@pytest.mark.parametrize("seconds", [-1, float("nan"), float("inf"), "1", None])
def test_a_wrong_threshold_is_refused(seconds: Any) -> None:
    with pytest.raises(ConfigurationError, match="seconds"):
        observe.log_slow(seconds)


def test_spans_have_the_conventional_names(url: str, backend_name: str) -> None:
    telescope = Telescope()
    with _open(url, telescope.observer) as db:
        db.execute(_ITEM)
        with telescope.tracer.start_as_current_span("request") as request:
            db.executemany("-- two\n" + _INSERT, [(1, "a"), (2, "b")])
        create, begin, insert, commit, _ = telescope.finished()
        place = config.load(url, {})
        database = observe.hooks_of(Observer(), place)
        assert database is not None
        system, name, host, port = database.database
        server = {"server.address": host, "server.port": port} if host else {}
        common = {"db.system.name": system, "db.namespace": name, **server}
        assert [span.kind for span in (create, insert)] == [SpanKind.CLIENT] * 2
        assert create.name == f"CREATE {name}"
        assert create.attributes == common | {
            "db.operation.name": "CREATE",
            "db.query.text": _ITEM,
        }
        assert insert.attributes == common | {
            "db.operation.name": "BATCH INSERT",
            "db.operation.batch.size": 2,
            "db.query.text": f"-- two\n{_INSERT}",
        }
        assert [span.name.split()[0] for span in (begin, commit)] == ["BEGIN", "COMMIT"]
        parents = {span.parent and span.parent.span_id for span in (begin, insert, commit)}
        assert parents == {request.get_span_context().span_id}
        assert create.parent is None
        assert create.status.status_code is StatusCode.UNSET
        assert system == {"sqlite": "sqlite", "postgres": "postgresql"}[backend_name]


def test_spans_and_metrics_of_errors(url: str) -> None:
    telescope = Telescope()
    with _open(url, telescope.observer) as db:
        with pytest.raises(Error) as caught:
            db.execute("DELETE FROM missing")
    [span] = telescope.finished()
    assert span.status.status_code is StatusCode.ERROR
    assert span.status.description == str(caught.value)
    failure = {"error.type": "SchemaError", "db.response.status_code": caught.value.code}
    assert span.attributes is not None
    assert failure.items() <= span.attributes.items()
    [point] = telescope.points("db.client.operation.duration")
    assert failure.items() <= point.attributes.items()
    assert "db.query.text" not in point.attributes
    assert point.count == 1
    assert point.explicit_bounds == (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10)


def test_retries_are_events_of_the_callers_span(url: str) -> None:
    telescope = Telescope()

    def fail(txn: Queryable) -> None:
        raise SerializationFailure("again")

    with _open(url, telescope.observer) as db, suppress(SerializationFailure):
        with telescope.tracer.start_as_current_span("request", record_exception=False):
            db.run(fail, attempts=2)
    [event] = telescope.finished()[-1].events
    assert event.name == "prefect_db.retry"
    assert event.attributes is not None
    assert event.attributes["attempt"] == 2
    assert event.attributes["error.type"] == "SerializationFailure"


def test_metrics_of_the_pool(url: str) -> None:
    telescope = Telescope()

    def connections() -> dict[str, int]:
        points = telescope.points("db.client.connection.count")
        return {p.attributes["db.client.connection.state"]: p.value for p in points}

    with _open(url, telescope.observer, pool_size=1, pool_timeout=0.1) as db:
        size = db.stats().size
        with ThreadPoolExecutor(1) as threads, db.transaction():
            assert connections() == {"used": 1, "idle": size - 1}
            with pytest.raises(PoolTimeout):
                threads.submit(db.execute, _ITEM).result(BOUND)
        assert connections() == {"used": 0, "idle": size}
    until(lambda: connections() == {"used": 0, "idle": 0})
    [pending] = telescope.points("db.client.connection.pending_requests")
    [timeouts] = telescope.points("db.client.connection.timeouts")
    [waits] = telescope.points("db.client.connection.wait_time")
    [uses] = telescope.points("db.client.connection.use_time")
    [created] = telescope.points("db.client.connection.create_time")
    assert (pending.value, timeouts.value, waits.count, uses.count) == (0, 1, 1, 1)
    assert created.count == size
    assert waits.attributes["db.client.connection.pool.name"]


def test_opentelemetry_that_is_not_installed_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "prefect_db.otel", raising=False)
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'prefect-db\[otel\]'"):
        observe.opentelemetry()


def test_opentelemetry_without_providers_uses_the_global_ones() -> None:
    with connect(":memory:", observer=observe.opentelemetry()) as db:
        assert db.value("SELECT 1") == 1


def test_passwords_are_in_no_attribute(url: str) -> None:
    telescope, recorder = Telescope(), Recorder()
    secret = "s3cret"
    given = url.replace("://postgres@", f"://postgres:{secret}@")
    with connect(given, migrate=False, observer=(telescope.observer, recorder)) as db:
        db.value("SELECT 1")
        assert secret not in repr(db)
    told = [json.loads(span.to_json()) for span in telescope.finished()]
    for text in (repr(told), repr(recorder.ended), repr(telescope.reader.get_metrics_data())):
        assert secret not in text


def _open(url: str, *observers: Observer, **options: Any) -> Backend:
    return connect(url, migrate=False, observer=observers, **options)


def _stream(db: Backend, sql: str, batch: int) -> None:
    with db.transaction(read_only=True) as txn:
        list(txn.stream(sql, batch=batch))


def _endless(db: Queryable) -> str:
    return db.dialect.pick(
        sqlite="WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n)"
        " SELECT count(*) FROM n",
        postgres="SELECT pg_sleep(3600)",
    )


def _terminate(url: str, pid: int) -> None:
    with psycopg.connect(url, autocommit=True) as admin:
        admin.execute("SELECT pg_terminate_backend(%s)", (pid,))
        gone = "SELECT count(*) FROM pg_stat_activity WHERE pid = %s"
        until(lambda: admin.execute(gone, (pid,)).fetchone() == (0,))
