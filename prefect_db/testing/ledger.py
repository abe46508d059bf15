"""A ledger of writes, kept outside the database, by which a test finds what was lost."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self


class Ledger:
    """An append-only file of one process or several, each line on disk before its call returns.

    For each write: `intend(key)`, the transaction, and `acknowledge(key)` once its commit has
    returned. A write whose process dies between the two, or whose commit ends in an error, may be
    there or not, but not in part. Threads may share it.
    """

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def intend(self, key: str) -> None:
        """Before the transaction. A key is one line of text, and used once."""
        self._append(f"? {key}\n")

    def acknowledge(self, key: str) -> None:
        """After the commit."""
        self._append(f"! {key}\n")

    def _append(self, line: str) -> None:
        # One call: lines of several writers are not mixed up.
        os.write(self._file, line.encode())
        os.fdatasync(self._file)

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


@dataclass(slots=True)
class Verdict:
    """What became of the writes of a ledger; each list has keys.

    Attributes:
        acknowledged: How many writes the database said are saved.
        lost: Acknowledged, and not there, or not all of it.
        halved: Not acknowledged, and there in part.
        duplicated: There more than once.
        unknown: There, and in no ledger.
    """

    acknowledged: int = 0
    lost: list[str] = field(default_factory=list)
    halved: list[str] = field(default_factory=list)
    duplicated: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)

    @property
    def sound(self) -> bool:
        """True if nothing is wrong."""
        return not (self.lost or self.halved or self.duplicated or self.unknown)


def judge(ledgers: Iterable[Path], found: Iterable[str], *, parts: int = 1) -> Verdict:
    """Compare what the database has with what ledgers say.

    Args:
        ledgers: The files.
        found: The key of each row that is there.
        parts: How many rows one write makes, all with its key. No constraint of the database
            should keep them unique, as a duplicate is to be seen.
    """
    intended: set[str] = set()
    acknowledged: set[str] = set()
    for ledger in ledgers:
        # A line that was cut short by a kill has no end, and is of a write that was not answered.
        for line in ledger.read_text().split("\n")[:-1]:
            (intended if line.startswith("? ") else acknowledged).add(line[2:])
    counts = Counter(found)
    return Verdict(
        acknowledged=len(acknowledged),
        lost=sorted(key for key in acknowledged if counts[key] < parts),
        halved=sorted(key for key in intended - acknowledged if 0 < counts[key] < parts),
        duplicated=sorted(key for key in intended | acknowledged if counts[key] > parts),
        unknown=sorted(counts.keys() - intended - acknowledged),
    )
