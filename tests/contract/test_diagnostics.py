"""Checks find what is broken; statistics count, and say where they estimate."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Final
from uuid import uuid4

import pytest

from prefect_db import Backend, diagnostics, events, flow_runs, flows, states, task_runs
from prefect_db.states import StateType

NOON: Final = datetime(2030, 1, 1, 12, tzinfo=UTC)


def failures(db: Backend) -> dict[str, str]:
    return {check.name: check.detail for check in diagnostics.check(db) if not check.ok}


class TestCheck:
    def test_all_is_well(self, db: Backend) -> None:
        checks = diagnostics.check(db)
        assert [check.name for check in checks if check.ok] == [
            "connect",
            "schema",
            "integrity",
            "foreign keys",
            "versions",
            "pool",
        ]

    def test_the_versions(self, db: Backend) -> None:
        [versions] = [check.detail for check in diagnostics.check(db) if check.name == "versions"]
        ours, python, driver, engine = versions.split(", ")
        assert ours.startswith("prefect_db ")
        assert re.search(r" 3\.\d+\.\d+", python)
        assert driver.startswith(db.dialect.pick(sqlite="sqlite3", postgres="psycopg 3."))
        assert engine.startswith(db.dialect.pick(sqlite="SQLite 3.", postgres="PostgreSQL "))

    def test_a_migration_that_is_missing(self, db: Backend) -> None:
        db.execute("DELETE FROM _migrations")
        assert failures(db) == {"schema": "001_initial is pending"}

    def test_one_that_was_edited(self, db: Backend) -> None:
        db.execute("UPDATE _migrations SET checksum = 'other'")
        assert list(failures(db)) == ["schema"]

    def test_a_database_of_prefects_that_lacks_a_column(self, db: Backend) -> None:
        db.execute("CREATE TABLE alembic_version (version_num varchar(32) NOT NULL)")
        assert failures(db) == {}
        db.execute("ALTER TABLE flow DROP COLUMN labels")
        assert "lacks flow.labels" in failures(db)["schema"]

    @pytest.mark.only("sqlite", "PostgreSQL lets nobody break a reference")
    def test_a_broken_reference(self, db: Backend) -> None:
        with db.connection() as native:
            native.execute("PRAGMA foreign_keys = OFF")
            native.execute("INSERT INTO flow_run (name, flow_id) VALUES ('r', 'none')")
            native.execute("PRAGMA foreign_keys = ON")
        assert failures(db) == {"foreign keys": "broken references: 1 in flow_run to flow"}

    @pytest.mark.only("postgres", "SQLite validates when it reads")
    def test_a_reference_that_was_never_validated(self, db: Backend) -> None:
        db.execute(
            "ALTER TABLE log ADD CONSTRAINT fk_log FOREIGN KEY (flow_run_id)"
            " REFERENCES flow_run (id) NOT VALID"
        )
        assert failures(db) == {"foreign keys": "never validated: fk_log of log"}

    @pytest.mark.only("postgres", "SQLite builds no index concurrently")
    def test_an_invalid_index(self, db: Backend) -> None:
        db.execute(
            "UPDATE pg_index SET indisvalid = false"
            " WHERE indexrelid = 'ix_log__timestamp'::regclass"
        )
        assert "ix_log__timestamp" in failures(db)["integrity"]

    @pytest.mark.only("sqlite", "PostgreSQL looks after its storage")
    def test_an_index_that_lacks_rows(self, db: Backend) -> None:
        flows.create(db, "etl")
        with db.connection() as native:
            native.execute("PRAGMA writable_schema = ON")
            native.execute(
                "UPDATE sqlite_master SET sql = replace(sql, '(timestamp)', '(message)')"
                " WHERE name = 'ix_log__timestamp'"
            )
            native.execute("INSERT INTO log (name, level, message, timestamp) VALUES (1, 2, 3, 4)")
            native.execute("PRAGMA schema_version = 1000")  # for other connections to notice
            native.execute("PRAGMA writable_schema = RESET")
        assert "integrity" in failures(db)


class TestStatistics:
    def test_an_empty_database(self, db: Backend) -> None:
        found = diagnostics.statistics(db)
        assert (found.oldest_event, found.flow_runs, found.task_runs) == (None, {}, {})
        assert found.size > 0
        rows = {table.name: table.rows for table in found.tables}
        assert rows.pop("_migrations") == 1
        assert set(rows.values()) == {0}
        assert {"flow", "flow_run", "task_run_state", "events", "log"} < set(rows)

    def test_what_is_there_is_counted(self, db: Backend) -> None:
        flow = flows.create(db, "etl")
        for state in (states.completed(), states.completed(), states.running(), None):
            run = flow_runs.create(db, flow.id, state=state)
        task_runs.create(db, "t", "t", "0", flow_run_id=run.id, state=states.failed())
        resource = {"prefect.resource.id": "r"}
        events.write(db, [events.make(occurred=NOON, event="x", resource=resource, payload={})])
        found = diagnostics.statistics(db)
        assert found.flow_runs == {StateType.COMPLETED: 2, StateType.RUNNING: 1, None: 1}
        assert found.task_runs == {StateType.FAILED: 1}
        assert found.oldest_event == NOON
        tables = {table.name: table for table in found.tables}
        assert (tables["flow_run"].rows, tables["flow_run"].exact) == (4, True)

    def test_strange_names(self, db: Backend) -> None:
        db.execute('CREATE TABLE "a ""b?%s" (n integer)')
        [table] = [each for each in diagnostics.statistics(db).tables if each.name.startswith("a ")]
        assert (table.name, table.rows) == ('a "b?%s', 0)

    def test_without_time_it_estimates_and_says_so(self, db: Backend) -> None:
        name = "x" * 100
        db.executemany(
            "INSERT INTO flow (id, name) VALUES (?, ?)",
            [(uuid4(), f"{name}{n}") for n in range(50)],
        )
        if db.dialect.name == "postgres":
            db.execute("ANALYZE flow")
        found = diagnostics.statistics(db, timeout=0)
        assert (found.flow_runs, found.task_runs) == (None, None)
        tables = {table.name: table for table in found.tables}
        assert (tables["flow"].rows, tables["flow"].exact) == (50, False)

    @pytest.mark.only("postgres", "SQLite may lack dbstat")
    def test_sizes(self, db: Backend) -> None:
        sizes = [table.size for table in diagnostics.statistics(db).tables]
        assert None not in sizes
        assert sum(filter(None, sizes)) > 0

    def test_bytes_that_are_free(self, db: Backend) -> None:
        flow = flows.create(db, "x" * 100_000)
        assert diagnostics.free_size(db) == 0
        flows.delete(db, flow.id)
        assert (diagnostics.free_size(db) > 50_000) == (db.dialect.name == "sqlite")
