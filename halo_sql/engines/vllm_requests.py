"""One request on its way to a vLLM worker: decoding options, and the refusal of what cannot fit."""

from __future__ import annotations

from typing import Any

from halo_sql.engines.protocol import Answer, GenRequest, GenResult
from halo_sql.errors import EngineError
from halo_sql.ir.prompt import Sampling


def worker_params(sampling: Sampling, answer: Answer) -> dict[str, Any]:
    """Decoding options as the worker takes them (``frames``)."""
    spec: dict[str, Any] = {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "max_tokens": sampling.max_tokens,
        "seed": sampling.seed,
        "stop": list(sampling.stop),
    }
    if answer.kind == "json":
        spec["json"] = answer.schema
    elif answer.kind == "choice":
        spec["choice"] = list(answer.choices)
    return spec


def too_long(request: GenRequest, prompt_tok: int, context_tok: int) -> GenResult:
    """The refusal of a prompt that leaves no room for its answer."""
    wanted = request.sampling.max_tokens
    error = EngineError(
        f"a prompt of {prompt_tok} tokens and max_tokens {wanted} exceed the model's context of {context_tok} tokens",
        code="context",
        remedy="Shorten the prompt or lower max_tokens.",
    )
    return GenResult(request.id, finish="error", prompt_tok=prompt_tok, error=error)
