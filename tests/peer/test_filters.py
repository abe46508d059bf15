"""Filters, sorts, pages and counts find what Prefect's find, on one database that both read.

What Prefect answers otherwise is explained by a rule, case by case, or it is a failure.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, is_dataclass
from datetime import datetime
from types import NoneType
from typing import Any, Final, get_args, get_type_hints
from uuid import UUID

import pytest
from prefect.server import models
from prefect.server.schemas import sorting
from sqlalchemy import event

from prefect_db import Backend, Queryable, connect, flow_runs, flows, task_runs
from prefect_db.flow_runs import FlowRunFilter, FlowRunSort
from prefect_db.flows import FlowFilter, FlowSort
from prefect_db.states import StateType
from prefect_db.task_runs import TaskRunFilter, TaskRunSort
from tests.peer.conftest import copy_of
from tests.peer.filter_cases import FILTERS, Case, Generator, Json
from tests.peer.prefect_peer import Prefect
from tests.peer.seeded_runs import FLOW_RUNS, FLOWS, TASK_RUNS, fill

SEED: Final = 1
CASES: Final = 400

TIES: Final = "equals are in the order of their ids: Prefect leaves that to the engine"
NULLS: Final = "NULL is the smallest on both engines: in Prefect the largest on PostgreSQL"
BOTH: Final = "any_ and not_any_ of a state both count: Prefect ignores a leaf that has both"
LITERAL: Final = "%, _ and \\ in like_ are text: in Prefect wildcards and an escape"
STATELESS: Final = "runs without a state are counted too, under None: Prefect leaves them out"


@dataclass
class Entity:
    """Our module and Prefect's functions for it."""

    ours: Any
    filter: type[Any]
    sort: type[Any]
    prefect_sort: type[Any]
    read: Callable[..., Any]
    count: Callable[..., Any]
    rows: int


ENTITIES: Final = {
    "flows": Entity(
        flows,
        FlowFilter,
        FlowSort,
        sorting.FlowSort,
        models.flows.read_flows,
        models.flows.count_flows,
        FLOWS,
    ),
    "flow_runs": Entity(
        flow_runs,
        FlowRunFilter,
        FlowRunSort,
        sorting.FlowRunSort,
        models.flow_runs.read_flow_runs,
        models.flow_runs.count_flow_runs,
        FLOW_RUNS,
    ),
    "task_runs": Entity(
        task_runs,
        TaskRunFilter,
        TaskRunSort,
        sorting.TaskRunSort,
        models.task_runs.read_task_runs,
        models.task_runs.count_task_runs,
        TASK_RUNS,
    ),
}


def our_filter(kind: Any, given: Any) -> Any:
    """Prefect's JSON as an instance of our class of filter, or of one of its fields."""
    kinds = [each for each in get_args(kind) if each is not NoneType]
    if NoneType in get_args(kind) and len(kinds) == 1:
        kind = kinds[0]
    if given is None:
        return None
    if not is_dataclass(kind):
        return datetime.fromisoformat(given) if kind is datetime else given
    hints = get_type_hints(kind)
    # Where there is nothing that it could combine, Prefect has an operator, and we have none.
    if "operator" not in hints:
        given = {name: value for name, value in given.items() if name != "operator"}
    made: Any = kind
    return made(**{name: our_filter(hints[name], value) for name, value in given.items()})


@pytest.fixture(scope="module")
def seeded_url(
    backend_name: str, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    for url in copy_of("managed", backend_name, request, tmp_path_factory.mktemp("seeded")):
        with connect(url) as db:
            fill(db)
        yield url


@pytest.fixture(scope="module")
def seeded(seeded_url: str) -> Iterator[Backend]:
    """Our Backend on a database that Prefect manages, full of runs."""
    with connect(seeded_url) as db:
        yield db


@pytest.fixture(scope="module")
def peer(seeded_url: str) -> Iterator[Prefect]:
    """A real Prefect on that database."""
    with Prefect(seeded_url) as prefect:
        yield prefect


def test_generated_filters(
    seeded: Backend, peer: Prefect, backend_name: str, compared: Counter[str]
) -> None:
    comparison = Comparison(seeded, peer)
    generator = Generator(seeded, SEED)
    for name, entity in ENTITIES.items():
        for case in generator.cases(name, [sort.name for sort in entity.sort], CASES):
            comparison.compare(case)
            compared[f"{backend_name} filters"] += 1
    compared[f"{backend_name} pages"] += comparison.pages
    for rule, number in comparison.rules.items():
        compared[f"{backend_name} filters otherwise, as {rule}"] += number
    assert not comparison.differences, "\n\n".join(comparison.differences[:5])
    assert comparison.rules.keys() == {TIES, BOTH, LITERAL, STATELESS} | (
        {NULLS} if backend_name == "postgres" else set()
    )
    # Most questions tell rows apart, and many pages could be compared.
    assert comparison.telling > CASES
    assert comparison.pages > CASES / 3


class Comparison:
    """Both sides' answers to cases.

    Attributes:
        differences: What no rule explains.
        rules: How often each rule was needed.
        telling: In how many cases some rows were found, but not all.
        pages: How many of Prefect's pages were compared, not counting whole results.
    """

    def __init__(self, db: Queryable, prefect: Prefect) -> None:
        self.differences: list[str] = []
        self.rules: Counter[str] = Counter()
        self.telling = self.pages = 0
        self._db = db
        self._prefect = prefect
        self._keys: dict[tuple[str, str], dict[UUID | None, Any]] = {}
        self._state_types: dict[str, dict[UUID | None, StateType | None]] = {}

    def compare(self, case: Case) -> None:
        try:
            self._compare(case)
        except Difference as difference:
            asked = json.dumps(vars(case), ensure_ascii=False)[:5000]
            self.differences.append(f"{self._db.dialect.name}: {asked}\n{difference}")

    def _compare(self, case: Case) -> None:
        entity = ENTITIES[case.entity]
        own, others = self._our_filters(case)
        sort = entity.sort[case.sort]
        found = entity.ours.find(self._db, own, **others, sort=sort, limit=None)
        ours = [record.id for record in found]
        keys = self._sort_keys(case)
        check("our order", ours, sorted(ours, key=keys.__getitem__, reverse=descending(case.sort)))
        check("our count", entity.ours.count(self._db, own, **others), len(ours))
        if (case.limit, case.offset) != (None, 0):
            end = None if case.limit is None else case.offset + case.limit
            page = entity.ours.find(
                self._db, own, **others, sort=sort, limit=case.limit, offset=case.offset
            )
            check("our page", [record.id for record in page], ours[case.offset : end])
        self.telling += 0 < len(ours) < entity.rows

        total = case.limit is not None and _is_total(ours, keys)
        theirs = self._theirs(case, ours, paged=total)
        check("count", len(ours), theirs.count)
        self._compare_order(case, ours, theirs.ids, keys)
        if total and case.limit is not None:
            check("page", ours[case.offset : case.offset + case.limit], theirs.page)
            self.pages += 1
        if case.entity != "flows":
            self._compare_states(case, theirs)

    def _theirs(self, case: Case, ours: list[UUID], *, paged: bool) -> Answer:
        """Prefect's answer: if a rule says so, to what it needs to be asked for the same rows."""
        filters = case.filters
        needed = []
        for rule, rewrite in ((None, None), (BOTH, _one_list), (LITERAL, self._literally)):
            if rule is not None and rewrite is not None:
                rewritten = {name: rewrite(name, given) for name, given in filters.items()}
                if rewritten == filters:
                    continue
                filters = rewritten
                needed.append(rule)
            theirs = self._prefect.read(prefects_answer, case, filters, paged)
            if set(theirs.ids) == set(ours):
                self.rules.update(needed)
                return theirs
        only = set(ours) ^ set(theirs.ids)
        raise Difference(
            f"only ours: {sorted(map(str, only & set(ours)))}\n"
            f"only Prefect's: {sorted(map(str, only - set(ours)))}"
        )

    def _our_filters(self, case: Case) -> tuple[Any, Json]:
        made = {
            name: our_filter(ENTITIES[name].filter, given) for name, given in case.filters.items()
        }
        return made.pop(case.entity, None), made

    def _compare_order(
        self, case: Case, ours: list[UUID], theirs: list[UUID], keys: dict[UUID | None, Any]
    ) -> None:
        nulls = [id for id in theirs if keys[id][:1] == (False,)]
        others = [id for id in theirs if keys[id][:1] != (False,)]
        first, last = [*nulls, *others], [*others, *nulls]
        if theirs not in (first, last):
            raise Difference(f"Prefect's NULLs are not together: {[keys[id] for id in theirs]}")
        smallest = last if descending(case.sort) else first
        self.rules[NULLS] += theirs != smallest
        self.rules[TIES] += smallest != ours
        check("order", [keys[id][:-1] for id in ours], [keys[id][:-1] for id in smallest])

    def _compare_states(self, case: Case, theirs: Answer) -> None:
        own, others = self._our_filters(case)
        ours = ENTITIES[case.entity].ours.count_by_state(self._db, own, **others)
        expected = Counter(map(self._states(case.entity).__getitem__, theirs.ids))
        check("count by state", ours, {**expected})
        # Prefect has no such count of flow runs.
        if theirs.by_state is not None:
            self.rules[STATELESS] += ours.pop(None, 0) > 0
            check(
                "count by state", {type: ours.get(type, 0) for type in StateType}, theirs.by_state
            )

    def _states(self, entity: str) -> dict[UUID | None, StateType | None]:
        """The type of state by id."""
        if entity not in self._state_types:
            rows = self._db.rows(f"SELECT id, state_type FROM {entity[:-1]}")
            self._state_types[entity] = {row.uuid(0): row[1] and StateType(row[1]) for row in rows}
        return self._state_types[entity]

    def _sort_keys(self, case: Case) -> dict[UUID | None, Any]:
        """By id, what a sort compares: whether there is a value, the value, and the id.

        Texts are represented by their rank: how they compare is for the database to say.
        """
        sort = case.sort.removesuffix("_ASC").removesuffix("_DESC").lower()
        if (case.entity, sort) not in self._keys:
            value = {
                "id": "id",
                "name": "dense_rank() OVER (ORDER BY name)",
                "start_time": "coalesce(start_time, expected_start_time)",
            }.get(sort, sort)
            rows = self._db.rows(f"SELECT id, {value} FROM {case.entity[:-1]}")
            self._keys[case.entity, sort] = {
                row.uuid(0): (row.uuid(0),)
                if sort == "id"
                else (row[1] is not None, row[1], row.uuid(0))
                for row in rows
            }
        return self._keys[case.entity, sort]

    def _literally(self, entity: str, given: Json) -> Json:
        """`like_` as the list of names that have this text in them."""
        name = given.get("name") or {}
        like = name.get("like_") or ""
        if not set(like) & set("%_\\"):
            return given
        contains = self._db.dialect.pick(
            sqlite="instr(lower(name), lower(?))",
            postgres="strpos(lower(name), lower(CAST(? AS text)))",
        )
        rows = self._db.rows(f"SELECT name FROM {entity[:-1]} WHERE {contains} > 0", (like,))
        names = {row.text(0) for row in rows}
        if name.get("any_") is not None:
            names &= set(name["any_"])
        return {**given, "name": {"any_": sorted(names)}}


@dataclass
class Answer:
    """What Prefect finds: the ids of all rows and of a page, in its order, and its counts."""

    ids: list[UUID]
    page: list[UUID] | None
    count: int
    by_state: dict[str, int] | None


async def prefects_answer(
    session: Any, case: Case, filters: dict[str, Json], paged: bool
) -> Answer:
    entity = ENTITIES[case.entity]
    asked = {
        f"{name[:-1]}_filter": FILTERS[name].model_validate(given)
        for name, given in filters.items()
    }
    sort = entity.prefect_sort(case.sort)
    count = await entity.count(session, **asked)
    by_state = None
    if case.entity == "task_runs":
        by_state = (await models.task_runs.count_task_runs_by_state(session, **asked)).model_dump()
    # The statements that Prefect makes, but without all columns: a record of them takes it long.
    event.listen(session.sync_session, "do_orm_execute", _only_ids)
    ids = list(await entity.read(session, **asked, sort=sort))
    page = None
    if paged:
        page = list(
            await entity.read(session, **asked, sort=sort, limit=case.limit, offset=case.offset)
        )
    return Answer(ids, page, count, by_state)


def _only_ids(execution: Any) -> None:
    id = execution.bind_mapper.class_.id
    execution.statement = execution.statement.with_only_columns(id)


class Difference(Exception):
    """Ours and Prefect's answer are not the same."""


def check(what: str, ours: object, theirs: object) -> None:
    if ours != theirs:
        raise Difference(f"{what}: ours {ours}\nexpected {theirs}")


def descending(sort: str) -> bool:
    return sort.endswith("_DESC")


def _is_total(ids: list[UUID], keys: dict[UUID | None, Any]) -> bool:
    """Whether the sort key alone decides, on both engines."""
    values = [keys[id][:-1] or keys[id] for id in ids]
    return (False, None) not in values and len(set(values)) == len(values)


def _one_list(_: str, given: Json) -> Json:
    """A state's `any_` without what is in its `not_any_`."""
    state = dict(given.get("state") or {})
    for part, leaf in state.items():
        if isinstance(leaf, dict) and leaf.get("any_") is not None and leaf.get("not_any_"):
            state[part] = {"any_": [each for each in leaf["any_"] if each not in leaf["not_any_"]]}
    return {**given, "state": state} if state else given
