"""A real Prefect's models over one database."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from typing import Any, TypeVar

from prefect.context import SettingsContext, get_settings_context
from prefect.server.database import dependencies
from prefect.server.database.configurations import (
    AioSqliteConfiguration,
    AsyncPostgresConfiguration,
    BaseDatabaseConfiguration,
)
from prefect.server.database.interface import PrefectDBInterface
from prefect.server.database.orm_models import (
    AioSqliteORMConfiguration,
    AsyncPostgresORMConfiguration,
)
from prefect.server.database.query_components import (
    AioSqliteQueryComponents,
    AsyncPostgresQueryComponents,
)
from prefect.settings import PREFECT_API_DATABASE_CONNECTION_URL, temporary_settings

T = TypeVar("T")


class Prefect:
    """Prefect's server without its HTTP: what its routes call, on the database of a URL.

    `read` and `write` take an async function of a session, mostly one of `prefect.server.models`,
    and what else it takes: `prefect.read(models.flows.read_flow, flow_id)`. A `write` is one
    committed transaction.
    """

    def __init__(self, url: str) -> None:
        self.url = alchemy_url(url)
        self._runner = asyncio.Runner()
        self._config: BaseDatabaseConfiguration
        if url.startswith("sqlite"):
            self._config = AioSqliteConfiguration(self.url)
            self._queries: Any = AioSqliteQueryComponents()
            self._orm: Any = AioSqliteORMConfiguration()
        else:
            self._config = AsyncPostgresConfiguration(self.url)
            self._queries = AsyncPostgresQueryComponents()
            self._orm = AsyncPostgresORMConfiguration()
        # Else it would know another database's key.
        self._queries.clear_configuration_value_cache_for_key("ENCRYPTION_KEY")

        # Once, as Prefect takes a third of a second to make settings.
        with temporary_settings({PREFECT_API_DATABASE_CONNECTION_URL: self.url}) as settings:
            self._settings = settings

    def __enter__(self) -> Prefect:
        return self

    def __exit__(self, *_: object) -> None:
        self._runner.close()

    @property
    def interface(self) -> PrefectDBInterface:
        """Prefect's name for its database: has the ORM classes as attributes."""
        return PrefectDBInterface(
            database_config=self._config, query_components=self._queries, orm=self._orm
        )

    def read(self, work: Callable[..., Awaitable[T]], *args: Any, **kwargs: Any) -> T:
        """The result of a unit of work that is not committed."""

        async def run() -> T:
            async with self.interface.session_context() as session:
                return await work(session, *args, **kwargs)

        return self.call(run)

    def write(self, work: Callable[..., Awaitable[T]], *args: Any, **kwargs: Any) -> T:
        """The result of a unit of work, committed."""

        async def run() -> T:
            async with self.interface.session_context(
                begin_transaction=True, with_for_update=True
            ) as session:
                return await work(session, *args, **kwargs)

        return self.call(run)

    def call(self, work: Callable[[], Awaitable[T]]) -> T:
        """The result of a unit of work that finds its own way to the database."""

        async def run() -> T:
            return await work()

        with warnings.catch_warnings(), ExitStack() as stack:
            # Its own are not ours to judge.
            warnings.simplefilter("ignore")
            profile = get_settings_context().profile
            stack.enter_context(SettingsContext(profile=profile, settings=self._settings))
            stack.enter_context(dependencies.temporary_database_config(self._config))
            stack.enter_context(dependencies.temporary_query_components(self._queries))
            stack.enter_context(dependencies.temporary_orm_config(self._orm))
            return self._runner.run(run())

    def upgrade(self) -> None:
        """Bring the schema up to date with Prefect's own migrations."""
        self.call(self.interface.create_db)


def alchemy_url(url: str) -> str:
    """The URL in SQLAlchemy's spelling, as a Prefect user has it in the settings."""
    scheme, _, rest = url.partition("://")
    return {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+asyncpg"}[scheme] + f"://{rest}"
