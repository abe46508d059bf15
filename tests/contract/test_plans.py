"""Statements of the library's functions neither scan nor sort a big table, with the exceptions
that are listed here.

How: all functions are called on a seeded database, an observer collects what they send, and each
statement is explained with its own parameters. The tables have a few thousand rows, which
PostgreSQL rightly reads and sorts as a whole; so it is told to avoid the one, and then both
(`enable_seqscan`, `enable_sort`), and what has a scan or a sort either time has no index. SQLite
plans by the text and the indexes alone, as we never analyse its databases; but a user may. A plan
says nothing about how many rows a filter rejects on the way along an index: that is what
`benchmarks/growth.py` measures.
"""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any, Final
from uuid import UUID, uuid4

import pytest
from psycopg import RawCursor

from benchmarks.grown import HOT, add_events, add_runs, add_tasks_and_logs, id_of, time_of
from prefect_db import Backend, connect, events, flow_runs, flows, logs, states, task_runs
from prefect_db.events import AnyResource, EventFilter, EventName, Occurred, Related, Resource
from prefect_db.filters import Among, AnyOf, Name, Reference, State, Tags, Time
from prefect_db.flow_runs import FlowRunFilter, FlowRunSort
from prefect_db.logs import Level, LogFilter, LogSort
from prefect_db.observe import Event, Execute, Observer
from prefect_db.run_filters import CreatedBy, FlowFilter
from prefect_db.task_runs import OfFlowRun, SubflowRuns, TaskRunFilter, TaskRunSort
from prefect_db.text_search import Text
from tests.migrations.catalogue import logical

pytestmark = pytest.mark.needs(
    sqlite3.sqlite_version_info >= (3, 40),
    "a planner like the one the exceptions are written for: older ones sort a few pages once more",
)

RUNS: Final = 3000
# What a big table is called in our statements.
BIG: Final = frozenset(
    "flow_run flow_run_state task_run task_run_state events event_resources log e r s t f".split()
)
# A sort of so few rows costs nothing; PostgreSQL says how many it expects.
FEW: Final = 1000

RUN, TASK, FLOW_RUN_STATE, EVENT = id_of(7), id_of(7, 5), id_of(7, 2), id_of(8)
TIME: Final = time_of(RUNS // 2)
WITHIN: Final = Time(after_=TIME, before_=TIME + timedelta(seconds=9))

Call = Callable[[Backend], object]


class Collector(Observer):
    params = True

    def __init__(self) -> None:
        self.sent: dict[str, Any] = {}

    def start(self, event: Event) -> None:
        if isinstance(event, Execute) and event.sql.startswith(_EXPLAINED):
            params = event.params or ()
            if event.verb != "executemany":
                self.sent[event.sql] = params
            elif params:
                self.sent[event.sql] = params[0]


_EXPLAINED: Final = ("SELECT", "(SELECT", "WITH", "INSERT", "UPDATE", "DELETE")


@dataclass(slots=True)
class Seeded:
    db: Backend
    collector: Collector


@pytest.fixture
def seeded(url: str) -> Iterator[Seeded]:
    collector = Collector()
    with connect(url, observer=collector) as db:
        add_runs(db, RUNS)
        add_tasks_and_logs(db, RUNS)
        add_events(db, RUNS)
        yield Seeded(db, collector)


FLOW_RUN_FILTERS: Final[dict[str, FlowRunFilter | None]] = {
    "all": None,
    "id": FlowRunFilter(id=Among(any_=[RUN])),
    "name": FlowRunFilter(name=Name(any_=["brisk-heron-7"])),
    "name like": FlowRunFilter(name=Name(like_="heron")),
    "tag, common": FlowRunFilter(tags=Tags(all_=["prod"])),
    "tag, rare": FlowRunFilter(tags=Tags(any_=["audit"])),
    "tag, absent": FlowRunFilter(tags=Tags(all_=["nowhere"])),
    "some tags": FlowRunFilter(tags=Tags(any_=["audit", "nowhere"])),
    "state, common": FlowRunFilter(state=State(type=Among(any_=["COMPLETED"]))),
    "state, rare": FlowRunFilter(state=State(type=Among(any_=["CRASHED"]))),
    "state, absent": FlowRunFilter(state=State(type=Among(any_=["PAUSED"]))),
    "states": FlowRunFilter(state=State(type=Among(any_=["FAILED", "CRASHED", "PAUSED"]))),
    "not in state": FlowRunFilter(state=State(type=Among(not_any_=["COMPLETED"]))),
    "state name": FlowRunFilter(state=State(name=Among(any_=["Crashed"]))),
    "state and tag": FlowRunFilter(
        state=State(type=Among(any_=["CRASHED", "FAILED"])), tags=Tags(all_=["audit"])
    ),
    "flow": FlowRunFilter(flow_id=AnyOf(any_=[uuid4()])),
    "deployment": FlowRunFilter(deployment_id=Reference(any_=[uuid4()])),
    "work queue": FlowRunFilter(work_queue_name=Reference(any_=["default"])),
    "flow version": FlowRunFilter(flow_version=AnyOf(any_=["1"])),
    "start time": FlowRunFilter(start_time=WITHIN),
    "end time": FlowRunFilter(end_time=WITHIN),
    "expected start time": FlowRunFilter(expected_start_time=WITHIN),
    "next scheduled start time": FlowRunFilter(next_scheduled_start_time=WITHIN),
    "due": FlowRunFilter(
        state=State(type=Among(any_=["SCHEDULED"])), next_scheduled_start_time=Time(before_=TIME)
    ),
    "parent flow run": FlowRunFilter(parent_flow_run_id=AnyOf(any_=[RUN])),
    "parent task run": FlowRunFilter(parent_task_run_id=Reference(any_=[TASK])),
    "idempotency key": FlowRunFilter(idempotency_key=Among(any_=["k"])),
    "created by": FlowRunFilter(created_by=CreatedBy(id_=[uuid4()])),
}
TASK_RUN_FILTERS: Final[dict[str, TaskRunFilter | None]] = {
    "all": None,
    "id": TaskRunFilter(id=AnyOf(any_=[TASK])),
    "name": TaskRunFilter(name=Name(any_=["load-7"])),
    "tag": TaskRunFilter(tags=Tags(all_=["prod"])),
    "state": TaskRunFilter(state=State(type=Among(any_=["FAILED"]))),
    "states": TaskRunFilter(state=State(type=Among(any_=["COMPLETED", "FAILED", "PAUSED"]))),
    "state name": TaskRunFilter(state=State(name=Among(any_=["Crashed"]))),
    "start time": TaskRunFilter(start_time=WITHIN),
    "end time": TaskRunFilter(end_time=WITHIN),
    "expected start time": TaskRunFilter(expected_start_time=WITHIN),
    "subflow runs": TaskRunFilter(subflow_runs=SubflowRuns(exists_=True)),
    "flow run": TaskRunFilter(flow_run_id=OfFlowRun(any_=[RUN])),
}
ABOUT: Final = f"prefect.flow-run.{RUN}"
EVENT_FILTERS: Final[dict[str, EventFilter | None]] = {
    "all": None,
    "occurred": EventFilter(occurred=Occurred(since=TIME, until=time_of(RUNS))),
    "name": EventFilter(event=EventName(name=["prefect.flow-run.Running"])),
    "names": EventFilter(event=EventName(name=["prefect.flow-run.Running", "b"])),
    "prefix": EventFilter(event=EventName(prefix=["prefect.flow-run."])),
    "not a prefix": EventFilter(event=EventName(exclude_prefix=["prefect.flow-run."])),
    "id": EventFilter(id=events.EventId(id=[EVENT])),
    "resource": EventFilter(resource=Resource(id=[HOT])),
    "resources": EventFilter(resource=Resource(id=[ABOUT, "b"])),
    "resource prefix": EventFilter(resource=Resource(id_prefix=["prefect.flow-run."])),
    "label": EventFilter(resource=Resource(labels={"prefect.resource.name": "a"})),
    "distinct": EventFilter(resource=Resource(distinct=True)),
    "related": EventFilter(related=Related(id=[ABOUT])),
    "role": EventFilter(related=Related(role=["flow"])),
    "in role": EventFilter(related=Related(resources_in_roles=[(ABOUT, "flow")])),
    "any resource": EventFilter(any_resource=AnyResource(id=[ABOUT])),
    "resource and time": EventFilter(
        resource=Resource(id=[HOT]), occurred=Occurred(since=TIME, until=time_of(RUNS))
    ),
    "text": EventFilter(text=Text(query="nowhere")),
}
LOG_FILTERS: Final[dict[str, LogFilter | None]] = {
    "all": None,
    "flow run": LogFilter(flow_run_id=AnyOf(any_=[RUN])),
    "task run": LogFilter(task_run_id=Reference(any_=[TASK])),
    "time": LogFilter(timestamp=WITHIN),
    "level": LogFilter(level=Level(ge_=40)),
    "text": LogFilter(text=Text(query="nowhere")),
    "flow run and level": LogFilter(flow_run_id=AnyOf(any_=[RUN]), level=Level(ge_=20)),
}


def _reads() -> Iterator[tuple[str, Call]]:
    yield "flow_runs.get", lambda db: flow_runs.get(db, RUN)
    yield "flow_runs.history", lambda db: flow_runs.history(db, RUN)
    yield "flow_runs.get_states", lambda db: flow_runs.get_states(db, [FLOW_RUN_STATE])
    for name, chosen in FLOW_RUN_FILTERS.items():
        yield f"flow_runs.find: {name}", partial(flow_runs.find, filter=chosen)
        if chosen is not None:
            yield f"flow_runs.count: {name}", partial(flow_runs.count, filter=chosen)
    for sort in FlowRunSort:
        yield f"flow_runs.find, {sort.name}: all", partial(flow_runs.find, sort=sort)
        states_ = FLOW_RUN_FILTERS["states"]
        yield (
            f"flow_runs.find, {sort.name}: states",
            partial(flow_runs.find, filter=states_, sort=sort),
        )
    named = FlowFilter(name=Name(any_=["etl"]))
    of_run = TaskRunFilter(id=AnyOf(any_=[TASK]))
    yield "flow_runs.find: of flows", lambda db: flow_runs.find(db, flows=named)
    yield "flow_runs.find: with task runs", lambda db: flow_runs.find(db, task_runs=of_run)
    yield "flow_runs.count", flow_runs.count
    yield "flow_runs.count_by_state", flow_runs.count_by_state
    yield "flow_runs.trim, dry", lambda db: flow_runs.trim(db, time_of(0), dry_run=True)

    yield "task_runs.get", lambda db: task_runs.get(db, TASK)
    yield "task_runs.history", lambda db: task_runs.history(db, TASK)
    yield "task_runs.get_states", lambda db: task_runs.get_states(db, [id_of(7, 6)])
    for name, tasks in TASK_RUN_FILTERS.items():
        yield f"task_runs.find: {name}", partial(task_runs.find, filter=tasks)
    for order in TaskRunSort:
        yield f"task_runs.find, {order.name}: all", partial(task_runs.find, sort=order)
    yield "task_runs.count", task_runs.count
    yield "task_runs.count_by_state", task_runs.count_by_state
    runs = FlowRunFilter(id=Among(any_=[RUN]))
    yield "task_runs.find: of flow runs", lambda db: task_runs.find(db, flow_runs=runs)

    for name, wanted in EVENT_FILTERS.items():
        yield f"events.query: {name}", partial(_two_pages, filter=wanted)
    yield "events.query, ASC: all", lambda db: events.query(db, order="ASC")
    hot = EventFilter(resource=Resource(id=[HOT]))
    about = EventFilter(resource=Resource(id=[ABOUT]))
    yield "events.query, ASC: resource", lambda db: events.query(db, hot, order="ASC")
    for count in (events.count, events.count_by_event, events.count_by_resource):
        yield f"events.{count.__name__}", count
    since = EventFilter(occurred=Occurred(since=TIME, until=time_of(RUNS)))
    yield "events.count: occurred", lambda db: events.count(db, since)
    yield "events.count: resource", lambda db: events.count(db, about)
    yield "events.count_by_time", lambda db: events.count_by_time(db, "hour", since)
    yield "events.trim, dry", lambda db: events.trim(db, TIME, dry_run=True)

    for name, lines in LOG_FILTERS.items():
        yield f"logs.find: {name}", partial(logs.find, filter=lines)
    yield "logs.find, TIMESTAMP_DESC", lambda db: logs.find(db, sort=LogSort.TIMESTAMP_DESC)
    yield "logs.count", logs.count
    yield "logs.trim, dry", lambda db: logs.trim(db, TIME, dry_run=True)

    yield "flows.find", flows.find
    yield "flows.get_by_name", lambda db: flows.get_by_name(db, "etl")
    yield (
        "flows.find: with flow runs",
        lambda db: flows.find(db, flow_runs=FLOW_RUN_FILTERS["state, rare"]),
    )


def _two_pages(db: Backend, filter: EventFilter | None) -> None:
    page = events.query(db, filter, limit=10)
    if page.next is not None:
        events.query(db, filter, limit=10, after=page.next)


def _writes() -> Iterator[tuple[str, Call]]:
    def with_states(db: Backend) -> None:
        flow = flows.create(db, "new")
        parent = task_runs.create(db, "sub", "sub", "0", flow_run_id=RUN, state=states.pending())
        run = flow_runs.create(
            db,
            flow.id,
            state=states.pending(),
            tags=["a"],
            idempotency_key="k",
            parent_task_run_id=parent.id,
        )
        flow_runs.create(db, flow.id, idempotency_key="k")
        flow_runs.get(db, run.id, for_update=True)
        flow_runs.set_state(db, run.id, states.running())
        flow_runs.set_state(db, run.id, states.completed(data={"a": 1}))
        flow_runs.update(db, run.id, tags=["b"])
        flow_runs.merge_labels(db, run.id, {"a": 1})
        flow_runs.delete(db, run.id)
        task_runs.create(db, "sub", "sub", "0", flow_run_id=RUN)
        task_runs.set_state(db, parent.id, states.running())
        task_runs.delete(db, parent.id)
        flows.update(db, flow.id, tags=["a"])
        flows.delete(db, flow.id)

    def record(db: Backend) -> None:
        names = ["Pending", "Running"]
        task_runs.record(db, [_task_event(uuid4(), name) for name in names])

    yield "flow_runs: writes", with_states
    yield "task_runs.record", record
    yield "task_runs.create, without a flow run", lambda db: task_runs.create(db, "a", "a", "0")
    yield "events.write", lambda db: events.write(db, [_event()])
    yield "events.trim", lambda db: events.trim(db, time_of(5))
    yield (
        "events.trim, by name",
        lambda db: events.trim(db, time_of(9), name="prefect.flow-run.Running"),
    )
    yield (
        "logs.write",
        lambda db: logs.write(db, [logs.make("a", 20, "b", TIME, flow_run_id=RUN)]),
    )
    yield "logs.delete", lambda db: logs.delete(db, RUN)
    yield "logs.trim", lambda db: logs.trim(db, time_of(5))
    yield "flow_runs.trim", lambda db: flow_runs.trim(db, time_of(5))


def _event() -> events.Event:
    return events.make("a", {"prefect.resource.id": "b"})


def _task_event(task_run_id: UUID, name: str) -> events.Event:
    return events.make(
        f"prefect.task-run.{name}",
        {
            "prefect.resource.id": f"prefect.task-run.{task_run_id}",
            "prefect.resource.name": "load",
            "prefect.state-type": name.upper(),
            "prefect.state-name": name,
            "prefect.state-timestamp": TIME.isoformat(),
            "prefect.orchestration": "client",
        },
        related=[
            {"prefect.resource.id": f"prefect.flow-run.{RUN}", "prefect.resource.role": "flow-run"}
        ],
        payload={
            "task_run": {"task_key": "load", "dynamic_key": f"{task_run_id}", "name": "load"},
            "validated_state": {"type": name.upper(), "name": name},
        },
    )


CALLS: Final = [*_reads(), *_writes()]

ALL: Final = "counts, or deletes from, all that there is: one pass is what is asked for"
WALK: Final = (
    "walks in the order of the page until it is full, testing each row: an index for this filter"
    " would cost every write"
)
COUNT: Final = "counts what no index finds: see WALK"
SORT: Final = "sorts by what has no index: one for each order would cost every write"
FOUND: Final = (
    "sorts what an index has found: the runs of a flow or state, the events of some names"
)
KNOWN: Final = "PostgreSQL knows that the value is so frequent that the page is full soon"
TEXT: Final = "looks for a text anywhere in a text"

_REASONS: Final[list[tuple[str, str, str]]] = [
    (
        ALL,
        "sqlite postgres",
        """flow_runs.count flow_runs.count_by_state task_runs.count task_runs.count_by_state
        events.count events.count_by_event events.count_by_resource logs.count flow_runs.trim""",
    ),
    (ALL, "postgres", "flow_runs.trim,·dry"),
    (TEXT, "sqlite postgres", "flow_runs.find:·name·like flow_runs.count:·name·like"),
    (TEXT, "sqlite postgres", "events.query:·text logs.find:·text"),
    (
        WALK,
        "sqlite postgres",
        """flow_runs.find:·name flow_runs.find:·state·name flow_runs.find:·work·queue
        flow_runs.find:·flow·version flow_runs.find:·end·time
        flow_runs.find:·next·scheduled·start·time flow_runs.find:·created·by
        task_runs.find:·name task_runs.find:·tag task_runs.find:·state·name
        task_runs.find:·start·time task_runs.find:·end·time events.query:·not·a·prefix
        events.query:·resource·prefix logs.find:·level""",
    ),
    (
        WALK,
        "sqlite",
        """flow_runs.find:·idempotency·key flow_runs.find:·of·flows
        flow_runs.find:·with·task·runs task_runs.find:·subflow·runs task_runs.find:·of·flow·runs
        events.query:·label events.query:·role""",
    ),
    (
        COUNT,
        "sqlite postgres",
        """flow_runs.count:·name flow_runs.count:·state·name flow_runs.count:·work·queue
        flow_runs.count:·flow·version flow_runs.count:·end·time flow_runs.count:·created·by
        flow_runs.count:·next·scheduled·start·time""",
    ),
    (
        COUNT,
        "sqlite",
        """flow_runs.count:·tag,·common flow_runs.count:·tag,·rare flow_runs.count:·tag,·absent
        flow_runs.count:·some·tags flow_runs.count:·state·and·tag
        flow_runs.count:·idempotency·key""",
    ),
    (
        SORT,
        "sqlite postgres",
        """flow_runs.find,·NAME_ASC:·all
        flow_runs.find,·NAME_DESC:·all
        flow_runs.find,·NEXT_SCHEDULED_START_TIME_ASC:·all
        flow_runs.find,·END_TIME_DESC:·all
        task_runs.find,·NAME_ASC:·all task_runs.find,·NAME_DESC:·all
        task_runs.find,·NEXT_SCHEDULED_START_TIME_ASC:·all task_runs.find,·END_TIME_DESC:·all
        events.query:·distinct""",
    ),
    (
        FOUND,
        "sqlite",
        """flow_runs.find:·flow flow_runs.find:·deployment flow_runs.find:·start·time
        flow_runs.find:·expected·start·time flow_runs.find:·parent·flow·run
        flow_runs.find:·parent·task·run task_runs.find:·expected·start·time
        task_runs.find:·flow·run events.query:·names events.query:·prefix events.query:·resources
        flow_runs.find,·NAME_ASC:·states flow_runs.find,·NAME_DESC:·states
        flow_runs.find,·NEXT_SCHEDULED_START_TIME_ASC:·states
        flow_runs.find,·END_TIME_DESC:·states""",
    ),
    (
        KNOWN,
        "postgres",
        """flow_runs.find:·tag,·common flow_runs.find:·state,·common task_runs.find:·states
        events.query:·name
        events.query:·names events.query:·prefix""",
    ),
]


def excepted(backend_name: str) -> dict[str, str]:
    """The calls that may scan or sort, each with the reason; in the lists a dot is a blank."""
    return {
        name.replace("·", " "): reason
        for reason, backends, names in _REASONS
        if backend_name in backends.split()
        for name in names.split()
    }


def test_no_statement_scans_or_sorts_a_big_table(seeded: Seeded, backend_name: str) -> None:
    expected = excepted(backend_name)
    found = _found(seeded)
    unexpected = {name: found[name] for name in found if name not in expected}
    assert not unexpected, json.dumps(unexpected, indent=2)
    assert not [name for name in expected if name not in found], "these need no exception"


@pytest.mark.only("sqlite", "PostgreSQL's tables are analysed in any case")
def test_nor_does_it_after_an_analyze(seeded: Seeded) -> None:
    seeded.db.execute("ANALYZE")
    expected = excepted("sqlite") | {
        "flow_runs.trim, dry": ALL,
        "logs.find: flow run and level": FOUND,
        "flows.find: with flow runs": FOUND,
    }
    unexpected = {name: each for name, each in _found(seeded).items() if name not in expected}
    assert not unexpected, json.dumps(unexpected, indent=2)


def _found(seeded: Seeded) -> dict[str, list[str]]:
    """What there is to say about the statements of each call."""
    found: dict[str, list[str]] = {}
    for name, call in CALLS:
        seeded.collector.sent.clear()
        call(seeded.db)
        assert seeded.collector.sent, name
        complaints = [
            f"{complaint}: {sql}"
            for sql, params in list(seeded.collector.sent.items())
            for complaint in _complaints(seeded.db, sql, params)
        ]
        if complaints:
            found[name] = complaints
    return found


def _complaints(db: Backend, sql: str, params: Any) -> list[str]:
    explained = db.dialect.compile(sql).text
    if db.dialect.name == "sqlite":
        with db.connection() as native:
            rows = native.execute(f"EXPLAIN QUERY PLAN {explained}", params).fetchall()
        return _sqlite_complaints([str(row[3]) for row in rows], sql)
    return min(
        (
            _postgres_complaints(_postgres_plan(db, explained, params, settings), sql)
            for settings in (("enable_seqscan",), ("enable_seqscan", "enable_sort"))
        ),
        key=len,
    )


def _postgres_plan(db: Backend, sql: str, params: Any, off: tuple[str, ...]) -> dict[str, Any]:
    with db.connection() as native, native.transaction(force_rollback=True):
        for setting in off:
            native.execute(f"SET LOCAL {setting} = off")
        cursor = RawCursor(native)
        cursor.execute(f"EXPLAIN (FORMAT JSON) {sql}".encode(), params)
        row = cursor.fetchone()
        assert row is not None
        plan: Any = json.loads(row[0]) if isinstance(row[0], (str, bytes)) else row[0]
        return dict(plan[0]["Plan"])


def _sqlite_complaints(steps: list[str], sql: str) -> list[str]:
    """SCAN is the whole of a table or index: in the order of a page without conditions it ends
    with the page."""
    complaints = []
    scanned = [step for step in steps if (m := re.match(r"SCAN (\w+)", step)) and m[1] in BIG]
    sorted_ = any("TEMP B-TREE FOR ORDER BY" in step for step in steps)
    if scanned and ("WHERE" in sql or "LIMIT" not in sql or sorted_):
        complaints += scanned
    if sorted_ and not any(step == "SCAN page" for step in steps):
        complaints.append("sorts")
    return complaints


def _postgres_complaints(node: dict[str, Any], sql: str, limited: bool = False) -> list[str]:
    complaints = []
    kind, table = node["Node Type"], node.get("Relation Name", "")
    limited = limited or kind == "Limit"
    if table in BIG and kind == "Seq Scan":
        complaints.append(f"Seq Scan of {table}")
    whole = kind in ("Index Scan", "Index Only Scan") and "Index Cond" not in node
    if table in BIG and whole and ("Filter" in node or not limited):
        complaints.append(f"all of {node['Index Name']}")
    if kind == "Sort" and node["Plan Rows"] > FEW:
        complaints.append(f"sorts {node['Plan Rows']} rows")
    for child in node.get("Plans", ()):
        complaints += _postgres_complaints(child, sql, limited)
    return complaints


def test_a_row_of_a_big_table_that_is_deleted_finds_what_refers_to_it(db: Backend) -> None:
    """Which no plan shows: an index begins with each column that refers to another table."""
    indexed = db.dialect.pick(
        sqlite="SELECT m.name, c.name FROM sqlite_master AS m JOIN pragma_index_list(m.name) AS i"
        " JOIN pragma_index_info(i.name) AS c WHERE m.type = 'table' AND c.seqno = 0",
        postgres="SELECT CAST(CAST(indrelid AS regclass) AS text), CAST(attname AS text)"
        " FROM pg_index JOIN pg_attribute ON attrelid = indrelid AND attnum = indkey[0]"
        " JOIN pg_class ON pg_class.oid = indrelid"
        " WHERE relnamespace = CAST(current_schema() AS regnamespace)",
    )
    first = {(str(row[0]), str(row[1])) for row in db.rows(indexed)}
    assert [key for key in logical(db).foreign_keys if (key.table, key.column) not in first] == []
