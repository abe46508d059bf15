"""What goes wrong, as the status codes and bodies of Prefect's server."""

from __future__ import annotations

import logging
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

import prefect_db
from examples.server.bodies import Invalid, dump

logger = logging.getLogger("examples.server")

# The database is away, or busy with somebody else: nothing is wrong with the request, and a
# Prefect client sends it again.
TRY_AGAIN = (
    prefect_db.Unavailable,
    prefect_db.PoolTimeout,
    prefect_db.Retryable,
    prefect_db.QueryTimeout,
    prefect_db.Cancelled,
    prefect_db.StorageError,
    prefect_db.CommitUnknown,
)
RETRY_AFTER = 1  # seconds
CONFLICT = (
    "The database refuses this: there is one of its kind already, or what it refers to is not"
    " there."
)


class Missing(HTTPException):
    """404 in the form of `set_state`, whose clients look for an `exception_message`."""

    def __init__(self, what: str) -> None:
        super().__init__(404, what)


def respond(status: int, content: Any, **headers: str) -> Response:
    """A JSON response; `_` in a header's name stands for `-`."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Response(dump(content), status, named, "application/json")


def answer(request: Request, error: Exception) -> Response:
    """The response to a request that failed."""
    match error:
        case Missing():
            return respond(404, {"exception_message": error.detail})
        case HTTPException():
            headers = {"Connection": "close"} if error.status_code in (408, 413) else {}
            return respond(
                error.status_code, {"detail": error.detail}, **{**(error.headers or {}), **headers}
            )
        case Invalid():
            return _invalid(error.message, error.loc, error.body)
        case prefect_db.BadValue():
            return _invalid(error.message, ["body"], None)
        case prefect_db.ConstraintError():
            logger.warning("%s %s: %s", request.method, request.url.path, error)
            return respond(409, {"detail": CONFLICT})
        case prefect_db.NotFound():
            return respond(404, {"detail": error.message})
        case error if isinstance(error, TRY_AGAIN):
            logger.warning("%s %s: %s", request.method, request.url.path, error)
            content = {"exception_message": "Service Unavailable"}
            return respond(503, content, Retry_After=str(RETRY_AFTER))
    logger.error("%s %s", request.method, request.url.path, exc_info=error)
    return respond(500, {"exception_message": "Internal Server Error"})


def _invalid(message: str, loc: list[str | int], body: Any) -> Response:
    detail = [{"loc": loc, "msg": message, "type": "value_error"}]
    return respond(
        422,
        {
            "exception_message": "The request is not as this API wants it.",
            "exception_detail": detail,
            "request_body": body,
        },
    )
