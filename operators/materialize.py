"""A result that several consumers read: computed once, kept whole, read by each at its own pace."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
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
    """A materialized stream with several readers.

    A queue that the readers drain together would stand still as soon as one of them waits for another: the rows are
    spooled first, whoever asks first. Closed when the last reader is.
    """

    def __init__(self, source: Batches, ctx: RunContext) -> None:
        self._source = source
        self._ctx = ctx
        self._spool: Spool | None = None
        self._filling: asyncio.Task[Spool] | None = None
        self._readers = 0

    def reader(self) -> _Reader:
        """A stream of all rows."""
        self._readers += 1
        return _Reader(self)

    async def filled(self) -> Spool:
        """The spool with every row; computed by a task of its own, as any reader may be cancelled."""
        if self._filling is None:
            self._spool = new_spool(self._ctx)
            self._filling = asyncio.create_task(fill(self._spool, self._source))
        return await asyncio.shield(self._filling)

    async def leave(self) -> None:
        """A reader is closed."""
        self._readers -= 1
        if self._readers:
            return
        if self._filling is not None:
            self._filling.cancel()
            await asyncio.gather(self._filling, return_exceptions=True)
        await self._source.aclose()
        if self._spool is not None:
            self._spool.close()


class _Reader:
    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._batches: Iterator[Any] | None = None
        self._closed = False

    def __aiter__(self) -> _Reader:
        return self

    async def __anext__(self) -> Any:
        if self._closed:
            raise StopAsyncIteration
        if self._batches is None:
            self._batches = (await self._shared.filled()).batches()
        batch = next(self._batches, None)
        if batch is None:
            raise StopAsyncIteration
        return batch

    async def aclose(self) -> None:
        if not self._closed:
            self._closed = True
            self._batches = None
            await self._shared.leave()
