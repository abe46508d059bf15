"""States and the columns of a run that follow from them, without a database."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from uuid import UUID

import pytest

from prefect_db import BadValue, states
from prefect_db.states import (
    FLOW_RUN_POLICY,
    TASK_RUN_POLICY,
    TERMINAL,
    State,
    StateColumns,
    StateType,
    complete_details,
    complete_policy,
)

ID = UUID("0194d7a0-0000-7000-8000-0000000000ab")
NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)

CONSTRUCTORS: dict[StateType, tuple[Callable[..., State], str]] = {
    StateType.SCHEDULED: (states.scheduled, "Scheduled"),
    StateType.PENDING: (states.pending, "Pending"),
    StateType.RUNNING: (states.running, "Running"),
    StateType.COMPLETED: (states.completed, "Completed"),
    StateType.FAILED: (states.failed, "Failed"),
    StateType.CANCELLED: (states.cancelled, "Cancelled"),
    StateType.CRASHED: (states.crashed, "Crashed"),
    StateType.PAUSED: (states.paused, "Paused"),
    StateType.CANCELLING: (states.cancelling, "Cancelling"),
}

# As Prefect stores a state that nobody gave details for, in its order.
NO_DETAILS = {
    "flow_run_id": None,
    "task_run_id": None,
    "child_flow_run_id": None,
    "scheduled_time": None,
    "cache_key": None,
    "cache_expiration": None,
    "deferred": False,
    "untrackable_result": False,
    "pause_timeout": None,
    "pause_reschedule": False,
    "pause_key": None,
    "run_input_keyset": None,
    "refresh_cache": None,
    "retriable": None,
    "transition_id": None,
    "task_parameters_id": None,
    "traceparent": None,
    "deployment_concurrency_lease_id": None,
}


def at(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


def test_the_state_types_are_those_of_prefect_in_the_order_of_its_enum() -> None:
    assert [str(type) for type in StateType] == [
        "SCHEDULED",
        "PENDING",
        "RUNNING",
        "COMPLETED",
        "FAILED",
        "CANCELLED",
        "CRASHED",
        "PAUSED",
        "CANCELLING",
    ]


def test_four_types_are_terminal() -> None:
    assert {str(type) for type in TERMINAL} == {"COMPLETED", "FAILED", "CANCELLED", "CRASHED"}


@pytest.mark.parametrize("type", StateType)
def test_each_type_has_a_constructor_that_names_the_state_after_it(type: StateType) -> None:
    construct, name = CONSTRUCTORS[type]
    state = construct()
    assert (state.type, state.name) == (type, name)


@pytest.mark.parametrize("type", StateType)
def test_a_constructor_takes_name_message_data_and_details(type: StateType) -> None:
    state = CONSTRUCTORS[type][0](
        name="Named", message="why", data={"a": 1}, details={"cache_key": "k"}
    )
    assert (state.name, state.message, state.data) == ("Named", "why", {"a": 1})
    assert state.state_details["cache_key"] == "k"


@pytest.mark.parametrize("type", StateType)
def test_a_constructor_is_called_what_it_makes(type: StateType) -> None:
    assert CONSTRUCTORS[type][0].__name__ == type.lower()


def test_a_name_may_be_empty() -> None:
    assert states.running(name="").name == ""


def test_a_state_has_no_message_and_no_data_unless_given() -> None:
    state = states.pending()
    assert (state.message, state.data) == (None, None)


def test_a_state_has_a_new_time_ordered_id() -> None:
    ids = {states.pending().id for _ in range(100)}
    assert len(ids) == 100
    assert {id.version for id in ids} == {7}


def test_a_state_has_now_as_its_time() -> None:
    before = datetime.now(UTC)
    state = states.pending()
    assert before <= state.timestamp <= datetime.now(UTC)


@pytest.mark.parametrize("type", ["RUNNING", StateType.RUNNING])
def test_a_type_may_be_given_by_its_value(type: Any) -> None:
    assert states.make(type).type is StateType.RUNNING


@pytest.mark.parametrize("type", ["running", "", None, 5])
def test_another_type_is_refused(type: Any) -> None:
    with pytest.raises(BadValue, match="no state type; there are SCHEDULED, PENDING"):
        states.make(type)


def test_a_scheduled_state_keeps_its_time() -> None:
    state = states.scheduled(NOON)
    assert state.state_details["scheduled_time"] == "2030-01-01T12:00:00Z"


def test_a_scheduled_state_takes_its_time_from_the_details_too() -> None:
    state = states.scheduled(details={"scheduled_time": NOON})
    assert state.state_details["scheduled_time"] == "2030-01-01T12:00:00Z"


def test_a_scheduled_state_without_time_is_due_at_its_own() -> None:
    state = states.scheduled()
    assert datetime.fromisoformat(state.state_details["scheduled_time"]) == state.timestamp


def test_only_a_scheduled_state_gets_a_scheduled_time_by_itself() -> None:
    others = [type for type in StateType if type is not StateType.SCHEDULED]
    assert {states.make(type).state_details["scheduled_time"] for type in others} == {None}


def test_details_have_all_keys_in_the_order_of_prefect() -> None:
    assert list(complete_details({}).items()) == list(NO_DETAILS.items())


def test_given_details_do_not_change_the_order_of_keys() -> None:
    details = complete_details({"traceparent": "00-a", "flow_run_id": ID})
    assert list(details) == list(NO_DETAILS)


def test_given_details_are_left_as_they_are() -> None:
    given = {"flow_run_id": ID}
    states.pending(details=given)
    assert given == {"flow_run_id": ID}


def test_a_detail_that_nobody_knows_is_refused_by_name() -> None:
    with pytest.raises(BadValue, match="state_details has no flow_run; it has flow_run_id"):
        complete_details({"flow_run": ID})


@pytest.mark.parametrize("key", NO_DETAILS)
def test_a_detail_that_is_null_stays_null(key: str) -> None:
    """Even `deferred`, whose default is false: Prefect keeps a client's null."""
    assert complete_details({key: None})[key] is None


ID_KEYS = [
    "flow_run_id",
    "task_run_id",
    "child_flow_run_id",
    "transition_id",
    "task_parameters_id",
    "deployment_concurrency_lease_id",
]
TIME_KEYS = ["scheduled_time", "cache_expiration", "pause_timeout"]


@pytest.mark.parametrize("key", ID_KEYS)
@pytest.mark.parametrize("given", [ID, str(ID), str(ID).upper(), ID.hex])
def test_an_id_in_details_becomes_its_text(key: str, given: Any) -> None:
    assert complete_details({key: given})[key] == "0194d7a0-0000-7000-8000-0000000000ab"


@pytest.mark.parametrize("key", ID_KEYS)
@pytest.mark.parametrize("given", ["no id", "", 5, [str(ID)]])
def test_what_is_no_id_is_refused_in_details(key: str, given: Any) -> None:
    with pytest.raises(BadValue, match="no UUID"):
        complete_details({key: given})


@pytest.mark.parametrize("key", TIME_KEYS)
@pytest.mark.parametrize(
    ("given", "text"),
    [
        (NOON, "2030-01-01T12:00:00Z"),
        (NOON + timedelta(milliseconds=500), "2030-01-01T12:00:00.500000Z"),
        (NOON + timedelta(microseconds=1), "2030-01-01T12:00:00.000001Z"),
        (NOON.astimezone(timezone(timedelta(hours=-7))), "2030-01-01T05:00:00-07:00"),
        ("2030-01-01T12:00:00Z", "2030-01-01T12:00:00Z"),
        ("2030-01-01T14:00:00.5+02:00", "2030-01-01T14:00:00.500000+02:00"),
        ("2030-01-01 12:00:00+00:00", "2030-01-01T12:00:00Z"),
    ],
)
def test_a_time_in_details_becomes_iso_text_in_its_zone(key: str, given: Any, text: str) -> None:
    assert complete_details({key: given})[key] == text


@pytest.mark.parametrize("key", TIME_KEYS)
@pytest.mark.parametrize(
    "given", [datetime(2030, 1, 1), "2030-01-01T12:00:00", "2030-01-01", "soon", "", 0]
)
def test_what_is_no_moment_is_refused_in_details(key: str, given: Any) -> None:
    with pytest.raises(BadValue):
        complete_details({key: given})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("cache_key", "k"),
        ("deferred", True),
        ("untrackable_result", True),
        ("pause_reschedule", True),
        ("pause_key", "p"),
        ("run_input_keyset", {"response": "r", "schema": "s"}),
        ("refresh_cache", False),
        ("retriable", False),
        ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
    ],
)
def test_any_other_detail_is_kept_as_it_is(key: str, value: Any) -> None:
    assert complete_details({key: value})[key] == value


def test_a_flow_runs_policy_has_the_keys_of_prefect_in_its_order() -> None:
    assert list(complete_policy(None, FLOW_RUN_POLICY).items()) == [
        ("max_retries", 0),
        ("retry_delay_seconds", 0.0),
        ("retries", None),
        ("retry_delay", None),
        ("pause_keys", []),
        ("resuming", False),
        ("retry_type", None),
    ]


def test_a_task_runs_policy_has_the_keys_of_prefect_in_its_order() -> None:
    assert list(complete_policy({}, TASK_RUN_POLICY).items()) == [
        ("max_retries", 0),
        ("retry_delay_seconds", 0.0),
        ("retries", None),
        ("retry_delay", None),
        ("retry_jitter_factor", None),
    ]


def test_a_given_policy_wins_in_the_order_of_prefect() -> None:
    policy = complete_policy({"retry_delay": [1, 2], "retries": 2}, TASK_RUN_POLICY)
    assert list(policy.items())[2:4] == [("retries", 2), ("retry_delay", [1, 2])]


def test_a_set_in_a_policy_becomes_a_list() -> None:
    policy = complete_policy({"pause_keys": {"b", "a"}}, FLOW_RUN_POLICY)
    assert policy["pause_keys"] == ["a", "b"]


def test_pause_keys_are_texts() -> None:
    with pytest.raises(BadValue):
        complete_policy({"pause_keys": {1, "a"}}, FLOW_RUN_POLICY)


def test_changing_a_policy_does_not_change_the_next_one() -> None:
    complete_policy(None, FLOW_RUN_POLICY)["pause_keys"].append("paused")
    try:
        assert complete_policy(None, FLOW_RUN_POLICY)["pause_keys"] == []
    finally:
        FLOW_RUN_POLICY["pause_keys"] = []


# The matrix: a run in `before` since noon, entering `after` ten seconds later; a scheduled state
# is due 60 seconds after its own time.
BEFORE: list[StateType | None] = [None, *StateType]


def entering(type: StateType, seconds: float) -> State:
    details = {"scheduled_time": at(seconds + 60)} if type is StateType.SCHEDULED else {}
    return replace(states.make(type, details=details), timestamp=at(seconds))


def entered(before: StateType | None, after: StateType) -> StateColumns:
    columns = StateColumns(empirical_policy=complete_policy(None, FLOW_RUN_POLICY))
    if before is not None:
        columns.enter(entering(before, 0))
    columns.enter(entering(after, 10))
    return columns


matrix = pytest.mark.parametrize(
    ("before", "after"), [(before, after) for before in BEFORE for after in StateType]
)


@matrix
def test_the_current_state_is_always_the_new_one(
    before: StateType | None, after: StateType
) -> None:
    columns = StateColumns()
    if before is not None:
        columns.enter(entering(before, 0))
    state = replace(entering(after, 10), name="Named")
    columns.enter(state)
    assert (columns.state_id, columns.state_type, columns.state_name, columns.state_timestamp) == (
        state.id,
        after,
        "Named",
        at(10),
    )


@matrix
def test_start_time_is_that_of_the_first_running_or_terminal_state(
    before: StateType | None, after: StateType
) -> None:
    starting = {StateType.RUNNING, *TERMINAL}
    expected = at(0) if before in starting else at(10) if after in starting else None
    assert entered(before, after).start_time == expected


@matrix
def test_end_time_is_that_of_the_first_of_the_last_terminal_states(
    before: StateType | None, after: StateType
) -> None:
    ended = at(0) if before in TERMINAL else at(10)
    assert entered(before, after).end_time == (ended if after in TERMINAL else None)


@matrix
def test_total_run_time_grows_on_leaving_running(
    before: StateType | None, after: StateType
) -> None:
    seconds = 10 if before is StateType.RUNNING else 0
    assert entered(before, after).total_run_time == timedelta(seconds=seconds)


@matrix
def test_expected_start_time_is_set_by_the_first_state_alone(
    before: StateType | None, after: StateType
) -> None:
    first, seconds = (after, 10) if before is None else (before, 0)
    expected = seconds + 60 if first is StateType.SCHEDULED else seconds
    assert entered(before, after).expected_start_time == at(expected)


@matrix
def test_next_scheduled_start_time_is_that_of_a_current_scheduled_state(
    before: StateType | None, after: StateType
) -> None:
    expected = at(70) if after is StateType.SCHEDULED else None
    assert entered(before, after).next_scheduled_start_time == expected


@matrix
def test_run_count_is_that_of_running_states(before: StateType | None, after: StateType) -> None:
    expected = [before, after].count(StateType.RUNNING)
    assert entered(before, after).run_count == expected


@pytest.mark.parametrize("after", [type for type in StateType if type is not StateType.SCHEDULED])
def test_next_scheduled_start_time_stays_unless_a_scheduled_state_is_left(after: StateType) -> None:
    columns = StateColumns(next_scheduled_start_time=at(99))
    columns.enter(entering(StateType.PENDING, 0))
    columns.enter(entering(after, 10))
    assert columns.next_scheduled_start_time == at(99)


@pytest.mark.parametrize("after", StateType)
def test_resuming_ends_with_a_running_or_terminal_state(after: StateType) -> None:
    columns = StateColumns(empirical_policy=complete_policy({"resuming": True}, FLOW_RUN_POLICY))
    columns.enter(entering(after, 0))
    still = after not in {StateType.RUNNING, *TERMINAL}
    assert columns.empirical_policy["resuming"] is still


@pytest.mark.parametrize(("resuming", "count"), [(True, 0), (False, 1), (None, 1)])
def test_a_resuming_run_is_not_counted_again(resuming: bool | None, count: int) -> None:
    policy = complete_policy({"resuming": resuming}, FLOW_RUN_POLICY)
    columns = StateColumns(empirical_policy=policy)
    columns.enter(entering(StateType.RUNNING, 0))
    assert columns.run_count == count


def test_the_end_of_resuming_leaves_the_given_policy_alone() -> None:
    policy = complete_policy({"resuming": True}, FLOW_RUN_POLICY)
    StateColumns(empirical_policy=policy).enter(entering(StateType.RUNNING, 0))
    assert policy["resuming"] is True


def test_an_older_state_counts_backwards() -> None:
    columns = StateColumns()
    columns.enter(entering(StateType.RUNNING, 10))
    columns.enter(entering(StateType.COMPLETED, 4))
    assert (columns.total_run_time, columns.end_time, columns.state_timestamp) == (
        timedelta(seconds=-6),
        at(4),
        at(4),
    )


def test_a_run_whose_state_was_deleted_counts_as_one_without() -> None:
    columns = StateColumns()
    columns.enter(entering(StateType.RUNNING, 0))
    columns.state_id = None
    columns.enter(entering(StateType.PENDING, 10))
    assert columns.total_run_time == timedelta()


def columns(
    type: StateType | None,
    *,
    since: float | None = None,
    expected: float | None = None,
    start: float | None = None,
    total: float = 0,
) -> StateColumns:
    return StateColumns(
        state_type=type,
        state_timestamp=None if since is None else at(since),
        expected_start_time=None if expected is None else at(expected),
        start_time=None if start is None else at(start),
        total_run_time=timedelta(seconds=total),
    )


@pytest.mark.parametrize(
    ("run", "seconds"),
    [
        pytest.param(columns(None), 0, id="no state"),
        pytest.param(columns(StateType.RUNNING, since=40, total=3), 63, id="running"),
        pytest.param(columns(StateType.COMPLETED, since=40, total=3), 3, id="ended"),
        pytest.param(columns(StateType.PAUSED, since=40, total=3), 3, id="paused"),
        pytest.param(columns(StateType.RUNNING, since=130, total=3), -27, id="clock behind"),
    ],
)
def test_estimated_run_time(run: StateColumns, seconds: float) -> None:
    assert states.estimated_run_time(run, at(100)) == timedelta(seconds=seconds)


@pytest.mark.parametrize(
    ("run", "seconds"),
    [
        pytest.param(columns(None), 0, id="no expectation"),
        pytest.param(columns(None, expected=40), 60, id="no state, late"),
        pytest.param(columns(StateType.SCHEDULED, expected=40), 60, id="late"),
        pytest.param(columns(StateType.SCHEDULED, expected=140), 0, id="not yet"),
        pytest.param(columns(StateType.PENDING, expected=100), 0, id="now"),
        pytest.param(columns(StateType.RUNNING, expected=40, start=55), 15, id="started late"),
        pytest.param(columns(StateType.RUNNING, expected=40, start=30), 0, id="started early"),
        pytest.param(columns(StateType.CANCELLED, expected=40), 0, id="never started"),
        pytest.param(columns(StateType.FAILED, expected=40, start=50), 10, id="ended"),
    ],
)
def test_estimated_start_time_delta(run: StateColumns, seconds: float) -> None:
    assert states.estimated_start_time_delta(run, at(100)) == timedelta(seconds=seconds)
