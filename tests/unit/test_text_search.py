"""A text search's query, taken apart."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefect_db import BadValue
from prefect_db.text_search import Terms, parse

QUERIES = st.text(st.sampled_from('ab-!+"\\ \t\u3000üß%_')) | st.text()


@pytest.mark.parametrize(
    ("query", "include", "exclude", "required"),
    [
        ("", [], [], []),
        ("  \t ", [], [], []),
        ("error", ["error"], [], []),
        ("a  b\u3000c", ["a", "b", "c"], [], []),
        ("-a !b +c d", ["d"], ["a", "b"], ["c"]),
        ("- a", ["a"], [], []),
        ("-", [], [], []),
        ("--", [], ["-"], []),
        ("--a", [], ["-a"], []),
        ("-+a", [], ["+a"], []),
        ("a-b a+", ["a-b", "a+"], [], []),
        ('"a b" c', ["a b", "c"], [], []),
        ('-"a b" +"c d"', [], ["a b"], ["c d"]),
        ('"never closed', ["never closed"], [], []),
        ('"" "  "', [], [], []),
        ('- ""', [], [], []),
        ('-""', [], [], []),
        ('a"b c"d', ["a", "b c", "d"], [], []),
        ('"a"-b', ["a"], ["b"], []),
        (r'"a \"b\" c"', ['a "b" c'], [], []),
        (r'"a\\"b', ["a\\", "b"], [], []),
        (r'"a\nb"', [r"a\nb"], [], []),
        (r"a\"b", ["a\\", "b"], [], []),
        ('"a\\', ["a\\"], [], []),
        ("Ä Ö", ["Ä", "Ö"], [], []),
        ("x" * 200, ["x" * 200], [], []),
    ],
)
def test_a_query_has_these_terms(
    query: str, include: list[str], exclude: list[str], required: list[str]
) -> None:
    assert parse(query) == Terms(include, exclude, required)


@given(QUERIES)
def test_any_text_is_a_query_or_refused(query: str) -> None:
    try:
        terms = parse(query)
    except BadValue:
        assert len(query) > 200 or "\0" in query
        return
    assert len(query) <= 200
    for term in (*terms.include, *terms.exclude, *terms.required):
        assert term.strip()
        # Backslashes that kept a quote or a backslash are gone.
        assert term in query or "\\" in query


@given(
    st.lists(
        st.text(
            st.characters(exclude_characters="\0", exclude_categories=["Cs"]),
            min_size=1,
            max_size=20,
        ),
        max_size=8,
    )
)
def test_phrases_are_as_they_were_quoted(phrases: list[str]) -> None:
    quoted = ['"' + each.replace("\\", "\\\\").replace('"', '\\"') + '"' for each in phrases]
    query = " ".join(quoted)
    if len(query) <= 200:
        assert parse(query).include == [each for each in phrases if each.strip()]


@pytest.mark.parametrize("query", ["x" * 201, " " * 201, "a\0", "\ud800", None, 5, b"a", ["a"]])
def test_what_is_no_query_is_refused(query: str) -> None:
    with pytest.raises(BadValue):
        parse(query)
