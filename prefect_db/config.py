"""Where the database is: the environment and URLs, made into `Settings`."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any, Final

from prefect_db.drivers.base import Options, Settings
from prefect_db.errors import ConfigurationError, listing

BACKENDS: Final = {"sqlite": "sqlite", "postgres": "postgresql"}
DEFAULTS: Final = Options(
    pool_size=10,
    pool_timeout=30.0,
    connect_timeout=10.0,
    start_timeout=0.0,
    application_name="prefect_db",
    pgbouncer=False,
    busy_timeout=5.0,
    synchronous="NORMAL",
    readers=1,
)

_URL: Final = re.compile(r"([a-z][a-z0-9_.-]*)(?:\+[a-z0-9_]+)?://(.*)", re.IGNORECASE | re.DOTALL)
_HOST: Final = r"(?:[\w.%-]*|\[[\w:.%]*\])(?::\d*)?"
_PLACE: Final = re.compile(rf"{_HOST}(?:,{_HOST})*(?:/.*)?", re.DOTALL)
_HARMLESS: Final = re.compile(r"[\w./\\ -]*")
_SHOWN_PARAMETERS: Final = frozenset(
    "application_name connect_timeout dbname host hostaddr options port service ssl sslmode"
    " sslrootcert target_session_attrs user".split()
)
# What asyncpg and SQLAlchemy take in a URL: libpq's word for it, or nothing if it has none.
_ASYNCPG_PARAMETERS: Final = {
    "ssl": "sslmode",
    "statement_cache_size": None,
    "prepared_statement_cache_size": None,
}
_FORMS: Final = (
    "sqlite:///relative/path, sqlite:////absolute/path, :memory: or"
    " postgresql://user:password@host:5432/database"
)


def load(
    url: str | None, options: Options, environment: Mapping[str, str] | None = None
) -> Settings:
    """The settings of a URL or, without one, of the environment.

    Raises:
        ConfigurationError: Names the variable, its value (never a password) and what it takes.
    """
    checked = _check_options(options)
    if url is not None:
        return _from_url("the URL", url, checked)
    return _from_environment(os.environ if environment is None else environment, checked)


def _from_environment(environment: Mapping[str, str], options: Options) -> Settings:
    backend = environment.get("PREFECT_DATABASE_BACKEND", "")
    path = environment.get("PREFECT_DATABASE_PATH", "") or "prefect.db"
    url = environment.get("PREFECT_DATABASE_URL", "")
    if backend and backend not in BACKENDS:
        raise ConfigurationError(
            f"PREFECT_DATABASE_BACKEND is {mask(backend)!r}; it takes {listing(list(BACKENDS))}"
        )
    if backend == "postgres" and not url:
        raise ConfigurationError(
            "PREFECT_DATABASE_BACKEND is 'postgres' and PREFECT_DATABASE_URL is not set; set it to"
            " postgresql://user:password@host:5432/database"
        )
    if "://" in path:
        raise ConfigurationError(
            f"PREFECT_DATABASE_PATH is {mask(path)!r}; it takes a file's path, and a URL belongs"
            " into PREFECT_DATABASE_URL"
        )
    if not url:
        return _sqlite(path, options)
    settings = _from_url("PREFECT_DATABASE_URL", url, options)
    if backend == "sqlite" and settings.scheme != "sqlite":
        return _sqlite(path, options)
    if backend == "postgres" and settings.scheme != "postgresql":
        raise ConfigurationError(
            f"PREFECT_DATABASE_BACKEND is 'postgres' and PREFECT_DATABASE_URL is {settings.masked};"
            " it takes postgresql://user:password@host:5432/database"
        )
    return settings


def _sqlite(path: str, options: Options) -> Settings:
    masked = path if path == ":memory:" else f"sqlite:///{path}"
    return Settings("PREFECT_DATABASE_PATH", "sqlite", "", path, masked, options)


def _from_url(name: str, url: str, options: Options) -> Settings:
    if url == ":memory:":
        return Settings(name, "sqlite", "", url, url, options)
    masked = mask(url)
    parts = _URL.fullmatch(url)
    if parts is None:
        raise ConfigurationError(f"{name} is {masked!r}, which is no URL; it takes {_FORMS}")
    scheme, rest = parts[1].lower(), parts[2]
    if scheme in ("postgres", "postgresql"):
        _check_hosts(name, masked, rest)
        if url[len(scheme) :].lower().startswith("+asyncpg:"):
            rest = _for_libpq(rest)
        return Settings(name, "postgresql", f"postgresql://{rest}", "", masked, options)
    path, question, _ = rest.partition("?")
    if scheme == "sqlite" and (question or (path and not path.startswith("/"))):
        raise ConfigurationError(
            f"{name} is {masked!r}; a SQLite URL has three slashes before a relative path, four"
            " before an absolute one, and no host or query: sqlite:///relative/path"
        )
    return Settings(name, scheme, url, path.removeprefix("/") or ":memory:", masked, options)


def _for_libpq(rest: str) -> str:
    """A URL of Prefect's settings, after its scheme, with the parameters that libpq knows."""
    head, question, query = rest.partition("?")
    kept = []
    for parameter in query.split("&"):
        key, equals, value = parameter.partition("=")
        known = _ASYNCPG_PARAMETERS.get(key, key)
        kept += [f"{known}{equals}{value}"] if known and parameter else []
    return f"{head}{question if kept else ''}{'&'.join(kept)}"


def _check_hosts(name: str, masked: str, rest: str) -> None:
    """Refuse what libpq would take for a host or port, and tell, though it is of a password."""
    authority = re.split("[/?]", rest, maxsplit=1)[0]
    credentials, _, hosts = authority.rpartition("@")
    if "@" in credentials or not _PLACE.fullmatch(hosts):
        raise ConfigurationError(
            f"{name} is {masked}, which is no PostgreSQL URL; it takes"
            " postgresql://user:password@host:5432/database, with a number as port and special"
            " characters of the password percent-encoded"
        )


def mask(url: str) -> str:
    """The URL without anything that may be a password, or a part of one that is misplaced."""
    parts = _URL.fullmatch(url)
    if parts is None:
        return url if url == ":memory:" or _HARMLESS.fullmatch(url) else "***"
    scheme = url.partition("://")[0]
    head, question, query = parts[2].partition("?")
    credentials, at, place = head.rpartition("@")
    if "@" in query or "/" in credentials or not _PLACE.fullmatch(place):
        return f"{scheme}://***"
    user, colon, _ = credentials.partition(":")
    shown = "&".join(_mask_parameter(parameter) for parameter in query.split("&"))
    return f"{scheme}://{user}{colon and ':***'}{at}{place}{question}{shown if question else ''}"


def _mask_parameter(parameter: str) -> str:
    name = parameter.partition("=")[0]
    if name in _SHOWN_PARAMETERS:
        return parameter
    return f"{name}=***" if name in ("password", "sslpassword") else "***"


def _check_options(options: Options) -> Options:
    for name, value in options.items():
        if name not in DEFAULTS:
            raise ConfigurationError(f"no option {name}; there are {', '.join(DEFAULTS)}")
        problem = _problem(name, value)
        if problem:
            raise ConfigurationError(f"{name}={value!r}; {problem}")
    return DEFAULTS | options


def _problem(name: str, value: Any) -> str:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if name in ("pool_size", "readers") and not (isinstance(value, int) and number and value >= 1):
        return "it takes a whole number from 1"
    if name.endswith("_timeout") and not (number and 0 <= value < float("inf")):
        return "it takes a number of seconds from 0"
    if name == "synchronous" and value not in ("OFF", "NORMAL", "FULL", "EXTRA"):
        return "it takes OFF, NORMAL, FULL or EXTRA"
    if name == "pgbouncer" and not isinstance(value, bool):
        return "it takes True or False"
    if name == "application_name" and not isinstance(value, str):
        return "it takes a text"
    return ""
