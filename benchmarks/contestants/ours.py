"""The library, as its README says."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

from benchmarks.contestants.base import Change, NewFlow, NewFlowRun, NewTaskRun, Pages, Tabled
from prefect_db import connect, events, flow_runs, flows, task_runs
from prefect_db.events import Event, EventFilter, Occurred
from prefect_db.filters import Among
from prefect_db.filters import State as StateFilter
from prefect_db.flow_runs import FlowRun, FlowRunFilter
from prefect_db.flows import Flow
from prefect_db.states import State, StateType
from prefect_db.task_runs import TaskRun


@dataclass(slots=True)
class _Page:
    filter: EventFilter
    size: int
    after: str | None


class Ours(Tabled):
    """prefect_db with its defaults."""

    name = "prefect_db"

    def __init__(self, url: str) -> None:
        self.db = connect(url)
        self._places: dict[int, str | None] = {}
        self.operations = {
            "create_flow": self._create_flow,
            "read_flow": partial(flows.get, self.db),
            "create_flow_run": self._create_flow_run,
            "read_flow_run": partial(flow_runs.get, self.db),
            "set_state": self._set_state,
            "find_flow_runs": self._find_flow_runs,
            "create_task_run": self._create_task_run,
            "record_task_runs": partial(task_runs.record, self.db),
            "write_events": partial(events.write, self.db),
            "event_page": self._event_page,
            "count_by_state": lambda _: task_runs.count_by_state(self.db),
            "history": partial(flow_runs.history, self.db),
        }

    def close(self) -> None:
        self.db.close()

    def prepare(self, operation: str, given: Any) -> Any:
        return self._page(given) if isinstance(given, Pages) else given

    def _page(self, page: Pages) -> _Page:
        occurred = EventFilter(occurred=Occurred(since=page.since, until=page.until))
        if page.number and page.number not in self._places:
            before = events.query(self.db, occurred, limit=page.number * page.size)
            self._places[page.number] = before.next
        return _Page(occurred, page.size, self._places.get(page.number))

    def _create_flow(self, new: NewFlow) -> Flow:
        return flows.create(self.db, new.name, tags=new.tags, labels=new.labels, id=new.id)

    def _create_flow_run(self, new: NewFlowRun) -> FlowRun:
        return flow_runs.create(
            self.db,
            new.flow_id,
            id=new.id,
            name=new.name,
            parameters=new.parameters,
            tags=new.tags,
            state=new.state,
        )

    def _set_state(self, change: Change) -> State:
        return flow_runs.set_state(self.db, change.flow_run_id, change.state)

    def _find_flow_runs(self, limit: int) -> list[FlowRun]:
        completed = FlowRunFilter(state=StateFilter(type=Among(any_=[StateType.COMPLETED])))
        return flow_runs.find(self.db, completed, limit=limit)

    def _create_task_run(self, new: NewTaskRun) -> TaskRun:
        return task_runs.create(
            self.db,
            new.name,
            new.task_key,
            new.dynamic_key,
            flow_run_id=new.flow_run_id,
            id=new.id,
            tags=new.tags,
            state=new.state,
        )

    def _event_page(self, page: _Page) -> list[Event]:
        return events.query(self.db, page.filter, limit=page.size, after=page.after).events
