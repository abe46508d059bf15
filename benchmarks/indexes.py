"""What each index costs a write, and what Prefect's indexes would cost; docs/schema.md has it.

Rows are inserted by the database itself (INSERT ... SELECT), so that nothing but its own work is
measured. "Without" is after DROP INDEX in the same transaction, which is then rolled back.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from typing import Final

from benchmarks.grown import (
    add_events,
    add_runs,
    add_tasks_and_logs,
    id_of,
    insert_events,
    insert_runs,
    insert_tasks_and_logs,
)
from benchmarks.harness import BackendName, Line, Place, Section, Target
from prefect_db import Backend, Transaction, connect
from prefect_db.diagnostics import total_size
from prefect_db.observe import Event, Execute, Observer, Outcome
from tests.peer.prefect_peer import Prefect

_ROWS: Final = 100_000
_BATCH: Final = 2_000
PREFECT: Final = "Prefect's"
_CHANGE: Final = "flow_run, set_state"

Write = Callable[[Transaction, int, int], None]


def run(place: Place) -> list[Section]:
    """One index after the other, and all of Prefect's."""
    rows, batch = (1_000, 200) if place.quick else (_ROWS, _BATCH)
    rounds = 3 if place.quick else 9
    watch, other_watch = _Writes(place.backend), _Writes(place.backend)
    url = place.new_url()
    with Prefect(url) as prefect:
        prefect.upgrade()
    with (
        connect(place.new_url(), observer=watch) as ours,
        connect(url, observer=other_watch) as theirs,
    ):
        for db in (ours, theirs):
            _check_no_keys(db)
        sizes = {name: _fill(db, rows) for name, db in (("ours", ours), ("Prefect's", theirs))}
        single = _one_by_one(ours, watch, rows, batch, rounds)
        both = _compared({"ours": (ours, watch), "Prefect's": (theirs, other_watch)}, rows, batch)
    return [
        Section(
            "indexes",
            f"A row's insert with and without an index, at {rows:,} rows",
            place.backend,
            "us",
            single,
            [],
            [
                "flow_run, set_state: the UPDATE of a run's state",
                "on SQLite, the processor's time: all of the work is in this process",
            ],
        ),
        Section(
            "indexes-prefect",
            f"A row's insert with our indexes and with Prefect's, at {rows:,} rows",
            place.backend,
            "us",
            both,
            _targets(place, both, sizes),
            [
                f"bytes per flow run with its two states: {sizes['ours'] / rows:,.0f} ours,"
                f" {sizes[PREFECT] / rows:,.0f} Prefect's"
            ],
        ),
    ]


def _targets(place: Place, lines: list[Line], sizes: dict[str, int]) -> list[Target]:
    gains = {line.what: line.ratio("Prefect's", "ours") for line in lines}
    limits = {"flow_run": 1.3, "events": 1.3}
    if place.backend == "sqlite":
        # A run's insert gains as much as the triggers cost that keep its tags.
        limits = {_CHANGE: 1.1, "events": 1.5}
    return [
        *[
            Target(f"{what}: Prefect's time over ours", gains[what], limit, at_most=False)
            for what, limit in limits.items()
        ],
        Target("bytes per flow run, ours over Prefect's", sizes["ours"] / sizes["Prefect's"], 1.0),
    ]


class _Writes(Observer):
    """The seconds that a table's writes took; on SQLite of this thread, whatever else runs."""

    def __init__(self, backend: BackendName) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._clock = time.thread_time if backend == "sqlite" else time.perf_counter

    def start(self, event: Event) -> float:
        return self._clock()

    def end(self, event: Event, context: float, outcome: Outcome) -> None:
        if isinstance(event, Execute):
            taken = self._clock() - context
            verb, _, rest = event.sql.partition(" ")
            if verb == "INSERT":
                self.seconds[rest.split()[1]] += taken
            elif verb == "UPDATE":
                self.seconds[_CHANGE] += taken


def _check_no_keys(db: Backend) -> None:
    """Foreign keys that are checked at the end make SQLite look, for each row, for those that refer
    to it: without the index that is dropped, in the whole table."""
    if db.dialect.name == "sqlite":
        with db.connection() as native:
            native.execute("PRAGMA foreign_keys = OFF")


def _fill(db: Backend, rows: int) -> int:
    """Rows in all tables; the bytes that runs and states alone took."""
    empty = total_size(db)
    add_runs(db, rows)
    taken = total_size(db) - empty
    add_tasks_and_logs(db, rows)
    add_events(db, rows)
    return taken


def _write_runs(txn: Transaction, low: int, high: int) -> None:
    flow_id = txn.value("SELECT id FROM flow WHERE name = 'etl'")
    insert_runs(txn, flow_id, low, high, 10 * high)
    at = txn.dialect.pick(sqlite="'2026-06-01 00:00:00.000000'", postgres="CURRENT_TIMESTAMP")
    # As set_state does: all of these, whether they change or not.
    txn.execute(
        f"UPDATE flow_run SET state_type = 'RUNNING', state_name = 'Running', state_timestamp ="
        f" {at}, state_id = id, run_count = 2, expected_start_time = expected_start_time,"
        f" next_scheduled_start_time = NULL, start_time = {at}, end_time = NULL,"
        f" total_run_time = total_run_time, updated = {at} WHERE id >= ? AND id < ?",
        (id_of(low), id_of(high)),
    )


_WRITES: Final[dict[Write, tuple[str, ...]]] = {
    _write_runs: ("flow_run", "flow_run_state"),
    insert_tasks_and_logs: ("task_run", "task_run_state", "log"),
    insert_events: ("events", "event_resources"),
}


def _one_by_one(db: Backend, watch: _Writes, rows: int, batch: int, rounds: int) -> list[Line]:
    lines: list[Line] = []
    for write, tables in _WRITES.items():
        drops = {"all": ""} | {
            f"{table}: {index}": f"DROP {kind} {index}"
            for table in tables
            for index, kind in _indexes(db, table)
        }
        taken: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
        for _ in range(rounds):
            for name, drop in drops.items():
                for table, seconds in _once(db, watch, write, rows, batch, drop).items():
                    taken[name][table].append(seconds)
        for name in list(drops)[1:]:
            table = name.partition(":")[0]
            for what in (table, _CHANGE) if table == "flow_run" else (table,):
                index = name.partition(": ")[2]
                samples = {"with": taken["all"][what], "without": taken[name][what]}
                lines.append(Line(f"{what}: {index}", samples))
    return lines


def _compared(databases: dict[str, tuple[Backend, _Writes]], rows: int, batch: int) -> list[Line]:
    taken: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for _ in range(9):
        for write in _WRITES:
            for name, (db, watch) in databases.items():
                for table, seconds in _once(db, watch, write, rows, batch, "").items():
                    taken[table][name].append(seconds)
    return [Line(table, dict(samples)) for table, samples in taken.items()]


class _Enough(Exception):
    """Rolls a transaction back."""


def _once(
    db: Backend, watch: _Writes, write: Write, rows: int, batch: int, drop: str
) -> dict[str, float]:
    """Microseconds per row of each table."""
    try:
        with db.transaction() as txn:
            if drop:
                txn.execute(drop)
            watch.seconds.clear()
            write(txn, rows, rows + batch)
            raise _Enough
    except _Enough:
        per_row = {table: seconds / batch * 1e6 for table, seconds in watch.seconds.items()}
    # Two rows of each event, and of each run.
    for table in ("event_resources", "flow_run_state"):
        if table in per_row:
            per_row[table] /= 2
    return per_row


def _indexes(db: Backend, table: str) -> list[tuple[str, str]]:
    """The names of its indexes but for the primary key's; on SQLite the tags' trigger, too."""
    sql = db.dialect.pick(
        sqlite="SELECT name, upper(type) FROM sqlite_master WHERE tbl_name = ? AND sql IS NOT NULL"
        " AND (type = 'index' OR name LIKE '%insert_tags') ORDER BY 1",
        postgres="SELECT CAST(indexname AS text), 'INDEX' FROM pg_indexes"
        " WHERE schemaname = current_schema() AND tablename = ? AND indexname NOT LIKE 'pk~_%'"
        " ESCAPE '~' ORDER BY 1",
    )
    return [(str(row[0]), str(row[1])) for row in db.rows(sql, (table,))]
