"""TLS: sessions that are encrypted, and what is told where they cannot be trusted.

The server is PostgreSQL behind a PgBouncer in session mode, which is the end of TLS: builds of
PostgreSQL that come as a package of Python have none.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final
from urllib.parse import quote, urlencode

import psycopg
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from prefect_db import Backend, ConfigurationError, Unavailable, connect, observe
from prefect_db.testing import PostgresServer, Proxy, postgres_cluster, proxy
from tests.faults import LINUX, in_thread, until
from tests.faults.postgres import TABLE, found, kill_sessions, use_all, write, writers
from tests.faults.report import RecordFault
from tests.pgbouncer import pgbouncer

pytestmark = pytest.mark.only("postgres", "SQLite has no server")

# The name in the certificate. No DNS is asked: the URL has the address, too.
_HOST: Final = "database.test"
_SECRET: Final = "pass-of-the-user"
# What a client begins with that wants TLS.
_SSL_REQUEST: Final = bytes.fromhex("00000008 04d2162f")
_CONFIGURATION: Final = """
listen_addr = 127.0.0.1
pool_mode = session
ignore_startup_parameters = options
client_tls_sslmode = require
client_tls_key_file = key
client_tls_cert_file = certificate
"""


class _Authority:
    """A certificate authority, and the file of its own certificate."""

    def __init__(self, folder: Path, name: str) -> None:
        self.path = folder / f"{name} & co.pem"
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        root = self._certificate(self._name, self._key.public_key(), days=1, is_authority=True)
        self.path.write_bytes(root)

    def issue(self, host: str, days: int) -> dict[str, bytes]:
        """The `key` and the `certificate` of a host, valid until in so many days."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
        return {
            "key": key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            ),
            "certificate": self._certificate(name, key.public_key(), days, host=host),
        }

    def _certificate(
        self,
        subject: x509.Name,
        key: ec.EllipticCurvePublicKey,
        days: int,
        *,
        host: str = "",
        is_authority: bool = False,
    ) -> bytes:
        now = datetime.now(UTC)
        made = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(2))
            .not_valid_after(now + timedelta(days))
            .add_extension(x509.BasicConstraints(is_authority, None), critical=True)
        )
        if host:
            made = made.add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), False)
        return made.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with postgres_cluster() as server:
        with psycopg.connect(server.url, autocommit=True) as admin:
            admin.execute(TABLE)
        yield server


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> _Authority:
    return _Authority(tmp_path_factory.mktemp("authority"), "trusted")


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> _Authority:
    return _Authority(tmp_path_factory.mktemp("stranger"), "unknown")


@contextmanager
def _encrypted(server: PostgresServer, authority: _Authority, days: int = 1) -> Iterator[str]:
    """The URL of the server by way of TLS, on TCP."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    files = authority.issue(_HOST, days)
    with pgbouncer(server.url, _CONFIGURATION, port=port, files=files):
        yield f"postgresql://postgres@127.0.0.1:{port}/postgres"


@pytest.fixture(scope="module")
def encrypted(server: PostgresServer, authority: _Authority) -> Iterator[str]:
    with _encrypted(server, authority) as url:
        yield url


@pytest.fixture
def network(server: PostgresServer, encrypted: str) -> Iterator[Proxy]:
    with psycopg.connect(server.url, autocommit=True) as admin:
        admin.execute("TRUNCATE ledger")
    with proxy(encrypted) as network:
        yield network


def _url(
    network: Proxy,
    query: Mapping[str, object],
    *,
    host: str = _HOST,
    scheme: str = "postgresql",
) -> str:
    more = urlencode({"hostaddr": "127.0.0.1", **query}, quote_via=quote)
    return f"{scheme}://postgres:{_SECRET}@{host}:{network.port}/postgres?{more}"


def _verified(network: Proxy, authority: _Authority) -> str:
    return _url(network, {"sslmode": "verify-full", "sslrootcert": authority.path})


def _is_encrypted(db: Backend) -> bool:
    with db.connection() as native:
        return bool(native.pgconn.ssl_in_use)


class _Attempts(observe.Observer):
    """Counts those to connect."""

    def __init__(self) -> None:
        self.number = 0

    def start(self, event: observe.Event) -> None:
        self.number += isinstance(event, observe.Connect)


class TestASession:
    @pytest.mark.parametrize(
        ("scheme", "word", "mode"),
        [
            ("postgresql", "sslmode", "require"),
            ("postgresql", "sslmode", "verify-ca"),
            ("postgresql", "sslmode", "verify-full"),
            ("postgresql", "ssl", "true"),
            ("postgresql+asyncpg", "ssl", "require"),
            ("postgresql+asyncpg", "ssl", "verify-full"),
            ("postgresql+asyncpg", "sslmode", "verify-full"),
        ],
    )
    def test_is_encrypted(
        self, network: Proxy, authority: _Authority, scheme: str, word: str, mode: str
    ) -> None:
        query: dict[str, object] = {word: mode}
        if mode.startswith("verify"):
            query["sslrootcert"] = authority.path
        url = _url(network, query, scheme=scheme)
        with connect(url, migrate=False) as db:
            assert _is_encrypted(db)
            db.execute("INSERT INTO ledger (key) VALUES (?)", ("a",))
            with db.transaction() as txn:
                write(txn, "b")
            with pytest.raises(KeyError), db.transaction() as txn:
                write(txn, "c")
                raise KeyError
            assert sorted(found(db)) == ["a", "b", "b"]

    def test_that_is_not_is_refused_by_a_server_that_wants_it(self, network: Proxy) -> None:
        with pytest.raises(Unavailable, match="SSL required"):
            connect(_url(network, {"sslmode": "disable"}), migrate=False)


def _refused(network: Proxy, url: str, match: str) -> None:
    """At once, for it would not heal by waiting; and nothing stays."""
    attempts = _Attempts()
    with pytest.raises(ConfigurationError, match=match) as caught:
        connect(url, migrate=False, start_timeout=5, observer=attempts)
    assert attempts.number == 1
    assert "postgres:***@" in str(caught.value)
    assert _SECRET not in f"{caught.value} {caught.value!r} {caught.value.__cause__}"
    until(lambda: network.connections == 0)


class TestAServerThatIsNotTrusted:
    @pytest.mark.parametrize("mode", ["verify-ca", "verify-full"])
    @pytest.mark.parametrize(
        ("scheme", "word"), [("postgresql", "sslmode"), ("postgresql+asyncpg", "ssl")]
    )
    def test_for_its_authority(
        self, network: Proxy, stranger: _Authority, scheme: str, word: str, mode: str
    ) -> None:
        url = _url(network, {word: mode, "sslrootcert": stranger.path}, scheme=scheme)
        _refused(network, url, "verify failed.*sslrootcert")

    @pytest.mark.parametrize(
        ("scheme", "word"), [("postgresql", "sslmode"), ("postgresql+asyncpg", "ssl")]
    )
    def test_for_its_name(
        self, network: Proxy, authority: _Authority, scheme: str, word: str
    ) -> None:
        query = {word: "verify-full", "sslrootcert": authority.path}
        url = _url(network, query, host="other.test", scheme=scheme)
        _refused(network, url, '"database.test".* does not match host name "other.test"')

    def test_for_its_age(self, server: PostgresServer, authority: _Authority) -> None:
        with _encrypted(server, authority, days=-1) as encrypted, proxy(encrypted) as network:
            _refused(network, _verified(network, authority), "verify failed.*expired")

    @pytest.mark.parametrize(
        ("names", "message"),
        [
            ({"sslrootcert": "absent"}, "root certificate file.*absent"),
            ({"sslrootcert": "empty"}, "root certificate file.*empty.*sslrootcert takes"),
            ({"sslcert": "empty", "sslkey": "empty"}, "certificate file.*empty.*sslcert with"),
        ],
        ids=["absent", "empty", "of the client"],
    )
    def test_for_a_file(
        self,
        network: Proxy,
        authority: _Authority,
        tmp_path: Path,
        names: dict[str, str],
        message: str,
    ) -> None:
        (tmp_path / "empty").touch(0o600)
        given = {name: tmp_path / file for name, file in names.items()}
        query = {"sslmode": "verify-full", "sslrootcert": authority.path, **given}
        _refused(network, _url(network, query), message)

    @pytest.mark.parametrize("mode", ["verify", "true"])
    def test_for_a_mode_that_there_is_not(self, network: Proxy, mode: str) -> None:
        url = _url(network, {"ssl": mode}, scheme="postgresql+asyncpg")
        _refused(network, url, f'invalid sslmode value: "{mode}".*verify-full')

    def test_where_another_host_may_be_back_soon(
        self, network: Proxy, stranger: _Authority
    ) -> None:
        """That the reason is told is all that can be done."""
        url = _verified(network, stranger)
        url = url.replace(f"@{_HOST}:", f"@{_HOST}:1,{_HOST}:")
        url = url.replace("hostaddr=127.0.0.1", "hostaddr=127.0.0.1,127.0.0.1")
        with pytest.raises(Unavailable, match="verify failed.*sslrootcert"):
            connect(url, migrate=False)


class TestAHandshake:
    @pytest.mark.parametrize("answered", [False, True], ids=["by the client", "by the server"])
    @pytest.mark.parametrize(
        "text", [_SSL_REQUEST, _HOST.encode()], ids=["request", "greeting with the name"]
    )
    def test_that_is_cut(
        self, network: Proxy, authority: _Authority, text: bytes, answered: bool
    ) -> None:
        threads = set(threading.enumerate())
        network.cut_at(text, answered=answered)
        with pytest.raises(Unavailable, match="check the URL and the server") as caught:
            connect(_verified(network, authority), migrate=False)
        assert _SECRET not in f"{caught.value} {caught.value!r}"
        until(lambda: network.connections == 0)
        until(lambda: set(threading.enumerate()) <= threads)

        attempts = _Attempts()
        network.cut_at(text, answered=answered)
        url = _verified(network, authority)
        with connect(url, migrate=False, start_timeout=5, observer=attempts) as db:
            assert attempts.number == 2
            assert _is_encrypted(db)

    @LINUX
    def test_that_falls_silent(self, network: Proxy, authority: _Authority) -> None:
        threads = set(threading.enumerate())
        sockets = len(os.listdir("/proc/self/fd"))
        network.delay = 0.3

        def swallow() -> None:
            until(lambda: network.connections == 1)
            network.black_hole()

        swallowing = threading.Thread(target=swallow)
        swallowing.start()
        with pytest.raises(Unavailable, match="timeout expired") as caught:
            connect(_verified(network, authority), migrate=False, connect_timeout=1)
        swallowing.join()
        assert _SECRET not in f"{caught.value} {caught.value!r}"
        network.heal()
        until(lambda: network.connections == 0)
        until(lambda: set(threading.enumerate()) <= threads)
        assert len(os.listdir("/proc/self/fd")) == sockets
        with connect(_verified(network, authority), migrate=False) as db:
            assert _is_encrypted(db)


class TestAPool:
    def test_heals(
        self,
        server: PostgresServer,
        network: Proxy,
        authority: _Authority,
        tmp_path: Path,
        record_fault: RecordFault,
    ) -> None:
        lost, slowest = 0, 0.0
        with psycopg.connect(server.url, autocommit=True) as admin:
            with connect(_verified(network, authority), migrate=False, pool_size=4) as db:
                faults: list[Callable[[], int]] = [lambda: kill_sessions(admin), network.cut]
                with writers(db, tmp_path / "ledger", threads=4) as at_work:
                    for lose in faults * 3:
                        lost += lose()
                        slowest = max(slowest, at_work.until_all_wrote())
                verdict = at_work.verdict(lambda: found(db))
                assert verdict.sound, verdict
                assert len(use_all(db, 4)) == 4
                assert (db.stats().size, db.stats().in_use, db.stats().waiting) == (4, 0, 0)
                for _ in range(4):
                    assert in_thread(lambda: _is_encrypted(db))
        record_fault(
            "sessions killed and cut under load, over TLS",
            times=lost,
            acknowledged=verdict.acknowledged,
            lost=len(verdict.lost),
            duplicated=len(verdict.duplicated),
            recovery=slowest,
        )

    def test_is_told_what_is_wrong_and_heals_when_that_is_corrected(
        self, network: Proxy, authority: _Authority, stranger: _Authority, tmp_path: Path
    ) -> None:
        trusted = tmp_path / "trusted.pem"
        trusted.write_bytes(authority.path.read_bytes())
        query = {"sslmode": "verify-full", "sslrootcert": trusted}
        with connect(_url(network, query), migrate=False, pool_size=2) as db:
            assert len(use_all(db, 2)) == 2
            trusted.write_bytes(stranger.path.read_bytes())
            network.cut()
            for _ in range(3):
                with pytest.raises(ConfigurationError, match="verify failed.*sslrootcert"):
                    db.run(lambda txn: txn.value("SELECT 1"))
            assert (db.stats().in_use, db.stats().waiting) == (0, 0)
            trusted.write_bytes(authority.path.read_bytes())
            assert len(use_all(db, 2)) == 2
            assert _is_encrypted(db)
