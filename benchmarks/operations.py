"""Each operation, one at a time: the library, its limit by hand, and what else one could use."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, fields, is_dataclass
from itertools import cycle, zip_longest
from typing import Any, Final

from benchmarks.contestants.base import Contestant, Pages
from benchmarks.contestants.by_hand_postgres import ByHandPostgres
from benchmarks.contestants.by_hand_sqlite import ByHandSQLite
from benchmarks.contestants.ours import Ours
from benchmarks.contestants.prefect_models import PrefectModels
from benchmarks.contestants.sqlalchemy_core import Core
from benchmarks.harness import Line, Place, Section, Target, WrongResult, turns
from benchmarks.samples import Samples, Size
from prefect_db import Backend, connect, events
from tests.peer.prefect_peer import Prefect

_FULL: Final = Size(flow_runs=2000, events=50_100)
_QUICK: Final = Size(flow_runs=500, events=600)
_PAGE: Final = 50
# Seconds that a turn of a contestant takes: so long that the first calls, which find the caches of
# the processor as another contestant left them, do not count.
_TURN: Final = 0.02


@dataclass(slots=True)
class Operation:
    """What is measured.

    Attributes:
        name: The contestants' name for it.
        what: A line of the table.
        given: Makes what one call is given.
        rounds: Turns of each contestant.
        bulk: A turn is one call.
    """

    name: str
    what: str
    given: Callable[[], Any]
    rounds: int
    bulk: bool = False


def run(place: Place) -> list[Section]:
    """The one section that there is."""
    size = _QUICK if place.quick else _FULL
    with ExitStack() as stack:
        samples, contestants, urls = _contestants(place, size, stack)
        operations = _operations(samples, size, urls[Ours.name], quick=place.quick)
        _check(operations, contestants, urls)
        lines = [Line(each.what, _measure(each, contestants)) for each in operations]
    return [
        Section(
            "operations",
            "Time of an operation",
            place.backend,
            "us",
            lines,
            _targets({line.what: line for line in lines}, place),
            _NOTES,
        )
    ]


_NOTES: Final = [
    "medians of rounds, with the tenth and ninetieth percentile; xN is the median over the rounds"
    " of how many times prefect_db's time that is",
    "a page of events is by keyset but for Prefect, whose pages begin at a count, and whose first"
    " one also counts all of them",
]


def _contestants(
    place: Place, size: Size, stack: ExitStack
) -> tuple[Samples, list[Contestant], dict[str, str]]:
    """Each with a database of its own, filled with the same."""
    by_hand = ByHandSQLite if place.backend == "sqlite" else ByHandPostgres
    kinds: list[Callable[[str], Contestant]] = [Ours, by_hand, Core, PrefectModels]
    contestants, urls = [], {}
    for kind in kinds:
        url = place.new_url()
        if kind is PrefectModels:
            with Prefect(url) as prefect:
                prefect.upgrade()
        samples = Samples()
        with connect(url) as db:
            samples.fill(db, size)
            if place.backend == "postgres":
                # The server would soon do it by itself, in the middle of something.
                with db.connection() as connection:
                    connection.execute("VACUUM (ANALYZE)")
                    connection.execute("CHECKPOINT")
        contestant = stack.enter_context(closing(kind(url)))
        contestants.append(contestant)
        urls[contestant.name] = url
    return samples, contestants, urls


READ_FLOW: Final = "read flow"
READ_RUN: Final = "read flow run"
CREATE_RUN: Final = "create flow run with state"
SET_STATE: Final = "set_state"
FIND: Final = "find 200 flow runs"


def _operations(samples: Samples, size: Size, url: str, *, quick: bool) -> list[Operation]:
    flow_ids = cycle([flow.id for flow in samples.flows])
    run_ids = cycle(samples.flow_runs)
    first, last = _pages(url, size.events)
    few, many = _batches(quick=quick)
    short, long, longest = (3, 3, 2) if quick else (100, 25, 15)
    return [
        # Reads first, while all databases hold the same: how much is written depends on the speed.
        Operation("read_flow", READ_FLOW, lambda: next(flow_ids), short),
        Operation("read_flow_run", READ_RUN, lambda: next(run_ids), short),
        Operation("find_flow_runs", FIND, lambda: 200, short),
        Operation("count_by_state", "count task runs by state", lambda: None, short),
        Operation("history", "history of a flow run", lambda: next(run_ids), short),
        Operation("event_page", f"events, page 1 of {_PAGE}", lambda: first, long),
        Operation("event_page", f"events, page {last.number + 1:,}", lambda: last, long),
        Operation("create_flow", "create flow", samples.flow, short),
        Operation("create_flow_run", CREATE_RUN, samples.flow_run, short),
        Operation("set_state", SET_STATE, samples.change, short),
        Operation("create_task_run", "create task run with state", samples.task_run, short),
        Operation(
            "record_task_runs",
            f"record {few} task-run events",
            lambda: samples.task_run_events(few),
            long,
            bulk=True,
        ),
        Operation("write_events", _written(few), lambda: samples.events(few), long, bulk=True),
        Operation("write_events", _written(many), lambda: samples.events(many), longest, bulk=True),
    ]


def _batches(*, quick: bool) -> tuple[int, int]:
    """How many events there are in a small batch and in a large one."""
    return (50, 500) if quick else (500, 5000)


def _written(number: int) -> str:
    return f"write {number:,} events"


def _pages(url: str, number: int) -> tuple[Pages, Pages]:
    """The first page of all events, and the one that is the last but one, or the 1,000th."""
    with connect(url) as db:
        newest = events.query(db, limit=1).events[0].occurred
        oldest = events.query(db, limit=1, order="ASC").events[0].occurred
        pages = min(number // _PAGE - 1, 999)
        before = events.query(db, limit=pages * _PAGE).events[-1]
    return (
        Pages(oldest, newest, _PAGE, 0, None),
        Pages(oldest, newest, _PAGE, pages, (before.occurred, before.id)),
    )


# What the database makes: the time of writing, and an id that nobody refers to.
_OWN: Final = {"created", "updated", "recorded"}
_TABLES: Final = {
    "flow": "id",
    "flow_run": "id",
    "flow_run_state": "id",
    "task_run": "id",
    "task_run_state": "id",
    "events": "id",
    "event_resources": "event_id, resource_id, resource_role",
}


def _check(
    operations: Sequence[Operation], contestants: Sequence[Contestant], urls: Mapping[str, str]
) -> None:
    """Let all do the same, and compare what they say, and then what is stored.

    Raises:
        WrongResult: Something differs.
    """
    for operation in operations:
        # Three, so that a run enters each type of state.
        for given in [operation.given() for _ in range(1 if operation.bulk else 3)]:
            said = {}
            for each in contestants:
                result = each.call(operation.name, each.prepare(operation.name, given))
                said[each.name] = result
            first = said[Ours.name]
            for name, result in said.items():
                compare = _ids if name == PrefectModels.name else _plain
                if compare(result) != compare(first):
                    raise WrongResult(
                        f"{operation.what}: {name} gives {compare(result)!r:.500}, and"
                        f" {Ours.name} {compare(first)!r:.500}"
                    )
    stored = {}
    for name, url in urls.items():
        with connect(url) as db:
            stored[name] = {table: _rows(db, table, order) for table, order in _TABLES.items()}
    for name, tables in stored.items():
        for table, rows in tables.items():
            for row, expected in zip_longest(rows, stored[Ours.name][table]):
                if row != expected:
                    raise WrongResult(f"{name} stored {row} in {table}, not {expected}")


def _plain(result: Any) -> Any:
    """A result without what each database makes by itself."""
    if isinstance(result, list):
        return [_plain(each) for each in result]
    if is_dataclass(result):
        names = [field.name for field in fields(result) if field.name not in _OWN]
        return {name: getattr(result, name) for name in names}
    return result


def _ids(result: Any) -> Any:
    """Which rows a result is of."""
    if isinstance(result, (list, tuple)):
        return [each.id for each in result]
    if hasattr(result, "id"):
        return result.id
    if hasattr(result, "model_dump"):
        result = result.model_dump()
    return {str(k): n for k, n in result.items() if n} if isinstance(result, dict) else result


def _rows(db: Backend, table: str, order: str) -> list[dict[str, Any]]:
    with connect(":memory:") as ours:
        names = [name for _, name, *_ in ours.rows(f"PRAGMA table_info({table})")]
    kept = [name for name in names if name not in _OWN]
    if table == "event_resources":
        kept.remove("id")
    rows = db.rows(f"SELECT {', '.join(kept)} FROM {table} ORDER BY {order}")
    return [dict(row) for row in rows]


def _measure(operation: Operation, contestants: Sequence[Contestant]) -> dict[str, list[float]]:
    """Microseconds of a call, one sample of each contestant for each round."""
    calls = {each.name: _calls(operation, each) for each in contestants}
    samples: dict[str, list[float]] = {each.name: [] for each in contestants}
    for order in turns(contestants, operation.rounds):
        for each in order:
            given = [operation.given() for _ in range(calls[each.name])]
            prepared = [each.prepare(operation.name, one) for one in given]
            seconds = each.time(operation.name, prepared)
            samples[each.name].append(seconds / len(given) * 1e6)
    return samples


def _calls(operation: Operation, contestant: Contestant) -> int:
    """How many calls fill a turn; the ones that find it out warm up."""
    if operation.bulk:
        return 1
    given = [contestant.prepare(operation.name, operation.given()) for _ in range(7)]
    contestant.time(operation.name, given[:6])
    return math.ceil(_TURN / contestant.time(operation.name, given[6:]))


def _targets(lines: Mapping[str, Line], place: Place) -> list[Target]:
    """The promises of the library: medians of the rounds' ratios."""
    targets = []
    written = [_written(number) for number in _batches(quick=place.quick)]
    over = [*_OVER_BY_HAND, *[(what, 1.15, 1.15) for what in written]]
    for what, *limits in over:
        ratio = lines[what].ratio(Ours.name, ByHandSQLite.name)
        limit = limits[place.backend == "postgres"]
        targets.append(Target(f"{what}: time over by hand", ratio, limit))
    faster = [*_FASTER_THAN_PREFECT, *[(what, 12, 6) for what in written]]
    for what, *limits in faster:
        ratio = lines[what].ratio(PrefectModels.name, Ours.name)
        limit = limits[place.backend == "postgres"]
        targets.append(Target(f"{what}: Prefect's time over ours", ratio, limit, at_most=False))
    return targets


# The limits on SQLite and on PostgreSQL.
_OVER_BY_HAND: Final = [
    (READ_FLOW, 1.3, 1.1),
    (READ_RUN, 1.3, 1.1),
    (FIND, 1.15, 1.1),
    (SET_STATE, 1.2, 1.1),
    (CREATE_RUN, 1.2, 1.1),
]
_FASTER_THAN_PREFECT: Final = [
    (READ_FLOW, 40, 8),
    (READ_RUN, 80, 12),
    (SET_STATE, 25, 12),
    (CREATE_RUN, 25, 15),
    (FIND, 10, 10),
]
