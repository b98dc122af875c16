"""Scores as texts: the probability that a yes / no answer is yes, a decimal in 0 … 1."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_WORDS = {"true": "1.0", "t": "1.0", "yes": "1.0", "y": "1.0", "false": "0.0", "f": "0.0", "no": "0.0", "n": "0.0"}


def read_score(text: str) -> str | None:
    """A text that says a number in 0 … 1, as it is; one that says true or false, as 1.0 or 0.0; else None.

    White space around it and upper case are ignored.
    """
    bare = text.strip()
    if _NUMBER.fullmatch(bare):
        return text if 0.0 <= float(bare) <= 1.0 else None
    return _WORDS.get(bare.lower())


def score(yes: Sequence[float], no: Sequence[float]) -> str | None:
    """P(yes) / (P(yes) + P(no)) of log-probabilities of the spellings of each; None when neither has any."""
    log_yes, log_no = _total(yes), _total(no)
    if log_yes == log_no == -math.inf:
        return None
    if log_yes >= log_no:
        return repr(1.0 / (1.0 + math.exp(log_no - log_yes)))
    ratio = math.exp(log_yes - log_no)
    return repr(ratio / (1.0 + ratio))


def _total(logs: Sequence[float]) -> float:
    """log(Σ exp)."""
    top = max(logs, default=-math.inf)
    return top if math.isinf(top) else top + math.log(sum(math.exp(value - top) for value in logs))


def side(token: str) -> str:
    """'yes' or 'no' for a token that spells it (case, white space and quotes around it ignored); '' for any other."""
    bare = token.strip(" \t\r\n\"'`*.,:;!▁Ġ").lower()
    return bare if bare in ("yes", "no") else ""
