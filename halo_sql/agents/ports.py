"""The channels of an agent: to its model, one for each form of step, and to its tools."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from halo_sql.agents.conversation import Conversation
from halo_sql.agents.prompts import has_tools, last_answer, step_answer, system_text
from halo_sql.agents.protocol import AgentSpec, AgentTool
from halo_sql.engines.protocol import Answer, Channel, Channels, ChannelSpec, DeliverOutcomes
from halo_sql.errors import EngineError
from halo_sql.ir.prompt import Sampling
from halo_sql.metrics import NodeMetrics

FIRST, MORE, LAST = range(3)
GROWTH_TOK = 32  # that a step and its results add to a prompt, about
TURN_TOK = 64  # more than any chat template adds to a message
FRAME_TOK = 512  # more than it adds to a chat


class Ports:
    """Which channel a step or a call goes to, and whether a step fits into the limit of tokens.

    may_call  whether there is a tool that may ever be called
    models    by FIRST (first steps), MORE (later ones) and LAST (those that may only give an answer). What goes on is
              sent before what begins, or thousands of conversations would be under way at once
    """

    def __init__(self, spec: AgentSpec, asked: ChannelSpec) -> None:
        self._spec = spec
        self._asked = asked
        self.may_call = has_tools(spec)
        self.models: list[Channel] = []
        self.tools: dict[tuple[str, bool], Channel] = {}  # by name and whether the caller is tainted
        self._system = system_text(spec)
        texts = [
            self._system,
            *(text for tool in spec.tools for text in (tool.name, tool.description, tool.schema) * 3),
        ]
        self._static_tok = sum(len(text.encode()) for text in texts) + FRAME_TOK

    async def open(
        self, channels: Channels, metrics: NodeMetrics, on_steps: DeliverOutcomes, on_results: DeliverOutcomes
    ) -> None:
        """Open all. EngineError when one cannot be; those that were opened wait for ``close``."""
        spec, priority = self._spec, self._asked.priority
        last = last_answer(spec)
        step = step_answer(spec) if self.may_call else last
        for answer, level in ((step, priority), (step, priority - 1), (last, priority - 1)):
            asked = self._model_spec(answer, level)
            self.models.append(await channels.open(asked, _whole, metrics, on_steps))
        if not self.may_call:
            return
        for tool in spec.tools:
            opened: dict[str, Channel] = {}
            for tainted, key in enumerate(tool.keys):
                if key not in opened:
                    opened[key] = await channels.open(self._tool_spec(tool, key), _any, metrics, on_results)
                self.tools[tool.name, bool(tainted)] = opened[key]

    def _model_spec(self, answer: Answer, priority: int) -> ChannelSpec:
        spec, asked = self._spec, self._asked
        cache = spec.cache and asked.cache
        return ChannelSpec(spec.model, self._system, spec.sampling, answer, cache, priority, asked.ordered, traced=True)

    def _tool_spec(self, tool: AgentTool, key: str) -> ChannelSpec:
        cache, priority = self._asked.cache, self._asked.priority
        if tool.kind == "agent":
            return ChannelSpec("", None, Sampling(), cache=cache, priority=priority - 1, agent=key, traced=True)
        return ChannelSpec("", None, Sampling(), cache=cache, priority=priority, tool=key, traced=True)

    def all(self) -> Iterable[Channel]:
        """Each channel once."""
        return dict.fromkeys([*self.models, *self.tools.values()])

    def role(self, conversation: Conversation) -> int:
        """Which of ``models`` its next step goes to; ``steps`` counts it already."""
        if conversation.steps == 1 and conversation.last != self.may_call:
            return FIRST
        return LAST if conversation.last else MORE

    def fits(self, conversation: Conversation, last: bool) -> tuple[bool, bool]:
        """(whether one more step fits into max_tokens, whether it should be the last one: no other would)."""
        spec, dialogue = self._spec, conversation.dialogue
        used, output = conversation.used_tok, spec.sampling.max_tokens
        # a token stands for at least one byte: counting, which is dear, is only needed near the limit
        most = self._static_tok + TURN_TOK * len(dialogue.turns)
        most += len(dialogue) if dialogue.isascii() else 4 * len(dialogue)
        if used + 2 * (most + output) + TURN_TOK <= spec.max_tokens:
            return True, last
        prompt = max(self.count(conversation, last), conversation.last_tok)
        if used + prompt + output > spec.max_tokens:
            return False, last
        # the next one, if this is not the last, has a prompt that grows as it did before
        grown = max(prompt - conversation.last_prompt_tok if conversation.steps else 0, GROWTH_TOK)
        return True, last or used + prompt + min(output, grown) + prompt + grown + output > spec.max_tokens

    def count(self, conversation: Conversation, last: bool) -> int:
        """Tokens of its next prompt."""
        return self.models[LAST if last else MORE].count_tok(conversation.dialogue)

    async def close(self) -> None:
        """Close all."""
        await asyncio.gather(*(channel.close() for channel in self.all()))


def _whole(text: str, finish: str) -> EngineError | None:
    """Only steps that were cut are refused here; the conversation answers the others."""
    if finish == "length":
        return EngineError(
            "a step of the agent was cut by max_step_tokens",
            code="truncated",
            remedy="Give the agent a higher max_step_tokens, or a lower max_parallel.",
        )
    return None


def _any(text: str, finish: str) -> EngineError | None:
    """A tool's channel has checked its results."""
    return None
