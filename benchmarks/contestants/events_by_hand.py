"""What both databases' hand-written code makes of an event."""

from __future__ import annotations

from prefect_db.events import Event


def involved(event: Event) -> list[tuple[str, dict[str, str]]]:
    """The resources of an event with their roles."""
    return [
        ("", event.resource),
        *[(labels["prefect.resource.role"], labels) for labels in event.related],
    ]


def others(labels: dict[str, str]) -> dict[str, str]:
    """The labels that have no column."""
    return {
        key: value
        for key, value in labels.items()
        if key not in ("prefect.resource.id", "prefect.resource.role")
    }


def natural_key(event: Event) -> tuple[str, str, str]:
    """The flow run, task key and dynamic key of a task run's event."""
    run = event.payload["task_run"]
    (flow_run_id,) = [
        labels["prefect.resource.id"].removeprefix("prefect.flow-run.")
        for labels in event.related
        if labels["prefect.resource.role"] == "flow-run"
    ]
    return flow_run_id, run["task_key"], run["dynamic_key"]
