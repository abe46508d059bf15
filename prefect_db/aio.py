"""The bridge for asyncio: each unit of work is one hop to a thread of a private pool.

async with prefect_db.aio.connect(url) as db:
    run = await db.run(flow_runs.get, run_id)
    await db.transaction(lambda txn: flow_runs.set_state(txn, run_id, states.running()))
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from contextvars import copy_context
from functools import partial
from types import TracebackType
from typing import Any, Concatenate, Final, Generic, ParamSpec, Self, TypeVar, Unpack

from prefect_db.backend import Backend
from prefect_db.connect import open_backend, resolve
from prefect_db.drivers.base import Driver, Isolation, Options, Settings
from prefect_db.drivers.interruptible import Current, InterruptibleDriver, Job
from prefect_db.errors import BackendClosed, Cancelled, ForkedBackend, UsageError
from prefect_db.observe import Observer
from prefect_db.transaction import Transaction

P = ParamSpec("P")
R = TypeVar("R")

# Threads that interrupt, open and close; they start when needed.
_HELPERS: Final = 32
# Seconds between two interrupts of work that goes on: the first may have come between statements.
_FIRST_PAUSE: Final = 0.01
_LONGEST_PAUSE: Final = 1.0


class Completed(Exception, Generic[R]):
    """The `__cause__` of a CancelledError that came too late: the work was done, and is saved.

    Attributes:
        result: What the work returned.
    """

    def __init__(self, result: R) -> None:
        super().__init__("the work was done before it could be cancelled")
        self.result = result


def connect(
    url: str | None = None,
    *,
    migrate: bool = True,
    driver: Driver | None = None,
    pool: Any = None,
    observer: Observer | Sequence[Observer] | None = None,
    **options: Unpack[Options],
) -> AsyncBackend:
    """`prefect_db.connect`, with its arguments and errors, for `async with`, which opens it.

    `pool_size` is the number of threads, too, on either engine.
    """
    return AsyncBackend(lambda: resolve(url, driver, pool, observer, options), migrate=migrate)


class AsyncBackend:
    """A `Backend` for asyncio, made by `connect()`; an async context manager.

    Any number of event loops and threads may share it. One per process: connect after a fork.

    Cancelling a task that awaits `run` or `transaction`:

    - Work that has not begun never begins. Work that waits for a connection, and holds none, is
      left: when its turn comes, it touches nothing.
    - Other work gets no further than the end of its statement, which is interrupted, or of a
      COMMIT, which is not. The CancelledError goes on when it has ended and its connections are
      clean; that may take as long as the Python code of the work takes to come to its next verb.
    - The CancelledError's `__cause__` tells the outcome. It is `Completed`: the work was done,
      and is saved. Or it is the error that ended the work, as a rule `Cancelled`: what it had not
      committed is rolled back; of a `transaction`, nothing is saved (and CommitUnknown is what it
      is everywhere).
    """

    def __init__(self, resolve: Callable[[], tuple[Driver, Settings]], *, migrate: bool) -> None:
        self._resolve = resolve
        self._migrate = migrate
        self._pid = os.getpid()
        self._current = Current()
        self._helpers = ThreadPoolExecutor(_HELPERS, "prefect_db.aio.helper")
        self._workers: Executor | None = None
        self._backend: Backend | None = None
        self._jobs: dict[Job, Future[Any]] = {}
        self._closing: Future[None] | None = None

    @property
    def backend(self) -> Backend:
        """The `Backend` behind it, for threads; in the event loop, only its `stats()`.

        Raises:
            BackendClosed, ForkedBackend, UsageError: It is closed, another process's or not open.
        """
        if self._pid != os.getpid():
            raise ForkedBackend(f"opened by process {self._pid}, used by process {os.getpid()}")
        if self._closing is not None:
            raise BackendClosed("close() was called")
        if self._backend is None:
            raise UsageError("not open; write `async with prefect_db.aio.connect() as db:`")
        return self._backend

    async def run(
        self, fn: Callable[Concatenate[Backend, P], R], /, *args: P.args, **kwargs: P.kwargs
    ) -> R:
        """What `fn(backend, *args, **kwargs)` returns or raises, called in a thread.

        `fn` is an entity function, or any function of a Backend. It sees the caller's context
        variables.
        """
        return await self._hop(self._workers, partial(fn, self.backend, *args, **kwargs))

    async def transaction(
        self,
        fn: Callable[[Transaction], R],
        attempts: int = 5,
        *,
        read_only: bool = False,
        isolation: Isolation | None = None,
        timeout: float | None = None,
    ) -> R:
        """What `fn(txn)` returns, run in a transaction, in a thread: see `Backend.run`."""
        return await self.run(
            lambda backend: backend.run(
                fn, attempts, read_only=read_only, isolation=isolation, timeout=timeout
            )
        )

    async def close(self) -> None:
        """Refuse new work, wait for all work in flight, and close. Twice is no error.

        If it is cancelled, the work in flight is interrupted.
        """
        if self._pid != os.getpid():
            return
        if self._closing is None:
            self._closing = self._helpers.submit(self._close)
        cancelled = await _ended(self._closing, self._stop_all)
        self._helpers.shutdown(wait=False)
        self._closing.result()
        if cancelled is not None:
            raise cancelled

    async def __aenter__(self) -> Self:
        if self._workers is not None or self._closing is not None:
            raise UsageError("it can be entered once; connect() again")
        try:
            await self._hop(self._helpers, self._open)
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    def _open(self) -> None:
        driver, settings = self._resolve()
        self._workers = ThreadPoolExecutor(settings.options["pool_size"], "prefect_db.aio")
        interruptible = InterruptibleDriver(driver, self._current)
        self._backend = open_backend(interruptible, settings, migrate=self._migrate)

    def _close(self) -> None:
        if self._workers is not None:
            self._workers.shutdown()
        if self._backend is not None:
            self._backend.close()

    async def _hop(self, threads: Executor | None, call: Callable[[], R]) -> R:
        assert threads is not None
        job = Job()
        try:
            future = threads.submit(copy_context().run, self._do, job, call)
        except RuntimeError as error:
            # Another thread's event loop has closed it since.
            raise BackendClosed("close() was called") from error
        self._jobs[job] = future
        future.add_done_callback(lambda _: self._jobs.pop(job, None))
        left = False

        def stop() -> bool:
            nonlocal left
            left = future.cancel() or self._stop(job, future)
            return left

        cancelled = await _ended(future, stop)
        if cancelled is None:
            return future.result()
        if left:
            raise cancelled from Cancelled("the work had no connection yet")
        raise cancelled from (future.exception() or Completed(future.result()))

    def _do(self, job: Job, call: Callable[[], R]) -> R:
        self._current.job = job
        try:
            return call()
        finally:
            self._current.job = None

    def _stop(self, job: Job, future: Future[Any]) -> bool:
        """Stop work; True if it need not be waited for."""
        if job.stop():
            return True
        if future.running():
            self._helpers.submit(_interrupt, job, future)
        return False

    def _stop_all(self) -> bool:
        for job, future in list(self._jobs.items()):
            self._stop(job, future)
        return False


def _interrupt(job: Job, future: Future[Any]) -> None:
    pause = _FIRST_PAUSE
    while not future.done():
        job.interrupt()
        wait([future], pause)
        pause = min(2 * pause, _LONGEST_PAUSE)


async def _ended(
    future: Future[Any], on_cancel: Callable[[], bool]
) -> asyncio.CancelledError | None:
    """Wait for a thread's work, whoever cancels; after the first time, until `on_cancel()`.

    Returns:
        The first CancelledError.
    """
    cancelled: asyncio.CancelledError | None = None
    loop = asyncio.get_running_loop()
    while not future.done():
        done = loop.create_future()
        future.add_done_callback(partial(_wake, loop, done))
        try:
            await done
        except asyncio.CancelledError as error:
            if cancelled is None:
                cancelled = error
                if on_cancel():
                    break
    return cancelled


def _wake(loop: asyncio.AbstractEventLoop, done: asyncio.Future[None], _: Future[Any]) -> None:
    def set_done() -> None:
        if not done.done():
            done.set_result(None)

    # The loop may be closed: nobody waits any more.
    with suppress(RuntimeError):
        loop.call_soon_threadsafe(set_done)
