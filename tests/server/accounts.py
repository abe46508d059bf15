"""What a database holds of what a client did, without what is different each time: ids, times,
generated names."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, fields
from typing import Any
from uuid import UUID

from prefect_db import Backend, blocks, connect, events, flow_runs, flows, logs, task_runs
from prefect_db.filters import AnyOf
from prefect_db.flow_runs import FlowRun
from prefect_db.logs import LogFilter
from prefect_db.states import State
from prefect_db.task_runs import TaskRun

_CHANGING = re.compile(
    r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"  # ids
    r"|127\.0\.0\.1:\d+"
    r"|(?<=-)[0-9a-f]{3}\b"  # what makes a task run's name unique
    r"|\d{4}-\d\d-\d\d[T ][\d:.]+(?:Z|[+]00:00)?"  # times
    r"|/\S*(?=\.py)|(?<=storage_key': ').*?(?=')"
)


@dataclass
class Account:
    """What was stored, of each kind."""

    flows: list[Any]
    flow_runs: list[Any]
    task_runs: list[Any]
    logs: list[Any]
    blocks: list[Any]
    events: Counter[str]


def account(url: str) -> Account:
    """The account of a database, ours or Prefect's."""
    with connect(url) as db:
        runs = {run.id: run for run in flow_runs.find(db, limit=None)}
        return Account(
            flows=[(flow.name, flow.tags, flow.labels) for flow in flows.find(db, limit=None)],
            flow_runs=_sorted(_flow_run(db, run) for run in runs.values()),
            task_runs=_sorted(_task_run(db, run, runs) for run in task_runs.find(db, limit=None)),
            logs=_sorted(_logs(db, runs)),
            blocks=_sorted(_blocks(db)),
            events=_events(db),
        )


def _sorted(values: Any) -> list[Any]:
    return sorted((_plain(value) for value in values), key=repr)


def _plain(value: Any) -> Any:
    """The value with `#` for all that changes."""
    if isinstance(value, dict):
        return {_plain(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, UUID):
        return "#"
    return _CHANGING.sub("#", value) if isinstance(value, str) else value


_DIFFERENT = {"id", "created", "updated", "dynamic_key", "state_id", "flow_id", "flow_run_id"}
_TIMES = {
    "state_timestamp",
    "expected_start_time",
    "next_scheduled_start_time",
    "start_time",
    "end_time",
}


def _columns(run: FlowRun | TaskRun) -> dict[str, Any]:
    columns = {f.name: getattr(run, f.name) for f in fields(run) if f.name not in _DIFFERENT}
    for name in _TIMES:
        columns[name] = columns[name] is not None
    columns["total_run_time"] = bool(columns["total_run_time"])
    return columns


def _states(history: list[State]) -> list[Any]:
    return [
        (state.type, state.name, state.message, state.state_details, _data(state.data))
        for state in history
    ]


def _data(data: Any) -> Any:
    return sorted(data) if isinstance(data, dict) else data


def _flow_run(db: Backend, run: FlowRun) -> Any:
    return _columns(run), _states(flow_runs.history(db, run.id))


def _task_run(db: Backend, run: TaskRun, runs: dict[UUID, FlowRun]) -> Any:
    of = runs[run.flow_run_id].name if run.flow_run_id else None
    return of, _columns(run), _states(task_runs.history(db, run.id))


def _logs(db: Backend, runs: dict[UUID, FlowRun]) -> Any:
    for run in runs.values():
        for line in logs.find(db, LogFilter(flow_run_id=AnyOf(any_=[run.id])), limit=None):
            of_task = line.task_run_id is not None
            yield run.name, line.name, line.level, line.message, of_task


def _blocks(db: Backend) -> Any:
    for document in blocks.find_documents(db, include_secrets=True, limit=None):
        schema = blocks.get_schema(db, document.block_schema_id)
        assert schema is not None
        references = {
            key: value["block_document"]["name"]
            for key, value in document.block_document_references.items()
        }
        described = (schema.checksum, schema.version, schema.fields, sorted(schema.capabilities))
        yield document.name, document.block_type_name, document.data, references, described


def _events(db: Backend) -> Counter[str]:
    """The events but heartbeats, whose number depends on the time, and those of kinds that only
    Prefect's server makes."""
    found: Counter[str] = Counter()
    after = None
    while True:
        page = events.query(db, limit=200, after=after)
        for event in page.events:
            if event.event.startswith(("prefect.flow-run.", "prefect.task-run.", "prefect.block.")):
                # A run begins with a generated name.
                named = event.event == "prefect.flow-run.Pending"
                name = {"prefect.resource.name": "#"} if named else {}
                content = (
                    event.event,
                    event.resource | name,
                    event.related,
                    _data(event.payload) if "task-run" in event.event else event.payload,
                    event.follows is not None,
                )
                found[repr(_plain(content))] += 1
        after = page.next
        if after is None:
            return Counter({k: v for k, v in found.items() if "heartbeat" not in k})
