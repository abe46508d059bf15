"""Who is measured with many callers: each reads flow runs by id, and sets their states."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from random import Random
from typing import Any, Final, Protocol
from uuid import UUID

import psycopg
from psycopg_pool import ConnectionPool

from benchmarks.contestants import by_hand_postgres, by_hand_sqlite
from benchmarks.contestants.base import Change
from benchmarks.harness import WrongResult
from benchmarks.load import AsyncStep, Kind, Load, Step, by_tasks, by_threads
from prefect_db import Backend, aio, connect, flow_runs, flows, states
from prefect_db.flow_runs import FlowRun
from prefect_db.states import State, StateType

# Calls of a caller come in tens, so many of them writes.
READS: Final = 0
MIXED: Final = 1
WRITES: Final = 10

_WAIT: Final = 60.0
_FILLED: Final = 1000


class Callers(Protocol):
    """Callers of one way to work."""

    name: str

    def load(self, callers: int, writes: int, seconds: float) -> list[Load]:
        """What each of so many callers did, who write in so many of ten calls."""

    def close(self) -> None:
        """Close the database."""


def turns_of(run_ids: Sequence[UUID], writes: int) -> Iterator[tuple[Kind, UUID]]:
    """What a caller does, and to which run."""
    random = Random()
    # A read, then a write: a short load, too, has both.
    for number in count(9):
        yield "write" if number % 10 < writes else "read", random.choice(run_ids)


@dataclass(slots=True)
class Threads:
    """Callers in threads."""

    name: str
    run_ids: Sequence[UUID]
    read: Callable[[UUID], Any]
    write: Callable[[UUID], Any]
    close: Callable[[], None]

    def load(self, callers: int, writes: int, seconds: float) -> list[Load]:
        return by_threads([self.step(writes) for _ in range(callers)], seconds)

    def step(self, writes: int) -> Step:
        """The calls of one caller."""
        turns = turns_of(self.run_ids, writes)

        def step() -> Kind:
            kind, run_id = next(turns)
            (self.write if kind == "write" else self.read)(run_id)
            return kind

        return step

    def checked(self) -> Threads:
        """Itself, if what it writes and reads is right."""
        run_id = self.run_ids[0]
        written: State = self.write(run_id)
        run: FlowRun = self.read(run_id)
        if (run.id, run.state_id, run.state_type) != (run_id, written.id, StateType.RUNNING):
            raise WrongResult(f"{self.name} is wrong: {run}")
        return self


def filled(url: str) -> list[UUID]:
    """Fill a database with flow runs: their ids."""
    with connect(url) as db:
        flow = flows.create(db, "etl")
        with db.transaction() as txn:
            return [
                flow_runs.create(
                    txn,
                    flow.id,
                    state=states.pending(),
                    parameters={"n": number},
                    tags=["nightly"],
                ).id
                for number in range(_FILLED)
            ]


def ours(url: str, run_ids: Sequence[UUID], **options: Any) -> Threads:
    """This library."""
    return over(connect(url, **options), run_ids)


def over(db: Backend, run_ids: Sequence[UUID]) -> Threads:
    """This library, on what is open."""
    return Threads(
        "prefect_db",
        run_ids,
        lambda run_id: flow_runs.get(db, run_id),
        lambda run_id: flow_runs.set_state(db, run_id, states.running()),
        db.close,
    )


def transactions(url: str, run_ids: Sequence[UUID], **options: Any) -> Threads:
    """This library, each change of state in a transaction of the caller's."""
    db = connect(url, **options)

    def write(run_id: UUID) -> State:
        with db.transaction() as txn:
            return flow_runs.set_state(txn, run_id, states.running())

    return Threads(
        "in transactions", run_ids, lambda run_id: flow_runs.get(db, run_id), write, db.close
    )


def locked(url: str, run_ids: Sequence[UUID], synchronous: str = "NORMAL") -> Threads:
    """One bare connection that all share, behind a plain lock."""
    lock = threading.Lock()
    if url.startswith("sqlite"):
        connection = sqlite(url, synchronous)
        execute = connection.execute

        def read(run_id: UUID) -> Any:
            with lock:
                return by_hand_sqlite.read_flow_run(execute, run_id)

        def write(run_id: UUID) -> Any:
            change = Change(run_id, states.running())
            with lock:
                return written(connection, change)

        return Threads("one lock", run_ids, read, write, connection.close)
    postgres = psycopg.connect(url, autocommit=True, options="-c TimeZone=UTC")
    by_hand_postgres.leave_json_as_text(postgres)

    def read_postgres(run_id: UUID) -> Any:
        with lock:
            return by_hand_postgres.read_flow_run(postgres.execute, run_id)

    def write_postgres(run_id: UUID) -> Any:
        change = Change(run_id, states.running())
        with lock:
            return by_hand_postgres.set_state(postgres.execute, change)

    return Threads("one lock", run_ids, read_postgres, write_postgres, postgres.close)


def sqlite(url: str, synchronous: str = "NORMAL") -> sqlite3.Connection:
    """A bare connection for any thread, that waits for others as SQLite itself does."""
    connection = sqlite3.connect(
        url.removeprefix("sqlite:///"),
        timeout=_WAIT,
        isolation_level=None,
        check_same_thread=False,
    )
    for pragma in (*by_hand_sqlite.PRAGMAS, f"PRAGMA synchronous = {synchronous}"):
        connection.execute(pragma).close()
    return connection


def written(connection: sqlite3.Connection, change: Change) -> State:
    """Set a state by hand, in a transaction."""
    connection.execute(by_hand_sqlite.BEGIN)
    state = by_hand_sqlite.set_state(connection.execute, change)
    connection.execute("COMMIT")
    return state


def pooled(url: str, run_ids: Sequence[UUID]) -> Threads:
    """psycopg's pool by hand, of as many connections as this library's has."""
    pool = ConnectionPool(
        url,
        min_size=10,
        max_size=10,
        kwargs={"autocommit": True, "options": "-c TimeZone=UTC"},
        configure=by_hand_postgres.leave_json_as_text,
        open=True,
    )

    def read(run_id: UUID) -> Any:
        with pool.connection() as connection:
            return by_hand_postgres.read_flow_run(connection.execute, run_id)

    def write(run_id: UUID) -> Any:
        change = Change(run_id, states.running())
        with pool.connection() as connection:
            return by_hand_postgres.set_state(connection.execute, change)

    return Threads("psycopg_pool", run_ids, read, write, pool.close)


@dataclass(slots=True)
class Bridge:
    """Tasks that use this library through `prefect_db.aio`."""

    url: str
    run_ids: Sequence[UUID]
    name: str = "asyncio bridge"

    def load(self, callers: int, writes: int, seconds: float) -> list[Load]:
        async def run() -> list[Load]:
            async with aio.connect(self.url) as db:
                steps = [self._step(db, writes) for _ in range(callers)]
                return await by_tasks(steps, seconds)

        return asyncio.run(run())

    def close(self) -> None:
        """Nothing: each load closes what it opened."""

    def _step(self, db: aio.AsyncBackend, writes: int) -> AsyncStep:
        turns = turns_of(self.run_ids, writes)

        async def step() -> Kind:
            kind, run_id = next(turns)
            if kind == "write":
                await db.run(flow_runs.set_state, run_id, states.running())
            else:
                await db.run(flow_runs.get, run_id)
            return kind

        return step
