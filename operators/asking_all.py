"""A call over prompts that are all known: asked together, answered together."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from halo_sql.engines.protocol import Channel, Outcome
from halo_sql.errors import EngineError
from halo_sql.ir.call_key import call_key
from halo_sql.ir.prompt import LlmCall
from halo_sql.metrics import NodeMetrics
from halo_sql.operators.asking import ENDING, channel_spec
from halo_sql.operators.context import RunContext
from halo_sql.operators.convert import Converter
from halo_sql.operators.llm_rows import call_failure


class AskingAll:
    """One call of a running node; a failed prompt follows its ``on_error``.

    template  the call under which is learnt what requests take; None: the call itself
    """

    def __init__(self, call: LlmCall, metrics: NodeMetrics, ctx: RunContext, template: LlmCall | None = None) -> None:
        self.call = call
        self.converter = Converter(call, ctx.text_cast)
        self._spec = replace(channel_spec(call), learn=call_key(template or call))
        self._metrics = metrics
        self._ctx = ctx
        self._channel: Channel | None = None
        self._found: dict[int, Outcome] = {}
        self._failed: int | None = None
        self._waiting = 0
        self._done = asyncio.Event()

    async def texts(self, prompts: Mapping[int, str], twins: Callable[[int], int]) -> dict[int, str | None]:
        """The valid answer to each prompt by its number, None where it failed; asked once for each number.

        ``twins`` says how many further rows ask a prompt: errors are counted by rows. Raises the EngineError of the
        lowest number known to have failed when ``on_error`` is 'fail', or when the error ends the query anyway.
        """
        if prompts:
            await self._ask(prompts)
        if self._failed is not None:
            error = self._found[self._failed].error
            assert error is not None
            raise call_failure(self.call, prompts[self._failed], error)
        found, self._found = self._found, {}
        self._metrics.errors += sum(twins(number) for number, outcome in found.items() if outcome.error is not None)
        return {number: None if outcome.error is not None else outcome.text for number, outcome in found.items()}

    async def _ask(self, prompts: Mapping[int, str]) -> None:
        if self._channel is None:
            try:
                self._channel = await self._ctx.channels.open(
                    self._spec, self.converter.validate, self._metrics, self._deliver
                )
            except EngineError as problem:
                problem.span = problem.span or self.call.span
                raise
        self._waiting = len(prompts)
        self._done.clear()
        self._channel.put(list(prompts.items()))
        await self._done.wait()

    def _deliver(self, outcomes: Sequence[tuple[int, Outcome]]) -> None:
        for number, outcome in outcomes:
            self._found[number] = outcome
            if outcome.error is not None and self._ends(outcome.error):
                self._failed = number if self._failed is None else min(number, self._failed)
        self._waiting -= len(outcomes)
        if not self._waiting or self._failed is not None:
            self._done.set()

    def _ends(self, error: EngineError) -> bool:
        return self.call.on_error == "fail" or error.fatal or error.code in ENDING

    async def close(self) -> None:
        """Nothing more is wanted."""
        if self._channel is not None:
            await self._channel.close()
