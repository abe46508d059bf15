"""The schema: what the migrations build, what the schema files say, and that both engines agree."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from datetime import timedelta
from importlib.resources import files
from pathlib import Path
from typing import Any, Final
from uuid import UUID, uuid4

import psycopg
import pytest

from prefect_db import Backend, Transaction, connect
from prefect_db.testing import create_database
from tests.migrations.catalogue import ForeignKey, catalogue, logical

FromSchema = Callable[[str], AbstractContextManager[Backend]]


def schema(backend_name: str) -> str:
    return (files("prefect_db") / "schema" / f"{backend_name}.sql").read_text(encoding="utf-8")


@pytest.fixture
def from_schema(backend_name: str, request: pytest.FixtureRequest, tmp_path: Path) -> FromSchema:
    """Makes a database by a schema file's text, through the bare driver."""

    @contextmanager
    def make(text: str) -> Iterator[Backend]:
        if backend_name == "sqlite":
            path = tmp_path / f"{uuid4()}.db"
            with closing(sqlite3.connect(path)) as native:
                native.executescript(f"BEGIN; {text}\n; COMMIT")
            with connect(f"sqlite:///{path}", migrate=False) as db:
                yield db
        else:
            with create_database(request.getfixturevalue("postgres_url")) as url:
                with psycopg.connect(url) as connection:
                    connection.execute(text.encode())
                with connect(url, migrate=False) as db:
                    yield db

    return make


def test_the_migrations_build_what_the_schema_file_says(
    db: Backend, from_schema: FromSchema, backend_name: str
) -> None:
    built = catalogue(db)
    del built["_migrations"]
    with from_schema(schema(backend_name)) as described:
        assert built == catalogue(described)


@pytest.mark.parametrize(
    ("pattern", "replacement"),
    [
        (r"labels  JSONB?,\n", ""),
        (r"(tags .*) NOT NULL", r"\1"),
        (r"(tags .*)'\[\]'", r"\1'{}'"),
        (r"VARCHAR", "TEXT"),
        (r"SMALLINT", "INTEGER"),
        (r"CONSTRAINT pk_flow ", "CONSTRAINT flow_pk "),
        (r",\s+CONSTRAINT uq_flow__name UNIQUE \(name\)", ""),
        (r"ON DELETE SET NULL", "ON DELETE CASCADE"),
        (r"CHECK \((.*?) !=", r"CHECK (\1 <"),
        (r"CREATE INDEX ix_log__timestamp .*", ""),
        (r"CREATE UNIQUE INDEX", "CREATE INDEX"),
        (r"WHERE parent_task_run_id IS NOT NULL", ""),
        (r"ix_log__timestamp ON log \(timestamp", r"ix_log__timestamp ON log (timestamp DESC"),
        (r"\Z", "CREATE TABLE other (id INTEGER);"),
        (r"\Z", "CREATE VIEW other AS SELECT id FROM flow;"),
    ],
)
def test_an_edit_of_the_schema_file_would_be_noticed(
    db: Backend, from_schema: FromSchema, backend_name: str, pattern: str, replacement: str
) -> None:
    text = schema(backend_name)
    edited = re.sub(pattern, replacement, text, count=1)
    assert edited != text
    built = catalogue(db)
    del built["_migrations"]
    with from_schema(edited) as described:
        assert built != catalogue(described)


@pytest.mark.only("postgres", "SQLite has no enum")
@pytest.mark.parametrize(
    "edit", [("'PAUSED', ", ""), ("'PENDING', 'RUNNING'", "'RUNNING', 'PENDING'")]
)
def test_an_edit_of_the_enum_would_be_noticed(
    db: Backend, from_schema: FromSchema, edit: tuple[str, str]
) -> None:
    with from_schema(schema("postgres").replace(*edit)) as described:
        assert catalogue(db)["state_type"] != catalogue(described)["state_type"]


def test_an_added_column_may_stand_anywhere(from_schema: FromSchema, backend_name: str) -> None:
    """A migration adds it as the last, and the schema file has it where it belongs."""
    text = schema(backend_name)
    without = re.sub(r"    labels +JSONB?,\n", "", text, count=1)
    with from_schema(text) as described:
        expected = catalogue(described)
    (column,) = [each for each in expected["flow"] if each.startswith("labels ")]
    with from_schema(f"{without}\nALTER TABLE flow ADD COLUMN {column};") as altered:
        assert catalogue(altered) == expected


@pytest.mark.only("postgres", "compares with SQLite")
def test_both_engines_have_the_same_logical_schema(db: Backend, sqlite_template: Path) -> None:
    with connect(f"sqlite:///{sqlite_template}") as other:
        assert logical(other) == logical(db)


@pytest.mark.parametrize("table", ["flow_run", "task_run"])
def test_total_run_time_has_a_default_that_prefect_can_read(db: Backend, table: str) -> None:
    with db.transaction() as txn:
        id = insert(txn, table)
    assert db.value(f"SELECT total_run_time FROM {table} WHERE id = ?", (id,)) == db.dialect.pick(
        sqlite="1970-01-01 00:00:00.000000", postgres=timedelta(0)
    )


_FOREIGN_KEYS: Final = [
    ForeignKey(*words.split(" ", 3))
    for words in """\
flow_run flow_id flow CASCADE
flow_run infrastructure_document_id block_document CASCADE
flow_run state_id flow_run_state SET NULL
flow_run parent_task_run_id task_run SET NULL
flow_run_state flow_run_id flow_run CASCADE
flow_run_state result_artifact_id artifact SET NULL
task_run flow_run_id flow_run CASCADE
task_run_state task_run_id task_run CASCADE
task_run_state result_artifact_id artifact SET NULL
block_schema block_type_id block_type CASCADE
block_schema_reference parent_block_schema_id block_schema CASCADE
block_schema_reference reference_block_schema_id block_schema CASCADE
block_document block_schema_id block_schema CASCADE
block_document block_type_id block_type CASCADE
block_document_reference parent_block_document_id block_document CASCADE
block_document_reference reference_block_document_id block_document CASCADE""".splitlines()
]


def test_there_are_no_other_foreign_keys(db: Backend) -> None:
    assert logical(db).foreign_keys == set(_FOREIGN_KEYS)


@pytest.mark.parametrize("key", _FOREIGN_KEYS, ids=lambda key: f"{key.table}.{key.column}")
def test_deleting_a_parent(db: Backend, key: ForeignKey) -> None:
    """A child of two parents: one of its own, which is deleted, and one that stays."""
    with db.transaction() as txn:
        child = insert(txn, key.table)
        parent = insert(txn, key.parent)
        txn.execute(f"UPDATE {key.table} SET {key.column} = ? WHERE id = ?", (parent, child))
        txn.execute(f"DELETE FROM {key.parent} WHERE id = ?", (parent,))
        left = txn.rows(f"SELECT {key.column} FROM {key.table} WHERE id = ?", (child,))
        assert [row[0] for row in left] == ([] if key.on_delete == "CASCADE" else [None])


# The columns that a row must have, besides the keys of its parents.
_REQUIRED: Final[dict[str, dict[str, Any]]] = {
    "flow": {"name": "?"},
    "artifact": {},
    "block_type": {"name": "a", "slug": "?"},
    "block_schema": {"checksum": "?"},
    "block_schema_reference": {"name": "a"},
    "block_document": {"name": "?"},
    "block_document_reference": {"name": "a"},
    "flow_run": {"name": "a"},
    "flow_run_state": {"type": "RUNNING", "name": "a"},
    "task_run": {"name": "a", "task_key": "?", "dynamic_key": "a"},
    "task_run_state": {"type": "RUNNING", "name": "a"},
}
_CYCLIC: Final = ("state_id", "parent_task_run_id")


def insert(txn: Transaction, table: str) -> UUID:
    """A new row, with new parents: it has nothing in common with any other."""
    id = uuid4()
    values = {
        column: str(id) if value == "?" else value for column, value in _REQUIRED[table].items()
    }
    values |= {
        key.column: insert(txn, key.parent)
        for key in _FOREIGN_KEYS
        if key.table == table and key.column not in _CYCLIC
    }
    columns = ", ".join(["id", *values])
    marks = ", ".join("?" * (1 + len(values)))
    txn.execute(f"INSERT INTO {table} ({columns}) VALUES ({marks})", (id, *values.values()))
    return id


_UNIQUE: Final = {
    ("flow", frozenset({"name"})),
    ("flow_run", frozenset({"flow_id", "idempotency_key"})),
    ("flow_run_state", frozenset({"flow_run_id", "timestamp"})),
    ("task_run", frozenset({"flow_run_id", "task_key", "dynamic_key"})),
    ("task_run_state", frozenset({"task_run_id", "timestamp"})),
    ("block_type", frozenset({"slug"})),
    ("block_schema", frozenset({"checksum", "version"})),
    ("block_document", frozenset({"block_type_id", "name"})),
    ("configuration", frozenset({"key"})),
}


def test_what_is_unique_besides_the_primary_keys(db: Backend) -> None:
    assert {(table, key) for table, key in logical(db).unique if key != {"id"}} == _UNIQUE
