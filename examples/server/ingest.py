"""Events as they come: checked, put into a queue, written in batches.

An event counts as accepted once it is in the queue. The queue is bounded: when it is full, senders
wait, so a slow database slows the clients down and not this process's memory. What is in it when
the server stops is still written.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
from collections.abc import Mapping
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.websockets import WebSocket, WebSocketDisconnect

from examples.server.bodies import Invalid, parse
from examples.server.errors import TRY_AGAIN
from examples.server.routing import read_body
from examples.server.settings import Settings
from prefect_db import Backend, BadValue, ConstraintError, Queryable, events, task_runs
from prefect_db.aio import AsyncBackend
from prefect_db.events import Event

logger = logging.getLogger("examples.server.ingest")

# Prefect drops longer ones without a word, and so do its clients' expectations.
MAX_EVENT: Final = 1_500_000
_POLICY_VIOLATION: Final = 1008
_PROTOCOL_ERROR: Final = 1002
_LONGEST_WAIT: Final = 5.0


class EventQueue:
    """Accepts events and writes them, as an async context manager: it ends when all are written."""

    def __init__(self, db: AsyncBackend, settings: Settings) -> None:
        self._db = db
        self._settings = settings
        self._queue: asyncio.Queue[Event | None] = asyncio.Queue(settings.queue_size)

    async def __aenter__(self) -> EventQueue:
        self._writer = asyncio.create_task(self._write())
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._queue.put(None)
        try:
            await asyncio.wait_for(self._writer, self._settings.drain_seconds)
        except TimeoutError:
            logger.error("stopped with events that could not be written")

    async def put(self, event: Event) -> None:
        """Accept an event; waits while the queue is full."""
        await self._queue.put(event)

    async def _write(self) -> None:
        going = True
        while going:
            batch, going = await self._batch()
            await self._write_batch(batch)

    async def _batch(self) -> tuple[list[Event], bool]:
        """The events that come within a short time of the first; and whether more can come."""
        batch: list[Event] = []
        event = await self._queue.get()
        try:
            async with asyncio.timeout(self._settings.batch_seconds):
                while event is not None:
                    batch.append(event)
                    if len(batch) >= self._settings.batch_size:
                        break
                    event = await self._queue.get()
        except TimeoutError:
            return batch, True
        return batch, event is not None

    async def _write_batch(self, batch: list[Event]) -> None:
        """Write a batch, however often the database is away meanwhile."""
        wait = 0.1
        while batch:
            try:
                await self._db.run(store, batch)
            except TRY_AGAIN as error:
                logger.warning("%d events wait to be written: %s", len(batch), error)
                await asyncio.sleep(wait)
                wait = min(2 * wait, _LONGEST_WAIT)
            else:
                return


def store(db: Backend, batch: list[Event]) -> None:
    """Write events, and what they tell of task runs. What cannot be written is left out alone."""
    try:
        db.run(lambda txn: _store(txn, batch))
    except (BadValue, ConstraintError):
        for event in batch:
            _store_alone(db, event)


def _store(txn: Queryable, batch: list[Event]) -> None:
    events.write(txn, batch)
    task_runs.record(txn, batch)


def _store_alone(db: Backend, event: Event) -> None:
    """Write one event of a batch that has a bad one: as much of it as can be written."""
    for write in (events.write, task_runs.record):
        try:
            write(db, [event])
        except (BadValue, ConstraintError) as error:
            logger.warning("event %s, %s: %s", event.id, event.event, error)


async def receive_events(request: Request) -> Response:
    """POST /events: a list of events."""
    frames = parse(await read_body(request, request.app.state.settings))
    if not isinstance(frames, list):
        raise Invalid("Input should be a list", ["body"], frames)
    accepted = [_event(frame) for frame in frames if len(json.dumps(frame)) <= MAX_EVENT]
    for event in accepted:
        await request.app.state.events.put(event)
    return Response(status_code=204)


async def stream_events(websocket: WebSocket) -> None:
    """The websocket /events/in: after a handshake one event in each frame, without replies."""
    if not await _accept(websocket):
        return
    queue: EventQueue = websocket.app.state.events
    try:
        while True:
            text = await websocket.receive_text()
            if len(text) > MAX_EVENT:
                continue
            try:
                event = _event(parse(text.encode()))
            except (Invalid, BadValue) as error:
                # To close the connection would only make the client send it again.
                logger.warning("not an event: %s", error)
            else:
                await queue.put(event)
    except (WebSocketDisconnect, KeyError):
        pass  # as clients do when they are done; a KeyError is a frame of bytes


def _event(frame: Any) -> Event:
    if not isinstance(frame, Mapping):
        raise Invalid("Input should be an object", ["body"], frame)
    return events.parse(frame)


async def _accept(websocket: WebSocket) -> bool:
    """Prefect's handshake: the subprotocol `prefect`, then a message with the token."""
    secret: str | None = websocket.app.state.settings.auth_string
    if "prefect" not in websocket.scope["subprotocols"]:
        # Older clients know no handshake; they are welcome where no secret is needed.
        if secret is not None:
            await websocket.close(_PROTOCOL_ERROR)
            return False
        await websocket.accept()
        return True
    await websocket.accept("prefect")
    try:
        async with asyncio.timeout(websocket.app.state.settings.body_timeout):
            message = parse((await websocket.receive_text()).encode())
    except (WebSocketDisconnect, KeyError):
        return False
    except (Invalid, TimeoutError):
        message = None
    if not isinstance(message, dict) or message.get("type") != "auth":
        await websocket.close(_POLICY_VIOLATION, "the first message is to be one of type auth")
        return False
    if secret is not None and not matches(message.get("token"), secret):
        await websocket.close(_POLICY_VIOLATION, "Invalid token")
        return False
    await websocket.send_json({"type": "auth_success"})
    return True


def matches(given: Any, secret: str) -> bool:
    """Whether what a client sends is the secret, in a time that tells nothing about it."""
    text = given if isinstance(given, str) else ""
    return hmac.compare_digest(text.encode("utf-8", "surrogatepass"), secret.encode())
