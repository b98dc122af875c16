"""A DuckDB connection behind a thread of its own, so that the loop never waits inside DuckDB."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TypeVar

from halo_sql.duck import Duck
from halo_sql.errors import Error
from halo_sql.metrics import NodeMetrics
from halo_sql.virtual_time import is_virtual, outside

T = TypeVar("T")
INTERRUPT_EVERY_S = 0.02  # an interrupt that comes before the query has begun is lost


class DuckThread:
    """Runs calls on one connection, one after the other, each cancellable.

    gate  held by whoever has an open result or needs several calls in a row: DuckDB allows one open result
          per connection
    """

    def __init__(self, duck: Duck, name: str) -> None:
        self.duck = duck
        self.gate = asyncio.Lock()
        self._threads = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._running: object = None  # what the thread works on; an interrupt must not hit another operator's work
        self._switch = threading.Lock()  # held while that changes, and while DuckDB is interrupted

    async def call(self, work: Callable[[], T], metrics: NodeMetrics | None = None) -> T:
        """``work()`` on the thread; its seconds are added to ``metrics.self_s``.

        When cancelled, work that waits is taken back; for work that has begun DuckDB is interrupted, and the thread has
        left it before CancelledError is raised.
        DuckDB's errors come without a position: the text is generated, the user has not seen it.
        """
        spent_s = 0.0

        def timed() -> T:
            nonlocal spent_s
            with self._switch:
                self._running = timed
            started = time.perf_counter()
            try:
                return work()
            finally:
                spent_s = time.perf_counter() - started
                with self._switch:
                    self._running = None

        submitted = self._threads.submit(timed)
        answer = outside(submitted)
        try:
            return await asyncio.shield(answer)
        except asyncio.CancelledError:
            if not submitted.cancel():
                await self._interrupt(answer, submitted, timed)
            raise
        except Error as problem:
            raise without_position(problem) from None
        finally:
            if metrics is not None:
                metrics.self_s += spent_s

    async def _interrupt(self, answer: asyncio.Future[T], submitted: Future[T], work: Callable[[], T]) -> None:
        while is_virtual() and not submitted.done():  # no timer runs while a thread works
            with self._switch:
                if self._running is work:
                    self.duck.interrupt()
            wait([submitted], timeout=INTERRUPT_EVERY_S)
        while not answer.done():
            with self._switch:
                if self._running is work:
                    self.duck.interrupt()
            try:
                await asyncio.wait([answer], timeout=INTERRUPT_EVERY_S)
            except asyncio.CancelledError:
                continue  # the caller raises the first one
        if not answer.cancelled():
            answer.exception()  # seen: the interrupt itself

    def close(self) -> None:
        """End the thread (it is idle: every call waits for it)."""
        self._threads.shutdown()


def without_position(problem: Error) -> Error:
    """The error without the place in generated SQL, which says nothing to the user."""
    problem.sql = problem.span = None
    problem.message = problem.message.partition("\n\nLINE ")[0]
    return problem
