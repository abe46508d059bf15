"""What one side writes, the other reads, updates and deletes, in one database."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Any
from uuid import UUID, uuid4

import pytest
from prefect.server import models
from prefect.server.events.filters import EventFilter, EventOccurredFilter
from prefect.server.events.schemas.events import ReceivedEvent
from prefect.server.events.storage.database import query_events
from prefect.server.orchestration.core_policy import CoreFlowPolicy, CoreTaskPolicy
from prefect.server.schemas import actions
from prefect.server.schemas import states as prefect_states
from prefect.server.services.task_run_recorder import record_bulk_task_run_events
from pydantic import BaseModel

from prefect_db import (
    Backend,
    Record,
    configuration,
    connect,
    events,
    flow_runs,
    flows,
    logs,
    states,
    task_runs,
)
from prefect_db.states import StateType
from tests.peer.operations import Generator
from tests.peer.prefect_peer import Prefect
from tests.peer.sides import Ours, Rejected, Theirs

OPERATIONS = 200
EVER = EventFilter(
    occurred=EventOccurredFilter(
        since=datetime(2000, 1, 1, tzinfo=UTC), until=datetime(2100, 1, 1, tzinfo=UTC)
    )
)


def plain(value: Any) -> Any:
    """A value of either side without its type: what JSON would have of it."""
    if isinstance(value, BaseModel):
        return plain(value.model_dump(mode="json"))
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, datetime):
        return value.astimezone(UTC)
    if isinstance(value, timedelta):
        # A pendulum.Duration's own parts are not those of a timedelta.
        return value // timedelta(microseconds=1)
    if isinstance(value, dict):
        # A set has no order.
        return {
            key: sorted(item) if key == "pause_keys" else plain(item) for key, item in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


def assert_alike(ours: Record, theirs: Any) -> None:
    """Each field of our record is what Prefect's object has."""
    for name in type(ours).columns.split(", "):
        our = plain(getattr(ours, name))
        their = plain(getattr(theirs, name))
        if name == "data":
            # Prefect does not tell an empty result in the column from none.
            our, their = our or None, their or None
        assert our == their, f"{type(ours).__name__}.{name}: ours {our!r}, Prefect {their!r}"


def assert_all_alike(db: Backend, prefect: Prefect) -> Counter[str]:
    """Each side reads the same of every record in the database; how many there were."""
    read: Counter[str] = Counter()

    def compare(kind: str, ours: Record, theirs: Any) -> None:
        assert_alike(ours, theirs)
        read[kind] += 1

    for flow in flows.find(db, limit=None):
        compare("flow", flow, prefect.read(models.flows.read_flow, flow.id))
    for run in flow_runs.find(db, limit=None):
        compare("flow run", run, prefect.read(models.flow_runs.read_flow_run, run.id))
        their_states = prefect.read(models.flow_run_states.read_flow_run_states, run.id)
        for ours, theirs in zip(flow_runs.history(db, run.id), their_states, strict=True):
            compare("flow run state", ours, theirs.as_state())
    for task_run in task_runs.find(db, limit=None):
        compare("task run", task_run, prefect.read(models.task_runs.read_task_run, task_run.id))
        their_states = prefect.read(models.task_run_states.read_task_run_states, task_run.id)
        for ours, theirs in zip(task_runs.history(db, task_run.id), their_states, strict=True):
            compare("task run state", ours, theirs.as_state())
    page, _, _ = prefect.read(query_events, EVER, 10_000)
    their_events = {event.id: event for event in page}
    for event in events.query(db, limit=10_000).events:
        found = their_events.pop(event.id)
        assert plain(event.resource) == plain(found.resource)
        assert plain(event.related) == plain(found.related)
        for name in ("occurred", "event", "payload", "received", "follows"):
            assert plain(getattr(event, name)) == plain(getattr(found, name))
        read["event"] += 1
    assert not their_events
    their_logs = {log.id: log for log in prefect.read(models.logs.read_logs, None)}
    for log in logs.find(db, limit=None):
        compare("log", log, their_logs.pop(log.id))
    assert not their_logs
    for row in db.rows("SELECT key FROM configuration"):
        # Its cache belongs to the process, and knows no database.
        prefect.interface.queries.clear_configuration_value_cache_for_key(row[0])
        theirs = prefect.read(models.configuration.read_configuration, row[0])
        assert configuration.get(db, row[0]) == theirs.value
        read["configuration"] += 1
    return read


KINDS = {
    "flow",
    "flow run",
    "flow run state",
    "task run",
    "task run state",
    "event",
    "log",
    "configuration",
}


@pytest.mark.parametrize("writer", ["prefect", "ours"])
def test_each_reads_what_the_other_wrote(
    managed: Backend, prefect: Prefect, writer: str, backend_name: str, compared: Counter[str]
) -> None:
    side: Theirs | Ours = Theirs(prefect) if writer == "prefect" else Ours(managed)
    for operation in Generator(20240309).operations(OPERATIONS):
        with suppress(Rejected):
            side(operation)
    read = assert_all_alike(managed, prefect)
    assert set(read) == KINDS
    for kind, number in read.items():
        compared[f"{backend_name} {kind} records of {writer} read"] += number


@pytest.fixture
def guest(url: str) -> Iterator[Prefect]:
    """Prefect's models on a database with our schema."""
    with connect(url), Prefect(url) as prefect:
        yield prefect


def test_prefect_reads_a_database_of_our_schema(
    guest: Prefect, url: str, backend_name: str, compared: Counter[str]
) -> None:
    with connect(url) as db:
        side = Ours(db)
        for operation in Generator(20240310).operations(OPERATIONS // 2):
            side(operation)
        read = assert_all_alike(db, guest)
    compared[f"{backend_name} records in our schema read by Prefect"] += read.total()


def test_prefect_updates_our_flow_and_deletes_it(managed: Backend, prefect: Prefect) -> None:
    flow = flows.create(managed, "ours", tags=["a"])
    run = flow_runs.create(managed, flow.id, state=states.running())
    placeholder = task_runs.create(managed, "child-0", "child", "0", flow_run_id=run.id)
    child_flow = flows.create(managed, "child")
    child = flow_runs.create(
        managed, child_flow.id, parent_task_run_id=placeholder.id, state=states.running()
    )
    logs.write(managed, [logs.make("l", 20, "m", datetime.now(UTC), flow_run_id=run.id)])
    assert prefect.write(models.flows.update_flow, flow.id, actions.FlowUpdate(tags=["b", "b"]))
    updated = flows.get(managed, flow.id)
    assert updated is not None
    assert (updated.tags, updated.created) == (["b", "b"], flow.created)
    assert prefect.write(models.flows.delete_flow, flow.id)
    assert flows.get(managed, flow.id) is None
    assert flow_runs.get(managed, run.id) is None
    assert task_runs.get(managed, placeholder.id) is None
    assert managed.value("SELECT count(*) FROM task_run_state") == 0
    assert [state.type for state in flow_runs.history(managed, child.id)] == ["RUNNING"]
    left = flow_runs.get(managed, child.id)
    assert left is not None
    assert left.parent_task_run_id is None
    assert logs.count(managed) == 1


def set_flow_run_state(prefect: Prefect, run_id: UUID, state: Any) -> Any:
    """As a client's request, with all of Prefect's rules."""
    return prefect.write(
        models.flow_runs.set_flow_run_state, run_id, state, flow_policy=CoreFlowPolicy
    )


def test_prefect_orchestrates_our_flow_run(managed: Backend, prefect: Prefect) -> None:
    flow = flows.create(managed, "ours")
    run = flow_runs.create(
        managed, flow.id, state=states.pending(), empirical_policy={"retries": 1, "retry_delay": 0}
    )
    again = set_flow_run_state(prefect, run.id, prefect_states.Pending())
    assert again.status.name == "ABORT"
    assert set_flow_run_state(prefect, run.id, prefect_states.Running()).status.name == "ACCEPT"
    failed = set_flow_run_state(prefect, run.id, prefect_states.Failed())
    assert failed.status.name == "REJECT"
    assert failed.state.name == "AwaitingRetry"
    flow_runs.set_state(managed, run.id, states.running())
    data = {"type": "reference", "storage_key": "k"}
    result = set_flow_run_state(prefect, run.id, prefect_states.Completed(data=data))
    assert result.status.name == "ACCEPT"
    lost = set_flow_run_state(prefect, run.id, prefect_states.Completed())
    assert lost.status.name == "REJECT"
    found = flow_runs.get(managed, run.id)
    assert found is not None
    assert (found.run_count, found.state_type) == (2, StateType.COMPLETED)
    assert found.empirical_policy["retry_type"] == "in_process"
    history = flow_runs.history(managed, run.id)
    assert [state.name for state in history] == [
        "Pending",
        "Running",
        "AwaitingRetry",
        "Running",
        "Completed",
    ]
    assert history[-1].data == data
    assert found.total_run_time == (history[2].timestamp - history[1].timestamp) + (
        history[4].timestamp - history[3].timestamp
    )
    update = actions.FlowRunUpdate(name="theirs", tags=["x"], parameters={"a": [1.5]})
    assert prefect.write(models.flow_runs.update_flow_run, run.id, update)
    assert prefect.write(models.flow_runs.update_flow_run_labels, run.id, {"k": 1})
    found = flow_runs.get(managed, run.id)
    assert found is not None
    assert (found.name, found.tags, found.parameters) == ("theirs", ["x"], {"a": [1.5]})
    assert found.labels == {"prefect.flow.id": str(flow.id), "k": 1}
    assert_all_alike(managed, prefect)
    state_id = history[0].id
    assert prefect.write(models.flow_run_states.delete_flow_run_state, state_id)
    assert [state.id for state in flow_runs.history(managed, run.id)] == [
        state.id for state in history[1:]
    ]
    assert prefect.write(models.flow_runs.delete_flow_run, run.id)
    assert flow_runs.get(managed, run.id) is None
    assert managed.value("SELECT count(*) FROM flow_run_state") == 0


def test_prefect_keeps_the_placeholder_of_our_subflow(managed: Backend, prefect: Prefect) -> None:
    flow = flows.create(managed, "ours")
    parent = flow_runs.create(managed, flow.id, state=states.running())
    placeholder = task_runs.create(
        managed, "child-0", "child", "0", flow_run_id=parent.id, state=states.pending()
    )
    child = flow_runs.create(
        managed, flow.id, parent_task_run_id=placeholder.id, state=states.pending()
    )
    set_flow_run_state(prefect, child.id, prefect_states.Running())
    flow_runs.set_state(managed, child.id, states.completed(data=[1]))
    mirrored = task_runs.history(managed, placeholder.id)
    assert [state.type for state in mirrored] == ["PENDING", "PENDING", "RUNNING", "COMPLETED"]
    assert mirrored[-1].data == [1]
    assert {state.state_details["child_flow_run_id"] for state in mirrored[1:]} == {str(child.id)}
    assert_all_alike(managed, prefect)


def test_prefect_orchestrates_our_task_run_and_deletes_it(
    managed: Backend, prefect: Prefect
) -> None:
    flow = flows.create(managed, "ours")
    run = flow_runs.create(managed, flow.id, state=states.running())
    task_run = task_runs.create(
        managed,
        "t",
        "t",
        "0",
        flow_run_id=run.id,
        state=states.pending(),
        empirical_policy={"retries": 1, "retry_delay": 0},
    )
    for proposed, status in [
        (prefect_states.Running, "ACCEPT"),
        (prefect_states.Failed, "REJECT"),
        (prefect_states.Running, "ACCEPT"),
        (prefect_states.Completed, "ACCEPT"),
    ]:
        result = prefect.write(
            models.task_runs.set_task_run_state,
            task_run.id,
            proposed(),
            task_policy=CoreTaskPolicy,
        )
        assert result.status.name == status
    names = [state.name for state in task_runs.history(managed, task_run.id)]
    assert names == ["Pending", "Running", "AwaitingRetry", "Retrying", "Completed"]
    found = task_runs.get(managed, task_run.id)
    assert found is not None
    assert (found.run_count, found.flow_run_run_count) == (2, 1)
    update = actions.TaskRunUpdate(name="theirs")
    assert prefect.write(models.task_runs.update_task_run, task_run.id, update)
    assert_all_alike(managed, prefect)
    assert prefect.write(models.task_runs.delete_task_run, task_run.id)
    assert task_runs.get(managed, task_run.id) is None
    assert task_runs.history(managed, task_run.id) == []


def task_event(task_run_id: UUID, kind: str, occurred: datetime) -> dict[str, Any]:
    """What a client sends when a task run enters a state."""
    return {
        "id": str(uuid4()),
        "occurred": occurred.isoformat(),
        "event": f"prefect.task-run.{kind.capitalize()}",
        "resource": {
            "prefect.resource.id": f"prefect.task-run.{task_run_id}",
            "prefect.orchestration": "client",
        },
        "payload": {
            "validated_state": {"type": kind, "name": kind.capitalize(), "message": ""},
            "task_run": {"name": kind, "task_key": "t", "dynamic_key": "0", "labels": {}},
        },
    }


def test_both_record_one_task_run(managed: Backend, prefect: Prefect) -> None:
    task_run_id, now = uuid4(), datetime.now(UTC)
    kinds = ["PENDING", "RUNNING", "COMPLETED"]
    sent = [
        task_event(task_run_id, kind, now + timedelta(seconds=number))
        for number, kind in enumerate(kinds)
    ]
    task_runs.record(managed, [sent[0]])
    later = [ReceivedEvent(**sent[0]), ReceivedEvent(**sent[2])]
    prefect.call(lambda: record_bulk_task_run_events(later))
    assert task_runs.record(managed, sent) == 1
    found = task_runs.get(managed, task_run_id)
    assert found is not None
    assert found.name == "COMPLETED"
    assert [state.type for state in task_runs.history(managed, task_run_id)] == kinds
    assert_all_alike(managed, prefect)


def test_a_key_that_one_set_the_other_changes(managed: Backend, prefect: Prefect) -> None:
    theirs, ours = Theirs(prefect), Ours(managed)
    ours.set_configuration("key", {"by": "ours"})
    theirs.set_configuration("key", {"by": "Prefect"})
    assert configuration.get(managed, "key") == {"by": "Prefect"}
    assert configuration.setdefault(managed, "key", {"by": "nobody"}) == {"by": "Prefect"}
    ours.set_configuration("key", {"by": "ours again"})
    prefect.interface.queries.clear_configuration_value_cache_for_key("key")
    read = prefect.read(models.configuration.read_configuration, "key")
    assert read.value == {"by": "ours again"}
    assert prefect.write(models.configuration.delete_configuration, "key")
    assert configuration.get(managed, "key") is None
