"""Calls about the server itself, and those whose answer is that there is nothing of the kind."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any
from uuid import uuid4

from starlette.exceptions import HTTPException

from examples.server.calls import Call, Reply, at_least
from examples.server.routing import get, post
from prefect_db import Queryable, configuration
from prefect_db.errors import Error

# The version of Prefect whose API this is; its clients refuse to talk to an older one.
API_OF = "3.8.8"


def ready(db: Queryable, call: Call) -> Reply:
    """That the database answers."""
    try:
        db.value("SELECT 1")
    except Error:
        return Reply({"message": "The database does not answer"}, 503)
    return Reply({"message": "OK"}, 200)


def hello(db: Queryable, call: Call) -> str:
    return "👋"


def version(db: Queryable, call: Call) -> str:
    return API_OF


def csrf_token(db: Queryable, call: Call) -> Any:
    """Clients look for this text, and then write without a token."""
    raise HTTPException(422, "CSRF protection is disabled.")


def storage(db: Queryable, call: Call) -> dict[str, Any]:
    """The block document that results are stored with unless a client says otherwise."""
    stored = configuration.get(db, "server-default-result-storage") or {}
    key = "default_result_storage_block_id"
    return {key: stored.get(key)}


@dataclass(slots=True, kw_only=True)
class Lease:
    names: list[str]
    slots: Annotated[int, at_least(1)]
    mode: str = "concurrency"
    lease_duration: float = 300.0
    holder: dict[str, Any] | None = None


def lease(db: Queryable, call: Call) -> dict[str, Any]:
    """Clients ask before a tagged task runs. There are no limits here, so they always may."""
    call.read(Lease)
    return {"lease_id": uuid4(), "limits": []}


ROUTES = [
    get("/ready", ready),
    get("/hello", hello),
    get("/version", version),
    get("/admin/version", version),
    get("/csrf-token", csrf_token),
    get("/admin/storage", storage),
    post("/v2/concurrency_limits/increment-with-lease", lease),
]
