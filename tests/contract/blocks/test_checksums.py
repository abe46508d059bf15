"""The checksum of a schema's fields is Prefect's."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from prefect_db import (
    BadValue,
    blocks,
)
from tests.contract.blocks import CHILD, CHILD_CHECKSUM, PARENT, PARENT_CHECKSUM

GITHUB = {
    "block_schema_references": {},
    "block_type_slug": "github-credentials",
    "description": "Block used to manage GitHub authentication.",
    "properties": {
        "token": {
            "description": "A GitHub personal access token (PAT).",
            "format": "password",
            "title": "Token",
            "type": "string",
            "writeOnly": True,
        }
    },
    "secret_fields": ["token"],
    "title": "GitHubCredentials",
    "type": "object",
}
KUBERNETES = {
    "title": "KubernetesCredentials",
    "description": "Credentials block for generating configured Kubernetes API clients.",
    "type": "object",
    "properties": {"cluster_config": {"$ref": "#/definitions/KubernetesClusterConfig"}},
    "block_type_slug": "kubernetes-credentials",
    "secret_fields": [],
    "block_schema_references": {
        "cluster_config": {
            "block_schema_checksum": "sha256:90d421e948bfbe4cdc98b124995f0edd0f84b083"
            "7549ad1390423bad8e31cf3b",
            "block_type_slug": "kubernetes-cluster-config",
        }
    },
    "definitions": {
        "KubernetesClusterConfig": {
            "block_type_slug": "kubernetes-cluster-config",
            "title": "KubernetesClusterConfig",
        }
    },
}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (GITHUB, "sha256:74a34b668838ba661d9160ab127053dd44a22dd04e89562839645791e70d046a"),
        (KUBERNETES, "sha256:957fa8dca90bd1b5fb9c575ee09e80b454116c0b134287fbc2eff47a72564c3b"),
        (CHILD, CHILD_CHECKSUM),
        (PARENT, PARENT_CHECKSUM),
    ],
)
def test_the_checksum_is_prefects(fields: dict[str, Any], expected: str) -> None:
    assert blocks.checksum(fields) == expected


def test_the_checksum_leaves_the_fields_as_they_are() -> None:
    before = orjson.dumps(PARENT)
    blocks.checksum(PARENT)
    assert orjson.dumps(PARENT) == before


def test_the_checksum_does_not_depend_on_the_order_of_keys() -> None:
    assert blocks.checksum(dict(reversed(PARENT.items()))) == PARENT_CHECKSUM


def test_secret_fields_do_not_count_in_nested_objects_either() -> None:
    fields = {"properties": {"secret_fields": ["x"], "a": {}}}
    assert blocks.checksum(fields) == blocks.checksum({"properties": {"a": {}}})


def test_definitions_that_refer_to_each_other_count_once() -> None:
    definitions = {
        "A": {"properties": {"b": {"$ref": "#/definitions/B"}}},
        "B": {"properties": {"a": {"$ref": "#/definitions/A"}}},
    }
    fields = {"properties": {"a": {"$ref": "#/definitions/A"}}, "definitions": definitions}
    unused = {**definitions, "C": {"title": "C"}}
    assert blocks.checksum({**fields, "definitions": unused}) == blocks.checksum(fields)


def test_a_definition_that_only_another_definition_refers_to_counts() -> None:
    block = {"block_type_slug": "b", "properties": {"m": {"$ref": "#/definitions/M"}}}
    fields = {"properties": {}, "definitions": {"B": block, "M": {"title": "M"}}}
    without = {"properties": {}, "definitions": {"M": {"title": "M"}}}
    assert blocks.checksum(fields) != blocks.checksum(without)
    assert blocks.checksum(without) == blocks.checksum({"properties": {}})


def test_a_definition_that_is_empty_does_not_count() -> None:
    fields = {"properties": {"v": {"$ref": "#/definitions/JsonValue"}}}
    assert blocks.checksum({**fields, "definitions": {"JsonValue": {}}}) == blocks.checksum(fields)


@pytest.mark.parametrize("value", [float("nan"), {1, 2}, object()])
def test_fields_that_are_no_json_have_no_checksum(value: Any) -> None:
    with pytest.raises(BadValue):
        blocks.checksum({"a": value})
