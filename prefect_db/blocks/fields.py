"""The `fields` of block schemas, as clients send them: a JSON schema with its references. Pure."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

from prefect_db.errors import BadValue

REFERENCES: Final = "block_schema_references"
DEFINITIONS: Final = "definitions"


def checksum(fields: Mapping[str, Any]) -> str:
    """The checksum of a schema's fields as a client sends them: `sha256:` and 64 hex digits.

    Secret fields, and definitions that are blocks or that nothing refers to, do not count.

    Raises:
        BadValue: The fields are no JSON.
    """
    try:
        hashed = _without_secret_fields(dict(fields))
        if hashed.get(DEFINITIONS):
            hashed = with_definitions(hashed, hashed[DEFINITIONS])
        text = json.dumps([[hashed], {}], sort_keys=True, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise BadValue(f"the fields of a block schema are no JSON ({error})") from error
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def check_secret_fields(fields: Mapping[str, Any]) -> None:
    """Refuse what would leave a secret unmasked, unnoticed."""
    secret_fields = fields.get("secret_fields") or []
    if not isinstance(secret_fields, list) or not all(isinstance(f, str) for f in secret_fields):
        raise BadValue("secret_fields is no list of texts")


def _without_secret_fields(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    return {
        key: _without_secret_fields(item) for key, item in value.items() if key != "secret_fields"
    }


def with_definitions(fields: Mapping[str, Any], definitions: Any) -> dict[str, Any]:
    """The fields with those definitions that something refers to and that are no blocks."""
    if not isinstance(definitions, Mapping):
        raise BadValue("the definitions of a block schema are no JSON object")
    kept: dict[str, Any] = {}
    pending = _referred(fields)
    while pending:
        name = pending.pop(0)
        definition = definitions.get(name)
        if name in kept or not isinstance(definition, Mapping) or not definition:
            continue
        if definition.get("block_type_slug") is None:
            kept[name] = definition
            pending[:0] = _referred(definition)
    rest = {key: value for key, value in fields.items() if key != DEFINITIONS}
    return {**fields, DEFINITIONS: kept} if kept else rest


def _referred(value: Any) -> list[str]:
    """The names of the definitions that a JSON value refers to, in order, repeatedly too."""
    names: list[str] = []
    if isinstance(value, Mapping):
        reference = value.get("$ref")
        if isinstance(reference, str) and reference:
            names.append(reference.replace("#/definitions/", ""))
        for item in value.values():
            names += _referred(item)
    elif isinstance(value, list):
        for item in value:
            names += _referred(item)
    return names


def definition_of(
    fields: Mapping[str, Any], definitions: Mapping[str, Any], field: str, slug: str
) -> Mapping[str, Any] | None:
    """The definition that a field's `$ref` names; of several, that of the block type."""
    properties = fields.get("properties")
    names = _referred(properties.get(field)) if isinstance(properties, Mapping) else ()
    found = [definitions.get(name) for name in names]
    blocks = [definition for definition in found if isinstance(definition, Mapping)]
    if len(found) == 1:
        return blocks[0] if blocks else None
    return next((block for block in blocks if block.get("block_type_slug") == slug), None)


def each_reference(references: Any) -> Iterator[tuple[str, str, str]]:
    """Field, slug and checksum of each of the `block_schema_references`."""
    try:
        for field, given in references.items():
            for reference in given if isinstance(given, list) else [given]:
                slug, checksum = reference["block_type_slug"], reference["block_schema_checksum"]
                if not isinstance(slug, str) or not isinstance(checksum, str):
                    raise TypeError("not texts")
                yield field, slug, checksum
    except (AttributeError, KeyError, TypeError) as error:
        raise BadValue(
            f"{REFERENCES} maps fields to objects with block_type_slug and block_schema_checksum"
        ) from error
