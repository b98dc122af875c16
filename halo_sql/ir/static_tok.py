"""What of a call's prompts is the same in all rows: as texts, and as tokens of its model."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache

from halo_sql.ir.prompt import Hole, ItemsHole, Prompt


@dataclass(frozen=True, slots=True)
class StaticTok:
    """Tokens of prompts that do not depend on what their holes hold.

    head   at the beginning, system message and chat template included
    tail   at the end: what the template puts behind the user message
    whole  of the prompt whose holes are all empty
    """

    head: int
    tail: int
    whole: int


@lru_cache(maxsize=4096)
def static_texts(prompt: Prompt) -> tuple[str, str]:
    """The user message up to its first hole, and the one whose holes are all empty, as they are sent."""
    head: str | None = None
    parts: list[str] = []
    for segment in prompt.user:
        if isinstance(segment, str):
            parts.append(segment)
        elif isinstance(segment, Hole | ItemsHole):
            head = "".join(parts) if head is None else head
        else:
            before = "{"
            for name, _ in segment.fields:
                parts.append(f"{before}{json.dumps(name, ensure_ascii=False)}: ")
                head = "".join(parts) if head is None else head
                before = ", "
            parts.append("}" if segment.fields else "{}")
    whole = "".join(parts)
    return whole if head is None else head, whole
