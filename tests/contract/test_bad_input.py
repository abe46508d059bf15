"""What cannot be stored is refused, by the same error on every backend, and leaves no trace; what
only looks dangerous is stored and read back as it was."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID, uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prefect_db import (
    Backend,
    BadValue,
    ConstraintError,
    Error,
    ForeignKeyViolation,
    NotFound,
    NotNullViolation,
    Queryable,
    Transaction,
    TransactionAborted,
    UniqueViolation,
    UsageError,
    connect,
    events,
    flow_runs,
    flows,
    logs,
    states,
    task_runs,
)
from prefect_db.events import AnyResource, EventFilter, EventId, EventName, Occurred, Resource
from prefect_db.filters import Among, AnyOf, Name, Reference, Tags, Time
from prefect_db.filters import State as StateFilter
from prefect_db.flow_runs import CreatedBy, FlowRunFilter
from prefect_db.flows import FlowFilter
from prefect_db.logs import Level, LogFilter, Text
from prefect_db.task_runs import TaskRunFilter
from prefect_db.testing import create_database
from prefect_db.text_search import MAX_QUERY

NOON: Final = datetime(2030, 1, 1, 12, tzinfo=UTC)
NAIVE: Final = datetime(2030, 1, 1, 12)
FLOW, RUN, TASK, STATE, TASK_STATE, EVENT, LOG, MISSING = [UUID(int=n) for n in range(1, 9)]

TABLES: Final = (
    "flow flow_run flow_run_state task_run task_run_state artifact log events event_resources"
).split()


def dump(db: Queryable) -> dict[str, list[tuple[Any, ...]]]:
    """All that is stored."""
    return {
        table: sorted(map(tuple, db.rows(f"SELECT * FROM {table}")), key=repr) for table in TABLES
    }


@pytest.fixture(scope="module")
def seeded(
    backend_name: str, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Backend]:
    """A database with one row of everything; use it through `unchanged` or `scratch`."""
    with ExitStack() as stack:
        if backend_name == "sqlite":
            url = f"sqlite:///{tmp_path_factory.mktemp('seeded')}/test.db"
        else:
            url = stack.enter_context(create_database(request.getfixturevalue("postgres_url")))
        db = stack.enter_context(connect(url))
        seed(db)
        yield db


def seed(db: Queryable) -> None:
    flows.create(db, "seed", id=FLOW)
    state = replace(states.completed(data={"a": 1}), id=STATE)
    flow_runs.create(db, FLOW, id=RUN, state=state, idempotency_key="seed")
    state = replace(states.completed(data={"a": 1}), id=TASK_STATE)
    task_runs.create(db, "seed", "seed", "0", flow_run_id=RUN, id=TASK, state=state)
    log = logs.make("seed", 20, "text", NOON, flow_run_id=RUN)
    logs.write(db, [replace(log, id=LOG)])
    events.write(db, [events.make("seed", {"prefect.resource.id": "r"}, id=EVENT)])


@pytest.fixture
def unchanged(seeded: Backend) -> Iterator[Backend]:
    """The seeded database, in which the test must leave everything as it is."""
    before = dump(seeded)
    yield seeded
    after = dump(seeded)
    if after != before:
        # What one test should not have stored must not fail the next.
        for table in TABLES:
            seeded.execute(f"DELETE FROM {table}")
        seed(seeded)
    assert after == before


@pytest.fixture
def scratch(seeded: Backend) -> Iterator[Transaction]:
    """A transaction in the seeded database, of which nothing remains."""
    with seeded.transaction() as txn:
        yield txn
        txn.rollback()


def task_frame(**payload: Any) -> dict[str, Any]:
    """A client's event of a task run; `payload` is what it says of the task run, or `state`."""
    state = payload.pop("state", {})
    return {
        "id": str(uuid4()),
        "occurred": "2030-01-01T12:00:00Z",
        "event": "prefect.task-run.Running",
        "resource": {
            "prefect.resource.id": f"prefect.task-run.{uuid4()}",
            "prefect.orchestration": "client",
        },
        "related": [],
        "payload": {
            "validated_state": {"type": "RUNNING", "name": "Running", **state},
            "task_run": {
                "name": "load",
                "task_key": "load",
                "dynamic_key": str(uuid4()),
                **payload,
            },
        },
    }


REFUSED: Final[list[tuple[str, type[Error], Callable[[Queryable], Any]]]] = [
    ("flow id twice", UniqueViolation, lambda db: flows.create(db, "other", id=FLOW)),
    ("flow run id twice", UniqueViolation, lambda db: flow_runs.create(db, FLOW, id=RUN)),
    (
        "flow run id twice, with a state",
        UniqueViolation,
        lambda db: flow_runs.create(db, FLOW, id=RUN, state=states.pending()),
    ),
    (
        "flow run id twice, with another key",
        UniqueViolation,
        lambda db: flow_runs.create(db, FLOW, id=RUN, idempotency_key="other"),
    ),
    (
        "a new flow run with the id of another's state",
        UniqueViolation,
        lambda db: flow_runs.create(db, FLOW, state=replace(states.pending(), id=STATE)),
    ),
    (
        "flow run state id twice",
        UniqueViolation,
        lambda db: flow_runs.set_state(db, RUN, replace(states.pending(data=[1]), id=STATE)),
    ),
    (
        "task run id twice",
        UniqueViolation,
        lambda db: task_runs.create(db, "load", "load", "0", id=TASK),
    ),
    (
        "task run id twice, in a flow run",
        UniqueViolation,
        lambda db: task_runs.create(db, "load", "load", "0", flow_run_id=RUN, id=TASK),
    ),
    (
        "a new task run with the id of another's state",
        UniqueViolation,
        lambda db: task_runs.create(
            db, "load", "load", "0", state=replace(states.pending(), id=TASK_STATE)
        ),
    ),
    (
        "task run state id twice",
        UniqueViolation,
        lambda db: task_runs.set_state(db, TASK, replace(states.pending(data=1), id=TASK_STATE)),
    ),
    (
        "log id twice",
        UniqueViolation,
        lambda db: logs.write(db, [replace(logs.make("a", 20, "b", NOON), id=LOG)]),
    ),
    (
        "flow run of a missing flow",
        ForeignKeyViolation,
        lambda db: flow_runs.create(db, MISSING, state=states.pending(data={"a": 1})),
    ),
    (
        "flow run of a missing flow, with a key",
        ForeignKeyViolation,
        lambda db: flow_runs.create(db, MISSING, idempotency_key="seed"),
    ),
    (
        "flow run of a missing parent",
        ForeignKeyViolation,
        lambda db: flow_runs.create(db, FLOW, parent_task_run_id=MISSING, state=states.pending()),
    ),
    (
        "flow run of a missing document",
        ForeignKeyViolation,
        lambda db: flow_runs.create(db, FLOW, infrastructure_document_id=MISSING),
    ),
    (
        "task run of a missing flow run",
        ForeignKeyViolation,
        lambda db: task_runs.create(
            db, "load", "load", "0", flow_run_id=MISSING, state=states.pending()
        ),
    ),
    (
        "recorded task run of a missing flow run",
        ForeignKeyViolation,
        lambda db: task_runs.record(db, [task_frame(), task_frame(flow_run_id=str(MISSING))]),
    ),
    ("update of a missing flow", NotFound, lambda db: flows.update(db, MISSING, tags=["a"])),
    ("deletion of a missing flow", NotFound, lambda db: flows.delete(db, MISSING)),
    ("update of a missing flow run", NotFound, lambda db: flow_runs.update(db, MISSING, name="a")),
    ("no update of a missing flow run", NotFound, lambda db: flow_runs.update(db, MISSING)),
    (
        "labels of a missing flow run",
        NotFound,
        lambda db: flow_runs.merge_labels(db, MISSING, {"a": 1}),
    ),
    ("deletion of a missing flow run", NotFound, lambda db: flow_runs.delete(db, MISSING)),
    (
        "state of a missing flow run",
        NotFound,
        lambda db: flow_runs.set_state(db, MISSING, states.completed(data=1)),
    ),
    ("deletion of a missing task run", NotFound, lambda db: task_runs.delete(db, MISSING)),
    (
        "state of a missing task run",
        NotFound,
        lambda db: task_runs.set_state(db, MISSING, states.completed(data=1)),
    ),
    (
        "a column that cannot be changed",
        UsageError,
        lambda db: flow_runs.update(db, RUN, **untyped({"flow_id": FLOW, "name": "a"})),
    ),
    (
        "cache expiration without zone",
        BadValue,
        lambda db: task_runs.create(db, "load", "load", "0", cache_expiration=NAIVE),
    ),
    (
        "state time without zone",
        BadValue,
        lambda db: flow_runs.set_state(db, RUN, replace(states.running(), timestamp=NAIVE)),
    ),
    (
        "task run state time without zone",
        BadValue,
        lambda db: task_runs.set_state(db, TASK, replace(states.running(), timestamp=NAIVE)),
    ),
    (
        "first state time without zone",
        BadValue,
        lambda db: flow_runs.create(db, FLOW, state=replace(states.running(), timestamp=NAIVE)),
    ),
    (
        "scheduled time without zone",
        BadValue,
        lambda db: flow_runs.create(db, FLOW, state=states.scheduled(NAIVE)),
    ),
    (
        "scheduled without any time",
        BadValue,
        lambda db: flow_runs.set_state(
            db, RUN, replace(states.scheduled(), state_details=states.complete_details({}))
        ),
    ),
    (
        "event time without zone",
        BadValue,
        lambda db: events.write(
            db,
            [
                events.make("a", {"prefect.resource.id": "r"}),
                replace(events.make("b", {"prefect.resource.id": "r"}), occurred=NAIVE),
            ],
        ),
    ),
    (
        "log time without zone",
        BadValue,
        lambda db: logs.write(
            db,
            [
                logs.make("a", 20, "b", NOON),
                replace(logs.make("a", 20, "b", NOON), timestamp=NAIVE),
            ],
        ),
    ),
    ("trim without zone", BadValue, lambda db: events.trim(db, NAIVE)),
    (
        "filter without zone",
        BadValue,
        lambda db: flow_runs.find(db, FlowRunFilter(end_time=Time(after_=NAIVE))),
    ),
    (
        "count without zone",
        BadValue,
        lambda db: logs.count(db, LogFilter(timestamp=Time(before_=NAIVE))),
    ),
    (
        "event filter without zone",
        BadValue,
        lambda db: events.query(db, EventFilter(occurred=Occurred(since=NAIVE))),
    ),
    ("limit of 65 bits", BadValue, lambda db: flows.find(db, limit=2**64)),
    ("offset of 65 bits", BadValue, lambda db: task_runs.find(db, offset=2**63)),
    ("limit of 63 bits", BadValue, lambda db: flow_runs.find(db, limit=2**62)),
    ("task runs' limit of 65 bits", BadValue, lambda db: task_runs.find(db, limit=2**64)),
    ("level of 65 bits", BadValue, lambda db: logs.find(db, LogFilter(level=Level(le_=2**63)))),
    ("log level of 17 bits", BadValue, lambda db: logs.write(db, [log_line(level=70_000)])),
    ("log level of 65 bits", BadValue, lambda db: logs.write(db, [log_line(level=2**64)])),
    (
        "stored log level of 17 bits",
        BadValue,
        lambda db: logs.write(db, [replace(logs.make("a", 20, "b", NOON), level=70_000)]),
    ),
    ("unknown key of a log line", BadValue, lambda db: logs.write(db, [log_line(unknown=1)])),
    (
        "run count of 65 bits",
        BadValue,
        lambda db: task_runs.record(db, [task_frame(run_count=2**64)]),
    ),
    (
        "run count of 33 bits",
        BadValue,
        lambda db: task_runs.record(db, [task_frame(run_count=2**32)]),
    ),
    (
        "attempt of 33 bits",
        BadValue,
        lambda db: task_runs.record(db, [task_frame(flow_run_run_count=-(2**32))]),
    ),
    ("text as an id", BadValue, lambda db: flows.get(db, untyped("no id"))),
    ("text as a flow id", BadValue, lambda db: flow_runs.create(db, untyped("no id"))),
    ("text as a new id", BadValue, lambda db: flows.create(db, "a", id=untyped("no id"))),
    ("text as the id to delete", BadValue, lambda db: flow_runs.delete(db, untyped("no id"))),
    ("bytes as a name", BadValue, lambda db: flows.create(db, untyped(b"name"))),
    ("text as tags", BadValue, lambda db: flows.create(db, "a", tags="nightly")),
    ("text as a flow run's tags", BadValue, lambda db: flow_runs.create(db, FLOW, tags="nightly")),
    ("text as changed tags", BadValue, lambda db: flow_runs.update(db, RUN, tags="nightly")),
    (
        "text as parameters",
        BadValue,
        lambda db: flow_runs.create(db, FLOW, parameters=untyped("text")),
    ),
    (
        "text as changed parameters",
        BadValue,
        lambda db: flow_runs.update(db, RUN, parameters=untyped("text")),
    ),
    (
        "null as changed parameters",
        NotNullViolation,
        lambda db: flow_runs.update(db, RUN, parameters=untyped(None)),
    ),
    (
        "text as a time",
        BadValue,
        lambda db: task_runs.create(db, "a", "a", "0", cache_expiration=untyped("soon")),
    ),
    (
        "an object as a name",
        BadValue,
        lambda db: flows.create(db, untyped(object())),
    ),
]


def untyped(value: Any) -> Any:
    """A value of a type that its parameter does not have."""
    return value


def log_line(**changes: Any) -> dict[str, Any]:
    return {"name": "a", "level": 20, "message": "b", "timestamp": NOON, **changes}


@pytest.mark.parametrize(("error", "act"), [pytest.param(*row[1:], id=row[0]) for row in REFUSED])
def test_it_is_refused_and_nothing_is_changed(
    unchanged: Backend, error: type[Error], act: Callable[[Queryable], Any]
) -> None:
    with pytest.raises(error) as raised:
        act(unchanged)
    assert raised.type is error


@pytest.mark.parametrize(("error", "act"), [pytest.param(*row[1:], id=row[0]) for row in REFUSED])
def test_a_caller_can_go_on_after_its_savepoint(
    scratch: Transaction, error: type[Error], act: Callable[[Queryable], Any]
) -> None:
    with pytest.raises(error), scratch.transaction() as inner:
        act(inner)
    assert flows.create(scratch, "after").name == "after"


@pytest.mark.parametrize(("error", "act"), [pytest.param(*row[1:], id=row[0]) for row in REFUSED])
def test_without_one_it_can_go_on_if_no_statement_failed(
    scratch: Transaction, error: type[Error], act: Callable[[Queryable], Any]
) -> None:
    before = dump(scratch)
    with pytest.raises(error):
        act(scratch)
    if issubclass(error, ConstraintError):
        with pytest.raises(TransactionAborted):
            dump(scratch)
    else:
        assert dump(scratch) == before


# Where a caller's text goes: what is stored there, and read back.
Field = Callable[[Queryable, str], Any]


def flow_of(db: Queryable, **given: Any) -> flows.Flow:
    made = flows.create(db, **{"name": str(uuid4()), **given})
    found = flows.get(db, made.id)
    assert found is not None
    return found


def run_of(db: Queryable, **given: Any) -> flow_runs.FlowRun:
    found = flow_runs.get(db, flow_runs.create(db, FLOW, **given).id)
    assert found is not None
    return found


def changed_run(db: Queryable, **given: Any) -> flow_runs.FlowRun:
    found = flow_runs.get(db, flow_runs.update(db, RUN, **given).id)
    assert found is not None
    return found


def task_of(db: Queryable, **given: Any) -> task_runs.TaskRun:
    keys: dict[str, Any] = {"name": "load", "task_key": str(uuid4()), "dynamic_key": "0"}
    found = task_runs.get(db, task_runs.create(db, **{**keys, **given}).id)
    assert found is not None
    return found


def recorded(db: Queryable, **payload: Any) -> task_runs.TaskRun:
    told = task_frame(**payload)
    task_runs.record(db, [told])
    id = UUID(told["resource"]["prefect.resource.id"].removeprefix("prefect.task-run."))
    found = task_runs.get(db, id)
    assert found is not None
    return found


def state_of(db: Queryable, **given: Any) -> states.State:
    state = states.completed(**given)
    flow_runs.set_state(db, RUN, state)
    return next(each for each in flow_runs.history(db, RUN) if each.id == state.id)


def task_state_of(db: Queryable, **given: Any) -> states.State:
    state = states.completed(**given)
    task_runs.set_state(db, TASK, state)
    return next(each for each in task_runs.history(db, TASK) if each.id == state.id)


def event_of(db: Queryable, **given: Any) -> events.Event:
    event = events.make(**{"event": "x", "resource": {"prefect.resource.id": "r"}, **given})
    events.write(db, [event])
    return events.query(db, EventFilter(id=EventId(id=[event.id]))).events[0]


def related(**labels: str) -> list[dict[str, str]]:
    return [{"prefect.resource.id": "o", "prefect.resource.role": "tag", **labels}]


# A text on its own, and a text within JSON.
TEXT_FIELDS: Final[dict[str, Field]] = {
    "flow name": lambda db, text: flow_of(db, name=text).name,
    "flow run name": lambda db, text: run_of(db, name=text).name,
    "flow run idempotency_key": lambda db, text: run_of(db, idempotency_key=text).idempotency_key,
    "flow run flow_version": lambda db, text: run_of(db, flow_version=text).flow_version,
    "flow run deployment_version": lambda db, text: (
        run_of(db, deployment_version=text).deployment_version
    ),
    "flow run infrastructure_pid": lambda db, text: (
        run_of(db, infrastructure_pid=text).infrastructure_pid
    ),
    "flow run work_queue_name": lambda db, text: run_of(db, work_queue_name=text).work_queue_name,
    "changed flow run name": lambda db, text: changed_run(db, name=text).name,
    "changed flow_version": lambda db, text: changed_run(db, flow_version=text).flow_version,
    "changed infrastructure_pid": lambda db, text: (
        changed_run(db, infrastructure_pid=text).infrastructure_pid
    ),
    "task run name": lambda db, text: task_of(db, name=text).name,
    "task run task_key": lambda db, text: task_of(db, task_key=text).task_key,
    "task run dynamic_key": lambda db, text: task_of(db, dynamic_key=text).dynamic_key,
    "task run cache_key": lambda db, text: task_of(db, cache_key=text).cache_key,
    "task run task_version": lambda db, text: task_of(db, task_version=text).task_version,
    "recorded name": lambda db, text: recorded(db, name=text).name,
    "recorded task_key": lambda db, text: recorded(db, task_key=text).task_key,
    "recorded dynamic_key": lambda db, text: recorded(db, dynamic_key=text).dynamic_key,
    "recorded keys in a flow run": lambda db, text: (
        recorded(db, task_key=text, dynamic_key=text, flow_run_id=str(RUN)).task_key
    ),
    "recorded cache_key": lambda db, text: recorded(db, cache_key=text).cache_key,
    "recorded state name": lambda db, text: recorded(db, state={"name": text}).state_name,
    "recorded message": lambda db, text: (
        task_runs.history(db, recorded(db, state={"message": text}).id)[0].message
    ),
    "state name": lambda db, text: state_of(db, name=text).name,
    "state message": lambda db, text: state_of(db, message=text).message,
    "task run state name": lambda db, text: task_state_of(db, name=text).name,
    "task run state message": lambda db, text: task_state_of(db, message=text).message,
    "event name": lambda db, text: event_of(db, event=text).event,
    "event resource": lambda db, text: (
        event_of(db, resource={"prefect.resource.id": text}).resource_id
    ),
}
JSON_TEXT_FIELDS: Final[dict[str, Field]] = {
    "flow tags": lambda db, text: flow_of(db, tags=[text]).tags[0],
    "changed flow tags": lambda db, text: flows.update(db, FLOW, tags=[text]).tags[0],
    "flow label": lambda db, text: (flow_of(db, labels={"a": text}).labels or {})["a"],
    "name of a flow label": lambda db, text: next(iter(flow_of(db, labels={text: 1}).labels or {})),
    "flow run tags": lambda db, text: run_of(db, tags=[text]).tags[0],
    "flow run parameters": lambda db, text: run_of(db, parameters={"a": [{"b": text}]}).parameters[
        "a"
    ][0]["b"],
    "name of a parameter": lambda db, text: next(iter(run_of(db, parameters={text: 1}).parameters)),
    "flow run context": lambda db, text: run_of(db, context={"a": text}).context["a"],
    "flow run policy": lambda db, text: run_of(
        db, empirical_policy={"pause_keys": [text]}
    ).empirical_policy["pause_keys"][0],
    "flow run label": lambda db, text: (run_of(db, labels={"a": text}).labels or {})["a"],
    "flow run created_by": lambda db, text: (
        run_of(db, created_by={"type": text}).created_by or {}
    )["type"],
    "flow run job_variables": lambda db, text: (
        run_of(db, job_variables={"a": text}).job_variables or {}
    )["a"],
    "changed parameters": lambda db, text: changed_run(db, parameters={"a": text}).parameters["a"],
    "changed tags": lambda db, text: changed_run(db, tags=[text]).tags[0],
    "changed policy": lambda db, text: changed_run(
        db, empirical_policy={"retry_type": text}
    ).empirical_policy["retry_type"],
    "changed job_variables": lambda db, text: (
        changed_run(db, job_variables={"a": text}).job_variables or {}
    )["a"],
    "merged label": lambda db, text: (flow_runs.merge_labels(db, RUN, {"a": text}).labels or {})[
        "a"
    ],
    "task run tags": lambda db, text: task_of(db, tags=[text]).tags[0],
    "task run inputs": lambda db, text: task_of(
        db, task_inputs={"a": [{"name": text}]}
    ).task_inputs["a"][0]["name"],
    "task run label": lambda db, text: (task_of(db, labels={"a": text}).labels or {})["a"],
    "task run policy": lambda db, text: task_of(
        db, empirical_policy={"retry_delay": text}
    ).empirical_policy["retry_delay"],
    "recorded tags": lambda db, text: recorded(db, tags=[text]).tags[0],
    "recorded inputs": lambda db, text: recorded(db, task_inputs={"a": text}).task_inputs["a"],
    "recorded data": lambda db, text: (
        task_runs.history(db, recorded(db, state={"data": text}).id)[0].data
    ),
    "state data": lambda db, text: state_of(db, data=text).data,
    "name in state data": lambda db, text: next(iter(state_of(db, data={text: 1}).data)),
    "state detail": lambda db, text: state_of(db, details={"cache_key": text}).state_details[
        "cache_key"
    ],
    "task run state data": lambda db, text: task_state_of(db, data=[text]).data[0],
    "event label": lambda db, text: event_of(
        db, resource={"prefect.resource.id": "r", "a": text}
    ).resource["a"],
    "related id": lambda db, text: event_of(
        db, related=related(**{"prefect.resource.id": text})
    ).related_resource_ids[0],
    "related role": lambda db, text: event_of(
        db, related=related(**{"prefect.resource.role": text})
    ).related[0]["prefect.resource.role"],
    "related label": lambda db, text: event_of(db, related=related(a=text)).related[0]["a"],
    "event payload": lambda db, text: event_of(db, payload={"a": [text]}).payload["a"][0],
}
FIELDS: Final = {**TEXT_FIELDS, **JSON_TEXT_FIELDS}
# What only reads with a text.
SEARCHES: Final[dict[str, Field]] = {
    "flow by name": lambda db, text: flows.get_by_name(db, text),
    "flows of a name": lambda db, text: flows.find(db, FlowFilter(name=Name(any_=[text]))),
    "flows like a name": lambda db, text: flows.find(db, FlowFilter(name=Name(like_=text))),
    "flows with a tag": lambda db, text: flows.count(db, FlowFilter(tags=Tags(all_=[text]))),
    "flow runs of a version": lambda db, text: flow_runs.find(
        db, FlowRunFilter(flow_version=AnyOf(any_=[text]))
    ),
    "flow runs without a key": lambda db, text: flow_runs.find(
        db, FlowRunFilter(idempotency_key=Among(not_any_=[text]))
    ),
    "flow runs of a queue": lambda db, text: flow_runs.find(
        db, FlowRunFilter(work_queue_name=Reference(any_=[text]))
    ),
    "flow runs by a kind of creator": lambda db, text: flow_runs.find(
        db, FlowRunFilter(created_by=CreatedBy(type_=[text]))
    ),
    "flow runs in a state": lambda db, text: flow_runs.count_by_state(
        db, FlowRunFilter(state=StateFilter(name=Among(any_=[text])))
    ),
    "task runs with any tag": lambda db, text: task_runs.find(
        db, TaskRunFilter(tags=Tags(any_=[text]))
    ),
    "events of a name": lambda db, text: events.query(
        db, EventFilter(event=EventName(name=[text]))
    ),
    "events not of a name": lambda db, text: events.count(
        db, EventFilter(event=EventName(exclude_name=[text]))
    ),
    "events with a prefix": lambda db, text: events.query(
        db, EventFilter(event=EventName(prefix=[text]))
    ),
    "events about a resource": lambda db, text: events.query(
        db, EventFilter(resource=Resource(id=[text]))
    ),
    "events about two resources": lambda db, text: events.count_by_event(
        db, EventFilter(any_resource=AnyResource(id=[text, "r"]))
    ),
    "events with a label": lambda db, text: events.query(
        db, EventFilter(resource=Resource(labels={"a": [text]}))
    ),
    "events with a text": lambda db, text: events.query(
        db, EventFilter(text=Text(query=text[:MAX_QUERY]))
    ),
    "logs with a text": lambda db, text: logs.find(
        db, LogFilter(text=Text(query=text[:MAX_QUERY]))
    ),
    "trim by name": lambda db, text: events.trim(db, datetime(1999, 1, 1, tzinfo=UTC), name=text),
}


@pytest.mark.parametrize("text", ["\0", "a\0b", "\ud800", "a\udfffb", "\ud83d\ude00"], ids=ascii)
@pytest.mark.parametrize("field", FIELDS)
def test_a_text_that_no_engine_can_store_is_refused(
    unchanged: Backend, field: str, text: str
) -> None:
    with pytest.raises(BadValue):
        FIELDS[field](unchanged, text)


@pytest.mark.parametrize("text", ["\0", "a\0b", "\ud800"], ids=ascii)
@pytest.mark.parametrize("search", SEARCHES)
def test_a_text_that_no_engine_can_compare_is_refused(
    unchanged: Backend, search: str, text: str
) -> None:
    with pytest.raises(BadValue):
        SEARCHES[search](unchanged, text)


# Texts that would break SQL put together by hand, a pattern, or a wrong idea of characters.
ODD_TEXTS: Final = [
    "'",
    "''",
    '"',
    "`",
    "?",
    "??",
    "$1",
    "$$",
    "%s",
    "%(a)s",
    ":a",
    "@a",
    "\\",
    "\\'",
    "\\u0041",
    "'; DROP TABLE flow; --",
    "' OR 1=1 --",
    "/* a */",
    "*/",
    "{}",
    "[]",
    "{0}",
    "null",
    "5",
    "1e5",
    "true",
    "%",
    "_",
    " a ",
    "a\nb\tc\r",
    "\x01\x1f\x7f",
    "ü✓😀",
    "e\u0301",
    "\u2028\ufeff\uffff",
    "x" * 1000,
]


@pytest.mark.parametrize("field", FIELDS)
def test_any_other_text_is_read_back_as_it_was(scratch: Transaction, field: str) -> None:
    read = {text: FIELDS[field](scratch, text) for text in ODD_TEXTS}
    assert read == {text: text for text in ODD_TEXTS}


def test_any_other_text_finds_what_has_it(db: Backend) -> None:
    for text in ODD_TEXTS:
        flows.create(db, text)
    found = {
        text: [flow.name for flow in flows.find(db, FlowFilter(name=Name(any_=[text])))]
        for text in ODD_TEXTS
    }
    assert found == {text: [text] for text in ODD_TEXTS}


def test_any_other_text_is_contained_where_python_says_so(db: Backend) -> None:
    for text in ODD_TEXTS:
        flows.create(db, text)
    found = {
        text: {flow.name for flow in flows.find(db, FlowFilter(name=Name(like_=text)))}
        for text in ODD_TEXTS
    }
    assert found == {
        text: {other for other in ODD_TEXTS if text.lower() in other.lower()} for text in ODD_TEXTS
    }


@pytest.mark.parametrize("search", SEARCHES)
def test_searching_for_any_other_text_changes_nothing(unchanged: Backend, search: str) -> None:
    for text in ODD_TEXTS:
        SEARCHES[search](unchanged, text)


def circular() -> Any:
    value: list[Any] = []
    value.append(value)
    return value


def nested(depth: int) -> Any:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


NO_JSON: Final[dict[str, Callable[[], Any]]] = {
    "NaN": lambda: math.nan,
    "infinity": lambda: -math.inf,
    "set": lambda: {1, 2},
    "bytes": lambda: b"a",
    "object": object,
    "datetime": lambda: NOON,
    "UUID": lambda: FLOW,
    "tuple as a key": lambda: {(1, 2): 3},
    "circle": circular,
    "100,000 levels": lambda: nested(100_000),
    "5,000 digits": lambda: 10**5000,
}
# Where a caller's JSON goes.
JSON_FIELDS: Final[dict[str, Callable[[Queryable, Any], Any]]] = {
    "flow labels": lambda db, value: (flow_of(db, labels={"a": value}).labels or {})["a"],
    "flow run parameters": lambda db, value: run_of(db, parameters={"a": value}).parameters["a"],
    "flow run context": lambda db, value: run_of(db, context={"a": value}).context["a"],
    "flow run policy": lambda db, value: run_of(
        db, empirical_policy={"pause_keys": [value]}
    ).empirical_policy["pause_keys"][0],
    "flow run labels": lambda db, value: (run_of(db, labels={"a": value}).labels or {})["a"],
    "flow run created_by": lambda db, value: (run_of(db, created_by={"a": value}).created_by or {})[
        "a"
    ],
    "flow run job_variables": lambda db, value: (
        run_of(db, job_variables={"a": value}).job_variables or {}
    )["a"],
    "changed parameters": lambda db, value: changed_run(db, parameters={"a": value}).parameters[
        "a"
    ],
    "changed job_variables": lambda db, value: (
        changed_run(db, job_variables={"a": value}).job_variables or {}
    )["a"],
    "merged labels": lambda db, value: (flow_runs.merge_labels(db, RUN, {"a": value}).labels or {})[
        "a"
    ],
    "task run inputs": lambda db, value: task_of(db, task_inputs={"a": value}).task_inputs["a"],
    "task run labels": lambda db, value: (task_of(db, labels={"a": value}).labels or {})["a"],
    "recorded inputs": lambda db, value: recorded(db, task_inputs={"a": value}).task_inputs["a"],
    "recorded data": lambda db, value: task_runs.history(
        db, recorded(db, state={"data": {"a": value}}).id
    )[0].data["a"],
    "state data": lambda db, value: state_of(db, data={"a": value}).data["a"],
    "state detail": lambda db, value: state_of(
        db, details={"run_input_keyset": {"a": value}}
    ).state_details["run_input_keyset"]["a"],
    "task run state data": lambda db, value: task_state_of(db, data={"a": value}).data["a"],
    "event payload": lambda db, value: event_of(db, payload={"a": value}).payload["a"],
}


@pytest.mark.parametrize("value", NO_JSON)
@pytest.mark.parametrize("field", JSON_FIELDS)
def test_what_is_no_json_is_refused(unchanged: Backend, field: str, value: str) -> None:
    with pytest.raises(BadValue):
        JSON_FIELDS[field](unchanged, NO_JSON[value]())


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        0,
        -1,
        2**53 + 1,
        2**63 - 1,
        -(2**63),
        2**63,
        2**64,
        -(2**70) - 1,
        10**40 + 1,
        0.5,
        -0.25,
        0.1 + 0.2,
        1e-300,
        "",
        [],
        {},
        [[], {}, [None]],
        {"": {"a": {"b": [1, 2.5, "ü", True, None]}}},
        nested(50),
    ],
    ids=lambda value: repr(value)[:30],
)
@pytest.mark.parametrize("field", JSON_FIELDS)
def test_json_is_read_back_as_it_was(scratch: Transaction, field: str, value: Any) -> None:
    """Integers of any size too: JSON has no limit."""
    read = JSON_FIELDS[field](scratch, value)
    assert (read, type(read)) == (value, type(value))


TEXTS: Final = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
JSON_VALUES: Final = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    # A larger float comes back from jsonb as the integer that its digits say.
    | st.floats(-1e15, 1e15)
    | TEXTS,
    lambda inner: st.lists(inner) | st.dictionaries(TEXTS, inner),
    max_leaves=20,
)


@settings(
    deadline=None,
    max_examples=200,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(value=JSON_VALUES)
def test_any_json_is_read_back_as_it_was(scratch: Transaction, value: Any) -> None:
    assert run_of(scratch, parameters={"a": value}).parameters == {"a": value}
