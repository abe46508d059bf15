"""Many callers at the same time: threads, processes, tasks; throughput and how long calls take."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from statistics import median
from typing import Any, Final, TypeVar

from benchmarks import processes
from benchmarks.callers import (
    MIXED,
    READS,
    WRITES,
    Bridge,
    Callers,
    Threads,
    filled,
    locked,
    ours,
    over,
    pooled,
    transactions,
)
from benchmarks.harness import Line, Place, Section, Target, turns
from benchmarks.load import PERCENTS, Kind, Load, beside, by_threads, together
from benchmarks.prefect_tasks import PrefectTasks
from prefect_db import connect, events
from tests.peer.prefect_peer import Prefect

_CALLERS: Final = (1, 4, 8, 16)
_MIXES: Final = {"reads": READS, "90 % reads": MIXED, "writes": WRITES}
_KINDS: Final[dict[int, tuple[Kind, ...]]] = {
    READS: ("read",),
    MIXED: ("read", "write"),
    WRITES: ("write",),
}
_OURS: Final = "prefect_db"
_LOCK: Final = "one lock"
_READERS: Final = 4
_WRITERS: Final = 16
# Fewer and more threads than the pool has connections.
_POOLED: Final = (8, 16)

K = TypeVar("K")


def run(place: Place) -> list[Section]:
    """The sections; those of SQLite's writer and of PostgreSQL's pool on their engine alone."""
    sections = [*threads(place), *bulk(place), *bridge(place)]
    if place.backend == "sqlite":
        return [*sections, *writers(place), *many_processes(place)]
    return [*sections, *pool(place)]


def threads(place: Place) -> list[Section]:
    """Threads that read, write or do both: against one lock, and Prefect's tasks."""
    seconds, rounds = (0.2, 1) if place.quick else (1.2, 3)
    prefect = Prefect(theirs := place.new_url())
    prefect.upgrade()
    rate = Section("threads", "Callers that read and set states", place.backend, "1/s")
    times = {
        name: Section(
            f"threads-{name}", f"Callers that read and set states: {name}", place.backend, "ms"
        )
        for name in PERCENTS
    }
    with _open(
        _filled(place, ours), _filled(place, locked), PrefectTasks(prefect, filled(theirs))
    ) as contestants:
        for mix, writes in _MIXES.items():
            for callers in _CALLERS[:: 3 if place.quick else 1]:
                loads = _loads(contestants, callers, writes, seconds, rounds)
                what = f"{mix} by {callers}"
                rate.lines.append(_rates(what, loads))
                for name, percent in PERCENTS.items():
                    times[name].lines += [
                        _times(f"{what}: {kind}", loads, kind, percent) for kind in _KINDS[writes]
                    ]
    return [rate, *times.values()]


def writers(place: Place) -> list[Section]:
    """Threads that all write on SQLite: fairness, and what a group of commits gains."""
    seconds, rounds = (0.3, 1) if place.quick else (2.0, 5)
    rate = Section(
        "writers",
        f"{_WRITERS} threads that set states",
        place.backend,
        "1/s",
        notes=["One lock, and transactions: one COMMIT for each call."],
    )
    times = Section("writers-p99", f"{_WRITERS} threads that set states: p99", place.backend, "ms")
    for synchronous in ("NORMAL", "FULL"):
        with _open(
            _filled(place, ours, synchronous=synchronous),
            _filled(place, transactions, synchronous=synchronous),
            _filled(place, locked, synchronous=synchronous),
        ) as contestants:
            loads = _loads(contestants, _WRITERS, WRITES, seconds, rounds)
        rate.lines.append(_rates(f"synchronous={synchronous}", loads))
        times.lines.append(_times(f"synchronous={synchronous}", loads, "write", 99))
    rate.targets.append(
        Target(
            "throughput by a plain lock's", rate.lines[0].ratio(_OURS, _LOCK), 0.9, at_most=False
        )
    )
    times.targets.append(Target("p99 by a plain lock's", times.lines[0].ratio(_OURS, _LOCK), 0.2))
    return [rate, times]


def bulk(place: Place) -> list[Section]:
    """Reads while one call writes many events."""
    number, seconds, rounds = (1_000, 0.3, 1) if place.quick else (10_000, 1.0, 5)
    section = Section(
        "bulk",
        f"{number} events in one call while {_READERS} threads read",
        place.backend,
        "ms",
    )
    what = (
        *("insert, nobody reads", "insert"),
        *("read, p50", "read, p99", "read, longest"),
        "read, p99, nobody inserts",
    )
    section.lines = [Line(each, {_OURS: []}) for each in what]
    url = place.new_url()
    run_ids = filled(url)
    with connect(url) as db:
        steps = [over(db, run_ids).checked().step(READS) for _ in range(_READERS)]
        for _ in range(rounds):
            alone, _ = beside(partial(events.write, db, _events(number)), [])
            loaded, load = beside(partial(events.write, db, _events(number)), steps)
            reads = [load.milliseconds("read", percent) for percent in PERCENTS.values()]
            undisturbed = together(by_threads(steps, seconds)).milliseconds("read", 99)
            samples = (alone * 1e3, loaded * 1e3, *reads, undisturbed)
            for line, sample in zip(section.lines, samples, strict=True):
                line.samples[_OURS].append(sample)
    if place.backend == "sqlite":
        idle, busy, _, p99, *_ = section.lines
        pairs = zip(busy.samples[_OURS], idle.samples[_OURS], strict=True)
        section.targets = [
            Target("read, p99", p99.median(_OURS), 5.0, unit="ms"),
            Target("insert by the one that nobody disturbs", median(a / b for a, b in pairs), 2.0),
        ]
    return [section]


def bridge(place: Place) -> list[Section]:
    """The asyncio bridge against direct calls in as many threads."""
    seconds, rounds = (0.2, 1) if place.quick else (1.0, 3)
    section = Section("bridge", "prefect_db.aio against threads", place.backend, "1/s")
    url = place.new_url()
    run_ids = filled(url)
    with _open(ours(url, run_ids).checked(), Bridge(url, run_ids)) as contestants:
        for callers in (1, 8):
            for what, writes in (("read by id", READS), ("set_state", WRITES)):
                loads = _loads(contestants, callers, writes, seconds, rounds)
                section.lines.append(_rates(f"{what}, {callers} at once", loads))
    return [section]


def pool(place: Place) -> list[Section]:
    """PostgreSQL's pool with fewer and with more threads than it has connections."""
    seconds, rounds = (0.3, 1) if place.quick else (2.0, 5)
    section = Section("pool", "Threads on PostgreSQL", place.backend, "1/s")
    with _open(_filled(place, ours), _filled(place, pooled)) as contestants:
        for what, writes in (("read by id", READS), ("set_state", WRITES)):
            loads = _in_turn(
                {
                    (callers, each.name): partial(each.load, callers, writes, seconds)
                    for callers in _POOLED
                    for each in contestants
                },
                rounds,
            )
            few, many = (
                _rates(
                    f"{what}, {callers} threads",
                    {each.name: loads[callers, each.name] for each in contestants},
                )
                for callers in _POOLED
            )
            section.lines += [few, many]
            pairs = zip(many.samples[_OURS], few.samples[_OURS], strict=True)
            section.targets.append(
                Target(
                    f"{what}: 16 threads by 8", median(a / b for a, b in pairs), 0.9, at_most=False
                )
            )
    return [section]


def many_processes(place: Place) -> list[Section]:
    """Processes that write into one SQLite file."""
    url = place.new_url()
    return processes.sections(place, url, filled(url))


def _filled(place: Place, make: Callable[..., Threads], **options: Any) -> Threads:
    url = place.new_url()
    return make(url, filled(url), **options).checked()


@contextmanager
def _open(*contestants: Callers) -> Iterator[Sequence[Callers]]:
    with ExitStack() as stack:
        for each in contestants:
            stack.callback(each.close)
        yield contestants


def _loads(
    contestants: Sequence[Callers], callers: int, writes: int, seconds: float, rounds: int
) -> dict[str, list[Load]]:
    """What each contestant's callers did in each round."""
    jobs = {each.name: partial(each.load, callers, writes, seconds) for each in contestants}
    return _in_turn(jobs, rounds)


def _in_turn(jobs: Mapping[K, Callable[[], list[Load]]], rounds: int) -> dict[K, list[Load]]:
    """All jobs, round after round."""
    loads: dict[K, list[Load]] = {key: [] for key in jobs}
    for keys in turns(jobs, rounds):
        for key in keys:
            loads[key].append(together(jobs[key]()))
    return loads


def _rates(what: str, loads: Mapping[str, Sequence[Load]]) -> Line:
    return Line(what, {name: [load.rate for load in each] for name, each in loads.items()})


def _times(what: str, loads: Mapping[str, Sequence[Load]], kind: Kind, percent: float) -> Line:
    samples = {
        name: [load.milliseconds(kind, percent) for load in each] for name, each in loads.items()
    }
    return Line(what, samples)


def _events(number: int) -> list[events.Event]:
    now = datetime.now(UTC)
    related = [
        {"prefect.resource.id": f"prefect.{role}.{number}", "prefect.resource.role": role}
        for role in ("flow", "tag")
    ]
    return [
        events.make(
            "prefect.flow-run.Running",
            {"prefect.resource.id": f"prefect.flow-run.{at % 1000}"},
            occurred=now + timedelta(microseconds=at),
            related=related,
            payload={"n": at},
        )
        for at in range(number)
    ]
