"""/flow_run_states and /task_run_states"""

from __future__ import annotations

from examples.server.calls import Call, found
from examples.server.routing import get
from prefect_db import Queryable, flow_runs, task_runs
from prefect_db.states import State


def read_of_flow_run(db: Queryable, call: Call) -> State:
    return found(flow_runs.get_states(db, [call.id]).get(call.id), "flow run state")


def read_of_task_run(db: Queryable, call: Call) -> State:
    return found(task_runs.get_states(db, [call.id]).get(call.id), "task run state")


def history_of_flow_run(db: Queryable, call: Call) -> list[State]:
    return flow_runs.history(db, call.uuid("flow_run_id"))


def history_of_task_run(db: Queryable, call: Call) -> list[State]:
    return task_runs.history(db, call.uuid("task_run_id"))


ROUTES = [
    get("/flow_run_states/", history_of_flow_run),
    get("/flow_run_states/{id:uuid}", read_of_flow_run),
    get("/task_run_states/", history_of_task_run),
    get("/task_run_states/{id:uuid}", read_of_task_run),
]
