"""What is pending is applied once, in order; whatever else is found is its own error."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import pytest

from prefect_db import (
    Ahead,
    Backend,
    Dirty,
    Drift,
    Duplicate,
    Failed,
    ForeignKeyViolation,
    LockTimeout,
    MigrationError,
    Missing,
    Queryable,
    Unavailable,
    connect,
    flows,
    migrate,
)
from tests.faults import BOUND, in_thread, until
from tests.migrations import add, stopped, watched
from tests.migrations.catalogue import catalogue

_A: Final = "CREATE TABLE a (n integer NOT NULL)"
_B: Final = "CREATE TABLE b (n integer NOT NULL)"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A host's migrations: none yet."""
    folder = tmp_path / "migrations"
    folder.mkdir()
    return folder


@pytest.fixture
def db(url: str) -> Iterator[Backend]:
    """An empty database, without the library's tables."""
    with connect(url, migrate=False) as db:
        yield db
        assert db.stats().in_use == 0


@pytest.fixture
def app(db: Backend, folder: Path) -> Callable[[], list[str]]:
    """Applies the host's migrations."""
    return lambda: migrate(db, directory=folder, owner="app")


def recorded(db: Queryable) -> list[str]:
    return sorted(row["id"] for row in db.rows("SELECT id FROM _migrations"))


class TestTheLibrarysOwn:
    def test_they_are_recorded_with_their_time_and_checksum(self, url: str) -> None:
        before = datetime.now(UTC)
        with connect(url) as db:
            first = db.rows("SELECT id, applied_at, checksum FROM _migrations ORDER BY id")[0]
        assert first["id"] == "001_initial"
        assert re.fullmatch("[0-9a-f]{64}", first["checksum"])
        applied_at = first.datetime("applied_at")
        assert applied_at is not None
        assert before <= applied_at <= datetime.now(UTC)

    def test_migrate_tells_which_it_applied(self, db: Backend) -> None:
        assert migrate(db) == recorded(db)

    def test_they_can_be_left_out(self, url: str) -> None:
        with connect(url, migrate=False) as db:
            assert catalogue(db) == {}

    def test_a_second_start_only_reads(self, url: str) -> None:
        connect(url).close()
        seen: list[str] = []
        watched(url, seen.append, migrate=True).close()
        assert seen
        others = {sql for sql in seen if not sql.startswith("SELECT") or "lock" in sql}
        assert others <= {"release", "released"}

    @pytest.mark.only("sqlite", "PostgreSQL has no file of ours")
    def test_a_second_start_leaves_the_file_as_it_is(self, url: str) -> None:
        connect(url).close()
        path = Path(url.removeprefix("sqlite:///"))
        before = path.read_bytes()
        with connect(url):
            log = path.with_name(f"{path.name}-wal")
            assert not log.exists() or not log.read_bytes()
        assert path.read_bytes() == before

    def test_a_second_start_waits_for_no_lock(self, url: str, folder: Path) -> None:
        connect(url).close()
        add(folder, "001_a", _A)
        with stopped(url, folder, "other", _A) as other:
            connect(url).close()
            assert not other.done()

    def test_those_of_a_newer_release_are_refused(self, url: str) -> None:
        with connect(url) as db:
            _record(db, "999_later")
        with pytest.raises(Ahead, match="999_later"):
            connect(url)

    def test_a_database_of_a_newer_release_can_be_read(self, url: str) -> None:
        with connect(url) as db:
            _record(db, "999_later")
        with connect(url, migrate=False) as db:
            assert flows.find(db) == []

    def test_an_edited_one_is_refused(self, url: str) -> None:
        with connect(url) as db:
            db.execute("UPDATE _migrations SET checksum = 'other' WHERE id = '001_initial'")
        with pytest.raises(Drift, match="001_initial"):
            connect(url)


def _record(db: Queryable, id: str) -> None:
    db.execute(
        "INSERT INTO _migrations (id, applied_at, checksum) VALUES (?, ?, 'sum')",
        (id, datetime.now(UTC)),
    )


class TestAHostsOwn:
    def test_they_are_applied_in_order(
        self, db: Backend, folder: Path, app: Callable[[], list[str]]
    ) -> None:
        add(folder, "003_drop", "DROP TABLE b")
        add(folder, "001_create", _A)
        add(folder, "002_rename", "ALTER TABLE a RENAME TO b")
        assert app() == ["app/001_create", "app/002_rename", "app/003_drop"]
        assert set(catalogue(db)) == {"_migrations"}

    def test_they_are_applied_once(
        self, db: Backend, folder: Path, app: Callable[[], list[str]]
    ) -> None:
        add(folder, "001_a", _A)
        assert (app(), app()) == (["app/001_a"], [])
        assert recorded(db) == ["app/001_a"]

    def test_a_later_release_applies_what_it_adds(
        self, folder: Path, app: Callable[[], list[str]]
    ) -> None:
        add(folder, "001_a", _A)
        app()
        add(folder, "002_b", _B)
        add(folder, "003_row", "INSERT INTO b (n) VALUES (1)")
        assert app() == ["app/002_b", "app/003_row"]

    def test_they_stand_beside_the_librarys(self, url: str, folder: Path) -> None:
        add(folder, "001_initial", _A)
        with connect(url) as db:
            own = recorded(db)
            migrate(db, directory=folder, owner="app")
            assert recorded(db) == [*own, "app/001_initial"]
        connect(url).close()

    def test_two_hosts_do_not_know_each_other(self, db: Backend, tmp_path: Path) -> None:
        add(tmp_path / "one", "001_a", _A)
        add(tmp_path / "one", "002_b", _B)
        add(tmp_path / "two", "001_a", "CREATE TABLE two (n integer)")
        migrate(db, directory=tmp_path / "one", owner="one")
        assert migrate(db, directory=str(tmp_path / "two"), owner="two") == ["two/001_a"]
        assert migrate(db, directory=tmp_path / "one", owner="one") == []

    @pytest.mark.parametrize("owner", ["", "App", "1app", "a/b", "a b", "a.b", "é", "app\n"])
    def test_an_owner_is_a_plain_word(self, db: Backend, folder: Path, owner: str) -> None:
        add(folder, "001_a", _A)
        with pytest.raises(MigrationError, match="owner"):
            migrate(db, directory=folder, owner=owner)
        assert catalogue(db) == {}

    def test_a_folder_needs_an_owner(self, db: Backend, folder: Path) -> None:
        with pytest.raises(MigrationError, match="owner"):
            migrate(db, directory=folder)

    def test_an_owner_needs_a_folder(self, db: Backend) -> None:
        with pytest.raises(MigrationError, match="owner"):
            migrate(db, owner="app")

    def test_a_folder_must_be_there(self, db: Backend, folder: Path) -> None:
        with pytest.raises(MigrationError, match="nowhere"):
            migrate(db, directory=folder / "nowhere", owner="app")

    def test_an_empty_folder_has_nothing_to_apply(
        self, db: Backend, app: Callable[[], list[str]]
    ) -> None:
        assert app() == []
        assert catalogue(db) == {}


class TestNames:
    @pytest.mark.parametrize("name", ["1_a", "01_a", "a", "001", "001_", "001-a", "001_A", "001 a"])
    def test_a_wrong_one_is_refused(
        self, db: Backend, folder: Path, app: Callable[[], list[str]], name: str
    ) -> None:
        add(folder, "001_a", _A)
        add(folder, name, _B)
        with pytest.raises(MigrationError, match=re.escape(name)):
            app()
        assert catalogue(db) == {}

    def test_what_is_no_migration_is_let_be(
        self, folder: Path, app: Callable[[], list[str]]
    ) -> None:
        add(folder, "001_a", _A)
        (folder / "README.md").write_text("ours")
        (folder / "001_a" / "notes.txt").write_text("ours")
        (folder / ".git").mkdir()
        (folder / "__pycache__").mkdir()
        assert app() == ["app/001_a"]

    def test_numbers_decide_not_their_digits(
        self, folder: Path, app: Callable[[], list[str]]
    ) -> None:
        add(folder, "001_a", _A)
        add(folder, "0002_b", _B)
        assert app() == ["app/001_a", "app/0002_b"]
        assert app() == []

    @pytest.mark.parametrize(
        ("names", "wrong"), [("002_b", "002_b"), ("001_a 003_c", "003_c"), ("000_a 001_b", "000_a")]
    )
    def test_a_gap_is_refused(
        self, db: Backend, folder: Path, app: Callable[[], list[str]], names: str, wrong: str
    ) -> None:
        for name in names.split():
            add(folder, name, f"CREATE TABLE t{name} (n integer)")
        with pytest.raises(Missing, match=wrong):
            app()
        assert catalogue(db) == {}

    def test_two_of_one_number_are_refused(
        self, db: Backend, folder: Path, app: Callable[[], list[str]]
    ) -> None:
        add(folder, "001_a", _A)
        add(folder, "001_b", _B)
        with pytest.raises(Duplicate, match=r"001_a.*001_b"):
            app()
        assert catalogue(db) == {}

    def test_a_file_for_the_engine_must_be_there(
        self, db: Backend, folder: Path, app: Callable[[], list[str]]
    ) -> None:
        add(folder, "001_a", _A)
        (folder / "001_a" / f"{db.dialect.name}.sql").unlink()
        with pytest.raises(Missing, match=f"001_a/{db.dialect.name}.sql"):
            app()

    def test_a_file_for_another_engine_need_not(
        self, db: Backend, folder: Path, app: Callable[[], list[str]]
    ) -> None:
        add(folder, "001_a", _A)
        other = db.dialect.pick(sqlite="postgres", postgres="sqlite")
        (folder / "001_a" / f"{other}.sql").unlink()
        assert app() == ["app/001_a"]


class TestWhatWasApplied:
    @pytest.fixture(autouse=True)
    def _applied(self, folder: Path, app: Callable[[], list[str]]) -> None:
        add(folder, "001_a", f"{_A};\n-- done\n")
        add(folder, "002_b", f"{_B};\n")
        app()

    def test_an_edited_one_is_refused(self, folder: Path, app: Callable[[], list[str]]) -> None:
        add(folder, "001_a", f"{_A};\n-- done!\n")
        with pytest.raises(Drift, match="001_a"):
            app()

    @pytest.mark.parametrize(
        "text",
        [
            f"{_A};\r\n-- done\r\n",
            f"\ufeff{_A};\n-- done\n",
            f"{_A};  \n-- done\t\n",
            f"{_A};\n-- done",
            f"{_A};\n-- done\n\n \n",
        ],
        ids=["CRLF", "BOM", "trailing space", "no last line end", "empty lines at the end"],
    )
    def test_what_editors_do_is_no_edit(
        self, folder: Path, app: Callable[[], list[str]], text: str
    ) -> None:
        for file in (folder / "001_a").iterdir():
            file.write_bytes(text.encode())
        assert app() == []

    def test_one_that_is_gone_is_missed(self, folder: Path, app: Callable[[], list[str]]) -> None:
        (folder / "001_a").rename(folder / "001_other")
        with pytest.raises(Missing, match="001_a"):
            app()

    @pytest.mark.parametrize("name", ["002_a", "002_c"])
    def test_the_last_one_renamed_is_missed(
        self, folder: Path, app: Callable[[], list[str]], name: str
    ) -> None:
        (folder / "002_b").rename(folder / name)
        with pytest.raises(Missing, match="002_b"):
            app()

    def test_two_whose_numbers_were_swapped_are_missed(
        self, db: Backend, folder: Path, app: Callable[[], list[str]]
    ) -> None:
        before = catalogue(db)
        (folder / "001_a").rename(folder / "002_a")
        (folder / "002_b").rename(folder / "001_b")
        with pytest.raises(Missing, match="001_a was applied, and there is no file"):
            app()
        assert recorded(db) == ["app/001_a", "app/002_b"]
        assert catalogue(db) == before

    def test_one_that_only_a_newer_release_has(
        self, db: Backend, app: Callable[[], list[str]]
    ) -> None:
        _record(db, "app/003_c")
        with pytest.raises(Ahead, match="003_c"):
            app()

    def test_one_before_it_comes_too_late(self, db: Backend, app: Callable[[], list[str]]) -> None:
        db.execute("DELETE FROM _migrations WHERE id = 'app/001_a'")
        with pytest.raises(MigrationError, match=r"001_a.*too late"):
            app()

    def test_nothing_is_applied_then(
        self, db: Backend, folder: Path, app: Callable[[], list[str]]
    ) -> None:
        add(folder, "001_a", "CREATE TABLE other (n integer)")
        add(folder, "003_c", "CREATE TABLE c (n integer)")
        with pytest.raises(Drift):
            app()
        assert recorded(db) == ["app/001_a", "app/002_b"]


class TestScripts:
    @pytest.mark.parametrize("text", ["", "\n", "-- nothing to do here\n", "/* nothing */ ;\n"])
    def test_an_empty_one_is_recorded(
        self, db: Backend, folder: Path, app: Callable[[], list[str]], text: str
    ) -> None:
        add(folder, "001_nothing", text)
        assert app() == ["app/001_nothing"]
        assert recorded(db) == ["app/001_nothing"]

    def test_the_last_semicolon_may_be_left_out(
        self, db: Backend, folder: Path, app: Callable[[], list[str]]
    ) -> None:
        add(folder, "001_a", f"{_A}; {_B}")
        app()
        assert {"a", "b"} <= set(catalogue(db))

    def test_semicolons_and_marks_in_quotes_and_comments(
        self, db: Backend, folder: Path, app: Callable[[], list[str]]
    ) -> None:
        add(
            folder,
            "001_a",
            """
            CREATE TABLE "a;b" (t text DEFAULT 'c;d?'); -- a comment; with a semicolon?
            INSERT INTO "a;b" (t) VALUES ('it''s; $1 %s %% ?'); /* and; another */
            INSERT INTO "a;b" DEFAULT VALUES
            """,
        )
        app()
        rows = db.rows('SELECT t FROM "a;b" ORDER BY t DESC')
        assert [row["t"] for row in rows] == ["it's; $1 %s %% ?", "c;d?"]

    def test_a_trigger(self, db: Backend, folder: Path, app: Callable[[], list[str]]) -> None:
        add(
            folder,
            "001_a",
            f"""
            {_A};
            {_B};
            CREATE TRIGGER copy AFTER INSERT ON a BEGIN
                UPDATE b SET n = CASE WHEN n > 0 THEN 0 ELSE n END;
                INSERT INTO b (n) VALUES (NEW.n);
            END;
            INSERT INTO a (n) VALUES (7);
            """,
            f"""
            {_A};
            {_B};
            CREATE FUNCTION copy() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN
                INSERT INTO b (n) VALUES (NEW.n);
                RETURN NEW;
            END;
            $$;
            CREATE TRIGGER copy AFTER INSERT ON a FOR EACH ROW EXECUTE FUNCTION copy();
            INSERT INTO a (n) VALUES (7);
            """,
        )
        app()
        assert db.value("SELECT n FROM b") == 7

    @pytest.mark.only("postgres", "SQLite has no functions in SQL")
    def test_a_function_of_the_standard_form(
        self, db: Backend, folder: Path, app: Callable[[], list[str]]
    ) -> None:
        add(
            folder,
            "001_a",
            "",
            """
            CREATE FUNCTION twice(n integer) RETURNS integer LANGUAGE sql
            BEGIN ATOMIC
                SELECT 1;
                SELECT 2 * n;
            END;
            DO $do$ BEGIN PERFORM twice(1); PERFORM twice(2); END $do$;
            """,
        )
        app()
        assert db.value("SELECT twice(4)") == 8

    def test_one_that_is_no_utf_8_is_refused(
        self, folder: Path, app: Callable[[], list[str]]
    ) -> None:
        add(folder, "001_a", "")
        for file in (folder / "001_a").iterdir():
            file.write_bytes(b"-- \xe9\n")
        with pytest.raises(MigrationError, match="001_a"):
            app()


# Where a statement fails: S as SQLite tells it (its begin), P as PostgreSQL does.
_FAILING: Final = {
    "a misspelt word": "«S»«P»CREAT TABLE c (n integer)",
    "an unknown column": f"{_B};\n\n-- é ü\n  «S»INSERT INTO b (n)\n SELECT 'é' || «P»nope FROM b;",
    "a wrong row": f"{_B}; DELETE FROM b;\n\t«S»«P»INSERT INTO b (n) VALUES (NULL)",
    "CRLF": f"{_B};\r\n\r\n/* a;\r\n b */ «S»SELECT n FROM «P»nowhere;\r\n",
    "BOM": f"\ufeff{_B}; «S»SELECT n FROM «P»nowhere",
}


class TestFailing:
    @pytest.fixture(autouse=True)
    def _before(self, folder: Path, app: Callable[[], list[str]]) -> None:
        add(folder, "001_a", f"{_A}; INSERT INTO a (n) VALUES (1)")
        app()

    @pytest.mark.parametrize("marked", _FAILING.values(), ids=_FAILING.keys())
    def test_the_place_is_told(
        self, db: Backend, folder: Path, app: Callable[[], list[str]], marked: str
    ) -> None:
        mark = db.dialect.pick(sqlite="«S»", postgres="«P»")
        before = re.sub("«.»|\r|\ufeff", "", marked[: marked.index(mark)])
        line, column = before.count("\n") + 1, len(before.rpartition("\n")[2]) + 1
        add(folder, "002_b", "")
        for file in (folder / "002_b").iterdir():
            file.write_bytes(re.sub("«.»", "", marked).encode())
        with pytest.raises(Failed) as caught:
            app()
        name = f"002_b/{db.dialect.name}.sql"
        assert (caught.value.name, caught.value.line, caught.value.column) == (name, line, column)
        assert f"{name}:{line}:{column}: " in str(caught.value)

    def test_the_statement_and_the_reason_are_told(
        self, folder: Path, app: Callable[[], list[str]]
    ) -> None:
        add(folder, "002_b", f"{_B}; INSERT INTO b (n) VALUES (NULL)")
        with pytest.raises(Failed, match=r"(?i)NOT.NULL constraint") as caught:
            app()
        assert caught.value.sql == "INSERT INTO b (n) VALUES (NULL)"
        assert caught.value.code in ("1299", "23502")

    @pytest.mark.parametrize(
        "last",
        ["nonsense", "INSERT INTO b (n) VALUES (NULL)", "INSERT INTO b (n) VALUES ('never closed)"],
    )
    def test_the_database_is_as_it_was(
        self, db: Backend, folder: Path, app: Callable[[], list[str]], last: str
    ) -> None:
        before = catalogue(db)
        add(folder, "002_b", f"{_B}; DELETE FROM a; ALTER TABLE a ADD COLUMN t text; {last}")
        with pytest.raises(Failed):
            app()
        assert catalogue(db) == before
        assert db.value("SELECT count(*) FROM a") == 1
        assert recorded(db) == ["app/001_a"]

    @pytest.mark.only("sqlite", "no statement of PostgreSQL's rolls back more than itself")
    def test_a_conflict_that_rolls_back_leaves_the_database_as_it_was(
        self, db: Backend, folder: Path, app: Callable[[], list[str]]
    ) -> None:
        add(folder, "002_b", f"{_B}; INSERT OR ROLLBACK INTO b (n) VALUES (NULL); {_A}2")
        with pytest.raises(Failed):
            app()
        assert set(catalogue(db)) == {"_migrations", "a"}

    @pytest.mark.parametrize("statement", ["COMMIT", "ROLLBACK", "END"])
    def test_a_migration_cannot_end_its_transaction(
        self, db: Backend, folder: Path, app: Callable[[], list[str]], statement: str
    ) -> None:
        add(folder, "002_b", f"{_B};\n  {statement}; CREATE TABLE c (n integer)")
        with pytest.raises(Failed) as caught:
            app()
        assert (caught.value.line, caught.value.column) == (2, 3)
        assert set(catalogue(db)) == {"_migrations", "a"}
        assert recorded(db) == ["app/001_a"]

    def test_those_before_it_stay_applied(
        self, db: Backend, folder: Path, app: Callable[[], list[str]]
    ) -> None:
        add(folder, "002_b", _B)
        add(folder, "003_c", "nonsense")
        with pytest.raises(Failed):
            app()
        assert recorded(db) == ["app/001_a", "app/002_b"]

    def test_it_goes_on_when_it_is_corrected(
        self, folder: Path, app: Callable[[], list[str]]
    ) -> None:
        add(folder, "002_b", f"{_B}; nonsense")
        add(folder, "003_c", "CREATE TABLE c (n integer)")
        with pytest.raises(Failed):
            app()
        add(folder, "002_b", _B)
        assert app() == ["app/002_b", "app/003_c"]

    def test_an_interrupt_leaves_the_database_as_it_was_and_free(
        self, url: str, db: Backend, folder: Path, app: Callable[[], list[str]]
    ) -> None:
        def interrupt(sql: str) -> None:
            if "CREATE TABLE c" in sql:
                raise KeyboardInterrupt

        before = catalogue(db)
        add(folder, "002_b", f"{_B}; CREATE TABLE c (n integer)")
        with watched(url, interrupt) as other:
            with pytest.raises(KeyboardInterrupt):
                migrate(other, directory=folder, owner="app")
            assert other.stats().in_use == 0
            assert catalogue(other) == before
            assert app() == ["app/002_b"]

    @pytest.mark.only("postgres", "SQLite has no connection that could be lost")
    def test_a_lost_connection_leaves_the_database_as_it_was_and_free(
        self, url: str, db: Backend, folder: Path, app: Callable[[], list[str]]
    ) -> None:
        def lose(sql: str) -> None:
            if "CREATE TABLE c" in sql:
                db.rows(
                    "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity"
                    " WHERE application_name = 'lost'"
                )

        before = catalogue(db)
        add(folder, "002_b", f"{_B}; CREATE TABLE c (n integer)")
        with watched(url, lose, application_name="lost") as other:
            with pytest.raises(Unavailable):
                migrate(other, directory=folder, owner="app")
            assert other.stats().in_use == 0
            assert catalogue(db) == before
            assert app() == ["app/002_b"]


@pytest.mark.only("sqlite", "PostgreSQL alters a table in place")
class TestForeignKeysOfSQLite:
    @pytest.fixture(autouse=True)
    def _before(self, folder: Path, app: Callable[[], list[str]]) -> None:
        add(
            folder,
            "001_a",
            """
            CREATE TABLE parent (id INTEGER PRIMARY KEY);
            CREATE TABLE child (id INTEGER REFERENCES parent (id) ON DELETE CASCADE);
            INSERT INTO parent (id) VALUES (1), (2);
            INSERT INTO child (id) VALUES (1), (2);
            """,
        )
        app()

    def test_a_table_made_anew_takes_no_children_with_it(
        self, db: Backend, folder: Path, app: Callable[[], list[str]]
    ) -> None:
        add(
            folder,
            "002_b",
            """
            CREATE TABLE other (id INTEGER PRIMARY KEY, t TEXT);
            INSERT INTO other (id) SELECT id FROM parent;
            DROP TABLE parent;
            ALTER TABLE other RENAME TO parent;
            """,
        )
        app()
        assert db.value("SELECT count(*) FROM child") == 2
        assert "t TEXT" in catalogue(db)["parent"]

    def test_a_row_without_its_parent_is_refused_and_undone(
        self, db: Backend, folder: Path, app: Callable[[], list[str]]
    ) -> None:
        add(folder, "002_b", "DELETE FROM parent WHERE id = 2")
        with pytest.raises(Failed, match=r"002_b/sqlite\.sql.*child") as caught:
            app()
        assert caught.value.name == "002_b/sqlite.sql"
        assert db.value("SELECT count(*) FROM parent") == 2
        assert recorded(db) == ["app/001_a"]

    def test_a_foreign_key_that_cannot_hold_is_refused_and_undone(
        self, db: Backend, folder: Path, app: Callable[[], list[str]]
    ) -> None:
        before = catalogue(db)
        add(
            folder,
            "002_b",
            """
            CREATE TABLE b (n INTEGER);
            CREATE TABLE c (n INTEGER REFERENCES b (n));
            INSERT INTO c (n) VALUES (1);
            """,
        )
        with pytest.raises(Failed, match=r"002_b/sqlite\.sql"):
            app()
        assert catalogue(db) == before

    @pytest.mark.parametrize("script", ["", "nonsense", "DELETE FROM parent", "-- no-transaction"])
    def test_they_hold_again_afterwards(
        self, db: Backend, folder: Path, app: Callable[[], list[str]], script: str
    ) -> None:
        add(folder, "002_b", script)
        try:
            app()
        except Failed:
            assert script in ("nonsense", "DELETE FROM parent")
        with pytest.raises(ForeignKeyViolation):
            db.execute("INSERT INTO child (id) VALUES (9)")


class TestOutsideATransaction:
    @pytest.fixture(autouse=True)
    def _before(self, folder: Path, app: Callable[[], list[str]]) -> None:
        add(folder, "001_a", f"{_A}; INSERT INTO a (n) VALUES (1)")
        app()

    @pytest.mark.parametrize(
        "header", ["-- no-transaction\n", "--no-transaction  \r\n", "\ufeff\n -- no-transaction\n"]
    )
    def test_what_no_transaction_allows(
        self, db: Backend, folder: Path, app: Callable[[], list[str]], header: str
    ) -> None:
        add(folder, "002_b", f"{header}VACUUM", f"{header}VACUUM; VACUUM a;")
        assert app() == ["app/002_b"]
        assert db.row("SELECT 1 FROM _migrations WHERE applied_at IS NULL") is None

    @pytest.mark.parametrize("header", ["", "-- no transaction\n", "\n/* */\n-- no-transaction\n"])
    def test_without_the_header_it_is_in_one(
        self, folder: Path, app: Callable[[], list[str]], header: str
    ) -> None:
        add(folder, "002_b", f"{header}VACUUM")
        with pytest.raises(Failed, match="VACUUM"):
            app()

    @pytest.mark.only("postgres", "SQLite makes indexes in no other way")
    def test_an_index_made_beside_writers(
        self, db: Backend, folder: Path, app: Callable[[], list[str]]
    ) -> None:
        add(folder, "002_b", "", "-- no-transaction\nCREATE INDEX CONCURRENTLY a__n ON a (n)")
        app()
        assert "CREATE INDEX a__n ON public.a USING btree (n)" in catalogue(db)["a"]

    def test_others_wait_for_one_that_is_under_way(
        self, url: str, db: Backend, folder: Path
    ) -> None:
        """Its mark is not that of one that began and did not end."""
        add(folder, "002_b", "-- no-transaction\nCREATE INDEX a__n ON a (n)")
        looks: list[str] = []
        with watched(url, looks.append) as other, ThreadPoolExecutor(1) as threads:
            with stopped(url, folder, "app", "CREATE INDEX") as one:
                two = threads.submit(migrate, other, directory=folder, owner="app")
                # More than before the first wait.
                until(lambda: two.done() or len(looks) > 15)
                assert not two.done()
            assert (one.result(), two.result(BOUND)) == (["app/002_b"], [])

    def test_one_that_fails_says_so(
        self, db: Backend, folder: Path, app: Callable[[], list[str]]
    ) -> None:
        add(folder, "002_b", f"-- no-transaction\n{_B};\n  nonsense")
        with pytest.raises(Failed, match=r"002_b/\w+\.sql:3:3: ") as caught:
            app()
        assert "as it was" not in str(caught.value)
        assert "b" in catalogue(db)

    @pytest.mark.parametrize("corrected", [False, True])
    def test_one_that_failed_is_not_run_again_by_itself(
        self, db: Backend, folder: Path, corrected: bool
    ) -> None:
        add(folder, "002_b", f"-- no-transaction\n{_B}; nonsense")
        with pytest.raises(Failed):
            migrate(db, directory=folder, owner="app")
        if corrected:
            add(folder, "002_b", f"-- no-transaction\n{_B}")
        with pytest.raises(Dirty, match=r"002_b/\w+\.sql"):
            migrate(db, directory=folder, owner="app", lock_timeout=0.1)

    def test_the_message_tells_how_to_have_it_run_again(
        self, db: Backend, folder: Path, app: Callable[[], list[str]]
    ) -> None:
        add(folder, "002_b", f"-- no-transaction\n{_B}; nonsense")
        with pytest.raises(Failed):
            app()
        with pytest.raises(Dirty) as caught:
            migrate(db, directory=folder, owner="app", lock_timeout=0.1)
        statement = re.search(r"DELETE FROM _migrations WHERE id = 'app/002_b'", str(caught.value))
        assert statement, caught.value
        db.execute(statement[0])
        db.execute("DROP TABLE b")
        add(folder, "002_b", f"-- no-transaction\n{_B}")
        assert app() == ["app/002_b"]


class TestTheLock:
    def test_another_that_holds_it_too_long(self, url: str, folder: Path, tmp_path: Path) -> None:
        add(folder, "001_a", _A)
        add(tmp_path / "other", "001_b", _B)
        with (
            stopped(url, tmp_path / "other", "other", _B),
            connect(url, migrate=False, busy_timeout=0.05) as db,
            pytest.raises(LockTimeout),
        ):
            migrate(db, directory=folder, owner="app", lock_timeout=0.1)

    def test_one_who_waits_goes_on_after_the_other(
        self, url: str, folder: Path, tmp_path: Path
    ) -> None:
        add(folder, "001_a", _A)
        add(tmp_path / "other", "001_b", _B)
        with connect(url, migrate=False) as db, ThreadPoolExecutor(1) as threads:
            with stopped(url, tmp_path / "other", "other", _B):
                waiting = threads.submit(migrate, db, directory=folder, owner="app")
            assert waiting.result(BOUND) == ["app/001_a"]
            assert recorded(db) == ["app/001_a", "other/001_b"]

    def test_it_is_given_back(self, url: str, db: Backend, folder: Path, tmp_path: Path) -> None:
        add(folder, "001_a", _A)
        add(tmp_path / "other", "001_b", _B)
        with connect(url, migrate=False) as other:
            migrate(db, directory=folder, owner="app")
            applied = in_thread(
                lambda: migrate(other, directory=tmp_path / "other", owner="other", lock_timeout=0)
            )
        assert applied == ["other/001_b"]
