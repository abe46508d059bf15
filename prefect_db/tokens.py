"""A tokeniser for the SQL of both engines: placeholders, statement ends, words.

It knows what a `?` or `;` may hide in: strings, identifiers, comments, dollar quotes. The rules
are https://www.sqlite.org/lang.html and
https://www.postgresql.org/docs/current/sql-syntax-lexical.html.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from typing import Final, NamedTuple

from prefect_db.errors import ProgrammingError


class Statement(NamedTuple):
    """A compiled statement.

    Attributes:
        sql: As its author wrote it.
        text: As the engine takes it.
        placeholders: How many parameters it takes.
        reads: True if it is certain that it only reads.
        prepare: False if PostgreSQL shall plan it anew for each parameters.
    """

    sql: str
    text: str
    placeholders: int
    reads: bool
    prepare: bool = True


class Token(NamedTuple):
    kind: str
    start: int
    end: int
    text: str


_WORD: Final = r"[A-Za-z_\x80-\U0010ffff][A-Za-z0-9_$\x80-\U0010ffff]*+"
_TAG: Final = r"(?:[A-Za-z_\x80-\U0010ffff][A-Za-z0-9_\x80-\U0010ffff]*+)?"

# A doubled quote inside a string or identifier reads as two adjacent ones, which is as good here.
SQLITE_TOKENS: Final = rf"""
      (?P<word>     {_WORD} )
    | (?P<number>   [0-9]\w*+ )
    | (?P<quoted>   '[^']*+' | "[^"]*+" | `[^`]*+` | \[[^\]]*+\] )
    | (?P<comment>  --[^\n]*+ | /\*.*?\*/ )
    | (?P<native>   \?[0-9]+ | [:@$\#][A-Za-z0-9_$\x80-\U0010ffff]+ )
    | (?P<literal>  \?\? )
    | (?P<mark>     \? )
    | (?P<paren>    [()] )
    | (?P<end>      ; )
    | (?P<open>     ['"`[] | /\* )
    """

# An E'' string goes on, with its own rules, after white space that holds a line end.
_ESCAPED: Final = r"[^'\\]*+(?:(?:\\.|'')[^'\\]*+)*+'"
_NEXT_LINE: Final = r"(?:[ \t\f\v]|--[^\n\r]*+)*+[\n\r](?:[ \t\n\r\f\v]|--[^\n\r]*+(?:[\n\r]|$))*+'"
POSTGRES_TOKENS: Final = rf"""
      (?P<quoted>   [eE]'{_ESCAPED}(?:{_NEXT_LINE}{_ESCAPED})*+(?!{_NEXT_LINE})
                  | '[^']*+' | "[^"]*+" | \$(?P<tag>{_TAG})\$.*?\$(?P=tag)\$ )
    | (?P<openE>    [eE]' )
    | (?P<word>     {_WORD} )
    | (?P<number>   [0-9]\w*+ )
    | (?P<comment>  --[^\n\r]*+ )
    | (?P<nested>   /\* )
    | (?P<native>   \$[0-9]+ )
    | (?P<literal>  \?\? )
    | (?P<mark>     \? )
    | (?P<paren>    [()] )
    | (?P<end>      ; )
    | (?P<open>     ['"] | \${_TAG}\$ )
    """
_COMMENT_EDGE: Final = re.compile(r"/\*|\*/")

# All other blanks that Python knows are letters of a word to both engines, or no SQL.
_SPACE: Final = " \t\n\r\f\v"
_WRITING: Final = frozenset({"insert", "update", "delete", "replace", "merge", "into"})
_ROUTINE: Final = re.compile(
    "create (or replace )?(temp |temporary |constraint )?(function|procedure|trigger) "
)
_LONGEST_BEGINNING: Final = len("create or replace constraint procedure ")


@cache
def _compiled(grammar: str) -> re.Pattern[str]:
    # Not on import: it takes as long as opening a SQLite file, and a process needs just one.
    return re.compile(grammar, re.VERBOSE | re.DOTALL)


def tokens(grammar: str, sql: str) -> Iterator[Token]:
    """The tokens that matter; what lies between them is white space and operators."""
    if "\0" in sql:
        raise ProgrammingError("a NUL character in the statement", sql=sql)
    position = 0
    search = _compiled(grammar).search
    while match := search(sql, position):
        kind = match.lastgroup or ""
        start, end = match.span()
        if kind == "nested":
            kind, end = "comment", _nested_comment_end(sql, start)
        elif kind in ("open", "openE"):
            raise _never_closed(match[0], start, sql)
        yield Token(kind, start, end, sql[start:end])
        position = end


def _nested_comment_end(sql: str, start: int) -> int:
    depth = 0
    for edge in _COMMENT_EDGE.finditer(sql, start):
        depth += 1 if edge[0] == "/*" else -1
        if depth == 0:
            return edge.end()
    raise _never_closed("/*", start, sql)


def _never_closed(opening: str, start: int, sql: str) -> ProgrammingError:
    return ProgrammingError(
        f"{opening} is opened at character {start + 1} and never closed", sql=sql
    )


def _joins(sql: str, index: int) -> bool:
    """True if a `$1` beside this character would melt into one token with it."""
    if not 0 <= index < len(sql):
        return False
    character = sql[index]
    return character.isalnum() or character in "_$" or character >= "\x80"


def compile_statement(sql: str, grammar: str, *, numbered: bool) -> Statement:
    """Check one statement and, if `numbered`, rewrite its `?` to `$1`, `$2`, ... and `??` to `?`.

    Raises:
        ProgrammingError: No statement or more than one, an unclosed quote, or a placeholder that
            only one engine knows (`$1`, `?1`, `:name`).
    """
    pieces: list[str] = []
    copied = count = 0
    words: list[str] = []
    ended = False
    for kind, start, end, text in tokens(grammar, sql):
        if kind == "comment":
            continue
        if ended and kind != "end":
            # Unless the semicolon was one inside a trigger or function.
            if len(split_script(sql, grammar)) > 1:
                raise ProgrammingError("two statements in one call; send them one by one", sql=sql)
            ended = False
        if kind == "word":
            words.append(text.lower())
        elif kind == "end":
            ended = True
        elif kind == "native":
            raise ProgrammingError(f"{text} is one engine's placeholder; write ?", sql=sql)
        elif kind == "mark":
            count += 1
            if numbered:
                before = " " if _joins(sql, start - 1) else ""
                after = " " if _joins(sql, end) else ""
                pieces += (sql[copied:start], before, f"${count}", after)
                copied = end
        elif kind == "literal":
            if not numbered:
                raise ProgrammingError("?? is an operator of PostgreSQL alone", sql=sql)
            pieces += (sql[copied:start], "?")
            copied = end
    if not words:
        raise ProgrammingError("there is no statement in this SQL", sql=sql)
    text = "".join(pieces) + sql[copied:] if pieces else sql
    if words[0] in ("select", "values", "show"):
        reads = "into" not in words
    else:
        reads = words[0] in ("with", "explain") and _WRITING.isdisjoint(words)
    return Statement(sql, text, count, reads)


def split_script(script: str, grammar: str) -> list[tuple[int, str]]:
    """The statements of a script, each with its offset and without its semicolon.

    A semicolon ends nothing in parentheses, nor in the body of a routine: from its BEGIN to the
    END that follows a semicolon. No other END does, be it of a CASE or a column's name.

    Raises:
        ProgrammingError: A quote, a comment or a BEGIN is never closed.
    """
    opening = "begin" if grammar is SQLITE_TOKENS else "begin atomic"
    statements: list[tuple[int, str]] = []
    words = last = ""
    begin: int | None = None
    parentheses = previous = 0
    in_body = may_end = False
    for kind, start, end, text in tokens(grammar, script):
        if begin is None:
            operators = script[previous:start].lstrip(_SPACE)
            if operators or kind not in ("comment", "end"):
                begin = start - len(operators)
        previous = end
        if kind == "end" and not in_body and parentheses == 0:
            if begin is not None:
                statements.append((begin, script[begin:start].rstrip(_SPACE)))
            begin, words, last, parentheses = None, "", "", 0
        elif kind == "paren":
            parentheses = max(parentheses + (1 if text == "(" else -1), 0)
        elif kind == "word":
            word = text.lower()
            if in_body:
                in_body = not (may_end and word == "end")
            elif _ROUTINE.match(words):
                in_body = opening in (word, f"{last} {word}")
            if len(words) < _LONGEST_BEGINNING:
                words += f"{word} "
            last = word
        if kind != "comment":
            may_end = kind == "end" or last == "atomic"
    if in_body:
        raise ProgrammingError("a BEGIN without its END", sql=script)
    rest = script[previous:].lstrip(_SPACE)
    if begin is None and rest:
        begin = len(script) - len(rest)
    if begin is not None:
        statements.append((begin, script[begin:].rstrip(_SPACE)))
    return statements
