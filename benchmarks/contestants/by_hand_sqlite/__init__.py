"""The stdlib's sqlite3 by hand: one connection, the same statements, the same records.

What one writes who knows the schema, and does not need what the library is for: no pool, no
errors that say what to do, no checks of what callers give, no filter that is put together. Each
operation is a function of the method that runs SQL, so that `sqlalchemy_core` does the same.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from benchmarks.contestants.base import Tabled
from benchmarks.contestants.by_hand_sqlite.batches import record_task_runs, write_events
from benchmarks.contestants.by_hand_sqlite.reads import (
    count_by_state,
    event_page,
    find_flow_runs,
    history,
    read_flow,
)
from benchmarks.contestants.by_hand_sqlite.reads import (
    read_flow_run as read_flow_run,
)
from benchmarks.contestants.by_hand_sqlite.writes import (
    create_flow,
    create_flow_run,
    create_task_run,
)
from benchmarks.contestants.by_hand_sqlite.writes import (
    set_state as set_state,
)

SINGLE: Final[dict[str, Callable[..., Any]]] = {
    "create_flow": create_flow,
    "read_flow": read_flow,
    "read_flow_run": read_flow_run,
    "find_flow_runs": find_flow_runs,
    "event_page": event_page,
    "count_by_state": count_by_state,
    "history": history,
}
IN_TRANSACTION: Final[dict[str, Callable[..., Any]]] = {
    "create_flow_run": create_flow_run,
    "set_state": set_state,
    "create_task_run": create_task_run,
}
BATCHES: Final[dict[str, Callable[..., Any]]] = {
    "record_task_runs": record_task_runs,
    "write_events": write_events,
}
BEGIN: Final = "BEGIN IMMEDIATE"
PRAGMAS: Final = (
    "PRAGMA journal_mode = WAL",
    "PRAGMA foreign_keys = ON",
    "PRAGMA synchronous = NORMAL",
)


class ByHandSQLite(Tabled):
    """The functions above over a connection, with as little as possible between them."""

    name = "by hand"

    def __init__(self, url: str) -> None:
        self.connection = sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)
        for pragma in PRAGMAS:
            self.connection.execute(pragma).close()
        execute = self.connection.execute
        self.operations = (
            {name: partial(work, execute) for name, work in SINGLE.items()}
            | {
                name: partial(self._transaction, partial(work, execute))
                for name, work in IN_TRANSACTION.items()
            }
            | {
                name: partial(
                    self._transaction, partial(work, execute, self.connection.executemany)
                )
                for name, work in BATCHES.items()
            }
        )

    def close(self) -> None:
        self.connection.close()

    def _transaction(self, work: Callable[[Any], Any], given: Any) -> Any:
        execute = self.connection.execute
        execute(BEGIN)
        try:
            result = work(given)
        except BaseException:
            execute("ROLLBACK")
            raise
        execute("COMMIT")
        return result
