"""One conversation: its turns, its counts, its labels. Pure state; who talks to models and tools is ``channel.py``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from halo_sql.agents.protocol import AgentSpec
from halo_sql.agents.steps import Call
from halo_sql.agents.strict_json import write_json
from halo_sql.engines.protocol import Dialogue

MAX_REPAIRS = 2
KEPT_CHARS = 2_000  # of a message that cannot be used


class Event(NamedTuple):
    """One line of a trace: what happened in a step."""

    step: int
    kind: str  # 'call' | 'answer' | 'error'
    tool: str | None = None
    arguments: str | None = None
    result: str | None = None
    error: str | None = None
    prompt_tok: int = 0
    output_tok: int = 0

    def as_dict(self) -> dict[str, Any]:
        """As a member of the answer's ``trace``."""
        return self._asdict()


class Conversation:
    """A request on its way to an answer, and everybody who waits for it.

    request      the JSON object of the data
    numbers      the rows that wait; the first of them stands for all in the log
    dialogue     what the model is asked next, or was asked last
    steps        calls of the model so far; ``used_tok`` their prompt and output tokens
    last_tok     prompt and output tokens of the last one: the next prompt has at least these; ``last_prompt_tok`` of
                 its prompt alone
    made         calls of tools so far; ``asked`` all that were asked for, also those not made
    repairs      messages so far that could not be used
    answer_only  the next step may only give an answer; ``last``: the one under way may
    untrusted    it has seen what anybody may have written; ``private``: private data
    results      of the calls of the step under way, in order; ``missing`` of them are not there yet
    text         the model's last message; ``sent_s`` when it was asked (Unix time; 0: nobody wants to know)
    trace        what happened so far; None: nobody wants to know
    done         it has ended
    """

    __slots__ = ("answer_only", "asked", "dialogue", "done", "last", "last_prompt_tok", "last_tok", "made", "missing",
                 "numbers", "output_tok", "private", "prompt_tok", "repairs", "request", "results", "sent_s", "steps",
                 "text", "trace", "untrusted")  # fmt: skip

    def __init__(self, request: str, number: int, untrusted: bool, traced: bool) -> None:
        self.request = request
        self.numbers = [number]
        self.dialogue = Dialogue((request,))
        self.steps = self.made = self.repairs = self.missing = 0
        self.prompt_tok = self.output_tok = self.last_tok = self.last_prompt_tok = 0
        self.asked: dict[tuple[str, str], int] = {}
        self.answer_only = self.last = self.private = self.done = False
        self.untrusted = untrusted
        self.results: list[str] = []
        self.text = ""
        self.trace: list[Event] | None = [] if traced else None
        self.sent_s = 0.0

    @property
    def used_tok(self) -> int:
        """Prompt and output tokens so far."""
        return self.prompt_tok + self.output_tok

    def count(self, prompt_tok: int, output_tok: int) -> None:
        """A step was answered."""
        self.prompt_tok += prompt_tok
        self.output_tok += output_tok
        self.last_tok = prompt_tok + output_tok
        self.last_prompt_tok = prompt_tok

    def see(self, call: Call) -> None:
        """A tool was called: what comes of it, also an error, has its labels."""
        assert call.known is not None
        self.untrusted |= call.known.untrusted
        self.private |= call.known.private

    def note(self, event: Event) -> None:
        """For the trace, if one is wanted."""
        if self.trace is not None:
            self.trace.append(event)

    def go_on(self, reply: str) -> None:
        """The model's last message and the reply to it become turns."""
        self.dialogue = self.dialogue.then(self.text, reply)
        self.text = ""

    def reply(self) -> str:
        """The results of the step's calls as one turn."""
        return '{"results":[' + ",".join(self.results) + "]}"

    def repair(self, problem: str) -> None:
        """The model is told what was wrong with its message, of which it sees the beginning."""
        self.repairs += 1
        text = self.text.encode(errors="replace").decode()
        self.text = text if len(text) <= KEPT_CHARS else text[:KEPT_CHARS] + "…"
        self.go_on('{"error":' + write_json(problem) + "}")


class Refusal(NamedTuple):
    """Why a call is not made: the code of an error, and what the model is told."""

    code: str
    text: str


def judge(spec: AgentSpec, conversation: Conversation, calls: Sequence[Call]) -> list[Refusal | None]:
    """For each call of a step: None when it is to be made, else why not. Counts them; the next step may become the
    last. What the step's own calls bring cannot have influenced it: its labels are those from before it.
    """
    made_before = conversation.made
    verdicts = []
    tainted = conversation.untrusted or conversation.private
    for place, call in enumerate(calls):
        key = (call.tool, call.arguments)
        times = conversation.asked[key] = conversation.asked.get(key, 0) + 1
        refusal = _refusal(spec, call, tainted)
        if refusal is None and place >= spec.max_parallel:
            refusal = Refusal("limit", f"not called: {spec.max_parallel} calls at once are allowed")
        if times >= spec.max_repeats:
            conversation.answer_only = True
            refusal = refusal or Refusal("limit", f"not called: asked for {times} times with the same arguments")
        if refusal is None and conversation.made >= spec.max_tool_calls:
            refusal = Refusal("limit", f"not called: all {spec.max_tool_calls} calls are used up")
        if refusal is None:
            conversation.made += 1
        verdicts.append(refusal)
    if conversation.made >= spec.max_tool_calls:
        conversation.answer_only = True
    for call, verdict in zip(calls, verdicts, strict=True):
        if verdict is None:
            conversation.see(call)
    assert conversation.made - made_before <= spec.max_parallel
    return verdicts


def _refusal(spec: AgentSpec, call: Call, tainted: bool) -> Refusal | None:
    tool = call.known
    if call.problem or tool is None:
        return Refusal("denied" if tool is None else "rejected", call.problem)
    if tainted and (tool.egress or tool.writes) and not tool.allowed:
        what = "sends data out" if tool.egress else "has side effects"
        return Refusal("denied", f"not called: it {what}, and this conversation holds private or untrusted data")
    return None


def shown(tool: str, result: str) -> str:
    """A result as the model sees it; ``result`` is JSON text."""
    return f'{{"tool":{write_json(tool)},"result":{result}}}'


def shown_error(tool: str, problem: str) -> str:
    """An error as the model sees it."""
    return f'{{"tool":{write_json(tool)},"error":{write_json(problem)}}}'


def answer_object(conversation: Conversation, answer: str) -> str:
    """The answer with steps, tokens and trace."""
    trace = write_json([event.as_dict() for event in conversation.trace or ()])
    return f'{{"answer":{answer},"steps":{conversation.steps},"tokens":{conversation.used_tok},"trace":{trace}}}'
