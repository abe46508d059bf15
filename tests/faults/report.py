"""The table at the end of a run of faults, and `record_fault`, by which a test adds to it.

    def test_a_killed_session(db: Backend, record_fault: RecordFault) -> None:
        ...
        record_fault("session killed in COMMIT", times=3, acknowledged=120, recovery=0.4)

Records of one fault on one backend are added up; of their recovery times the longest is shown. A
record of a write that is lost or duplicated fails its test, after it got into the table.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Protocol

import pytest


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
        writes = self.acknowledged is not None
        return [
            str(self.times),
            str(self.acknowledged) if writes else "-",
            str(self.lost) if writes else "-",
            str(self.duplicated) if writes else "-",
            "-" if self.recovery is None else f"{self.recovery:.2f} s",
        ]


_RECORDS: Final = pytest.StashKey[dict[tuple[str, str], _Record]]()
_HEADINGS: Final = ["fault", "times", "acknowledged", "lost", "duplicated", "recovery"]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--soak",
        type=float,
        metavar="MINUTES",
        help="how long each load test of tests/soak runs; half a minute if not given",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_RECORDS] = {}


@pytest.fixture
def record_fault(request: pytest.FixtureRequest) -> RecordFault:
    """Adds a fault to the table at the end of the run; see `RecordFault`."""
    backend = str(dict(request.node.user_properties).get("backend") or "")
    records = request.config.stash[_RECORDS]

    def record(
        fault: str,
        *,
        times: int = 1,
        acknowledged: int | None = None,
        lost: int = 0,
        duplicated: int = 0,
        recovery: float | None = None,
    ) -> None:
        found = records.setdefault((backend, fault), _Record())
        found.times += times
        if acknowledged is not None:
            found.acknowledged = (found.acknowledged or 0) + acknowledged
        found.lost += lost
        found.duplicated += duplicated
        if recovery is not None:
            found.recovery = max(recovery, found.recovery or 0.0)
        assert (lost, duplicated) == (0, 0), f"{fault}: {lost} lost, {duplicated} duplicated"

    return record


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    records = config.stash[_RECORDS]
    if records:
        terminalreporter.section("faults")
        for line in _table(records):
            terminalreporter.line(line)


def _table(records: dict[tuple[str, str], _Record]) -> Iterator[str]:
    rows = [_HEADINGS]
    for (backend, fault), record in sorted(records.items()):
        rows.append([f"{backend}: {fault}" if backend else fault, *record.cells()])
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADINGS))]
    for row in rows:
        first, *rest = (cell for cell in row)
        numbers = (cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True))
        yield "  ".join([first.ljust(widths[0]), *numbers])
