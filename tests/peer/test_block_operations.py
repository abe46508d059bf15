"""The same operations on blocks, on one database by Prefect's models and on another by us."""

from __future__ import annotations

import copy
import json
import random
from collections import Counter
from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest
from cryptography.fernet import Fernet
from prefect.server import models
from prefect.server.schemas import actions, core
from sqlalchemy.exc import DBAPIError

from prefect_db import (
    Backend,
    Error,
    blocks,
    configuration,
    connect,
)
from prefect_db.values import to_uuid
from tests.peer.blocks import (
    rows_of,
)
from tests.peer.prefect_peer import Prefect


class Both:
    """Does each operation through Prefect's models on one database and through ours on another.

    What is made is known by a name, since the ids differ: a type by its slug, a schema by its
    checksum and version, a document by its slug and name.
    """

    def __init__(self, prefect: Prefect, db: Backend) -> None:
        self.prefect = prefect
        self.db = db
        self.types: dict[str, tuple[UUID, UUID]] = {}
        self.schemas: dict[tuple[str, str], tuple[UUID, UUID]] = {}
        self.slug_of: dict[tuple[str, str], str] = {}
        self.documents: dict[tuple[str, str], tuple[UUID, UUID]] = {}
        self.outcomes: Counter[str] = Counter()

    def both(self, ours: Callable[[], Any], theirs: Callable[[], Any]) -> Any:
        """What each gives, or None if each refuses."""
        try:
            their = theirs()
        except (AssertionError, DBAPIError, LookupError, ValueError) as error:
            with pytest.raises(Error):
                ours()
            self.outcomes[f"refused: {type(error).__name__}"] += 1
            return None
        return ours(), their

    def create_type(self, slug: str, **given: Any) -> None:
        values = {"name": slug.title(), "slug": slug, **given}
        made = self.both(
            lambda: blocks.create_type(self.db, **values),
            lambda: self.prefect.write(
                models.block_types.create_block_type, core.BlockType(**values)
            ),
        )
        if made:
            self.types[slug] = made[0].id, made[1].id

    def update_type(self, slug: str, **given: Any) -> None:
        ours, theirs = self.types[slug]
        blocks.update_type(self.db, ours, **given)
        self.prefect.write(
            models.block_types.update_block_type, theirs, actions.BlockTypeUpdate(**given)
        )

    def delete_type(self, slug: str) -> None:
        ours, theirs = self.types.pop(slug)
        blocks.delete_type(self.db, ours)
        assert self.prefect.write(models.block_types.delete_block_type, theirs)
        self.forget()

    def create_schema(self, slug: str, sent: dict[str, Any], **given: Any) -> None:
        ours, theirs = self.types[slug]
        made = self.both(
            lambda: blocks.create_schema(self.db, sent, ours, **given),
            lambda: self.prefect.write(
                models.block_schemas.create_block_schema,
                actions.BlockSchemaCreate(
                    fields=copy.deepcopy(sent), block_type_id=theirs, **given
                ),
            ),
        )
        if made:
            self.learn()

    def delete_schema(self, key: tuple[str, str]) -> None:
        ours, theirs = self.schemas[key]
        blocks.delete_schema(self.db, ours)
        assert self.prefect.write(models.block_schemas.delete_block_schema, theirs)
        self.forget()

    def learn(self) -> None:
        """The ids of the schemas that there are, those that were made as children too."""
        ours = {
            (row["checksum"], row["version"]): (to_uuid(row["id"]), row["slug"])
            for row in self.db.rows(
                "SELECT s.id, checksum, version, slug FROM block_schema AS s"
                " JOIN block_type AS t ON t.id = block_type_id"
            )
        }
        theirs = {
            (row.checksum, row.version): row.id for row in rows_of(self.prefect, "BlockSchema")
        }
        assert set(ours) == set(theirs)
        self.schemas = {key: (id, theirs[key]) for key, (id, _) in ours.items()}
        self.slug_of = {key: slug for key, (_, slug) in ours.items()}

    def forget(self) -> None:
        """What was deleted with something else."""
        self.learn()
        there = {
            (row["slug"], row["name"])
            for row in self.db.rows(
                "SELECT slug, d.name FROM block_document AS d"
                " JOIN block_type AS t ON t.id = block_type_id"
            )
        }
        self.documents = {key: ids for key, ids in self.documents.items() if key in there}

    def data(self, data: dict[str, Any], side: int) -> dict[str, Any]:
        """The data with the ids of one side where a document is referred to by its name."""
        return {
            key: {"$ref": {"block_document_id": str(self.documents[value][side])}}
            if isinstance(value, tuple)
            else value
            for key, value in data.items()
        }

    def create_document(
        self, schema: tuple[str, str], name: str | None, data: dict[str, Any], **given: Any
    ) -> None:
        slug = self.slug_of[schema]
        made = self.both(
            lambda: blocks.create_document(
                self.db,
                name,
                self.data(data, 0),
                self.schemas[schema][0],
                self.types[slug][0],
                **given,
            ),
            lambda: self.prefect.write(
                models.block_documents.create_block_document,
                actions.BlockDocumentCreate(
                    name=name,
                    data=self.data(data, 1),
                    block_schema_id=self.schemas[schema][1],
                    block_type_id=self.types[slug][1],
                    **given,
                ),
            ),
        )
        if made:
            assert made[0].data == made[1].data
            if name:
                self.documents[slug, name] = made[0].id, made[1].id

    def update_document(
        self,
        document: tuple[str, str],
        data: dict[str, Any],
        *,
        schema: tuple[str, str] | None,
        merge: bool,
    ) -> None:
        ours, theirs = self.documents[document]
        schemas = self.schemas[schema] if schema else (None, None)

        def update_theirs() -> Any:
            given = {"block_schema_id": schemas[1]} if schema else {}
            return self.prefect.write(
                models.block_documents.update_block_document,
                theirs,
                actions.BlockDocumentUpdate(
                    data=self.data(data, 1), merge_existing_data=merge, **given
                ),
            )

        self.both(
            lambda: blocks.update_document(
                self.db,
                ours,
                data=self.data(data, 0),
                block_schema_id=schemas[0],
                merge_existing_data=merge,
            ),
            update_theirs,
        )

    def delete_document(self, key: tuple[str, str]) -> None:
        ours, theirs = self.documents.pop(key)
        blocks.delete_document(self.db, ours)
        assert self.prefect.write(models.block_documents.delete_block_document, theirs)

    def read(self, key: tuple[str, str], *, secrets: bool = False) -> dict[str, Any]:
        """The data of a document, which is the same on both sides."""
        ours = blocks.get_document(self.db, self.documents[key][0], include_secrets=secrets)
        theirs = self.prefect.read(
            models.block_documents.read_block_document_by_id,
            self.documents[key][1],
            include_secrets=secrets,
        )
        assert ours is not None
        assert ours.data == theirs.data
        return ours.data

    def compare(self, url: str) -> int:
        """Demands that all rows are the same; how many there are."""
        with connect(url) as peer:
            theirs, ours = stored(peer), stored(self.db)
        assert ours == theirs
        return sum(len(rows) for rows in ours.values())


def stored(db: Backend) -> dict[str, list[Any]]:
    """The rows of all tables of blocks, with names in place of ids, and the data decrypted."""
    slugs = {row["id"]: row["slug"] for row in db.rows("SELECT id, slug FROM block_type")}
    schemas = {row["id"]: row for row in db.rows("SELECT * FROM block_schema")}
    schema_keys = {id: (row["checksum"], row["version"]) for id, row in schemas.items()}
    documents = {row["id"]: row for row in db.rows("SELECT * FROM block_document")}
    key = configuration.get(db, "ENCRYPTION_KEY")

    def decrypted(row: Any) -> Any:
        assert key is not None
        text = Fernet(key["fernet_key"]).decrypt(row.json("data")).decode()
        # The order of the keys counts: it is in the text.
        return json.dumps(json.loads(text))

    names = {
        id: (
            slugs[row["block_type_id"]],
            f"anonymous-{decrypted(row)}" if row["name"].startswith("anonymous-") else row["name"],
        )
        for id, row in documents.items()
    }
    result: dict[str, list[Any]] = {
        "block_type": [
            [
                *(row["name"], row["slug"], row["logo_url"], row["documentation_url"]),
                *(row["description"], row["code_example"], row.bool("is_protected")),
            ]
            for row in db.rows("SELECT * FROM block_type")
        ],
        "block_schema": [
            [
                *schema_keys[id],
                row.json("fields"),
                row.json("capabilities"),
                slugs[row["block_type_id"]],
            ]
            for id, row in schemas.items()
        ],
        "block_schema_reference": [
            [
                row["name"],
                schema_keys[row["parent_block_schema_id"]],
                schema_keys[row["reference_block_schema_id"]],
            ]
            for row in db.rows("SELECT * FROM block_schema_reference")
        ],
        "block_document": [
            [
                names[id],
                decrypted(row),
                schema_keys[row["block_schema_id"]],
                row["block_type_name"],
                row.bool("is_anonymous"),
            ]
            for id, row in documents.items()
        ],
        "block_document_reference": [
            [
                row["name"],
                names[row["parent_block_document_id"]],
                names[row["reference_block_document_id"]],
            ]
            for row in db.rows("SELECT * FROM block_document_reference")
        ],
    }
    return {table: sorted(rows, key=repr) for table, rows in result.items()}


class Generator:
    """Random operations, the same for the same seed."""

    def __init__(self, both: Both, seed: int) -> None:
        self.both = both
        self.random = random.Random(seed)
        self.made = 0
        self.protected: set[str] = set()

    def name(self, kind: str) -> str:
        self.made += 1
        return f"{kind}-{self.made}"

    def step(self) -> str:
        steps: list[tuple[int, Callable[[], None]]] = [
            (4, self.create_type),
            (2, self.update_type),
            (8, self.create_schema),
            (20, self.create_document),
            (25, self.update_document),
            (8, self.close_circle),
            (6, self.delete_document),
            (2, self.delete_schema),
            (1, self.delete_type),
        ]
        weights, chosen = zip(*steps, strict=True)
        [step] = self.random.choices(chosen, weights)
        step()
        return str(step.__name__)

    def text(self) -> str:
        return self.random.choice(["a & b", "<x>", "ü€😀", "", 'it\'s "quoted"', "?", "a\\b"])

    def create_type(self) -> None:
        columns = ("logo_url", "documentation_url", "description", "code_example")
        given = {name: self.text() for name in columns if self.random.random() < 0.6}
        slugs = list(self.both.types)
        slug = self.random.choice(slugs) if self.random.random() < 0.1 else self.name("type")
        # Of those Prefect refuses the deletion in its routes, not in its models.
        is_protected = self.random.random() < 0.1
        if is_protected:
            self.protected.add(slug)
        self.both.create_type(slug, is_protected=is_protected, **given)

    def update_type(self) -> None:
        columns = ("logo_url", "documentation_url", "description", "code_example")
        given = {name: self.text() for name in columns if self.random.random() < 0.5}
        if given:
            self.both.update_type(self.random.choice(list(self.both.types)), **given)

    def create_schema(self) -> None:
        """A schema up to three deep; its children are there, or are made with it."""
        slugs = self.random.sample(list(self.both.types), min(3, len(self.both.types)))
        slugs = slugs[: self.random.randint(1, 3)]
        definitions: dict[str, Any] = {}
        child: tuple[str, dict[str, Any]] | None = None
        for slug in slugs:
            sent = self.fields(slug)
            if child is not None:
                child_slug, child_fields = child
                title = child_fields["title"]
                definitions[title] = child_fields
                spec: Any = {"$ref": f"#/definitions/{title}"}
                reference: Any = {
                    "block_type_slug": child_slug,
                    "block_schema_checksum": blocks.checksum(child_fields),
                }
                if self.random.random() < 0.3:
                    spec, reference = {"anyOf": [spec, {"type": "null"}]}, [reference]
                sent["properties"]["child"] = spec
                sent["block_schema_references"] = {"child": reference}
            child = slug, sent
        assert child is not None
        slug, sent = child
        if self.random.random() < 0.4:
            sent["properties"]["side"] = {"$ref": "#/definitions/Side"}
            definitions["Side"] = {"title": "Side", "items": {"$ref": "#/definitions/More"}}
            definitions["More"] = self.random.choice([{}, {"title": "More", "type": "object"}])
        if self.random.random() < 0.1:
            definitions.popitem() if definitions else None
        if definitions:
            sent["definitions"] = definitions
        self.both.create_schema(
            slug,
            sent,
            capabilities=self.random.sample(["read", "write", "notify"], self.random.randint(0, 3)),
            version=self.random.choice(["1", "2", "non-versioned"]),
        )

    def fields(self, slug: str) -> dict[str, Any]:
        secret = self.random.sample(["password", "auth.token", "extra.*", "none"], 2)
        return {
            "title": f"{slug.title()}{self.random.randint(0, 3)}",
            "type": "object",
            "description": self.random.choice(["", "ü"]),
            "properties": {"x": {"type": "string"}},
            "required": [],
            "secret_fields": secret,
            "block_type_slug": slug,
            "block_schema_references": {},
        }

    def values(self) -> dict[str, Any]:
        any_value = self.random.choice([1, 2.5, True, None, "text", "ü", [1, {"a": None}], 2**70])
        every = {
            "x": any_value,
            "password": self.random.choice(["s3cr3t", "p€", None]),
            "auth": {"token": self.random.choice(["t1", 5]), "user": "u"},
            "extra": {"a": self.text(), "b": {"c": 1}},
            "y": {"$deeper": {"$ref": "no reference"}},
        }
        return dict(self.random.sample(list(every.items()), self.random.randint(0, 5)))

    def references(self) -> dict[str, Any]:
        known = list(self.both.documents)
        keys = self.random.sample(["child", "other", "x"], self.random.randint(0, 2))
        return {key: self.random.choice(known) for key in keys if known}

    def create_document(self) -> None:
        schema = self.random.choice(list(self.both.schemas) or [None])
        if schema is None:
            return
        chance = self.random.random()
        anonymous = chance < 0.3
        name = None if chance < 0.15 else self.name("doc")
        if chance > 0.95 and self.both.documents:
            name = self.random.choice(list(self.both.documents))[1]
        data = {**self.values(), **self.references()}
        self.both.create_document(schema, name, data, is_anonymous=anonymous)

    def update_document(self) -> None:
        if not self.both.documents:
            return
        document = self.random.choice(list(self.both.documents))
        data = {**self.values(), **self.references()}
        if self.random.random() < 0.5:
            # A client saves what it has read, with the masks.
            shown = self.both.read(document)
            data = {key: value for key, value in shown.items() if key not in ("child", "other")}
            data["x"] = self.random.randint(0, 9)
        schemas = [k for k, slug in self.both.slug_of.items() if slug == document[0]]
        if self.random.random() < 0.1:
            schemas = list(self.both.schemas)
        schema = self.random.choice([None, *schemas])
        self.both.update_document(document, data, schema=schema, merge=self.random.random() < 0.6)

    def close_circle(self) -> None:
        if not self.both.documents:
            return
        one = self.random.choice(list(self.both.documents))
        other = self.random.choice(list(self.both.documents))
        for parent, child in ((one, other), (other, one)):
            self.both.update_document(parent, {"child": child}, schema=None, merge=True)

    def delete_document(self) -> None:
        if self.both.documents:
            self.both.delete_document(self.random.choice(list(self.both.documents)))

    def delete_schema(self) -> None:
        if len(self.both.schemas) > 5:
            schema = self.random.choice(list(self.both.schemas))
            if self.both.slug_of[schema] not in self.protected:
                self.both.delete_schema(schema)

    def delete_type(self) -> None:
        slug = self.random.choice(list(self.both.types))
        if len(self.both.types) > 5 and slug not in self.protected:
            self.both.delete_type(slug)


@pytest.mark.parametrize("seed", range(2))
def test_generated_operations(
    prefect: Prefect, managed_url: str, db: Backend, compared: Counter[str], seed: int
) -> None:
    both = Both(prefect, db)
    generator = Generator(both, seed)
    for _ in range(4):
        generator.create_type()
    done: Counter[str] = Counter()
    rows = 0
    for number in range(120):
        done[generator.step()] += 1
        if number % 20 == 19:
            rows += both.compare(managed_url)
    for key in both.documents:
        both.read(key, secrets=True)
    assert both.outcomes.total() > 5
    name = db.dialect.name
    for step, times in done.items():
        compared[f"{name} block operations: {step}"] += times
    compared[f"{name} block operations refused by both"] += both.outcomes.total()
    compared[f"{name} block rows compared"] += rows
