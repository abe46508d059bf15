"""Processes, each with threads, that all write into one SQLite file."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from statistics import median
from typing import Final
from uuid import UUID

from benchmarks.callers import WRITES, locked, ours
from benchmarks.harness import Line, Place, Section, Target, turns
from benchmarks.load import PERCENTS, Kind, Load, Step, by_threads, together

_PROCESSES: Final = 4
_THREADS: Final = 4
_BOUND: Final = 60.0
_OURS: Final = "prefect_db"
_THEIRS: Final = "SQLite's busy handler"


@dataclass(slots=True)
class _Told:
    """What a process did, and what its calls raised."""

    load: Load
    errors: list[str]


def sections(place: Place, url: str, run_ids: Sequence[UUID]) -> list[Section]:
    """Throughput, and how long calls took."""
    seconds, rounds = (0.6, 1) if place.quick else (4.0, 3)
    names = (_OURS, _THEIRS)
    title = f"{_PROCESSES} processes of {_THREADS} threads that set states in one file"
    rate = Section("processes", title, place.backend, "1/s")
    times = Section("processes-times", title, place.backend, "ms")
    whole, slowest, fastest = rate.lines = [
        Line(what, {name: [] for name in names}) for what in ("all", "slowest", "fastest process")
    ]
    times.lines = [Line(what, {name: [] for name in names}) for what in PERCENTS]
    errors: dict[str, list[str]] = {name: [] for name in names}
    for make in (ours, locked):
        make(url, run_ids).checked().close()
    for order in turns(names, rounds):
        for name in order:
            told = _round(name, url, run_ids, seconds)
            errors[name] += [error for each in told for error in each.errors]
            rates = [each.load.rate for each in told]
            whole.samples[name].append(sum(rates))
            slowest.samples[name].append(min(rates))
            fastest.samples[name].append(max(rates))
            load = together([each.load for each in told])
            for line, percent in zip(times.lines, PERCENTS.values(), strict=True):
                line.samples[name].append(load.milliseconds("write", percent))
    pairs = zip(slowest.samples[_OURS], fastest.samples[_OURS], strict=True)
    rate.targets = [
        Target("errors", len(errors[_OURS]), 0, unit=""),
        Target("slowest by fastest process", median(a / b for a, b in pairs), 0.8, at_most=False),
        Target(f"all by {_THEIRS}", whole.ratio(_OURS, _THEIRS), 0.6, at_most=False),
    ]
    longest = max(times.lines[-1].samples[_OURS])
    times.targets = [Target("the longest of all rounds", longest, 1000.0, unit="ms")]
    rate.notes = [
        f"{_THEIRS}: a bare connection for each thread, which waits up to 60 s;"
        f" {len(errors[_THEIRS])} errors.",
        *(f"{name}: {error}" for name in names for error in sorted(set(errors[name]))),
    ]
    return [rate, times]


def _round(name: str, url: str, run_ids: Sequence[UUID], seconds: float) -> list[_Told]:
    context = multiprocessing.get_context("spawn")
    pipes = [context.Pipe() for _ in range(_PROCESSES)]
    processes = [
        context.Process(target=_work, args=(theirs, name, url, run_ids, seconds))
        for _, theirs in pipes
    ]
    try:
        for process in processes:
            process.start()
        for mine, theirs in pipes:
            # So that the end of the process is the end of what can be read.
            theirs.close()
            _receive(mine)
        # All at one moment; a clock that all processes share.
        at = time.time() + 0.1
        for mine, _ in pipes:
            mine.send(at)
        return [_receive(mine) for mine, _ in pipes]
    finally:
        for process, (mine, _) in zip(processes, pipes, strict=True):
            mine.close()
            if process.pid is not None:
                process.join(_BOUND)
                process.kill()
                process.join()


def _receive(pipe: Connection) -> _Told:
    if not pipe.poll(_BOUND):
        raise TimeoutError("a process does not answer")
    told: _Told = pipe.recv()
    return told


def _work(pipe: Connection, name: str, url: str, run_ids: Sequence[UUID], seconds: float) -> None:
    """A process: says that it is ready, waits for the moment, works, and tells."""
    errors: list[str] = []

    def counted(step: Step) -> Kind:
        try:
            return step()
        except Exception as error:  # noqa: BLE001
            errors.append(repr(error))
            return "write"

    if name == _OURS:
        callers = [ours(url, run_ids)] * _THREADS
    else:
        callers = [locked(url, run_ids) for _ in range(_THREADS)]
    try:
        pipe.send(_Told(Load(), []))
        time.sleep(max(pipe.recv() - time.time(), 0))
        steps = [partial(counted, each.step(WRITES)) for each in callers]
        pipe.send(_Told(together(by_threads(steps, seconds)), errors))
    finally:
        for each in callers:
            each.close()
