"""Servers that are not there, or not reachable, or refuse; and come back."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import psycopg
import pytest

from prefect_db import Backend, CommitUnknown, ReadOnly, Unavailable, connect
from prefect_db.testing import PostgresServer, Proxy, postgres_cluster, proxy
from tests.faults import BOUND, LINUX, until
from tests.faults.postgres import TABLE, found, use_all, write, writers
from tests.faults.report import RecordFault

pytestmark = pytest.mark.only("postgres", "SQLite has no server")

# A peer that is gone is noticed after a second or two, for the tests' sake.
_SHORT: Final = (
    "&tcp_user_timeout=1000&keepalives_idle=1&keepalives_interval=1&keepalives_count=1"
    "&connect_timeout=2"
)


@pytest.fixture
def network(url: str) -> Iterator[Proxy]:
    with psycopg.connect(url, autocommit=True) as admin:
        admin.execute(TABLE)
    with proxy(url) as network:
        yield network


@pytest.fixture(scope="module")
def durable() -> Iterator[PostgresServer]:
    """A server that may be killed: what it says is saved, is."""
    with postgres_cluster({"synchronous_commit": "on"}) as server:
        yield server


@pytest.fixture
def server(durable: PostgresServer) -> Iterator[PostgresServer]:
    with psycopg.connect(durable.url, autocommit=True) as admin:
        admin.execute(f"DROP TABLE IF EXISTS ledger; {TABLE}")
    yield durable
    if not durable.running:
        durable.start()


class TestRestarts:
    @pytest.mark.parametrize("how", ["shut down", "killed"])
    def test_under_load_are_absorbed_by_run(
        self, server: PostgresServer, tmp_path: Path, how: str, record_fault: RecordFault
    ) -> None:
        times = 3
        slowest = 0.0
        with connect(server.url, migrate=False) as db:
            with writers(db, tmp_path / "ledger", threads=16) as at_work:
                for _ in range(times):
                    (server.stop if how == "shut down" else server.kill)()
                    server.start()
                    slowest = max(slowest, at_work.until_all_wrote())
            verdict = at_work.verdict(lambda: found(db))
            record_fault(
                f"server {how} and started under load",
                times=times,
                verdict=verdict,
                recovery=slowest,
            )
            assert len(use_all(db, 10)) == 10
            assert (db.stats().size, db.stats().in_use, db.stats().waiting) == (10, 0, 0)

    def test_a_server_that_was_away_for_long_is_used_as_soon_as_it_is_back(
        self, server: PostgresServer, tmp_path: Path, record_fault: RecordFault
    ) -> None:
        with connect(server.url, migrate=False) as db:
            with writers(db, tmp_path / "ledger", attempts=20) as at_work:
                server.kill()
                time.sleep(6)
                server.start()
                recovery = at_work.until_all_wrote()
            verdict = at_work.verdict(lambda: found(db))
        record_fault(
            "server away for 6 s (recovery from its return)", verdict=verdict, recovery=recovery
        )

    def test_one_that_stays_away_is_told_with_the_reason_by_every_caller(
        self, server: PostgresServer
    ) -> None:
        with connect(server.url, migrate=False, pool_size=2, pool_timeout=5) as db:
            server.stop()
            with pytest.raises(Unavailable, match="the connection is lost"):
                db.value("SELECT 1")
            with ThreadPoolExecutor(4) as threads:
                for each in [threads.submit(db.value, "SELECT 1") for _ in range(4)]:
                    error = each.exception(BOUND)
                    assert isinstance(error, Unavailable)
                    assert str(server.folder) in str(error)
                    assert not error.sent
            assert (db.stats().in_use, db.stats().waiting, db.stats().broken) == (0, 0, 1)
            server.start()
            assert db.value("SELECT 1") == 1


class TestTheNetwork:
    def test_a_connection_that_is_cut_in_a_statement_was_sent(
        self, network: Proxy, record_fault: RecordFault
    ) -> None:
        with connect(network.url, migrate=False) as db, ThreadPoolExecutor(1) as threads:
            working = threads.submit(db.execute, "SELECT pg_sleep(600)")
            until(lambda: db.stats().in_use == 1)
            time.sleep(0.1)
            network.cut()
            error = working.exception(BOUND)
            assert isinstance(error, Unavailable)
            assert error.sent
            assert db.value("SELECT 1") == 1
        record_fault("connection cut in a statement")

    def test_cuts_under_load_lose_nothing(
        self, network: Proxy, tmp_path: Path, record_fault: RecordFault
    ) -> None:
        cut, slowest = 0, 0.0
        with connect(network.url, migrate=False) as db:
            with writers(db, tmp_path / "ledger") as at_work:
                for _ in range(20):
                    cut += network.cut()
                    slowest = max(slowest, at_work.until_all_wrote())
            verdict = at_work.verdict(lambda: found(db))
        record_fault("connections cut under load", times=cut, verdict=verdict, recovery=slowest)

    def test_a_timeout_counts_from_the_begin_that_succeeded(self, network: Proxy) -> None:
        with connect(network.url, migrate=False) as db:
            db.value("SELECT 1")
            network.slow_accept = 1.0
            network.cut()
            with db.transaction(timeout=0.9) as txn:
                assert txn.value("SELECT 1") == 1

    def test_what_is_refused_for_a_moment_is_tried_again(self, network: Proxy) -> None:
        with connect(network.url, migrate=False) as db:
            network.refuse()
            network.cut()
            with ThreadPoolExecutor(1) as threads:
                working = threads.submit(db.run, lambda txn: txn.value("SELECT 1"))
                time.sleep(0.5)
                network.heal()
                assert working.result(BOUND) == 1

    def test_slow_answers_are_waited_for(self, network: Proxy) -> None:
        network.slow_accept = 0.5
        network.delay = 0.05
        with connect(network.url, migrate=False) as db:
            assert db.value("SELECT 1") == 1

    def test_a_slow_accept_is_bounded(self, network: Proxy) -> None:
        network.slow_accept = 4.0
        with pytest.raises(Unavailable, match="timeout expired"):
            connect(network.url, migrate=False, connect_timeout=1)

    def test_encryption_that_the_server_has_not_is_told(self, network: Proxy) -> None:
        url = network.url.replace("sslmode=disable", "sslmode=require")
        with pytest.raises(Unavailable, match="does not support SSL"):
            connect(url, migrate=False)


@LINUX
class TestABlackHole:
    @pytest.fixture
    def db(self, network: Proxy) -> Iterator[Backend]:
        with connect(network.url + _SHORT, migrate=False, pool_size=2) as db:
            use_all(db, 2)
            yield db
            network.heal()
            assert db.run(lambda txn: txn.value("SELECT 1")) == 1
            assert len(use_all(db, 2)) == 2
            assert (db.stats().in_use, db.stats().waiting) == (0, 0)

    def test_a_statement_that_is_sent_into_it_ends(
        self, db: Backend, network: Proxy, record_fault: RecordFault
    ) -> None:
        network.black_hole()
        with pytest.raises(Unavailable) as caught:
            db.value("SELECT 1")
        assert caught.value.sent
        record_fault("black hole: statement sent into it")

    def test_a_statement_that_waits_for_its_answer_ends(
        self, db: Backend, network: Proxy, record_fault: RecordFault
    ) -> None:
        with ThreadPoolExecutor(1) as threads:
            working = threads.submit(db.execute, "SELECT pg_sleep(600)")
            until(lambda: db.stats().in_use == 1)
            time.sleep(0.1)
            network.black_hole()
            error = working.exception(BOUND)
        assert isinstance(error, Unavailable)
        assert error.sent
        record_fault("black hole: statement waits for its answer")

    def test_a_commit_that_is_sent_into_it_is_unknown(self, db: Backend, network: Proxy) -> None:
        with pytest.raises(CommitUnknown):
            with db.transaction() as txn:
                write(txn, "a")
                network.black_hole()

    def test_a_rollback_that_is_sent_into_it_hides_nothing(
        self, db: Backend, network: Proxy
    ) -> None:
        with pytest.raises(KeyError):
            with db.transaction() as txn:
                write(txn, "a")
                network.black_hole()
                raise KeyError

    def test_an_idle_connection_in_it_is_found_out(self, db: Backend, network: Proxy) -> None:
        time.sleep(1.1)
        network.black_hole()
        with pytest.raises(Unavailable):
            db.value("SELECT 1")

    def test_a_new_connection_into_it_is_bounded(self, db: Backend, network: Proxy) -> None:
        network.black_hole()
        with pytest.raises(Unavailable, match="timeout expired"):
            connect(network.url, migrate=False, connect_timeout=1)

    def test_under_load_nothing_is_lost(
        self, db: Backend, network: Proxy, tmp_path: Path, record_fault: RecordFault
    ) -> None:
        with writers(db, tmp_path / "ledger", attempts=20) as at_work:
            network.black_hole()
            until(lambda: db.stats().broken >= 2)
            network.heal()
            recovery = at_work.until_all_wrote()
        verdict = at_work.verdict(lambda: found(db))
        record_fault(
            "black hole under load (recovery from its end)", verdict=verdict, recovery=recovery
        )

    def test_it_is_noticed_in_time_by_default(self, network: Proxy) -> None:
        """The same, without the URL: those take too long to wait for, so they are looked at."""
        with connect(network.url, migrate=False) as db, db.connection() as native:
            assert _socket_options(native) == (1, 10, 5, 3, 25_000)

    def test_the_url_may_say_otherwise(self, network: Proxy) -> None:
        with connect(network.url + _SHORT, migrate=False) as db, db.connection() as native:
            assert _socket_options(native) == (1, 1, 1, 1, 1000)


class TestRefusals:
    def test_a_wrong_password_is_told_and_is_in_no_message(self, server: PostgresServer) -> None:
        access = server.folder / "data" / "pg_hba.conf"
        with psycopg.connect(server.url, autocommit=True) as admin:
            admin.execute("CREATE ROLE locked LOGIN PASSWORD 'right-secret'")
            access.write_text(f"local all locked scram-sha-256\n{access.read_text()}")
            admin.execute("SELECT pg_reload_conf()")
        url = server.url.replace("postgres@", "locked:wrong-secret@")

        def connected() -> bool:
            connect(url, migrate=False).close()
            return False

        with pytest.raises(Unavailable, match="password authentication failed") as caught:
            until(connected)
        assert "secret" not in f"{caught.value} {caught.value!r}"
        connect(url.replace("wrong", "right"), migrate=False).close()

    def test_an_unknown_user_is_told(self, server: PostgresServer) -> None:
        with pytest.raises(Unavailable, match='role "nobody_here" does not exist'):
            connect(server.url.replace("postgres@", "nobody_here@"), migrate=False)

    def test_too_many_connections_are_told_and_those_there_are_go_on(
        self, server: PostgresServer, record_fault: RecordFault
    ) -> None:
        with psycopg.connect(server.url, autocommit=True) as admin:
            admin.execute("CREATE ROLE limited LOGIN CONNECTION LIMIT 2")
        url = server.url.replace("postgres@", "limited@")
        with connect(url, migrate=False, pool_size=5, pool_timeout=1) as db:
            with db.transaction() as one, db.transaction() as two:
                with pytest.raises(Unavailable, match="too many connections"):
                    db.value("SELECT 1")
                assert (one.value("SELECT 1"), two.value("SELECT 1")) == (1, 1)
            assert db.value("SELECT 1") == 1
            assert (db.stats().in_use, db.stats().size) == (0, 2)
        record_fault("too many connections")

    def test_a_server_that_starts_up_is_waited_for_by_an_open_backend_alone(
        self, server: PostgresServer
    ) -> None:
        with connect(server.url, migrate=False) as db:
            server.stop()
            with pytest.raises(Unavailable):
                connect(server.url, migrate=False)
            starting = threading.Timer(0.5, server.start)
            starting.start()
            assert db.run(lambda txn: txn.value("SELECT 1")) == 1
            starting.join()


class TestAStandby:
    @pytest.fixture
    def standby(self, server: PostgresServer) -> Iterator[PostgresServer]:
        """The server, read-only until it is promoted."""
        server.stop()
        (server.folder / "data" / "standby.signal").touch()
        server.start()
        yield server
        with psycopg.connect(server.url, autocommit=True) as admin:
            if admin.info.parameter_status("in_hot_standby") == "on":
                server.promote()

    def test_it_is_read_and_a_write_is_refused(self, standby: PostgresServer) -> None:
        with connect(standby.url, migrate=False) as db:
            assert db.value("SELECT 1") == 1
            with db.transaction(read_only=True) as txn:
                assert txn.value("SELECT 1") == 1
            with pytest.raises(ReadOnly) as caught:
                db.execute("INSERT INTO ledger (key) VALUES ('a')")
            assert caught.value.code == "25006"
            with pytest.raises(ReadOnly) as caught:
                db.run(lambda txn: write(txn, "a"))
            assert caught.value.code == "25006"

    def test_after_its_promotion_the_same_backend_writes(
        self, standby: PostgresServer, record_fault: RecordFault
    ) -> None:
        with connect(standby.url, migrate=False) as db:
            assert db.value("SELECT 1") == 1
            standby.promote()
            db.run(lambda txn: write(txn, "a"))
            assert found(db) == ["a"] * 2
        record_fault("standby promoted under a Backend", acknowledged=1)

    def test_who_wants_to_write_is_told_that_it_cannot(self, standby: PostgresServer) -> None:
        with pytest.raises(Unavailable, match="read-only"):
            connect(f"{standby.url}&target_session_attrs=read-write", migrate=False)


def _socket_options(native: psycopg.Connection[Any]) -> tuple[int, ...]:
    with socket.socket(fileno=os.dup(native.fileno())) as end:
        tcp = socket.IPPROTO_TCP
        return (
            end.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE),
            end.getsockopt(tcp, socket.TCP_KEEPIDLE),
            end.getsockopt(tcp, socket.TCP_KEEPINTVL),
            end.getsockopt(tcp, socket.TCP_KEEPCNT),
            end.getsockopt(tcp, socket.TCP_USER_TIMEOUT),
        )
