"""A database that Prefect manages is used as it is, if it has what our SQL needs."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable
from contextlib import closing
from importlib.resources import files

import psycopg
import pytest

from prefect_db import SchemaError, connect, flows, migrate
from tests.migrations.catalogue import catalogue

_ALEMBIC = """
CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY);
INSERT INTO alembic_version (version_num) VALUES ('a3b9c7d2e5f1');
"""


@pytest.fixture
def prefect(backend_name: str, url: str) -> Callable[[str], str]:
    """Makes the database as Prefect has it, with more SQL to change it, and gives its URL."""
    schema = (files("prefect_db") / "schema" / f"{backend_name}.sql").read_text(encoding="utf-8")

    def make(more: str = "") -> str:
        script = f"BEGIN; {schema}\n; {_ALEMBIC} {more}; COMMIT"
        if backend_name == "sqlite":
            with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as native:
                native.executescript(script)
        else:
            with psycopg.connect(url, autocommit=True) as connection:
                connection.execute(script.encode())
        return url

    return make


def test_nothing_of_it_is_changed(prefect: Callable[[str], str]) -> None:
    url = prefect("")
    with connect(url, migrate=False) as db:
        before = catalogue(db)
    with connect(url) as db:
        assert catalogue(db) == before
        assert "_migrations" not in before


def test_it_can_be_used(prefect: Callable[[str], str]) -> None:
    with connect(prefect("")) as db:
        flow = flows.create(db, "etl")
        assert flows.get(db, flow.id) == flow


def test_migrate_applies_nothing(prefect: Callable[[str], str]) -> None:
    with connect(prefect("")) as db:
        assert migrate(db) == []
        assert "_migrations" not in catalogue(db)


def test_what_prefect_has_besides_does_not_matter(prefect: Callable[[str], str]) -> None:
    connect(
        prefect(
            "CREATE TABLE work_queue (id integer); ALTER TABLE flow ADD COLUMN other integer;"
            " CREATE INDEX ix_flow__created ON flow (created); DROP INDEX ix_log__timestamp"
        )
    ).close()


def test_missing_columns_are_listed_with_the_revision(prefect: Callable[[str], str]) -> None:
    url = prefect("ALTER TABLE flow DROP COLUMN labels; ALTER TABLE task_run DROP COLUMN cache_key")
    with pytest.raises(SchemaError) as caught:
        connect(url)
    assert re.search(r"lacks flow\.labels, task_run\.cache_key;", str(caught.value))
    assert "revision a3b9c7d2e5f1" in str(caught.value)


def test_the_columns_of_a_missing_table_are_listed(prefect: Callable[[str], str]) -> None:
    with pytest.raises(SchemaError) as caught:
        connect(prefect("DROP TABLE configuration"))
    for column in ("id", "created", "updated", "key", "value"):
        assert f"configuration.{column}" in str(caught.value)


def test_a_database_that_prefect_has_just_begun(prefect: Callable[[str], str]) -> None:
    url = prefect("DELETE FROM alembic_version; DROP TABLE configuration")
    with pytest.raises(SchemaError, match="revision none"):
        connect(url)


def test_it_is_not_checked_unless_it_is_migrated(prefect: Callable[[str], str]) -> None:
    with connect(prefect("DROP TABLE configuration"), migrate=False) as db:
        assert flows.find(db) == []
