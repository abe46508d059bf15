"""What grows with the data, and what does not: reads, writes, trimming, and bytes."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from typing import Any, Final

from benchmarks.grown import HOT, add_events, add_runs, id_of, time_of
from benchmarks.harness import Line, Place, Section, Target, interleaved
from prefect_db import Backend, connect, events, flow_runs, flows
from prefect_db.diagnostics import free_size, total_size
from prefect_db.events import EventFilter, Resource
from prefect_db.filters import Among, State, Tags
from prefect_db.flow_runs import FlowRunFilter, FlowRunSort
from prefect_db.observe import Event, Execute, Observer, Outcome

_RUNS: Final = (10_000, 100_000, 1_000_000)
_EVENTS: Final = (1_000_000, 5_000_000)
_QUICK_RUNS: Final = (1_000, 10_000)
_QUICK_EVENTS: Final = (2_000, 10_000)
# A statement that was prepared, and then planned once and for all, would be so by then.
_WARM: Final = 20
_PAGE: Final = 50
_BATCH: Final = 500


def run(place: Place) -> list[Section]:
    """Reads of runs, reads of events, writes of events, trimming."""
    return [_runs(place), *_all_of_events(place)]


def _name(count: int) -> str:
    for unit, size in (("M", 1_000_000), ("k", 1_000)):
        if count >= size:
            return f"{count // size}{unit}"
    return str(count)


def _limit(place: Place) -> float:
    """The milliseconds that a read may take, however much data there is."""
    return 10.0 if place.backend == "sqlite" else 20.0


def _measure(
    what: str, calls: Mapping[str, Callable[[], object]], *, rounds: int, repeats: int = 1
) -> Line:
    for call in calls.values():
        for _ in range(_WARM):
            call()
    return Line(what, interleaved(calls, rounds=rounds, calls=repeats, scale=1e3))


def _state(*types: str) -> FlowRunFilter:
    return FlowRunFilter(state=State(type=Among(any_=types)))


def _tag(tag: str) -> FlowRunFilter:
    return FlowRunFilter(tags=Tags(all_=[tag]))


_FINDS: Final[dict[str, tuple[FlowRunFilter | None, FlowRunSort, int]]] = {
    "find 200, no filter": (None, FlowRunSort.ID_DESC, 200),
    "find 200, started last": (None, FlowRunSort.START_TIME_DESC, 200),
    "find 200, in common states": (_state("COMPLETED", "FAILED"), FlowRunSort.ID_DESC, 200),
    "find 200, common states, started last": (
        _state("COMPLETED", "FAILED"),
        FlowRunSort.START_TIME_DESC,
        200,
    ),
    "find 10, in a rare state": (_state("CRASHED"), FlowRunSort.ID_DESC, 10),
    "find 200, in an absent state": (_state("PAUSED"), FlowRunSort.ID_DESC, 200),
    "find 10, in rare or absent states": (_state("CRASHED", "PAUSED"), FlowRunSort.ID_DESC, 10),
    "find 200, with a common tag": (_tag("prod"), FlowRunSort.ID_DESC, 200),
    "find 10, with a rare tag": (_tag("audit"), FlowRunSort.ID_DESC, 10),
    "find 200, with an absent tag": (_tag("nowhere"), FlowRunSort.ID_DESC, 200),
}


def _runs(place: Place) -> Section:
    sizes = _QUICK_RUNS if place.quick else _RUNS
    rounds = 5 if place.quick else 41
    small, big = _name(sizes[0]), _name(sizes[-1])
    with ExitStack() as stack:
        databases: dict[str, Backend] = {}
        for size in sizes:
            db = stack.enter_context(connect(place.new_url()))
            add_runs(db, size)
            databases[_name(size)] = db
        middle = {_name(size): id_of(size // 2) for size in sizes}
        reads: dict[str, Callable[[Backend, str], object]] = {
            "read flow": lambda db, _: flows.get_by_name(db, "etl"),
            "read flow run by id": lambda db, name: flow_runs.get(db, middle[name]),
            "history of a run": lambda db, name: flow_runs.history(db, middle[name]),
        }
        for what, (filter, sort, limit) in _FINDS.items():
            reads[what] = partial(_find, filter=filter, sort=sort, limit=limit)
        lines = [
            _measure(
                what,
                {name: partial(read, db, name) for name, db in databases.items()},
                rounds=rounds,
            )
            for what, read in reads.items()
        ]
        counted = _measure(
            "count by state",
            {name: partial(flow_runs.count_by_state, db) for name, db in databases.items()},
            rounds=5,
        )
    targets = []
    for line in lines:
        targets.append(Target(f"{line.what}, {big} over {small}", line.ratio(big, small), 3.0))
        targets.append(Target(f"{line.what} at {big}", line.median(big), _limit(place), unit=" ms"))
    return Section(
        "growth-runs",
        "Reads as flow runs grow (each with two states)",
        place.backend,
        "ms",
        [*lines, counted],
        targets,
        [
            "rare: one run in a thousand, all among the oldest tenth; of these there are 10 at 10k,"
            " so 10 are asked for at every size",
            "each read ran 20 times on its connection before it was measured",
            "count by state is a count of all runs: it grows with them, as no counters are kept",
        ],
    )


def _find(
    db: Backend, _: str, *, filter: FlowRunFilter | None, sort: FlowRunSort, limit: int
) -> list[flow_runs.FlowRun]:
    return flow_runs.find(db, filter, sort=sort, limit=limit)


def _all_of_events(place: Place) -> list[Section]:
    sizes = _QUICK_EVENTS if place.quick else _EVENTS
    with ExitStack() as stack:
        databases = {"0": stack.enter_context(connect(place.new_url()))}
        watch = _Transactions()
        for size in sizes:
            observer = watch if size == sizes[-1] else None
            db = stack.enter_context(connect(place.new_url(), observer=observer))
            add_events(db, size)
            databases[_name(size)] = db
        grown = {name: db for name, db in databases.items() if name != "0"}
        read = _event_pages(place, grown, sizes)
        written = _event_writes(place, databases, sizes)
        trimmed = _trim(place, databases[_name(sizes[-1])], watch, sizes[-1] // 5)
    return [read, written, trimmed]


def _event_pages(place: Place, databases: dict[str, Backend], sizes: tuple[int, ...]) -> Section:
    rounds, far = (5, 20) if place.quick else (41, 1000)
    hot = EventFilter(resource=Resource(id=[HOT]))
    lines, targets = [], []
    for whose, filter in (("all events", None), ("one resource", hot)):
        first, distant = f"{whose}, page 1", f"{whose}, page {far:,}"
        after = {name: _after(db, filter, (far - 1) * _PAGE) for name, db in databases.items()}
        near = _measure(
            first,
            {n: partial(events.query, db, filter, limit=_PAGE) for n, db in databases.items()},
            rounds=rounds,
        )
        deep = _measure(
            distant,
            {
                n: partial(events.query, db, filter, limit=_PAGE, after=after[n])
                for n, db in databases.items()
            },
            rounds=rounds,
        )
        lines += [near, deep]
        for name in databases:
            pages = Line(whose, {"near": near.samples[name], "deep": deep.samples[name]})
            ratio = pages.ratio("deep", "near")
            targets.append(Target(f"{distant} over page 1 at {name}", ratio, 2.0))
    small, big = _name(sizes[0]), _name(sizes[-1])
    for line in lines:
        targets.append(Target(f"{line.what}, {big} over {small}", line.ratio(big, small), 3.0))
        targets.append(Target(f"{line.what} at {big}", line.median(big), _limit(place), unit=" ms"))
    return Section(
        "growth-events",
        f"Pages of {_PAGE} events as events grow",
        place.backend,
        "ms",
        lines,
        targets,
        ["one resource: a tenth of all events is about it"],
    )


def _after(db: Backend, filter: EventFilter | None, count: int) -> str | None:
    return events.query(db, filter, limit=count).next


def _event_writes(place: Place, databases: dict[str, Backend], sizes: tuple[int, ...]) -> Section:
    rounds = 5 if place.quick else 31
    line = Line(
        f"write {_BATCH} events",
        interleaved(
            {name: partial(_write, db) for name, db in databases.items()},
            rounds=rounds,
            calls=1,
            scale=1e3,
        ),
    )
    big = _name(sizes[-1])
    share = 0.5 if place.backend == "sqlite" else 0.8
    return Section(
        "growth-writes",
        "Writes as events grow",
        place.backend,
        "ms",
        [line],
        [
            Target(
                f"rate of writing events, {big} over 0",
                line.ratio("0", big),
                share,
                at_most=False,
            )
        ],
        ["events have time-ordered ids and a related resource each, and are about new resources"],
    )


def _write(db: Backend) -> None:
    batch = [
        events.make(
            "prefect.flow-run.Completed",
            {"prefect.resource.id": f"prefect.flow-run.{number}", "prefect.resource.name": "a"},
            related=[
                {
                    "prefect.resource.id": f"prefect.flow.{number % 50}",
                    "prefect.resource.role": "flow",
                }
            ],
            payload={"n": number},
        )
        for number in range(_BATCH)
    ]
    assert events.write(db, batch) == _BATCH


class _Transactions(Observer):
    """How long each transaction that wrote lasted, in milliseconds, while `on`."""

    def __init__(self) -> None:
        self.on = False
        self.lengths: list[float] = []
        self._began: dict[int, float] = {}

    def start(self, event: Event) -> None:
        if self.on and isinstance(event, Execute) and event.verb == "begin":
            self._began[event.transaction or 0] = time.perf_counter()

    def end(self, event: Event, context: Any, outcome: Outcome) -> None:
        if self.on and isinstance(event, Execute) and event.verb == "commit":
            began = self._began.pop(event.transaction or 0)
            self.lengths.append((time.perf_counter() - began) * 1e3)


def _trim(place: Place, db: Backend, watch: _Transactions, count: int) -> Section:
    idle = _reading(db, until=_sleeping(0.5 if place.quick else 5.0))
    watch.on = True
    began = time.perf_counter()
    busy = _reading(db, until=lambda: events.trim(db, time_of(count)))
    seconds = time.perf_counter() - began
    watch.on = False
    p99 = {name: _p99(samples) for name, samples in (("idle", idle), ("busy", busy))}
    targets = [
        Target("the longest transaction", max(watch.lengths), 200.0, unit=" ms"),
        Target("p99 of a page of events, while trimming over idle", p99["busy"] / p99["idle"], 3.0),
        Target("p99 of a page of events, while trimming", p99["busy"], _limit(place), unit=" ms"),
    ]
    notes = [
        f"{count:,} events with {2 * count:,} resources were deleted in {seconds:.1f} s,"
        f" {len(watch.lengths):,} transactions, median {statistics.median(watch.lengths):.1f} ms",
        f"p99 of a page: {p99['idle']:.2f} ms idle, {p99['busy']:.2f} ms while trimming; one other"
        " thread of the same process trims",
    ]
    if place.backend == "sqlite":
        free, before = free_size(db), total_size(db)
        began = time.perf_counter()
        db.execute("VACUUM")
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        seconds, after = time.perf_counter() - began, total_size(db)
        targets.append(
            Target(
                "what `VACUUM` gives back, over what is free",
                (before - after) / free,
                0.9,
                at_most=False,
            )
        )
        notes.append(
            f"VACUUM: {before / 1e6:,.0f} MB became {after / 1e6:,.0f} MB in {seconds:.1f} s"
        )
    return Section(
        "growth-trim",
        f"Pages of events while {_name(count)} events are trimmed",
        place.backend,
        "ms",
        [
            Line("page of events, idle", {"page": idle}),
            Line("page of events, while trimming", {"page": busy}),
        ],
        targets,
        notes,
    )


def _sleeping(seconds: float) -> Callable[[], object]:
    return lambda: time.sleep(seconds)


def _reading(db: Backend, *, until: Callable[[], object]) -> list[float]:
    """The milliseconds of each page that is read until something has been done."""
    done = threading.Event()
    samples: list[float] = []

    def read() -> None:
        filter = EventFilter(resource=Resource(id=[HOT]))
        while not done.is_set():
            began = time.perf_counter()
            events.query(db, filter, limit=_PAGE)
            samples.append((time.perf_counter() - began) * 1e3)
            time.sleep(0.002)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        until()
    finally:
        done.set()
        reader.join()
    return samples


def _p99(samples: list[float]) -> float:
    return statistics.quantiles(samples, n=100)[-1]
