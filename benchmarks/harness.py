"""What all benchmarks share: a place to run in, interleaved rounds, and what a section gives."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

K = TypeVar("K")

BackendName = Literal["sqlite", "postgres"]


class WrongResult(Exception):
    """A contestant did not do what the others did: there is nothing to measure."""


@dataclass(slots=True)
class Place:
    """Where a section runs.

    Attributes:
        backend: The engine.
        quick: Smaller sizes and fewer rounds: to see that it works, not to measure.
        new_url: Makes an empty database, removed with the place, and gives its URL.
    """

    backend: BackendName
    quick: bool
    new_url: Callable[[], str]


@dataclass(slots=True)
class Line:
    """One line of a table.

    Attributes:
        what: What was measured.
        samples: The samples of each contestant, one for each round.
    """

    what: str
    samples: dict[str, list[float]]

    def median(self, contestant: str) -> float:
        """The median of a contestant's samples."""
        return statistics.median(self.samples[contestant])

    def spread(self, contestant: str) -> tuple[float, float]:
        """Between which a contestant's samples lie, but for a tenth at each end."""
        samples = self.samples[contestant]
        if len(samples) < 2:
            return samples[0], samples[0]
        tenths = statistics.quantiles(samples, n=10, method="inclusive")
        return tenths[0], tenths[-1]

    def ratio(self, contestant: str, other: str) -> float:
        """The median, over the rounds, of the first's sample by the second's.

        Samples of one round were taken one after the other: what slowed the machine for a while
        slowed both.
        """
        pairs = zip(self.samples[contestant], self.samples[other], strict=True)
        return statistics.median(a / b for a, b in pairs)


@dataclass(slots=True)
class Target:
    """A promise: a figure with its limit."""

    what: str
    figure: float
    limit: float
    at_most: bool = True
    unit: str = "x"

    @property
    def met(self) -> bool:
        """True if the promise is kept."""
        return self.figure <= self.limit if self.at_most else self.figure >= self.limit


@dataclass(slots=True)
class Section:
    """One part of the report: a table, a chart, and the targets that it shows to be met or not.

    Attributes:
        name: A word, for file names.
        title: A line.
        backend: The engine.
        unit: That of the samples: `us`, `ms`, `1/s`.
        lines: The table.
        targets: The promises.
        notes: What a reader must know besides.
    """

    name: str
    title: str
    backend: BackendName
    unit: str
    lines: list[Line] = field(default_factory=list)
    targets: list[Target] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def turns(contestants: Iterable[K], rounds: int) -> Iterator[list[K]]:
    """In each round all contestants, in an order by lot, and in the next one the other way round:
    nobody always comes after the same one, whose work it would find in the processor's caches. The
    lots are the same in each run."""
    chance = random.Random(0)
    names = list(contestants)
    for number in range(rounds):
        if number % 2:
            names.reverse()
        else:
            chance.shuffle(names)
        yield names.copy()


def interleaved(
    contestants: Mapping[str, Callable[[], Any]], *, rounds: int, calls: int, scale: float = 1e6
) -> dict[str, list[float]]:
    """The time of a call of each contestant, one sample for each round.

    Args:
        contestants: What to call; each has been called before, and its result checked.
        rounds: How often all take their turn.
        calls: Calls in a turn; a sample is their mean.
        scale: Units in a second.
    """
    samples: dict[str, list[float]] = {name: [] for name in contestants}
    for names in turns(contestants, rounds):
        for name in names:
            call = contestants[name]
            began = time.perf_counter()
            for _ in range(calls):
                call()
            samples[name].append((time.perf_counter() - began) / calls * scale)
    return samples
