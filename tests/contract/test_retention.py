"""Logs and finished flow runs are trimmed in batches, with all that is theirs and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any, Final
from uuid import UUID

import pytest

from prefect_db import (
    Backend,
    BadValue,
    Queryable,
    events,
    flow_runs,
    flows,
    logs,
    states,
    task_runs,
)
from prefect_db.flow_runs import FlowRun
from prefect_db.states import State

NOON: Final = datetime(2030, 1, 1, 12, tzinfo=UTC)
TRIMS: Final[dict[str, Callable[..., int]]] = {
    "events": events.trim,
    "logs": logs.trim,
    "flow_runs": flow_runs.trim,
}


def at(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


@pytest.fixture
def flow_id(db: Backend) -> UUID:
    return flows.create(db, "etl").id


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    """Four threads, which end before the database does: name it after `db`."""
    with ThreadPoolExecutor(4) as pool:
        yield pool


def ended(seconds: float, state: State | None = None) -> State:
    return replace(state or states.completed(), timestamp=at(seconds))


def run(db: Queryable, flow_id: UUID, seconds: float, **options: Any) -> FlowRun:
    """A flow run that ended then."""
    return flow_runs.create(db, flow_id, state=ended(seconds), **options)


def count(db: Queryable, table: str) -> int:
    return int(db.value(f"SELECT count(*) FROM {table}"))


def fill(db: Backend, flow_id: UUID, name: str, number: int) -> None:
    """So many events, logs or flow runs, of the seconds from 0."""
    for second in range(number):
        if name == "events":
            made = events.make(
                occurred=at(second), event="x", resource={"prefect.resource.id": "r"}, payload={}
            )
            events.write(db, [made])
        elif name == "logs":
            logs.write(db, [logs.make("run", 20, "text", at(second))])
        else:
            run(db, flow_id, second)


@pytest.mark.parametrize("name", TRIMS)
class TestAll:
    def test_what_is_older_is_deleted_and_counted(
        self, db: Backend, flow_id: UUID, name: str
    ) -> None:
        fill(db, flow_id, name, 5)
        assert TRIMS[name](db, at(3)) == 3
        assert TRIMS[name](db, at(3)) == 0
        assert TRIMS[name](db, at(100)) == 2

    @pytest.mark.parametrize("batch", [1, 2, 3, 5, 6])
    def test_any_size_of_batch_deletes_all(
        self, db: Backend, flow_id: UUID, name: str, batch: int
    ) -> None:
        fill(db, flow_id, name, 6)
        assert TRIMS[name](db, at(5), batch=batch) == 5
        assert TRIMS[name](db, at(100)) == 1

    def test_progress_is_told_batch_by_batch(self, db: Backend, flow_id: UUID, name: str) -> None:
        fill(db, flow_id, name, 5)
        told: list[int] = []
        assert TRIMS[name](db, at(100), batch=2, progress=told.append) == 5
        assert {after - before for before, after in pairwise([0, *told])} <= {1, 2}
        assert told[-1] == 5

    def test_what_progress_raises_ends_it_after_a_whole_batch(
        self, db: Backend, flow_id: UUID, name: str
    ) -> None:
        fill(db, flow_id, name, 5)

        def stop(deleted: int) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            TRIMS[name](db, at(100), batch=2, progress=stop)
        assert TRIMS[name](db, at(100)) == 3

    def test_a_dry_run_only_counts(self, db: Backend, flow_id: UUID, name: str) -> None:
        fill(db, flow_id, name, 5)
        assert TRIMS[name](db, at(3), dry_run=True) == 3
        assert TRIMS[name](db, at(100)) == 5

    def test_several_at_once_delete_each_once(
        self, db: Backend, flow_id: UUID, name: str, pool: ThreadPoolExecutor
    ) -> None:
        fill(db, flow_id, name, 40)
        work = [pool.submit(TRIMS[name], db, at(1000), batch=3) for _ in range(4)]
        assert sum(each.result() for each in work) == 40

    @pytest.mark.parametrize("batch", [0, -1])
    def test_a_batch_has_at_least_one(self, db: Backend, name: str, batch: int) -> None:
        with pytest.raises(BadValue):
            TRIMS[name](db, at(100), batch=batch)

    @pytest.mark.parametrize("dry_run", [False, True])
    @pytest.mark.parametrize("before", [datetime(2040, 1, 1), "9", 9, None])
    def test_what_is_no_time_with_a_zone_is_refused(
        self, db: Backend, name: str, dry_run: bool, before: Any
    ) -> None:
        with pytest.raises(BadValue):
            TRIMS[name](db, before, dry_run=dry_run)

    def test_it_is_undone_with_its_callers_transaction(
        self, db: Backend, flow_id: UUID, name: str
    ) -> None:
        fill(db, flow_id, name, 3)
        with db.transaction() as txn:
            assert TRIMS[name](txn, at(100)) == 3
            txn.rollback()
        assert TRIMS[name](db, at(100), dry_run=True) == 3


class TestFlowRuns:
    def test_all_that_is_theirs_goes_too(self, db: Backend, flow_id: UUID) -> None:
        for _ in range(2):
            old = run(db, flow_id, 0)
            result = replace(ended(1), data={"type": "result"})
            task = task_runs.create(db, "t", "t", "0", flow_run_id=old.id)
            task_runs.set_state(db, task.id, result)
            flow_runs.set_state(db, old.id, result)
            logs.write(db, [logs.make("l", 20, "text", at(n), flow_run_id=old.id) for n in (0, 99)])
        fill(db, flow_id, "events", 1)
        assert count(db, "artifact") == 4
        assert flow_runs.trim(db, at(50)) == 2
        tables = "flow_run flow_run_state task_run task_run_state artifact log events flow".split()
        assert [count(db, table) for table in tables] == [0, 0, 0, 0, 0, 0, 1, 1]

    def test_of_those_that_stay_nothing_goes(self, db: Backend, flow_id: UUID) -> None:
        run(db, flow_id, 0)
        young = run(db, flow_id, 90)
        task = task_runs.create(db, "t", "t", "0", flow_run_id=young.id)
        task_runs.set_state(db, task.id, replace(ended(1), data={"type": "result"}))
        logs.write(db, [logs.make("l", 20, "text", at(0), flow_run_id=young.id)])
        logs.write(db, [logs.make("l", 20, "text", at(0))])
        assert flow_runs.trim(db, at(50)) == 1
        assert flow_runs.get(db, young.id) == young
        tables = "flow_run flow_run_state task_run task_run_state artifact log".split()
        assert [count(db, table) for table in tables] == [1, 1, 1, 1, 1, 2]

    @pytest.mark.parametrize(
        "state",
        [states.completed(), states.failed(), states.cancelled(), states.crashed()],
        ids=lambda state: state.name,
    )
    def test_every_way_to_end(self, db: Backend, flow_id: UUID, state: State) -> None:
        flow_runs.create(db, flow_id, state=ended(0, state))
        assert flow_runs.trim(db, at(1)) == 1

    @pytest.mark.parametrize(
        "state",
        [
            None,
            states.pending(),
            states.running(),
            states.scheduled(at(0)),
            states.paused(),
            states.cancelling(),
        ],
        ids=lambda state: state and state.name,
    )
    def test_what_has_not_ended_stays(
        self, db: Backend, flow_id: UUID, state: State | None
    ) -> None:
        made = flow_runs.create(db, flow_id, state=state and ended(0, state))
        assert flow_runs.trim(db, at(1), dry_run=True) == 0
        assert flow_runs.trim(db, at(1)) == 0
        assert flow_runs.get(db, made.id) is not None

    def test_what_ended_before_it_was_expected_to_start(self, db: Backend, flow_id: UUID) -> None:
        early = flow_runs.create(db, flow_id, state=ended(0, states.scheduled(at(1000))))
        flow_runs.set_state(db, early.id, ended(1, states.cancelled()))
        assert flow_runs.trim(db, at(2)) == 1

    def test_a_run_that_began_anew_stays(self, db: Backend, flow_id: UUID) -> None:
        again = run(db, flow_id, 0)
        flow_runs.set_state(db, again.id, ended(1, states.running()))
        assert flow_runs.trim(db, at(2)) == 0

    def test_more_than_a_page_of_them(self, db: Backend, flow_id: UUID) -> None:
        row = "(?, 'run', ?, 'COMPLETED', 'Completed', ?, ?)"
        db.executemany(
            "INSERT INTO flow_run (id, name, flow_id, state_type, state_name, expected_start_time,"
            f" end_time) VALUES {row}",
            # Many began at one time, and one in two is young.
            [(UUID(int=n), flow_id, at(n // 700), at(n % 2 * 100)) for n in range(2500)],
        )
        assert flow_runs.trim(db, at(50), dry_run=True) == 1250
        assert flow_runs.trim(db, at(50)) == 1250
        assert count(db, "flow_run") == 1250

    def test_more_logs_than_a_batch(self, db: Backend, flow_id: UUID) -> None:
        old = run(db, flow_id, 0)
        lines = [logs.make("l", 20, "text", at(99), flow_run_id=old.id) for _ in range(2500)]
        logs.write(db, lines)
        assert flow_runs.trim(db, at(50)) == 1
        assert count(db, "log") == 0

    def test_a_result_that_another_run_has_too_stays(self, db: Backend, flow_id: UUID) -> None:
        old, young = run(db, flow_id, 0), run(db, flow_id, 90)
        flow_runs.set_state(db, old.id, replace(ended(1), data={"type": "result"}))
        db.execute(
            "UPDATE flow_run_state SET result_artifact_id = (SELECT id FROM artifact)"
            " WHERE flow_run_id = ?",
            (young.id,),
        )
        assert flow_runs.trim(db, at(50)) == 1
        assert count(db, "artifact") == 1
        assert flow_runs.history(db, young.id)[0].data == {"type": "result"}


class TestSubflowRuns:
    def subflow(self, db: Backend, parent: FlowRun, seconds: float | None) -> FlowRun:
        key = str(count(db, "task_run"))
        task = task_runs.create(db, "sub", "sub", key, flow_run_id=parent.id)
        state = states.running() if seconds is None else ended(seconds)
        return flow_runs.create(db, parent.flow_id, parent_task_run_id=task.id, state=state)

    def test_they_go_with_their_parents_and_are_counted(self, db: Backend, flow_id: UUID) -> None:
        parent = run(db, flow_id, 0)
        child = self.subflow(db, parent, 1)
        self.subflow(db, child, 2)
        self.subflow(db, child, 3)
        assert flow_runs.trim(db, at(50), dry_run=True) == 4
        assert flow_runs.trim(db, at(50), batch=1) == 4
        assert (count(db, "flow_run"), count(db, "task_run")) == (0, 0)

    def test_they_stay_while_their_parent_does(self, db: Backend, flow_id: UUID) -> None:
        parent = run(db, flow_id, 90)
        child = self.subflow(db, parent, 1)
        assert flow_runs.trim(db, at(50), dry_run=True) == 0
        assert flow_runs.trim(db, at(50)) == 0
        assert flow_runs.get(db, child.id) is not None

    @pytest.mark.parametrize("seconds", [90, None])
    def test_one_that_is_young_or_runs_survives(
        self, db: Backend, flow_id: UUID, seconds: float | None
    ) -> None:
        child = self.subflow(db, run(db, flow_id, 0), seconds)
        grandchild = self.subflow(db, child, 1)
        assert flow_runs.trim(db, at(50), dry_run=True) == 1
        assert flow_runs.trim(db, at(50)) == 1
        survivor = flow_runs.get(db, child.id)
        assert survivor is not None
        assert survivor.parent_task_run_id is None
        assert flow_runs.get(db, grandchild.id) is not None


@pytest.mark.only("postgres", "SQLite has one writer")
class TestLocks:
    def test_a_run_that_is_being_changed_is_left_out(self, db: Backend, flow_id: UUID) -> None:
        busy, idle = run(db, flow_id, 0), run(db, flow_id, 1)
        with db.transaction() as txn:
            flow_runs.set_state(txn, busy.id, states.running())
            assert flow_runs.trim(db, at(50)) == 1
        assert flow_runs.get(db, idle.id) is None
        changed = flow_runs.get(db, busy.id)
        assert changed is not None
        assert changed.state_name == "Running"


class Recorder(Queryable):
    """Passes on what it is asked, and keeps the statements."""

    def __init__(self, db: Backend) -> None:
        self.db = db
        self._dialect = db.dialect
        self.asked: list[tuple[str, Any]] = []

    def _run(self, sql: str, params: Any, prepare: bool = True) -> Any:
        self.asked.append((sql, params))
        return self.db._run(sql, params)

    def executemany(self, sql: str, seq_of_params: Any) -> int:
        return self.db.executemany(sql, seq_of_params)

    def transaction(self, **options: Any) -> Any:
        return self.db.transaction(**options)

    def unit(self) -> Any:
        return self.db.unit()


def test_a_page_of_runs_is_read_along_an_index(db: Backend) -> None:
    recorder = Recorder(db)
    flow_runs.trim(recorder, NOON)
    [(sql, params)] = recorder.asked
    explain = db.dialect.pick(sqlite="EXPLAIN QUERY PLAN ", postgres="EXPLAIN ")
    with db.transaction() as txn:
        if db.dialect.name == "postgres":  # which would not use an index of an empty table
            txn.execute("SET LOCAL enable_seqscan = off")
            txn.execute("SET LOCAL enable_bitmapscan = off")
        plan = " ".join(str(row[-1]) for row in txn.rows(explain + sql, params))
    assert "ix_flow_run__expected_start_time_id" in plan
    assert "Sort" not in plan
    assert "TEMP B-TREE" not in plan
