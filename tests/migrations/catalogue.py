"""What a database consists of, as its own catalogue tells it."""

from __future__ import annotations

import re
from collections import defaultdict
from typing import Final, NamedTuple

from prefect_db import Queryable

_TOKEN: Final = re.compile(r"'[^']*'|\"[^\"]*\"|--[^\n]*|\s+|[(),]|[^\s(),'\"-]+|-")


def catalogue(db: Queryable) -> dict[str, set[str]]:
    """The definitions of all columns, constraints, indexes and so on, by table or other name.

    The order of columns is left out: it is another one after a migration that adds a column.
    """
    found: dict[str, set[str]] = defaultdict(set)
    if db.dialect.name == "sqlite":
        for kind, table, sql in db.rows(
            "SELECT type, tbl_name, sql FROM sqlite_master WHERE sql IS NOT NULL"
        ):
            found[table].update(_parts(sql) if kind == "table" else {"".join(_tokens(sql))})
    else:
        for name, definition in db.rows(_POSTGRES):
            found[name].add(definition)
    return dict(found)


def _tokens(sql: str) -> list[str]:
    """Without comments, needless quotes and needless white space."""
    tokens = [token.strip('"') for token in _TOKEN.findall(sql) if not token.startswith("--")]
    text = "".join(" " if token.isspace() else token for token in tokens)
    return _TOKEN.findall(re.sub(r" *([(),]) *", r"\1", re.sub(" +", " ", text)).strip())


def _parts(create_table: str) -> set[str]:
    """The definitions between the outer parentheses of a CREATE TABLE, and what follows them."""
    tokens = _tokens(create_table)
    parts = [""]
    depth = 1
    for token in tokens[tokens.index("(") + 1 :]:
        depth += (token == "(") - (token == ")")
        if (depth == 1 and token == ",") or (depth == 0 and token == ")"):
            parts.append("")
        else:
            parts[-1] += token
    return {part for part in parts if part}


_POSTGRES: Final = """
WITH relation AS (SELECT * FROM pg_class WHERE relnamespace = current_schema()::regnamespace)
SELECT relname::text AS name, format(
    '%s %s%s%s', attname, format_type(atttypid, atttypmod),
    CASE WHEN attnotnull THEN ' NOT NULL' END, ' DEFAULT ' || pg_get_expr(adbin, adrelid)
) AS definition
FROM relation JOIN pg_attribute ON attrelid = relation.oid AND attnum > 0 AND NOT attisdropped
LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
WHERE relkind <> 'i'
UNION ALL
SELECT relname, conname || ' ' || pg_get_constraintdef(pg_constraint.oid)
FROM relation JOIN pg_constraint ON conrelid = relation.oid WHERE contype <> 'n'
UNION ALL
SELECT relname, pg_get_indexdef(indexrelid) || CASE WHEN indisvalid THEN '' ELSE ' invalid' END
FROM relation JOIN pg_index ON indrelid = relation.oid
UNION ALL
SELECT relname, pg_get_triggerdef(pg_trigger.oid)
FROM relation JOIN pg_trigger ON tgrelid = relation.oid WHERE NOT tgisinternal
UNION ALL
SELECT relname, pg_get_viewdef(oid) FROM relation WHERE relkind IN ('v', 'm')
UNION ALL
SELECT typname, string_agg(enumlabel, ', ' ORDER BY enumsortorder)
FROM pg_type JOIN pg_enum ON enumtypid = pg_type.oid GROUP BY typname
UNION ALL
SELECT proname, pg_get_functiondef(oid)
FROM pg_proc WHERE pronamespace = current_schema()::regnamespace AND prokind = 'f'
"""


class ForeignKey(NamedTuple):
    table: str
    column: str
    parent: str
    on_delete: str


class Logical(NamedTuple):
    """What both engines must have alike, in SQLite's words; so without `flow_run_tag`, which does
    on SQLite what an index does on PostgreSQL.
    """

    columns: set[tuple[str, str, str, bool]]
    unique: set[tuple[str, frozenset[str]]]
    foreign_keys: set[ForeignKey]


_SQLITE_TYPE: Final = {
    "uuid": "CHAR(36)",
    "timestamp with time zone": "DATETIME",
    "interval": "DATETIME",
    "boolean": "BOOLEAN",
    "json": "JSON",
    "jsonb": "JSON",
    "state_type": "VARCHAR(9)",
    "character varying": "VARCHAR",
    "text": "TEXT",
    "integer": "INTEGER",
    "smallint": "SMALLINT",
}


def logical(db: Queryable) -> Logical:
    """The columns with their types and whether they must have a value, what is unique (primary
    keys too) and the foreign keys."""
    columns, unique, foreign_keys = db.dialect.pick(
        sqlite=(
            'SELECT m.name, c.name, c.type, c."notnull" FROM sqlite_master AS m'
            " JOIN pragma_table_info(m.name) AS c WHERE m.type = 'table'",
            "SELECT m.name, i.name, c.name FROM sqlite_master AS m"
            " JOIN pragma_index_list(m.name) AS i JOIN pragma_index_info(i.name) AS c"
            " WHERE m.type = 'table' AND i.\"unique\" AND NOT i.partial",
            'SELECT m.name, f."from", f."table", f.on_delete FROM sqlite_master AS m'
            " JOIN pragma_foreign_key_list(m.name) AS f WHERE m.type = 'table'",
        ),
        postgres=(
            "SELECT relname::text, attname::text, format_type(atttypid, atttypmod), attnotnull"
            " FROM pg_class JOIN pg_attribute ON attrelid = pg_class.oid"
            " WHERE relnamespace = current_schema()::regnamespace AND relkind = 'r' AND attnum > 0"
            " AND NOT attisdropped",
            "SELECT relname::text, indexrelid::text, attname::text"
            " FROM pg_class JOIN pg_index ON indrelid = pg_class.oid"
            " JOIN pg_attribute ON attrelid = indrelid AND attnum = ANY(indkey)"
            " WHERE relnamespace = current_schema()::regnamespace"
            " AND indisunique AND indpred IS NULL",
            "SELECT conrelid::regclass::text, attname::text, confrelid::regclass::text,"
            " CASE confdeltype WHEN 'c' THEN 'CASCADE' WHEN 'n' THEN 'SET NULL' ELSE 'other' END"
            " FROM pg_constraint JOIN pg_attribute ON attrelid = conrelid AND attnum = ANY(conkey)"
            " WHERE contype = 'f'",
        ),
    )
    indexes: dict[tuple[str, str], set[str]] = defaultdict(set)
    for table, index, column in db.rows(unique):
        if table != "flow_run_tag":
            indexes[table, index].add(column)
    return Logical(
        {
            (table, column, _SQLITE_TYPE.get(type_, type_), bool(required))
            for table, column, type_, required in db.rows(columns)
            if table != "flow_run_tag"
        },
        {(table, frozenset(index)) for (table, _), index in indexes.items()},
        {ForeignKey(*row) for row in db.rows(foreign_keys)},
    )
