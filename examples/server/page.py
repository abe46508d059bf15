"""The page for people: what ran, when, and how it ended. Rendered here, refreshed by a script."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from prefect_db import Queryable, events, flow_runs, flows, logs, task_runs
from prefect_db.events import AnyResource, Event, EventFilter
from prefect_db.filters import Among, AnyOf
from prefect_db.flow_runs import FlowRun, FlowRunSort
from prefect_db.flows import FlowFilter
from prefect_db.logs import Log, LogFilter, LogSort
from prefect_db.states import State, StateType, estimated_run_time
from prefect_db.task_runs import OfFlowRun, TaskRun, TaskRunFilter, TaskRunSort

RUNS = 50
TASK_RUNS = 200
LINES = 200
EVENTS = 50
TICKS = 4


@dataclass(slots=True)
class Bar:
    """A task run's place in the timeline, in percent of its width."""

    run: TaskRun
    left: float
    width: float
    duration: timedelta


@dataclass(slots=True)
class Details:
    """All that is shown of one flow run."""

    run: FlowRun
    states: list[State]
    bars: list[Bar]
    ticks: list[timedelta]
    logs: list[Log]
    events: list[Event]


@dataclass(slots=True)
class View:
    """What the page shows: the newest runs, and one of them in detail."""

    runs: list[FlowRun]
    flow_names: dict[UUID, str]
    counts: dict[StateType | None, int]
    now: datetime
    details: Details | None = None
    missing: str = ""
    durations: dict[UUID, timedelta] = field(default_factory=dict)


def view(db: Queryable, selected: UUID | None = None) -> View:
    """What the page shows at this moment, in one snapshot of the database.

    Args:
        db: Where.
        selected: The flow run to show in detail; the newest if not given.
    """
    with db.transaction(read_only=True, isolation="repeatable read") as txn:
        runs = flow_runs.find(txn, sort=FlowRunSort.EXPECTED_START_TIME_DESC, limit=RUNS)
        chosen = flow_runs.get(txn, selected) if selected else next(iter(runs), None)
        shown = [*runs, *([chosen] if chosen else [])]
        flow_ids = list({run.flow_id for run in shown})
        named = flows.find(txn, FlowFilter(id=Among(any_=flow_ids)), limit=None)
        now = datetime.now(UTC)
        return View(
            runs=runs,
            flow_names={flow.id: flow.name for flow in named},
            counts=flow_runs.count_by_state(txn),
            now=now,
            details=_details(txn, chosen, now) if chosen else None,
            missing=f"There is no flow run {selected}." if selected and not chosen else "",
            durations={run.id: estimated_run_time(run, now) for run in shown},
        )


def _details(txn: Queryable, run: FlowRun, now: datetime) -> Details:
    tasks = task_runs.find(
        txn,
        TaskRunFilter(flow_run_id=OfFlowRun(any_=[run.id])),
        sort=TaskRunSort.EXPECTED_START_TIME_ASC,
        limit=TASK_RUNS,
    )
    start, length = _span(run, tasks, now)
    return Details(
        run=run,
        states=flow_runs.history(txn, run.id),
        bars=[_bar(task, start, length, now) for task in tasks],
        ticks=[length * step / TICKS for step in range(TICKS + 1)],
        logs=logs.find(
            txn,
            LogFilter(flow_run_id=AnyOf(any_=[run.id])),
            sort=LogSort.TIMESTAMP_DESC,
            limit=LINES,
        )[::-1],
        events=events.query(
            txn,
            EventFilter(any_resource=AnyResource(id=[f"prefect.flow-run.{run.id}"])),
            limit=EVENTS,
        ).events,
    )


def _span(run: FlowRun, tasks: Sequence[TaskRun], now: datetime) -> tuple[datetime, timedelta]:
    """From the first start to the last end; to now, for what has not ended."""
    each_run: list[FlowRun | TaskRun] = [run, *tasks]
    starts = [each.start_time for each in each_run if each.start_time]
    ends = [each.end_time or now for each in each_run if each.start_time]
    start = min(starts, default=now)
    return start, max(max(ends, default=now) - start, timedelta(milliseconds=1))


def _bar(task: TaskRun, start: datetime, length: timedelta, now: datetime) -> Bar:
    if task.start_time is None:
        return Bar(task, 0.0, 0.0, timedelta())
    duration = max((task.end_time or now) - task.start_time, timedelta())
    left = 100 * ((task.start_time - start) / length)
    return Bar(task, round(left, 3), round(100 * (duration / length), 3), duration)


def seconds(duration: timedelta) -> str:
    """A duration for people: `42 ms`, `1.25 s`, `3 min 5 s`, `2 h 10 min`."""
    total = duration.total_seconds()
    if total < 1:
        return f"{total * 1000:.0f} ms"
    if total < 60:
        return f"{total:.2f} s" if total < 10 else f"{total:.1f} s"
    minutes, rest = divmod(int(total), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def clock(moment: datetime | None) -> str:
    """A time for people, in UTC, to the second."""
    return moment.strftime("%d %b %H:%M:%S") if moment else "–"


def level(number: int) -> str:
    """The name of a log level."""
    names = {10: "debug", 20: "info", 30: "warning", 40: "error", 50: "critical"}
    return names.get(number // 10 * 10, str(number))


_ENVIRONMENT = Environment(
    loader=FileSystemLoader(Path(__file__).parent),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_ENVIRONMENT.filters.update(seconds=seconds, clock=clock, level=level)


def render(view: View) -> str:
    """The page as HTML; everything that comes from the database is escaped."""
    return _ENVIRONMENT.get_template("page.html").render(view=view, types=list(StateType))
