"""Flows: one per name, found by name, tags and id, and deleted with all their runs."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest

from prefect_db import (
    Backend,
    NotFound,
    Queryable,
    UniqueViolation,
    events,
    flow_runs,
    flows,
    logs,
    states,
    task_runs,
)
from prefect_db.flows import FlowSort

NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)


def numbered(number: int) -> UUID:
    return UUID(int=number)


class TestCreate:
    def test_it_gives_what_was_stored(self, db: Backend) -> None:
        created = flows.create(db, "etl", tags=["b", "a"], labels={"team": "x"})
        assert flows.get(db, created.id) == created

    def test_name_tags_and_labels_are_the_given_ones(self, db: Backend) -> None:
        flow = flows.create(db, "etl", tags=("b", "a", "b"), labels={"n": 1, "team": "ü"})
        assert (flow.name, flow.tags, flow.labels) == (
            "etl",
            ["b", "a", "b"],
            {"n": 1, "team": "ü"},
        )

    def test_there_are_no_tags_and_labels_unless_given(self, db: Backend) -> None:
        flow = flows.create(db, "etl")
        assert (flow.tags, flow.labels) == ([], None)

    def test_empty_labels_are_not_missing_ones(self, db: Backend) -> None:
        assert flows.create(db, "etl", labels={}).labels == {}

    def test_created_and_updated_are_now(self, db: Backend) -> None:
        before = datetime.now(UTC)
        flow = flows.create(db, "etl")
        assert before <= flow.created == flow.updated <= datetime.now(UTC)

    def test_a_made_id_is_time_ordered(self, db: Backend) -> None:
        assert flows.create(db, "etl").id.version == 7

    def test_a_given_id_is_taken(self, db: Backend) -> None:
        id = uuid4()
        assert flows.create(db, "etl", id=id).id == id

    def test_the_row_has_the_forms_of_prefect(self, db: Backend) -> None:
        flow = flows.create(db, "étl", tags=["ü", "a"], labels={"team": "ü", "n": 1.0})
        row = db.row("SELECT id, created, updated, name, tags, labels FROM flow")
        assert row is not None
        assert tuple(row) == db.dialect.pick(
            sqlite=(
                str(flow.id),
                f"{flow.created:%Y-%m-%d %H:%M:%S.%f}",
                f"{flow.updated:%Y-%m-%d %H:%M:%S.%f}",
                "étl",
                '["\\u00fc", "a"]',
                '{"team": "\\u00fc", "n": 1.0}',
            ),
            postgres=(
                flow.id,
                flow.created,
                flow.updated,
                "étl",
                '["ü", "a"]',
                '{"n": 1.0, "team": "ü"}',
            ),
        )

    def test_missing_labels_are_null(self, db: Backend) -> None:
        flows.create(db, "etl")
        assert db.value("SELECT labels FROM flow") is None

    def test_a_name_that_is_there_gives_the_first_flow_unchanged(self, db: Backend) -> None:
        first = flows.create(db, "etl", tags=["a"], labels={"a": 1})
        assert flows.create(db, "etl", tags=["b"], labels={"b": 1}, id=uuid4()) == first

    def test_a_name_that_is_there_changes_nothing(self, db: Backend) -> None:
        first = flows.create(db, "etl", tags=["a"])
        flows.create(db, "etl", tags=["b"])
        assert flows.find(db) == [first]

    def test_case_distinguishes_names(self, db: Backend) -> None:
        assert flows.create(db, "etl").id != flows.create(db, "ETL").id

    def test_the_id_of_another_flow_is_refused(self, db: Backend) -> None:
        first = flows.create(db, "etl")
        with pytest.raises(UniqueViolation):
            flows.create(db, "other", id=first.id)

    def test_threads_that_create_one_name_get_one_flow(self, db: Backend) -> None:
        with ThreadPoolExecutor(8) as pool:
            made = [pool.submit(flows.create, db, f"flow-{n // 8}") for n in range(160)]
            ids = {future.result().id for future in made}
        assert len(ids) == flows.count(db) == 20

    @pytest.mark.only("postgres", "a writer of SQLite sees all that was committed before it")
    def test_a_flow_that_is_newer_than_the_transaction_is_for_the_next_attempt(
        self, db: Backend
    ) -> None:
        attempts = []

        def create(txn: Queryable) -> UUID:
            attempts.append(flows.count(txn))
            if len(attempts) == 1:
                flows.create(db, "etl")
            return flows.create(txn, "etl").id

        id = db.run(create, isolation="repeatable read")
        assert attempts == [0, 1]
        assert [flow.id for flow in flows.find(db)] == [id]


class TestGet:
    def test_by_id(self, db: Backend) -> None:
        flows.create(db, "other")
        flow = flows.create(db, "etl")
        assert flows.get(db, flow.id) == flow

    def test_by_name(self, db: Backend) -> None:
        flows.create(db, "other")
        flow = flows.create(db, "etl")
        assert flows.get_by_name(db, "etl") == flow

    def test_an_unknown_id_gives_none(self, db: Backend) -> None:
        flows.create(db, "etl")
        assert flows.get(db, uuid4()) is None

    @pytest.mark.parametrize("name", ["ETL", "et", "etl ", "%", ""])
    def test_a_name_must_be_exact(self, db: Backend, name: str) -> None:
        flows.create(db, "etl")
        assert flows.get_by_name(db, name) is None


class TestFind:
    @pytest.fixture
    def stored(self, db: Backend) -> Backend:
        """Flows whose creation, update and names are in three different orders."""
        for number, name, created, updated in [
            (1, "b", 0, 3),
            (2, "a", 1, 2),
            (3, "d", 1, 2),
            (4, "c", 2, 0),
        ]:
            flows.create(db, name, id=numbered(number))
            db.execute(
                "UPDATE flow SET created = ?, updated = ? WHERE name = ?",
                (NOON + timedelta(hours=created), NOON + timedelta(hours=updated), name),
            )
        return db

    @pytest.mark.parametrize(
        ("sort", "numbers"),
        [
            # 2 and 3 are equal in time: their ids decide.
            (FlowSort.CREATED_DESC, [4, 3, 2, 1]),
            (FlowSort.UPDATED_DESC, [1, 3, 2, 4]),
            (FlowSort.NAME_ASC, [2, 1, 4, 3]),
            (FlowSort.NAME_DESC, [3, 4, 1, 2]),
        ],
    )
    def test_sort(self, stored: Backend, sort: FlowSort, numbers: list[int]) -> None:
        assert [flow.id.int for flow in flows.find(stored, sort=sort)] == numbers

    def test_every_sort_is_tested(self) -> None:
        assert len(FlowSort) == 4

    def test_names_ascend_unless_said_otherwise(self, stored: Backend) -> None:
        assert [flow.name for flow in flows.find(stored)] == ["a", "b", "c", "d"]

    @pytest.mark.parametrize(
        ("limit", "offset", "names"),
        [
            (2, 0, ["a", "b"]),
            (2, 1, ["b", "c"]),
            (2, 3, ["d"]),
            (0, 0, []),
            (2, 9, []),
            (None, 0, ["a", "b", "c", "d"]),
            (None, 2, ["c", "d"]),
        ],
    )
    def test_a_page(
        self, stored: Backend, limit: int | None, offset: int, names: list[str]
    ) -> None:
        found = flows.find(stored, limit=limit, offset=offset)
        assert [flow.name for flow in found] == names

    def test_200_are_found_unless_said_otherwise(self, db: Backend) -> None:
        with db.transaction() as txn:
            for number in range(201):
                flows.create(txn, f"flow-{number:03}")
        assert len(flows.find(db)) == 200

    def test_the_count_has_no_limit(self, db: Backend) -> None:
        with db.transaction() as txn:
            for number in range(201):
                flows.create(txn, f"flow-{number:03}")
        assert flows.count(db) == 201


class TestUpdate:
    def test_it_gives_what_is_stored_now(self, db: Backend) -> None:
        flow = flows.create(db, "etl", tags=["a"])
        changed = flows.update(db, flow.id, tags=("b", "c"))
        assert flows.get(db, flow.id) == changed
        assert changed.tags == ["b", "c"]

    def test_the_rest_stays(self, db: Backend) -> None:
        flow = flows.create(db, "etl", labels={"a": 1})
        changed = flows.update(db, flow.id, tags=["b"])
        assert (changed.name, changed.labels, changed.created) == (
            flow.name,
            flow.labels,
            flow.created,
        )

    def test_other_flows_stay(self, db: Backend) -> None:
        other = flows.create(db, "other", tags=["a"])
        flows.update(db, flows.create(db, "etl").id, tags=["b"])
        assert flows.get(db, other.id) == other

    def test_updated_is_the_databases_clock(self, db: Backend) -> None:
        """As Prefect reads it: SQLite's has milliseconds, PostgreSQL's is the transaction's."""
        flow = flows.create(db, "etl")
        with db.transaction() as txn:
            updated = flows.update(txn, flow.id, tags=[]).updated
            now = txn.value("SELECT CURRENT_TIMESTAMP")
        assert db.dialect.pick(sqlite=updated.microsecond % 1000 == 0, postgres=updated == now)
        assert abs(updated - flow.updated) < timedelta(minutes=1)

    def test_a_missing_flow_is_not_found(self, db: Backend) -> None:
        with pytest.raises(NotFound):
            flows.update(db, uuid4(), tags=[])


def full_flow(db: Queryable, name: str) -> dict[str, int]:
    """A flow with a run and a task run in a state with data, a log line and an event; how many
    rows each table has now."""
    flow = flows.create(db, name)
    run = flow_runs.create(db, flow.id, state=states.completed(data={"a": 1}))
    task = task_runs.create(
        db, "load", "load", "0", flow_run_id=run.id, state=states.completed(data={"a": 1})
    )
    subflow = flow_runs.create(db, flow.id, parent_task_run_id=task.id)
    logs.write(db, [logs.make("run", 20, "text", NOON, flow_run_id=subflow.id)])
    resource = {"prefect.resource.id": f"prefect.flow-run.{run.id}"}
    events.write(db, [events.make("prefect.flow-run.Completed", resource)])
    return table_sizes(db)


def table_sizes(db: Queryable) -> dict[str, int]:
    tables = (
        "flow flow_run flow_run_state task_run task_run_state artifact log events event_resources"
    ).split()
    return {table: int(db.value(f"SELECT count(*) FROM {table}")) for table in tables}


class TestDelete:
    def test_runs_and_their_states_go_with_it_and_the_rest_stays(self, db: Backend) -> None:
        before = full_flow(db, "etl")
        flow = flows.get_by_name(db, "etl")
        assert flow is not None
        flows.delete(db, flow.id)
        gone = dict.fromkeys(
            ["flow", "flow_run", "flow_run_state", "task_run", "task_run_state"], 0
        )
        assert table_sizes(db) == before | gone

    def test_other_flows_stay_with_their_runs(self, db: Backend) -> None:
        before = full_flow(db, "other")
        flows.delete(db, flows.create(db, "etl").id)
        assert table_sizes(db) == before

    def test_a_missing_flow_is_not_found(self, db: Backend) -> None:
        with pytest.raises(NotFound):
            flows.delete(db, uuid4())

    def test_its_name_is_free_again(self, db: Backend) -> None:
        flow = flows.create(db, "etl")
        flows.delete(db, flow.id)
        assert flows.create(db, "etl").id != flow.id


def test_all_of_it_belongs_to_the_callers_transaction(db: Backend) -> None:
    kept = flows.create(db, "kept", tags=["a"])
    with db.transaction() as txn:
        flows.create(txn, "new")
        flows.update(txn, kept.id, tags=["b"])
        flows.delete(txn, kept.id)
        txn.rollback()
    assert flows.find(db) == [kept]
