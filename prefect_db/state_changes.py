"""A run enters a state: the state's row in `flow_run_state` or `task_run_state`, the `artifact`
that holds its data, and the columns of the run that follow.

How they follow is `StateColumns.enter`: Python computes them for a new run, and on SQLite. On
PostgreSQL `FOLLOWING` says the same in SQL, so that all of it is one statement and one round trip;
a test holds the two equal.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import compress
from operator import attrgetter, is_not
from typing import Any, Final, Literal
from uuid import UUID

from prefect_db.dialect import SQLITE, Dialect
from prefect_db.errors import NotFound
from prefect_db.ids import uuid7
from prefect_db.queryable import Queryable
from prefect_db.states import (
    TERMINAL,
    State,
    StateColumns,
    StateType,
    complete_details,
    make,
    to_type,
)
from prefect_db.values import check_text, dump_json, to_datetime, to_text, to_uuid, uuid_text

Table = Literal["flow_run", "task_run"]

# The run that a run is in: a subflow's run is in a task run, a task run in a flow run.
OUTER: Final[dict[Table, str]] = {"flow_run": "parent_task_run_id", "task_run": "flow_run_id"}
_OUTER_DETAIL: Final[dict[Table, str]] = {"flow_run": "task_run_id", "task_run": "flow_run_id"}
_MICROSECOND: Final = timedelta(microseconds=1)

# Column lists: first what the caller or the server knows, then what an `Entry` gives.
STATE: Final[dict[Table, str]] = {
    table: f"created, updated, {table}_id, id, type, timestamp, name, message, result_artifact_id,"
    " state_details"
    for table in OUTER
}
ARTIFACT: Final = (
    "created, updated, flow_run_id, task_run_id, id, key, type, description, data, metadata_"
)
_INSERT_STATE: Final[dict[Table, str]] = {
    table: f"INSERT INTO {table}_state ({columns}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
    f" ON CONFLICT ({table}_id, timestamp) DO NOTHING"
    for table, columns in STATE.items()
}
_INSERT_ARTIFACT: Final = f"INSERT INTO artifact ({ARTIFACT}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"


def set_state(db: Queryable, table: Table, run_id: UUID, state: State) -> State:
    """Put a run into a state; the task run that stands for a subflow gets a copy.

    Returns:
        The state as stored: moved by microseconds if the run has one of its time, its data
        without the keys that describe the artifact.

    Raises:
        NotFound: There is no such run.
        UniqueViolation: Another state has this id.
    """
    if db.dialect.name == "postgres":
        stored, outer_id = _enter_by_sql(db, table, run_id, state, copied=False)
        if stored is not None:
            return stored
    with db.unit() as txn:
        if txn.dialect.name == "postgres":
            stored, outer_id = _enter_by_sql(txn, table, run_id, state, copied=True)
        else:
            stored, outer_id = _enter_by_python(txn, table, run_id, state)
        assert stored is not None
        if table == "flow_run" and outer_id is not None:
            copy_state(txn, run_id, outer_id, stored)
        return stored


def copy_state(txn: Queryable, flow_run_id: UUID, task_run_id: UUID, state: State) -> None:
    """Give the task run that stands for a subflow a copy of the subflow run's state."""
    copy = make(
        state.type,
        name=state.name,
        message=state.message,
        data=state.data,
        details={**state.state_details, "child_flow_run_id": flow_run_id},
    )
    set_state(txn, "task_run", task_run_id, copy)


@dataclass(slots=True)
class Entry:
    """A state as it is to be stored.

    Attributes:
        state: With all of its details, and its data without what describes the artifact.
        details: These as JSON.
        artifact: The artifact, from its `id` on; empty if there is no data to keep.
    """

    state: State
    details: str
    artifact: tuple[Any, ...]

    def params(self) -> tuple[Any, ...]:
        """The state's row, from its `id` on."""
        state = self.state
        return (
            state.id,
            str(state.type),
            state.timestamp,
            state.name,
            state.message,
            self.artifact[0] if self.artifact else None,
            self.details,
        )


def entry(
    dialect: Dialect, table: Table, run_id: UUID, outer_id: UUID | None, state: State
) -> Entry:
    """The state as it is to be stored for a run. What cannot be, is refused here: before anything
    is written.

    Args:
        dialect: The engine's.
        table: The run's table.
        run_id: The run.
        outer_id: The flow run of a task run, or the parent task run of a flow run.
        state: The state that is proposed.

    Raises:
        BadValue: See `complete_details`; or there is no such type, its time has no zone, its id is
            none, or a text or its data cannot be stored.
    """
    details = complete_details(state.state_details)
    details[f"{table}_id"] = uuid_text(run_id)
    if outer_id is not None or table == "task_run":
        details[_OUTER_DETAIL[table]] = None if outer_id is None else uuid_text(outer_id)
    data, artifact = _split(state.data)
    stored = State(
        id=to_uuid(state.id),
        type=to_type(state.type),
        name=check_text(state.name),
        timestamp=to_datetime(state.timestamp),
        message=to_text(state.message),
        state_details=details,
        data=data,
    )
    return Entry(stored, dialect.bind_one(stored.state_details), artifact)


def _split(data: Any) -> tuple[Any, tuple[Any, ...]]:
    """A state's data without what describes its artifact; and the artifact."""
    if data is None or (isinstance(data, dict) and data.get("type") == "unpersisted"):
        return data, ()
    labels: list[Any] = [None, None, None]
    if isinstance(data, dict):
        data = dict(data)
        labels = [
            to_text(data.pop(f"artifact_{name}", None) or None)
            for name in ("key", "type", "description")
        ]
    return data, (uuid7(), *labels, dump_json(data), "null")


def insert(
    txn: Queryable, table: Table, run_id: UUID, outer_id: UUID | None, new: Entry, now: datetime
) -> None:
    """Insert a state, moved to a time that is free, and its artifact."""
    at = txn.dialect.bind_one(now)
    if new.artifact:
        txn.execute(_INSERT_ARTIFACT, (at, at, *_owners(table, run_id, outer_id), *new.artifact))
    while not txn.execute(_INSERT_STATE[table], (at, at, run_id, *new.params())):
        new.state.timestamp += _MICROSECOND


def _owners(table: Table, run_id: UUID, outer_id: UUID | None) -> tuple[UUID | None, UUID | None]:
    """The `flow_run_id` and the `task_run_id` of an artifact."""
    return (run_id, None) if table == "flow_run" else (outer_id, run_id)


# `run` is the run's row before, `state` that of the state, and `state.due` the time of a scheduled
# state: NULL if it is none. A run whose state's row was deleted counts as one without a state.
_TERMINAL: Final = "({})".format(", ".join(f"'{type}'" for type in sorted(TERMINAL)))
_RUNS: Final = "state.type = 'RUNNING'"
_ENDS: Final = f"state.type IN {_TERMINAL}"
_BEFORE: Final = "run.state_id IS NOT NULL AND run.state_type"
_RESUMING: Final = "(run.empirical_policy -> 'resuming' = 'true') IS TRUE"
# To add it and take it off again leaves a duration as Prefect stores one: so many days, and a rest
# that is not negative.
_AGES: Final = "interval '1000000000 days'"
FOLLOWING: Final = {
    "state_id": "state.id",
    "state_type": "state.type",
    "state_name": "state.name",
    "state_timestamp": "state.timestamp",
    "run_count": f"run.run_count + CASE WHEN {_RUNS} AND NOT {_RESUMING} THEN 1 ELSE 0 END",
    "expected_start_time": "coalesce(run.expected_start_time, state.due, state.timestamp)",
    "next_scheduled_start_time": (
        f"CASE WHEN state.due IS NOT NULL OR {_BEFORE} = 'SCHEDULED'"
        " THEN state.due ELSE run.next_scheduled_start_time END"
    ),
    "start_time": (
        f"CASE WHEN {_RUNS} OR {_ENDS} AND run.end_time IS NULL"
        " THEN coalesce(run.start_time, state.timestamp) ELSE run.start_time END"
    ),
    "end_time": (
        f"CASE WHEN {_ENDS} THEN coalesce(run.end_time, state.timestamp)"
        f" WHEN {_BEFORE} IN {_TERMINAL} THEN NULL ELSE run.end_time END"
    ),
    "total_run_time": (
        f"CASE WHEN {_BEFORE} = 'RUNNING' AND run.state_timestamp IS NOT NULL"
        " THEN justify_hours(run.total_run_time + (state.timestamp - run.state_timestamp)"
        f" + {_AGES}) - {_AGES} ELSE run.total_run_time END"
    ),
    "empirical_policy": (
        f"CASE WHEN {_RESUMING} AND ({_RUNS} OR {_ENDS})"
        " THEN jsonb_set(run.empirical_policy, '{resuming}', 'false')"
        " ELSE run.empirical_policy END"
    ),
}


@lru_cache
def _enter_sql(table: Table, artifact: bool) -> str:
    """A run enters a state, with or without an artifact.

    The first part waits for the run's lock, and so gives its row's newest version; the UPDATE finds
    the statement's snapshot outdated and is computed anew, of that version. If the state's time is
    taken, the state is not inserted, and then nothing else is written. NO KEY, since FOR UPDATE
    would wait for those who insert task runs of the flow run, and they for each other.
    """
    if table == "flow_run":
        outer = "jsonb_strip_nulls(jsonb_build_object('task_run_id', run.parent_task_run_id))"
        condition = " WHERE run.parent_task_run_id IS NULL OR CAST(? AS boolean)"
        run_ids = "run.id, NULL"
    else:
        outer = "jsonb_build_object('flow_run_id', run.flow_run_id)"
        condition = ""
        run_ids = "run.flow_run_id, run.id"
    following = ", ".join(f"{name} = {value}" for name, value in FOLLOWING.items())
    kept = f""", kept AS (
    INSERT INTO artifact ({ARTIFACT})
    SELECT run.now, run.now, {run_ids}, ?, ?, ?, ?, ?, ? FROM run, state
)"""
    return f"""WITH run AS (
    SELECT id, {OUTER[table]}, clock_timestamp() AS now
    FROM {table} WHERE id = ? FOR NO KEY UPDATE
), state AS (
    INSERT INTO {table}_state ({STATE[table]})
    SELECT run.now, run.now, run.id, ?, ?, ?, ?, ?, ?, CAST(? AS jsonb) || {outer}
    FROM run{condition}
    ON CONFLICT ({table}_id, timestamp) DO NOTHING
    RETURNING {table}_id AS run_id, id, type, name, timestamp, CAST(? AS timestamptz) AS due
), changed AS (
    UPDATE {table} AS run SET {following}, updated = CURRENT_TIMESTAMP
    FROM state WHERE run.id = state.run_id
){kept if artifact else ""}
SELECT run.{OUTER[table]} AS outer_id, state.id IS NOT NULL AS entered
FROM run LEFT JOIN state ON true"""


@dataclass(slots=True)
class _Entered:
    outer_id: UUID | None
    entered: bool


def _enter_by_sql(
    db: Queryable, table: Table, run_id: UUID, state: State, *, copied: bool
) -> tuple[State | None, UUID | None]:
    """The state as stored, and the run that the run is in.

    Args:
        db: Where.
        table: The run's table.
        run_id: The run.
        state: The state that is proposed.
        copied: The caller will copy the state of a subflow's run, in the same transaction.
            Otherwise such a run is left alone: no state is returned.
    """
    new = entry(db.dialect, table, run_id, None, state)
    stored = new.state
    due = _due(stored)
    sql = _enter_sql(table, bool(new.artifact))
    rest = (copied, due, *new.artifact) if table == "flow_run" else (due, *new.artifact)
    while True:
        row = db.row(sql, (run_id, *new.params(), *rest), into=_Entered)
        if row is None:
            raise _missing(table, run_id)
        outer_id = row.outer_id
        if outer_id is not None:
            stored.state_details[_OUTER_DETAIL[table]] = uuid_text(outer_id)
        if row.entered:
            return stored, outer_id
        if table == "flow_run" and outer_id is not None and not copied:
            return None, outer_id
        stored.timestamp += _MICROSECOND


def _due(state: State) -> datetime | None:
    """The time of a scheduled state.

    Raises:
        BadValue: It has none.
    """
    if state.type != StateType.SCHEDULED:
        return None
    return to_datetime(state.state_details["scheduled_time"])


@dataclass(slots=True)
class _Run(StateColumns):
    outer_id: UUID | None = None


_FOLLOWING: Final = tuple(FOLLOWING)
_values: Final[Callable[[StateColumns], tuple[Any, ...]]] = attrgetter(*_FOLLOWING)


def _enter_by_python(
    txn: Queryable, table: Table, run_id: UUID, state: State
) -> tuple[State, UUID | None]:
    """The state as stored, and the run that the run is in."""
    run = txn.row(_run_sql(table), (run_id,), into=_Run)
    if run is None:
        raise _missing(table, run_id)
    new = entry(txn.dialect, table, run_id, run.outer_id, state)
    # `enter` would refuse it, too late.
    _due(new.state)
    insert(txn, table, run_id, run.outer_id, new, datetime.now(UTC))
    before = _values(run)
    run.enter(new.state)
    after = _values(run)
    # The first is `state_id`, which is not the run's; see `_run_sql`.
    changed = [True, *map(is_not, before[1:], after[1:])]
    sql = _update_sql(table, tuple(compress(_FOLLOWING, changed)))
    txn.execute(sql, (*compress(after, changed), run_id))
    return new.state, run.outer_id


@lru_cache
def _run_sql(table: Table) -> str:
    # Of the state before, only whether there is one matters. Its id would have to be parsed, as it
    # is a new text each time; the run's own is remembered, and stands for it.
    state_id = "CASE WHEN state_id IS NOT NULL THEN id END AS state_id"
    columns = StateColumns.columns.replace("state_id", state_id, 1)
    return f"SELECT {columns}, {OUTER[table]} AS outer_id FROM {table} WHERE id = ?"


@lru_cache
def _update_sql(table: Table, changed: tuple[str, ...]) -> str:
    """For SQLite, which writes the entries of an index if a column of it is assigned."""
    assignments = ", ".join(f"{name} = ?" for name in changed)
    return f"UPDATE {table} SET {assignments}, updated = {SQLITE.clock} WHERE id = ?"


def _missing(table: Table, run_id: UUID) -> NotFound:
    return NotFound(f"no {table.replace('_', ' ')} {run_id}")
