"""The echo engine: answers with the user prompt itself. Costs nothing, needs nothing, defines what is right."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from halo_sql.engines import ranking
from halo_sql.engines.echo_steps import echo_step
from halo_sql.engines.kinds import ANY, DIMENSIONS, ECHO_DIMENSIONS, KIND, refusal
from halo_sql.engines.options import Option, resolve
from halo_sql.engines.protocol import (
    YES_NO,
    Answer,
    Deliver,
    EngineInfo,
    GenRequest,
    GenResult,
    estimate_prompt_tok,
    failure,
    turns_of,
)
from halo_sql.engines.scores import read_score
from halo_sql.engines.shares import WORKERS
from halo_sql.engines.vectors import hashed_vector, read_vector

OPTIONS: tuple[Option, ...] = (
    KIND,
    DIMENSIONS,
    WORKERS,
    Option("max_model_len", "integer", None, "Context in tokens of 4 characters; default unlimited", 1),
)

#: What DuckDB's cast from VARCHAR to BOOLEAN reads, in lower case.
BOOLEANS: Mapping[str, str] = {
    "true": "yes", "t": "yes", "yes": "yes", "y": "yes", "1": "yes",
    "false": "no", "f": "no", "no": "no", "n": "no", "0": "no",
}  # fmt: skip
_AS_IT_IS = frozenset({"text", "json"})


class EchoEngine:
    """Answers with the user prompt: text and json as it is, yes/no as DuckDB reads a BOOLEAN from it (white space
    around it ignored), another choice as the first one that the prompt contains, a list of choices as all that it
    contains, a score as the number in 0 … 1 or the BOOLEAN that it is, an embedding as the JSON list of numbers that
    it is, any other text as a unit vector of ``dimensions`` (default 8) numbers that depends on nothing but the text.
    A grade (LLM_RANK) is the number that the prompt is or the last one in it, else 0; a comparison is decided by these
    numbers. A step is what ``echo_steps`` says; of any other conversation the last message is the prompt. Delivers
    inside ``submit``.

    ``options`` are those of ``OPTIONS``; CatalogError when they are wrong.
    """

    def __init__(self, options: Mapping[str, object] | None = None) -> None:
        values = resolve("echo", options or {}, OPTIONS)
        self._kind: str = values["kind"] or ANY
        self._dimensions: int = values["dimensions"] or ECHO_DIMENSIONS
        self._context_tok: int = values["max_model_len"] or 0

    async def start(self) -> EngineInfo:
        """Always ready."""
        return EngineInfo(
            "echo",
            self._context_tok,
            window_tok=1 << 30,
            window_requests=2048,
            storable=False,
            device="cpu",
            timed=False,
        )

    async def describe(self) -> EngineInfo | None:
        """See ``Engine.describe``: a start costs nothing."""
        return await self.start()

    def submit(self, requests: Sequence[GenRequest], deliver: Deliver) -> None:
        """Deliver all answers in one call, before returning."""
        results = []
        for request in requests:
            user, system, answer = request.user, request.system, request.answer
            text = prompt = user if user.__class__ is str else turns_of(user)[-1]
            if answer.kind not in _AS_IT_IS or self._kind != ANY:
                problem = refusal(self._kind, "this echo model", answer)
                if problem is not None:
                    results.append(GenResult(request.id, finish="error", error=problem))
                    continue
                found = self._read(prompt, request)
                if found is None:
                    results.append(_unreadable(request))
                    continue
                text = found
            elif answer == ranking.GRADE:
                text = repr(ranking.number_in(prompt))
            elif answer.choices:
                text = json.dumps([choice for choice in answer.choices if choice in prompt], ensure_ascii=False)
            prompt_tok = len(user) // 4 + 1  # estimate_tok, spelled out: this loop is the engine's whole cost
            if system is not None:
                prompt_tok += len(system) // 4 + 1
            if prompt is not user:
                prompt_tok = estimate_prompt_tok(request)
            if self._context_tok and prompt_tok + request.sampling.max_tokens > self._context_tok:
                results.append(_too_long(request, prompt_tok, self._context_tok))
                continue
            output_tok = 0 if answer.kind == "embedding" else len(text) // 4 + 1
            results.append(GenResult(request.id, text, "stop", prompt_tok, 0, output_tok))
        deliver(results)

    def _read(self, user: str, request: GenRequest) -> str | None:
        answer = request.answer
        if answer.kind == "step":
            return echo_step(turns_of(request.user), answer.schema)
        if answer.kind == "choice":
            return _choose(user, answer)
        if answer.kind == "score":
            return read_score(user)
        if answer.kind == "embedding":
            return read_vector(user) or hashed_vector(user, self._dimensions)
        return user

    def abort(self, ids: Sequence[int]) -> None:
        """Nothing is ever in flight."""

    def count_tok(self, request: GenRequest) -> int:
        """Characters / 4."""
        return estimate_prompt_tok(request)

    async def close(self) -> None:
        """Nothing to release."""


def _choose(user: str, answer: Answer) -> str | None:
    if answer.choices == YES_NO.choices:
        return BOOLEANS.get(user.strip().lower())
    compared = ranking.read_comparison(user)
    if compared is not None and answer.choices == ranking.choice(len(compared[0])).choices:
        keys = [ranking.order_key(ranking.number_in(text)) for text in compared[0]]
        return answer.choices[keys.index(max(keys) if compared[1] else min(keys))]
    return next((choice for choice in answer.choices if choice in user), None)


def _too_long(request: GenRequest, prompt_tok: int, context_tok: int) -> GenResult:
    message = (
        f"a prompt of {prompt_tok} tokens and max_tokens {request.sampling.max_tokens} "
        f"exceed the model's context of {context_tok} tokens"
    )
    return failure(request.id, message, "context")


def _unreadable(request: GenRequest) -> GenResult:
    shown = request.user if len(request.user) <= 80 else request.user[:77] + "..."
    if request.answer.kind == "score":
        message = f"echo cannot read a number in 0 … 1, true or false from {shown!r}"
    elif request.answer.choices == YES_NO.choices:
        message = f"echo cannot read true or false from {shown!r}"
    else:
        message = f"echo finds none of {', '.join(map(repr, request.answer.choices[:10]))} in {shown!r}"
    return failure(request.id, message, "invalid_output")
