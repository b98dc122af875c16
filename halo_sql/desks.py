"""The channels of a run: to models, to tools, to agents; and the runners of its tools."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any, Protocol

from halo_sql.agents.desk import AgentDesk
from halo_sql.call_log import RunLog
from halo_sql.duck import Duck
from halo_sql.engines.budget import Budget
from halo_sql.engines.dispatch import Dispatcher
from halo_sql.engines.experience import Experience
from halo_sql.engines.protocol import Channel, ChannelSpec, DeliverOutcomes, Move, Validate
from halo_sql.engines.store import ResponseStore
from halo_sql.errors import EngineError
from halo_sql.ir.types import SqlType
from halo_sql.metrics import NodeMetrics
from halo_sql.operators.read_answer import value_reader
from halo_sql.operators.render import excerpt
from halo_sql.operators.text_cast import TextCast
from halo_sql.targets import Targets
from halo_sql.tools.desk import ToolDesk
from halo_sql.tools.journal import BatchJournal, Journal
from halo_sql.tools.limits import limits_of, takes_sql
from halo_sql.tools.memory import ToolCache
from halo_sql.tools.protocol import BoundTool, Runner, Surroundings

CLOSE_S = 2.0  # how long a run waits for its tools to let go


def workers_of(placed: str, model: str) -> tuple[int, ...]:
    """The numbers of a model's workers in ``model/number, …``, in order; none: any may answer."""
    found = (part.strip().rpartition("/") for part in placed.split(","))
    return tuple(sorted({int(number) for name, _, number in found if name == model}))


class OnConnection(Protocol):
    """Runs a function on the user's connection, on its thread."""

    def __call__(self, work: Callable[[Duck], Any]) -> Awaitable[Any]:
        """What the function gives."""
        ...


class Desks:
    """``engines.protocol.Channels`` for one run: sends each spec to whom it concerns. On the session's loop.

    join_from  lower-case name of a query -> how many calls that are there together are joined
    placed     id of a node's counters -> the workers that the plan put it on, ``model/number, …``
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        targets: Targets,
        surroundings: Surroundings,
        *,
        store: ResponseStore | None,
        journal: Journal | BatchJournal,
        budget: Budget,
        log: RunLog | None,
        statement: str,
        cast: TextCast,
        join_from: Mapping[str, int] | None = None,
        placed: Mapping[int, str] | None = None,
    ) -> None:
        self.on_connection: OnConnection | None = None  # set when the run's context is there
        self._dispatcher = dispatcher
        self._targets = targets
        self._surroundings = surroundings
        self._store = store
        self._journal = journal
        self._budget = budget
        self._log = log
        self._statement = statement
        self._cast = cast
        self._join_from = join_from or {}
        self._placed = dict(placed or {})
        self._shifts: dict[int, int] = {}  # id of a node's counters -> what its priority has changed by
        self._readers: dict[str, Callable[[str], Any]] = {}
        self._runners: list[Runner] = []
        self._sessions: Any = None  # of MCP servers, shared by their tools
        self._tools: ToolDesk | None = None
        self._agents: AgentDesk | None = None

    async def open(
        self, spec: ChannelSpec, validate: Validate, metrics: NodeMetrics, deliver: DeliverOutcomes
    ) -> Channel:
        """A channel to a model, a tool or an agent. Raises EngineError('unavailable') as those do."""
        if spec.tool:
            return await self._tool_desk().open(spec, validate, metrics, deliver)
        if spec.agent:
            return await self._agent_desk().open(spec, validate, metrics, deliver)
        placed = self._placed.get(id(metrics))
        if placed and not spec.workers:
            spec = replace(spec, workers=workers_of(placed, spec.model))
        if shift := self._shifts.get(id(metrics)):
            spec = replace(spec, priority=spec.priority + shift)
        return await self._dispatcher.open(spec, validate, metrics, deliver)

    def move(self, placed: Mapping[int, str], shifts: Mapping[int, int]) -> None:
        """Nodes, by ids of their counters, get other workers and priorities that are so much higher, for what is not
        sent yet."""
        moves: dict[int, Move] = {}
        for key in placed.keys() | shifts.keys():
            self._placed[key] = names = placed.get(key, self._placed.get(key, ""))
            self._shifts[key] = self._shifts.get(key, 0) + shifts.get(key, 0)
            models = {part.strip().rpartition("/")[0] for part in names.split(",")}
            moves[key] = Move({model: workers_of(names, model) for model in models}, shifts.get(key, 0))
        self._dispatcher.move(moves)

    def tool_experience(self) -> dict[str, Experience]:
        """Lower-case name of a tool -> what its calls took."""
        return {} if self._tools is None else self._tools.experience()

    async def finish(self) -> None:
        """The statement ended well: its calls with side effects are done with."""
        if self._tools is not None:
            await self._tools.finish()

    async def close(self) -> None:
        """Close all channels and runners; idempotent."""
        if self._agents is not None:
            await self._agents.close()
        await self._dispatcher.close()
        if self._tools is not None:
            await self._tools.close()
        runners, self._runners = self._runners, []
        await asyncio.gather(*(runner.close() for runner in runners))
        if self._sessions is not None:
            sessions, self._sessions = self._sessions, None
            await sessions.close()

    def _tool_desk(self) -> ToolDesk:
        if self._tools is None:
            self._tools = ToolDesk(
                self._targets.tools,
                self._runner,
                cache=None if self._store is None else ToolCache(self._store),
                journal=self._journal,
                budget=self._budget,
                log=self._log,
                check=lambda tool, text: self._misfit(tool.returns, text, f'the result of tool "{tool.name}"'),
                statement=self._statement,
            )
        return self._tools

    def _agent_desk(self) -> AgentDesk:
        if self._agents is None:
            self._agents = AgentDesk(
                self._targets.agents, self, self._log, check=lambda kind, text: self._misfit(kind, text, "the answer")
            )
        return self._agents

    def _misfit(self, sql_type: SqlType, text: str, what: str) -> EngineError | None:
        """What is wrong with a JSON value, given its type."""
        read = self._readers.get(sql_type.text)
        if read is None:
            read = self._readers[sql_type.text] = value_reader(sql_type, self._cast)
        try:
            read(text)
        except (ValueError, RecursionError) as problem:
            reason = str(problem) if isinstance(problem, ValueError) else "it is nested too deep"
            message = f'{what}, "{excerpt(text)}", does not fit {sql_type.text}: {reason}'
            return EngineError(message, code="invalid_output")
        return None

    def _runner(self, tool: BoundTool) -> Runner:
        runner = self._make(tool)
        self._runners.append(runner)
        return runner

    def _make(self, tool: BoundTool) -> Runner:
        kind = tool.tool.kind
        if kind == "sql":
            assert self.on_connection is not None
            if takes_sql(tool):
                from halo_sql.tools.sandbox import SandboxRunner

                return SandboxRunner(tool, self.on_connection)
            from halo_sql.tools.sql import SqlRunner

            limits = limits_of(tool)
            return SqlRunner(
                tool,
                self.on_connection,
                max_rows=limits.max_rows,
                max_bytes=limits.max_result_bytes,
                join_from=self._join_from.get(tool.name.lower(), 0),
            )
        if kind == "http":
            from halo_sql.tools.http import HttpRunner

            return HttpRunner(tool, self._surroundings)
        if kind == "python":
            from halo_sql.tools.python import PythonRunner

            return PythonRunner(tool, self._surroundings)
        from halo_sql.tools.mcp import McpRunner
        from halo_sql.tools.mcp_sessions import McpSessions

        if self._sessions is None:
            self._sessions = McpSessions()
        return McpRunner(tool, self._surroundings, self._sessions)
