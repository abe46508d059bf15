"""What tests of faults share: waiting with a bound, other threads, other processes."""

from __future__ import annotations

import itertools
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, TypeVar

T = TypeVar("T")

BOUND: Final = 60.0

_ROOT: Final = Path(__file__).parents[2]


def until(condition: Callable[[], bool]) -> None:
    """Wait for something that must become true."""
    deadline = time.monotonic() + BOUND
    while not condition():
        assert time.monotonic() < deadline, "the condition was never met"
        time.sleep(0.005)


def in_thread(work: Callable[[], T]) -> T:
    """What `work` gives, or raises, in another thread."""
    with ThreadPoolExecutor(1) as threads:
        return threads.submit(work).result(BOUND)


def start_process(program: Callable[..., None], *args: str) -> subprocess.Popen[str]:
    """Begin to run a function of a module in a new interpreter, with these arguments."""
    module, name = program.__module__, program.__name__
    code = f"import sys; from {module} import {name}; {name}(*sys.argv[1:])"
    return subprocess.Popen(
        [sys.executable, "-c", code, *args],
        cwd=_ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def end_process(process: subprocess.Popen[str]) -> str:
    """What the process has printed; it must end well and without a word on stderr."""
    try:
        output, errors = process.communicate(timeout=2 * BOUND)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise
    assert process.returncode == 0, f"ended with {process.returncode}: {errors}"
    assert not errors, errors
    return output


def in_process(program: Callable[..., None], *args: str) -> str:
    """What a function prints that is run in a new interpreter."""
    return end_process(start_process(program, *args))


def stop_before(text: str, time: int = 1) -> Callable[[str], None]:
    """Tells the parent, which then kills this process, that it stands before this text, which
    comes for the first time, or a later one."""
    times = itertools.count(1)

    def watch(sql: str) -> None:
        if text in sql and next(times) == time:
            print(text, flush=True)
            threading.Event().wait(BOUND)

    return watch


def kill(process: subprocess.Popen[str], line: str, after: float = 0.0) -> None:
    """Kill it when it has printed this line, and so many seconds have passed."""
    assert process.stdout is not None
    try:
        printed = process.stdout.readline()
        time.sleep(after)
    finally:
        process.kill()
        errors = process.communicate()[1]
    assert printed == f"{line}\n", errors
