"""An entity function that fails in its caller's transaction: on both engines the transaction can
go on if nothing was written, and otherwise only roll back; half of it is never saved."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, nullcontext, suppress
from dataclasses import replace
from typing import Any, Final
from uuid import UUID

import pytest

from prefect_db import (
    Backend,
    BadValue,
    CheckViolation,
    Error,
    ForeignKeyViolation,
    NotFound,
    OutOfOrder,
    Queryable,
    TransactionAborted,
    UniqueViolation,
    blocks,
    events,
    flow_runs,
    flows,
    states,
    task_runs,
    wrap,
)
from tests.contract.blocks import TABLES as BLOCK_TABLES
from tests.contract.blocks import new_document, new_schema, new_type, reference
from tests.contract.test_bad_input import FLOW, MISSING, RUN, STATE, TABLES, TASK, seed
from tests.contract.test_task_run_events import story

SUBFLOW: Final = UUID(int=20)
LOW, TOP = UUID(int=21), UUID(int=22)
Act = Callable[[Queryable], Any]


@pytest.fixture
def seeded(db: Backend) -> Backend:
    """One row of everything; a subflow's run; documents of which one refers to the other."""
    seed(db)
    flow_runs.create(db, FLOW, id=SUBFLOW, parent_task_run_id=TASK)
    low = new_document(db, "low", id=LOW)
    new_document(db, "top", {"low": reference(low)}, id=TOP)
    return db


def taken(**given: Any) -> states.State:
    """A state whose id another one has."""
    return replace(states.completed(**given), id=STATE)


def odd(**changes: Any) -> states.State:
    """A state with data, which is written before it, and a value that cannot be stored."""
    return replace(states.completed(data={"a": 1}), **changes)


def document_of(db: Queryable, **data: Any) -> Any:
    schema = new_schema(db)
    return blocks.create_document(db, "new", data, schema.id, schema.block_type_id)


def undefined(db: Queryable) -> Any:
    """A schema that refers to one that is not defined, which is found when it was inserted."""
    new_type(db, "child")
    fields = {
        "title": "parent",
        "type": "object",
        "properties": {},
        "block_schema_references": {
            "c": {"block_type_slug": "child", "block_schema_checksum": "sha256:none"}
        },
    }
    return blocks.create_schema(db, fields, new_type(db, "parent").id)


def unknown_data(db: Queryable) -> Any:
    """An event whose state's data is no JSON, which is found when the run was inserted."""
    event = next(iter(story(RUN, 1, 0, "Completed")))
    event["payload"]["validated_state"]["data"] = {"a": {1}}
    return task_runs.record(db, [event])


# The error, whether the caller's transaction can go on, and what is done.
FAILING: Final[dict[str, tuple[type[Error], bool, Act]]] = {
    "a state for no flow run": (
        NotFound,
        True,
        lambda db: flow_runs.set_state(db, MISSING, states.running(data={})),
    ),
    "a state for no task run": (
        NotFound,
        True,
        lambda db: task_runs.set_state(db, MISSING, states.running()),
    ),
    "labels for no run": (NotFound, True, lambda db: flow_runs.merge_labels(db, MISSING, {"a": 1})),
    "labels that are no JSON": (
        BadValue,
        True,
        lambda db: flow_runs.merge_labels(db, RUN, {"a": {1}}),
    ),
    "no flow run to delete": (NotFound, True, lambda db: flow_runs.delete(db, MISSING)),
    "no document to update": (
        NotFound,
        True,
        lambda db: blocks.update_document(db, MISSING, data={"a": 1}),
    ),
    "no document to delete": (NotFound, True, lambda db: blocks.delete_document(db, MISSING)),
    "no schema to delete": (NotFound, True, lambda db: blocks.delete_schema(db, MISSING)),
    "no type to delete": (NotFound, True, lambda db: blocks.delete_type(db, MISSING)),
    "a name of a state with a NUL": (
        BadValue,
        True,
        lambda db: flow_runs.set_state(db, RUN, odd(name="a\0")),
    ),
    "a task run's": (
        BadValue,
        True,
        lambda db: task_runs.set_state(db, TASK, odd(message="\ud800")),
    ),
    "of a new run's state": (
        BadValue,
        True,
        lambda db: flow_runs.create(db, FLOW, state=odd(name="a\0")),
    ),
    "of a new task run's state": (
        BadValue,
        True,
        lambda db: task_runs.create(db, "n", "n", "1", flow_run_id=RUN, state=odd(name="a\0")),
    ),
    "a state's data that is no JSON": (
        BadValue,
        True,
        lambda db: flow_runs.create(db, FLOW, state=odd(data={"a": {1}})),
    ),
    "an id of a state that is taken": (
        UniqueViolation,
        False,
        lambda db: flow_runs.set_state(db, RUN, taken(data={"a": 1})),
    ),
    "of a subflow's": (
        UniqueViolation,
        False,
        lambda db: flow_runs.set_state(db, SUBFLOW, taken()),
    ),
    "of a new run": (UniqueViolation, False, lambda db: flow_runs.create(db, FLOW, state=taken())),
    "a run of no flow": (
        ForeignKeyViolation,
        False,
        lambda db: flow_runs.create(db, MISSING, state=states.pending()),
    ),
    "a task run of no run": (
        ForeignKeyViolation,
        False,
        lambda db: task_runs.create(db, "n", "n", "1", flow_run_id=MISSING, state=states.pending()),
    ),
    "an event of no run": (
        ForeignKeyViolation,
        False,
        lambda db: task_runs.record(db, story(MISSING, 1, 0, "Completed")),
    ),
    "an event of a task run that is no JSON": (BadValue, False, unknown_data),
    "an event that is no JSON": (
        BadValue,
        True,
        lambda db: events.write(
            db, [events.make("e", {"prefect.resource.id": "r"}, payload={"a": {1}})]
        ),
    ),
    "a circle of documents": (
        CheckViolation,
        False,
        lambda db: blocks.update_document(
            db, LOW, data={"top": {"$ref": {"block_document_id": TOP}}}
        ),
    ),
    "a reference to no document": (
        ForeignKeyViolation,
        False,
        lambda db: document_of(db, a={"$ref": {"block_document_id": MISSING}}),
    ),
    "a schema of no definition": (BadValue, False, undefined),
}


@pytest.fixture(params=FAILING)
def failing(request: pytest.FixtureRequest) -> tuple[type[Error], bool, Act]:
    return FAILING[request.param]


def everything(db: Queryable) -> dict[str, list[tuple[Any, ...]]]:
    return {
        table: sorted(map(tuple, db.rows(f"SELECT * FROM {table}")), key=repr)
        for table in (*TABLES, *BLOCK_TABLES)
    }


def names(db: Queryable) -> list[str]:
    return [flow.name for flow in flows.find(db)]


def test_it_goes_on_only_if_nothing_was_written(
    seeded: Backend, failing: tuple[type[Error], bool, Act]
) -> None:
    error, goes_on, act = failing
    with seeded.transaction() as txn:
        flows.create(txn, "before")
        with pytest.raises(error):
            act(txn)
        if goes_on:
            flows.create(txn, "after")
        else:
            with pytest.raises(TransactionAborted):
                flows.create(txn, "after")
            txn.rollback()
    assert names(seeded) == (["after", "before", "seed"] if goes_on else ["seed"])


def test_half_of_it_is_never_saved(seeded: Backend, failing: tuple[type[Error], bool, Act]) -> None:
    error, goes_on, act = failing
    before = everything(seeded)
    with nullcontext() if goes_on else pytest.raises(TransactionAborted):
        with seeded.transaction() as txn:
            with pytest.raises(error):
                act(txn)
    assert everything(seeded) == before


def test_after_a_savepoint_it_always_goes_on(
    seeded: Backend, failing: tuple[type[Error], bool, Act]
) -> None:
    error, _, act = failing
    with seeded.transaction() as txn:
        before = everything(txn)
        with pytest.raises(error), txn.transaction() as inner:
            act(inner)
        assert everything(txn) == before
        flows.create(txn, "after")
    assert names(seeded) == ["after", "seed"]


def test_an_error_of_the_caller_before_it_writes_leaves_the_transaction(db: Backend) -> None:
    with db.transaction() as txn:
        flows.create(txn, "before")
        with suppress(KeyError), txn.unit() as unit:
            assert unit.value("SELECT count(*) FROM flow") == 1
            raise KeyError
        with pytest.raises(OutOfOrder), txn.transaction(), txn.unit():
            pass
        flows.create(txn, "after")
    assert names(db) == ["after", "before"]


@pytest.mark.parametrize(
    "write",
    [
        lambda db: db.execute("UPDATE flow SET name = 'changed'"),
        lambda db: db.row("UPDATE flow SET name = 'changed' RETURNING id"),
        lambda db: db.executemany("UPDATE flow SET name = ?", [("changed",)]),
        lambda db: flows.create(db, "new"),
        lambda db: savepoint(db, lambda txn: flows.create(txn, "new")),
        lambda db: unit(db, lambda txn: flows.create(txn, "new")),
    ],
    ids=["execute", "row", "executemany", "an entity", "in a savepoint", "in a unit"],
)
@pytest.mark.parametrize("depth", [1, 3])
def test_an_error_of_the_caller_after_a_write_fails_the_transaction(
    db: Backend, write: Act, depth: int
) -> None:
    flows.create(db, "before")
    with pytest.raises(TransactionAborted), db.transaction() as txn:
        with suppress(KeyError), ExitStack() as stack:
            for _ in range(depth):
                stack.enter_context(txn.unit())
            write(txn)
            raise KeyError
    assert names(db) == ["before"]


def savepoint(db: Queryable, act: Act) -> None:
    with db.transaction() as txn:
        act(txn)


def unit(db: Queryable, act: Act) -> None:
    with db.unit() as txn:
        act(txn)


def test_a_write_before_does_not_count(db: Backend) -> None:
    with db.transaction() as txn, txn.unit():
        flows.create(txn, "before")
        with suppress(KeyError), txn.unit():
            raise KeyError
    assert names(db) == ["before"]


def test_one_of_a_backend_is_a_transaction(db: Backend) -> None:
    with suppress(KeyError), db.unit() as txn:
        flows.create(txn, "new")
        raise KeyError
    assert names(db) == []
    unit(db, lambda txn: flows.create(txn, "new"))
    assert names(db) == ["new"]


def test_a_host_who_goes_on_has_no_half_of_it(seeded: Backend) -> None:
    """The host commits, whatever we say; so there it is a savepoint."""
    before = everything(seeded)
    with seeded.connection() as native:
        native.execute("BEGIN")
        host = wrap(native)
        with pytest.raises(CheckViolation):
            blocks.update_document(host, LOW, data={"top": {"$ref": {"block_document_id": TOP}}})
        with pytest.raises(UniqueViolation), host.transaction() as txn:
            flow_runs.create(txn, FLOW, state=taken(data={"a": 1}))
        native.execute("COMMIT")
    assert everything(seeded) == before
