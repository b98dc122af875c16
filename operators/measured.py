"""The wrapper around every operator: counts rows, batches and seconds, and closes what the operator read."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Generator, Sequence
from typing import Any

from halo_sql.clock import clock_s
from halo_sql.metrics import NodeMetrics
from halo_sql.operators.context import Batches
from halo_sql.virtual_time import is_virtual


class Clock:
    """Seconds spent in steps that ran inside the current one (one per run; everything runs on one loop)."""

    __slots__ = ("inner_s",)

    def __init__(self) -> None:
        self.inner_s = 0.0


class _Timed:
    """An awaitable whose every step (from resume to suspend) is timed, without the measured steps inside it."""

    __slots__ = ("_awaitable", "_clock", "_metrics")

    def __init__(self, awaitable: Awaitable[Any], metrics: NodeMetrics, clock: Clock) -> None:
        self._awaitable = awaitable
        self._metrics = metrics
        self._clock = clock

    def __await__(self) -> Generator[Any, Any, Any]:
        steps = self._awaitable.__await__()
        clock, metrics = self._clock, self._metrics
        value: Any = None
        problem: BaseException | None = None
        while True:
            outer_s, clock.inner_s = clock.inner_s, 0.0
            started = time.perf_counter()
            try:
                found = steps.send(value) if problem is None else steps.throw(problem)
            except StopIteration as end:
                return end.value
            finally:
                spent_s = time.perf_counter() - started
                metrics.self_s += spent_s - clock.inner_s
                clock.inner_s = outer_s + spent_s
            try:
                value, problem = (yield found), None
            except BaseException as thrown:  # cancellation: handed to the operator
                value, problem = None, thrown


class Measured:
    """``measured(operator)``: the operator's batches, counted; its inputs are closed when it ends, fails or is closed.

    Closing works on an operator that has not been started, too (a generator's own finally would not run).
    """

    def __init__(
        self, operator: AsyncIterator[Any], inputs: Sequence[Batches], metrics: NodeMetrics, clock: Clock
    ) -> None:
        self._operator = operator
        self._inputs = inputs
        self._metrics = metrics
        self._clock = clock
        self._started: float | None = None
        self._self_before_s = metrics.self_s
        self._running = False
        self._closed = False

    def __aiter__(self) -> Measured:
        return self

    async def __anext__(self) -> Any:
        if self._closed:
            raise StopAsyncIteration
        if self._started is None:
            self._started = clock_s()
        metrics = self._metrics
        self._running = True
        try:
            batch = await _Timed(self._operator.__anext__(), metrics, self._clock)
        except BaseException:
            self._running = False
            await self.aclose()
            raise
        self._running = False
        metrics.rows += batch.num_rows
        metrics.batches += 1
        self._note_wait()
        return batch

    def _note_wait(self) -> None:
        if self._started is not None:
            elapsed_s = clock_s() - self._started
            computed_s = 0.0 if is_virtual() else self._metrics.self_s - self._self_before_s
            self._metrics.wait_s = max(0.0, elapsed_s - computed_s)

    async def aclose(self) -> None:
        """Close the operator, then its inputs; idempotent. RuntimeError during a pull: cancel that instead."""
        if self._closed:
            return
        if self._running:
            raise RuntimeError("a pull is under way")
        self._closed = self._metrics.ended = True
        self._note_wait()
        try:
            close = getattr(self._operator, "aclose", None)
            if close is not None:
                await close()
        finally:
            await close_all(self._inputs)


async def close_all(inputs: Sequence[Batches]) -> None:
    """Close every input, also when closing one fails (its error is raised at the end)."""
    problem: BaseException | None = None
    for source in inputs:
        try:
            await source.aclose()
        except BaseException as found:
            problem = problem or found
    if problem is not None:
        raise problem
