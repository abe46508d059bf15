"""What operations cost, in numbers that no machine changes, against `costs.json`.

A timed test fails on a slow day and not on a slow change. Instructions of the processor would need
valgrind, and are another Python's and another SQLite's affair besides.
"""

from __future__ import annotations

import gc
import itertools
import json
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import FrameType
from typing import Any, Final

import pytest

import prefect_db
from prefect_db import Backend, connect, events, flow_runs, flows, states, task_runs
from prefect_db.filters import Among, State
from prefect_db.flow_runs import FlowRunFilter, FlowRunSort
from prefect_db.observe import Counter
from prefect_db.states import StateType
from tests.contract.test_task_run_events import story

Costs = dict[str, int]

_FIGURES: Final = Path(__file__).with_name("costs.json")
_UPDATE: Final = "python -m pytest tests/contract/test_costs.py --update-costs"
_TOLERANCE: Final = 0.10
# Another Python has other bytecode.
_STEPS: Final = f"steps, Python {sys.version_info[0]}.{sys.version_info[1]}"
_PACKAGE: Final = str(Path(prefect_db.__file__).parent)
_BATCH: Final = 500
_RUNS: Final = 210
# Calls before the ones that count: statements are compiled, connections open; and from Python 3.12
# on, code is only traced when it has been.
_WARM: Final = 1
_COUNTED: Final = 2


@pytest.mark.direct("its figures are those of a connection without PgBouncer")
def test_costs(url: str, backend_name: str, pytestconfig: pytest.Config) -> None:
    measured = _measure(url)
    stored: dict[str, dict[str, Costs]] = json.loads(_FIGURES.read_text())
    if pytestconfig.getoption("--update-costs"):
        old = stored.get(backend_name, {})
        stored[backend_name] = {name: old.get(name, {}) | new for name, new in measured.items()}
        _FIGURES.write_text(_one_line_each(stored))
        return
    changed = list(_changes(stored[backend_name], measured))
    assert not changed, "\n".join([*changed, f"If that is meant: {_UPDATE}"])


def test_a_change_is_told_with_both_figures() -> None:
    old = {"a": {"statements": 1, _STEPS: 1000}, "b": {"statements": 1}, "c": {"statements": 1}}
    new = {"a": {"statements": 2, _STEPS: 1101}, "b": {"statements": 1, _STEPS: 5}, "d": {"x": 1}}
    assert list(_changes(old, new)) == [
        "a: 1 statements, now 2",
        f"a: 1000 {_STEPS}, now 1101",
        "c: in the figures alone",
        "d: not in the figures",
    ]
    assert list(_changes(old, {**old, "a": {"statements": 1, _STEPS: 901}})) == []


def test_steps_are_those_of_the_library_and_what_it_calls() -> None:
    assert _steps(lambda: [json.dumps({"n": n}) for n in range(100)]) == 0
    _steps(lambda: states.running())
    few = _steps(lambda: states.running())
    assert few == _steps(lambda: states.running()) > 100
    assert _steps(lambda: [states.running(), states.running()]) == 2 * few


def _changes(old: dict[str, Costs], new: dict[str, Costs]) -> Iterator[str]:
    for name in sorted(old.keys() | new.keys()):
        if name not in old or name not in new:
            yield f"{name}: {'in the figures alone' if name in old else 'not in the figures'}"
            continue
        for cost in sorted(old[name].keys() & new[name].keys()):
            was, now = old[name][cost], new[name][cost]
            if abs(now - was) > was * _TOLERANCE:
                yield f"{name}: {was} {cost}, now {now}"


def _one_line_each(figures: dict[str, dict[str, Costs]]) -> str:
    engines = []
    for engine, operations in sorted(figures.items()):
        lines = [f"  {json.dumps(name)}: {json.dumps(costs)}" for name, costs in operations.items()]
        engines.append(f" {json.dumps(engine)}: {{\n" + ",\n".join(lines) + "\n }")
    return "{\n" + ",\n".join(engines) + "\n}\n"


def _measure(url: str) -> dict[str, Costs]:
    """The costs of each operation.

    `round trips` are calls of the driver, as `Counter` counts them, and `statements` those that
    are neither BEGIN nor COMMIT; `steps` are instructions of Python's bytecode.
    """
    costs: dict[str, Costs] = {}
    counter = Counter()
    with connect(url, observer=counter) as db:
        for name, operation in _operations(db):
            operation()
            counter.reset()
            operation()
            ends = counter.calls["BEGIN"] + counter.calls["COMMIT"]
            trips = counter.calls.total()
            costs[name] = {"statements": trips - ends, "round trips": trips}
    with connect(url) as db:
        for name, operation in _operations(db):
            for _ in range(_WARM):
                _steps(operation)
            # The least: a pool may have had to open or to check a connection.
            costs[name][_STEPS] = min(_steps(operation) for _ in range(_COUNTED))
    return costs


def _operations(db: Backend) -> Iterator[tuple[str, Callable[[], object]]]:
    """Each operation with its name; what it needs is there, or made before it is called."""
    flow = flows.create(db, "etl")
    names = map("flow-{}".format, itertools.count(flows.count(db)))
    with db.transaction() as txn:
        for number in range(_RUNS):
            run = flow_runs.create(
                txn, flow.id, state=states.pending(), parameters={"n": number}, tags=["prod"]
            )
    ended = flow_runs.create(db, flow.id, state=states.pending())
    for state in (states.running(), states.completed()):
        flow_runs.set_state(db, ended.id, state)
    wanted = FlowRunFilter(state=State(type=Among(any_=[StateType.PENDING])))
    keys = map(str, itertools.count())
    times = range(1 + _WARM + _COUNTED)
    stories = [_story(flow_runs.create(db, flow.id).id) for _ in times]
    batches = [_events() for _ in times]

    yield "create flow", lambda: flows.create(db, next(names))
    yield "read flow", lambda: flows.get(db, flow.id)
    yield "create flow run", lambda: flow_runs.create(db, flow.id, state=states.pending())
    yield "read flow run", lambda: flow_runs.get(db, run.id)
    yield "set state", lambda: flow_runs.set_state(db, run.id, states.running())
    yield (
        "find 200 flow runs",
        lambda: flow_runs.find(db, wanted, sort=FlowRunSort.EXPECTED_START_TIME_DESC, limit=200),
    )
    yield (
        "create task run",
        lambda: task_runs.create(
            db, "load-0", "load", next(keys), flow_run_id=run.id, state=states.pending()
        ),
    )
    yield f"record {_BATCH} task-run events", lambda: task_runs.record(db, stories.pop())
    yield f"write {_BATCH} events", lambda: events.write(db, batches.pop())
    yield "page of 50 events", lambda: events.query(db, limit=50)
    yield "count by state", lambda: flow_runs.count_by_state(db)
    yield "history of a run", lambda: flow_runs.history(db, ended.id)


def _story(flow_run_id: Any) -> list[dict[str, Any]]:
    told = (story(flow_run_id, task, 0, "Completed") for task in itertools.count())
    return list(itertools.islice(itertools.chain.from_iterable(told), _BATCH))


def _events() -> list[events.Event]:
    noon = datetime(2030, 1, 1, 12, tzinfo=UTC)
    related = [
        {"prefect.resource.id": f"prefect.flow.{n}", "prefect.resource.role": "flow"}
        for n in range(2)
    ]
    return [
        events.make(
            "prefect.flow-run.Running",
            {"prefect.resource.id": f"prefect.flow-run.{number % 10}"},
            occurred=noon + timedelta(seconds=number),
            related=related,
            payload={"n": number},
        )
        for number in range(_BATCH)
    ]


def _steps(operation: Callable[[], object]) -> int:
    """Instructions of bytecode in this library, and in the standard library for it.

    Not those of other packages: these have new versions.
    """
    steps = 0

    def local(frame: FrameType, what: str, _: Any) -> Any:
        nonlocal steps
        steps += what == "opcode"
        return local

    def enter(frame: FrameType, what: str, _: Any) -> Any:
        file = frame.f_code.co_filename
        if not file.startswith(_PACKAGE):
            caller = frame.f_back
            if "site-packages" in file or caller is None or caller.f_trace is not local:
                return None
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        return local

    before = sys.gettrace()
    gc.disable()
    sys.settrace(enter)
    try:
        operation()
    finally:
        sys.settrace(before)
        gc.enable()
    return steps
