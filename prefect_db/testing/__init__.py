"""For tests: a throw-away PostgreSQL server, and the contract suite that every driver passes.

Needs the extra `test`, and `pytest.register_assert_rewrite("prefect_db.testing")` in a conftest.py
for failures that show their values.
"""

from prefect_db.testing.contract import DriverContract, Target
from prefect_db.testing.server import create_database, postgres_server

__all__ = ["DriverContract", "Target", "create_database", "postgres_server"]
