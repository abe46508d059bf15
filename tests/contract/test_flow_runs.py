"""Flow runs: created once per idempotency key, sorted, changed, labelled and deleted."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from time import monotonic
from types import MappingProxyType
from typing import Any, Final
from uuid import UUID, uuid4

import pytest

from prefect_db import (
    Backend,
    BadValue,
    ForeignKeyViolation,
    NotFound,
    Queryable,
    UniqueViolation,
    UsageError,
    events,
    flow_runs,
    flows,
    logs,
    states,
    task_runs,
)
from prefect_db.filters import Among, AnyOf
from prefect_db.flow_runs import FlowRun, FlowRunFilter, FlowRunSort
from prefect_db.states import State, StateType

NOON: Final = datetime(2030, 1, 1, 12, tzinfo=UTC)
SLUG: Final = r"[a-z]+-[a-z]+"


def at(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


def numbered(number: int) -> UUID:
    return UUID(int=number)


@pytest.fixture
def flow_id(db: Backend) -> UUID:
    return flows.create(db, "etl").id


@pytest.fixture
def run(db: Backend, flow_id: UUID) -> FlowRun:
    """A run without a state."""
    return flow_runs.create(db, flow_id, name="run", labels={"a": 1, "b": 1})


def wait_until(met: Callable[[], bool]) -> None:
    deadline = monotonic() + 30
    while not met():
        assert monotonic() < deadline, "not met within 30 seconds"
        threading.Event().wait(0.005)


def waiting(db: Backend) -> int:
    """How many wait for a lock that another transaction holds."""
    if db.dialect.name == "sqlite":
        return db.stats().waiting
    return int(
        db.value(
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
    )


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    """Eight threads, which end before the database does: name it after `db`."""
    with ThreadPoolExecutor(8) as pool:
        yield pool


def stored(db: Queryable, run_id: UUID, columns: str) -> tuple[Any, ...]:
    row = db.row(f"SELECT {columns} FROM flow_run WHERE id = ?", (run_id,))
    assert row is not None
    return tuple(row)


class TestCreate:
    def test_it_gives_what_was_stored(self, db: Backend, flow_id: UUID) -> None:
        created = flow_runs.create(db, flow_id, state=states.pending(), parameters={"n": 2})
        assert flow_runs.get(db, created.id) == created

    @pytest.mark.parametrize(
        "given",
        [
            {"tuple": (1, 2), 1: "key", None: "null", "nested": {"list": [(3,), {}]}},
            {"enum": StateType.RUNNING, "text": "\u20ac e+ \\"},
            {"float": 1e23, "other": 1.5e300, "zero": -0.0, "small": 5e-324, "long": 2**70},
        ],
        ids=["what JSON has not", "enum and text", "numbers"],
    )
    def test_it_gives_json_as_it_will_be_read(
        self, db: Backend, flow_id: UUID, given: dict[Any, Any]
    ) -> None:
        created = flow_runs.create(
            db, flow_id, parameters=given, context=given, job_variables=given, tags=("a", "b")
        )
        assert flow_runs.get(db, created.id) == created
        assert repr(flow_runs.get(db, created.id)) == repr(created) or db.dialect.name != "sqlite"

    def test_it_gives_nothing_that_is_the_callers(self, db: Backend, flow_id: UUID) -> None:
        parameters: dict[str, Any] = {"list": []}
        created = flow_runs.create(db, flow_id, parameters=parameters)
        parameters["list"].append(1)
        assert created.parameters == {"list": []}

    def test_it_gives_times_in_utc(self, db: Backend, flow_id: UUID) -> None:
        there = timezone(timedelta(hours=3))
        state = replace(states.running(), timestamp=datetime(2026, 1, 1, 5, tzinfo=there))
        created = flow_runs.create(db, flow_id, state=state)
        assert created.start_time == datetime(2026, 1, 1, 2, tzinfo=UTC)
        assert created.start_time.tzinfo is UTC
        assert flow_runs.get(db, created.id) == created

    @pytest.mark.parametrize(
        "given",
        [
            {"flow_version": 5},
            {"deployment_version": b"1"},
            {"infrastructure_pid": 5},
            {"work_queue_name": 1.5},
            {"idempotency_key": 5},
            {"auto_scheduled": 1},
        ],
        ids=str,
    )
    def test_a_value_of_another_type_is_refused(
        self, db: Backend, flow_id: UUID, given: dict[str, Any]
    ) -> None:
        with pytest.raises(BadValue):
            flow_runs.create(db, flow_id, **given)
        assert flow_runs.count(db) == 0

    def test_it_stores_all_that_is_given(self, db: Backend, flow_id: UUID) -> None:
        parent = task_runs.create(db, "sub", "sub", "0")
        given: dict[str, Any] = {
            "name": "run",
            "id": uuid4(),
            "idempotency_key": "key",
            "parameters": {"n": 2, "deep": {"ü": [None, 1.5]}},
            "context": {"c": 1},
            "tags": ["b", "a", "b"],
            "flow_version": "v1",
            "parent_task_run_id": parent.id,
            "deployment_id": uuid4(),
            "deployment_version": "d1",
            "auto_scheduled": True,
            "infrastructure_pid": "pid",
            "work_queue_id": uuid4(),
            "work_queue_name": "queue",
            "created_by": {"id": str(uuid4()), "type": "AUTOMATION", "display_value": None},
            "job_variables": {"env": {"A": "1"}},
        }
        created = flow_runs.create(db, flow_id, **given)
        assert {name: getattr(created, name) for name in given} == given

    def test_it_stores_defaults_for_the_rest(self, db: Backend, flow_id: UUID) -> None:
        run = flow_runs.create(db, flow_id, name="run")
        assert run == FlowRun(
            id=run.id,
            created=run.created,
            updated=run.created,
            name="run",
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
            flow_id=flow_id,
            flow_version=None,
            deployment_id=None,
            deployment_version=None,
            parameters={},
            context={},
            empirical_policy={
                "max_retries": 0,
                "retry_delay_seconds": 0.0,
                "retries": None,
                "retry_delay": None,
                "pause_keys": [],
                "resuming": False,
                "retry_type": None,
            },
            tags=[],
            labels={"prefect.flow.id": str(flow_id)},
            idempotency_key=None,
            auto_scheduled=False,
            parent_task_run_id=None,
            infrastructure_document_id=None,
            infrastructure_pid=None,
            work_queue_id=None,
            work_queue_name=None,
            created_by=None,
            job_variables={},
        )

    def test_the_row_has_the_forms_of_prefect(self, db: Backend, flow_id: UUID) -> None:
        run = flow_runs.create(
            db,
            flow_id,
            name="rün",
            parameters={"name": "ü", "n": 2},
            empirical_policy={"retries": 0, "retry_delay": 0},
            tags=["x"],
            auto_scheduled=True,
            created_by={"type": "AUTOMATION"},
        )
        columns = (
            "id, created, name, total_run_time, flow_id, parameters, context, empirical_policy,"
            " tags, labels, auto_scheduled, created_by, state_id, run_count"
        )
        assert stored(db, run.id, columns) == db.dialect.pick(
            sqlite=(
                str(run.id),
                f"{run.created:%Y-%m-%d %H:%M:%S.%f}",
                "rün",
                "1970-01-01 00:00:00.000000",
                str(flow_id),
                '{"name": "\\u00fc", "n": 2}',
                "{}",
                '{"max_retries": 0, "retry_delay_seconds": 0.0, "retries": 0, "retry_delay": 0,'
                ' "pause_keys": [], "resuming": false, "retry_type": null}',
                '["x"]',
                f'{{"prefect.flow.id": "{flow_id}"}}',
                1,
                '{"id": null, "type": "AUTOMATION", "display_value": null}',
                None,
                0,
            ),
            postgres=(
                run.id,
                run.created,
                "rün",
                timedelta(),
                flow_id,
                '{"n": 2, "name": "ü"}',
                "{}",
                '{"retries": 0, "resuming": false, "pause_keys": [], "retry_type": null,'
                ' "max_retries": 0, "retry_delay": 0, "retry_delay_seconds": 0.0}',
                '["x"]',
                f'{{"prefect.flow.id": "{flow_id}"}}',
                True,
                '{"id": null, "type": "AUTOMATION", "display_value": null}',
                None,
                0,
            ),
        )

    def test_an_empty_idempotency_key_is_none_for_the_variables(
        self, db: Backend, flow_id: UUID
    ) -> None:
        assert flow_runs.create(db, flow_id, idempotency_key="").job_variables == {}
        assert flow_runs.create(db, flow_id, idempotency_key="k").job_variables is None

    def test_durations_are_stored_in_the_form_of_prefect(self, db: Backend, flow_id: UUID) -> None:
        run = flow_runs.create(db, flow_id, state=replace(states.running(), timestamp=NOON))
        day = timedelta(hours=25, microseconds=841)
        flow_runs.set_state(db, run.id, replace(states.completed(), timestamp=NOON + day))
        assert stored(db, run.id, "total_run_time, end_time") == db.dialect.pick(
            sqlite=("1970-01-02 01:00:00.000841", "2030-01-02 13:00:00.000841"),
            postgres=(day, NOON + day),
        )

    @pytest.mark.parametrize("name", [None, ""])
    def test_a_run_without_name_gets_one(
        self, db: Backend, flow_id: UUID, name: str | None
    ) -> None:
        assert re.fullmatch(SLUG, flow_runs.create(db, flow_id, name=name).name)

    def test_two_runs_may_have_one_name(self, db: Backend, flow_id: UUID) -> None:
        flow_runs.create(db, flow_id, name="run")
        flow_runs.create(db, flow_id, name="run")
        assert flow_runs.count(db) == 2

    def test_labels_are_those_of_the_flow_its_id_and_the_given_ones(self, db: Backend) -> None:
        """Each of them over the one before."""
        flow = flows.create(db, "labelled", labels={"a": "flow", "b": "flow", "c": "flow"})
        labels = {"b": "run", "prefect.flow.id": "run"}
        run = flow_runs.create(db, flow.id, labels=labels)
        assert run.labels == {"a": "flow", "b": "run", "c": "flow", "prefect.flow.id": "run"}

    @pytest.mark.only("sqlite", "jsonb has an order of its own")
    def test_labels_are_in_the_order_of_prefect(self, db: Backend) -> None:
        flow = flows.create(db, "labelled", labels={"z": 1, "prefect.flow.id": "flow"})
        run = flow_runs.create(db, flow.id, labels={"a": 2})
        assert stored(db, run.id, "labels") == (
            f'{{"z": 1, "prefect.flow.id": "{flow.id}", "a": 2}}',
        )

    def test_a_policys_pause_keys_may_be_a_set(self, db: Backend, flow_id: UUID) -> None:
        run = flow_runs.create(db, flow_id, empirical_policy={"pause_keys": {"b", "a"}})
        assert run.empirical_policy["pause_keys"] == ["a", "b"]

    @pytest.mark.parametrize(
        ("key", "given", "expected"),
        [
            (None, None, "{}"),
            ("key", None, None),
            (None, {}, "{}"),
            ("key", {}, "{}"),
            ("key", {"a": 1}, '{"a": 1}'),
        ],
    )
    def test_missing_job_variables_are_empty_or_with_a_key_null(
        self, db: Backend, flow_id: UUID, key: str | None, given: Any, expected: str | None
    ) -> None:
        """Prefect's two ways of inserting differ in what they make of none."""
        run = flow_runs.create(db, flow_id, idempotency_key=key, job_variables=given)
        assert stored(db, run.id, "job_variables") == (expected,)

    def test_a_flow_that_is_not_there_is_refused(self, db: Backend) -> None:
        with pytest.raises(ForeignKeyViolation):
            flow_runs.create(db, uuid4())

    def test_a_parent_that_is_not_there_is_refused(self, db: Backend, flow_id: UUID) -> None:
        with pytest.raises(ForeignKeyViolation):
            flow_runs.create(db, flow_id, parent_task_run_id=uuid4())

    def test_an_infrastructure_document_that_is_not_there_is_refused(
        self, db: Backend, flow_id: UUID
    ) -> None:
        with pytest.raises(ForeignKeyViolation):
            flow_runs.create(db, flow_id, infrastructure_document_id=uuid4())

    def test_the_id_of_another_run_is_refused(self, db: Backend, run: FlowRun) -> None:
        with pytest.raises(UniqueViolation):
            flow_runs.create(db, run.flow_id, id=run.id)


class TestIdempotencyKey:
    def test_a_key_that_is_there_gives_the_first_run_unchanged(
        self, db: Backend, flow_id: UUID
    ) -> None:
        first = flow_runs.create(db, flow_id, idempotency_key="key", state=states.pending())
        again = flow_runs.create(
            db, flow_id, idempotency_key="key", name="other", parameters={"n": 1}
        )
        assert again == first

    def test_a_key_that_is_there_enters_no_state(self, db: Backend, flow_id: UUID) -> None:
        first = flow_runs.create(db, flow_id, idempotency_key="key", state=states.pending())
        flow_runs.create(db, flow_id, idempotency_key="key", state=states.running())
        assert [each.type for each in flow_runs.history(db, first.id)] == [StateType.PENDING]

    def test_another_flow_may_have_the_key(self, db: Backend, flow_id: UUID) -> None:
        first = flow_runs.create(db, flow_id, idempotency_key="key")
        other = flow_runs.create(db, flows.create(db, "other").id, idempotency_key="key")
        assert other.id != first.id

    def test_an_empty_key_is_a_key(self, db: Backend, flow_id: UUID) -> None:
        first = flow_runs.create(db, flow_id, idempotency_key="")
        assert flow_runs.create(db, flow_id, idempotency_key="") == first

    def test_runs_without_key_are_all_new(self, db: Backend, flow_id: UUID) -> None:
        assert flow_runs.create(db, flow_id).id != flow_runs.create(db, flow_id).id

    def test_threads_that_use_one_key_get_one_run(
        self, db: Backend, pool: ThreadPoolExecutor, flow_id: UUID
    ) -> None:
        def create(number: int) -> UUID:
            key = f"key-{number // 8}"
            return flow_runs.create(db, flow_id, idempotency_key=key, state=states.pending()).id

        ids = set(pool.map(create, range(80)))
        assert len(ids) == flow_runs.count(db) == 10
        assert db.value("SELECT count(*) FROM flow_run_state") == 10


class TestGet:
    def test_by_id(self, db: Backend, run: FlowRun) -> None:
        flow_runs.create(db, run.flow_id)
        assert flow_runs.get(db, run.id) == run

    def test_an_unknown_id_gives_none(self, db: Backend, run: FlowRun) -> None:
        assert flow_runs.get(db, uuid4()) is None

    def test_for_update_gives_the_same(self, db: Backend, run: FlowRun) -> None:
        with db.transaction() as txn:
            assert flow_runs.get(txn, run.id, for_update=True) == run

    def test_for_update_makes_others_wait(
        self, db: Backend, pool: ThreadPoolExecutor, run: FlowRun
    ) -> None:
        with db.transaction() as txn:
            flow_runs.get(txn, run.id, for_update=True)
            waiter = pool.submit(flow_runs.merge_labels, db, run.id, {"c": 1})
            wait_until(lambda: waiter.done() or waiting(db) > 0)
            flow_runs.update(txn, run.id, name="changed first")
        assert waiter.result().name == "changed first"


class TestFind:
    @pytest.fixture
    def sorted_runs(self, db: Backend, flow_id: UUID) -> Backend:
        """Runs whose times are in different orders; of each time two are equal, and one NULL."""
        table: list[tuple[int, str, int | None, int | None, int | None, int | None]] = [
            # number, name, start, expected, next scheduled, end
            (1, "c", 10, 1, None, 5),
            (2, "a", None, 20, 7, None),
            (3, "a", 5, 3, 7, 9),
            (4, "b", None, None, 2, 9),
            (5, "d", 5, 3, 1, 1),
        ]
        for number, name, *times in table:
            flow_runs.create(db, flow_id, id=numbered(number), name=name)
            db.execute(
                "UPDATE flow_run SET start_time = ?, expected_start_time = ?,"
                " next_scheduled_start_time = ?, end_time = ? WHERE id = ?",
                (*[None if time is None else at(time) for time in times], numbered(number)),
            )
        return db

    @pytest.mark.parametrize(
        ("sort", "numbers"),
        [
            (FlowRunSort.ID_DESC, [5, 4, 3, 2, 1]),
            # A run that has not started sorts by when it is expected to: 2 at 20.
            (FlowRunSort.START_TIME_ASC, [4, 3, 5, 1, 2]),
            (FlowRunSort.START_TIME_DESC, [2, 1, 5, 3, 4]),
            (FlowRunSort.EXPECTED_START_TIME_ASC, [4, 1, 3, 5, 2]),
            (FlowRunSort.EXPECTED_START_TIME_DESC, [2, 5, 3, 1, 4]),
            (FlowRunSort.NAME_ASC, [2, 3, 4, 1, 5]),
            (FlowRunSort.NAME_DESC, [5, 1, 4, 3, 2]),
            (FlowRunSort.NEXT_SCHEDULED_START_TIME_ASC, [1, 5, 4, 2, 3]),
            (FlowRunSort.END_TIME_DESC, [4, 3, 1, 5, 2]),
        ],
    )
    def test_sort(self, sorted_runs: Backend, sort: FlowRunSort, numbers: list[int]) -> None:
        assert [run.id.int for run in flow_runs.find(sorted_runs, sort=sort)] == numbers

    def test_every_sort_is_tested(self) -> None:
        assert len(FlowRunSort) == 9

    def test_ids_descend_unless_said_otherwise(self, sorted_runs: Backend) -> None:
        assert [run.id.int for run in flow_runs.find(sorted_runs)] == [5, 4, 3, 2, 1]

    @pytest.mark.parametrize(
        ("limit", "offset", "numbers"),
        [(2, 0, [5, 4]), (2, 3, [2, 1]), (0, 0, []), (2, 9, []), (None, 3, [2, 1])],
    )
    def test_a_page(
        self, sorted_runs: Backend, limit: int | None, offset: int, numbers: list[int]
    ) -> None:
        found = flow_runs.find(sorted_runs, limit=limit, offset=offset)
        assert [run.id.int for run in found] == numbers

    def test_pages_visit_each_run_once(self, sorted_runs: Backend) -> None:
        sort = FlowRunSort.END_TIME_DESC
        pages = [
            flow_runs.find(sorted_runs, sort=sort, limit=1, offset=offset) for offset in range(5)
        ]
        assert [run.id.int for page in pages for run in page] == [4, 3, 1, 5, 2]

    def test_200_are_found_unless_said_otherwise(self, db: Backend, flow_id: UUID) -> None:
        with db.transaction() as txn:
            for _ in range(201):
                flow_runs.create(txn, flow_id)
        assert (len(flow_runs.find(db)), flow_runs.count(db)) == (200, 201)


class TestCountByState:
    def test_runs_are_counted_by_the_type_of_their_state(self, db: Backend, flow_id: UUID) -> None:
        given: list[State | None] = [None, states.pending(), states.failed(), states.failed()]
        for state in given:
            flow_runs.create(db, flow_id, state=state)
        assert flow_runs.count_by_state(db) == {
            None: 1,
            StateType.PENDING: 1,
            StateType.FAILED: 2,
        }

    def test_only_those_of_the_filter(self, db: Backend, flow_id: UUID) -> None:
        flow_runs.create(db, flow_id, state=states.pending())
        other = flows.create(db, "other").id
        flow_runs.create(db, other, state=states.pending())
        filter = FlowRunFilter(flow_id=AnyOf(any_=[other]))
        assert flow_runs.count_by_state(db, filter) == {StateType.PENDING: 1}

    def test_no_runs_give_no_counts(self, db: Backend) -> None:
        assert flow_runs.count_by_state(db) == {}


class TestUpdate:
    CHANGES: Final[dict[str, Any]] = {
        "name": "changed",
        "flow_version": "v2",
        "parameters": {"n": 3},
        "tags": ["b", "a"],
        "infrastructure_pid": "pid",
        "job_variables": {"a": 1},
    }

    def test_it_gives_what_is_stored_now(self, db: Backend, run: FlowRun) -> None:
        changed = flow_runs.update(db, run.id, name="changed")
        assert flow_runs.get(db, run.id) == changed

    @pytest.mark.parametrize("column", CHANGES)
    def test_one_column_changes_and_the_rest_stays(
        self, db: Backend, run: FlowRun, column: str
    ) -> None:
        change: Any = {column: self.CHANGES[column]}
        changed = flow_runs.update(db, run.id, **change)
        assert changed == replace(run, updated=changed.updated, **change)

    @pytest.mark.parametrize("column", ["flow_version", "infrastructure_pid", "job_variables"])
    def test_a_column_that_may_be_null_can_be_emptied(
        self, db: Backend, flow_id: UUID, column: str
    ) -> None:
        given: Any = {column: self.CHANGES[column]}
        run = flow_runs.create(db, flow_id, **given)
        nothing: Any = {column: None}
        assert getattr(flow_runs.update(db, run.id, **nothing), column) is None

    @pytest.mark.parametrize("column", ["parameters", "job_variables", "empirical_policy"])
    def test_any_mapping_will_do(self, db: Backend, run: FlowRun, column: str) -> None:
        change: Any = {column: MappingProxyType({"retries": 2})}
        changed = flow_runs.update(db, run.id, **change)
        assert getattr(changed, column)["retries"] == 2

    def test_a_policy_is_completed(self, db: Backend, run: FlowRun) -> None:
        changed = flow_runs.update(db, run.id, empirical_policy={"retries": 2})
        assert changed.empirical_policy == {**run.empirical_policy, "retries": 2}

    @pytest.mark.parametrize("name", [None, ""])
    def test_a_run_that_loses_its_name_gets_another(
        self, db: Backend, run: FlowRun, name: str | None
    ) -> None:
        changed = flow_runs.update(db, run.id, name=name)
        assert re.fullmatch(SLUG, changed.name)
        assert changed.name != run.name

    def test_other_runs_stay(self, db: Backend, run: FlowRun) -> None:
        other = flow_runs.create(db, run.flow_id)
        flow_runs.update(db, run.id, name="changed")
        assert flow_runs.get(db, other.id) == other

    def test_nothing_to_change_still_counts_as_an_update(self, db: Backend, run: FlowRun) -> None:
        db.execute("UPDATE flow_run SET updated = ?", (NOON,))
        assert flow_runs.update(db, run.id).updated != NOON

    def test_updated_is_the_databases_clock(self, db: Backend, run: FlowRun) -> None:
        with db.transaction() as txn:
            updated = flow_runs.update(txn, run.id, name="changed").updated
            now = txn.value("SELECT CURRENT_TIMESTAMP")
        assert db.dialect.pick(sqlite=updated.microsecond % 1000 == 0, postgres=updated == now)
        assert abs(updated - run.updated) < timedelta(minutes=1)

    @pytest.mark.parametrize(
        "column", ["id", "created", "state_type", "run_count", "flow_id", "labels", "no_column"]
    )
    def test_any_other_column_is_refused(self, db: Backend, run: FlowRun, column: str) -> None:
        change: Any = {"name": "changed", column: None}
        with pytest.raises(UsageError, match=f"{column} cannot be changed; name, flow_version"):
            flow_runs.update(db, run.id, **change)
        assert flow_runs.get(db, run.id) == run

    def test_sql_in_a_columns_name_is_refused(self, db: Backend, run: FlowRun) -> None:
        change: Any = {"name = 'x', tags": ["a"]}
        with pytest.raises(UsageError):
            flow_runs.update(db, run.id, **change)

    def test_a_missing_run_is_not_found(self, db: Backend) -> None:
        with pytest.raises(NotFound):
            flow_runs.update(db, uuid4(), name="changed")


class TestMergeLabels:
    def test_new_labels_win(self, db: Backend, run: FlowRun) -> None:
        merged = flow_runs.merge_labels(db, run.id, {"b": 2, "c": 2})
        assert merged.labels == {"prefect.flow.id": str(run.flow_id), "a": 1, "b": 2, "c": 2}

    def test_it_gives_what_is_stored_now(self, db: Backend, run: FlowRun) -> None:
        merged = flow_runs.merge_labels(db, run.id, {"c": 2})
        assert flow_runs.get(db, run.id) == merged

    def test_the_rest_stays(self, db: Backend, run: FlowRun) -> None:
        merged = flow_runs.merge_labels(db, run.id, {})
        assert merged == replace(run, updated=merged.updated)

    def test_a_run_without_labels_gets_them(self, db: Backend, run: FlowRun) -> None:
        db.execute("UPDATE flow_run SET labels = NULL")
        assert flow_runs.merge_labels(db, run.id, {"a": 1}).labels == {"a": 1}

    def test_threads_lose_no_label(
        self, db: Backend, pool: ThreadPoolExecutor, run: FlowRun
    ) -> None:
        list(pool.map(lambda n: flow_runs.merge_labels(db, run.id, {f"n{n}": n}), range(80)))
        merged = flow_runs.get(db, run.id)
        assert merged is not None
        assert merged.labels is not None
        assert {f"n{n}" for n in range(80)} <= set(merged.labels)

    def test_a_missing_run_is_not_found(self, db: Backend) -> None:
        with pytest.raises(NotFound):
            flow_runs.merge_labels(db, uuid4(), {"a": 1})


def table_sizes(db: Queryable) -> dict[str, int]:
    tables = (
        "flow flow_run flow_run_state task_run task_run_state artifact log events event_resources"
    ).split()
    return {table: int(db.value(f"SELECT count(*) FROM {table}")) for table in tables}


class TestDelete:
    @pytest.fixture
    def full(self, db: Backend, flow_id: UUID) -> FlowRun:
        """A run with states, a task run, a subflow run, an artifact, a log line and an event."""
        run = flow_runs.create(db, flow_id, state=states.completed(data={"a": 1}))
        flow_runs.set_state(db, run.id, states.running())
        task = task_runs.create(
            db, "sub", "sub", "0", flow_run_id=run.id, state=states.completed(data={"a": 1})
        )
        flow_runs.create(db, flow_id, name="subflow", parent_task_run_id=task.id)
        logs.write(db, [logs.make("run", 20, "text", NOON, flow_run_id=run.id)])
        resource = {"prefect.resource.id": f"prefect.flow-run.{run.id}"}
        events.write(db, [events.make("prefect.flow-run.Completed", resource)])
        return run

    def test_states_and_task_runs_go_with_it_and_the_rest_stays(
        self, db: Backend, full: FlowRun
    ) -> None:
        before = table_sizes(db)
        flow_runs.delete(db, full.id)
        assert table_sizes(db) == before | {
            "flow_run": 1,
            "flow_run_state": 0,
            "task_run": 0,
            "task_run_state": 0,
        }

    def test_a_subflow_run_stays_without_parent(self, db: Backend, full: FlowRun) -> None:
        flow_runs.delete(db, full.id)
        (subflow,) = flow_runs.find(db)
        assert (subflow.name, subflow.parent_task_run_id) == ("subflow", None)

    def test_other_runs_stay_with_their_states(self, db: Backend, full: FlowRun) -> None:
        other = flow_runs.create(db, full.flow_id, state=states.pending())
        flow_runs.delete(db, full.id)
        assert flow_runs.get(db, other.id) == other
        assert len(flow_runs.history(db, other.id)) == 1

    def test_a_missing_run_is_not_found(self, db: Backend) -> None:
        with pytest.raises(NotFound):
            flow_runs.delete(db, uuid4())


def test_all_of_it_belongs_to_the_callers_transaction(db: Backend, run: FlowRun) -> None:
    with db.transaction() as txn:
        flow_runs.create(txn, run.flow_id, state=states.pending())
        flow_runs.update(txn, run.id, name="changed")
        flow_runs.merge_labels(txn, run.id, {"c": 1})
        flow_runs.set_state(txn, run.id, states.running())
        flow_runs.delete(txn, run.id)
        txn.rollback()
    assert flow_runs.find(db) == [run]
    assert flow_runs.history(db, run.id) == []


def test_states_are_read_by_id(db: Backend) -> None:
    run = flow_runs.create(db, flows.create(db, "etl").id, state=states.pending())
    state = flow_runs.set_state(db, run.id, states.completed(data={"n": 1}))
    assert run.state_id is not None
    found = flow_runs.get_states(db, [run.state_id, state.id, uuid4()])
    assert [found[id] for id in (run.state_id, state.id)] == flow_runs.history(db, run.id)
    assert len(found) == 2
    assert flow_runs.get_states(db, []) == {}
    with pytest.raises(BadValue):
        flow_runs.get_states(db, ["x"])  # type: ignore[list-item]


def test_a_filter_may_be_of_a_subclass(db: Backend, flow_id: UUID) -> None:
    class Mine(FlowRunFilter):
        pass

    run = flow_runs.create(db, flow_id)
    assert flow_runs.find(db, Mine(id=Among(any_=[run.id]))) == [run]
