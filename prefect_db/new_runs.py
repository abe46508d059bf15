"""A new flow run or task run: its row, with the labels that it inherits, and its first state.

A new run has no history, so that its columns are known before. On PostgreSQL it is one statement.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from operator import attrgetter
from typing import Any, Final, TypeVar
from uuid import UUID

from prefect_db.dialect import Dialect
from prefect_db.queryable import Queryable
from prefect_db.row import Record
from prefect_db.state_changes import ARTIFACT, OUTER, STATE, Entry, Table, insert, owners
from prefect_db.values import read_json

R = TypeVar("R", bound=Record)
Values = Callable[[Any], tuple[Any, ...]]

# Whose labels a run inherits: a table, and the run's column that names the row.
_PARENT: Final[dict[Table, tuple[str, str]]] = {
    "flow_run": ("flow", "flow_id"),
    "task_run": ("flow_run", "flow_run_id"),
}
_UNIQUE: Final[dict[Table, str]] = {
    "flow_run": "flow_id, idempotency_key",
    "task_run": "flow_run_id, task_key, dynamic_key",
}


def create(db: Queryable, table: Table, run: R, first: Entry | None) -> R | None:
    """Insert a run, with its first state if it has one.

    Args:
        db: Where.
        table: The run's table.
        run: A `FlowRun` or `TaskRun`, whose labels are those that it does not inherit.
        first: Its state, which the columns of `run` follow from.

    Returns:
        The run as stored; None, and nothing is, if there is one with its unique key.
    """
    new: Any = run
    parent_id = getattr(new, _PARENT[table][1])
    orphan = parent_id is None
    if db.dialect.name == "sqlite" and not orphan:
        new.labels = {**_labels(db, table, parent_id), **new.labels}
    sql, values = _insert_run(run.columns, table, db.dialect, orphan, first is not None)
    if first is None:
        return db.row(sql, values(new), into=type(run))
    outer_id, now = getattr(new, OUTER[table]), new.created
    if db.dialect.name == "postgres":
        params = (*values(new), now, now, new.id, *first.params())
        if first.artifact:
            params += (now, now, *owners(table, new.id, outer_id), *first.artifact)
        sql = _with_state(sql, run.columns, table, bool(first.artifact))
        return db.row(sql, params, into=type(run))
    with db.unit() as txn:
        state = first.bind(txn.dialect)
        created: Any = txn.row(sql, values(new), into=type(run))
        if created is not None:
            insert(txn, table, new.id, outer_id, first, state, now)
            if table == "flow_run":
                # Only now: SQLite looks for the state at once.
                txn.execute(
                    "UPDATE flow_run SET state_id = ? WHERE id = ?", (first.state.id, new.id)
                )
                created.state_id = first.state.id
        stored: R | None = created
        return stored


def _labels(db: Queryable, table: Table, parent_id: UUID) -> dict[str, Any]:
    parent, _ = _PARENT[table]
    labels = db.value(f"SELECT labels FROM {parent} WHERE id = ?", (parent_id,))
    return read_json(labels) or {} if labels else {}


@lru_cache
def _insert_run(
    selected: str, table: Table, dialect: Dialect, orphan: bool, entered: bool
) -> tuple[str, Values]:
    """The statement, and what gets its parameters from a run.

    Args:
        selected: The columns of its record.
        table: Its table.
        dialect: The engine's.
        orphan: It has no parent to inherit labels from; NULL is in no conflict with NULL, so that
            its unique key is looked up.
        entered: It has a state.
    """
    parent, parent_column = _PARENT[table]
    columns = [name for name in selected.split(", ") if name != "labels"]
    computed = {}
    if entered:
        columns.remove("updated")
        computed["updated"] = dialect.clock
        if dialect.name == "sqlite" and table == "flow_run":
            columns.remove("state_id")
    params = [*columns, "labels"]
    labels = "?"
    if dialect.name == "postgres" and not orphan:
        params.insert(-1, parent_column)
        labels = (
            "(SELECT CASE WHEN jsonb_typeof(labels) = 'object' THEN labels ELSE '{}' END"
            f" FROM {parent} WHERE id = ?) || CAST(? AS jsonb)"
        )
    marks = ", ".join([*["?"] * len(columns), labels, *computed.values()])
    source = f"VALUES ({marks})"
    if orphan:
        params += ["task_key", "dynamic_key"]
        source = (
            f"SELECT {marks} WHERE NOT EXISTS (SELECT 1 FROM task_run"
            " WHERE flow_run_id IS NULL AND task_key = ? AND dynamic_key = ?)"
        )
    sql = (
        f"INSERT INTO {table} ({', '.join([*columns, 'labels', *computed])}) {source}"
        f" ON CONFLICT ({_UNIQUE[table]}) DO NOTHING RETURNING {selected}"
    )
    return sql, attrgetter(*params)


@lru_cache
def _with_state(insert_run: str, selected: str, table: Table, artifact: bool) -> str:
    """The statement, and in it the state's and, if there is one, the artifact's."""
    kept = f""", kept AS (
    INSERT INTO artifact ({ARTIFACT}) SELECT ?, ?, ?, ?, ?, ?, ?, ?, ?, ? FROM run
)"""
    return f"""WITH run AS (
    {insert_run}
), state AS (
    INSERT INTO {table}_state ({STATE[table]})
    SELECT ?, ?, ?, ?, ?, ?, ?, ?, ?, ? FROM run
){kept if artifact else ""}
SELECT {selected} FROM run"""
