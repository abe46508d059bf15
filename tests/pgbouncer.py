"""A PgBouncer, in transaction mode unless told otherwise, in front of a server."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from tests.faults import BOUND

_PORT: Final = 6432
_CONFIGURATION: Final = """
[databases]
* = host={host} port={to}{database}
[pgbouncer]
listen_port = {port}
unix_socket_dir = {folder}
auth_type = trust
auth_file = {folder}/users
pool_mode = transaction
max_client_conn = 2000
default_pool_size = 20
{more}
"""


@contextmanager
def pgbouncer(
    url: str,
    more: str = "",
    *,
    database: str = "",
    port: int = _PORT,
    files: Mapping[str, bytes] | None = None,
) -> Iterator[Callable[[str], str]]:
    """Gives, for the URL of a database of this server, the one by way of PgBouncer.

    Args:
        url: Of any database of a server that trusts its users.
        more: Further lines of its configuration.
        database: Further settings of its databases.
        port: Its socket's, and where `more` has it listen, that of TCP.
        files: What is put into its folder, where `more` may name it.
    """
    server = conninfo_to_dict(url)
    program = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")
    if program is None:
        pytest.fail("no PgBouncer: apt-get install pgbouncer", pytrace=False)
    # It refuses to run as root.
    nobody = pwd.getpwnam("nobody")
    user: dict[str, Any] = {}
    if os.geteuid() == 0:
        user = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
    folder = Path(tempfile.mkdtemp(prefix="prefect-db-", dir="/var/tmp"))
    try:
        (folder / "users").write_text(f'"{server["user"]}" ""\n')
        (folder / "ini").write_text(
            _CONFIGURATION.format(
                host=server["host"],
                to=server["port"],
                database=database,
                folder=folder,
                port=port,
                more=more,
            )
        )
        for name, content in (files or {}).items():
            (folder / name).write_bytes(content)
        for path in (folder, *folder.iterdir()):
            os.chown(path, user.get("user", -1), user.get("group", -1))
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(
                [program, folder / "ini"],
                stdout=log,
                stderr=log,
                cwd=folder,
                start_new_session=True,
                **user,
            )
        # Ends it when the test process was killed: its pipe then ends.
        watch = subprocess.Popen(
            ["sh", "-c", 'read _; kill "$1"; rm -rf "$2"', "sh", str(process.pid), str(folder)],
            stdin=subprocess.PIPE,
            start_new_session=True,
        )
        try:
            way = f"postgresql://{server['user']}@/{{}}?host={folder}&port={port}"
            _wait_until_ready(way.format(server["dbname"]), process, folder / "log")
            yield lambda url: way.format(conninfo_to_dict(url)["dbname"])
        finally:
            watch.kill()
            watch.communicate()
            # To it, SIGTERM is to end at once.
            process.send_signal(signal.SIGTERM)
            process.wait(BOUND)
    finally:
        shutil.rmtree(folder)


def _wait_until_ready(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + BOUND
    while True:
        try:
            psycopg.connect(url).close()
        except psycopg.OperationalError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"PgBouncer does not start:\n{log.read_text()}") from None
            time.sleep(0.02)
        else:
            return
