"""The wire format of /embeddings: texts as JSON bodies, vectors back. Pure functions."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from halo_sql.engines import openai_wire as wire
from halo_sql.engines.protocol import estimate_tok
from halo_sql.engines.vectors import decode_vector, encode_vector


@dataclass(frozen=True, slots=True)
class Vectors:
    """The answer to one request: a vector's text for each text sent, the model named, prompt tokens (0: not told)."""

    texts: tuple[str, ...]
    model: str | None
    prompt_tok: int = 0

    @property
    def tok(self) -> tuple[int, int]:
        """See ``Reply``."""
        return self.prompt_tok, 0


def encode(texts: Sequence[str], model: str, dimensions: int | None, extra: Mapping[str, Any]) -> bytes:
    """The JSON body of a request. ``extra`` goes over everything else; a null in it removes a field."""
    body: dict[str, Any] = {"model": model, "input": list(texts)}
    if dimensions is not None:
        body["dimensions"] = dimensions
    body.update(extra)
    text = json.dumps({key: value for key, value in body.items() if value is not None}, ensure_ascii=False)
    return text.encode("utf-8", "replace")  # a lone surrogate is no Unicode text: it travels as '?'


def decode(body: bytes, count: int) -> Vectors:
    """A 200 body with ``count`` vectors, in the order of the texts; raises Broken."""
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError) as problem:
        raise wire.Broken(f"the answer is no JSON ({type(problem).__name__})") from None
    entries = answer.get("data") if isinstance(answer, dict) else None
    if not isinstance(entries, list):
        raise wire.Broken(f"the answer has no vectors: {wire.error_text(body)}")
    if len(entries) != count:
        raise wire.Broken(f"it sent {len(entries)} vectors for {count} texts")
    found: dict[int, str] = {}
    for place, entry in enumerate(entries):
        index = entry.get("index", place) if isinstance(entry, dict) else None
        if not isinstance(index, int) or not 0 <= index < count or index in found:
            raise wire.Broken("its vectors are not numbered as the texts are")
        found[index] = _vector(entry.get("embedding"))
    if len({len(text) for text in found.values()}) > 1:
        raise wire.Broken("it sent vectors of different lengths")
    usage, model = answer.get("usage"), answer.get("model")
    prompt_tok = wire.tokens(usage.get("prompt_tokens")) if isinstance(usage, dict) else 0
    return Vectors(tuple(found[place] for place in range(count)), model if isinstance(model, str) else None, prompt_tok)


def _vector(value: object) -> str:
    """A list of numbers, or base64 of float32 (encoding_format in extra_body)."""
    try:
        if isinstance(value, str):
            decode_vector(value)
            return value
        if isinstance(value, list) and all(type(number) in (int, float) for number in value):
            return encode_vector(value)
    except (ValueError, OverflowError):
        pass
    raise wire.Broken("one of its vectors is not made of finite numbers")


def shares(texts: Sequence[str], total_tok: int) -> list[int]:
    """The tokens of each text of a request, given their sum, which is kept: by length, as nothing better is known."""
    weights = [estimate_tok(text) for text in texts]
    whole = sum(weights)
    ends, seen = [0], 0
    for weight in weights:
        seen += weight
        ends.append(total_tok * seen // whole)
    return [end - start for start, end in pairwise(ends)]
