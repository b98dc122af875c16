"""A result that several consumers read: computed once, kept whole, read by each at its own pace."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from halo_sql.operators.context import Batches, RunContext
from halo_sql.operators.spool import Spool, fill, new_spool


async def materialize(node: Any, inputs: list[Batches], ctx: RunContext) -> AsyncIterator[Any]:
    """The input's rows, after all of them have been computed and spooled."""
    spool = await fill(new_spool(ctx), inputs[0])
    try:
        for batch in spool.batches():
            yield batch
    finally:
        spool.close()


class Shared:
    """A materialized stream with several readers, each at its own pace.

    The source is pulled when a reader wants a batch that no reader has had yet, and the batch is spooled for the
    others: none waits for another (a queue of bounded length would stand still as soon as one does), none makes the
    source do more than the one that reads furthest, and each meets an error of the source behind the rows before it.
    Closed when the last reader is.
    """

    def __init__(self, source: Batches, ctx: RunContext) -> None:
        self._source = source
        self._ctx = ctx
        self._spool: Spool | None = None
        self._pull: asyncio.Task[None] | None = None
        self._ended = False
        self._failure: Exception | None = None
        self._readers = 0

    def reader(self) -> _Reader:
        """A stream of all rows."""
        self._readers += 1
        return _Reader(self)

    async def batch(self, place: int) -> Any:
        """The batch at a place; None behind the last."""
        if self._spool is None:
            self._spool = new_spool(self._ctx)
        while place >= len(self._spool) and not self._ended:
            if self._failure is not None:
                raise self._failure
            if self._pull is None:  # a task of its own, as any reader may be cancelled
                self._pull = asyncio.create_task(self._advance(self._spool))
            await asyncio.wait([self._pull])
        return self._spool.batch(place) if place < len(self._spool) else None

    async def _advance(self, spool: Spool) -> None:
        try:
            batch = await anext(self._source, None)
            if batch is None:
                self._ended = True
                spool.finish()
            elif batch.num_rows:
                spool.append(batch)
        except Exception as problem:
            self._failure = problem
        finally:
            self._pull = None

    async def leave(self) -> None:
        """A reader is closed."""
        self._readers -= 1
        if self._readers:
            return
        pull = self._pull
        if pull is not None:
            pull.cancel()
            await asyncio.gather(pull, return_exceptions=True)
        await self._source.aclose()
        if self._spool is not None:
            self._spool.close()


class _Reader:
    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._place = 0
        self._closed = False

    def __aiter__(self) -> _Reader:
        return self

    async def __anext__(self) -> Any:
        if self._closed:
            raise StopAsyncIteration
        batch = await self._shared.batch(self._place)
        if batch is None:
            raise StopAsyncIteration
        self._place += 1
        return batch

    async def aclose(self) -> None:
        if not self._closed:
            self._closed = True
            await self._shared.leave()
