"""The tokeniser, held against the lexers of the engines: pglast for PostgreSQL, sqlite3 itself."""

from __future__ import annotations

import json
import re
import sqlite3
import time
from contextlib import closing

import pglast
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pglast.parser import ParseError, parse_sql_json, scan

from prefect_db.dialect import POSTGRES, SQLITE, Dialect
from prefect_db.errors import ProgrammingError
from prefect_db.tokens import POSTGRES_TOKENS, tokens

BOTH = pytest.mark.parametrize("dialect", [SQLITE, POSTGRES], ids=["sqlite", "postgres"])
MANY = settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.too_slow])

# What a `?` or `;` may hide in, as both engines write it: (SQL, its placeholders).
HIDING_PLACES = [
    "'?'",
    "'it''s ?'",
    "';'",
    "'\\'",
    "'a -- ?'",
    "'/* ?'",
    '"a?"',
    '"a""?;"',
    "/* ? ; ' */",
    "/*?*/",
    "/**/",
    "/***?***/",
    "-- ? ; '\n",
    "--\n",
    "x'00'",
]
SQLITE_HIDING_PLACES = [
    *HIDING_PLACES,
    "`a?`",
    "`a``?;`",
    "[a?]",
    "[a[?;]",
    "['?]",
    "/* /* ? */",
    "-- ?\r ? \n",
    "'$a$ ?'",
]
POSTGRES_HIDING_PLACES = [
    *HIDING_PLACES,
    "E'?'",
    "e'\\'?'",
    "E'\\\\'",
    "E'''?\\''",
    "E'\\\\\\'?'",
    "E'a'\n'\\'?'",
    "E'a' \t--?'\n  --'?\n \f'\\'?'",
    "E''\r\n'?'",
    "U&'?\\0041'",
    'U&"a?\\0041"',
    "N'?'",
    "B'?'",
    "$$?$$",
    "$$ ' ; -- $ ? $$",
    "$a$ $b$ ? $$ $A$ $a$",
    "$tag_1$?$tag_$ $tag_1$",
    "$é$?$e$$é$",
    "/* /* ? */ ? */",
    "/*/*?*/*/",
    "/* '?' $$ \" */",
    "-- ?\r",
    "a$b$",
]
PLAIN = [
    "1",
    "1.5e-3",
    "0x1F",
    "a",
    "a$1",
    "é$1",
    "_x$y",
    "+",
    "<=",
    "->>",
    "::text",
    "(",
    ")",
    "\n",
    "\t ",
    "CASE",
    "end",
    ".5",
]
SQLITE_PLAIN = [text for text in PLAIN if text != "::text"]


# Pieces of tokens, to be joined without anything between them.
SHREDS = [
    *["'", "'", "'", "''", "E'", "e'", "\\'", "\\", '"', '"', "U&'"],
    *["$", "$$", "$$", "$a$", "$a$", "$A$", "$é$", "$1", "a$", "_"],
    *["/*", "*/", "*", "/", "--", "\n", "\r", "\t", " ", "\f", "\v", "\xa0"],
    *["?", "?", "?", "?", "?", "??", ":", "::", "@", "|", "&", "-", "+", "(", ")", "[", "]"],
    *["a", "b", "E", "é", "😀", "1", "0x", ".5", "1e", "٣", ",", " , ", "\n"],
]
ANY_TEXT = st.lists(st.sampled_from([*SHREDS, *POSTGRES_HIDING_PLACES]), max_size=20).map("".join)


def fragments(texts: list[str], *, literal_mark: bool) -> st.SearchStrategy[list[str]]:
    special = ["?", "??"] if literal_mark else ["?"]
    return st.lists(st.sampled_from(texts) | st.sampled_from(special), max_size=12)


def numbered(pieces: list[str]) -> tuple[str, int]:
    """What the pieces become on PostgreSQL, by the generator's own knowledge."""
    count = 0
    out = []
    for piece in pieces:
        if piece == "?":
            count += 1
            out.append(f"${count}")
        else:
            out.append("?" if piece == "??" else piece)
    # A comma between the pieces: two strings with a line end between them would be one.
    return "SELECT " + " , ".join(out), count


def source(pieces: list[str]) -> str:
    return "SELECT " + " , ".join(pieces)


def params(sql: str) -> list[str]:
    """The text of each placeholder that PostgreSQL's lexer finds."""
    return [sql[token.start : token.end + 1] for token in scan(sql) if token.name == "PARAM"]


def dollars(count: int) -> list[str]:
    return [f"${number}" for number in range(1, count + 1)]


def parsed_params(sql: str) -> list[int]:
    """The numbers of the parameters that PostgreSQL's parser finds, in the order of the text."""
    found = []
    nodes = [json.loads(parse_sql_json(sql))]
    while nodes:
        node = nodes.pop()
        if isinstance(node, dict):
            if "ParamRef" in node:
                found.append((node["ParamRef"].get("location", 0), node["ParamRef"]["number"]))
            nodes.extend(node.values())
        elif isinstance(node, list):
            nodes.extend(node)
    return [number for _, number in sorted(found)]


def unterminated(sql: str) -> bool | None:
    """Whether PostgreSQL's lexer misses an end, or None if it objects to something else."""
    try:
        scan(sql)
    except ParseError as error:
        return True if "unterminated" in str(error) else None
    return False


def never_closed(sql: str) -> bool:
    try:
        for _ in tokens(POSTGRES_TOKENS, sql):
            pass
    except ProgrammingError:
        return True
    return False


def sqlite_bindings(sql: str) -> int | None:
    """How many parameters SQLite takes, or None if it does not take the statement."""
    with closing(sqlite3.connect(":memory:")) as connection:
        try:
            connection.execute(sql).close()
        except sqlite3.ProgrammingError as error:
            wanted = re.search(r"statement uses (\d+), and there are 0", str(error))
            return int(wanted[1]) if wanted else None
        except (sqlite3.Error, sqlite3.Warning):
            return None
    return 0


class TestPostgres:
    @given(fragments(POSTGRES_HIDING_PLACES + PLAIN, literal_mark=True))
    @MANY
    def test_only_placeholders_change(self, pieces: list[str]) -> None:
        statement = POSTGRES.compile(source(pieces))
        assert (statement.text, statement.placeholders) == numbered(pieces)

    @given(fragments(POSTGRES_HIDING_PLACES + PLAIN, literal_mark=True))
    @MANY
    def test_the_lexer_of_postgresql_finds_the_same_placeholders(self, pieces: list[str]) -> None:
        text, count = numbered(pieces)
        assert params(text) == dollars(count)
        assert params(POSTGRES.compile(source(pieces)).text) == dollars(count)

    @given(ANY_TEXT)
    @example("E'a'\n'\\'?'")
    @example("$a$?$b$?$a$")
    @example("1E'?'")
    @example("$E'\\'?'")
    @example("a$b$?$b$")
    @example("é$?$é$")
    @example("E'a'--\n'\\'?'")
    @example("E'a'/**/\n'\\'?'")
    @example("$1?")
    @example("--?\r?")
    @settings(MANY, max_examples=1000)
    def test_any_text_has_the_placeholders_that_the_lexer_finds(self, text: str) -> None:
        sql = f"SELECT {text}"
        try:
            statement = POSTGRES.compile(sql)
            expected = dollars(statement.placeholders)
            found = params(statement.text)
        except (ProgrammingError, ParseError):
            return
        assert found == expected

    @given(ANY_TEXT)
    @MANY
    def test_text_without_question_marks_is_left_alone(self, text: str) -> None:
        sql = f"SELECT {text.replace('?', '')}"
        try:
            statement = POSTGRES.compile(sql)
        except ProgrammingError:
            return
        assert statement.text == sql
        assert statement.placeholders == 0

    @given(ANY_TEXT)
    @example("/*/")
    @example("/*/*/")
    @example("E'\\'")
    @example("'\\'")
    @example("$a$ $A$")
    @settings(MANY, max_examples=1000)
    def test_what_is_never_closed_is_what_the_lexer_calls_unterminated(self, text: str) -> None:
        assert unterminated(text) in (never_closed(text), None)

    @given(
        st.recursive(
            st.sampled_from(
                ["?", "'?'", "E'\\'?'", "$$?$$", "a", "1", '"?"', "?::text", "/*?*/ ?"]
            ),
            lambda inner: st.one_of(
                st.tuples(inner, inner).map("({0[0]}+{0[1]})".format),
                st.tuples(inner, inner).map("({0[0]}??|{0[1]})".format),
                st.tuples(inner, inner).map("({0[0]} IN ({0[1]},?))".format),
                st.tuples(inner, inner).map("f({0[0]},{0[1]})".format),
                inner.map("CASE WHEN {} THEN?ELSE?END".format),
                inner.map("a[1:{}]".format),
                inner.map("(-{} @>?)".format),
                inner.map("CAST({} AS text)".format),
            ),
            max_leaves=8,
        )
    )
    @MANY
    def test_the_parser_of_postgresql_numbers_the_same_parameters(self, expression: str) -> None:
        sql = f"SELECT {expression} FROM t WHERE b = ANY(?) LIMIT ?OFFSET?"
        statement = POSTGRES.compile(sql)
        assert parsed_params(statement.text) == list(range(1, statement.placeholders + 1))

    @pytest.mark.parametrize(
        ("sql", "text"),
        [
            ("SELECT a?", "SELECT a $1"),
            ("SELECT a?b", "SELECT a $1 b"),
            ("SELECT 1?1", "SELECT 1 $1 1"),
            ("SELECT é?é", "SELECT é $1 é"),
            ("SELECT ?::text", "SELECT $1::text"),
            ("SELECT a[1:?]", "SELECT a[1:$1]"),
            ("SELECT a[?:?]", "SELECT a[$1:$2]"),
            ("SELECT @?", "SELECT @$1"),
            ("SELECT a @??'$'", "SELECT a @?'$'"),
            ("SELECT a ??| ?", "SELECT a ?| $1"),
            ("SELECT a ??& ?", "SELECT a ?& $1"),
            ("SELECT ???", "SELECT ?$1"),
            ("SELECT ????", "SELECT ??"),
            ("SELECT ?$$?$$", "SELECT $1 $$?$$"),
            ("SELECT $$?$$?", "SELECT $$?$$ $1"),
            ("SELECT (?)", "SELECT ($1)"),
            ("SELECT ?'?'", "SELECT $1'?'"),
            ("SELECT ?--?", "SELECT $1--?"),
            ("SELECT ?/*?*/?", "SELECT $1/*?*/$2"),
            ("SELECT 1 -- ?", "SELECT 1 -- ?"),
        ],
    )
    def test_placeholders_in_odd_places(self, sql: str, text: str) -> None:
        assert POSTGRES.compile(sql).text == text

    @pytest.mark.parametrize(
        "sql", ["SELECT E'?\\'", "SELECT $$?", "SELECT $a$?$b$", "SELECT /* /* */", "SELECT e'"]
    )
    def test_what_is_never_closed_is_refused(self, sql: str) -> None:
        with pytest.raises(ProgrammingError, match="never closed"):
            POSTGRES.compile(sql)

    @pytest.mark.parametrize("sql", ["SELECT $1", "SELECT ?, $1", "SELECT a=$12::text"])
    def test_native_placeholders_are_refused(self, sql: str) -> None:
        with pytest.raises(ProgrammingError, match="write \\?"):
            POSTGRES.compile(sql)


class TestSQLite:
    @given(fragments(SQLITE_HIDING_PLACES + SQLITE_PLAIN, literal_mark=False))
    @MANY
    def test_nothing_changes_and_the_count_is_right(self, pieces: list[str]) -> None:
        statement = SQLITE.compile(source(pieces))
        assert statement.text == source(pieces)
        assert statement.placeholders == pieces.count("?")

    @given(
        st.lists(
            st.sampled_from(
                [
                    "?",
                    "1",
                    "'?'",
                    "'it''s ?'",
                    "x'00'",
                    "1 AS [a?]",
                    "1 AS `a``?`",
                    '1 AS "a""?"',
                    "/* /* ? */ 1",
                    "1 -- ?\n",
                    "CASE WHEN ? THEN ? END",
                    "1 AS a$b",
                    "(?+?)",
                    "1 AS é",
                    "?a",
                    "?'a?'",
                    "?[a?]",
                ]
            ),
            min_size=1,
            max_size=8,
        )
    )
    @MANY
    def test_sqlite_takes_as_many_parameters(self, expressions: list[str]) -> None:
        sql = f"SELECT {','.join(expressions)}"
        assert sqlite_bindings(sql) == SQLITE.compile(sql).placeholders

    @given(
        st.lists(
            st.sampled_from(
                [
                    *["?", "?", "1", "'", "''", '"', "`", "``", "[", "]", "x'", "E'", "\\"],
                    *["--", "/*", "*/", "/", "*", "-", "+", ",", "||", ";", " ", "\n", "\r"],
                    *["a", "_", "$", "$a", ":", "@a", "@", "#", "é", "😀", "٣", " AS "],
                ]
            ),
            max_size=14,
        )
    )
    @example(["1 AS ", "[", "'", "]", ",", "?"])
    @example(["?", "/*", "/", "*/", ",", "?"])
    @example(["@", "😀", ",", "?"])
    @example(["?", "٣"])
    @settings(MANY, max_examples=1000)
    def test_any_statement_that_both_take_has_as_many(self, pieces: list[str]) -> None:
        sql = f"SELECT {''.join(pieces)}"
        try:
            placeholders = SQLITE.compile(sql).placeholders
        except ProgrammingError:
            return
        assert sqlite_bindings(sql) in (placeholders, None)

    def test_a_letter_that_only_looks_like_a_digit_makes_no_native_placeholder(self) -> None:
        assert sqlite_bindings("SELECT ?٣") == 1
        assert SQLITE.compile("SELECT ?٣").placeholders == 1

    @pytest.mark.parametrize(
        "sql", ["SELECT ?1", "SELECT :name", "SELECT @name", "SELECT $name", "SELECT a = :n"]
    )
    def test_native_placeholders_are_refused(self, sql: str) -> None:
        with pytest.raises(ProgrammingError, match="write \\?"):
            SQLITE.compile(sql)

    def test_the_literal_question_mark_of_postgresql_is_refused(self) -> None:
        with pytest.raises(ProgrammingError, match="PostgreSQL"):
            SQLITE.compile("SELECT a ?? b")

    @pytest.mark.parametrize("sql", ["SELECT `a", "SELECT [a", "SELECT [a'", "SELECT `a``"])
    def test_an_identifier_that_is_never_closed_is_refused(self, sql: str) -> None:
        with pytest.raises(ProgrammingError, match="never closed"):
            SQLITE.compile(sql)

    def test_comments_do_not_nest(self) -> None:
        assert SQLITE.compile("SELECT /* /* ? */ ?").placeholders == 1

    @pytest.mark.parametrize("sql", ["SELECT \\", "SELECT a[1:?]", "SELECT $?", "SELECT a[?]"])
    def test_marks_are_counted_as_sqlite_would(self, sql: str) -> None:
        assert sqlite_bindings(sql) in (SQLITE.compile(sql).placeholders, None)


@BOTH
class TestStatement:
    @pytest.mark.parametrize(
        "sql", ["", " \n", ";", ";;", "-- ?", "/* SELECT 1 */", "-- SELECT 1\n;", "?", "'a'", "()"]
    )
    def test_no_statement_is_refused(self, dialect: Dialect, sql: str) -> None:
        with pytest.raises(ProgrammingError, match="no statement"):
            dialect.compile(sql)

    @pytest.mark.parametrize(
        "sql",
        [
            "SELECT 1; SELECT 2",
            "SELECT 1;SELECT 2;",
            "SELECT 1; -- c\n'a'",
            "SELECT 1; ?",
            "BEGIN; COMMIT",
        ],
    )
    def test_two_statements_are_refused(self, dialect: Dialect, sql: str) -> None:
        with pytest.raises(ProgrammingError, match="two statements"):
            dialect.compile(sql)

    @pytest.mark.parametrize(
        "sql", ["SELECT 1;", "SELECT 1 ; ", "SELECT 1;;", "SELECT 1; -- ; ?\n", ";SELECT ';'; /**/"]
    )
    def test_semicolons_and_comments_may_surround_it(self, dialect: Dialect, sql: str) -> None:
        assert dialect.compile(sql).text == sql

    @pytest.mark.parametrize("sql", ["SELECT '", 'SELECT "', "SELECT 'it''s", "SELECT 1 /*", "/*/"])
    def test_what_is_never_closed_is_refused(self, dialect: Dialect, sql: str) -> None:
        with pytest.raises(ProgrammingError, match="never closed"):
            dialect.compile(sql)

    def test_the_place_of_what_is_never_closed_is_told(self, dialect: Dialect) -> None:
        with pytest.raises(ProgrammingError, match="' is opened at character 8"):
            dialect.compile("SELECT 'abc")

    @pytest.mark.parametrize("sql", ["SELECT \0", "\0", "SELECT '\0'", "-- \0"])
    def test_a_nul_is_refused(self, dialect: Dialect, sql: str) -> None:
        with pytest.raises(ProgrammingError, match="NUL"):
            dialect.compile(sql)

    @pytest.mark.parametrize("sql", ["", "SELECT '", "SELECT 1; SELECT 2", "SELECT \0"])
    def test_the_error_has_the_statement(self, dialect: Dialect, sql: str) -> None:
        with pytest.raises(ProgrammingError) as caught:
            dialect.compile(sql)
        assert caught.value.sql == sql

    def test_the_statement_keeps_what_its_author_wrote(self, dialect: Dialect) -> None:
        assert dialect.compile("SELECT ?").sql == "SELECT ?"

    @given(text=st.text("?';-/*$abE\"`[] \n", max_size=30))
    @MANY
    def test_any_text_is_compiled_or_refused(self, dialect: Dialect, text: str) -> None:
        try:
            statement = dialect.compile(text)
        except ProgrammingError:
            return
        assert statement.placeholders <= text.count("?")

    @pytest.mark.parametrize(
        "unit",
        [
            "?,",
            "'a''b',",
            "E'\\\\',",
            "a ",
            "/*a*/",
            "--a\n",
            '"a",',
            "1+",
            "((",
            " \n",
            "$a+",
            "??,",
        ],
    )
    def test_the_time_grows_with_the_length_and_no_faster(
        self, dialect: Dialect, unit: str
    ) -> None:
        """Quadratic, these 100,000 take minutes."""
        started = time.perf_counter()
        try:
            dialect.compile("SELECT " + unit * 100_000)
        except ProgrammingError:
            assert dialect is SQLITE  # $a and ?? are no SQL there
        assert time.perf_counter() - started < 20

    def test_a_hundred_thousand_placeholders(self, dialect: Dialect) -> None:
        sql = f"SELECT {','.join('?' * 100_000)}"
        statement = dialect.compile(sql)
        assert statement.placeholders == 100_000
        assert statement.text.endswith(dialect.pick(sqlite=",?,?", postgres=",$99999,$100000"))


@BOTH
class TestReads:
    @pytest.mark.parametrize(
        "sql",
        [
            "SELECT 1",
            "select a from t where b = ?",
            "  /* c */ -- d\n SELECT 1",
            "(SELECT 1)",
            "VALUES (?)",
            "WITH a AS (SELECT 1) SELECT * FROM a",
            "WITH a AS (SELECT 'delete', \"update\" FROM t) SELECT * FROM a",
            "EXPLAIN SELECT 1",
        ],
    )
    def test_a_query_only_reads(self, dialect: Dialect, sql: str) -> None:
        assert dialect.compile(sql).reads

    @pytest.mark.parametrize(
        "sql",
        [
            "INSERT INTO t VALUES (1)",
            "INSERT INTO t SELECT * FROM u",
            "INSERT INTO t VALUES (1) RETURNING a",
            "update t set a = 1",
            "DELETE FROM t",
            "REPLACE INTO t VALUES (1)",
            "WITH a AS (SELECT 1) INSERT INTO t SELECT * FROM a",
            "WITH a AS (SELECT 1) UPDATE t SET b = 1",
            "WITH a AS (SELECT 1) DELETE FROM t",
            "WITH a AS (SELECT 1) REPLACE INTO t SELECT * FROM a",
            "WITH a AS (DELETE FROM t RETURNING *) SELECT * FROM a",
            "WITH a AS (SELECT 1) MERGE INTO t USING a ON true WHEN MATCHED THEN DELETE",
            "CREATE TABLE t (a int)",
            "CREATE TABLE t AS SELECT 1",
            "DROP TABLE t",
            "BEGIN",
            "COMMIT",
            "PRAGMA user_version = 1",
            "VACUUM",
            "LOCK TABLE t",
            "ANALYZE",
        ],
    )
    def test_what_may_write_does_not_only_read(self, dialect: Dialect, sql: str) -> None:
        assert not dialect.compile(sql).reads


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT 1 AS a INTO t",
        "SELECT a, b INTO TEMP t FROM u",
        "EXPLAIN ANALYZE DELETE FROM t",
        "EXPLAIN (ANALYZE, VERBOSE) DELETE FROM t",
        "EXPLAIN ANALYZE WITH a AS (UPDATE t SET b = 1 RETURNING c) SELECT * FROM a",
    ],
)
def test_a_query_of_postgresql_that_writes_does_not_only_read(sql: str) -> None:
    assert not POSTGRES.compile(sql).reads


TRIGGER = """CREATE TRIGGER IF NOT EXISTS t_after AFTER INSERT ON t
BEGIN
    UPDATE t SET a = CASE WHEN new.a > 1 THEN 'x;' ELSE 'end' END; -- END;
    INSERT INTO t_log (a) VALUES (CASE new.a WHEN 1 THEN CASE WHEN 1 THEN 2 END END);
    /* END; */ DELETE FROM t WHERE a IS NULL;
END"""
ATOMIC = """CREATE OR REPLACE FUNCTION f(n int) RETURNS int
BEGIN ATOMIC
    INSERT INTO t (a) VALUES (CASE WHEN n > 1 THEN 1 ELSE CASE n WHEN 0 THEN 2 END END);
    SELECT 1;
END"""
PLPGSQL = """CREATE FUNCTION g() RETURNS trigger LANGUAGE plpgsql AS $body$
BEGIN
    IF 1 > 0 THEN RETURN NULL; END IF;
END;
$body$"""
PROCEDURE = "CREATE PROCEDURE p() BEGIN ATOMIC DELETE FROM t; DELETE FROM u; END"


@BOTH
class TestSplit:
    def test_statements_come_without_semicolons_and_outer_space(self, dialect: Dialect) -> None:
        script = "\n SELECT 1 ;\n\tSELECT 2\n"
        assert dialect.split(script) == [(2, "SELECT 1"), (14, "SELECT 2")]

    @pytest.mark.parametrize("script", ["", " \n", ";", " ; ;; ", "-- a;\n", "/* a; */ ; -- b"])
    def test_no_statements(self, dialect: Dialect, script: str) -> None:
        assert dialect.split(script) == []

    @pytest.mark.parametrize("blank", ["\x1c", "\x85", "\xa0", "\u3000"], ids=ascii)
    def test_a_blank_that_is_none_to_the_engines_is_kept(
        self, dialect: Dialect, blank: str
    ) -> None:
        script = f"{blank}; SELECT a{blank};{blank}"
        assert [part for _, part in dialect.split(script)] == [blank, f"SELECT a{blank}", blank]

    def test_comments_between_statements_are_dropped(self, dialect: Dialect) -> None:
        script = "-- one\nSELECT 1; /* two; */ -- three\nSELECT 2; -- four"
        assert [text for _, text in dialect.split(script)] == ["SELECT 1", "SELECT 2"]

    def test_comments_inside_a_statement_stay(self, dialect: Dialect) -> None:
        assert dialect.split("SELECT /* a; */ 1 -- b;\n, 2;") == [
            (0, "SELECT /* a; */ 1 -- b;\n, 2")
        ]

    def test_a_statement_may_begin_with_an_operator(self, dialect: Dialect) -> None:
        assert dialect.split(";/* a */ ( /* b */ SELECT 1);") == [(9, "( /* b */ SELECT 1)")]

    def test_semicolons_in_quotes_end_nothing(self, dialect: Dialect) -> None:
        assert len(dialect.split("SELECT ';', \"a;\" /* ; */ -- ;\n")) == 1

    def test_a_word_of_a_routine_elsewhere_changes_nothing(self, dialect: Dialect) -> None:
        script = "BEGIN; CREATE TABLE t (a int); SELECT CASE WHEN 1 THEN 2 END; END; DROP TRIGGER x"
        assert len(dialect.split(script)) == 5

    def test_placeholders_are_no_concern_here(self, dialect: Dialect) -> None:
        assert [text for _, text in dialect.split("SELECT ?; SELECT $1")] == [
            "SELECT ?",
            "SELECT $1",
        ]

    @pytest.mark.parametrize("script", ["SELECT 1; SELECT '", "/* ", 'SELECT 1; "a'])
    def test_what_is_never_closed_is_refused(self, dialect: Dialect, script: str) -> None:
        with pytest.raises(ProgrammingError, match="never closed"):
            dialect.split(script)

    def test_nothing_but_a_statement_is_lost(self, dialect: Dialect) -> None:
        """What follows the last semicolon is for the engine to judge, whatever it is."""
        assert [text for _, text in dialect.split("SELECT 1; )")] == ["SELECT 1", ")"]

    @given(text=st.text("ab;'\"-/*() \n?1", max_size=40))
    @example(text="; a;b -- c\n; (d)")
    @MANY
    def test_the_offset_is_where_the_statement_stands(self, dialect: Dialect, text: str) -> None:
        try:
            statements = dialect.split(text)
        except ProgrammingError:
            return
        for offset, statement in statements:
            assert text[offset : offset + len(statement)] == statement
            assert statement == statement.strip()

    @given(text=st.text("ab;-/*() \n?1", max_size=40))
    @MANY
    def test_only_space_semicolons_and_comments_lie_between(
        self, dialect: Dialect, text: str
    ) -> None:
        try:
            statements = dialect.split(text)
        except ProgrammingError:
            return
        rest = text
        for offset, statement in reversed(statements):
            rest = f"{rest[:offset]} {rest[offset + len(statement) :]}"
        assert re.fullmatch(r"(?s)(?:[\s;]|--[^\n]*|/\*.*?\*/)*", rest)


ROUTINES = pytest.mark.parametrize(
    ("dialect", "routine"),
    [(SQLITE, TRIGGER), (POSTGRES, ATOMIC), (POSTGRES, PROCEDURE)],
    ids=["trigger", "function", "procedure"],
)


class TestSplitRoutines:
    @ROUTINES
    def test_semicolons_in_the_body_end_nothing(self, dialect: Dialect, routine: str) -> None:
        script = f"SELECT 0; {routine};\n-- next\nSELECT 1;{routine}"
        assert dialect.split(script) == [
            (0, "SELECT 0"),
            (10, routine),
            (script.index(f"SELECT 1;{routine[:6]}"), "SELECT 1"),
            (script.rindex(routine), routine),
        ]

    @ROUTINES
    def test_the_whole_is_one_statement(self, dialect: Dialect, routine: str) -> None:
        assert dialect.compile(f"{routine};").text == f"{routine};"
        with pytest.raises(ProgrammingError, match="two statements"):
            dialect.compile(f"{routine}; SELECT 1")

    @ROUTINES
    @pytest.mark.parametrize("after", ["", "; SELECT 1", "-- END"])
    def test_a_begin_without_end_is_refused(
        self, dialect: Dialect, routine: str, after: str
    ) -> None:
        with pytest.raises(ProgrammingError, match="BEGIN without its END"):
            dialect.split(routine.removesuffix("END") + after)


class TestSplitBesideTheEngines:
    @given(
        st.lists(
            st.sampled_from(
                [
                    "SELECT 1",
                    "SELECT 'a;', E'\\';', $$;$$ -- ;\n",
                    'SELECT "a;" /* ; /* ; */ ; */ FROM t',
                    "(SELECT 1)",
                    "VALUES (1)",
                    "CREATE TABLE begin (a int)",
                    "DROP FUNCTION f",
                    "BEGIN",
                    "END",
                    "SELECT CASE WHEN a THEN 1 END FROM t",
                    "DO $$ BEGIN NULL; END $$",
                    "CREATE TRIGGER a BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION f()",
                    ATOMIC,
                    PLPGSQL,
                    PROCEDURE,
                    "",
                    "-- a;\n",
                    "/* b; */",
                ]
            ),
            max_size=8,
        ),
        st.sampled_from([";", " ;\n", ";\n-- c;\n", ";/*;*/"]),
    )
    @MANY
    def test_postgresql_splits_in_the_same_places(self, parts: list[str], between: str) -> None:
        script = between.join(parts)
        theirs = [script[part] for part in pglast.split(script, only_slices=True)]
        ours = [text for _, text in POSTGRES.split(script)]
        # Both drop the comments before a statement; those after it count to it here only.
        assert len(ours) == len(theirs)
        assert all(our.startswith(their) for our, their in zip(ours, theirs, strict=True))
        assert sum(len(pglast.parse_sql(our)) for our in ours) == len(theirs)

    @pytest.mark.parametrize(
        "statement",
        [
            "CREATE RULE r AS ON INSERT TO t DO ALSO (DELETE FROM u; DELETE FROM v)",
            "CREATE FUNCTION f(begin int) RETURNS int AS 'SELECT 1' LANGUAGE sql",
            "CREATE FUNCTION begin() RETURNS int BEGIN ATOMIC END",
            "CREATE TRIGGER begin BEFORE INSERT ON t EXECUTE FUNCTION f()",
            "CREATE FUNCTION f(trigger int, \"end\" int) RETURNS int AS 'SELECT 1' LANGUAGE sql",
            'CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT "end", t.end FROM t; SELECT 1;END',
        ],
    )
    def test_postgresql_takes_it_as_one_statement(self, statement: str) -> None:
        assert len(pglast.split(f"{statement}; SELECT 1")) == 2
        assert [text for _, text in POSTGRES.split(f"{statement}; SELECT 1")] == [
            statement,
            "SELECT 1",
        ]

    @given(
        st.lists(
            st.sampled_from(
                [
                    "CREATE TABLE {} (a int, b DEFAULT ';')",
                    'CREATE TABLE {} ("a;" text, [b;] int, `c;` int)',
                    "CREATE TABLE {} AS SELECT CASE WHEN 1 THEN ';' END AS a -- ;\n",
                    "CREATE TRIGGER {} AFTER INSERT ON t BEGIN SELECT CASE WHEN 1 THEN 2 END; END",
                    "CREATE TEMP TRIGGER {} AFTER INSERT ON t BEGIN DELETE FROM t; SELECT 1; END",
                    "CREATE VIEW {} AS SELECT 1 /* ; /* */ ",
                    TRIGGER.replace("t_after", "{}"),
                    "-- {};\n",
                    "",
                ]
            ),
            max_size=6,
        )
    )
    @MANY
    def test_sqlite_makes_the_same_of_the_parts_as_of_the_whole(self, parts: list[str]) -> None:
        script = ";\n".join(part.format(f"x{number}") for number, part in enumerate(parts))
        schema = "SELECT sql FROM sqlite_master UNION ALL SELECT sql FROM sqlite_temp_master"
        with (
            closing(sqlite3.connect(":memory:")) as whole,
            closing(sqlite3.connect(":memory:")) as one_by_one,
        ):
            whole.executescript(f"CREATE TABLE t (a); {script}")
            one_by_one.execute("CREATE TABLE t (a)")
            for _, text in SQLITE.split(script):
                one_by_one.execute(text)
            made = one_by_one.execute(schema).fetchall()
            assert made == whole.execute(schema).fetchall()

    @pytest.mark.parametrize(
        "statement",
        [
            "CREATE TABLE a (trigger text, end text)",
            "CREATE TRIGGER a AFTER INSERT ON t BEGIN UPDATE t SET a = new.end; END",
            "CREATE TRIGGER a AFTER INSERT ON t BEGIN UPDATE t SET end = 1; END",
            "CREATE TRIGGER a AFTER INSERT ON t BEGIN SELECT 1 AS end; SELECT 2; END",
            "CREATE TRIGGER begin AFTER INSERT ON t BEGIN SELECT 1; END",
        ],
    )
    def test_sqlite_takes_it_as_one_statement(self, statement: str) -> None:
        with closing(sqlite3.connect(":memory:")) as connection:
            connection.execute("CREATE TABLE t (a, end)")
            connection.execute(statement)
        assert [text for _, text in SQLITE.split(f"{statement}; SELECT 1")] == [
            statement,
            "SELECT 1",
        ]
