"""What every contestant does, and what it is given."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol
from uuid import UUID

from prefect_db.states import State

Execute = Callable[..., Any]


@dataclass(slots=True)
class NewFlow:
    """A flow to create."""

    id: UUID
    name: str
    tags: list[str]
    labels: dict[str, Any]


@dataclass(slots=True)
class NewFlowRun:
    """A flow run to create, with its first state."""

    id: UUID
    flow_id: UUID
    name: str
    parameters: dict[str, Any]
    tags: list[str]
    state: State


@dataclass(slots=True)
class NewTaskRun:
    """A task run to create, with its first state."""

    id: UUID
    flow_run_id: UUID
    name: str
    task_key: str
    dynamic_key: str
    tags: list[str]
    state: State


@dataclass(slots=True)
class Change:
    """A state that a flow run is to enter."""

    flow_run_id: UUID
    state: State


@dataclass(slots=True)
class Pages:
    """A page of events within a span of time.

    Attributes:
        number: From 0.
        after: The time and id of the last event of the page before; None for the first.
    """

    since: datetime
    until: datetime
    size: int
    number: int
    after: tuple[datetime, UUID] | None


class Contestant(Protocol):
    """One way of doing the operations; they are named by the methods of `Operations`."""

    name: str

    def prepare(self, operation: str, given: Any) -> Any:
        """What is given, as this contestant's callers have it: made before the time is taken."""

    def call(self, operation: str, prepared: Any) -> Any:
        """The result of one call."""

    def time(self, operation: str, prepared: Sequence[Any]) -> float:
        """Seconds that calls took, one after the other."""

    def close(self) -> None:
        """Close the database."""


class Tabled:
    """A contestant whose operations are functions.

    Results: `create_flow(NewFlow)` and `read_flow(UUID)` a Flow; `create_flow_run(NewFlowRun)` and
    `read_flow_run(UUID)` a FlowRun; `set_state(Change)` the State; `find_flow_runs(int)` the
    newest completed FlowRuns, so many; `create_task_run(NewTaskRun)` a TaskRun;
    `record_task_runs(list[Event])` and `write_events(list[Event])` how many were new;
    `event_page(Pages)` the Events; `count_by_state(None)` the task runs in each state, by type;
    `history(UUID)` the States of a flow run.
    """

    operations: dict[str, Callable[[Any], Any]]

    def prepare(self, operation: str, given: Any) -> Any:
        return given

    def call(self, operation: str, prepared: Any) -> Any:
        return self.operations[operation](prepared)

    def time(self, operation: str, prepared: Sequence[Any]) -> float:
        work = self.operations[operation]
        began = time.perf_counter()
        for each in prepared:
            work(each)
        return time.perf_counter() - began
