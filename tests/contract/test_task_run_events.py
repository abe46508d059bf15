"""`task_runs.record`: what a client's events make of task runs, in whatever order they come."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from time import monotonic
from typing import Any, Final
from uuid import UUID, uuid4, uuid5

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prefect_db import (
    Backend,
    BadValue,
    ForeignKeyViolation,
    Queryable,
    events,
    flow_runs,
    flows,
    states,
    task_runs,
)
from prefect_db.states import State, StateType
from prefect_db.task_runs import TaskRun

Frame = dict[str, Any]

NOON: Final = datetime(2030, 1, 1, 12, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


def iso(seconds: float) -> str:
    return at(seconds).isoformat().replace("+00:00", "Z")


@pytest.fixture
def flow_run_id(db: Backend) -> UUID:
    return flow_runs.create(db, flows.create(db, "etl").id).id


def frame(
    flow_run_id: UUID | None,
    seconds: float,
    name: str = "Running",
    *,
    task: int = 0,
    type: str | None = None,
    id: UUID | None = None,
    message: str = "",
    data: Any = None,
    details: Frame | None = None,
    **task_run: Any,
) -> Frame:
    """A frame as a client sends it when a task enters a state."""
    kind = type or name.upper()
    task_run_id = uuid5(flow_run_id or UUID(int=0), str(task))
    related = [{"prefect.resource.id": "prefect.tag.io", "prefect.resource.role": "tag"}]
    if flow_run_id is not None:
        related += [
            {
                "prefect.resource.id": f"prefect.flow-run.{flow_run_id}",
                "prefect.resource.role": "flow-run",
                "prefect.resource.name": "spiritual-pogona",
            },
            {"prefect.resource.id": f"prefect.flow.{uuid4()}", "prefect.resource.role": "flow"},
        ]
    return {
        "occurred": iso(seconds),
        "event": f"prefect.task-run.{name}",
        "resource": {
            "prefect.resource.id": f"prefect.task-run.{task_run_id}",
            "prefect.resource.name": f"load-{task}",
            "prefect.run-count": "1",
            "prefect.state-message": message,
            "prefect.state-name": name,
            "prefect.state-timestamp": at(seconds).isoformat(),
            "prefect.state-type": kind,
            "prefect.orchestration": "client",
        },
        "related": related,
        "payload": {
            "intended": {"from": None, "to": kind},
            "initial_state": None,
            "validated_state": {
                "type": kind,
                "name": name,
                "message": message,
                "state_details": details or {},
                "data": data,
            },
            "task_run": {
                "name": f"load-{task}",
                "task_key": "load-dc89bb2d",
                "dynamic_key": str(task),
                "empirical_policy": {
                    "max_retries": 0,
                    "retry_delay_seconds": 0.0,
                    "retries": 2,
                    "retry_delay": 0,
                },
                "tags": ["nightly", "io"],
                "labels": {},
                "task_inputs": {"page": []},
                "run_count": 1,
                "flow_run_run_count": 1,
                "expected_start_time": iso(0),
                "total_run_time": 0.0,
                **task_run,
            },
        },
        "id": str(id or uuid4()),
        "follows": None,
    }


def story(flow_run_id: UUID, task: int, retries: int, ending: str | None) -> list[Frame]:
    """All that a client sends of one task: pending, running, retrying, and how it ended."""
    start = task / 10
    frames = [frame(flow_run_id, start, "Pending", task=task, run_count=0, flow_run_run_count=0)]
    frames.append(frame(flow_run_id, start + 1, task=task, start_time=iso(start + 1)))
    frames += [
        frame(
            flow_run_id,
            start + 2 + retry,
            "Retrying",
            type="RUNNING",
            task=task,
            run_count=2 + retry,
            start_time=iso(start + 1),
            total_run_time=0.5 + retry,
        )
        for retry in range(retries)
    ]
    if ending is not None:
        frames.append(
            frame(
                flow_run_id,
                start + 9,
                ending,
                task=task,
                message="so it went",
                details={"untrackable_result": True},
                run_count=1 + retries,
                start_time=iso(start + 1),
                end_time=iso(start + 9),
                total_run_time=8.011741,
            )
        )
    return frames


def expected_run(told: Sequence[Frame]) -> Frame:
    """What a task run's row says once all of these frames of it are recorded."""
    last = max(told, key=lambda each: str(each["occurred"]))
    given, state = last["payload"]["task_run"], last["payload"]["validated_state"]

    def moment(text: str | None) -> datetime | None:
        return None if text is None else datetime.fromisoformat(text)

    return {
        "name": given["name"],
        "state_type": state["type"],
        "state_name": state["name"],
        "state_timestamp": moment(last["occurred"]),
        "state_id": UUID(last["id"]),
        "run_count": given["run_count"],
        "flow_run_run_count": given["flow_run_run_count"],
        "expected_start_time": moment(given["expected_start_time"]),
        "next_scheduled_start_time": None,
        "start_time": moment(given.get("start_time")),
        "end_time": moment(given.get("end_time")),
        "total_run_time": timedelta(seconds=given["total_run_time"]),
        "task_key": given["task_key"],
        "dynamic_key": given["dynamic_key"],
        "empirical_policy": {**given["empirical_policy"], "retry_jitter_factor": None},
        "task_inputs": given["task_inputs"],
        "tags": given["tags"],
        "labels": given["labels"],
    }


def task_run_id(told: Frame) -> UUID:
    return UUID(told["resource"]["prefect.resource.id"].removeprefix("prefect.task-run."))


def assert_recorded(db: Queryable, frames: Sequence[Frame]) -> None:
    """The rows and the states are those of these frames, each told once and in order."""
    told: dict[UUID, list[Frame]] = {}
    for each in frames:
        told.setdefault(task_run_id(each), []).append(each)
    for run_id, own in told.items():
        run = task_runs.get(db, run_id)
        expected = expected_run(own)
        assert {name: getattr(run, name) for name in expected} == expected
        assert [
            (str(state.id), state.timestamp, state.type, state.name, state.message)
            for state in task_runs.history(db, run_id)
        ] == [
            (
                each["id"],
                datetime.fromisoformat(each["occurred"]),
                each["payload"]["validated_state"]["type"],
                each["payload"]["validated_state"]["name"],
                each["payload"]["validated_state"]["message"],
            )
            for each in sorted(own, key=lambda each: str(each["occurred"]))
        ]


def dump(db: Queryable) -> list[list[tuple[Any, ...]]]:
    """All that recording could change."""
    return [
        sorted(map(tuple, db.rows(f"SELECT * FROM {table}")), key=repr)
        for table in (
            "flow",
            "flow_run",
            "flow_run_state",
            "task_run",
            "task_run_state",
            "artifact",
        )
    ]


def only(runs: list[TaskRun]) -> TaskRun:
    (run,) = runs
    return run


class TestOneEvent:
    def test_it_makes_the_run_and_its_state(self, db: Backend, flow_run_id: UUID) -> None:
        told = story(flow_run_id, 0, 0, "Completed")[-1]
        task_runs.record(db, [told])
        assert_recorded(db, [told])

    def test_it_counts_as_one(self, db: Backend, flow_run_id: UUID) -> None:
        assert task_runs.record(db, [frame(flow_run_id, 0)]) == 1

    def test_the_run_is_the_flow_runs(self, db: Backend, flow_run_id: UUID) -> None:
        task_runs.record(db, [frame(flow_run_id, 0)])
        assert only(task_runs.find(db)).flow_run_id == flow_run_id

    def test_a_task_without_flow_run_has_none(self, db: Backend) -> None:
        task_runs.record(db, [frame(None, 0)])
        assert only(task_runs.find(db)).flow_run_id is None

    def test_the_row_has_the_forms_of_prefect(self, db: Backend, flow_run_id: UUID) -> None:
        told = story(flow_run_id, 0, 0, "Completed")[-1]
        task_runs.record(db, [told])
        row = db.row(
            "SELECT id, state_id, state_type, state_timestamp, total_run_time, end_time, tags,"
            " labels, empirical_policy, task_inputs FROM task_run"
        )
        assert row is not None
        assert tuple(row) == db.dialect.pick(
            sqlite=(
                str(task_run_id(told)),
                told["id"],
                "COMPLETED",
                "2030-01-01 12:00:09.000000",
                "1970-01-01 00:00:08.011741",
                "2030-01-01 12:00:09.000000",
                '["nightly", "io"]',
                "{}",
                '{"max_retries": 0, "retry_delay_seconds": 0.0, "retries": 2, "retry_delay": 0,'
                ' "retry_jitter_factor": null}',
                '{"page": []}',
            ),
            postgres=(
                task_run_id(told),
                UUID(told["id"]),
                "COMPLETED",
                at(9),
                timedelta(seconds=8.011741),
                at(9),
                '["nightly", "io"]',
                "{}",
                '{"retries": 2, "max_retries": 0, "retry_delay": 0, "retry_delay_seconds": 0.0,'
                ' "retry_jitter_factor": null}',
                '{"page": []}',
            ),
        )

    def test_created_and_updated_are_one_time(self, db: Backend, flow_run_id: UUID) -> None:
        before = datetime.now(UTC)
        task_runs.record(db, [frame(flow_run_id, 0)])
        run = only(task_runs.find(db))
        assert before <= run.created == run.updated <= datetime.now(UTC)

    def test_the_state_has_the_id_and_the_time_of_the_event(
        self, db: Backend, flow_run_id: UUID
    ) -> None:
        told = frame(flow_run_id, 1.5)
        task_runs.record(db, [told])
        (state,) = task_runs.history(db, task_run_id(told))
        assert (state.id, state.timestamp) == (UUID(told["id"]), at(1.5))

    def test_the_states_own_id_and_time_win(self, db: Backend, flow_run_id: UUID) -> None:
        told, id = frame(flow_run_id, 1.5), uuid4()
        told["payload"]["validated_state"] |= {"id": str(id), "timestamp": iso(7)}
        task_runs.record(db, [told])
        run = only(task_runs.find(db))
        assert (run.state_id, run.state_timestamp) == (id, at(7))

    def test_the_state_names_both_runs(self, db: Backend, flow_run_id: UUID) -> None:
        told = frame(flow_run_id, 0, details={"cache_key": "k"})
        task_runs.record(db, [told])
        (state,) = task_runs.history(db, task_run_id(told))
        assert state.state_details == states.complete_details(
            {
                "flow_run_id": flow_run_id,
                "task_run_id": task_run_id(told),
                "cache_key": "k",
            }
        )

    def test_an_empty_message_stays_empty(self, db: Backend, flow_run_id: UUID) -> None:
        task_runs.record(db, [frame(flow_run_id, 0)])
        assert db.value("SELECT message FROM task_run_state") == ""

    def test_data_is_kept_with_the_state(self, db: Backend, flow_run_id: UUID) -> None:
        """Where a state that is set through the API has an artifact."""
        data = {"type": "result", "storage_key": "ü"}
        task_runs.record(db, [frame(flow_run_id, 0, "Completed", data=data)])
        row = db.row("SELECT data, result_artifact_id FROM task_run_state")
        assert row is not None
        assert tuple(row) == db.dialect.pick(
            sqlite=('{"type": "result", "storage_key": "\\u00fc"}', None),
            postgres=('{"type": "result", "storage_key": "ü"}', None),
        )
        assert db.value("SELECT count(*) FROM artifact") == 0

    def test_no_data_is_null(self, db: Backend, flow_run_id: UUID) -> None:
        task_runs.record(db, [frame(flow_run_id, 0)])
        assert db.value("SELECT data FROM task_run_state") is None

    @pytest.mark.parametrize(
        "data", [{"a": [1, None]}, [], {}, "text", "5", 5, 0, 0.1 + 0.2, False], ids=repr
    )
    def test_the_history_gives_data_back(self, db: Backend, flow_run_id: UUID, data: Any) -> None:
        told = frame(flow_run_id, 0, "Completed", data=data)
        task_runs.record(db, [told])
        assert [state.data for state in task_runs.history(db, task_run_id(told))] == [data]

    def test_what_the_payload_leaves_out_has_the_defaults_of_a_new_run(
        self, db: Backend, flow_run_id: UUID
    ) -> None:
        told = frame(flow_run_id, 0)
        keys = ("name", "task_key", "dynamic_key")
        told["payload"]["task_run"] = {key: told["payload"]["task_run"][key] for key in keys}
        task_runs.record(db, [told])
        run = only(task_runs.find(db))
        fresh = task_runs.create(db, "load-0", "load-dc89bb2d", "0")
        assert run == replace(
            fresh,
            id=run.id,
            created=run.created,
            updated=run.updated,
            flow_run_id=flow_run_id,
            state_id=UUID(told["id"]),
            state_type=StateType.RUNNING,
            state_name="Running",
            state_timestamp=at(0),
            labels=None,
        )

    def test_a_state_without_name_is_called_after_its_type(
        self, db: Backend, flow_run_id: UUID
    ) -> None:
        told = frame(flow_run_id, 0)
        del told["payload"]["validated_state"]["name"]
        task_runs.record(db, [told])
        assert only(task_runs.find(db)).state_name == "Running"

    def test_a_scheduled_state_keeps_its_time(self, db: Backend, flow_run_id: UUID) -> None:
        told = frame(
            flow_run_id,
            0,
            "AwaitingRetry",
            type="SCHEDULED",
            details={"scheduled_time": "2030-01-01T12:01:00Z"},
            next_scheduled_start_time=iso(60),
        )
        task_runs.record(db, [told])
        (state,) = task_runs.history(db, task_run_id(told))
        assert state.state_details["scheduled_time"] == "2030-01-01T12:01:00Z"
        assert only(task_runs.find(db)).next_scheduled_start_time == at(60)

    def test_a_scheduled_state_without_a_time_gets_now(
        self, db: Backend, flow_run_id: UUID
    ) -> None:
        told = frame(flow_run_id, 0)
        told["payload"]["validated_state"] = {"type": "SCHEDULED"}
        before = datetime.now(UTC)
        task_runs.record(db, [told])
        (state,) = task_runs.history(db, task_run_id(told))
        scheduled = datetime.fromisoformat(state.state_details["scheduled_time"])
        assert before <= scheduled <= datetime.now(UTC)

    def test_an_event_may_be_an_event(self, db: Backend, flow_run_id: UUID) -> None:
        told = frame(flow_run_id, 0)
        task_runs.record(db, [events.make(**told)])
        assert_recorded(db, [told])


class TestPassedOver:
    def test_nothing_is_recorded_of_nothing(self, db: Backend) -> None:
        assert task_runs.record(db, []) == 0

    @pytest.mark.parametrize("orchestration", [None, "server", "CLIENT", ""])
    def test_an_event_that_is_not_a_clients(
        self, db: Backend, flow_run_id: UUID, orchestration: str | None
    ) -> None:
        told = frame(flow_run_id, 0)
        del told["resource"]["prefect.orchestration"]
        if orchestration is not None:
            told["resource"]["prefect.orchestration"] = orchestration
        assert task_runs.record(db, [told]) == 0
        assert task_runs.count(db) == 0

    @pytest.mark.parametrize(
        "name", ["prefect.flow-run.Running", "prefect.flow-run.heartbeat", "task-run", "x"]
    )
    def test_an_event_of_something_else(self, db: Backend, flow_run_id: UUID, name: str) -> None:
        told = frame(flow_run_id, 0)
        told["event"] = name
        assert task_runs.record(db, [told]) == 0
        assert task_runs.count(db) == 0

    def test_those_beside_it_are_recorded(self, db: Backend, flow_run_id: UUID) -> None:
        other = frame(flow_run_id, 0, task=1)
        other["event"] = "prefect.flow-run.heartbeat"
        assert task_runs.record(db, (each for each in [other, frame(flow_run_id, 0)])) == 1
        assert task_runs.count(db) == 1


class TestLaterEvents:
    def test_a_newer_event_changes_the_row(self, db: Backend, flow_run_id: UUID) -> None:
        frames = story(flow_run_id, 0, 1, "Completed")
        for told in frames:
            task_runs.record(db, [told])
        assert_recorded(db, frames)

    def test_a_newer_event_changes_updated_but_not_created(
        self, db: Backend, flow_run_id: UUID
    ) -> None:
        first, second = story(flow_run_id, 0, 0, None)
        task_runs.record(db, [first])
        before = only(task_runs.find(db))
        task_runs.record(db, [second])
        after = only(task_runs.find(db))
        assert after.created == before.created
        assert after.updated > before.updated

    def test_a_late_event_adds_its_state_and_leaves_the_row(
        self, db: Backend, flow_run_id: UUID
    ) -> None:
        pending, _, completed = story(flow_run_id, 0, 0, "Completed")
        task_runs.record(db, [completed])
        before = only(task_runs.find(db))
        assert task_runs.record(db, [pending]) == 1
        assert only(task_runs.find(db)) == before
        assert len(task_runs.history(db, before.id)) == 2

    def test_what_a_newer_event_leaves_out_stays(self, db: Backend, flow_run_id: UUID) -> None:
        task_runs.record(db, [frame(flow_run_id, 0, "Failed", end_time=iso(0), cache_key="k")])
        task_runs.record(db, [frame(flow_run_id, 1)])
        run = only(task_runs.find(db))
        assert (run.state_name, run.end_time, run.cache_key) == ("Running", at(0), "k")

    def test_what_a_newer_event_says_is_null_becomes_null(
        self, db: Backend, flow_run_id: UUID
    ) -> None:
        task_runs.record(db, [frame(flow_run_id, 0, "Failed", end_time=iso(0), cache_key="k")])
        task_runs.record(db, [frame(flow_run_id, 1, end_time=None, cache_key=None)])
        run = only(task_runs.find(db))
        assert (run.end_time, run.cache_key) == (None, None)

    def test_a_repeated_event_changes_nothing(self, db: Backend, flow_run_id: UUID) -> None:
        frames = story(flow_run_id, 0, 1, "Completed")
        task_runs.record(db, frames)
        before = dump(db)
        assert [task_runs.record(db, [told]) for told in frames] == [0, 0, 0, 0]
        assert dump(db) == before

    def test_an_event_that_comes_twice_in_a_batch_counts_once(
        self, db: Backend, flow_run_id: UUID
    ) -> None:
        told = frame(flow_run_id, 0)
        assert task_runs.record(db, [told, told]) == 1

    def test_a_repeated_event_beside_a_new_one_is_not_counted(
        self, db: Backend, flow_run_id: UUID
    ) -> None:
        first, second, _ = frames = story(flow_run_id, 0, 0, "Completed")
        task_runs.record(db, [first, second])
        assert task_runs.record(db, frames) == 1


STORIES: Final = st.lists(
    st.tuples(st.integers(0, 2), st.sampled_from([None, "Completed", "Failed"])),
    min_size=1,
    max_size=4,
)


@settings(
    deadline=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(stories=STORIES, data=st.data())
def test_order_repetition_and_batches_do_not_matter(
    db: Backend, stories: list[tuple[int, str | None]], data: st.DataObject
) -> None:
    flow_run_id = flow_runs.create(db, flows.create(db, "etl").id).id
    frames = [
        told
        for task, (retries, ending) in enumerate(stories)
        for told in story(flow_run_id, task, retries, ending)
    ]
    indexes = range(len(frames))
    repeated = data.draw(st.lists(st.sampled_from(indexes), max_size=5), label="repeated")
    order = data.draw(st.permutations([*indexes, *repeated]), label="order")
    ends = data.draw(st.lists(st.integers(0, len(order)), max_size=4), label="ends of batches")
    bounds = sorted({0, *ends, len(order)})
    recorded = [
        task_runs.record(db, [frames[at] for at in order[start:end]])
        for start, end in pairwise(bounds)
    ]
    assert_recorded(db, frames)
    assert sum(recorded) == len(frames)


class TestNaturalKey:
    """A flow run, a task key and a dynamic key make one task run, whatever id an event has."""

    @pytest.fixture
    def made(self, db: Backend, flow_run_id: UUID) -> TaskRun:
        """A run made through the API, with the key of the frames but another id."""
        state = replace(states.pending(), timestamp=at(0))
        return task_runs.create(
            db, "made", "load-dc89bb2d", "0", flow_run_id=flow_run_id, state=state
        )

    def test_the_run_that_is_there_is_changed(
        self, db: Backend, flow_run_id: UUID, made: TaskRun
    ) -> None:
        task_runs.record(db, [frame(flow_run_id, 1)])
        run = only(task_runs.find(db))
        assert (run.id, run.name, run.state_name) == (made.id, "load-0", "Running")

    def test_the_state_is_that_runs(self, db: Backend, flow_run_id: UUID, made: TaskRun) -> None:
        told = frame(flow_run_id, 1)
        task_runs.record(db, [told])
        assert [str(state.id) for state in task_runs.history(db, made.id)] == [
            str(made.state_id),
            told["id"],
        ]

    def test_a_late_event_adds_its_state_to_that_run(
        self, db: Backend, flow_run_id: UUID, made: TaskRun
    ) -> None:
        task_runs.record(db, [frame(flow_run_id, -1)])
        assert only(task_runs.find(db)) == made
        assert len(task_runs.history(db, made.id)) == 2

    def test_a_run_without_state_is_left_as_it_is(self, db: Backend, flow_run_id: UUID) -> None:
        """No time is older than none: as in Prefect, whose comparison with NULL is not true."""
        made = task_runs.create(db, "made", "load-dc89bb2d", "0", flow_run_id=flow_run_id)
        task_runs.record(db, [frame(flow_run_id, 1)])
        assert only(task_runs.find(db)) == made
        assert len(task_runs.history(db, made.id)) == 1

    def test_two_ids_in_one_batch_make_one_run(self, db: Backend, flow_run_id: UUID) -> None:
        first, second = frame(flow_run_id, 0), frame(flow_run_id, 1)
        second["resource"]["prefect.resource.id"] = f"prefect.task-run.{uuid4()}"
        assert task_runs.record(db, [first, second]) == 2
        run = only(task_runs.find(db))
        assert run.state_id == UUID(second["id"])
        assert len(task_runs.history(db, run.id)) == 2

    def test_another_id_in_the_next_batch_makes_no_other_run(
        self, db: Backend, flow_run_id: UUID
    ) -> None:
        first, second = frame(flow_run_id, 0), frame(flow_run_id, 1)
        second["resource"]["prefect.resource.id"] = f"prefect.task-run.{uuid4()}"
        task_runs.record(db, [first])
        task_runs.record(db, [second])
        run = only(task_runs.find(db))
        assert (run.id, run.state_id) == (task_run_id(first), UUID(second["id"]))
        named = {each.state_details["task_run_id"] for each in task_runs.history(db, run.id)}
        assert named == {str(run.id)}

    def test_a_run_that_is_there_by_id_may_change_its_key(
        self, db: Backend, flow_run_id: UUID
    ) -> None:
        task_runs.record(db, [frame(flow_run_id, 0)])
        task_runs.record(db, [frame(flow_run_id, 1, dynamic_key="changed")])
        assert only(task_runs.find(db)).dynamic_key == "changed"

    def test_tasks_without_flow_run_are_told_apart_by_id(self, db: Backend) -> None:
        task_runs.record(db, [frame(None, 0, task=1), frame(None, 0, task=2, dynamic_key="1")])
        assert task_runs.count(db) == 2

    def test_a_task_without_flow_run_follows_its_events(self, db: Backend) -> None:
        frames = [frame(None, 1), frame(None, 0, "Pending"), frame(None, 2, "Completed")]
        for told in frames:
            task_runs.record(db, [told])
        assert_recorded(db, frames)


class TestEqualTimes:
    """Two states of a run may have one time: the second is moved to the next microsecond."""

    def test_in_one_batch(self, db: Backend, flow_run_id: UUID) -> None:
        frames = [frame(flow_run_id, 0), frame(flow_run_id, 0, "Completed")]
        assert task_runs.record(db, frames) == 2
        run = only(task_runs.find(db))
        times = [state.timestamp for state in task_runs.history(db, run.id)]
        assert times == [at(0), at(0.000001)]

    def test_in_two_batches(self, db: Backend, flow_run_id: UUID) -> None:
        task_runs.record(db, [frame(flow_run_id, 0)])
        task_runs.record(db, [frame(flow_run_id, 0, "Completed")])
        run = only(task_runs.find(db))
        times = [state.timestamp for state in task_runs.history(db, run.id)]
        assert times == [at(0), at(0.000001)]

    def test_the_row_is_that_of_the_state_with_the_later_time(
        self, db: Backend, flow_run_id: UUID
    ) -> None:
        task_runs.record(db, [frame(flow_run_id, 0), frame(flow_run_id, 0, "Completed")])
        run = only(task_runs.find(db))
        last = task_runs.history(db, run.id)[-1]
        assert (run.state_id, run.state_timestamp) == (last.id, last.timestamp)

    def test_a_repetition_moves_nothing(self, db: Backend, flow_run_id: UUID) -> None:
        frames = [frame(flow_run_id, 0), frame(flow_run_id, 0, "Completed")]
        task_runs.record(db, frames)
        before = dump(db)
        assert task_runs.record(db, [*frames[::-1], *frames]) == 0
        assert dump(db) == before

    def test_their_order_in_a_batch_does_not_matter(self, db: Backend) -> None:
        flow_id = flows.create(db, "etl").id
        ids = sorted(uuid4() for _ in range(2))
        last = set()
        for turned in (False, True):
            flow_run_id = flow_runs.create(db, flow_id).id
            frames = [
                frame(flow_run_id, 0, id=uuid5(ids[0], str(flow_run_id))),
                frame(flow_run_id, 0, "Completed", id=uuid5(ids[1], str(flow_run_id))),
            ]
            # Equal in time, they can only be told apart by their ids.
            frames.sort(key=lambda each: str(each["id"]))
            names = {each["id"]: at for at, each in enumerate(frames)}
            task_runs.record(db, frames[::-1] if turned else frames)
            run = task_runs.get(db, task_run_id(frames[0]))
            assert run is not None
            last.add(names[str(run.state_id)])
        assert len(last) == 1


class TestAllOrNothing:
    def test_a_flow_run_that_is_not_there(self, db: Backend, flow_run_id: UUID) -> None:
        task_runs.record(db, [frame(flow_run_id, 0)])
        before = dump(db)
        with pytest.raises(ForeignKeyViolation):
            task_runs.record(db, [frame(flow_run_id, 1), frame(uuid4(), 1)])
        assert dump(db) == before

    def test_it_can_be_recorded_once_the_flow_run_is_there(self, db: Backend) -> None:
        told = frame(uuid4(), 0)
        with pytest.raises(ForeignKeyViolation):
            task_runs.record(db, [told])
        flow_run = UUID(told["related"][1]["prefect.resource.id"][-36:])
        flow_runs.create(db, flows.create(db, "etl").id, id=flow_run)
        assert task_runs.record(db, [told]) == 1

    def test_a_bad_event_among_good_ones(self, db: Backend, flow_run_id: UUID) -> None:
        bad = frame(flow_run_id, 1, task=1)
        del bad["payload"]["validated_state"]
        with pytest.raises(BadValue):
            task_runs.record(db, [frame(flow_run_id, 0), bad])
        assert task_runs.count(db) == 0

    def test_a_caller_that_rolls_back(self, db: Backend, flow_run_id: UUID) -> None:
        with db.transaction() as txn:
            task_runs.record(txn, story(flow_run_id, 0, 1, "Completed"))
            txn.rollback()
        assert task_runs.count(db) == 0


def with_payload(told: Frame, **changes: Any) -> Frame:
    return {**told, "payload": {**told["payload"], **changes}}


def with_state(told: Frame, **changes: Any) -> Frame:
    state = {**told["payload"]["validated_state"], **changes}
    return with_payload(told, validated_state=state)


def with_task_run(told: Frame, **changes: Any) -> Frame:
    return with_payload(told, task_run={**told["payload"]["task_run"], **changes})


def without(told: Frame, part: str, key: str) -> Frame:
    left = {name: value for name, value in told["payload"][part].items() if name != key}
    return with_payload(told, **{part: left})


def with_related(told: Frame, flow_run: str) -> Frame:
    labels = {"prefect.resource.id": flow_run, "prefect.resource.role": "flow-run"}
    return {**told, "related": [labels]}


BAD: Final[list[tuple[str, Callable[[Frame], Frame]]]] = [
    ("no payload", lambda told: {**told, "payload": {}}),
    ("no task run", lambda told: with_payload(told, task_run=None)),
    ("text as a task run", lambda told: with_payload(told, task_run="x")),
    ("no state", lambda told: with_payload(told, validated_state=None)),
    ("no state type", lambda told: without(told, "validated_state", "type")),
    ("unknown state type", lambda told: with_state(told, type="DONE")),
    ("number as a state name", lambda told: with_state(told, name=5)),
    ("number as a message", lambda told: with_state(told, message=5)),
    ("unknown detail", lambda told: with_state(told, state_details={"unknown": 1})),
    ("text as details", lambda told: with_state(told, state_details="x")),
    ("no id as a state id", lambda told: with_state(told, id="x")),
    ("state time without zone", lambda told: with_state(told, timestamp="2030-01-01T00:00:00")),
    ("NUL in a message", lambda told: with_state(told, message="a\0")),
    ("NUL in data", lambda told: with_state(told, data={"a": ["\0"]})),
    ("NaN in data", lambda told: with_state(told, data={"a": float("nan")})),
    ("no name", lambda told: without(told, "task_run", "name")),
    ("no task key", lambda told: without(told, "task_run", "task_key")),
    ("no dynamic key", lambda told: without(told, "task_run", "dynamic_key")),
    ("null name", lambda told: with_task_run(told, name=None)),
    ("number as a dynamic key", lambda told: with_task_run(told, dynamic_key=5)),
    ("number as a cache key", lambda told: with_task_run(told, cache_key=5)),
    ("number as a version", lambda told: with_task_run(told, task_version=5)),
    ("surrogate in a name", lambda told: with_task_run(told, name="\ud800")),
    ("text as a run count", lambda told: with_task_run(told, run_count="x")),
    ("null run count", lambda told: with_task_run(told, run_count=None)),
    ("run count of 33 bits", lambda told: with_task_run(told, run_count=2**32)),
    ("run count of 65 bits", lambda told: with_task_run(told, run_count=2**64)),
    ("text as tags", lambda told: with_task_run(told, tags="x")),
    ("number as tags", lambda told: with_task_run(told, tags=5)),
    ("null tags", lambda told: with_task_run(told, tags=None)),
    ("text as labels", lambda told: with_task_run(told, labels="x")),
    ("text as inputs", lambda told: with_task_run(told, task_inputs="x")),
    ("null inputs", lambda told: with_task_run(told, task_inputs=None)),
    ("text as a policy", lambda told: with_task_run(told, empirical_policy="x")),
    ("text as a duration", lambda told: with_task_run(told, total_run_time="x")),
    ("null duration", lambda told: with_task_run(told, total_run_time=None)),
    ("NaN as a duration", lambda told: with_task_run(told, total_run_time=float("nan"))),
    ("endless duration", lambda told: with_task_run(told, total_run_time=float("inf"))),
    ("duration of 30,000 years", lambda told: with_task_run(told, total_run_time=1e12)),
    ("no time as a start time", lambda told: with_task_run(told, start_time="soon")),
    ("number as a start time", lambda told: with_task_run(told, start_time=5)),
    ("start time without zone", lambda told: with_task_run(told, start_time="2030-01-01T00:00")),
    ("no id as a task run id", lambda told: with_task_run(told, id="x")),
    ("no id as a flow run id", lambda told: with_task_run(told, flow_run_id="x")),
    ("flow run without id", lambda told: with_related(told, "prefect.flow-run.")),
    ("no flow run", lambda told: with_related(told, f"prefect.flow.{uuid4()}")),
    (
        "resource that is no task run",
        lambda told: {
            **told,
            "resource": {**told["resource"], "prefect.resource.id": f"prefect.flow-run.{uuid4()}"},
        },
    ),
    ("no event id", lambda told: {**told, "id": None}),
    ("event time without zone", lambda told: {**told, "occurred": "2030-01-01T00:00:00"}),
]


@pytest.mark.parametrize("spoil", [pytest.param(spoil, id=name) for name, spoil in BAD])
def test_a_bad_payload_is_refused_and_leaves_nothing(
    db: Backend, flow_run_id: UUID, spoil: Callable[[Frame], Frame]
) -> None:
    before = dump(db)
    with pytest.raises(BadValue):
        task_runs.record(db, [frame(flow_run_id, 0, task=1), spoil(frame(flow_run_id, 0))])
    assert dump(db) == before


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


class TestConcurrency:
    def test_threads_that_record_one_stream_record_it_once(
        self, db: Backend, pool: ThreadPoolExecutor, flow_run_id: UUID
    ) -> None:
        frames = [told for task in range(20) for told in story(flow_run_id, task, 1, "Completed")]

        def work(batch: int) -> int:
            return sum(
                task_runs.record(db, frames[start : start + batch])
                for start in range(0, len(frames), batch)
            )

        recorded = list(pool.map(work, [7, 7]))
        assert_recorded(db, frames)
        assert sum(recorded) == len(frames)

    def test_threads_that_record_it_in_different_orders_do_not_disturb_each_other(
        self, db: Backend, pool: ThreadPoolExecutor, flow_run_id: UUID
    ) -> None:
        frames = [told for task in range(30) for told in story(flow_run_id, task, 1, "Failed")]

        def work(seed: int) -> None:
            own = random.Random(seed).sample(frames, len(frames))
            for start in range(0, len(own), 30):
                task_runs.record(db, own[start : start + 30])

        list(pool.map(work, range(8)))
        assert_recorded(db, frames)

    def test_one_that_waited_for_the_same_events_records_none(
        self, db: Backend, pool: ThreadPoolExecutor, flow_run_id: UUID
    ) -> None:
        frames = story(flow_run_id, 0, 0, "Completed")
        with db.transaction() as txn:
            task_runs.record(txn, frames)
            waiter = pool.submit(task_runs.record, db, frames)
            wait_until(lambda: waiter.done() or waiting(db) > 0)
        assert waiter.result() == 0
        assert_recorded(db, frames)

    def test_one_that_waited_sees_that_its_time_was_taken(
        self, db: Backend, pool: ThreadPoolExecutor, flow_run_id: UUID
    ) -> None:
        with db.transaction() as txn:
            task_runs.record(txn, [frame(flow_run_id, 0)])
            told = frame(flow_run_id, 0, "Completed")
            waiter = pool.submit(task_runs.record, db, [told])
            wait_until(lambda: waiter.done() or waiting(db) > 0)
        assert waiter.result() == 1
        times = [state.timestamp for state in task_runs.history(db, task_run_id(told))]
        assert times == [at(0), at(0.000001)]

    def test_one_that_waited_for_another_id_of_its_run_adds_to_that(
        self, db: Backend, pool: ThreadPoolExecutor, flow_run_id: UUID
    ) -> None:
        first, second = frame(flow_run_id, 0), frame(flow_run_id, 1, "Completed")
        second["resource"]["prefect.resource.id"] = f"prefect.task-run.{uuid4()}"
        with db.transaction() as txn:
            task_runs.record(txn, [first])
            waiter = pool.submit(task_runs.record, db, [second])
            wait_until(lambda: waiter.done() or waiting(db) > 0)
        assert waiter.result() == 1
        run = only(task_runs.find(db))
        assert (run.id, run.state_id) == (task_run_id(first), UUID(second["id"]))
        named = {each.state_details["task_run_id"] for each in task_runs.history(db, run.id)}
        assert named == {str(run.id)}
        assert len(task_runs.history(db, run.id)) == 2

    def test_recording_and_setting_states_of_one_run_do_not_disturb_each_other(
        self, db: Backend, pool: ThreadPoolExecutor, flow_run_id: UUID
    ) -> None:
        told = frame(flow_run_id, 0, "Pending")
        task_runs.record(db, [told])

        def work(number: int) -> State | int:
            if number % 2:
                return task_runs.set_state(db, task_run_id(told), states.running())
            return task_runs.record(db, [frame(flow_run_id, 100 + number)])

        list(pool.map(work, range(40)))
        run = only(task_runs.find(db))
        kept = task_runs.history(db, run.id)
        assert len(kept) == 41
        assert run.state_id in {state.id for state in kept}
