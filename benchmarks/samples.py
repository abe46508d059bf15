"""What is in the databases, and what contestants are given: the same for all of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import count
from random import Random
from typing import Any, Final
from uuid import UUID

from benchmarks.contestants.base import Change, NewFlow, NewFlowRun, NewTaskRun
from prefect_db import Backend, events, flow_runs, flows, states, task_runs
from prefect_db.events import Event
from prefect_db.states import State, StateType

_START: Final = datetime(2026, 1, 1, tzinfo=UTC)
_ENDS: Final = [StateType.COMPLETED] * 6 + [
    *(StateType.FAILED, StateType.RUNNING, StateType.CRASHED, StateType.CANCELLED)
]
_FLOWS: Final = 20


@dataclass(slots=True)
class Size:
    """How much a database holds."""

    flow_runs: int
    events: int


class Samples:
    """Makes the same things in the same order each time."""

    def __init__(self) -> None:
        self._random = Random(20260101)
        self._numbers = count(1)
        self.flows = [self.flow() for _ in range(_FLOWS)]
        self.flow_runs: list[UUID] = []

    def id(self) -> UUID:
        """Time-ordered, as those of both libraries' clients."""
        milliseconds = int(_START.timestamp() * 1000) + next(self._numbers)
        noise = self._random.getrandbits(62)
        return UUID(int=milliseconds << 80 | 7 << 76 | 2 << 62 | noise)

    def moment(self) -> datetime:
        return _START + timedelta(milliseconds=next(self._numbers) * 7, microseconds=321)

    def state(self, type: StateType) -> State:
        details = {"scheduled_time": self.moment()} if type is StateType.SCHEDULED else None
        made = states.make(type, details=details)
        return replace(made, id=self.id(), timestamp=self.moment())

    def flow(self) -> NewFlow:
        number = next(self._numbers)
        return NewFlow(
            self.id(), f"nightly-load-{number}", ["prod", f"team-{number % 7}"], {"region": "eu"}
        )

    def flow_run(self) -> NewFlowRun:
        number = next(self._numbers)
        return NewFlowRun(
            self.id(),
            self._random.choice(self.flows).id,
            f"brisk-heron-{number}",
            {
                "source": f"s3://landing/orders/{number}.parquet",
                "day": "2026-01-01",
                "rows": number * 37,
                "ratio": 0.25,
                "retry": False,
                "columns": ["id", "customer", "amount"],
            },
            ["prod", self._random.choice(["eu", "us"])],
            self.state(StateType.PENDING),
        )

    def change(self) -> Change:
        """Of a run that is there, into any type of state in turn."""
        number = next(self._numbers)
        kind = (StateType.RUNNING, StateType.COMPLETED, StateType.SCHEDULED)[number % 3]
        return Change(self._random.choice(self.flow_runs), self.state(kind))

    def task_run(self) -> NewTaskRun:
        number = next(self._numbers)
        return NewTaskRun(
            self.id(),
            self._random.choice(self.flow_runs),
            f"load-{number}",
            f"load-{number % 5}",
            str(number),
            ["prod"],
            self.state(StateType.PENDING),
        )

    def events(self, number: int) -> list[Event]:
        """Of flow runs that change their states."""
        return [self._event() for _ in range(number)]

    def _event(self) -> Event:
        number = next(self._numbers)
        kind = ("Pending", "Running", "Completed")[number % 3]
        flow = self.flows[number % len(self.flows)]
        moment = self.moment()
        return events.make(
            f"prefect.flow-run.{kind}",
            {
                "prefect.resource.id": f"prefect.flow-run.{self.flow_runs[number % 100]}",
                "prefect.resource.name": f"brisk-heron-{number}",
                "prefect.state-message": "",
                "prefect.state-name": kind,
                "prefect.state-timestamp": moment.isoformat(),
                "prefect.state-type": kind.upper(),
            },
            id=self.id(),
            occurred=moment,
            received=moment,
            related=[
                {
                    "prefect.resource.id": f"prefect.flow.{flow.id}",
                    "prefect.resource.role": "flow",
                    "prefect.resource.name": flow.name,
                },
                {"prefect.resource.id": "prefect.tag.prod", "prefect.resource.role": "tag"},
            ],
            payload={
                "intended": {"from": "PENDING", "to": kind.upper()},
                "initial_state": {"type": "PENDING", "name": "Pending", "message": ""},
                "validated_state": {"type": kind.upper(), "name": kind, "message": ""},
            },
        )

    def task_run_events(self, number: int) -> list[Event]:
        """Of task runs that a client runs: three for each."""
        batch: list[Event] = []
        while len(batch) < number:
            batch += self._account()
        return batch[:number]

    def _account(self) -> Iterator[Event]:
        number = next(self._numbers)
        task_run_id, flow_run_id = self.id(), self._random.choice(self.flow_runs)
        start = self.moment()
        for at, kind in enumerate((StateType.PENDING, StateType.RUNNING, StateType.COMPLETED)):
            moment = self.moment()
            run: dict[str, Any] = {
                "name": f"load-{number}",
                "task_key": "load",
                "dynamic_key": str(number),
                "empirical_policy": {
                    "max_retries": 0,
                    "retry_delay_seconds": 0.0,
                    "retries": 3,
                    "retry_delay": 10,
                    "retry_jitter_factor": None,
                },
                "tags": ["prod"],
                "labels": {"prefect.flow-run.id": str(flow_run_id)},
                "task_inputs": {"table": [], "rows": [{"input_type": "constant", "type": "int"}]},
                "run_count": int(at > 0),
                "flow_run_run_count": 1,
                "expected_start_time": start.isoformat(),
                "total_run_time": 0.0 if at < 2 else 0.007,
            }
            if at:
                run["start_time"] = start.isoformat()
            if at == 2:
                run["end_time"] = moment.isoformat()
            yield events.make(
                f"prefect.task-run.{kind.capitalize()}",
                {
                    "prefect.resource.id": f"prefect.task-run.{task_run_id}",
                    "prefect.resource.name": f"load-{number}",
                    "prefect.orchestration": "client",
                },
                id=self.id(),
                occurred=moment,
                received=moment,
                related=[
                    {
                        "prefect.resource.id": f"prefect.flow-run.{flow_run_id}",
                        "prefect.resource.role": "flow-run",
                    }
                ],
                payload={
                    "intended": {"from": None, "to": str(kind)},
                    "initial_state": None,
                    "validated_state": {
                        "type": str(kind),
                        "name": kind.capitalize(),
                        "message": "",
                        "state_details": {},
                        "data": None,
                    },
                    "task_run": run,
                },
            )

    def fill(self, db: Backend, size: Size) -> None:
        """Write flows, their runs with two states each and a task run each, and events."""
        with db.transaction() as txn:
            for flow in self.flows:
                flows.create(txn, flow.name, tags=flow.tags, labels=flow.labels, id=flow.id)
            for _ in range(size.flow_runs):
                run = self.flow_run()
                self.flow_runs.append(run.id)
                flow_runs.create(
                    txn,
                    run.flow_id,
                    id=run.id,
                    name=run.name,
                    parameters=run.parameters,
                    tags=run.tags,
                    state=run.state,
                )
                end = self.state(self._random.choice(_ENDS))
                flow_runs.set_state(txn, run.id, end)
                task = self.task_run()
                task_runs.create(
                    txn,
                    task.name,
                    task.task_key,
                    task.dynamic_key,
                    flow_run_id=task.flow_run_id,
                    id=task.id,
                    tags=task.tags,
                    state=replace(end, id=task.state.id, timestamp=task.state.timestamp),
                )
        for written in range(0, size.events, 5000):
            events.write(db, self.events(min(5000, size.events - written)))
