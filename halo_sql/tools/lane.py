"""The line to one tool in one run: a queue, so many calls at once and per second, deadlines, another try, answers.

Nothing here recurses: calls are made by tasks, and whoever gets an answer may at once ask again.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable, Sequence
from itertools import count

from halo_sql.call_log import RunLog
from halo_sql.engines.calls import AnswerMemory, Asker
from halo_sql.engines.experience import Experience
from halo_sql.engines.lane import Handed, hand_out, leaves
from halo_sql.engines.protocol import Outcome
from halo_sql.engines.retry import backoff_s
from halo_sql.errors import EngineError
from halo_sql.tools.attempt import Answers, Caller, ToolCall, too_large
from halo_sql.tools.journal import StatementJournal
from halo_sql.tools.protocol import BoundTool, RetryLaterError, Runner
from halo_sql.tools.rate import Pace

CLOSE_S = 1.0  # how long is waited for what was cancelled
FINISH_S = 1.0  # how long a call with side effects may go on when nobody waits for it: done is better than in doubt
BACKOFF_S, BACKOFF_CAP_S = 0.2, 30.0
GIVE_UP_S = 300.0  # a tool that asks to come back later than this is not waited for
#: Codes of errors that an equal call of this run would meet again, unless they are said to be retryable.
FINAL_ERRORS = frozenset({"tool", "rejected", "invalid_output", "too_large", "denied"})

Check = Callable[[BoundTool, str], EngineError | None]


class Line:
    """Makes the calls of one tool and settles them.

    stopped  set when nothing may be called any more (it cannot start, credentials refused, time over): the error of
             every call
    keep     stores the value of a call that has a key
    """

    def __init__(
        self,
        tool: BoundTool,
        runner_of: Callable[[BoundTool], Runner],
        check: Check,
        memory: AnswerMemory,
        keep: Callable[[bytes, str], None] | None,
        journal: StatementJournal | None,
        log: RunLog | None,
    ) -> None:
        self.tool = tool
        self.stopped: EngineError | None = None
        self._caller = Caller(tool, runner_of, journal)
        self._check = check
        self._memory = memory
        self._keep = keep
        self._log = log
        self._start: asyncio.Task[None] | None = None
        self._sending: asyncio.Handle | None = None
        self._pace = Pace(self._caller.limits.rate_per_s)
        self._pause_until = 0.0  # loop time
        self._timer: asyncio.TimerHandle | None = None
        self._arrivals = count(1)
        self._queue: list[tuple[int, int, ToolCall]] = []  # (priority, arrival, call), also dropped ones
        self._resting: dict[ToolCall, asyncio.TimerHandle] = {}  # until their next attempt
        self._running: dict[asyncio.Task[Answers], list[ToolCall]] = {}
        self._aborted: set[asyncio.Task[Answers]] = set()

    @property
    def experience(self) -> Experience:
        """What its calls took."""
        return self._caller.experience

    @property
    def close_s(self) -> float:
        """How long a channel that is closed waits for its calls to end."""
        return CLOSE_S + (FINISH_S if self._caller.acts else 0.0)

    # --- starting

    async def identity(self) -> str | None:
        """What the runner says of the code behind the tool (``identity``, optional); None when it cannot start.

        Only functions need to be asked: of the others the definition says it all.
        """
        if self.tool.tool.kind != "python":
            return ""
        await asyncio.wait([self._begin_start()])
        runner = self._caller.runner
        return None if runner is None else str(getattr(runner, "identity", ""))

    def _begin_start(self) -> asyncio.Task[None]:
        if self._start is None:
            self._start = asyncio.get_running_loop().create_task(self._caller.start())
            self._start.add_done_callback(self._on_start)
        return self._start

    def _on_start(self, task: asyncio.Task[None]) -> None:
        if task.cancelled():
            self.stop(EngineError(f'the start of the tool "{self.tool.name}" was cancelled', code="cancelled"))
            return
        problem = task.exception()
        if problem is None:
            self.pump()
        else:
            self.stop(problem if isinstance(problem, EngineError) else self._caller.broken(problem, "unavailable"))

    # --- calling

    def add(self, calls: Sequence[ToolCall]) -> None:
        """Make these calls as soon as they may be made."""
        if self.stopped is not None:
            self._fail(calls, self.stopped)
            return
        for call in calls:
            heapq.heappush(self._queue, (call.channel.spec.priority, next(self._arrivals), call))
        self.pump()

    def pump(self) -> None:
        """Begin what may begin now."""
        if self.stopped is not None or not self._queue:
            return
        if self._caller.runner is None:
            self._begin_start()
        elif not self._caller.together:
            while len(self._running) < self._caller.concurrency and self._may_begin():
                self._launch([heapq.heappop(self._queue)[2]])
        elif not self._running and self._sending is None:  # what comes in this turn of the loop goes along
            self._sending = asyncio.get_running_loop().call_soon(self._send)

    def _send(self) -> None:
        self._sending = None
        calls: list[ToolCall] = []
        while len(calls) < self._caller.size.most and self._may_begin():
            calls.append(heapq.heappop(self._queue)[2])
        if calls:
            self._launch(calls)

    def _may_begin(self) -> bool:
        """Whether there is a call and it may begin now (it then counts as begun); else a timer comes back."""
        while self._queue and self._queue[0][2].dropped:
            heapq.heappop(self._queue)
        if not self._queue or self.stopped is not None:
            return False
        loop = asyncio.get_running_loop()
        now, free_at = loop.time(), max(self._pause_until, self._pace.free_at())
        if free_at <= now:
            self._pace.take(now)
            return True
        if self._timer is not None:
            self._timer.cancel()
        self._timer = loop.call_at(free_at, self.pump)
        return False

    def _launch(self, calls: list[ToolCall]) -> None:
        for call in calls:
            call.channel.metrics.in_flight += 1
        work = self._caller.act(calls[0]) if self._caller.acts else self._caller.make(calls)
        task = asyncio.get_running_loop().create_task(work)
        self._running[task] = calls
        task.add_done_callback(self._on_done)

    # --- answers

    def accept(self, call: ToolCall, text: str, handed: Handed) -> bool:
        """Settle a call with a value from the store; False when the value does not fit."""
        if self._problem(text) is not None:
            return False
        call.channel.metrics.tool_calls_from_store += 1
        call.key = None  # it is stored
        self._settle(call, text, handed)
        return True

    def _on_done(self, task: asyncio.Task[Answers]) -> None:
        calls = self._running.pop(task)
        answers: Answers
        if task.cancelled():
            error = self.stopped or EngineError(f'the call of "{self.tool.name}" was cancelled', code="cancelled")
            answers = [error] * len(calls)
        else:
            broken = task.exception()
            answers = task.result() if broken is None else [self._caller.broken(broken)] * len(calls)
        if len(calls) > 1 and all(isinstance(answer, EngineError) and answer.code == "timeout" for answer in answers):
            self._caller.size.timed_out(len(calls))
        else:
            self._caller.size.ended()
        aborted = task in self._aborted
        self._aborted.discard(task)
        handed: Handed = {}
        refusal: EngineError | None = None
        for call, answer in zip(calls, answers, strict=True):
            call.channel.metrics.in_flight -= 1
            if call.dropped:
                if call.sent_s:
                    self._note(call, "", answer if isinstance(answer, EngineError) else None)
            elif not isinstance(answer, EngineError) or not self._again(call, answer):
                if isinstance(answer, EngineError) and answer.code == "auth":
                    refusal = answer
                self._settle(call, answer, handed)
            if aborted:
                call.channel.aborting(-1)
        if refusal is not None:  # before anybody hears of it and asks for more
            self.stop(refusal, finish=self._caller.acts)
        for channel, outcomes in handed.items():
            channel.emit(outcomes)
        self.pump()

    def _again(self, call: ToolCall, error: EngineError) -> bool:
        """Put a failed call back for another attempt, if it gets one."""
        final = self._caller.acts or not error.retryable or error.code == "auth"
        if final or call.attempts > self._caller.limits.max_retries or self.stopped is not None:
            return False
        loop = asyncio.get_running_loop()
        delay_s = min(BACKOFF_CAP_S, backoff_s(BACKOFF_S, call.attempts))
        if isinstance(error, RetryLaterError):
            if error.after_s > GIVE_UP_S:
                return False
            delay_s = max(0.0, error.after_s) + min(delay_s, 1.0)
            if error.code == "rate_limit":  # the others would be refused as well
                self._pause_until = max(self._pause_until, loop.time() + error.after_s)
        self._resting[call] = loop.call_later(delay_s, self._rested, call)
        return True

    def _rested(self, call: ToolCall) -> None:
        del self._resting[call]
        # before those that came after it
        heapq.heappush(self._queue, (call.channel.spec.priority, -next(self._arrivals), call))
        self.pump()

    def _settle(self, call: ToolCall, answer: str | EngineError, handed: Handed) -> None:
        text = "" if isinstance(answer, EngineError) else answer
        failure = answer if isinstance(answer, EngineError) else self._problem(answer)
        error = failure
        if error is None:
            if call.key is not None and self._keep is not None:
                self._keep(call.key, text)
            error = call.channel.validate(text, "stop")
        elif error.code == "auth":
            error.fatal = True
        self._note(call, text, error)
        call.settle(
            text, "stop" if failure is None else "error", Outcome(text) if error is None else Outcome("", error)
        )
        if call.table is not None:
            if error is None or (error.code in FINAL_ERRORS and not error.retryable):
                self._memory.add(call)
            else:
                call.forget()
        hand_out(call, handed)

    def _fail(self, calls: Sequence[ToolCall], error: EngineError) -> None:
        """These calls are not made (any more)."""
        handed: Handed = {}
        for call in calls:
            self._settle(call, error, handed)
        for channel, outcomes in handed.items():
            channel.emit(outcomes)

    def _problem(self, text: str) -> EngineError | None:
        """What is wrong with a value, whoever asked for it."""
        return too_large(self.tool.name, self._caller.limits, text) or self._check(self.tool, text)

    def _note(self, call: ToolCall, text: str, error: EngineError | None) -> None:
        """Write a call that ended into the log."""
        channel = call.channel
        if self._log is None or channel.spec.traced:
            return
        status = "failed" if error is not None else "done" if call.sent_s else "store"
        name = self.tool.name
        self._log.add(channel.metrics, call.number, name, call.user, text, status, error, call.sent_s, kind="tool")

    # --- ending

    def stop(self, error: EngineError, finish: bool = False) -> None:
        """Call nothing more: what waits fails with this error; what runs is cancelled, unless it may ``finish``."""
        if self.stopped is not None:
            return
        self.stopped = error
        self._rest()
        waiting = [call for _, _, call in sorted(self._queue, key=lambda item: item[:2])] + list(self._resting)
        self._queue.clear()
        self._resting.clear()
        if not finish:
            for task in self._running:
                task.cancel()
        if self._start is not None:
            self._start.cancel()
        self._fail([call for call in waiting if not call.dropped], error)

    def drop(self, channel: Asker) -> None:
        """A channel wants no more: what only it waits for is not called, or cancelled (if it acts: a moment later)."""
        for call in [*(call for _, _, call in self._queue), *self._resting]:
            if not call.dropped and leaves(call, channel):
                call.dropped = True
        for task, calls in self._running.items():
            for call in calls:
                owner = call.channel
                if call.dropped:
                    continue
                if leaves(call, channel):
                    call.dropped = True
                elif call.channel is not owner:
                    owner.metrics.in_flight -= 1
                    call.channel.metrics.in_flight += 1
            if task not in self._aborted and all(call.dropped for call in calls):
                self._aborted.add(task)
                for call in calls:
                    call.channel.aborting(+1)
                if self._caller.acts and calls[0].sent_s:
                    asyncio.get_running_loop().call_later(FINISH_S, task.cancel)
                else:
                    task.cancel()
        for call in [call for call in self._resting if call.dropped]:
            self._resting.pop(call).cancel()

    async def close(self) -> None:
        """Forget the timers and a start that is under way; its channels are closed."""
        self._rest()
        if self._start is not None and not self._start.done():
            self._start.cancel()
            await asyncio.wait([self._start], timeout=CLOSE_S)

    def _rest(self) -> None:
        """Forget every timer."""
        for timer in (self._timer, self._sending, *self._resting.values()):
            if timer is not None:
                timer.cancel()
        self._sending = None
