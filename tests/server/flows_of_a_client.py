"""What an unmodified Prefect client does against a server: run as a script by the tests beside it.

PREFECT_API_URL says which server. It prints nothing; what the server stored is what counts.
"""

# Prefect is untyped to mypy here: see pyproject.toml.
# mypy: disable-error-code="misc, untyped-decorator, no-any-return"

from __future__ import annotations

import os
from typing import Any

from prefect import flow, get_client, get_run_logger, task
from prefect.blocks.core import Block
from prefect.blocks.system import Secret
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterName
from pydantic import SecretStr

attempts: dict[str, int] = {}


def fails_first(what: str, times: int) -> None:
    attempts[what] = attempts.get(what, 0) + 1
    if attempts[what] <= times:
        raise ValueError(f"{what} fails for the {attempts[what]}. time")


class Credentials(Block):
    _block_type_slug = "credentials"
    user: str
    password: SecretStr


class Warehouse(Block):
    _block_type_slug = "warehouse"
    url: str
    credentials: Credentials


@task
def double(number: int) -> int:
    return number * 2


@task(retries=2, retry_delay_seconds=0, tags=["io"])
def flaky(times: int) -> str:
    fails_first("task", times)
    return "done"


@task
def total(numbers: list[int]) -> int:
    return sum(numbers)


@flow(name="simple", flow_run_name="simple-run")
def simple(name: str) -> str:
    get_run_logger().info("hello %s: ✓ 'quotes' \"double\" ? %%s $1", name)
    return name


@flow(name="tasks", flow_run_name="tasks-run")
def tasks() -> int:
    flaky(1)
    doubled = double.map([1, 2, 3])
    return total(doubled)


@flow(name="child", flow_run_name="child-of-{n}")
def child(n: int) -> int:
    return double(n)


@flow(name="parent", flow_run_name="parent-run")
def parent() -> int:
    return child(1) + child(2)


@flow(name="failing", flow_run_name="failing-run")
def failing() -> None:
    raise ValueError("bad data: 'quote' ? ✓")


@task
def breaks() -> None:
    raise RuntimeError("a task breaks")


@flow(name="failing-task", flow_run_name="failing-task-run")
def failing_task() -> None:
    breaks()


@flow(name="retried", flow_run_name="retried-run", retries=2, retry_delay_seconds=1)
def retried() -> str:
    fails_first("flow", 1)
    return "done"


@flow(name="exhausted", flow_run_name="exhausted-run", retries=1, retry_delay_seconds=0)
def exhausted() -> None:
    fails_first("exhausted", 5)


@flow(name="persisted", flow_run_name="persisted-run", persist_result=True)
def persisted() -> dict[str, Any]:
    return {"n": double(21)}


def blocks() -> None:
    Secret(value="s3cr3t").save("api-key")
    credentials = Credentials(user="etl", password=SecretStr("pa55"))
    credentials.save("etl-user")
    Warehouse(url="dw://", credentials=Credentials.load("etl-user")).save("warehouse")
    assert Secret.load("api-key").get() == "s3cr3t"
    loaded = Warehouse.load("warehouse")
    assert loaded.credentials.password.get_secret_value() == "pa55"
    Secret(value="changed").save("api-key", overwrite=True)
    assert Secret.load("api-key").get() == "changed"
    try:
        Secret(value="again").save("api-key")
    except ValueError:
        pass
    else:
        raise AssertionError("a second block of the same name was saved")


def queries() -> None:
    with get_client(sync_client=True) as client:
        runs = client.read_flow_runs(
            flow_run_filter=FlowRunFilter(name=FlowRunFilterName(any_=["tasks-run"]))
        )
        assert [run.name for run in runs] == ["tasks-run"]
        assert runs[0].state is not None
        assert runs[0].state.is_completed()
        states = client.read_flow_run_states(runs[0].id)
        assert [state.name for state in states] == ["Pending", "Running", "Completed"]
        assert len(client.read_flows()) == 9


def main() -> None:
    assert os.environ["PREFECT_API_URL"].startswith("http://127.0.0.1:")
    blocks()
    assert simple("world") == "world"
    assert tasks() == 12
    assert parent() == 6
    for broken in (failing, failing_task, exhausted):
        state: Any = broken(return_state=True)
        assert state.is_failed()
    assert retried() == "done"
    assert persisted() == {"n": 42}
    queries()


if __name__ == "__main__":
    main()
