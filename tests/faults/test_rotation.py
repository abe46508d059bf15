"""The key of the documents is replaced while they are in use, by processes that are killed."""

from __future__ import annotations

import random
import subprocess
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from prefect_db import Backend, blocks, configuration, connect
from tests.contract.blocks import (
    many_documents,
    new_document,
    new_schema,
    read,
    stored_keys,
    under_key,
)
from tests.faults import BOUND, end_process, kill, start_process, stop_before, until
from tests.faults.report import RecordFault, compare
from tests.migrations import watched

_MANY = 3000


@pytest.fixture
def db(url: str) -> Backend:
    return connect(url)


def rotate(url: str, batch: str) -> None:
    with connect(url) as db:
        print(blocks.rotate_key(db, batch=int(batch)))


def rotate_and_stop(url: str, batch: str, text: str, time: str) -> None:
    with watched(url, stop_before(text, int(time))) as db:
        blocks.rotate_key(db, batch=int(batch))


def wait_for_go(db: Backend) -> None:
    print("ready", flush=True)
    until(lambda: configuration.get(db, "go") is not None)


def rotate_at_go(url: str) -> None:
    with connect(url) as db:
        wait_for_go(db)
        blocks.rotate_key(db, batch=1)


def create_first(url: str, number: str) -> None:
    with connect(url) as db:
        schema = blocks.find_schemas(db)[0]
        wait_for_go(db)
        blocks.create_document(
            db, f"doc-{number}", {"n": int(number)}, schema.id, schema.block_type_id
        )


def go(db: Backend, processes: list[subprocess.Popen[str]]) -> None:
    """Let them all begin at once, and end well."""
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    configuration.set(db, "go", {})
    for process in processes:
        end_process(process)


def readable(db: Backend) -> list[int]:
    found = blocks.find_documents(db, limit=None, include_secrets=True)
    return [document.data["n"] for document in found]


def check_readable(db: Backend, number: int) -> None:
    assert sorted(readable(db)) == list(range(number))


def check_done(db: Backend, number: int, former: str) -> None:
    check_readable(db, number)
    value = stored_keys(db)
    assert list(value) == ["fernet_key"]
    assert under_key(db, value["fernet_key"]) == number
    assert under_key(db, former) == 0


def test_documents_are_read_and_written_all_the_time(db: Backend) -> None:
    many_documents(db, _MANY)
    schema = blocks.find_schemas(db)[0]
    names = [f"doc-{n}" for n in range(_MANY)]
    done = threading.Event()
    rounds = {"read": 0, "created": 0, "updated": 0}

    def read_all_the_time() -> None:
        while not done.is_set():
            for document in blocks.find_documents(db, limit=50, offset=random.randrange(_MANY)):
                assert "n" in document.data
            name = random.choice(names)
            one = blocks.get_document_by_name(db, "thing", name)
            assert one is not None
            assert f"doc-{one.data['n']}" == name
            rounds["read"] += 1

    def write_all_the_time() -> None:
        while not done.is_set():
            name = f"new-{rounds['created']}"
            data = {"n": rounds["created"]}
            made = blocks.create_document(db, name, data, schema.id, schema.block_type_id)
            assert made.data == data
            rounds["created"] += 1

    def update_all_the_time() -> None:
        while not done.is_set():
            found = blocks.get_document_by_name(db, "thing", random.choice(names))
            assert found is not None
            changed = blocks.update_document(db, found.id, data={"m": found.data["n"]})
            assert changed.data == {**found.data, "m": found.data["n"]}
            rounds["updated"] += 1

    former = [stored_keys(db)["fernet_key"]]
    with db, ThreadPoolExecutor(4) as threads:
        work: list[Callable[[], None]] = [read_all_the_time, write_all_the_time]
        running = [threads.submit(each) for each in [*work, update_all_the_time, work[0]]]
        try:
            for _ in range(3):
                # Those that were updated meanwhile were encrypted by that.
                assert blocks.rotate_key(db, batch=50) > _MANY // 2
                former.append(stored_keys(db)["fernet_key"])
        finally:
            done.set()
        for each in running:
            each.result(BOUND)
        assert min(rounds.values()) > 20
        number = _MANY + rounds["created"]
        assert blocks.count_documents(db) == number
        assert [under_key(db, key) for key in former] == [0, 0, 0, number]
        assert len(set(former)) == 4
        assert list(stored_keys(db)) == ["fernet_key"]
        assert len(blocks.find_documents(db, limit=None)) == number


@pytest.mark.parametrize(
    ("text", "time"),
    [
        # The new key.
        ("INSERT INTO configuration", 1),
        ("COMMIT", 1),
        # The first batch, one in the middle, and the first that has nothing to do.
        ("UPDATE block_document", 1),
        ("COMMIT", 2),
        ("committed", 2),
        ("UPDATE block_document", 5),
        ("COMMIT", 8),
        ("committed", 13),
        # The end of the previous key.
        ("INSERT INTO configuration", 2),
        ("COMMIT", 24),
        ("committed", 24),
    ],
)
def test_a_kill_leaves_everything_readable_and_it_goes_on(
    url: str, db: Backend, text: str, time: int, record_fault: RecordFault
) -> None:
    with db:
        many_documents(db, 110)
        former = stored_keys(db)["fernet_key"]
        kill(start_process(rotate_and_stop, url, "10", text, str(time)), text)
        record_fault("killed in a rotation of the key", verdict=compare(range(110), readable(db)))
        assert under_key(db, former) + under_key(db, stored_keys(db)["fernet_key"]) >= 110
        blocks.rotate_key(db, batch=10)
        check_done(db, 110, former)


def test_kills_at_any_moment(url: str, db: Backend, record_fault: RecordFault) -> None:
    with db:
        many_documents(db, _MANY)
        for _ in range(5):
            process = start_process(rotate_and_stop, url, "20", "COMMIT", "10")
            kill(process, "COMMIT", after=0)
            former = stored_keys(db)["previous_key"]
            lost = compare(range(_MANY), readable(db)).lost
            record_fault("killed in a rotation of the key", lost=len(lost))
        assert 0 < under_key(db, former) < _MANY
        process = start_process(rotate, url, "10")
        until(lambda: under_key(db, former) < _MANY // 2)
        process.kill()
        process.communicate()
        verdict = compare(range(_MANY), readable(db))
        record_fault("killed in a rotation of the key", verdict=verdict)
        blocks.rotate_key(db)
        check_done(db, _MANY, former)


def test_two_processes_at_once(url: str, db: Backend, record_fault: RecordFault) -> None:
    with db:
        many_documents(db, _MANY)
        former = stored_keys(db)["fernet_key"]
        processes = [start_process(rotate, url, "20") for _ in range(2)]
        renewed = [int(end_process(process)) for process in processes]
        record_fault("rotations at once", times=2, verdict=compare(range(_MANY), readable(db)))
        # One key if they overlapped, two if they did not.
        assert sum(renewed) in (_MANY, 2 * _MANY)
        check_done(db, _MANY, former)


def test_a_rotation_that_was_overtaken_forgets_no_key_of_the_next_one(
    url: str, db: Backend
) -> None:
    """It stands before its last step while another one ends, and a further one begins."""
    reached, going = threading.Event(), threading.Event()
    stores = iter(range(1, 10))

    def watch(sql: str) -> None:
        # The transaction that forgets the previous key is the one that follows the last batch.
        if sql == "BEGIN" and next(stores) == 6:
            reached.set()
            assert going.wait(BOUND)

    with db, watched(url, watch) as slow, ThreadPoolExecutor(1) as threads:
        many_documents(db, 20)
        running = threads.submit(blocks.rotate_key, slow, batch=15)
        try:
            until(lambda: reached.is_set() or running.done())
            assert reached.is_set()
            blocks.rotate_key(db)
            kill(start_process(rotate_and_stop, url, "5", "COMMIT", "3"), "COMMIT")
            assert "previous_key" in stored_keys(db)
        finally:
            going.set()
        assert running.result(BOUND) == 20
        check_readable(db, 20)
        assert "previous_key" in stored_keys(db)


@pytest.mark.only("postgres", "SQLite has one writer at a time")
def test_a_rotation_waits_for_who_writes_with_the_key(db: Backend) -> None:
    with db, ThreadPoolExecutor(1) as threads:
        document = new_document(db, "a", {"n": 0})
        former = stored_keys(db)["fernet_key"]
        with db.transaction() as txn:
            blocks.create_document(
                txn, "b", {"n": 1}, document.block_schema_id, document.block_type_id
            )
            rotation = threads.submit(blocks.rotate_key, db)
            until(lambda: bool(db.value("SELECT count(*) FROM pg_locks WHERE NOT granted")))
            blocks.update_document(txn, document.id, data={"m": 0})
            assert stored_keys(db) == {"fernet_key": former}
        assert rotation.result(BOUND) == 2
        check_done(db, 2, former)


def test_who_writes_during_the_change_of_keys_waits_for_the_new_one(url: str, db: Backend) -> None:
    """The new key is stored and not committed when others begin to write."""
    reached, going = threading.Event(), threading.Event()

    def watch(sql: str) -> None:
        if sql == "COMMIT" and not reached.is_set():
            reached.set()
            assert going.wait(BOUND)

    with db, watched(url, watch) as rotating, ThreadPoolExecutor(3) as threads:
        document = new_document(db, "a", {"n": 0})
        former = stored_keys(db)["fernet_key"]
        rotation = threads.submit(blocks.rotate_key, rotating)
        try:
            until(lambda: reached.is_set() or rotation.done())
            ids = (document.block_schema_id, document.block_type_id)
            writers = [
                threads.submit(blocks.create_document, db, "b", {"n": 1}, *ids),
                threads.submit(blocks.update_document, db, document.id, data={"m": 0}),
            ]
            assert read(db, document) == {"n": 0}
            if db.dialect.name == "postgres":
                waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted"
                until(lambda: db.value(waiting) == 2)
        finally:
            going.set()
        for writer in writers:
            writer.result(BOUND)
        rotation.result(BOUND)
        check_done(db, 2, former)


def test_eight_processes_make_the_first_key_at_once(
    url: str, db: Backend, record_fault: RecordFault
) -> None:
    with db:
        new_schema(db)
        go(db, [start_process(create_first, url, str(n)) for n in range(8)])
        verdict = compare(range(8), readable(db))
        record_fault("first key made by eight processes at once", times=8, verdict=verdict)
        assert db.value("SELECT count(*) FROM configuration WHERE key <> 'go'") == 1
        assert under_key(db, stored_keys(db)["fernet_key"]) == 8


def test_a_rotation_of_nothing_beside_the_first_documents(url: str, db: Backend) -> None:
    with db:
        new_schema(db)
        rotations = [start_process(rotate_at_go, url) for _ in range(2)]
        go(db, [start_process(create_first, url, str(n)) for n in range(4)] + rotations)
        check_readable(db, 4)
        value = stored_keys(db)
        assert list(value) == ["fernet_key"]
        assert under_key(db, value["fernet_key"]) == 4
