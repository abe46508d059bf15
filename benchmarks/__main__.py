"""`python -m benchmarks`: runs the sections, prints their tables, writes JSON and charts."""

from __future__ import annotations

import argparse
import importlib
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path
from typing import Final

from benchmarks import report
from benchmarks.harness import BackendName, Place, Section, WrongResult
from prefect_db.testing.server import create_database, postgres_server

# Each is a module with `run(place)`, imported when it is its turn.
SECTIONS: Final = {
    "operations": "benchmarks.operations",
    "startup": "benchmarks.startup",
    "observers": "benchmarks.observers",
    "concurrency": "benchmarks.concurrency",
    "server": "benchmarks.server",
    "growth": "benchmarks.growth",
    "indexes": "benchmarks.indexes",
}
BACKENDS: Final[dict[str, list[BackendName]]] = {
    "sqlite": ["sqlite"],
    "postgres": ["postgres"],
    "all": ["sqlite", "postgres"],
}
# A disk; the temporary folder may be in memory, where nothing is ever written through.
DISK: Final = "/var/tmp"
RESULTS: Final = Path(__file__).parent / "results"


def main() -> int:
    arguments = _arguments()
    # So that the servers and folders are gone then, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    wanted = [arguments.section] if arguments.section else list(SECTIONS)
    with tempfile.TemporaryDirectory(prefix="prefect-db-bench-", dir=DISK) as scratch:
        # Prefect keeps files there from its import on.
        os.environ["PREFECT_HOME"] = f"{scratch}/prefect"
        out = arguments.out or (Path(scratch) / "results" if arguments.quick else RESULTS)
        print(report.heading(), flush=True)
        for backend in BACKENDS[arguments.backend]:
            for name in wanted:
                try:
                    sections = _run(name, backend, arguments.quick, Path(scratch))
                except WrongResult as error:
                    print(f"{name} on {backend}: {error}", file=sys.stderr)
                    return 1
                for section in sections:
                    print(f"\n{report.table(section)}", flush=True)
                    report.write(section, out)
        if arguments.out or not arguments.quick:
            print(f"\nwritten to {out}")
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    parser.add_argument("backend", nargs="?", choices=list(BACKENDS), default="all")
    parser.add_argument("--quick", action="store_true", help="small sizes: to see that it works")
    parser.add_argument("--section", choices=list(SECTIONS), help="only this one")
    parser.add_argument("--out", type=Path, help="where JSON and charts go")
    return parser.parse_args()


def _run(name: str, backend: BackendName, quick: bool, scratch: Path) -> list[Section]:
    run: Callable[[Place], list[Section]] = importlib.import_module(SECTIONS[name]).run
    with _place(backend, quick, scratch) as place:
        return run(place)


@contextmanager
def _place(backend: BackendName, quick: bool, scratch: Path) -> Iterator[Place]:
    with ExitStack() as stack:
        if backend == "sqlite":
            folder = stack.enter_context(tempfile.TemporaryDirectory(dir=scratch))
            numbers = count(1)
            yield Place(backend, quick, lambda: f"sqlite:///{folder}/{next(numbers)}.db")
        else:
            server = stack.enter_context(postgres_server(durable=True))
            yield Place(backend, quick, lambda: stack.enter_context(create_database(server)))


if __name__ == "__main__":
    sys.exit(main())
