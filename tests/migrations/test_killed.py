"""A process that is killed or told to end, anywhere in a migration or a write, leaves all of it or
nothing."""

from __future__ import annotations

import itertools
import random
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Final
from uuid import UUID

import pytest

from prefect_db import Backend, Dirty, connect, events, migrate
from tests.faults import kill, raise_on_signals, start_process, stop_before
from tests.faults.report import RecordFault
from tests.migrations import add, watched
from tests.migrations.catalogue import catalogue

_BATCH: Final = 1000
_RELATED: Final = 2


# The last two are those of Ctrl-C, which raises, and of whoever ends services.
every_signal = pytest.mark.parametrize(
    "number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM], ids=["KILL", "INT", "TERM"]
)


def migrate_and_stop(url: str, folder: str, text: str) -> None:
    # Who starts the tests in the background may have had SIGINT ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with watched(url, stop_before(text)) as db:
        migrate(db, directory=folder, owner="app")


def connect_and_stop(url: str, text: str) -> None:
    watched(url, stop_before(text), migrate=True).close()


class TestMigration:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        folder = tmp_path / "migrations"
        add(folder, "001_a", "CREATE TABLE a (n integer); INSERT INTO a (n) VALUES (1)")
        return folder

    @pytest.fixture
    def db(self, url: str, folder: Path) -> Iterator[Backend]:
        with connect(url, migrate=False) as db:
            migrate(db, directory=folder, owner="app")
            yield db

    @every_signal
    @pytest.mark.parametrize(
        "place",
        [
            "BEGIN",
            "CREATE TABLE b",
            "UPDATE a",
            "ALTER TABLE a",
            "INSERT INTO _migrations",
            "COMMIT",
        ],
    )
    def test_nothing_of_it_is_left_and_it_then_applies(
        self,
        url: str,
        db: Backend,
        folder: Path,
        place: str,
        number: signal.Signals,
        record_fault: RecordFault,
    ) -> None:
        before = catalogue(db)
        add(
            folder,
            "002_b",
            "CREATE TABLE b (n integer); UPDATE a SET n = 2; ALTER TABLE a ADD COLUMN t text",
        )
        migrating = start_process(migrate_and_stop, url, str(folder), place)
        assert kill(migrating, place, number=number) == -number
        assert catalogue(db) == before
        assert db.value("SELECT n FROM a") == 1
        assert _recorded(db) == {"app/001_a"}
        assert migrate(db, directory=folder, owner="app") == ["app/002_b"]
        _check_integrity(db)
        record_fault(f"{number.name} in a migration")

    def test_it_is_whole_after_the_commit(
        self, url: str, db: Backend, folder: Path, record_fault: RecordFault
    ) -> None:
        add(folder, "002_b", "CREATE TABLE b (n integer); UPDATE a SET n = 2")
        kill(start_process(migrate_and_stop, url, str(folder), "committed"), "committed")
        assert migrate(db, directory=folder, owner="app") == []
        assert db.value("SELECT n FROM a") == 2
        record_fault("SIGKILL in a migration")

    def test_it_is_whole_on_an_empty_database_or_is_not(
        self, url: str, folder: Path, record_fault: RecordFault
    ) -> None:
        kill(start_process(migrate_and_stop, url, str(folder), "INSERT INTO a"), "INSERT INTO a")
        with connect(url, migrate=False) as db:
            assert catalogue(db) == {}
        record_fault("SIGKILL in a migration")

    def test_a_first_start_is_whole_or_is_not(
        self, url: str, folder: Path, record_fault: RecordFault
    ) -> None:
        kill(start_process(connect_and_stop, url, "CREATE TABLE log"), "CREATE TABLE log")
        with connect(url, migrate=False) as db:
            assert catalogue(db) == {}
        with connect(url) as db:
            assert "log" in catalogue(db)
        record_fault("SIGKILL in a first start")

    @every_signal
    @pytest.mark.parametrize("place", ["EXISTS b", "UPDATE a", "INSERT INTO _migrations"])
    def test_one_outside_a_transaction_is_marked(
        self,
        url: str,
        db: Backend,
        folder: Path,
        place: str,
        number: signal.Signals,
        record_fault: RecordFault,
    ) -> None:
        script = "CREATE TABLE IF NOT EXISTS b (n integer); UPDATE a SET n = 2"
        add(folder, "002_b", f"-- no-transaction\n{script}")
        migrating = start_process(mark_and_stop, url, str(folder), place)
        assert kill(migrating, place, number=number) == -number
        with pytest.raises(Dirty, match=r"002_b/\w+\.sql"):
            migrate(db, directory=folder, owner="app", lock_timeout=0.1)
        db.execute("DELETE FROM _migrations WHERE id = 'app/002_b'")
        assert migrate(db, directory=folder, owner="app") == ["app/002_b"]
        assert db.value("SELECT n FROM a") == 2
        record_fault(f"{number.name} in a migration outside a transaction")


def mark_and_stop(url: str, folder: str, text: str) -> None:
    """As above, but only once the mark is made."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    stop = stop_before(text)
    marked = threading.Event()

    def watch(sql: str) -> None:
        if sql == "committed":
            marked.set()
        elif marked.is_set():
            stop(sql)

    with watched(url, watch) as db:
        migrate(db, directory=folder, owner="app")


def _recorded(db: Backend) -> set[str]:
    return {row["id"] for row in db.rows("SELECT id FROM _migrations")}


def _check_integrity(db: Backend) -> None:
    if db.dialect.name == "sqlite":
        assert db.value("PRAGMA integrity_check") == "ok"


def batch(number: int) -> list[events.Event]:
    """A thousand events that are the same in every process."""
    return [
        events.make(
            "killed.event",
            {"prefect.resource.id": f"resource.{id}"},
            occurred=datetime(2026, 1, 1, tzinfo=UTC),
            related=[
                {"prefect.resource.id": f"related.{n}", "prefect.resource.role": "role"}
                for n in range(_RELATED)
            ],
            payload={"text": "x" * 100},
            id=UUID(int=id),
        )
        for id in range(number * _BATCH, (number + 1) * _BATCH)
    ]


def write_and_stop(url: str, text: str) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with watched(url, stop_before(text)) as db:
        events.write(db, batch(0))


def write_on_and_on(url: str) -> None:
    """Tells each time when a batch is written."""
    told = raise_on_signals()
    with connect(url, migrate=False) as db:
        for number in itertools.takewhile(lambda _: not told.is_set(), range(1000)):
            events.write(db, batch(number))
            print(number, flush=True)


class TestWrite:
    @pytest.fixture
    def url(self, url: str) -> str:
        connect(url).close()
        return url

    @pytest.mark.parametrize(
        "place", ["BEGIN", "INSERT INTO events", "INSERT INTO event_resources", "COMMIT"]
    )
    def test_nothing_of_it_is_left_and_it_can_be_written(
        self, url: str, place: str, record_fault: RecordFault
    ) -> None:
        kill(start_process(write_and_stop, url, place), place)
        with _whole(url) as db:
            assert events.count(db) == 0
            assert events.write(db, batch(0)) == _BATCH
        with _whole(url):
            pass
        record_fault("SIGKILL in a write of a thousand events", acknowledged=0)

    def test_all_of_it_is_there_after_the_commit(self, url: str) -> None:
        kill(start_process(write_and_stop, url, "committed"), "committed")
        with _whole(url) as db:
            assert events.count(db) == _BATCH
            assert events.write(db, batch(0)) == 0

    @every_signal
    @pytest.mark.parametrize("round", range(3))
    def test_at_any_moment(
        self, url: str, round: int, number: signal.Signals, record_fault: RecordFault
    ) -> None:
        process = start_process(write_on_and_on, url)
        kill(process, "0", after=random.uniform(0, 0.5), number=number)
        with _whole(url) as db:
            written, rest = divmod(events.count(db), _BATCH)
            record_fault(
                f"{number.name} in a write of a thousand events",
                acknowledged=1,
                lost=int(written < 1),
            )
            assert rest == 0
            assert events.write(db, batch(written)) == _BATCH
            assert events.write(db, batch(written - 1)) == 0
        with _whole(url):
            pass


@contextmanager
def _whole(url: str) -> Iterator[Backend]:
    """The database after a restart: each event has its resources, and each resource its event."""
    with connect(url) as db:
        _check_integrity(db)
        wrong = db.rows(
            "SELECT e.id FROM events AS e LEFT JOIN event_resources AS r ON r.event_id = e.id"
            " GROUP BY e.id HAVING count(r.id) <> ?",
            (1 + _RELATED,),
        )
        assert len(wrong) == 0
        orphans = (
            "SELECT count(*) FROM event_resources WHERE event_id NOT IN (SELECT id FROM events)"
        )
        assert db.value(orphans) == 0
        yield db
