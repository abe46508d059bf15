"""The two drivers, and a third from outside, pass the driver contract."""

from __future__ import annotations

from pathlib import Path

import pytest

from prefect_db import Backend, Unavailable
from prefect_db.testing import DriverContract, Target
from tests.apsw_driver import ApswDriver


class TestOwnDriver(DriverContract):
    @pytest.fixture
    def target(self, url: str) -> Target:
        return Target(url)


@pytest.mark.only("sqlite", "only SQLite has a database in memory")
class TestSQLiteInMemory(DriverContract):
    @pytest.fixture
    def target(self) -> Target:
        return Target(":memory:")

    def test_a_broken_connection_is_replaced(self, db: Backend) -> None:
        """It is not: the data was the connection's, and an empty database would be a lie."""
        with db.borrowed() as connection:
            connection.close()
        with pytest.raises(Unavailable, match="the data is gone"):
            db.execute("DELETE FROM item")


@pytest.mark.only("sqlite", "apsw is another binding of SQLite")
class TestDriverFromOutside(DriverContract):
    @pytest.fixture
    def target(self, tmp_path: Path) -> Target:
        return Target(f"apsw:///{tmp_path}/test.db", ApswDriver())
