"""`flow_runs.trim`: old flow runs are deleted with all that is theirs.

Rules: Prefect's server, services/db_vacuum.py (`vacuum_old_flow_runs`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final
from uuid import UUID

from prefect_db.dialect import Dialect
from prefect_db.errors import BadValue
from prefect_db.pace import Pace
from prefect_db.queryable import Queryable
from prefect_db.row import Record
from prefect_db.states import TERMINAL
from prefect_db.values import Array, to_datetime

# Rows that one statement reads or deletes; and flow runs, which may have many task runs.
_PAGE: Final = 1000
_FIRST: Final = 5

_FINISHED: Final = (
    f"flow_run.state_type IN {tuple(type.value for type in sorted(TERMINAL))}"
    " AND flow_run.end_time < ?"
)
_OLD: Final = f"flow_run.parent_task_run_id IS NULL AND {_FINISHED}"


@dataclass(slots=True)
class _Id(Record):
    id: UUID


@dataclass(slots=True)
class _Candidate(Record):
    id: UUID
    expected_start_time: datetime
    old: bool | None


def trim(
    db: Queryable,
    before: datetime,
    *,
    batch: int = 100,
    progress: Callable[[int], object] | None = None,
    dry_run: bool = False,
) -> int:
    """Delete top-level flow runs that ended before a time; how many there were.

    With them go their states, results, task runs, and then their logs. Their subflow runs become
    top-level ones, as in Prefect, and are deleted and counted too if they ended before that time.
    Events stay: see `events.trim`.

    Each batch is a transaction of its own, so that others get their turn. When this is
    interrupted, each run is there or gone as a whole; of one that is gone, logs may be left, for
    `logs.trim`. A run that another transaction is about to change is left out.

    Args:
        db: Where; a Backend.
        before: The limit of their end_time, itself kept.
        batch: How many flow runs to delete at a time, at most; fewer if that takes long.
        progress: Called after each batch with the number deleted so far.
        dry_run: Only count them.
    """
    if batch < 1:
        raise BadValue(f"batch={batch}; it is at least 1")
    before = to_datetime(before)
    if dry_run:
        return _count(db, before)
    deleted = 0
    pace = Pace(batch, first=_FIRST)
    for candidates in _candidates(db, before):
        while candidates:
            asked = pace.size
            with pace.timed(), db.unit() as txn:
                gone, subflows = _delete(txn, candidates[:asked], before)
            _delete_logs(db, gone)
            candidates = candidates[asked:] + subflows
            deleted += len(gone)
            if progress is not None:
                progress(deleted)
    return deleted


def _candidates(db: Queryable, before: datetime) -> Iterator[list[UUID]]:
    """Pages of runs to delete.

    No index is on end_time. So all runs are looked at, once, along an index that has them by age;
    every run that has a state has an expected_start_time.
    """
    time, id = datetime.min.replace(tzinfo=UTC), UUID(int=0)
    while True:
        page = db.rows(
            f"SELECT id, expected_start_time, {_OLD} AS old FROM flow_run"
            " WHERE (expected_start_time, id) > (?, ?)"
            " ORDER BY expected_start_time NULLS FIRST, id LIMIT ?",
            (before, time, id, _PAGE),
            into=_Candidate,
        )
        yield [run.id for run in page if run.old]
        if len(page) < _PAGE:
            return
        time, id = page[-1].expected_start_time, page[-1].id


def _delete(txn: Queryable, ids: list[UUID], before: datetime) -> tuple[list[UUID], list[UUID]]:
    """Delete those of the runs that are still old: their ids, and those of their subflow runs."""
    listed = _listed(txn.dialect)
    lock, skip = txn.dialect.pick(sqlite=("", ""), postgres=(" FOR UPDATE", " SKIP LOCKED"))
    runs = txn.rows(
        f"SELECT id FROM flow_run WHERE id {listed} AND {_OLD} ORDER BY id{lock}{skip}",
        (Array(ids), before),
        into=_Id,
    )
    gone = Array([run.id for run in runs])
    # Locked before their parents' task runs are: in the order of flow_runs.set_state.
    subflows = txn.rows(
        "SELECT id FROM flow_run WHERE parent_task_run_id IS NOT NULL AND parent_task_run_id IN"
        f" (SELECT id FROM task_run WHERE flow_run_id {listed}) ORDER BY id{lock}",
        (gone,),
        into=_Id,
    )
    results = txn.rows(
        "SELECT result_artifact_id AS id FROM flow_run_state"
        f" WHERE flow_run_id {listed} AND result_artifact_id IS NOT NULL"
        " UNION SELECT s.result_artifact_id FROM task_run AS t"
        " JOIN task_run_state AS s ON s.task_run_id = t.id"
        f" WHERE t.flow_run_id {listed} AND s.result_artifact_id IS NOT NULL",
        (gone, gone),
        into=_Id,
    )
    txn.execute(f"DELETE FROM flow_run WHERE id {listed}", (gone,))
    # A result that a state of another run has, too, stays.
    txn.execute(
        f"DELETE FROM artifact WHERE id {listed}"
        " AND NOT EXISTS (SELECT 1 FROM flow_run_state WHERE result_artifact_id = artifact.id)"
        " AND NOT EXISTS (SELECT 1 FROM task_run_state WHERE result_artifact_id = artifact.id)",
        (Array([result.id for result in results]),),
    )
    return gone.values, [run.id for run in subflows]


def _delete_logs(db: Queryable, flow_run_ids: list[UUID]) -> None:
    """After the runs, as in Prefect: a run that changed meanwhile keeps its logs."""
    listed = _listed(db.dialect)
    pace = Pace(_PAGE)
    while flow_run_ids:
        asked = pace.size
        with pace.timed(), db.unit() as txn:
            lines = txn.rows(
                f"SELECT id FROM log WHERE flow_run_id {listed} LIMIT ?",
                (Array(flow_run_ids), asked),
                into=_Id,
            )
            txn.execute(f"DELETE FROM log WHERE id {listed}", (Array([line.id for line in lines]),))
        if len(lines) < asked:
            return


def _count(db: Queryable, before: datetime) -> int:
    return int(
        db.value(
            f"WITH RECURSIVE old (id) AS (SELECT id FROM flow_run WHERE {_OLD} UNION ALL"
            " SELECT flow_run.id FROM old JOIN task_run ON task_run.flow_run_id = old.id"
            f" JOIN flow_run ON flow_run.parent_task_run_id = task_run.id AND {_FINISHED})"
            " SELECT count(*) FROM old",
            (before, before),
        )
    )


def _listed(dialect: Dialect) -> str:
    return dialect.pick(
        sqlite="IN (SELECT value FROM json_each(?))", postgres="= ANY(CAST(? AS uuid[]))"
    )
