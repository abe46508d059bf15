"""A fork: the child gets no use of the parent's connections, does them no harm, and may connect.

Each test is a new interpreter that forks, for the threads of the tests' own process would come
to harm.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, Final, NoReturn

import pytest

from prefect_db import Backend, ForkedBackend, Queryable, connect
from tests.faults import in_process
from tests.faults.report import RecordFault, compare

_VERBS: Final[dict[str, Callable[[Backend], Any]]] = {
    "row": lambda db: db.row("SELECT 1"),
    "rows": lambda db: db.rows("SELECT 1"),
    "value": lambda db: db.value("SELECT 1"),
    "execute": lambda db: db.execute("DELETE FROM item"),
    "executemany": lambda db: db.executemany("DELETE FROM item WHERE id = ?", [(1,)]),
    "transaction": lambda db: db.transaction().__enter__(),
    "read-only transaction": lambda db: db.transaction(read_only=True).__enter__(),
    "run": lambda db: db.run(lambda txn: None),
    "stats": lambda db: db.stats(),
    "connection": lambda db: db.connection().__enter__(),
}


@pytest.fixture(autouse=True)
def db(url: str) -> Iterator[Backend]:
    with connect(url, migrate=False) as db:
        db.execute("CREATE TABLE item (id bigint NOT NULL PRIMARY KEY)")
        yield db


def test_a_child_is_refused_the_parents_backend(url: str, record_fault: RecordFault) -> None:
    in_process(_child_uses_each_verb, url)
    record_fault("forked child uses the Backend", times=len(_VERBS))


def test_a_child_that_closes_the_backend_closes_nothing_of_the_parents(
    url: str, record_fault: RecordFault
) -> None:
    in_process(_child_closes, url)
    record_fault("forked child closes the Backend")


def test_a_child_that_just_ends_harms_nothing(url: str, record_fault: RecordFault) -> None:
    in_process(_child_ends_inside_the_block, url)
    record_fault("forked child ends")


def test_a_child_is_refused_the_parents_transaction(
    url: str, db: Backend, record_fault: RecordFault
) -> None:
    in_process(_child_uses_the_transaction, url)
    record_fault("forked child uses the transaction", verdict=compare([1, 2], _ids(db)))


def test_a_child_that_leaves_the_parents_transaction_does_not_end_it(
    url: str, db: Backend, record_fault: RecordFault
) -> None:
    in_process(_child_leaves_the_transaction, url)
    record_fault("forked child leaves the transaction", verdict=compare([1, 2], _ids(db)))


def test_a_child_that_leaves_the_parents_transaction_does_not_save_it(
    url: str, db: Backend, record_fault: RecordFault
) -> None:
    in_process(_child_ends_the_transaction_well, url)
    record_fault("forked child leaves the transaction", verdict=compare([], _ids(db)))


def test_a_child_that_drops_the_parents_transaction_does_not_end_it(
    url: str, db: Backend, record_fault: RecordFault
) -> None:
    in_process(_child_drops_the_transaction, url)
    record_fault("forked child leaves the transaction", verdict=compare([1, 2], _ids(db)))


def test_a_child_has_a_backend_of_its_own_when_it_connects(
    url: str, db: Backend, record_fault: RecordFault
) -> None:
    in_process(_child_connects, url)
    verdict = compare([*range(100), *range(1000, 1100)], _ids(db))
    record_fault("forked child connects for itself", verdict=verdict)
    check = db.dialect.pick(sqlite="PRAGMA integrity_check", postgres="SELECT 'ok'")
    assert db.value(check) == "ok"


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_the_processes_of_multiprocessing_connect_for_themselves(
    url: str, db: Backend, method: str, record_fault: RecordFault
) -> None:
    in_process(_multiprocess, url, method)
    record_fault(f"multiprocessing: {method}", times=4, verdict=compare(range(40), _ids(db)))
    assert db.stats().in_use == 0


def _multiprocess(url: str, method: str) -> None:
    context: Any = multiprocessing.get_context(method)
    with connect(url, migrate=False) as db:
        _assert_sound(db)
        children = [context.Process(target=_connect_and_insert, args=(url, n)) for n in range(4)]
        for child in children:
            child.start()
        for child in children:
            child.join()
            assert child.exitcode == 0
        if method != "fork":
            with suppress(ForkedBackend):
                context.Process(target=_ids, args=(db,)).start()
                raise AssertionError("a Backend was passed to another process")
        _assert_sound(db)


def _connect_and_insert(url: str, number: int) -> None:
    with connect(url, migrate=False) as db:
        for id_ in range(number * 10, number * 10 + 10):
            _insert(db, id_)


def _child_uses_each_verb(url: str) -> None:
    with connect(url, migrate=False) as db:
        db.value("SELECT 1")

        def child() -> None:
            for name, verb in _VERBS.items():
                try:
                    verb(db)
                except ForkedBackend as error:
                    assert "connect() in the child" in str(error), error
                    assert str(os.getppid()) in str(error), error
                else:
                    raise AssertionError(f"{name} was not refused")

        _in_child(child)
        _assert_sound(db)


def _child_closes(url: str) -> None:
    with connect(url, migrate=False) as db:
        _assert_sound(db)

        def child() -> None:
            db.close()
            with suppress(KeyError), db:
                raise KeyError

        before = _sessions(db)
        _in_child(child)
        # That which `connect()` tried first may have ended since; none took the place of another.
        assert _sessions(db) <= before
        _assert_sound(db)


def _child_ends_inside_the_block(url: str) -> None:
    """Its interpreter shuts down, with all that this closes and collects."""
    with connect(url, migrate=False) as db:
        _assert_sound(db)
        before = _sessions(db)
        _in_child(sys.exit, immediately=False)
        # That which `connect()` tried first may have ended since; none took the place of another.
        assert _sessions(db) <= before
        _assert_sound(db)


def _child_uses_the_transaction(url: str) -> None:
    with connect(url, migrate=False) as db, db.transaction() as txn, txn.transaction() as inner:
        _insert(inner, 1)

        def child() -> None:
            with suppress(ForkedBackend):
                _insert(inner, 3)
                raise AssertionError("the savepoint was not refused")
            with suppress(ForkedBackend):
                txn.rollback()
                raise AssertionError("the rollback was not refused")

        _in_child(child)
        _insert(inner, 2)


def _child_leaves_the_transaction(url: str) -> None:
    with connect(url, migrate=False) as db:
        with suppress(KeyError), db.transaction() as txn, txn.transaction() as inner:
            _insert(inner, 1)
            child = os.fork()
            if not child:
                raise KeyError
            _wait_for(child)
            _insert(inner, 2)
        if not child:
            os._exit(0)
        _assert_sound(db)


def _child_ends_the_transaction_well(url: str) -> None:
    with connect(url, migrate=False) as db:
        with suppress(KeyError, ForkedBackend):
            with db.transaction() as txn:
                _insert(txn, 1)
                child = os.fork()
                if child:
                    _wait_for(child)
                    raise KeyError
        if not child:
            os._exit(0)
        _assert_sound(db)


def _child_drops_the_transaction(url: str) -> None:
    with connect(url, migrate=False) as db:
        txn = db.transaction().__enter__()
        _insert(txn, 1)

        def child() -> None:
            nonlocal txn
            del txn

        _in_child(child)
        _insert(txn, 2)
        txn.__exit__(None, None, None)
        _assert_sound(db)


def _child_connects(url: str) -> None:
    with connect(url, migrate=False) as db:
        _insert(db, 0)

        def child() -> None:
            with connect(url, migrate=False) as own:
                for n in range(1000, 1100):
                    _insert(own, n)
                _assert_sound(own)

        process = _fork(child)
        for n in range(1, 100):
            _insert(db, n)
        _wait_for(process)
        _assert_sound(db)


def _in_child(work: Callable[[], object], *, immediately: bool = True) -> None:
    _wait_for(_fork(work, immediately=immediately))


def _fork(work: Callable[[], object], *, immediately: bool = True) -> int:
    process = os.fork()
    if process == 0:
        if not immediately:
            work()
        _run_and_exit(work)
    return process


def _run_and_exit(work: Callable[[], object]) -> NoReturn:
    try:
        work()
    except BaseException:  # noqa: BLE001
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def _wait_for(process: int) -> None:
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 0


def _insert(db: Queryable, id_: int) -> None:
    db.execute("INSERT INTO item (id) VALUES (?)", (id_,))


def _ids(db: Queryable) -> list[int]:
    return [row["id"] for row in db.rows("SELECT id FROM item ORDER BY id")]


def _sessions(db: Backend) -> set[int]:
    """The server's processes that serve this one."""
    if db.dialect.name == "sqlite":
        return set()
    rows = db.rows("SELECT pid FROM pg_stat_activity WHERE datname = current_database()")
    return {row["pid"] for row in rows}


def _assert_sound(db: Backend) -> None:
    with db.transaction() as txn:
        assert txn.value("SELECT 1") == 1
    with db.transaction(read_only=True) as txn:
        assert txn.value("SELECT 2") == 2
    assert db.value("SELECT 3") == 3
    assert db.stats().in_use == 0
