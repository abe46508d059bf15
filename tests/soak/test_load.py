"""Four processes with eight threads each, while processes and sessions are killed: nothing is lost,
no error reaches a caller of `run()`, and nothing grows."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import psycopg
import pytest

from prefect_db import Backend, connect, flow_runs, flows, states
from prefect_db.testing import end_process, judge, postgres_cluster, start_process
from tests.faults import until
from tests.faults.postgres import PARTS, TABLE, found, sessions
from tests.faults.report import RecordFault
from tests.soak.load import THREADS, work

_PROCESSES: Final = 4
_RUNS: Final = 200
# Seconds: how long each engine is under load if --soak does not say, and between two kills.
_SECONDS: Final = 30.0
_BETWEEN: Final = (0.5, 2.0)
_MEBIBYTE: Final = 2**20
# Mebibytes. A writer waits for a moment to begin anew at 16, unless it has looked just before.
_LARGEST_WAL: Final = 48
# What a process may hold more at the end than after it has warmed up: mebibytes, as SQLite keeps
# up to 2 of pages for each of its six connections; and blocks of Python's, for what psycopg finds
# out once, where one more for each operation would be thousands.
_MEMORY: Final = 12
_BLOCKS: Final = 1500


@pytest.fixture
def seconds(pytestconfig: pytest.Config) -> float:
    minutes = pytestconfig.getoption("--soak")
    return _SECONDS if minutes is None else 60.0 * float(minutes)


@pytest.fixture
def url(backend_name: str, tmp_path: Path) -> Iterator[str]:
    """A database whose commits survive the death of a process."""
    if backend_name == "sqlite":
        yield f"sqlite:///{tmp_path}/load.db"
    else:
        with postgres_cluster({"synchronous_commit": "on"}) as server:
            yield server.url


@pytest.fixture
def admin(backend_name: str, url: str) -> Iterator[psycopg.Connection[Any] | None]:
    """A session besides the load's; nobody else may have one, before or after."""
    if backend_name == "sqlite":
        yield None
        return
    with psycopg.connect(url, autocommit=True) as admin:
        # That which looked whether the server has started.
        until(lambda: sessions(admin) == set())
        yield admin
        # The server ends that of a client that was killed when it has ended its statement.
        until(lambda: sessions(admin) == set())


class _Load:
    """The processes; some are killed, and others take their places."""

    def __init__(self, url: str, folder: Path) -> None:
        self.largest_wal = 0.0
        self.killed_processes = self.killed_sessions = 0
        self._url = url
        self._folder = folder
        self._started = 0
        self._processes = [self._start() for _ in range(_PROCESSES)]

    def _start(self) -> subprocess.Popen[str]:
        self._started += 1
        process = start_process(work, self._url, f"{self._folder}/ledger-{self._started}", "0.001")
        assert process.stdout is not None
        ready = process.stdout.readline()
        assert ready == "ready\n", process.communicate()[1]
        return process

    def kill_process(self) -> None:
        """Any but the first, which is to tell at the end what it holds then."""
        place = random.randrange(1, _PROCESSES)
        self._processes[place].kill()
        self._processes[place].communicate()
        self._processes[place] = self._start()
        self.killed_processes += 1

    def kill_session(self, admin: psycopg.Connection[Any]) -> None:
        pid = random.choice(list(sessions(admin)))
        admin.execute("SELECT pg_terminate_backend(%s)", (pid,))
        self.killed_sessions += 1

    def note_wal(self) -> None:
        wal = self._folder / "load.db-wal"
        if wal.exists():
            self.largest_wal = max(self.largest_wal, wal.stat().st_size / _MEBIBYTE)

    def end(self) -> list[dict[str, Any]]:
        """What they report."""
        for process in self._processes:
            process.send_signal(signal.SIGTERM)
        return [json.loads(end_process(process)) for process in self._processes]

    def close(self) -> None:
        for process in self._processes:
            process.kill()
            process.communicate()


@pytest.mark.timeout(0)
def test_nothing_is_lost_and_nothing_grows(
    url: str,
    admin: psycopg.Connection[Any] | None,
    seconds: float,
    tmp_path: Path,
    record_fault: RecordFault,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with connect(url) as db, ExitStack() as stack:
        db.execute(TABLE)
        flow = flows.create(db, "load")
        for _ in range(_RUNS):
            flow_runs.create(db, flow.id, state=states.pending())
        load = _Load(url, tmp_path)
        stack.callback(load.close)
        _kill_now_and_then(admin, load, seconds)
        reports = load.end()
        verdict = judge(tmp_path.glob("ledger-*"), found(db), parts=PARTS)
        record_fault(
            "processes and sessions killed under load",
            times=load.killed_processes + load.killed_sessions,
            verdict=verdict,
        )
        _check_sound(db)
    with capsys.disabled():
        _print(db, seconds, load, reports)
    for report in reports:
        assert report["errors"] == [], "\n".join(report["errors"])
        assert (report["in_use"], report["waiting"]) == (0, 0)
        assert report["size"] <= THREADS + 2
        assert report["files after"] == report["files before"]
        for name, bound in (("memory", _MEMORY), ("blocks", _BLOCKS)):
            warm, held = report[name]
            assert held - warm < bound, name
    assert load.largest_wal < _LARGEST_WAL


def _kill_now_and_then(admin: psycopg.Connection[Any] | None, load: _Load, seconds: float) -> None:
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        next_kill = time.monotonic() + random.uniform(*_BETWEEN)
        while time.monotonic() < next_kill:
            load.note_wal()
            time.sleep(0.05)
        if admin is not None and random.random() < 0.7:
            load.kill_session(admin)
        else:
            load.kill_process()


def _check_sound(db: Backend) -> None:
    if db.dialect.name == "sqlite":
        assert db.value("PRAGMA integrity_check") == "ok"
        assert len(db.rows("PRAGMA foreign_key_check")) == 0
        return
    db.execute("CREATE EXTENSION amcheck")
    for relation in db.rows(
        "SELECT c.oid, a.amname, c.relkind FROM pg_class AS c JOIN pg_am AS a ON a.oid = c.relam"
        " WHERE c.relpersistence = 'p' AND (c.relkind IN ('r', 't') OR a.amname = 'btree')"
    ):
        oid = relation["oid"]
        if relation["amname"] == "btree":
            db.rows("SELECT bt_index_check(CAST(? AS oid), true)", (oid,))
        else:
            assert len(db.rows("SELECT * FROM verify_heapam(CAST(? AS oid))", (oid,))) == 0


def _print(db: Backend, seconds: float, load: _Load, reports: list[dict[str, Any]]) -> None:
    print(f"\n{db.dialect.name}: {seconds:g} s, {_PROCESSES} processes of {THREADS} threads")
    print(
        f"  killed: {load.killed_processes} processes, {load.killed_sessions} sessions;"
        f" largest WAL of SQLite: {load.largest_wal:.1f} MiB"
    )
    for report in reports:
        (memory, more), (blocks, now) = report["memory"], report["blocks"]
        print(
            f"  {report['reads']} reads, {report['writes']} writes, {report['doubts']} unknown;"
            f" after it is warm, memory {memory} -> {more} MiB, Python's blocks"
            f" {blocks:,} -> {now:,} in {report['operations']} operations;"
            f" connections {report['size']}, of which lost and replaced {report['broken']};"
            f" open files {report['files before']} -> {report['files after']}"
        )
