"""A server of the test's own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.server.processes import Server, example_server


@pytest.fixture
def server(url: str, tmp_path: Path) -> Iterator[Server]:
    """The example server on an empty database."""
    with example_server(url, tmp_path) as server:
        yield server
