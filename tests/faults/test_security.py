"""Nothing but values comes from a caller into SQL; secrets and passwords come out nowhere."""

from __future__ import annotations

import gc
import logging
import os
import re
import sqlite3
import subprocess
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote
from uuid import UUID

import pytest
from cryptography.fernet import Fernet

from prefect_db import (
    Backend,
    BadValue,
    ConfigurationError,
    Error,
    Queryable,
    UsageError,
    blocks,
    connect,
    events,
    flow_runs,
    flows,
    observe,
    task_runs,
)
from prefect_db.cli import main
from prefect_db.filters import Reference, Tags
from prefect_db.flow_runs import FlowRunFilter
from prefect_db.flows import FlowFilter
from prefect_db.logs import LogSort
from prefect_db.observe import Event, Execute, Observer, Outcome
from prefect_db.testing import create_database, proxy
from tests.faults.entities import (
    call,
    call_with_filter,
    call_with_word,
    fields_of_filters,
    functions,
    seed,
    words,
)

FUNCTIONS: Final = sorted(functions().keys() - {"blocks.rotate_key"})
# In every text that is sent, and in no statement.
MARK: Final = "qzx7"
# What means something in SQL, in a pattern, in JSON, in a path into it, or to a driver.
HOSTILE: Final = [
    f"{MARK}'; DROP TABLE flow; --",
    f"{MARK}' OR '1'='1",
    f'{MARK}"; DELETE FROM flow; -- `]; SELECT 1 /*',
    f"*/ {MARK}\\'; COMMIT; --\n; ROLLBACK\n--",
    f"$${MARK}$$ $1 ?1 ?? ?| ?& :a @a %s %(a)s {{0}}",
    f"$.a[0].\"b\" {MARK} '$.*'",
    f"!{MARK}*%_",
    f"NULL {MARK} DESC, \N{FULLWIDTH APOSTROPHE} OR 1=1",
]
# Functions whose arguments are ids, times and numbers alone.
WITHOUT_TEXT: Final = {
    *("flows.get", "flows.delete", "logs.delete", "logs.trim", "flow_runs.trim"),
    *(
        f"{entity}.{verb}"
        for entity in ("flow_runs", "task_runs")
        for verb in ("get", "delete", "history", "get_states")
    ),
    *(
        f"blocks.{verb}_{thing}"
        for verb in ("get", "delete")
        for thing in ("type", "schema", "document")
    ),
    "blocks.available_capabilities",
    # Encrypted, before it is sent.
    "blocks.update_document",
}


# Functions that take no id.
WITHOUT_IDS: Final = {
    "blocks.available_capabilities",
    "blocks.get_document_by_name",
    "blocks.get_schema_by_checksum",
    "blocks.get_type_by_slug",
    "configuration.get",
    "configuration.set",
    "configuration.setdefault",
    "events.trim",
    "events.write",
    "flow_runs.trim",
    "flows.get_by_name",
    "logs.trim",
    "logs.write",
    "task_runs.record",
}


class Statements(Observer):
    """The statements that were sent, and whether the mark was among their parameters."""

    params = True

    def __init__(self) -> None:
        self.sql: list[str] = []
        self.marked = False

    def start(self, event: Event) -> None:
        if isinstance(event, Execute):
            self.sql.append(event.sql)
            self.marked = self.marked or MARK in str(event.params)


class Place:
    """A database with one of everything, in which nothing is changed."""

    def __init__(self, db: Backend, statements: Statements) -> None:
        self.db = db
        self._statements = statements
        self.seeded = seed(db)

    def sent(
        self, name: str, text: str, ids: str | None = None
    ) -> tuple[list[str], bool, Error | None]:
        """What a function sends, whether the text was among the parameters, and its error."""
        return self.sent_by(lambda txn: call(txn, name, text, self.seeded, ids))

    def sent_by(self, act: Callable[[Queryable], Any]) -> tuple[list[str], bool, Error | None]:
        statements, error = self._statements, None
        statements.sql.clear()
        statements.marked = False
        with self.db.transaction() as txn:
            try:
                act(txn)
            except Error as raised:
                error = raised
            txn.rollback()
        return list(statements.sql), statements.marked, error


@pytest.fixture(scope="module")
def place(
    backend_name: str, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Place]:
    statements = Statements()
    if backend_name == "sqlite":
        url = f"sqlite:///{tmp_path_factory.mktemp('security')}/test.db"
        with connect(url, observer=statements) as db:
            yield Place(db, statements)
    else:
        with create_database(request.getfixturevalue("postgres_url")) as url:
            with connect(url, observer=statements) as db:
                yield Place(db, statements)


def twin(text: str) -> str:
    """A text like it that means nothing, but for a pattern's wildcards: those choose a test."""
    return re.sub(r"[^\w\s*?!]", "x", text)


class TestValues:
    @pytest.mark.parametrize("name", FUNCTIONS)
    def test_a_text_is_never_in_a_statement(self, place: Place, name: str) -> None:
        """The statements are those that are sent for a text that means nothing."""
        reached = False
        for text in HOSTILE:
            harmless, marked, error = place.sent(name, twin(text))
            sent, _, refused = place.sent(name, text)
            assert [sql for sql in sent + harmless if MARK in sql] == []
            if refused is None:
                assert sent == harmless, text
            else:
                # Refused by us, before or between statements: none that is new.
                assert isinstance(refused, (BadValue, UsageError)), refused
                assert set(sent) <= set(harmless) | {"ROLLBACK"}, text
            assert error is None or name == "events.query", error
            reached = reached or marked
        assert reached == (name not in WITHOUT_TEXT), "is the text a parameter at all?"

    @pytest.mark.parametrize(("name", "field"), fields_of_filters())
    def test_nor_is_the_text_of_a_field_of_a_filter(
        self, place: Place, name: str, field: str
    ) -> None:
        """Of one field alone there may be a shorter way."""

        def sent(text: str) -> list[str]:
            statements, _, error = place.sent_by(
                lambda txn: call_with_filter(txn, name, field, text, place.seeded)
            )
            assert error is None
            return statements

        for text in HOSTILE[:3]:
            statements = sent(text)
            assert statements == sent(twin(text))
            assert [sql for sql in statements if MARK in sql] == []

    def test_all_is_still_there(self, place: Place) -> None:
        """Nothing was dropped, ended or committed."""
        for name in FUNCTIONS:
            place.sent(name, HOSTILE[0])
        db = place.db
        assert [flow.name for flow in flows.find(db)] == ["seed"]
        assert (flow_runs.count(db), task_runs.count(db), events.count(db)) == (1, 1, 0)

    @pytest.mark.parametrize("name", FUNCTIONS)
    def test_a_text_where_an_id_belongs_is_refused(self, place: Place, name: str) -> None:
        sent, _, refused = place.sent(name, "a", ids=f"{MARK}' OR 1=1 --")
        assert [sql for sql in sent if MARK in sql] == []
        assert MARK not in str(refused)
        assert isinstance(refused, BadValue) == (name not in WITHOUT_IDS)


ANYTHING: Final[Any] = f"{MARK} DESC; DROP TABLE flow --"
# Where a caller's word would become a part of a statement, and may be one of a few only; besides
# those of `words()`.
WORDS: Final[dict[str, Callable[[Queryable, Any], Any]]] = {
    "operator of a filter": lambda db, word: flows.find(db, FlowFilter(operator=word)),
    "operator of tags": lambda db, word: flows.find(
        db, FlowFilter(tags=Tags(any_=["a"], operator=word))
    ),
    "operator of a reference": lambda db, word: flow_runs.count(
        db, FlowRunFilter(deployment_id=Reference(is_null_=True, operator=word))
    ),
    "isolation": lambda db, word: _begin(db, isolation=word),
    "limit": lambda db, word: flows.find(db, limit=word),
    "offset": lambda db, word: flow_runs.find(db, offset=word),
    "limit of events": lambda db, word: events.query(db, limit=word),
    "after": lambda db, word: events.query(db, after=str(word)),
}


def _begin(db: Queryable, **options: Any) -> None:
    assert isinstance(db, Backend)
    with db.transaction(**options):
        pass


class _Sort:
    value = ANYTHING


class TestWords:
    @pytest.mark.parametrize(
        ("place_", "given"),
        [
            (word, given)
            for word in WORDS
            for given in (ANYTHING, LogSort.TIMESTAMP_DESC.name, _Sort(), None, 1.5)
            # There, None is a right value.
            if given is not None or word not in ("limit", "offset", "after", "isolation")
        ],
    )
    def test_one_that_is_not_known_is_refused(self, place: Place, place_: str, given: Any) -> None:
        place._statements.sql.clear()
        with pytest.raises((BadValue, UsageError)):
            WORDS[place_](place.db, given)
        assert [sql for sql in place._statements.sql if sql != "BEGIN"] == []

    @pytest.mark.parametrize("given", [ANYTHING, LogSort.TIMESTAMP_DESC.name, _Sort(), None, 1.5])
    @pytest.mark.parametrize(("name", "parameter"), words())
    def test_nor_of_a_function(self, place: Place, name: str, parameter: str, given: Any) -> None:
        sent, _, refused = place.sent_by(
            lambda txn: call_with_word(txn, name, parameter, given, place.seeded)
        )
        assert isinstance(refused, (BadValue, UsageError))
        assert set(sent) <= {"BEGIN", "BEGIN IMMEDIATE", "ROLLBACK"}

    def test_they_are_found(self) -> None:
        assert {("flow_runs.find", "sort"), ("flow_runs.update", "changes")} <= set(words())

    def test_another_entitys_sort_is_refused(self, place: Place) -> None:
        sort: Any = LogSort.TIMESTAMP_DESC
        with pytest.raises(BadValue, match=r"FlowSort: CREATED_DESC, .* or NAME_DESC"):
            flows.find(place.db, sort=sort)


SECRET: Final = "s3cr3t-hunter2"


class Told:
    """All that a host would see or keep: logs of every library, errors, reprs, observers."""

    def __init__(self) -> None:
        self._texts: list[str] = []

    def add(self, *things: object) -> None:
        for thing in things:
            self._texts += [str(thing), repr(thing)]
            if isinstance(thing, Error):
                self._texts += [repr(thing.__dict__), "".join(traceback.format_exception(thing))]

    def check(self, *secrets: str) -> None:
        for secret in secrets:
            for text in self._texts:
                assert secret not in text


class Listener(Observer):
    def __init__(self, told: Told) -> None:
        self._told = told

    def start(self, event: Event) -> None:
        self._told.add(event)

    def end(self, event: Event, context: Any, outcome: Outcome) -> None:
        self._told.add(outcome)
        if outcome.error:
            self._told.add(outcome.error)


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture) -> Iterator[Told]:
    """What was told; of loggers, all and everything."""
    told = Told()
    with caplog.at_level(logging.DEBUG):
        for name in ("prefect_db", "psycopg", "psycopg.pool", "sqlite3"):
            caplog.set_level(logging.DEBUG, name)
        yield told
        told.add(caplog.text)


class TestSecretsOfBlocks:
    def test_they_are_told_nowhere(
        self, url: str, told: Told, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        observers = (Listener(told), observe.log_slow(0))
        with connect(url, observer=observers) as db:
            block_type = blocks.create_type(db, "Login", "login")
            fields = {
                "block_type_slug": "login",
                "title": "Login",
                "type": "object",
                "secret_fields": ["password", "more.*"],
                "properties": {},
                "block_schema_references": {},
            }
            schema = blocks.create_schema(db, fields, block_type.id)
            data = {"user": "u", "password": SECRET, "more": {"a": SECRET}}

            def create(name: str, **given: Any) -> blocks.BlockDocument:
                return blocks.create_document(db, name, {**data, **given}, schema.id, block_type.id)

            document = create("mine")
            outer = create("outer", inner={"$ref": {"block_document_id": str(document.id)}})
            told.add(document, outer)
            for include in (False, True):
                found = blocks.get_document(db, outer.id, include_secrets=include)
                assert found is not None
                assert (SECRET in str(found.data)) == include
                told.add(found, blocks.find_documents(db, include_secrets=include))
            told.add(blocks.update_document(db, document.id, data={"password": SECRET + "2"}))
            mistakes: list[Callable[[], object]] = [
                lambda: create("mine"),
                lambda: create("other", more={SECRET: "\0"}),
                lambda: create("other", more={"a": object()}),
                lambda: create("other", inner={"$ref": {"block_document_id": SECRET}}),
                lambda: blocks.update_document(db, document.id, data={"password": float("nan")}),
                lambda: blocks.create_document(db, "other", data, UUID(int=1), block_type.id),
            ]
            for mistake in mistakes:
                with pytest.raises(Error) as caught:
                    mistake()
                told.add(caught.value)
            told.add(db.rows("SELECT * FROM block_document"), db.stats(), db)
            told.add([tuple(row) for row in db.rows("SELECT * FROM block_document")])
            keys = [str(value) for value in self._keys(db)]
            told.add(blocks.rotate_key(db))
            keys += [str(value) for value in self._keys(db)]
            other = Fernet.generate_key().decode()
            monkeypatch.setenv("PREFECT_SERVER_ENCRYPTION_KEY", other)
            db.execute("DELETE FROM configuration")
            with pytest.raises(Error) as caught:
                blocks.get_document(db, document.id, include_secrets=True)
            told.add(caught.value)
            monkeypatch.setenv("PREFECT_SERVER_ENCRYPTION_KEY", SECRET)
            with pytest.raises(ConfigurationError) as misset:
                blocks.get_document(db, document.id)
            told.add(misset.value)
        assert keys
        told.check(SECRET, other, *keys)

    @staticmethod
    def _keys(db: Backend) -> list[Any]:
        row = db.row("SELECT value FROM configuration WHERE key = 'ENCRYPTION_KEY'")
        assert row is not None
        return list(row.json("value").values())


class TestPasswordsOfUrls:
    """The server of the tests wants none, and looks at none."""

    @pytest.mark.only("postgres", "a file has no password")
    @pytest.mark.parametrize("password", [SECRET, quote(f"{SECRET}/@:?#% ä", safe="")])
    def test_they_are_told_nowhere(
        self,
        url: str,
        told: Told,
        password: str,
        capsys: pytest.CaptureFixture[str],
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        place = url.partition("@")[2]
        good = f"postgresql://postgres:{password}@{place}"
        wrong = [
            good.replace("://postgres:", "://nobody-of-this-name:"),
            re.sub(r"/[^/?]+(\?|$)", r"/no-such-database\1", good),
            f"postgresql://postgres:{password}@127.0.0.1:1/x",
            f"postgresql://postgres:{password}@no-host.invalid/x?connect_timeout=1",
            f"postgresql://127.0.0.1:1/x?user=postgres&password={password}",
            f"postgresql://postgres:{password}@127.0.0.1:notaport/x",
            f"oracle://postgres:{password}@127.0.0.1/x",
        ]
        with proxy(good) as network, connect(network.url, observer=Listener(told)) as db:
            # psycopg logs that it cannot connect, and to where.
            db.value("SELECT 1")
            network.refuse()
            network.cut()
            with pytest.raises(Error) as caught:
                db.run(lambda txn: txn.value("SELECT 1"), 2)
            told.add(caught.value, db)
        assert "connection failed" in caplog.text
        with connect(good, observer=Listener(told)) as db:
            told.add(db, db.stats(), db._settings)
            with suppress(Error):
                db.value("SELECT pg_terminate_backend(pg_backend_pid())")
            told.add(db.value("SELECT 1"))
            with pytest.raises(Error) as caught:
                db.execute("SELECT * FROM missing")
            told.add(caught.value)
        for url_ in wrong:
            with pytest.raises(Error) as caught:
                connect(url_, connect_timeout=1, observer=Listener(told))
            told.add(caught.value)
            for command in ("migrate", "status", "check", "stats", "trim --older-than 1d"):
                assert main([*command.split(), "--url", url_]) != 0
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            connect(good, migrate=False)
            gc.collect()
        assert [warning for warning in warned if warning.category is ResourceWarning]
        told.add(*[warning.message for warning in warned], *capsys.readouterr())
        told.check(SECRET, password)


@pytest.mark.only("sqlite", "PostgreSQL's files are its server's")
class TestModesOfFiles:
    """Whatever the umask, and whoever makes them."""

    @pytest.fixture(autouse=True)
    def _everything_goes(self) -> Iterator[None]:
        before = os.umask(0)
        yield
        os.umask(before)

    @pytest.mark.parametrize(
        "command",
        ["migrate", "trim --older-than 1d", "trim --older-than 1d --vacuum", "rotate-key"],
    )
    def test_of_the_command_line(self, tmp_path: Path, command: str) -> None:
        path = tmp_path / "test.db"
        if command != "migrate":
            connect(f"sqlite:///{path}").close()
        modes = _modes_while(
            tmp_path,
            [sys.executable, "-m", "prefect_db", *command.split(), "--url", f"sqlite:///{path}"],
        )
        assert path.name in modes
        assert set(modes.values()) == {0o600}, modes

    def test_of_readers_and_writers(self, tmp_path: Path) -> None:
        with connect(f"sqlite:///{tmp_path}/test.db") as db:
            flows.create(db, "a")
            with db.transaction(read_only=True) as txn:
                assert flows.count(txn) == 1
                with db.transaction() as writing:
                    flows.create(writing, "b")
                    modes = {file.name: file.stat().st_mode & 0o777 for file in tmp_path.iterdir()}
        assert len(modes) >= 3
        assert set(modes.values()) == {0o600}, modes

    def test_of_the_journal_of_a_file_that_is_not_in_wal(self, tmp_path: Path) -> None:
        path = tmp_path / "test.db"
        connect(f"sqlite:///{path}", migrate=False).close()
        with closing(sqlite3.connect(path, isolation_level=None)) as native:
            native.execute("BEGIN IMMEDIATE")
            native.execute("CREATE TABLE item (id INTEGER PRIMARY KEY)")
            modes = {file.name: file.stat().st_mode & 0o777 for file in tmp_path.iterdir()}
        assert modes == {"test.db": 0o600, "test.db-journal": 0o600}


def _modes_while(folder: Path, command: list[str]) -> dict[str, int]:
    """The modes of all files that there are in a folder at any time while a program runs."""
    modes: dict[str, int] = {}
    with subprocess.Popen(
        command, cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        while process.poll() is None:
            for file in folder.iterdir():
                with suppress(FileNotFoundError):
                    modes[file.name] = modes.get(file.name, 0) | file.stat().st_mode & 0o777
        output = process.communicate()[0]
    assert process.returncode == 0, output
    return modes
