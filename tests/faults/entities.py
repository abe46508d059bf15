"""Every public function of every entity, called with a text wherever it takes one.

The functions are found, and their arguments made, by their annotations: a new function, filter or
field is called with it too, or the test that uses this says that it does not know how.
"""

from __future__ import annotations

import dataclasses
import inspect
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from typing import Any, Final, Literal
from uuid import UUID, uuid4

from prefect_db import Queryable, blocks, configuration, events, flow_runs, flows, logs, task_runs
from prefect_db.filters import Among
from prefect_db.filters import State as StateFilter
from prefect_db.states import State, StateType, running
from prefect_db.text_search import MAX_QUERY
from prefect_db.text_search import Text as TextSearch

MODULES: Final = (flows, flow_runs, task_runs, events, logs, blocks, configuration)
# What only makes statements for the entities' modules, which import it.
_INTERNAL: Final = ("prefect_db.run_pages",)
NOON: Final = datetime(2030, 1, 1, 12, tzinfo=UTC)


@dataclass(slots=True)
class Seeded:
    """What the ids of arguments name: for `flow_run_id`, a flow run that is there."""

    ids: dict[str, UUID]


def functions() -> Mapping[str, Callable[..., Any]]:
    """By its name, such as `flows.create`."""
    found = {}
    for module in MODULES:
        for name, function in inspect.getmembers(module, inspect.isfunction):
            first = next(iter(inspect.signature(function).parameters.values()), None)
            of_the_library = function.__module__.startswith("prefect_db.")
            if function.__module__ in _INTERNAL:
                continue
            if of_the_library and not name.startswith("_") and first and first.name == "db":
                found[f"{module.__name__.removeprefix('prefect_db.')}.{name}"] = function
    return found


def seed(db: Queryable) -> Seeded:
    """One of everything; `delete` functions find what can be deleted."""
    flow = flows.create(db, "seed")
    run = flow_runs.create(db, flow.id, state=running())
    task = task_runs.create(db, "seed", "seed", "0", flow_run_id=run.id, state=running())
    block_type = blocks.create_type(db, "Seed", "seed")
    schema = blocks.create_schema(db, _fields("seed"), block_type.id)
    document = blocks.create_document(db, "seed", {"a": 1}, schema.id, block_type.id)
    return Seeded(
        {
            "flow_id": flow.id,
            "flow_run_id": run.id,
            "task_run_id": task.id,
            "parent_task_run_id": task.id,
            "infrastructure_document_id": document.id,
            "block_type_id": block_type.id,
            "block_schema_id": schema.id,
            "block_document_id": document.id,
        }
    )


def call(db: Queryable, name: str, text: str, seeded: Seeded, ids: str | None = None) -> Any:
    """Call a function with the text; with `ids`, also where an id belongs."""
    positional, named = _Filled(text, seeded, ids).arguments(name)
    return functions()[name](db, *positional, **named)


def fields_of_filters() -> list[tuple[str, str]]:
    """Each function that takes a filter, with each field of it."""
    found = []
    for name, function in functions().items():
        kind = typing.get_type_hints(function).get("filter")
        for each in typing.get_args(kind) or [kind]:
            if dataclasses.is_dataclass(each):
                found += [(name, field.name) for field in dataclasses.fields(each)]
    return [(name, field) for name, field in found if field != "operator"]


def call_with_filter(db: Queryable, name: str, field: str, text: str, seeded: Seeded) -> Any:
    """Call a function with a filter that has this field alone, with the text in it."""
    function = functions()[name]
    filter = _Filled(text, seeded, None, field).value(
        typing.get_type_hints(function)["filter"], "filter"
    )
    if name == "events.count_by_time":
        occurred = events.Occurred(since=NOON)
        return function(db, "day", dataclasses.replace(filter, occurred=occurred))
    return function(db, filter)


def words() -> list[tuple[str, str]]:
    """Each function that takes a word, which becomes a part of its statements, with the parameter:
    a sort or another one of a few, or the columns of an `update`."""
    return [
        (name, parameter.name)
        for name, function in functions().items()
        for parameter in inspect.signature(function).parameters.values()
        if parameter.kind is parameter.VAR_KEYWORD
        or _is_one_of_a_few(typing.get_type_hints(function)[parameter.name])
    ]


def call_with_word(db: Queryable, name: str, parameter: str, word: Any, seeded: Seeded) -> Any:
    """Call a function with this in the place of a word."""
    function = functions()[name]
    positional, named = _Filled("a", seeded, None).arguments(name)
    call = inspect.signature(function).bind(db, *positional, **named)
    columns = (
        inspect.signature(function).parameters[parameter].kind is inspect.Parameter.VAR_KEYWORD
    )
    call.arguments[parameter] = {str(word): 1} if columns else word
    return function(*call.args, **call.kwargs)


def _is_one_of_a_few(hint: Any) -> bool:
    inner = typing.get_args(hint) if typing.get_origin(hint) is not Literal else ()
    return (
        typing.get_origin(hint) is Literal
        or (inspect.isclass(hint) and issubclass(hint, Enum))
        or any(_is_one_of_a_few(each) for each in inner)
    )


# What cannot be told from the annotations.
_GIVEN: Final[dict[str, Callable[[str], dict[str, Any]]]] = {
    "blocks.create_schema": lambda text: {"fields": _fields(text)},
    # Without `data`, nothing changes.
    "blocks.update_document": lambda text: {"data": {text: text, "a": [text]}},
    "events.query": lambda text: {"after": None},
    # One that is there already would be left as it is.
    "task_runs.record": lambda text: {"batch": [_task_frame(text)]},
}


def _fields(text: str) -> dict[str, Any]:
    child = {"block_schema_references": {}, "block_type_slug": text, "title": text}
    return {
        "block_type_slug": text,
        "title": text,
        "type": "object",
        "properties": {text: {"title": text, "type": "string"}},
        "secret_fields": [text],
        "definitions": {text: {**child, "type": "object", "properties": {}}},
        "block_schema_references": {},
    }


def _task_frame(text: str) -> dict[str, Any]:
    return {
        "id": str(uuid4()),
        "occurred": NOON.isoformat(),
        "event": "prefect.task-run.Running",
        "resource": {
            "prefect.resource.id": f"prefect.task-run.{uuid4()}",
            "prefect.orchestration": "client",
            "label": text,
        },
        "related": [],
        "payload": {
            "validated_state": {
                "type": "RUNNING",
                "name": text,
                "message": text,
                "data": {text: text},
                "state_details": {"cache_key": text},
            },
            "task_run": {
                **dict.fromkeys(("name", "task_key", "dynamic_key", "cache_key"), text),
                "tags": [text],
                "task_inputs": {text: [{"name": text}]},
                "labels": {text: text},
            },
        },
    }


class _Filled:
    def __init__(
        self, text: str, seeded: Seeded, ids: str | None, field: str | None = None
    ) -> None:
        self._text = text
        self._field = field
        self._seeded = seeded
        self._ids = ids

    def arguments(self, name: str) -> tuple[list[Any], dict[str, Any]]:
        function = functions()[name]
        hints = typing.get_type_hints(function)
        given = _GIVEN[name](self._text) if name in _GIVEN else {}
        positional: list[Any] = []
        named: dict[str, Any] = {}
        for parameter in list(inspect.signature(function).parameters.values())[1:]:
            hint = hints[parameter.name]
            if parameter.name in given:
                value = given[parameter.name]
            elif parameter.kind is parameter.VAR_KEYWORD:
                (changes,) = typing.get_args(hint)
                for key, its in typing.get_type_hints(changes).items():
                    named[key] = self.value(its, key)
                continue
            elif _is_left_out(hint, parameter):
                continue
            else:
                value = self.value(hint, parameter.name)
            if parameter.kind is parameter.KEYWORD_ONLY:
                named[parameter.name] = value
            else:
                positional.append(value)
        return positional, named

    def value(self, hint: Any, name: str) -> Any:
        """A value of this type, with the text in it."""
        origin, inner = typing.get_origin(hint), typing.get_args(hint)
        if origin in (typing.Union, types.UnionType):
            return self.value(next(each for each in inner if each is not types.NoneType), name)
        if origin is Literal:
            return inner[0]
        if hint is str:
            return self._text
        if hint is Any or hint is object:
            # What a leaf of a filter takes, only the name of its field tells.
            return self.id(name) if name == "id" or name.endswith("_id") else self._text
        if hint is UUID:
            return self.id(name)
        if hint is datetime:
            return NOON
        if hint is bool:
            return False
        if hint is int:
            return 1
        if hint is float:
            return 1.0
        if hint is State:
            return running(
                name=self._text,
                message=self._text,
                data={self._text: [self._text]},
                details={"cache_key": self._text},
            )
        if origin is not None and issubclass(origin, Mapping):
            label = self._text
            return {label: self._text if inner[1] is str else self.value(inner[1], name), "a": "b"}
        if origin is tuple:
            return tuple(self.value(each, name) for each in inner)
        if origin is not None and issubclass(origin, (Sequence, Iterable)):
            return [self.of_sequence(inner[0], name)]
        if hint is TextSearch:
            # One term, whatever is in it.
            phrase = self._text.replace("\\", "\\\\").replace('"', '\\"')
            return TextSearch(query=f'"{phrase[: MAX_QUERY - 2]}"')
        if dataclasses.is_dataclass(hint):
            return self.filter(hint, name)
        raise AssertionError(f"{name}: {hint}: say here how to make one")

    def of_sequence(self, hint: Any, name: str) -> Any:
        kinds = typing.get_args(hint) or (hint,)
        if events.Event in kinds:
            resource = {events.RESOURCE_ID: self._text, self._text: self._text}
            related = [{**resource, events.RESOURCE_ROLE: self._text}]
            payload = {self._text: [self._text]}
            return events.make(self._text, resource, related=related, payload=payload)
        if logs.Log in kinds:
            return logs.make(self._text, 20, self._text, NOON)
        return self.value(hint, name)

    def filter(self, kind: Any, name: str) -> Any:
        """A filter with a value in every field; a leaf's values are of the type of its field."""
        if kind is StateFilter:
            return StateFilter(
                type=Among(any_=[StateType.RUNNING]), name=Among(any_=[self._text], not_any_=["a"])
            )
        leaf = ("any_", "not_any_", "all_", "like_")
        return kind(
            **{
                field: self.value(hint, name if field in leaf else field)
                for field, hint in typing.get_type_hints(kind).items()
                if field != "operator"
                and (self._field in (None, field) or not kind.__name__.endswith("Filter"))
            }
        )

    def id(self, name: str) -> Any:
        if self._ids is not None:
            return self._ids
        return self._seeded.ids.get(name) or uuid4()


def _is_left_out(hint: Any, parameter: inspect.Parameter) -> bool:
    """What has no text in it, and a default."""
    if parameter.default is parameter.empty:
        return False
    kinds = [kind for kind in (typing.get_args(hint) or (hint,)) if kind is not types.NoneType]
    return (
        any(
            kind in (bool, int, float)
            or typing.get_origin(kind) is Callable
            or (inspect.isclass(kind) and issubclass(kind, Enum))
            for kind in kinds
        )
        or typing.get_origin(hint) is Literal
    )
