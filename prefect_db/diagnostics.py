"""What an operator asks of a database: is it sound, and what is in it?"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from importlib.metadata import version
from typing import Final, TypeVar

from prefect_db import flow_runs, task_runs
from prefect_db.backend import Backend
from prefect_db.errors import Error, QueryTimeout, SchemaError
from prefect_db.migrate import prefect_revision, status
from prefect_db.queryable import Queryable
from prefect_db.states import StateType

T = TypeVar("T")

# Seconds that one exact count may take.
_PATIENCE: Final = 1.0
_SHOWN: Final = 3


@dataclass(slots=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: What.
        ok: Whether it is as it should be.
        detail: What was found.
    """

    name: str
    ok: bool
    detail: str


def check(db: Backend) -> list[Check]:
    """Look whether a database can be reached, is complete and is sound; reads only.

    On SQLite the whole file is read. On PostgreSQL, whose server looks after its storage, it is
    about indexes that a failed CREATE INDEX CONCURRENTLY left, and constraints never validated.
    """
    return [
        _checked("connect", _connect, db),
        _checked("schema", _schema, db),
        _checked("integrity", _integrity, db),
        _checked("foreign keys", _foreign_keys, db),
        _checked("versions", _versions, db),
        _checked("pool", _pool, db),
    ]


def _checked(name: str, look: Callable[[Backend], tuple[bool, str]], db: Backend) -> Check:
    try:
        return Check(name, *look(db))
    except Error as error:
        return Check(name, False, str(error))


def _connect(db: Backend) -> tuple[bool, str]:
    before = time.monotonic()
    db.value("SELECT 1")
    return True, f"answers in {(time.monotonic() - before) * 1000:.1f} ms"


def _schema(db: Backend) -> tuple[bool, str]:
    revision = prefect_revision(db)
    statuses = status(db)
    if revision is not None:
        return True, f"managed by Prefect, revision {revision}"
    bad = [found for found in statuses if found.state != "applied"]
    if bad:
        return False, "; ".join(found.detail or f"{found.id} is pending" for found in bad)
    return True, f"{statuses[-1].id} is the newest migration, and applied"


def _integrity(db: Backend) -> tuple[bool, str]:
    if db.dialect.name == "sqlite":
        found = [
            str(row[0]) for row in db.rows("SELECT integrity_check FROM pragma_integrity_check")
        ]
        return (True, "") if found == ["ok"] else (False, _some(found))
    invalid = db.rows(
        "SELECT CAST(i.indexrelid::regclass AS text) FROM pg_index AS i"
        " JOIN pg_class AS c ON c.oid = i.indrelid JOIN pg_namespace AS n ON n.oid = c.relnamespace"
        " WHERE n.nspname = ANY(current_schemas(false)) AND NOT (i.indisvalid AND i.indisready)"
        " ORDER BY 1"
    )
    names = [str(row[0]) for row in invalid]
    return (False, f"invalid indexes, to be rebuilt: {_some(names)}") if names else (True, "")


def _foreign_keys(db: Backend) -> tuple[bool, str]:
    broken = db.rows(
        db.dialect.pick(
            sqlite="SELECT count(*) || ' in ' || \"table\" || ' to ' || parent"
            ' FROM pragma_foreign_key_check GROUP BY "table", parent ORDER BY 1',
            postgres="SELECT conname || ' of ' || c.relname FROM pg_constraint AS k"
            " JOIN pg_class AS c ON c.oid = k.conrelid"
            " JOIN pg_namespace AS n ON n.oid = c.relnamespace"
            " WHERE n.nspname = ANY(current_schemas(false)) AND contype = 'f' AND NOT convalidated"
            " ORDER BY 1",
        )
    )
    found = [str(row[0]) for row in broken]
    what = db.dialect.pick(sqlite="broken references", postgres="never validated")
    return (False, f"{what}: {_some(found)}") if found else (True, "")


def _versions(db: Backend) -> tuple[bool, str]:
    with db.connection() as native:
        kinds = type(native).__mro__
    driver = next(
        module for kind in kinds if (module := kind.__module__.partition(".")[0]) != "prefect_db"
    )
    if driver != "sqlite3":  # which is Python's
        driver = f"{driver} {version(driver)}"
    engine = db.dialect.pick(
        sqlite="SELECT 'SQLite ' || sqlite_version()",
        postgres="SELECT 'PostgreSQL ' || current_setting('server_version')",
    )
    python = f"{platform.python_implementation()} {platform.python_version()}"
    return True, f"prefect_db {_library_version()}, {python}, {driver}, {db.value(engine)}"


def _library_version() -> str:
    from prefect_db import __version__  # which is not there yet when this module is imported

    return __version__


def _pool(db: Backend) -> tuple[bool, str]:
    stats = db.stats()
    named = ", ".join(f"{name} {value:g}" for name, value in stats._asdict().items())
    return stats.broken == 0, named


def _some(found: list[str]) -> str:
    more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    return "; ".join(found[:_SHOWN]) + more


@dataclass(slots=True)
class Table:
    """How large a table is.

    Attributes:
        rows: How many it has. None: not known.
        exact: False if `rows` is an estimate, since counting took too long.
        size: Bytes with its indexes. None: SQLite was built without dbstat, or it took too long.
    """

    name: str
    rows: int | None
    exact: bool
    size: int | None


@dataclass(slots=True)
class Statistics:
    """What is in a database.

    Attributes:
        size: Bytes of all of it.
        free: Bytes of these that SQLite keeps for new rows; 0 on PostgreSQL.
        tables: By name; of Prefect's, too, if Prefect manages it.
        oldest_event: When the oldest event occurred. None: there is none.
        flow_runs: How many are in each type of state. None: it took too long.
        task_runs: As well.
    """

    size: int
    free: int
    tables: list[Table]
    oldest_event: datetime | None
    flow_runs: dict[StateType | None, int] | None
    task_runs: dict[StateType | None, int] | None


def statistics(db: Backend, *, timeout: float = 10.0) -> Statistics:
    """What is in a database, within about `timeout` seconds: what takes longer to count exactly
    (over a second, or what is left of the time) is estimated, or None."""
    deadline = time.monotonic() + timeout

    def within(query: Callable[[Queryable], T]) -> T | None:
        left = min(_PATIENCE, deadline - time.monotonic())
        if left <= 0:
            return None
        try:
            with db.transaction(read_only=True, timeout=left) as txn:
                return query(txn)
        except QueryTimeout:
            return None

    names = db.rows(
        db.dialect.pick(
            sqlite="SELECT name FROM sqlite_master"
            " WHERE type = 'table' AND name NOT LIKE 'sqlite~_%' ESCAPE '~' ORDER BY 1",
            postgres="SELECT CAST(tablename AS text) FROM pg_tables"
            " WHERE schemaname = ANY(current_schemas(false)) ORDER BY 1",
        )
    )
    flow_run_states = within(flow_runs.count_by_state)
    task_run_states = within(task_runs.count_by_state)
    sizes = within(_sizes) or {}
    tables = []
    for name in [str(row[0]) for row in names]:
        rows = within(partial(_rows, table=name))
        tables.append(
            Table(
                name,
                _estimate(db, name) if rows is None else rows,
                rows is not None,
                sizes.get(name),
            )
        )
    oldest = db.row("SELECT min(occurred) FROM events")
    return Statistics(
        size=total_size(db),
        free=free_size(db),
        tables=tables,
        oldest_event=oldest.datetime(0) if oldest else None,
        flow_runs=flow_run_states,
        task_runs=task_run_states,
    )


def total_size(db: Queryable) -> int:
    """The bytes of the database."""
    return int(
        db.value(
            db.dialect.pick(
                sqlite="SELECT page_count * page_size FROM pragma_page_count, pragma_page_size",
                postgres="SELECT pg_database_size(current_database())",
            )
        )
    )


def free_size(db: Queryable) -> int:
    """The bytes of a SQLite file that hold nothing; 0 on PostgreSQL."""
    return int(
        db.value(
            db.dialect.pick(
                sqlite="SELECT freelist_count * page_size"
                " FROM pragma_freelist_count, pragma_page_size",
                postgres="SELECT 0",
            )
        )
    )


def _sizes(txn: Queryable) -> dict[str, int]:
    if txn.dialect.name == "sqlite" and not txn.value(
        "SELECT count(*) FROM pragma_module_list WHERE name = 'dbstat'"
    ):
        return {}
    rows = txn.rows(
        txn.dialect.pick(
            sqlite="SELECT m.tbl_name, sum(s.pgsize) FROM dbstat AS s JOIN sqlite_master AS m"
            " ON m.name = s.name WHERE s.aggregate GROUP BY 1",
            postgres="SELECT CAST(c.relname AS text), pg_total_relation_size(c.oid)"
            " FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace"
            " WHERE n.nspname = ANY(current_schemas(false)) AND c.relkind = 'r'",
        )
    )
    return {str(row[0]): int(row[1]) for row in rows}


def _rows(txn: Queryable, table: str) -> int:
    return int(txn.value(f"SELECT count(*) FROM {_quoted(table)}"))


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _estimate(db: Queryable, table: str) -> int | None:
    """PostgreSQL: what its planner expects. SQLite: what there are at most, by the rowids."""
    table = _quoted(table)
    if db.dialect.name == "postgres":
        row = db.row(f"EXPLAIN (FORMAT JSON) SELECT 1 FROM {table}")
        return int(row.json(0)[0]["Plan"]["Plan Rows"]) if row else None
    try:
        return int(
            db.value(
                f"SELECT coalesce((SELECT max(rowid) FROM {table})"
                f" - (SELECT min(rowid) FROM {table}) + 1, 0)"
            )
        )
    except SchemaError:
        return None  # a table WITHOUT ROWID
