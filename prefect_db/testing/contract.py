"""What every driver does, as a test class: a driver's test module subclasses it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

import pytest

from prefect_db import (
    Array,
    Backend,
    BackendClosed,
    BadValue,
    Cancelled,
    CheckViolation,
    ConstraintError,
    Error,
    ForeignKeyViolation,
    MultipleRows,
    NotNullViolation,
    PoolTimeout,
    ProgrammingError,
    Queryable,
    QueryTimeout,
    ReadOnly,
    Row,
    SchemaError,
    TransactionAborted,
    UniqueViolation,
    config,
    connect,
    drivers,
    wrap,
)
from prefect_db.drivers.base import Connection, Driver, Isolation, Result
from prefect_db.observe import (
    Acquire,
    Close,
    Connect,
    Event,
    Execute,
    Observer,
    Outcome,
    Release,
)

_BOUND: Final = 30.0

_ITEM: Final = """
CREATE TABLE item (
    id bigint NOT NULL PRIMARY KEY,
    label varchar NOT NULL,
    amount bigint CONSTRAINT item_amount CHECK (amount > 0),
    parent_id bigint REFERENCES item (id),
    later_id bigint REFERENCES item (id) DEFERRABLE INITIALLY DEFERRED,
    UNIQUE (label, amount)
)
"""
_SAMPLE: Final = {
    "sqlite": "CREATE TABLE sample (n BIGINT, f FLOAT, t VARCHAR, b BLOB, u CHAR(36), d DATETIME,"
    " p DATETIME, y BOOLEAN, j JSON, m VARCHAR)",
    "postgres": "CREATE TABLE sample (n bigint, f double precision, t varchar, b bytea, u uuid,"
    " d timestamptz, p interval, y boolean, j jsonb, m numeric)",
}
_READ: Final[dict[str, Callable[[Row, str], Any]]] = {
    "n": Row.int,
    "f": Row.float,
    "t": Row.text,
    "b": Row.bytes,
    "u": Row.uuid,
    "d": Row.datetime,
    "p": Row.timedelta,
    "y": Row.bool,
    "j": Row.json,
    "m": lambda row, column: Decimal(row.text(column) or ""),
}
_VALUES: Final = [
    pytest.param("n", 0, id="int-zero"),
    pytest.param("n", 2**63 - 1, id="int-largest"),
    pytest.param("n", -(2**63), id="int-smallest"),
    pytest.param("f", 1.5, id="float"),
    pytest.param("f", 3, id="float-of-int"),
    pytest.param("f", 0.1 + 0.2, id="float-digits"),
    pytest.param("f", 5e-324, id="float-least"),
    pytest.param("f", float("-inf"), id="float-infinite"),
    pytest.param("t", "", id="text-empty"),
    pytest.param("t", "? ?? $1 %s :a", id="text-placeholders"),
    pytest.param("t", 'it\'s "quoted" `so` \\n; -- x /* y', id="text-quotes"),
    pytest.param("t", "Zoë 東京 \N{GRINNING FACE} e\u0301\r\n\t", id="text-unicode"),
    pytest.param("t", "0123456789abcdef" * 2**16, id="text-1-MB"),
    pytest.param("b", b"", id="bytes-empty"),
    pytest.param("b", bytes(range(256)), id="bytes-all"),
    pytest.param("b", bytes(range(256)) * 2**12, id="bytes-1-MB"),
    pytest.param("b", bytearray(b"a\0b"), id="bytearray"),
    pytest.param("b", memoryview(b"a\0b"), id="memoryview"),
    pytest.param("u", UUID("01890a5d-ac96-774b-bcce-b302099a8057"), id="uuid"),
    pytest.param("d", datetime(2026, 2, 3, 4, 5, 6, 7, UTC), id="datetime"),
    pytest.param(
        "d", datetime(2026, 1, 1, 1, tzinfo=timezone(timedelta(hours=5.5))), id="datetime-offset"
    ),
    pytest.param("d", datetime(1, 1, 1, tzinfo=UTC), id="datetime-first"),
    pytest.param("d", datetime.max.replace(tzinfo=UTC), id="datetime-last"),
    pytest.param("p", timedelta(0), id="timedelta-zero"),
    pytest.param("p", timedelta(days=400, hours=23, microseconds=1), id="timedelta"),
    pytest.param("p", -timedelta(seconds=1, microseconds=1), id="timedelta-negative"),
    pytest.param("y", True, id="true"),
    pytest.param("y", False, id="false"),
    pytest.param("j", {}, id="json-empty-object"),
    pytest.param("j", [], id="json-empty-list"),
    pytest.param("j", {"a?": [1, -2.5, None, True, "'\"\\ü", {"b": 2**70}]}, id="json-nested"),
    pytest.param("m", Decimal("-12345678901234567890.123456789"), id="decimal"),
]


@dataclass(frozen=True, slots=True)
class Target:
    """Where a driver is tested.

    Attributes:
        url: An empty database.
        driver: The driver, unless the URL's scheme finds it.
    """

    url: str
    driver: Driver | None = None


class DriverContract:
    """The contract of `prefect_db.drivers.base`. Subclass it, and say where:

    class TestMine(DriverContract):
        @pytest.fixture
        def target(self, tmp_path: Path) -> Target:
            return Target(f"mine:///{tmp_path}/test.db", MyDriver())
    """

    @pytest.fixture
    def target(self) -> Target:
        """A fresh database for each test."""
        raise NotImplementedError

    @pytest.fixture
    def db(self, target: Target) -> Iterator[Backend]:
        """The database, opened, with the empty tables `item` and `sample`."""
        with _connect(target) as db:
            db.execute(_ITEM)
            db.execute(_SAMPLE[db.dialect.name])
            yield db
            assert db.stats().in_use == 0

    def test_rows_arrive_in_order_by_position_and_name(self, db: Backend) -> None:
        _add(db, 1, 2, 3)
        rows = db.rows("SELECT id, label FROM item ORDER BY id DESC")
        assert [tuple(row) for row in rows] == [(3, "item 3"), (2, "item 2"), (1, "item 1")]
        assert rows[0]["label"] == "item 3"

    def test_no_row_is_none(self, db: Backend) -> None:
        assert db.row("SELECT id FROM item") is None
        assert db.value("SELECT id FROM item") is None
        assert list(db.rows("SELECT id FROM item")) == []

    def test_a_second_row_is_refused_where_one_is_asked_for(self, db: Backend) -> None:
        _add(db, 1, 2)
        with pytest.raises(MultipleRows):
            db.row("SELECT id FROM item")
        with pytest.raises(MultipleRows):
            db.value("SELECT id FROM item")

    def test_columns_have_the_names_of_the_statement(self, db: Backend) -> None:
        with db.borrowed() as connection:
            result = _execute(db, connection, 'SELECT id, label AS "A b", 1 AS x, 2 AS x FROM item')
            assert result.names() == ("id", "A b", "x", "x")

    def test_names_can_be_asked_for_after_the_next_statement(self, db: Backend) -> None:
        with db.borrowed() as connection:
            first = _execute(db, connection, "SELECT 1 AS a")
            second = _execute(db, connection, "SELECT 2 AS b")
            assert (first.names(), second.names()) == (("a",), ("b",))

    @pytest.mark.parametrize(
        ("sql", "affected"),
        [
            pytest.param("INSERT INTO item (id, label) VALUES (8, 'a'), (9, 'b')", 2, id="insert"),
            pytest.param(
                "INSERT INTO item (id, label) VALUES (8, 'a'), (9, 'b') RETURNING id",
                2,
                id="insert-returning",
            ),
            pytest.param(
                "INSERT INTO item (id, label) VALUES (1, 'a') ON CONFLICT DO NOTHING",
                0,
                id="insert-nothing",
            ),
            pytest.param("UPDATE item SET label = 'x' WHERE id < 3", 2, id="update"),
            pytest.param("-- all\nDELETE FROM item", 3, id="delete"),
            pytest.param("DELETE FROM item WHERE id = 99", 0, id="delete-none"),
            pytest.param(
                "WITH low AS (SELECT 2 AS id) DELETE FROM item WHERE id IN (SELECT id FROM low)",
                1,
                id="delete-with",
            ),
            pytest.param("SELECT id FROM item", 0, id="select"),
            pytest.param("CREATE TABLE more (id bigint)", 0, id="ddl"),
        ],
    )
    def test_execute_gives_the_rows_affected(self, db: Backend, sql: str, affected: int) -> None:
        _add(db, 1, 2, 3)
        assert db.execute(sql) == affected

    def test_returning_gives_its_rows_and_is_done(self, db: Backend) -> None:
        """An undrained RETURNING would keep its write from being committed."""
        sql = "INSERT INTO item (id, label) VALUES (1, 'a'), (2, 'b') RETURNING id, label"
        assert [tuple(row) for row in db.rows(sql)] == [(1, "a"), (2, "b")]
        assert _ids(db) == [1, 2]

    def test_returning_of_too_many_rows_is_done_too(self, db: Backend) -> None:
        with pytest.raises(MultipleRows):
            db.value("INSERT INTO item (id, label) VALUES (1, 'a'), (2, 'b') RETURNING id")
        assert _ids(db) == [1, 2]

    def test_executemany_gives_the_rows_affected_by_all(self, db: Backend) -> None:
        assert _add(db, 1, 2, 3) == 3
        sql = "UPDATE item SET label = 'x' WHERE id >= ?"
        assert db.executemany(sql, ((n,) for n in (1, 3, 9))) == 4

    @pytest.mark.parametrize(
        "sql",
        [
            pytest.param(
                "INSERT INTO item (id, label) VALUES (?, 'a') RETURNING id", id="returning"
            ),
            pytest.param(
                "WITH v AS (SELECT CAST(? AS bigint) AS id)"
                " INSERT INTO item (id, label) SELECT id, 'a' FROM v",
                id="with",
            ),
        ],
    )
    def test_executemany_takes_every_statement_that_writes(self, db: Backend, sql: str) -> None:
        assert db.executemany(sql, [(1,), (2,)]) == 2
        assert _ids(db) == [1, 2]

    def test_executemany_of_nothing_is_nothing(self, db: Backend) -> None:
        assert db.executemany("INSERT INTO item (id, label) VALUES (?, ?)", []) == 0

    def test_executemany_is_all_or_none(self, db: Backend) -> None:
        with pytest.raises(UniqueViolation):
            _add(db, 1, 2, 1)
        assert _ids(db) == []

    @pytest.mark.parametrize(("column", "value"), _VALUES)
    def test_a_value_comes_back_as_it_was(self, db: Backend, column: str, value: Any) -> None:
        db.execute(f"INSERT INTO sample ({column}) VALUES (?)", (value,))
        row = db.row(f"SELECT {column} FROM sample")
        assert row is not None
        assert _READ[column](row, column) == value

    @pytest.mark.parametrize(("column", "value"), _VALUES)
    def test_executemany_stores_what_execute_stores(
        self, db: Backend, column: str, value: Any
    ) -> None:
        sql = f"INSERT INTO sample ({column}) VALUES (?)"
        db.execute(sql, (value,))
        db.executemany(sql, [(value,)])
        first, second = db.rows(f"SELECT {column} FROM sample")
        assert first == second

    @pytest.mark.parametrize("column", _READ)
    def test_none_is_null(self, db: Backend, column: str) -> None:
        db.execute(f"INSERT INTO sample ({column}) VALUES (?)", (None,))
        assert db.value(f"SELECT count(*) FROM sample WHERE {column} IS NULL") == 1
        assert db.value(f"SELECT {column} FROM sample") is None

    def test_an_array_is_one_parameter(self, db: Backend) -> None:
        _add(db, 1, 2, 3)
        among = db.dialect.pick(
            sqlite="id IN (SELECT value FROM json_each(?))", postgres="id = ANY(?)"
        )
        assert _ids(db, f"WHERE {among}", Array([1, 3, 9])) == [1, 3]
        assert _ids(db, f"WHERE {among}", Array([])) == []

    def test_a_thousand_parameters(self, db: Backend) -> None:
        marks = ", ".join("?" * 1000)
        _add(db, 1, 500, 5000)
        assert _ids(db, f"WHERE id IN ({marks})", *range(1000)) == [1, 500]

    def test_a_question_mark_in_a_literal_is_text(self, db: Backend) -> None:
        assert db.value("SELECT '?' || CAST(? AS varchar) || '?'", ("!",)) == "?!?"

    def test_a_transaction_saves_what_it_did(self, db: Backend) -> None:
        with db.transaction() as txn:
            _add(txn, 1)
            assert _ids(txn) == [1]
        assert _ids(db) == [1]

    def test_an_exception_undoes_the_transaction(self, db: Backend) -> None:
        with suppress(KeyError), db.transaction() as txn:
            _add(txn, 1)
            raise KeyError
        assert _ids(db) == []

    def test_a_savepoint_is_undone_alone(self, db: Backend) -> None:
        with db.transaction() as txn:
            _add(txn, 1)
            with txn.transaction() as outer:
                _add(outer, 2)
                with outer.transaction() as inner:
                    _add(inner, 3)
                    inner.rollback()
                _add(outer, 4)
            with suppress(KeyError), txn.transaction() as other:
                _add(other, 5)
                raise KeyError
        assert _ids(db) == [1, 2, 4]

    def test_after_an_error_in_a_savepoint_the_transaction_goes_on(self, db: Backend) -> None:
        with db.transaction() as txn:
            _add(txn, 1)
            with suppress(UniqueViolation), txn.transaction() as inner:
                _add(inner, 2)
                _add(inner, 1)
            _add(txn, 3)
        assert _ids(db) == [1, 3]

    def test_tables_are_made_in_the_transaction(self, db: Backend) -> None:
        """So a failed migration leaves nothing."""
        with db.transaction() as txn:
            txn.execute("CREATE TABLE more (id bigint)")
            txn.rollback()
        with pytest.raises(SchemaError):
            db.execute("SELECT id FROM more")

    @pytest.mark.parametrize("isolation", ["read committed", "repeatable read", "serializable"])
    def test_every_isolation_level_is_met(self, db: Backend, isolation: Isolation) -> None:
        with db.transaction(isolation=isolation) as txn:
            _add(txn, 1)
        assert _ids(db) == [1]

    @pytest.mark.parametrize(
        "sql",
        [
            "INSERT INTO item (id, label) VALUES (2, 'a')",
            "UPDATE item SET label = 'x'",
            "DELETE FROM item",
            "CREATE TABLE more (id bigint)",
        ],
    )
    def test_a_read_only_transaction_refuses_writes(self, db: Backend, sql: str) -> None:
        _add(db, 1)
        with db.transaction(read_only=True) as txn:
            assert _ids(txn) == [1]
            with pytest.raises(ReadOnly):
                txn.execute(sql)
            txn.rollback()
        assert [tuple(row) for row in db.rows("SELECT id, label FROM item")] == [(1, "item 1")]

    def test_after_a_read_only_transaction_others_write(self, db: Backend) -> None:
        with db.transaction(read_only=True) as txn:
            assert _ids(txn) == []
        _add(db, 1)
        with db.transaction() as txn:
            _add(txn, 2)
        assert _ids(db) == [1, 2]

    def test_a_statement_that_outlasts_the_timeout_is_stopped(self, db: Backend) -> None:
        with db.transaction(timeout=0.2) as txn:
            _add(txn, 1)
            with pytest.raises(QueryTimeout):
                txn.execute(_longer_than(txn, 1))
            txn.rollback()
        assert _ids(db) == []

    def test_a_timeout_ends_with_its_transaction(self, db: Backend) -> None:
        with db.borrowed() as connection:
            for end in (connection.commit, connection.rollback):
                connection.begin(read_only=False, isolation=None, timeout=0.05)
                end()
                _execute(db, connection, _longer_than(db, 0.05))

    def test_a_constraint_that_is_checked_at_commit_undoes_all(self, db: Backend) -> None:
        with pytest.raises(ForeignKeyViolation), db.transaction() as txn:
            txn.execute("INSERT INTO item (id, label, later_id) VALUES (1, 'a', 9)")
        assert _ids(db) == []

    def test_a_connection_is_in_a_transaction_from_begin_to_commit(self, db: Backend) -> None:
        with db.borrowed() as connection:
            _begin(connection)
            assert connection.in_transaction
            _execute(db, connection, "INSERT INTO item (id, label) VALUES (1, 'a')")
            connection.commit()
            assert not _in_transaction(connection)
        assert _ids(db) == [1]

    def test_a_connection_is_in_a_transaction_from_begin_to_rollback(self, db: Backend) -> None:
        with db.borrowed() as connection:
            _begin(connection)
            _execute(db, connection, "INSERT INTO item (id, label) VALUES (1, 'a')")
            connection.rollback()
            assert not connection.in_transaction
        assert _ids(db) == []

    def test_a_rollback_of_nothing_is_no_error(self, db: Backend) -> None:
        with db.borrowed() as connection:
            connection.rollback()
            assert not connection.in_transaction

    def test_a_commit_that_the_engine_does_not_do_is_an_error(self, db: Backend) -> None:
        """A failed statement made PostgreSQL refuse the rest; this form of it ends SQLite's."""
        verb = db.dialect.pick(sqlite="INSERT OR ROLLBACK", postgres="INSERT")
        with db.borrowed() as connection:
            _begin(connection)
            _execute(db, connection, "INSERT INTO item (id, label) VALUES (1, 'a')")
            with pytest.raises(UniqueViolation):
                _execute(db, connection, f"{verb} INTO item (id, label) VALUES (1, 'a')")
            with pytest.raises(TransactionAborted):
                connection.commit()
            assert not connection.in_transaction
        assert _ids(db) == []

    def test_an_interrupted_statement_is_cancelled(self, db: Backend) -> None:
        statement = db.dialect.compile(_longer_than(db, 1))
        with db.borrowed() as connection, ThreadPoolExecutor(1) as threads:
            running = threads.submit(connection.execute, statement, [])
            deadline = time.monotonic() + _BOUND
            while not running.done() and time.monotonic() < deadline:
                # It may not have begun yet, so once is not enough.
                connection.interrupt()
                wait([running], 0.02)
            with pytest.raises(Cancelled):
                running.result(_BOUND)
            assert _execute(db, connection, "SELECT 1").rows == [(1,)]

    def test_interrupting_nothing_is_no_error(self, db: Backend) -> None:
        with db.borrowed() as connection:
            connection.interrupt()
            assert _execute(db, connection, "SELECT 1").rows == [(1,)]

    @pytest.mark.parametrize(
        ("sql", "columns"),
        [
            ("INSERT INTO item (id, label) VALUES (1, 'b')", ("id",)),
            ("INSERT INTO item (id, label, amount) VALUES (2, 'a', 5)", ("label", "amount")),
        ],
    )
    def test_a_repeated_key_is_a_unique_violation(
        self, db: Backend, sql: str, columns: tuple[str, ...]
    ) -> None:
        db.execute("INSERT INTO item (id, label, amount) VALUES (1, 'a', 5)")
        error = _refused(db, UniqueViolation, sql)
        assert (error.table, error.columns) == ("item", columns)

    def test_a_missing_value_is_a_not_null_violation(self, db: Backend) -> None:
        error = _refused(db, NotNullViolation, "INSERT INTO item (id) VALUES (1)")
        assert (error.table, error.columns) == ("item", ("label",))

    def test_a_refused_value_is_a_check_violation(self, db: Backend) -> None:
        sql = "INSERT INTO item (id, label, amount) VALUES (1, 'a', -1)"
        error = _refused(db, CheckViolation, sql)
        assert error.constraint == "item_amount"

    def test_a_missing_parent_is_a_foreign_key_violation(self, db: Backend) -> None:
        sql = "INSERT INTO item (id, label, parent_id) VALUES (1, 'a', 9)"
        _refused(db, ForeignKeyViolation, sql)

    def test_removing_a_parent_is_a_foreign_key_violation(self, db: Backend) -> None:
        _add(db, 1)
        db.execute("INSERT INTO item (id, label, parent_id) VALUES (2, 'a', 1)")
        _refused(db, ForeignKeyViolation, "DELETE FROM item WHERE id = 1")

    @pytest.mark.parametrize(
        "sql",
        [
            "SELECT 1 FROM missing",
            "SELECT missing FROM item",
            "INSERT INTO item (missing) VALUES (1)",
            "UPDATE item SET missing = 1",
            "DROP TABLE missing",
        ],
    )
    def test_a_missing_table_or_column_is_a_schema_error(self, db: Backend, sql: str) -> None:
        with pytest.raises(SchemaError):
            db.execute(sql)

    @pytest.mark.parametrize("sql", ["SELEC 1", "SELECT FROM WHERE", "SELECT no_such_function(1)"])
    def test_wrong_sql_is_a_programming_error(self, db: Backend, sql: str) -> None:
        with pytest.raises(ProgrammingError):
            db.execute(sql)

    def test_a_value_of_another_type_than_the_column_is_a_bad_value(self, db: Backend) -> None:
        # SQLite's other columns take anything, and its STRICT tables are newer than 3.35.
        db.execute("CREATE TABLE typed (n INTEGER PRIMARY KEY)")
        with pytest.raises(BadValue) as caught:
            db.execute("INSERT INTO typed (n) VALUES (?)", ("secret",))
        assert "secret" not in str(caught.value)

    def test_an_error_says_which_statement_and_why_but_not_with_what(self, db: Backend) -> None:
        sql = "INSERT INTO item (id, label, amount) VALUES (?, ?, ?)"
        db.execute(sql, (1, "secret", 5))
        with pytest.raises(UniqueViolation) as caught:
            db.execute(sql, (2, "secret", 5))
        error = caught.value
        assert error.sql == sql
        assert error.code
        assert isinstance(error.__cause__, Exception)
        assert "secret" not in f"{error} {error!r}"

    def test_executemany_and_streams_raise_the_same_errors(self, db: Backend) -> None:
        with pytest.raises(SchemaError):
            db.executemany("UPDATE missing SET id = ?", [(1,)])
        with pytest.raises(SchemaError), db.transaction() as txn:
            list(txn.stream("SELECT id FROM missing"))

    def test_after_an_error_the_connection_is_as_before(self, db: Backend) -> None:
        with db.borrowed() as connection:
            with pytest.raises(SchemaError):
                _execute(db, connection, "SELECT 1 FROM missing")
            assert not connection.in_transaction
            assert _execute(db, connection, "SELECT 1").rows == [(1,)]

    def test_a_stream_comes_in_batches(self, db: Backend) -> None:
        _add(db, *range(1, 8))
        statement = db.dialect.compile("SELECT id FROM item WHERE id > ? ORDER BY id")
        with db.borrowed() as connection:
            _begin(connection)
            batches = list(connection.stream(statement, [0], 3))
            connection.commit()
        assert [[row[0] for row in each.rows] for each in batches] == [[1, 2, 3], [4, 5, 6], [7]]

    def test_a_stream_knows_its_columns_and_values(self, db: Backend) -> None:
        db.execute("INSERT INTO sample (n, j) VALUES (?, ?)", (1, {"a": [1]}))
        with db.transaction(read_only=True) as txn:
            for row in txn.stream("SELECT n, j FROM sample"):
                assert (row.keys(), row.int("n"), row.json("j")) == (["n", "j"], 1, {"a": [1]})

    def test_a_stream_of_nothing_is_empty(self, db: Backend) -> None:
        with db.transaction() as txn:
            assert list(txn.stream("SELECT id FROM item")) == []

    def test_two_streams_at_a_time(self, db: Backend) -> None:
        _add(db, *range(6))
        sql = "SELECT id FROM item ORDER BY id"
        with db.transaction() as txn:
            pairs = zip(txn.stream(sql, (), 2), txn.stream(sql, (), 4), strict=True)
            assert [(a["id"], b["id"]) for a, b in pairs] == [(n, n) for n in range(6)]

    def test_a_stream_that_is_left_early_holds_nothing(self, db: Backend) -> None:
        _add(db, *range(6))
        with db.transaction() as txn:
            for row in txn.stream("SELECT id FROM item ORDER BY id", (), 2):
                if row["id"] == 2:
                    break
            txn.execute("DELETE FROM item")
        assert _ids(db) == []

    def test_a_new_backend_has_no_connection_in_use(self, target: Target) -> None:
        with _connect(target) as db:
            assert db.stats().in_use == 0

    def test_the_statistics_count_what_is_borrowed(self, db: Backend) -> None:
        before = db.stats()
        with db.transaction():
            assert db.stats().in_use == 1
        after = db.stats()
        assert (after.in_use, after.waiting, after.timeouts) == (0, 0, 0)
        assert after.acquires == before.acquires + 1
        assert after.size >= 1

    def test_who_waits_too_long_is_told_the_statistics(self, target: Target) -> None:
        with _connect(target, pool_size=1, pool_timeout=0.1) as db:
            with db.transaction(), pytest.raises(PoolTimeout) as caught:
                _in_thread(lambda: db.execute("CREATE TABLE more (id bigint)"))
            assert caught.value.stats.in_use == 1
            assert db.stats().timeouts == 1

    def test_who_waits_gets_what_is_given_back(self, target: Target) -> None:
        with _connect(target, pool_size=1) as db, ThreadPoolExecutor(1) as threads:
            with db.transaction():
                waiting = threads.submit(db.execute, "CREATE TABLE more (id bigint)")
                _until(lambda: db.stats().waiting == 1)
            waiting.result(_BOUND)

    def test_giving_back_twice_is_no_error(self, target: Target) -> None:
        """So that what an interrupt left half done can be done again."""
        pool = _driver(target).open(config.load(target.url, {}))
        try:
            connection = pool.acquire("write")
            pool.release(connection)
            pool.release(connection)
            assert pool.stats().in_use == 0
        finally:
            pool.close()

    def test_what_is_open_when_given_back_is_undone(self, db: Backend) -> None:
        with db.borrowed() as connection:
            _begin(connection)
            _execute(db, connection, "INSERT INTO item (id, label) VALUES (1, 'a')")
        with db.borrowed() as connection:
            assert not connection.in_transaction
        assert _ids(db) == []

    def test_a_broken_connection_is_replaced(self, db: Backend) -> None:
        with db.borrowed() as connection:
            connection.close()
        _until(lambda: db.stats().in_use == 0)
        with db.borrowed() as connection:
            assert _execute(db, connection, "SELECT 1").rows == [(1,)]
        assert db.stats().broken == 1

    def test_many_threads_share_a_backend(self, db: Backend) -> None:
        def work(thread: int) -> None:
            for n in range(25):
                key = 100 * thread + n
                if n % 2:
                    _add(db, key)
                else:
                    with db.transaction() as txn:
                        _add(txn, key)
                        assert _ids(txn, "WHERE id = ?", key) == [key]
                assert _ids(db, "WHERE id = ?", key) == [key]

        with ThreadPoolExecutor(8) as threads:
            list(threads.map(work, range(8)))
        assert _ids(db) == [100 * thread + n for thread in range(8) for n in range(25)]

    def test_closing_twice_is_no_error(self, target: Target) -> None:
        db = _connect(target)
        db.close()
        db.close()

    def test_a_closed_pool_lends_nothing(self, target: Target) -> None:
        driver = _driver(target)
        pool = driver.open(config.load(target.url, {"pool_timeout": 1.0}))
        pool.close()
        pool.close()
        for purpose in ("read", "snapshot", "write"):
            with pytest.raises(BackendClosed):
                pool.acquire(purpose)

    def test_a_transaction_may_end_after_the_backend_is_closed(self, target: Target) -> None:
        db = _connect(target)
        with db.transaction() as txn:
            db.close()
            assert txn.value("SELECT 1") == 1
        with pytest.raises(BackendClosed):
            db.value("SELECT 1")

    def test_a_closed_connection_says_so(self, db: Backend) -> None:
        with db.borrowed() as connection:
            connection.close()
            connection.close()
            with pytest.raises(Error):
                _execute(db, connection, "SELECT 1")

    def test_closing_ends_the_connections(self, target: Target) -> None:
        with _connect(target) as db, db.connection() as native:
            host = wrap(native, driver=_driver(target))
            assert host.value("SELECT 1") == 1
        with pytest.raises(Error):
            host.value("SELECT 1")

    def test_no_thread_outlives_the_backend(self, target: Target) -> None:
        before = set(threading.enumerate())
        with _connect(target) as db:
            db.execute("CREATE TABLE more (id bigint)")
        _until(lambda: set(threading.enumerate()) <= before)

    def test_an_observer_is_told_of_statements_and_connections(self, target: Target) -> None:
        observer = _Told()
        with _connect(target, observer=observer) as db:
            assert db.value("SELECT 1") == 1
            assert observer.told.count(Connect) == db.stats().size
        assert [kind for kind in observer.told if kind not in (Connect, Close)] == [
            *(Acquire, Execute, Release)
        ]
        assert observer.told.count(Close) == observer.told.count(Connect)

    def test_the_verbs_run_on_a_native_connection(self, db: Backend, target: Target) -> None:
        with db.connection() as native:
            host = wrap(native, driver=_driver(target))
            host.execute("BEGIN")
            with host.transaction() as txn:
                _add(txn, 1)
            with suppress(UniqueViolation), host.transaction() as txn:
                _add(txn, 2)
                _add(txn, 1)
            assert _ids(host) == [1]
            host.execute("ROLLBACK")
        assert _ids(db) == []

    def test_another_kind_of_connection_is_not_wrapped(self, target: Target) -> None:
        assert _driver(target).wrap(object()) is None


class _Told(Observer):
    def __init__(self) -> None:
        self.told: list[type[Event]] = []

    def end(self, event: Event, context: Any, outcome: Outcome) -> None:
        self.told.append(type(event))


def _connect(target: Target, **options: Any) -> Backend:
    return connect(target.url, driver=target.driver, migrate=False, **options)


def _driver(target: Target) -> Driver:
    return target.driver or drivers.find(config.load(target.url, {}).scheme)


def _add(db: Queryable, *ids: int) -> int:
    return db.executemany(
        "INSERT INTO item (id, label) VALUES (?, ?)", [(id_, f"item {id_}") for id_ in ids]
    )


def _ids(db: Queryable, where: str = "", *params: Any) -> list[int]:
    return [row["id"] for row in db.rows(f"SELECT id FROM item {where} ORDER BY id", params)]


def _begin(connection: Connection) -> None:
    connection.begin(read_only=False, isolation=None, timeout=None)


def _in_transaction(connection: Connection) -> bool:
    """Asked anew: to mypy a property that was true stays true."""
    return connection.in_transaction


def _execute(db: Backend, connection: Connection, sql: str, params: Sequence[Any] = ()) -> Result:
    statement = db.dialect.compile(sql)
    return connection.execute(statement, db.dialect.bind(statement, params))


def _refused(db: Backend, kind: type[ConstraintError], sql: str) -> ConstraintError:
    before = _ids(db)
    with pytest.raises(kind) as caught:
        db.execute(sql)
    assert _ids(db) == before
    return caught.value


def _counting(limit: float) -> str:
    return (
        "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i <"
        f" {int(limit)}) SELECT count(*) FROM n"
    )


def _longer_than(db: Queryable, seconds: float) -> str:
    """A statement that takes some times as long, even on the fastest of machines."""
    return db.dialect.pick(
        sqlite=_counting(4e7 * seconds), postgres=f"SELECT pg_sleep({4 * seconds})"
    )


def _in_thread(work: Callable[[], Any]) -> None:
    with ThreadPoolExecutor(1) as threads:
        threads.submit(work).result(_BOUND)


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _BOUND
    while not condition():
        assert time.monotonic() < deadline, "the condition was never met"
        time.sleep(0.01)
