"""A real Prefect's models under asyncio, a session for each call, as its API calls them.

What its API does besides is left out: HTTP, its schemas of requests and responses (but for events,
where the models make them), and the orchestration rules: states are forced.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict
from typing import Any
from uuid import UUID

from prefect.server import models
from prefect.server.database.configurations import SQLITE_BEGIN_MODE
from prefect.server.events import filters as event_filters
from prefect.server.events.schemas.events import ReceivedEvent
from prefect.server.events.storage import to_page_token
from prefect.server.events.storage.database import query_events, query_next_page, write_events
from prefect.server.schemas import core, filters, sorting
from prefect.server.schemas.states import State as PrefectState
from prefect.server.services.task_run_recorder import record_bulk_task_run_events

from benchmarks.contestants.base import Change, NewFlow, NewFlowRun, NewTaskRun, Pages
from prefect_db.events import Event
from prefect_db.states import State
from tests.peer.prefect_peer import Prefect


class PrefectModels:
    """Prefect 3.8.8 on a database that its own migrations made."""

    name = "Prefect"

    def __init__(self, url: str) -> None:
        self._prefect = Prefect(url)
        self._operations: dict[str, Callable[[Any], Awaitable[Any]]] = {
            "create_flow": self._create_flow,
            "read_flow": self._read_flow,
            "create_flow_run": self._create_flow_run,
            "read_flow_run": self._read_flow_run,
            "set_state": self._set_state,
            "find_flow_runs": self._find_flow_runs,
            "create_task_run": self._create_task_run,
            "record_task_runs": self._record_task_runs,
            "write_events": self._write_events,
            "event_page": self._event_page,
            "count_by_state": self._count_by_state,
            "history": self._history,
        }

    def close(self) -> None:
        self._prefect.__exit__()

    def prepare(self, operation: str, given: Any) -> Any:
        if isinstance(given, NewFlow):
            return core.Flow(**_fields(given))
        if isinstance(given, NewFlowRun):
            return core.FlowRun(**_fields(given), state=_state(given.state))
        if isinstance(given, NewTaskRun):
            return core.TaskRun(**_fields(given), state=_state(given.state))
        if isinstance(given, Change):
            return given.flow_run_id, _state(given.state)
        if isinstance(given, Pages):
            return _page(given)
        if isinstance(given, list):
            return [_event(event) for event in given]
        return given

    def call(self, operation: str, prepared: Any) -> Any:
        return self._prefect.call(lambda: self._operations[operation](prepared))

    def time(self, operation: str, prepared: Sequence[Any]) -> float:
        work = self._operations[operation]

        # In one run of the event loop, whose start and end are nobody's work.
        async def run() -> float:
            began = time.perf_counter()
            for each in prepared:
                await work(each)
            return time.perf_counter() - began

        return self._prefect.call(run)

    async def _read(self, work: Callable[..., Awaitable[Any]], *args: Any, **kwargs: Any) -> Any:
        async with self._prefect.interface.session_context() as session:
            return await work(session, *args, **kwargs)

    async def _write(self, work: Callable[..., Awaitable[Any]], *args: Any, **kwargs: Any) -> Any:
        async with self._prefect.interface.session_context(
            begin_transaction=True, with_for_update=True
        ) as session:
            return await work(session, *args, **kwargs)

    async def _create_flow(self, flow: Any) -> Any:
        return await self._write(models.flows.create_flow, flow)

    async def _read_flow(self, flow_id: UUID) -> Any:
        return await self._read(models.flows.read_flow, flow_id)

    async def _create_flow_run(self, run: Any) -> Any:
        return await self._write(models.flow_runs.create_flow_run, run)

    async def _read_flow_run(self, flow_run_id: UUID) -> Any:
        return await self._read(models.flow_runs.read_flow_run, flow_run_id)

    async def _set_state(self, change: tuple[UUID, Any]) -> Any:
        result = await self._write(models.flow_runs.set_flow_run_state, *change, force=True)
        return result.state

    async def _find_flow_runs(self, limit: int) -> Any:
        return await self._read(
            models.flow_runs.read_flow_runs,
            flow_run_filter=_COMPLETED,
            sort=sorting.FlowRunSort.ID_DESC,
            limit=limit,
        )

    async def _create_task_run(self, run: Any) -> Any:
        return await self._write(models.task_runs.create_task_run, run)

    async def _record_task_runs(self, batch: Sequence[Any]) -> int:
        # Without it, its statements on SQLite are a transaction each.
        token = SQLITE_BEGIN_MODE.set("IMMEDIATE")
        try:
            await record_bulk_task_run_events(batch)
        finally:
            SQLITE_BEGIN_MODE.reset(token)
        return len(batch)

    async def _write_events(self, batch: Sequence[Any]) -> int:
        await self._write(write_events, batch)
        return len(batch)

    async def _event_page(self, page: tuple[Callable[..., Awaitable[Any]], Any]) -> Any:
        query, argument = page
        events, _, _ = await self._read(query, argument)
        return events

    async def _count_by_state(self, _: None) -> Any:
        return await self._read(models.task_runs.count_task_runs_by_state)

    async def _history(self, flow_run_id: UUID) -> Any:
        return await self._read(models.flow_run_states.read_flow_run_states, flow_run_id)


_COMPLETED = filters.FlowRunFilter(
    state=filters.FlowRunFilterState(type=filters.FlowRunFilterStateType(any_=["COMPLETED"]))
)


def _fields(given: Any) -> dict[str, Any]:
    return {name: value for name, value in asdict(given).items() if name != "state"}


def _state(state: State) -> Any:
    return PrefectState(
        id=state.id,
        type=state.type.value,
        name=state.name,
        timestamp=state.timestamp,
        message=state.message,
        state_details=state.state_details,
    )


def _event(event: Event) -> Any:
    return ReceivedEvent(
        id=event.id,
        occurred=event.occurred,
        event=event.event,
        resource=event.resource,
        related=event.related,
        payload=event.payload,
        received=event.received,
        follows=event.follows,
    )


def _page(page: Pages) -> tuple[Callable[..., Awaitable[Any]], Any]:
    """Its pages begin at a count: the token of one has that and the filter."""
    occurred = event_filters.EventOccurredFilter(since=page.since, until=page.until)
    filter = event_filters.EventFilter(occurred=occurred)
    if not page.number:
        return query_events, filter
    place = (page.number - 1) * page.size
    return query_next_page, to_page_token(filter, 2**31, page.size, place)
