"""Every step of every conversation, written down: into the log of the run, and into the trace of its answer."""

from __future__ import annotations

from collections.abc import Callable

from halo_sql.agents.conversation import Conversation, Event, Refusal
from halo_sql.agents.protocol import AgentSpec
from halo_sql.agents.steps import Call
from halo_sql.call_log import RunLog
from halo_sql.clock import unix_s
from halo_sql.errors import EngineError
from halo_sql.metrics import NodeMetrics


class Ledger:
    """Writes for one channel.

    row_of  turns the number of a conversation into the row for the log
    """

    def __init__(self, spec: AgentSpec, metrics: NodeMetrics, log: RunLog | None) -> None:
        self.row_of: Callable[[int], int] = int
        self._spec = spec
        self._metrics = metrics
        self._log = log

    def now_s(self) -> float:
        """When something is sent (Unix time); 0 when nobody wants to know."""
        return 0.0 if self._log is None else unix_s()

    def step(
        self, conversation: Conversation, text: str, error: EngineError | None, prompt_tok: int = 0, output_tok: int = 0
    ) -> None:
        """The model answered, or not."""
        if self._log is not None:
            self._log.add(
                self._metrics,
                self.row_of(conversation.numbers[0]),
                self._spec.model,
                conversation.dialogue,
                text,
                "done" if error is None else "failed",
                error,
                conversation.sent_s,
                prompt_tok,
                output_tok,
                kind="llm",
                agent=self._spec.name,
                step=conversation.steps,
            )

    def call(
        self,
        conversation: Conversation,
        call: Call,
        text: str,
        error: EngineError | Refusal | None,
        sent_s: float = 0.0,
    ) -> None:
        """A tool answered, or was not called."""
        if self._log is not None:
            if isinstance(error, Refusal):
                error = EngineError(error.text, code=error.code)
            self._log.add(
                self._metrics,
                self.row_of(conversation.numbers[0]),
                call.tool,
                call.arguments,
                text,
                "done" if error is None else "failed",
                error,
                sent_s,
                kind="tool",
                agent=self._spec.name,
                step=conversation.steps,
            )

    def asked(self, conversation: Conversation, call: Call, problem: str | None, tokens: tuple[int, int]) -> int:
        """A call enters the trace before its result is there; its place in it."""
        trace = conversation.trace
        if trace is None:
            return 0
        trace.append(Event(conversation.steps, "call", call.tool, call.arguments, None, problem, *tokens))
        return len(trace) - 1

    def came(self, conversation: Conversation, place: int, result: str | None, problem: str | None) -> None:
        """The result of the call at this place of the trace."""
        trace = conversation.trace
        if trace is not None:
            trace[place] = trace[place]._replace(result=result, error=problem)
