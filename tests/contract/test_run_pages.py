"""Pages of runs by state and by tag: the same as of all runs, filtered and sorted in Python."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import product
from pathlib import Path
from typing import Any, Final

import pytest

from prefect_db import Backend, connect, flow_runs, flows, states, task_runs
from prefect_db.filters import Among, AnyOf, State, Tags, Time
from prefect_db.flow_runs import FlowRun, FlowRunFilter, FlowRunSort
from prefect_db.states import StateType
from prefect_db.task_runs import TaskRun, TaskRunFilter, TaskRunSort

NOON: Final = datetime(2026, 1, 1, 12, tzinfo=UTC)
TYPES: Final = [
    StateType.COMPLETED,
    StateType.FAILED,
    StateType.COMPLETED,
    StateType.SCHEDULED,
    None,
    StateType.RUNNING,
]
TAGS: Final = [["a"], [], ["b", "a"], ["b"], ["c", "b", "a"]]


@pytest.fixture
def runs(db: Backend) -> list[FlowRun]:
    """Sixty, of which some have no state, and some the same times."""
    flow = flows.create(db, "etl")
    for number in range(60):
        kind = TYPES[number % len(TYPES)]
        at = NOON - timedelta(seconds=number // 4)
        state = None if kind is None else replace(states.make(kind), timestamp=at)
        flow_runs.create(db, flow.id, state=state, tags=TAGS[number % len(TAGS)])
    return flow_runs.find(db, sort=FlowRunSort.NAME_ASC)


STATES: Final = [
    State(type=Among(any_=["COMPLETED"])),
    State(type=Among(any_=["COMPLETED", "FAILED", "COMPLETED"])),
    State(type=Among(any_=["PAUSED", "FAILED"])),
    State(type=Among(any_=["CRASHED", "PAUSED"])),
    State(type=Among(any_=["COMPLETED", "FAILED"], not_any_=["FAILED"])),
    State(type=Among(any_=["FAILED"], not_any_=["FAILED"])),
    State(type=Among(not_any_=["COMPLETED"])),
    State(type=Among(any_=list(StateType))),
    State(type=Among(any_=[])),
    State(type=Among(any_=["FAILED", "RUNNING"]), name=Among(any_=["Running"])),
    State(type=Among(any_=["FAILED"]), name=Among(any_=["Running"]), operator="or_"),
]


def _in_state(run: FlowRun | TaskRun, state: State) -> bool:
    assert state.type is not None
    by_type = (
        run.state_type is not None
        and (state.type.any_ is None or run.state_type in state.type.any_)
        and run.state_type not in (state.type.not_any_ or ())
    )
    if state.name is None or state.name.any_ is None:
        return by_type
    by_name = run.state_name in state.name.any_
    return by_type or by_name if state.operator == "or_" else by_type and by_name


def _started(run: FlowRun) -> tuple[float, Any]:
    at = run.start_time or run.expected_start_time
    return (at.timestamp() if at else 0.0, run.id)


def _expected(run: FlowRun | TaskRun) -> tuple[float, Any]:
    return (run.expected_start_time.timestamp() if run.expected_start_time else 0.0, run.id)


SORTS: Final[list[tuple[FlowRunSort, Any, bool]]] = [
    (FlowRunSort.ID_DESC, lambda run: run.id, True),
    (FlowRunSort.START_TIME_ASC, _started, False),
    (FlowRunSort.START_TIME_DESC, _started, True),
    (FlowRunSort.EXPECTED_START_TIME_ASC, _expected, False),
    (FlowRunSort.EXPECTED_START_TIME_DESC, _expected, True),
]


@pytest.mark.parametrize("state", STATES, ids=str)
@pytest.mark.parametrize(("sort", "key", "descending"), SORTS, ids=lambda value: str(value)[:30])
def test_flow_runs_by_state(
    db: Backend, runs: list[FlowRun], state: State, sort: FlowRunSort, key: Any, descending: bool
) -> None:
    found = [run for run in runs if _in_state(run, state)]
    expected = sorted(found, key=key, reverse=descending)
    asked = FlowRunFilter(state=state)
    assert flow_runs.count(db, asked) == len(expected)
    assert flow_runs.find(db, asked, sort=sort) == expected
    assert flow_runs.find(db, asked, sort=sort, limit=7, offset=5) == expected[5:12]
    assert flow_runs.find(db, asked, sort=sort, limit=None, offset=1) == expected[1:]


def test_flow_runs_by_a_state_or_by_something_else(db: Backend, runs: list[FlowRun]) -> None:
    state = State(type=Among(any_=["RUNNING", "FAILED"]))
    asked = FlowRunFilter(state=state, id=Among(any_=[run.id for run in runs]), operator="or_")
    assert len(flow_runs.find(db, asked)) == len(runs)


@pytest.mark.parametrize("state", STATES, ids=str)
def test_task_runs_by_state(db: Backend, state: State) -> None:
    for number in range(30):
        kind = TYPES[number % len(TYPES)]
        given = None if kind is None else states.make(kind)
        task_runs.create(db, "a", "a", str(number), state=given)
    runs = task_runs.find(db, sort=TaskRunSort.NAME_ASC)
    expected = sorted((r for r in runs if _in_state(r, state)), key=lambda r: r.id, reverse=True)
    asked = TaskRunFilter(state=state)
    assert task_runs.find(db, asked) == expected
    assert task_runs.find(db, asked, limit=3, offset=2) == expected[2:5]


TAG_FILTERS: Final = [
    (Tags(all_=["a"]), lambda tags: "a" in tags),
    (Tags(all_=["a", "b", "a"]), lambda tags: {"a", "b"} <= tags),
    (Tags(any_=["c"]), lambda tags: "c" in tags),
    (Tags(any_=["a", "c", "b", "a"]), lambda tags: bool(tags)),
    (Tags(any_=["nowhere"]), lambda tags: False),
    (Tags(any_=[]), lambda tags: False),
    (Tags(all_=["b"], any_=["a", "c"]), lambda tags: "b" in tags and bool(tags & {"a", "c"})),
    (Tags(all_=["b"], is_null_=True), lambda tags: False),
    (Tags(all_=["b"], is_null_=False), lambda tags: "b" in tags),
    (Tags(all_=["c"], is_null_=True, operator="or_"), lambda tags: "c" in tags or not tags),
    (Tags(any_=["a", "b"], is_null_=True, operator="or_"), lambda tags: True),
]


@pytest.mark.parametrize(
    ("sort", "with_states"),
    [*product([FlowRunSort.ID_DESC, FlowRunSort.NAME_ASC], [False, True])],
)
@pytest.mark.parametrize(("tags", "has"), TAG_FILTERS, ids=lambda value: str(value)[:60])
def test_flow_runs_by_tag(
    db: Backend, runs: list[FlowRun], tags: Tags, has: Any, sort: FlowRunSort, with_states: bool
) -> None:
    asked = FlowRunFilter(tags=tags)
    found = [run for run in runs if has(set(run.tags))]
    if with_states:
        state = State(type=Among(any_=["COMPLETED", "FAILED"]))
        asked = FlowRunFilter(tags=tags, state=state)
        found = [run for run in found if _in_state(run, state)]
    if sort is FlowRunSort.ID_DESC:
        found.sort(key=lambda run: run.id, reverse=True)
    assert flow_runs.count(db, asked) == len(found)
    assert flow_runs.find(db, asked, sort=sort) == found
    assert flow_runs.find(db, asked, sort=sort, limit=5, offset=3) == found[3:8]


def test_by_tag_and_much_else(db: Backend, runs: list[FlowRun]) -> None:
    asked = FlowRunFilter(
        tags=Tags(any_=["a", "b"]),
        expected_start_time=Time(after_=NOON - timedelta(seconds=5)),
        flow_id=AnyOf(any_=[runs[0].flow_id]),
    )
    found = [
        run
        for run in runs
        if {"a", "b"} & set(run.tags)
        and run.expected_start_time
        and run.expected_start_time >= NOON - timedelta(seconds=5)
    ]
    found.sort(key=lambda run: run.id, reverse=True)
    assert flow_runs.find(db, asked) == found


def _tagged(db: Backend, tag: str) -> int:
    return len(flow_runs.find(db, FlowRunFilter(tags=Tags(all_=[tag]))))


def test_a_run_is_found_by_the_tags_that_it_has_now(db: Backend) -> None:
    flow = flows.create(db, "etl")
    run = flow_runs.create(db, flow.id, tags=["old", "kept", "kept"])
    flow_runs.create(db, flow.id, tags=["kept"])
    flow_runs.update(db, run.id, tags=["kept", "new"])
    assert [_tagged(db, tag) for tag in ("old", "kept", "new")] == [0, 2, 1]
    flow_runs.update(db, run.id, tags=[])
    assert [_tagged(db, tag) for tag in ("kept", "new")] == [1, 0]
    flow_runs.delete(db, run.id)
    flows.delete(db, flow.id)
    assert _tagged(db, "kept") == 0


@pytest.mark.only("sqlite", "the table is SQLite's alone")
class TestTagTable:
    def test_it_follows_whoever_writes(self, db: Backend) -> None:
        def rows() -> list[str]:
            return [str(row[0]) for row in db.rows("SELECT tag FROM flow_run_tag ORDER BY 1")]

        flow = flows.create(db, "etl")
        with db.connection() as native:
            native.execute("PRAGMA trusted_schema = OFF")
        with db.transaction() as txn:
            txn.executemany(
                "INSERT INTO flow_run (id, name, flow_id, tags) VALUES (?, 'a', ?, ?)",
                [("1", flow.id, ["x", "ü"]), ("2", flow.id, []), ("3", flow.id, [1, None, "x"])],
            )
        assert rows() == ["x", "x", "ü"]
        db.execute("UPDATE flow_run SET tags = '[\"y\"]' WHERE id = '1'")
        assert rows() == ["x", "y"]
        db.execute("UPDATE flow_run SET name = 'b', tags = tags")
        db.execute("UPDATE flow_run SET id = '4' WHERE id = '1'")
        assert db.value("SELECT flow_run_id FROM flow_run_tag WHERE tag = 'y'") == "4"
        flows.delete(db, flow.id)
        assert rows() == []

    def test_without_it_pages_are_the_same(self, db: Backend, runs: list[FlowRun]) -> None:
        """As in a database of Prefect's."""
        asked = [FlowRunFilter(tags=tags) for tags, _ in TAG_FILTERS]
        before = [flow_runs.find(db, each) for each in asked]
        for when in ("insert", "update", "delete"):
            db.execute(f"DROP TRIGGER tr_flow_run__{when}_tags")
        db.execute("DROP TABLE flow_run_tag")
        assert [flow_runs.find(db, each) for each in asked] == before

    def test_a_number_is_no_tag_but_can_be_asked_for(self, db: Backend) -> None:
        flow = flows.create(db, "etl")
        flow_runs.create(db, flow.id, tags=["1"])
        numbers: list[Any] = [1]
        assert flow_runs.find(db, FlowRunFilter(tags=Tags(any_=numbers))) == []

    def test_a_write_counts_only_its_own_rows(self, tmp_path: Path) -> None:
        with connect(f"sqlite:///{tmp_path}/a.db") as db:
            flow = flows.create(db, "etl")
            insert = "INSERT INTO flow_run (name, flow_id, tags) VALUES ('a', ?, '[\"a\", \"b\"]')"
            assert db.execute(insert, (flow.id,)) == 1
            assert db.executemany(insert, [(flow.id,)] * 3) == 3
            assert db.execute("UPDATE flow_run SET tags = '[\"c\"]'") == 4
            assert db.execute("DELETE FROM flow_run") == 4
