"""The hierarchy, its sentences, and the two tables, held against what the engines document."""

from __future__ import annotations

import copy
import pickle
import re
import sqlite3
from contextlib import closing

import psycopg
import psycopg.errors
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import prefect_db
from prefect_db import errors
from prefect_db.errors import (
    BadValue,
    Busy,
    Cancelled,
    CheckViolation,
    CommitUnknown,
    ConfigurationError,
    ConstraintError,
    Deadlock,
    Error,
    ForeignKeyViolation,
    MigrationError,
    NotNullViolation,
    ParameterCount,
    ProgrammingError,
    QueryTimeout,
    ReadOnly,
    Retryable,
    SchemaError,
    SerializationFailure,
    Standby,
    StorageError,
    TransactionAborted,
    Unavailable,
    UniqueViolation,
    UnknownColumn,
    UsageError,
    from_sqlite,
    from_sqlstate,
    listing,
)

CLASSES = [
    kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Error)
]

PARENTS = {
    "ConfigurationError": "Error",
    "UsageError": "Error",
    "TransactionClosed": "UsageError",
    "OutOfOrder": "UsageError",
    "ParameterCount": "UsageError",
    "MultipleRows": "UsageError",
    "UnknownColumn": "UsageError",
    "BackendClosed": "UsageError",
    "ForkedBackend": "UsageError",
    "Unavailable": "Error",
    "PoolTimeout": "Error",
    "ConstraintError": "Error",
    "UniqueViolation": "ConstraintError",
    "ForeignKeyViolation": "ConstraintError",
    "NotNullViolation": "ConstraintError",
    "CheckViolation": "ConstraintError",
    "Retryable": "Error",
    "SerializationFailure": "Retryable",
    "Deadlock": "Retryable",
    "Busy": "Retryable",
    "QueryTimeout": "Error",
    "Cancelled": "Error",
    "ReadOnly": "Error",
    "Standby": "ReadOnly",
    "BadValue": "Error",
    "ProgrammingError": "Error",
    "SchemaError": "Error",
    "StorageError": "Error",
    "TransactionAborted": "Error",
    "CommitUnknown": "Error",
    "MigrationError": "Error",
    "Drift": "MigrationError",
    "Missing": "MigrationError",
    "Ahead": "MigrationError",
    "Duplicate": "MigrationError",
    "Dirty": "MigrationError",
    "Failed": "MigrationError",
    "LockTimeout": "MigrationError",
    "NotFound": "Error",
}


class TestHierarchy:
    @pytest.mark.parametrize(("name", "parent"), PARENTS.items())
    def test_each_class_has_its_place(self, name: str, parent: str) -> None:
        assert getattr(errors, name).__base__ is getattr(errors, parent)

    def test_there_are_no_others(self) -> None:
        assert {kind.__name__ for kind in CLASSES} == {"Error", *PARENTS}

    @pytest.mark.parametrize("kind", CLASSES)
    def test_each_is_public(self, kind: type[Error]) -> None:
        assert getattr(prefect_db, kind.__name__) is kind
        assert kind.__name__ in prefect_db.__all__

    def test_nothing_is_retried_that_may_have_been_saved(self) -> None:
        assert not issubclass(CommitUnknown, Retryable)
        assert not issubclass(Unavailable, Retryable)

    def test_a_standbys_refusal_is_also_retried(self) -> None:
        assert issubclass(Standby, Retryable)

    def test_an_unknown_column_is_also_a_lookup_error(self) -> None:
        assert issubclass(UnknownColumn, LookupError)


class TestMessage:
    @pytest.mark.parametrize("kind", CLASSES)
    def test_each_class_has_one_sentence_that_fits_after_a_message(self, kind: type[Error]) -> None:
        sentence = (kind.__dict__["__doc__"] or "").partition("\n")[0]
        assert re.fullmatch(r"[^\n]{15,100}[^.]\.", sentence)
        assert ". " not in sentence

    @pytest.mark.parametrize("kind", [kind for kind in CLASSES if kind is not Error])
    def test_the_sentence_is_part_of_the_message(self, kind: type[Error]) -> None:
        """But for a wrong setting: its message lists what it accepts."""
        sentence = (kind.__doc__ or "").partition("\n")[0].rstrip(".")
        expected = "what happened" if kind is ConfigurationError else f"what happened: {sentence}"
        assert str(kind("what happened")) == expected

    def test_the_code_is_part_of_the_message(self) -> None:
        assert str(NotNullViolation("no value", code="23502")).startswith("no value [23502]: ")

    def test_without_a_message_it_is_the_sentence(self) -> None:
        assert str(errors.NotFound()) == "there is no row with this key"

    def test_the_statement_is_an_attribute_only(self) -> None:
        error = BadValue("no", sql="SELECT 'hidden'")
        assert error.sql == "SELECT 'hidden'"
        assert "hidden" not in str(error)
        assert "hidden" not in repr(error)

    def test_it_has_a_sentence_of_its_own_in_a_subclass_of_the_host(self) -> None:
        class TooOld(MigrationError):
            """upgrade the server first."""

        assert str(TooOld("version 9")) == "version 9: upgrade the server first"

    def test_a_subclass_without_a_sentence_says_nothing_more(self) -> None:
        assert str(type("Bare", (Error,), {})("message")) == "message"

    @pytest.mark.parametrize("kind", CLASSES)
    def test_attributes_have_defaults(self, kind: type[Error]) -> None:
        error = kind()
        assert (error.sql, error.code, error.position) == (None, None, 0)

    @pytest.mark.parametrize("kind", CLASSES)
    def test_it_can_be_sent_to_another_process(self, kind: type[Error]) -> None:
        error = kind("message", sql="SELECT 1", code="42")
        error.position = 3
        for other in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
            assert type(other) is kind
            assert str(other) == str(error)
            assert (other.sql, other.code, other.position) == ("SELECT 1", "42", 3)


SQLITE_CODES = {
    sqlite3.SQLITE_ERROR: ProgrammingError,
    sqlite3.SQLITE_PERM: StorageError,
    sqlite3.SQLITE_BUSY: Busy,
    sqlite3.SQLITE_BUSY_RECOVERY: Busy,
    sqlite3.SQLITE_BUSY_SNAPSHOT: Busy,
    sqlite3.SQLITE_BUSY_TIMEOUT: Busy,
    sqlite3.SQLITE_LOCKED: Busy,
    sqlite3.SQLITE_LOCKED_SHAREDCACHE: Busy,
    sqlite3.SQLITE_PROTOCOL: Busy,
    sqlite3.SQLITE_NOMEM: StorageError,
    sqlite3.SQLITE_READONLY: ReadOnly,
    sqlite3.SQLITE_INTERRUPT: Cancelled,
    sqlite3.SQLITE_IOERR: StorageError,
    sqlite3.SQLITE_IOERR_WRITE: StorageError,
    sqlite3.SQLITE_IOERR_SHORT_READ: StorageError,
    sqlite3.SQLITE_CORRUPT: StorageError,
    sqlite3.SQLITE_CORRUPT_INDEX: StorageError,
    sqlite3.SQLITE_NOTADB: StorageError,
    sqlite3.SQLITE_FULL: StorageError,
    sqlite3.SQLITE_CANTOPEN: Unavailable,
    sqlite3.SQLITE_CANTOPEN_ISDIR: Unavailable,
    sqlite3.SQLITE_READONLY_DBMOVED: Unavailable,
    sqlite3.SQLITE_SCHEMA: SchemaError,
    sqlite3.SQLITE_TOOBIG: BadValue,
    sqlite3.SQLITE_MISMATCH: BadValue,
    sqlite3.SQLITE_MISUSE: UsageError,
    sqlite3.SQLITE_AUTH: ProgrammingError,
    sqlite3.SQLITE_RANGE: ParameterCount,
    sqlite3.SQLITE_CONSTRAINT: ConstraintError,
    sqlite3.SQLITE_CONSTRAINT_CHECK: CheckViolation,
    sqlite3.SQLITE_CONSTRAINT_FOREIGNKEY: ForeignKeyViolation,
    sqlite3.SQLITE_CONSTRAINT_NOTNULL: NotNullViolation,
    sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY: UniqueViolation,
    sqlite3.SQLITE_CONSTRAINT_UNIQUE: UniqueViolation,
    sqlite3.SQLITE_CONSTRAINT_ROWID: UniqueViolation,
    sqlite3.SQLITE_CONSTRAINT_TRIGGER: ConstraintError,
    3091: BadValue,  # SQLITE_CONSTRAINT_DATATYPE, which sqlite3 does not name
    sqlite3.SQLITE_INTERNAL: Error,
    sqlite3.SQLITE_NOTICE: Error,
}

SCHEMA = """
CREATE TABLE parent (id INTEGER PRIMARY KEY);
CREATE TABLE t (
    a TEXT NOT NULL UNIQUE,
    b INT CONSTRAINT b_is_small CHECK (b < 10),
    c INT CHECK (length(c) < 5),
    d INT REFERENCES parent (id),
    e INT, f INT, g TEXT,
    UNIQUE (e, f)
);
CREATE UNIQUE INDEX lower_g ON t (lower(g));
INSERT INTO t (a, e, f, g) VALUES ('x', 1, 1, 'x');
CREATE TRIGGER refuse BEFORE DELETE ON t BEGIN SELECT RAISE(ABORT, 'stay'); END;
"""


def sqlite_error(sql: str, schema: str = SCHEMA) -> Error:
    """Our error for what SQLite itself says to a statement."""
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.executescript(schema)
        connection.execute("PRAGMA foreign_keys = ON")
        with pytest.raises(sqlite3.Error) as caught:
            connection.execute(sql)
    return from_sqlite(caught.value.sqlite_errorcode, str(caught.value), sql=sql)


class TestSQLite:
    @pytest.mark.parametrize(("code", "kind"), SQLITE_CODES.items())
    def test_each_result_code_has_its_class(self, code: int, kind: type[Error]) -> None:
        error = from_sqlite(code, "message", sql="SELECT 1")
        assert type(error) is kind
        assert (error.sql, error.code) == ("SELECT 1", str(code))
        assert str(error).startswith(f"message [{code}]")

    def test_an_interruption_after_the_deadline_is_a_timeout(self) -> None:
        assert type(from_sqlite(9, "interrupted", timed_out=True)) is QueryTimeout
        assert type(from_sqlite(1, "other", timed_out=True)) is ProgrammingError

    @pytest.mark.parametrize(
        ("sql", "kind"),
        [
            ("SELEC 1", ProgrammingError),
            ("SELECT nonsense()", ProgrammingError),
            ("SELECT * FROM missing", SchemaError),
            ("SELECT missing FROM t", SchemaError),
            ("INSERT INTO t (missing) VALUES (1)", SchemaError),
            ("UPDATE t SET missing = 1", SchemaError),
            ("DROP INDEX missing", SchemaError),
            ("INSERT INTO parent VALUES ('x')", BadValue),
            ("DELETE FROM t", ConstraintError),
        ],
    )
    def test_what_sqlite_says_has_its_class(self, sql: str, kind: type[Error]) -> None:
        assert type(sqlite_error(sql)) is kind

    @pytest.mark.needs(sqlite3.sqlite_version_info >= (3, 37), "STRICT tables")
    def test_a_strict_table_refuses_a_bad_value(self) -> None:
        error = sqlite_error("INSERT INTO t VALUES ('x')", "CREATE TABLE t (a INT) STRICT")
        assert type(error) is BadValue

    @pytest.mark.parametrize(
        ("sql", "kind", "table", "columns", "constraint"),
        [
            ("INSERT INTO t (a) VALUES ('x')", UniqueViolation, "t", ("a",), None),
            (
                "INSERT INTO t (a, e, f) VALUES ('y', 1, 1)",
                UniqueViolation,
                "t",
                ("e", "f"),
                None,
            ),
            ("INSERT INTO t (b) VALUES (1)", NotNullViolation, "t", ("a",), None),
            ("INSERT INTO t (a, b) VALUES ('y', 99)", CheckViolation, None, (), "b_is_small"),
            ("INSERT INTO t (a, c) VALUES ('y', 123456)", CheckViolation, None, (), None),
            ("INSERT INTO t (a, d) VALUES ('y', 7)", ForeignKeyViolation, None, (), None),
            ("INSERT INTO t (a, g) VALUES ('y', 'X')", UniqueViolation, None, (), "lower_g"),
        ],
        ids=["unique", "two columns", "null", "check", "unnamed check", "foreign key", "index"],
    )
    def test_a_violation_names_what_sqlite_names(
        self,
        sql: str,
        kind: type[Error],
        table: str | None,
        columns: tuple[str, ...],
        constraint: str | None,
    ) -> None:
        error = sqlite_error(sql)
        assert type(error) is kind
        assert isinstance(error, ConstraintError)
        assert (error.table, error.columns, error.constraint) == (table, columns, constraint)


SQLSTATES = {
    "08000": Unavailable,
    "08006": Unavailable,
    "0A000": ProgrammingError,
    "21000": ProgrammingError,
    "22001": BadValue,
    "22003": BadValue,
    "22007": BadValue,
    "22021": BadValue,
    "22P02": BadValue,
    "22P05": BadValue,
    "23000": ConstraintError,
    "23001": ForeignKeyViolation,
    "23502": NotNullViolation,
    "23503": ForeignKeyViolation,
    "23505": UniqueViolation,
    "23514": CheckViolation,
    "23P01": UniqueViolation,
    "25006": ReadOnly,
    "25P02": TransactionAborted,
    "25P03": Unavailable,
    "25P04": QueryTimeout,
    "26000": ProgrammingError,
    "28000": Unavailable,
    "28P01": Unavailable,
    "2D000": UsageError,
    "34000": ProgrammingError,
    "3D000": Unavailable,
    "3F000": SchemaError,
    "40001": SerializationFailure,
    "40P01": Deadlock,
    "42501": ProgrammingError,
    "42601": ProgrammingError,
    "42703": SchemaError,
    "42704": SchemaError,
    "42883": ProgrammingError,
    "42P01": SchemaError,
    "53000": Unavailable,
    "53100": StorageError,
    "53300": Unavailable,
    "54000": ProgrammingError,
    "55P03": Busy,
    "57014": Cancelled,
    "57P01": Unavailable,
    "57P02": Unavailable,
    "57P03": Unavailable,
    "58030": StorageError,
    "XX001": StorageError,
    "XX002": StorageError,
    "XX000": Error,
    "P0001": Error,
    "99999": Error,
}


# All that PostgreSQL documents, by psycopg's classes.
STATES = {
    kind.sqlstate
    for kind in vars(psycopg.errors).values()
    if isinstance(kind, type) and issubclass(kind, psycopg.Error) and kind.sqlstate
}


class TestPostgres:
    @pytest.mark.parametrize(("sqlstate", "kind"), SQLSTATES.items())
    def test_each_sqlstate_has_its_class(self, sqlstate: str, kind: type[Error]) -> None:
        error = from_sqlstate(sqlstate, "message", sql="SELECT 1", position=7)
        assert type(error) is kind
        assert (error.sql, error.code, error.position) == ("SELECT 1", sqlstate, 7)
        assert str(error).startswith(f"message [{sqlstate}]")

    def test_only_what_saved_nothing_is_retryable(self) -> None:
        """40003 says that nobody knows whether it was saved."""
        retryable = {state for state in STATES if isinstance(from_sqlstate(state, ""), Retryable)}
        assert retryable == {"40000", "40001", "40P01", "55P03"}

    def test_all_of_class_22_are_bad_values(self) -> None:
        states = [state for state in STATES if state.startswith("22")]
        assert len(states) > 50
        assert {type(from_sqlstate(state, "")) for state in states} == {BadValue}

    @pytest.mark.parametrize(
        ("message", "kind"),
        [
            ("canceling statement due to statement timeout", QueryTimeout),
            ("canceling statement due to lock timeout", QueryTimeout),
            ("canceling statement due to user request", Cancelled),
        ],
    )
    def test_a_cancelled_statement_tells_who_cancelled(
        self, message: str, kind: type[Error]
    ) -> None:
        assert type(from_sqlstate("57014", message)) is kind

    def test_a_violation_has_what_the_server_names(self) -> None:
        error = from_sqlstate(
            "23505",
            "duplicate key value violates unique constraint",
            constraint="uq_flow__name",
            table="flow",
            detail='Key (name, "Odd name")=(hidden, hidden) already exists.',
        )
        assert isinstance(error, UniqueViolation)
        assert (error.constraint, error.table) == ("uq_flow__name", "flow")
        assert error.columns == ("name", "Odd name")

    def test_the_named_column_comes_before_the_detail(self) -> None:
        error = from_sqlstate("23502", "null value", column="a", detail="Failing row (b)=(1)")
        assert isinstance(error, NotNullViolation)
        assert error.columns == ("a",)

    @pytest.mark.parametrize("detail", [None, "", "Key (lower(a))=(x) already exists.", "()=()"])
    def test_without_column_names_there_are_none(self, detail: str | None) -> None:
        error = from_sqlstate("23505", "duplicate", detail=detail)
        assert isinstance(error, ConstraintError)
        assert error.columns == ()

    @pytest.mark.parametrize(
        ("sqlstate", "detail"),
        [
            ("23505", "Key (lower(a))=(f(hidden)=1) already exists."),
            ("23514", "Failing row contains (1, f(hidden)=2)."),
            ("23514", "Failing row contains (hidden)=2)."),
            ("23502", "Failing row contains (null, f(hidden)=2)."),
            ("23000", "Failing row contains (null, (hidden)=2)."),
        ],
    )
    def test_a_value_in_the_detail_is_no_column(self, sqlstate: str, detail: str) -> None:
        error = from_sqlstate(sqlstate, "violation", detail=detail)
        assert isinstance(error, ConstraintError)
        assert error.columns == ()

    @pytest.mark.parametrize(
        ("sqlstate", "message"),
        [
            ("22P02", 'invalid input syntax for type uuid: "{}"'),
            ("22P02", 'invalid input value for enum state_type: "{}"'),
            ("22P02", 'malformed array literal: "{}"'),
            ("22007", 'invalid input syntax for type timestamp with time zone: "{}"'),
            ("22008", 'date/time field value out of range: "{}"'),
            ("22003", 'value "{}" is out of range for type integer'),
            ("22003", '"{}" is out of range for type double precision'),
            ("22023", 'time zone "{}" not recognized'),
            ("22023", 'unrecognized "{}" with "{}"'),
        ],
    )
    @pytest.mark.parametrize("value", ["hidden", 'hidden": "hidden', "a\nhidden", '"hidden"'])
    def test_the_value_is_left_out_of_the_message(
        self, sqlstate: str, message: str, value: str
    ) -> None:
        error = from_sqlstate(sqlstate, message.format(value, value))
        assert "hidden" not in str(error)
        assert "hidden" not in repr(error)
        assert "hidden" not in repr(vars(error))

    @given(st.text(max_size=20).map("hidden{}bunny".format))
    @example('hidden" "bunny')
    @settings(deadline=None)
    def test_no_part_of_any_value_is_told(self, value: str) -> None:
        error = from_sqlstate("22003", f'value "{value}" is out of range for type integer')
        assert "hidden" not in str(error)
        assert "bunny" not in str(error)

    @pytest.mark.parametrize(
        ("sqlstate", "message"),
        [
            ("22001", "value too long for type character varying(9)"),
            ("22012", "division by zero"),
            ("42P01", 'relation "missing" does not exist'),
            ("23505", 'duplicate key value violates unique constraint "uq_flow__name"'),
        ],
    )
    def test_what_has_no_value_is_told_in_full(self, sqlstate: str, message: str) -> None:
        assert message in str(from_sqlstate(sqlstate, message))

    def test_the_type_is_told(self) -> None:
        message = 'invalid input syntax for type uuid: "hidden"'
        assert "invalid input syntax for type uuid" in str(from_sqlstate("22P02", message))


@pytest.mark.parametrize(
    ("names", "text"), [([], ""), (["a"], "a"), (["a", "b"], "a or b"), ("abc", "a, b or c")]
)
def test_a_listing_reads_as_a_sentence(names: list[str], text: str) -> None:
    assert listing(names) == text
