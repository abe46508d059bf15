"""What a server does with its database, as a sequence of operations from a seed.

An operation is the name of a method that both sides of `sides.py` have, and its arguments. All
ids and times are given, where a caller can give them, so that both sides must store the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from random import Random
from typing import Any, Final
from uuid import UUID

from prefect_db.states import StateType

MOMENT: Final = datetime(2024, 3, 9, 23, 59, 59, 999_990, tzinfo=UTC)
ZONES: Final = (UTC, timezone(timedelta(hours=5, minutes=30)), timezone(timedelta(hours=-8)))
TEXTS: Final = (
    "plain",
    "Größe 大きさ 🦆",
    'it\'s "quoted"',
    "what? why?? $1 :name",
    "100%s %(x)s {y}",
    "back\\slash\nnewline\ttab",
    " ",
    "x" * 900,
)


@dataclass(frozen=True)
class Operation:
    """A call of both sides."""

    name: str
    arguments: dict[str, Any]


class Generator:
    """Operations from a seed; it knows what it has made, and also uses what is no longer there."""

    def __init__(self, seed: int) -> None:
        self._random = Random(seed)
        self.given: set[UUID] = set()
        self._flows: list[UUID] = []
        self._flow_names: list[str] = []
        self._runs: list[UUID] = []
        self._task_runs: list[UUID] = []
        self._subflow_parents: list[UUID] = []
        self._events: list[dict[str, Any]] = []
        self._account: list[dict[str, Any]] = []
        self._tasks: list[_Task] = []

    def operations(self, number: int) -> Iterator[Operation]:
        """So many operations, after those that every sequence begins with."""
        yield from self.exceptions()
        yield from self.all_transitions()
        yield from self.exceptions()
        kinds = [
            (self.create_flow, 2),
            (self.update_flow, 1),
            (self.delete_flow, 0.15),
            (self.create_flow_run, 7),
            (self.update_flow_run, 3),
            (self.merge_labels, 2),
            (self.delete_flow_run, 1),
            (self.set_flow_run_state, 14),
            (self.create_task_run, 4),
            (self.create_subflow, 3),
            (self.set_task_run_state, 8),
            (self.delete_task_run, 0.7),
            (self.record_task_runs, 14),
            (self.write_events, 6),
            (self.write_logs, 4),
            (self.delete_logs, 0.5),
            (self.set_configuration, 2),
        ]
        makers, weights = zip(*kinds, strict=True)
        for _ in range(number):
            made = self._random.choices(makers, weights)[0]()
            yield from made if isinstance(made, list) else [made]

    def exceptions(self) -> Iterator[Operation]:
        """What the two are known to do differently."""
        yield Operation("set_configuration", {"key": "the same", "value": {"a": 1}})
        yield Operation("write_events", {"batch": [event := self._event()]})
        yield Operation("write_events", {"batch": [event]})
        yield Operation("write_events", {"batch": [event := self._event(), event]})
        yield self.create_flow(new=True)
        flow_id = self._flows[-1]
        policy = {"pause_keys": [f"key-{number}" for number in range(12)]}
        for _ in range(2):
            yield self.create_flow_run(
                flow_id=flow_id, name=None, idempotency_key="", empirical_policy=policy
            )
        yield self.create_flow_run(
            flow_id=flow_id,
            state=self.state(StateType.SCHEDULED),
            infrastructure_pid=None,
            idempotency_key=None,
        )
        cancelling = self.state(StateType.CANCELLING)
        yield Operation("set_flow_run_state", {"flow_run_id": self._runs[-1], "state": cancelling})

    def all_transitions(self) -> Iterator[Operation]:
        """Every pair of state types, of one flow run and of one task run."""
        yield self.create_flow(new=True)
        yield self.create_flow_run(
            flow_id=self._flows[-1], state=None, name="all transitions", idempotency_key=None
        )
        flow_run_id = self._runs[-1]
        # A scheduled run without it is not cancelled but ended at once.
        yield Operation(
            "update_flow_run", {"flow_run_id": flow_run_id, "changes": {"infrastructure_pid": "1"}}
        )
        yield self.create_task_run(flow_run_id=flow_run_id, state=None, dynamic_key="all")
        task_run_id = self._task_runs[-1]
        sequence = transitions(self._random)
        for kind in sequence:
            state = self.state(kind, data=None)
            if kind in (StateType.SCHEDULED, StateType.PAUSED):
                # By these Prefect knows a run that has no process to cancel.
                state |= {"name": None, "details": {}}
            yield Operation("set_flow_run_state", {"flow_run_id": flow_run_id, "state": state})
        for kind in sequence:
            state = self.state(kind)
            yield Operation("set_task_run_state", {"task_run_id": task_run_id, "state": state})

    # Values.

    def uuid(self) -> UUID:
        made = UUID(int=self._random.getrandbits(128), version=4)
        self.given.add(made)
        return made

    def moment(self) -> datetime:
        """A time that is likely to have come before, or to be a microsecond beside one."""
        shift = self._random.choice(
            [
                timedelta(microseconds=self._random.randrange(12)),
                timedelta(microseconds=self._random.randrange(12)),
                timedelta(seconds=self._random.randrange(-90, 90)),
                timedelta(days=self._random.randrange(-400, 400), milliseconds=1),
                timedelta(seconds=self._random.uniform(-1e6, 1e6)),
            ]
        )
        return (MOMENT + shift).astimezone(self._random.choice(ZONES))

    def text(self) -> str:
        return self._random.choice(TEXTS) + self._random.choice(
            ["", "", str(self._random.random())]
        )

    def json(self, depth: int = 0) -> Any:
        choice = self._random.randrange(12 if depth < 4 else 8)
        if choice >= 10:
            return self.object(depth + 1)
        if choice >= 8:
            return [self.json(depth + 1) for _ in range(self._random.randrange(4))]
        return self._random.choice(
            [None, True, False, 0, -7, 2**53 + 1, 2**70, 0.1, 1.0, -2.5e-9, 1e300, "", self.text()]
        )

    def object(self, depth: int = 0) -> dict[str, Any]:
        keys = [self._random.choice(["a", "b", "ключ", 'q"?', self.text()]) for _ in range(3)]
        return {key: self.json(depth) for key in keys[: self._random.randrange(4)]}

    def labels(self) -> dict[str, Any] | None:
        values = [True, 3, 2.5, "x", self.text()]
        return self._random.choice(
            [
                None,
                {},
                {"env": self._random.choice(values)},
                {self.text(): self._random.choice(values), "env": self._random.choice(values)},
            ]
        )

    def tags(self) -> list[str]:
        pool = ["a", "a", "b", "prod", *TEXTS]
        return [self._random.choice(pool) for _ in range(self._random.randrange(4))]

    def state(self, kind: StateType | None = None, **given: Any) -> dict[str, Any]:
        """A state's parts; see `sides.py` for what each side makes of them."""
        kind = kind or self._random.choice(list(StateType))
        details: dict[str, Any] = {}
        if self._random.random() < 0.4:
            possible = {
                "scheduled_time": self.moment(),
                "cache_key": self.text(),
                "cache_expiration": self.moment(),
                "deferred": None,
                "untrackable_result": True,
                "pause_timeout": self.moment(),
                "pause_reschedule": True,
                "pause_key": "key",
                "run_input_keyset": {"keys": "a", "é": "b"},
                "refresh_cache": self._random.choice([True, False]),
                "retriable": False,
                "transition_id": self.uuid(),
                "task_parameters_id": self.uuid(),
                "traceparent": "00-ab-cd-01",
            }
            keys = self._random.sample(list(possible), self._random.randrange(1, 5))
            details = {key: possible[key] for key in keys}
        return {
            "id": self.uuid(),
            "type": kind,
            "name": self._random.choice([None, None, "Late", "Resuming", "", self.text()]),
            "timestamp": self.moment(),
            "message": self._random.choice([None, "", self.text()]),
            "data": self.data(),
            "details": details,
            **given,
        }

    def data(self) -> Any:
        return self._random.choice(
            [
                None,
                None,
                {"type": "unpersisted"},
                {"type": "reference", "storage_key": self.text(), "size": 2**40},
                {"type": "reference", "artifact_type": "result", "artifact_description": "d é"},
                {"artifact_type": "", "artifact_key": None, "nested": self.json()},
                [],
                [1, {"a": None}],
                "text",
                "",
                0,
                7,
                1.5,
                False,
            ]
        )

    def policy(self, *others: dict[str, Any]) -> dict[str, Any] | None:
        return self._random.choice(
            [
                None,
                {},
                {"retries": 2, "retry_delay": 10},
                {"retry_delay": 1, "retries": 0},
                *others,
            ]
        )

    def _flow_run_policy(self) -> dict[str, Any] | None:
        return self.policy(
            {"resuming": True},
            {"resuming": True, "pause_keys": ["k"], "retry_type": "in_process"},
            {"pause_keys": [f"key-{number}" for number in range(12)]},
            {"retries": 1, "resuming": False, "retry_type": "reschedule"},
        )

    def _task_run_policy(self) -> dict[str, Any] | None:
        return self.policy(
            {"retries": 3, "retry_delay": [1, 2, 5]},
            {"retries": 3, "retry_delay": [0.5, 2.5], "retry_jitter_factor": 0.25},
            {"retry_delay": 1.5},
        )

    def _chosen(self, pool: list[UUID]) -> UUID:
        """One that was made, mostly of the newest; or one that never was."""
        if not pool or self._random.random() < 0.02:
            return self.uuid()
        return self._random.choice(pool[-12:] if self._random.random() < 0.7 else pool)

    # Flows and flow runs.

    def create_flow(self, *, new: bool = False) -> Operation:
        if self._flow_names and not new and self._random.random() < 0.25:
            name = self._random.choice(self._flow_names)
        else:
            # What Prefect's API refuses in the name of a flow is not in it.
            text = "".join(each for each in self.text() if each not in "/%&><")
            name = f"{text}-{len(self._flow_names)}"
        self._flow_names.append(name)
        self._flows.append(self.uuid())
        return Operation(
            "create_flow",
            {
                "flow_id": self._flows[-1],
                "name": name,
                "tags": self.tags(),
                "labels": self.labels(),
            },
        )

    def update_flow(self) -> Operation:
        return Operation("update_flow", {"flow_id": self._chosen(self._flows), "tags": self.tags()})

    def delete_flow(self) -> Operation:
        return Operation("delete_flow", {"flow_id": self._chosen(self._flows)})

    def create_flow_run(self, **given: Any) -> Operation:
        self._runs.append(self.uuid())
        creator = {"id": str(self.uuid()), "type": "AUTOMATION", "display_value": self.text()}
        arguments = {
            "flow_run_id": self._runs[-1],
            "flow_id": self._chosen(self._flows),
            "name": self._random.choice([None, "", self.text()]),
            "state": self._random.choice([None, self.state(), self.state()]),
            "idempotency_key": self._random.choice([None, None, "", "k", self.text()]),
            "parameters": self._random.choice([None, self.object(), self.object()]),
            "context": self._random.choice([None, self.object()]),
            "empirical_policy": self._flow_run_policy(),
            "tags": self.tags(),
            "labels": self.labels(),
            "flow_version": self._random.choice([None, self.text()]),
            "parent_task_run_id": None,
            "deployment_id": self._random.choice([None, None, self.uuid()]),
            "deployment_version": self._random.choice([None, "v"]),
            "auto_scheduled": self._random.choice([True, False]),
            "infrastructure_pid": self._random.choice([None, "host:1"]),
            "work_queue_name": self._random.choice([None, "default"]),
            "created_by": self._random.choice([None, creator, {"type": "AUTOMATION"}]),
            "job_variables": self._random.choice([None, {}, self.object()]),
        }
        return Operation("create_flow_run", {**arguments, **given})

    def create_subflow(self) -> list[Operation]:
        """The task run that stands for it, then the run."""
        placeholder = self.create_task_run(flow_run_id=self._chosen(self._runs))
        self._subflow_parents.append(self._task_runs[-1])
        run = self.create_flow_run(parent_task_run_id=self._task_runs[-1])
        state = self.state()
        later = Operation("set_flow_run_state", {"flow_run_id": self._runs[-1], "state": state})
        return [placeholder, run, later]

    def update_flow_run(self) -> Operation:
        changes = {
            "name": self._random.choice([None, "", self.text()]),
            "flow_version": self._random.choice([None, self.text()]),
            "parameters": self.object(),
            "empirical_policy": self._flow_run_policy() or {},
            "tags": self.tags(),
            "infrastructure_pid": self._random.choice([None, "host:2"]),
            "job_variables": self._random.choice([None, {}, self.object()]),
        }
        keys = self._random.sample(list(changes), self._random.randrange(1, len(changes) + 1))
        return Operation(
            "update_flow_run",
            {
                "flow_run_id": self._chosen(self._runs),
                "changes": {key: changes[key] for key in keys},
            },
        )

    def merge_labels(self) -> Operation:
        return Operation(
            "merge_labels",
            {"flow_run_id": self._chosen(self._runs), "labels": self.labels() or {"more": 1}},
        )

    def delete_flow_run(self) -> Operation:
        return Operation("delete_flow_run", {"flow_run_id": self._chosen(self._runs)})

    def set_flow_run_state(self) -> Operation:
        return Operation(
            "set_flow_run_state", {"flow_run_id": self._chosen(self._runs), "state": self.state()}
        )

    # Task runs.

    def create_task_run(self, **given: Any) -> Operation:
        self._task_runs.append(self.uuid())
        inputs = {
            "x": [
                {"input_type": "task_run", "id": str(self._chosen(self._task_runs))},
                {"input_type": "parameter", "name": self.text()},
            ],
            "y": [{"input_type": "constant", "type": "int"}],
            "z": [],
        }
        arguments = {
            "task_run_id": self._task_runs[-1],
            "name": self.text(),
            "task_key": self._random.choice(["add", "add-1", self.text()]),
            "dynamic_key": str(self._random.randrange(5)),
            "flow_run_id": self._random.choice([None, self._chosen(self._runs)]),
            "state": self._random.choice([None, self.state()]),
            "cache_key": self._random.choice([None, "c" * 2000]),
            "cache_expiration": self._random.choice([None, self.moment()]),
            "task_version": self._random.choice([None, self.text()]),
            "empirical_policy": self._task_run_policy(),
            "task_inputs": self._random.choice([None, {}, inputs]),
            "tags": self.tags(),
            "labels": self.labels(),
        }
        return Operation("create_task_run", {**arguments, **given})

    def set_task_run_state(self) -> Operation:
        pool = self._subflow_parents if self._random.random() < 0.2 else self._task_runs
        return Operation(
            "set_task_run_state", {"task_run_id": self._chosen(pool), "state": self.state()}
        )

    def delete_task_run(self) -> Operation:
        return Operation("delete_task_run", {"task_run_id": self._chosen(self._task_runs)})

    def record_task_runs(self) -> Operation:
        """Some events of clients: new ones, in any order, and some that were sent before."""
        batch = [self.task_event() for _ in range(self._random.randrange(1, 7))]
        if self._account and self._random.random() < 0.5:
            batch += self._random.choices(self._account[-60:], k=self._random.randrange(1, 4))
        if self._random.random() < 0.2:
            batch.append(self._random.choice(batch))
        self._random.shuffle(batch)
        self._account += batch
        return Operation("record_task_runs", {"batch": batch})

    def task_event(self) -> dict[str, Any]:
        if not self._tasks or self._random.random() < 0.3:
            self._tasks.append(
                _Task(
                    self.uuid(),
                    self._random.choice([None, *[self._chosen(self._runs) for _ in range(4)]]),
                    self._random.choice(["add", "load-0e28d32e", self.text()]),
                    f"e{self._random.randrange(40)}",
                )
            )
            if self._random.random() < 0.15:
                # Another id for what is one task run.
                twin = self._random.choice(self._tasks)
                self._tasks[-1] = _Task(
                    self._tasks[-1].id, twin.flow_run_id, twin.task_key, twin.dynamic_key
                )
        task = self._random.choice(self._tasks[-15:])
        kind = self._random.choice(list(StateType))
        occurred = self.moment()
        labels = {
            "prefect.resource.id": f"prefect.task-run.{task.id}",
            "prefect.resource.name": task.task_key,
            "prefect.orchestration": "client",
        }
        related = [{"prefect.resource.id": "prefect.tag.a", "prefect.resource.role": "tag"}]
        if task.flow_run_id is not None:
            related.append(
                {
                    "prefect.resource.id": f"prefect.flow-run.{task.flow_run_id}",
                    "prefect.resource.role": "flow-run",
                }
            )
        return {
            "id": str(self.uuid()),
            "occurred": occurred.isoformat(),
            "event": f"prefect.task-run.{kind.capitalize()}",
            "resource": labels,
            "related": related,
            "payload": {
                "intended": {"from": None, "to": kind},
                "initial_state": None,
                "validated_state": self._validated_state(kind),
                "task_run": self._task_run(task),
            },
            "follows": None,
        }

    def _validated_state(self, kind: StateType) -> dict[str, Any]:
        details: dict[str, Any] = {}
        if self._random.random() < 0.3:
            details = {
                "cache_key": self.text(),
                "transition_id": str(self.uuid()),
                "retriable": False,
            }
        if kind is StateType.SCHEDULED or self._random.random() < 0.1:
            details["scheduled_time"] = self.moment().isoformat()
        state = {
            "type": str(kind),
            "name": self._random.choice([kind.capitalize(), "Retrying", self.text()]),
            "message": self._random.choice(["", self.text()]),
            "state_details": details,
            "data": self._random.choice([None, {"type": "reference", "size": 3}, [1.0], {}, 0]),
        }
        for key in ("name", "message", "state_details", "data"):
            if self._random.random() < 0.05:
                del state[key]
        return state

    def _task_run(self, task: _Task) -> dict[str, Any]:
        times = ("start_time", "end_time", "next_scheduled_start_time", "cache_expiration")
        given = {
            "name": self.text(),
            "task_key": task.task_key,
            "dynamic_key": task.dynamic_key,
            "empirical_policy": {
                "max_retries": 0,
                "retry_delay_seconds": 0.0,
                "retries": self._random.randrange(3),
                "retry_delay": self._random.choice([0, 1.5, [1, 2], None]),
                "retry_jitter_factor": self._random.choice([None, 0.5]),
            },
            "tags": self.tags(),
            "labels": self.labels() or {},
            "task_inputs": {"a": [], "b": [{"input_type": "constant", "type": "int"}]},
            "run_count": self._random.randrange(4),
            "flow_run_run_count": self._random.randrange(4),
            "expected_start_time": self.moment().isoformat(),
            "total_run_time": self._random.choice([0.0, 5.825841, 90000, 1e-6, 0.1234567]),
        }
        for name in times:
            if self._random.random() < 0.5:
                given[name] = self.moment().isoformat()
        for name in ("cache_key", "task_version"):
            if self._random.random() < 0.3:
                given[name] = self._random.choice([None, "v1"])
        if self._random.random() < 0.3:
            for name in self._random.sample(sorted(set(given) - _NEEDED), 2):
                del given[name]
        return given

    # The rest.

    def write_events(self) -> Operation:
        batch = [self._event() for _ in range(self._random.randrange(1, 8))]
        if self._random.random() < 0.3:
            batch = []
        if self._events:
            batch += self._random.choices(self._events, k=self._random.choice([0, 1, 3]))
        if self._random.random() < 0.2 and batch:
            batch.append(self._random.choice(batch))
        batch = batch or [self._event()]
        self._random.shuffle(batch)
        self._events += batch
        return Operation("write_events", {"batch": batch})

    def _event(self) -> dict[str, Any]:
        many = 100 if self._random.random() < 0.03 else 4
        related = [
            {
                "prefect.resource.id": self._random.choice(["r.1", "r.2", self.text()]),
                "prefect.resource.role": self._random.choice(["tag", "flow", "é?"]),
                **self._random.choice([{}, {"name": self.text(), "other": ""}]),
            }
            for _ in range(self._random.choice([0, 0, 1, 3, many]))
        ]
        return {
            "id": str(self.uuid()),
            "occurred": self.moment().isoformat(),
            "received": self.moment().isoformat(),
            "event": self._random.choice(["prefect.flow-run.Running", self.text()[:1024]]),
            "resource": {
                "prefect.resource.id": self._random.choice(["r.1", self.text()]),
                **self._random.choice([{}, {"prefect.resource.name": self.text(), "k": "v"}]),
            },
            "related": related,
            "payload": self._random.choice([{}, self.object()]),
            "follows": self._random.choice([None, str(self.uuid())]),
        }

    def write_logs(self) -> Operation:
        lines = [
            {
                "name": self._random.choice(["prefect.flow_runs", "a\0b", self.text()]),
                "level": self._random.choice([0, 10, 20, 50, -3, 32767]),
                "message": self._random.choice(["", "nul\0\0in", self.text()]),
                "timestamp": self.moment(),
                "flow_run_id": self._random.choice([None, self._chosen(self._runs)]),
                "task_run_id": self._random.choice([None, self._chosen(self._task_runs)]),
            }
            for _ in range(self._random.randrange(1, 6))
        ]
        return Operation("write_logs", {"lines": lines})

    def delete_logs(self) -> Operation:
        return Operation("delete_logs", {"flow_run_id": self._chosen(self._runs)})

    def set_configuration(self) -> Operation:
        key = self._random.choice(["ENCRYPTION_KEY", "é?", self.text()])
        return Operation("set_configuration", {"key": key, "value": self.object()})


_NEEDED: Final = {"name", "task_key", "dynamic_key"}


@dataclass(frozen=True)
class _Task:
    """What a client's process knows of one of its task runs."""

    id: UUID
    flow_run_id: UUID | None
    task_key: str
    dynamic_key: str


def transitions(random: Random) -> list[StateType]:
    """A sequence of state types with every pair of them once: an Eulerian circuit."""
    left = {kind: random.sample(list(StateType), len(StateType)) for kind in StateType}
    stack, circuit = [StateType.SCHEDULED], []
    while stack:
        if left[stack[-1]]:
            stack.append(left[stack[-1]].pop())
        else:
            circuit.append(stack.pop())
    return circuit[::-1]
