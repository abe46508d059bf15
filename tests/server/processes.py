"""The processes of these tests: the example server, a real Prefect server, a real client."""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).parents[2]
_CLIENT = Path(__file__).with_name("flows_of_a_client.py")
_START = 120.0
_STOP = 60.0
_CLIENT_BOUND = 240.0
_QUIET = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_LOGGING_LEVEL": "INFO",
}
# What a Prefect server does on its own, and what takes it long to start.
_PREFECT = {
    "PREFECT_API_BLOCKS_REGISTER_ON_START": "false",
    "PREFECT_SERVER_UI_ENABLED": "false",
    **{
        f"PREFECT_SERVER_SERVICES_{name}_ENABLED": "false"
        for name in (
            "CANCELLATION_CLEANUP",
            "FOREMAN",
            "LATE_RUNS",
            "PAUSE_EXPIRATIONS",
            "REPOSSESSOR",
            "SCHEDULER",
        )
    },
}


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    content: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.content)


@dataclass
class Server:
    """A server that runs."""

    port: int
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/api"

    def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        headers: dict[str, str] | None = None,
        timeout: float = 30.0,
    ) -> Answer:
        """One request; a body that is no bytes is sent as JSON."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            content = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
            connection.request(method, f"/api{path}", content, headers or {})
            response = connection.getresponse()
            given = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, given, response.read())
        finally:
            connection.close()


@contextmanager
def example_server(url: str, folder: Path, *arguments: str, **environment: str) -> Iterator[Server]:
    """The example server on a database; it must stop when asked, with 0."""
    variables = {**_environment(folder), **environment}
    if url.startswith("sqlite:///"):
        variables["PREFECT_DATABASE_PATH"] = url.removeprefix("sqlite:///")
    else:
        variables["PREFECT_DATABASE_URL"] = url
    port = free_port()
    command = [sys.executable, "-m", "examples.server", "--port", str(port), *arguments]
    with _running(command, port, folder / "server.log", variables, cwd=_ROOT) as server:
        yield server
        if server.process.poll() is None:
            server.process.terminate()
        code = server.process.wait(_STOP)
        assert code == 0, f"it ended with {code}:\n{server.log.read_text()}"


@contextmanager
def prefect_server(url: str, folder: Path) -> Iterator[Server]:
    """A real Prefect server on an empty database of its own."""
    scheme, _, rest = url.partition("://")
    dialect = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+asyncpg"}[scheme]
    connection = {"PREFECT_API_DATABASE_CONNECTION_URL": f"{dialect}://{rest}"}
    port = free_port()
    application = "prefect.server.api.server:create_app"
    command = [sys.executable, "-m", "uvicorn", "--factory", application, "--port", str(port)]
    variables = {**_environment(folder), **_PREFECT, **connection}
    with _running(command, port, folder / "prefect.log", variables, cwd=folder) as server:
        yield server
        server.process.terminate()
        server.process.wait(_STOP)


def run_client(server: Server, folder: Path) -> None:
    """Run flows with a real client against a server."""
    done = subprocess.run(
        [sys.executable, _CLIENT],
        env={**_environment(folder), "PREFECT_API_URL": server.url},
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=_CLIENT_BOUND,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}\n{server.log.read_text()}"


def _environment(folder: Path) -> dict[str, str]:
    """This process's environment, with nothing in it of the user's own Prefect or database."""
    home = folder / "prefect-home"
    home.mkdir(exist_ok=True)
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("PG", "PREFECT_"))
    }
    return {**kept, **_QUIET, "PREFECT_HOME": str(home), "PYTHONPATH": str(_ROOT)}


@contextmanager
def _running(
    command: list[str], port: int, log: Path, variables: dict[str, str], *, cwd: Path
) -> Iterator[Server]:
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=variables, cwd=cwd
        )
    try:
        server = Server(port, process, log)
        _wait_until_ready(server)
        yield server
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


def _wait_until_ready(server: Server) -> None:
    deadline = time.monotonic() + _START
    while True:
        try:
            if server.call("GET", "/health").status == 200:
                return
        except OSError:
            pass
        ended = server.process.poll() is not None
        assert not ended, f"the server ended:\n{server.log.read_text()}"
        assert time.monotonic() < deadline, f"the server does not start:\n{server.log.read_text()}"
        time.sleep(0.1)
