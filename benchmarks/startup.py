"""A process that imports prefect_db and opens a SQLite file, against one that only imports what
any such program needs of the standard library."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable

from benchmarks.harness import Line, Place, Section, Target, interleaved
from prefect_db import connect

_OURS = "import sys, prefect_db; prefect_db.connect(sys.argv[1]).close()"
_STANDARD = "import sqlite3, json, uuid, datetime"


def run(place: Place) -> list[Section]:
    """The section; nothing on PostgreSQL, where a server's answer is what takes the time."""
    if place.backend == "postgres":
        return []
    url = place.new_url()
    connect(url).close()
    contestants: dict[str, Callable[[], None]] = {
        "prefect_db": lambda: _run(_OURS, url),
        "standard library": lambda: _run(_STANDARD, url),
        "python alone": lambda: _run("", url),
    }
    for call in contestants.values():
        call()
    samples = interleaved(contestants, rounds=5 if place.quick else 60, calls=1, scale=1e3)
    line = Line("import, open an existing file, close", samples)
    limit = 1.3 * line.median("standard library") + 60
    return [
        Section(
            "startup",
            "A whole process",
            place.backend,
            "ms",
            [line],
            [Target("prefect_db", line.median("prefect_db"), round(limit), unit="ms")],
            ["the limit is 1.3 times the standard library's and 60 ms"],
        )
    ]


def _run(code: str, url: str) -> None:
    # The first run keeps the bytecode, as an installation does.
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    subprocess.run([sys.executable, "-c", code, url], check=True, env=environment)
