"""A TCP proxy in front of a PostgreSQL server, that fails as networks do."""

from __future__ import annotations

import ctypes
import os
import socket
import struct
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final
from urllib.parse import quote, urlencode

from psycopg.conninfo import conninfo_to_dict

_CHUNK: Final = 65536
# Of <asm-generic/socket.h>; Python has no names for them.
_SO_ATTACH_FILTER: Final = 26
_SO_DETACH_FILTER: Final = 27
# Linger for no time: close() sends a reset.
_RESET: Final = struct.pack("ii", 1, 0)


class Proxy:
    """Forwards connections to a server, until told otherwise; made by `proxy()`.

    What it is told may be told from any thread and counts at once. `heal()` undoes it.

    Attributes:
        url: The server's URL, by way of the proxy: on 127.0.0.1, without encryption.
        delay: Seconds by which each piece of data is late, in both directions.
        slow_accept: Seconds until a new connection gets its first answer.
    """

    def __init__(self, url: str) -> None:
        given = {name: str(value) for name, value in conninfo_to_dict(url).items()}
        self._server = _address(given)
        self.delay = 0.0
        self.slow_accept = 0.0
        self._mutex = threading.Lock()
        self._links: set[_Link] = set()
        self._silent = False
        self._cut_at: tuple[bytes, bool] | None = None
        self._listener = self._listen(0)
        self.port: int = self._listener.getsockname()[1]
        user = quote(given.pop("user", ""), safe="")
        password = quote(given.pop("password", ""), safe="")
        database = quote(given.pop("dbname", ""), safe="")
        secret = f":{password}" if password else ""
        rest = urlencode({**given, "sslmode": "disable", "gssencmode": "disable"}, quote_via=quote)
        self.url = f"postgresql://{user}{secret}@127.0.0.1:{self.port}/{database}?{rest}"

    @property
    def connections(self) -> int:
        """How many connections pass through it now."""
        return len(self._links)

    def lead_to(self, url: str) -> None:
        """Lead new connections to the server of this URL, as an address does that is moved in a
        failover; the others go on."""
        self._server = _address({n: str(value) for n, value in conninfo_to_dict(url).items()})

    def refuse(self) -> None:
        """Refuse new connections, as a host does on which nobody listens; the others go on."""
        with self._mutex:
            _shut(self._listener)

    def cut(self) -> int:
        """Reset the connections there are; how many. New ones are accepted."""
        with self._mutex:
            links = list(self._links)
        for link in links:
            link.cut()
        return len(links)

    def cut_at(self, text: bytes, *, answered: bool) -> None:
        """Reset the next connection whose client sends this text, once.

        Args:
            text: Such as `b"COMMIT"`.
            answered: False: before the server gets it. True: after it was carried out, in the
                place of the answer.
        """
        self._cut_at = (text, answered)

    def black_hole(self) -> None:
        """Let no packet pass, of old connections and for new ones, and tell nobody.

        The client's packets are not even acknowledged, as when a host or its network is gone; so
        only the client's own timeouts help.

        Raises:
            NotImplementedError: Linux alone can do it.
        """
        if sys.platform != "linux":
            raise NotImplementedError("a socket's packets can be dropped on Linux alone")
        with self._mutex:
            self._silent = True
            for taken in [self._listener, *(link.client for link in self._links)]:
                _swallow(taken)

    def heal(self) -> None:
        """Accept and forward again. Connections that survived go on."""
        with self._mutex:
            self.delay = self.slow_accept = 0.0
            self._cut_at = None
            if self._listener.fileno() == -1:
                self._listener = self._listen(self.port)
            if self._silent:
                self._silent = False
                for taken in [self._listener, *(link.client for link in self._links)]:
                    with suppress(OSError):
                        taken.setsockopt(socket.SOL_SOCKET, _SO_DETACH_FILTER, 0)

    def close(self) -> None:
        """Refuse and cut."""
        self.refuse()
        self.cut()

    def _listen(self, port: int) -> socket.socket:
        listener = socket.create_server(("127.0.0.1", port), backlog=1024)
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()
        return listener

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=self._forward, args=(client,), daemon=True).start()

    def _forward(self, client: socket.socket) -> None:
        time.sleep(self.slow_accept)
        link = _Link(client)
        try:
            link.connect(*self._server)
        except OSError:
            # Nobody serves behind the proxy.
            link.cut()
            return
        with self._mutex:
            self._links.add(link)
            if self._silent:
                _swallow(client)
        answers = threading.Thread(target=self._pump, args=(link, False), daemon=True)
        answers.start()
        self._pump(link, True)
        answers.join()
        with self._mutex:
            self._links.discard(link)
        link.close()

    def _pump(self, link: _Link, asking: bool) -> None:
        source, sink = (link.client, link.server) if asking else (link.server, link.client)
        try:
            while data := source.recv(_CHUNK):
                if self.delay:
                    time.sleep(self.delay)
                if self._is_cut_at(link, data) if asking else not link.answers:
                    link.cut()
                    return
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            # What one end did to its connection is done to the other.
            link.cut()

    def _is_cut_at(self, link: _Link, data: bytes) -> bool:
        """True if this must not reach the server; or else it may be that its answer must not."""
        cut_at = self._cut_at
        if cut_at is None or cut_at[0] not in data:
            return False
        self._cut_at = None
        link.answers = False
        return not cut_at[1]


class _Link:
    """A client's connection, and the one to the server that serves it."""

    def __init__(self, client: socket.socket) -> None:
        self.client = client
        self.server = socket.socket()
        self.answers = True
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def connect(self, host: str, port: int) -> None:
        self.server.close()
        if host.startswith("/"):
            self.server = socket.socket(socket.AF_UNIX)
            self.server.connect(f"{host}/.s.PGSQL.{port}")
        else:
            self.server = socket.create_connection((host, port))

    def cut(self) -> None:
        with suppress(OSError):
            self.client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        # Ends what reads the socket; a close alone would wait for that.
        for end in (self.server, self.client):
            _shut(end)

    def close(self) -> None:
        self.client.close()
        self.server.close()


def _address(given: dict[str, str]) -> tuple[str, int]:
    """The host and port, which are taken out."""
    return given.pop("host", "127.0.0.1"), int(given.pop("port", "5432"))


def _shut(end: socket.socket) -> None:
    if end.fileno() != -1 and end.family != socket.AF_UNIX:
        # With a lingering of no time, the disconnect is a reset; a shutdown would be an end.
        with suppress(OSError):
            _disconnect(end)
    with suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
    end.close()


def _disconnect(end: socket.socket) -> None:
    """connect() to AF_UNSPEC: the connection is gone, and whoever reads it is woken."""
    address = struct.pack("H14x", socket.AF_UNSPEC)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.connect(end.fileno(), address, len(address)) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _swallow(end: socket.socket) -> None:
    """Have the kernel drop what comes in for this socket, before it is acknowledged."""
    drop = ctypes.create_string_buffer(struct.pack("HBBI", 0x06, 0, 0, 0))
    program = struct.pack("HL", 1, ctypes.addressof(drop))
    with suppress(OSError):
        end.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)


@contextmanager
def proxy(url: str) -> Iterator[Proxy]:
    """A proxy in front of the server of this URL, be it on TCP or on a Unix socket.

    Args:
        url: A libpq URI of one host.
    """
    made = Proxy(url)
    try:
        yield made
    finally:
        made.heal()
        made.close()
