"""One request on its way to a vLLM worker: what vLLM is asked, and the refusal of what cannot be answered."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from halo_sql.engines.chat import ChatTokenizer
from halo_sql.engines.kinds import EMBEDDING
from halo_sql.engines.protocol import Answer, Gauges, GenRequest, GenResult, failure
from halo_sql.engines.text_tokenizer import TextTokenizer
from halo_sql.engines.vllm_model import VllmModel
from halo_sql.errors import EngineError
from halo_sql.ir.prompt import Sampling


def worker_params(sampling: Sampling, answer: Answer, model: VllmModel) -> dict[str, Any]:
    """What is asked, as the worker takes it (``frames``).

    A choice that its first token decides takes one step, and no grammar: the tokens that it may begin with are those
    that the grammar would allow, so that the same one is taken; behind it the grammar leaves no choice.
    """
    if answer.kind == "embedding":
        return {"embed": model.dimensions or 0}
    if answer.kind == "score":
        assert model.tokenizer is not None
        return {"score": list(model.tokenizer.yes_no)}
    spec: dict[str, Any] = {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "max_tokens": sampling.max_tokens,
        "seed": sampling.seed,
        "stop": list(sampling.stop),
    }
    if answer.kind in ("json", "step"):
        spec["json"] = answer.schema
    elif answer.kind == "choice":
        spec["choice"] = list(answer.choices)
        if isinstance(model.tokenizer, ChatTokenizer) and not sampling.stop:
            spec["first"] = sorted(model.tokenizer.deciding(answer.choices).items())
    return spec


def read_gauges(told: Mapping[str, float], before: Mapping[str, float]) -> Gauges:
    """What a worker told of its scheduler (``frames``), and what it had told before."""
    queued = told.get("queued", 0.0) - before.get("queued", 0.0)
    queued_s = told.get("queued_s", 0.0) - before.get("queued_s", 0.0)
    return Gauges(
        told.get("kv_used", 0.0),
        int(told.get("running", 0)),
        int(told.get("waiting", 0)),
        int(told.get("preemptions", 0)),
        max(0.0, queued_s / queued) if queued > 0 else 0.0,
    )


def fitted(request: GenRequest, prompt: list[int], context_tok: int, model: VllmModel) -> list[int] | GenResult:
    """The prompt's token ids as they are sent, or why it is not."""
    kind = request.answer.kind
    tokenizer = model.tokenizer
    if kind == "score" and tokenizer is not None and not tokenizer.yes_no[0]:
        message = f"the vocabulary of {model.source} does not tell yes from no by their first tokens"
        return failure(request.id, message, "rejected")
    if not prompt and isinstance(tokenizer, ChatTokenizer) and (problem := tokenizer.refusal(request)) is not None:
        return GenResult(request.id, finish="error", error=problem)
    if model.kind == EMBEDDING:
        if len(prompt) <= context_tok:
            return prompt
        if model.options["truncate"] and isinstance(tokenizer, TextTokenizer):
            return tokenizer.cut(prompt, context_tok)
        error = EngineError(
            f"a text of {len(prompt)} tokens exceeds the model's context of {context_tok} tokens",
            code="context",
            remedy="Shorten the text, or make the model WITH (truncate = true) to have its end cut off.",
        )
        return GenResult(request.id, finish="error", prompt_tok=len(prompt), error=error)
    wanted = 1 if kind == "score" else request.sampling.max_tokens
    if len(prompt) + wanted <= context_tok:
        return prompt
    error = EngineError(
        f"a prompt of {len(prompt)} tokens and max_tokens {wanted} exceed the model's context of {context_tok} tokens",
        code="context",
        remedy="Shorten the prompt or lower max_tokens.",
    )
    return GenResult(request.id, finish="error", prompt_tok=len(prompt), error=error)
