"""Where a cascade may trust its proxy: two thresholds on the proxy's scores, from a sample of the model's answers.

Rows are drawn independently and uniformly, with replacement. So the draws among the rows kept by the model, and those
among the rows with at least some score, are Bernoulli trials, whose rates the exact binomial bound of Clopper and
Pearson (Biometrika 1934) limits. Several thresholds are tried on one sample; neither target pays for it twice:

- Recall falls as the lower threshold rises. A wrong choice passes the lowest threshold that is wrong, and one test at
  level δ decides on that (SUPG: Kang et al., VLDB 2020, section 5).
- Precision may rise and fall. The candidates are set by the scores alone, before any answer is known, and are tested
  from the highest down until the first that fails: fixed-sequence testing, where all tests together err with
  probability at most δ (Maurer, Hothorn and Lehmacher, 1995; Angelopoulos et al., "Learn then Test", 2021).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from math import exp, inf, log, log1p

from halo_sql.ir.cascade import MISS_CHANCE, least_draws

#: Part of the rows between two candidates for the upper threshold.
STEP = 0.02


@dataclass(frozen=True, slots=True)
class Cut:
    """Scores of at least ``accept`` are TRUE, those below ``reject`` FALSE; the model decides on the others."""

    accept: float = inf
    reject: float = -inf

    def verdict(self, score: float | None) -> bool | None:
        """What the proxy decides; None: the model is to be asked."""
        if score is None or self.reject <= score < self.accept:
            return None
        return score >= self.accept


NOTHING = Cut()


def allowed_misses(draws: int, quality: float, level: float) -> int:
    """The most misses in so many draws that still show a rate above ``quality``: P(Bin(n, 1 - q) ≤ misses) ≤ level.
    -1: not even none does."""
    if draws <= 0:
        return -1
    odds = log1p(-quality) - log(quality)
    chance = draws * log(quality)
    total, misses = exp(chance), -1
    while total <= level and misses < draws:
        misses += 1
        chance += log(draws - misses) - log(misses + 1) + odds if misses < draws else -inf
        total += exp(chance)
    return misses


def choose_cut(
    scores: Sequence[float | None],
    rows: Sequence[int],
    draws: Sequence[int],
    kept: Mapping[int, bool],
    quality: float,
    chance: float = MISS_CHANCE,
) -> Cut:
    """Thresholds with which precision and recall are both at least ``quality``, but for the given chance.

    scores  per prompt the proxy's score; None: it has none, the model decides
    rows    per prompt the rows that ask it
    draws   prompts of the rows drawn
    kept    prompt drawn -> whether the model keeps it

    Precision is bounded for the rows that the proxy accepts, recall for those at or above the lower threshold; rows
    that the model decides on only add to both. Among cuts that leave nothing to the model the one that loses least is
    taken.
    """
    level = chance / 2
    known = [inf if score is None else score for score in scores]
    found = sorted(known[place] for place in draws if kept[place])
    allowed = allowed_misses(len(found), quality, level)
    safest, lowest = (-inf, -inf) if allowed < 0 else (found[0], found[allowed])
    passed = _precise(scores, rows, draws, kept, quality, level)
    for bound in (safest, lowest):
        below = [score for score in passed if score <= bound]
        if below:
            return Cut(below[0], below[0])
    return Cut(passed[-1] if passed else inf, lowest)


def _precise(
    scores: Sequence[float | None],
    rows: Sequence[int],
    draws: Sequence[int],
    kept: Mapping[int, bool],
    quality: float,
    level: float,
) -> list[float]:
    """The candidates that passed, from the highest down."""
    drawn: dict[float, list[bool]] = {}
    for place in draws:
        score = scores[place]
        if score is not None:
            drawn.setdefault(score, []).append(kept[place])
    passed: list[float] = []
    trials = misses = 0
    for score, wanted in _candidates(scores, rows, len(draws), quality):
        answers = drawn.get(score, ())
        trials += len(answers)
        misses += sum(not answer for answer in answers)
        if not wanted:
            continue
        if misses > allowed_misses(trials, quality, level):
            break
        passed.append(score)
    return passed


def _candidates(
    scores: Sequence[float | None], rows: Sequence[int], draws: int, quality: float
) -> list[tuple[float, bool]]:
    """All scores from the highest down, and which of them are candidates: the first has half again as many draws above
    it as the least that can show anything, the others follow in steps. No answer has a part in it."""
    known = sorted(((score, rows[place]) for place, score in enumerate(scores) if score is not None), reverse=True)
    total = sum(rows)
    mark = 1.5 * least_draws(quality) * total / max(1, draws)
    above = 0
    found = []
    for score, group in groupby(known, key=lambda item: item[0]):
        above += sum(count for _, count in group)
        found.append((score, above >= mark))
        if above >= mark:
            mark = above + STEP * total
    return found
