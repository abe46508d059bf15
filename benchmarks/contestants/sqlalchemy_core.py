"""SQLAlchemy 2 Core: an engine with its pool, the statements and conversions of the hand-written
code. It runs in autocommit, where a read costs least, and begins transactions by hand."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any

import sqlalchemy

from benchmarks.contestants import by_hand_postgres, by_hand_sqlite
from benchmarks.contestants.base import Tabled


class Core(Tabled):
    """Each call takes a connection from the engine and gives it back."""

    name = "SQLAlchemy Core"

    def __init__(self, url: str) -> None:
        module: ModuleType
        if url.startswith("sqlite"):
            module, listener = by_hand_sqlite, _set_pragmas
            engine = sqlalchemy.create_engine(url, isolation_level="AUTOCOMMIT")
        else:
            module, listener = by_hand_postgres, _leave_json_as_text
            engine = sqlalchemy.create_engine(
                re.sub("^postgresql:", "postgresql+psycopg:", url),
                isolation_level="AUTOCOMMIT",
                connect_args={"options": "-c TimeZone=UTC"},
            )
        sqlalchemy.event.listen(engine, "connect", listener)
        self._engine = engine
        self._begin = module.BEGIN
        self.operations = (
            {name: partial(self._single, work) for name, work in module.SINGLE.items()}
            | {name: partial(self._several, work) for name, work in module.IN_TRANSACTION.items()}
            | {name: partial(self._batch, work) for name, work in module.BATCHES.items()}
        )

    def close(self) -> None:
        self._engine.dispose()

    def _single(self, work: Callable[..., Any], given: Any) -> Any:
        with self._engine.connect() as connection:
            return work(connection.exec_driver_sql, given)

    def _several(self, work: Callable[..., Any], given: Any) -> Any:
        with self._engine.connect() as connection:
            execute = connection.exec_driver_sql
            execute(self._begin)
            try:
                result = work(execute, given)
            except BaseException:
                execute("ROLLBACK")
                raise
            execute("COMMIT")
            return result

    def _batch(self, work: Callable[..., Any], given: Any) -> Any:
        return self._several(lambda execute, batch: work(execute, execute, batch), given)


def _set_pragmas(connection: Any, _: Any) -> None:
    for pragma in by_hand_sqlite.PRAGMAS:
        connection.execute(pragma).close()


def _leave_json_as_text(connection: Any, _: Any) -> None:
    by_hand_postgres.leave_json_as_text(connection)
