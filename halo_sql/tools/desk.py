"""Channels to tools for one run of a query: equal calls made once, known values taken from the cache.

A call's way: it joins an equal one of this run, or is looked up in the durable cache (immutable tools), or enters
the line of its tool. Calls of volatile tools, and all calls with side effects, only take the last way.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence

from halo_sql.call_log import RunLog
from halo_sql.engines.budget import Budget
from halo_sql.engines.calls import AnswerMemory, Call
from halo_sql.engines.experience import Experience
from halo_sql.engines.keys import RequestKeys
from halo_sql.engines.lane import Handed
from halo_sql.engines.protocol import ChannelSpec, DeliverOutcomes, GenResult, Outcome, Validate
from halo_sql.errors import EngineError, did_you_mean
from halo_sql.metrics import NodeMetrics
from halo_sql.tools.attempt import ToolCall
from halo_sql.tools.journal import BatchJournal, Journal
from halo_sql.tools.lane import Line
from halo_sql.tools.limits import acts
from halo_sql.tools.memory import Found, LookUps, ToolCache
from halo_sql.tools.protocol import BoundTool, Runner

KEPT_BYTES = 64 << 20  # values of a run kept in memory, for rows that ask the same later


class ToolDesk:
    """``protocol.Channels`` for specs with ``tool`` set; one per run of a query, on the session's loop.

    tools      name -> tool
    runner_of  gives a tool's runner; asked once per tool, at its first call. Whoever made a runner closes it
    cache      values of immutable tools; None: off
    journal    of calls with side effects; without one they are refused
    check      what is wrong with a value, given the type that its tool returns
    statement  text and parameters of the statement: what makes two runs the same
    """

    def __init__(
        self,
        tools: Mapping[str, BoundTool],
        runner_of: Callable[[BoundTool], Runner],
        *,
        cache: ToolCache | None,
        journal: Journal | BatchJournal | None,
        budget: Budget,
        log: RunLog | None,
        check: Callable[[BoundTool, str], EngineError | None],
        statement: str,
        kept_bytes: int = KEPT_BYTES,
    ) -> None:
        self._tools = {name.lower(): tool for name, tool in tools.items()}
        self._runner_of = runner_of
        self._cache = cache
        self._look_ups = None if cache is None else LookUps(cache, self._found)
        self._journal = None if journal is None else journal.of(statement)
        self._budget = budget
        self._log = log
        self._check = check
        self._memory = AnswerMemory(kept_bytes)
        self._lines: dict[str, Line] = {}
        self._tables: dict[tuple[str, bool], dict[str, Call]] = {}
        self._channels: set[ToolChannel] = set()
        self._timer: asyncio.TimerHandle | None = None

    async def open(
        self, spec: ChannelSpec, validate: Validate, metrics: NodeMetrics, deliver: DeliverOutcomes
    ) -> ToolChannel:
        """A channel for one node, or one agent. Its tool starts with the first request.

        Outcomes may be delivered before ``put`` returns. EngineError('unavailable') when there is no such tool.
        """
        line = self._line(spec.tool)
        if self._budget.max_seconds and self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(max(0.0, self._budget.left_s()), self._time_is_up)
        volatility = line.tool.tool.volatility
        table, look_ups = None, None
        if volatility != "volatile" and not acts(line.tool):
            table = self._tables.setdefault((line.tool.name.lower(), spec.cache), {})
            if volatility == "immutable" and spec.cache:
                look_ups = self._look_ups
        channel = ToolChannel(self, line, table, look_ups, spec, validate, metrics, deliver)
        self._channels.add(channel)
        return channel

    def experience(self) -> dict[str, Experience]:
        """Lower-case name of a tool -> what its calls took."""
        return {name: line.experience for name, line in self._lines.items() if line.experience.requests}

    async def finish(self) -> None:
        """The statement ended well: run again, its calls with side effects are made anew."""
        if self._journal is not None:
            await self._journal.finish()

    async def close(self) -> None:
        """Close every channel of the run (within two seconds or so), its calls noted in the journal; idempotent."""
        if self._timer is not None:
            self._timer.cancel()
        await asyncio.gather(*(channel.close() for channel in list(self._channels)))
        if self._look_ups is not None:
            await self._look_ups.close()
        await asyncio.gather(*(line.close() for line in self._lines.values()))
        if self._journal is not None:
            await self._journal.written()

    def _line(self, name: str) -> Line:
        key = name.lower()
        line = self._lines.get(key)
        if line is None:
            tool = self._tools.get(key)
            if tool is None:
                remedy = did_you_mean(name, [known.name for known in self._tools.values()])
                raise EngineError(f'Tool "{name}" does not exist', code="unavailable", remedy=remedy)
            keep = None if self._cache is None else self._cache.put
            line = Line(tool, self._runner_of, self._check, self._memory, keep, self._journal, self._log)
            if self._budget.max_seconds and self._budget.left_s() <= 0:
                line.stop(self._budget.out_of_time())
            self._lines[key] = line
        return line

    def _time_is_up(self) -> None:
        for line in self._lines.values():
            line.stop(self._budget.out_of_time())

    def _found(self, looked: Found) -> None:
        """What the cache said: settle the calls whose value fits, make the others."""
        handed: Handed = {}
        missing: dict[Line, list[ToolCall]] = {}
        for line, call, text in looked:
            if text is None or not line.accept(call, text, handed):
                missing.setdefault(line, []).append(call)
        for line, calls in missing.items():
            line.add(calls)
        for channel, outcomes in handed.items():
            channel.emit(outcomes)

    # --- what channels ask for

    def touch(self, call: Call) -> None:
        """A finished call was used again."""
        self._memory.touch(call)

    def drop(self, channel: ToolChannel) -> None:
        """A channel is closed: nothing is to be done for it alone any more."""
        self._channels.discard(channel)
        if channel.owed:  # of thousands of channels most close when they have all they asked for
            if self._look_ups is not None:
                self._look_ups.drop(channel)
            channel.line.drop(channel)


class ToolChannel:
    """``protocol.Channel``; also what calls know of it (``calls.Asker``). ``owed``: requests without an outcome yet."""

    room_tok = 0
    keys: RequestKeys | None = None  # these three are of models only
    base_tok = 0
    output_tok = 0
    expected_tok = 0.0

    def __init__(
        self,
        desk: ToolDesk,
        line: Line,
        table: dict[str, Call] | None,
        look_ups: LookUps | None,
        spec: ChannelSpec,
        validate: Validate,
        metrics: NodeMetrics,
        deliver: DeliverOutcomes,
    ) -> None:
        self.line = line
        self.spec = spec
        self.validate = validate
        self.metrics = metrics
        self.owed = 0
        self._desk = desk
        self._table = table
        self._look_ups = look_ups
        self._deliver = deliver
        self._emitting = False
        self._outbox: list[tuple[int, Outcome]] = []
        self._closed = False
        self._aborting = 0
        self._quiet = asyncio.Event()
        self._quiet.set()

    def count_tok(self, prompt: str) -> int:
        """Tools count no tokens: 0."""
        return 0

    def put(self, prompts: Sequence[tuple[int, str]]) -> None:
        """Call with these JSON objects of arguments; after ``close`` nothing is called."""
        if self._closed or not prompts:
            return
        table, line = self._table, self.line
        self.owed += len(prompts)
        if table is None:
            line.add([ToolCall(self, number, arguments, None) for number, arguments in prompts])
            return
        fresh: list[ToolCall] = []
        known: list[tuple[int, Outcome]] = []
        for number, arguments in prompts:
            call = table.get(arguments)
            if call is None:
                table[arguments] = call = ToolCall(self, number, arguments, table)
                fresh.append(call)
            elif call.outcome is not None:
                known.append((number, self._known(call)))
            elif call.others is None:
                call.others = [(self, number)]
            else:
                call.others.append((self, number))
        self.metrics.tool_calls_coalesced += len(prompts) - len(fresh)
        if fresh and self._look_ups is not None:
            self._look_ups.ask(line, fresh)
        elif fresh:
            line.add(fresh)
        if known:
            self.emit(known)

    def _known(self, call: Call) -> Outcome:
        self._desk.touch(call)
        outcome = call.outcome_for(self)
        if outcome.error is not None:
            self.metrics.errors += 1
        return outcome

    async def close(self) -> None:
        """Deliver nothing more; wait (up to ``Line.close_s``) until what was under way has ended."""
        if not self._closed:
            self._closed = True
            self._outbox.clear()
            self._desk.drop(self)
        if not self._quiet.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._quiet.wait(), self.line.close_s)

    def emit(self, outcomes: Sequence[tuple[int, Outcome]]) -> None:
        """Deliver; what comes up while the operator handles a delivery follows after it, not inside it."""
        self.owed -= len(outcomes)
        if self._emitting:
            self._outbox += outcomes
            return
        self._emitting = True
        try:
            while outcomes and not self._closed:
                self._deliver(outcomes)
                outcomes, self._outbox = self._outbox, []
        finally:
            self._emitting = False

    def learn(self, user: str, result: GenResult) -> None:
        """See ``Asker``: tools have no tokens."""

    def aborting(self, change: int) -> None:
        """Counts own calls that were cancelled and have not ended yet."""
        self._aborting += change
        if self._aborting:
            self._quiet.clear()
        else:
            self._quiet.set()
