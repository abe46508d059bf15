"""How the server is set up: by the environment, under the names of Prefect's settings."""

from __future__ import annotations

import os
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Settings of the server. The database's are `prefect_db.connect`'s own.

    Attributes:
        database_url: None: `prefect_db.connect` takes it from the environment.
        auth_string: `user:password` that requests must carry; None: no authentication.
        pool_timeout: Seconds that a request waits for a connection before it is answered with 503.
        max_body: Bytes of a request's body, at most.
        body_timeout: Seconds within which a body must have come, or the handshake of a websocket.
        batch_size: Events that are written together, at most.
        batch_seconds: How long the first of them waits for others.
        queue_size: Events that wait to be written, at most; after that, senders wait.
        drain_seconds: How long a stopping server tries to write what it has accepted.
    """

    database_url: str | None = None
    auth_string: str | None = None
    pool_timeout: float = 5.0
    max_body: int = 10_000_000
    body_timeout: float = 30.0
    batch_size: int = 200
    batch_seconds: float = 0.1
    queue_size: int = 10_000
    drain_seconds: float = 20.0


def from_environment() -> Settings:
    """The settings, as far as the environment has them."""
    auth_string = os.environ.get("PREFECT_SERVER_API_AUTH_STRING") or None
    return Settings(auth_string=auth_string)
