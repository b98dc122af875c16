"""Threads for calls that cannot be stopped: a call that is given up leaves its thread behind and frees its place."""

from __future__ import annotations

import asyncio
import contextvars
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from typing import Any

from halo_sql.virtual_time import outside

_Job = tuple[Callable[[], object], "Future[Any]"]


class Threads:
    """At most ``limit`` calls at once; threads are kept for the next call (what functions hold per thread lives on).

    They are daemons: a call that never ends does not keep the process.
    """

    def __init__(self, limit: int, name: str) -> None:
        self._places = asyncio.Semaphore(limit)
        self._name = name
        self._idle: list[_Thread] = []
        self._closed = False

    async def run(self, function: Callable[[], object]) -> Any:
        """What ``function`` returns or raises; cancelling gives up waiting for it."""
        async with self._places:
            thread = self._idle.pop() if self._idle else _Thread(self._name)
            work: Future[Any] = Future()
            done = outside(work)
            context = contextvars.copy_context()
            thread.jobs.put((lambda: context.run(function), work))
            try:
                return await done
            finally:
                if done.cancelled() or self._closed:
                    thread.jobs.put(None)  # it ends behind its call
                else:
                    self._idle.append(thread)

    def close(self) -> None:
        """End the idle threads; the others end with their calls."""
        self._closed = True
        idle, self._idle = self._idle, []
        for thread in idle:
            thread.jobs.put(None)


class _Thread(threading.Thread):
    def __init__(self, name: str) -> None:
        super().__init__(name=name, daemon=True)
        self.jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self.start()

    def run(self) -> None:
        while (job := self.jobs.get()) is not None:
            function, work = job
            problem: BaseException | None = None
            value = None
            try:
                value = function()
            except StopIteration as stop:  # a future refuses it
                problem = RuntimeError(f"StopIteration: {stop}")
            except BaseException as raised:  # sys.exit() in a thread must not end the loop that waits for it
                problem = (
                    raised if isinstance(raised, Exception) else RuntimeError(f"{type(raised).__name__}: {raised}")
                )
            with suppress(RuntimeError, InvalidStateError):  # the loop is closed, or the call was given up
                if problem is None:
                    work.set_result(value)
                else:
                    work.set_exception(problem)
            del job, function, work, value, problem
