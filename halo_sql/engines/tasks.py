"""Running requests as asyncio tasks: a queue by priority, a limit on how many run, delivery exactly once."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any, Generic, TypeVar

from halo_sql.engines.protocol import Deliver, GenRequest, GenResult, failure

T = TypeVar("T")


class TaskQueue:
    """Runs ``run(request)`` for each request, at most ``limit`` at once, lower priorities first, else in order.

    Every request is delivered exactly once, on the loop: its result, the error that ``run`` raised, or 'cancelled'.
    """

    def __init__(self, run: Callable[[GenRequest], Coroutine[Any, Any, GenResult]], limit: int) -> None:
        self._run = run
        self._limit = limit
        self._queue: list[tuple[int, int, GenRequest]] = []  # (priority, arrival, request)
        self._arrivals = 0
        self._open: dict[int, tuple[GenRequest, Deliver]] = {}  # every request not yet delivered
        self._running: dict[int, asyncio.Task[GenResult]] = {}
        self._closed = False

    def submit(self, requests: Sequence[GenRequest], deliver: Deliver) -> None:
        """Queue requests; returns at once."""
        if self._closed:
            deliver([failure(request.id, "the engine is closed", "cancelled") for request in requests])
            return
        for request in requests:
            assert request.id not in self._open, "ids in flight are unique"
            self._open[request.id] = (request, deliver)
            heapq.heappush(self._queue, (request.priority, self._arrivals, request))
            self._arrivals += 1
        self._pump()

    def abort(self, ids: Sequence[int]) -> None:
        """Cancel these; those that only wait in the queue are delivered in the loop's next step."""
        for request_id in ids:
            task = self._running.get(request_id)
            if task is not None:
                task.cancel()
            elif request_id in self._open:
                # never inside abort: the caller may hold state that its own delivery changes
                asyncio.get_running_loop().call_soon(self._finish, cancelled(request_id))

    async def close(self) -> None:
        """Cancel everything and wait until all is delivered; idempotent."""
        self._closed = True
        running = list(self._running.values())
        self._queue.clear()
        self.abort(list(self._open))
        if running:
            await asyncio.wait(running)
        await asyncio.sleep(0)  # the deliveries that were scheduled for the next step

    def _pump(self) -> None:
        loop = asyncio.get_running_loop()
        while self._queue and len(self._running) < self._limit:
            request = heapq.heappop(self._queue)[2]
            entry = self._open.get(request.id)
            if entry is None or entry[0] is not request:
                continue  # aborted while it waited
            task = loop.create_task(self._run(request))
            self._running[request.id] = task
            task.add_done_callback(partial(self._done, request.id))

    def _done(self, request_id: int, task: asyncio.Task[GenResult]) -> None:
        del self._running[request_id]
        if task.cancelled():
            result = cancelled(request_id)
        else:
            problem = task.exception()
            if problem is None:
                result = task.result()
            else:  # a bug in an engine must not lose a row
                result = failure(request_id, f"{type(problem).__name__}: {problem}", "engine")
        self._finish(result)
        self._pump()

    def _finish(self, result: GenResult) -> None:
        entry = self._open.pop(result.id, None)
        if entry is not None:
            entry[1]([result])


def cancelled(request_id: int) -> GenResult:
    """The result of a request that was aborted."""
    return failure(request_id, "the request was cancelled", "cancelled")


class Shared(Generic[T]):
    """One run of a coroutine shared by all who wait for it; after a failure the next caller starts a new run."""

    def __init__(self, make: Callable[[], Coroutine[Any, Any, T]]) -> None:
        self._make = make
        self._task: asyncio.Task[T] | None = None

    def begin(self) -> asyncio.Task[T]:
        """The run, begun if there is none or the last one failed."""
        if self._task is None or self.failed():
            self._task = asyncio.get_running_loop().create_task(self._make())
            self._task.add_done_callback(_retrieve)
        return self._task

    def once(self) -> asyncio.Task[T]:
        """The run, begun if there was none; also one that failed."""
        return self.begin() if self._task is None else self._task

    async def get(self) -> T:
        """The result; cancelling one waiter leaves the run to the others."""
        return await asyncio.shield(self.begin())

    def failed(self) -> bool:
        """Whether the last run ended without a result."""
        task = self._task
        return task is not None and task.done() and (task.cancelled() or task.exception() is not None)

    def cancel(self) -> None:
        """Stop a run that is under way."""
        if self._task is not None:
            self._task.cancel()


def _retrieve(task: asyncio.Task[Any]) -> None:
    if not task.cancelled():
        task.exception()  # a background start that nobody awaited is no "exception was never retrieved"
