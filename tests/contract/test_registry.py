"""Drivers are found by the scheme of the URL, among those installed beside the library."""

from __future__ import annotations

from pathlib import Path

import pytest

from prefect_db import ConfigurationError, connect, drivers
from prefect_db.testing import DriverContract, Target
from tests.apsw_driver import ApswDriver


class Installed:
    """A folder of packages that declare drivers."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def add(self, package: str, scheme: str, value: str) -> None:
        info = self._folder / f"{package}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[prefect_db.drivers]\n{scheme} = {value}\n")


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Installed:
    folder = tmp_path / "packages"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    return Installed(folder)


@pytest.mark.only("sqlite", "apsw is another binding of SQLite")
class TestDriverByEntryPoint(DriverContract):
    @pytest.fixture
    def target(self, installed: Installed, tmp_path: Path) -> Target:
        installed.add("prefect-db-apsw", "apsw", "tests.apsw_driver:ApswDriver")
        return Target(f"apsw:///{tmp_path}/test.db")


def test_the_driver_is_the_one_that_the_entry_point_names(installed: Installed) -> None:
    installed.add("prefect-db-apsw", "apsw", "tests.apsw_driver:ApswDriver")
    assert isinstance(drivers.find("apsw"), ApswDriver)


def test_a_database_of_another_driver_is_migrated(installed: Installed, tmp_path: Path) -> None:
    installed.add("prefect-db-apsw", "apsw", "tests.apsw_driver:ApswDriver")
    with connect(f"apsw:///{tmp_path}/test.db") as db:
        assert db.value("SELECT count(*) FROM flow") == 0


def test_a_scheme_without_driver_is_refused_with_those_that_have_one(installed: Installed) -> None:
    installed.add("prefect-db-apsw", "apsw", "tests.apsw_driver:ApswDriver")
    with pytest.raises(
        ConfigurationError, match=r"no driver for mysql://.*apsw, postgresql, sqlite"
    ):
        connect("mysql://user:secret@host/db")


def test_two_drivers_of_a_scheme_are_refused_by_name(installed: Installed) -> None:
    installed.add("one", "apsw", "tests.apsw_driver:ApswDriver")
    installed.add("two", "apsw", "elsewhere:Driver")
    with pytest.raises(ConfigurationError, match="two drivers for apsw://") as caught:
        connect("apsw:///test.db")
    assert "elsewhere:Driver of two" in str(caught.value)
    assert "tests.apsw_driver:ApswDriver of one" in str(caught.value)


def test_one_driver_that_two_packages_declare_is_one(installed: Installed) -> None:
    installed.add("one", "apsw", "tests.apsw_driver:ApswDriver")
    installed.add("two", "apsw", "tests.apsw_driver:ApswDriver")
    assert isinstance(drivers.find("apsw"), ApswDriver)


@pytest.mark.parametrize(
    "value",
    [
        pytest.param("no_such_module:Driver", id="module"),
        pytest.param("tests.apsw_driver:NoSuchDriver", id="class"),
    ],
)
def test_a_driver_that_cannot_be_imported_is_a_configuration_error(
    installed: Installed, value: str
) -> None:
    installed.add("broken", "apsw", value)
    with pytest.raises(ConfigurationError, match="driver for apsw://"):
        connect("apsw:///test.db")


def test_an_own_scheme_cannot_be_taken_over(installed: Installed) -> None:
    installed.add("other", "sqlite", "tests.apsw_driver:ApswDriver")
    assert not isinstance(drivers.find("sqlite"), ApswDriver)
