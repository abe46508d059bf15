"""From a request to a function of `api/`, and back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from examples.server.calls import Call, Handler, Reply
from examples.server.errors import respond
from examples.server.settings import Settings
from prefect_db import Backend


def endpoint(handler: Handler) -> Callable[..., Any]:
    """What Starlette calls: the body is read here, all else is done in one hop to a thread."""

    async def run(request: Request) -> Response:
        state = request.app.state
        content = await read_body(request, state.settings)
        call = Call(
            path=request.path_params,
            query=request.query_params,
            content=content,
            base_url=str(request.base_url),
            received=datetime.now(UTC),
        )
        response: Response = await state.db.run(_answer, handler, call)
        return response

    return run


def _answer(db: Backend, handler: Handler, call: Call) -> Response:
    result = handler(db, call)
    if result is None:
        return Response(status_code=204)
    if isinstance(result, Reply):
        return respond(result.status, result.content)
    return respond(200, result)


async def read_body(request: Request, settings: Settings) -> bytes:
    """The body of a request, which must neither be too long nor take too long.

    Raises:
        HTTPException: 413 or 408. A body without a Content-Length is counted as it comes.
    """
    too_large = HTTPException(413, f"A body has at most {settings.max_body} bytes.")
    declared = request.headers.get("content-length", "0")
    if declared.isdecimal() and int(declared) > settings.max_body:
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(settings.body_timeout):
            async for chunk in request.stream():
                body += chunk
                if len(body) > settings.max_body:
                    raise too_large
    except TimeoutError:
        raise HTTPException(408, f"A body comes in {settings.body_timeout} seconds.") from None
    return bytes(body)


def get(path: str, handler: Handler) -> Route:
    return Route(path, endpoint(handler), methods=["GET"])


def post(path: str, handler: Handler) -> Route:
    return Route(path, endpoint(handler), methods=["POST"])


def patch(path: str, handler: Handler) -> Route:
    return Route(path, endpoint(handler), methods=["PATCH"])


def delete(path: str, handler: Handler) -> Route:
    return Route(path, endpoint(handler), methods=["DELETE"])
