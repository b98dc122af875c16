"""The wire format of /chat/completions: requests as JSON bodies, answers and error bodies back. Pure functions."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from halo_sql.engines import openai_steps as steps
from halo_sql.engines.openai_steps import step_text
from halo_sql.engines.protocol import TEXT, Answer, Dialogue, GenRequest, turns_of
from halo_sql.engines.steps import is_step

NO_LOGPROBS_REMEDY = (
    "LLM_SCORE needs a server that gives log-probabilities (logprobs, top_logprobs), like vLLM; "
    "LLM_MAP with returns => 'DOUBLE' asks for a number instead."
)
_WRAPPED = re.compile(r'\s*\{\s*"answer"\s*:\s*')
_START = re.compile(r'\s*(\{\s*"answer"\s*:\s*)?["\']?')
_CONTEXT = re.compile(
    r"context[ _]length|context window|maximum context|prompt is too long|must have less than \d+ tokens", re.IGNORECASE
)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]+")


@dataclass(frozen=True, slots=True)
class Reply:
    """A complete answer: the text, whether it was cut, the model that the server names, token counts (0: not told)."""

    text: str
    finish: str
    model: str | None
    prompt_tok: int = 0
    prompt_tok_cached: int = 0
    output_tok: int = 0

    @property
    def tok(self) -> tuple[int, int]:
        """Of the prompt and of the answer."""
        return self.prompt_tok, self.output_tok


class Broken(Exception):  # noqa: N818 - not an error of the user's: the caller turns it into one or tries again
    """The body is no complete answer; the message says why."""


class Refused(Exception):  # noqa: N818 - as above
    """The model or the server's filter declined to answer; the message is its reason. Asking again does not help."""


def encode(
    request: GenRequest, model: str, structured: str, extra: Mapping[str, Any], calling: str = "native"
) -> bytes:
    """The JSON body of a request.

    ``structured``: 'json_schema' (response_format; what is no object is wrapped as {"answer": …}), 'vllm'
    (structured_outputs) or 'none'. ``extra`` goes over everything else; a null in it removes a field. ``calling``: how
    an agent's step is asked for: 'native' tool calls, 'exclusive' (the same at a server that cannot both offer tools
    and constrain an answer) or 'json' (the whole step is constrained).
    """
    native = request.answer.kind == "step" and calling != "json"
    messages: list[dict[str, Any]]
    if native:
        messages = steps.messages_of(turns_of(request.user), request.answer.tools)
    else:
        messages = [{"role": "user", "content": request.user}]
        if isinstance(request.user, Dialogue):
            messages = [
                {"role": "assistant" if number % 2 else "user", "content": turn}
                for number, turn in enumerate(request.user.turns)
            ]
    if request.system is not None:
        messages.insert(0, {"role": "system", "content": request.system})
    sampling = request.sampling
    body: dict[str, Any] = {
        "model": model,
        "messages": messages,
        "temperature": sampling.temperature,
        "max_tokens": sampling.max_tokens,
    }
    if sampling.top_p != 1.0:
        body["top_p"] = sampling.top_p
    if sampling.seed is not None:
        body["seed"] = sampling.seed
    if sampling.stop:
        body["stop"] = list(sampling.stop)
    body.update(_step(request.answer, structured, calling) if native else _constraint(request.answer, structured))
    body.update(extra)
    text = json.dumps({key: value for key, value in body.items() if value is not None}, ensure_ascii=False)
    return text.encode("utf-8", "replace")  # a lone surrogate is no Unicode text: it travels as '?'


@lru_cache(maxsize=64)  # asked once per row, the same few times
def _constraint(answer: Answer, structured: str) -> dict[str, Any]:
    if answer.kind in ("text", "score") or structured == "none":
        return {}
    if structured == "vllm":
        if answer.kind == "choice":
            return {"structured_outputs": {"choice": list(answer.choices)}}
        return {"structured_outputs": {"json": json.loads(answer.schema)}}
    schema = {"type": "string", "enum": list(answer.choices)} if answer.kind == "choice" else json.loads(answer.schema)
    if is_wrapped(answer):
        schema = {
            "type": "object",
            "properties": {"answer": schema},
            "required": ["answer"],
            "additionalProperties": False,
        }
    return _response_format(schema)


@lru_cache(maxsize=64)
def _step(answer: Answer, structured: str, calling: str) -> dict[str, Any]:
    found = dict(steps.fields(answer, calling == "exclusive" or structured == "vllm"))
    schema = found.pop("answer_format", None)
    if schema is None or structured == "none":
        return found
    return found | ({"structured_outputs": {"json": schema}} if structured == "vllm" else _response_format(schema))


def _response_format(schema: dict[str, Any]) -> dict[str, Any]:
    spec = {"name": "answer", "schema": schema, "strict": steps.is_strict(schema)}
    return {"response_format": {"type": "json_schema", "json_schema": spec}}


@lru_cache(maxsize=64)
def is_wrapped(answer: Answer) -> bool:
    """Whether 'json_schema' wraps this answer as {"answer": …}: servers take only objects at the root."""
    if answer.kind == "choice":
        return True
    return answer.kind in ("json", "step") and json.loads(answer.schema).get("type") != "object"


def unwrap(text: str, answer: Answer) -> str:
    """The answer inside {"answer": …}, spelled as the model spelled it; texts that are not wrapped stay as they are.

    A choice comes back as its string, anything else as JSON text. An answer that is no step is that of a step.
    """
    head = _WRAPPED.match(text)
    if head is None:
        return text
    try:
        value, end = json.JSONDecoder().raw_decode(text, head.end())
    except (ValueError, RecursionError):
        return text  # cut or broken: the caller's validation says so
    if text[end:].strip() != "}":
        return text
    if answer.kind == "choice":
        return value if isinstance(value, str) else text
    inner = text[head.end() : end]
    return text if answer.kind == "step" and not is_step(inner) else inner


def answer_start(text: str) -> int:
    """Where a choice begins in an answer, wrapped or not."""
    found = _START.match(text)
    return 0 if found is None else found.end()


def decode(body: bytes, answer: Answer = TEXT) -> Reply:
    """A 200 body as a Reply; raises Broken or Refused. Its text is the step that it is, if one is asked for."""
    try:
        data = json.loads(body)
    except (ValueError, RecursionError) as problem:
        raise Broken(f"the answer is no JSON ({type(problem).__name__})") from None
    if not isinstance(data, dict):
        raise Broken("the answer is no JSON object")
    choices = data.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    message = first.get("message") if isinstance(first, dict) else None
    if not isinstance(first, dict) or not isinstance(message, dict):
        raise Broken(f"the answer has no message: {error_text(body)}")
    finish, content = first.get("finish_reason"), message.get("content")
    if finish == "content_filter":
        raise Refused("the server's content filter stopped the answer")
    if answer.kind == "step":
        content = step_text(message, answer)
    if content is None and isinstance(message.get("refusal"), str):
        raise Refused(f"the model refused: {clean(message['refusal'])}")
    if content is None and finish == "length":
        content = ""  # all of max_tokens went into reasoning
    if not isinstance(content, str) or not isinstance(finish, str):
        raise Broken("the answer is incomplete: no content or no finish_reason")
    usage = data.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    details = usage.get("prompt_tokens_details")
    model = data.get("model")
    return Reply(
        content,
        "length" if finish == "length" else "stop",
        model if isinstance(model, str) else None,
        tokens(usage.get("prompt_tokens")),
        tokens(details.get("cached_tokens")) if isinstance(details, dict) else 0,
        tokens(usage.get("completion_tokens")),
    )


def tokens(value: object) -> int:
    """A count of the server's; 0 when it tells none."""
    return value if isinstance(value, int) and value >= 0 else 0


def error_text(body: bytes) -> str:
    """What an error body says, as one line: its message where it is JSON of a known shape, else the text."""
    text = body.decode("utf-8", "replace")
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        return clean(text)
    if isinstance(data, dict):
        error = data.get("error")
        inner = error.get("message") if isinstance(error, dict) else error
        for found in (inner, data.get("message"), data.get("detail")):
            if isinstance(found, str):
                return clean(found)
    return clean(text)


def error_code(body: bytes) -> str:
    """The machine-readable code in an error body; '' when it has none."""
    try:
        error = json.loads(body).get("error")
    except (ValueError, AttributeError, RecursionError):
        return ""
    code = error.get("code") if isinstance(error, dict) else None
    return code if isinstance(code, str) else ""


def is_context_overflow(body: bytes) -> bool:
    """Whether a 400 says that prompt and output do not fit the model's context."""
    return error_code(body) == "context_length_exceeded" or bool(_CONTEXT.search(error_text(body)))


def clean(text: str) -> str:
    """One printable line."""
    return _CONTROL.sub(" ", text).strip()
