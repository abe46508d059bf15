"""Secrets are masked unless asked for, and masks that come back keep them."""

from __future__ import annotations

from typing import Any

import pytest

from prefect_db import (
    Backend,
    BadValue,
    blocks,
)
from tests.contract.blocks import (
    MASK,
    new_document,
    new_schema,
    read,
    refused,
)


def masked(db: Backend, secret_fields: list[str], data: dict[str, Any]) -> Any:
    new_schema(db, secret_fields=secret_fields)
    return read(db, new_document(db, "a", data), secrets=False)


@pytest.mark.parametrize("secret", ["s", "", 5, False, [1, 2], {}])
def test_any_secret_is_eight_asterisks(db: Backend, secret: Any) -> None:
    assert masked(db, ["a.b", "none"], {"a": {"b": secret, "c": 1}}) == {"a": {"b": MASK, "c": 1}}


def test_a_secret_that_is_null_is_shown(db: Backend) -> None:
    assert masked(db, ["a"], {"a": None}) == {"a": None}


def test_everything_below_a_star_is_masked(db: Backend) -> None:
    data = {"a": {"b": {"c": 1, "d": {"e": None}}, "f": 2}}
    assert masked(db, ["a.b.*"], data) == {"a": {"b": {"c": MASK, "d": {"e": MASK}}, "f": 2}}


def test_a_secret_that_is_an_object_shows_its_keys_alone(db: Backend) -> None:
    assert masked(db, ["value"], {"value": {"user": "u", "password": "p"}}) == {
        "value": {"user": MASK, "password": MASK}
    }


def test_masks_sent_back_keep_the_secrets(db: Backend) -> None:
    new_schema(db, secret_fields=["password", "value", "extra.*"])
    data = {"password": "p", "value": {"k": "v"}, "extra": {"a": 1, "b": {"c": None}}, "x": 1}
    document = new_document(db, "a", data)
    for merge in (True, False):
        shown = {**read(db, document, secrets=False), "x": 2}
        blocks.update_document(db, document.id, data=shown, merge_existing_data=merge)
        assert read(db, document) == {**data, "x": 2}


def test_a_mask_for_a_whole_object_keeps_it(db: Backend) -> None:
    new_schema(db, secret_fields=["value"])
    document = new_document(db, "a", {"value": {"k": "v"}})
    blocks.update_document(db, document.id, data={"value": MASK})
    assert read(db, document) == {"value": {"k": "v"}}


def test_another_secret_replaces_the_secret(db: Backend) -> None:
    new_schema(db, secret_fields=["password"])
    document = new_document(db, "a", {"password": "old"})
    blocks.update_document(db, document.id, data={"password": "new"})
    assert read(db, document) == {"password": "new"}


def test_a_mask_for_what_is_not_stored_below_a_star_is_refused(db: Backend) -> None:
    new_schema(db, secret_fields=["extra.*"])
    document = new_document(db, "a", {"extra": {"old": 1}})
    with refused(db, BadValue, "not stored"):
        blocks.update_document(db, document.id, data={"extra": {"renamed": MASK}})
