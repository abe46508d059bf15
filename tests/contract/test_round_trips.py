"""How many statements a change is; on PostgreSQL, each is a round trip."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

import pytest

from prefect_db import (
    Backend,
    Queryable,
    connect,
    events,
    flow_runs,
    flows,
    observe,
    states,
    task_runs,
)

NOON: Final = datetime(2030, 1, 1, 12, tzinfo=UTC)
FLOW: Final = UUID(int=1)
RUN: Final = UUID(int=2)
TASK: Final = UUID(int=3)
SUBFLOW: Final = UUID(int=4)
EVENT: Final = {"prefect.resource.id": "r"}


@pytest.fixture
def counter() -> observe.Counter:
    return observe.Counter()


@pytest.fixture
def observed(url: str, counter: observe.Counter) -> Iterator[Backend]:
    """A flow, a run of it, a task run in that, and a subflow's run, each in a state since noon."""
    with connect(url, observer=counter) as db:
        flows.create(db, "etl", labels={"a": 1}, id=FLOW)
        state = replace(states.pending(), timestamp=NOON)
        flow_runs.create(db, FLOW, id=RUN, idempotency_key="key", state=state)
        state = replace(states.pending(), timestamp=NOON)
        task_runs.create(db, "a", "a", "0", flow_run_id=RUN, id=TASK, state=state)
        flow_runs.create(db, FLOW, id=SUBFLOW, parent_task_run_id=TASK)
        counter.reset()
        yield db


# On SQLite BEGIN and COMMIT count, too; and a flow's, or flow run's, labels are read before.
@pytest.mark.parametrize(
    ("on_sqlite", "on_postgres", "change"),
    [
        pytest.param(
            5, 1, lambda db: flow_runs.set_state(db, RUN, states.running()), id="flow run"
        ),
        pytest.param(
            6, 1, lambda db: flow_runs.set_state(db, RUN, states.completed(data=1)), id="with data"
        ),
        pytest.param(
            5, 1, lambda db: task_runs.set_state(db, TASK, states.running()), id="task run"
        ),
        pytest.param(
            6,
            2,
            lambda db: flow_runs.set_state(db, RUN, replace(states.running(), timestamp=NOON)),
            id="a time that is taken",
        ),
        pytest.param(
            8,
            5,
            lambda db: flow_runs.set_state(db, SUBFLOW, states.running()),
            id="a subflow's, and the copy",
        ),
        pytest.param(4, 1, lambda db: flow_runs.create(db, FLOW), id="new flow run"),
        pytest.param(
            6,
            1,
            lambda db: flow_runs.create(db, FLOW, state=states.pending()),
            id="new flow run in a state",
        ),
        pytest.param(
            7,
            1,
            lambda db: flow_runs.create(db, FLOW, state=states.completed(data=1)),
            id="new flow run with data",
        ),
        pytest.param(
            5,
            2,
            lambda db: flow_runs.create(db, FLOW, idempotency_key="key", state=states.pending()),
            id="a key that is there",
        ),
        pytest.param(
            5,
            1,
            lambda db: task_runs.create(db, "b", "b", "0", flow_run_id=RUN, state=states.pending()),
            id="new task run in a state",
        ),
        pytest.param(
            4,
            1,
            lambda db: task_runs.create(db, "b", "b", "0", state=states.pending()),
            id="new task run without flow run",
        ),
    ],
)
def test_a_change_is_so_many_statements(
    observed: Backend,
    counter: observe.Counter,
    on_sqlite: int,
    on_postgres: int,
    change: Callable[[Queryable], Any],
) -> None:
    change(observed)
    expected = observed.dialect.pick(sqlite=on_sqlite, postgres=on_postgres)
    assert counter.calls.total() == expected, counter.calls


@pytest.mark.parametrize(
    ("on_sqlite", "on_postgres", "change"),
    [
        pytest.param(5, 3, lambda db: flow_runs.set_state(db, RUN, states.running()), id="state"),
        pytest.param(
            6, 3, lambda db: flow_runs.create(db, FLOW, state=states.pending()), id="flow run"
        ),
        pytest.param(5, 5, lambda db: events.write(db, [events.make("e", EVENT)]), id="an event"),
    ],
)
def test_in_a_transaction_there_is_no_savepoint_around_it(
    observed: Backend,
    counter: observe.Counter,
    on_sqlite: int,
    on_postgres: int,
    change: Callable[[Queryable], Any],
) -> None:
    with observed.transaction() as txn:
        change(txn)
    expected = observed.dialect.pick(sqlite=on_sqlite, postgres=on_postgres)
    assert counter.calls.total() == expected, counter.calls
