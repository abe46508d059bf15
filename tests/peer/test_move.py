"""A database of ours becomes one that a Prefect server can run on."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from prefect.server import models
from prefect.server.schemas import states as prefect_states

from prefect_db import Backend, blocks, connect, events, flow_runs, flows, logs, states, task_runs
from tests.peer.prefect_peer import Prefect

PROGRAM = Path(__file__).parents[2] / "examples" / "move_to_prefect.py"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(PROGRAM), *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def fill(db: Backend) -> None:
    flow = flows.create(db, "etl ü ?", tags=["x"])
    parent = flow_runs.create(db, flow.id, state=states.running())
    task = task_runs.create(db, "sub", "sub", "0", flow_run_id=parent.id, state=states.running())
    child = flow_runs.create(db, flow.id, parent_task_run_id=task.id, parameters={"n": [1.5, "ü"]})
    flow_runs.set_state(db, child.id, states.completed(data={"storage_key": "k"}))
    for number in range(2500):
        flow_runs.create(db, flow.id, idempotency_key=str(number))
    logs.write(db, [logs.make("run", 20, "line", datetime.now(UTC), flow_run_id=child.id)])
    events.write(db, [events.make("happened", {"prefect.resource.id": "r"})])
    block_type = blocks.create_type(db, "T", "t")
    schema = blocks.create_schema(db, {"title": "T", "properties": {}}, block_type.id)
    blocks.create_document(db, "doc", {"secret": "s3cret"}, schema.id, block_type.id)


@pytest.fixture
def filled(db: Backend) -> Backend:
    fill(db)
    return db


def test_everything_is_there(
    filled: Backend, managed_url: str, managed: Backend, prefect: Prefect
) -> None:
    done = run(own_url(filled), managed_url)
    assert (done.returncode, done.stderr) == (0, "")
    assert "flow_run: 2502" in done.stdout
    for table in ("flow", "flow_run", "flow_run_state", "task_run", "task_run_state", "artifact"):
        rows = f"SELECT * FROM {table} ORDER BY id"
        ours = [dict(row) for row in filled.rows(rows)]
        assert [dict(row) for row in managed.rows(rows)] == ours
        assert ours
    child = filled.value("SELECT id FROM flow_run WHERE parent_task_run_id IS NOT NULL")
    stored = prefect.read(models.flow_runs.read_flow_run, child)
    assert stored.parameters == {"n": [1.5, "ü"]}
    assert stored.state.data == {"storage_key": "k"}
    document = prefect.read(
        models.block_documents.read_block_document_by_name,
        name="doc",
        block_type_slug="t",
        include_secrets=True,
    )
    assert document.data == {"secret": "s3cret"}
    result = prefect.write(
        models.flow_runs.set_flow_run_state,
        flow_run_id=child,
        state=prefect_states.Running(),
        force=True,
    )
    assert result.status == "ACCEPT"


def own_url(db: Backend) -> str:
    if db.dialect.name == "sqlite":
        return f"sqlite:///{db.value('SELECT file FROM pragma_database_list')}"
    with db.connection() as native:
        return f"postgresql://postgres@/{native.info.dbname}?host={native.info.host}&port=5432"


def test_it_is_refused_where_there_is_something(filled: Backend, managed_url: str) -> None:
    with connect(managed_url) as db:
        flows.create(db, "theirs")
    done = run(own_url(filled), managed_url)
    assert done.returncode == 2
    assert "not a fresh database" in done.stderr


def test_ours_is_no_target(filled: Backend, tmp_path: Path) -> None:
    done = run(own_url(filled), own_url(filled))
    assert done.returncode == 2
    assert "not a fresh database" in done.stderr


def test_a_failure_leaves_the_target_empty(filled: Backend, managed_url: str) -> None:
    with connect(managed_url) as db:
        blocks.create_type(db, "Other", "t")
    done = run(own_url(filled), managed_url)
    assert done.returncode == 1
    assert "block_type" in done.stderr
    assert "Traceback" not in done.stderr
    with connect(managed_url) as db:
        assert flows.count(db) == 0


def test_two_kinds_are_refused(filled: Backend, tmp_path: Path) -> None:
    other = "sqlite:///" + str(tmp_path / "other.db")
    done = run(own_url(filled), other if filled.dialect.name == "postgres" else "nonsense")
    assert done.returncode in (1, 2)
    assert "Traceback" not in done.stderr


def test_wrong_arguments() -> None:
    assert run().returncode == 2
