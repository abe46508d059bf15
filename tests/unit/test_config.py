"""Where the database is: the environment, URLs, options; and what is never told."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from psycopg.conninfo import conninfo_to_dict

from prefect_db import config, connect, drivers
from prefect_db.drivers.base import Settings
from prefect_db.drivers.postgres import PostgresDriver
from prefect_db.drivers.sqlite import SQLiteDriver, make_file
from prefect_db.errors import ConfigurationError

POSTGRES_URL = "postgresql://user:secret@host:5432/name"


def from_environment(**variables: str) -> Settings:
    prefixed = {f"PREFECT_DATABASE_{name}": value for name, value in variables.items()}
    return config.load(None, {}, prefixed)


def from_url(url: str) -> Settings:
    return config.load(url, {}, {})


class TestEnvironment:
    def test_without_any_variable_it_is_a_sqlite_file_here(self) -> None:
        found = from_environment()
        assert (found.scheme, found.path) == ("sqlite", "prefect.db")

    @pytest.mark.parametrize(
        "variables", [{}, {"BACKEND": ""}, {"BACKEND": "sqlite"}, {"BACKEND": "sqlite", "URL": ""}]
    )
    @pytest.mark.parametrize("path", ["x.db", "/a/b.db", "a/x.db", ":memory:", "a ?%20#ä.db"])
    def test_the_path_names_the_sqlite_file(self, variables: dict[str, str], path: str) -> None:
        found = from_environment(**variables, PATH=path)
        assert (found.scheme, found.path) == ("sqlite", path)

    def test_an_empty_path_is_the_default(self) -> None:
        assert from_environment(PATH="").path == "prefect.db"

    @pytest.mark.parametrize("backend", [{}, {"BACKEND": ""}, {"BACKEND": "postgres"}])
    def test_the_url_names_the_postgresql_database(self, backend: dict[str, str]) -> None:
        found = from_environment(**backend, URL=POSTGRES_URL, PATH="x.db")
        assert (found.scheme, found.url) == ("postgresql", POSTGRES_URL)

    @pytest.mark.parametrize("backend", [{}, {"BACKEND": "sqlite"}])
    def test_the_url_may_name_a_sqlite_file(self, backend: dict[str, str]) -> None:
        found = from_environment(**backend, URL="sqlite:///from-url.db")
        assert (found.scheme, found.path) == ("sqlite", "from-url.db")

    def test_the_backend_decides_when_the_url_is_of_another(self) -> None:
        found = from_environment(BACKEND="sqlite", URL=POSTGRES_URL, PATH="x.db")
        assert (found.scheme, found.path) == ("sqlite", "x.db")

    @pytest.mark.parametrize("backend", ["mysql", "SQLite", "postgresql", " sqlite", "0"])
    def test_an_unknown_backend_is_refused(self, backend: str) -> None:
        with pytest.raises(ConfigurationError) as caught:
            from_environment(BACKEND=backend)
        message = str(caught.value)
        assert f"PREFECT_DATABASE_BACKEND is {backend!r}" in message
        assert "sqlite or postgres" in message

    @pytest.mark.parametrize("variables", [{}, {"URL": ""}, {"PATH": "x.db"}])
    def test_postgres_without_a_url_is_refused(self, variables: dict[str, str]) -> None:
        with pytest.raises(ConfigurationError, match="PREFECT_DATABASE_URL is not set"):
            from_environment(BACKEND="postgres", **variables)

    @pytest.mark.parametrize(
        "url", ["sqlite:///x.db", ":memory:", "sqlite+aiosqlite:///x.db", "mysql://host/name"]
    )
    def test_postgres_with_a_url_of_another_database_is_refused(self, url: str) -> None:
        with pytest.raises(ConfigurationError) as caught:
            from_environment(BACKEND="postgres", URL=url)
        message = str(caught.value)
        assert "PREFECT_DATABASE_BACKEND" in message
        assert f"PREFECT_DATABASE_URL is {url}" in message
        assert "it takes postgresql://" in message

    @pytest.mark.parametrize("url", ["x", "localhost", "/a/b.db", "://", "5432://host", "a b://h"])
    def test_a_url_that_is_none_is_refused(self, url: str) -> None:
        with pytest.raises(ConfigurationError) as caught:
            from_environment(URL=url)
        message = str(caught.value)
        assert "PREFECT_DATABASE_URL is" in message
        assert "sqlite:///relative/path" in message
        assert "postgresql://" in message

    def test_a_url_in_code_comes_before_the_environment(self) -> None:
        found = config.load("sqlite:///x.db", {}, {"PREFECT_DATABASE_BACKEND": "nonsense"})
        assert found.path == "x.db"

    def test_it_is_the_environment_of_the_process(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PREFECT_DATABASE_BACKEND", "sqlite")
        monkeypatch.setenv("PREFECT_DATABASE_PATH", "/from/the/environment")
        assert config.load(None, {}).path == "/from/the/environment"


class TestSqliteUrl:
    @pytest.mark.parametrize(
        ("url", "path"),
        [
            (":memory:", ":memory:"),
            ("sqlite://", ":memory:"),
            ("sqlite:///", ":memory:"),
            ("sqlite:///:memory:", ":memory:"),
            ("sqlite:///relative.db", "relative.db"),
            ("sqlite:///a/relative.db", "a/relative.db"),
            ("sqlite:////absolute.db", "/absolute.db"),
            ("sqlite+aiosqlite:///relative.db", "relative.db"),
            ("sqlite+aiosqlite:////a/b c%20ä.db", "/a/b c%20ä.db"),
            ("sqlite+pysqlite:///x", "x"),
            ("SQLite:///X", "X"),
        ],
    )
    def test_it_names_the_file(self, url: str, path: str) -> None:
        found = from_url(url)
        assert (found.scheme, found.path) == ("sqlite", path)

    @pytest.mark.parametrize(
        "url", ["sqlite://x.db", "sqlite://host/x.db", "sqlite:///x.db?mode=ro", "sqlite://?a=b"]
    )
    def test_a_host_or_a_query_is_refused(self, url: str) -> None:
        with pytest.raises(ConfigurationError, match="three slashes before a relative path") as got:
            from_url(url)
        assert repr(config.mask(url)) in str(got.value)

    @pytest.mark.parametrize(
        "url", ["", " ", "x.db", "sqlite:x.db", "sqlite:/x.db", "file:x.db?mode=ro", "sqlite"]
    )
    def test_what_is_no_url_is_refused(self, url: str) -> None:
        with pytest.raises(ConfigurationError, match="no URL") as caught:
            from_url(url)
        assert "the URL is" in str(caught.value)


class TestPostgresUrl:
    @pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+asyncpg"])
    @pytest.mark.parametrize(
        "rest",
        [
            "",
            "/",
            "host",
            "host:5432/name",
            "user:secret@host/name",
            "user:s%40%2F%3F@host:5432/na%20me",
            "one:1,two:2,[::1]:3/name?target_session_attrs=read-write",
            "/name?host=/var/run&service=x",
            "host/name?sslmode=verify-full&sslrootcert=/a/b.pem&options=-c%20a%3Db",
            "user@host/name?connect_timeout=1#x",
        ],
    )
    def test_libpq_gets_the_rest_untouched(self, scheme: str, rest: str) -> None:
        found = from_url(f"{scheme}://{rest}")
        assert (found.scheme, found.url) == ("postgresql", f"postgresql://{rest}")

    @pytest.mark.parametrize(
        "scheme",
        [
            "postgresql+psycopg2",
            "postgresql+psycopg_async",
            "postgres+asyncpg",
            "PostgreSQL+AsyncPG",
        ],
    )
    def test_the_driver_of_sqlalchemy_is_left_out(self, scheme: str) -> None:
        assert from_url(f"{scheme}://u:p@h/d").url == "postgresql://u:p@h/d"

    def test_libpq_understands_it(self) -> None:
        found = from_url("postgresql+asyncpg://us%40er:s%3Acret@one:1,two:2/name?sslmode=require")
        assert conninfo_to_dict(found.url) == {
            "user": "us@er",
            "password": "s:cret",
            "host": "one,two",
            "port": "1,2",
            "dbname": "name",
            "sslmode": "require",
        }

    @pytest.mark.parametrize(
        ("query", "for_libpq"),
        [
            ("?ssl=require", "?sslmode=require"),
            ("?ssl=verify-full&connect_timeout=5", "?sslmode=verify-full&connect_timeout=5"),
            ("?prepared_statement_cache_size=0", ""),
            ("?statement_cache_size=0&ssl=disable&host=/a", "?sslmode=disable&host=/a"),
            ("?sslmode=require", "?sslmode=require"),
            ("?nonsense=ssl", "?nonsense=ssl"),
            ("?", ""),
            ("", ""),
        ],
    )
    def test_what_asyncpg_alone_knows_is_said_in_libpqs_words(
        self, query: str, for_libpq: str
    ) -> None:
        for scheme in ("postgresql+asyncpg", "postgres+ASYNCPG"):
            assert from_url(f"{scheme}://h/d{query}").url == f"postgresql://h/d{for_libpq}"

    def test_other_urls_are_libpqs_own(self) -> None:
        assert from_url("postgresql://h/d?ssl=require").url == "postgresql://h/d?ssl=require"

    @pytest.mark.parametrize(
        "rest",
        [
            "[::1/name",
            "host/name?nonsense=1",
            "user:%zz@host/name",
            "127.0.0.1:port/name",
            "127.0.0.1:1/name?connect_timeout=soon",
        ],
    )
    def test_what_libpq_does_not_understand_is_refused(self, rest: str) -> None:
        with pytest.raises(ConfigurationError, match="no PostgreSQL URL"):
            PostgresDriver().open(from_url(f"postgresql://{rest}"))


class TestOtherDrivers:
    def test_another_scheme_keeps_its_whole_url(self) -> None:
        found = from_url("duck+db://user:secret@host/path?x=1")
        assert found.scheme == "duck"
        assert found.url == "duck+db://user:secret@host/path?x=1"

    @pytest.mark.parametrize(
        ("url", "path"),
        [("duck:///a.db", "a.db"), ("duck:////a.db", "/a.db"), ("duck://", ":memory:")],
    )
    def test_its_path_is_that_of_a_file(self, url: str, path: str) -> None:
        assert from_url(url).path == path

    def test_the_own_drivers_are_found(self) -> None:
        assert isinstance(drivers.find("sqlite"), SQLiteDriver)
        assert isinstance(drivers.find("postgresql"), PostgresDriver)

    def test_a_scheme_without_a_driver_is_refused(self) -> None:
        with pytest.raises(ConfigurationError, match="no driver for mysql://") as caught:
            drivers.find("mysql")
        assert "postgresql, sqlite" in str(caught.value)

    def test_the_refusal_names_the_url(self) -> None:
        with pytest.raises(ConfigurationError, match=r"mysql://u:\*\*\*@host/name"):
            connect("mysql://u:secret@host/name")

    def test_the_refusal_names_the_variable(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("PREFECT_DATABASE_BACKEND", raising=False)
        monkeypatch.setenv("PREFECT_DATABASE_URL", "mysql://u:secret@host/name")
        with pytest.raises(ConfigurationError, match="PREFECT_DATABASE_URL") as caught:
            connect()
        assert "secret" not in str(caught.value)


# Where a person may put a password, rightly or not.
PASSWORD_URLS = [
    "postgresql://user:{}@host:5432/name",
    "postgresql+asyncpg://user:{}@host/name",
    "postgresql://:{}@host",
    "postgresql://user:{}@one:1,two:2/name?sslmode=require",
    "postgresql://user@domain:{}@host/name",
    "postgresql://us/er:{}@host/name",
    "postgresql://us?er:{}@host/name",
    "postgresql://user:{}@",
    "postgresql://host/name?password={}",
    "postgresql://host:5432/name?user=x&password={}",
    "postgresql://host:5432/name?PassWord={}&user=x",
    "postgresql://host/name?sslpassword={}",
    "postgresql://host/name?p%61ssword={}",
    "postgresql://host/name?oauth_client_secret={}",
    "postgresql://user:hunter@host/name?password={}",
    "mysql://user:{}@host/name",
    "duck+db://user:{}@host/name?password={}",
    "sqlite://user:{}@host/name",
    "sqlite+aiosqlite://:{}@host",
    "sqlite:///x.db?password={}",
    "user:{}@host/name",
    "//user:{}@host/name",
    "://user:{}@host/name",
    "postgresql:user:{}@host/name",
    "postgresql:/user:{}@host/name",
    " postgresql://user:{}@host/name",
    "'postgresql://user:{}@host/name'",
    "jdbc:postgresql://user:{}@host/name",
    "host=host password={} dbname=name",
    "host=host password='{}'",
    "password={}",
    "PGPASSWORD={}",
]
PASSWORDS = st.text("aZ09!$%*+,-./:;=?@^_|~#[]()ä😀 ", max_size=12).map("hunter{}bunny".format)


def all_that_is_told(make: Any) -> str:
    """What a log could hold of the settings, or of the error instead of them."""
    try:
        found = make()
    except ConfigurationError as error:
        return f"{error} {error!r} {error.__dict__} {error.__cause__!r}"
    return f"{found} {found!r} {found.masked}"


class TestPasswords:
    @pytest.mark.parametrize("url", PASSWORD_URLS)
    def test_a_password_is_never_told(self, url: str) -> None:
        for make in (
            lambda: from_url(url.format("hunter", "hunter")),
            lambda: from_environment(URL=url.format("hunter", "hunter")),
        ):
            assert "hunter" not in all_that_is_told(make)

    @given(st.sampled_from(PASSWORD_URLS), PASSWORDS)
    @example("postgresql://host:5432/name?password={}", "hunter@bunny")
    @example("postgresql://user:{}@host/name", "hunter/@:?bunny")
    @example("postgresql://user:{}@host/name", "hunter\nbunny")
    @settings(deadline=None, max_examples=300)
    def test_no_part_of_any_password_is_told(self, url: str, password: str) -> None:
        told = all_that_is_told(lambda: from_url(url.format(password, password)))
        assert "hunter" not in told
        assert "bunny" not in told

    @pytest.mark.parametrize("variable", ["BACKEND", "PATH"])
    def test_a_url_in_the_wrong_variable_is_not_told(self, variable: str) -> None:
        told = all_that_is_told(lambda: from_environment(**{variable: POSTGRES_URL}))
        assert "secret" not in told

    def test_what_libpq_does_not_understand_is_not_told(self) -> None:
        for url in ("postgresql://user:hunter%zz@host/name", "postgresql://u@127.0.0.1:hunter@h"):
            with pytest.raises(ConfigurationError) as caught:
                PostgresDriver().open(from_url(url))
            assert "hunter" not in str(caught.value)
            assert "hunter" not in str(caught.value.__cause__)

    @pytest.mark.parametrize(
        ("url", "masked"),
        [
            (POSTGRES_URL, "postgresql://user:***@host:5432/name"),
            ("postgresql://user@host:5432/name", "postgresql://user@host:5432/name"),
            ("postgresql://host:5432/name", "postgresql://host:5432/name"),
            (
                "postgresql://host/name?password=secret&user=x",
                "postgresql://host/name?password=***&user=x",
            ),
            ("sqlite:////a/b.db", "sqlite:////a/b.db"),
            (":memory:", ":memory:"),
        ],
    )
    def test_all_else_is_told(self, url: str, masked: str) -> None:
        assert config.mask(url) == masked
        assert from_url(url).masked == masked


class TestOptions:
    def test_what_is_not_given_has_its_default(self) -> None:
        assert from_url(":memory:").options == {
            "pool_size": 10,
            "pool_timeout": 30.0,
            "connect_timeout": 10.0,
            "start_timeout": 0.0,
            "application_name": "prefect_db",
            "pgbouncer": False,
            "busy_timeout": 5.0,
            "synchronous": "NORMAL",
            "readers": 1,
        }

    def test_what_is_given_is_taken(self) -> None:
        found = config.load(":memory:", {"pool_size": 3, "synchronous": "FULL"}, {})
        assert (found.options["pool_size"], found.options["synchronous"]) == (3, "FULL")
        assert found.options["readers"] == 1

    def test_the_defaults_are_left_alone(self) -> None:
        config.load(":memory:", {"pool_size": 3}, {}).options["readers"] = 7
        assert config.DEFAULTS["pool_size"] == 10
        assert config.DEFAULTS["readers"] == 1

    @pytest.mark.parametrize("url", [None, ":memory:", POSTGRES_URL])
    def test_they_are_taken_with_any_url(self, url: str | None) -> None:
        assert config.load(url, {"pool_size": 3}, {}).options["pool_size"] == 3

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            *[(name, value) for name in ("pool_size", "readers") for value in (1, 500)],
            *[
                (f"{name}_timeout", value)
                for name in ("pool", "start", "busy")
                for value in (0, 0.5, 60)
            ],
            *[("synchronous", value) for value in ("OFF", "NORMAL", "FULL", "EXTRA")],
            *[("pgbouncer", value) for value in (True, False)],
            ("application_name", "x"),
        ],
    )
    def test_right_values_are_taken(self, name: str, value: Any) -> None:
        options: Any = {name: value}
        assert dict(config.load(":memory:", options, {}).options)[name] == value

    @pytest.mark.parametrize(
        ("name", "value", "takes"),
        [
            *[
                (name, value, "a whole number from 1")
                for name in ("pool_size", "readers")
                for value in (0, -1, 1.0, "1", None, True)
            ],
            *[
                (f"{name}_timeout", value, "a number of seconds from 0")
                for name in ("pool", "connect", "start", "busy")
                for value in (-1, -0.1, "1", None, True, float("nan"), float("inf"))
            ],
            *[
                ("synchronous", value, "OFF, NORMAL, FULL or EXTRA")
                for value in ("normal", "", None, 1, True, "OFF; DROP TABLE flow")
            ],
            *[("pgbouncer", value, "True or False") for value in (1, 0, "yes", None)],
            *[("application_name", value, "a text") for value in (1, None, b"x")],
        ],
    )
    def test_wrong_values_are_refused(self, name: str, value: Any, takes: str) -> None:
        options: Any = {name: value}
        with pytest.raises(ConfigurationError) as caught:
            config.load(":memory:", options, {})
        assert f"{name}={value!r}; it takes {takes}" in str(caught.value)

    @pytest.mark.parametrize("name", ["poolsize", "password", "", "timeout"])
    def test_an_unknown_option_is_refused_without_its_value(self, name: str) -> None:
        options: Any = {name: "hunter"}
        with pytest.raises(ConfigurationError, match=f"no option {name};") as caught:
            config.load(":memory:", options, {})
        assert "pool_size, pool_timeout" in str(caught.value)
        assert "hunter" not in str(caught.value)


class TestFile:
    def test_it_is_made_for_its_owner_alone(self, tmp_path: Path) -> None:
        path = tmp_path / "new.db"
        make_file(str(path))
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert path.read_bytes() == b""

    def test_one_that_is_there_is_left_alone(self, tmp_path: Path) -> None:
        path = tmp_path / "old.db"
        path.write_bytes(b"content")
        path.chmod(0o644)
        make_file(str(path))
        assert stat.S_IMODE(path.stat().st_mode) == 0o644
        assert path.read_bytes() == b"content"

    def test_a_link_is_followed(self, tmp_path: Path) -> None:
        (tmp_path / "link.db").symlink_to(tmp_path / "target.db")
        for _ in range(2):
            make_file(str(tmp_path / "link.db"))
        assert stat.S_IMODE((tmp_path / "target.db").stat().st_mode) == 0o600

    def test_memory_is_no_file(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        SQLiteDriver().open(from_url(":memory:")).close()
        assert os.listdir(tmp_path) == []

    def test_a_missing_folder_is_named(self, tmp_path: Path) -> None:
        path = tmp_path / "missing" / "new.db"
        with pytest.raises(ConfigurationError) as caught:
            make_file(str(path))
        message = str(caught.value)
        assert f"the SQLite file {path}" in message
        assert f"the folder {tmp_path / 'missing'} does not exist" in message
        assert "PREFECT_DATABASE_PATH" in message

    def test_a_missing_relative_folder_is_named_in_full(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        with pytest.raises(ConfigurationError, match=str(tmp_path / "missing")):
            make_file("missing/new.db")

    def test_a_file_is_no_folder(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(ConfigurationError, match="PREFECT_DATABASE_PATH"):
            make_file(str(tmp_path / "file" / "new.db"))

    def test_a_folder_is_no_file(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigurationError, match="directory"):
            make_file(str(tmp_path))

    @pytest.mark.parametrize(
        "name", ["a\0b", "\ud800", "x" * 300], ids=["NUL", "surrogate", "long"]
    )
    def test_a_name_that_no_file_can_have_is_refused(self, tmp_path: Path, name: str) -> None:
        with pytest.raises(ConfigurationError, match="PREFECT_DATABASE_PATH"):
            make_file(f"{tmp_path}/{name}")

    def test_nothing_is_made_when_it_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigurationError):
            make_file(str(tmp_path / "missing" / "new.db"))
        assert os.listdir(tmp_path) == []
