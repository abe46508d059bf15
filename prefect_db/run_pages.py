"""How `find` reads a page of runs without looking at the others: along an index in its order.

Runs in one type of state are in the order of the page along an index that begins with the type,
be they many, few or none. So runs in several types are asked for by one SELECT for each, and the
database merges these in their order. On SQLite the same goes for tags, with `flow_run_tag`;
PostgreSQL has an index on the lists themselves, and knows how frequent a tag is. What comes with
tags is tested on the runs that have them.
"""

from __future__ import annotations

from dataclasses import fields, replace
from operator import attrgetter
from typing import Any, Final, NamedTuple, TypeVar

from prefect_db.dialect import Dialect
from prefect_db.filters import Among, Tags, Where, types_of
from prefect_db.queryable import Queryable
from prefect_db.run_filters import (
    FlowFilter,
    FlowRunFilter,
    TaskRunFilter,
    of_flow_runs,
    of_task_runs,
)

F = TypeVar("F", FlowRunFilter, TaskRunFilter)

STARTED: Final = "coalesce(start_time, expected_start_time)"
_BY_ID: Final = "id DESC"
# What flow runs are ordered by in an index that begins with the type of state.
_INDEXED: Final = (_BY_ID, STARTED, "expected_start_time")


class Page(NamedTuple):
    """A page of runs.

    Attributes:
        sql, params: The statement.
        prepare: PostgreSQL may plan it once, as its conditions have no parameters.
    """

    sql: str
    params: list[Any]
    prepare: bool


def flow_run_page(
    db: Queryable,
    columns: str,
    order: str,
    bounds: tuple[int, int],
    filter: FlowRunFilter | None,
    flows: FlowFilter | None,
    task_runs: TaskRunFilter | None,
) -> Page:
    """A page of flow runs of these bounds, limit and offset."""
    source, union, parts = "flow_run", "UNION ALL", [filter]
    tagged = _by_tag(filter) if order == _BY_ID and db.dialect.name == "sqlite" else []
    if filter is not None and tagged and _has_tag_table(db):
        # CROSS: in this order. Ordered by the id of this table, SQLite has nothing to sort. A run
        # with two of the tags is found twice.
        source, union = "flow_run_tag CROSS JOIN flow_run ON flow_run.id = flow_run_id", "UNION"
        columns = columns.replace("id", "flow_run_id AS id", 1)
        parts = [replace(filter, tags=tags) for _, tags in tagged]
    elif filter is not None and filter.tags is None and order.startswith(_INDEXED):
        parts = [*_by_state(filter)]
    wheres = [of_flow_runs(db.dialect, part, flows, task_runs) for part in parts]
    if union == "UNION":
        for where, (tag, _) in zip(wheres, tagged, strict=True):
            where.add("flow_run_tag.tag = ?", tag)
    mark = "?"
    if filter is not None and filter.tags is not None:
        # PostgreSQL would take the tag to be spread evenly over the runs, and a short page to be
        # full soon. Not knowing how short it is, it uses the index for a tag that is rare.
        mark = db.dialect.pick(sqlite="?", postgres="(SELECT CAST(? AS bigint))")
    selected = [(source, where) for where in wheres]
    others = flows is not None or task_runs is not None
    prepare = not others and order.startswith(_INDEXED) and _asks_types(filter)
    return _page(db.dialect, columns, order, f" {union} ", selected, bounds, mark, prepare=prepare)


def task_run_page(
    db: Queryable,
    columns: str,
    order: str,
    bounds: tuple[int, int],
    filter: TaskRunFilter | None,
    flows: FlowFilter | None,
    flow_runs: FlowRunFilter | None,
) -> Page:
    """A page of task runs of these bounds, limit and offset."""
    parts = _by_state(filter) if filter is not None and order == _BY_ID else [filter]
    wheres = [of_task_runs(db.dialect, part, flows, flow_runs) for part in parts]
    selected = [("task_run", where) for where in wheres]
    others = flows is not None or flow_runs is not None
    prepare = not others and order == _BY_ID and _asks_types(filter)
    return _page(db.dialect, columns, order, " UNION ALL ", selected, bounds, "?", prepare=prepare)


def _page(
    dialect: Dialect,
    columns: str,
    order: str,
    union: str,
    parts: list[tuple[str, Where]],
    bounds: tuple[int, int],
    mark: str,
    *,
    prepare: bool,
) -> Page:
    """A page of the rows of several sources, each with its condition.

    Args:
        mark: What stands for the limit.
        prepare: The conditions have no parameters.
    """
    limit, offset = bounds
    # Without knowing the limit, PostgreSQL would expect a tenth of all rows, and so find it better
    # to plan the page at each call, instead of once and again after each ANALYZE. To plan it takes
    # as long as to find 20 rows.
    known = prepare and not offset
    end, last = f"LIMIT {mark} OFFSET ?", [limit, offset]
    if known:
        end, last = f"LIMIT {limit}", []
    if len(parts) == 1:
        [(source, where)] = parts
        sql = f"SELECT {columns} FROM {source}{where.sql} ORDER BY {order} {end}"
        return Page(sql, [*where.params, *last], prepare)
    # What a union is ordered by is a column that it gives.
    given = f"{columns}, {STARTED} AS started" if STARTED in order else columns
    order = order.replace(STARTED, "started")
    select, needed = f"SELECT {given} FROM {{}}", []
    if dialect.name == "postgres":
        # It merges what says to be in order, and plans for as many rows as it says to need; SQLite
        # finds that out, and takes no such words.
        select = f"({select} ORDER BY {order} {end if known else 'LIMIT ?'})"
        needed = [] if known else [limit + offset]
    merged = union.join([select.format(f"{source}{where.sql}") for source, where in parts])
    sql = f"{merged} ORDER BY {order} {end}"
    if given != columns:
        sql = f"SELECT {columns} FROM ({sql}) AS page ORDER BY {order}"
    params = [param for _, where in parts for param in (*where.params, *needed)]
    return Page(sql, [*params, *last], prepare)


# All that a filter asks for but the state.
_REST: Final[dict[type[Any], attrgetter[Any]]] = {
    kind: attrgetter(*[field.name for field in fields(kind) if field.name != "state"])
    for kind in (FlowRunFilter, TaskRunFilter)
}


def _asks_types(filter: FlowRunFilter | TaskRunFilter | None) -> bool:
    """True if a filter asks for types of states, or nothing."""
    if filter is None:
        return True
    named = filter.state is not None and filter.state.name is not None
    # A caller's subclass may ask for more.
    rest = _REST.get(type(filter))
    return rest is not None and not named and rest(filter) == rest(type(filter)())


def _by_state(filter: F) -> list[F]:
    """Filters that together let through what this one does, each in one type of state."""
    state = filter.state
    if state is None or filter.operator == "or_" or (state.operator == "or_" and state.name):
        return [filter]
    types = types_of(state)
    if not types or len(types) == 1:
        return [filter]
    return [replace(filter, state=replace(state, type=Among(any_=[type]))) for type in types]


def _by_tag(filter: FlowRunFilter | None) -> list[tuple[str, Tags]]:
    """Tags of which a run must have one, each with what is left to ask then; none if a run needs
    no tag."""
    if filter is None or filter.tags is None or filter.operator == "or_":
        return []
    tags = filter.tags
    if tags.operator == "or_" or not all(
        isinstance(tag, str) for tag in [*(tags.all_ or ()), *(tags.any_ or ())]
    ):
        return []
    if tags.all_:
        first, *others = tags.all_
        return [(first, replace(tags, all_=others))]
    return [(tag, replace(tags, any_=None)) for tag in dict.fromkeys(tags.any_ or ())]


def _has_tag_table(db: Queryable) -> bool:
    """False in a database of Prefect's."""
    return bool(db.value("SELECT count(*) FROM sqlite_master WHERE name = 'flow_run_tag'"))
