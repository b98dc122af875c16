"""How models are asked for ranks: one grade per text, or a comparison of several texts.

Kept beside the engines because echo reads both forms: it ranks by the numbers that stand in the texts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from halo_sql.engines.protocol import Answer

#: The form of a grade.
GRADE = Answer("json", schema='{"type":"integer","minimum":0,"maximum":100}')
GRADE_SYSTEM = (
    "Grade how much the following applies, from 0 (not at all) to 100 (as much as it can). "
    "Answer with the number alone."
)
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"  # the names of a comparison's candidates
COMPARE_SYSTEM = "You compare texts. Answer with the letter of one of them, and nothing else."
_MOST = "Which of these applies most? If several apply equally, take the first of them."
_LEAST = "Which of these applies least? If several apply equally, take the first of them."
_CANDIDATE = re.compile(r'([A-Z]): (".*")')
_NUMBER = re.compile(r"(?<![\w.])[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?(?!\w)")


def compare_system(system: str | None) -> str:
    """The system message of comparisons, from that of grades (the user's words, then ``GRADE_SYSTEM``)."""
    return (system or "").removesuffix(GRADE_SYSTEM) + COMPARE_SYSTEM


def comparison(texts: Sequence[str], most: bool) -> str:
    """The user message that asks which of up to 26 texts applies most (or least): one line each, as JSON strings."""
    lines = [_MOST if most else _LEAST]
    lines += [f"{letter}: {json.dumps(text, ensure_ascii=False)}" for letter, text in zip(LETTERS, texts, strict=False)]
    return "\n".join(lines)


def choice(candidates: int) -> Answer:
    """The form of a comparison's answer."""
    return Answer("choice", choices=tuple(LETTERS[:candidates]))


def read_comparison(user: str) -> tuple[list[str], bool] | None:
    """The texts of a ``comparison`` and whether it asks for most; None for any other message."""
    head, *rest = user.split("\n")
    found = [_CANDIDATE.fullmatch(line) for line in rest]
    if head not in (_MOST, _LEAST) or not found:
        return None
    texts = []
    for letter, match in zip(LETTERS, found, strict=False):
        if match is None or match[1] != letter:
            return None
        texts.append(json.loads(match[2]))
    return texts, head == _MOST


def number_in(text: str) -> float:
    """The number that a text is, else the last one that stands in it, else 0."""
    try:
        return float(text)
    except ValueError:
        found = _NUMBER.findall(text)
        return float(found[-1]) if found else 0.0


def order_key(number: float) -> tuple[int, float]:
    """The place of a number among others, as DuckDB orders DOUBLE: NaN is the greatest."""
    return (1, 0.0) if number != number else (0, number)
