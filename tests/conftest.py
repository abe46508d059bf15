"""Backends for tests: every test that takes `url` or `db` runs once on each."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from prefect_db import Backend, connect
from prefect_db.config import DEFAULTS
from prefect_db.testing import create_database, postgres_server
from tests.pgbouncer import pgbouncer

pytest_plugins = ["tests.faults.report"]

BACKENDS = ("sqlite", "postgres")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--backend",
        choices=(*BACKENDS, "all"),
        default="all",
        help="run the tests that take a database on this one only",
    )
    parser.addoption(
        "--pgbouncer",
        action="store_true",
        help="put PgBouncer, in transaction mode, between the tests and PostgreSQL",
    )
    parser.addoption(
        "--update-costs",
        action="store_true",
        help="let tests/contract/test_costs.py write the figures that it measures",
    )


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--pgbouncer"):
        DEFAULTS["pgbouncer"] = True
    config.addinivalue_line(
        "markers", "only(backend, reason): a test of what one backend alone has, and why"
    )
    config.addinivalue_line(
        "markers", "needs(present, what): a test of what not every machine has or allows; else left"
    )
    config.addinivalue_line(
        "markers", "direct(reason): a test that PgBouncer must not stand between, and why"
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "backend_name" in metafunc.fixturenames:
        mark = metafunc.definition.get_closest_marker("only")
        backends = BACKENDS if mark is None else (_only(mark),)
        metafunc.parametrize("backend_name", backends, indirect=True)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    chosen = config.getoption("--backend")
    through = config.getoption("--pgbouncer")
    kept: list[pytest.Item] = []
    left: list[pytest.Item] = []
    for item in items:
        backend = _backend_of(item)
        wanted = chosen == "all" or backend in (None, chosen)
        if through and item.get_closest_marker("direct"):
            wanted = False
        if (mark := item.get_closest_marker("needs")) and not _present(mark):
            wanted = False
        (kept if wanted else left).append(item)
        item.user_properties.append(("backend", backend))
    items[:] = kept
    if left:
        config.hook.pytest_deselected(items=left)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    ran: dict[str, Counter[str]] = {}
    for outcome in ("passed", "failed", "error"):
        for report in terminalreporter.getreports(outcome):
            backend = dict(getattr(report, "user_properties", ())).get("backend") or "no database"
            ran.setdefault(str(backend), Counter())[outcome] += 1
    terminalreporter.section("backends")
    for name in ("no database", *BACKENDS):
        counts = ", ".join(f"{n} {outcome}" for outcome, n in ran.get(name, Counter()).items())
        terminalreporter.line(f"{name}: {counts or 'nothing ran'}")


def _only(mark: pytest.Mark) -> str:
    if len(mark.args) != 2 or mark.kwargs or mark.args[0] not in BACKENDS:
        raise pytest.UsageError('write @pytest.mark.only("sqlite", "why"), or "postgres"')
    return str(mark.args[0])


def _present(mark: pytest.Mark) -> bool:
    if len(mark.args) != 2 or mark.kwargs:
        raise pytest.UsageError('write @pytest.mark.needs(sys.platform == "linux", "what")')
    return bool(mark.args[0])


def _backend_of(item: pytest.Item) -> str | None:
    mark = item.get_closest_marker("only")
    if mark is not None:
        return _only(mark)
    parameters = getattr(item, "callspec", None)
    return parameters.params.get("backend_name") if parameters else None


@pytest.fixture(scope="session", autouse=True)
def _clean_environment() -> Iterator[None]:
    """What libpq, or the library, would take from the environment would change the tests."""
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.startswith(("PG", "PREFECT_DATABASE_")) or "ENCRYPTION_KEY" in name:
                patch.delenv(name)
        yield


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """A server, by the URL of one of its databases: databases are made beside that one."""
    given = os.environ.get("PREFECT_TEST_DATABASE_URL")
    if given:
        yield given
    else:
        with postgres_server() as url:
            yield url


@pytest.fixture(scope="session")
def route(postgres_url: str, pytestconfig: pytest.Config) -> Iterator[Callable[[str], str]]:
    """How the tests reach a database of the server."""
    if pytestconfig.getoption("--pgbouncer"):
        with pgbouncer(postgres_url) as route:
            yield route
    else:
        yield lambda url: url


@pytest.fixture(scope="session")
def postgres_template(postgres_url: str) -> Iterator[str]:
    with create_database(postgres_url) as url:
        connect(url).close()
        yield url


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("template") / "migrated.db"
    connect(f"sqlite:///{path}").close()
    return path


@pytest.fixture(scope="session")
def backend_name(request: pytest.FixtureRequest) -> str:
    """`sqlite` or `postgres`: the backend that the test runs on."""
    return str(request.param)


@pytest.fixture
def url(backend_name: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """An empty database of the test's own."""
    if backend_name == "sqlite":
        yield f"sqlite:///{tmp_path}/test.db"
    else:
        with create_database(request.getfixturevalue("postgres_url")) as url:
            yield request.getfixturevalue("route")(url)


@pytest.fixture
def db(backend_name: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Backend]:
    """A migrated database of the test's own, which must leave no connection in use."""
    if backend_name == "sqlite":
        shutil.copyfile(request.getfixturevalue("sqlite_template"), tmp_path / "migrated.db")
        yield from _connected(f"sqlite:///{tmp_path}/migrated.db")
    else:
        server = request.getfixturevalue("postgres_url")
        with create_database(server, request.getfixturevalue("postgres_template")) as url:
            yield from _connected(request.getfixturevalue("route")(url))


def _connected(url: str) -> Iterator[Backend]:
    with connect(url) as db:
        yield db
        assert db.stats().in_use == 0
