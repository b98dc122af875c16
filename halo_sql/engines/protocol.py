"""What an engine is: requests in, results out, matched by id.

An engine knows nothing of SQL, rows or plans. It lives on one asyncio loop (the session's) and never blocks it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol, Self

from halo_sql.errors import EngineError
from halo_sql.ir.prompt import Sampling
from halo_sql.metrics import NodeMetrics


class ToolSchema(NamedTuple):
    """A tool as a model sees it: ``parameters`` is the closed JSON schema (a text) of its arguments object."""

    name: str
    description: str
    parameters: str


class Dialogue(str):
    """A conversation as the user message of a request.

    As a text it is the JSON spelling of its turns without the closing bracket: equal conversations are equal texts,
    no two others are, and one that goes on sorts right behind its beginning.

    turns  contents of the messages behind the system message: user, assistant, user, …, user. An assistant's turn is
           what the model answered (kind 'step': its canonical text); the user's turn behind one with calls is
           ``{"results": [{"tool": …, "result": …} | {"tool": …, "error": "…"}, …]}``, in the order of the calls
    """

    __slots__ = ("turns",)
    turns: tuple[str, ...]

    def __new__(cls, turns: Sequence[str]) -> Self:
        """A conversation of these turns."""
        text = super().__new__(cls, "[" + ", ".join(json.dumps(turn, ensure_ascii=False) for turn in turns))
        text.turns = tuple(turns)
        return text

    def then(self, *turns: str) -> Dialogue:
        """The conversation with these turns behind it."""
        return Dialogue((*self.turns, *turns))


def turns_of(user: str) -> tuple[str, ...]:
    """The turns of a user message: several when it is a ``Dialogue``."""
    return user.turns if isinstance(user, Dialogue) else (user,)


@dataclass(frozen=True, slots=True)
class Answer:
    """The form of a model's answer; all but 'text', 'score' and 'embedding' are held to it by constrained decoding.

    kind     'text' (free), 'json' (``schema`` is a JSON-schema text; ``choices``, if any, are the texts of which it
             is a list), 'choice' (one of ``choices``, verbatim),
             'score' (the probability that a yes / no answer is yes, from log-probabilities: a decimal in 0 … 1),
             'embedding' (the user message's vector: base64 of little-endian float32) or
             'step' (of an agent: ``{"calls": [{"tool": name, "arguments": {…}}, …]}`` or ``{"answer": value}``, as
             ``schema`` says; ``tools`` are those of the whole conversation, also where only an answer is allowed)
    """

    kind: str = "text"
    schema: str = ""
    choices: tuple[str, ...] = ()
    tools: tuple[ToolSchema, ...] = ()


TEXT = Answer()
YES_NO = Answer("choice", choices=("yes", "no"))
SCORE = Answer("score")
EMBEDDING = Answer("embedding")


@dataclass(frozen=True, slots=True)
class GenRequest:
    """One request.

    id        unique among the requests in flight on an engine; results carry it back
    user      the user message, rendered; a ``Dialogue`` is several
    system    the system message or None
    sampling  decoding options, resolved
    answer    the form of the answer
    priority  lower is earlier
    workers   numbers of the workers that may answer it, where the model has several; empty: any
    keep_chars  characters of its beginning (system message included) that other workers are to find in the shared
              storage of the KV cache; 0: none
    fetch     look for its beginning in that storage
    """

    id: int
    user: str
    system: str | None = None
    sampling: Sampling = Sampling()
    answer: Answer = TEXT
    priority: int = 0
    workers: tuple[int, ...] = ()
    keep_chars: int = 0
    fetch: bool = False


@dataclass(frozen=True, slots=True)
class GenResult:
    """The outcome of one request: either a text or an error, never both.

    text               the answer as the model wrote it (without end tokens)
    finish             'stop' | 'length' | 'error'
    prompt_tok         tokens of the rendered prompt; 0 if the engine does not tell
    prompt_tok_cached  of these taken from the prefix cache
    output_tok         generated tokens
    retries            attempts beyond the first that this request took
    worker             number of the worker that answered; -1: the model has but one
    prompt_tok_moved   of the cached ones those that another worker computed
    """

    id: int
    text: str = ""
    finish: str = "stop"
    prompt_tok: int = 0
    prompt_tok_cached: int = 0
    output_tok: int = 0
    retries: int = 0
    error: EngineError | None = None
    worker: int = -1
    prompt_tok_moved: int = 0


Deliver = Callable[[Sequence[GenResult]], None]


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """What a started engine says of itself.

    identity         everything that fixes its answers: engine kind, URL, model, revision, dtype, template hash
                     (part of the response store's key)
    context_tok      prompt + output limit; 0 when unknown
    kv_capacity_tok  tokens its KV cache holds; 0 when unknown
    window_tok       tokens worth keeping in flight (the start of the adaptive window)
    window_requests  requests worth keeping in flight
    storable         whether its answers may enter the response store (echo's may not)
    device           e.g. 'cpu', 'cuda'
    batch_requests   requests it computes at once, at most; 0 when unknown
    block_tok        tokens of a KV block: whole ones are shared between prompts; 0 when unknown
    dtype            of weights and computation, e.g. 'float32'
    weight_bytes     of the weights' files; 0 when unknown
    kv_tok_bytes     bytes that a token takes in the KV cache; 0 when unknown
    memory_bytes     memory of the device; 0 when unknown
    timed            whether its seconds are those of a model and worth measuring (echo's and replay's are not)
    step_tok         tokens it computes in one step, at most; 0 when unknown
    """

    identity: str
    context_tok: int = 0
    kv_capacity_tok: int = 0
    window_tok: int = 65_536
    window_requests: int = 256
    storable: bool = True
    device: str = ""
    batch_requests: int = 0
    block_tok: int = 0
    dtype: str = ""
    weight_bytes: int = 0
    kv_tok_bytes: int = 0
    memory_bytes: int = 0
    timed: bool = True
    step_tok: int = 0


@dataclass(frozen=True, slots=True)
class Gauges:
    """How an engine's scheduler stood when it last told. An engine that can has a method ``gauges() -> Gauges | None``.

    kv_used    share of the KV cache that running requests take, 0 … 1
    running    requests being computed
    waiting    requests that it holds back
    preempted  requests, so far, that it had to begin again because the KV cache was full
    queue_s    seconds that a request waited in it, on the average since the report before
    """

    kv_used: float
    running: int
    waiting: int
    preempted: int
    queue_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Limit:
    """How many requests an engine sends to its server at once. One that finds out has a method ``limit() -> Limit``.

    requests  at once, now
    most      at once, ever
    again     requests that wait to be sent once more, beside them
    cuts      times, so far, that it became less because the server refused requests or could not keep up
    """

    requests: int
    most: int
    again: int
    cuts: int


class Engine(Protocol):
    """One model behind one worker or server. All methods run on the session's loop.

    One that died fails its requests with the code 'unavailable' and can be started again. One that can leave its device
    without ending has ``can_sleep`` true and ``sleep()`` and ``wake()``, both coroutines; asleep, it gets no requests.
    One with a tokenizer has ``prompt_ids(requests)``, for any thread: the token ids of each prompt (none of one that it
    refuses), or None as long as the tokenizer is not loaded.
    """

    async def start(self) -> EngineInfo:
        """Make ready (idempotent, concurrent callers share one start).

        Raises EngineError('unavailable') with a remedy when it cannot."""
        ...

    async def describe(self) -> EngineInfo | None:
        """What can be said without starting (it is then started by the first ``submit``); None: ``start`` tells."""
        ...

    def submit(self, requests: Sequence[GenRequest], deliver: Deliver) -> None:
        """Hand over requests, in the order in which they should enter the engine; never blocks.

        ``deliver`` is called on the loop with finished ones, in any order and grouping, exactly once per
        request, also for failed and aborted ones (``error`` set). It may be called before ``submit`` returns.
        """
        ...

    def abort(self, ids: Sequence[int]) -> None:
        """Stop these requests as soon as possible; each is still delivered (error code 'cancelled')."""
        ...

    def count_tok(self, request: GenRequest) -> int:
        """Tokens of the rendered prompt: exact where the engine has a tokenizer, else characters / 4."""
        ...

    async def close(self) -> None:
        """Abort what is in flight and release everything; idempotent."""
        ...


def estimate_tok(text: str) -> int:
    """Tokens of a text without a tokenizer: characters / 4, at least 1."""
    return len(text) // 4 + 1


def estimate_prompt_tok(request: GenRequest) -> int:
    """Tokens of a request's whole prompt without a tokenizer: ``estimate_tok`` of every message."""
    tok = 0 if request.system is None else estimate_tok(request.system)
    return tok + sum(map(estimate_tok, turns_of(request.user)))


def failure(request_id: int, message: str, code: str, *, retryable: bool = False, retries: int = 0) -> GenResult:
    """A failed result."""
    return GenResult(
        request_id, finish="error", retries=retries, error=EngineError(message, code=code, retryable=retryable)
    )


# --- what operators see: a channel to one model, with store, coalescing and window behind it ---


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of one prompt for the operator that asked: a valid text, or an error.

    prompt_tok, output_tok  what the answer took when it was made; 0: not known
    """

    text: str = ""
    error: EngineError | None = None
    prompt_tok: int = 0
    output_tok: int = 0


@dataclass(frozen=True, slots=True)
class ChannelSpec:
    """What all requests of one call of a node have in common.

    model     catalog name of the model, as in ``LlmCall.model``
    tool      set: the requests are JSON objects of arguments for this TOOL, the answers JSON values
    agent     set: the requests are JSON objects of fields for this agent of the run, the answers JSON values
    row_form  of an agent: the answer is the object of ``answer``, ``steps``, ``tokens``, ``trace``
    traced    its calls are written to the log by whoever asks, not by the channel
    learn     the ``call_key`` under which is learnt what its requests take; '': nothing is
    cache     may be answered by and written to the response store (also needs ``EngineInfo.storable``)
    ordered   send in prefix order within what is queued; False: in the order of ``put`` (a LIMIT is waiting)
    workers   numbers of the model's workers that the plan placed the calls on; empty: any
    """

    model: str
    system: str | None
    sampling: Sampling
    answer: Answer = TEXT
    cache: bool = True
    priority: int = 0
    ordered: bool = True
    tool: str = ""
    agent: str = ""
    row_form: bool = False
    traced: bool = False
    learn: str = ""
    workers: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Move:
    """A node whose calls are planned anew.

    workers  model -> numbers of those that may answer from now on
    shift    added to the priorities of its calls
    """

    workers: Mapping[str, tuple[int, ...]]
    shift: int = 0

    def applied(self, spec: ChannelSpec) -> ChannelSpec:
        """How its requests are sent now."""
        workers = self.workers.get(spec.model, spec.workers)
        return replace(spec, workers=workers, priority=spec.priority + self.shift)


Validate = Callable[[str, str], EngineError | None]  # (text, finish) -> None when the answer is complete and valid
DeliverOutcomes = Callable[[Sequence[tuple[int, Outcome]]], None]


class Channel(Protocol):
    """One LLM node's way to its model."""

    @property
    def room_tok(self) -> int:
        """Tokens that the model's context leaves for a prompt (system message and template included) beside the
        answer; 0: unknown."""
        ...

    def count_tok(self, prompt: str) -> int:
        """Tokens of this user message's whole prompt: exact where the engine has a tokenizer, else estimated."""
        ...

    def put(self, prompts: Sequence[tuple[int, str]]) -> None:
        """Ask these user messages; the numbers come back with the outcomes (each exactly once, any order)."""
        ...

    async def close(self) -> None:
        """No more outcomes are wanted: what is in flight is aborted; idempotent."""
        ...


class Channels(Protocol):
    """Opens channels; one object per run of a query."""

    async def open(
        self, spec: ChannelSpec, validate: Validate, metrics: NodeMetrics, deliver: DeliverOutcomes
    ) -> Channel:
        """Starts the engine if needed; EngineError('unavailable') when it cannot."""
        ...
