"""Who may not, and what must not: no key, a wrong key, and requests that only look like some."""

from __future__ import annotations

import base64
import http.client
import socket
import sys
from collections.abc import Iterator
from types import FrameType
from typing import Any
from uuid import UUID

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.routing import BaseRoute, Mount, Route, WebSocketRoute
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect as open_websocket
from websockets.typing import Subprotocol

from examples.server.app import OPEN, create_app
from examples.server.bodies import Invalid, parse
from examples.server.ingest import matches
from examples.server.settings import Settings
from tests.server.processes import Answer, Server, example_server

SECRET = "admin:pässword"
NUL_UUID = UUID(int=0)


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that wants a key, on SQLite: who may not, does not get as far as a database."""
    folder = tmp_path_factory.mktemp("guarded")
    url = f"sqlite:///{folder}/test.db"
    options = ("--body-timeout", "1")
    with example_server(url, folder, *options, PREFECT_SERVER_API_AUTH_STRING=SECRET) as server:
        yield server


def routes() -> list[tuple[str, str]]:
    """The method and path of each route of the application, with an id for each parameter."""

    def of(each: list[BaseRoute], prefix: str) -> Iterator[tuple[str, str]]:
        for route in each:
            if isinstance(route, Mount):
                yield from of(list(route.routes), prefix + route.path)
            elif isinstance(route, Route):
                path = prefix + route.path
                for name in route.param_convertors:
                    kind = "uuid" if f"{{{name}:uuid}}" in path else "str"
                    given = str(NUL_UUID) if kind == "uuid" else "a"
                    path = path.replace(f"{{{name}:{kind}}}", given).replace(f"{{{name}}}", given)
                for method in sorted(route.methods or ()):
                    yield method, path
            else:
                assert isinstance(route, WebSocketRoute)

    app: Starlette = create_app(Settings())
    return list(of(list(app.routes), ""))


ROUTES = routes()


def test_there_are_routes() -> None:
    assert len(ROUTES) > 40
    assert "{" not in str(ROUTES)


@pytest.mark.parametrize(("method", "path"), ROUTES, ids=lambda part: part)
def test_no_route_is_open_without_a_key(guarded: Server, method: str, path: str) -> None:
    may = path in OPEN and method == "GET"
    wrong = {"Authorization": "Basic " + base64.b64encode(b"admin:x").decode()}
    for headers in ({}, wrong):
        answer = _asked(guarded, method, path, headers)
        assert (answer.status != 401) == may
        if not may:
            assert answer.headers["www-authenticate"] == "Basic"


@pytest.mark.parametrize(
    "path", ["/api/nowhere", "/api//flows/count", "/API/flows/count", "/static/x", "//", "/docs"]
)
def test_nor_is_what_is_none(guarded: Server, path: str) -> None:
    assert _asked(guarded, "GET", path, {}).status == 401
    assert _asked(guarded, "POST", path, {}).status == 401


def test_a_key_is_compared_in_a_time_that_tells_nothing() -> None:
    """By what the stdlib has for it, whatever is given; and by nothing else."""
    for given_ in (None, 5, "", "a", SECRET[:-1], SECRET, SECRET + "x", "\ud800"):
        called: list[str] = []

        def note(frame: FrameType, event: str, argument: Any, called: list[str] = called) -> None:
            if event == "c_call":
                called.append(argument.__name__)

        sys.setprofile(note)
        try:
            result = matches(given_, SECRET)
        finally:
            sys.setprofile(None)
        assert result == (given_ == SECRET)
        assert "compare_digest" in called
        assert not {"startswith", "find", "__eq__"} & set(called)


class TestHandshake:
    def test_one_that_does_not_come_is_not_waited_for(self, guarded: Server) -> None:
        """Or anybody could hold as many connections as they like."""
        url = f"ws://127.0.0.1:{guarded.port}/api/events/in"
        with open_websocket(url, subprotocols=[Subprotocol("prefect")]) as connection:
            with pytest.raises(ConnectionClosed) as closed:
                connection.recv(20)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1008

    def test_a_message_is_no_key(self, guarded: Server) -> None:
        url = f"ws://127.0.0.1:{guarded.port}/api/events/in"
        for message in (
            '{"type": "auth"}',
            '{"type": "auth", "token": null}',
            '{"type": "auth", "token": ["admin:p"]}',
            '{"type": "auth", "token": "\\ud800"}',
            '{"type": "auth", "token": ""}',
            "[" * 100_000,
        ):
            with open_websocket(url, subprotocols=[Subprotocol("prefect")]) as connection:
                connection.send(message)
                with pytest.raises(ConnectionClosed) as closed:
                    connection.recv(20)
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 1008


MALFORMED = [
    b"",
    b"\x00\xff\xfe",
    b"GET\r\n\r\n",
    b"GET /api/health\r\n\r\n",
    b"GET /api/health HTTP/1.1\r\nHost: x\r\nBad header\r\n\r\n",
    b"POST /api/flows/ HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
    b"POST /api/flows/ HTTP/1.1\r\nHost: x\r\nContent-Length: 1_0\r\n\r\n{}",
    b"POST /api/flows/ HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
    b"POST /api/flows/ HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    b"POST /api/flows/ HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: x, chunked\r\n\r\n0\r\n\r\n",
    b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 20_000 + b"\r\n",
]


@pytest.mark.parametrize("sent", MALFORMED, ids=lambda sent: ascii(sent[:60]))
def test_what_is_no_request_gets_nothing(guarded: Server, sent: bytes) -> None:
    """400 or 401, or no answer; and the server serves on."""
    with socket.create_connection(("127.0.0.1", guarded.port), timeout=20) as connection:
        try:
            connection.sendall(sent)
            connection.shutdown(socket.SHUT_WR)
            answered = connection.recv(100)
        except OSError:
            answered = b""
    assert not answered or answered.split()[1] in (b"400", b"401", b"431"), answered
    assert guarded.call("GET", "/health").status == 200


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff",
        b"{",
        b'{"name": }',
        b'{"name": "a"}x',
        b'"\xed\xa0\x80"',
        b"[" * 100_000,
        b'{"name": "a\\u0000b"}',
        b'{"name": "a\\ud800b"}',
        b'{"name": "a", "tags": ["\\u0000"]}',
        b'{"name": "a", "labels": {"\\u0000": 1}}',
        b'{"name": 5}',
        b"9" * 5000,
    ],
    ids=lambda body: ascii(body[:30]),
)
def test_a_malformed_body_is_422(guarded: Server, body: bytes) -> None:
    assert guarded.call("POST", "/flows/", body, headers=_key()).status == 422


def test_a_slow_head_holds_nobody_up(guarded: Server) -> None:
    """Others are served meanwhile."""
    slow = [socket.create_connection(("127.0.0.1", guarded.port), timeout=20) for _ in range(50)]
    try:
        for connection in slow:
            connection.sendall(b"POST /api/flows/ HTTP/1.1\r\nHo")
        assert guarded.call("GET", "/health").status == 200
        assert guarded.call("POST", "/flows/count", {}, headers=_key()).status == 200
    finally:
        for connection in slow:
            connection.close()


@given(st.binary() | st.text().map(str.encode))
@example(b"\xff\xfe{\x00}\x00")
@settings(deadline=None, max_examples=200)
def test_any_bytes_are_json_or_invalid(content: bytes) -> None:
    try:
        parse(content)
    except Invalid as error:
        assert error.loc == ["body"]


def _key() -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(SECRET.encode()).decode()}


def _asked(server: Server, method: str, path: str, headers: dict[str, str]) -> Answer:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    try:
        connection.request(method, path, headers=headers)
        response = connection.getresponse()
        given = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, given, response.read())
    finally:
        connection.close()
