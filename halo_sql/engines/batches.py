"""Running requests in batches, as asyncio tasks: for engines that answer many texts in one call."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any

from halo_sql.engines.protocol import Deliver, GenRequest, GenResult, estimate_tok, failure
from halo_sql.engines.tasks import cancelled

_MOST_TOK = 100_000  # of one batch, estimated: servers refuse more than some hundred thousand

Run = Callable[[Sequence[GenRequest]], Coroutine[Any, Any, Sequence[GenResult]]]


class BatchQueue:
    """Runs ``run(requests)`` for batches of at most ``size``, at most ``limit`` at once, lower priorities first.

    Requests that are submitted in one step of the loop share batches. Every request is delivered exactly once: its
    result, the error that ``run`` raised, or 'cancelled'. A batch whose requests are all aborted is cancelled.
    """

    def __init__(self, run: Run, limit: int, size: int) -> None:
        self._run = run
        self._limit = limit
        self._size = size
        self._queue: list[tuple[int, int, GenRequest]] = []  # (priority, arrival, request)
        self._arrivals = 0
        self._open: dict[int, tuple[GenRequest, Deliver]] = {}  # every request not yet delivered
        self._running: dict[asyncio.Task[Sequence[GenResult]], list[GenRequest]] = {}
        self._woken = False
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
        if not self._woken:
            self._woken = True
            asyncio.get_running_loop().call_soon(self._wake)

    def abort(self, ids: Sequence[int]) -> None:
        """Deliver these as cancelled in the loop's next step; batches that nobody waits for any more are stopped."""
        # never inside abort: the caller may hold state that its own delivery changes
        asyncio.get_running_loop().call_soon(self._abort, [number for number in ids if number in self._open])

    async def close(self) -> None:
        """Cancel everything and wait until all is delivered; idempotent."""
        self._closed = True
        self._queue.clear()
        running = list(self._running)
        for task in running:
            task.cancel()
        if running:
            await asyncio.wait(running)
        self._abort(list(self._open))
        await asyncio.sleep(0)  # the tasks' own callbacks

    def _wake(self) -> None:
        self._woken = False
        self._pump()

    def _pump(self) -> None:
        loop = asyncio.get_running_loop()
        while len(self._running) < self._limit and (batch := self._next()):
            task = loop.create_task(self._run(batch))
            self._running[task] = batch
            task.add_done_callback(partial(self._done, batch))

    def _next(self) -> list[GenRequest]:
        """The requests of the next batch; [] when none waits."""
        batch: list[GenRequest] = []
        tok = 0
        while self._queue and len(batch) < self._size:
            request = self._queue[0][2]
            if self._waits(request):
                tok += estimate_tok(request.user)
                if batch and tok > _MOST_TOK:
                    break
                batch.append(request)
            heapq.heappop(self._queue)
        return batch

    def _waits(self, request: GenRequest) -> bool:
        entry = self._open.get(request.id)
        return entry is not None and entry[0] is request

    def _abort(self, ids: Sequence[int]) -> None:
        self._deliver([cancelled(number) for number in ids])
        for task, batch in self._running.items():
            if not any(map(self._waits, batch)):
                task.cancel()

    def _done(self, batch: list[GenRequest], task: asyncio.Task[Sequence[GenResult]]) -> None:
        del self._running[task]
        waiting = [request for request in batch if self._waits(request)]
        problem = None if task.cancelled() else task.exception()
        if task.cancelled():
            results = [cancelled(request.id) for request in waiting]
        elif problem is not None:  # a bug in an engine must not lose a row
            results = [failure(request.id, f"{type(problem).__name__}: {problem}", "engine") for request in waiting]
        else:
            found = {result.id: result for result in task.result()}
            lost = "the engine gave no result"
            results = [found.get(request.id) or failure(request.id, lost, "engine") for request in waiting]
        self._deliver(results)
        if not self._closed:
            self._pump()

    def _deliver(self, results: Sequence[GenResult]) -> None:
        groups: dict[Deliver, list[GenResult]] = {}
        for result in results:
            entry = self._open.pop(result.id, None)
            if entry is not None:
                groups.setdefault(entry[1], []).append(result)
        for deliver, group in groups.items():
            deliver(group)


async def halved(
    requests: Sequence[GenRequest], run: Callable[[Sequence[GenRequest]], Coroutine[Any, Any, Sequence[GenResult]]]
) -> list[GenResult]:
    """The results of both halves of a batch that failed because of one of its requests."""
    middle = len(requests) // 2
    return [*await run(requests[:middle]), *await run(requests[middle:])]
