"""The row pump of the LLM operators: rows in, the same rows in the same order with their answers out.

Rows are read ahead so that the engine always has work, but never more than ``lookahead`` rows beyond the last row
handed on: a slow consumer or a LIMIT stops the reading. Rows without a request (guard not TRUE, NULL hole) only
wait for the rows before them.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

from halo_sql.errors import EngineError
from halo_sql.ir.prompt import LlmCall
from halo_sql.metrics import NodeMetrics
from halo_sql.operators.asking import Asking, open_channels
from halo_sql.operators.context import Batches, RunContext
from halo_sql.operators.readahead import ReadAhead
from halo_sql.operators.render import Renderer, excerpt

#: Codes of errors that tools and agents add, of single rows.
TOOL_ERRORS = ("tool", "too_large", "denied", "limit")


@dataclass(frozen=True, slots=True)
class AnsweredRows:
    """Finished rows of one input batch.

    texts   per call, the valid answers by row; None: no request, or failed
    errors  per call, row -> message of the failed ones
    """

    batch: Any
    texts: list[list[str | None]]
    errors: list[dict[int, str]]


async def answered(
    calls: Sequence[LlmCall],
    distinct: bool,
    lookahead: int,
    source: Batches,
    metrics: NodeMetrics,
    ctx: RunContext,
    kind: type[Asking] = Asking,
) -> AsyncIterator[AnsweredRows]:
    """All rows of ``source`` in order, as soon as a leading run of them is finished.

    Raises the EngineError of the first failing row known when ``on_error`` is 'fail' (and, whatever ``on_error``
    says, those that end a query: refused credentials, an exhausted budget).
    """
    wake = asyncio.Event()
    askings = [kind(call, distinct, metrics, wake.set, ctx.text_cast) for call in calls]
    window = _Window(max(1, lookahead))
    reader = ReadAhead(source)
    try:
        while True:
            wake.clear()
            if reader.arrived():
                batch = await reader.take()
                if batch is not None and batch.num_rows:
                    window.add(batch)
                    metrics.rows_total += batch.num_rows
            if window.has_room() and not reader.ended:
                reader.start(wake.set)
            for chunk, first in window.to_submit():
                asks = [asking.admit(chunk, first) for asking in askings]
                if any(asks):
                    await open_channels(askings, lookahead, ctx)
                for asking, requests in zip(askings, asks, strict=True):
                    asking.put(requests)
            _raise_failure(askings, window)
            ready = min(asking.ready() for asking in askings)
            if ready:
                for batch in window.leave(ready):
                    taken = [asking.take(batch.num_rows) for asking in askings]
                    yield AnsweredRows(batch, [texts for texts, _ in taken], [errors for _, errors in taken])
            elif reader.ended and window.empty():
                return
            elif not wake.is_set():
                await wake.wait()
                await asyncio.sleep(0)  # one turn of the loop, so that what finishes together leaves together
    finally:
        await reader.close()
        await asyncio.gather(*(asking.close() for asking in askings))


class _Window:
    """The rows between reading and leaving: batches in order, and how far they were submitted."""

    def __init__(self, lookahead: int) -> None:
        self._lookahead = lookahead
        self._batches: deque[Any] = deque()
        self._left = 0  # rows handed on
        self._submitted = 0
        self._read = 0
        self._largest = 0

    def add(self, batch: Any) -> None:
        self._batches.append(batch)
        self._read += batch.num_rows
        self._largest = max(self._largest, batch.num_rows)

    def has_room(self) -> bool:
        """Whether another batch may be read: what is held stays within the lookahead.

        A lookahead shorter than a batch holds that batch, and reads the next when all of it has been asked.
        """
        held = self._read - self._left
        if held == 0 or held + self._largest <= self._lookahead:
            return True
        return self._largest > self._lookahead > held and self._submitted == self._read

    def empty(self) -> bool:
        return self._read == self._left

    def to_submit(self) -> list[tuple[Any, int]]:
        """Slices of the rows that may be asked now, each with the number of its first row."""
        until = min(self._read, self._left + self._lookahead)
        found = []
        start = self._left
        for batch in self._batches:
            end = start + batch.num_rows
            low, high = max(start, self._submitted), min(end, until)
            if low < high:
                found.append((batch.slice(low - start, high - low), low))
            start = end
        self._submitted = max(self._submitted, until)
        return found

    def leave(self, rows: int) -> list[Any]:
        """The next ``rows`` rows as slices; they are no longer held."""
        found = []
        self._left += rows
        while rows:
            batch = self._batches[0]
            if batch.num_rows <= rows:
                found.append(self._batches.popleft())
                rows -= batch.num_rows
            else:
                found.append(batch.slice(0, rows))
                self._batches[0] = batch.slice(rows)
                rows = 0
        return found

    def row(self, number: int) -> Any:
        """The held row of this number, as a batch."""
        offset = number - self._left
        for batch in self._batches:
            if offset < batch.num_rows:
                return batch.slice(offset, 1)
            offset -= batch.num_rows
        raise AssertionError(f"row {number} is not held")


def _raise_failure(askings: Sequence[Asking], window: _Window) -> None:
    found = [(*asking.failure, index) for index, asking in enumerate(askings) if asking.failure is not None]
    if not found:
        return
    row, error, index = min(found, key=lambda failure: (failure[0], failure[2]))
    call = askings[index].call
    prompt = Renderer(call).prompts(window.row(row))[0] or ""
    raise call_failure(call, prompt, error)


def call_failure(call: LlmCall, prompt: str, error: EngineError) -> EngineError:
    """A failing request as the error that ends the query: the call, its prompt, its place in the statement."""
    name = call.label or call.operator
    remedy = error.remedy
    if not remedy and error.code in ("invalid_output", "truncated", "context", "rejected", *TOOL_ERRORS):
        remedy = "on_error => 'null' gives NULL for rows that fail."
    what = "arguments" if call.kind == "tool" else "data" if call.kind == "agent" else "prompt"
    return EngineError(
        error.message if error.fatal else f'{name}, {what} "{excerpt(prompt)}": {error.message}',
        code=error.code,
        retryable=error.retryable,
        kind=error.kind,
        span=call.span,
        remedy=remedy,
    )
