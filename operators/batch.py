"""The statements of a batch side by side: what each gives, as it comes, and how each ends."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from halo_sql.ir.physical import PhysicalNode
from halo_sql.operators.context import Batches, RunContext


@dataclass(frozen=True, slots=True)
class Event:
    """A statement (from 0) has a RecordBatch, or else has ended, well or with an error."""

    statement: int
    batch: Any = None
    error: Exception | None = None


def batch(node: PhysicalNode, inputs: list[Batches], ctx: RunContext) -> _Batch:
    """The events of all inputs; every one is drained by a task of its own, begun in order.

    An error ends its own result only.
    """
    return _Batch(inputs)


class _Batch:
    def __init__(self, results: Sequence[Batches]) -> None:
        self._results = results
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self._tasks: list[asyncio.Task[None]] | None = None
        self._left = len(results)
        self._closed = False

    def __aiter__(self) -> _Batch:
        return self

    async def __anext__(self) -> Event:
        if self._tasks is None:
            self._tasks = [
                asyncio.create_task(self._drain(number, result)) for number, result in enumerate(self._results)
            ]
        if self._closed or not self._left:
            raise StopAsyncIteration
        event = await self._events.get()
        self._left -= event.batch is None
        return event

    async def _drain(self, number: int, result: Batches) -> None:
        problem: Exception | None = None
        try:
            async for rows in result:
                if rows.num_rows:
                    self._events.put_nowait(Event(number, rows))
        except Exception as error:
            problem = error
        with contextlib.suppress(Exception):  # what failed has closed itself
            await result.aclose()
        self._events.put_nowait(Event(number, error=problem))

    async def aclose(self) -> None:
        """End what still runs; idempotent."""
        if self._closed:
            return
        self._closed = True
        for task in self._tasks or ():
            task.cancel()
        await asyncio.gather(*(self._tasks or ()), return_exceptions=True)
        for result in self._results:
            await result.aclose()
