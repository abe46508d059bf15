"""Which process this is. `os.getpid()` asks the kernel, and each statement wants to know."""

from __future__ import annotations

import os


class Process:
    """One process, compared by identity: a fork's child is another."""

    __slots__ = ("pid",)

    def __init__(self) -> None:
        self.pid = os.getpid()


current = Process()


def _forked() -> None:
    global current
    current = Process()


os.register_at_fork(after_in_child=_forked)
