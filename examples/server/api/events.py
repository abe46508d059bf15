"""/events, but for how they come in: that is `ingest`."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass, field
from typing import Annotated, Any

from starlette.exceptions import HTTPException

from examples.server.bodies import Invalid, dump, parse, read
from examples.server.calls import Call, at_least, at_most
from examples.server.routing import get, post
from prefect_db import BadValue, Queryable, events
from prefect_db.events import EventCount, EventFilter, Order, Unit

MAX_PAGE = 50


@dataclass(slots=True, kw_only=True)
class EventQuery:
    filter: EventFilter | None = None
    limit: Annotated[int, at_least(0), at_most(MAX_PAGE)] = MAX_PAGE


def query(db: Queryable, call: Call) -> dict[str, Any]:
    return _page(db, call, call.read(EventQuery), None)
