"""What tests of faults share: waiting with a bound, other threads, other processes."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import FrameType
from typing import Final, TypeVar

import pytest

from prefect_db.testing.processes import (
    BOUND,
    end_process,
    in_process,
    kill,
    reach,
    start_process,
    stop_before,
)

__all__ = [
    "BOUND",
    "ENDED",
    "LINUX",
    "end_process",
    "in_process",
    "in_thread",
    "kill",
    "open_files",
    "raise_on_signals",
    "reach",
    "start_process",
    "stop_before",
    "until",
]

T = TypeVar("T")

LINUX: Final = pytest.mark.needs(
    sys.platform == "linux", "the one system that can drop a socket's packets"
)


def until(condition: Callable[[], bool], bound: float = BOUND) -> None:
    """Wait for something that must become true."""
    deadline = time.monotonic() + bound
    while not condition():
        assert time.monotonic() < deadline, "the condition was never met"
        time.sleep(0.005)


# What a process ends with that `raise_on_signals` has ended by SIGTERM.
ENDED: Final = 3


def raise_on_signals() -> threading.Event:
    """In a process: have SIGINT raise KeyboardInterrupt and SIGTERM SystemExit, as hosts do.

    Returns:
        Is set when one has come: Python drops what is raised while it runs a `__del__`.
    """
    told = threading.Event()

    def handle(number: int, frame: FrameType | None) -> None:
        told.set()
        raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(ENDED)

    signal.signal(signal.SIGINT, handle)
    signal.signal(signal.SIGTERM, handle)
    return told


def open_files() -> int:
    """How many files and sockets this process has open, where that can be told; else 0."""
    return len(os.listdir("/proc/self/fd")) if sys.platform == "linux" else 0


def in_thread(work: Callable[[], T]) -> T:
    """What `work` gives, or raises, in another thread."""
    with ThreadPoolExecutor(1) as threads:
        return threads.submit(work).result(BOUND)
