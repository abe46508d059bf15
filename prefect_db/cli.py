"""The command line: `prefect-db`, or `python -m prefect_db`. Each command is a few lines over a
function of the library."""

from __future__ import annotations

import argparse
import io
import json
import logging
import os
import re
import shutil
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NoReturn, Protocol

from prefect_db import __version__, blocks, config, diagnostics, events, flow_runs, logs
from prefect_db.backend import Backend
from prefect_db.connect import connect
from prefect_db.dialect import SQLITE
from prefect_db.drivers.base import Options
from prefect_db.errors import ConfigurationError, Error
from prefect_db.migrate import MigrationState, load, migrate, prefect_revision, status
from prefect_db.states import StateType

# The worst first: the exit code of `status` is the first one's that is found.
_STATUS_CODES: Final[dict[MigrationState, int]] = {
    "dirty": 7,
    "ahead": 6,
    "missing": 5,
    "drift": 4,
    "late": 4,
    "pending": 3,
}
_INTERRUPTED: Final = 128 + signal.SIGINT
_UNITS: Final = {"w": "weeks", "d": "days", "h": "hours", "m": "minutes", "s": "seconds"}
_DURATION: Final = re.compile(f"([0-9]+)([{''.join(_UNITS)}])")

_URL_HELP: Final = (
    "sqlite:///relative/path, sqlite:////absolute/path or postgresql://user@host:5432/database;"
    " without it PREFECT_DATABASE_BACKEND, PREFECT_DATABASE_PATH and PREFECT_DATABASE_URL decide."
    " Other users of the machine can see a password that is given here, but not the environment"
)
_CODES: Final = "exit codes: 0 done, 1 failed (the reason is on stderr), 2 wrong usage, 130 Ctrl-C"
_STATUS_HELP: Final = """\
Compare the migrations with what was applied; read only.

exit codes:
  0  all are applied, or Prefect manages the database and it has all that is needed
  1  failed: no such database, or Prefect manages it and it lacks something
  2  wrong usage
  3  some are pending: run `prefect-db migrate`
  4  drift: an applied one was edited, or one comes too late
  5  missing: an applied one is no longer there
  6  ahead: a newer release has migrated the database
  7  dirty: one began outside a transaction and did not end
Of several the highest is given."""
_TRIM_HELP: Final = """\
Delete what is old: events by when they occurred, logs by their time, and top-level flow runs by
when they ended, with their states, task runs, results and logs. Subflow runs of deleted runs go,
too, if they ended before that time. Runs that have not ended stay.

It is done in short transactions, so that servers can go on; Ctrl-C ends it at any time, and what
was deleted by then stays deleted. The space is used for new rows: PostgreSQL's autovacuum sees to
that, and SQLite's file keeps its size unless --vacuum makes it smaller."""
_ROTATE_HELP: Final = """\
Encrypt all block documents with a new key, while they are in use.

With the key in the database, a new one is made. With the key in PREFECT_SERVER_ENCRYPTION_KEY,
what is encrypted with one of PREFECT_DB_ENCRYPTION_KEY_FALLBACKS is encrypted with that key: give
all processes the new key as a fallback first, and then make it the key. Stop Prefect's own servers
before, and start them after it. Ctrl-C ends it at any time: run it again to go on."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


class _Command(Protocol):
    def __call__(self, arguments: argparse.Namespace) -> int: ...


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; its exit code. Errors are one line on stderr."""
    # The error says it all; psycopg's pool would log its attempts to stderr besides.
    logging.getLogger().addHandler(logging.NullHandler())
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    parsed = _parser().parse_args(arguments)
    command: _Command = parsed.command
    try:
        code = command(parsed)
        if sys.stdout is not None:
            sys.stdout.flush()
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        return _complain("interrupted", _INTERRUPTED)
    except BrokenPipeError:
        # Whoever read it, has read enough.
        _drop_output()
        return 128 + signal.SIGPIPE
    except Error as error:
        return _complain(str(error), 1)
    except OSError as error:
        _drop_output()
        return _complain(error.strerror or str(error), 1)
    return code


def _drop_output() -> None:
    """Let what is still buffered go nowhere: Python would complain when it flushes at exit."""
    if sys.stdout is not None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _complain(message: str, code: int) -> int:
    print(f"prefect-db: {' '.join(message.split())}", file=sys.stderr)
    return code


def _parser() -> _Parser:
    parser = _Parser(
        prog="prefect-db",
        description="Look after the database of a Prefect-compatible server.",
        epilog=_CODES,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"prefect-db {__version__}")
    parser.add_argument("--url", help=_URL_HELP)
    commands = parser.add_subparsers(metavar="command", required=True)

    def add(name: str, command: _Command, summary: str, description: str = "") -> _Parser:
        added = commands.add_parser(
            name,
            help=summary,
            description=description or f"{summary[0].upper()}{summary[1:]}.",
            epilog="" if "exit codes" in description else _CODES,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        added.add_argument("--url", default=argparse.SUPPRESS, help=_URL_HELP)
        added.set_defaults(command=command)
        return added

    added = add("migrate", _migrate, "bring the schema up to date")
    added.add_argument("--dry-run", action="store_true", help="only list what would be applied")
    add("status", _status, "compare the migrations with what was applied", _STATUS_HELP)
    add("check", _check, "look whether the database is reachable, complete and sound")
    added = add("stats", _stats, "count and measure what is in the database")
    added.add_argument("--json", action="store_true", help="for machines")
    added = add("trim", _trim, "delete old events, logs and finished runs", _TRIM_HELP)
    added.add_argument(
        "--older-than",
        type=_age,
        required=True,
        metavar="AGE",
        help="a number with its unit: 2w, 7d, 12h, 30m or 45s",
    )
    added.add_argument("--only", choices=_TRIMS, help="only these")
    added.add_argument("--dry-run", action="store_true", help="only count what would be deleted")
    added.add_argument(
        "--vacuum",
        action="store_true",
        help="SQLite: make the file smaller afterwards. Writers wait for it, and it takes as much"
        " space again while it runs",
    )
    added = add("rotate-key", _rotate_key, "encrypt all block documents anew", _ROTATE_HELP)
    added.add_argument("--batch", type=int, default=100, help="documents per transaction: 100")
    return parser


def _age(text: str) -> datetime:
    """The time that was so long ago."""
    parts = _DURATION.fullmatch(text)
    if parts is None or int(parts[1]) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no age; write 2w, 7d, 12h, 30m or 45s")
    try:
        return datetime.now(UTC) - timedelta(**{_UNITS[parts[2]]: int(parts[1])})
    except (OverflowError, ValueError):
        raise argparse.ArgumentTypeError(f"{text!r} is before the year 1") from None


@contextmanager
def _opened(arguments: argparse.Namespace) -> Iterator[Backend]:
    """The database, which must be there: only `migrate` makes a SQLite file."""
    if _is_absent(arguments):
        masked = config.load(arguments.url, Options()).masked
        raise ConfigurationError(f"{masked}: there is no such file; `prefect-db migrate` makes it")
    with connect(arguments.url, migrate=False, pool_size=1, application_name="prefect-db") as db:
        yield db


def _is_absent(arguments: argparse.Namespace) -> bool:
    settings = config.load(arguments.url, Options())
    if settings.scheme != "sqlite" or settings.path == ":memory:":
        return False
    try:
        os.stat(settings.path)
    except FileNotFoundError:
        return True
    except (OSError, ValueError):
        pass  # the driver says it better
    return False


def _migrate(arguments: argparse.Namespace) -> int:
    if arguments.dry_run and _is_absent(arguments):
        names = [migration.id for migration in load(SQLITE)]
        revision = None
    else:
        with connect(arguments.url, migrate=False, pool_size=1) as db:
            revision = prefect_revision(db)
            names = migrate(db, dry_run=arguments.dry_run)
    for name in names:
        print(f"{name} {'would be' if arguments.dry_run else 'was'} applied")
    if revision is not None:
        print(f"Prefect manages this database (revision {revision}): nothing to do")
    elif not names:
        print("up to date: nothing to do")
    return 0


def _status(arguments: argparse.Namespace) -> int:
    with _opened(arguments) as db:
        revision = prefect_revision(db)
        statuses = status(db)
    if revision is not None:
        print(f"Prefect manages this database (revision {revision}); it has all that is needed")
        return 0
    for found in statuses:
        when = f"{found.applied_at:%Y-%m-%d %H:%M:%S} UTC" if found.applied_at else ""
        print(f"{found.id}  {found.state}  {found.detail or when}".rstrip())
    return max((_STATUS_CODES.get(found.state, 0) for found in statuses), default=0)


def _check(arguments: argparse.Namespace) -> int:
    try:
        with _opened(arguments) as db:
            checks = diagnostics.check(db)
    except Error as error:
        checks = [diagnostics.Check("connect", False, str(error))]
    for check in checks:
        line = f"{'ok' if check.ok else 'FAILED':6}  {check.name:12}  {check.detail}"
        print(" ".join(line.split("\n")).rstrip())
    return 0 if all(check.ok for check in checks) else 1


def _stats(arguments: argparse.Namespace) -> int:
    with _opened(arguments) as db:
        found = diagnostics.statistics(db)
    if arguments.json:
        print(json.dumps(asdict(found) | _for_machines(found), indent=2))
        return 0
    width = max([len(table.name) for table in found.tables], default=0)
    print(f"{'table':{width}}  {'rows':>15}  {'size':>10}")
    for table in found.tables:
        rows = "?" if table.rows is None else f"{'' if table.exact else '~'}{table.rows:,}"
        print(f"{table.name:{width}}  {rows:>15}  {_bytes(table.size):>10}")
    print(f"{'all':{width}}  {'':15}  {_bytes(found.size):>10}")
    if not all(table.exact for table in found.tables):
        print("~: an estimate, since counting takes too long")
    print(f"oldest event: {found.oldest_event or 'none'}")
    print(f"flow runs: {_states(found.flow_runs)}")
    print(f"task runs: {_states(found.task_runs)}")
    return 0


def _for_machines(found: diagnostics.Statistics) -> dict[str, Any]:
    return {
        "oldest_event": found.oldest_event and found.oldest_event.isoformat(),
        "flow_runs": _by_name(found.flow_runs),
        "task_runs": _by_name(found.task_runs),
    }


def _by_name(counts: dict[StateType | None, int] | None) -> dict[str, int] | None:
    if counts is None:
        return None
    named = {str(type or "NONE"): count for type, count in counts.items()}
    return dict(sorted(named.items()))


def _states(counts: dict[StateType | None, int] | None) -> str:
    named = _by_name(counts)
    if named is None:
        return "not counted, since it takes too long"
    return ", ".join(f"{count:,} {name}" for name, count in named.items()) or "none"


def _bytes(size: int | None) -> str:
    if size is None:
        return "?"
    amount = float(size)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024:
            return f"{amount:.1f} {unit}" if unit != "B" else f"{size} B"
        amount /= 1024
    return f"{amount:.1f} TiB"


class _Trim(Protocol):
    def __call__(
        self, db: Backend, before: datetime, *, progress: Any = ..., dry_run: bool = ...
    ) -> int: ...


_TRIMS: Final[dict[str, _Trim]] = {
    "events": events.trim,
    "logs": logs.trim,
    "runs": flow_runs.trim,
}


def _trim(arguments: argparse.Namespace) -> int:
    before: datetime = arguments.older_than
    with _opened(arguments) as db:
        sqlite = db.dialect.name == "sqlite"
        if arguments.vacuum and not sqlite:
            raise ConfigurationError("--vacuum is for SQLite; PostgreSQL's autovacuum does it")
        for name in [arguments.only] if arguments.only else _TRIMS:
            if arguments.dry_run:
                print(f"{name}: {_TRIMS[name](db, before, dry_run=True):,} would be deleted")
                continue
            with _Progress(name, db, before) as progress:
                deleted = _TRIMS[name](db, before, progress=progress)
            print(f"{name}: {deleted:,} deleted", flush=True)
        if sqlite and not arguments.dry_run:
            _free_space(db, vacuum=arguments.vacuum)
    return 0


def _free_space(db: Backend, *, vacuum: bool) -> None:
    free = diagnostics.free_size(db)
    if vacuum:
        before = diagnostics.total_size(db)
        db.execute("VACUUM")
        # Until then the new file is in the write-ahead log.
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        print(f"vacuum: {_bytes(before)} became {_bytes(diagnostics.total_size(db))}")
    elif free:
        print(f"space: {_bytes(free)} are free in the file, for new rows; --vacuum gives them back")


def _rotate_key(arguments: argparse.Namespace) -> int:
    with _opened(arguments) as db:
        print(f"{blocks.rotate_key(db, batch=arguments.batch):,} block documents encrypted anew")
    return 0


class _Progress:
    """A line on stderr that shows how far it is, if that is a terminal."""

    def __init__(self, name: str, db: Backend, before: datetime) -> None:
        self._name = name
        self._shown = (
            sys.stderr is not None and sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
        )
        self._total = _TRIMS[name](db, before, dry_run=True) if self._shown else 0

    def __enter__(self) -> _Progress:
        return self

    def __call__(self, done: int) -> None:
        if self._shown:
            share = min(done / self._total, 1.0) if self._total else 1.0
            text = f" {done:,} of {self._total:,} {self._name}"
            width = min(shutil.get_terminal_size().columns - len(text) - 3, 40)
            bar = f"[{'#' * int(share * width):{width}}]" if width > 0 else ""
            print(f"\r{bar}{text}", end="", file=sys.stderr, flush=True)

    def __exit__(self, *error: object) -> None:
        if self._shown:
            width = shutil.get_terminal_size().columns - 1
            print(f"\r{' ' * width}\r", end="", file=sys.stderr, flush=True)
