"""A real Prefect's models under asyncio, with many tasks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from prefect.server import models
from prefect.server.schemas.states import Running

from benchmarks.callers import turns_of
from benchmarks.harness import WrongResult
from benchmarks.load import AsyncStep, Kind, Load, by_tasks
from tests.peer.prefect_peer import Prefect


class PrefectTasks:
    """Callers that are tasks of one event loop, as those of Prefect's server are.

    Its orchestration rules are left out: states are forced.
    """

    name = "Prefect"

    def __init__(self, prefect: Prefect, run_ids: Sequence[UUID]) -> None:
        self._prefect = prefect
        self._run_ids = run_ids
        prefect.call(self._check)

    def load(self, callers: int, writes: int, seconds: float) -> list[Load]:
        steps = [self._step(writes) for _ in range(callers)]
        return self._prefect.call(lambda: by_tasks(steps, seconds))

    def close(self) -> None:
        self._prefect.__exit__()

    def _step(self, writes: int) -> AsyncStep:
        turns = turns_of(self._run_ids, writes)

        async def step() -> Kind:
            kind, run_id = next(turns)
            await (self._write if kind == "write" else self._read)(run_id)
            return kind

        return step

    async def _read(self, run_id: UUID) -> Any:
        async with self._prefect.interface.session_context() as session:
            return await models.flow_runs.read_flow_run(session, run_id)

    async def _write(self, run_id: UUID) -> Any:
        async with self._prefect.interface.session_context(
            begin_transaction=True, with_for_update=True
        ) as session:
            return await models.flow_runs.set_flow_run_state(session, run_id, Running(), force=True)

    async def _check(self) -> None:
        run_id = self._run_ids[0]
        written = (await self._write(run_id)).state.id
        run = await self._read(run_id)
        if (run.id, run.state_id, run.state_type.value) != (run_id, written, "RUNNING"):
            raise WrongResult(f"Prefect is wrong: {run}")
