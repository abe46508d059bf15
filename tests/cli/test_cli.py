"""The command line, as its users meet it: in a process of its own."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

import psycopg
import pytest

from prefect_db import Backend, __version__, blocks, connect, events, flow_runs, flows, logs, states
from prefect_db.events import Event
from tests.faults import BOUND, until
from tests.migrations.catalogue import catalogue

ROOT: Final = Path(__file__).parents[2]
NOW: Final = datetime.now(UTC)
COMMANDS: Final = ("migrate", "status", "check", "stats", "trim", "rotate-key")
CALLS: Final = {
    "migrate": ("migrate", "--dry-run"),
    "status": ("status",),
    "check": ("check",),
    "stats": ("stats",),
    "trim": ("trim", "--older-than", "7d"),
    "rotate-key": ("rotate-key",),
}

# Run as somebody whom a file's mode stops, with the file's folder as the working directory.
# Python 3.13 loads `locale` late, which may be out of reach by then.
_UNPRIVILEGED: Final = """
import locale, os, sys
from prefect_db import connect
from prefect_db.cli import main
connect(":memory:").close()
os.chdir(sys.argv[1])
if os.getuid() == 0:
    os.setuid(65534)
sys.exit(main(sys.argv[2:]))
"""


def start(*arguments: str, env: dict[str, str] | None = None, **options: Any) -> Any:
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "prefect_db", *arguments],
        cwd=ROOT,
        env=os.environ | {"TERM": "xterm", "COLUMNS": "80"} | (env or {}),
        text=True,
        **pipes | options,
    )


def end(process: Any) -> tuple[int, str, str]:
    """Its exit code, what it wrote to stdout, and to stderr."""
    try:
        output, errors = process.communicate(timeout=2 * BOUND)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise
    return process.returncode, output, errors


def run(*arguments: str, env: dict[str, str] | None = None) -> tuple[int, str, str]:
    return end(start(*arguments, env=env))


def succeeds(*arguments: str) -> str:
    code, output, errors = run(*arguments)
    assert (code, errors) == (0, "")
    return output


def fails(*arguments: str, code: int = 1) -> str:
    """The one line on stderr."""
    ended, output, errors = run(*arguments)
    assert (ended, output) == (code, ""), errors
    assert errors.startswith("prefect-db")
    assert errors.endswith("\n")
    assert errors.count("\n") == 1
    return errors


@pytest.fixture
def migrated(url: str) -> str:
    """The URL of a migrated database."""
    connect(url).close()
    return url


@pytest.fixture
def opened(migrated: str) -> Iterator[Backend]:
    with connect(migrated) as db:
        yield db


@pytest.fixture
def prefect(backend_name: str, url: str) -> str:
    """The URL of a database that Prefect manages."""
    schema = (files("prefect_db") / "schema" / f"{backend_name}.sql").read_text(encoding="utf-8")
    script = (
        f"BEGIN; {schema}\n; CREATE TABLE alembic_version (version_num VARCHAR(32));"
        " INSERT INTO alembic_version VALUES ('a3b9c7d2e5f1'); COMMIT"
    )
    if backend_name == "sqlite":
        with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as native:
            native.executescript(script)
    else:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(script.encode())
    return url


def event(age: timedelta, name: str = "x") -> Event:
    return events.make(
        occurred=NOW - age, event=name, resource={"prefect.resource.id": "r"}, payload={}
    )


def fill(db: Backend, count: int = 3) -> None:
    """So many events, log lines and finished runs of ten days ago, and one of each of today."""
    flow = flows.create(db, "etl")
    for age, repeated in ((timedelta(days=10), count), (timedelta(), 1)):
        time = NOW - age
        events.write(db, [event(age) for _ in range(repeated)])
        logs.write(db, [logs.make("run", 20, "text", time) for _ in range(repeated)])
        for _ in range(repeated):
            state = replace(states.completed(), timestamp=time)
            flow_runs.create(db, flow.id, state=state)


def left(db: Backend) -> tuple[int, int, int]:
    return (
        db.value("SELECT count(*) FROM events"),
        logs.count(db),
        flow_runs.count(db),
    )


class TestUsage:
    @pytest.mark.parametrize("command", COMMANDS)
    def test_each_command_has_help(self, command: str) -> None:
        output = succeeds(command, "--help")
        assert output.startswith(f"usage: prefect-db {command} ")
        assert "exit codes:" in output

    def test_the_program_has_help_that_lists_the_commands(self) -> None:
        output = succeeds("--help")
        assert [command for command in COMMANDS if f"\n    {command}" not in output] == []

    def test_the_version(self) -> None:
        assert succeeds("--version") == f"prefect-db {__version__}\n"

    @pytest.mark.parametrize(
        "arguments",
        [
            (),
            ("statistics",),
            ("--url", "-h"),
            ("status", "--url", "-h"),
            ("status", "--url"),
            ("status", "--bogus"),
            ("status", "extra"),
            ("stats", "--js"),
            ("trim",),
            ("trim", "--older-than"),
            ("trim", "--older-than", "7d", "--only", "flows"),
        ],
    )
    def test_wrong_usage_is_one_line(self, arguments: tuple[str, ...]) -> None:
        assert "--help" in fails(*arguments, code=2)

    @pytest.mark.parametrize(
        "age", ["", "7", "d", "-7d", "7 d", "7days", "0d", "1.5d", "٧d", "9" * 30 + "d", "999999d"]
    )
    def test_an_age_is_a_number_and_a_unit(self, age: str) -> None:
        assert "--older-than" in fails("trim", f"--older-than={age}", code=2)

    def test_the_url_stands_before_or_after_the_command(self, migrated: str) -> None:
        assert run("--url", migrated, "status") == run("status", "--url", migrated)

    def test_without_a_url_the_environment_decides(self, migrated: str) -> None:
        assert run("status", env={"PREFECT_DATABASE_URL": migrated})[0] == 0

    def test_a_wrong_environment_is_named(self) -> None:
        code, output, errors = run("stats", env={"PREFECT_DATABASE_BACKEND": "mysql"})
        assert (code, output, errors.count("\n")) == (1, "", 1)
        assert "PREFECT_DATABASE_BACKEND" in errors


class TestUnusableDatabases:
    @pytest.mark.parametrize("command", set(CALLS) - {"check"})
    @pytest.mark.parametrize("url", ["", "prefect.db", "mysql://u:hunter2@host/db", "sqlite://x"])
    def test_a_wrong_url(self, command: str, url: str) -> None:
        assert "hunter2" not in fails(*CALLS[command], "--url", url)

    @pytest.mark.parametrize("command", set(CALLS) - {"check"})
    def test_an_unreachable_server(self, command: str) -> None:
        url = "postgresql://u:hunter2@127.0.0.1:1/db"
        error = fails(*CALLS[command], "--url", url)
        assert "u:***@127.0.0.1:1" in error
        assert "hunter2" not in error

    def test_check_says_that_it_cannot_connect(self) -> None:
        code, output, errors = run("check", "--url", "postgresql://u:hunter2@127.0.0.1:1/db")
        assert (code, errors, output.count("\n")) == (1, "", 1)
        assert output.startswith("FAILED  connect ")
        assert "hunter2" not in output

    @pytest.mark.parametrize("command", set(CALLS) - {"check", "migrate"})
    def test_a_file_that_is_not_there_is_not_made(self, command: str, tmp_path: Path) -> None:
        error = fails(*CALLS[command], "--url", f"sqlite:///{tmp_path}/none.db")
        assert "there is no such file" in error
        assert list(tmp_path.iterdir()) == []

    def test_check_makes_no_file_either(self, tmp_path: Path) -> None:
        assert run("check", "--url", f"sqlite:///{tmp_path}/none.db")[0] == 1
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("command", [*CALLS, "real migrate"])
    def test_a_file_that_is_no_database(self, command: str, tmp_path: Path) -> None:
        path = tmp_path / "text.db"
        path.write_text("no database " * 100)
        arguments = CALLS.get(command, ("migrate",))
        code, output, errors = run(*arguments, "--url", f"sqlite:///{path}")
        assert (code, (output + errors).count("\n")) == (1, 1)
        assert "not a database" in output + errors
        assert path.read_text() == "no database " * 100

    @pytest.mark.parametrize("command", CALLS)
    def test_a_file_that_cannot_be_written(
        self, command: str, sqlite_template: Path, tmp_path: Path
    ) -> None:
        path = tmp_path / "locked.db"
        path.write_bytes(sqlite_template.read_bytes())
        path.chmod(0o444)
        tmp_path.chmod(0o755)
        done = subprocess.run(
            [sys.executable, "-c", _UNPRIVILEGED, str(tmp_path), *CALLS[command]],
            env=os.environ | {"PREFECT_DATABASE_PATH": "locked.db"},
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=BOUND,
            check=False,
        )
        assert (done.returncode, (done.stdout + done.stderr).count("\n")) == (1, 1)
        assert "Permission denied" in done.stdout + done.stderr

    @pytest.mark.parametrize("command", ["stats", "trim", "rotate-key"])
    def test_a_database_without_tables(self, command: str, url: str) -> None:
        connect(url, migrate=False).close()
        assert "migrate it" in fails(*CALLS[command], "--url", url)


class TestMigrate:
    def test_it_tells_what_it_applied(self, url: str) -> None:
        assert succeeds("migrate", "--url", url) == "001_initial was applied\n"
        assert succeeds("migrate", "--url", url) == "up to date: nothing to do\n"
        with connect(url, migrate=False) as db:
            assert flows.find(db) == []

    def test_a_dry_run_writes_nothing(self, url: str) -> None:
        connect(url, migrate=False).close()
        assert succeeds("migrate", "--dry-run", "--url", url) == "001_initial would be applied\n"
        with connect(url, migrate=False) as db:
            assert catalogue(db) == {}

    def test_a_dry_run_makes_no_file(self, tmp_path: Path) -> None:
        url = f"sqlite:///{tmp_path}/none.db"
        assert succeeds("migrate", "--dry-run", "--url", url) == "001_initial would be applied\n"
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("more", [(), ("--dry-run",)])
    def test_prefect_manages_it(self, prefect: str, more: tuple[str, ...]) -> None:
        assert "Prefect manages" in succeeds("migrate", *more, "--url", prefect)
        with connect(prefect, migrate=False) as db:
            assert "_migrations" not in catalogue(db)

    @pytest.mark.parametrize("more", [(), ("--dry-run",)])
    def test_what_is_wrong_is_one_line(self, opened: Backend, url: str, more: Any) -> None:
        opened.execute("UPDATE _migrations SET checksum = 'other'")
        assert "is not what was applied" in fails("migrate", *more, "--url", url)


class TestStatus:
    def test_all_are_applied(self, migrated: str) -> None:
        output = succeeds("status", "--url", migrated)
        assert re.fullmatch(r"001_initial  applied  \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC\n", output)

    def test_pending_is_3_and_nothing_is_made(self, url: str) -> None:
        connect(url, migrate=False).close()
        assert run("status", "--url", url) == (3, "001_initial  pending\n", "")
        with connect(url, migrate=False) as db:
            assert catalogue(db) == {}

    @pytest.mark.parametrize(
        ("change", "state", "code"),
        [
            ("UPDATE _migrations SET checksum = 'other'", "drift", 4),
            ("UPDATE _migrations SET id = '000_before'", "missing", 5),
            ("UPDATE _migrations SET id = '999_later'", "ahead", 6),
            ("UPDATE _migrations SET applied_at = NULL", "dirty", 7),
        ],
    )
    def test_what_is_wrong_has_its_code(
        self, opened: Backend, url: str, change: str, state: str, code: int
    ) -> None:
        opened.execute(change)
        ended, output, errors = run("status", "--url", url)
        assert (ended, errors) == (code, "")
        assert f"  {state}  " in output

    def test_prefect_manages_it(self, prefect: str) -> None:
        output = succeeds("status", "--url", prefect)
        assert "Prefect manages this database (revision a3b9c7d2e5f1)" in output

    def test_prefect_manages_it_and_it_lacks_something(self, prefect: str) -> None:
        with connect(prefect) as db:
            db.execute("ALTER TABLE flow DROP COLUMN labels")
        assert "lacks flow.labels" in fails("status", "--url", prefect)


class TestCheck:
    def test_all_is_well(self, migrated: str) -> None:
        lines = succeeds("check", "--url", migrated).splitlines()
        names = ["connect", "schema", "integrity", "foreign keys", "versions", "pool"]
        assert [line[8:20].rstrip() for line in lines] == names
        assert {line[:8] for line in lines} == {"ok      "}

    def test_a_failure_is_told_and_the_others_go_on(self, url: str) -> None:
        connect(url, migrate=False).close()
        code, output, errors = run("check", "--url", url)
        assert (code, errors, output.count("\n")) == (1, "", 6)
        assert re.findall("^FAILED +(.*)$", output, re.MULTILINE) == [
            "schema        001_initial is pending"
        ]

    def test_prefect_manages_it(self, prefect: str) -> None:
        assert "revision a3b9c7d2e5f1" in succeeds("check", "--url", prefect)


class TestStats:
    def test_for_people(self, opened: Backend, url: str) -> None:
        fill(opened)
        output = succeeds("stats", "--url", url)
        assert re.search(r"^events +4 ", output, re.MULTILINE)
        assert f"oldest event: {NOW - timedelta(days=10)}" in output
        assert "flow runs: 4 COMPLETED\n" in output
        assert "task runs: none\n" in output

    def test_for_machines(self, opened: Backend, url: str) -> None:
        fill(opened)
        found = json.loads(succeeds("stats", "--json", "--url", url))
        tables = {table["name"]: table for table in found["tables"]}
        assert (tables["log"]["rows"], tables["log"]["exact"]) == (4, True)
        assert found["flow_runs"] == {"COMPLETED": 4}
        assert datetime.fromisoformat(found["oldest_event"]) == NOW - timedelta(days=10)
        assert found["size"] > 0

    def test_an_empty_database(self, migrated: str) -> None:
        found = json.loads(succeeds("stats", "--json", "--url", migrated))
        assert (found["oldest_event"], found["flow_runs"], found["task_runs"]) == (None, {}, {})

    def test_prefect_manages_it(self, prefect: str) -> None:
        assert "alembic_version" in succeeds("stats", "--url", prefect)

    def test_whoever_reads_may_stop(self, migrated: str) -> None:
        reader, writer = os.pipe()
        os.close(reader)
        try:
            process = start("stats", "--url", migrated, stdout=writer)
        finally:
            os.close(writer)
        code, _, errors = end(process)
        assert (code, errors) == (128 + signal.SIGPIPE, "")

    @pytest.mark.parametrize("unbuffered", ["", "1"])
    def test_a_full_disk_is_one_line(self, migrated: str, unbuffered: str) -> None:
        with open("/dev/full", "w") as full:
            process = start(
                "stats", "--url", migrated, stdout=full, env={"PYTHONUNBUFFERED": unbuffered}
            )
            code, _, errors = end(process)
        assert (code, errors.count("\n")) == (1, 1)


class TestTrim:
    def test_what_is_old_is_deleted(self, opened: Backend, url: str) -> None:
        fill(opened)
        output = succeeds("trim", "--older-than", "7d", "--url", url)
        assert output.splitlines()[:3] == [
            "events: 3 deleted",
            "logs: 3 deleted",
            "runs: 3 deleted",
        ]
        assert left(opened) == (1, 1, 1)

    def test_a_dry_run_only_counts(self, opened: Backend, url: str) -> None:
        fill(opened)
        output = succeeds("trim", "--older-than", "1w", "--dry-run", "--url", url)
        assert output.splitlines() == [
            "events: 3 would be deleted",
            "logs: 3 would be deleted",
            "runs: 3 would be deleted",
        ]
        assert left(opened) == (4, 4, 4)

    @pytest.mark.parametrize(
        ("only", "stay"), [("events", (1, 4, 4)), ("logs", (4, 1, 4)), ("runs", (4, 4, 1))]
    )
    def test_only_one_kind(
        self, opened: Backend, url: str, only: str, stay: tuple[int, int, int]
    ) -> None:
        fill(opened)
        succeeds("trim", "--older-than", "7d", "--only", only, "--url", url)
        assert left(opened) == stay

    def test_what_is_younger_stays(self, opened: Backend, url: str) -> None:
        fill(opened)
        succeeds("trim", "--older-than", "11d", "--url", url)
        assert left(opened) == (4, 4, 4)

    def test_a_database_of_prefects_can_be_trimmed(self, prefect: str) -> None:
        with connect(prefect) as db:
            fill(db)
            succeeds("trim", "--older-than", "7d", "--url", prefect)
            assert left(db) == (1, 1, 1)

    @pytest.mark.only("sqlite", "PostgreSQL has autovacuum")
    def test_vacuum_makes_the_file_smaller(self, opened: Backend, url: str) -> None:
        fill(opened)
        opened.execute("UPDATE log SET message = ?", ("x" * 1_000_000,))
        output = succeeds("trim", "--older-than", "7d", "--url", url)
        assert re.search(r"^space: \d.\d MiB are free in the file", output, re.MULTILINE)
        path = Path(url.removeprefix("sqlite:///"))
        opened.close()
        before = path.stat().st_size
        assert "vacuum: " in succeeds("trim", "--older-than", "7d", "--vacuum", "--url", url)
        assert path.stat().st_size < before - 2_000_000

    @pytest.mark.only("postgres", "SQLite takes it")
    def test_vacuum_is_refused_before_anything_is_deleted(self, opened: Backend, url: str) -> None:
        fill(opened)
        assert "--vacuum" in fails("trim", "--older-than", "7d", "--vacuum", "--url", url)
        assert left(opened) == (4, 4, 4)

    def test_no_progress_where_there_is_no_terminal(self, opened: Backend, url: str) -> None:
        fill(opened)
        code, output, errors = run("trim", "--older-than", "7d", "--url", url)
        assert (code, errors) == (0, "")
        assert not re.search(r"[\r\x1b#]", output)

    @pytest.mark.parametrize(("term", "shown"), [("xterm", True), ("dumb", False)])
    def test_progress_on_a_terminal(
        self, opened: Backend, url: str, term: str, shown: bool
    ) -> None:
        fill(opened)
        code, output, seen = _on_terminal("trim", "--older-than", "7d", "--url", url, term=term)
        assert (code, output.splitlines()[0]) == (0, "events: 3 deleted")
        assert (re.search(r"\r\[#+\] 3 of 3 events", seen) is not None) == shown
        assert (seen != "") == shown
        assert "\x1b" not in seen

    def test_ctrl_c_leaves_whole_batches(self, opened: Backend, url: str) -> None:
        events.write(opened, [event(timedelta(days=10, seconds=n)) for n in range(500)])
        events.write(opened, [event(timedelta(days=9), "slow") for _ in range(200)])
        _make_slow(opened)
        process = start("trim", "--older-than", "7d", "--url", url)
        try:
            until(lambda: left(opened)[0] < 700 or process.poll() is not None)
            process.send_signal(signal.SIGINT)
            assert end(process) == (130, "", "prefect-db: interrupted\n")
        finally:
            process.kill()
            process.wait()
        # How many a batch has depends on how long the one before it took.
        remaining = left(opened)[0]
        assert 200 <= remaining < 700
        assert opened.value("SELECT count(DISTINCT event_id) FROM event_resources") == remaining
        assert opened.value("SELECT count(*) FROM event_resources") == remaining


class TestRotateKey:
    def test_documents_are_encrypted_anew(self, opened: Backend, url: str) -> None:
        block_type = blocks.create_type(opened, "Secret", "secret")
        schema = blocks.create_schema(opened, {"title": "Secret"}, block_type_id=block_type.id)
        document = blocks.create_document(
            opened, "mine", {"value": "hunter2"}, schema.id, block_type.id
        )
        stored = opened.value("SELECT data FROM block_document")
        output = succeeds("rotate-key", "--url", url)
        assert output == "1 block documents encrypted anew\n"
        assert opened.value("SELECT data FROM block_document") != stored
        found = blocks.get_document(opened, document.id, include_secrets=True)
        assert found is not None
        assert found.data == {"value": "hunter2"}

    def test_without_documents(self, migrated: str) -> None:
        assert succeeds("rotate-key", "--url", migrated) == "0 block documents encrypted anew\n"

    @pytest.mark.parametrize("batch", ["0", "-1", "99999999"])
    def test_a_batch_has_bounds(self, migrated: str, batch: str) -> None:
        assert "batch" in fails("rotate-key", "--batch", batch, "--url", migrated)


def _make_slow(db: Backend) -> None:
    """Let it take very long to delete an event named `slow`."""
    if db.dialect.name == "sqlite":
        db.execute(
            "CREATE TRIGGER linger AFTER DELETE ON events WHEN old.event = 'slow' BEGIN"
            " SELECT count(*) FROM json_each('[1]') AS a, (WITH RECURSIVE n (i) AS"
            " (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000000000) SELECT i FROM n); END"
        )
    else:
        db.execute(
            "CREATE FUNCTION linger() RETURNS trigger LANGUAGE plpgsql AS"
            " 'BEGIN PERFORM pg_sleep(600); RETURN NULL; END'"
        )
        db.execute(
            "CREATE TRIGGER linger AFTER DELETE ON events FOR EACH ROW WHEN (old.event = 'slow')"
            " EXECUTE FUNCTION linger()"
        )


def _on_terminal(*arguments: str, term: str) -> tuple[int, str, str]:
    """Exit code, stdout, and what a terminal shows that is its stderr."""
    master, slave = pty.openpty()
    with closing(os.fdopen(master, "rb", buffering=0)) as screen:
        try:
            process = start(*arguments, stderr=slave, env={"TERM": term})
        finally:
            os.close(slave)
        code, output, _ = end(process)
        seen = b""
        # Linux ends it with an error when nobody has the other side open.
        try:
            while part := screen.read(4096):
                seen += part
        except OSError:
            pass
    return code, output, seen.decode()
