"""Filters, sorts and pages made up at random, in the form of Prefect's JSON."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from types import NoneType
from typing import Any, Final, get_args
from uuid import UUID

from prefect.server.schemas import filters as prefect_filters
from pydantic import BaseModel

from prefect_db import Queryable
from prefect_db.states import StateType
from tests.peer.seeded_runs import NAMES, TAGS

Json = dict[str, Any]

FILTERS: Final[dict[str, type[BaseModel]]] = {
    "flows": prefect_filters.FlowFilter,
    "flow_runs": prefect_filters.FlowRunFilter,
    "task_runs": prefect_filters.TaskRunFilter,
}
# We store no deployments.
_LEFT_OUT: Final = {("flows", "deployment")}
_ABSENT: Final = {
    "uuid": [str(UUID(int=0)), str(UUID(int=2**128 - 1))],
    "text": ["nowhere", "%", "'"],
}
_LIKES: Final = ["", "%", "_", "\\", "L_", "%1", "a\\", "T'", "ä", "Ä", "RUN", "öl", "SS", "ß", "E"]


@dataclass
class Case:
    """What is asked.

    Attributes:
        entity: `flows`, `flow_runs` or `task_runs`.
        filters: By entity, its own and those of the others; one that is not there is not given.
    """

    entity: str
    filters: dict[str, Json]
    sort: str
    limit: int | None = None
    offset: int = 0


class Generator:
    """Makes cases about the rows of a database: the same ones from the same seed and rows."""

    def __init__(self, db: Queryable, seed: int) -> None:
        self._db = db
        self._random = random.Random(seed)
        self._pools: dict[tuple[str, str], list[Any]] = {}

    def cases(self, entity: str, sorts: list[str], number: int) -> Iterator[Case]:
        """Every part of every field alone and with the others of its field; then anything."""
        systematic = [{}, *self._each_field(entity)]
        if entity == "flow_runs":
            systematic.append({"id": {"any_": self._many_ids(entity)}})
        made = [{entity: own} for own in systematic]
        made += [self._filters(entity) for _ in range(number - len(made))]
        for filters in made:
            sort = self._random.choice(sorts)
            if self._chance(0.5):
                yield Case(entity, filters, sort)
            else:
                limit = self._random.choice((0, 1, 2, 10, 50, 200, None))
                yield Case(entity, filters, sort, limit, self._random.choice((0, 0, 1, 7, 60)))

    def _each_field(self, entity: str) -> Iterator[Json]:
        for field, kind in self._fields(entity):
            for leaf, parts in _leaves(kind):
                operators = ["and_", "or_"] if "operator" in kind.model_fields else ["and_"]
                for length in range(len(parts) + 1):
                    for chosen in itertools.combinations(parts, length):
                        for operator in operators if len(chosen) > 1 else ["and_"]:
                            given = {
                                part: self._part(entity, _path(field, leaf), part)
                                for part in chosen
                            }
                            if leaf is not None:
                                yield {field: {leaf: given}}
                            elif operator == "and_":
                                yield {field: given}
                            else:
                                yield {field: {**given, "operator": operator}}
                for part in parts:
                    if part.endswith(("any_", "all_")) or part in ("id_", "type_"):
                        empty: Json = {part: []}
                        yield {field: empty if leaf is None else {leaf: empty}}

    def _filters(self, entity: str) -> dict[str, Json]:
        made = {} if self._chance(0.1) else {entity: self._filter(entity)}
        for other in FILTERS:
            if other != entity and self._chance(0.35):
                made[other] = self._filter(other)
        return made

    def _filter(self, entity: str) -> Json:
        fields = dict(self._fields(entity))
        weights = (5, 40, 30, 15, 10)
        number = min(self._random.choices(range(len(weights)), weights)[0], len(fields))
        made: Json = {
            field: None if self._chance(0.03) else self._field(entity, field, fields[field])
            for field in self._random.sample(sorted(fields), number)
        }
        return self._with_operator(made, FILTERS[entity])

    def _field(self, entity: str, field: str, kind: type[BaseModel]) -> Json:
        made: Json = {}
        for leaf, parts in _leaves(kind):
            number = self._random.choices(range(len(parts) + 1), (1, 8, *[3] * (len(parts) - 1)))
            chosen = self._random.sample(parts, number[0])
            given = {
                part: None
                if self._chance(0.05)
                else self._part(entity, _path(field, leaf), part, empty=0.07)
                for part in chosen
            }
            if leaf is None:
                made.update(given)
            elif self._chance(0.7):
                made[leaf] = given
        return self._with_operator(made, kind)

    def _with_operator(self, made: Json, kind: type[BaseModel]) -> Json:
        if "operator" in kind.model_fields and self._chance(0.5):
            made["operator"] = self._random.choice(("and_", "or_"))
        return made

    def _part(self, entity: str, path: str, part: str, *, empty: float = 0) -> Any:
        """A value for one part of a leaf; a part of a new kind fails here."""
        if part in ("is_null_", "exists_"):
            return self._chance(0.5)
        if part == "like_":
            return self._like()
        if part in ("before_", "after_"):
            return self._time(entity, path)
        if part not in ("any_", "not_any_", "all_", "id_", "type_"):
            raise NotImplementedError(f"{entity}.{path}.{part}")
        if self._chance(empty):
            return []
        pool = self._pool(entity, f"{path}.{part}" if path == "created_by" else path)
        if part == "all_":
            chosen = self._random.choices(pool, k=self._random.choice((1, 1, 1, 2, 3)))
            return chosen * self._random.choice((1, 1, 1, 2))
        if part == "any_" and self._chance(0.5):
            return self._random.choices(pool, k=len(pool) // 2 + 1)
        return self._random.choices(pool, k=self._random.choice((1, 2, 3, 5)))

    def _like(self) -> str:
        if self._chance(0.4):
            return self._random.choice(_LIKES)
        name = self._random.choice(NAMES)
        start = self._random.randrange(len(name) + 1)
        text = name[start : start + self._random.choice((1, 2, 4))]
        return self._random.choice((text, text.upper(), text.lower()))

    def _time(self, entity: str, path: str) -> str:
        time: datetime = self._random.choice(self._pool(entity, path))
        time += timedelta(microseconds=self._random.choice((-1, 0, 0, 0, 1)))
        hours = self._random.choice((0, 0, 2, -7))
        return time.astimezone(timezone(timedelta(hours=hours))).isoformat()

    def _pool(self, entity: str, path: str) -> list[Any]:
        """The values that there are of what is compared, and some that there are not."""
        if (entity, path) not in self._pools:
            self._pools[entity, path] = self._make_pool(entity[:-1], path)
        return self._pools[entity, path]

    def _make_pool(self, table: str, path: str) -> list[Any]:
        if path == "tags":
            return [*TAGS, *_ABSENT["text"]]
        if path == "state.type":
            return [str(type) for type in StateType]
        if path.startswith("created_by."):
            creators = [row.json(0) for row in self._distinct(table, "created_by")]
            key = path.split(".")[1].removesuffix("_")
            found = sorted({creator[key] for creator in creators if creator and creator.get(key)})
            return [*found, *_ABSENT["uuid" if key == "id" else "text"]]
        if path == "parent_flow_run_id":
            parents = self._db.rows(
                "SELECT DISTINCT task_run.flow_run_id FROM task_run JOIN flow_run"
                " ON flow_run.parent_task_run_id = task_run.id"
                " WHERE task_run.flow_run_id IS NOT NULL ORDER BY 1"
            )
            return [*(str(row.uuid(0)) for row in parents), *_ABSENT["uuid"]]
        column = "state_name" if path == "state.name" else path
        rows = self._distinct(table, column)
        if column == "id" or column.endswith("_id"):
            return [*(str(row.uuid(0)) for row in rows), *_ABSENT["uuid"]]
        if column.endswith("_time"):
            return [row.datetime(0) for row in rows]
        return [*(row.text(0) for row in rows), *_ABSENT["text"]]

    def _distinct(self, table: str, column: str) -> Any:
        return self._db.rows(
            f"SELECT DISTINCT {column} FROM {table} WHERE {column} IS NOT NULL ORDER BY 1"
        )

    def _many_ids(self, entity: str) -> list[str]:
        strange = [str(UUID(int=self._random.getrandbits(128))) for _ in range(10_000)]
        return [*strange, *self._random.sample(self._pool(entity, "id"), 20)]

    def _fields(self, entity: str) -> list[tuple[str, type[BaseModel]]]:
        return [
            (name, _model(field.annotation))
            for name, field in FILTERS[entity].model_fields.items()
            if name != "operator" and (entity, name) not in _LEFT_OUT
        ]

    def _chance(self, probability: float) -> bool:
        return self._random.random() < probability


def _leaves(kind: type[BaseModel]) -> Iterator[tuple[str | None, list[str]]]:
    """The parts of a field, or of each of the fields within it: those of a state are two."""
    parts = [name for name in kind.model_fields if name != "operator"]
    inner = {name: _model(kind.model_fields[name].annotation, None) for name in parts}
    if any(inner.values()):
        for name, model in inner.items():
            yield name, list(model.model_fields)
    else:
        yield None, parts


def _model(annotation: Any, default: Any = NotImplementedError) -> Any:
    """The filter's class of an optional field."""
    for each in get_args(annotation):
        if each is not NoneType and isinstance(each, type) and issubclass(each, BaseModel):
            return each
    if default is NotImplementedError:
        raise NotImplementedError(f"{annotation} is no filter")
    return default


def _path(field: str, leaf: str | None) -> str:
    return field if leaf is None else f"{field}.{leaf}"
