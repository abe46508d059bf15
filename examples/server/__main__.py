"""Runs the server: `python -m examples.server`."""

from __future__ import annotations

import argparse
import ipaddress
import signal
import sys
from contextlib import ExitStack
from dataclasses import replace

import uvicorn

from examples.server.app import create_app
from examples.server.settings import Settings, from_environment
from prefect_db.testing import postgres_server


def main() -> int:
    for number in (signal.SIGTERM, signal.SIGINT):
        # While it serves, Uvicorn handles them; when it has drained, it raises them again.
        signal.signal(number, lambda *_: sys.exit(0))
    settings = from_environment()
    parser = argparse.ArgumentParser(prog="python -m examples.server", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=4200)
    parser.add_argument(
        "--allow-anyone",
        action="store_true",
        help="serve other machines without PREFECT_SERVER_API_AUTH_STRING",
    )
    parser.add_argument(
        "--body-timeout",
        type=float,
        metavar="SECONDS",
        default=settings.body_timeout,
        help="how long a request's body may take to come",
    )
    parser.add_argument(
        "--throw-away-postgres",
        action="store_true",
        help="store in a PostgreSQL that is gone, with all data, when the server ends",
    )
    arguments = parser.parse_args()
    settings = replace(settings, body_timeout=arguments.body_timeout)
    if not (settings.auth_string or arguments.allow_anyone or is_loopback(arguments.host)):
        parser.error(
            f"{arguments.host} can be reached from other machines, who could then do anything: set"
            " PREFECT_SERVER_API_AUTH_STRING=user:password, or say --allow-anyone"
        )
    with ExitStack() as stack:
        if arguments.throw_away_postgres:
            settings = replace(settings, database_url=stack.enter_context(postgres_server()))
        return serve(settings, arguments.host, arguments.port)


def is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def serve(settings: Settings, host: str, port: int) -> int:
    """Serve until SIGTERM or SIGINT; then finish what has been begun. The exit code."""
    server = uvicorn.Server(
        uvicorn.Config(
            create_app(settings),
            host=host,
            port=port,
            log_level="warning",
            server_header=False,
            timeout_graceful_shutdown=int(settings.drain_seconds),
        )
    )
    print(f"Serving http://{host}:{port}/api", flush=True)
    server.run()
    return 0 if server.started else 1


if __name__ == "__main__":
    sys.exit(main())
