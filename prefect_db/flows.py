"""Flows. Rules: Prefect's server, models/flows.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from typing import Any, Final
from uuid import UUID

from prefect_db.errors import NotFound, SerializationFailure
from prefect_db.filters import order_of, page
from prefect_db.ids import given_or_new
from prefect_db.queryable import Queryable
from prefect_db.row import Record
from prefect_db.run_filters import FlowFilter as FlowFilter
from prefect_db.run_filters import FlowRunFilter, TaskRunFilter, of_flows
from prefect_db.values import check_text, to_list, to_object, to_uuid


@dataclass(slots=True)
class Flow(Record):
    """A flow: what runs are runs of."""

    id: UUID
    created: datetime
    updated: datetime
    name: str
    tags: list[str]
    labels: dict[str, Any] | None


_GET: Final = f"SELECT {Flow.columns} FROM flow WHERE id = ?"


class FlowSort(Enum):
    """How `find` orders flows; the id decides between equals."""

    CREATED_DESC = "created DESC, id DESC"
    UPDATED_DESC = "updated DESC, id DESC"
    NAME_ASC = "name ASC, id ASC"
    NAME_DESC = "name DESC, id DESC"


def create(
    db: Queryable,
    name: str,
    *,
    tags: Sequence[str] = (),
    labels: Mapping[str, Any] | None = None,
    id: UUID | None = None,
) -> Flow:
    """The flow of this name: a new one, or the one that is there, unchanged.

    Raises:
        UniqueViolation: Another flow has this id.
        BadValue: A text has a NUL or a lone surrogate, or `labels` is no JSON.
    """
    now = datetime.now(UTC)
    flow = db.row(
        "INSERT INTO flow (id, created, updated, name, tags, labels) VALUES (?, ?, ?, ?, ?, ?)"
        f" ON CONFLICT (name) DO NOTHING RETURNING {Flow.columns}",
        (
            given_or_new(id),
            now,
            now,
            check_text(name),
            to_list(tags),
            None if labels is None else to_object(labels),
        ),
        into=Flow,
    ) or get_by_name(db, name)
    if flow is None:
        raise SerializationFailure(f"the flow {name!r} was deleted meanwhile")
    return flow


def get(db: Queryable, flow_id: UUID) -> Flow | None:
    """The flow with this id, or None."""
    return db.row(_GET, (to_uuid(flow_id),), Flow)


def get_by_name(db: Queryable, name: str) -> Flow | None:
    """The flow of exactly this name, or None."""
    return db.row(f"SELECT {Flow.columns} FROM flow WHERE name = ?", (name,), into=Flow)


def find(
    db: Queryable,
    filter: FlowFilter | None = None,
    *,
    flow_runs: FlowRunFilter | None = None,
    task_runs: TaskRunFilter | None = None,
    sort: FlowSort = FlowSort.NAME_ASC,
    limit: int | None = 200,
    offset: int = 0,
) -> list[Flow]:
    """The flows that the filter lets through, a page of them.

    Args:
        flow_runs: Only flows that have such a run.
        task_runs: Only flows that have a run with such a task run: the same run, if `flow_runs`
            is given too.
    """
    where = of_flows(db.dialect, filter, flow_runs, task_runs)
    order = order_of(sort, FlowSort)
    return db.rows(
        f"SELECT {Flow.columns} FROM flow{where.sql} ORDER BY {order} LIMIT ? OFFSET ?",
        (*where.params, *page(limit, offset)),
        into=Flow,
        prepare=not where.params,
    )


def count(
    db: Queryable,
    filter: FlowFilter | None = None,
    *,
    flow_runs: FlowRunFilter | None = None,
    task_runs: TaskRunFilter | None = None,
) -> int:
    """How many flows the filters let through; see `find`."""
    where = of_flows(db.dialect, filter, flow_runs, task_runs)
    return int(
        db.value(f"SELECT count(*) FROM flow{where.sql}", where.params, prepare=not where.params)
    )


def update(db: Queryable, flow_id: UUID, *, tags: Sequence[str]) -> Flow:
    """The flow with new tags; nothing else of a flow can change.

    Raises:
        NotFound: There is no such flow.
    """
    flow = db.row(
        f"UPDATE flow SET tags = ?, updated = {db.dialect.clock} WHERE id = ?"
        f" RETURNING {Flow.columns}",
        (to_list(tags), to_uuid(flow_id)),
        into=Flow,
    )
    if flow is None:
        raise NotFound(f"no flow {flow_id}")
    return flow


def delete(db: Queryable, flow_id: UUID) -> None:
    """Delete a flow with its runs, their task runs and states. Events and logs stay.

    Raises:
        NotFound: There is no such flow.
    """
    if not db.execute("DELETE FROM flow WHERE id = ?", (to_uuid(flow_id),)):
        raise NotFound(f"no flow {flow_id}")
