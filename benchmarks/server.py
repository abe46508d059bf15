"""Requests a second of the example server and of a real Prefect server, by the same client."""

from __future__ import annotations

import asyncio
import random
import tempfile
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx

from benchmarks.harness import Line, Place, Section, WrongResult, turns
from benchmarks.load import AsyncStep, Kind, by_tasks, together
from prefect_db import connect, flow_runs, flows, states
from tests.server.processes import example_server, prefect_server

_CLIENTS: Final = 8
_RUNS: Final = 500
_PAGE: Final = 200
_BOUND: Final = 60.0
# Seconds; Uvicorn closes after 5, perhaps just when a request comes.
_KEPT: Final = 2.0


@dataclass(slots=True)
class _Contestant:
    name: str
    client: httpx.AsyncClient
    flow_id: str
    run_ids: list[str]
    refusals: int = 0


def run(place: Place) -> list[Section]:
    """One section; its samples are requests a second of all clients together."""
    return [asyncio.run(_measure(place))]


async def _measure(place: Place) -> Section:
    seconds, rounds = (0.4, 1) if place.quick else (2.0, 5)
    section = Section(
        "server",
        f"Requests by {_CLIENTS} clients at the same time",
        place.backend,
        "1/s",
        notes=[
            "The client, httpx in one process with connections kept alive, shares the machine with"
            " the server, and its own work bounds what a fast server can show."
        ],
    )
    async with AsyncExitStack() as stack:
        contestants = [
            await _started(name, server, place, stack)
            for name, server in (
                ("example server", example_server),
                ("Prefect server", prefect_server),
            )
        ]
        for what, request in _REQUESTS.items():
            line = Line(what, {each.name: [] for each in contestants})
            steps = {each.name: [_step(each, request)] * _CLIENTS for each in contestants}
            for each in contestants:
                # To warm up.
                await by_tasks(steps[each.name], seconds / 4)
            for names in turns(steps, rounds):
                for name in names:
                    loads = await by_tasks(steps[name], seconds)
                    line.samples[name].append(together(loads).rate)
            section.lines.append(line)
        section.notes += [
            f"{each.name}: {each.refusals} answers of 503, which are not counted; the client asked"
            " again at once"
            for each in contestants
            if each.refusals
        ]
    return section


async def _started(
    name: str, server: Callable[..., Any], place: Place, stack: AsyncExitStack
) -> _Contestant:
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    url = place.new_url()
    running = stack.enter_context(server(url, folder))
    with connect(url) as db:
        flow = flows.create(db, "etl")
        with db.transaction() as txn:
            run_ids = [
                str(
                    flow_runs.create(
                        txn,
                        flow.id,
                        state=states.pending(),
                        parameters={"n": number},
                        tags=["nightly"],
                    ).id
                )
                for number in range(_RUNS)
            ]
    client = await stack.enter_async_context(
        httpx.AsyncClient(
            base_url=running.url,
            timeout=_BOUND,
            limits=httpx.Limits(
                max_connections=_CLIENTS,
                max_keepalive_connections=_CLIENTS,
                keepalive_expiry=_KEPT,
            ),
        )
    )
    return _Contestant(name, client, str(flow.id), run_ids)


def _step(contestant: _Contestant, request: Callable[[_Contestant], Any]) -> AsyncStep:
    async def step() -> Kind:
        await request(contestant)
        return "read"

    return step


async def _call(server: _Contestant, method: str, path: str, body: Any = None) -> Any:
    while True:
        try:
            response = await server.client.request(method, path, json=body)
        except (httpx.ReadError, httpx.RemoteProtocolError):
            # Uvicorn closes the connection behind an answer like the one below.
            if not server.refusals:
                raise
            continue
        if response.status_code == httpx.codes.SERVICE_UNAVAILABLE:
            server.refusals += 1
            continue
        response.raise_for_status()
        return response.json()


async def _create(server: _Contestant) -> None:
    body = {
        "flow_id": server.flow_id,
        "state": {"type": "PENDING"},
        "parameters": {"n": 1},
        "tags": ["nightly"],
    }
    run = await _call(server, "POST", "/flow_runs/", body)
    _check(run["state_type"] == "PENDING" and run["parameters"] == {"n": 1}, run)


async def _set_state(server: _Contestant) -> None:
    body = {"state": {"type": "PENDING"}, "force": True}
    path = f"/flow_runs/{random.choice(server.run_ids)}/set_state"
    answer = await _call(server, "POST", path, body)
    _check(answer["status"] == "ACCEPT" and answer["state"]["type"] == "PENDING", answer)


async def _read(server: _Contestant) -> None:
    run_id = random.choice(server.run_ids)
    run = await _call(server, "GET", f"/flow_runs/{run_id}")
    _check(run["id"] == run_id and run["state"]["type"] == "PENDING", run)


async def _filter(server: _Contestant) -> None:
    body = {"flow_runs": {"state": {"type": {"any_": ["PENDING"]}}}, "limit": _PAGE}
    runs = await _call(server, "POST", "/flow_runs/filter", body)
    _check(len(runs) == _PAGE and runs[0]["state"]["type"] == "PENDING", runs)


def _check(correct: bool, answer: Any) -> None:
    if not correct:
        raise WrongResult(f"a wrong answer: {answer}")


_REQUESTS: Final = {
    "create run": _create,
    "set_state": _set_state,
    "read run": _read,
    f"filter {_PAGE} runs": _filter,
}
