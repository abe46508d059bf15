"""No key of whoever runs the tests is used."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def no_key_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("PREFECT_SERVER_ENCRYPTION_KEY", "ORION_ENCRYPTION_KEY"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.delenv("PREFECT_DB_ENCRYPTION_KEY_FALLBACKS", raising=False)
