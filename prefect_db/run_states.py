"""The state rows of flow runs and of task runs, which are alike: `flow_run_state`,
`task_run_state`, and the `artifact` that holds a state's data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal
from uuid import UUID

from prefect_db.filters import Where
from prefect_db.ids import uuid7
from prefect_db.queryable import Queryable
from prefect_db.states import State, StateColumns, StateType, complete_details
from prefect_db.values import Array, Json, to_list, to_uuid

Table = Literal["flow_run", "task_run"]

ASSIGNMENTS: Final = ", ".join(f"{name} = ?" for name in StateColumns.columns.split(", "))


def history(db: Queryable, table: Table, run_id: UUID) -> list[State]:
    """The states of a run, oldest first."""
    return db.rows(
        f"{_select(db, table)} WHERE s.{table}_id = ? ORDER BY s.timestamp, s.id",
        (run_id,),
        into=State,
    )


def get(db: Queryable, table: Table, state_ids: Sequence[UUID]) -> dict[UUID, State]:
    """The states with these ids, by id, as far as there are such."""
    listed = db.dialect.pick(
        sqlite="IN (SELECT value FROM json_each(?))", postgres="= ANY(CAST(? AS uuid[]))"
    )
    ids = Array([to_uuid(state_id) for state_id in to_list(state_ids)])
    found = db.rows(f"{_select(db, table)} WHERE s.id {listed}", (ids,), into=State)
    return {state.id: state for state in found}


def _select(db: Queryable, table: Table) -> str:
    # Data has two places: states set through the API use the artifact, events the column. On
    # PostgreSQL these differ in type; on SQLite a cast would cut a number's digits.
    data = db.dialect.pick(
        sqlite="coalesce(s.data, a.data)",
        postgres="coalesce(CAST(s.data AS text), CAST(a.data AS text))",
    )
    return (
        f"SELECT s.id, s.type, s.name, s.timestamp, s.message, s.state_details, {data} AS data"
        f" FROM {table}_state AS s LEFT JOIN artifact AS a ON a.id = s.result_artifact_id"
    )


def enter(
    txn: Queryable,
    table: Table,
    run_id: UUID,
    columns: StateColumns,
    state: State,
    *,
    details: Mapping[str, Any],
    artifact_of: Mapping[str, UUID | None],
) -> State:
    """Insert the state that a run enters, and make its columns follow.

    Args:
        txn: A transaction that has locked the run.
        table: The run's table.
        run_id: The run.
        columns: What is to follow; the caller writes it back.
        state: The state that is proposed.
        details: What the run adds to state_details.
        artifact_of: The run ids that an artifact of the state's data gets.

    Returns:
        The state as stored: moved by microseconds if its time was taken, its data without the
        keys that describe the artifact.
    """
    now = datetime.now(UTC)
    artifact_id, data = _insert_artifact(txn, state.data, artifact_of, now)
    details = complete_details({**state.state_details, **details})
    state = replace(state, state_details=details, data=data)
    while not txn.execute(
        f"INSERT INTO {table}_state (id, created, updated, {table}_id, type, timestamp, name,"
        " message, state_details, result_artifact_id) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
        f" ON CONFLICT ({table}_id, timestamp) DO NOTHING",
        (
            state.id,
            now,
            now,
            run_id,
            state.type,
            state.timestamp,
            state.name,
            state.message,
            state.state_details,
            artifact_id,
        ),
    ):
        state = replace(state, timestamp=state.timestamp + timedelta(microseconds=1))
    columns.enter(state)
    return state


def _insert_artifact(
    txn: Queryable, data: Any, artifact_of: Mapping[str, UUID | None], now: datetime
) -> tuple[UUID | None, Any]:
    """Keep a state's data: the id of its artifact, if there is anything to keep; and the data
    without what describes the artifact."""
    if data is None or (isinstance(data, dict) and data.get("type") == "unpersisted"):
        return None, data
    labels: dict[str, Any] = {}
    if isinstance(data, dict):
        data = dict(data)
        labels = {
            name: data.pop(f"artifact_{name}", None) or None
            for name in ("key", "type", "description")
        }
    artifact_id = uuid7()
    txn.execute(
        "INSERT INTO artifact (id, created, updated, key, type, description, data, metadata_,"
        " flow_run_id, task_run_id) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            artifact_id,
            now,
            now,
            labels.get("key"),
            labels.get("type"),
            labels.get("description"),
            Json(data),
            Json(None),
            artifact_of.get("flow_run_id"),
            artifact_of.get("task_run_id"),
        ),
    )
    return artifact_id, data


def derived(columns: StateColumns) -> tuple[Any, ...]:
    """The values for `ASSIGNMENTS`; of a subclass only what it has of StateColumns."""
    return tuple([getattr(columns, name) for name in StateColumns.columns.split(", ")])


def count_by_state(db: Queryable, table: Table, where: Where) -> dict[StateType | None, int]:
    """How many runs of a table are in each type of state."""
    rows = db.rows(
        f"SELECT state_type, count(*) AS runs FROM {table}{where.sql} GROUP BY state_type",
        where.params,
    )
    return {StateType(row[0]) if row[0] else None: int(row[1]) for row in rows}
