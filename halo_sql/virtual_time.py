"""An asyncio loop whose clock is virtual: when nothing is left to do it jumps to the next timer.

What code computes costs no time on this clock, only waiting does: an emulated engine's steps, a tool's
``asyncio.sleep``, a deadline. So hours of a cluster pass in seconds, the same in each run:

- the clock stands while work in a thread (``outside``, ``run_in_executor``) or beside the process (``held``) is under
  way. What threads found is handed in when the loop has nothing else to do, in the order in which it was asked for,
  whichever thread was faster;
- the clock stands while nobody waits for the loop (``awaited``, ``run_until_complete``): what a caller does between
  two results takes no time either;
- calls from other threads (``call_soon_threadsafe``) come in when the loop has nothing else to do.

On any other loop the functions of this module do what asyncio does.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import selectors
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

T = TypeVar("T")
EPOCH_S = 946_684_800.0  # Unix time at which virtual clocks start: 2000-01-01


class _Selector(selectors.DefaultSelector):
    """Asks the loop what to do where another would wait."""

    def __init__(self) -> None:
        super().__init__()
        self.loop: VirtualTimeLoop | None = None

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        loop = self.loop
        if loop is None:
            return super().select(timeout)
        if timeout == 0:  # something is ready
            return []
        if len(self.get_map()) > 1 and (events := super().select(0)):  # more than what wakes the loop
            return events
        return [] if loop.step() else super().select(None)  # until another thread calls, or a socket is ready


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An event loop on a virtual clock that starts at 0 seconds.

    epoch_s  Unix time of second 0
    """

    epoch_s = EPOCH_S

    def __init__(self) -> None:
        self._now_s = 0.0
        self._works: deque[tuple[concurrent.futures.Future[Any], asyncio.Future[Any]]] = deque()
        self._inbox: deque[asyncio.Handle] = deque()
        self._waits: list[concurrent.futures.Future[Any]] = []
        self._held = 0
        self._inside = 0
        self._threads: concurrent.futures.ThreadPoolExecutor | None = None
        selector = _Selector()
        super().__init__(selector)
        selector.loop = self

    def time(self) -> float:
        """Virtual seconds."""
        return self._now_s

    def step(self) -> bool:
        """Do what comes next where nothing is ready; False: only another thread, or a socket, can go on."""
        if self._inbox:
            while self._inbox:
                handle = self._inbox.popleft()
                if not handle.cancelled():
                    self.call_soon(handle._run)
            return True
        while self._works and self._works[0][1].done():  # given up
            self._works.popleft()
        if self._works:
            work, answer = self._works[0]
            if not work.done():
                return False
            self._works.popleft()
            _copy(work, answer)
            return True
        self._waits = [wait for wait in self._waits if not wait.done()]
        timers: list[asyncio.TimerHandle] = self._scheduled  # type: ignore[attr-defined]
        if self._held or not timers or not (self._waits or self._inside):
            return False
        self._now_s = max(self._now_s, timers[0].when())
        return True

    def call_soon_threadsafe(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: Any = None
    ) -> asyncio.Handle:
        """As any loop's; the call is made when nothing else is to be done."""
        handle = asyncio.Handle(callback, args, self, context)
        self._inbox.append(handle)
        super().call_soon_threadsafe(_nothing)
        return handle

    def run_in_executor(  # type: ignore[override]
        self, executor: concurrent.futures.Executor | None, func: Callable[..., T], *args: Any
    ) -> asyncio.Future[T]:
        """As any loop's; the clock stands meanwhile."""
        if executor is None:
            if self._threads is None:
                self._threads = concurrent.futures.ThreadPoolExecutor(thread_name_prefix="asyncio")
                self.set_default_executor(self._threads)
            executor = self._threads
        return self.outside(executor.submit(func, *args))

    def run_until_complete(self, future: Any) -> Any:
        """As any loop's: its caller waits, so time passes."""
        self._inside += 1
        try:
            return super().run_until_complete(future)
        finally:
            self._inside -= 1

    def outside(self, work: concurrent.futures.Future[T]) -> asyncio.Future[T]:
        """What work in another thread gives; the clock stands until it is there. Cancelling gives it up."""
        answer: asyncio.Future[T] = self.create_future()
        answer.add_done_callback(lambda answer: work.cancel() if answer.cancelled() else None)
        self._works.append((work, answer))
        work.add_done_callback(self._wake)
        return answer

    def awaited(self, future: concurrent.futures.Future[Any]) -> None:
        """Another thread begins to wait for ``future``, which this loop completes; from any thread."""
        if not future.done():
            self.call_soon_threadsafe(lambda: self._waits.append(future))  # the list of that moment

    def hold(self, change: int) -> None:
        """Something beside the process (a socket, a child) is waited for, or not any more."""
        self._held += change

    def _wake(self, _: object) -> None:
        if not self.is_closed():
            super().call_soon_threadsafe(_nothing)


def _nothing() -> None:
    """Wakes the loop."""


def _copy(work: concurrent.futures.Future[T], answer: asyncio.Future[T]) -> None:
    if work.cancelled():
        answer.cancel()
        return
    problem = work.exception()
    if problem is None:
        answer.set_result(work.result())
    elif isinstance(problem, StopIteration):  # a future refuses it
        answer.set_exception(RuntimeError(f"StopIteration: {problem}"))
    else:
        answer.set_exception(problem)


def outside(work: concurrent.futures.Future[T]) -> asyncio.Future[T]:
    """``asyncio.wrap_future`` for the running loop, virtual or not."""
    loop = asyncio.get_running_loop()
    return loop.outside(work) if isinstance(loop, VirtualTimeLoop) else asyncio.wrap_future(work)


@contextmanager
def held() -> Iterator[None]:
    """The running loop's clock, if it is a virtual one, stands inside: a socket or a child process is waited for."""
    loop = asyncio.get_running_loop()
    if not isinstance(loop, VirtualTimeLoop):
        yield
        return
    loop.hold(+1)
    try:
        yield
    finally:
        loop.hold(-1)


def is_virtual() -> bool:
    """Whether this code runs on a virtual clock."""
    loop = asyncio._get_running_loop()
    return isinstance(loop, VirtualTimeLoop)
