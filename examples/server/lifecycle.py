"""The event of each state that a flow run enters. Shape: Prefect's server, models/events.py."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Final
from uuid import UUID

from prefect_db import Queryable, events, flow_runs, flows, task_runs
from prefect_db.flow_runs import FlowRun
from prefect_db.states import State, StateType

_LONGEST_MESSAGE: Final = 100_000
# Events that are further apart need no hint of their order.
_CLOSE: Final = timedelta(minutes=5)


def emit(db: Queryable, flow_run_id: UUID, initial: State | None, state: State) -> None:
    """Write the event of a state that a flow run has entered, in the same transaction: there is
    one for each state, and no other."""
    run = flow_runs.get(db, flow_run_id)
    if run is None:
        return
    close = initial is not None and abs(state.timestamp - initial.timestamp) < _CLOSE
    event = events.make(
        f"prefect.flow-run.{state.name}",
        {
            events.RESOURCE_ID: f"prefect.flow-run.{run.id}",
            "prefect.resource.name": run.name,
            "prefect.run-count": str(run.run_count),
            "prefect.state-message": (state.message or "")[:_LONGEST_MESSAGE],
            "prefect.state-name": state.name,
            "prefect.state-timestamp": state.timestamp.isoformat(),
            "prefect.state-type": state.type.value,
        },
        id=state.id,
        occurred=state.timestamp,
        related=_related(db, run),
        payload={
            "intended": {"from": initial.type if initial else None, "to": state.type},
            "initial_state": _essence(initial),
            "validated_state": _essence(state),
        },
        follows=initial.id if initial and close else None,
    )
    events.write(db, [event])


def _related(db: Queryable, run: FlowRun) -> list[dict[str, str]]:
    flow = flows.get(db, run.flow_id)
    task_run = task_runs.get(db, run.parent_task_run_id) if run.parent_task_run_id else None
    related = [
        {
            events.RESOURCE_ID: f"prefect.{role}.{resource.id}",
            events.RESOURCE_ROLE: role,
            "prefect.resource.name": resource.name,
        }
        for role, resource in (("flow", flow), ("task-run", task_run))
        if resource is not None
    ]
    tags = {tag for tagged in (run, flow, task_run) if tagged for tag in tagged.tags}
    # An event has a bounded number of related resources, a run any number of tags.
    kept = sorted(tags)[: events.MAX_RELATED - len(related)]
    return related + [
        {events.RESOURCE_ID: f"prefect.tag.{tag}", events.RESOURCE_ROLE: "tag"} for tag in kept
    ]


def _essence(state: State | None) -> dict[str, Any] | None:
    if state is None:
        return None
    essence: dict[str, Any] = {"type": state.type, "name": state.name}
    if state.message:
        essence["message"] = state.message[:_LONGEST_MESSAGE]
    if state.type is StateType.PAUSED:
        essence["pause_reschedule"] = str(state.state_details["pause_reschedule"]).lower()
    return essence
