"""Two sides that do the operations of `operations.py`: Prefect's models, and this library.

Each method returns what happened, in the same words on both sides: an id, "refused" or
"not found".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any
from uuid import UUID

from prefect.server import models
from prefect.server.database.configurations import SQLITE_BEGIN_MODE
from prefect.server.events.schemas.events import ReceivedEvent
from prefect.server.events.storage.database import write_events
from prefect.server.exceptions import ObjectNotFoundError
from prefect.server.schemas import actions, core, filters
from prefect.server.schemas.states import State as PrefectState
from prefect.server.services.task_run_recorder import record_bulk_task_run_events
from sqlalchemy.exc import IntegrityError

from prefect_db import Backend, configuration, events, flow_runs, flows, logs, states, task_runs
from prefect_db.errors import ConstraintError, NotFound
from prefect_db.states import State, StateType
from tests.peer.operations import Operation
from tests.peer.prefect_peer import Prefect

REFUSED = "refused"
NOT_FOUND = "not found"


class Ours:
    """This library."""

    def __init__(self, db: Backend) -> None:
        self.db = db

    def __call__(self, operation: Operation) -> Any:
        try:
            return getattr(self, operation.name)(**operation.arguments)
        except ConstraintError:
            return REFUSED
        except NotFound:
            return NOT_FOUND

    def create_flow(self, flow_id: UUID, **given: Any) -> UUID:
        return flows.create(self.db, id=flow_id, **given).id

    def update_flow(self, flow_id: UUID, tags: list[str]) -> None:
        flows.update(self.db, flow_id, tags=tags)

    def delete_flow(self, flow_id: UUID) -> None:
        flows.delete(self.db, flow_id)

    def create_flow_run(
        self, flow_run_id: UUID, state: dict[str, Any] | None, **given: Any
    ) -> UUID:
        return flow_runs.create(self.db, id=flow_run_id, state=our_state(state), **given).id

    def update_flow_run(self, flow_run_id: UUID, changes: dict[str, Any]) -> None:
        flow_runs.update(self.db, flow_run_id, **changes)

    def merge_labels(self, flow_run_id: UUID, labels: dict[str, Any]) -> None:
        flow_runs.merge_labels(self.db, flow_run_id, labels)

    def delete_flow_run(self, flow_run_id: UUID) -> None:
        flow_runs.delete(self.db, flow_run_id)

    def set_flow_run_state(self, flow_run_id: UUID, state: dict[str, Any]) -> tuple[UUID, datetime]:
        proposed = our_state(state)
        assert proposed is not None
        stored = flow_runs.set_state(self.db, flow_run_id, proposed)
        return stored.id, stored.timestamp

    def create_task_run(
        self, task_run_id: UUID, state: dict[str, Any] | None, **given: Any
    ) -> UUID:
        return task_runs.create(self.db, id=task_run_id, state=our_state(state), **given).id

    def set_task_run_state(self, task_run_id: UUID, state: dict[str, Any]) -> tuple[UUID, datetime]:
        proposed = our_state(state)
        assert proposed is not None
        stored = task_runs.set_state(self.db, task_run_id, proposed)
        return stored.id, stored.timestamp

    def delete_task_run(self, task_run_id: UUID) -> None:
        task_runs.delete(self.db, task_run_id)

    def record_task_runs(self, batch: list[dict[str, Any]]) -> None:
        task_runs.record(self.db, batch)

    def write_events(self, batch: list[dict[str, Any]]) -> None:
        events.write(self.db, batch)

    def write_logs(self, lines: list[dict[str, Any]]) -> None:
        logs.write(self.db, lines)

    def delete_logs(self, flow_run_id: UUID) -> int:
        return logs.delete(self.db, flow_run_id)

    def set_configuration(self, key: str, value: dict[str, Any]) -> None:
        configuration.set(self.db, key, value)


def our_state(parts: Mapping[str, Any] | None) -> State | None:
    if parts is None:
        return None
    given = {name: parts[name] for name in ("type", "name", "message", "data", "details")}
    return replace(states.make(**given), id=parts["id"], timestamp=parts["timestamp"])


class Rejected(Exception):
    """A rule of Prefect's orchestration did not let a flow run into the proposed state.

    Attributes:
        instead: The parts of the state that it was put into; None if it was left as it was.
    """

    def __init__(self, instead: dict[str, Any] | None) -> None:
        super().__init__(instead)
        self.instead = instead


class Theirs:
    """Prefect's models, called as its routes call them."""

    def __init__(self, prefect: Prefect) -> None:
        self.prefect = prefect

    def __call__(self, operation: Operation) -> Any:
        try:
            return getattr(self, operation.name)(**operation.arguments)
        except IntegrityError:
            return REFUSED
        except ObjectNotFoundError:
            return NOT_FOUND

    def _change(self, work: Callable[..., Any], *args: Any) -> None:
        if not self.prefect.write(work, *args):
            raise ObjectNotFoundError

    def create_flow(self, flow_id: UUID, labels: dict[str, Any] | None, **given: Any) -> UUID:
        flow = core.Flow(id=flow_id, **given, **({} if labels is None else {"labels": labels}))
        return _id(self.prefect.write(models.flows.create_flow, flow))

    def update_flow(self, flow_id: UUID, tags: list[str]) -> None:
        self._change(models.flows.update_flow, flow_id, actions.FlowUpdate(tags=tags))

    def delete_flow(self, flow_id: UUID) -> None:
        self._change(models.flows.delete_flow, flow_id)

    def create_flow_run(
        self, flow_run_id: UUID, state: dict[str, Any] | None, **given: Any
    ) -> UUID:
        run = core.FlowRun(id=flow_run_id, state=their_state(state), **_given(given))
        return _id(self.prefect.write(models.flow_runs.create_flow_run, run))

    def update_flow_run(self, flow_run_id: UUID, changes: dict[str, Any]) -> None:
        update = actions.FlowRunUpdate(**changes)
        self._change(models.flow_runs.update_flow_run, flow_run_id, update)

    def merge_labels(self, flow_run_id: UUID, labels: dict[str, Any]) -> None:
        self._change(models.flow_runs.update_flow_run_labels, flow_run_id, labels)

    def delete_flow_run(self, flow_run_id: UUID) -> None:
        self._change(models.flow_runs.delete_flow_run, flow_run_id)

    def set_flow_run_state(self, flow_run_id: UUID, state: dict[str, Any]) -> tuple[UUID, datetime]:
        """Raises: Rejected."""
        proposed = their_state(state)
        result = self.prefect.write(
            models.flow_runs.set_flow_run_state, flow_run_id, proposed, force=True
        )
        stored = result.state
        if result.status.name == "ACCEPT":
            return stored.id, stored.timestamp
        assert result.status.name == "REJECT", result
        if stored.timestamp.year < 2026:
            raise Rejected(None)
        raise Rejected(
            {
                "id": stored.id,
                "type": StateType(stored.type.value),
                "name": stored.name,
                "timestamp": stored.timestamp,
                "message": stored.message,
                "data": None,
                "details": {},
            }
        )

    def create_task_run(
        self, task_run_id: UUID, state: dict[str, Any] | None, **given: Any
    ) -> UUID:
        run = core.TaskRun(id=task_run_id, state=their_state(state), **_given(given))
        return _id(self.prefect.write(models.task_runs.create_task_run, run))

    def set_task_run_state(self, task_run_id: UUID, state: dict[str, Any]) -> tuple[UUID, datetime]:
        proposed = their_state(state)
        result = self.prefect.write(
            models.task_runs.set_task_run_state, task_run_id, proposed, force=True
        )
        assert result.status.name == "ACCEPT", result
        return result.state.id, result.state.timestamp

    def delete_task_run(self, task_run_id: UUID) -> None:
        self._change(models.task_runs.delete_task_run, task_run_id)

    def record_task_runs(self, batch: list[dict[str, Any]]) -> None:
        received = [ReceivedEvent(**event) for event in batch]

        async def record() -> None:
            # Otherwise its session on SQLite has no transaction, and what comes before an error
            # stays: see test_half_of_a_refused_batch.
            token = SQLITE_BEGIN_MODE.set("IMMEDIATE")
            try:
                await record_bulk_task_run_events(received)
            finally:
                SQLITE_BEGIN_MODE.reset(token)

        self.prefect.call(record)

    def write_events(self, batch: list[dict[str, Any]]) -> None:
        self.prefect.write(write_events, [ReceivedEvent(**event) for event in batch])

    def write_logs(self, lines: list[dict[str, Any]]) -> None:
        self.prefect.write(models.logs.create_logs, [actions.LogCreate(**line) for line in lines])

    def delete_logs(self, flow_run_id: UUID) -> int:
        of_run = filters.LogFilter(flow_run_id=filters.LogFilterFlowRunId(any_=[flow_run_id]))
        return int(self.prefect.write(models.logs.delete_logs, of_run))

    def set_configuration(self, key: str, value: dict[str, Any]) -> None:
        self.prefect.write(
            models.configuration.write_configuration, core.Configuration(key=key, value=value)
        )


def their_state(parts: Mapping[str, Any] | None) -> Any:
    if parts is None:
        return None
    given = {name: parts[name] for name in ("id", "type", "name", "timestamp", "message", "data")}
    given["type"] = parts["type"].value
    return PrefectState(**given, state_details=parts["details"])


def _given(arguments: dict[str, Any]) -> dict[str, Any]:
    """As from a client's JSON, where the absent has its default; but a None that means NULL."""
    nullable = ("job_variables",)
    return {
        name: value for name, value in arguments.items() if value is not None or name in nullable
    }


def _id(model: Any) -> UUID:
    assert isinstance(model.id, UUID)
    return model.id
