"""What tests of faults share: waiting with a bound, other threads, other processes."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
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
    "LINUX",
    "end_process",
    "in_process",
    "in_thread",
    "kill",
    "open_files",
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


def open_files() -> int:
    """How many files and sockets this process has open, where that can be told; else 0."""
    return len(os.listdir("/proc/self/fd")) if sys.platform == "linux" else 0


def in_thread(work: Callable[[], T]) -> T:
    """What `work` gives, or raises, in another thread."""
    with ThreadPoolExecutor(1) as threads:
        return threads.submit(work).result(BOUND)
