"""Flows, flow runs and task runs of every kind that a filter can tell apart, the same each time."""

from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

from prefect_db import Queryable
from prefect_db.states import StateType

FLOWS: Final = 40
FLOW_RUNS: Final = 600
TASK_RUNS: Final = 1000

# Equal but for case, in ASCII and beyond it; wildcards; what SQL and JSON quote.
NAMES: Final = [
    *("etl", "ETL", "Etl", "etl_1", "etlx1", "etl%1", "ETL_2", "etl-2", "100%", "100 percent"),
    *("a\\b", "ab", "a\\%b", "it's", "its", 'say "hi"', "Ärger", "ärger", "arger", "ÖL", "öl"),
    *("straße", "STRASSE", "日本", "🚀 run", " leading", "trailing ", "", "?", "??", "Z", "a", "_"),
    *("%", "\\", "é", "e\N{COMBINING ACUTE ACCENT}", "[]", "null", "x" * 300),
]
TAGS: Final = [
    *("a", "A", "ä", "Ä", "a b", "100%", "a_b", "axb", "it's", 'say "hi"', "back\\slash", "日本"),
    *("", "[]", "null", "1", "true", "?", "🚀"),
]
_STATE_NAMES: Final = [
    *("Completed", "completed", "Running", "Late", "AwaitingRetry", "Späte", "späte", "", "100%"),
    None,
]
_VERSIONS: Final = ["1", "v1", "V1", "", "1%", None, None]
_QUEUES: Final = ["default", "Default", "q_1", "q%1", "", None, None]
_NOON: Final = datetime(2030, 1, 1, 12, tzinfo=UTC)


class _Rows:
    """The rows, with references among them."""

    def __init__(self) -> None:
        self.random = random.Random(20300101)
        self.flows = [self.id() for _ in range(FLOWS)]
        self.flow_runs = [self.id() for _ in range(FLOW_RUNS)]
        self.task_runs = [self.id() for _ in range(TASK_RUNS)]
        self.deployments = [self.id() for _ in range(8)]
        self.creators = [self.id() for _ in range(6)]

    def id(self) -> UUID:
        return UUID(int=self.random.getrandbits(128))

    def time(self, none: float = 0.25) -> datetime | None:
        """One of a few, so that some are equal, and some a microsecond apart."""
        if self.random.random() < none:
            return None
        seconds, microseconds = self.random.randrange(60), self.random.choice((-1, 0, 0, 1))
        return _NOON + timedelta(seconds=seconds, microseconds=microseconds)

    def tags(self) -> list[str]:
        return self.random.choices(TAGS, k=self.random.choice((0, 0, 1, 1, 2, 3, 6)))

    def creator(self) -> dict[str, Any] | None:
        id = str(self.random.choice(self.creators))
        type = self.random.choice(("DEPLOYMENT", "AUTOMATION", "deployment", "it's", ""))
        return self.random.choice(
            (
                None,
                {"id": id, "type": type, "display_value": "someone"},
                {"id": id, "type": type},
                {"id": id},
                {"type": type},
                {"id": None, "type": None, "display_value": None},
                {},
            )
        )

    def run(self) -> dict[str, Any]:
        """What flow runs and task runs have in common."""
        return {
            "name": self.random.choice(NAMES),
            "tags": self.tags(),
            "state_type": self.random.choice((*StateType, None)),
            "state_name": self.random.choice(_STATE_NAMES),
            "start_time": self.time(),
            "end_time": self.time(0.5),
            "expected_start_time": self.time(0.1),
            "next_scheduled_start_time": self.time(0.5),
            "total_run_time": timedelta(0),
        }

    def of_flows(self) -> list[dict[str, Any]]:
        # The last one has no run.
        return [
            {
                "id": id,
                "name": NAMES[number] if number < len(NAMES) else f"flow-{number}",
                "tags": self.tags(),
                "created": self.time(0),
                "updated": self.time(0),
            }
            for number, id in enumerate(self.flows)
        ]

    def of_flow_runs(self) -> list[dict[str, Any]]:
        return [
            {
                "id": id,
                "flow_id": self.random.choice(self.flows[:-1]),
                "flow_version": self.random.choice(_VERSIONS),
                "deployment_id": self.random.choice((*self.deployments, None, None)),
                "work_queue_name": self.random.choice(_QUEUES),
                "idempotency_key": None if number % 3 else f"key-{number // 2}",
                "created_by": self.creator(),
                **self.run(),
            }
            for number, id in enumerate(self.flow_runs)
        ]

    def of_task_runs(self) -> list[dict[str, Any]]:
        # Some flow runs have no task run.
        return [
            {
                "id": id,
                "flow_run_id": None
                if self.random.random() < 0.15
                else self.random.choice(self.flow_runs[:400]),
                "task_key": "key",
                "dynamic_key": str(number),
                **self.run(),
            }
            for number, id in enumerate(self.task_runs)
        ]


def fill(db: Queryable) -> None:
    """Write them all."""
    rows = _Rows()
    with db.transaction() as txn:
        _insert(txn, "flow", rows.of_flows())
        _insert(txn, "flow_run", rows.of_flow_runs())
        _insert(txn, "task_run", rows.of_task_runs())
        # Two runs may have the same task run as their parent.
        parents = rows.random.choices(rows.task_runs[:120], k=120)
        txn.executemany(
            "UPDATE flow_run SET parent_task_run_id = ? WHERE id = ?",
            list(zip(parents, rows.flow_runs[::5], strict=True)),
        )
        null = txn.dialect.pick(sqlite="'null'", postgres="CAST('null' AS jsonb)")
        txn.executemany(
            f"UPDATE flow_run SET created_by = {null} WHERE id = ?",
            [(id,) for id in rows.flow_runs[::40]],
        )
        if txn.dialect.name == "sqlite":
            # An other spelling of no tags.
            for table, ids in (("flow_run", rows.flow_runs), ("task_run", rows.task_runs)):
                txn.executemany(
                    f"UPDATE {table} SET tags = '[ ]' WHERE id = ?", [(id,) for id in ids[::50]]
                )


def _insert(db: Queryable, table: str, rows: Sequence[dict[str, Any]]) -> None:
    columns = ", ".join(rows[0])
    places = ", ".join("?" * len(rows[0]))
    db.executemany(
        f"INSERT INTO {table} ({columns}) VALUES ({places})", [(*row.values(),) for row in rows]
    )
