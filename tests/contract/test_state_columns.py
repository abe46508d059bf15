"""`StateColumns.enter` and what is stored agree: on PostgreSQL the rule is there in SQL, too."""

from __future__ import annotations

import random
from copy import copy
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import product
from typing import Any, Final, Literal
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prefect_db import Backend, Queryable, flow_runs, flows, states, task_runs
from prefect_db.states import State, StateColumns, StateType

Kind = Literal["flow_run", "task_run"]

NOON: Final = datetime(2030, 1, 1, 12, tzinfo=UTC)
BEFORE: Final = [None, *StateType]
ASSIGNMENTS: Final = ", ".join(f"{name} = ?" for name in StateColumns.columns.split(", "))


def at(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


@pytest.fixture(params=["flow_run", "task_run"])
def kind(request: pytest.FixtureRequest) -> Kind:
    chosen: Kind = request.param
    return chosen


def new_run(db: Queryable, kind: Kind) -> tuple[UUID, UUID]:
    """A run, and its state: a row that `state_id` can name."""
    run: Any = flow_runs.create(db, flows.create(db, "etl").id, state=states.pending())
    if kind == "task_run":
        run = task_runs.create(db, "a", "a", "0", flow_run_id=run.id, state=states.pending())
    return run.id, run.state_id


def set_state(db: Queryable, kind: Kind, run_id: UUID, state: State) -> State:
    change = flow_runs.set_state if kind == "flow_run" else task_runs.set_state
    return change(db, run_id, state)


def check(db: Queryable, kind: Kind, run_id: UUID, before: StateColumns, state: State) -> None:
    """Enter the state from these columns, and compare what is stored with the rule."""
    db.execute(f"UPDATE {kind} SET {ASSIGNMENTS} WHERE id = ?", (*before.params(), run_id))
    expected = copy(before)
    expected.enter(set_state(db, kind, run_id, state))
    stored = db.row(
        f"SELECT {StateColumns.columns} FROM {kind} WHERE id = ?", (run_id,), into=StateColumns
    )
    assert stored == expected, (before, state)


def proposed(type: StateType, timestamp: datetime, due: datetime) -> State:
    details = {"scheduled_time": due} if type is StateType.SCHEDULED else {}
    return replace(states.make(type, details=details), timestamp=timestamp)


def test_any_type_after_any_other(db: Backend, kind: Kind) -> None:
    """With and without the row of the former state, resuming or not; the rest in all ways that
    chance, always the same one, comes upon."""
    chance = random.Random(0)
    policies: list[dict[str, Any]] = [
        {"retries": 1},
        {"resuming": True, "pause_keys": ["a"]},
        {"resuming": False},
        {"resuming": None},
    ]
    with db.transaction() as txn:
        run_id, state_id = new_run(txn, kind)
        for type, after, row, policy in product(BEFORE, StateType, (True, False), policies):
            before = StateColumns(
                state_id=state_id if row else None,
                state_type=type,
                state_name=None if type is None else "Before",
                state_timestamp=None if type is None else at(chance.randrange(-9, 9)),
                run_count=chance.randrange(3),
                expected_start_time=chance.choice([None, at(-100)]),
                next_scheduled_start_time=chance.choice([None, at(100)]),
                start_time=chance.choice([None, at(-50)]),
                end_time=chance.choice([None, at(-10)]),
                total_run_time=timedelta(seconds=chance.randrange(-3, 3)),
                empirical_policy=policy,
            )
            check(txn, kind, run_id, before, proposed(after, at(chance.uniform(-9, 9)), at(60)))
        txn.rollback()


moments = st.datetimes(
    datetime(1990, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC), allow_imaginary=False
)


@settings(
    deadline=None,
    max_examples=100,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    before=st.builds(
        StateColumns,
        state_id=st.just(None),
        state_type=st.sampled_from(BEFORE),
        state_name=st.sampled_from([None, "", "Before"]),
        state_timestamp=st.none() | moments,
        run_count=st.integers(0, 2**31 - 2),
        expected_start_time=st.none() | moments,
        next_scheduled_start_time=st.none() | moments,
        start_time=st.none() | moments,
        end_time=st.none() | moments,
        total_run_time=st.timedeltas(timedelta(days=-90), timedelta(days=90)),
        empirical_policy=st.dictionaries(
            st.sampled_from(["resuming", "retries"]), st.sampled_from([None, True, False, 1, "a"])
        ),
    ),
    has_row=st.booleans(),
    after=st.sampled_from(StateType),
    timestamp=moments,
    due=moments,
)
def test_any_columns(
    db: Backend,
    kind: Kind,
    before: StateColumns,
    has_row: bool,
    after: StateType,
    timestamp: datetime,
    due: datetime,
) -> None:
    with db.transaction() as txn:
        run_id, state_id = new_run(txn, kind)
        before = replace(before, state_id=state_id if has_row else None)
        check(txn, kind, run_id, before, proposed(after, timestamp, due))
        txn.rollback()


@pytest.mark.parametrize(
    ("total", "seconds"),
    [(0, 6), (0, -6), (3 * 3600, 23 * 3600), (-1, 90_000.25), (-200_000, 1), (86_400, -86_400)],
)
def test_a_duration_is_stored_as_its_timedelta_would_be(
    db: Backend, kind: Kind, total: int, seconds: float
) -> None:
    """As Prefect, which adds it up in Python, has it: PostgreSQL itself would not make days of
    hours, nor a negative day of negative hours."""
    run_id, _ = new_run(db, kind)
    set_state(db, kind, run_id, proposed(StateType.RUNNING, at(0), at(0)))
    db.execute(f"UPDATE {kind} SET total_run_time = ?", (timedelta(seconds=total),))
    set_state(db, kind, run_id, proposed(StateType.PAUSED, at(seconds), at(0)))
    text = f"SELECT CAST(total_run_time AS text) FROM {kind}"
    stored = db.value(text)
    db.execute(f"UPDATE {kind} SET total_run_time = ?", (timedelta(seconds=total + seconds),))
    assert stored == db.value(text)
