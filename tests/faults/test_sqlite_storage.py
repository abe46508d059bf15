"""SQLite's file under faults: a full disk, no permission, damage, the lock of another process.

An error says what is wrong, nothing half-written stays, and the Backend goes on as soon as the
cause is gone."""

from __future__ import annotations

import itertools
import os
import random
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import pytest

from prefect_db import (
    Backend,
    Busy,
    ConfigurationError,
    Error,
    MigrationError,
    Retryable,
    StorageError,
    Transaction,
    Unavailable,
    connect,
    diagnostics,
    events,
    flows,
)
from prefect_db.testing import Ledger, judge
from tests.faults import BOUND, end_process, in_process, reach, start_process, until
from tests.faults.report import RecordFault
from tests.migrations.test_killed import batch

pytestmark = pytest.mark.only("sqlite", "PostgreSQL has a server, and no file of ours")

_NOBODY: Final = 65534
_PAGE: Final = 4096
# Bytes of a small disk, or of each file of a bounded one; and what SQLite calls them when full.
_DISK: Final = 3 * 2**20
_FULL: Final = (str(sqlite3.SQLITE_FULL), str(sqlite3.SQLITE_IOERR_WRITE))
_ON_SMALL_DISK: Final = (
    "unshare",
    "-rm",
    "sh",
    "-c",
    f'mount -t tmpfs -o size={_DISK} none "$0" && exec "$@"',
)


def _may_mount() -> bool:
    with tempfile.TemporaryDirectory() as folder:
        command = [*_ON_SMALL_DISK, folder, "true"]
        try:
            return subprocess.run(command, capture_output=True, check=False).returncode == 0
        except FileNotFoundError:
            return False


_MOUNTABLE: Final = pytest.mark.needs(_may_mount(), "to mount a file system of one's own")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "test.db"


@pytest.fixture
def db(path: Path) -> Iterator[Backend]:
    with connect(f"sqlite:///{path}") as db:
        yield db
        assert db.stats().in_use == 0


@pytest.fixture
def public() -> Iterator[Path]:
    """A folder that somebody without privileges can look into."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    folder.chmod(0o755)
    shutil.rmtree(folder)


class TestFullDisk:
    """How SQLite says it differs: within its own limit it is SQLITE_FULL, as on a full disk; where
    the file may not grow it is an I/O error, which comes with the COMMIT that writes the log."""

    def test_a_statement(self, db: Backend, record_fault: RecordFault) -> None:
        written = 0
        with _page_limit(db, 40):
            with pytest.raises(StorageError, match="free space") as caught:
                for written in range(10_000):
                    flows.create(db, _long(written))
            assert caught.value.code == str(sqlite3.SQLITE_FULL)
            assert not isinstance(caught.value, Retryable)
            with pytest.raises(StorageError):
                flows.create(db, _long(-1))
        lost = written - flows.count(db)
        record_fault("disk full in a statement", times=2, acknowledged=written, lost=lost)
        _goes_on(db, written)

    @pytest.mark.parametrize("swallowed", [False, True])
    def test_a_transaction(self, db: Backend, swallowed: bool) -> None:
        """After SQLITE_FULL, SQLite may have rolled back by itself, or only the statement."""
        flows.create(db, "before")
        with _page_limit(db, 40):
            with pytest.raises(Error) as caught, db.transaction() as txn:
                for number in range(10_000):
                    try:
                        flows.create(txn, _long(number))
                    except StorageError:
                        if not swallowed:
                            raise
                        break
            assert swallowed != isinstance(caught.value, StorageError)
            assert [flow.name for flow in flows.find(db)] == ["before"]
        _goes_on(db, 1)

    def test_a_batch(self, db: Backend) -> None:
        with _page_limit(db, 40), pytest.raises(StorageError):
            events.write(db, batch(0))
        assert db.value("SELECT count(*) FROM events") == 0
        assert db.value("SELECT count(*) FROM event_resources") == 0
        assert events.write(db, batch(0)) == len(batch(0))
        _goes_on(db, 0)

    def test_the_commit(self, path: Path, record_fault: RecordFault) -> None:
        assert in_process(fill_up_to_the_limit_of_a_file, str(path)) == "COMMIT\n"
        record_fault("disk full in COMMIT", times=3, acknowledged=1)

    def test_a_migration(self, path: Path) -> None:
        in_process(migrate_on_a_full_disk, str(path))

    @pytest.mark.parametrize("disk", [pytest.param("small", marks=_MOUNTABLE), "bounded"])
    def test_a_disk(self, disk: str, tmp_path: Path, record_fault: RecordFault) -> None:
        """A real one, small, or one with a bound for each file, that SQLite's own checkpoints find
        full, too."""
        on_small_disk = [*_ON_SMALL_DISK, str(tmp_path)] if disk == "small" else []
        done = subprocess.run(
            [*on_small_disk, sys.executable, "-c", _program(fill_a_disk)],
            cwd=Path(__file__).parents[2],
            env=os.environ | {"FOLDER": str(tmp_path), "DISK": disk},
            capture_output=True,
            text=True,
            timeout=2 * BOUND,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, "")
        record_fault(f"disk full, a {disk} one", times=12, acknowledged=int(done.stdout))


def fill_up_to_the_limit_of_a_file(path: str) -> None:
    """Prints the statement that finds that the file cannot grow."""
    # Instead of being killed by it, be told.
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    with connect(f"sqlite:///{path}") as db:
        flows.create(db, "before")
        unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
        size = Path(f"{path}-wal").stat().st_size
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 5000, unlimited[1]))
        for _ in range(2):
            try:
                with db.transaction() as txn:
                    for number in range(20):
                        flows.create(txn, _long(number))
            except StorageError as error:
                failed = error
            assert [flow.name for flow in flows.find(db)] == ["before"]
        try:
            db.run(lambda txn: flows.create(txn, _long(0) * 10))
            raise AssertionError("there was space")
        except StorageError:
            pass
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
        _goes_on(db, 1)
        assert db.stats().in_use == 0
    print(failed.sql)


def migrate_on_a_full_disk(path: str) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, unlimited[1]))
    try:
        connect(f"sqlite:///{path}")
        raise AssertionError("there was space")
    except (StorageError, MigrationError) as error:
        assert "disk" in str(error), error
    resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    with connect(f"sqlite:///{path}", migrate=False) as db:
        assert db.value("SELECT count(*) FROM sqlite_master") == 0
    with connect(f"sqlite:///{path}") as db:
        _goes_on(db, 0)


# Mounts, for itself alone, a file system of 3 MB, and runs the rest of its arguments.
def _program(function: Any) -> str:
    name = function.__name__
    return f"import os; from {function.__module__} import {name}; {name}(os.environ['FOLDER'])"


@contextmanager
def _full_disk(folder: Path, kept_free: int) -> Iterator[None]:
    """A disk that has less space, by so much, until the block ends."""
    if os.environ["DISK"] == "small":
        filler = folder / "filler"
        filler.write_bytes(b"x" * kept_free)
        yield
        filler.unlink()
    else:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (_DISK - kept_free, unlimited[1]))
        yield
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)


def fill_a_disk(folder: str) -> None:
    """Write until it is full, several times over; each time some of it is freed."""
    with connect(f"sqlite:///{folder}/test.db") as db:
        written = 0
        for kept_free in (1_000_000, 500_000, 200_000):
            with _full_disk(Path(folder), kept_free):
                try:
                    while True:
                        flows.create(db, _long(written))
                        written += 1
                except StorageError as error:
                    assert error.code in _FULL, error
                for _ in range(3):
                    try:
                        with db.transaction() as txn:
                            for number in range(100):
                                flows.create(txn, _long(-number))
                        raise AssertionError("there was space")
                    except StorageError:
                        pass
                assert flows.count(db) == written
            flows.create(db, _long(written))
            written += 1
            assert flows.count(db) == written
        assert written > 100
        assert db.value("PRAGMA integrity_check") == "ok"
        assert db.stats().in_use == 0
    with connect(f"sqlite:///{folder}/test.db") as db:
        assert flows.count(db) == written
    print(written)


class TestPermission:
    """As somebody whom a file's mode stops; who runs the tests may be root, whom it does not."""

    def test_a_file(self, public: Path) -> None:
        _make(public / "test.db")
        (public / "test.db").chmod(0o444)
        assert "Permission denied" in in_process(open_as_nobody, str(public / "test.db"))

    def test_a_folder(self, public: Path) -> None:
        """SQLite cannot make the log beside the file."""
        _make(public / "test.db")
        (public / "test.db").chmod(0o666)
        public.chmod(0o555)
        output = in_process(open_as_nobody, str(public / "test.db"))
        assert "readonly database; name a SQLite database that can be written" in output

    def test_a_new_file_in_it(self, public: Path) -> None:
        public.chmod(0o555)
        output = in_process(open_as_nobody, str(public / "new.db"))
        assert "a folder that exists and can be written" in output

    def test_a_folder_that_may_not_be_entered(self, public: Path) -> None:
        (public / "closed").mkdir()
        _make(public / "closed" / "test.db")
        (public / "closed").chmod(0o700)
        if os.geteuid() != 0:
            (public / "closed").chmod(0o000)
        output = in_process(open_as_nobody, str(public / "closed" / "test.db"))
        assert "Permission denied" in output
        (public / "closed").chmod(0o700)


def open_as_nobody(path: str) -> None:
    """Prints what connect() says."""
    connect(":memory:").close()  # what must be imported is, while its folder can be read
    if os.geteuid() == 0:
        os.setgid(_NOBODY)
        os.setuid(_NOBODY)
    for migrate in (True, False):
        try:
            connect(f"sqlite:///{path}", migrate=migrate)
            raise AssertionError("it was opened")
        except ConfigurationError as error:
            assert path in str(error)
            print(error)


def test_too_many_open_files(path: Path) -> None:
    """Who needs another connection is told that there is none now; all others go on."""
    in_process(work_without_files, str(path))


def work_without_files(path: str) -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))
    with connect(f"sqlite:///{path}") as db:
        flows.create(db, "before")
        assert flows.count(db) == 1
        files: list[int] = []
        try:
            while True:
                files.append(os.open(os.devnull, os.O_RDONLY))
        except OSError:
            pass
        for number in range(3):
            try:
                db.run(flows.count, 2, read_only=True)
                raise AssertionError("it was opened")
            except Unavailable as error:
                assert "unable to open" in str(error)
            flows.create(db, f"without {number}")
            assert flows.count(db) == number + 2
        for file in files:
            os.close(file)
        assert db.run(flows.count, read_only=True) == 4
        assert db.stats().in_use == 0


class TestLock:
    """Another process holds the write lock: for shorter than busy_timeout, and for longer."""

    def test_shorter_is_waited_for(
        self, path: Path, db: Backend, record_fault: RecordFault
    ) -> None:
        for number in range(3):
            with _started(hold_the_lock, "held", str(path), "0.5") as holder:
                began = time.monotonic()
                flows.create(db, f"flow {number}")
                took = time.monotonic() - began
                assert flows.count(db) == 2 * (number + 1), "the holder's came first"
                assert end_process(holder) == "released\n"
            record_fault("write lock held for 0.5 s by another", acknowledged=1, recovery=took)

    def test_longer_is_busy_and_nothing_is_written(self, path: Path, db: Backend) -> None:
        with (
            _started(hold_the_lock, "held", str(path), "1000"),
            connect(f"sqlite:///{path}", busy_timeout=0.2) as impatient,
        ):
            with pytest.raises(Busy, match="wait longer"):
                flows.create(impatient, "a")
            with pytest.raises(Busy):
                impatient.run(lambda txn: flows.create(txn, "b"), 3)
            assert flows.count(impatient) == 0
            assert impatient.stats().in_use == 0
        flows.create(db, "after its death")
        assert [flow.name for flow in flows.find(db)] == ["after its death"]

    @pytest.mark.parametrize("mode", ["delete", "wal"])
    def test_who_opens_a_locked_file_waits(self, path: Path, mode: str) -> None:
        """Not only who writes: the lock may keep out readers, too."""
        with closing(sqlite3.connect(path)) as native:
            native.execute(f"PRAGMA journal_mode = {mode}")
            native.execute("CREATE TABLE item (id INTEGER PRIMARY KEY)")
        with _started(keep_everyone_out, "held", str(path), "0.5") as holder:
            with connect(f"sqlite:///{path}", migrate=False) as db:
                assert db.value("SELECT count(*) FROM item") == 1
            assert end_process(holder) == ""

    def test_who_opens_a_file_that_stays_locked_is_told(self, path: Path) -> None:
        with closing(sqlite3.connect(path, isolation_level=None)) as native:
            native.execute("CREATE TABLE item (id INTEGER PRIMARY KEY)")
            native.execute("BEGIN EXCLUSIVE")
            with pytest.raises(Busy, match="wait longer"):
                connect(f"sqlite:///{path}", migrate=False, busy_timeout=0.2)
            native.execute("COMMIT")

    def test_another_backend_of_the_process_ends_no_lock(
        self, path: Path, db: Backend, record_fault: RecordFault
    ) -> None:
        """Who closes a file ends all locks of its process on it, as POSIX has it: then a process
        that comes and goes takes itself for the last one, and deletes the log under the others."""
        for number in range(3):
            flows.create(db, f"flow {number}")
            connect(f"sqlite:///{path}").close()
            assert in_process(read_and_go, str(path)) == f"{number + 1}\n"
            assert Path(f"{path}-wal").exists()
        record_fault("another process closes the file", times=3, acknowledged=3)

    def test_a_reader_that_stays_does_not_stop_writers(self, path: Path, db: Backend) -> None:
        """It keeps the log from being moved into the file, and so from beginning anew; when it
        goes, the log no longer grows."""
        log = Path(f"{path}-wal")
        flows.create(db, "first")
        with _started(read_and_stay, "1", str(path)) as reader:
            until(lambda: _write_megabyte(db) and log.stat().st_size >= _LONG_LOG)
            assert end_process(reader) == ""
        grown = log.stat().st_size
        for _ in range(10):
            _write_megabyte(db)
        # One write may come before the log begins anew.
        assert log.stat().st_size <= grown + 1_500_000
        assert db.value("PRAGMA integrity_check") == "ok"


_LONG_LOG: Final = 8_000_000


def hold_the_lock(path: str, seconds: str) -> None:
    """Has the write lock for so long, and then writes."""
    with closing(sqlite3.connect(path, isolation_level=None)) as native:
        native.execute("BEGIN IMMEDIATE")
        native.execute("INSERT INTO flow (name) VALUES (?)", (f"of {os.getpid()}",))
        print("held", flush=True)
        time.sleep(float(seconds))
        native.execute("COMMIT")
    print("released", flush=True)


def keep_everyone_out(path: str, seconds: str) -> None:
    """Has a lock for so long that lets nobody read, as SQLite takes it for a recovery."""
    with closing(sqlite3.connect(path, isolation_level=None)) as native:
        native.execute("PRAGMA locking_mode = EXCLUSIVE")
        native.execute("BEGIN EXCLUSIVE")
        native.execute("INSERT INTO item (id) VALUES (1)")
        print("held", flush=True)
        time.sleep(float(seconds))
        native.execute("COMMIT")


def read_and_go(path: str) -> None:
    with closing(sqlite3.connect(path)) as native:
        (number,) = native.execute("SELECT count(*) FROM flow").fetchone()
    print(number)


def read_and_stay(path: str) -> None:
    """Reads, and stays in its snapshot until much has been written."""
    with connect(f"sqlite:///{path}", migrate=False) as db, db.transaction(read_only=True) as txn:
        print(flows.count(txn), flush=True)
        log = Path(f"{path}-wal")
        until(lambda: log.stat().st_size >= _LONG_LOG)
        assert flows.count(txn) == 1


class TestAnotherFile:
    """SQLite would go on with the old one, and say that all is saved."""

    _WRITES: Final[dict[str, Callable[[Backend], object]]] = {
        "execute": lambda db: db.execute("DELETE FROM flow"),
        "executemany": lambda db: db.executemany("DELETE FROM flow WHERE name = ?", [("a",)]),
        "transaction": lambda db: db.transaction().__enter__(),
        "read-only transaction": lambda db: db.transaction(read_only=True).__enter__(),
        "run": lambda db: db.run(lambda txn: flows.create(txn, "b")),
        "entity": lambda db: flows.create(db, "b"),
        "connection": lambda db: db.connection().__enter__(),
    }

    @pytest.mark.parametrize("write", _WRITES)
    @pytest.mark.parametrize("how", ["deleted", "replaced"])
    def test_it_is_noticed(self, path: Path, how: str, write: str) -> None:
        other = path.with_name("other.db")
        _make(other)
        with connect(f"sqlite:///{path}") as db:
            flows.create(db, "a")
            if how == "deleted":
                path.unlink()
            else:
                other.replace(path)
            _until_looked_at_again()
            for _ in range(2):
                with pytest.raises(Unavailable, match=r"test\.db was deleted or replaced"):
                    self._WRITES[write](db)
            assert db.stats().in_use == 0
        for end in ("-wal", "-shm"):
            Path(f"{path}{end}").unlink(missing_ok=True)
        with connect(f"sqlite:///{path}") as again:
            assert flows.count(again) == 0
            flows.create(again, "c")

    def test_one_that_is_put_back_is_gone_on_with(self, path: Path, db: Backend) -> None:
        flows.create(db, "a")
        aside = path.with_name("aside")
        path.rename(aside)
        _until_looked_at_again()
        with pytest.raises(Unavailable):
            flows.create(db, "b")
        aside.rename(path)
        flows.create(db, "b")
        assert [flow.name for flow in flows.find(db)] == ["a", "b"]

    def test_one_that_was_never_in_wal(self, path: Path) -> None:
        """SQLite itself notices, when it wants to write the journal beside it."""
        with closing(sqlite3.connect(path)) as native:
            native.execute("CREATE TABLE item (id INTEGER PRIMARY KEY)")
        with connect(f"sqlite:///{path}", migrate=False) as db:
            with db.transaction(read_only=True) as txn:  # which looks, so that we do not again
                assert txn.value("SELECT count(*) FROM item") == 0
            path.unlink()
            with pytest.raises(Unavailable):
                db.execute("INSERT INTO item (id) VALUES (1)")


def _until_looked_at_again() -> None:
    ends = time.monotonic() + 1.1
    until(lambda: time.monotonic() > ends)


class TestDamage:
    @pytest.fixture
    def path(self, path: Path) -> Path:
        """A database with some rows, closed."""
        with connect(f"sqlite:///{path}") as db:
            events.write(db, batch(0)[:10])
            for number in range(200):
                flows.create(db, f"flow {number}")
        return path

    def test_a_page_of_a_table(self, path: Path) -> None:
        """The error says that it is damage; what is not damaged can be read and saved."""
        _damage(path, "flow")
        with connect(f"sqlite:///{path}") as damaged:
            for touch in (
                lambda: flows.find(damaged),
                lambda: flows.create(damaged, "another"),
                lambda: damaged.run(lambda txn: flows.create(txn, "another")),
            ):
                with pytest.raises(StorageError, match=r"malformed \[11\].*repair"):
                    touch()
            assert events.count(damaged) == 10
            assert damaged.stats().in_use == 0
            (integrity,) = [
                check for check in diagnostics.check(damaged) if check.name == "integrity"
            ]
            assert not integrity.ok

    def test_the_page_of_the_schema(self, path: Path) -> None:
        """As soon as it is opened, and it is not the setting's fault."""
        content = bytearray(path.read_bytes())
        content[100:_PAGE] = b"\xff" * (_PAGE - 100)
        path.write_bytes(content)
        for migrate in (True, False):
            with pytest.raises(StorageError, match="malformed"):
                connect(f"sqlite:///{path}", migrate=migrate)

    def test_a_file_that_was_cut_off(self, path: Path) -> None:
        os.truncate(path, path.stat().st_size // 2)
        with pytest.raises(StorageError), connect(f"sqlite:///{path}") as cut:
            flows.find(cut)
            cut.execute("VACUUM")

    def test_a_log_that_was_cut_off_loses_only_its_end(self, tmp_path: Path) -> None:
        """As a crash may leave it: what is whole up to there is kept."""
        path, kept = tmp_path / "first.db", tmp_path / "copy.db"
        with connect(f"sqlite:///{path}") as db:
            for number in range(50):
                flows.create(db, f"flow {number:02}")
            shutil.copyfile(path, kept)
            shutil.copyfile(f"{path}-wal", f"{kept}-wal")
        os.truncate(f"{kept}-wal", Path(f"{kept}-wal").stat().st_size - 10 * _PAGE)
        with connect(f"sqlite:///{kept}") as db:
            names = [flow.name for flow in flows.find(db)]
            assert names == [f"flow {number:02}" for number in range(len(names))]
            assert 0 < len(names) < 50
            _goes_on(db, len(names))


class TestKill:
    def test_every_acknowledged_write_is_there(
        self, tmp_path: Path, record_fault: RecordFault
    ) -> None:
        """Four processes write, one of which is killed at any moment, again and again."""
        path, ledgers = tmp_path / "test.db", tmp_path / "ledgers"
        ledgers.mkdir()
        with connect(f"sqlite:///{path}", migrate=False) as db:
            db.execute("CREATE TABLE written (key text NOT NULL)")
            kills = 12
            starts = itertools.count()

            def start() -> subprocess.Popen[str]:
                return start_process(write_on_and_on, str(path), str(ledgers / str(next(starts))))

            writers = [start() for _ in range(4)]
            try:
                until(lambda: len(list(ledgers.iterdir())) == 4)
                for victim in range(kills):
                    time.sleep(random.uniform(0.1, 0.4))
                    _kill(writers[victim % 4])
                    writers[victim % 4] = start()
            finally:
                for writer in writers:
                    _kill(writer)
            found = [row["key"] for row in db.rows("SELECT key FROM written")]
            verdict = judge(ledgers.iterdir(), found, parts=2)
            record_fault("process killed in a write", times=kills + 4, verdict=verdict)
            assert verdict.acknowledged > 100
            assert db.value("PRAGMA integrity_check") == "ok"

    def test_eight_that_start_at_once_recover_a_long_log(
        self, path: Path, record_fault: RecordFault
    ) -> None:
        """One of them does, and keeps the others out meanwhile."""
        _make(path)
        with _started(write_a_long_log, "written", str(path)) as writer:
            writer.kill()
        assert Path(f"{path}-wal").stat().st_size > 60_000_000
        starters = [start_process(open_and_count, str(path)) for _ in range(8)]
        assert [end_process(starter) for starter in starters] == ["60\n"] * 8
        record_fault("killed with a log of 60 MB", acknowledged=60)


def write_a_long_log(path: str) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as native:
        native.execute("PRAGMA wal_autocheckpoint = 0")
        native.execute("CREATE TABLE body (text text)")
        for _ in range(60):
            native.execute("INSERT INTO body (text) VALUES (hex(randomblob(500000)))")
        reach("written")


def open_and_count(path: str) -> None:
    with connect(f"sqlite:///{path}") as db:
        print(db.value("SELECT count(*) FROM body"))


def write_on_and_on(path: str, ledger: str) -> None:
    """Two rows in each transaction."""
    with connect(f"sqlite:///{path}", migrate=False) as db, Ledger(Path(ledger)) as written:
        for number in itertools.count():
            key = f"{os.getpid()}-{number}"

            def write(txn: Transaction, key: str = key) -> None:
                for _ in range(2):
                    txn.execute("INSERT INTO written (key) VALUES (?)", (key,))

            written.intend(key)
            db.run(write)
            written.acknowledge(key)


def _kill(process: subprocess.Popen[str]) -> None:
    process.kill()
    errors = process.communicate()[1]
    assert not errors, errors


@contextmanager
def _started(
    program: Callable[..., None], line: str, *args: str
) -> Iterator[subprocess.Popen[str]]:
    """A process that has printed this line; it is killed at the end of the block."""
    process = start_process(program, *args)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == f"{line}\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def _make(path: Path) -> None:
    connect(f"sqlite:///{path}").close()


def _long(number: int) -> str:
    return f"{number} {'x' * 900}"


def _write_megabyte(db: Backend) -> bool:
    # SQLite writes only what is not there yet.
    labels = {"a": random.choice("abcdefghij") * 1_000_000}
    return db.execute("UPDATE flow SET labels = ?", (labels,)) == 1


def _damage(path: Path, table: str) -> None:
    """Overwrite the first page of a table, as a broken disk may."""
    with closing(sqlite3.connect(path)) as native:
        (root,) = native.execute(
            "SELECT rootpage FROM sqlite_master WHERE name = ?", (table,)
        ).fetchone()
    content = bytearray(path.read_bytes())
    content[(root - 1) * _PAGE : root * _PAGE] = b"\xff" * _PAGE
    path.write_bytes(content)


@contextmanager
def _page_limit(db: Backend, pages: int) -> Iterator[None]:
    """SQLite lets the file grow by so many pages at most."""

    def limit(pages: int) -> None:
        with db.connection() as native:
            native.execute(f"PRAGMA max_page_count = {pages}")

    limit(db.value("SELECT page_count FROM pragma_page_count") + pages)
    yield
    limit(2**30)


def _goes_on(db: Backend, flows_before: int) -> None:
    assert db.value("PRAGMA integrity_check") == "ok"
    flows.create(db, "after")
    with db.transaction() as txn:
        flows.create(txn, "after that")
    assert flows.count(db) == flows_before + 2
    with suppress(Error):
        db.execute("DELETE FROM flow WHERE name IN ('after', 'after that')")
    assert db.stats().in_use == 0
