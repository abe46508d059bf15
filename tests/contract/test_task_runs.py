"""Task runs through the API: one per flow run, task key and dynamic key."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID, uuid4

import pytest

from prefect_db import (
    Backend,
    ForeignKeyViolation,
    NotFound,
    Queryable,
    UniqueViolation,
    flow_runs,
    flows,
    states,
    task_runs,
)
from prefect_db.states import State, StateType
from prefect_db.task_runs import OfFlowRun, TaskRun, TaskRunFilter, TaskRunSort

NOON: Final = datetime(2030, 1, 1, 12, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


def numbered(number: int) -> UUID:
    return UUID(int=number)


@pytest.fixture
def flow_run_id(db: Backend) -> UUID:
    flow = flows.create(db, "etl", labels={"team": "x", "level": "flow"})
    return flow_runs.create(db, flow.id, labels={"level": "flow run"}).id


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    """Eight threads, which end before the database does: name it after `db`."""
    with ThreadPoolExecutor(8) as pool:
        yield pool


def stored(db: Queryable, run_id: UUID, columns: str) -> tuple[Any, ...]:
    row = db.row(f"SELECT {columns} FROM task_run WHERE id = ?", (run_id,))
    assert row is not None
    return tuple(row)


class TestCreate:
    def test_it_gives_what_was_stored(self, db: Backend, flow_run_id: UUID) -> None:
        created = task_runs.create(
            db, "load", "load-1", "0", flow_run_id=flow_run_id, state=states.pending()
        )
        assert task_runs.get(db, created.id) == created

    def test_it_stores_all_that_is_given(self, db: Backend, flow_run_id: UUID) -> None:
        given: dict[str, Any] = {
            "name": "load-dd4",
            "task_key": "load-0e28d32e",
            "dynamic_key": "7",
            "flow_run_id": flow_run_id,
            "id": uuid4(),
            "cache_key": "cache",
            "cache_expiration": at(0.5),
            "task_version": "v1",
            "task_inputs": {"a": [{"input_type": "task_run", "id": str(uuid4())}], "b": []},
            "tags": ["b", "a", "b"],
        }
        created = task_runs.create(db, **given)
        assert {name: getattr(created, name) for name in given} == given

    def test_it_stores_defaults_for_the_rest(self, db: Backend) -> None:
        run = task_runs.create(db, "load", "load-1", "0")
        assert run == TaskRun(
            id=run.id,
            created=run.created,
            updated=run.created,
            name="load",
            state_type=None,
            state_name=None,
            state_timestamp=None,
            state_id=None,
            run_count=0,
            expected_start_time=None,
            next_scheduled_start_time=None,
            start_time=None,
            end_time=None,
            total_run_time=timedelta(),
            flow_run_id=None,
            task_key="load-1",
            dynamic_key="0",
            cache_key=None,
            cache_expiration=None,
            task_version=None,
            flow_run_run_count=0,
            empirical_policy={
                "max_retries": 0,
                "retry_delay_seconds": 0.0,
                "retries": None,
                "retry_delay": None,
                "retry_jitter_factor": None,
            },
            task_inputs={},
            tags=[],
            labels={},
        )

    def test_the_row_has_the_forms_of_prefect(self, db: Backend, flow_run_id: UUID) -> None:
        run = task_runs.create(
            db,
            "lädt",
            "load-1",
            "0",
            flow_run_id=flow_run_id,
            cache_expiration=at(0),
            empirical_policy={"retries": 2, "retry_delay": [1, 2]},
            task_inputs={"input": [], "a": []},
            tags=["ü"],
        )
        columns = (
            "id, created, name, total_run_time, flow_run_id, cache_expiration, empirical_policy,"
            " task_inputs, tags, state_id, run_count"
        )
        assert stored(db, run.id, columns) == db.dialect.pick(
            sqlite=(
                str(run.id),
                f"{run.created:%Y-%m-%d %H:%M:%S.%f}",
                "lädt",
                "1970-01-01 00:00:00.000000",
                str(flow_run_id),
                "2030-01-01 12:00:00.000000",
                '{"max_retries": 0, "retry_delay_seconds": 0.0, "retries": 2,'
                ' "retry_delay": [1, 2], "retry_jitter_factor": null}',
                '{"input": [], "a": []}',
                '["\\u00fc"]',
                None,
                0,
            ),
            postgres=(
                run.id,
                run.created,
                "lädt",
                timedelta(),
                flow_run_id,
                at(0),
                '{"retries": 2, "max_retries": 0, "retry_delay": [1, 2],'
                ' "retry_delay_seconds": 0.0, "retry_jitter_factor": null}',
                '{"a": [], "input": []}',
                '["ü"]',
                None,
                0,
            ),
        )

    def test_labels_are_those_of_the_flow_run_its_id_and_the_given_ones(
        self, db: Backend, flow_run_id: UUID
    ) -> None:
        """Each of them over the one before; a flow run has those of its flow."""
        flow_run = flow_runs.get(db, flow_run_id)
        assert flow_run is not None
        labels = {"team": "y", "own": 1}
        run = task_runs.create(db, "load", "load-1", "0", flow_run_id=flow_run_id, labels=labels)
        assert run.labels == {
            "team": "y",
            "level": "flow run",
            "prefect.flow.id": str(flow_run.flow_id),
            "prefect.flow-run.id": str(flow_run_id),
            "own": 1,
        }

    def test_without_flow_run_there_are_only_the_given_labels(self, db: Backend) -> None:
        assert task_runs.create(db, "load", "load-1", "0", labels={"a": 1}).labels == {"a": 1}

    def test_a_flow_run_that_is_not_there_is_refused(self, db: Backend) -> None:
        with pytest.raises(ForeignKeyViolation):
            task_runs.create(db, "load", "load-1", "0", flow_run_id=uuid4())

    def test_the_id_of_another_run_is_refused(self, db: Backend, flow_run_id: UUID) -> None:
        first = task_runs.create(db, "load", "load-1", "0", flow_run_id=flow_run_id)
        with pytest.raises(UniqueViolation):
            task_runs.create(db, "load", "load-1", "1", flow_run_id=flow_run_id, id=first.id)


class TestNaturalKey:
    @pytest.fixture(params=["in a flow run", "without flow run"])
    def parent(self, request: pytest.FixtureRequest, flow_run_id: UUID) -> UUID | None:
        """The flow run of the test's task runs, or none."""
        return flow_run_id if request.param == "in a flow run" else None

    def test_a_key_that_is_there_gives_the_first_run_unchanged(
        self, db: Backend, parent: UUID | None
    ) -> None:
        first = task_runs.create(
            db, "load", "load-1", "0", flow_run_id=parent, tags=["a"], state=states.pending()
        )
        again = task_runs.create(
            db, "other", "load-1", "0", flow_run_id=parent, tags=["b"], id=uuid4()
        )
        assert again == first

    def test_a_key_that_is_there_enters_no_state(self, db: Backend, parent: UUID | None) -> None:
        for state in (states.pending(), states.running()):
            run = task_runs.create(db, "load", "load-1", "0", flow_run_id=parent, state=state)
        assert [each.type for each in task_runs.history(db, run.id)] == [StateType.PENDING]

    @pytest.mark.parametrize(("task_key", "dynamic_key"), [("load-2", "0"), ("load-1", "1")])
    def test_another_key_is_another_run(
        self, db: Backend, parent: UUID | None, task_key: str, dynamic_key: str
    ) -> None:
        first = task_runs.create(db, "load", "load-1", "0", flow_run_id=parent)
        other = task_runs.create(db, "load", task_key, dynamic_key, flow_run_id=parent)
        assert other.id != first.id

    def test_another_flow_run_is_another_run(self, db: Backend, flow_run_id: UUID) -> None:
        flow_run = flow_runs.get(db, flow_run_id)
        assert flow_run is not None
        second = flow_runs.create(db, flow_run.flow_id).id
        ids = {
            task_runs.create(db, "load", "load-1", "0", flow_run_id=parent).id
            for parent in (flow_run_id, second, None)
        }
        assert len(ids) == 3

    def test_threads_that_use_one_key_get_one_run(
        self, db: Backend, pool: ThreadPoolExecutor, flow_run_id: UUID
    ) -> None:
        def create(number: int) -> UUID:
            key = str(number // 8)
            return task_runs.create(
                db, "load", "load-1", key, flow_run_id=flow_run_id, state=states.pending()
            ).id

        ids = set(pool.map(create, range(80)))
        assert len(ids) == task_runs.count(db) == 10
        assert db.value("SELECT count(*) FROM task_run_state") == 10


class TestGet:
    def test_by_id(self, db: Backend) -> None:
        task_runs.create(db, "other", "other", "0")
        run = task_runs.create(db, "load", "load-1", "0")
        assert task_runs.get(db, run.id) == run

    def test_an_unknown_id_gives_none(self, db: Backend) -> None:
        task_runs.create(db, "load", "load-1", "0")
        assert task_runs.get(db, uuid4()) is None

    def test_for_update_gives_the_same(self, db: Backend) -> None:
        run = task_runs.create(db, "load", "load-1", "0")
        with db.transaction() as txn:
            assert task_runs.get(txn, run.id, for_update=True) == run


class TestFind:
    @pytest.fixture
    def sorted_runs(self, db: Backend) -> Backend:
        """Runs whose times are in different orders; of each time two are equal, and one NULL."""
        table: list[tuple[int, str, int | None, int | None, int | None]] = [
            # number, name, expected, next scheduled, end
            (1, "c", 1, None, 5),
            (2, "a", 20, 7, None),
            (3, "a", 3, 7, 9),
            (4, "b", None, 2, 9),
            (5, "d", 3, 1, 1),
        ]
        for number, name, *times in table:
            task_runs.create(db, name, "key", str(number), id=numbered(number))
            db.execute(
                "UPDATE task_run SET expected_start_time = ?, next_scheduled_start_time = ?,"
                " end_time = ? WHERE id = ?",
                (*[None if time is None else at(time) for time in times], numbered(number)),
            )
        return db

    @pytest.mark.parametrize(
        ("sort", "numbers"),
        [
            (TaskRunSort.ID_DESC, [5, 4, 3, 2, 1]),
            (TaskRunSort.EXPECTED_START_TIME_ASC, [4, 1, 3, 5, 2]),
            (TaskRunSort.EXPECTED_START_TIME_DESC, [2, 5, 3, 1, 4]),
            (TaskRunSort.NAME_ASC, [2, 3, 4, 1, 5]),
            (TaskRunSort.NAME_DESC, [5, 1, 4, 3, 2]),
            (TaskRunSort.NEXT_SCHEDULED_START_TIME_ASC, [1, 5, 4, 2, 3]),
            (TaskRunSort.END_TIME_DESC, [4, 3, 1, 5, 2]),
        ],
    )
    def test_sort(self, sorted_runs: Backend, sort: TaskRunSort, numbers: list[int]) -> None:
        assert [run.id.int for run in task_runs.find(sorted_runs, sort=sort)] == numbers

    def test_every_sort_is_tested(self) -> None:
        assert len(TaskRunSort) == 7

    def test_ids_descend_unless_said_otherwise(self, sorted_runs: Backend) -> None:
        assert [run.id.int for run in task_runs.find(sorted_runs)] == [5, 4, 3, 2, 1]

    @pytest.mark.parametrize(
        ("limit", "offset", "numbers"),
        [(2, 0, [5, 4]), (2, 3, [2, 1]), (0, 0, []), (2, 9, []), (None, 3, [2, 1])],
    )
    def test_a_page(
        self, sorted_runs: Backend, limit: int | None, offset: int, numbers: list[int]
    ) -> None:
        found = task_runs.find(sorted_runs, limit=limit, offset=offset)
        assert [run.id.int for run in found] == numbers

    def test_200_are_found_unless_said_otherwise(self, db: Backend) -> None:
        with db.transaction() as txn:
            for number in range(201):
                task_runs.create(txn, "load", "load-1", str(number))
        assert (len(task_runs.find(db)), task_runs.count(db)) == (200, 201)


class TestCountByState:
    def test_runs_are_counted_by_the_type_of_their_state(self, db: Backend) -> None:
        given: list[State | None] = [None, states.pending(), states.failed(), states.failed()]
        for number, state in enumerate(given):
            task_runs.create(db, "load", "load-1", str(number), state=state)
        assert task_runs.count_by_state(db) == {
            None: 1,
            StateType.PENDING: 1,
            StateType.FAILED: 2,
        }

    def test_only_those_of_the_filter(self, db: Backend, flow_run_id: UUID) -> None:
        task_runs.create(db, "load", "load-1", "0", state=states.pending())
        task_runs.create(db, "load", "load-1", "0", flow_run_id=flow_run_id, state=states.pending())
        filter = TaskRunFilter(flow_run_id=OfFlowRun(any_=[flow_run_id]))
        assert task_runs.count_by_state(db, filter) == {StateType.PENDING: 1}


class TestDelete:
    def test_its_states_go_with_it(self, db: Backend, flow_run_id: UUID) -> None:
        run = task_runs.create(
            db, "load", "load-1", "0", flow_run_id=flow_run_id, state=states.pending()
        )
        task_runs.delete(db, run.id)
        assert db.value("SELECT count(*) FROM task_run") == 0
        assert db.value("SELECT count(*) FROM task_run_state") == 0

    def test_its_flow_run_stays(self, db: Backend, flow_run_id: UUID) -> None:
        run = task_runs.create(db, "load", "load-1", "0", flow_run_id=flow_run_id)
        task_runs.delete(db, run.id)
        assert flow_runs.get(db, flow_run_id) is not None

    def test_a_subflow_run_stays_without_parent(self, db: Backend) -> None:
        run = task_runs.create(db, "sub", "sub", "0")
        flow_id = flows.create(db, "etl").id
        subflow = flow_runs.create(db, flow_id, parent_task_run_id=run.id)
        task_runs.delete(db, run.id)
        left = flow_runs.get(db, subflow.id)
        assert left is not None
        assert left.parent_task_run_id is None

    def test_other_runs_stay_with_their_states(self, db: Backend) -> None:
        other = task_runs.create(db, "load", "load-1", "0", state=states.pending())
        task_runs.delete(db, task_runs.create(db, "load", "load-1", "1").id)
        assert task_runs.get(db, other.id) == other
        assert len(task_runs.history(db, other.id)) == 1

    def test_a_missing_run_is_not_found(self, db: Backend) -> None:
        with pytest.raises(NotFound):
            task_runs.delete(db, uuid4())


def test_all_of_it_belongs_to_the_callers_transaction(db: Backend) -> None:
    run = task_runs.create(db, "load", "load-1", "0")
    with db.transaction() as txn:
        task_runs.create(txn, "load", "load-1", "1", state=states.pending())
        task_runs.set_state(txn, run.id, states.running())
        task_runs.delete(txn, run.id)
        txn.rollback()
    assert task_runs.find(db) == [run]
