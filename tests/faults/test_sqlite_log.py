"""SQLite's write-ahead log under readers of whom there is always one."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import pytest

from prefect_db import connect
from tests.faults import BOUND
from tests.faults.report import RecordFault

pytestmark = pytest.mark.only("sqlite", "PostgreSQL's log does not wait for readers")

_MEBIBYTE: Final = 2**20
_WRITES: Final = 400


def test_it_is_begun_anew_though_somebody_always_reads(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record_fault: RecordFault
) -> None:
    monkeypatch.setattr("prefect_db.drivers.sqlite._LARGE_WAL", _MEBIBYTE)
    monkeypatch.setattr("prefect_db.drivers.sqlite._WAL_INTERVAL", 0.0)
    done = threading.Event()
    with connect(url, migrate=False) as db, ThreadPoolExecutor(1) as threads:
        db.execute("CREATE TABLE item (id bigint NOT NULL, body text NOT NULL)")

        def read() -> int:
            """Each begins before the one before it ends."""
            times = 0
            with ExitStack() as before:
                while not done.is_set():
                    with ExitStack() as now:
                        txn = now.enter_context(db.transaction(read_only=True))
                        assert txn.value("SELECT count(*) FROM item") >= 0
                        before.close()
                        before.push(now.pop_all())
                    times += 1
            return times

        reading = threads.submit(read)
        sizes = []
        try:
            for number in range(_WRITES):
                db.execute("INSERT INTO item VALUES (?, ?)", (number, "x" * (_MEBIBYTE // 20)))
                sizes.append((tmp_path / "test.db-wal").stat().st_size / _MEBIBYTE)
        finally:
            done.set()
        assert reading.result(BOUND) > 10
        assert db.value("SELECT count(*) FROM item") == _WRITES
    assert max(sizes) < _WRITES / 20 / 2
    record_fault("readers without a pause", acknowledged=_WRITES)


def test_it_is_tried_again_while_another_is_in_the_way(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As another process is that copies from the log just then, after each of its commits."""
    monkeypatch.setattr("prefect_db.drivers.sqlite._LARGE_WAL", 0)
    monkeypatch.setattr("prefect_db.drivers.sqlite._WAL_INTERVAL", 0.0)
    monkeypatch.setattr("prefect_db.drivers.sqlite._WAL_PATIENCE", BOUND)
    attempts = 0
    with connect(url, migrate=False) as db, ExitStack() as reading:
        db.execute("CREATE TABLE item (id bigint NOT NULL)")
        # The connection that writes.
        with db.connection() as native:
            native.execute("INSERT INTO item VALUES (1)")
            txn = reading.enter_context(db.transaction(read_only=True))
            assert txn.value("SELECT count(*) FROM item") == 1

            def note(sql: str) -> None:
                nonlocal attempts
                if "wal_checkpoint" in sql:
                    attempts += 1
                    if attempts == 3:
                        reading.close()

            native.set_trace_callback(note)
        native.set_trace_callback(None)
        assert attempts == 3
        assert (tmp_path / "test.db-wal").stat().st_size == 0
