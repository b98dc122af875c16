"""What calls have in common whatever their rows: the key under which what is learnt of them is kept."""

from __future__ import annotations

import json
from functools import lru_cache
from hashlib import blake2b

from halo_sql.ir.prompt import Hole, ItemsHole, LlmCall, ObjectHole, Prompt, Segment


@lru_cache(maxsize=4096)
def call_key(call: LlmCall) -> str:
    """32 hex digits of the call's kind, template, answer form and decoding options (not its model).

    Columns count by the place of their holes only, the fields of an object in any order: equal calls of different
    statements have one key. Of a filter its text counts too: what it keeps depends on what it is asked of.
    """
    sampling = call.sampling
    said = (
        call.kind,
        call.target,
        template(call.prompt),
        call.returns.text,
        call.labels,
        (sampling.temperature, sampling.top_p, sampling.max_tokens, sampling.seed, sampling.stop),
        call.fan_in,
        call.label if call.kind == "filter" else "",
    )
    text = json.dumps(said, ensure_ascii=False)
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def template(prompt: Prompt) -> list[object]:
    """System message and segments of a prompt, holes without their columns."""
    return [prompt.system, *map(_segment, prompt.user)]


def _segment(segment: Segment) -> object:
    if isinstance(segment, Hole):
        return 0
    if isinstance(segment, ItemsHole):
        return [segment.separator]
    if isinstance(segment, ObjectHole):
        return sorted(name for name, _ in segment.fields)
    return segment
