"""Text search: Prefect's language of it, and the conditions that a query becomes.

Words are alternatives; `-word` or `!word` must not be there, `+word` must; double quotes make a
phrase, in which a backslash goes before a quote or a backslash. A word is found anywhere, in
capitals and in small letters. Rules: Prefect's server, utilities/text_search_parser.py.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from prefect_db.dialect import Dialect
from prefect_db.errors import BadValue
from prefect_db.filters import Where
from prefect_db.values import check_text

MAX_QUERY: Final = 200


@dataclass(slots=True, kw_only=True)
class Text:
    """What the text must, or must not, have in it: `error -debug`, `+"timed out" pool`."""

    query: str


@dataclass(slots=True)
class Terms:
    """The terms of a query.

    Attributes:
        include: At least one of these is in the text, if there are any.
        exclude: None of these is.
        required: Each of these is.
    """

    include: list[str]
    exclude: list[str]
    required: list[str]


_TERM: Final = re.compile(
    r"""(?P<sign> [-!+] (?=\S) )?+
        (?: " (?P<phrase> (?: \\. | [^"] )*+ ) "?
          | (?P<word> [^\s"]+ ) )""",
    re.VERBOSE | re.DOTALL,
)
_ESCAPED: Final = re.compile(r'\\(["\\])')


def parse(query: str) -> Terms:
    """The terms of a query, as they were written; a quote that is not closed ends at the end.

    Raises:
        BadValue: It is no text, has over 200 characters, a NUL or a lone surrogate.
    """
    if len(check_text(query)) > MAX_QUERY:
        raise BadValue(f"a text search of {len(query)} characters; it has at most {MAX_QUERY}")
    terms = Terms(include=[], exclude=[], required=[])
    for match in _TERM.finditer(query):
        sign, phrase, word = match.group("sign", "phrase", "word")
        # A sign with white space after it means nothing; nor does an empty phrase.
        if phrase is None and (sign or word not in ("-", "!", "+")):
            term = word
        elif phrase is not None and phrase.strip():
            term = _ESCAPED.sub(r"\1", phrase)
        else:
            continue
        kind = {None: terms.include, "+": terms.required}.get(sign, terms.exclude)
        kind.append(term)
    return terms


def conditions(dialect: Dialect, searched: str, text: Text) -> list[Where]:
    """What a query asks of an SQL text: one condition for each kind of term that it has.

    Raises:
        BadValue: See `parse`.
    """
    terms = parse(text.query)
    include, exclude, required = Where(dialect, "or_"), Where(dialect), Where(dialect)
    for where, listed, sql in (
        (include, terms.include, "{}"),
        (exclude, terms.exclude, "NOT ({})"),
        (required, terms.required, "{}"),
    ):
        for term in listed:
            test, params = _contains(dialect, searched, term)
            where.add(sql.format(test), *params)
    return [where for where in (include, exclude, required) if where.sql]


def _contains(dialect: Dialect, searched: str, term: str) -> tuple[str, list[str]]:
    """That the text has the term in it, be it in capitals or in small letters.

    Whether an engine's lower() knows letters beyond ASCII depends on how it was built or set up;
    so it is asked for those of ASCII alone, and the term brings the forms of its other letters.
    """
    letters = [_forms(letter) for letter in term]
    if dialect.name == "sqlite":
        pattern = "".join(
            f"[{forms}]" if len(forms) > 1 or forms in "*?[" else forms for forms in letters
        )
        return f"lower({searched}) GLOB ?", [f"*{pattern}*"]
    others = "".join(forms[1:] for forms in letters)
    smalls = "".join(forms[0] * (len(forms) - 1) for forms in letters)
    return (
        f'strpos(translate(lower(({searched}) COLLATE "C"), ?, ?), ?) > 0',
        [others, smalls, "".join(forms[0] for forms in letters)],
    )


def _forms(letter: str) -> str:
    """The letter as a small one, then the others that Python makes small to the same."""
    small = letter.lower()
    if letter.isascii():
        return small
    others = [form for form in (letter, letter.upper(), letter.title()) if form.lower() == small]
    if len(small) > 1:
        small = letter
    return small + "".join({form: None for form in others if len(form) == 1 and form != small})
