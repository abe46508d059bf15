"""A new flow run or task run: its row, with the labels that it inherits, and its first state.

A new run has no history, so that its columns are known before. On PostgreSQL it is one statement.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from itertools import compress, repeat
from operator import is_not
from typing import Any, Final
from uuid import UUID

from prefect_db.dialect import Dialect
from prefect_db.queryable import Queryable
from prefect_db.row import Record
from prefect_db.state_changes import ARTIFACT, OUTER, STATE, Entry, Table, insert
from prefect_db.values import dump_json, read_json, read_json_from

# Whose labels a run inherits: a table, and the run's column that names the row.
_PARENT: Final[dict[Table, tuple[str, str]]] = {
    "flow_run": ("flow", "flow_id"),
    "task_run": ("flow_run", "flow_run_id"),
}
_UNIQUE: Final[dict[Table, str]] = {
    "flow_run": "flow_id, idempotency_key",
    "task_run": "flow_run_id, task_key, dynamic_key",
}


def create(db: Queryable, table: Table, run: Record, first: Entry | None) -> bool:
    """Insert a run, with its first state if it has one.

    Args:
        db: Where.
        table: The run's table.
        run: A `FlowRun` or `TaskRun`, whose labels are those that it does not inherit. It becomes
            what is stored.
        first: Its state, which the columns of `run` follow from.

    Returns:
        False if there is a run with its unique key; then nothing is stored.
    """
    if db.dialect.name == "postgres":
        return _create_by_one_statement(db, table, run, first)
    new: Any = run
    with db.unit() as txn:
        parent_id = getattr(new, _PARENT[table][1])
        if parent_id is not None:
            new.labels = {**_labels(txn, table, parent_id), **new.labels}
        if first is not None:
            # As the engine's clock, which Prefect has set it when the run entered its state.
            new.updated = new.created.replace(microsecond=new.created.microsecond // 1000 * 1000)
        state_id = new.state_id
        if table == "flow_run":
            # Not yet: SQLite looks for the state at once.
            new.state_id = None
        names, values = _columns(run, db.dialect)
        if parent_id is None:
            values += (new.task_key, new.dynamic_key)
        sql = _insert_run(table, names, txn.dialect, parent_id is None, first is not None)
        if not txn.execute(sql, values):
            return False
        if first is not None:
            insert(txn, table, new.id, getattr(new, OUTER[table]), first, new.created)
            if table == "flow_run":
                txn.execute("UPDATE flow_run SET state_id = ? WHERE id = ?", (state_id, new.id))
                new.state_id = state_id
        return True


@dataclass(slots=True)
class _Inserted(Record):
    """What only PostgreSQL knows of a new run."""

    updated: datetime
    labels: dict[str, Any] | None


def _create_by_one_statement(db: Queryable, table: Table, run: Record, first: Entry | None) -> bool:
    new: Any = run
    names, values = _columns(run, db.dialect)
    parent_id = getattr(new, _PARENT[table][1])
    if parent_id is None:
        values += (new.task_key, new.dynamic_key)
    else:
        values.insert(names.index("labels"), parent_id)
    sql = _insert_run(table, names, db.dialect, parent_id is None, first is not None)
    if first is not None:
        del values[names.index("updated")]
        sql = _with_state(sql, table, bool(first.artifact))
        values += (*first.params()[_KNOWN:], *first.artifact)
    inserted = db.row(sql, values, into=_Inserted)
    if inserted is None:
        return False
    new.updated, new.labels = inserted.updated, inserted.labels
    return True


# Of the runs' columns.
_JSON: Final = (
    "parameters",
    "context",
    "empirical_policy",
    "task_inputs",
    "tags",
    "labels",
    "created_by",
    "job_variables",
)
# Others are empty if nothing is given.
_NO_DEFAULT: Final = ("labels", "created_by")


def _columns(run: Record, dialect: Dialect) -> tuple[tuple[str, ...], list[Any]]:
    """The columns that are not what their default is, and their values.

    JSON is text; `run` gets what will be read of it: lists for tuples, and nothing of a caller's.
    """
    jsonb = dialect.name == "postgres"
    values = run.params()
    given = dict(compress(zip(run.names, values, strict=True), map(is_not, values, repeat(None))))
    if "job_variables" in run.names:
        # Only here NULL is not the default.
        given.setdefault("job_variables", None)
    for name in _JSON:
        value = given.get(name)
        if value:
            given[name] = text = dump_json(value)
            setattr(run, name, read_json_from(text, jsonb))
        elif value is not None and name not in _NO_DEFAULT:
            del given[name]
    return tuple(given), list(given.values())


def _labels(txn: Queryable, table: Table, parent_id: UUID) -> dict[str, Any]:
    parent, _ = _PARENT[table]
    labels = txn.value(f"SELECT labels FROM {parent} WHERE id = ?", (parent_id,))
    return read_json(labels) or {} if labels else {}


@lru_cache(maxsize=256)
def _insert_run(
    table: Table, names: tuple[str, ...], dialect: Dialect, orphan: bool, entered: bool
) -> str:
    """The statement for a new run.

    Args:
        table: Its table.
        names: Its columns.
        dialect: The engine's. On PostgreSQL the row gives an `_Inserted`.
        orphan: It has no parent to inherit labels from; NULL is in no conflict with NULL, so that
            its unique key is looked up.
        entered: It has a state.
    """
    marks = dict.fromkeys(names, "?")
    returning = ""
    if dialect.name == "postgres":
        returning = f" RETURNING {_Inserted.columns}"
        if entered:
            marks["updated"] = dialect.clock
        if not orphan:
            marks["labels"] = (
                "(SELECT CASE WHEN jsonb_typeof(labels) = 'object' THEN labels ELSE '{}' END"
                f" FROM {_PARENT[table][0]} WHERE id = ?) || CAST(? AS jsonb)"
            )
    source = f"VALUES ({', '.join(marks.values())})"
    if orphan:
        source = (
            f"SELECT {', '.join(marks.values())} WHERE NOT EXISTS (SELECT 1 FROM task_run"
            " WHERE flow_run_id IS NULL AND task_key = ? AND dynamic_key = ?)"
        )
    return (
        f"INSERT INTO {table} ({', '.join(names)}) {source}"
        f" ON CONFLICT ({_UNIQUE[table]}) DO NOTHING{returning}"
    )


# What the run's row has of its state's, and how many of the state's values that are.
_OF_RUN: Final = "state_id, state_type, state_timestamp, state_name"
_KNOWN: Final = _OF_RUN.count(",") + 1
_OWNERS: Final[dict[Table, str]] = {"flow_run": "id, NULL", "task_run": "flow_run_id, id"}


@lru_cache(maxsize=256)
def _with_state(insert_run: str, table: Table, artifact: bool) -> str:
    """The statement, and in it the state's and, if there is one, the artifact's."""
    outer = ", flow_run_id" if artifact and table == "task_run" else ""
    kept = f""", kept AS (
    INSERT INTO artifact ({ARTIFACT})
    SELECT created, created, {_OWNERS[table]}, ?, ?, ?, ?, ?, ? FROM run
)"""
    return f"""WITH run AS (
    {insert_run}, created, id, {_OF_RUN}{outer}
), state AS (
    INSERT INTO {table}_state ({STATE[table]})
    SELECT created, created, id, {_OF_RUN}, ?, ?, ? FROM run
){kept if artifact else ""}
SELECT {_Inserted.columns} FROM run"""
