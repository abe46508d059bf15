"""Records of rows."""

from __future__ import annotations

from typing import Any

from benchmarks.contestants.by_hand_sqlite.values import EPOCH, TYPES, read_json, read_time
from prefect_db.events import Event
from prefect_db.flow_runs import FlowRun
from prefect_db.flows import Flow
from prefect_db.states import State
from prefect_db.task_runs import TaskRun
from prefect_db.values import read_uuid

Row = tuple[Any, ...]


def flow_of(row: Row) -> Flow:
    id, created, updated, name, tags, labels = row
    return Flow(
        read_uuid(id),
        read_time(created + "Z"),
        read_time(updated + "Z"),
        name,
        read_json(tags),
        None if labels is None else read_json(labels),
    )


def flow_run_of(row: Row) -> FlowRun:
    # fmt: off
    (
        id, created, updated, name, state_type, state_name, state_timestamp, state_id, run_count,
        expected, next_start, start, end, total, flow_id, version, deployment_id,
        deployment_version, parameters, context, policy, tags, labels, key, auto, parent_id,
        document_id, pid, queue_id, queue_name, creator, variables,
    ) = row
    # fmt: on
    return FlowRun(
        read_uuid(id),
        read_time(created + "Z"),
        read_time(updated + "Z"),
        name,
        None if state_type is None else TYPES[state_type],
        state_name,
        None if state_timestamp is None else read_time(state_timestamp + "Z"),
        None if state_id is None else read_uuid(state_id),
        run_count,
        None if expected is None else read_time(expected + "Z"),
        None if next_start is None else read_time(next_start + "Z"),
        None if start is None else read_time(start + "Z"),
        None if end is None else read_time(end + "Z"),
        read_time(total) - EPOCH,
        read_uuid(flow_id),
        version,
        None if deployment_id is None else read_uuid(deployment_id),
        deployment_version,
        read_json(parameters),
        read_json(context),
        read_json(policy),
        read_json(tags),
        None if labels is None else read_json(labels),
        key,
        auto != 0,
        None if parent_id is None else read_uuid(parent_id),
        None if document_id is None else read_uuid(document_id),
        pid,
        None if queue_id is None else read_uuid(queue_id),
        queue_name,
        None if creator is None else read_json(creator),
        None if variables is None else read_json(variables),
    )


def task_run_of(row: Row) -> TaskRun:
    # fmt: off
    (
        id, created, updated, name, state_type, state_name, state_timestamp, state_id, run_count,
        expected, next_start, start, end, total, flow_run_id, task_key, dynamic_key, cache_key,
        cache_expiration, version, flow_run_run_count, policy, inputs, tags, labels,
    ) = row
    # fmt: on
    return TaskRun(
        read_uuid(id),
        read_time(created + "Z"),
        read_time(updated + "Z"),
        name,
        None if state_type is None else TYPES[state_type],
        state_name,
        None if state_timestamp is None else read_time(state_timestamp + "Z"),
        None if state_id is None else read_uuid(state_id),
        run_count,
        None if expected is None else read_time(expected + "Z"),
        None if next_start is None else read_time(next_start + "Z"),
        None if start is None else read_time(start + "Z"),
        None if end is None else read_time(end + "Z"),
        read_time(total) - EPOCH,
        None if flow_run_id is None else read_uuid(flow_run_id),
        task_key,
        dynamic_key,
        cache_key,
        None if cache_expiration is None else read_time(cache_expiration + "Z"),
        version,
        flow_run_run_count,
        read_json(policy),
        read_json(inputs),
        read_json(tags),
        None if labels is None else read_json(labels),
    )


def event_of(row: Row) -> Event:
    # fmt: off
    (
        id, occurred, event, resource_id, resource, related_ids, related, payload, received,
        recorded, follows,
    ) = row
    # fmt: on
    return Event(
        read_uuid(id),
        read_time(occurred + "Z"),
        event,
        resource_id,
        read_json(resource),
        read_json(related_ids),
        read_json(related),
        read_json(payload),
        read_time(received + "Z"),
        read_time(recorded + "Z"),
        None if follows is None else read_uuid(follows),
    )


def state_of(row: Row) -> State:
    id, kind, name, timestamp, message, details, data = row
    return State(
        read_uuid(id),
        TYPES[kind],
        name,
        read_time(timestamp + "Z"),
        message,
        read_json(details),
        None if data is None else read_json(data),
    )
