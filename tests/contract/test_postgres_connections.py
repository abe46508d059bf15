"""PostgreSQL: the pool, sessions that are lost, and the settings of a session."""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from urllib.parse import quote

import psycopg
import pytest

from benchmarks.grown import add_runs
from prefect_db import (
    Backend,
    Deadlock,
    Error,
    NotNullViolation,
    PoolTimeout,
    ProgrammingError,
    Queryable,
    Transaction,
    Unavailable,
    connect,
    events,
    flow_runs,
    task_runs,
)
from prefect_db.drivers.postgres import PostgresConnection
from prefect_db.event_filters import EventFilter, EventName, Occurred
from prefect_db.filters import Among, State, Tags
from prefect_db.run_filters import FlowRunFilter, TaskRunFilter
from prefect_db.testing import postgres_server
from tests.faults import BOUND, in_thread, until

pytestmark = pytest.mark.only("postgres", "SQLite has no server, and one writer")

# Seconds: a connection that was idle for longer is checked.
_IDLE: Final = 1.0

_PIDS: Final = (
    "SELECT pid FROM pg_stat_activity"
    " WHERE datname = current_database() AND pid <> pg_backend_pid()"
    " AND backend_type LIKE 'client%'"
)


@pytest.fixture
def admin(url: str) -> Iterator[psycopg.Connection[Any]]:
    """A session that is not the Backend's."""
    with psycopg.connect(url, autocommit=True) as admin:
        yield admin


@pytest.fixture
def db(url: str) -> Iterator[Backend]:
    with connect(url, migrate=False, pool_size=3) as db:
        db.execute("CREATE TABLE item (id bigint NOT NULL PRIMARY KEY, n bigint)")
        yield db
        assert db.stats().in_use == 0


@pytest.mark.direct("PgBouncer has sessions of its own, and takes no options")
def test_sessions_that_died_while_idle_are_replaced_unnoticed(
    db: Backend, admin: psycopg.Connection[Any]
) -> None:
    assert len(_use_all(db)) == 3
    _kill_all(admin)
    _let_pass(_IDLE)
    assert len(_use_all(db)) == 3
    assert db.stats().broken >= 3


def test_a_session_that_died_a_moment_ago_fails_one_statement(
    db: Backend, admin: psycopg.Connection[Any]
) -> None:
    """To check it each time would double the cost of a read."""
    with connect(_url(admin), migrate=False, pool_size=1) as one:
        one.value("SELECT 1")
        _kill_all(admin)
        with suppress(Unavailable):
            one.value("SELECT 1")
        assert one.value("SELECT 1") == 1


def test_run_does_not_fail_when_all_sessions_have_died(
    db: Backend, admin: psycopg.Connection[Any]
) -> None:
    _use_all(db)
    _kill_all(admin)
    assert db.run(lambda txn: txn.value("SELECT 1")) == 1


def test_a_session_that_dies_while_it_works_is_unavailable(
    db: Backend, admin: psycopg.Connection[Any]
) -> None:
    size = len(_use_all(db))
    with ThreadPoolExecutor(1) as threads:
        working = threads.submit(db.execute, "SELECT pg_sleep(600)")
        _until_asleep(admin)
        _kill_all(admin, "query LIKE '%pg_sleep%'")
        with pytest.raises(Unavailable) as caught:
            working.result(BOUND)
    assert caught.value.sent
    assert caught.value.sql == "SELECT pg_sleep(600)"
    assert db.value("SELECT 1") == 1
    assert db.stats().broken == 1
    assert len(_use_all(db)) == db.stats().size == size


def test_a_statement_on_its_own_is_saved_at_once(
    db: Backend, admin: psycopg.Connection[Any]
) -> None:
    db.execute("INSERT INTO item (id) VALUES (1)")
    assert admin.execute("SELECT id FROM item").fetchall() == [(1,)]


@pytest.mark.direct("PgBouncer has sessions of its own, and takes no options")
def test_nothing_is_left_open_on_the_server(db: Backend, admin: psycopg.Connection[Any]) -> None:
    """A session that is idle in a transaction keeps old rows from being cleaned up."""
    db.value("SELECT 1")
    with suppress(Error):
        db.value("SELECT 1 / 0")
    with db.transaction(read_only=True) as txn:
        txn.stream("SELECT 1")
    states = "SELECT DISTINCT state FROM pg_stat_activity WHERE application_name = 'prefect_db'"
    until(lambda: admin.execute(states).fetchall() == [("idle",)])


def test_no_setting_stays_for_the_next_user(url: str) -> None:
    settings = "SELECT name, setting FROM pg_settings WHERE source = 'session' ORDER BY name"
    with connect(url, migrate=False, pool_size=1) as db:
        before = [tuple(row) for row in db.rows(settings)]
        with db.transaction(read_only=True, isolation="serializable", timeout=5) as txn:
            txn.value("SELECT 1")
        with suppress(Error), db.transaction(timeout=0.01) as txn:
            txn.value("SELECT pg_sleep(60)")
        with db.transaction(timeout=3) as txn:
            txn.rollback()
        assert [tuple(row) for row in db.rows(settings)] == before


def test_the_application_has_a_name(url: str) -> None:
    with connect(url, migrate=False) as db:
        assert db.value("SHOW application_name") == "prefect_db"
    with connect(url, migrate=False, application_name="ours") as db:
        assert db.value("SHOW application_name") == "ours"
    with connect(f"{url}&application_name=theirs", migrate=False, application_name="x") as db:
        assert db.value("SHOW application_name") == "theirs"


@pytest.mark.direct("PgBouncer has sessions of its own, and takes no options")
def test_the_urls_own_options_are_kept(url: str) -> None:
    options = quote("-c statement_timeout=7s -c plan_cache_mode=auto -c search_path=a,\\ b")
    with connect(f"{url}&options={options}", migrate=False) as db:
        assert db.value("SHOW statement_timeout") == "7s"
        assert db.value("SHOW plan_cache_mode") == "auto"
        assert db.value("SHOW search_path") == "a, b"


@pytest.mark.direct("PgBouncer has sessions of its own, and takes no options")
@pytest.mark.parametrize("where", ["server", "URL"])
def test_times_are_utc_whatever_the_default(
    url: str, admin: psycopg.Connection[Any], where: str
) -> None:
    defaults = {"TimeZone": "Asia/Kolkata", "IntervalStyle": "sql_standard", "DateStyle": "German"}
    if where == "server":
        for name, value in defaults.items():
            admin.execute(f'ALTER DATABASE "{admin.info.dbname}" SET {name} TO "{value}"')
    else:
        url += "&options=" + quote(" ".join(f"-c {key}={defaults[key]}" for key in defaults))
    with connect(url, migrate=False) as db:
        moment = db.value("SELECT timestamptz '2026-02-03 04:05:06.000007+00'")
        assert moment == datetime(2026, 2, 3, 4, 5, 6, 7, UTC)
        assert moment.utcoffset() == timedelta(0)
        assert db.value("SELECT interval '-1 day -02:03:04.5'") == -timedelta(1, 7384.5)
        assert (
            db.value("SELECT (timestamptz '2026-02-03 04:05:06+00')::text")[:13] == "2026-02-03 04"
        )


def test_the_hosts_psycopg_is_not_changed(db: Backend, admin: psycopg.Connection[Any]) -> None:
    assert db.value("""SELECT '{"a": 1}'::jsonb""") == '{"a": 1}'
    assert admin.execute("""SELECT '{"a": 1}'::jsonb""").fetchone() == ({"a": 1},)


@pytest.mark.direct("PgBouncer has sessions of its own, and takes no options")
def test_a_statement_that_is_repeated_is_prepared(db: Backend) -> None:
    with db.transaction() as txn:
        assert _prepared(txn) == 1


@pytest.mark.direct("PgBouncer has sessions of its own, and takes no options")
@pytest.mark.parametrize("read", ["row", "rows", "value"])
def test_a_statement_that_shall_not_be_prepared_is_not(db: Backend, read: str) -> None:
    """A generic plan for a state that is rare was 48 times slower."""
    with db.transaction() as txn:
        for number in range(8):
            getattr(txn, read)("SELECT ? + 4711", (number,), prepare=False)
        assert txn.value("SELECT count(*) FROM pg_prepared_statements") == 0


@pytest.mark.direct("PgBouncer has sessions of its own, and takes no options")
def test_pages_of_a_filter_are_planned_for_its_values(url: str) -> None:
    with connect(url, pool_size=1) as db:
        for _ in range(8):
            flow_runs.find(db, FlowRunFilter(tags=Tags(all_=["prod"])))
            flow_runs.count(db, FlowRunFilter(state=State(type=Among(any_=["RUNNING"]))))
            events.query(db, EventFilter(event=EventName(name=["x"])))
        statements = db.rows("SELECT statement FROM pg_prepared_statements")
        assert not [row[0] for row in statements if "flow_run" in row[0] or "events" in row[0]]


@pytest.mark.direct("PgBouncer has sessions of its own, and takes no options")
def test_pages_that_are_always_read_along_an_index_are_planned_once(url: str) -> None:
    with connect(url, pool_size=1) as db:
        for _ in range(8):
            flow_runs.find(db, FlowRunFilter(state=State(type=Among(any_=["RUNNING"]))))
            flow_runs.find(db, FlowRunFilter(state=State(type=Among(any_=["FAILED", "PAUSED"]))))
            flow_runs.find(db)
            flow_runs.count(db)
            task_runs.find(db, TaskRunFilter(state=State(type=Among(any_=["RUNNING"]))))
            events.query(db, EventFilter(occurred=Occurred(until=datetime.now(UTC))))
        statements = db.rows("SELECT statement, custom_plans FROM pg_prepared_statements")
        prepared = {row[0]: row[1] for row in statements if re.search("_run|events", row[0])}
        assert len(prepared) == 6
        # All that a plan depends on is in the text: so there is no other plan for other parameters.
        assert not any(plans for sql, plans in prepared.items() if "_run" in sql)


@pytest.mark.direct("PgBouncer has sessions of its own, and takes no options")
def test_a_page_is_planned_again_after_an_analyze(url: str) -> None:
    """A plan for a table of no rows is to sort it."""
    failed = FlowRunFilter(state=State(type=Among(any_=["FAILED"])))
    with connect(url, pool_size=1) as db:
        for _ in range(8):
            flow_runs.find(db, failed, limit=7)
        add_runs(db, 3000)
        db.execute("ANALYZE")
        name = db.value("SELECT name FROM pg_prepared_statements WHERE statement LIKE '%LIMIT 7'")
        plan = [row[0] for row in db.rows(f"EXPLAIN EXECUTE {name}")]
        assert not [step for step in plan if "Sort" in step or "Seq Scan" in step], plan
        assert len(flow_runs.find(db, failed, limit=7)) == 7


@pytest.mark.parametrize("inside", [False, True])
def test_a_prepared_statement_survives_a_change_of_its_table(
    url: str, db: Backend, inside: bool
) -> None:
    with connect(url, migrate=False, pool_size=1) as one:
        for _ in range(8):
            one.rows("SELECT * FROM item")
        db.execute("ALTER TABLE item ADD COLUMN more text")
        if inside:
            assert one.run(lambda txn: len(txn.rows("SELECT * FROM item"))) == 0
        else:
            assert len(one.rows("SELECT * FROM item")) == 0


def test_for_pgbouncer_nothing_is_prepared_or_sent_at_the_start(url: str) -> None:
    with connect(url, migrate=False, pgbouncer=True) as db:
        assert db.value("SHOW plan_cache_mode") == "auto"
        with db.transaction() as txn:
            assert _prepared(txn) == 0


def test_for_pgbouncer_the_verbs_are_the_same(url: str) -> None:
    with connect(url, pgbouncer=True) as db:
        db.execute("CREATE TABLE item (id bigint NOT NULL PRIMARY KEY)")
        db.executemany("INSERT INTO item (id) VALUES (?)", [(n,) for n in range(10)])
        with db.transaction(isolation="repeatable read", timeout=60) as txn:
            assert [row[0] for row in txn.stream("SELECT id FROM item ORDER BY id", (), 3)] == [
                *range(10)
            ]
            with txn.transaction() as inner:
                inner.execute("DELETE FROM item")
                inner.rollback()
        assert db.value("SELECT count(*) FROM item") == 10


def test_rows_can_be_copied_through_the_drivers_own_connection(db: Backend) -> None:
    with db.connection() as native, native.cursor().copy("COPY item (id) FROM STDIN") as copy:
        for n in range(1000):
            copy.write_row((n,))
    assert db.value("SELECT count(*) FROM item") == 1000


@pytest.mark.parametrize("copy", ["COPY copied TO STDOUT", "COPY copied FROM STDIN"])
def test_a_copy_as_a_statement_is_wrong_and_not_tried_again(db: Backend, copy: str) -> None:
    """psycopg leaves it at work on the server, as where a socket is dead."""
    db.execute("CREATE TABLE copied (n integer)")
    tried = []

    def attempt(txn: Transaction) -> None:
        tried.append(copy)
        txn.execute(copy)

    with pytest.raises(ProgrammingError, match="COPY"):
        db.run(attempt)
    assert tried == [copy]
    assert db.value("SELECT 1") == 1


def test_the_pool_grows_to_its_size_and_no_further(db: Backend) -> None:
    with ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(db.transaction())
        assert (db.stats().size, db.stats().in_use) == (3, 3)
    assert (db.stats().size, db.stats().in_use) == (3, 0)


def test_a_full_pool_is_a_timeout_that_says_so(url: str) -> None:
    with connect(url, migrate=False, pool_size=2, pool_timeout=0.2) as db:
        with db.transaction(), db.transaction(), pytest.raises(PoolTimeout) as caught:
            in_thread(lambda: db.value("SELECT 1"))
        assert (caught.value.stats.size, caught.value.stats.in_use) == (2, 2)
        assert "in_use=2" in str(caught.value)
        assert db.value("SELECT 1") == 1


def test_a_server_that_is_gone_is_unavailable_and_no_full_pool() -> None:
    with ExitStack() as server:
        url = server.enter_context(postgres_server())
        with connect(url, migrate=False, pool_size=3, pool_timeout=1) as db:
            _use_all(db)
            server.close()
            for _ in range(9):
                with pytest.raises(Unavailable):
                    db.value("SELECT 1")


def test_no_server_at_all_is_told_by_host_and_port() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        with pytest.raises(Unavailable) as caught:
            connect(f"postgresql://me:secret@127.0.0.1:{port}/base")
    assert not caught.value.sent
    message = f"{caught.value} {caught.value!r}"
    assert f"127.0.0.1:{port}/base" in message
    assert "refused" in message
    assert "secret" not in message


@pytest.mark.parametrize("seconds", [0.5, 2])
def test_a_server_that_does_not_answer_is_not_waited_for(seconds: float) -> None:
    with _silent_server(for_=20.0) as port:
        began = time.monotonic()
        with pytest.raises(Unavailable, match="timeout"):
            connect(f"postgresql://127.0.0.1:{port}/base", connect_timeout=seconds)
        assert time.monotonic() - began < 15


def test_a_database_that_is_not_there_is_told(admin: psycopg.Connection[Any]) -> None:
    url = _url(admin).replace(admin.info.dbname, "missing_base")
    with pytest.raises(Unavailable, match='"missing_base" does not exist'):
        connect(url)


def test_a_deadlock_is_told_to_one_of_the_two(db: Backend) -> None:
    _make_pair(db)
    together = threading.Barrier(2)

    def work(first: int) -> None:
        with db.transaction() as txn:
            _touch(txn, first)
            together.wait(BOUND)
            _touch(txn, 1 - first)

    with ThreadPoolExecutor(2) as threads:
        both = [threads.submit(work, n) for n in (0, 1)]
        errors = [each.exception(BOUND) for each in both]
    assert {type(error) for error in errors} == {Deadlock, type(None)}
    assert db.value("SELECT sum(n) FROM item") == 2


def test_run_absorbs_a_deadlock(db: Backend) -> None:
    _make_pair(db)
    together = threading.Barrier(2)
    attempts: list[int] = []

    def work(first: int) -> None:
        def touch_both(txn: Transaction) -> None:
            attempts.append(first)
            _touch(txn, first)
            if attempts.count(first) == 1:
                together.wait(BOUND)
            _touch(txn, 1 - first)

        db.run(touch_both)

    with ThreadPoolExecutor(2) as threads:
        list(threads.map(work, (0, 1)))
    assert len(attempts) > 2
    assert db.value("SELECT sum(n) FROM item") == 4


def _make_pair(db: Backend) -> None:
    db.execute("INSERT INTO item (id, n) VALUES (0, 0), (1, 0)")
    with db.connection() as native:
        # The default waits a second before it looks.
        native.execute(f'ALTER DATABASE "{native.info.dbname}" SET deadlock_timeout TO 10')


def _touch(txn: Queryable, id_: int) -> None:
    txn.execute("UPDATE item SET n = n + 1 WHERE id = ?", (id_,))


def _use_all(db: Backend) -> set[int]:
    """Use three connections at the same time; their sessions' process ids."""
    together = threading.Barrier(3)

    def work(_: int) -> int:
        with db.transaction() as txn:
            pid: int = txn.value("SELECT pg_backend_pid()")
            together.wait(BOUND)
            return pid

    with ThreadPoolExecutor(3) as threads:
        return set(threads.map(work, range(3)))


def _pids(admin: psycopg.Connection[Any], where: str = "true") -> set[int]:
    return {row[0] for row in admin.execute(f"{_PIDS} AND {where}")}


def _kill_all(admin: psycopg.Connection[Any], where: str = "true") -> None:
    pids = _pids(admin, where)
    for pid in pids:
        admin.execute("SELECT pg_terminate_backend(%s)", (pid,))
    until(lambda: not pids & _pids(admin))


def _until_asleep(admin: psycopg.Connection[Any]) -> None:
    until(lambda: bool(_pids(admin, "wait_event = 'PgSleep'")))


def _url(admin: psycopg.Connection[Any]) -> str:
    info = admin.info
    return f"postgresql://{info.user}@/{info.dbname}?host={info.host}&port={info.port}"


def _prepared(txn: Transaction) -> int:
    for n in range(10):
        txn.value("SELECT 4711 + CAST(? AS bigint)", (n,))
    found = txn.value("SELECT count(*) FROM pg_prepared_statements WHERE statement LIKE '%4711%'")
    assert isinstance(found, int)
    return found


def _let_pass(seconds: float) -> None:
    ends = time.monotonic() + seconds
    until(lambda: time.monotonic() > ends)


@contextmanager
def _silent_server(for_: float) -> Iterator[int]:
    """The port of a server that accepts connections and says nothing, for so long."""
    done = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                done.wait(for_)

        thread = threading.Thread(target=serve)
        thread.start()
        yield server.getsockname()[1]
        done.set()
        thread.join()


class _SlowToEnd(list[Any]):
    def __iter__(self) -> Iterator[Any]:
        yield from super().__iter__()
        time.sleep(0.02)


@pytest.mark.only("postgres", "psycopg sends the rows as a pipeline")
def test_an_error_that_comes_when_all_rows_are_sent_is_not_taken_for_its_effect(
    db: Backend,
) -> None:
    db.execute("CREATE TABLE thing (id integer NOT NULL)")
    statement = db.dialect.compile("INSERT INTO thing (id) VALUES (?)")
    other = db.dialect.compile("DELETE FROM thing WHERE id = ?")
    with db.connection() as native:
        # Each statement has the one before forgotten, by a command behind the rows.
        native.prepared_max = 0
        connection = PostgresConnection(native)
        for _ in range(30):
            connection.executemany(other, [[1]])
            with pytest.raises(NotNullViolation) as caught:
                connection.executemany(statement, _SlowToEnd([[None]]))
            assert isinstance(caught.value.__cause__, psycopg.errors.NotNullViolation)


def test_what_the_caller_is_handling_is_not_taken_for_an_errors_cause(db: Backend) -> None:
    db.execute("CREATE TABLE thing (id integer NOT NULL)")
    try:
        raise KeyError
    except KeyError:
        with pytest.raises(NotNullViolation):
            db.executemany("INSERT INTO thing (id) VALUES (?)", [(None,)])
