"""The ASGI application."""

from __future__ import annotations

import binascii
from base64 import b64decode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final
from uuid import UUID

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from examples.server.api import (
    admin,
    block_documents,
    block_schemas,
    block_types,
    events,
    flow_runs,
    flows,
    logs,
    run_states,
    task_runs,
)
from examples.server.bodies import Invalid
from examples.server.errors import answer, respond
from examples.server.ingest import EventQueue, matches, receive_events, stream_events
from examples.server.page import render, view
from examples.server.settings import Settings
from prefect_db import Error, aio

MODULES: Final = (
    admin,
    block_documents,
    block_schemas,
    block_types,
    events,
    flow_runs,
    flows,
    logs,
    run_states,
    task_runs,
)
# What may ask whether the server lives has no secret.
OPEN: Final = ("/api/health", "/api/ready")


def create_app(settings: Settings) -> Starlette:
    """The application; the database is opened when it starts, and closed when it ends."""

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with (
            aio.connect(settings.database_url, pool_timeout=settings.pool_timeout) as db,
            EventQueue(db, settings) as queue,
        ):
            app.state.db, app.state.events = db, queue
            yield

    api: list[Route | WebSocketRoute] = [
        Route("/health", health),
        Route("/events", receive_events, methods=["POST"]),
        WebSocketRoute("/events/in", stream_events),
        *[route for module in MODULES for route in module.ROUTES],
    ]
    app = Starlette(
        routes=[
            Route("/", page),
            # Where a client says that its run can be viewed.
            Route("/runs/flow-run/{run:uuid}", page),
            Mount("/api", routes=api),
        ],
        middleware=[Middleware(Authentication, secret=settings.auth_string)],
        exception_handlers=dict.fromkeys((HTTPException, Invalid, Error, Exception), answer),
        lifespan=lifespan,
    )
    app.state.settings = settings
    return app


async def health(request: Request) -> Response:
    """That the process answers; the database may be away."""
    return respond(200, True)


async def page(request: Request) -> Response:
    """The page for people; `?run=` chooses a flow run."""
    given = request.path_params.get("run") or request.query_params.get("run")
    try:
        chosen = UUID(str(given)) if given else None
    except ValueError:
        raise HTTPException(404, "There is no such flow run.") from None
    html: str = await request.app.state.db.run(lambda db: render(view(db, chosen)))
    return HTMLResponse(html, headers={"Cache-Control": "no-store"})


class Authentication:
    """Refuses requests without the secret. Websockets have a handshake of their own: `ingest`."""

    def __init__(self, app: ASGIApp, secret: str | None) -> None:
        self._app = app
        self._secret = secret

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and self._secret is not None and not self._may_pass(scope):
            response = respond(401, {"exception_message": "Unauthorized"}, WWW_Authenticate="Basic")
            await response(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _may_pass(self, scope: Scope) -> bool:
        if scope["method"] == "GET" and scope["path"] in OPEN:
            return True
        scheme, _, credentials = Request(scope).headers.get("authorization", "").partition(" ")
        try:
            given = b64decode(credentials, validate=True).decode()
        except (binascii.Error, UnicodeDecodeError, ValueError):
            given = ""
        assert self._secret is not None
        return scheme.lower() == "basic" and matches(given, self._secret)
