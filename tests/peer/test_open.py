"""Databases that Prefect manages are opened as they are."""

from __future__ import annotations

from prefect.server import models
from prefect.server.schemas.core import Flow

from prefect_db import Backend, connect, flows
from tests.peer.prefect_peer import Prefect, alchemy_url


def test_what_prefect_writes_is_read(prefect: Prefect, managed: Backend) -> None:
    made = prefect.write(lambda session: models.flows.create_flow(session, Flow(name="etl")))
    flow = flows.get_by_name(managed, "etl")
    assert flow is not None
    assert flow.id == made.id


def test_the_spelling_of_prefects_settings(real_url: str) -> None:
    with connect(alchemy_url(real_url)) as db:
        assert flows.count(db) > 0
