"""Every snippet of docs/embedding.md runs as it stands: programs end well, servers answer."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

import pytest

from prefect_db import connect, flow_runs, flows
from tests.faults import BOUND, until
from tests.faults.report import RecordFault

_ROOT: Final = Path(__file__).parents[2]
_SNIPPETS: Final = dict(
    re.findall(
        r"^```python\n# (\w+\.py)\n(.*?)^```$",
        (_ROOT / "docs/embedding.md").read_text(),
        re.MULTILINE | re.DOTALL,
    )
)


@pytest.fixture(autouse=True)
def _files(tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, snippet in _SNIPPETS.items():
        (tmp_path / name).write_text(snippet)
    monkeypatch.setenv("PREFECT_DATABASE_URL", url)
    monkeypatch.setenv("DATABASE_URL", url)
    monkeypatch.setenv("PYTHONPATH", str(_ROOT))


@pytest.mark.only("sqlite", "it looks at the document alone")
def test_every_snippet_is_run(backend_name: str) -> None:
    tested = Path(__file__).read_text()
    document = (_ROOT / "docs/embedding.md").read_text()
    assert len(_SNIPPETS) == document.count("```python\n") == 8
    assert [name for name in _SNIPPETS if name.removesuffix(".py") not in tested] == []


@pytest.mark.direct("its program connects as one does without PgBouncer")
def test_fastapi(tmp_path: Path, url: str) -> None:
    with _server(tmp_path, "uvicorn", "fastapi_app:app", "--port={port}") as address:
        assert _json(f"{address}/flows") == []
        started = _json(f"{address}/flows/nightly/runs", "POST")
        assert started["state"] == "Pending"
        assert _json(f"{address}/flows/nightly/runs", "POST")["id"] != started["id"]
        assert _json(f"{address}/flows") == ["nightly"]
    with connect(url) as db:
        assert flow_runs.count(db) == 2


@pytest.mark.direct("its program connects as one does without PgBouncer")
def test_flask_under_gunicorn(tmp_path: Path, url: str) -> None:
    with _gunicorn(tmp_path) as address:
        assert _json(f"{address}/flows") == []
        ids = {_json(f"{address}/flows/nightly", "POST")["id"] for _ in range(10)}
        assert len(ids) == 1
        assert _json(f"{address}/flows") == ["nightly"]
    with connect(url) as db:
        assert [flow.name for flow in flows.find(db)] == ["nightly"]


@pytest.mark.direct("its program connects as one does without PgBouncer")
def test_flask_connected_before_the_fork(tmp_path: Path, record_fault: RecordFault) -> None:
    with _gunicorn(tmp_path, "--preload") as address, pytest.raises(HTTPError, match="500"):
        _json(f"{address}/flows")
    assert re.search(
        r"ForkedBackend: opened by process \d+, used by process \d+: a Backend belongs to the"
        r" process that opened it; call connect\(\) in the child process",
        (tmp_path / "log").read_text(),
    )
    record_fault("gunicorn --preload, connected before the fork")


@pytest.mark.direct("its program connects as one does without PgBouncer")
def test_flask_connected_after_the_fork(
    tmp_path: Path, url: str, record_fault: RecordFault
) -> None:
    """By the hooks, in each of the workers, of an application that was loaded before."""
    hooks = ("--preload", "--config=gunicorn_hooks.py")
    with connect(url) as db:
        flows.create(db, "nightly")
    with _gunicorn(tmp_path, *hooks, app="preloaded_app:app") as address:
        for _ in range(10):
            assert _json(f"{address}/flows") == ["nightly"]
    log = (tmp_path / "log").read_text()
    assert "Error" not in log, log
    record_fault("gunicorn --preload, connected after the fork", times=2)


@pytest.mark.direct("its program connects as one does without PgBouncer")
def test_threads(tmp_path: Path, url: str) -> None:
    assert _run(tmp_path, "threads.py") == "100 runs completed\n"


@pytest.mark.direct("its program connects as one does without PgBouncer")
def test_cli(tmp_path: Path, url: str) -> None:
    _run(tmp_path, "threads.py")
    assert _run(tmp_path, "cli.py") == "0 in all\n"
    listed = _run(tmp_path, "cli.py", "COMPLETED", "--limit=3").splitlines()
    assert len(listed) == 4
    assert "Completed" in listed[0]
    assert listed[-1] == "100 in all"


def test_cli_says_what_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_DATABASE_URL", "ftp://user:secret@host/x")
    done = _python(tmp_path, "cli.py")
    assert done.returncode == 1
    assert done.stderr.startswith("error: PREFECT_DATABASE_URL is ftp://user:***@host/x")


@pytest.mark.only("postgres", "SQLite has no pools of connections")
def test_host_pool(tmp_path: Path) -> None:
    assert _run(tmp_path, "host_pool.py") == "[('pooled',)] False\n"


@pytest.mark.only("sqlite", "the snippet has a file of its own")
def test_wrapped(tmp_path: Path) -> None:
    assert _run(tmp_path, "wrapped.py") == "[('wrapped',)]\n"


def _run(folder: Path, *arguments: str) -> str:
    done = _python(folder, *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def _python(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=BOUND,
        check=False,
    )


def _gunicorn(folder: Path, *options: str, app: str = "flask_app:create_app()") -> Any:
    return _server(
        folder,
        "gunicorn",
        "--workers=2",
        "--threads=4",
        "--bind=127.0.0.1:{port}",
        *options,
        app,
    )


@contextmanager
def _server(folder: Path, *command: str) -> Iterator[str]:
    """The address of a server, which is stopped by SIGTERM after the block."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    arguments = [part.format(port=port) for part in command]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", *arguments], cwd=folder, stdout=log, stderr=log
        )
    address = f"http://127.0.0.1:{port}"
    try:
        until(lambda: server.poll() is not None or _answers(address))
        assert server.poll() is None, (folder / "log").read_text()
        yield address
    finally:
        os.kill(server.pid, signal.SIGTERM)
        try:
            code = server.wait(BOUND)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()
            raise
    # uvicorn cleans up, and then ends by the signal.
    assert code in (0, -signal.SIGTERM), (folder / "log").read_text()


def _answers(address: str) -> bool:
    try:
        urlopen(f"{address}/nothing", timeout=5).close()
    except HTTPError as error:
        error.close()
        return True
    except (URLError, OSError):
        return False
    return True


def _json(address: str, method: str = "GET") -> Any:
    with urlopen(Request(address, method=method), timeout=BOUND) as response:
        return json.load(response)
