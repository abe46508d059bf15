"""`set_state` on flow runs and task runs: the state's row, and every column that follows from it.

The rules are those of Prefect's global policies; `Model` repeats them as plain statements.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime, timedelta
from time import monotonic
from typing import Any, Final, Literal, TypeVar
from uuid import UUID, uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prefect_db import (
    Backend,
    BadValue,
    NotFound,
    Queryable,
    UniqueViolation,
    flow_runs,
    flows,
    states,
    task_runs,
)
from prefect_db.states import State, StateType

T = TypeVar("T")
Kind = Literal["flow_run", "task_run"]
Details = dict[str, Any]

NOON: Final = datetime(2030, 1, 1, 12, tzinfo=UTC)
SHARED_DATABASE: Final = settings(
    deadline=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

SCHEDULED, PENDING, RUNNING, COMPLETED, FAILED, CANCELLED, CRASHED, PAUSED, CANCELLING = StateType


def at(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


@pytest.fixture(params=["flow_run", "task_run"])
def kind(request: pytest.FixtureRequest) -> Kind:
    """What the test is about: a flow run or a task run."""
    chosen: Kind = request.param
    return chosen


def new_run(db: Queryable, kind: Kind, *, state: State | None = None, **policy: Any) -> UUID:
    flow_id = flows.create(db, "etl").id
    if kind == "flow_run":
        return flow_runs.create(db, flow_id, state=state, empirical_policy=policy).id
    flow_run = flow_runs.create(db, flow_id)
    return task_runs.create(
        db, "load", "load-1", "0", flow_run_id=flow_run.id, state=state, empirical_policy=policy
    ).id


def set_state(db: Queryable, kind: Kind, run_id: UUID, state: State) -> State:
    change = flow_runs.set_state if kind == "flow_run" else task_runs.set_state
    return change(db, run_id, state)


def get(db: Queryable, kind: Kind, run_id: UUID) -> Any:
    run: Any = flow_runs.get(db, run_id) if kind == "flow_run" else task_runs.get(db, run_id)
    assert run is not None
    return run


def history(db: Queryable, kind: Kind, run_id: UUID) -> list[State]:
    if kind == "flow_run":
        return flow_runs.history(db, run_id)
    return task_runs.history(db, run_id)


def state(type: StateType, seconds: float, *, due: float | None = None, **given: Any) -> State:
    """A state at so many seconds after noon; a scheduled one is due a minute later, or `due`."""
    details: Details = given.pop("details", {})
    if type is SCHEDULED:
        details = {"scheduled_time": at(seconds + 60 if due is None else due), **details}
    return replace(states.make(type, details=details, **given), timestamp=at(seconds))


@dataclass
class Model:
    """A run's columns, and what entering a state makes of them."""

    state_id: UUID | None = None
    state_type: StateType | None = None
    state_name: str | None = None
    state_timestamp: datetime | None = None
    run_count: int = 0
    expected_start_time: datetime | None = None
    next_scheduled_start_time: datetime | None = None
    start_time: datetime | None = None
    end_time: datetime | None = None
    total_run_time: timedelta = timedelta()

    def enter(self, prop: State) -> None:
        prev, prev_timestamp = self.state_type, self.state_timestamp
        terminal = ("COMPLETED", "FAILED", "CANCELLED", "CRASHED")
        due = None
        if prop.type == "SCHEDULED":
            due = datetime.fromisoformat(prop.state_details["scheduled_time"])

        if prop.type == "RUNNING" and self.start_time is None:
            self.start_time = prop.timestamp

        if prev in terminal and prop.type not in terminal:
            self.end_time = None
        if prop.type in terminal and self.end_time is None:
            self.end_time = prop.timestamp
            if self.start_time is None:
                self.start_time = prop.timestamp

        if prev == "RUNNING":
            assert prev_timestamp is not None
            self.total_run_time += prop.timestamp - prev_timestamp

        if self.expected_start_time is None:
            self.expected_start_time = due if prop.type == "SCHEDULED" else prop.timestamp

        if prev == "SCHEDULED":
            self.next_scheduled_start_time = None
        if prop.type == "SCHEDULED":
            self.next_scheduled_start_time = due

        if prop.type == "RUNNING":
            self.run_count += 1

        self.state_type = prop.type
        self.state_name = prop.name
        self.state_timestamp = prop.timestamp
        self.state_id = prop.id


def columns(run: Any) -> Model:
    return Model(**{field.name: getattr(run, field.name) for field in fields(Model)})


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


# What each column is after a run went through the states, in seconds after noon. A state is
# (type, seconds), and a scheduled one (type, seconds, due).
Steps = list[tuple[StateType, float] | tuple[StateType, float, float]]
NOTHING: Final[Details] = {"start": None, "end": None, "next": None, "total": 0, "count": 0}

MATRIX: Final[list[tuple[str, Steps, Details]]] = [
    ("scheduled", [(SCHEDULED, 0, 60)], {"expected": 60, "next": 60}),
    ("due in the past", [(SCHEDULED, 0, -60)], {"expected": -60, "next": -60}),
    ("pending", [(PENDING, 0)], {"expected": 0}),
    ("running", [(RUNNING, 0)], {"expected": 0, "start": 0, "count": 1}),
    ("completed at once", [(COMPLETED, 0)], {"expected": 0, "start": 0, "end": 0}),
    ("failed at once", [(FAILED, 0)], {"expected": 0, "start": 0, "end": 0}),
    ("cancelled at once", [(CANCELLED, 0)], {"expected": 0, "start": 0, "end": 0}),
    ("crashed at once", [(CRASHED, 0)], {"expected": 0, "start": 0, "end": 0}),
    ("paused", [(PAUSED, 0)], {"expected": 0}),
    ("cancelling", [(CANCELLING, 0)], {"expected": 0}),
    (
        "the usual way",
        [(PENDING, 0), (RUNNING, 1), (COMPLETED, 5)],
        {"expected": 0, "start": 1, "end": 5, "total": 4, "count": 1},
    ),
    (
        "as scheduled",
        [(SCHEDULED, 0, 60), (PENDING, 61), (RUNNING, 62)],
        {"expected": 60, "start": 62, "count": 1},
    ),
    ("leaving scheduled", [(SCHEDULED, 0, 60), (PENDING, 61)], {"expected": 60}),
    ("scheduled again", [(SCHEDULED, 0, 60), (SCHEDULED, 10, 90)], {"expected": 60, "next": 90}),
    ("scheduled later", [(PENDING, 0), (SCHEDULED, 1, 60)], {"expected": 0, "next": 60}),
    (
        "cancelled before its time",
        [(SCHEDULED, 0, 60), (CANCELLED, 5)],
        {"expected": 60, "start": 5, "end": 5},
    ),
    (
        "running twice",
        [(RUNNING, 0), (RUNNING, 3)],
        {"expected": 0, "start": 0, "total": 3, "count": 2},
    ),
    (
        "paused while running",
        [(RUNNING, 0), (PAUSED, 5), (RUNNING, 50), (COMPLETED, 52)],
        {"expected": 0, "start": 0, "end": 52, "total": 7, "count": 2},
    ),
    (
        "cancelled while running",
        [(RUNNING, 0), (CANCELLING, 5), (CANCELLED, 6)],
        {"expected": 0, "start": 0, "end": 6, "total": 5, "count": 1},
    ),
    (
        "awaiting a retry",
        [(RUNNING, 0), (FAILED, 5), (SCHEDULED, 6, 15)],
        {"expected": 0, "start": 0, "next": 15, "total": 5, "count": 1},
    ),
    (
        "retried",
        [(RUNNING, 0), (FAILED, 5), (SCHEDULED, 6, 15), (RUNNING, 16), (COMPLETED, 20)],
        {"expected": 0, "start": 0, "end": 20, "total": 9, "count": 2},
    ),
    (
        "terminal after terminal",
        [(RUNNING, 0), (COMPLETED, 5), (FAILED, 9)],
        {"expected": 0, "start": 0, "end": 5, "total": 5, "count": 1},
    ),
    (
        "terminal, left, terminal",
        [(FAILED, 5), (PENDING, 6), (CRASHED, 9)],
        {"expected": 5, "start": 5, "end": 9},
    ),
    (
        "running after the end",
        [(COMPLETED, 0), (RUNNING, 5)],
        {"expected": 0, "start": 0, "count": 1},
    ),
    (
        "an older state",
        [(RUNNING, 10), (COMPLETED, 4)],
        {"expected": 10, "start": 10, "end": 4, "total": -6, "count": 1},
    ),
]


@pytest.mark.parametrize(
    ("steps", "expected"), [pytest.param(*row[1:], id=row[0]) for row in MATRIX]
)
def test_columns_follow_from_the_states(
    db: Backend, kind: Kind, steps: Steps, expected: Details
) -> None:
    run_id = new_run(db, kind)
    for type, seconds, *due in steps:
        last = set_state(db, kind, run_id, state(type, seconds, due=due[0] if due else None))
    expected = {**NOTHING, **expected}

    def moment(name: str) -> datetime | None:
        return None if expected[name] is None else at(expected[name])

    assert columns(get(db, kind, run_id)) == Model(
        state_id=last.id,
        state_type=steps[-1][0],
        state_name=steps[-1][0].capitalize(),
        state_timestamp=at(steps[-1][1]),
        run_count=expected["count"],
        expected_start_time=moment("expected"),
        next_scheduled_start_time=moment("next"),
        start_time=moment("start"),
        end_time=moment("end"),
        total_run_time=timedelta(seconds=expected["total"]),
    )


# Few different times, so that many are taken or older: type, seconds, microseconds, due.
SEQUENCES: Final = st.lists(
    st.tuples(
        st.sampled_from(StateType), st.integers(-3, 3), st.integers(0, 2), st.integers(-3, 100)
    ),
    min_size=1,
    max_size=8,
)
Sequence = list[tuple[StateType, int, int, int]]


def states_of(sequence: Sequence) -> Iterator[State]:
    for type, seconds, microseconds, due in sequence:
        yield state(type, seconds + microseconds / 1e6, due=due)


def moved(timestamp: datetime, taken: set[datetime]) -> datetime:
    while timestamp in taken:
        timestamp += timedelta(microseconds=1)
    return timestamp


@SHARED_DATABASE
@given(sequence=SEQUENCES)
def test_any_sequence_of_states_leaves_what_the_rules_say(
    db: Backend, kind: Kind, sequence: Sequence
) -> None:
    run_id = new_run(db, kind)
    model = Model()
    times: set[datetime] = set()
    for proposed in states_of(sequence):
        stored = set_state(db, kind, run_id, proposed)
        assert stored.timestamp == moved(proposed.timestamp, times)
        times.add(stored.timestamp)
        model.enter(stored)
        assert columns(get(db, kind, run_id)) == model
    assert [each.timestamp for each in history(db, kind, run_id)] == sorted(times)


@SHARED_DATABASE
@given(sequence=SEQUENCES)
def test_any_sequence_of_a_subflows_states_is_that_of_its_task_run(
    db: Backend, sequence: Sequence
) -> None:
    parent_id = new_run(db, "task_run")
    flow_id = flows.create(db, "etl").id
    subflow = flow_runs.create(db, flow_id, parent_task_run_id=parent_id)
    given = list(states_of(sequence))
    for proposed in given:
        flow_runs.set_state(db, subflow.id, proposed)
    assert [each.type for each in task_runs.history(db, parent_id)] == [each.type for each in given]


def test_a_state_given_to_create_is_one_that_the_run_enters(db: Backend, kind: Kind) -> None:
    first = state(SCHEDULED, 0, due=60)
    run_id = new_run(db, kind, state=first)
    model = Model()
    model.enter(first)
    assert columns(get(db, kind, run_id)) == model


def test_a_run_created_with_a_state_has_it_as_its_history(db: Backend, kind: Kind) -> None:
    first = state(PENDING, 0)
    run_id = new_run(db, kind, state=first)
    assert [each.id for each in history(db, kind, run_id)] == [first.id]


def test_a_run_created_without_state_has_no_history(db: Backend, kind: Kind) -> None:
    assert history(db, kind, new_run(db, kind)) == []


def test_a_run_that_is_not_there_has_no_history(db: Backend, kind: Kind) -> None:
    assert history(db, kind, uuid4()) == []


def test_history_is_sorted_by_time_not_by_order_of_entry(db: Backend, kind: Kind) -> None:
    run_id = new_run(db, kind)
    for seconds in (5, 1, 3):
        set_state(db, kind, run_id, state(PENDING, seconds))
    assert [each.timestamp for each in history(db, kind, run_id)] == [at(1), at(3), at(5)]


def test_history_gives_states_as_they_were_set(db: Backend, kind: Kind) -> None:
    run_id = new_run(db, kind)
    given = state(
        FAILED,
        1.5,
        name="TimedOut",
        message="too slow: ü ✓",
        data={"a": 1},
        details={"retriable": False},
    )
    stored = set_state(db, kind, run_id, given)
    assert history(db, kind, run_id) == [stored]
    assert stored == replace(given, state_details=stored.state_details)


def test_a_missing_run_is_not_found(db: Backend, kind: Kind) -> None:
    with pytest.raises(NotFound):
        set_state(db, kind, uuid4(), state(RUNNING, 0))


def test_a_time_that_is_taken_is_moved_to_the_next_free_microsecond(
    db: Backend, kind: Kind
) -> None:
    run_id = new_run(db, kind)
    set_state(db, kind, run_id, state(PENDING, 0))
    set_state(db, kind, run_id, state(PENDING, 0.000001))
    stored = set_state(db, kind, run_id, state(RUNNING, 0))
    assert stored.timestamp == NOON + timedelta(microseconds=2)


def test_columns_follow_the_time_as_moved(db: Backend, kind: Kind) -> None:
    run_id = new_run(db, kind)
    set_state(db, kind, run_id, state(PENDING, 0))
    set_state(db, kind, run_id, state(RUNNING, 0))
    run = get(db, kind, run_id)
    assert run.start_time == run.state_timestamp == NOON + timedelta(microseconds=1)


def test_the_time_of_another_runs_state_is_free(db: Backend, kind: Kind) -> None:
    set_state(db, kind, new_run(db, kind), state(PENDING, 0))
    other = flow_runs.create(db, flows.create(db, "other").id).id
    if kind == "task_run":
        other = task_runs.create(db, "other", "other", "0", flow_run_id=other).id
    assert set_state(db, kind, other, state(PENDING, 0)).timestamp == NOON


def test_a_scheduled_state_without_time_is_due_now(db: Backend, kind: Kind) -> None:
    run_id = new_run(db, kind)
    stored = set_state(db, kind, run_id, states.scheduled())
    assert get(db, kind, run_id).next_scheduled_start_time == stored.timestamp


def test_updated_is_the_databases_clock(db: Backend, kind: Kind) -> None:
    run_id = new_run(db, kind)
    with db.transaction() as txn:
        set_state(txn, kind, run_id, state(PENDING, 0))
        text, now = txn.rows(
            txn.dialect.pick(
                sqlite=f"SELECT substr(updated, 24), '000' FROM {kind} WHERE id = ?",
                postgres=f"SELECT updated, CURRENT_TIMESTAMP FROM {kind} WHERE id = ?",
            ),
            (run_id,),
        )[0]
    assert text == now


def test_a_run_whose_state_row_was_deleted_counts_as_one_without(db: Backend) -> None:
    run_id = new_run(db, "flow_run", state=state(RUNNING, 0))
    db.execute("DELETE FROM flow_run_state WHERE flow_run_id = ?", (run_id,))
    assert columns(get(db, "flow_run", run_id)) == Model(
        state_id=None,
        state_type=RUNNING,
        state_name="Running",
        state_timestamp=at(0),
        run_count=1,
        expected_start_time=at(0),
        start_time=at(0),
    )
    flow_runs.set_state(db, run_id, state(COMPLETED, 10))
    assert get(db, "flow_run", run_id).total_run_time == timedelta()


class TestResuming:
    """A paused flow run that goes on is not counted again."""

    def test_running_is_not_counted(self, db: Backend) -> None:
        run_id = new_run(db, "flow_run", resuming=True)
        flow_runs.set_state(db, run_id, state(RUNNING, 0))
        assert get(db, "flow_run", run_id).run_count == 0

    def test_running_ends_it(self, db: Backend) -> None:
        run_id = new_run(db, "flow_run", resuming=True)
        flow_runs.set_state(db, run_id, state(RUNNING, 0))
        assert get(db, "flow_run", run_id).empirical_policy["resuming"] is False

    def test_the_next_running_counts(self, db: Backend) -> None:
        run_id = new_run(db, "flow_run", resuming=True)
        flow_runs.set_state(db, run_id, state(RUNNING, 0))
        flow_runs.set_state(db, run_id, state(RUNNING, 1))
        assert get(db, "flow_run", run_id).run_count == 1

    @pytest.mark.parametrize("type", [SCHEDULED, PENDING, PAUSED, CANCELLING])
    def test_it_lasts_until_the_run_runs(self, db: Backend, type: StateType) -> None:
        run_id = new_run(db, "flow_run", resuming=True)
        flow_runs.set_state(db, run_id, state(type, 0))
        assert get(db, "flow_run", run_id).empirical_policy["resuming"] is True

    @pytest.mark.parametrize("type", [COMPLETED, FAILED, CANCELLED, CRASHED])
    def test_a_terminal_state_ends_it(self, db: Backend, type: StateType) -> None:
        run_id = new_run(db, "flow_run", resuming=True)
        flow_runs.set_state(db, run_id, state(type, 0))
        assert get(db, "flow_run", run_id).empirical_policy["resuming"] is False

    def test_the_rest_of_the_policy_stays(self, db: Backend) -> None:
        run_id = new_run(db, "flow_run", resuming=True, retries=3, pause_keys=["a"])
        flow_runs.set_state(db, run_id, state(RUNNING, 0))
        policy = get(db, "flow_run", run_id).empirical_policy
        assert (policy["retries"], policy["pause_keys"]) == (3, ["a"])


DETAIL_KEYS: Final = (
    "flow_run_id task_run_id child_flow_run_id scheduled_time cache_key cache_expiration deferred"
    " untrackable_result pause_timeout pause_reschedule pause_key run_input_keyset refresh_cache"
    " retriable transition_id task_parameters_id traceparent deployment_concurrency_lease_id"
).split()


def stored_state(db: Queryable, kind: Kind, state_id: UUID, column: str) -> Any:
    return db.value(f"SELECT {column} FROM {kind}_state WHERE id = ?", (state_id,))


class TestStoredState:
    """The columns of a state's row, as the engine keeps them."""

    def test_all_keys_of_the_details_are_there(self, db: Backend, kind: Kind) -> None:
        stored = set_state(db, kind, new_run(db, kind), state(PENDING, 0))
        text = stored_state(db, kind, stored.id, "state_details")
        keys = list(json.loads(text))
        # jsonb has an order of its own.
        assert db.dialect.pick(sqlite=keys, postgres=sorted(keys)) == db.dialect.pick(
            sqlite=DETAIL_KEYS, postgres=sorted(DETAIL_KEYS)
        )

    @pytest.mark.only("sqlite", "jsonb is not text: it has no form to compare")
    def test_details_have_the_text_of_prefect(self, db: Backend) -> None:
        run_id = new_run(db, "flow_run")
        details = {"scheduled_time": at(0.5), "cache_key": "ü", "untrackable_result": True}
        stored = set_state(db, "flow_run", run_id, state(PENDING, 0, details=details))
        assert stored_state(db, "flow_run", stored.id, "state_details") == (
            f'{{"flow_run_id": "{run_id}", "task_run_id": null, "child_flow_run_id": null, '
            '"scheduled_time": "2030-01-01T12:00:00.500000Z", "cache_key": "\\u00fc", '
            '"cache_expiration": null, "deferred": false, "untrackable_result": true, '
            '"pause_timeout": null, "pause_reschedule": false, "pause_key": null, '
            '"run_input_keyset": null, "refresh_cache": null, "retriable": null, '
            '"transition_id": null, "task_parameters_id": null, "traceparent": null, '
            '"deployment_concurrency_lease_id": null}'
        )

    def test_details_made_by_hand_are_completed(self, db: Backend, kind: Kind) -> None:
        given = replace(state(PENDING, 0), state_details={"cache_key": "k"})
        stored = set_state(db, kind, new_run(db, kind), given)
        assert list(stored.state_details) == DETAIL_KEYS
        assert stored.state_details["cache_key"] == "k"

    def test_a_flow_runs_state_names_its_run(self, db: Backend) -> None:
        run_id = new_run(db, "flow_run")
        details = set_state(db, "flow_run", run_id, state(PENDING, 0)).state_details
        assert (details["flow_run_id"], details["task_run_id"]) == (str(run_id), None)

    def test_a_task_runs_state_names_both_runs(self, db: Backend) -> None:
        run_id = new_run(db, "task_run")
        details = set_state(db, "task_run", run_id, state(PENDING, 0)).state_details
        flow_run_id = get(db, "task_run", run_id).flow_run_id
        assert (details["flow_run_id"], details["task_run_id"]) == (str(flow_run_id), str(run_id))

    def test_a_task_run_without_flow_run_names_itself_alone(self, db: Backend) -> None:
        run = task_runs.create(db, "load", "load", "0")
        details = task_runs.set_state(db, run.id, state(PENDING, 0)).state_details
        assert (details["flow_run_id"], details["task_run_id"]) == (None, str(run.id))

    def test_a_subflow_runs_state_names_its_task_run(self, db: Backend) -> None:
        parent_id = new_run(db, "task_run")
        subflow = flow_runs.create(db, flows.create(db, "etl").id, parent_task_run_id=parent_id)
        details = flow_runs.set_state(db, subflow.id, state(PENDING, 0)).state_details
        assert (details["flow_run_id"], details["task_run_id"]) == (
            str(subflow.id),
            str(parent_id),
        )

    def test_run_ids_in_given_details_are_replaced(self, db: Backend, kind: Kind) -> None:
        run_id = new_run(db, kind)
        given = state(PENDING, 0, details={"flow_run_id": uuid4(), "task_run_id": uuid4()})
        details = set_state(db, kind, run_id, given).state_details
        assert details[f"{kind}_id"] == str(run_id)

    def test_run_ids_in_given_details_are_ids(self, db: Backend, kind: Kind) -> None:
        run_id = new_run(db, kind)
        given = replace(state(PENDING, 0), state_details={f"{kind}_id": "none"})
        with pytest.raises(BadValue):
            set_state(db, kind, run_id, given)

    def test_a_state_may_have_the_id_of_the_run(self, db: Backend, kind: Kind) -> None:
        run_id = get(db, kind, new_run(db, kind, state=state(PENDING, 0))).id
        set_state(db, kind, run_id, replace(state(RUNNING, 1), id=run_id))
        assert get(db, kind, run_id).state_id == run_id

    def test_a_message_that_is_not_given_is_null(self, db: Backend, kind: Kind) -> None:
        stored = set_state(db, kind, new_run(db, kind), state(PENDING, 0))
        assert stored_state(db, kind, stored.id, "message") is None

    def test_an_empty_message_stays_empty(self, db: Backend, kind: Kind) -> None:
        stored = set_state(db, kind, new_run(db, kind), state(PENDING, 0, message=""))
        assert stored_state(db, kind, stored.id, "message") == ""

    def test_the_row_has_the_forms_of_prefect(self, db: Backend, kind: Kind) -> None:
        run_id = new_run(db, kind)
        stored = set_state(db, kind, run_id, state(CANCELLING, 0.25))
        row = db.row(
            f"SELECT id, {kind}_id, type, timestamp, name FROM {kind}_state WHERE {kind}_id = ?",
            (run_id,),
        )
        assert row is not None
        assert tuple(row) == db.dialect.pick(
            sqlite=(
                str(stored.id),
                str(run_id),
                "CANCELLING",
                "2030-01-01 12:00:00.250000",
                "Cancelling",
            ),
            postgres=(stored.id, run_id, "CANCELLING", at(0.25), "Cancelling"),
        )

    def test_created_and_updated_are_now(self, db: Backend, kind: Kind) -> None:
        run_id = new_run(db, kind)
        before = datetime.now(UTC)
        set_state(db, kind, run_id, state(PENDING, 0))
        row = db.row(f"SELECT created, updated FROM {kind}_state WHERE {kind}_id = ?", (run_id,))
        assert row is not None
        created = row.datetime("created")
        assert created is not None
        assert before <= created <= datetime.now(UTC)
        assert row.datetime("updated") == created


class TestData:
    """A state's data is kept in an artifact, and given back by the history."""

    @pytest.mark.parametrize(
        "data",
        [
            {"type": "reference", "storage_key": "k", "expiration": None},
            {"ü": ["✓", {"n": None}]},
            {},
            [],
            [1, 2],
            "text",
            "",
            "5",
            5,
            0,
            -1,
            2**53 + 1,
            2**63 - 1,
            0.5,
            0.1 + 0.2,
            1e300,
            True,
            False,
        ],
        ids=repr,
    )
    def test_data_is_given_back(self, db: Backend, kind: Kind, data: Any) -> None:
        run_id = new_run(db, kind)
        set_state(db, kind, run_id, state(COMPLETED, 0, data=data))
        (kept,) = history(db, kind, run_id)
        assert (kept.data, type(kept.data)) == (data, type(data))

    def test_a_state_without_data_has_no_artifact(self, db: Backend, kind: Kind) -> None:
        set_state(db, kind, new_run(db, kind), state(COMPLETED, 0))
        assert db.value("SELECT count(*) FROM artifact") == 0

    def test_unpersisted_data_is_not_kept(self, db: Backend, kind: Kind) -> None:
        run_id = new_run(db, kind)
        set_state(db, kind, run_id, state(COMPLETED, 0, data={"type": "unpersisted"}))
        assert [each.data for each in history(db, kind, run_id)] == [None]
        assert db.value("SELECT count(*) FROM artifact") == 0

    def test_the_state_points_at_the_artifact(self, db: Backend, kind: Kind) -> None:
        run_id = new_run(db, kind)
        stored = set_state(db, kind, run_id, state(COMPLETED, 0, data={"a": 1}))
        artifact_id = db.value("SELECT id FROM artifact")
        assert stored_state(db, kind, stored.id, "result_artifact_id") == artifact_id

    def test_the_states_own_data_stays_null(self, db: Backend, kind: Kind) -> None:
        stored = set_state(db, kind, new_run(db, kind), state(COMPLETED, 0, data={"a": 1}))
        assert stored_state(db, kind, stored.id, "data") is None

    def test_the_artifact_is_stored_in_the_forms_of_prefect(self, db: Backend, kind: Kind) -> None:
        run_id = new_run(db, kind)
        data = {
            "type": "reference",
            "storage_key": "ü",
            "artifact_key": "key",
            "artifact_type": "result",
            "artifact_description": "what it is",
        }
        set_state(db, kind, run_id, state(COMPLETED, 0, data=data))
        row = db.row("SELECT key, type, description, data, metadata_ FROM artifact")
        assert row is not None
        assert tuple(row) == (
            "key",
            "result",
            "what it is",
            '{"type": "reference", "storage_key": "\\u00fc"}',
            "null",
        )

    def test_what_data_says_of_the_artifact_is_not_part_of_it(
        self, db: Backend, kind: Kind
    ) -> None:
        run_id = new_run(db, kind)
        data = {"type": "reference", "artifact_key": "key"}
        set_state(db, kind, run_id, state(COMPLETED, 0, data=data))
        assert [each.data for each in history(db, kind, run_id)] == [{"type": "reference"}]

    def test_the_state_that_is_returned_has_the_data_as_stored(
        self, db: Backend, kind: Kind
    ) -> None:
        data = {"type": "reference", "artifact_key": "key"}
        stored = set_state(db, kind, new_run(db, kind), state(COMPLETED, 0, data=data))
        assert stored.data == {"type": "reference"}

    def test_the_given_data_is_left_as_it_is(self, db: Backend, kind: Kind) -> None:
        data = {"type": "reference", "artifact_key": "key"}
        set_state(db, kind, new_run(db, kind), state(COMPLETED, 0, data=data))
        assert data == {"type": "reference", "artifact_key": "key"}

    @pytest.mark.parametrize("new", [False, True])
    def test_the_artifact_names_the_run_and_the_flow_run_of_a_task_run(
        self, db: Backend, kind: Kind, new: bool
    ) -> None:
        ended = state(COMPLETED, 0, data=1)
        run_id = new_run(db, kind, state=ended if new else None)
        if not new:
            set_state(db, kind, run_id, ended)
        row = db.row("SELECT flow_run_id, task_run_id, data FROM artifact")
        assert row is not None
        owners = (
            (run_id, None) if kind == "flow_run" else (get(db, kind, run_id).flow_run_id, run_id)
        )
        assert (row.uuid(0), row.uuid(1), row.json(2)) == (*owners, 1)

    def test_the_artifact_of_a_new_task_run_without_a_flow_run(self, db: Backend) -> None:
        run = task_runs.create(db, "a", "a", "0", state=state(COMPLETED, 0, data=1))
        row = db.row("SELECT flow_run_id, task_run_id FROM artifact")
        assert row is not None
        assert (row.uuid(0), row.uuid(1)) == (None, run.id)


class TestSubflow:
    """The task run that stands for a subflow gets a copy of each of its states."""

    @pytest.fixture
    def parent_id(self, db: Backend) -> UUID:
        return new_run(db, "task_run")

    @pytest.fixture
    def subflow_id(self, db: Backend, parent_id: UUID) -> UUID:
        flow_id = flows.create(db, "etl").id
        return flow_runs.create(db, flow_id, parent_task_run_id=parent_id).id

    def test_the_copy_has_type_name_message_and_data(
        self, db: Backend, parent_id: UUID, subflow_id: UUID
    ) -> None:
        given = state(FAILED, 0, name="TimedOut", message="too slow", data={"a": 1})
        flow_runs.set_state(db, subflow_id, given)
        (copy,) = task_runs.history(db, parent_id)
        assert (copy.type, copy.name, copy.message, copy.data) == (
            FAILED,
            "TimedOut",
            "too slow",
            {"a": 1},
        )

    def test_the_copy_has_an_id_of_its_own(
        self, db: Backend, parent_id: UUID, subflow_id: UUID
    ) -> None:
        stored = flow_runs.set_state(db, subflow_id, state(RUNNING, 0))
        (copy,) = task_runs.history(db, parent_id)
        assert copy.id != stored.id
        assert copy.id.version == 7

    def test_the_copys_time_is_now(self, db: Backend, parent_id: UUID, subflow_id: UUID) -> None:
        before = datetime.now(UTC)
        flow_runs.set_state(db, subflow_id, state(RUNNING, 0))
        (copy,) = task_runs.history(db, parent_id)
        assert before <= copy.timestamp <= datetime.now(UTC)

    def test_the_copy_names_the_subflow_run_and_the_parents_runs(
        self, db: Backend, parent_id: UUID, subflow_id: UUID
    ) -> None:
        flow_runs.set_state(db, subflow_id, state(RUNNING, 0))
        (copy,) = task_runs.history(db, parent_id)
        names = ("child_flow_run_id", "flow_run_id", "task_run_id")
        assert [copy.state_details[name] for name in names] == [
            str(subflow_id),
            str(get(db, "task_run", parent_id).flow_run_id),
            str(parent_id),
        ]

    def test_the_subflows_own_state_names_no_child(self, db: Backend, subflow_id: UUID) -> None:
        stored = flow_runs.set_state(db, subflow_id, state(RUNNING, 0))
        assert stored.state_details["child_flow_run_id"] is None

    def test_the_copy_keeps_the_other_details(
        self, db: Backend, parent_id: UUID, subflow_id: UUID
    ) -> None:
        details = {"traceparent": "00-a", "untrackable_result": True}
        flow_runs.set_state(db, subflow_id, state(SCHEDULED, 0, due=60, details=details))
        (copy,) = task_runs.history(db, parent_id)
        assert copy.state_details["traceparent"] == "00-a"
        assert copy.state_details["untrackable_result"] is True
        assert copy.state_details["scheduled_time"] == "2030-01-01T12:01:00Z"

    def test_the_task_runs_columns_follow_from_the_copies(
        self, db: Backend, parent_id: UUID, subflow_id: UUID
    ) -> None:
        for type in (PENDING, RUNNING, COMPLETED):
            flow_runs.set_state(db, subflow_id, states.make(type))
        model = Model()
        for copy in task_runs.history(db, parent_id):
            model.enter(copy)
        assert columns(get(db, "task_run", parent_id)) == model

    def test_the_flow_runs_attempt_is_not_counted_for_the_task_run(
        self, db: Backend, parent_id: UUID, subflow_id: UUID
    ) -> None:
        flow_runs.set_state(db, subflow_id, state(RUNNING, 0))
        assert get(db, "task_run", parent_id).flow_run_run_count == 0

    def test_a_state_given_to_create_is_copied_too(self, db: Backend, parent_id: UUID) -> None:
        flow_id = flows.create(db, "etl").id
        flow_runs.create(db, flow_id, parent_task_run_id=parent_id, state=state(PENDING, 0))
        assert [each.type for each in task_runs.history(db, parent_id)] == [PENDING]

    def test_persisted_data_has_an_artifact_for_each(
        self, db: Backend, parent_id: UUID, subflow_id: UUID
    ) -> None:
        flow_runs.set_state(db, subflow_id, state(COMPLETED, 0, data={"a": 1}))
        owners = {
            (row.uuid(0), row.uuid(1))
            for row in db.rows("SELECT flow_run_id, task_run_id FROM artifact")
        }
        assert owners == {
            (subflow_id, None),
            (get(db, "task_run", parent_id).flow_run_id, parent_id),
        }


class TestAllOrNothing:
    """A state that cannot be stored leaves the run as it was."""

    def test_an_id_that_is_taken(self, db: Backend, kind: Kind) -> None:
        first = state(PENDING, 0)
        run_id = new_run(db, kind, state=first)
        before = get(db, kind, run_id)
        with pytest.raises(UniqueViolation):
            set_state(db, kind, run_id, replace(state(RUNNING, 1), id=first.id))
        assert get(db, kind, run_id) == before
        assert [each.id for each in history(db, kind, run_id)] == [first.id]

    def test_data_that_is_no_json(self, db: Backend, kind: Kind) -> None:
        run_id = new_run(db, kind)
        with pytest.raises(BadValue):
            set_state(db, kind, run_id, state(COMPLETED, 0, data={"a": {1, 2}}))
        assert history(db, kind, run_id) == []

    def test_a_copy_that_cannot_be_stored(self, db: Backend) -> None:
        """The subflow's own state is undone with it."""
        parent_id = new_run(db, "task_run")
        flow_id = flows.create(db, "etl").id
        subflow_id = flow_runs.create(db, flow_id, parent_task_run_id=parent_id).id
        db.execute("DROP TABLE task_run_state")
        with pytest.raises(Exception, match="task_run_state"):
            flow_runs.set_state(db, subflow_id, state(RUNNING, 0))
        assert flow_runs.history(db, subflow_id) == []
        assert columns(get(db, "flow_run", subflow_id)) == Model()

    def test_a_caller_that_rolls_back(self, db: Backend, kind: Kind) -> None:
        run_id = new_run(db, kind)
        with db.transaction() as txn:
            set_state(txn, kind, run_id, state(RUNNING, 0))
            txn.rollback()
        assert columns(get(db, kind, run_id)) == Model()
        assert history(db, kind, run_id) == []


class TestConcurrency:
    """Threads that set states of one run follow one after the other."""

    @pytest.mark.parametrize("same_time", [False, True], ids=["now", "one time"])
    def test_columns_follow_from_the_states_in_the_order_of_commits(
        self, db: Backend, pool: ThreadPoolExecutor, kind: Kind, same_time: bool
    ) -> None:
        run_id = new_run(db, kind)

        def work(thread: int) -> None:
            for step in range(12):
                new = states.make(list(StateType)[(thread * 5 + step) % 9])
                set_state(db, kind, run_id, replace(new, timestamp=NOON) if same_time else new)

        for future in [pool.submit(work, thread) for thread in range(8)]:
            future.result()
        kept = {each.id: each for each in history(db, kind, run_id)}
        # The row's `created` is read while the run is locked.
        committed = db.rows(f"SELECT id FROM {kind}_state ORDER BY created")
        model = Model()
        for row in committed:
            state_id = row.uuid(0)
            assert state_id is not None
            model.enter(kept[state_id])
        assert len(kept) == 8 * 12
        assert columns(get(db, kind, run_id)) == model

    def test_run_count_counts_every_running(
        self, db: Backend, pool: ThreadPoolExecutor, kind: Kind
    ) -> None:
        run_id = new_run(db, kind)

        def work() -> None:
            for _ in range(10):
                set_state(db, kind, run_id, states.running())

        for future in [pool.submit(work) for _ in range(8)]:
            future.result()
        assert get(db, kind, run_id).run_count == 80

    def test_one_that_waited_sees_the_state_of_the_one_before(
        self, db: Backend, pool: ThreadPoolExecutor, kind: Kind
    ) -> None:
        run_id = new_run(db, kind)
        with db.transaction() as txn:
            set_state(txn, kind, run_id, state(RUNNING, 0))
            waiter = pool.submit(set_state, db, kind, run_id, state(COMPLETED, 10))
            wait_until(lambda: waiter.done() or waiting(db) > 0)
        waiter.result()
        assert get(db, kind, run_id).total_run_time == timedelta(seconds=10)

    def test_one_that_waited_sees_that_its_time_was_taken(
        self, db: Backend, pool: ThreadPoolExecutor, kind: Kind
    ) -> None:
        run_id = new_run(db, kind)
        with db.transaction() as txn:
            set_state(txn, kind, run_id, state(PENDING, 0))
            waiter = pool.submit(set_state, db, kind, run_id, state(RUNNING, 0))
            wait_until(lambda: waiter.done() or waiting(db) > 0)
        stored = waiter.result()
        assert stored.timestamp == NOON + timedelta(microseconds=1)

    def test_subflows_of_one_task_run_do_not_disturb_each_other(
        self, db: Backend, pool: ThreadPoolExecutor
    ) -> None:
        parent_id = new_run(db, "task_run")
        flow_id = flows.create(db, "etl").id
        subflows = [
            flow_runs.create(db, flow_id, parent_task_run_id=parent_id).id for _ in range(4)
        ]

        def work(subflow_id: UUID) -> None:
            for _ in range(10):
                flow_runs.set_state(db, subflow_id, states.running())

        for future in [pool.submit(work, subflow_id) for subflow_id in subflows]:
            future.result()
        assert get(db, "task_run", parent_id).run_count == 40

    def test_other_changes_of_the_run_meanwhile_are_kept(
        self, db: Backend, pool: ThreadPoolExecutor
    ) -> None:
        run_id = new_run(db, "flow_run")

        def work(thread: int) -> None:
            for step in range(10):
                if thread % 2:
                    flow_runs.set_state(db, run_id, states.running())
                else:
                    flow_runs.merge_labels(db, run_id, {f"{thread}-{step}": step})

        for future in [pool.submit(work, thread) for thread in range(8)]:
            future.result()
        run = get(db, "flow_run", run_id)
        assert run.run_count == 40
        assert len(run.labels) == 1 + 40

    def test_one_that_waited_sees_that_the_run_is_gone(
        self, db: Backend, pool: ThreadPoolExecutor, kind: Kind
    ) -> None:
        run_id = new_run(db, kind)
        with db.transaction() as txn:
            delete = flow_runs.delete if kind == "flow_run" else task_runs.delete
            delete(txn, run_id)
            waiter = pool.submit(set_state, db, kind, run_id, state(RUNNING, 0, data=1))
            wait_until(lambda: waiter.done() or waiting(db) > 0)
        with pytest.raises(NotFound):
            waiter.result()
        assert db.value(f"SELECT count(*) FROM {kind}_state") == 0
        assert db.value("SELECT count(*) FROM artifact") == 0

    @pytest.mark.only("postgres", "SQLite has one writer at a time")
    def test_a_task_run_that_is_being_created_does_not_delay_its_flow_run(
        self, db: Backend
    ) -> None:
        """Nor do two who create some, and then change the flow run, wait for each other."""
        run_id = new_run(db, "flow_run")
        with db.transaction() as txn:
            task_runs.create(txn, "a", "a", "0", flow_run_id=run_id, state=states.pending())
            with db.transaction(timeout=10) as other:
                task_runs.create(other, "a", "a", "1", flow_run_id=run_id, state=states.pending())
                flow_runs.set_state(other, run_id, states.running())
            flow_runs.set_state(txn, run_id, states.running())
        assert get(db, "flow_run", run_id).run_count == 2
