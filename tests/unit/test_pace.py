"""A transaction that took long is followed by smaller ones, and a short one by larger ones."""

from __future__ import annotations

import time

import pytest

from prefect_db.pace import Pace


def test_it_grows_up_to_the_most() -> None:
    pace = Pace(200)
    sizes = []
    for _ in range(4):
        sizes.append(pace.size)
        with pace.timed():
            pass
    assert sizes == [50, 100, 200, 200]


def test_it_shrinks_down_to_one() -> None:
    pace = Pace(5, first=5)
    sizes = []
    for _ in range(4):
        sizes.append(pace.size)
        with pace.timed():
            time.sleep(0.06)
    assert sizes == [5, 2, 1, 1]


def test_what_fails_is_no_measure() -> None:
    pace = Pace(200)
    with pytest.raises(ZeroDivisionError), pace.timed():
        _ = 1 / 0
    assert pace.size == 50
