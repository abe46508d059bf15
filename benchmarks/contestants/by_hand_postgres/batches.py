"""Batches; the caller has begun a transaction."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

from benchmarks.contestants.base import Execute
from benchmarks.contestants.by_hand_postgres.rows import Row
from benchmarks.contestants.by_hand_postgres.values import json_text, json_text_as_stored, marks
from benchmarks.contestants.events_by_hand import involved, natural_key, others
from prefect_db.events import Event
from prefect_db.ids import uuid7
from prefect_db.states import TASK_RUN_POLICY, complete_details

_STORED: Final = "SELECT id FROM events WHERE id = ANY(CAST(%s AS uuid[]))"
_NEW_EVENT: Final = (
    f"INSERT INTO events ({Event.columns}) VALUES ({marks(Event.columns)})"
    " ON CONFLICT (id) DO NOTHING"
)
_NEW_RESOURCE: Final = (
    "INSERT INTO event_resources (id, occurred, resource_id, resource_role, resource, event_id)"
    " VALUES (%s, %s, %s, %s, %s, %s)"
)


def write_events(execute: Execute, executemany: Execute, batch: list[Event]) -> int:
    new = {event.id: event for event in batch}
    for (stored,) in execute(_STORED, (list(new),)).fetchall():
        del new[stored]
    now = datetime.now(UTC)
    events, resources = [], []
    for event_id, event in sorted(new.items()):
        events.append(
            (
                event_id,
                event.occurred,
                event.event,
                event.resource_id,
                json_text(event.resource),
                json_text(event.related_resource_ids),
                json_text(event.related),
                json_text(event.payload),
                event.received,
                now,
                event.follows,
            )
        )
        for role, labels in involved(event):
            resources.append(
                (
                    uuid7(),
                    event.occurred,
                    labels["prefect.resource.id"],
                    role,
                    json_text_as_stored(others(labels)),
                    event_id,
                )
            )
    executemany(_NEW_EVENT, events)
    executemany(_NEW_RESOURCE, resources)
    return len(events)


_LOCK: Final = "SELECT pg_advisory_xact_lock(k) FROM unnest(CAST(%s AS bigint[])) AS k"
_TASK_RUNS: Final = (
    "SELECT t.id FROM task_run AS t WHERE t.id = ANY(CAST(%s AS uuid[]))"
    " ORDER BY t.id FOR UPDATE OF t"
)
_TASK_RUNS_BY_KEY: Final = (
    "SELECT t.id, t.flow_run_id, t.task_key, t.dynamic_key"
    " FROM unnest(CAST(%s AS uuid[]), CAST(%s AS text[]), CAST(%s AS text[]))"
    " AS k (flow_run_id, task_key, dynamic_key)"
    " JOIN task_run AS t USING (flow_run_id, task_key, dynamic_key)"
    " ORDER BY t.id FOR UPDATE OF t"
)
_TASK_RUN_STATES: Final = (
    "SELECT id, task_run_id, timestamp FROM task_run_state"
    " WHERE task_run_id = ANY(CAST(%s AS uuid[]))"
)
_RECORDED: Final = (
    "name, task_key, dynamic_key, empirical_policy, task_inputs, tags, labels, run_count,"
    " flow_run_run_count, expected_start_time, start_time, end_time, total_run_time, state_id,"
    " state_type, state_name, state_timestamp"
)
_UPSERT: Final = (
    f"INSERT INTO task_run (id, created, updated, flow_run_id, {_RECORDED})"
    f" VALUES (%s, %s, %s, %s, {marks(_RECORDED)})"
    " ON CONFLICT (flow_run_id, task_key, dynamic_key) DO UPDATE SET"
    f" {', '.join(f'{name} = excluded.{name}' for name in _RECORDED.split(', '))},"
    " updated = excluded.updated WHERE task_run.state_timestamp < excluded.state_timestamp"
)
_RECORDED_STATE: Final = (
    "INSERT INTO task_run_state (id, created, updated, task_run_id, type, timestamp, name,"
    " message, state_details, data) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s)"
    " ON CONFLICT (id) DO NOTHING"
)
_NO_DETAILS: Final = complete_details({})


def record_task_runs(execute: Execute, executemany: Execute, batch: list[Event]) -> int:
    """Of events that are complete, as those of a client are: each has every column."""
    ids = list({UUID(event.resource_id.removeprefix("prefect.task-run.")) for event in batch})
    keys = list({natural_key(event) for event in batch})
    execute(_LOCK, (sorted({hash(key) for key in keys}),)).fetchall()
    execute(_TASK_RUNS, (ids,)).fetchall()
    canonical = {
        (str(flow_run_id), task_key, dynamic_key): id
        for id, flow_run_id, task_key, dynamic_key in execute(
            _TASK_RUNS_BY_KEY, tuple([key[at] for key in keys] for at in range(3))
        ).fetchall()
    }
    stored = execute(_TASK_RUN_STATES, (ids,)).fetchall()
    known = {id for id, _, _ in stored}
    taken = {(task_run_id, timestamp) for _, task_run_id, timestamp in stored}
    now = datetime.now(UTC)
    newest: dict[UUID, Row] = {}
    states = []
    for event in sorted(batch, key=lambda event: (event.occurred, event.id)):
        if event.id in known:
            continue
        known.add(event.id)
        key = natural_key(event)
        task_run_id = canonical.get(key)
        if task_run_id is None:
            task_run_id = UUID(event.resource_id.removeprefix("prefect.task-run."))
            canonical[key] = task_run_id
        run, proposed = event.payload["task_run"], event.payload["validated_state"]
        timestamp = event.occurred
        while (task_run_id, timestamp) in taken:
            timestamp += timedelta(microseconds=1)
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
            run.get("expected_start_time"),
            run.get("start_time"),
            run.get("end_time"),
            timedelta(seconds=run["total_run_time"]),
            event.id,
            proposed["type"],
            proposed["name"],
            timestamp,
        )
        details = {
            **_NO_DETAILS,
            **proposed["state_details"],
            "flow_run_id": key[0],
            "task_run_id": str(task_run_id),
        }
        states.append(
            (
                event.id,
                now,
                now,
                task_run_id,
                proposed["type"],
                timestamp,
                proposed["name"],
                proposed["message"],
                json_text(details),
                None if proposed["data"] is None else json_text(proposed["data"]),
            )
        )
    executemany(_UPSERT, [newest[id] for id in sorted(newest)])
    execute(_TASK_RUNS_BY_KEY, tuple([key[at] for key in keys] for at in range(3))).fetchall()
    executemany(_RECORDED_STATE, states)
    return len(states)
