"""The throw-away PostgreSQL server that measurements use; all other tests use the fast one."""

from __future__ import annotations

import psycopg
import pytest

from prefect_db.testing import postgres_server

pytestmark = pytest.mark.only("postgres", "SQLite has no server")


def test_a_durable_server_writes_each_commit_to_a_disk() -> None:
    with postgres_server(durable=True) as url, psycopg.connect(url) as connection:
        for setting in ("fsync", "synchronous_commit", "full_page_writes"):
            row = connection.execute("SELECT current_setting(%s)", (setting,)).fetchone()
            assert row == ("on",), setting
        folder = connection.execute("SHOW data_directory").fetchone()
    assert folder is not None
    assert not folder[0].startswith("/dev/shm")
