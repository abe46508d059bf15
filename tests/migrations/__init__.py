"""What tests of migrations share: a host's folder of them, and a driver that can be stopped."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from prefect_db import Backend, connect, drivers, migrate
from prefect_db.drivers.base import Driver, Purpose, Settings
from prefect_db.tokens import Statement
from tests.faults import BOUND, until


def add(folder: Path, name: str, sqlite: str, postgres: str | None = None) -> None:
    """Write a migration; one text is for both engines."""
    migration = folder / name
    migration.mkdir(parents=True, exist_ok=True)
    (migration / "sqlite.sql").write_text(sqlite, encoding="utf-8")
    (migration / "postgres.sql").write_text(
        sqlite if postgres is None else postgres, encoding="utf-8"
    )


def watched(
    url: str, watch: Callable[[str], None], *, migrate: bool = False, **options: Any
) -> Backend:
    """A Backend whose driver is watched."""
    return connect(url, migrate=migrate, driver=watched_driver(url, watch), **options)


def watched_driver(url: str, watch: Callable[[str], None]) -> Driver:
    """A driver that calls `watch` before each statement, `BEGIN`, `COMMIT`, `ROLLBACK` and
    `release` of a connection, and after these four with `begun`, `committed`, `rolled back` and
    `released`; and before an `interrupt`, which comes from another thread."""
    return cast(Driver, _WatchedDriver(drivers.find(url.partition(":")[0]), watch))


@contextmanager
def stopped(url: str, folder: Path, owner: str, text: str) -> Iterator[Future[list[str]]]:
    """Another Backend that migrates, and stands before the first statement with this text until
    the block ends; it must then succeed."""
    reached, going = threading.Event(), threading.Event()

    def watch(sql: str) -> None:
        if text in sql:
            reached.set()
            assert going.wait(BOUND)

    with watched(url, watch) as db, ThreadPoolExecutor(1) as threads:
        running = threads.submit(migrate, db, directory=folder, owner=owner)
        try:
            until(lambda: reached.is_set() or running.done())
            yield running
        finally:
            going.set()
        running.result(BOUND)


class _Delegate:
    """Does nothing but pass on what is asked of it."""

    def __init__(self, inner: Any, watch: Callable[[str], None]) -> None:
        self.inner = inner
        self.watch = watch

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


class _WatchedConnection(_Delegate):
    def execute(self, statement: Statement, values: Sequence[Any]) -> Any:
        self.watch(statement.sql)
        return self.inner.execute(statement, values)

    def executemany(self, statement: Statement, rows: Sequence[Sequence[Any]]) -> Any:
        self.watch(statement.sql)
        return self.inner.executemany(statement, rows)

    def begin(self, **options: Any) -> None:
        self.watch("BEGIN")
        self.inner.begin(**options)
        self.watch("begun")

    def commit(self) -> None:
        self.watch("COMMIT")
        self.inner.commit()
        self.watch("committed")

    def rollback(self) -> None:
        self.watch("ROLLBACK")
        self.inner.rollback()
        self.watch("rolled back")

    def interrupt(self) -> None:
        self.watch("interrupt")
        self.inner.interrupt()


class _WatchedPool(_Delegate):
    def acquire(self, purpose: Purpose) -> _WatchedConnection:
        return _WatchedConnection(self.inner.acquire(purpose), self.watch)

    def release(self, connection: _WatchedConnection, **options: Any) -> None:
        self.watch("release")
        self.inner.release(connection.inner, **options)
        self.watch("released")


class _WatchedDriver(_Delegate):
    def open(self, settings: Settings) -> _WatchedPool:
        return _WatchedPool(self.inner.open(settings), self.watch)
