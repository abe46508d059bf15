"""The page at /, in a real browser."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen
from uuid import UUID, uuid4

import pytest

from prefect_db import Backend, connect, events, flow_runs, flows, logs, states, task_runs
from prefect_db.flow_runs import FlowRun
from tests.server.browser import chromium
from tests.server.processes import Server, example_server

SCRIPT = "<script>document.title = 'broken in'</script>"


def fill(db: Backend) -> FlowRun:
    """A run with task runs in several states, a log and an event, all with odd names."""
    flow = flows.create(db, f"etl & {SCRIPT}")
    run = flow_runs.create(
        db, flow.id, name=f"first {SCRIPT}", tags=[SCRIPT], state=states.running(message=SCRIPT)
    )
    for number, state in enumerate(
        [states.pending(), states.running(), states.completed(), states.failed(name=SCRIPT)]
    ):
        task = task_runs.create(db, f"task-{number} {SCRIPT}", "t", str(number), flow_run_id=run.id)
        task_runs.set_state(db, task.id, state)
    logs.write(
        db, [logs.make("run", 40, f"it failed {SCRIPT}", datetime.now(UTC), flow_run_id=run.id)]
    )
    events.write(
        db,
        [
            events.make(
                f"thing.happened {SCRIPT}", {"prefect.resource.id": f"prefect.flow-run.{run.id}"}
            )
        ],
    )
    return run


def page(server: Server, query: str = "") -> tuple[int, str]:
    with urlopen(f"http://127.0.0.1:{server.port}/{query}", timeout=30) as answer:
        return answer.status, answer.read().decode()


def test_an_empty_database(server: Server) -> None:
    status, html = page(server)
    assert status == 200
    assert "Nothing has run yet" in html


def test_whatever_is_stored_is_text(server: Server, stored: str) -> None:
    with connect(stored) as db:
        run = fill(db)
        flow_runs.create(db, run.flow_id, name="without a state")
    status, html = page(server, f"?run={run.id}")
    assert status == 200
    assert html.count("<script>") == 1
    assert html.count("&lt;script&gt;") >= 8
    for text in ("task-0", "task-3", "it failed", "thing.happened", "without a state", "No state"):
        assert text in html


def test_a_run_where_a_client_says_that_it_is(server: Server, stored: str) -> None:
    with connect(stored) as db:
        run = fill(db)
        flow_runs.create(db, run.flow_id, name="newer", state=states.running())
    assert "<h2>first " in page(server, f"runs/flow-run/{run.id}")[1]
    assert "<h2>newer</h2>" in page(server)[1]


@pytest.mark.parametrize("chosen", [str(uuid4()), str(UUID(int=0))])
def test_a_run_that_is_not_there(server: Server, chosen: str) -> None:
    assert f"There is no flow run {chosen}." in page(server, f"?run={chosen}")[1]


def test_what_is_no_run(server: Server) -> None:
    with pytest.raises(HTTPError) as caught:
        page(server, "?run=x")
    with caught.value as answer:
        assert answer.code == 404


def test_it_is_refreshed_while_one_looks(server: Server, stored: str, tmp_path: Path) -> None:
    with connect(stored) as db, chromium(tmp_path) as browser:
        run = fill(db)
        browser.open(f"http://127.0.0.1:{server.port}/?run={run.id}")
        assert browser.value("document.title") != "broken in"
        assert browser.value("document.querySelectorAll('.timeline .bar').length") == 3
        assert "Running" in browser.text()
        browser.value("window.marked = true")
        flow_runs.set_state(db, run.id, states.completed(name="Wonderful"))
        other = flow_runs.create(db, run.flow_id, name="second-run", state=states.failed())
        logs.write(db, [logs.make("run", 20, "a new line", datetime.now(UTC), flow_run_id=run.id)])
        for text in ("Wonderful", "second-run", "a new line"):
            browser.wait_for(f"document.body.innerText.includes({text!r})")
        assert browser.value("window.marked") is True, "it was loaded anew"
        browser.value(f"document.querySelector('a[href$=\"{other.id}\"]').click()")
        browser.wait_for("document.querySelector('.title h2').innerText == 'second-run'")
        browser.screenshot(tmp_path / "page.png")
        assert (tmp_path / "page.png").stat().st_size > 20_000


def test_a_server_that_is_gone_is_told(url: str, tmp_path: Path) -> None:
    with example_server(url, tmp_path) as server, chromium(tmp_path) as browser:
        browser.open(f"http://127.0.0.1:{server.port}/")
        assert not re.search("does not answer", browser.text())
        server.process.terminate()
        server.process.wait(30)
        browser.wait_for("document.body.innerText.includes('does not answer')")
