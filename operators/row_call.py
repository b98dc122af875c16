"""One call of a row graph: rows ask in any order, when what they read is there."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from halo_sql.engines.protocol import Channel, Outcome
from halo_sql.errors import EngineError
from halo_sql.ir.row_graph import CallStep
from halo_sql.operators.asking import channel_spec, ends_at_once
from halo_sql.operators.context import RunContext
from halo_sql.operators.convert import Converter
from halo_sql.operators.llm_rows import call_failure
from halo_sql.operators.render import Renderer


class RowCall:
    """Answers by row number. The channel is opened by the first row that asks, while others go on.

    distinct  rows that ask together and have equal arguments ask once
    keeps     failures of single rows are kept in ``failed``
    priority  added to the call's own; lower is earlier
    problem   what ends the query at once, whichever row met it
    fatal     (row, error) of failures that end the query at once
    failed    row -> the failure that waits, on_error being 'fail'
    """

    def __init__(
        self, step: CallStep, distinct: bool, keeps: bool, priority: int, notify: Callable[[], None], ctx: RunContext
    ) -> None:
        self.call = call = step.call
        self.metrics = ctx.node_metrics(step.node.id)
        self.problem: BaseException | None = None
        self.fatal: list[tuple[int, EngineError]] = []
        self.failed: dict[int, EngineError] = {}
        self._step, self._keeps, self._notify, self._ctx = step, keeps, notify, ctx
        self._renderer = Renderer(call)
        self._converter = Converter(call, ctx.text_cast)
        self._grouped = distinct and call.deterministic
        self._priority = call.priority + priority
        self._texts: dict[int, str | None] = {}
        self._messages: dict[int, str] = {}
        self._twins: dict[int, list[int]] = {}
        self._finished: list[int] = []
        self._waiting: list[tuple[int, str]] = []  # for the channel
        self._opening: asyncio.Task[None] | None = None
        self._channel: Channel | None = None
        self._broken: EngineError | None = None

    def ask(self, rows: Sequence[int], batch: Any, ordered: bool) -> None:
        """Make the calls of these rows, whose arguments ``batch`` holds; rows without one are finished."""
        if self._grouped:
            prompts, places = self._renderer.distinct(batch)
        else:
            prompts = self._renderer.prompts(batch)
            places = list(range(len(prompts)))
        leaders: list[int | None] = [None] * len(prompts)
        requests: list[tuple[int, str]] = []
        for row, place in zip(rows, places, strict=True):
            prompt, leader = prompts[place], leaders[place]
            if prompt is None:
                self._texts[row] = None
                self._finished.append(row)
            elif leader is None:
                leaders[place] = row
                requests.append((row, prompt))
            else:
                self._twins.setdefault(leader, []).append(row)
        merged = len(rows) - len(requests) - sum(prompts[place] is None for place in places)
        if self.call.kind == "tool":
            self.metrics.tool_calls_coalesced += merged
        else:
            self.metrics.llm_calls_coalesced += merged
        if not requests:
            return
        if self._channel is not None:
            self._channel.put(requests)
        elif self._broken is not None:
            self._refuse(requests)
        else:
            self._waiting += requests
            if self._opening is None:
                self._opening = asyncio.create_task(self._open(ordered))

    async def _open(self, ordered: bool) -> None:
        spec = replace(channel_spec(self.call, ordered), priority=self._priority)
        try:
            self._channel = await self._ctx.channels.open(spec, self._converter.validate, self.metrics, self._deliver)
        except EngineError as problem:
            problem.span = problem.span or self.call.span
            if not self._keeps or self.call.on_error != "fail" or ends_at_once(problem):
                self.problem = problem
            self._broken = problem
        except Exception as problem:
            self.problem = problem
        waiting, self._waiting = self._waiting, []
        if self._channel is not None:
            self._channel.put(waiting)
        elif self.problem is None:
            self._refuse(waiting)
        self._notify()

    def _refuse(self, requests: Sequence[tuple[int, str]]) -> None:
        self.metrics.errors += len(requests)
        self._deliver([(row, Outcome(error=self._broken)) for row, _ in requests])

    def _deliver(self, outcomes: Sequence[tuple[int, Outcome]]) -> None:
        for row, outcome in outcomes:
            self._finish(row, outcome)
            for twin in self._twins.pop(row, ()) if self._twins else ():
                self.metrics.errors += outcome.error is not None
                self._finish(twin, outcome)
        self._notify()

    def _finish(self, row: int, outcome: Outcome) -> None:
        error = outcome.error
        self._texts[row] = outcome.text if error is None else None
        self._finished.append(row)
        if error is None:
            return
        fails = self.call.on_error == "fail"
        if ends_at_once(error) or (fails and not self._keeps):
            self.fatal.append((row, error))
        elif fails:
            self.failed[row] = error
        else:
            self._messages[row] = error.message

    def finished(self) -> list[int]:
        """The rows answered since this was asked last."""
        found, self._finished = self._finished, []
        return found

    def column(self, rows: Sequence[int]) -> Any:
        """The answers of rows, finished all, as an array of the call's type."""
        messages = self._messages
        errors = {place: messages[row] for place, row in enumerate(rows) if row in messages} if messages else {}
        return self._converter.to_arrow([self._texts[row] for row in rows], errors)

    def verdicts(self, rows: Sequence[int]) -> list[bool]:
        """Which of the rows, finished all, a filter's call lets through: those answered yes."""
        found = self._converter.verdicts([self._texts[row] for row in rows]).to_pylist()
        return [verdict is True for verdict in found]

    def failure(self, error: EngineError, batch: Any) -> EngineError:
        """A failure as the one that ends the query; ``batch`` holds the row's arguments."""
        if error is self._broken:
            return error
        return call_failure(self.call, self._renderer.prompts(batch)[0] or "", error)

    def forget(self, rows: range) -> None:
        """These rows have left."""
        for row in rows:
            self._texts.pop(row, None)  # a filter below may have taken it out
            self._messages.pop(row, None)
            self.failed.pop(row, None)

    async def close(self) -> None:
        """Nothing more is wanted."""
        if self._opening is not None:
            self._opening.cancel()
            await asyncio.gather(self._opening, return_exceptions=True)
        if self._channel is not None:
            await self._channel.close()
