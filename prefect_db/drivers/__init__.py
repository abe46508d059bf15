"""The registry of drivers: two of our own, others by the entry-point group `prefect_db.drivers`,
where an entry's name is a URL scheme and its value a class."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Final

from prefect_db.drivers.base import Driver
from prefect_db.errors import ConfigurationError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

GROUP: Final = "prefect_db.drivers"

# Reading the entry points of all installed packages takes longer than opening a SQLite file.
_OWN: Final = {
    "sqlite": ("prefect_db.drivers.sqlite", "SQLiteDriver"),
    "postgresql": ("prefect_db.drivers.postgres", "PostgresDriver"),
}


def find(scheme: str) -> Driver:
    """The driver for a URL scheme, imported only now.

    Raises:
        ConfigurationError: There is none, there are two, or it cannot be imported.
    """
    try:
        if scheme in _OWN:
            module, name = _OWN[scheme]
            own: Driver = getattr(import_module(module), name)()
            return own
        driver: Driver = _entry(scheme).load()()
    except (ImportError, AttributeError) as error:
        hint = "; install prefect-db[binary], or libpq" if scheme == "postgresql" else ""
        raise ConfigurationError(
            f"the driver for {scheme}:// cannot be imported: {error}{hint}"
        ) from error
    return driver


def _entry(scheme: str) -> EntryPoint:
    # Only here: with all that it imports, it takes longer than the rest of the library.
    from importlib.metadata import entry_points

    entries = list(entry_points(group=GROUP))
    found = {entry.value: entry for entry in entries if entry.name == scheme}
    if not found:
        known = sorted({*_OWN, *(entry.name for entry in entries)})
        raise ConfigurationError(f"no driver for {scheme}://; there is one for {', '.join(known)}")
    if len(found) > 1:
        origins = (f"{e.value} of {e.dist.name if e.dist else '?'}" for e in found.values())
        raise ConfigurationError(
            f"two drivers for {scheme}://: {', '.join(origins)}; uninstall one, or pass"
            " connect(driver=...)"
        )
    return next(iter(found.values()))
