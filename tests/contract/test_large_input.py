"""Much of everything: parameters, rows, text. It is taken, or refused and nothing is harmed."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from datetime import UTC, datetime
from uuid import uuid4

import pytest

from prefect_db import (
    Array,
    Backend,
    BadValue,
    ProgrammingError,
    UnknownColumn,
    connect,
    events,
    flow_runs,
    flows,
    logs,
)
from prefect_db.events import EventFilter, EventId
from prefect_db.filters import Among, AnyOf, Tags
from prefect_db.flow_runs import FlowRunFilter
from prefect_db.flows import FlowFilter

# What one statement of SQLite takes, unless it was built to take more; and one of PostgreSQL.
SQLITE_PARAMETERS = 32_766
POSTGRES_PARAMETERS = 65_535
LONG_TEXT = "x" * 10_000_000 + "ü"


@pytest.fixture
def bare(url: str) -> Iterator[Backend]:
    with connect(url, migrate=False) as db:
        db.execute("CREATE TABLE item (id bigint NOT NULL, label text)")
        yield db
        assert db.stats().in_use == 0


def _sum(parameters: int) -> str:
    return f"SELECT 1 WHERE 7 IN ({', '.join(['CAST(? AS bigint)'] * parameters)})"


def test_as_many_parameters_as_both_engines_take(bare: Backend) -> None:
    values = [0] * (SQLITE_PARAMETERS - 1) + [7]
    assert bare.value(_sum(len(values)), values) == 1


def test_more_parameters_are_refused_and_nothing_is_harmed(bare: Backend) -> None:
    number = bare.dialect.pick(sqlite=SQLITE_PARAMETERS, postgres=POSTGRES_PARAMETERS) + 1
    if bare.dialect.name == "sqlite":
        # As it is built unless somebody wants more.
        with bare.connection() as writer:
            writer.setlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER, SQLITE_PARAMETERS)
    with bare.transaction() as txn:
        txn.execute("INSERT INTO item (id) VALUES (1)")
        with pytest.raises(ProgrammingError, match="number of parameters|too many SQL variables"):
            with txn.transaction() as inner:
                inner.value(_sum(number), [0] * number)
    assert bare.value("SELECT id FROM item") == 1
    assert bare.stats().broken == 0


def test_a_list_is_one_parameter_however_long(bare: Backend) -> None:
    listed = bare.dialect.pick(
        sqlite="SELECT value FROM json_each(?)", postgres="SELECT unnest(CAST(? AS bigint[]))"
    )
    numbers = Array(range(100_000))
    assert bare.value(f"SELECT count(*) FROM ({listed}) AS l", (numbers,)) == 100_000


def test_executemany_of_many_rows(bare: Backend) -> None:
    rows = ((number, "x") for number in range(POSTGRES_PARAMETERS + 1))
    insert = "INSERT INTO item (id, label) VALUES (?, ?)"
    assert bare.executemany(insert, rows) == POSTGRES_PARAMETERS + 1
    with bare.transaction(read_only=True) as txn:
        assert len(list(txn.stream("SELECT id FROM item"))) == POSTGRES_PARAMETERS + 1


def test_a_text_and_bytes_of_ten_megabytes(bare: Backend) -> None:
    insert = "INSERT INTO item (id, label) VALUES (1, ?)"
    bare.execute(insert, (LONG_TEXT,))
    assert bare.value("SELECT label FROM item") == LONG_TEXT
    sql = f"SELECT {bare.dialect.pick(sqlite='?', postgres='CAST(? AS bytea)')} AS b"
    row = bare.row(sql, (LONG_TEXT.encode(),))
    assert row is not None
    assert row.bytes("b") == LONG_TEXT.encode()


def test_a_statement_of_ten_megabytes(bare: Backend) -> None:
    """SQLite takes a million bytes, or a billion, as it was built."""
    try:
        assert bare.value(f"SELECT 1 /* {LONG_TEXT} */") == 1
    except BadValue as error:
        assert "too big" in str(error)
    assert bare.value("SELECT 1") == 1


def test_two_columns_of_a_name(bare: Backend) -> None:
    row = bare.row("SELECT 1 AS a, 2 AS a, 3 AS b")
    assert row is not None
    assert (tuple(row), row["b"]) == ((1, 2, 3), 3)
    for read in (lambda: row["a"], lambda: row.int("a")):
        with pytest.raises(UnknownColumn, match="two of that name"):
            read()


def test_the_entities_take_long_texts(db: Backend) -> None:
    flow = flows.create(db, "long", labels={"a": LONG_TEXT})
    run = flow_runs.create(db, flow.id, parameters={"a": LONG_TEXT})
    found = flow_runs.get(db, run.id)
    assert found is not None
    assert found.parameters == {"a": LONG_TEXT}
    logs.write(db, [logs.make("a", 20, LONG_TEXT, datetime.now(UTC))])
    assert logs.find(db)[0].message == LONG_TEXT
    event = events.make("a", {"prefect.resource.id": "r"}, payload={"a": LONG_TEXT})
    assert events.write(db, [event]) == 1
    assert events.query(db).events[0].payload == {"a": LONG_TEXT}


def test_filters_take_long_lists(db: Backend) -> None:
    flow = flows.create(db, "a", tags=["t"])
    ids = [uuid4() for _ in range(POSTGRES_PARAMETERS)] + [flow.id]
    texts = [str(id) for id in ids]
    assert flows.count(db, FlowFilter(id=Among(any_=ids))) == 1
    assert flows.count(db, FlowFilter(id=Among(not_any_=ids))) == 0
    assert flows.count(db, FlowFilter(tags=Tags(any_=[*texts, "t"]))) == 1
    assert flows.count(db, FlowFilter(tags=Tags(all_=[*texts, "t"]))) == 0
    assert flow_runs.find(db, FlowRunFilter(flow_id=AnyOf(any_=ids))) == []
    assert events.count(db, EventFilter(id=EventId(id=ids))) == 0
