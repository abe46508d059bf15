"""Batches; the caller has begun a transaction."""

from __future__ import annotations

from datetime import UTC, timedelta
from typing import Final

from benchmarks.contestants.base import Execute
from benchmarks.contestants.by_hand_sqlite.rows import Row
from benchmarks.contestants.by_hand_sqlite.values import (
    EPOCH,
    json_text,
    marks,
    now_text,
    read_time,
    time_text,
)
from benchmarks.contestants.events_by_hand import involved, natural_key, others
from prefect_db.events import Event
from prefect_db.ids import uuid7
from prefect_db.states import TASK_RUN_POLICY, complete_details

_STORED: Final = "SELECT id FROM events WHERE id IN (SELECT value FROM json_each(?))"
_NEW_EVENT: Final = (
    f"INSERT INTO events ({Event.columns}, created, updated)"
    f" VALUES ({marks(Event.columns)}, ?, ?) ON CONFLICT (id) DO NOTHING"
)
_NEW_RESOURCE: Final = (
    "INSERT INTO event_resources (id, created, updated, occurred, resource_id, resource_role,"
    " resource, event_id) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
)


def write_events(execute: Execute, executemany: Execute, batch: list[Event]) -> int:
    new = {str(event.id): event for event in batch}
    for (stored,) in execute(_STORED, (json_text(list(new)),)).fetchall():
        del new[stored]
    now = now_text()
    events, resources = [], []
    for event_id, event in sorted(new.items()):
        occurred = time_text(event.occurred)
        events.append(
            (
                event_id,
                occurred,
                event.event,
                event.resource_id,
                json_text(event.resource),
                json_text(event.related_resource_ids),
                json_text(event.related),
                json_text(event.payload),
                time_text(event.received),
                now,
                None if event.follows is None else str(event.follows),
                now,
                now,
            )
        )
        for role, labels in involved(event):
            resources.append(
                (
                    str(uuid7()),
                    now,
                    now,
                    occurred,
                    labels["prefect.resource.id"],
                    role,
                    json_text(others(labels)),
                    event_id,
                )
            )
    executemany(_NEW_EVENT, events)
    executemany(_NEW_RESOURCE, resources)
    return len(events)


_TASK_RUNS: Final = "SELECT id FROM task_run WHERE id IN (SELECT value FROM json_each(?))"
_TASK_RUNS_BY_KEY: Final = (
    "SELECT t.id, t.flow_run_id, t.task_key, t.dynamic_key FROM json_each(?) AS k"
    " JOIN task_run AS t ON t.flow_run_id = json_extract(k.value, '$[0]')"
    " AND t.task_key = json_extract(k.value, '$[1]')"
    " AND t.dynamic_key = json_extract(k.value, '$[2]')"
)
_TASK_RUN_STATES: Final = (
    "SELECT id, task_run_id, timestamp FROM task_run_state"
    " WHERE task_run_id IN (SELECT value FROM json_each(?))"
)
_RECORDED: Final = (
    "name, task_key, dynamic_key, empirical_policy, task_inputs, tags, labels, run_count,"
    " flow_run_run_count, expected_start_time, start_time, end_time, total_run_time, state_id,"
    " state_type, state_name, state_timestamp"
)
_UPSERT: Final = (
    f"INSERT INTO task_run (id, created, updated, flow_run_id, {_RECORDED})"
    f" VALUES (?, ?, ?, ?, {marks(_RECORDED)})"
    " ON CONFLICT (flow_run_id, task_key, dynamic_key) DO UPDATE SET"
    f" {', '.join(f'{name} = excluded.{name}' for name in _RECORDED.split(', '))},"
    " updated = excluded.updated WHERE task_run.state_timestamp < excluded.state_timestamp"
)
_RECORDED_STATE: Final = (
    "INSERT INTO task_run_state (id, created, updated, task_run_id, type, timestamp, name,"
    " message, state_details, data) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
    " ON CONFLICT (id) DO NOTHING"
)


def record_task_runs(execute: Execute, executemany: Execute, batch: list[Event]) -> int:
    """Of events that are complete, as those of a client are: each has every column."""
    listed = json_text(
        list({event.resource_id.removeprefix("prefect.task-run.") for event in batch})
    )
    keys = json_text([natural_key(event) for event in batch])
    execute(_TASK_RUNS, (listed,)).fetchall()
    canonical = {
        (flow_run_id, task_key, dynamic_key): id
        for id, flow_run_id, task_key, dynamic_key in execute(_TASK_RUNS_BY_KEY, (keys,)).fetchall()
    }
    stored = execute(_TASK_RUN_STATES, (listed,)).fetchall()
    known = {id for id, _, _ in stored}
    taken = {(task_run_id, timestamp) for _, task_run_id, timestamp in stored}
    now = now_text()
    newest: dict[str, Row] = {}
    states = []
    for event in sorted(batch, key=lambda event: (event.occurred, event.id)):
        state_id = str(event.id)
        if state_id in known:
            continue
        known.add(state_id)
        key = natural_key(event)
        task_run_id = canonical.setdefault(key, event.resource_id.removeprefix("prefect.task-run."))
        run, proposed = event.payload["task_run"], event.payload["validated_state"]
        moment = event.occurred
        while (task_run_id, timestamp := time_text(moment)) in taken:
            moment += timedelta(microseconds=1)
        taken.add((task_run_id, timestamp))
        newest[task_run_id] = (
            task_run_id,
            now,
            now,
            key[0],
            run["name"],
            run["task_key"],
            run["dynamic_key"],
            json_text({**TASK_RUN_POLICY, **run["empirical_policy"]}),
            json_text(run["task_inputs"]),
            json_text(run["tags"]),
            json_text(run["labels"]),
            run["run_count"],
            run["flow_run_run_count"],
            _given_time(run.get("expected_start_time")),
            _given_time(run.get("start_time")),
            _given_time(run.get("end_time")),
            (EPOCH + timedelta(seconds=run["total_run_time"])).isoformat(" ", "microseconds"),
            state_id,
            proposed["type"],
            proposed["name"],
            timestamp,
        )
        details = {
            **proposed["state_details"],
            "flow_run_id": key[0],
            "task_run_id": task_run_id,
        }
        states.append(
            (
                state_id,
                now,
                now,
                task_run_id,
                proposed["type"],
                timestamp,
                proposed["name"],
                proposed["message"],
                json_text({**_NO_DETAILS, **details}),
                None if proposed["data"] is None else json_text(proposed["data"]),
            )
        )
    executemany(_UPSERT, sorted(newest.values()))
    executemany(_RECORDED_STATE, states)
    return len(states)


_NO_DETAILS: Final = complete_details({})


def _given_time(text: str | None) -> str | None:
    return None if text is None else time_text(read_time(text).astimezone(UTC))
