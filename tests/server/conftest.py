"""The example server on a database that each test finds empty."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from prefect_db import connect
from prefect_db.testing import create_database
from tests.server.processes import Server, example_server

# With these go the rows that belong to theirs.
_ROOTS = ("flow", "task_run", "events", "event_resources", "log", "block_type", "configuration")


@pytest.fixture(scope="module")
def shared(
    backend_name: str, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Server, str]]:
    """A server that takes seconds to start, and the URL of its database."""
    folder = tmp_path_factory.mktemp("server")
    if backend_name == "sqlite":
        url = f"sqlite:///{folder}/test.db"
        with example_server(url, folder) as server:
            yield server, url
    else:
        with (
            create_database(request.getfixturevalue("postgres_url")) as url,
            example_server(url, folder) as server,
        ):
            yield server, url


@pytest.fixture
def server(shared: tuple[Server, str]) -> Server:
    with connect(shared[1]) as db:
        for table in _ROOTS:
            db.execute(f"DELETE FROM {table}")
    return shared[0]


@pytest.fixture
def stored(shared: tuple[Server, str]) -> str:
    """The URL of the server's database."""
    return shared[1]
