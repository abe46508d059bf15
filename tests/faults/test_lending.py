"""The lending of connections, stopped at each of its steps while others do theirs."""

from __future__ import annotations

import sys
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from types import FrameType
from typing import Any, Final

from prefect_db.drivers import lending as module
from prefect_db.drivers.lending import Lending
from tests.faults import BOUND, in_thread, until
from tests.faults.report import RecordFault

# Seconds that others get at a step: if it holds the lock they cannot end before it goes on.
_PAUSE: Final = 0.02
# Seconds after which who does no step waits; and for how long who is forgotten waits.
_STILL: Final = 0.1
_LONG: Final = 2.0

Items = Lending[str]
Act = Callable[[Items], Any]


class _Stepped:
    """An act that is stopped at one of its steps, for another thread to do something meanwhile.

    A step is an instruction of bytecode; or a call, where Python handles signals and collects
    garbage, if the act is to be interrupted then, or its own thread to do the other thing.
    """

    def __init__(
        self,
        threads: ThreadPoolExecutor,
        lending: Items,
        act: Act,
        *,
        at: int = 0,
        meanwhile: Act | None = None,
        interrupt: bool = False,
        alone: bool = False,
    ) -> None:
        self.steps = 0
        self.other: Future[Any] | None = None
        self._threads = threads
        self._lending = lending
        self._at = at
        self._meanwhile = meanwhile
        self._interrupt = interrupt
        self._alone = alone
        self.acting = threads.submit(self._run, act)

    def _run(self, act: Act) -> Any:
        try:
            if self._interrupt or self._alone:
                sys.setprofile(self._at_call)
            else:
                # Python 3.12 tells of instructions only if some frame asked for it before.
                sys._getframe().f_trace_opcodes = True
                sys.settrace(self._enter)
            return act(self._lending)
        finally:
            sys.setprofile(None)
            sys.settrace(None)

    def _enter(self, frame: FrameType, what: str, _: Any) -> Any:
        if frame.f_code.co_filename != module.__file__:
            return None
        # And Python 3.13 only if the frame is traced already.
        frame.f_trace = self._at_instruction
        frame.f_trace_opcodes = True
        return self._at_instruction

    def _at_instruction(self, frame: FrameType, what: str, _: Any) -> Any:
        if what == "opcode":
            self._step()
        return self._at_instruction

    def _at_call(self, frame: FrameType, what: str, _: Any) -> None:
        own = frame.f_code.co_filename == module.__file__
        # What is raised at the end of a generator is told, and not passed on.
        if own and what in ("call", "c_return") and frame.f_code.co_name != "<genexpr>":
            self._step()
            if self._interrupt and self.steps == self._at:
                raise KeyboardInterrupt

    def _step(self) -> None:
        self.steps += 1
        if self.steps != self._at or self._meanwhile is None:
            return
        if self._alone:
            sys.setprofile(None)
            self._meanwhile(self._lending)
        else:
            self.other = self._threads.submit(self._meanwhile, self._lending)
            wait([self.other], _PAUSE)

    def until_it_waits(self) -> int:
        """How many steps it has until it waits or is done."""
        while True:
            steps = self.steps
            wait([self.acting], _STILL)
            if steps == self.steps:
                return steps


def _at_each_step(
    make: Callable[[], Items],
    act: Act,
    meanwhile: Act,
    check: Callable[[Items, Any, Any], None],
    *,
    interrupt: bool = False,
) -> int:
    """Check what the two got, or raised; the number of steps."""
    with ThreadPoolExecutor(2) as threads:
        lending = make()
        counted = _Stepped(threads, lending, act, interrupt=interrupt)
        steps = counted.until_it_waits()
        meanwhile(lending)
        counted.acting.result(BOUND)
        assert steps > 5
        for at in range(1, steps + 1):
            lending = make()
            stepped = _Stepped(
                threads, lending, act, at=at, meanwhile=meanwhile, interrupt=interrupt
            )
            acted = _outcome(stepped.acting)
            assert stepped.other is not None
            check(lending, acted, _outcome(stepped.other))
    return steps


def _outcome(future: Future[Any]) -> Any:
    return future.exception(BOUND) or future.result()


def _free() -> Items:
    return Lending(["a"])


def _held() -> Items:
    """Lent to the thread of the test."""
    lending = _free()
    assert lending.acquire(0) == "a"
    return lending


def _assert_free(lending: Items, item: str = "a") -> None:
    assert (lending.in_use, lending.waiting) == (0, 0)
    assert lending.acquire(0) == item
    assert in_thread(lambda: lending.acquire(0)) is None


def test_two_never_get_the_same(record_fault: RecordFault) -> None:
    def check(lending: Items, one: Any, other: Any) -> None:
        assert {one, other} == {"a", None}
        assert (lending.in_use, lending.waiting, lending.acquires) == (1, 0, 2)

    steps = _at_each_step(_free, lambda it: it.acquire(0), lambda it: it.acquire(0), check)
    record_fault("lending at each step of another's", times=steps)


def test_who_comes_to_wait_gets_what_is_given_back_just_then(record_fault: RecordFault) -> None:
    def check(lending: Items, got: Any, _: Any) -> None:
        assert got == "a"
        lending.release("a")
        _assert_free(lending)

    steps = _at_each_step(_held, lambda it: it.acquire(_LONG), lambda it: it.release("a"), check)
    record_fault("lending at each step of another's", times=steps)


def test_what_is_given_back_goes_to_who_comes_to_wait_just_then(record_fault: RecordFault) -> None:
    def check(lending: Items, _: Any, got: Any) -> None:
        assert got == "a"
        lending.release("a")
        _assert_free(lending)

    steps = _at_each_step(_held, lambda it: it.release("a"), lambda it: it.acquire(_LONG), check)
    record_fault("lending at each step of another's", times=steps)


def test_two_who_give_back_the_same_give_it_to_one(record_fault: RecordFault) -> None:
    """A `release` that is repeated after an interrupt may meet the first one's effect."""

    def check(lending: Items, *_: Any) -> None:
        _assert_free(lending)

    steps = _at_each_step(_held, lambda it: it.release("a"), lambda it: it.release("a"), check)
    record_fault("lending at each step of another's", times=steps)


def test_who_comes_when_it_is_closed_does_not_wait(record_fault: RecordFault) -> None:
    def check(lending: Items, got: Any, taken: Any) -> None:
        assert (got, taken) in ((None, ["a"]), ("a", []))

    steps = _at_each_step(_free, lambda it: it.acquire(2 * BOUND), Lending.take_free, check)
    record_fault("lending at each step of another's", times=steps)


def test_who_comes_when_one_is_replaced_gets_the_other(record_fault: RecordFault) -> None:
    def replace(lending: Items) -> None:
        lending.replace("a", "b")
        lending.release("b")

    def check(lending: Items, got: Any, _: Any) -> None:
        assert got == "b"
        lending.release("b")
        _assert_free(lending, "b")

    steps = _at_each_step(_held, lambda it: it.acquire(_LONG), replace, check)
    record_fault("lending at each step of another's", times=steps)


def test_who_is_interrupted_when_one_is_handed_over_keeps_none(record_fault: RecordFault) -> None:
    def check(lending: Items, raised: Any, _: Any) -> None:
        assert isinstance(raised, KeyboardInterrupt)
        _assert_free(lending)

    steps = _at_each_step(
        _held, lambda it: it.acquire(_LONG), lambda it: it.release("a"), check, interrupt=True
    )
    record_fault("lending interrupted at each step", times=steps)


def test_who_is_interrupted_when_one_was_handed_over_keeps_none(record_fault: RecordFault) -> None:
    with ThreadPoolExecutor(1) as threads:
        at = 0
        while True:
            at += 1
            lending = _held()
            stepped = _Stepped(
                threads, lending, lambda it: it.acquire(BOUND), at=at, interrupt=True
            )
            acting = stepped.acting
            until(lambda: bool(lending.waiting) or acting.done())  # noqa: B023
            lending.release("a")
            with suppress(KeyboardInterrupt):
                assert acting.result(BOUND) == "a"
                break
            _assert_free(lending)
    assert at > 5
    record_fault("lending interrupted at each step", times=at - 1)


def test_a_newcomer_does_not_overtake_who_waits() -> None:
    """Also at the moment when it is nobody's any more, and not yet the other's."""
    lending = _held()
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(lending.acquire, BOUND)
        until(lambda: lending.waiting == 1)
        del lending._holders["a"]
        assert lending.acquire(0) is None
        assert waiting.result(BOUND) == "a"


def test_a_release_that_is_interrupted_is_repeated_and_who_waits_gets_it(
    record_fault: RecordFault,
) -> None:
    """As the pools repeat it."""
    at, interrupted = 0, True
    with ThreadPoolExecutor(2) as threads:
        while interrupted:
            at += 1
            lending = _held()
            waiting = threads.submit(lending.acquire, _LONG)
            until(lambda: lending.waiting == 1)  # noqa: B023
            stepped = _Stepped(threads, lending, lambda it: it.release("a"), at=at, interrupt=True)
            interrupted = isinstance(_outcome(stepped.acting), KeyboardInterrupt)
            if interrupted and lending.held_by_caller("a"):
                lending.release("a")
            else:
                lending.serve()
            assert waiting.result(BOUND) == "a"
            lending.release("a")
            _assert_free(lending)
    assert at > 5
    record_fault("lending interrupted at each step", times=at - 1)


def test_a_serve_that_is_interrupted_is_repeated_and_who_waits_gets_it(
    record_fault: RecordFault,
) -> None:
    """What is free is set aside for who waits, and must not stay so."""
    at, interrupted = 0, True
    with ThreadPoolExecutor(2) as threads:
        while interrupted:
            at += 1
            lending = _held()
            waiting = threads.submit(lending.acquire, _LONG)
            until(lambda: lending.waiting == 1)  # noqa: B023
            # As a `release` does just before it looks who waits.
            del lending._holders["a"]
            stepped = _Stepped(threads, lending, Lending.serve, at=at, interrupt=True)
            interrupted = isinstance(_outcome(stepped.acting), KeyboardInterrupt)
            lending.serve()
            assert waiting.result(BOUND) == "a"
            lending.release("a")
            _assert_free(lending)
    assert at > 3
    record_fault("lending interrupted at each step", times=at - 1)


def test_garbage_that_gives_one_back_is_collected_at_any_step(record_fault: RecordFault) -> None:
    """A transaction that was never ended ends when it is collected, in whatever thread."""
    with ThreadPoolExecutor(1) as threads:
        at = 0
        while True:
            at += 1
            lending = _held()
            stepped = _Stepped(
                threads,
                lending,
                lambda it: it.acquire(_LONG),
                at=at,
                meanwhile=lambda it: it.release("a"),
                alone=True,
            )
            if stepped.until_it_waits() < at:
                break
            assert _outcome(stepped.acting) == "a"
            lending.release("a")
            _assert_free(lending)
        lending.release("a")
        assert _outcome(stepped.acting) == "a"
    assert at > 5
    record_fault("garbage collected at each step of lending", times=at - 1)


def test_who_waits_when_it_is_closed_during_a_release_is_told(record_fault: RecordFault) -> None:
    waiting: list[Future[str | None]] = []

    def make() -> Items:
        lending = _held()
        waiting.append(others.submit(lending.acquire, 2 * BOUND))
        until(lambda: lending.waiting == 1)
        return lending

    def check(lending: Items, released: Any, taken: Any) -> None:
        assert released is None
        got = waiting[-1].result(BOUND)
        assert (got, taken) in ((None, ["a"]), (None, []), ("a", []))
        lending.release("a")
        assert lending.take_free() == ([] if taken else ["a"])

    with ThreadPoolExecutor(1) as others:
        steps = _at_each_step(make, lambda it: it.release("a"), Lending.take_free, check)
    record_fault("lending at each step of another's", times=steps)


def test_what_is_not_lent_is_given_to_nobody() -> None:
    lending = _held()
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(lending.acquire, BOUND)
        until(lambda: lending.waiting == 1)
        lending.release("b")
        assert lending.waiting == 1
        lending.release("a")
        assert waiting.result(BOUND) == "a"


def test_only_who_holds_one_is_told_so() -> None:
    lending = _held()
    assert lending.held_by_caller("a")
    assert not in_thread(lambda: lending.held_by_caller("a"))
    lending.release("a")
    assert not lending.held_by_caller("a")
