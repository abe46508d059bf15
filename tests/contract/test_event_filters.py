"""Which events a filter lets through, page by page and counted."""

from __future__ import annotations

import base64
import itertools
import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, Final
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prefect_db import Backend, BadValue, connect, events
from prefect_db.events import (
    AnyResource,
    Event,
    EventFilter,
    EventId,
    EventName,
    Occurred,
    Order,
    Related,
    Resource,
    Text,
)
from prefect_db.testing import create_database
from tests.contract.sample_events import at, fill, make, numbered, pages, related, resource

FILTERS: Final[list[tuple[str, EventFilter | None, list[int]]]] = [
    ("none", None, [1, 2, 3, 4, 5, 6, 7, 8]),
    ("nothing asked", EventFilter(), [1, 2, 3, 4, 5, 6, 7, 8]),
    ("ids", EventFilter(id=EventId(id=[numbered(2), numbered(5), numbered(99)])), [2, 5]),
    ("no id", EventFilter(id=EventId(id=[])), [1, 2, 3, 4, 5, 6, 7, 8]),
    ("name", EventFilter(event=EventName(name=["prefect.flow-run.Running", "x"])), [2, 8]),
    ("name in other letters", EventFilter(event=EventName(name=["X"])), []),
    ("no name", EventFilter(event=EventName(name=[])), [1, 2, 3, 4, 5, 6, 7, 8]),
    (
        "not the name",
        EventFilter(event=EventName(exclude_name=["x", "prefect.flow_run.Odd"])),
        [1, 2, 4, 5, 6, 7],
    ),
    ("not no name", EventFilter(event=EventName(exclude_name=[])), [1, 2, 3, 4, 5, 6, 7, 8]),
    ("prefix", EventFilter(event=EventName(prefix=["prefect.flow-run."])), [1, 2, 7]),
    (
        "prefixes",
        EventFilter(event=EventName(prefix=["prefect.flow-run.R", "prefect.task"])),
        [2, 4, 5],
    ),
    ("a whole name as prefix", EventFilter(event=EventName(prefix=["x"])), [8]),
    ("the empty prefix", EventFilter(event=EventName(prefix=[""])), [1, 2, 3, 4, 5, 6, 7, 8]),
    ("no prefix", EventFilter(event=EventName(prefix=[])), [1, 2, 3, 4, 5, 6, 7, 8]),
    (
        "a wildcard in a prefix is a character",
        EventFilter(event=EventName(prefix=["prefect.flow_run"])),
        [3],
    ),
    ("a percent in a prefix is a character", EventFilter(event=EventName(prefix=["prefect%"])), []),
    ("the case of a prefix", EventFilter(event=EventName(prefix=["Prefect.Flow-run."])), [6]),
    (
        "not the prefix",
        EventFilter(event=EventName(exclude_prefix=["prefect.flow-run."])),
        [3, 4, 5, 6, 8],
    ),
    ("not the prefixes", EventFilter(event=EventName(exclude_prefix=["prefect.", "x"])), [6]),
    ("not no prefix", EventFilter(event=EventName(exclude_prefix=[])), [1, 2, 3, 4, 5, 6, 7, 8]),
    (
        "prefix and not prefix",
        EventFilter(event=EventName(prefix=["prefect."], exclude_prefix=["prefect.flow-run."])),
        [3, 4, 5],
    ),
    (
        "name and not prefix",
        EventFilter(
            event=EventName(exclude_prefix=["prefect."], name=["x", "prefect.flow_run.Odd"])
        ),
        [8],
    ),
    ("resource", EventFilter(resource=Resource(id=["prefect.flow-run.r"])), [1, 2, 7]),
    ("resources", EventFilter(resource=Resource(id=["task", "other"])), [3, 4, 5]),
    ("a resource like a pattern", EventFilter(resource=Resource(id=["100%"])), [6]),
    ("a resource with a quote", EventFilter(resource=Resource(id=["ünï'code"])), [8]),
    ("no resource", EventFilter(resource=Resource(id=[])), [1, 2, 3, 4, 5, 6, 7, 8]),
    ("an unknown resource", EventFilter(resource=Resource(id=["nowhere"])), []),
    ("related", EventFilter(related=Related(id=["prefect.flow-run.r"])), [3, 4, 5, 7]),
    (
        "related ones",
        EventFilter(related=Related(id=["prefect.flow.f", "prefect.tag.t"])),
        [1, 2, 4, 7],
    ),
    ("no related one", EventFilter(related=Related(id=[])), [1, 2, 3, 4, 5, 6, 7, 8]),
    (
        "either",
        EventFilter(any_resource=AnyResource(id=["prefect.flow-run.r"])),
        [1, 2, 3, 4, 5, 7],
    ),
    (
        "either of two",
        EventFilter(any_resource=AnyResource(id=["task", "prefect.flow.f"])),
        [1, 2, 4, 5, 7],
    ),
    ("neither", EventFilter(any_resource=AnyResource(id=[])), [1, 2, 3, 4, 5, 6, 7, 8]),
    (
        "resource and related",
        EventFilter(
            resource=Resource(id=["prefect.flow-run.r"]), related=Related(id=["prefect.tag.t"])
        ),
        [2],
    ),
    (
        "resource, related and either",
        EventFilter(
            resource=Resource(id=["task"]),
            related=Related(id=["prefect.flow-run.r", "nowhere"]),
            any_resource=AnyResource(id=["prefect.tag.t"]),
        ),
        [4],
    ),
    (
        "resource and no related",
        EventFilter(resource=Resource(id=["task"]), related=Related(id=[])),
        [4, 5],
    ),
    ("since", EventFilter(occurred=Occurred(since=at(4))), [4, 5, 6, 7, 8]),
    ("since a little later", EventFilter(occurred=Occurred(since=at(4.000001))), [6, 7, 8]),
    ("until", EventFilter(occurred=Occurred(until=at(4))), [1, 2, 3, 4, 5]),
    ("until a little earlier", EventFilter(occurred=Occurred(until=at(3.999999))), [1, 2, 3]),
    ("since and until", EventFilter(occurred=Occurred(since=at(4), until=at(4))), [4, 5]),
    ("until before since", EventFilter(occurred=Occurred(since=at(5), until=at(4))), []),
    (
        "in another zone",
        EventFilter(occurred=Occurred(since=at(7).astimezone(timezone(timedelta(hours=-5))))),
        [7, 8],
    ),
    (
        "resource since and until",
        EventFilter(
            occurred=Occurred(since=at(2), until=at(6)),
            resource=Resource(id=["prefect.flow-run.r"]),
        ),
        [2],
    ),
    (
        "resource and prefix",
        EventFilter(
            event=EventName(prefix=["prefect.task-run."]),
            any_resource=AnyResource(id=["prefect.flow-run.r"]),
        ),
        [4, 5],
    ),
    (
        "all of it",
        EventFilter(
            occurred=Occurred(since=at(1), until=at(8)),
            event=EventName(
                prefix=["prefect.task"],
                exclude_prefix=["prefect.flow"],
                name=["prefect.task-run.Running", "prefect.task-run.Completed"],
                exclude_name=["prefect.task-run.Completed"],
            ),
            id=EventId(id=[numbered(number) for number in range(1, 8)]),
            resource=Resource(id=["task"]),
            related=Related(id=["prefect.tag.t"]),
            any_resource=AnyResource(id=["prefect.flow-run.r"]),
        ),
        [4],
    ),
]

filtered = pytest.mark.parametrize(
    ("filter", "numbers"), [pytest.param(*row[1:], id=row[0]) for row in FILTERS]
)


@contextmanager
def database(
    backend_name: str,
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Backend]:
    """One that the tests of this module share, and do not change."""
    with ExitStack() as stack:
        if backend_name == "sqlite":
            url = f"sqlite:///{tmp_path_factory.mktemp('events')}/test.db"
        else:
            url = stack.enter_context(create_database(request.getfixturevalue("postgres_url")))
        yield stack.enter_context(connect(url))


@pytest.fixture(scope="module")
def filled(
    backend_name: str, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Backend]:
    with database(backend_name, request, tmp_path_factory) as db:
        fill(db)
        yield db


class TestDistinct:
    """Of the events 1 to 6 of `LABELLED`, 1 and 2 are about a, 3 and 5 about b."""

    @pytest.mark.parametrize("limit", [1, 2, 50])
    @pytest.mark.parametrize(
        ("filter", "order", "numbers"),
        [
            (EventFilter(resource=Resource(distinct=True)), "DESC", [6, 5, 4, 2]),
            (EventFilter(resource=Resource(distinct=True)), "ASC", [1, 3, 4, 6]),
            (EventFilter(resource=Resource(id=["a"], distinct=True)), "DESC", [2]),
            (EventFilter(resource=Resource(id=["b", "d"], distinct=True)), "ASC", [3, 6]),
            (EventFilter(resource=Resource(id_prefix=["b"], distinct=True)), "DESC", [5]),
            (
                EventFilter(resource=Resource(labels={"env": "pro*"}, distinct=True)),
                "DESC",
                [2],
            ),
            (
                EventFilter(
                    resource=Resource(distinct=True), related=Related(labels={"env": "prod"})
                ),
                "DESC",
                [4, 1],
            ),
            (
                EventFilter(
                    resource=Resource(distinct=True),
                    occurred=Occurred(until=at(4)),
                    text=Text(query="b"),
                ),
                "ASC",
                [1, 3, 4],
            ),
            (
                EventFilter(resource=Resource(distinct=True), any_resource=AnyResource(id=["a"])),
                "DESC",
                [3, 2],
            ),
            (EventFilter(resource=Resource(id=["nothing"], distinct=True)), "DESC", []),
        ],
    )
    def test_each_resource_comes_once(
        self,
        labelled: Backend,
        filter: EventFilter,
        order: Order,
        numbers: list[int],
        limit: int,
    ) -> None:
        found = [
            event.id.int
            for page in pages(labelled, filter, order=order, limit=limit)
            for event in page
        ]
        assert found == numbers
        assert events.count(labelled, filter) == len(numbers)

    def test_counts_by_something_take_all_events(self, labelled: Backend) -> None:
        """As in Prefect."""
        filter = EventFilter(
            resource=Resource(distinct=True), occurred=Occurred(since=at(0), until=at(9))
        )
        for counts in (
            events.count_by_event(labelled, filter),
            events.count_by_resource(labelled, filter),
            events.count_by_time(labelled, "minute", filter),
        ):
            assert sum(each.count for each in counts) == 6

    def test_the_id_decides_between_equals(self, db: Backend) -> None:
        batch = [make(number, 1, "x", f"r{number % 3}") for number in range(9)]
        events.write(db, batch)
        filter = EventFilter(resource=Resource(distinct=True))
        found = events.query(db, filter).events
        assert [event.id.int for event in found] == [8, 7, 6]
        found = events.query(db, filter, order="ASC").events
        assert [event.id.int for event in found] == [0, 1, 2]


# Letters with capitals that the engines may not know, wildcards, and what JSON escapes.
SAMPLE: Final = st.text(
    st.sampled_from('aAbüÜßŽžΩωДд中😀%_*?[]^-\\"/\n\x7f'), min_size=1, max_size=6
)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(texts=st.lists(SAMPLE, min_size=1, max_size=5), term=SAMPLE)
def test_a_text_is_found_in_any_letters(db: Backend, texts: list[str], term: str) -> None:
    """In a name as it is, and in JSON as PostgreSQL writes it, on both engines."""
    db.execute("DELETE FROM events")
    events.write(
        db,
        [
            events.make(
                name,
                resource("?"),
                payload={"?": payload},
                id=numbered(number),
                occurred=at(number),
            )
            for number, (name, payload) in enumerate(itertools.product(texts, texts))
        ],
    )
    query = '"' + term.replace("\\", "\\\\").replace('"', '\\"') + '"'
    found = events.query(db, EventFilter(text=Text(query=query)), order="ASC", limit=100).events
    expected = [
        event
        for event in events.query(db, order="ASC", limit=100).events
        if not term.strip() or term.lower() in searched(event)
    ]
    assert [event.id for event in found] == [event.id for event in expected]


def searched(event: Event) -> str:
    json_texts = (
        json.dumps(value, ensure_ascii=False)
        for value in (event.resource, event.related, event.payload)
    )
    return " ".join([event.event, *json_texts]).lower()


@given(st.datetimes(timezones=st.just(UTC)), st.uuids())
def test_any_page_can_be_gone_on_from(filled: Backend, occurred: datetime, id: UUID) -> None:
    token = base64.urlsafe_b64encode(json.dumps([occurred.isoformat(), str(id)]).encode()).decode()
    after = events.query(filled, after=token).events
    before = events.query(filled, after=token, order="ASC").events
    assert len(after) + len(before) == 8
    assert all((event.occurred, event.id) < (occurred, id) for event in after)


@given(st.text() | st.binary().map(lambda value: base64.urlsafe_b64encode(value).decode()))
def test_no_other_text_is_a_token(filled: Backend, token: str) -> None:
    with pytest.raises(BadValue, match="not the `next` of a page"):
        events.query(filled, after=token)


BAD_LISTS: Final[list[Any]] = ["x", 5, [5], [None], ["\0"], ["\ud800"]]
BAD_PAIRS: Final[list[Any]] = [["ab"], [5], [("a",)], [("a", "b", "c")], [("a", 5)], "ab"]
BAD_QUERIES: Final[list[Any]] = ["\0", "\ud800", "x" * 201, 5, None]


LABELLED: Final = [
    events.make(
        "ÜBER.big",
        resource("a", env="prod", team="Core"),
        related=[related("f", "flow", env="prod")],
        id=numbered(1),
        occurred=at(1),
    ),
    events.make(
        "b",
        resource("a", env="production"),
        related=[related("f", "flow", env="dev"), related("t", "tag")],
        id=numbered(2),
        occurred=at(2),
    ),
    events.make(
        "b",
        resource("b", **{"env": "PROD", 'quo"te\\': "x", "prefect.resource.role": "flow"}),
        related=[related("a", "parent")],
        id=numbered(3),
        occurred=at(3),
    ),
    events.make(
        "b",
        resource("c_", **{"naïve.ключ": "Größe*?[x]"}),
        related=[related("f%", "flow", env="prod", name="n_1%")],
        payload={"Note": "50% off", "deep": ["STRASSE Ωμέγα", "\n\x01\x7f"]},
        id=numbered(4),
        occurred=at(4),
    ),
    events.make(
        "b",
        resource("b", env=""),
        payload={"literal": "\\u00fc", "smile": "😀ДА"},
        id=numbered(5),
        occurred=at(5),
    ),
    events.make("c", resource("d"), id=numbered(6), occurred=at(5)),
]


def primary(**labels: str | list[str]) -> EventFilter:
    return EventFilter(resource=Resource(labels=labels))


ROLE: Final = "prefect.resource.role"
ID: Final = "prefect.resource.id"
LABEL_FILTERS: Final[list[tuple[str, EventFilter, list[int]]]] = [
    ("a value", primary(env="prod"), [1]),
    ("values", primary(env=["prod", "production"]), [1, 2]),
    ("any text", primary(env="prod*"), [1, 2]),
    ("any text in the middle", primary(env="p*n"), [2]),
    ("no text too", primary(env="*"), [1, 2, 3, 5]),
    ("any character", primary(env="pro?"), [1]),
    ("a character of many bytes", primary(**{"naïve.ключ": "Gr?ße*"}), [4]),
    ("the case of a value", primary(env="PROD"), [3]),
    ("the case of a pattern", primary(env="PRO*"), [3]),
    ("the empty value", primary(env=""), [5]),
    ("the empty value in a list", primary(env=[""]), [5]),
    ("not the value", primary(env="!prod"), [2, 3, 5]),
    ("not the pattern", primary(env="!prod*"), [3, 5]),
    ("not the empty value", primary(env="!"), [1, 2, 3]),
    ("not one or not the other", primary(env=["!prod", "!production"]), [1, 2, 3, 5]),
    ("one or not the other", primary(env=["prod", "!PROD"]), [1, 2, 5]),
    ("not twice", primary(env="!!prod"), [1, 2, 3, 5]),
    ("labels", primary(env="prod", team="C*"), [1]),
    ("labels, one of which is not there", primary(env="prod", team="X"), []),
    ("a label that nothing has", primary(nothing="*"), []),
    ("not of a label that nothing has", primary(nothing="!x"), []),
    ("no value", primary(env=[]), []),
    ("no value of one label", primary(env="prod", team=[]), []),
    ("no labels", primary(), [1, 2, 3, 4, 5, 6]),
    ("a label with a quote", primary(**{'quo"te\\': "x"}), [3]),
    ("a bracket in a pattern", primary(**{"naïve.ключ": "*[x]"}), [4]),
    ("a class in a pattern", primary(**{"naïve.ключ": "*[[]x]"}), []),
    ("a percent in a pattern", primary(env="pro%*"), []),
    ("an underscore in a pattern", primary(**{ID: "?_"}), [4]),
    ("a backslash in a pattern", primary(env="\\prod*"), []),
    ("an id", primary(**{ID: "a"}), [1, 2]),
    ("a pattern of an id", primary(**{ID: ["?", "x*"]}), [1, 2, 3, 5, 6]),
    ("not the id", primary(**{ID: "!a"}), [3, 4, 5, 6]),
    ("an id and a label", primary(**{ID: "a"}, env="prod"), [1]),
    ("no id among labels", primary(**{ID: []}), [1, 2, 3, 4, 5, 6]),
    ("an empty id among labels", primary(**{ID: ""}), [1, 2, 3, 4, 5, 6]),
    ("the role of what it is about", primary(**{ROLE: "flow"}), []),
    ("an id prefix", EventFilter(resource=Resource(id_prefix=["a", "c"])), [1, 2, 4]),
    ("a wildcard in an id prefix", EventFilter(resource=Resource(id_prefix=["c%", "_"])), []),
    ("no id prefix", EventFilter(resource=Resource(id_prefix=[])), [1, 2, 3, 4, 5, 6]),
    ("an id and labels", EventFilter(resource=Resource(id=["a"], labels={"env": "p*n"})), [2]),
    (
        "ids, a prefix and labels",
        EventFilter(resource=Resource(id=["a", "b"], id_prefix=["a"], labels={"env": "*"})),
        [1, 2],
    ),
    ("a related id", EventFilter(related=Related(id=["a"])), [3]),
    ("a role", EventFilter(related=Related(role=["tag", "parent"])), [2, 3]),
    ("the role of none", EventFilter(related=Related(role=["x"])), []),
    ("the role of the primary", EventFilter(related=Related(id=["a"], role=[""])), [1, 2]),
    ("no role", EventFilter(related=Related(id=["f"], role=[])), [1, 2]),
    ("an id in a role", EventFilter(related=Related(id=["f"], role=["flow"])), [1, 2]),
    ("an id in another role", EventFilter(related=Related(id=["f"], role=["tag"])), []),
    (
        "a resource in a role",
        EventFilter(related=Related(resources_in_roles=[("f", "flow")])),
        [1, 2],
    ),
    (
        "resources in roles",
        EventFilter(related=Related(resources_in_roles=[("t", "tag"), ("a", "parent")])),
        [2, 3],
    ),
    ("in no roles", EventFilter(related=Related(resources_in_roles=[])), [1, 2, 3, 4, 5, 6]),
    (
        "in the role of the primary",
        EventFilter(related=Related(resources_in_roles=[("a", "")])),
        [],
    ),
    (
        "in roles and in a role",
        EventFilter(related=Related(resources_in_roles=[("f", "flow"), ("a", "")], role=[""])),
        [1, 2],
    ),
    ("a related label", EventFilter(related=Related(labels={"env": "prod"})), [1, 4]),
    ("no related label", EventFilter(related=Related(labels={"env": "!prod"})), [2]),
    ("related and nothing", EventFilter(related=Related()), [1, 2, 3, 4, 5, 6]),
    ("a related role label", EventFilter(related=Related(labels={ROLE: "tag"})), [2]),
    ("a role label is no pattern", EventFilter(related=Related(labels={ROLE: "t*"})), []),
    ("a role label is not negated", EventFilter(related=Related(labels={ROLE: ["!tag"]})), []),
    ("no id among related labels", EventFilter(related=Related(labels={ID: []})), [1, 2, 3, 4]),
    ("no role among related labels", EventFilter(related=Related(labels={ROLE: ""})), [1, 2, 3, 4]),
    ("a related id label", EventFilter(related=Related(labels={ID: "f*"})), [1, 2, 4]),
    ("an id and a label of one", EventFilter(related=Related(id=["f"], labels={"env": "d*"})), [2]),
    (
        "an id and a label of two",
        EventFilter(related=[Related(id=["t"]), Related(labels={"env": "d*"})]),
        [2],
    ),
    ("no related ones", EventFilter(related=[]), [1, 2, 3, 4, 5, 6]),
    ("two related ones", EventFilter(related=[Related(id=["f"]), Related(id=["t"])]), [2]),
    ("an id of any", EventFilter(any_resource=AnyResource(id=["a"])), [1, 2, 3]),
    ("an id prefix of any", EventFilter(any_resource=AnyResource(id_prefix=["f"])), [1, 2, 4]),
    ("a label of any", EventFilter(any_resource=AnyResource(labels={"env": "prod"})), [1, 4]),
    ("a label of none", EventFilter(any_resource=AnyResource(labels={"env": []})), []),
    ("a role of any", EventFilter(any_resource=AnyResource(labels={ROLE: "flow"})), [1, 2, 4]),
    (
        "the primary role",
        EventFilter(any_resource=AnyResource(labels={ROLE: [""]})),
        [1, 2, 3, 4, 5, 6],
    ),
    ("any and nothing", EventFilter(any_resource=AnyResource()), [1, 2, 3, 4, 5, 6]),
    (
        "two of any",
        EventFilter(any_resource=[AnyResource(id=["a"]), AnyResource(labels={"env": "dev"})]),
        [2],
    ),
    (
        "all three",
        EventFilter(
            resource=Resource(id=["a"]),
            related=Related(labels={"env": "prod"}),
            any_resource=AnyResource(id_prefix=["f"]),
            occurred=Occurred(since=at(1), until=at(3)),
        ),
        [1],
    ),
]


def search(query: str) -> EventFilter:
    return EventFilter(text=Text(query=query))


TEXT_FILTERS: Final[list[tuple[str, EventFilter, list[int]]]] = [
    ("a word of a name", search("big"), [1]),
    ("a word of a resource", search("core"), [1]),
    ("a word of a related one", search("DEV"), [2]),
    ("a word of a payload", search("note"), [4]),
    ("words", search("core dev"), [1, 2]),
    ("a phrase", search('"50% off"'), [4]),
    ("a phrase of JSON", search('"\\"env\\": \\"prod\\""'), [1, 3, 4]),
    ("an excluded word", search("prod -core"), [2, 3, 4]),
    ("excluded words alone", search("-prod !50"), [5, 6]),
    ("required words", search("+prod +core"), [1]),
    ("all kinds", search("core dev +prod -big"), [2]),
    ("a percent is a character", search("0%"), [4]),
    ("a wildcard is a character", search("e*?["), [4]),
    ("an underscore is a character", search("n_1"), [4]),
    ("a word that nothing has", search("nothing"), []),
    ("no word", search(" - "), [1, 2, 3, 4, 5, 6]),
    ("an empty phrase", search('""'), [1, 2, 3, 4, 5, 6]),
    ("beyond ASCII in a name", search("über"), [1]),
    ("beyond ASCII in capitals", search("GRÖßE"), [4]),
    ("beyond ASCII in a label", search("КЛЮЧ"), [4]),
    ("beyond ASCII in a payload", search("да"), [5]),
    ("Greek", search("ωΜΈΓΑ"), [4]),
    ("beyond the first plane", search("😀"), [5]),
    ("excluded beyond ASCII", search("-ü -ö"), [2, 3, 5, 6]),
    ("no escape of JSON is found", search("u0434 ud83d"), []),
    ("a literal one is", search("u00fc"), [5]),
    ("an escaped backslash", search('"\\\\\\\\u00fc"'), [5]),
    ("an escaped control character", search("u0001"), [4]),
    ("two hundred characters", search("x" * 200), []),
]
labelled_filters = pytest.mark.parametrize(
    ("filter", "numbers"),
    [pytest.param(*row[1:], id=row[0]) for row in [*LABEL_FILTERS, *TEXT_FILTERS]],
)


@pytest.fixture(scope="module")
def labelled(
    backend_name: str, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Backend]:
    with database(backend_name, request, tmp_path_factory) as db:
        events.write(db, LABELLED)
        yield db


class TestLabelsAndTexts:
    @labelled_filters
    def test_a_filter_lets_through(
        self, labelled: Backend, filter: EventFilter, numbers: list[int]
    ) -> None:
        found = [event.id.int for event in events.query(labelled, filter, order="ASC").events]
        assert found == numbers
        assert events.count(labelled, filter) == len(numbers)
        assert sum(each.count for each in events.count_by_event(labelled, filter)) == len(numbers)

    @labelled_filters
    def test_pages_visit_each_event_once(
        self, labelled: Backend, filter: EventFilter, numbers: list[int]
    ) -> None:
        visited = [event.id.int for page in pages(labelled, filter, limit=1) for event in page]
        assert visited == numbers[::-1]


BAD_LABELS: Final[list[Any]] = [
    ["a"],
    "a",
    {5: "x"},
    {"\0": "x"},
    {"a": 5},
    {"a": None},
    {"a": [None]},
    {"a": "\0"},
    {"a": ["\ud800"]},
    {"prefect.resource.id": 5},
    {"prefect.resource.role": [5]},
]
_ABOUT: Final[list[tuple[str, Any, tuple[str, ...]]]] = [
    ("resource", Resource, ("id", "id_prefix")),
    ("related", Related, ("id", "role")),
    ("any_resource", AnyResource, ("id", "id_prefix")),
]
BAD_FILTERS: Final[list[dict[str, Any]]] = [
    {"occurred": Occurred(since=datetime(2030, 1, 1))},
    {"occurred": Occurred(until=datetime(2030, 1, 1))},
    *({"id": EventId(id=value)} for value in BAD_LISTS),
    *(
        {"event": EventName(**{field: value})}
        for field in ("prefix", "exclude_prefix", "name", "exclude_name")
        for value in BAD_LISTS
    ),
    *(
        {name: leaf(**{field: value})}
        for name, leaf, fields in _ABOUT
        for field in fields
        for value in BAD_LISTS
    ),
    *({name: leaf(labels=value)} for name, leaf, _ in _ABOUT for value in BAD_LABELS),
    *({"related": Related(resources_in_roles=value)} for value in BAD_PAIRS),
    {"related": "prefect.flow.f"},
    {"related": ["prefect.flow.f"]},
    {"related": [AnyResource(id=["f"])]},
    {"any_resource": 5},
    *({"text": Text(query=value)} for value in BAD_QUERIES),
]


class TestFilters:
    @filtered
    @pytest.mark.parametrize("order", ["ASC", "DESC"])
    def test_a_filter_lets_through(
        self, filled: Backend, filter: EventFilter | None, numbers: list[int], order: Order
    ) -> None:
        found = [event.id.int for event in events.query(filled, filter, order=order).events]
        assert found == (numbers if order == "ASC" else numbers[::-1])

    @filtered
    def test_a_filter_counts_what_it_lets_through(
        self, filled: Backend, filter: EventFilter | None, numbers: list[int]
    ) -> None:
        assert events.count(filled, filter) == len(numbers)

    @filtered
    @pytest.mark.parametrize("order", ["ASC", "DESC"])
    def test_pages_of_a_filter_visit_each_event_once(
        self, filled: Backend, filter: EventFilter | None, numbers: list[int], order: Order
    ) -> None:
        """An event that has a resource in two roles too."""
        visited = [
            event.id.int for page in pages(filled, filter, order=order, limit=1) for event in page
        ]
        assert visited == (numbers if order == "ASC" else numbers[::-1])

    @pytest.mark.parametrize("about", [None, AnyResource(id=["a"]), AnyResource(id=["a", "b"])])
    @pytest.mark.parametrize("order", ["ASC", "DESC"])
    def test_a_page_begins_within_the_span_of_time(
        self, labelled: Backend, order: Order, about: AnyResource | None
    ) -> None:
        """Wherever the page before ended, if it was one of another filter."""
        span = EventFilter(occurred=Occurred(since=at(2), until=at(5)), any_resource=about)
        every = events.query(labelled, order=order).events
        within = {event.id for event in events.query(labelled, span).events}
        for number in range(1, len(every)):
            after = events.query(labelled, order=order, limit=number).next
            found = events.query(labelled, span, order=order, after=after).events
            assert found == [event for event in every[number:] if event.id in within]

    @pytest.mark.parametrize("filter", BAD_FILTERS, ids=ascii)
    def test_a_bad_filter_is_refused(self, filled: Backend, filter: dict[str, Any]) -> None:
        with pytest.raises(BadValue):
            events.query(filled, EventFilter(**filter))
