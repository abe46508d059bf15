"""For tests: a throw-away PostgreSQL server, faults, and the contract suite of all drivers.

Needs the extra `test`, and `pytest.register_assert_rewrite("prefect_db.testing")` in a conftest.py
for failures that show their values.

`postgres_cluster` and `postgres_standby` are servers to stop, kill and promote; `proxy` is a
network that fails in front of one; `start_process`, `reach` and `kill` end a process at a point of
its work; a `Ledger` remembers what it was told was saved, and `judge` finds what is missing.
"""

from prefect_db.testing.contract import DriverContract, Target
from prefect_db.testing.ledger import Ledger, Verdict, judge
from prefect_db.testing.processes import (
    end_process,
    in_process,
    kill,
    reach,
    start_process,
    stop_before,
)
from prefect_db.testing.proxy import Proxy, proxy
from prefect_db.testing.server import (
    PostgresServer,
    create_database,
    postgres_cluster,
    postgres_server,
    postgres_standby,
)

__all__ = [
    "DriverContract",
    "Ledger",
    "PostgresServer",
    "Proxy",
    "Target",
    "Verdict",
    "create_database",
    "end_process",
    "in_process",
    "judge",
    "kill",
    "postgres_cluster",
    "postgres_server",
    "postgres_standby",
    "proxy",
    "reach",
    "start_process",
    "stop_before",
]
