"""Databases that Prefect made, and a count of what was compared."""

from __future__ import annotations

import gzip
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from prefect_db import Backend, connect
from prefect_db.testing import create_database
from tests.peer.prefect_peer import Prefect

_COMPARED = pytest.StashKey[Counter[str]]()
# SQL, and then a COPY with its rows, or the end.
_PARTS = re.compile(
    r"(.*?)(?:^(COPY [^\n]* FROM stdin);\n(.*?)^\\\.$|\Z)", re.DOTALL | re.MULTILINE
)
_DATA = Path(__file__).parent / "data"


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_COMPARED] = Counter()


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    terminalreporter.section("compared with Prefect")
    for what, number in sorted(config.stash[_COMPARED].items()):
        terminalreporter.line(f"{what}: {number}")


@pytest.fixture
def compared(pytestconfig: pytest.Config) -> Counter[str]:
    """What was compared, by kind, as in `compared["sqlite filters"] += 1`; printed at the end."""
    return pytestconfig.stash[_COMPARED]


@pytest.fixture(scope="session")
def sqlite_managed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty database that Prefect's own migrations made."""
    path = tmp_path_factory.mktemp("managed") / "prefect.db"
    with Prefect(f"sqlite:///{path}") as prefect:
        prefect.upgrade()
    return path


@pytest.fixture(scope="session")
def postgres_managed(postgres_url: str) -> Iterator[str]:
    with create_database(postgres_url) as url:
        with Prefect(url) as prefect:
            prefect.upgrade()
        yield url


@pytest.fixture(scope="session")
def sqlite_real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database that a Prefect 3.8.8 server filled for a real client."""
    path = tmp_path_factory.mktemp("real") / "prefect.db"
    with gzip.open(_DATA / "prefect-3.8.8.sqlite3.gz") as packed, path.open("wb") as unpacked:
        shutil.copyfileobj(packed, unpacked)
    return path


@pytest.fixture(scope="session")
def postgres_real(postgres_url: str) -> Iterator[str]:
    with create_database(postgres_url) as url:
        _restore(
            gzip.decompress((_DATA / "prefect-3.8.8.postgres.sql.gz").read_bytes()).decode(), url
        )
        yield url


def _restore(dump: str, url: str) -> None:
    """Run the plain dump of a database, as psql would."""
    dump = re.sub(r"^\\(un)?restrict .*$", "", dump, flags=re.MULTILINE)
    with psycopg.connect(url, autocommit=True) as connection:
        for sql, copy, rows in _PARTS.findall(dump):
            if sql:
                connection.execute(sql.encode())
            if copy:
                with connection.cursor().copy(copy.encode()) as sink:
                    sink.write(rows)


@pytest.fixture
def managed_url(backend_name: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """An empty database of the test's own that Prefect manages."""
    yield from copy_of("managed", backend_name, request, tmp_path)


@pytest.fixture
def real_url(backend_name: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A copy of the database that a Prefect server filled."""
    yield from copy_of("real", backend_name, request, tmp_path)


def copy_of(
    kind: str, backend_name: str, request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[str]:
    original = request.getfixturevalue(f"{backend_name}_{kind}")
    if backend_name == "sqlite":
        shutil.copyfile(original, tmp_path / f"{kind}.db")
        yield f"sqlite:///{tmp_path}/{kind}.db"
    else:
        with create_database(request.getfixturevalue("postgres_url"), original) as url:
            yield url


@pytest.fixture
def prefect(managed_url: str) -> Iterator[Prefect]:
    """A real Prefect on an empty database."""
    with Prefect(managed_url) as prefect:
        yield prefect


@pytest.fixture
def managed(managed_url: str) -> Iterator[Backend]:
    """Our Backend on the same database as `prefect`."""
    with connect(managed_url) as db:
        yield db
        assert db.stats().in_use == 0
