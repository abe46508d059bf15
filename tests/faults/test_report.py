"""The table of faults: that a loss cannot be overlooked, and that rows add up."""

from __future__ import annotations

import pytest

from prefect_db.testing import Verdict
from tests.faults.report import Table, compare


def _cells(table: Table) -> list[list[str]]:
    """Of each row, after the headings."""
    return [line.split() for line in table.lines()][1:]


@pytest.mark.parametrize(
    ("verdict", "shown"),
    [
        (Verdict(3, lost=["a", "b"]), ["sqlite:", "killed", "1", "3", "2", "0", "-"]),
        (Verdict(3, duplicated=["a"]), ["sqlite:", "killed", "1", "3", "0", "1", "-"]),
        (Verdict(3, halved=["a"]), ["sqlite:", "killed", "1", "3", "0", "0", "-"]),
        (Verdict(3, unknown=["a"]), ["sqlite:", "killed", "1", "3", "0", "0", "-"]),
    ],
)
def test_what_is_wrong_is_shown_and_fails(verdict: Verdict, shown: list[str]) -> None:
    table = Table()
    with pytest.raises(AssertionError, match="killed: Verdict"):
        table.record("sqlite", "killed", verdict=verdict)
    assert _cells(table) == [shown]


def test_writes_without_a_ledger_are_compared() -> None:
    assert compare([1, 2], [2, 1]) == Verdict(2)
    assert compare([1, 2], [2]) == Verdict(2, lost=["1"])
    assert compare([1, 2], [1, 2, 2, 3]) == Verdict(2, duplicated=["2"], unknown=["3"])


def test_a_loss_is_shown_without_a_number_of_writes() -> None:
    table = Table()
    with pytest.raises(AssertionError, match="1 lost, 2 duplicated"):
        table.record("", "killed", lost=1, duplicated=2)
    assert _cells(table) == [["killed", "1", "0", "1", "2", "-"]]


def test_records_of_one_fault_and_backend_add_up() -> None:
    table = Table()
    table.record("sqlite", "killed", times=2, verdict=Verdict(3), recovery=0.5)
    table.record("sqlite", "killed", acknowledged=4, recovery=0.25)
    table.record("sqlite", "killed", times=4)
    table.record("postgres", "killed", acknowledged=0)
    table.record("postgres", "exhausted")
    assert _cells(table) == [
        ["postgres:", "exhausted", "1", "-", "-", "-", "-"],
        ["postgres:", "killed", "1", "0", "0", "0", "-"],
        ["sqlite:", "killed", "7", "7", "0", "0", "0.50", "s"],
    ]
