"""What we do otherwise than Prefect, on purpose: docs/differences.md. Each test shows both."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from prefect.server import models
from prefect.server.events.filters import EventFilter as PrefectEventFilter
from prefect.server.events.schemas.events import ReceivedEvent
from prefect.server.events.storage import database as prefect_events
from prefect.server.schemas import core, filters, sorting
from prefect.server.schemas import states as prefect_states
from prefect.server.schemas.actions import LogCreate
from sqlalchemy.exc import DBAPIError, IntegrityError

from prefect_db import Backend, BadValue, events, flow_runs, flows, logs, states, task_runs
from prefect_db.events import EventFilter, EventName, Resource
from prefect_db.filters import Among, Name, State
from prefect_db.flow_runs import FlowRunFilter, FlowRunSort
from prefect_db.flows import FlowFilter
from prefect_db.logs import LogFilter, Text
from tests.peer.prefect_peer import Prefect

NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)


def event(**given: Any) -> dict[str, Any]:
    return {
        "id": uuid4(),
        "occurred": NOON,
        "event": "thing.happened",
        "resource": {"prefect.resource.id": "thing.1"},
        "related": [],
        "payload": {},
        **given,
    }


def received(frame: dict[str, Any]) -> ReceivedEvent:
    return ReceivedEvent.model_validate({**frame, "received": NOON})


@pytest.mark.only("sqlite", "on PostgreSQL Prefect leaves out what is stored, as we do")
def test_a_batch_of_known_events_alone(
    prefect: Prefect, managed: Backend, backend_name: str
) -> None:
    frame = event()
    assert events.write(managed, [frame]) == 1
    with pytest.raises(IntegrityError, match="NOT NULL"):
        prefect.write(prefect_events.write_events, [received(frame)])
    assert events.write(managed, [frame]) == 0


@pytest.mark.only("sqlite", "on PostgreSQL Prefect leaves out what is stored, as we do")
def test_an_event_twice_in_a_batch(prefect: Prefect, managed: Backend, backend_name: str) -> None:
    frame = event()
    with pytest.raises(IntegrityError, match="UNIQUE"):
        prefect.write(prefect_events.write_events, [received(frame)] * 2)
    assert events.write(managed, [frame, frame]) == 1


def test_any_and_not_any_together(prefect: Prefect, managed: Backend) -> None:
    flow = flows.create(managed, "etl")
    for state in (states.running(), states.failed(), states.pending()):
        flow_runs.create(managed, flow.id, state=state)
    types = {"any_": ["RUNNING", "FAILED"], "not_any_": ["FAILED"]}
    theirs = prefect.read(
        models.flow_runs.read_flow_runs,
        flow_run_filter=filters.FlowRunFilter.model_validate({"state": {"type": types}}),
    )
    ours = flow_runs.find(managed, FlowRunFilter(state=State(type=Among(**types))))
    assert len(theirs) == 3
    assert [run.state_type for run in ours] == ["RUNNING"]


def test_equals_are_in_the_order_of_their_ids(prefect: Prefect, managed: Backend) -> None:
    flow = flows.create(managed, "etl")
    given = [UUID(int=number) for number in (5, 1, 4, 2, 3)]
    for id in given:
        flow_runs.create(managed, flow.id, id=id, name="same")
    ours = flow_runs.find(managed, sort=FlowRunSort.NAME_ASC)
    assert [run.id for run in ours] == sorted(given)
    assert "id" not in str(sorting.FlowRunSort.NAME_ASC)
    statement = prefect.read(_sort_of, sorting.FlowRunSort.NAME_ASC)
    assert "name" in statement
    assert ".id" not in statement


async def _sort_of(session: Any, sort: sorting.FlowRunSort) -> str:
    return ", ".join(str(part) for part in sort.as_sql_sort())


def test_null_is_smallest_on_both_engines(prefect: Prefect, managed: Backend) -> None:
    flow = flows.create(managed, "etl")
    ended = flow_runs.create(managed, flow.id, state=states.completed()).id
    open_ = flow_runs.create(managed, flow.id, state=states.running()).id
    ours = [run.id for run in flow_runs.find(managed, sort=FlowRunSort.END_TIME_DESC)]
    theirs = [
        run.id
        for run in prefect.read(
            models.flow_runs.read_flow_runs, sort=sorting.FlowRunSort.END_TIME_DESC
        )
    ]
    assert ours == [ended, open_]
    assert theirs == managed.dialect.pick(sqlite=[ended, open_], postgres=[open_, ended])


@pytest.mark.parametrize(("text", "found"), [("50%", ["50% off"]), ("a_b", ["a_b"])])
def test_wildcards_are_characters(
    prefect: Prefect, managed: Backend, text: str, found: list[str]
) -> None:
    for name in ("50% off", "50 or more", "a_b", "axb"):
        flows.create(managed, name)
    theirs = prefect.read(
        models.flows.read_flows,
        flow_filter=filters.FlowFilter.model_validate({"name": {"like_": text}}),
    )
    assert len(theirs) == 2
    ours = flows.find(managed, FlowFilter(name=Name(like_=text)))
    assert [flow.name for flow in ours] == found


def test_task_states_of_one_time(prefect: Prefect, managed: Backend) -> None:
    run = task_runs.create(managed, "task", "task", "0")
    first, second = states.running(), states.completed()
    second.timestamp = first.timestamp
    task_runs.set_state(managed, run.id, first)
    with pytest.raises(IntegrityError):
        prefect.write(
            models.task_runs.set_task_run_state,
            task_run_id=run.id,
            state=prefect_states.State(
                type="COMPLETED", name="Completed", timestamp=second.timestamp
            ),
            force=True,
        )
    stored = task_runs.set_state(managed, run.id, second)
    assert stored.timestamp == first.timestamp + timedelta(microseconds=1)


Write = Callable[[Backend, str], Any]


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (
            lambda db, text: flows.create(db, text),
            lambda text: (models.flows.create_flow, core.Flow(name=text)),
        ),
        (
            lambda db, text: flows.create(db, "etl", tags=[text]),
            lambda text: (models.flows.create_flow, core.Flow(name="etl", tags=[text])),
        ),
        (
            lambda db, text: events.write(db, [event(payload={"a": text})]),
            lambda text: (prefect_events.write_events, [received(event(payload={"a": text}))]),
        ),
    ],
    ids=["name", "tag", "payload"],
)
def test_nul_is_refused(
    prefect: Prefect, managed: Backend, ours: Write, theirs: Callable[[str], Any]
) -> None:
    text = "a\0b"
    work, *arguments = theirs(text)
    if managed.dialect.name == "sqlite":
        prefect.write(work, *arguments)
    else:
        with pytest.raises(DBAPIError):
            prefect.write(work, *arguments)
    with pytest.raises(BadValue, match="NUL"):
        ours(managed, text)


def test_nul_in_logs_is_left_out_by_both(prefect: Prefect, managed: Backend) -> None:
    line = {"name": "a\0b", "level": 20, "message": "c\0d", "timestamp": NOON}
    prefect.write(models.logs.create_logs, [LogCreate.model_validate(line)])
    logs.write(managed, [line])
    assert [(log.name, log.message) for log in logs.find(managed)] == [("ab", "cd")] * 2


@pytest.mark.only("sqlite", "on PostgreSQL the default is an interval that both read")
def test_a_default_run_time_is_readable(
    prefect: Prefect, managed: Backend, backend_name: str
) -> None:
    flow = flows.create(managed, "etl")
    id = uuid4()
    # As a hand-written insert would leave it: with the default of Prefect's own schema.
    managed.execute("INSERT INTO flow_run (id, name, flow_id) VALUES (?, 'raw', ?)", (id, flow.id))
    with pytest.raises(TypeError):
        prefect.read(models.flow_runs.read_flow_run, id)
    run = flow_runs.get(managed, id)
    assert run is not None
    assert run.total_run_time == timedelta(0)


def test_our_own_default_is_readable_by_both(db: Backend, url: str) -> None:
    flow = flows.create(db, "etl")
    id = uuid4()
    db.execute("INSERT INTO flow_run (id, name, flow_id) VALUES (?, 'raw', ?)", (id, flow.id))
    run = flow_runs.get(db, id)
    assert run is not None
    assert run.total_run_time == timedelta(0)


def test_empty_data_of_a_state_is_what_was_stored(prefect: Prefect, managed: Backend) -> None:
    run = task_runs.create(managed, "task", "task", "0", state=states.running())
    managed.execute("UPDATE task_run_state SET data = ?", ([],))
    (theirs,) = prefect.read(models.task_run_states.read_task_run_states, run.id)
    (ours,) = task_runs.history(managed, run.id)
    assert theirs.data is None
    assert ours.data == []


def test_without_since_events_of_any_age_are_found(prefect: Prefect, managed: Backend) -> None:
    old = datetime.now(UTC) - timedelta(days=400)
    events.write(managed, [event(occurred=old)])
    theirs, total, _ = prefect.read(prefect_events.query_events, PrefectEventFilter())
    assert (theirs, total) == ([], 0)
    assert len(events.query(managed).events) == 1


@pytest.mark.only("sqlite", "PostgreSQL has had concat() for long")
def test_text_search_on_any_sqlite(prefect: Prefect, managed: Backend, backend_name: str) -> None:
    logs.write(managed, [{"name": "x", "level": 20, "message": "An Error", "timestamp": NOON}])
    assert logs.count(managed, LogFilter(text=Text(query="error"))) == 1
    search = filters.LogFilter.model_validate({"text": {"query": "error"}})
    if sqlite3.sqlite_version_info < (3, 44):
        with pytest.raises(DBAPIError, match="concat"):
            prefect.read(models.logs.read_logs, log_filter=search)
    else:
        assert len(prefect.read(models.logs.read_logs, log_filter=search)) == 1


@pytest.mark.parametrize(
    ("given", "ours", "on_sqlite", "on_postgres"),
    [
        ({"event": {"prefix": ["THING."]}}, 0, 2, 0),
        ({"event": {"prefix": ["thing_"]}}, 0, 2, 2),
        ({"resource": {"labels": {"env": "PRO*"}}}, 0, 1, 0),
        ({"resource": {"labels": {"größe": "xl"}}}, 1, 0, 1),
    ],
)
def test_prefixes_and_labels_of_events(
    prefect: Prefect,
    managed: Backend,
    given: dict[str, Any],
    ours: int,
    on_sqlite: int,
    on_postgres: int,
) -> None:
    about = {"prefect.resource.id": "thing.1"}
    events.write(
        managed,
        [
            event(resource={**about, "env": "prod"}),
            event(resource={**about, "größe": "xl"}),
        ],
    )
    range_ = {"since": NOON, "until": NOON}
    theirs, total, _ = prefect.read(
        prefect_events.query_events,
        PrefectEventFilter.model_validate({**given, "occurred": range_}),
    )
    kinds: dict[str, Any] = {"event": EventName, "resource": Resource}
    filter = EventFilter(**{name: kinds[name](**leaf) for name, leaf in given.items()})
    assert events.count(managed, filter) == len(events.query(managed, filter).events) == ours
    assert len(theirs) == total == managed.dialect.pick(sqlite=on_sqlite, postgres=on_postgres)
