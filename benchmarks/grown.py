"""Databases of any size for `growth`, filled by a few INSERT ... SELECT.

Rows are as the library writes them, with time-ordered ids. Of the flow runs, one a second, a half
has the tag `prod`; and one in a thousand, all among the oldest tenth, is CRASHED and has the tag
`audit`: what is rare and far from where a list begins is what makes a plan slow. Each has two
states. Events come one a second, too, each with a related resource; every tenth is about
`HOT`.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID

from prefect_db import Backend, flows
from prefect_db.queryable import Queryable

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
HOT = "prefect.flow.hot"
_STEP = 250_000

_POLICY = (
    '{"max_retries": 0, "retry_delay_seconds": 0.0, "retries": null, "retry_delay": null,'
    ' "pause_keys": [], "resuming": false, "retry_type": null}'
)
_DETAILS = (
    '{"flow_run_id": null, "task_run_id": null, "child_flow_run_id": null, "scheduled_time": null,'
    ' "cache_key": null, "cache_expiration": null, "deferred": false, "untrackable_result": false}'
)


def time_of(number: int) -> datetime:
    """When the run or event of this number was."""
    return BEGIN + timedelta(seconds=number)


def id_of(number: int, kind: int = 0) -> UUID:
    """The id of the run of this number; kind 1 and 2: of its first and second state."""
    milliseconds = int(time_of(number).timestamp() * 1000)
    return UUID(f"{milliseconds:012x}700{kind}8000{number:012x}")


def add_runs(db: Backend, count: int) -> None:
    """Fill an empty database with flow runs."""
    flow = flows.create(db, "etl")
    for low in range(0, count, _STEP):
        with db.transaction() as txn:
            insert_runs(txn, flow.id, low, min(low + _STEP, count), count)
    _finish(db)


def insert_runs(txn: Queryable, flow_id: UUID, low: int, high: int, count: int) -> None:
    """The runs of these numbers, of so many."""
    _without_checks(txn)
    i = _Parts(txn)
    rare = f"i % 100 = 0 AND i < {count // 10}"
    kind = f"CASE WHEN {rare} THEN 'CRASHED' WHEN i % 20 = 1 THEN 'FAILED' ELSE 'COMPLETED' END"
    name = f"CASE WHEN {rare} THEN 'Crashed' WHEN i % 20 = 1 THEN 'Failed' ELSE 'Completed' END"
    tags = f"CASE WHEN {rare} THEN '[\"audit\"]' WHEN i % 2 = 1 THEN '[\"prod\"]' ELSE '[]' END"
    kind = i.cast(kind, "state_type")
    details = i.cast(f"'{_DETAILS}'", "jsonb")
    for state, type_, named, at in (
        (1, i.cast("'PENDING'", "state_type"), "'Pending'", i.time(0)),
        (2, kind, name, i.time(1)),
    ):
        txn.execute(
            "INSERT INTO flow_run_state (id, created, updated, flow_run_id, type, timestamp, name,"
            f" state_details) SELECT {i.id(state)}, {at}, {at}, {i.id(0)}, {type_}, {at},"
            f" {named}, {details} {i.numbers}",
            (low, high),
        )
    parameters = i.cast("'{\"n\": ' || i || '}'", "jsonb")
    policy = i.cast(f"'{_POLICY}'", "jsonb")
    labels = i.cast(f'\'{{"prefect.flow.id": "{flow_id}"}}\'', "jsonb")
    txn.execute(
        "INSERT INTO flow_run (id, created, updated, name, state_type, state_name, state_timestamp,"
        " state_id, run_count, expected_start_time, start_time, end_time, flow_id, parameters,"
        " empirical_policy, tags, labels)"
        f" SELECT {i.id(0)}, {i.time(0)}, {i.time(1)}, 'brisk-heron-' || i, {kind}, {name},"
        f" {i.time(1)}, {i.id(2)}, 1, {i.time(0)}, {i.time(0)}, {i.time(1)}, '{flow_id}',"
        f" {parameters}, {policy}, {i.cast(tags, 'jsonb')}, {labels} {i.numbers}",
        (low, high),
    )


def add_events(db: Backend, count: int) -> None:
    """Fill an empty database with events."""
    for low in range(0, count, _STEP):
        with db.transaction() as txn:
            insert_events(txn, low, min(low + _STEP, count))
    _finish(db)


def insert_events(txn: Queryable, low: int, high: int) -> None:
    """The events of these numbers, with their resources."""
    i = _Parts(txn)
    run = f"'prefect.flow-run.' || {i.text(0)}"
    about = f"CASE WHEN i % 10 = 0 THEN '{HOT}' ELSE {run} END"
    at = i.time(0)
    labels = f"""'{{"prefect.resource.id": "' || {about} || '", "prefect.resource.name": "a"}}'"""
    related = (
        '\'[{"prefect.resource.id": "prefect.flow.\' || (i % 50) || \'",'
        ' "prefect.resource.role": "flow", "prefect.resource.name": "etl"}]\''
    )
    ids = i.cast("'[\"prefect.flow.' || (i % 50) || '\"]'", "jsonb")
    payload = i.cast("'{\"n\": ' || i || '}'", "jsonb")
    txn.execute(
        "INSERT INTO events (id, created, updated, occurred, event, resource_id, resource,"
        " related_resource_ids, related, payload, received, recorded)"
        f" SELECT {i.id(0)}, {at}, {at}, {at}, 'prefect.flow-run.' || CASE i % 3 WHEN 0 THEN"
        f" 'Pending' WHEN 1 THEN 'Running' ELSE 'Completed' END, {about},"
        f" {i.cast(labels, 'jsonb')}, {ids}, {i.cast(related, 'jsonb')}, {payload}, {at}, {at}"
        f" {i.numbers}",
        (low, high),
    )
    # From the events themselves: their ids and times are not made again.
    for kind, resource, role, others in (
        (3, "resource_id", "''", '\'{"prefect.resource.name": "a"}\''),
        (4, i.related, "'flow'", '\'{"prefect.resource.name": "etl"}\''),
    ):
        txn.execute(
            "INSERT INTO event_resources (id, created, updated, occurred, resource_id,"
            f" resource_role, resource, event_id) SELECT {i.id_like('id', kind)}, created, updated,"
            f" occurred, {resource}, {role}, {i.cast(others, 'json')}, id FROM events"
            " WHERE id >= ? AND id < ?",
            (id_of(low), id_of(high)),
        )


def add_tasks_and_logs(db: Backend, count: int) -> None:
    """Add a task run in a state, and a log line, to the first so many flow runs."""
    with db.transaction() as txn:
        insert_tasks_and_logs(txn, 0, count)
    _finish(db)


def insert_tasks_and_logs(txn: Queryable, low: int, high: int) -> None:
    """Those of the flow runs of these numbers."""
    _without_checks(txn)
    i = _Parts(txn)
    at, completed = i.time(0), i.cast("'COMPLETED'", "state_type")
    txn.execute(
        "INSERT INTO task_run (id, created, updated, name, state_type, state_name,"
        " state_timestamp, state_id, run_count, expected_start_time, start_time, end_time,"
        f" flow_run_id, task_key, dynamic_key) SELECT {i.id(5)}, {at}, {at}, 'load-' || i,"
        f" {completed}, 'Completed', {at}, {i.id(6)}, 1, {at}, {at}, {at}, {i.id(0)},"
        f" 'load', {i.cast('i', 'varchar')} {i.numbers}",
        (low, high),
    )
    txn.execute(
        "INSERT INTO task_run_state (id, created, updated, task_run_id, type, timestamp, name)"
        f" SELECT {i.id(6)}, {at}, {at}, {i.id(5)}, {completed}, {at}, 'Completed' {i.numbers}",
        (low, high),
    )
    txn.execute(
        "INSERT INTO log (id, created, updated, name, level, flow_run_id, task_run_id, message,"
        f" timestamp) SELECT {i.id(7)}, {at}, {at}, 'prefect.task_runs', 20, {i.id(0)},"
        f" {i.id(5)}, 'Finished in state Completed()', {at} {i.numbers}",
        (low, high),
    )


def _without_checks(txn: Queryable) -> None:
    """Foreign keys are not checked row by row: that would take most of the time."""
    if txn.dialect.name == "postgres":
        txn.execute("SET LOCAL session_replication_role = replica")
    else:
        txn.execute("PRAGMA defer_foreign_keys = ON")


def _finish(db: Backend) -> None:
    if db.dialect.name == "sqlite":
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    else:
        # What autovacuum does within a minute.
        db.execute("VACUUM (ANALYZE)")


class _Parts:
    """The same pieces of SQL on both engines, about a number `i`."""

    def __init__(self, db: Queryable) -> None:
        self._dialect = db.dialect
        self.numbers = db.dialect.pick(
            sqlite="FROM (WITH RECURSIVE n (i) AS (SELECT ? UNION ALL SELECT i + 1 FROM n"
            " WHERE i + 1 < ?) SELECT i FROM n)",
            postgres="FROM generate_series(CAST(? AS bigint), CAST(? AS bigint) - 1) AS n (i)",
        )
        # Of an event: the one that is related to it.
        self.related = db.dialect.pick(
            sqlite="json_extract(related_resource_ids, '$[0]')",
            postgres="related_resource_ids ->> 0",
        )

    def cast(self, text: str, kind: str) -> str:
        """A text as a `kind`, where there are such."""
        return self._dialect.pick(sqlite=text, postgres=f"CAST({text} AS {kind})")

    def time(self, more: int) -> str:
        """Its time and some seconds."""
        seconds = f"{int(BEGIN.timestamp()) + more} + i"
        return self._dialect.pick(
            sqlite=f"strftime('%Y-%m-%d %H:%M:%S.000000', {seconds}, 'unixepoch')",
            postgres=f"to_timestamp({seconds})",
        )

    def text(self, kind: int) -> str:
        """`id_of` as a text."""
        first = f"({int(BEGIN.timestamp())} + i) * 1000"
        high, low = self._dialect.pick(
            sqlite=(f"printf('%012x', {first})", "printf('%012x', i)"),
            postgres=(f"lpad(to_hex({first}), 12, '0')", "lpad(to_hex(i), 12, '0')"),
        )
        return (
            f"(substr({high}, 1, 8) || '-' || substr({high}, 9, 4) || '-700{kind}-8000-' || {low})"
        )

    def id_like(self, id: str, kind: int) -> str:
        """The id of another kind for the same number."""
        text = self._dialect.pick(sqlite=id, postgres=f"CAST({id} AS text)")
        return self.cast(f"replace({text}, '-7000-', '-700{kind}-')", "uuid")

    def id(self, kind: int) -> str:
        """`id_of`."""
        return self.cast(self.text(kind), "uuid")
