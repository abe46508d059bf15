"""SQLite as others build it: too old, or without double-quoted strings."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Final, cast

import apsw
import pytest

from prefect_db import Backend, ConfigurationError, SchemaError, connect, diagnostics, events
from prefect_db.drivers import sqlite
from prefect_db.drivers.base import Driver, Pool, Settings
from tests.apsw_driver import ApswDriver
from tests.contract.test_bad_input import SEARCHES
from tests.faults.entities import NOON, Seeded, call, functions, seed
from tests.migrations.test_killed import batch

pytestmark = pytest.mark.only("sqlite", "PostgreSQL has no such builds")

# On SQLite 3.35 these run: the migrations, each function and each filter.
_ON_THE_OLDEST: Final = """--backend sqlite -q -p no:cacheprovider
tests/migrations/test_migrate.py tests/migrations/test_schema.py
tests/faults/test_security.py tests/contract/test_filters.py"""


class _StrictDriver(ApswDriver):
    """Over a SQLite for which "text" is a column's name and nothing else (SQLITE_DQS=0)."""

    def open(self, settings: Settings) -> Pool:
        pool = super().open(settings)
        connection = pool.acquire("write")
        try:
            for option in (apsw.SQLITE_DBCONFIG_DQS_DML, apsw.SQLITE_DBCONFIG_DQS_DDL):
                assert connection.native.config(option, 0) == 0
        finally:
            pool.release(connection)
        return pool


@pytest.fixture(scope="module")
def strict() -> Iterator[tuple[Backend, Seeded]]:
    """In memory, where one connection does everything."""
    with connect(":memory:", driver=cast(Driver, _StrictDriver())) as db:
        yield db, seed(db)


def test_double_quotes_hold_no_text_there(strict: tuple[Backend, Seeded]) -> None:
    with pytest.raises(SchemaError, match="no such column"):
        strict[0].value('SELECT count(*) FROM flow WHERE name = "seed"')


@pytest.mark.parametrize("name", sorted(functions().keys() - {"blocks.rotate_key"}))
def test_no_function_needs_them(strict: tuple[Backend, Seeded], name: str) -> None:
    db, seeded = strict
    with db.transaction() as txn:
        call(txn, name, "any", seeded)
        txn.rollback()


def test_nor_does_anything_else(strict: tuple[Backend, Seeded]) -> None:
    db, _ = strict
    assert [check.name for check in diagnostics.check(db) if not check.ok] == []
    diagnostics.statistics(db)
    for search in SEARCHES.values():
        search(db, "any")
    events.write(db, batch(0)[:2])
    assert events.trim(db, NOON) == 2


def _oldest() -> Path | None:
    """The library of SQLite 3.35.5 that a wheel of pyproj brings with it."""
    try:
        files = metadata.files("pyproj") or ()
    except metadata.PackageNotFoundError:
        return None
    return next((Path(str(f.locate())) for f in files if f.name.startswith("libsqlite3")), None)


@pytest.mark.needs(_oldest() is not None, "a pyproj that brings SQLite 3.35 with it")
def test_the_oldest_does_all_that_newer_ones_do() -> None:
    """In a process of its own, whose stdlib's sqlite3 finds that library first."""
    run_pytest = (
        "import sqlite3, sys, pytest; assert sqlite3.sqlite_version_info[:2] == (3, 35);"
        " sys.exit(pytest.main(sys.argv[1:]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", run_pytest, *_ON_THE_OLDEST.split()],
        env={**os.environ, "LD_PRELOAD": str(_oldest())},
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout


def test_one_that_is_too_old_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "MINIMUM_VERSION", (99, 1, 0))
    with pytest.raises(ConfigurationError, match=r"SQLite 3\.[\d.]+ is too old; at least 99\.1\.0"):
        connect(":memory:")
