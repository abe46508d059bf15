"""How much to delete in one transaction, so that others get their turn soon."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

# Seconds that a transaction may take before the next one is given less to do.
_LONG: Final = 0.05


class Pace:
    """As much as takes about a twentieth of a second on this machine, with this data.

    Args:
        at_most: Never more than this.
        first: How much to begin with.

    Attributes:
        size: How much to do next.
    """

    def __init__(self, at_most: int, first: int = 50) -> None:
        self._at_most = at_most
        self.size = min(first, at_most)

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Around a transaction that does so much."""
        started = time.monotonic()
        yield
        if time.monotonic() - started > _LONG:
            self.size = max(self.size // 2, 1)
        else:
            self.size = min(self.size * 2, self._at_most)
