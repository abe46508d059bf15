"""States, and the columns of a run that follow from them. Pure: no SQL, no clock but in `make`.

Rules: Prefect's server, schemas/states.py and orchestration/global_policy.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from itertools import compress, repeat
from operator import is_not, itemgetter
from typing import Any, Final, Protocol
from uuid import UUID

from prefect_db.errors import BadValue
from prefect_db.ids import uuid7
from prefect_db.row import Record
from prefect_db.values import check_text, to_datetime, to_uuid, uuid_text


class StateType(StrEnum):
    """The kinds of states, in the order that PostgreSQL sorts them."""

    SCHEDULED = "SCHEDULED"
    PENDING = "PENDING"
    RUNNING = "RUNNING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    CRASHED = "CRASHED"
    PAUSED = "PAUSED"
    CANCELLING = "CANCELLING"


def to_type(value: Any) -> StateType:
    """The state type of a client's: one itself, or its text.

    Raises:
        BadValue: There is no such type.
    """
    try:
        return value if type(value) is StateType else StateType(value)
    except ValueError as error:
        raise BadValue(f"{value!r} is no state type; there are {', '.join(StateType)}") from error


TERMINAL: Final = frozenset(
    {StateType.COMPLETED, StateType.FAILED, StateType.CANCELLED, StateType.CRASHED}
)


@dataclass(slots=True)
class State(Record):
    """One state of a flow run or task run.

    Attributes:
        state_details: Prefect's 18 keys, see `complete_details`.
        data: A result's metadata or value, as JSON; None if there is none.
    """

    id: UUID
    type: StateType
    name: str
    timestamp: datetime
    message: str | None
    state_details: dict[str, Any]
    data: Any


def make(
    type: StateType,
    *,
    name: str | None = None,
    message: str | None = None,
    data: Any = None,
    details: Mapping[str, Any] | None = None,
) -> State:
    """A new state, with an id and now as its time.

    Args:
        type: Its kind.
        name: What it is called; the kind in words, as in `Cancelling`, if not given.
        message: Free text.
        data: What a run returned, as JSON, or Prefect's record of where it is stored.
        details: Any of the keys of `complete_details`; a scheduled state without a
            `scheduled_time` gets now.

    Raises:
        BadValue: See `complete_details`.
    """
    type = to_type(type)
    now = datetime.now(UTC)
    complete = complete_details(details or {}, now if type is StateType.SCHEDULED else None)
    return State(
        id=uuid7(),
        type=type,
        name=name if name is not None else type.capitalize(),
        timestamp=now,
        message=message,
        state_details=complete,
        data=data,
    )


def scheduled(
    scheduled_time: datetime | None = None,
    *,
    name: str | None = None,
    message: str | None = None,
    data: Any = None,
    details: Mapping[str, Any] | None = None,
) -> State:
    """To run at `scheduled_time`, by default now. See `make`."""
    merged = dict(details or {})
    if scheduled_time is not None:
        merged["scheduled_time"] = scheduled_time
    return make(StateType.SCHEDULED, name=name, message=message, data=data, details=merged)


def _constructor(type: StateType, doc: str) -> Callable[..., State]:
    def construct(
        *,
        name: str | None = None,
        message: str | None = None,
        data: Any = None,
        details: Mapping[str, Any] | None = None,
    ) -> State:
        return make(type, name=name, message=message, data=data, details=details)

    construct.__name__ = construct.__qualname__ = type.lower()
    construct.__doc__ = f"{doc} See `make`."
    return construct


pending = _constructor(StateType.PENDING, "Accepted, about to run.")
running = _constructor(StateType.RUNNING, "At work.")
completed = _constructor(StateType.COMPLETED, "Ended well.")
failed = _constructor(StateType.FAILED, "Ended with an error.")
cancelled = _constructor(StateType.CANCELLED, "Ended because somebody asked.")
crashed = _constructor(StateType.CRASHED, "Ended because its infrastructure did.")
paused = _constructor(StateType.PAUSED, "Waiting to be resumed.")
cancelling = _constructor(StateType.CANCELLING, "Asked to end.")


def _iso(value: Any) -> str:
    moment = to_datetime(value)
    # A client's zone is kept here, where columns have UTC.
    given = datetime.fromisoformat(value) if isinstance(value, str) else value
    return (
        (moment if given.utcoffset() == timedelta() else given).isoformat().replace("+00:00", "Z")
    )


def _id_text(value: Any) -> str:
    return uuid_text(to_uuid(value))


def _itself(value: Any) -> Any:
    return value


# Name, default and stored form of each key, in the order in which Prefect stores them.
_DETAILS: Final[dict[str, tuple[Any, Callable[[Any], Any]]]] = {
    "flow_run_id": (None, _id_text),
    "task_run_id": (None, _id_text),
    "child_flow_run_id": (None, _id_text),
    "scheduled_time": (None, _iso),
    "cache_key": (None, _itself),
    "cache_expiration": (None, _iso),
    "deferred": (False, _itself),
    "untrackable_result": (False, _itself),
    "pause_timeout": (None, _iso),
    "pause_reschedule": (False, _itself),
    "pause_key": (None, _itself),
    "run_input_keyset": (None, _itself),
    "refresh_cache": (None, _itself),
    "retriable": (None, _itself),
    "transition_id": (None, _id_text),
    "task_parameters_id": (None, _id_text),
    "traceparent": (None, _itself),
    "deployment_concurrency_lease_id": (None, _id_text),
}


_DEFAULTS: Final = {key: default for key, (default, _) in _DETAILS.items()}
_STORED: Final = tuple((key, to) for key, (_, to) in _DETAILS.items() if to is not _itself)
_stored: Final = itemgetter(*(key for key, _ in _STORED))


def complete_details(given: Mapping[str, Any], due: datetime | None = None) -> dict[str, Any]:
    """All keys of state_details as Prefect stores them: ids as text, times too in their own zone,
    in its order.

    Args:
        given: Any of them.
        due: The `scheduled_time` if none is given, as a scheduled state needs one.

    Raises:
        BadValue: An unknown key, or a value of the wrong kind.
    """
    complete = {**_DEFAULTS, **given}
    if len(complete) > len(_DEFAULTS):
        unknown = [key for key in given if key not in _DEFAULTS]
        raise BadValue(f"state_details has no {', '.join(unknown)}; it has {', '.join(_DEFAULTS)}")
    # Most are None: a loop in C finds those that are not.
    for key, store in compress(_STORED, map(is_not, _stored(complete), repeat(None))):
        complete[key] = store(complete[key])
    if due is not None and complete["scheduled_time"] is None:
        complete["scheduled_time"] = _iso(due)
    return complete


FLOW_RUN_POLICY: Final[dict[str, Any]] = {
    "max_retries": 0,
    "retry_delay_seconds": 0.0,
    "retries": None,
    "retry_delay": None,
    "pause_keys": [],
    "resuming": False,
    "retry_type": None,
}
TASK_RUN_POLICY: Final[dict[str, Any]] = {
    "max_retries": 0,
    "retry_delay_seconds": 0.0,
    "retries": None,
    "retry_delay": None,
    "retry_jitter_factor": None,
}


def complete_policy(given: Mapping[str, Any] | None, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """A run's empirical_policy with all keys, in Prefect's order; a set of `pause_keys` becomes a
    list.

    Raises:
        BadValue: One of a set's pause keys is no text.
    """
    policy = {**defaults, **(given or {})}
    keys = policy.get("pause_keys")
    if isinstance(keys, list):
        policy["pause_keys"] = keys.copy()
    elif isinstance(keys, (set, frozenset)):
        policy["pause_keys"] = sorted(map(check_text, keys))
    return policy


@dataclass(slots=True)
class StateColumns(Record):
    """The columns of a run that follow from its states; the initial values are a new run's.

    On PostgreSQL the rules are those of `state_changes.FOLLOWING`, the same in SQL.
    """

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
    empirical_policy: dict[str, Any] = field(default_factory=dict)

    def enter(self, state: State) -> None:
        """Make the columns follow from entering a state; no order of times is required."""
        # A run whose state row was deleted keeps state_type, and counts as one without a state.
        before = self.state_type if self.state_id is not None else None
        ends = state.type in TERMINAL
        runs = state.type == StateType.RUNNING
        if runs and self.start_time is None:
            self.start_time = state.timestamp
        if before in TERMINAL and not ends:
            self.end_time = None
        if ends and self.end_time is None:
            self.end_time = state.timestamp
            self.start_time = self.start_time or state.timestamp
        if before is StateType.RUNNING and self.state_timestamp is not None:
            self.total_run_time += state.timestamp - self.state_timestamp
        scheduled_time = None
        if state.type == StateType.SCHEDULED:
            scheduled_time = to_datetime(state.state_details["scheduled_time"])
        if self.expected_start_time is None:
            self.expected_start_time = scheduled_time or state.timestamp
        if before is StateType.SCHEDULED or scheduled_time is not None:
            self.next_scheduled_start_time = scheduled_time
        resuming = self.empirical_policy.get("resuming") is True
        if runs and not resuming:
            self.run_count += 1
        if resuming and (runs or ends):
            self.empirical_policy = {**self.empirical_policy, "resuming": False}
        self.state_id = state.id
        self.state_type = state.type
        self.state_name = state.name
        self.state_timestamp = state.timestamp


class Timed(Protocol):
    """What the estimates need of a run: a FlowRun or a TaskRun has it."""

    state_type: StateType | None
    state_timestamp: datetime | None
    expected_start_time: datetime | None
    start_time: datetime | None
    total_run_time: timedelta


def estimated_run_time(run: Timed, now: datetime) -> timedelta:
    """The time that a run has run, with what has passed since it entered RUNNING. Not stored."""
    if run.state_type is StateType.RUNNING and run.state_timestamp is not None:
        return run.total_run_time + (now - run.state_timestamp)
    return run.total_run_time


def estimated_start_time_delta(run: Timed, now: datetime) -> timedelta:
    """How late a run started or, if it should have and has not ended, is. Not stored."""
    expected = run.expected_start_time
    if expected is None:
        return timedelta()
    if run.start_time is not None:
        return max(run.start_time - expected, timedelta())
    if run.state_type in TERMINAL:
        return timedelta()
    return max(now - expected, timedelta())
