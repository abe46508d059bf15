"""Callers that work at the same time, and how long each of their calls took."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Final, Literal

Kind = Literal["read", "write"]
# One call of a caller; what it was.
Step = Callable[[], Kind]
AsyncStep = Callable[[], Awaitable[Kind]]

# What is told of times: the half, all but a hundredth, the longest.
PERCENTS: Final = {"p50": 50.0, "p99": 99.0, "max": 100.0}

_BOUND: Final = 60.0


@dataclass(slots=True)
class Load:
    """What callers did in some time.

    Attributes:
        seconds: From the start to the end of the last call.
        taken: The seconds of each call of a kind.
    """

    seconds: float = 0.0
    taken: dict[Kind, list[float]] = field(default_factory=lambda: {"read": [], "write": []})

    @property
    def calls(self) -> int:
        """How many calls ended."""
        return sum(map(len, self.taken.values()))

    @property
    def rate(self) -> float:
        """Calls a second."""
        return self.calls / self.seconds

    def milliseconds(self, kind: Kind, percent: float) -> float:
        """The time within which so many of the calls of a kind ended; 100 is the longest."""
        times = sorted(self.taken[kind])
        return times[max(math.ceil(len(times) * percent / 100) - 1, 0)] * 1e3


def together(loads: Sequence[Load]) -> Load:
    """What callers that began at the same time did in all."""
    whole = Load(max((load.seconds for load in loads), default=0.0))
    for load in loads:
        for kind, times in load.taken.items():
            whole.taken[kind] += times
    return whole


def by_threads(steps: Sequence[Step], seconds: float) -> list[Load]:
    """Each caller in a thread of its own, call after call for so long."""
    start = threading.Barrier(len(steps), timeout=_BOUND)

    def work(step: Step) -> Load:
        start.wait()
        return _repeat(step, lambda passed: passed < seconds)

    with ThreadPoolExecutor(len(steps)) as threads:
        return list(threads.map(work, steps))


def beside(work: Callable[[], Any], steps: Sequence[Step]) -> tuple[float, Load]:
    """The seconds of one call, and what callers in threads did from its start to its end."""
    began, ended = threading.Event(), threading.Event()

    def caller(step: Step) -> Load:
        began.wait(_BOUND)
        return _repeat(step, lambda _: not ended.is_set())

    with ThreadPoolExecutor(max(len(steps), 1)) as threads:
        loads = [threads.submit(caller, step) for step in steps]
        began.set()
        started = time.perf_counter()
        try:
            work()
        finally:
            ended.set()
        seconds = time.perf_counter() - started
        return seconds, together([load.result() for load in loads])


async def by_tasks(steps: Sequence[AsyncStep], seconds: float) -> list[Load]:
    """Each caller as a task of this event loop."""

    async def work(step: AsyncStep) -> Load:
        load = Load()
        began = ended = time.perf_counter()
        while ended - began < seconds:
            kind = await step()
            now = time.perf_counter()
            load.taken[kind].append(now - ended)
            ended = now
        load.seconds = ended - began
        return load

    return await asyncio.gather(*map(work, steps))


def _repeat(step: Step, goes_on: Callable[[float], bool]) -> Load:
    load = Load()
    began = ended = time.perf_counter()
    while goes_on(ended - began):
        kind = step()
        now = time.perf_counter()
        load.taken[kind].append(now - ended)
        ended = now
    load.seconds = ended - began
    return load
