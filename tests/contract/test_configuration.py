"""The server's own settings."""

from __future__ import annotations

from typing import Any

import pytest

from prefect_db import (
    Backend,
    BadValue,
    configuration,
)
from tests.contract.blocks import (
    refused,
)


def test_a_configuration_is_read_back(db: Backend) -> None:
    assert configuration.get(db, "k") is None
    configuration.set(db, "k", {"a": [1, "ü"]})
    assert configuration.get(db, "k") == {"a": [1, "ü"]}


def test_setting_a_configuration_again_keeps_its_row(db: Backend) -> None:
    configuration.set(db, "k", {"a": 1})
    query = "SELECT id, created FROM configuration"
    before = db.rows(query)
    configuration.set(db, "k", {"a": 2})
    assert configuration.get(db, "k") == {"a": 2}
    assert list(db.rows(query)) == list(before)


def test_the_default_of_a_configuration_is_stored_once(db: Backend) -> None:
    assert configuration.setdefault(db, "k", {"a": 1}) == {"a": 1}
    assert configuration.setdefault(db, "k", {"a": 2}) == {"a": 1}


@pytest.mark.parametrize("value", [None, "x", [1], {"a": float("nan")}, {"a": "\0"}])
def test_a_configuration_that_is_no_object_is_refused(db: Backend, value: Any) -> None:
    with refused(db, BadValue):
        configuration.set(db, "k", value)
    with refused(db, BadValue):
        configuration.setdefault(db, "k", value)
