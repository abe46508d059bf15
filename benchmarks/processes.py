"""Processes, each with threads, that all write into one SQLite file."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from typing import Final
from uuid import UUID

from benchmarks.callers import WRITES, locked, ours
from benchmarks.harness import Line, Place, Section, Target
from benchmarks.load import Kind, Load, Step, by_threads, together

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


def section(place: Place, url: str, run_ids: Sequence[UUID]) -> Section:
    """The section; its samples are calls a second, or milliseconds."""
    seconds, rounds = (0.6, 1) if place.quick else (4.0, 5)
    names = (_OURS, _THEIRS)
    rate, slowest = Line("calls a second", _empty(names)), Line("slowest / fastest", _empty(names))
    median, longest = Line("median, ms", _empty(names)), Line("longest, ms", _empty(names))
    errors: dict[str, list[str]] = {name: [] for name in names}
    for number in range(rounds):
        for name in names if number % 2 else reversed(names):
            told = _round(name, url, run_ids, seconds)
            errors[name] += [error for each in told for error in each.errors]
            rates = [each.load.rate for each in told]
            whole = together([each.load for each in told])
            rate.samples[name].append(sum(rates))
            slowest.samples[name].append(min(rates) / max(rates))
            median.samples[name].append(whole.milliseconds("write", 50))
            longest.samples[name].append(whole.milliseconds("write", 100))
    return Section(
        "processes",
        f"{_PROCESSES} processes of {_THREADS} threads that set states in one file",
        place.backend,
        "as each line says",
        [rate, slowest, median, longest],
        [
            Target("errors", len(errors[_OURS]), 0, unit=""),
            Target("longest wait", max(longest.samples[_OURS]) / 1e3, 1.0, unit="s"),
            Target("slowest by fastest process", slowest.median(_OURS), 0.8, at_most=False),
            Target(
                "throughput by that of SQLite's busy handler",
                rate.ratio(_OURS, _THEIRS),
                0.6,
                at_most=False,
            ),
        ],
        [
            f"{_THEIRS}: a bare connection for each thread, which waits up to 60 s;"
            f" {len(errors[_THEIRS])} errors.",
            *(f"{name}: {error}" for name in names for error in sorted(set(errors[name]))),
        ],
    )


def _empty(names: Sequence[str]) -> dict[str, list[float]]:
    return {name: [] for name in names}


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
