"""One attempt of a call: the runner asked within its deadline, side effects noted before and behind it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Protocol

from halo_sql.clock import clock_s, unix_s
from halo_sql.engines.calls import Asker, Call
from halo_sql.engines.experience import Experience
from halo_sql.errors import EngineError, Error, InterruptedQueryError
from halo_sql.tools.batching import BatchSize
from halo_sql.tools.journal import StatementJournal
from halo_sql.tools.limits import acts, limits_of, takes_sql
from halo_sql.tools.protocol import BoundTool, Limits, Runner, ToolRequest
from halo_sql.virtual_time import held

START_S = 60.0  # how long a tool may take to start
COUNTED = 256  # lists whose items are counted, of a run

Answers = Sequence[str | EngineError]


class BatchRunner(Runner, Protocol):
    """A runner that makes many calls in one go.

    took  called with (calls, seconds) for each query: calls 1, or those that it joined
    """

    took: Callable[[int, float], None]

    async def call_many(self, requests: Sequence[ToolRequest]) -> Answers:
        """The value or the error of each call, in their order; raises EngineError when all fail alike."""
        ...


class ToolCall(Call):
    """A call, and how often it has been attempted."""

    __slots__ = ("attempts",)

    def __init__(self, channel: Asker, number: int, user: str, table: dict[str, Call] | None) -> None:
        super().__init__(channel, number, user, table)
        self.attempts = 0


class Caller:
    """Calls one tool.

    acts      whether its calls have side effects
    together  whether ``make`` takes many calls at once; known once started
    concurrency  calls at once: the tool's limit, or less where its runner can do no more
    journal   of the statement; without one a tool with side effects is not called
    experience  what its calls took
    size      of the next query, where ``together``
    """

    def __init__(
        self, tool: BoundTool, runner_of: Callable[[BoundTool], Runner], journal: StatementJournal | None
    ) -> None:
        self.tool = tool
        self.acts = acts(tool)
        self.limits = limits_of(tool)
        self.together = False
        self.concurrency = self.limits.concurrency
        self.runner: Runner | None = None
        self.experience = Experience()
        self.size = BatchSize(tells=False)
        self._runner_of = runner_of
        self._journal = journal

    async def start(self) -> None:
        """Make the tool ready. EngineError('unavailable' | 'auth') when it cannot be."""
        try:
            async with asyncio.timeout(START_S) as deadline:
                runner = self._runner_of(self.tool)
                with held():
                    await runner.start()
        except EngineError:
            raise
        except Exception as problem:
            if not deadline.expired():
                raise self.broken(problem, "unavailable") from None
            message = f'the tool "{self.tool.name}" did not start within {START_S:g} s'
            raise EngineError(message, code="unavailable") from None
        self.together = hasattr(runner, "call_many") and not self.acts and not takes_sql(self.tool)
        if self.together and hasattr(runner, "took"):
            self.size = BatchSize()
            runner.took = self._took
        self.concurrency = min(self.concurrency, getattr(runner, "concurrency", self.concurrency))
        self.runner = runner

    def _took(self, calls: int, seconds: float) -> None:
        self.experience.took(calls, seconds)
        self.size.took(calls, seconds)

    async def make(self, calls: Sequence[ToolCall], key: str = "") -> Answers:
        """One attempt of these; one call unless ``together``. Raises nothing but that it was cancelled."""
        runner = self.runner
        assert runner is not None, "started"
        requests = [ToolRequest(call.user, key) for call in calls]
        for call in calls:
            metrics = call.channel.metrics
            call.attempts += 1
            if call.attempts > 1:
                metrics.retries += 1
            else:
                metrics.tool_calls += 1
                call.sent_s = unix_s()
        answers: Answers
        began = clock_s()
        try:
            async with asyncio.timeout(self.limits.timeout_s) as deadline:
                if self.together:
                    answers = await runner.call_many(requests)  # type: ignore[attr-defined]  # a BatchRunner
                else:
                    with held() if getattr(runner, "beside", False) else nullcontext():
                        answers = [await runner.call(requests[0])]
                    self.experience.took(1, clock_s() - began)
        except Exception as raised:
            problem = raised if isinstance(raised, EngineError) else self.broken(raised)
            if deadline.expired():
                message = f'the tool "{self.tool.name}" took longer than timeout_s = {self.limits.timeout_s:g}'
                problem = EngineError(message, code="timeout", retryable=True)
            return [problem] * len(calls)
        if len(answers) != len(calls):
            message = f'the tool "{self.tool.name}" gave {len(answers)} answers to {len(calls)} calls'
            return [EngineError(message)] * len(calls)
        self._learn(answers)
        return answers

    def _learn(self, answers: Answers) -> None:
        """The sizes of values; the items of the first lists."""
        seen, listed = self.experience, self.tool.returns.kind == "list"
        for answer in answers:
            if isinstance(answer, str):
                seen.requests += 1
                seen.answer_chars += len(answer)
                if listed and seen.listed < COUNTED:
                    seen.listed += 1
                    seen.listed_rows += _items(answer)

    async def act(self, call: ToolCall) -> Answers:
        """A call with side effects: noted on disk before it is made, and behind it. There is no second attempt."""
        journal = self._journal
        if journal is None:
            message = f'the tool "{self.tool.name}" has side effects and there is no journal to note its calls in'
            return [EngineError(message, code="unavailable", remedy="Set HALO_HOME to a folder that can be written.")]
        try:
            claim = await journal.begin(self.tool, call.user)
        except EngineError as problem:
            return [problem]
        if isinstance(claim, str):
            call.channel.metrics.tool_calls_from_store += 1
            return [claim]
        try:
            (answer,) = await self.make([call], claim.idempotency)
        except asyncio.CancelledError:
            journal.cancelled(claim)
            raise
        if isinstance(answer, str):
            answer = too_large(self.tool.name, self.limits, answer) or answer
        if isinstance(answer, str):
            await journal.done(claim, answer)
        else:
            await journal.failed(claim, answer)
        return [answer]

    def broken(self, problem: BaseException, code: str = "engine") -> EngineError:
        """The error of a runner that raised something else."""
        if isinstance(problem, InterruptedQueryError):
            return EngineError(problem.message, code="cancelled")
        if isinstance(problem, Error):  # of the catalog, say: a secret is missing
            return EngineError(problem.message, code=code, remedy=problem.remedy)
        return EngineError(f'the tool "{self.tool.name}" failed: {type(problem).__name__}: {problem}', code=code)


def _items(text: str) -> int:
    """Items of a JSON list; 0 for anything else."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return 0
    return len(found) if isinstance(found, list) else 0


def too_large(tool: str, limits: Limits, text: str) -> EngineError | None:
    """EngineError('too_large') for a value (JSON) of more bytes or rows than the limits allow."""
    most = limits.max_result_bytes
    if len(text) > most or (4 * len(text) > most and len(text.encode("utf-8", "surrogatepass")) > most):
        message = f'the result of the tool "{tool}" is larger than {most:,} bytes'
        return EngineError(message, code="too_large", remedy="Ask for less, or raise its max_bytes.")
    if limits.max_rows and text.lstrip().startswith("["):
        try:
            rows = len(json.loads(text))
        except (ValueError, RecursionError):
            return None  # for the check of its type to say
        if rows > limits.max_rows:
            message = f'the result of the tool "{tool}" has {rows:,} rows, more than {limits.max_rows:,}'
            return EngineError(message, code="too_large", remedy="Ask for less: filter, aggregate or LIMIT.")
    return None
