"""Transactions: what they save, what they undo, and who may use them."""

from __future__ import annotations

import asyncio
import gc
import logging
import sys
import threading
import time
import warnings
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, suppress
from typing import Any

import psycopg
import pytest

from prefect_db import (
    Backend,
    BadValue,
    CommitUnknown,
    ConstraintError,
    Error,
    ForeignKeyViolation,
    OutOfOrder,
    Queryable,
    QueryTimeout,
    SerializationFailure,
    Transaction,
    TransactionAborted,
    TransactionClosed,
    Unavailable,
    UniqueViolation,
    UsageError,
    connect,
)
from prefect_db.transaction import Savepoint, Status
from tests.faults import in_thread, until

_VERBS: dict[str, Callable[[Transaction], Any]] = {
    "row": lambda txn: txn.row("SELECT 1"),
    "rows": lambda txn: txn.rows("SELECT 1"),
    "value": lambda txn: txn.value("SELECT 1"),
    "execute": lambda txn: txn.execute("DELETE FROM item"),
    "executemany": lambda txn: txn.executemany("DELETE FROM item WHERE id = ?", [(1,)]),
    "stream": lambda txn: list(txn.stream("SELECT 1")),
    "transaction": lambda txn: txn.transaction().__enter__(),
    "rollback": lambda txn: txn.rollback(),
}
every_verb = pytest.mark.parametrize("verb", _VERBS.values(), ids=_VERBS)


@pytest.fixture
def db(url: str) -> Iterator[Backend]:
    with connect(url, migrate=False) as db:
        db.execute("CREATE TABLE item (id bigint NOT NULL PRIMARY KEY, label varchar)")
        yield db
        assert db.stats().in_use == 0


@pytest.fixture
def other(url: str, db: Backend) -> Iterator[Backend]:
    """The same database, as another process would have it open."""
    with connect(url, migrate=False) as other:
        yield other


@pytest.mark.parametrize(
    "kind",
    [
        ValueError,
        KeyboardInterrupt,
        SystemExit,
        GeneratorExit,
        asyncio.CancelledError,
        QueryTimeout,
    ],
)
def test_any_exception_undoes_the_transaction_and_passes(
    db: Backend, kind: type[BaseException]
) -> None:
    error = kind("mine")
    with pytest.raises(kind) as caught, db.transaction() as txn:
        _add(txn, 1)
        raise error
    assert caught.value is error
    assert txn.status is Status.ROLLED_BACK
    assert _ids(db) == []


def test_a_generator_that_is_closed_inside_a_transaction_undoes_it(db: Backend) -> None:
    generator = _suspended(db)
    assert next(generator) == 1
    generator.close()
    assert db.stats().in_use == 0
    assert _ids(db) == []


def test_a_generator_that_is_collected_inside_a_transaction_undoes_it(db: Backend) -> None:
    cycle: list[Any] = [_suspended(db)]
    cycle.append(cycle)
    assert next(cycle[0]) == 1
    del cycle
    gc.collect()
    assert db.stats().in_use == 0
    assert _ids(db) == []


def test_a_generator_that_is_closed_by_another_thread_undoes_its_transaction(db: Backend) -> None:
    generator = _suspended(db)
    assert next(generator) == 1
    in_thread(generator.close)
    assert db.stats().in_use == 0
    assert _ids(db) == []


def test_a_rollback_on_purpose_undoes_and_passes_nothing(db: Backend) -> None:
    with db.transaction() as txn:
        _add(txn, 1)
        txn.rollback()
        assert db.stats().in_use == 0
    assert txn.status is Status.ROLLED_BACK
    assert _ids(db) == []


@every_verb
def test_after_a_rollback_it_is_closed(db: Backend, verb: Callable[[Transaction], Any]) -> None:
    with db.transaction() as txn:
        txn.rollback()
        with pytest.raises(TransactionClosed):
            verb(txn)


@every_verb
def test_after_its_block_it_is_closed(db: Backend, verb: Callable[[Transaction], Any]) -> None:
    with db.transaction() as txn:
        _add(txn, 1)
    assert txn.status is Status.COMMITTED
    with pytest.raises(TransactionClosed):
        verb(txn)
    assert _ids(db) == [1]


@every_verb
def test_before_its_block_it_is_not_begun(db: Backend, verb: Callable[[Transaction], Any]) -> None:
    txn = db.transaction()
    with pytest.raises(UsageError, match="with db.transaction"):
        verb(txn)
    assert txn.status is Status.NEW


def test_it_can_be_entered_once_only(db: Backend) -> None:
    with db.transaction() as txn:
        _add(txn, 1)
        with pytest.raises(TransactionClosed), txn:
            pass
    with pytest.raises(TransactionClosed), txn:
        pass
    assert _ids(db) == [1]


def test_a_failed_transaction_undoes_its_finished_savepoints(db: Backend) -> None:
    with pytest.raises(KeyError), db.transaction() as txn:
        with txn.transaction() as inner:
            _add(inner, 1)
        raise KeyError
    assert _ids(db) == []


def test_fifty_savepoints_deep(db: Backend) -> None:
    with ExitStack() as stack:
        scope: Any = stack.enter_context(db.transaction())
        for n in range(50):
            _add(scope, n)
            scope = stack.enter_context(scope.transaction())
        _add(scope, 50)
    assert _ids(db) == list(range(51))


def test_an_error_from_fifty_deep_undoes_as_far_as_it_goes(db: Backend) -> None:
    def descend(scope: Transaction | Savepoint, depth: int) -> None:
        _add(scope, depth)
        if depth == 50:
            raise KeyError
        with suppress(KeyError if depth == 25 else ZeroDivisionError), scope.transaction() as inner:
            descend(inner, depth + 1)

    with db.transaction() as txn:
        descend(txn, 0)
        _add(txn, 99)
    assert _ids(db) == [*range(26), 99]


def test_a_savepoint_that_was_left_on_purpose_is_closed_alone(db: Backend) -> None:
    with db.transaction() as txn:
        with txn.transaction() as inner:
            _add(inner, 1)
            inner.rollback()
            with pytest.raises(TransactionClosed):
                _add(inner, 2)
            _add(txn, 3)
    assert _ids(db) == [3]


def test_a_savepoint_can_be_entered_once_only(db: Backend) -> None:
    with db.transaction() as txn:
        with txn.transaction() as inner:
            _add(inner, 1)
        with pytest.raises(TransactionClosed), inner:
            pass
    assert _ids(db) == [1]


@pytest.mark.parametrize(
    "options", [{"read_only": True}, {"isolation": "serializable"}, {"timeout": 1.0}]
)
def test_a_savepoint_takes_no_options(db: Backend, options: dict[str, Any]) -> None:
    with db.transaction() as txn, pytest.raises(UsageError, match="outermost"):
        txn.transaction(**options)


@every_verb
def test_the_outer_one_is_not_used_while_an_inner_is_open(
    db: Backend, verb: Callable[[Transaction], Any]
) -> None:
    with db.transaction() as txn:
        with txn.transaction() as inner:
            _add(inner, 1)
            with pytest.raises(OutOfOrder):
                verb(txn)
            _add(inner, 2)
        _add(txn, 3)
    assert _ids(db) == [1, 2, 3]


@every_verb
def test_another_thread_does_not_use_it(db: Backend, verb: Callable[[Transaction], Any]) -> None:
    with db.transaction() as txn:
        _add(txn, 1)
        with pytest.raises(OutOfOrder):
            in_thread(lambda: verb(txn))
        _add(txn, 2)
    assert _ids(db) == [1, 2]


def test_another_thread_does_not_commit_it(db: Backend) -> None:
    txn = db.transaction().__enter__()
    _add(txn, 1)
    with pytest.raises(OutOfOrder):
        in_thread(lambda: txn.__exit__(None, None, None))
    assert _ids(db) == []


def test_another_thread_does_not_use_its_savepoints(db: Backend) -> None:
    with db.transaction() as txn, txn.transaction() as inner:
        with pytest.raises(OutOfOrder):
            in_thread(lambda: _add(inner, 1))
    assert _ids(db) == []


def test_an_outer_one_that_ends_first_saves_nothing(db: Backend) -> None:
    with pytest.raises(OutOfOrder), db.transaction() as txn:
        inner = txn.transaction().__enter__()
        _add(inner, 1)
    with pytest.raises(TransactionClosed):
        _add(inner, 2)
    inner.__exit__(None, None, None)
    assert _ids(db) == []


def test_a_swallowed_error_is_told_at_the_end_and_nothing_is_saved(db: Backend) -> None:
    with pytest.raises(TransactionAborted), db.transaction() as txn:
        _add(txn, 1)
        with suppress(UniqueViolation):
            _add(txn, 1)
    assert txn.status is Status.ROLLED_BACK
    assert _ids(db) == []


def test_a_swallowed_error_of_executemany_is_told_at_the_end(db: Backend) -> None:
    with pytest.raises(TransactionAborted), db.transaction() as txn:
        with suppress(UniqueViolation):
            txn.executemany("INSERT INTO item (id) VALUES (?)", [(1,), (1,)])
    assert _ids(db) == []


@pytest.mark.parametrize("verb", ["value", "execute", "executemany", "stream", "transaction"])
def test_after_a_failed_statement_no_other_runs(db: Backend, verb: str) -> None:
    with pytest.raises(TransactionAborted, match="earlier"), db.transaction() as txn:
        with suppress(UniqueViolation):
            _add(txn, 1, 1)
        _VERBS[verb](txn)


def test_after_a_failed_statement_it_can_be_left_on_purpose(db: Backend) -> None:
    with db.transaction() as txn:
        with suppress(UniqueViolation):
            _add(txn, 1, 1)
        txn.rollback()
    assert _ids(db) == []


def test_a_call_that_was_refused_before_it_was_sent_spoils_nothing(db: Backend) -> None:
    with db.transaction() as txn:
        with suppress(BadValue):
            txn.execute("INSERT INTO item (id) VALUES (?)", (object(),))
        with suppress(BadValue):
            txn.executemany("INSERT INTO item (id) VALUES (?)", [(1,), (object(),)])
        _add(txn, 2)
    assert _ids(db) == [2]


def test_a_transaction_that_the_engine_has_given_up_is_not_committed(db: Backend) -> None:
    """The failed statement ran on the driver's own connection, so only COMMIT's answer tells."""
    verb = db.dialect.pick(sqlite="INSERT OR ROLLBACK", postgres="INSERT")
    with pytest.raises(TransactionAborted), db.transaction() as txn:
        _add(txn, 1)
        with suppress(Exception):
            _native(txn).execute(f"{verb} INTO item (id) VALUES (1)")
    assert txn.status is Status.ROLLED_BACK
    assert _ids(db) == []


def test_a_transaction_that_a_statement_has_ended_is_not_committed(db: Backend) -> None:
    with pytest.raises(TransactionAborted), db.transaction() as txn:
        _add(txn, 1)
        txn.execute("ROLLBACK")
    assert _ids(db) == []


def test_a_swallowed_error_in_a_savepoint_is_told_at_its_end_alone(db: Backend) -> None:
    with db.transaction() as txn:
        _add(txn, 1)
        with pytest.raises(TransactionAborted), txn.transaction() as inner:
            _add(inner, 2)
            with suppress(UniqueViolation):
                _add(inner, 1)
        _add(txn, 3)
    assert _ids(db) == [1, 3]


def test_a_read_only_transaction_is_undone_by_a_write(db: Backend) -> None:
    with pytest.raises(TransactionAborted), db.transaction(read_only=True) as txn:
        with suppress(Error):
            _add(txn, 1)
    assert _ids(db) == []


@pytest.mark.only("postgres", "SQLite's transactions are serializable, whatever was asked")
def test_isolation_is_read_committed_whatever_the_default(url: str) -> None:
    _set_default(url, "default_transaction_isolation", "serializable")
    with connect(url, migrate=False) as db, db.transaction() as txn:
        assert txn.value("SHOW transaction_isolation") == "read committed"


@pytest.mark.only("postgres", "SQLite's transactions are serializable, whatever was asked")
def test_a_statement_on_its_own_is_read_committed_whatever_the_default(url: str) -> None:
    _set_default(url, "default_transaction_isolation", "serializable")
    with connect(url, migrate=False) as db:
        assert db.value("SHOW transaction_isolation") == "read committed"


@pytest.mark.only("postgres", "SQLite has no such setting")
def test_a_transaction_may_write_whatever_the_default(url: str) -> None:
    _set_default(url, "default_transaction_read_only", "on")
    with connect(url, migrate=False) as db, db.transaction() as txn:
        txn.execute("CREATE TABLE item (id bigint)")


@pytest.mark.only("postgres", "on SQLite nobody else writes during a transaction")
@pytest.mark.parametrize(
    ("isolation", "seen"), [(None, 1), ("read committed", 1), ("repeatable read", 0)]
)
def test_what_others_save_is_seen_as_the_isolation_says(
    db: Backend, isolation: Any, seen: int
) -> None:
    with db.transaction(isolation=isolation) as txn:
        assert txn.value("SELECT count(*) FROM item") == 0
        _add(db, 1)
        assert txn.value("SELECT count(*) FROM item") == seen


@pytest.mark.only("postgres", "on SQLite nobody else writes during a transaction")
def test_a_row_that_changed_under_a_repeatable_read_is_a_serialization_failure(
    db: Backend,
) -> None:
    _add(db, 1)
    with pytest.raises(SerializationFailure), db.transaction(isolation="repeatable read") as txn:
        assert _ids(txn) == [1]
        db.execute("UPDATE item SET label = 'theirs'")
        txn.execute("UPDATE item SET label = 'mine'")
    assert db.value("SELECT label FROM item") == "theirs"


@pytest.mark.only("postgres", "on SQLite nobody else writes during a transaction")
def test_serializable_transactions_that_overlap_fail_at_commit(db: Backend) -> None:
    """Each reads what the other writes: in no order could both have been."""
    with pytest.raises(SerializationFailure), db.transaction(isolation="serializable") as one:
        with db.transaction(isolation="serializable") as two:
            _add(one, len(_ids(one)) + 1)
            _add(two, len(_ids(two)) + 2)
    assert one.status is Status.ROLLED_BACK
    assert _ids(db) == [2]


@pytest.mark.only("postgres", "on SQLite nobody else writes during a transaction")
def test_a_real_serialization_failure_is_run_again(db: Backend) -> None:
    _add(db, 1)
    seen: list[int] = []

    def work(txn: Transaction) -> None:
        seen.append(_ids(txn)[0])
        if len(seen) == 1:
            db.execute("UPDATE item SET id = 2")
        txn.execute("UPDATE item SET id = id + 10")

    db.run(work, isolation="repeatable read")
    assert seen == [1, 2]
    assert _ids(db) == [12]


@pytest.mark.parametrize("isolation", ["snapshot", "READ COMMITTED", ""])
def test_an_unknown_isolation_level_is_a_usage_error(db: Backend, isolation: Any) -> None:
    with pytest.raises(UsageError, match="serializable"):
        db.transaction(isolation=isolation)


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf")])
def test_a_timeout_that_is_no_time_is_a_usage_error(db: Backend, timeout: float) -> None:
    with pytest.raises(UsageError), db.transaction(timeout=timeout):
        pass


def test_no_statement_begins_after_the_timeout(db: Backend) -> None:
    with pytest.raises(QueryTimeout), db.transaction(timeout=0.5) as txn:
        _add(txn, 1)
        _let_pass(0.5)
        txn.value("SELECT 1")
    assert _ids(db) == []


def test_no_commit_begins_after_the_timeout(db: Backend) -> None:
    with pytest.raises(QueryTimeout), db.transaction(timeout=0.5) as txn:
        _add(txn, 1)
        _let_pass(0.5)
    assert txn.status is Status.ROLLED_BACK
    assert _ids(db) == []


def test_a_savepoint_has_the_time_that_is_left(db: Backend) -> None:
    with db.transaction(timeout=0.5) as txn:
        _add(txn, 1)
        with pytest.raises(QueryTimeout), txn.transaction() as inner:
            _let_pass(0.5)
            inner.value("SELECT 1")
        txn.rollback()


def test_a_swallowed_timeout_is_told_at_the_end(db: Backend) -> None:
    with pytest.raises(TransactionAborted), db.transaction(timeout=0.5) as txn:
        _add(txn, 1)
        _let_pass(0.5)
        with suppress(QueryTimeout):
            txn.value("SELECT 1")
    assert _ids(db) == []


def test_a_wait_for_the_lock_of_another_ends_with_the_timeout(db: Backend, other: Backend) -> None:
    _add(db, 1)
    with other.transaction() as holder:
        holder.execute("UPDATE item SET label = 'theirs'")
        with pytest.raises(QueryTimeout), db.transaction(timeout=0.2) as txn:
            txn.execute("UPDATE item SET label = 'mine'")
    assert db.execute("UPDATE item SET label = 'mine'") == 1


def test_after_a_timeout_the_next_user_has_none(db: Backend) -> None:
    with pytest.raises(QueryTimeout), db.transaction(timeout=0.05) as txn:
        txn.execute(_long(txn, 60))
    with db.transaction() as txn:
        txn.execute(_long(txn, 0.1))
    db.execute(_long(db, 0.1))


@pytest.mark.only("postgres", "SQLite has no such setting")
def test_a_timeout_is_no_setting_of_the_session(url: str) -> None:
    with connect(url, migrate=False, pool_size=1) as db:
        for end in (Transaction.rollback, lambda txn: txn.value("SELECT 1")):
            with db.transaction(timeout=7) as txn:
                assert txn.value("SHOW statement_timeout") == "7s"
                end(txn)
            assert db.value("SHOW statement_timeout") == "0"


@pytest.mark.only("sqlite", "PostgreSQL's triggers end no transaction")
@pytest.mark.parametrize("depth", [0, 1, 3])
def test_a_trigger_that_rolls_back_ends_all_savepoints(db: Backend, depth: int) -> None:
    _roll_back_on_13(db)
    with pytest.raises(ConstraintError, match="unlucky"), ExitStack() as stack:
        scope: Any = stack.enter_context(db.transaction())
        for n in range(depth):
            _add(scope, n)
            scope = stack.enter_context(scope.transaction())
        _add(scope, 13)
    assert _ids(db) == []
    _add(db, 14)
    assert _ids(db) == [14]


@pytest.mark.only("sqlite", "PostgreSQL's triggers end no transaction")
def test_what_a_trigger_rolled_back_is_not_gone_on_with(db: Backend) -> None:
    _roll_back_on_13(db)
    with pytest.raises(TransactionAborted), db.transaction() as txn:
        _add(txn, 1)
        with txn.transaction() as middle:
            with suppress(ConstraintError), middle.transaction() as inner:
                _add(inner, 13)
            with pytest.raises(TransactionAborted):
                _add(middle, 2)
            with pytest.raises(TransactionAborted):
                middle.transaction().__enter__()
    assert _ids(db) == []


@pytest.mark.only("sqlite", "no statement of PostgreSQL's rolls back more than itself")
def test_what_a_statement_rolled_back_in_a_savepoint_is_not_gone_on_with(db: Backend) -> None:
    _add(db, 13)
    with pytest.raises(TransactionAborted), db.transaction() as txn:
        _add(txn, 1)
        with txn.transaction() as middle:
            _add(middle, 2)
            with suppress(UniqueViolation), middle.transaction() as inner:
                _add(inner, 3)
                inner.execute("INSERT OR ROLLBACK INTO item (id) VALUES (13)")
            with pytest.raises(TransactionAborted):
                _add(middle, 4)
        with pytest.raises(TransactionAborted):
            _add(txn, 5)
    assert _ids(db) == [13]


def test_a_rollback_that_fails_hides_nothing(db: Backend, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(KeyError), db.transaction() as txn:
        _add(txn, 1)
        _break(db, txn)
        raise KeyError
    records = [record for record in caplog.records if record.name == "prefect_db"]
    assert [record.levelno for record in records] == [logging.WARNING]
    assert "rollback failed" in records[0].message
    assert _ids(db) == []


def test_a_rollback_that_fails_in_a_savepoint_hides_nothing(db: Backend) -> None:
    with pytest.raises(KeyError), db.transaction() as txn:
        _add(txn, 1)
        with txn.transaction() as inner:
            _add(inner, 2)
            _break(db, txn, inner)
            raise KeyError
    assert _ids(db) == []


@pytest.mark.only("postgres", "SQLite has no connection that could be lost")
def test_a_link_that_is_lost_in_a_transaction_is_unavailable(db: Backend) -> None:
    with pytest.raises(Unavailable) as caught, db.transaction() as txn:
        _add(txn, 1)
        _break(db, txn)
        _add(txn, 2)
    assert caught.value.sent
    assert _ids(db) == []


@pytest.mark.only("postgres", "SQLite has no connection that could be lost")
def test_a_link_that_is_lost_during_commit_leaves_it_unknown(db: Backend) -> None:
    _lose_link_at_commit(db)
    with pytest.raises(CommitUnknown), db.transaction() as txn:
        _add(txn, 1)
    assert txn.status is Status.UNKNOWN
    with pytest.raises(TransactionClosed):
        _add(txn, 2)
    assert _ids(db) == []


@pytest.mark.only("postgres", "SQLite has no connection that could be lost")
def test_an_unknown_commit_is_not_run_again(db: Backend) -> None:
    _lose_link_at_commit(db)
    calls: list[Transaction] = []

    def work(txn: Transaction) -> None:
        calls.append(txn)
        _add(txn, 1)

    with pytest.raises(CommitUnknown):
        db.run(work)
    assert len(calls) == 1


def test_what_was_not_read_of_a_stream_ends_with_the_transaction(db: Backend) -> None:
    _add(db, *range(10))
    with db.transaction() as txn:
        stream = txn.stream("SELECT id FROM item ORDER BY id", batch=3)
        assert next(stream)["id"] == 0
    with pytest.raises(TransactionClosed):
        list(stream)


def test_a_stream_that_was_never_begun_ends_with_the_transaction(db: Backend) -> None:
    _add(db, 1)
    with db.transaction() as txn:
        stream = txn.stream("SELECT id FROM item")
    with pytest.raises(TransactionClosed):
        list(stream)


def test_what_was_not_read_of_a_stream_ends_with_its_savepoint(db: Backend) -> None:
    _add(db, *range(10))
    with db.transaction() as txn:
        with txn.transaction() as inner:
            stream = inner.stream("SELECT id FROM item ORDER BY id", batch=3)
            assert next(stream)["id"] == 0
        with pytest.raises(TransactionClosed):
            list(stream)
        _add(txn, 10)
    assert len(_ids(db)) == 11


def test_a_stream_does_not_read_on_while_a_savepoint_is_open(db: Backend) -> None:
    _add(db, *range(4))
    with db.transaction() as txn:
        stream = txn.stream("SELECT id FROM item ORDER BY id", batch=1)
        assert next(stream)["id"] == 0
        with txn.transaction() as inner, pytest.raises(OutOfOrder):
            next(stream)
        _add(txn, 9)
    assert _ids(db) == [0, 1, 2, 3, 9]
    assert inner.status is Status.COMMITTED


def test_a_stream_is_not_read_by_another_thread(db: Backend) -> None:
    _add(db, 1)
    with db.transaction() as txn:
        stream = txn.stream("SELECT id FROM item")
        with pytest.raises(OutOfOrder):
            in_thread(lambda: next(stream))


def test_an_error_in_the_middle_of_a_stream_undoes_the_transaction(db: Backend) -> None:
    _add(db, *range(1, 8))
    sql = "SELECT abs(CASE WHEN id = 6 THEN -9223372036854775807 - 1 ELSE id END) FROM item"
    read: list[int] = []
    with pytest.raises(Error, match="overflow|range") as caught, db.transaction() as txn:
        _add(txn, 9)
        read.extend(row[0] for row in txn.stream(f"{sql} ORDER BY id", batch=2))
    assert caught.value.sql == f"{sql} ORDER BY id"
    assert read == [1, 2, 3, 4]
    assert _ids(db) == list(range(1, 8))


def test_a_swallowed_error_of_a_stream_is_told_at_the_end(db: Backend) -> None:
    with pytest.raises(TransactionAborted), db.transaction() as txn, suppress(Error):
        list(txn.stream("SELECT id FROM missing"))


def test_an_exception_of_who_reads_a_stream_undoes_the_transaction(db: Backend) -> None:
    _add(db, *range(4))
    with pytest.raises(KeyError), db.transaction() as txn:
        for row in txn.stream("SELECT id FROM item", batch=1):
            raise KeyError(row)
    db.execute("DELETE FROM item")
    assert _ids(db) == []


@pytest.mark.parametrize("batch", [0, -1])
def test_a_batch_of_nothing_is_refused(db: Backend, batch: int) -> None:
    with db.transaction() as txn, pytest.raises(BadValue, match="batch"):
        txn.stream("SELECT 1", batch=batch)


def test_a_transaction_that_is_never_ended_is_warned_of_and_undone(db: Backend) -> None:
    with pytest.warns(ResourceWarning, match="never ended"):
        _begin_and_forget(db)
        gc.collect()
    assert db.stats().in_use == 0
    assert _ids(db) == []


def test_a_transaction_that_is_never_ended_is_undone_where_warnings_are_errors(
    db: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "unraisablehook", lambda _: None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _begin_and_forget(db)
        gc.collect()
    assert db.stats().in_use == 0
    assert _ids(db) == []


def test_a_thread_that_ends_without_ending_its_transaction_leaves_nothing(db: Backend) -> None:
    with pytest.warns(ResourceWarning, match="never ended"):
        thread = threading.Thread(target=_begin_and_forget, args=[db])
        thread.start()
        thread.join()
        gc.collect()
    assert db.stats().in_use == 0
    assert _ids(db) == []


def test_a_thread_that_dies_inside_a_transaction_leaves_nothing(
    db: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    def work() -> None:
        with db.transaction() as txn:
            _add(txn, 1)
            raise KeyError

    monkeypatch.setattr(threading, "excepthook", lambda _: None)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert db.stats().in_use == 0
    assert _ids(db) == []


def _add(db: Queryable, *ids: int) -> None:
    for id_ in ids:
        db.execute("INSERT INTO item (id) VALUES (?)", (id_,))


def _ids(db: Queryable) -> list[int]:
    return [row["id"] for row in db.rows("SELECT id FROM item ORDER BY id")]


def _set_default(url: str, setting: str, value: str) -> None:
    with psycopg.connect(url, autocommit=True) as admin:
        admin.execute(f'ALTER DATABASE "{admin.info.dbname}" SET {setting} TO {value}')


def _suspended(db: Backend) -> Generator[int, None, None]:
    with db.transaction() as txn:
        _add(txn, 1)
        yield db.stats().in_use


def _begin_and_forget(db: Backend) -> None:
    _add(db.transaction().__enter__(), 1)


def _native(txn: Transaction) -> Any:
    connection = txn._connection
    assert connection is not None
    return connection.native


def _break(db: Backend, txn: Transaction, inner: Queryable | None = None) -> None:
    """Make every further call on the transaction's connection fail."""
    if db.dialect.name == "sqlite":
        _native(txn).close()
    else:
        pid = (inner or txn).value("SELECT pg_backend_pid()")
        db.execute("SELECT pg_terminate_backend(?)", (pid,))
        gone = "SELECT count(*) FROM pg_stat_activity WHERE pid = ?"
        until(lambda: db.value(gone, (pid,)) == 0)


def _lose_link_at_commit(db: Backend) -> None:
    db.execute(
        "CREATE FUNCTION lose_link() RETURNS trigger LANGUAGE plpgsql AS"
        " 'BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NULL; END'"
    )
    db.execute(
        "CREATE CONSTRAINT TRIGGER lose_link AFTER INSERT ON item DEFERRABLE INITIALLY DEFERRED"
        " FOR EACH ROW EXECUTE FUNCTION lose_link()"
    )


def _roll_back_on_13(db: Backend) -> None:
    with db.connection() as native:
        native.execute(
            "CREATE TRIGGER unlucky BEFORE INSERT ON item WHEN new.id = 13"
            " BEGIN SELECT RAISE(ROLLBACK, 'unlucky'); END"
        )


def _long(db: Queryable, seconds: float) -> str:
    """A statement that takes at least so long on the fastest of machines."""
    limit = int(seconds * 1e7)
    return db.dialect.pick(
        sqlite="WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i <"
        f" {limit}) SELECT count(*) FROM n",
        postgres=f"SELECT pg_sleep({seconds})",
    )


def _let_pass(seconds: float) -> None:
    ends = time.monotonic() + seconds
    until(lambda: time.monotonic() > ends)


def test_a_constraint_that_is_checked_at_commit_has_it_save_nothing(db: Backend) -> None:
    db.execute("CREATE TABLE parent (id bigint NOT NULL PRIMARY KEY)")
    db.execute(
        "CREATE TABLE child (id bigint NOT NULL PRIMARY KEY, parent_id bigint NOT NULL"
        " REFERENCES parent (id) DEFERRABLE INITIALLY DEFERRED)"
    )
    attempts = []

    def work(txn: Transaction) -> None:
        attempts.append(txn)
        txn.execute("INSERT INTO child (id, parent_id) VALUES (1, 7)")

    with pytest.raises(ForeignKeyViolation):
        db.run(work)
    assert len(attempts) == 1
    assert db.value("SELECT count(*) FROM child") == 0
    assert db.stats().in_use == 0
    with db.transaction() as txn:
        txn.execute("INSERT INTO child (id, parent_id) VALUES (1, 7)")
        txn.execute("INSERT INTO parent (id) VALUES (7)")
    assert db.value("SELECT parent_id FROM child") == 7
