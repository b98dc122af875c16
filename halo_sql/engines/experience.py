"""What finished requests took: sums that can be added to, merged and stored, and the averages drawn from them."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from math import isfinite
from typing import NamedTuple

#: Requests of a template that count in full; older ones fade as newer come, as by exponential smoothing.
MEMORY = 2_000.0


class CallKind(NamedTuple):
    """Whose experience it is: a model by its ``identity``, and a template by its ``call_key``; '' for all of them."""

    model: str
    call: str


@dataclass(slots=True)
class Experience:
    """Sums over requests that were answered.

    requests                 how many; of an agent its conversations
    chars, chars_sq          characters of their prompts (system message included), and the squares of these
    prompt_tok, chars_tok    their tokens, and characters × tokens
    output_tok, answer_chars tokens and characters of the answers
    rows, kept               of a filter: rows decided, rows it kept
    steps, tool_calls        of an agent: requests to models, calls of tools
    """

    requests: float = 0.0
    chars: float = 0.0
    chars_sq: float = 0.0
    prompt_tok: float = 0.0
    chars_tok: float = 0.0
    output_tok: float = 0.0
    answer_chars: float = 0.0
    rows: float = 0.0
    kept: float = 0.0
    steps: float = 0.0
    tool_calls: float = 0.0

    def add(self, chars: int, prompt_tok: int, output_tok: int, answer_chars: int) -> None:
        """One request."""
        self.requests += 1
        self.chars += chars
        self.chars_sq += chars * chars
        self.prompt_tok += prompt_tok
        self.chars_tok += chars * prompt_tok
        self.output_tok += output_tok
        self.answer_chars += answer_chars

    def merged(self, newer: Experience) -> Experience:
        """Both together; of more than MEMORY requests (or rows) the older ones count less."""
        weight = max(self.requests, self.rows)
        room = max(0.0, MEMORY - max(newer.requests, newer.rows))
        return self.plus(newer, 1.0 if weight <= room else room / weight)

    def plus(self, other: Experience, keep: float = 1.0) -> Experience:
        """Both together, of one time: requests and rows of the same statement; ``keep`` of this one."""
        names = [item.name for item in fields(Experience)]
        return Experience(**{name: getattr(self, name) * keep + getattr(other, name) for name in names})

    def text(self) -> str:
        """As it is stored."""
        return json.dumps(asdict(self))

    @classmethod
    def read(cls, text: str) -> Experience | None:
        """From ``text``; None for anything that is no experience."""
        try:
            found = cls(**{name: float(value) for name, value in json.loads(text).items()})
        except (ValueError, TypeError, AttributeError):
            return None
        sound = all(isfinite(value) and value >= 0 for value in asdict(found).values())
        return found if sound and found.kept <= found.rows else None
