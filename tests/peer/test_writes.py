"""A sequence of writes, done by Prefect and by this library, leaves the same rows."""

from __future__ import annotations

import os
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from prefect.server.events.schemas.events import ReceivedEvent
from prefect.server.services.task_run_recorder import record_bulk_task_run_events
from sqlalchemy.exc import IntegrityError

from prefect_db import Backend, BadValue, connect, flow_runs, task_runs
from prefect_db.testing import create_database
from tests.peer.compare import BACKWARDS, Canon, Difference, differences, stored
from tests.peer.operations import Generator, Operation
from tests.peer.prefect_peer import Prefect
from tests.peer.sides import REFUSED, Ours, Rejected, Theirs

OPERATIONS = 500
EVERY = 50
SEED = 1343579397


@dataclass
class Rule:
    """A difference that is meant.

    Attributes:
        reason: Why it is right that the two differ.
        only: The one engine on which they do.
        applied: How often they did.
    """

    reason: str
    only: str | None = None
    allows: Callable[[Difference], bool] | None = None
    applied: int = 0


def generated_name(difference: Difference) -> bool:
    shape = re.compile(r"(?:text )?'[a-z]+-[a-z]+'")
    return difference.column == "name" and all(
        value is not None and shape.fullmatch(value) is not None
        for value in (difference.theirs, difference.ours)
    )


def order_of_pause_keys(difference: Difference) -> bool:
    return difference.column == "empirical_policy" and _sorted_pause_keys(
        difference.theirs
    ) == _sorted_pause_keys(difference.ours)


def _sorted_pause_keys(value: str | None) -> str:
    return re.sub(
        r'(?<="pause_keys": \[)[^]]*',
        lambda match: ", ".join(sorted(match[0].split(", "))),
        value or "",
    )


def rules() -> dict[str, Rule]:
    """The differences that are meant, by name."""
    return {
        "generated names": Rule("a run without a name gets a random one", allows=generated_name),
        "order of pause keys": Rule(
            "Prefect stores this set in the order of its hashes, which changes between processes;"
            " ours is sorted",
            allows=order_of_pause_keys,
        ),
        "unchanged configuration": Rule(
            "Prefect does not write a value that is stored already; ours does not look",
            allows=lambda difference: (
                (difference.table, difference.column) == ("configuration", "updated")
            ),
        ),
        "run time backwards": Rule(
            "Prefect stores a negative run time of more than a day wrong by days: asyncpg takes a"
            " pendulum.Duration for a timedelta",
            only="postgres",
            allows=lambda difference: (
                difference.column == "total_run_time" and difference.ours == BACKWARDS
            ),
        ),
        "orchestration": Rule(
            "Prefect has rules of which transition is allowed, even for a forced one; here they"
            " are the caller's"
        ),
        "empty idempotency key": Rule(
            "Prefect stores it as a key but does not look it up, and so refuses the second run"
        ),
        "taken time of a task run's state": Rule(
            "Prefect refuses a second state of a task run at the same microsecond; ours moves it,"
            " as Prefect does for flow runs"
        ),
        "repeated events": Rule(
            "Prefect's writer of SQLite fails on a batch that has an event twice, or stored events"
            " alone; ours writes what is new",
            only="sqlite",
        ),
        "resources of repeated events": Rule(
            "Prefect's writer of PostgreSQL stores the resources of an event as often as the event"
            " is in the batch; ours once",
            only="postgres",
        ),
    }


@dataclass
class Pair:
    """Prefect and this library, each with a database of the same kind."""

    theirs: Theirs
    ours: Ours
    their_url: str
    our_url: str
    generator: Generator
    rules: dict[str, Rule] = field(default_factory=rules)
    journal: list[Operation] = field(default_factory=list)
    repeated: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        now = datetime.now(UTC)
        self._canons = [Canon(self.generator.given, now) for _ in range(2)]

    def do(self, operation: Operation) -> None:
        """Do an operation on both sides; the same must happen."""
        self.journal.append(operation)
        special = getattr(self, f"_{operation.name}", None)
        if special is not None:
            special(operation)
            return
        theirs, ours = self.theirs(operation), self.ours(operation)
        assert theirs == ours, f"Prefect: {theirs}; ours: {ours}; {operation}"

    def _create_flow_run(self, operation: Operation) -> None:
        theirs, ours = self.theirs(operation), self.ours(operation)
        if operation.arguments["idempotency_key"] == "" and theirs == REFUSED and ours != REFUSED:
            self.rules["empty idempotency key"].applied += 1
            assert ours != operation.arguments["flow_run_id"]
            return
        assert theirs == ours, f"Prefect: {theirs}; ours: {ours}; {operation}"

    def _set_flow_run_state(self, operation: Operation) -> None:
        try:
            theirs = self.theirs(operation)
        except Rejected as rejected:
            self.rules["orchestration"].applied += 1
            if rejected.instead is None:
                return
            self.generator.given.add(rejected.instead["id"])
            theirs = rejected.instead["id"], rejected.instead["timestamp"]
            operation = replace(
                operation, arguments={**operation.arguments, "state": rejected.instead}
            )
        ours = self.ours(operation)
        assert theirs == ours, f"Prefect: {theirs}; ours: {ours}; {operation}"

    def _set_task_run_state(self, operation: Operation) -> None:
        theirs, ours = self.theirs(operation), self.ours(operation)
        if theirs == REFUSED and ours != REFUSED:
            self.rules["taken time of a task run's state"].applied += 1
            state = operation.arguments["state"]
            assert timedelta() < ours[1] - state["timestamp"] < timedelta(milliseconds=1)
            moved = {**operation.arguments, "state": {**state, "timestamp": ours[1]}}
            theirs = self.theirs(replace(operation, arguments=moved))
        assert theirs == ours, f"Prefect: {theirs}; ours: {ours}; {operation}"

    def _record_task_runs(self, operation: Operation) -> None:
        theirs, ours = self.theirs(operation), self.ours(operation)
        if theirs == REFUSED and ours != REFUSED:
            self.rules["taken time of a task run's state"].applied += 1
            times = {
                str(row.uuid(0)): row.datetime(1) or datetime.min
                for row in self.ours.db.rows("SELECT id, timestamp FROM task_run_state")
            }
            batch = []
            for event in operation.arguments["batch"]:
                shift = times[event["id"]] - datetime.fromisoformat(event["occurred"])
                assert timedelta() <= shift < timedelta(milliseconds=1)
                batch.append({**event, "occurred": times[event["id"]].isoformat()})
            theirs = self.theirs(replace(operation, arguments={"batch": batch}))
        assert theirs == ours, f"Prefect: {theirs}; ours: {ours}; {operation}"

    def _write_events(self, operation: Operation) -> None:
        batch = operation.arguments["batch"]
        ids = Counter(event["id"] for event in batch)
        theirs = self.theirs(operation)
        if theirs == REFUSED:
            self.rules["repeated events"].applied += 1
            known = {str(row.uuid(0)) for row in self.ours.db.rows("SELECT id FROM events")}
            new = {event["id"]: event for event in batch if event["id"] not in known}
            assert len(new) < len(batch)
            theirs = None
            if new:
                theirs = self.theirs(replace(operation, arguments={"batch": [*new.values()]}))
        elif self.ours.db.dialect.name == "postgres":
            self.repeated |= {each for each, number in ids.items() if number > 1}
        ours = self.ours(operation)
        assert theirs == ours, f"Prefect: {theirs}; ours: {ours}; {operation}"

    def compare(self) -> int:
        """Compare all rows; how many there were.

        Raises:
            AssertionError: There are differences that no rule allows.
        """
        theirs = self._canons[0].rows(stored(self.their_url))
        ours = self._canons[1].rows(stored(self.our_url))
        theirs["event_resources"] = self._once(theirs["event_resources"])
        found = []
        for difference in differences(theirs, ours):
            rule = next(
                (
                    rule
                    for rule in self.rules.values()
                    if rule.allows is not None and rule.allows(difference)
                ),
                None,
            )
            if rule is not None:
                rule.applied += 1
            else:
                found.append(difference)
        if found:
            pytest.fail(self._report(found), pytrace=False)
        return sum(map(len, ours.values()))

    def _once(self, resources: list[dict[str, str]]) -> list[dict[str, str]]:
        """The resources, without those of an event's second coming in a batch."""
        kept: list[dict[str, str]] = []
        groups = Counter(tuple(sorted(row.items())) for row in resources)
        wanted: Counter[Any] = Counter()
        repeats = self._repeats()
        for row in resources:
            key = tuple(sorted(row.items()))
            event_id = row["event_id"].strip("'")
            if event_id in repeats and wanted[key] >= groups[key] // repeats[event_id]:
                self.rules["resources of repeated events"].applied += 1
                continue
            wanted[key] += 1
            kept.append(row)
        return kept

    def _repeats(self) -> dict[str, int]:
        """How often an event was in the batch that wrote it, if more than once."""
        first: dict[str, int] = {}
        for operation in self.journal:
            if operation.name == "write_events":
                batch = Counter(event["id"] for event in operation.arguments["batch"])
                for event_id, number in batch.items():
                    first.setdefault(event_id, number)
        return {each: first[each] for each in self.repeated if first[each] > 1}

    def _report(self, found: list[Difference]) -> str:
        lines = [f"{len(found)} differences, after {len(self.journal)} operations:"]
        for difference in found[:20]:
            lines.append(str(difference))
            ids = re.findall("[0-9a-f]{8}-[0-9a-f-]{27}", difference.key)
            lines += self._history(ids)[-3:]
        return "\n".join(lines)

    def _history(self, ids: list[str]) -> list[str]:
        """The operations that name one of these ids."""
        return [
            f"    {number}. {operation.name} {argument!s:.1500}"
            for number, operation in enumerate(self.journal)
            for argument in operation.arguments.get("batch") or [operation.arguments]
            if any(each in str(argument) for each in ids)
        ]


@pytest.fixture(params=["ours", "prefect"])
def our_url(request: pytest.FixtureRequest, backend_name: str, tmp_path: Path) -> Iterator[str]:
    """A database for this library: with its own schema, and with that of Prefect."""
    if request.param == "ours":
        if backend_name == "sqlite":
            yield f"sqlite:///{tmp_path}/ours.db"
        else:
            with create_database(request.getfixturevalue("postgres_url")) as url:
                yield url
    elif backend_name == "sqlite":
        shutil.copyfile(request.getfixturevalue("sqlite_managed"), tmp_path / "ours.db")
        yield f"sqlite:///{tmp_path}/ours.db"
    else:
        template = request.getfixturevalue("postgres_managed")
        with create_database(request.getfixturevalue("postgres_url"), template) as url:
            yield url


@pytest.fixture
def ours(our_url: str) -> Iterator[Backend]:
    with connect(our_url) as db:
        yield db
        assert db.stats().in_use == 0


@pytest.fixture
def seed() -> int:
    """Always the same, so that a change that fails is to blame; PEER_SEED is for exploring."""
    return int(os.environ.get("PEER_SEED") or SEED)


@pytest.fixture
def pair(prefect: Prefect, ours: Backend, managed_url: str, our_url: str, seed: int) -> Pair:
    return Pair(Theirs(prefect), Ours(ours), managed_url, our_url, Generator(seed))


def test_a_sequence_of_writes(
    pair: Pair, seed: int, backend_name: str, compared: Counter[str]
) -> None:
    rows = 0
    for operation in pair.generator.operations(OPERATIONS):
        pair.do(operation)
        if len(pair.journal) % EVERY == 0:
            rows = pair.compare()
    rows = pair.compare()
    compared[f"{backend_name} operations"] += len(pair.journal)
    compared[f"{backend_name} rows"] += rows
    for name, rule in pair.rules.items():
        if rule.only in (None, backend_name):
            # With any seed, one may not be.
            assert rule.applied or seed != SEED, f"the rule {name!r} was never needed"
            compared[f"{backend_name} differences that are meant: {name}"] += rule.applied
        else:
            assert not rule.applied, f"the rule {name!r} is for {rule.only}"


WRONG: dict[str, tuple[str, Any]] = {
    "flow": ("tags", ["wrong"]),
    "flow_run": ("run_count", 99),
    "flow_run_state": ("message", "wrong"),
    "task_run": ("task_inputs", {"wrong": []}),
    "task_run_state": ("state_details", {"wrong": 1}),
    "artifact": ("description", "wrong"),
    "events": ("payload", {"wrong": 1}),
    "event_resources": ("resource_role", "wrong"),
    "log": ("message", "wrong"),
    "configuration": ("value", {"wrong": 1}),
}


def test_a_wrong_value_is_found(pair: Pair) -> None:
    for operation in pair.generator.operations(60):
        pair.do(operation)
    pair.compare()
    for table, (column, value) in WRONG.items():
        first = f"SELECT id FROM {table} ORDER BY id LIMIT 1"
        pair.ours.db.execute(f"UPDATE {table} SET {column} = ? WHERE id = ({first})", (value,))
        with pytest.raises(pytest.fail.Exception) as caught:
            pair.compare()
        assert f"\n{table} " in str(caught.value)


def test_half_of_a_refused_batch(prefect: Prefect, managed: Backend) -> None:
    """On SQLite Prefect's recorder has no transaction: a task run without its state stays."""
    generator = Generator(1)
    batch = [generator.task_event() for _ in range(2)]
    batch[1]["resource"]["prefect.resource.id"] = batch[0]["resource"]["prefect.resource.id"]
    for event in batch:
        event["related"] = []
        event["occurred"] = "2024-01-01T00:00:00+00:00"
    received = [ReceivedEvent(**event) for event in batch]
    with pytest.raises(IntegrityError):
        prefect.call(lambda: record_bulk_task_run_events(received))
    sqlite = managed.dialect.name == "sqlite"
    assert managed.value("SELECT count(*) FROM task_run") == (1 if sqlite else 0)
    assert managed.value("SELECT count(*) FROM task_run_state") == 0
    assert task_runs.record(managed, batch) == 2


def test_nan(prefect: Prefect, managed: Backend) -> None:
    """Prefect stores null in its place; ours refuses what would not be read as it was written."""
    theirs, ours = Theirs(prefect), Ours(managed)
    generator = Generator(1)
    flow = generator.create_flow()
    theirs(flow)
    flow_id = flow.arguments["flow_id"]
    run = generator.create_flow_run(
        flow_id=flow_id, parameters={"a": [float("nan"), 1.0]}, idempotency_key=None, state=None
    )
    assert isinstance(theirs(run), UUID)
    found = flow_runs.get(managed, run.arguments["flow_run_id"])
    assert found is not None
    assert found.parameters == {"a": [None, 1.0]}
    with pytest.raises(BadValue, match="not a JSON value"):
        ours(run)
