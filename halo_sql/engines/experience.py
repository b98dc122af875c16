"""What finished requests took: sums that can be added to, merged and stored, and the averages drawn from them."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from math import isfinite
from typing import NamedTuple

from halo_sql.engines.latency import bucket

#: Requests of a template that count in full; older ones fade as newer come, as by exponential smoothing.
MEMORY = 2_000.0


class CallKind(NamedTuple):
    """Whose experience it is: a model by its ``identity``, and a template by its ``call_key``, '' for all of them; or
    a tool by its ``tool_identity``, and its name."""

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
    timed, seconds           of a tool: calls made by themselves, their seconds
    latencies                those seconds as a sketch: ``latency.bucket`` -> calls
    joins, join_s            queries that made many calls at once, their seconds
    joined, joined_sq, joined_s  calls of each, summed; squared; × seconds
    listed, listed_rows      values that are lists and were counted, their items
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
    timed: float = 0.0
    seconds: float = 0.0
    joins: float = 0.0
    join_s: float = 0.0
    joined: float = 0.0
    joined_sq: float = 0.0
    joined_s: float = 0.0
    listed: float = 0.0
    listed_rows: float = 0.0
    latencies: dict[int, float] = field(default_factory=dict)

    def add(self, chars: int, prompt_tok: int, output_tok: int, answer_chars: int) -> None:
        """One request."""
        self.requests += 1
        self.chars += chars
        self.chars_sq += chars * chars
        self.prompt_tok += prompt_tok
        self.chars_tok += chars * prompt_tok
        self.output_tok += output_tok
        self.answer_chars += answer_chars

    def took(self, calls: int, seconds: float) -> None:
        """One call of a tool, or one query that made several."""
        if calls == 1:
            self.timed += 1
            self.seconds += seconds
            place = bucket(seconds)
            self.latencies[place] = self.latencies.get(place, 0.0) + 1.0
            return
        self.joins += 1
        self.join_s += seconds
        self.joined += calls
        self.joined_sq += calls * calls
        self.joined_s += calls * seconds

    def merged(self, newer: Experience) -> Experience:
        """Both together; of more than MEMORY requests (or rows) the older ones count less."""
        weight = max(self.requests, self.rows)
        room = max(0.0, MEMORY - max(newer.requests, newer.rows))
        return self.plus(newer, 1.0 if weight <= room else room / weight)

    def plus(self, other: Experience, keep: float = 1.0) -> Experience:
        """Both together, of one time: requests and rows of the same statement; ``keep`` of this one."""
        sums = {name: getattr(self, name) * keep + getattr(other, name) for name in _SUMS}
        latencies = {place: count * keep for place, count in self.latencies.items() if count * keep > 1e-3}
        for place, count in other.latencies.items():
            latencies[place] = latencies.get(place, 0.0) + count
        return Experience(**sums, latencies=latencies)

    def text(self) -> str:
        """As it is stored."""
        return json.dumps({name: value for name, value in asdict(self).items() if value})

    @classmethod
    def read(cls, text: str) -> Experience | None:
        """From ``text``; None for anything that is no experience."""
        try:
            given = json.loads(text)
            latencies = {int(place): float(count) for place, count in given.pop("latencies", {}).items()}
            found = cls(**{name: float(value) for name, value in given.items()}, latencies=latencies)
        except (ValueError, TypeError, AttributeError):
            return None
        values = [*(getattr(found, name) for name in _SUMS), *latencies.values()]
        sound = all(isfinite(value) and value >= 0 for value in values) and all(
            -100 < place < 200 for place in latencies
        )
        return found if sound and found.kept <= found.rows else None


_SUMS = tuple(item.name for item in fields(Experience) if item.name != "latencies")
