"""What is stored of the states of flow runs and of task runs, which are alike: `flow_run_state`,
`task_run_state`, and the `artifact` that holds a state's data."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from prefect_db.filters import Where
from prefect_db.queryable import Queryable
from prefect_db.state_changes import Table
from prefect_db.states import State, StateType
from prefect_db.values import Array, to_list, to_uuid


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


def count_by_state(db: Queryable, table: Table, where: Where) -> dict[StateType | None, int]:
    """How many runs of a table are in each type of state."""
    rows = db.rows(
        f"SELECT state_type, count(*) AS runs FROM {table}{where.sql} GROUP BY state_type",
        where.params,
        prepare=not where.sql,
    )
    return {StateType(row[0]) if row[0] else None: int(row[1]) for row in rows}
