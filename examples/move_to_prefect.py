"""Moves a database that prefect_db made into a fresh one that Prefect made, of the same kind.

    python examples/move_to_prefect.py sqlite:///ours.db sqlite:///new.db

The fresh one is of `prefect server database upgrade`; no server may have run on it, which would
have put its own block types there. It is filled in one transaction, or not at all.
"""

from __future__ import annotations

import sys
from itertools import islice

from prefect_db import Backend, Error, Queryable, Transaction, connect

# In the order of their references; these two columns refer to what comes later.
TABLES = (
    "flow artifact block_type block_schema block_schema_reference block_document"
    " block_document_reference flow_run flow_run_state task_run task_run_state log events"
    " event_resources configuration"
).split()
LATER = {"flow_run": ("state_id", "parent_task_run_id")}
BATCH = 1000


def move(source: Backend, target: Backend) -> dict[str, int]:
    """Copy all rows; how many there were, by table."""
    with source.transaction(read_only=True) as reading, target.transaction() as writing:
        moved = {table: _copy(reading, writing, table) for table in TABLES}
        for table, columns in LATER.items():
            _complete(reading, writing, table, columns)
        return moved


def _copy(reading: Transaction, writing: Queryable, table: str) -> int:
    left_out = LATER.get(table, ())
    names = reading.rows(f"SELECT * FROM {table} LIMIT 0").keys()
    columns = ", ".join(name for name in names if name not in left_out)
    marks = ", ".join("?" * (len(names) - len(left_out)))
    rows = reading.stream(f"SELECT {columns} FROM {table}")
    moved = 0
    while batch := [tuple(row) for row in islice(rows, BATCH)]:
        moved += writing.executemany(f"INSERT INTO {table} ({columns}) VALUES ({marks})", batch)
    return moved


def _complete(
    reading: Transaction, writing: Queryable, table: str, columns: tuple[str, ...]
) -> None:
    rows = reading.stream(f"SELECT {', '.join(columns)}, id FROM {table}")
    assignments = ", ".join(f"{name} = ?" for name in columns)
    while batch := [tuple(row) for row in islice(rows, BATCH)]:
        writing.executemany(f"UPDATE {table} SET {assignments} WHERE id = ?", batch)


def main() -> int:
    if len(sys.argv) != 3:
        print("usage: move_to_prefect.py OURS FRESH", file=sys.stderr)
        return 2
    try:
        with connect(sys.argv[1]) as source, connect(sys.argv[2]) as target:
            if source.dialect is not target.dialect:
                print("the two databases are not of the same kind", file=sys.stderr)
                return 2
            if target.value("SELECT count(*) FROM flow") or "_migrations" in _tables(target):
                print("the second is not a fresh database of Prefect's", file=sys.stderr)
                return 2
            for table, rows in move(source, target).items():
                print(f"{table}: {rows}")
    except Error as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _tables(db: Backend) -> set[str]:
    sql = db.dialect.pick(
        sqlite="SELECT name FROM sqlite_master WHERE type = 'table'",
        postgres="SELECT relname::text FROM pg_class"
        " WHERE relkind = 'r' AND relnamespace = current_schema()::regnamespace",
    )
    return {row[0] for row in db.rows(sql)}


if __name__ == "__main__":
    sys.exit(main())
