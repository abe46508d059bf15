"""A server that is not there yet when a Backend is to be opened."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Iterator
from typing import Final

import pytest

from prefect_db import Unavailable, aio, connect, observe
from prefect_db.testing import PostgresServer, postgres_cluster
from tests.faults import BOUND, kill, start_process, until
from tests.faults.report import RecordFault

pytestmark = pytest.mark.only("postgres", "SQLite has no server")

_FOREVER: Final = 10 * BOUND


class _Attempts(observe.Observer):
    """Counts those to connect."""

    def __init__(self) -> None:
        self.number = 0
        self.first = threading.Event()

    def start(self, event: observe.Event) -> None:
        if isinstance(event, observe.Connect):
            self.number += 1

    def end(self, event: observe.Event, context: object, outcome: observe.Outcome) -> None:
        if isinstance(event, observe.Connect):
            self.first.set()


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with postgres_cluster() as server:
        yield server


@pytest.fixture
def absent(server: PostgresServer) -> PostgresServer:
    server.stop()
    return server


def test_without_the_option_it_is_told_at_once(absent: PostgresServer) -> None:
    attempts = _Attempts()
    with pytest.raises(Unavailable, match="check the URL and the server"):
        connect(absent.url, migrate=False, observer=attempts)
    assert attempts.number == 1


def test_it_is_waited_for(absent: PostgresServer, record_fault: RecordFault) -> None:
    attempts = _Attempts()
    starting = threading.Timer(1.5, absent.start)
    starting.start()
    with connect(absent.url, start_timeout=BOUND, observer=attempts) as db:
        assert db.value("SELECT 1") == 1
    starting.join()
    assert attempts.number > 2
    record_fault("server absent at start, 1.5 s")


def test_one_that_does_not_come_is_told(absent: PostgresServer) -> None:
    attempts = _Attempts()
    with pytest.raises(Unavailable) as caught:
        connect(absent.url, start_timeout=0.3, observer=attempts)
    assert str(absent.folder) in str(caught.value)
    assert "check the URL and the server" in str(caught.value)
    assert attempts.number > 2


def _wait_for_it(url: str) -> None:
    print("begins", flush=True)
    connect(url, start_timeout=_FOREVER)


def test_a_signal_ends_the_wait(absent: PostgresServer) -> None:
    process = start_process(_wait_for_it, absent.url)
    assert kill(process, "begins", 0.3, signal.SIGINT) == -signal.SIGINT


def test_a_cancelled_task_ends_the_wait(absent: PostgresServer) -> None:
    attempts = _Attempts()

    async def wait_for_it() -> None:
        async with aio.connect(absent.url, start_timeout=_FOREVER, observer=attempts):
            pytest.fail("there is no server")

    async def main() -> None:
        waiting = asyncio.create_task(wait_for_it())
        await asyncio.to_thread(attempts.first.wait, BOUND)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(waiting, BOUND)

    before = set(threading.enumerate())
    asyncio.run(main())
    until(lambda: set(threading.enumerate()) <= before)
