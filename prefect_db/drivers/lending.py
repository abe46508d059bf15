"""Lending of connections, first come, first served."""

from __future__ import annotations

import threading
import time
from collections import deque
from threading import get_ident
from typing import Final, Generic, TypeVar

from prefect_db.errors import UsageError

T = TypeVar("T")

# The holder of an item that is set aside, by who has the lock. No thread has this number.
_NOBODY: Final = 0


class _Turn(Generic[T]):
    """One caller's place in the queue: opened when an item is handed to it."""

    __slots__ = ("gate", "item", "thread")

    def __init__(self, thread: int) -> None:
        self.thread = thread
        self.item: T | None = None
        self.gate = threading.Lock()
        self.gate.acquire()


class Lending(Generic[T]):
    """Items lent one to a caller; whoever asked first gets what is given back.

    A `threading.Lock` lets a newcomer barge in, so that somebody may wait for long
    (`scripts/bench sqlite --section concurrency` compares the two).

    To lend is one operation of a dict, `_holders.setdefault`: so two cannot get the same item, and
    an interrupt finds either nothing done or all. Only who waits, or is waited for, takes a lock.

    Attributes:
        items: The items there are.
        waited, timeouts: Seconds waited and callers that gave up, since the start.
    """

    def __init__(self, items: list[T]) -> None:
        # Reentrant: the collection of garbage may end, and give back, at any allocation here.
        self._mutex = threading.RLock()
        self._queue: deque[_Turn[T]] = deque()
        self._holders: dict[T, int] = {}
        # How often each was lent: counted by its holder, so that no count is lost.
        self._uses = dict.fromkeys(items, 0)
        self._former_uses = 0
        self.items = list(items)
        self.waited = 0.0
        self.timeouts = 0

    @property
    def in_use(self) -> int:
        """Items that are lent now."""
        return len(self._holders)

    @property
    def waiting(self) -> int:
        """Callers that wait now."""
        return len(self._queue)

    @property
    def acquires(self) -> int:
        """How often an item was asked for, since the start."""
        lent = sum(list(self._uses.values())) + self._former_uses
        return lent + self.timeouts + len(self._queue)

    def acquire(self, timeout: float) -> T | None:
        """Borrow an item, waiting at most `timeout` seconds; None if that was not enough.

        Raises:
            UsageError: This thread holds all of them: it would wait for itself.
        """
        me = get_ident()
        holders = self._holders
        claimed: T | None = None
        try:
            # A newcomer does not overtake who waits.
            if not self._queue:
                for item in self.items:
                    if item not in holders:
                        claimed = item
                        if holders.setdefault(item, me) == me:
                            # Unless it was replaced just now.
                            if item in self._uses:
                                self._uses[item] += 1
                                return item
                            del holders[item]
                        claimed = None
        except BaseException:
            if claimed is not None and holders.get(claimed) == me:
                self.release(claimed)
            raise
        return self._wait(timeout, me)

    def _wait(self, timeout: float, me: int) -> T | None:
        holders = list(self._holders.values())
        if holders and all(holder == me for holder in holders):
            raise UsageError(
                "this thread holds the connection in a transaction already; inside its"
                " block use the transaction, not the Backend"
            )
        turn: _Turn[T] = _Turn(me)
        started = time.monotonic()
        try:
            with self._mutex:
                if not self.items:
                    return None
                self._queue.append(turn)
            # One may have been given back since.
            self.serve()
            in_time = turn.gate.acquire(timeout=timeout)
            with self._mutex:
                self.waited += time.monotonic() - started
                item = turn.item
                if item is None:
                    if turn in self._queue:
                        self._queue.remove(turn)
                    self.timeouts += not in_time
                    return None
                self._uses[item] += 1
                return item
        except BaseException:
            # KeyboardInterrupt: leave the queue, and give back what was handed over meanwhile.
            with self._mutex:
                if turn in self._queue:
                    self._queue.remove(turn)
            if turn.item is not None:
                self.release(turn.item)
            self.serve()
            raise

    def release(self, item: T) -> None:
        """Give an item back. Any thread may do so; what is not lent stays where it is."""
        if not self._queue:
            try:
                del self._holders[item]
            except KeyError:
                return
            if not self._queue:
                return
        else:
            with self._mutex:
                if item not in self._holders:
                    return
                self._hand_over(item)
        self.serve()

    def serve(self) -> None:
        """Give what is free to those who wait: also after a `release` that was interrupted."""
        with self._mutex:
            for item in self.items:
                try:
                    if self._queue and self._set_aside(item):
                        self._hand_over(item)
                except BaseException:
                    if self._holders.get(item) == _NOBODY:
                        del self._holders[item]
                    raise

    def _set_aside(self, item: T) -> bool:
        """Take an item that is free, for nobody yet; false if it is not free."""
        return item not in self._holders and self._holders.setdefault(item, _NOBODY) == _NOBODY

    def _hand_over(self, item: T) -> None:
        """Give an item that is not free to the first in the queue, if there is one still."""
        if not self._queue:
            del self._holders[item]
            return
        # Python handles a signal, and collects garbage, in a call: none before all is done.
        turn = self._queue[0]
        turn.item = item
        self._holders[item] = turn.thread
        del self._queue[0]
        turn.gate.release()

    def held_by_caller(self, item: T) -> bool:
        """True if this thread holds the item."""
        return self._holders.get(item) == get_ident()

    def replace(self, item: T, other: T) -> None:
        """Put another item into the place of one that is lent."""
        with self._mutex:
            self._uses[other] = 0
            self._holders[other] = self._holders[item]
            self.items = [other if each is item else each for each in self.items]
            self._forget(item)

    def take_free(self) -> list[T]:
        """Take out, for good, the items that are not lent; who waits for one gets None."""
        with self._mutex:
            for turn in self._queue:
                turn.gate.release()
            self._queue.clear()
            taken = [item for item in self.items if self._set_aside(item)]
            self.items = [item for item in self.items if item not in taken]
            for item in taken:
                self._forget(item)
            return taken

    def _forget(self, item: T) -> None:
        self._former_uses += self._uses.pop(item)
        del self._holders[item]
