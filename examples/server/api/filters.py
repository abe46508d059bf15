"""The filters that a query of flows, flow runs or task runs can have, each of any of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from prefect_db.flow_runs import FlowRunFilter
from prefect_db.flows import FlowFilter
from prefect_db.task_runs import TaskRunFilter


@dataclass(slots=True, kw_only=True)
class RunFilters:
    flows: FlowFilter | None = None
    flow_runs: FlowRunFilter | None = None
    task_runs: TaskRunFilter | None = None

    def others(self, own: str) -> dict[str, Any]:
        """Those that were given and are not about what is asked for itself."""
        names = [name for name in ("flows", "flow_runs", "task_runs") if name != own]
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}
