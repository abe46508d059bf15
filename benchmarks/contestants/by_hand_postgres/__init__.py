"""psycopg by hand: one connection in autocommit, the same statements, the same records.

As `by_hand_sqlite`, with what PostgreSQL has: a change of state and a new run are one statement
each, so one round trip; what follows from the state before is computed there.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Final

import psycopg
from psycopg.types.string import TextLoader

from benchmarks.contestants.base import Tabled
from benchmarks.contestants.by_hand_postgres.batches import record_task_runs, write_events
from benchmarks.contestants.by_hand_postgres.reads import (
    count_by_state,
    event_page,
    find_flow_runs,
    history,
    read_flow,
)
from benchmarks.contestants.by_hand_postgres.reads import (
    read_flow_run as read_flow_run,
)
from benchmarks.contestants.by_hand_postgres.rows import Row
from benchmarks.contestants.by_hand_postgres.writes import (
    create_flow,
    create_flow_run,
    create_task_run,
)
from benchmarks.contestants.by_hand_postgres.writes import (
    set_state as set_state,
)

SINGLE: Final[dict[str, Callable[..., Any]]] = {
    "create_flow": create_flow,
    "read_flow": read_flow,
    "create_flow_run": create_flow_run,
    "read_flow_run": read_flow_run,
    "set_state": set_state,
    "find_flow_runs": find_flow_runs,
    "create_task_run": create_task_run,
    "event_page": event_page,
    "count_by_state": count_by_state,
    "history": history,
}
IN_TRANSACTION: Final[dict[str, Callable[..., Any]]] = {}
BATCHES: Final[dict[str, Callable[..., Any]]] = {
    "record_task_runs": record_task_runs,
    "write_events": write_events,
}
BEGIN: Final = "BEGIN"


def leave_json_as_text(connection: Any) -> None:
    """JSON is then read by orjson: psycopg's own way takes twice as long."""
    for name in ("json", "jsonb"):
        connection.adapters.register_loader(name, TextLoader)


class ByHandPostgres(Tabled):
    """The functions above over a connection, with as little as possible between them."""

    name = "by hand"

    def __init__(self, url: str) -> None:
        self.connection = psycopg.connect(url, autocommit=True, options="-c TimeZone=UTC")
        leave_json_as_text(self.connection)
        execute = self.connection.execute
        self.operations = {name: partial(work, execute) for name, work in SINGLE.items()} | {
            name: partial(self._transaction, partial(work, execute, self._executemany))
            for name, work in BATCHES.items()
        }

    def close(self) -> None:
        self.connection.close()

    def _executemany(self, sql: str, rows: list[Row]) -> None:
        self.connection.cursor().executemany(sql, rows)

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
