"""What `status` and a dry run say about the migrations, without writing anything."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import pytest

from prefect_db import (
    Backend,
    Dirty,
    Drift,
    MigrationError,
    MigrationStatus,
    Missing,
    connect,
    migrate,
)
from prefect_db.migrate import prefect_revision, status
from tests.migrations import add
from tests.migrations.catalogue import catalogue

_A: Final = "CREATE TABLE a (n integer NOT NULL)"
_B: Final = "CREATE TABLE b (n integer NOT NULL)"
_FAILING: Final = "-- no-transaction\nCREATE TABLE c (n integer);\nSELECT * FROM nothing"

Found = Callable[[], dict[str, str]]


@pytest.fixture
def db(url: str) -> Iterator[Backend]:
    """An empty database, without the library's tables."""
    with connect(url, migrate=False) as db:
        yield db


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A host's migrations, two of them."""
    add(tmp_path / "migrations", "001_a", _A)
    add(tmp_path / "migrations", "002_b", _B)
    return tmp_path / "migrations"


@pytest.fixture
def found(db: Backend, folder: Path) -> Found:
    """The states by id."""
    return lambda: {each.id: each.state for each in status(db, directory=folder, owner="app")}


def test_an_empty_database(db: Backend) -> None:
    assert status(db) == [MigrationStatus("001_initial", "pending")]
    assert catalogue(db) == {}


def test_all_are_applied(db: Backend) -> None:
    before = datetime.now(UTC)
    migrate(db)
    [only] = status(db)
    assert (only.id, only.state, only.detail) == ("001_initial", "applied", "")
    assert only.applied_at is not None
    assert before <= only.applied_at <= datetime.now(UTC)


def test_a_hosts_own_stand_apart(db: Backend, folder: Path, found: Found) -> None:
    migrate(db)
    assert found() == {"app/001_a": "pending", "app/002_b": "pending"}
    migrate(db, directory=folder, owner="app")
    assert found() == {"app/001_a": "applied", "app/002_b": "applied"}
    assert [each.id for each in status(db)] == ["001_initial"]


def test_one_that_was_edited(db: Backend, folder: Path, found: Found) -> None:
    migrate(db, directory=folder, owner="app")
    add(folder, "001_a", _B)
    add(folder, "003_c", _A)
    assert found() == {"app/001_a": "drift", "app/002_b": "applied", "app/003_c": "pending"}
    with pytest.raises(Drift):
        migrate(db, directory=folder, owner="app", dry_run=True)


def test_those_that_have_no_file(db: Backend, folder: Path, found: Found) -> None:
    migrate(db, directory=folder, owner="app")
    db.execute("UPDATE _migrations SET id = 'app/001_other' WHERE id = 'app/001_a'")
    db.execute("UPDATE _migrations SET id = 'app/003_later' WHERE id = 'app/002_b'")
    assert found() == {
        "app/001_a": "late",
        "app/001_other": "missing",
        "app/002_b": "late",
        "app/003_later": "ahead",
    }
    with pytest.raises(MigrationError):
        migrate(db, directory=folder, owner="app", dry_run=True)


def test_one_without_a_number_is_missing(db: Backend) -> None:
    migrate(db)
    db.execute("UPDATE _migrations SET id = 'something'")
    assert {each.id: each.state for each in status(db)} == {
        "001_initial": "pending",
        "something": "missing",
    }
    with pytest.raises(Missing):
        migrate(db)


def test_one_that_comes_too_late(db: Backend, folder: Path, found: Found) -> None:
    migrate(db, directory=folder, owner="app")
    db.execute("DELETE FROM _migrations WHERE id = 'app/001_a'")
    assert found() == {"app/001_a": "late", "app/002_b": "applied"}


def test_one_that_did_not_end(db: Backend, folder: Path, found: Found) -> None:
    add(folder, "003_c", _FAILING)
    with pytest.raises(MigrationError):
        migrate(db, directory=folder, owner="app")
    assert found() == {"app/001_a": "applied", "app/002_b": "applied", "app/003_c": "dirty"}
    with pytest.raises(Dirty):
        migrate(db, directory=folder, owner="app", dry_run=True)


def test_a_dry_run_tells_what_would_be_applied(db: Backend, folder: Path) -> None:
    assert migrate(db, dry_run=True) == ["001_initial"]
    would = migrate(db, directory=folder, owner="app", dry_run=True)
    assert would == ["app/001_a", "app/002_b"]
    assert catalogue(db) == {}
    assert migrate(db, directory=folder, owner="app") == would
    assert migrate(db, directory=folder, owner="app", dry_run=True) == []


def test_the_revision_of_a_database_of_prefects(db: Backend) -> None:
    assert prefect_revision(db) is None
    db.execute("CREATE TABLE alembic_version (version_num varchar(32) NOT NULL)")
    assert prefect_revision(db) == "none"
    db.execute("INSERT INTO alembic_version (version_num) VALUES ('a3b9c7d2e5f1')")
    assert prefect_revision(db) == "a3b9c7d2e5f1"


def test_a_database_of_prefects_has_none_of_ours(db: Backend) -> None:
    migrate(db)
    db.execute("DROP TABLE _migrations")
    db.execute("CREATE TABLE alembic_version (version_num varchar(32) NOT NULL)")
    assert status(db) == []
    assert migrate(db, dry_run=True) == []
