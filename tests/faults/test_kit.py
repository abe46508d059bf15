"""The fault kit itself: what its proxy does to a socket, and what a ledger finds."""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psycopg
import pytest

from prefect_db.testing import Ledger, Proxy, judge, postgres_cluster, proxy
from tests.faults import BOUND, LINUX, kill, reach, start_process, until


def test_a_ledger_finds_what_is_wrong(tmp_path: Path) -> None:
    paths = [tmp_path / "one", tmp_path / "two"]
    with Ledger(paths[0]) as one, Ledger(paths[1]) as two:
        for key in ("saved", "lost", "half of it", "twice"):
            one.intend(key)
            one.acknowledge(key)
        for key in ("there all the same", "not there", "halved", "unanswered twice"):
            two.intend(key)
    found = ["saved"] * 2 + ["half of it"] + ["twice"] * 4 + ["there all the same"] * 2
    verdict = judge(paths, [*found, "halved", "stranger", *["unanswered twice"] * 3], parts=2)
    assert verdict.acknowledged == 4
    assert verdict.lost == ["half of it", "lost"]
    assert verdict.halved == ["halved"]
    assert verdict.duplicated == ["twice", "unanswered twice"]
    assert verdict.unknown == ["stranger"]
    assert not verdict.sound
    assert judge(paths[:0], []).sound


def test_a_line_that_a_kill_cut_short_is_no_line(tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    with Ledger(path) as ledger:
        ledger.intend("key")
    with path.open("a") as file:
        file.write("! ke")
    assert judge([path], ["key"]).acknowledged == 0


def stand_still(path: str) -> None:
    with Ledger(Path(path)) as ledger:
        ledger.intend("key")
        reach("there")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_process_is_killed_at_a_point(tmp_path: Path, number: signal.Signals) -> None:
    path = tmp_path / "ledger"
    assert kill(start_process(stand_still, str(path)), "there", number=number) != 0
    assert path.read_text() == "? key\n"


class TestProxy:
    @pytest.fixture
    def echo(self) -> Iterator[Proxy]:
        """A proxy in front of a server that is no PostgreSQL, but says what it is told."""
        with socket.create_server(("127.0.0.1", 0)) as server:

            def serve(connection: socket.socket) -> None:
                with connection, suppress(ConnectionResetError):
                    while data := connection.recv(100):
                        connection.sendall(data)

            def accept() -> None:
                while True:
                    try:
                        connection, _ = server.accept()
                    except OSError:
                        return
                    threads.append(threading.Thread(target=serve, args=(connection,)))
                    threads[-1].start()

            threads = [threading.Thread(target=accept)]
            threads[0].start()
            with proxy(f"postgresql://127.0.0.1:{server.getsockname()[1]}/x") as made:
                yield made
            server.shutdown(socket.SHUT_RDWR)
            for thread in threads:
                thread.join(BOUND)

    def test_it_forwards_and_ends_what_has_ended(self, echo: Proxy) -> None:
        with _connected(echo) as client:
            assert _said(client, b"a") == b"a"
            assert echo.connections == 1
        until(lambda: echo.connections == 0)

    def test_it_cuts_with_a_reset(self, echo: Proxy) -> None:
        with _connected(echo) as client:
            assert _said(client, b"a") == b"a"
            assert echo.cut() == 1
            with pytest.raises(ConnectionResetError):
                client.recv(1)
        with _connected(echo) as client:
            assert _said(client, b"b") == b"b"

    @pytest.mark.parametrize("answered", [False, True])
    def test_it_cuts_at_a_text(self, echo: Proxy, answered: bool) -> None:
        echo.cut_at(b"now", answered=answered)
        with _connected(echo) as client:
            assert _said(client, b"then") == b"then"
            with pytest.raises(ConnectionResetError):
                _said(client, b"and now")

    def test_it_refuses_new_ones_until_healed(self, echo: Proxy) -> None:
        with _connected(echo) as client:
            assert _said(client, b"a") == b"a"
            echo.refuse()
            with pytest.raises(ConnectionRefusedError):
                _connected(echo)
            assert _said(client, b"b") == b"b"
        echo.heal()
        with _connected(echo) as client:
            assert _said(client, b"c") == b"c"

    @LINUX
    def test_a_black_hole_says_nothing_until_healed(self, echo: Proxy) -> None:
        with _connected(echo) as client:
            assert _said(client, b"a") == b"a"
            echo.black_hole()
            client.settimeout(0.5)
            with pytest.raises(TimeoutError):
                _said(client, b"b")
            with pytest.raises(TimeoutError):
                socket.create_connection(("127.0.0.1", echo.port), 0.5)
            echo.heal()
            client.settimeout(BOUND)
            assert client.recv(100) == b"b"

    @LINUX
    def test_a_black_hole_acknowledges_nothing(self, echo: Proxy) -> None:
        with _connected(echo) as client:
            assert _said(client, b"a") == b"a"
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 500)
            echo.black_hole()
            with pytest.raises(TimeoutError):
                _said(client, b"b")


def test_a_server_that_was_killed_starts_again_with_what_was_saved() -> None:
    with postgres_cluster({"synchronous_commit": "on"}) as server:
        with psycopg.connect(server.url) as connection:
            connection.execute("CREATE TABLE item AS SELECT 1 AS n")
        server.kill()
        assert not server.running
        with pytest.raises(psycopg.OperationalError):
            psycopg.connect(server.url)
        server.start()
        with psycopg.connect(server.url) as connection:
            assert connection.execute("SELECT n FROM item").fetchall() == [(1,)]


def _connected(proxy: Proxy) -> socket.socket:
    return socket.create_connection(("127.0.0.1", proxy.port), BOUND)


def _said(client: socket.socket, text: bytes) -> bytes:
    client.sendall(text)
    return client.recv(100)
