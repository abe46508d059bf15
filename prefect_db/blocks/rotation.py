"""The key of the block documents is replaced while they are in use."""

from __future__ import annotations

from typing import Any, Final

from prefect_db import configuration
from prefect_db.blocks import encryption
from prefect_db.errors import BadValue
from prefect_db.queryable import Queryable
from prefect_db.values import Json

_LARGEST_BATCH: Final = 10_000
_MOST_NAMED: Final = 10


def rotate_key(db: Queryable, *, batch: int = 100) -> int:
    """Encrypt all block documents with a new key; how many were encrypted anew.

    Every document stays readable at every moment, and can be created and changed meanwhile. The
    work is done in short transactions; when it was interrupted, even by a kill, the next call
    goes on with it. Several may run at once. `updated` of the documents stays.

    With the key in the database, the new one is made and stored in one transaction, with the
    previous one beside it, which goes when no document needs it any more.

    With the key in PREFECT_SERVER_ENCRYPTION_KEY, the documents that are encrypted with another
    one are encrypted with it: with one of PREFECT_DB_ENCRYPTION_KEY_FALLBACKS (comma-separated),
    or with the key in the database. So, to give running processes a new key:

    1. add the new key to PREFECT_DB_ENCRYPTION_KEY_FALLBACKS of every process that uses the
       database, and restart them: from now on they can read what will be encrypted with it;
    2. make it PREFECT_SERVER_ENCRYPTION_KEY of every process, and the former one, unless it is in
       the database, PREFECT_DB_ENCRYPTION_KEY_FALLBACKS; restart them;
    3. call `rotate_key` in a process with these settings;
    4. remove PREFECT_DB_ENCRYPTION_KEY_FALLBACKS.

    To move from the environment into the database, unset PREFECT_SERVER_ENCRYPTION_KEY in the
    second step, with the key that it had as fallback.

    Prefect's own servers know one key, and remember it for long: stop those that use this database
    before, and start them after it.

    Args:
        db: A Backend: what is done is to be committed step by step.
        batch: How many documents are encrypted, and locked, in one transaction: 1 to 10000.

    Raises:
        BadValue: `batch` is out of bounds, or documents that are named are encrypted with none of
            the keys. The others have been encrypted anew, and the previous key stays. Delete
            them, or add their key to PREFECT_DB_ENCRYPTION_KEY_FALLBACKS, and call again.
        ConfigurationError: The package cryptography is missing, or a key of the environment is
            none.
        UsageError: `db` is a transaction.
        Retryable, Unavailable: Another transaction, or the network, got in the way: call again.
    """
    if type(batch) is not int or not 1 <= batch <= _LARGEST_BATCH:
        raise BadValue(f"batch={batch!r}; it is a whole number from 1 to {_LARGEST_BATCH}")
    key = _begin(db)
    total = 0
    while True:
        renewed, unreadable = _renew_all(db, batch)
        total += renewed
        # Again, until there was nothing left to do: who does not know of the new key, as a
        # forgotten server of Prefect's, may have written behind us.
        if not renewed:
            break
    if unreadable:
        named = ", ".join(unreadable[:_MOST_NAMED])
        more = ", ..." if len(unreadable) > _MOST_NAMED else ""
        raise BadValue(
            f"{len(unreadable)} block documents are encrypted with none of the keys: {named}{more}"
        )
    _end(db, key)
    return total


def _begin(db: Queryable) -> str | None:
    """The new key, stored, or the one of a rotation that was interrupted; None: the
    environment's."""
    if encryption.is_of_environment():
        return None
    new = {encryption.CURRENT: encryption.new_key()}
    with db.transaction(isolation="read committed") as txn:
        stored = _lock_keys(txn)
        if stored is None:
            configuration.setdefault(txn, encryption.ROW, new)
            stored = _lock_keys(txn)
        encryption.reading(stored)
        if encryption.PREVIOUS not in stored and stored != new:
            stored = {**stored, **new, encryption.PREVIOUS: stored[encryption.CURRENT]}
            configuration.set(txn, encryption.ROW, stored)
        return str(stored[encryption.CURRENT])


def _end(db: Queryable, key: str | None) -> None:
    """Forget the previous key, unless there is yet another one by now."""
    if key is None:
        return
    with db.transaction(isolation="read committed") as txn:
        stored = _lock_keys(txn) or {}
        if stored.get(encryption.CURRENT) == key and encryption.PREVIOUS in stored:
            del stored[encryption.PREVIOUS]
            configuration.set(txn, encryption.ROW, stored)


def _lock_keys(txn: Queryable) -> Any:
    """The value of the key row, or None, when all have ended who write with its key."""
    lock = txn.dialect.pick(sqlite="", postgres=" FOR NO KEY UPDATE")
    row = txn.row(f"SELECT value FROM configuration WHERE key = ?{lock}", (encryption.ROW,))
    return row.json("value") if row else None


def _renew_all(db: Queryable, batch: int) -> tuple[int, list[str]]:
    """How many documents were encrypted anew, and the ids of those that cannot be read."""
    total = 0
    unreadable: list[str] = []
    last: Any = None
    while True:
        where, params = ("", []) if last is None else (" WHERE id > ?", [last])
        with db.transaction(isolation="read committed") as txn:
            cipher = encryption.writing(txn)
            lock = txn.dialect.pick(sqlite="", postgres=" FOR NO KEY UPDATE")
            rows = txn.rows(
                f"SELECT id, data FROM block_document{where} ORDER BY id LIMIT ?{lock}",
                [*params, batch],
            )
            renewed: list[tuple[Json, Any]] = []
            for row in rows:
                last = row["id"]
                try:
                    token = cipher.renew(row.json("data"))
                except BadValue:
                    unreadable.append(str(last))
                    continue
                if token is not None:
                    renewed.append((Json(token), last))
            txn.executemany("UPDATE block_document SET data = ? WHERE id = ?", renewed)
        total += len(renewed)
        if len(rows) < batch:
            return total, unreadable
