"""Block types, schemas and documents: each side reads and changes what the other stored."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any
from uuid import UUID

import pytest
from prefect.server import models
from prefect.server.schemas import filters as prefect_filters

from prefect_db import (
    Backend,
    blocks,
    configuration,
    connect,
)
from prefect_db.filters import AnyOf, Name, Tags
from tests.peer.blocks import (
    MASK,
    create_ours,
    create_theirs,
    new_schemas,
    reference,
    rows_of,
    same,
    update_theirs,
)
from tests.peer.prefect_peer import Prefect


class TestReal:
    """What a real server stored, read by both."""

    @pytest.fixture
    def db(self, real_url: str) -> Iterator[Backend]:
        with connect(real_url) as db:
            yield db

    @pytest.fixture
    def prefect(self, real_url: str) -> Iterator[Prefect]:
        with Prefect(real_url) as prefect:
            yield prefect

    def test_types(self, db: Backend, prefect: Prefect, compared: Counter[str]) -> None:
        theirs = prefect.read(models.block_types.read_block_types)
        for row in theirs:
            same(blocks.get_type(db, row.id), row)
            same(blocks.get_type_by_slug(db, row.slug), row)
            compared[f"{db.dialect.name} records read: block_type"] += 1
        assert [each.id for each in blocks.find_types(db)] == [each.id for each in theirs]
        assert len(theirs) > 50

    def test_schemas(self, db: Backend, prefect: Prefect, compared: Counter[str]) -> None:
        rows = rows_of(prefect, "BlockSchema")
        for row in rows:
            id, checksum, version = row.id, row.checksum, row.version
            same(
                blocks.get_schema(db, id), prefect.read(models.block_schemas.read_block_schema, id)
            )
            same(
                blocks.get_schema_by_checksum(db, checksum, version),
                prefect.read(models.block_schemas.read_block_schema_by_checksum, checksum, version),
            )
            compared[f"{db.dialect.name} records read: block_schema"] += 1
        theirs = prefect.read(models.block_schemas.read_block_schemas)
        ours = {schema.id: schema for schema in blocks.find_schemas(db)}
        assert len(ours) == len(theirs) == len(rows) > 60
        for schema in theirs:
            same(ours[schema.id], schema)
        theirs_capabilities = prefect.read(models.block_schemas.read_available_block_capabilities)
        assert blocks.available_capabilities(db) == sorted(theirs_capabilities)

    def test_checksums(self, db: Backend, compared: Counter[str]) -> None:
        """All but 7 follow from what is stored: 57 of the server's own 64, and the client's 3.

        Those 7 are children that were made with more definitions than they keep, and parents
        that were sent with another checksum of such a child.
        """
        schemas = blocks.find_schemas(db)
        follow = [each for each in schemas if blocks.checksum(each.fields) == each.checksum]
        assert (len(schemas), len(follow)) == (64 + 3, 57 + 3)
        for schema in schemas:
            expected = _prefects_checksum(copy.deepcopy(schema.fields))
            assert blocks.checksum(schema.fields) == expected
            compared[f"{db.dialect.name} checksums"] += 1

    def test_the_schemas_of_a_union_are_in_the_order_in_which_they_were_sent(
        self, db: Backend, prefect: Prefect
    ) -> None:
        """It counts for the checksum, which does not follow from the order that Prefect reads."""
        (block_type,) = blocks.find_types(
            db, blocks.BlockTypeFilter(slug=AnyOf(any_=["s3-bucket"]))
        )
        of_type = AnyOf(any_=[block_type.id])
        (ours,) = blocks.find_schemas(db, blocks.BlockSchemaFilter(block_type_id=of_type))
        (theirs,) = prefect.read(
            models.block_schemas.read_block_schemas,
            prefect_filters.BlockSchemaFilter(block_type_id={"any_": [block_type.id]}),
        )
        assert blocks.checksum(ours.fields) == ours.checksum == theirs.checksum
        assert blocks.checksum(theirs.fields) != theirs.checksum

    def test_documents(self, db: Backend, prefect: Prefect, compared: Counter[str]) -> None:
        rows = rows_of(prefect, "BlockDocument")
        assert rows
        for row in rows:
            for secrets in (False, True):
                ours = blocks.get_document(db, row.id, include_secrets=secrets)
                theirs = prefect.read(
                    models.block_documents.read_block_document_by_id,
                    row.id,
                    include_secrets=secrets,
                )
                same(ours, theirs)
                compared[f"{db.dialect.name} records read: block_document"] += 1

    @pytest.mark.parametrize(
        ("ours", "theirs"),
        [
            ({}, {}),
            (
                {"block_capabilities": Tags(all_=["get-directory"])},
                {"block_capabilities": {"all_": ["get-directory"]}},
            ),
            ({"version": AnyOf(any_=["3.8.8"])}, {"version": {"any_": ["3.8.8"]}}),
            ({"version": AnyOf(any_=[])}, {"version": {"any_": []}}),
            (
                {"version": AnyOf(any_=["0.3.7"]), "operator": "or_"},
                {"version": {"any_": ["0.3.7"]}, "operator": "or_"},
            ),
        ],
    )
    def test_filters(
        self,
        db: Backend,
        prefect: Prefect,
        compared: Counter[str],
        ours: dict[str, Any],
        theirs: dict[str, Any],
    ) -> None:
        schemas = blocks.BlockSchemaFilter(**ours)
        their_schemas = prefect_filters.BlockSchemaFilter(**theirs)
        found = blocks.find_types(db, blocks.BlockTypeFilter(name=Name(like_="E")), schemas=schemas)
        theirs_found = prefect.read(
            models.block_types.read_block_types,
            block_type_filter=prefect_filters.BlockTypeFilter(name={"like_": "E"}),
            block_schema_filter=their_schemas,
        )
        assert [each.id for each in found] == [each.id for each in theirs_found]
        for slugs in (["secret"], ["github-credentials"], ["secret", "json"]):
            types = blocks.BlockTypeFilter(slug=AnyOf(any_=slugs))
            given: dict[str, Any] = {
                "block_type_filter": prefect_filters.BlockTypeFilter(slug={"any_": slugs}),
                "block_schema_filter": their_schemas,
            }
            documents = prefect.read(models.block_documents.read_block_documents, **given)
            assert [
                each.id for each in blocks.find_documents(db, types=types, schemas=schemas)
            ] == [each.id for each in documents]
            count = prefect.read(models.block_documents.count_block_documents, **given)
            assert blocks.count_documents(db, types=types, schemas=schemas) == count
            compared[f"{db.dialect.name} block filters"] += 1


def _prefects_checksum(sent: dict[str, Any]) -> str:
    from prefect.blocks.core import Block

    return str(Block._calculate_schema_checksum(sent))


def check_read_alike(prefect: Prefect, db: Backend) -> int:
    """Demands that both read every document alike, masked and not; how many there are."""
    rows = db.rows("SELECT id FROM block_document")
    for row in rows:
        id = row.uuid("id")
        assert id is not None
        for secrets in (False, True):
            ours = blocks.get_document(db, id, include_secrets=secrets)
            theirs = prefect.read(
                models.block_documents.read_block_document_by_id, id, include_secrets=secrets
            )
            same(ours, theirs)
    return len(rows)


@pytest.mark.parametrize("first", ["ours", "theirs"])
def test_each_reads_changes_and_deletes_what_the_other_wrote(
    prefect: Prefect, managed: Backend, compared: Counter[str], first: str
) -> None:
    """Which one is first makes the key."""
    schemas = new_schemas(managed)
    creates: list[Callable[..., UUID]] = [
        lambda *given: create_ours(managed, *given),
        lambda *given: create_theirs(prefect, *given),
    ]
    if first == "theirs":
        creates.reverse()
    for number, create in enumerate([*creates, *creates]):
        other = creates[(number + 1) % 2]
        data = {"password": f"s3cr3t-{number}", "extra": {"a": 1}, "x": "ü"}
        low = create(schemas["low"], f"low-{number}", data)
        mid = other(schemas["mid"], f"mid-{number}", {**data, "low": reference(low)})
        create(schemas["top"], f"top-{number}", {**data, "mid": reference(mid)})
    assert check_read_alike(prefect, managed) == 12
    for number in range(4):
        for slug in ("low", "mid", "top"):
            found = blocks.get_document_by_name(managed, slug, f"{slug}-{number}")
            assert found is not None
            # The masks come back, and what is not sent again goes: the references.
            sent: dict[str, Any] = {"password": MASK, "extra": {"a": MASK}, "y": number}
            for merge in (True, False):
                blocks.update_document(managed, found.id, data=sent, merge_existing_data=merge)
                update_theirs(prefect, found.id, {**sent, "z": 1}, merge_existing_data=merge)
            compared[f"{managed.dialect.name} blocks changed by both"] += 4
    assert check_read_alike(prefect, managed) == 12
    kept = blocks.get_document_by_name(managed, "low", "low-3", include_secrets=True)
    assert kept is not None
    assert kept.data == {"password": "s3cr3t-3", "extra": {"a": 1}, "y": 3, "z": 1}
    for number, document in enumerate(blocks.find_documents(managed)):
        if number % 2:
            blocks.delete_document(managed, document.id)
        else:
            assert prefect.write(models.block_documents.delete_block_document, document.id)
    assert managed.value("SELECT count(*) FROM block_document_reference") == 0


def test_after_a_rotation_a_fresh_prefect_reads_all(
    managed_url: str, managed: Backend, compared: Counter[str]
) -> None:
    schemas = new_schemas(managed)
    with Prefect(managed_url) as prefect:
        for number in range(20):
            data = {"password": f"s3cr3t-{number}", "x": number}
            id = create_theirs(prefect, schemas["low"], f"low-{number}", data)
            create_ours(managed, schemas["top"], f"top-{number}", {"low": reference(id)})
    former = configuration.get(managed, "ENCRYPTION_KEY")
    assert blocks.rotate_key(managed, batch=7) == 40
    assert configuration.get(managed, "ENCRYPTION_KEY") != former
    with Prefect(managed_url) as prefect:
        assert check_read_alike(prefect, managed) == 40
        create_theirs(prefect, schemas["mid"], "mid", {"password": "s3cr3t"})
        assert check_read_alike(prefect, managed) == 41
    compared[f"{managed.dialect.name} documents read after a rotation"] += 41
