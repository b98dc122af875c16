"""The loop of an agent: all conversations of a node advance together, driven by what model and tools deliver.

There is no task per row. What becomes ready in one turn of the event loop is put together: one ``put`` per tool, one
per form of step.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from itertools import count
from typing import NamedTuple

from halo_sql.agents.clock import Clock
from halo_sql.agents.conversation import (
    MAX_REPAIRS,
    Conversation,
    Event,
    answer_object,
    judge,
    shown,
    shown_error,
)
from halo_sql.agents.ledger import Ledger
from halo_sql.agents.ports import FIRST, LAST, MORE, Ports
from halo_sql.agents.protocol import AgentSpec
from halo_sql.agents.results import ResultView
from halo_sql.agents.shared import Shared
from halo_sql.agents.steps import Call, StepReader
from halo_sql.agents.strict_json import one_line
from halo_sql.call_log import RunLog
from halo_sql.engines.protocol import Channel, Channels, ChannelSpec, DeliverOutcomes, Outcome, estimate_tok
from halo_sql.errors import EngineError
from halo_sql.metrics import NodeMetrics

ENDING = frozenset({"auth", "budget", "cancelled"})  # codes that end a conversation also when a tool met them
ONLY_ANSWER = "not called: only an answer is allowed now"


class _Pending(NamedTuple):
    """A call of a tool under way: of which conversation, to whom, its place in the step and in the trace, when it was
    made.
    """

    conversation: Conversation
    channel: Channel
    place: int
    call: Call
    event: int
    sent_s: float


class AgentChannel:
    """``engines.protocol.Channel`` for one agent and one node of a plan.

    closed  nothing is put or delivered any more
    """

    def __init__(
        self,
        spec: AgentSpec,
        asked: ChannelSpec,
        reader: StepReader,
        metrics: NodeMetrics,
        deliver: DeliverOutcomes,
        log: RunLog | None,
    ) -> None:
        self.spec = spec
        self.ledger = Ledger(spec, metrics, log)
        self._asked = asked
        self._reader = reader
        self._metrics = metrics
        self._deliver = deliver
        self._ports = Ports(spec, asked)
        self._views = ResultView(spec.max_result_chars)
        self._shared = Shared(spec.deterministic)
        self._clock = Clock(spec.max_seconds, self._expire)
        self._ticket = count().__next__
        self._asking: dict[int, Conversation] = {}  # steps under way
        self._calling: dict[int, _Pending] = {}  # calls under way
        self._steps: tuple[list[int], list[int], list[int]] = ([], [], [])  # to be put, by role
        self._calls: dict[Channel, list[tuple[int, str]]] = {}  # to be put
        self._flushing: asyncio.Handle | None = None
        self._outbox: list[tuple[int, Outcome]] = []
        self._emitting = False
        self.closed = False

    async def start(self, channels: Channels) -> None:
        """Open the channels to model and tools; EngineError when one cannot be."""
        await self._ports.open(channels, self._metrics, self._on_steps, self._on_results)
        for channel in self._ports.all():
            if isinstance(channel, AgentChannel):
                channel.ledger.row_of = self._row_of

    def _row_of(self, ticket: int) -> int:
        """The row for whose conversation a call was made."""
        pending = self._calling.get(ticket)
        return -1 if pending is None else self.ledger.row_of(pending.conversation.numbers[0])

    # --- what operators ask for

    @property
    def room_tok(self) -> int:
        """See ``Channel``; of the first step."""
        return self._ports.models[FIRST].room_tok

    def count_tok(self, prompt: str) -> int:
        """See ``Channel``; of the first step."""
        return self._ports.models[FIRST].count_tok(prompt)

    def put(self, prompts: Sequence[tuple[int, str]]) -> None:
        """Begin these conversations; equal ones of a deterministic agent are one."""
        if self.closed:
            return
        for number, request in prompts:
            outcome, same = self._shared.ended(request), self._shared.under_way(request)
            if outcome is None and same is None:
                conversation = Conversation(request, number, self.spec.untrusted_rows, self._asked.row_form)
                self._shared.begin(conversation)
                self._metrics.conversations += not self._asked.traced
                self._next(conversation)
                continue
            self._metrics.llm_calls_coalesced += 1
            if same is not None:
                same.numbers.append(number)
            elif outcome is not None:
                self._metrics.errors += outcome.error is not None
                self._outbox.append((number, outcome))
        self._settle()

    async def close(self) -> None:
        """Everything stops; nothing is delivered any more. Idempotent."""
        self.closed = True
        self._clock.close()
        if self._flushing is not None:
            self._flushing.cancel()
            self._flushing = None
        for kept in (self._outbox, *self._steps, self._calls, self._asking, self._calling):
            kept.clear()
        await self._ports.close()

    # --- sending

    def _next(self, conversation: Conversation) -> None:
        """The next step, if the limits leave one."""
        spec, ports = self.spec, self._ports
        if conversation.steps >= spec.max_steps:
            self._fail(conversation, self._limit(f"max_steps = {spec.max_steps}"))
            return
        last = conversation.answer_only or not ports.may_call or conversation.steps + 1 == spec.max_steps
        fits, conversation.last = ports.fits(conversation, last)
        if not fits:
            self._fail(conversation, self._limit(f"max_tokens = {spec.max_tokens}"))
            return
        conversation.steps += 1
        ticket = self._ticket()
        self._asking[ticket] = conversation
        self._steps[ports.role(conversation)].append(ticket)

    def _settle(self) -> None:
        """Deliver what is finished; have sent what is ready."""
        if self._flushing is None and not self.closed and (self._calls or any(self._steps)):
            self._flushing = asyncio.get_running_loop().call_soon(self._flush)
        if self._emitting:
            return
        self._emitting = True
        try:
            while self._outbox and not self.closed:
                outcomes, self._outbox = self._outbox, []
                self._deliver(outcomes)
        finally:
            self._emitting = False

    def _flush(self) -> None:
        """Put what became ready in the last turn of the loop. Answers may come back inside."""
        self._flushing = None
        calls, self._calls = self._calls, {}
        steps, self._steps = self._steps, ([], [], [])
        for channel, batch in calls.items():
            if wanted := [item for item in batch if self._wanted(item[0])]:
                channel.put(wanted)
        sent_s, sent_before, put = self.ledger.now_s(), self._metrics.llm_calls, 0
        begun: list[Conversation] = []
        for role in (MORE, LAST, FIRST):
            prompts, first = [], []
            for ticket in steps[role]:
                conversation = self._asking.get(ticket)
                if conversation is None or conversation.done:
                    self._asking.pop(ticket, None)
                    continue
                conversation.sent_s = sent_s
                prompts.append((ticket, conversation.dialogue))
                if conversation.steps == 1:
                    first.append(conversation)
            self._clock.ask(first)
            begun += first
            if prompts and not self.closed:
                put += len(prompts)
                self._ports.models[role].put(prompts)
        if begun and self._metrics.llm_calls - sent_before >= put:
            self._clock.sent(begun)

    # --- answers of the model

    def _on_steps(self, outcomes: Sequence[tuple[int, Outcome]]) -> None:
        """The model delivers."""
        answered = []
        for ticket, outcome in outcomes:
            conversation = self._asking.pop(ticket, None)
            if conversation is not None and not conversation.done:
                answered.append((conversation, outcome))
        self._clock.answered(conversation for conversation, _ in answered)
        for conversation, outcome in answered:
            try:
                self._read(conversation, outcome)
            except Exception as problem:  # a mistake of ours must not leave this row, and those behind it, unanswered
                message = f'agent "{self.spec.name}" failed: {type(problem).__name__}: {one_line(str(problem))}'
                self._fail(conversation, EngineError(message, code="engine"))
        self._settle()

    def _read(self, conversation: Conversation, outcome: Outcome) -> None:
        text, error = outcome.text, outcome.error
        if error is not None:
            self.ledger.step(conversation, text, error)
            self._metrics.errors -= 1  # the model's channel has counted it
            self._fail(conversation, error)
            return
        prompt_tok = outcome.prompt_tok or self._ports.count(conversation, conversation.last)
        output_tok = outcome.output_tok or min(estimate_tok(text), self.spec.sampling.max_tokens)
        tokens = (prompt_tok, output_tok)
        conversation.count(prompt_tok, output_tok)
        conversation.text = text
        step = self._reader.read(text)
        problem = EngineError(step.problem, code="invalid_output") if step.problem else None
        self.ledger.step(conversation, text, problem, prompt_tok, output_tok)
        if problem is not None:
            conversation.note(
                Event(conversation.steps, "error", error=step.problem, prompt_tok=prompt_tok, output_tok=output_tok)
            )
            self._repair(conversation, step.problem)
        elif step.answer is not None:
            conversation.note(
                Event(conversation.steps, "answer", result=step.answer, prompt_tok=prompt_tok, output_tok=output_tok)
            )
            self._answer(conversation, step.answer)
        elif conversation.last:
            self._refuse(conversation, step.calls, tokens)
        else:
            self._call(conversation, step.calls, tokens)

    def _repair(self, conversation: Conversation, problem: str) -> None:
        """The model may say it again, twice at most."""
        if conversation.repairs >= MAX_REPAIRS or conversation.steps >= self.spec.max_steps:
            message = f'agent "{self.spec.name}" gave no valid answer in step {conversation.steps}: {problem}'
            self._fail(conversation, EngineError(message, code="invalid_output"))
            return
        conversation.repair(problem)
        self._next(conversation)

    def _refuse(self, conversation: Conversation, calls: Sequence[Call], tokens: tuple[int, int]) -> None:
        """Calls where only an answer is allowed."""
        for call in calls:
            self.ledger.asked(conversation, call, ONLY_ANSWER, tokens)
            tokens = (0, 0)
        if conversation.repairs >= MAX_REPAIRS or conversation.steps >= self.spec.max_steps:
            self._fail(conversation, self._limit(f"step {conversation.steps}, where only an answer is allowed,"))
            return
        conversation.repairs += 1
        conversation.answer_only = True
        conversation.results = [shown_error(call.tool, ONLY_ANSWER) for call in calls]
        self._reply(conversation)

    # --- calls

    def _call(self, conversation: Conversation, calls: Sequence[Call], tokens: tuple[int, int]) -> None:
        """Make those calls of a step that may be made, all at once."""
        tainted = conversation.untrusted or conversation.private
        conversation.results = [""] * len(calls)
        sent_s = self.ledger.now_s()
        for place, (call, refusal) in enumerate(zip(calls, judge(self.spec, conversation, calls), strict=True)):
            event = self.ledger.asked(conversation, call, None if refusal is None else refusal.text, tokens)
            tokens = (0, 0)
            if refusal is not None:
                self.ledger.call(conversation, call, "", refusal)
                conversation.results[place] = shown_error(call.tool, refusal.text)
                continue
            ticket = self._ticket()
            channel = self._ports.tools[call.tool, tainted]
            self._calling[ticket] = _Pending(conversation, channel, place, call, event, sent_s)
            self._calls.setdefault(channel, []).append((ticket, call.arguments))
            conversation.missing += 1
        if not conversation.missing:
            self._reply(conversation)

    def _on_results(self, outcomes: Sequence[tuple[int, Outcome]]) -> None:
        """Tools deliver."""
        for ticket, outcome in outcomes:
            pending = self._calling.get(ticket)
            if pending is None:
                continue
            if not pending.conversation.done:
                self._take(pending, outcome)
            self._calling.pop(ticket, None)
        self._settle()

    def _take(self, pending: _Pending, outcome: Outcome) -> None:
        conversation, call, error = pending.conversation, pending.call, outcome.error
        self.ledger.call(conversation, call, outcome.text, error, pending.sent_s)
        if error is not None:
            problem = one_line(error.message) or error.code
            self.ledger.came(conversation, pending.event, None, problem)
            if error.fatal or error.code in ENDING:
                self._metrics.errors -= 1  # the tool's channel has counted it
                self._fail(conversation, error)
                self._leave()
                return
            conversation.results[pending.place] = shown_error(call.tool, problem)
        else:
            self.ledger.came(conversation, pending.event, outcome.text, None)
            conversation.results[pending.place] = shown(call.tool, self._views.of(outcome.text))
        conversation.missing -= 1
        if not conversation.missing:
            self._reply(conversation)

    def _reply(self, conversation: Conversation) -> None:
        """All results are there: the model goes on."""
        conversation.go_on(conversation.reply())
        conversation.results = []
        self._next(conversation)

    # --- ends

    def _expire(self, late: Sequence[Conversation]) -> None:
        """Their time is up: what is under way is abandoned."""
        for conversation in late:
            error = self._limit(f"max_seconds = {self.spec.max_seconds:g}")
            if not conversation.missing:
                self.ledger.step(conversation, "", error)
            self._fail(conversation, error)
        self._leave()
        self._settle()

    def _limit(self, what: str) -> EngineError:
        return EngineError(f'agent "{self.spec.name}" reached {what} without an answer', code="limit")

    def _answer(self, conversation: Conversation, answer: str) -> None:
        text = answer_object(conversation, answer) if self._asked.row_form else answer
        self._end(conversation, Outcome(text, None, conversation.prompt_tok, conversation.output_tok))

    def _fail(self, conversation: Conversation, error: EngineError) -> None:
        if conversation.done:
            return
        self._metrics.errors += len(conversation.numbers)
        self._end(conversation, Outcome(error=error))

    def _end(self, conversation: Conversation, outcome: Outcome) -> None:
        if conversation.done:
            return
        conversation.done = True
        self._clock.end(conversation)
        self._shared.end(conversation, outcome)
        self._outbox += [(number, outcome) for number in conversation.numbers]

    def _wanted(self, ticket: int) -> bool:
        """Whether a call is still to be made: its conversation may have ended since it was asked for."""
        pending = self._calling.get(ticket)
        if pending is not None and pending.conversation.done:
            del self._calling[ticket]
            return False
        return pending is not None

    def _leave(self) -> None:
        """Conversations ended with calls under way: agents that were called for them only stop too."""
        left: dict[AgentChannel, set[int]] = {}
        for ticket, pending in self._calling.items():
            if pending.conversation.done and isinstance(pending.channel, AgentChannel):
                left.setdefault(pending.channel, set()).add(ticket)
        for channel, tickets in left.items():
            channel.abandon(tickets)

    def abandon(self, numbers: Collection[int]) -> None:
        """Nobody waits for these any more: conversations for them only take no further step, and deliver nothing."""
        under_way = [*self._asking.values(), *(pending.conversation for pending in self._calling.values())]
        for conversation in dict.fromkeys(under_way):
            if not conversation.done:
                conversation.numbers = [number for number in conversation.numbers if number not in numbers]
                if not conversation.numbers:
                    self._end(conversation, Outcome(error=self._limit("the end of who called it")))
        self._leave()
