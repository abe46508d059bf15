"""Processes that do a part of a test, and are killed at a point of their work."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

BOUND: Final = 60.0


def start_process(program: Callable[..., None] | Path, *args: str) -> subprocess.Popen[str]:
    """Begin to run a program in a new interpreter, which finds the modules that this one does.

    Args:
        program: A function of a module, which gets the arguments, or a script.
        args: Texts.
    """
    if isinstance(program, Path):
        command = [str(program)]
    else:
        module, name = program.__module__, program.__name__
        command = ["-c", f"import sys; from {module} import {name}; {name}(*sys.argv[1:])"]
    path = os.pathsep.join(folder or os.getcwd() for folder in sys.path)
    return subprocess.Popen(
        [sys.executable, *command, *args],
        env=os.environ | {"PYTHONPATH": path},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def end_process(process: subprocess.Popen[str], *, bound: float = 2 * BOUND) -> str:
    """What the process has printed; it must end well and without a word on stderr.

    Args:
        process: Of `start_process`.
        bound: Seconds that it may take; it is killed if that is not enough.
    """
    try:
        output, errors = process.communicate(timeout=bound)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise
    assert process.returncode == 0, f"ended with {process.returncode}: {errors}"
    assert not errors, errors
    return output


def in_process(program: Callable[..., None] | Path, *args: str) -> str:
    """What a program prints that is run in a new interpreter, and ends well."""
    return end_process(start_process(program, *args))


def reach(point: str) -> None:
    """In a process: tell the parent that this point is reached, and wait to be killed there."""
    print(point, flush=True)
    # A signal that comes just before a wait begins is seen when that ends: so in short ones.
    ends = time.monotonic() + BOUND
    while time.monotonic() < ends:
        time.sleep(0.05)


def stop_before(text: str, time: int = 1) -> Callable[[str], None]:
    """In a process: what `reach`es a point when it is called for the first time, or a later one,
    with a text that contains this one."""
    times = itertools.count(1)

    def watch(sql: str) -> None:
        if text in sql and next(times) == time:
            reach(text)

    return watch


def kill(
    process: subprocess.Popen[str],
    point: str,
    after: float = 0.0,
    number: signal.Signals = signal.SIGKILL,
) -> int:
    """Send it a signal once it has reached a point; the exit code, when it has ended.

    Args:
        process: Of `start_process`.
        point: The first line that it prints.
        after: Seconds that it has from then on.
        number: SIGKILL, SIGTERM or SIGINT. One that it survives for a minute is followed by
            SIGKILL.
    """
    assert process.stdout is not None
    try:
        printed = process.stdout.readline()
        time.sleep(after)
        process.send_signal(number)
        errors = process.communicate(timeout=BOUND)[1]
    except BaseException:
        process.kill()
        process.communicate()
        raise
    assert printed == f"{point}\n", errors
    return process.returncode
