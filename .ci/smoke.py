"""The installed wheel works on SQLite, and holds what it needs."""

import sys
from importlib.resources import files

import prefect_db

assert prefect_db.__file__.startswith(sys.prefix), f"not the wheel: {prefect_db.__file__}"

with prefect_db.connect("sqlite:///smoke.db") as db:
    db.execute("CREATE TABLE smoke (id integer PRIMARY KEY, data json)")
    with db.transaction() as txn:
        txn.execute("INSERT INTO smoke (id, data) VALUES (?, ?)", (1, {"a": [1]}))
    row = db.row("SELECT id, data FROM smoke")
    assert row is not None
    assert (row.int("id"), row.json("data")) == (1, {"a": [1]})
    assert db.value("SELECT count(*) FROM flow") == 0, "the migrations did not run"

loaded = [name for name in sys.modules if name.partition(".")[0] in ("psycopg", "psycopg_pool")]
assert not loaded, f"SQLite must work without libpq, but these were imported: {loaded}"

package = files("prefect_db")
assert (package / "py.typed").is_file()
migrations = [entry for entry in (package / "migrations").iterdir() if entry.name[0].isdigit()]
assert migrations
for folder in [package / "schema", *migrations]:
    for engine in ("sqlite", "postgres"):
        assert (folder / f"{engine}.sql").is_file(), f"{folder}/{engine}.sql is missing"

print(f"prefect-db {prefect_db.__version__}: the wheel works on SQLite")
