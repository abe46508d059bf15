"""An unmodified Prefect client does the same things against the example server and against a real
Prefect server, and the two databases then hold the same."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import pytest

from prefect_db.testing import create_database
from tests.server.accounts import Account, account
from tests.server.processes import example_server, prefect_server, run_client

# Seconds. Prefect's server stores events and task runs some seconds after it has got them.
_SETTLING = 60.0


@dataclass
class Outcome:
    ours: Account
    prefects: Account


@pytest.fixture(scope="module")
def outcome(
    backend_name: str, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Outcome]:
    """What both have stored of one run of the client."""
    with ExitStack() as stack:
        folders = [tmp_path_factory.mktemp(name) for name in ("ours", "prefects")]
        if backend_name == "sqlite":
            urls = [f"sqlite:///{folder}/test.db" for folder in folders]
        else:
            server_url = request.getfixturevalue("postgres_url")
            urls = [stack.enter_context(create_database(server_url)) for _ in folders]
        with example_server(urls[0], folders[0]) as server:
            run_client(server, folders[0])
        ours = account(urls[0])
        with prefect_server(urls[1], folders[1]) as server:
            run_client(server, folders[1])
            deadline = time.monotonic() + _SETTLING
            while (prefects := account(urls[1])) != ours and time.monotonic() < deadline:
                time.sleep(1)
        yield Outcome(ours, prefects)


def test_flows(outcome: Outcome) -> None:
    assert len(outcome.ours.flows) == 9
    assert outcome.ours.flows == outcome.prefects.flows


def test_flow_runs_and_their_states(outcome: Outcome) -> None:
    assert len(outcome.ours.flow_runs) == 10
    assert outcome.ours.flow_runs == outcome.prefects.flow_runs


def test_task_runs_and_their_states(outcome: Outcome) -> None:
    assert len(outcome.ours.task_runs) == 11
    assert outcome.ours.task_runs == outcome.prefects.task_runs


def test_logs(outcome: Outcome) -> None:
    assert outcome.ours.logs
    assert outcome.ours.logs == outcome.prefects.logs


def test_blocks(outcome: Outcome) -> None:
    assert len(outcome.ours.blocks) == 3
    assert outcome.ours.blocks == outcome.prefects.blocks


def test_events(outcome: Outcome) -> None:
    assert outcome.ours.events
    assert outcome.ours.events == outcome.prefects.events
