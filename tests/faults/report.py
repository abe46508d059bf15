"""The table at the end of a run of faults, and `record_fault`, by which a test adds to it.

    def test_a_killed_session(db: Backend, record_fault: RecordFault) -> None:
        ...
        record_fault("session killed in COMMIT", times=3, verdict=judge(...), recovery=0.4)

Records of one fault on one backend are added up; of their recovery times the longest is shown. A
record of a write that is lost, halved or duplicated fails its test, after it got into the table: so
it comes before what a test asserts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Final, Protocol

import pytest

from prefect_db.testing import Verdict


def compare(acknowledged: Iterable[Hashable], found: Iterable[Hashable]) -> Verdict:
    """What became of writes without a ledger, all of which were acknowledged: their keys, and
    those that are there."""
    saved, there = Counter(acknowledged), Counter(found)
    return Verdict(
        acknowledged=saved.total(),
        lost=[str(key) for key in (saved - there).elements()],
        duplicated=[str(key) for key in (there - saved).elements() if key in saved],
        unknown=[str(key) for key in there if key not in saved],
    )


class RecordFault(Protocol):
    """What the fixture `record_fault` is."""

    def __call__(
        self,
        fault: str,
        *,
        times: int = 1,
        acknowledged: int | None = None,
        lost: int = 0,
        duplicated: int = 0,
        verdict: Verdict | None = None,
        recovery: float | None = None,
    ) -> None:
        """Add to the table.

        Args:
            fault: What was done, in a few words; the backend's name is added.
            times: How often.
            acknowledged: Writes that the library said are saved; None if it is no matter of
                writes.
            lost: Those of them that were not there afterwards.
            duplicated: Writes that were there more than once.
            verdict: Has the last three, of a ledger.
            recovery: Seconds from the fault until work succeeded again.
        """


@dataclass(slots=True)
class _Record:
    times: int = 0
    acknowledged: int | None = None
    lost: int = 0
    duplicated: int = 0
    recovery: float | None = None

    def cells(self) -> list[str]:
        writes = self.acknowledged is not None or self.lost or self.duplicated
        return [
            str(self.times),
            str(self.acknowledged or 0) if writes else "-",
            str(self.lost) if writes else "-",
            str(self.duplicated) if writes else "-",
            "-" if self.recovery is None else f"{self.recovery:.2f} s",
        ]


_HEADINGS: Final = ["fault", "times", "acknowledged", "lost", "duplicated", "recovery"]


@dataclass(slots=True)
class Table:
    """All that was recorded, by backend and fault."""

    records: dict[tuple[str, str], _Record] = field(default_factory=dict)

    def record(
        self,
        backend: str,
        fault: str,
        *,
        times: int = 1,
        acknowledged: int | None = None,
        lost: int = 0,
        duplicated: int = 0,
        verdict: Verdict | None = None,
        recovery: float | None = None,
    ) -> None:
        """Add to the table; see `RecordFault`."""
        if verdict is not None:
            acknowledged = verdict.acknowledged
            lost, duplicated = len(verdict.lost), len(verdict.duplicated)
        found = self.records.setdefault((backend, fault), _Record())
        found.times += times
        if acknowledged is not None:
            found.acknowledged = (found.acknowledged or 0) + acknowledged
        found.lost += lost
        found.duplicated += duplicated
        if recovery is not None:
            found.recovery = max(recovery, found.recovery or 0.0)
        assert verdict is None or verdict.sound, f"{fault}: {verdict}"
        assert (lost, duplicated) == (0, 0), f"{fault}: {lost} lost, {duplicated} duplicated"

    def lines(self) -> Iterator[str]:
        """The table, in columns."""
        rows = [_HEADINGS]
        for (backend, fault), record in sorted(self.records.items()):
            rows.append([f"{backend}: {fault}" if backend else fault, *record.cells()])
        widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADINGS))]
        for first, *rest in rows:
            numbers = (cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True))
            yield "  ".join([first.ljust(widths[0]), *numbers])


_TABLE: Final = pytest.StashKey[Table]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--soak",
        type=float,
        metavar="MINUTES",
        help="how long each load test of tests/soak runs; half a minute if not given",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_TABLE] = Table()


@pytest.fixture
def record_fault(request: pytest.FixtureRequest) -> RecordFault:
    """Adds a fault to the table at the end of the run; see `RecordFault`."""
    backend = str(dict(request.node.user_properties).get("backend") or "")
    return partial(request.config.stash[_TABLE].record, backend)


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    table = config.stash[_TABLE]
    if table.records:
        terminalreporter.section("faults")
        for line in table.lines():
            terminalreporter.line(line)
