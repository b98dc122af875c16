"""The agents of one run of a query: ``Channels`` for requests to agents."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from halo_sql.agents.channel import AgentChannel
from halo_sql.agents.protocol import MAX_DEPTH, AgentSpec, nesting
from halo_sql.agents.steps import Check, StepReader
from halo_sql.call_log import RunLog
from halo_sql.engines.protocol import Channels, ChannelSpec, DeliverOutcomes, Validate
from halo_sql.errors import EngineError
from halo_sql.metrics import NodeMetrics


class AgentDesk:
    """``engines.protocol.Channels`` for specs with ``agent`` set.

    agents    by the name that specs give
    channels  opens what conversations need: models, tools (``ChannelSpec.tool``) and agents as tools
              (``ChannelSpec.agent``; these come back here)
    log       where every step is written; a conversation that rows share is written for the first of them
    check     what is wrong with an answer (JSON text) of a type; null is no matter of it
    """

    def __init__(
        self, agents: Mapping[str, AgentSpec], channels: Channels, log: RunLog | None = None, *, check: Check
    ) -> None:
        self._agents = agents
        self._channels = channels
        self._log = log
        self._check = check
        self._open: list[AgentChannel] = []

    async def open(
        self, spec: ChannelSpec, validate: Validate, metrics: NodeMetrics, deliver: DeliverOutcomes
    ) -> AgentChannel:
        """A channel for one node. ``validate`` is not asked: answers have been checked against the agent's type.

        Raises EngineError('unavailable') when model or tools cannot start, 'limit' when agents call each other more
        than two levels deep or in circles.
        """
        agent = self._agents[spec.agent]
        if nesting(self._agents, spec.agent) > MAX_DEPTH:
            raise EngineError(
                f'agent "{agent.name}" calls agents more than {MAX_DEPTH} levels deep',
                code="limit",
                remedy="Give it tools instead of agents that call others.",
            )
        channel = AgentChannel(agent, spec, StepReader(agent, self._check), metrics, deliver, self._log)
        try:
            await channel.start(self._channels)
        except BaseException:
            await channel.close()
            raise
        self._open = [known for known in self._open if not known.closed]
        self._open.append(channel)
        return channel

    async def close(self) -> None:
        """Close every channel of the run; idempotent."""
        open_, self._open = self._open, []
        await asyncio.gather(*(channel.close() for channel in open_))
