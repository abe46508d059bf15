"""Migrations: load the files, plan what is pending, apply it. Forward only."""

from __future__ import annotations

import hashlib
import re
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal

from prefect_db.backend import Backend
from prefect_db.dialect import Dialect
from prefect_db.drivers.base import Connection
from prefect_db.errors import (
    Ahead,
    Busy,
    Dirty,
    Drift,
    Duplicate,
    Error,
    Failed,
    ForeignKeyViolation,
    LockTimeout,
    MigrationError,
    Missing,
    ProgrammingError,
    SchemaError,
    Unavailable,
)
from prefect_db.queryable import Queryable
from prefect_db.tokens import Statement
from prefect_db.values import read_datetime

# Not importlib.resources, which takes as long to import as half of the library.
_HERE: Final = Path(__file__).parent
_NAME: Final = re.compile(r"(\d{3,})_[a-z0-9_]+")
_OWNER: Final = re.compile(r"[a-z][a-z0-9_-]*")
_ENDING: Final = re.compile(r"(begin|start|commit|end|rollback|abort)\b", re.IGNORECASE)
_OUTSIDE: Final = re.compile(r"\A\s*--\s*no-transaction\s*$", re.MULTILINE)

# Any number, but always the same: it is the name of the advisory lock.
_LOCK_KEY: Final = 7_305_229_113
_POLL: Final = 0.05
# Seconds that a statement of a migration waits for a table that others use, and that everyone who
# came after it has waited as well: so they get as long before it is tried again.
_TABLE_WAIT: Final = 2.0

_CREATE_TABLE: Final = {
    "sqlite": "CREATE TABLE IF NOT EXISTS _migrations"
    " (id VARCHAR PRIMARY KEY NOT NULL, applied_at DATETIME, checksum VARCHAR NOT NULL)",
    "postgres": "CREATE TABLE IF NOT EXISTS _migrations"
    " (id varchar PRIMARY KEY, applied_at timestamptz, checksum varchar NOT NULL)",
}


@dataclass(slots=True)
class Migration:
    """One migration for one engine.

    Attributes:
        id: What `_migrations` records: `001_initial`, or `owner/001_initial` for a host's own.
        number: Its place in the order.
        file: `001_initial/sqlite.sql`, for messages.
        script: Its SQL, with LF line ends and no byte-order mark.
        checksum: SHA-256 of the script without trailing white space.
        transactional: False if it has the header `-- no-transaction`.
    """

    id: str
    number: int
    file: str
    script: str
    checksum: str
    transactional: bool


MigrationState = Literal["applied", "pending", "late", "dirty", "drift", "missing", "ahead"]

_REFUSALS: Final[dict[MigrationState, type[MigrationError]]] = {
    "ahead": Ahead,
    "dirty": Dirty,
    "drift": Drift,
    "late": MigrationError,
    "missing": Missing,
}


@dataclass(slots=True)
class MigrationStatus:
    """How a database stands to one migration.

    Attributes:
        id: As `_migrations` records it.
        state: `applied`; `pending`; or what `migrate` refuses: `dirty`, `drift`, `missing`,
            `ahead`, see the errors of these names, and `late`, pending though a newer one is not.
        applied_at: When it was applied, or None.
        detail: What is wrong, or "".
    """

    id: str
    state: MigrationState
    applied_at: datetime | None = None
    detail: str = ""


def migrate(
    db: Backend,
    *,
    directory: str | Path | None = None,
    owner: str | None = None,
    lock_timeout: float = 60.0,
    dry_run: bool = False,
) -> list[str]:
    """Apply what is pending, in order: the library's migrations, or a host's own beside them.

    A database that Prefect manages gets none of the library's: it is checked, and used as it is.

    Args:
        db: Where.
        directory: The host's folder of `NNN_name/sqlite.sql` and `NNN_name/postgres.sql`.
        owner: The host's name, with `directory`: lower-case letters, digits, `_` and `-`.
        lock_timeout: Seconds to wait for another process that migrates, and on PostgreSQL for
            tables that others use: a statement waits two seconds for one, is undone and tried
            again, so that it holds up nobody for longer. On SQLite at least busy_timeout.
        dry_run: Apply nothing, write nothing.

    Returns:
        The ids of the migrations that were applied; with `dry_run`, that would be.

    Raises:
        Failed: A statement failed. The database is as it was before that migration.
        Drift, Missing, Duplicate, Ahead, Dirty, LockTimeout: See there.
        MigrationError: The folder's names are wrong, or a migration comes too late.
        SchemaError: Prefect manages the database, and it lacks what our SQL needs.
    """
    migrations = load(db.dialect, directory=directory, owner=owner)
    applied: list[str] = []
    deadline = time.monotonic() + lock_timeout
    with db.borrowed() as connection:
        if owner is None and _has_table(connection, db.dialect, "alembic_version"):
            _check_prefect(connection, db.dialect)
            return applied
        if dry_run:
            return [migration.id for migration in _plan(connection, db.dialect, migrations, owner)]
        try:
            if not _plan(connection, db.dialect, migrations, owner):
                return applied
        except Dirty:
            pass  # or under way in another process: the lock will tell
        with _lock(connection, db.dialect, deadline):
            while (done := _apply_next(connection, db.dialect, migrations, owner, deadline)) != "":
                applied += [done] if done else []
    return applied


def status(
    db: Backend, *, directory: str | Path | None = None, owner: str | None = None
) -> list[MigrationStatus]:
    """How the database stands to each migration, in order; reads only.

    A database that Prefect manages has none of the library's: see `prefect_revision`.

    Args:
        db: Where.
        directory: As `migrate`.
        owner: As `migrate`.

    Raises:
        Duplicate, Missing, MigrationError: The folder is wrong; see `load`.
        SchemaError: Prefect manages the database, and it lacks what our SQL needs.
    """
    migrations = load(db.dialect, directory=directory, owner=owner)
    with db.borrowed() as connection:
        if owner is None and _has_table(connection, db.dialect, "alembic_version"):
            _check_prefect(connection, db.dialect)
            return []
        return _compare(connection, db.dialect, migrations, owner)


def prefect_revision(db: Queryable) -> str | None:
    """The revision of a database that Prefect manages, "none" if it has none yet; None for others.

    Only Prefect migrates such a database.
    """
    table = db.dialect.pick(
        sqlite="SELECT name FROM sqlite_master WHERE type = 'table' AND name = 'alembic_version'",
        postgres="SELECT CAST(to_regclass('alembic_version') AS text)",
    )
    if db.value(table) is None:
        return None
    rows = db.rows("SELECT version_num FROM alembic_version ORDER BY 1")
    return ", ".join(str(row[0]) for row in rows) or "none"


def load(
    dialect: Dialect, *, directory: str | Path | None = None, owner: str | None = None
) -> list[Migration]:
    """The migrations of a folder for one engine, in order; the library's own by default.

    Raises:
        Duplicate, Missing: Two have one number, or a number or a file is missing.
        MigrationError: A name is not `NNN_name`, or `owner` does not go with `directory`.
    """
    named = owner is not None and _OWNER.fullmatch(owner) is not None
    if (directory is None) != (owner is None) or (owner is not None and not named):
        raise MigrationError(
            f"directory={str(directory)!r}, owner={owner!r}: a host's migrations take both, and"
            " the owner is lower-case letters, digits, _ and -"
        )
    folder = _HERE / "migrations" if directory is None else Path(directory)
    if not folder.is_dir():
        raise MigrationError(f"{folder} is no folder")
    entries = [entry for entry in folder.iterdir() if entry.is_dir()]
    migrations = [
        _read(entry, dialect, f"{owner}/" if owner else "")
        for entry in entries
        if not entry.name.startswith((".", "__"))
    ]
    migrations.sort(key=lambda migration: (migration.number, migration.id))
    for at, migration in enumerate(migrations):
        if at and migration.number == migrations[at - 1].number:
            raise Duplicate(f"{migrations[at - 1].id} and {migration.id}")
        if migration.number != at + 1:
            raise Missing(f"{migration.id} is number {at + 1} in order")
    return migrations


def _read(entry: Path, dialect: Dialect, prefix: str) -> Migration:
    name = _NAME.fullmatch(entry.name)
    if name is None:
        raise MigrationError(f"{entry.name} is not named like 001_what_it_does")
    file = f"{entry.name}/{dialect.name}.sql"
    source = entry / f"{dialect.name}.sql"
    if not source.is_file():
        raise Missing(f"{file} (a comment is enough if there is nothing to do)")
    try:
        script = source.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise MigrationError(f"{file} is not encoded in UTF-8") from error
    normalised = "\n".join(line.rstrip() for line in script.split("\n")).rstrip()
    return Migration(
        id=prefix + entry.name,
        number=int(name[1]),
        file=file,
        script=script,
        checksum=hashlib.sha256(normalised.encode()).hexdigest(),
        transactional=_OUTSIDE.match(script) is None,
    )


def _execute(connection: Connection, sql: str, *, reads: bool = False) -> list[tuple[Any, ...]]:
    return connection.execute(Statement(sql, sql, 0, reads), ()).rows


def _has_table(connection: Connection, dialect: Dialect, name: str) -> bool:
    sql = dialect.pick(
        sqlite=f"SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = '{name}'",
        postgres=f"SELECT 1 WHERE to_regclass('{name}') IS NOT NULL",
    )
    return bool(_execute(connection, sql, reads=True))


def _plan(
    connection: Connection, dialect: Dialect, migrations: list[Migration], owner: str | None
) -> list[Migration]:
    """What is pending, after checking what was applied. Reads only."""
    states = {}
    for found in _compare(connection, dialect, migrations, owner):
        if found.state in _REFUSALS:
            raise _REFUSALS[found.state](found.detail)
        states[found.id] = found.state
    return [migration for migration in migrations if states[migration.id] == "pending"]


def _compare(
    connection: Connection, dialect: Dialect, migrations: list[Migration], owner: str | None
) -> list[MigrationStatus]:
    recorded: dict[str, tuple[datetime | None, str]] = {}
    if _has_table(connection, dialect, "_migrations"):
        for name, applied_at, checksum in _execute(
            connection, "SELECT id, applied_at, checksum FROM _migrations ORDER BY id", reads=True
        ):
            if ("/" in name) == bool(owner) and (not owner or name.startswith(f"{owner}/")):
                recorded[name] = (applied_at and read_datetime(applied_at), checksum)
    known = {migration.id: migration for migration in migrations}
    last = migrations[-1].number if migrations else 0
    newest = max(recorded, key=_number, default="")
    statuses = [
        _judge(name, applied_at, checksum, known.get(name), last)
        for name, (applied_at, checksum) in recorded.items()
    ]
    for migration in migrations:
        if migration.id not in recorded:
            late = newest != "" and migration.number < _number(newest)
            detail = f"{migration.id} comes too late: {newest} is applied; renumber it"
            statuses.append(
                MigrationStatus(migration.id, "late", detail=detail)
                if late
                else MigrationStatus(migration.id, "pending")
            )
    return sorted(statuses, key=lambda found: (_number(found.id), found.id))


def _judge(
    name: str, applied_at: datetime | None, checksum: str, migration: Migration | None, last: int
) -> MigrationStatus:
    if migration is None:
        state: MigrationState = "ahead" if _number(name) > last else "missing"
        detail = f"{name} was applied, and there is no file"
        return MigrationStatus(name, state, applied_at, detail)
    if applied_at is None:
        detail = (
            f"{migration.file} began and did not end; undo what it did, and then"
            f" DELETE FROM _migrations WHERE id = '{name}' to have it run again"
        )
        return MigrationStatus(name, "dirty", None, detail)
    if checksum != migration.checksum:
        return MigrationStatus(
            name, "drift", applied_at, f"{migration.file} is not what was applied"
        )
    return MigrationStatus(name, "applied", applied_at)


def _number(name: str) -> int:
    number = name.rpartition("/")[2].partition("_")[0]
    return int(number) if number.isdecimal() else 0


@contextmanager
def _lock(connection: Connection, dialect: Dialect, deadline: float) -> Iterator[None]:
    """One migrator at a time, on PostgreSQL; on SQLite each transaction takes the write lock.

    Polled: a session that blocks in pg_advisory_lock holds a snapshot, and CREATE INDEX
    CONCURRENTLY waits for that: a deadlock.
    """
    if dialect.name == "sqlite":
        yield
        return
    while not _execute(connection, f"SELECT pg_try_advisory_lock({_LOCK_KEY})")[0][0]:
        _wait(deadline, "another process has held the migration lock all the time")
    try:
        yield
    finally:
        # A lost connection has lost its locks.
        with suppress(Unavailable):
            _execute(connection, f"SELECT pg_advisory_unlock({_LOCK_KEY})")


def _wait(deadline: float, message: str) -> None:
    if time.monotonic() > deadline:
        raise LockTimeout(message)
    time.sleep(_POLL)


def _begin(connection: Connection, deadline: float) -> None:
    while True:
        try:
            connection.begin(read_only=False, isolation=None, timeout=None)
        except Busy:
            _wait(deadline, "another process has held the write lock all the time")
        else:
            return


def _apply_next(
    connection: Connection,
    dialect: Dialect,
    migrations: list[Migration],
    owner: str | None,
    deadline: float,
) -> str | None:
    """Apply the first one pending, planned anew under the lock: its id, or "" if there is none.

    None if another process is in the middle of one outside a transaction: look again.
    """
    with _foreign_keys_off(connection, dialect):
        _begin(connection, deadline)
        try:
            if dialect.name == "postgres":
                _execute(connection, f"SET LOCAL lock_timeout = {int(_TABLE_WAIT * 1000)}")
            _execute(connection, _CREATE_TABLE[dialect.name])
            try:
                pending = _plan(connection, dialect, migrations, owner)
            except Dirty:
                # On SQLite no lock spans such a migration: its process may be alive and well.
                if dialect.name == "postgres" or time.monotonic() > deadline:
                    raise
                pending = None
            if pending:
                migration = pending[0]
                if migration.transactional:
                    _run_script(connection, dialect, migration)
                    _check_foreign_keys(connection, dialect, migration)
                _record(connection, dialect, migration, done=migration.transactional)
            connection.commit()
        except Busy as busy:
            connection.rollback()
            if time.monotonic() + _TABLE_WAIT > deadline:
                raise _in_use(busy) from busy
            time.sleep(_TABLE_WAIT)
            return None
        except BaseException:
            connection.rollback()
            raise
    if pending is None:
        time.sleep(_POLL)
        return None
    if not pending:
        return ""
    if not migration.transactional:
        _run_script(connection, dialect, migration)
        _check_indexes(connection, dialect, migration)
        _record(connection, dialect, migration, done=True)
    return migration.id


def _record(connection: Connection, dialect: Dialect, migration: Migration, *, done: bool) -> None:
    insert = dialect.compile(
        "INSERT INTO _migrations (id, applied_at, checksum) VALUES (?, ?, ?)"
        " ON CONFLICT (id) DO UPDATE SET applied_at = excluded.applied_at"
    )
    now = datetime.now(UTC) if done else None
    connection.execute(insert, dialect.bind(insert, (migration.id, now, migration.checksum)))


def _run_script(connection: Connection, dialect: Dialect, migration: Migration) -> None:
    try:
        statements = dialect.split(migration.script)
    except ProgrammingError as error:
        raise _failed(migration, 0, error) from error
    for offset, sql in statements:
        try:
            if migration.transactional and _ENDING.match(sql):
                raise ProgrammingError("the transaction of a migration is the library's to end")
            _execute(connection, sql)
        except Unavailable:
            raise
        except Busy as error:
            if migration.transactional:
                raise
            raise _failed(migration, offset, error) from error
        except Error as error:
            raise _failed(migration, offset + max(error.position - 1, 0), error) from error


def _in_use(busy: Busy) -> LockTimeout:
    error = LockTimeout("others have used a table of this all the time", sql=busy.sql)
    error.hint = f"{busy.sql}: end the transactions that use it, or try when they are fewer"
    return error


def _failed(migration: Migration, offset: int, error: Error) -> Failed:
    before = migration.script[:offset]
    line = before.count("\n") + 1
    column = offset - (before.rfind("\n") + 1) + 1
    failed = Failed(
        f"{migration.file}:{line}:{column}: {error.message}", sql=error.sql, code=error.code
    )
    if not migration.transactional:
        failed.hint = "what it did outside a transaction stays; see Dirty for how to go on"
    failed.name, failed.line, failed.column = migration.file, line, column
    return failed


@contextmanager
def _foreign_keys_off(connection: Connection, dialect: Dialect) -> Iterator[None]:
    """On SQLite a table is altered by making it anew, which must not cascade. Outside the
    transaction: inside one the pragma does nothing."""
    if dialect.name == "sqlite":
        _execute(connection, "PRAGMA foreign_keys = OFF")
    try:
        yield
    finally:
        if dialect.name == "sqlite":
            _execute(connection, "PRAGMA foreign_keys = ON")


def _check_foreign_keys(connection: Connection, dialect: Dialect, migration: Migration) -> None:
    if dialect.name == "sqlite":
        try:
            broken = {str(row[0]) for row in _execute(connection, "PRAGMA foreign_key_check")}
        except Error as error:
            raise _failed(migration, 0, error) from error
        if broken:
            violation = ForeignKeyViolation(f"broken foreign keys in {', '.join(sorted(broken))}")
            raise _failed(migration, 0, violation)


def _check_indexes(connection: Connection, dialect: Dialect, migration: Migration) -> None:
    """On PostgreSQL, CREATE INDEX CONCURRENTLY leaves an invalid index when it fails, and with
    IF NOT EXISTS takes it for a good one the next time."""
    if dialect.name == "postgres":
        for (name,) in _execute(
            connection,
            "SELECT c.relname FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indexrelid"
            " WHERE NOT i.indisvalid AND pg_table_is_visible(c.oid)",
            reads=True,
        ):
            if found := re.search(rf"\b{re.escape(str(name))}\b", migration.script):
                message = f"the index {name} is invalid; DROP INDEX CONCURRENTLY {name}"
                raise _failed(migration, found.start(), SchemaError(message))


def _check_prefect(connection: Connection, dialect: Dialect) -> None:
    """Refuse a database of Prefect's that lacks what our SQL needs."""
    sql = dialect.pick(
        sqlite="SELECT m.name, c.name FROM sqlite_master AS m JOIN pragma_table_info(m.name) AS c"
        " WHERE m.type = 'table'",
        postgres="SELECT table_name, column_name FROM information_schema.columns"
        " WHERE table_schema = ANY(current_schemas(false))",
    )
    columns = _execute(connection, sql, reads=True)
    present = {(str(table), str(column)) for table, column in columns}
    missing = [f"{table}.{column}" for table, column in _needed() if (table, column) not in present]
    if missing:
        revisions = _execute(connection, "SELECT version_num FROM alembic_version", reads=True)
        revision = ", ".join(str(row[0]) for row in revisions) or "none"
        raise SchemaError(
            f"Prefect manages this database (revision {revision}) and it lacks"
            f" {', '.join(missing)}; upgrade it with `prefect server database upgrade`"
        )


# What Prefect does not have, and we can do without.
_OPTIONAL: Final = "flow_run_tag"


def _needed() -> list[tuple[str, str]]:
    """All tables and columns that we need, read from the schema itself. They are one on both
    engines.
    """
    schema = (_HERE / "schema" / "sqlite.sql").read_text(encoding="utf-8")
    scratch = sqlite3.connect(":memory:")
    try:
        scratch.executescript(schema)
        return scratch.execute(
            "SELECT m.name, c.name FROM sqlite_master AS m JOIN pragma_table_info(m.name) AS c"
            f" WHERE m.type = 'table' AND m.name <> '{_OPTIONAL}' ORDER BY m.name, c.cid"
        ).fetchall()
    finally:
        scratch.close()
