"""Eight processes that start at the same moment: no error, one schema, each migration once."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from prefect_db import Backend, connect, migrate
from prefect_db.testing import create_database
from tests.faults import BOUND
from tests.faults.report import RecordFault
from tests.migrations import add
from tests.migrations.catalogue import catalogue

_PROCESSES: Final = 8
# Seconds in which all of them have surely read when they shall begin.
_NOTICE: Final = 0.02

Fresh = Callable[[], AbstractContextManager[str]]


def start_when_told() -> None:
    """What each process does: for each line of its input, connect to a database at a moment."""
    for line in sys.stdin:
        task = json.loads(line)
        time.sleep(max(0.0, task["at"] - time.monotonic()))
        answer: dict[str, Any] = {}
        try:
            with connect(task["url"]) as db:
                if task["folder"]:
                    answer["applied"] = migrate(db, directory=task["folder"], owner="app")
        except Exception:  # noqa: BLE001
            answer["error"] = traceback.format_exc()
        print(json.dumps(answer), flush=True)


class Starters:
    """The processes, ready to start and used again for each round."""

    def __init__(self) -> None:
        program = f"from {__name__} import start_when_told; start_when_told()"
        self._processes = [
            subprocess.Popen(
                [sys.executable, "-c", program],
                cwd=Path(__file__).parents[2],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for _ in range(_PROCESSES)
        ]

    def start(self, url: str, folder: Path | None = None) -> list[str]:
        """The migrations of this folder's host that were applied, by all processes together."""
        at = time.monotonic() + _NOTICE
        task = json.dumps({"url": url, "folder": folder and str(folder), "at": at})
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.write(f"{task}\n")
            process.stdin.flush()
        answers = []
        for process in self._processes:
            assert process.stdout is not None
            answers.append(json.loads(process.stdout.readline()))
        assert [answer["error"] for answer in answers if "error" in answer] == []
        return sorted(id for answer in answers for id in answer.get("applied", []))

    def end(self) -> None:
        for process in self._processes:
            # Ends its input, and so the process.
            process.communicate(timeout=BOUND)


@pytest.fixture(scope="module")
def starters() -> Iterator[Starters]:
    starters = Starters()
    yield starters
    starters.end()


@pytest.fixture
def fresh(backend_name: str, request: pytest.FixtureRequest, tmp_path: Path) -> Fresh:
    """Makes an empty database."""

    @contextmanager
    def make() -> Iterator[str]:
        if backend_name == "sqlite":
            path = tmp_path / "fresh.db"
            yield f"sqlite:///{path}"
            for file in tmp_path.glob("fresh.db*"):
                file.unlink()
        else:
            with create_database(request.getfixturevalue("postgres_url")) as url:
                yield url

    return make


def test_eight_processes_on_an_empty_database(
    db: Backend, fresh: Fresh, starters: Starters, record_fault: RecordFault
) -> None:
    expected = catalogue(db), _recorded(db)
    rounds = 20
    for _ in range(rounds):
        with fresh() as url:
            starters.start(url)
            with connect(url) as started:
                assert (catalogue(started), _recorded(started)) == expected
    record_fault("eight processes start on an empty database", times=rounds)


def test_each_migration_is_applied_by_one_of_them(
    fresh: Fresh, starters: Starters, tmp_path: Path, record_fault: RecordFault
) -> None:
    """One makes an index beside writers: it waits for whoever looks at the database."""
    folder = tmp_path / "migrations"
    add(folder, "001_item", "CREATE TABLE item (n integer)")
    add(
        folder,
        "002_index",
        "-- no-transaction\nCREATE INDEX item__n ON item (n)",
        "-- no-transaction\nCREATE INDEX CONCURRENTLY item__n ON item (n)",
    )
    add(folder, "003_row", "INSERT INTO item (n) VALUES (1)")
    rounds = 5
    for _ in range(rounds):
        with fresh() as url:
            applied = starters.start(url, folder)
            assert applied == ["app/001_item", "app/002_index", "app/003_row"]
            with connect(url) as started:
                assert started.value("SELECT count(*) FROM item") == 1
                (index,) = [each for each in catalogue(started)["item"] if "INDEX" in each]
                assert not index.endswith("invalid")
    record_fault("eight processes migrate, also concurrently", times=rounds)


def _recorded(db: Backend) -> list[tuple[str, str]]:
    rows = db.rows("SELECT id, checksum FROM _migrations WHERE applied_at IS NOT NULL ORDER BY id")
    return [(row["id"], row["checksum"]) for row in rows]
