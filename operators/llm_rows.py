"""The row pump of the LLM operators: rows in, the same rows in the same order with their answers out.

Rows are read ahead so that the engine always has work, but never more than ``lookahead`` rows beyond the last row
handed on: a slow consumer or a LIMIT stops the reading. (Some times as many where the rows behind an unfinished one
are finished: requests are sent in the order of their prompts, not of the rows.) Rows without a request (guard not
TRUE, NULL hole) only wait for the rows before them.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from halo_sql.errors import EngineError, Error, InterruptedQueryError
from halo_sql.ir.prompt import LlmCall
from halo_sql.metrics import NodeMetrics
from halo_sql.operators.asking import ORDERED_FROM_ROWS, Asking, ends_at_once, open_channels
from halo_sql.operators.context import Batches, RunContext
from halo_sql.operators.readahead import ReadAhead
from halo_sql.operators.render import Renderer, excerpt

#: Times the lookahead that may be held where rows wait for an earlier one: requests are sent in the prompts' order.
HELD = 4
#: Codes of errors that tools and agents add, of single rows.
TOOL_ERRORS = ("tool", "too_large", "denied", "limit")


@dataclass(frozen=True, slots=True)
class AnsweredRows:
    """Finished rows of one input batch.

    texts   per call, the valid answers by row; None: no request, or failed
    errors  per call, row -> message of the failed ones
    failed  row -> the failure that would have ended the query, of those that are passed on
    """

    batch: Any
    texts: list[list[str | None]]
    errors: list[dict[int, str]]
    failed: Mapping[int, EngineError] = field(default_factory=dict)


async def answered(
    calls: Sequence[LlmCall],
    distinct: bool,
    lookahead: int,
    source: Batches,
    metrics: NodeMetrics,
    ctx: RunContext,
    kind: type[Asking] = Asking,
    by_turn: bool = False,
    pass_on: bool = False,
) -> AsyncIterator[AnsweredRows]:
    """All rows of ``source`` in order, as soon as a leading run of them is finished.

    Raises the EngineError of the first failing row known when ``on_error`` is 'fail': at once, or with ``by_turn`` when
    all rows before it have been handed on and the next is asked for, which goes for errors of ``source``, too. With
    ``pass_on`` failing rows are handed on. Whatever is said, those that end a query (refused credentials, an
    exhausted budget) are raised at once.
    """
    wake = asyncio.Event()
    askings = [kind(call, distinct, metrics, wake.set, ctx.text_cast) for call in calls]
    for asking in askings:
        asking.keeps = by_turn or pass_on
    window = RowWindow(max(1, lookahead), ordered=lookahead >= ORDERED_FROM_ROWS and not by_turn)
    reader = ReadAhead(source)
    problem: Error | None = None  # the source's, which waits for the rows before it
    try:
        while True:
            wake.clear()
            stop = _first_failed(askings) if by_turn and not pass_on else None
            if reader.arrived():
                try:
                    batch = await reader.take()
                except Error as error:
                    if not by_turn or _is_of_all_rows(error):
                        raise
                    problem, batch, reader.ended = error, None, True
                if batch is not None and batch.num_rows:
                    window.add(batch)
                    metrics.rows_total += batch.num_rows
            if stop is None and not reader.ended and (window.has_room() or window.has_room_behind(askings)):
                reader.start(wake.set)
            for chunk, first in window.to_submit() if stop is None else ():
                asks = [asking.admit(chunk, first) for asking in askings]
                if any(asks):
                    await open_channels(askings, lookahead, ctx)
                for asking, requests in zip(askings, asks, strict=True):
                    if asking.broken is None:
                        asking.put(requests)
                    else:
                        asking.refuse(requests)
            _raise_failure(askings, window)
            stop = _first_failed(askings) if by_turn and not pass_on else None
            ready = min(asking.ready() for asking in askings)
            if stop is not None:
                ready = min(ready, stop - window.left)
                if stop == window.left:
                    raise _failures(askings, window.row(stop), stop)[0]
            if ready:
                row = window.left
                for batch in window.leave(ready):
                    failed = _failures(askings, batch, row) if pass_on else {}
                    row += batch.num_rows
                    taken = [asking.take(batch.num_rows) for asking in askings]
                    yield AnsweredRows(batch, [texts for texts, _ in taken], [errors for _, errors in taken], failed)
            elif reader.ended and window.empty():
                if problem is not None:
                    raise problem
                return
            elif not wake.is_set():
                await wake.wait()
                await asyncio.sleep(0)  # one turn of the loop, so that what finishes together leaves together
    finally:
        await reader.close()
        await asyncio.gather(*(asking.close() for asking in askings))


class RowWindow:
    """The rows between reading and leaving: batches in order, and how far they were submitted.

    ordered  requests are sent in the order of their prompts, so that the first row may be answered last
    left     rows handed on
    gone     rows that wait for others before them only: that many more may be held, up to HELD times the lookahead
    """

    def __init__(self, lookahead: int, ordered: bool = False) -> None:
        self._lookahead = lookahead
        self._most = HELD * lookahead if ordered else lookahead
        self._batches: deque[Any] = deque()
        self.left = 0
        self.gone = 0
        self._submitted = 0
        self._stuck = False  # the batch being read is one of ``has_room_behind``
        self._behind = 0  # rows that may be asked for that reason
        self._read = 0
        self._largest = 0

    def add(self, batch: Any) -> None:
        """Hold another batch."""
        self._batches.append(batch)
        self._read += batch.num_rows
        self._largest = max(self._largest, batch.num_rows)
        if self._stuck:
            self._behind, self._stuck = self._read, False

    def has_room(self) -> bool:
        """Whether another batch may be read: what is held stays within the lookahead.

        A lookahead shorter than a batch holds that batch, and reads the next when all of it has been asked.
        """
        held, room = self._read - self.left, self._room()
        if held == 0 or held + self._largest <= room:
            return True
        return self._largest > room > held and self._submitted == self._read

    def _room(self) -> int:
        return min(self._lookahead + self.gone, HELD * self._lookahead)

    def has_room_behind(self, askings: Sequence[Asking]) -> bool:
        """Whether another batch may be read although ``has_room`` says no: the next row is not finished, most of those
        behind it are, and the engine would have to wait for work."""
        if self._read - self.left + self._largest > self._most:
            return False
        unfinished = self._read - self._submitted + max(asking.unfinished for asking in askings)
        waits = unfinished + self._largest <= self._lookahead
        self._stuck = waits and min(asking.ready() for asking in askings) == 0
        return self._stuck

    def empty(self) -> bool:
        """Whether all rows read have been handed on."""
        return self._read == self.left

    def to_submit(self) -> list[tuple[Any, int]]:
        """Slices of the rows that may be asked now, each with the number of its first row."""
        until = min(self._read, max(self.left + self._room(), self._behind))
        found = []
        start = self.left
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
        self.left += rows
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
        offset = number - self.left
        for batch in self._batches:
            if offset < batch.num_rows:
                return batch.slice(offset, 1)
            offset -= batch.num_rows
        raise AssertionError(f"row {number} is not held")


def _raise_failure(askings: Sequence[Asking], window: RowWindow) -> None:
    found = [(*asking.failure, index) for index, asking in enumerate(askings) if asking.failure is not None]
    if not found:
        return
    row, error, index = min(found, key=lambda failure: (failure[0], failure[2]))
    call = askings[index].call
    prompt = Renderer(call).prompts(window.row(row))[0] or ""
    raise call_failure(call, prompt, error)


def _is_of_all_rows(error: Error) -> bool:
    return isinstance(error, InterruptedQueryError) or (isinstance(error, EngineError) and ends_at_once(error))


def _first_failed(askings: Sequence[Asking]) -> int | None:
    """The first row known whose failure waits for its turn."""
    return min((row for asking in askings for row in asking.failed), default=None)


def _failures(askings: Sequence[Asking], batch: Any, first: int) -> dict[int, EngineError]:
    """Place in ``batch``, whose first row has the number ``first`` -> the failure of the first call that failed."""
    found: dict[int, EngineError] = {}
    for asking in askings:
        failed = [row for row in asking.failed if first <= row < first + batch.num_rows]
        renderer = Renderer(asking.call) if failed else None
        for row in failed:
            error, place = asking.failed.pop(row), row - first
            if place in found or renderer is None:
                continue
            prompt = renderer.prompts(batch.slice(place, 1))[0] or ""
            found[place] = error if error is asking.broken else call_failure(asking.call, prompt, error)
    return found


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
        fatal=error.fatal,
        kind=error.kind,
        span=call.span,
        remedy=remedy,
    )
