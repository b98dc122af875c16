"""Pulling an input in the background while its consumer works."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

from halo_sql.operators.context import Batches

T = TypeVar("T")


class ReadAhead:
    """Holds at most one pull of ``source`` in flight.

    ended  the source has no more batches
    """

    def __init__(self, source: Batches) -> None:
        self.ended = False
        self._source = source
        self._task: asyncio.Task[Any] | None = None

    def start(self, notify: Callable[[], None] | None = None) -> None:
        """Begin a pull unless one is in flight or the source has ended; ``notify`` is called when it is done."""
        if self._task is None and not self.ended:
            self._task = asyncio.create_task(self._pull())
            if notify is not None:
                self._task.add_done_callback(lambda _: notify())

    async def _pull(self) -> Any:
        return await anext(self._source, None)

    def arrived(self) -> bool:
        """Whether ``take`` returns without waiting."""
        return self._task is not None and self._task.done()

    def _failed(self) -> bool:
        task = self._task
        return task is not None and task.done() and (task.cancelled() or task.exception() is not None)

    async def take(self) -> Any:
        """The next batch; None at the end."""
        self.start()
        if self._task is None:
            return None
        await asyncio.wait([self._task])  # cancelling the wait leaves the pull to ``close``
        task, self._task = self._task, None
        batch = task.result()
        self.ended = batch is None
        return batch

    async def take_some(self, rows: int) -> list[Any]:
        """At least one batch, and those that are there already, up to about ``rows`` rows; [] at the end.

        An error of the source is raised when the batches before it have been taken.
        """
        taken: list[Any] = []
        size = 0
        while size < rows:
            self.start()
            if taken and not self.ended:
                await asyncio.sleep(0)  # one turn: what is ready arrives, nothing is waited for
                if not self.arrived() or self._failed():
                    break
            batch = await self.take()
            if batch is None:
                break
            taken.append(batch)
            size += batch.num_rows
        return taken

    async def close(self) -> None:
        """Stop the pull in flight (the source itself is closed by whoever owns it)."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await task


async def gather_all(works: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """All results in order. When one fails the others are cancelled, waited for, and its error is raised as it is."""
    tasks = [asyncio.create_task(work) for work in works]
    try:
        if tasks:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        for task in tasks:
            if task.done():
                task.result()
        return [task.result() for task in tasks]
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
