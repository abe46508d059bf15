"""Databases that Prefect manages are opened and used as they are."""

from __future__ import annotations

import hashlib
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psycopg
import pytest
from prefect.server import models
from prefect.server.schemas.core import Flow

from prefect_db import (
    Backend,
    SchemaError,
    connect,
    events,
    flow_runs,
    flows,
    logs,
    migrate,
    states,
    task_runs,
)
from tests.migrations.catalogue import catalogue
from tests.peer.prefect_peer import Prefect, alchemy_url


def read_everything(db: Backend) -> int:
    """How many records there are, by every function that reads."""
    found: list[object] = [*flows.find(db, limit=None), *logs.find(db, limit=None)]
    found += events.query(db).events
    for run in flow_runs.find(db, limit=None):
        found += [run, *flow_runs.history(db, run.id)]
    for task_run in task_runs.find(db, limit=None):
        found += [task_run, *task_runs.history(db, task_run.id)]
    with db.transaction(read_only=True) as txn:
        found += txn.rows("SELECT * FROM work_pool")
    return len(found)


@pytest.mark.only("sqlite", "a file can be compared byte by byte")
@pytest.mark.parametrize("journal_mode", ["delete", "wal"])
def test_opening_and_reading_changes_no_byte(
    sqlite_real: Path, tmp_path: Path, journal_mode: str, backend_name: str
) -> None:
    path = tmp_path / "copy.db"
    shutil.copyfile(sqlite_real, path)
    with closing(sqlite3.connect(path)) as native:
        native.execute(f"PRAGMA journal_mode = {journal_mode}")
    before = hashlib.sha256(path.read_bytes()).digest()
    with connect(f"sqlite:///{path}") as db:
        assert read_everything(db) > 250
        assert migrate(db) == []
    assert hashlib.sha256(path.read_bytes()).digest() == before
    assert [each.name for each in tmp_path.iterdir()] == ["copy.db"]


def test_opening_and_reading_changes_no_table(real_url: str) -> None:
    with connect(real_url, migrate=False) as db:
        before = catalogue(db), everything_stored(db)
    with connect(real_url) as db:
        read_everything(db)
    with connect(real_url, migrate=False) as db:
        assert (catalogue(db), everything_stored(db)) == before


def everything_stored(db: Backend) -> dict[str, int]:
    tables = db.rows(
        db.dialect.pick(
            sqlite="SELECT name FROM sqlite_master WHERE type = 'table'",
            postgres="SELECT relname FROM pg_class WHERE relkind = 'r'"
            " AND relnamespace = 'public'::regnamespace",
        )
    )
    return {
        row[0]: hash(tuple(sorted(map(repr, map(tuple, db.rows(f'SELECT * FROM "{row[0]}"'))))))
        for row in tables
    }


def test_a_first_write_makes_a_file_safe_for_many(real_url: str) -> None:
    with connect(real_url) as db:
        flows.create(db, "ours")
        if db.dialect.name == "sqlite":
            assert db.value("PRAGMA journal_mode") == "wal"
        assert flows.get_by_name(db, "ours") is not None


def test_the_spellings_of_prefects_settings(real_url: str) -> None:
    spelling = alchemy_url(real_url)
    assert "+a" in spelling
    with connect(spelling) as db:
        assert flows.count(db) > 0


def test_migrations_are_prefects(managed: Backend) -> None:
    before = catalogue(managed)
    assert migrate(managed) == []
    assert catalogue(managed) == before
    assert "_migrations" not in before
    assert "alembic_version" in before


@pytest.mark.parametrize(
    ("change", "missing"),
    [
        ("DROP TABLE log", "log.id, log.created, log.updated, log.name"),
        ("ALTER TABLE task_run DROP COLUMN cache_expiration", "task_run.cache_expiration"),
        ("ALTER TABLE flow_run DROP COLUMN created_by", "flow_run.created_by"),
    ],
)
def test_what_an_other_version_lacks_is_listed(
    managed_url: str, backend_name: str, change: str, missing: str
) -> None:
    if backend_name == "sqlite":
        with closing(sqlite3.connect(managed_url.removeprefix("sqlite:///"))) as native:
            # An index that uses a column keeps it from being dropped.
            for (index,) in native.execute(
                "SELECT name FROM sqlite_master WHERE type = 'index' AND sql LIKE '%created_by%'"
            ).fetchall():
                native.execute(f"DROP INDEX {index}")
            native.execute(change)
            native.commit()
        revision = "a3b9c7d2e5f1"
    else:
        with psycopg.connect(managed_url, autocommit=True) as connection:
            connection.execute(change.encode())
        revision = "d4a7e1c93f52"
    with pytest.raises(SchemaError) as caught:
        connect(managed_url)
    assert missing in str(caught.value)
    assert revision in str(caught.value)
    assert "prefect server database upgrade" in str(caught.value)


@pytest.fixture
def running(real_url: str) -> Iterator[Prefect]:
    """A Prefect that has the database open."""
    with Prefect(real_url) as prefect:
        prefect.read(models.flows.count_flows)
        yield prefect


def test_both_at_once(running: Prefect, real_url: str) -> None:
    """Each sees what the other has just written, and neither is in the other's way."""
    with connect(real_url) as db:
        for number in range(20):
            name = f"flow-{number}"
            if number % 2:
                made = running.write(models.flows.create_flow, Flow(name=name))
                found = flows.get_by_name(db, name)
            else:
                made = flows.create(db, name)
                found = running.read(models.flows.read_flow_by_name, name)
            assert found is not None
            assert found.id == made.id
            run = flow_runs.create(db, made.id, state=states.running())
            stored = running.read(models.flow_runs.read_flow_run, run.id)
            assert stored.state.name == "Running"
            assert running.write(models.flow_runs.delete_flow_run, run.id)
            assert flow_runs.get(db, run.id) is None
