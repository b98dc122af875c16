"""The statistics of cascades: exact bounds, and targets that hold over many data sets, whatever the proxy is."""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import compress
from math import comb, inf
from operator import and_

import pytest

from halo_sql.ir.cascade import least_draws, sample_draws
from halo_sql.operators.cascade_cut import NOTHING, Cut, allowed_misses, choose_cut

QUALITY = 0.9
LEVEL = 0.025


@pytest.mark.parametrize("draws", [1, 35, 36, 37, 100, 333])
@pytest.mark.parametrize("quality", [0.5, 0.9, 0.99])
def test_allowed_misses_are_those_of_the_binomial_tail(draws: int, quality: float) -> None:
    def tail(misses: int) -> float:
        return sum(comb(draws, i) * (1 - quality) ** i * quality ** (draws - i) for i in range(misses + 1))

    allowed = allowed_misses(draws, quality, LEVEL)
    assert allowed == -1 or tail(allowed) <= LEVEL
    assert tail(allowed + 1) > LEVEL


def test_the_least_draws_that_show_anything() -> None:
    for quality in (0.5, 0.8, 0.9, 0.95, 0.999):
        least = least_draws(quality)
        assert allowed_misses(least, quality, LEVEL) == 0
        assert allowed_misses(least - 1, quality, LEVEL) == -1
    assert allowed_misses(0, QUALITY, LEVEL) == -1
    assert 500 < allowed_misses(10_000, QUALITY, LEVEL) < 1000  # far beyond what a plain product can hold


def test_a_cut_decides_by_score() -> None:
    cut = Cut(accept=0.8, reject=0.3)
    assert [cut.verdict(score) for score in (0.9, 0.8, 0.5, 0.3, 0.1, None)] == [True, True, None, None, False, None]
    assert [NOTHING.verdict(score) for score in (0.0, 1.0, None)] == [None, None, None]


Proxy = Callable[[random.Random, bool], float | None]
PROXIES: dict[str, Proxy] = {
    "good": lambda rng, truth: min(1.0, max(0.0, rng.gauss(0.75 if truth else 0.25, 0.15))),
    "fair": lambda rng, truth: min(1.0, max(0.0, rng.gauss(0.6 if truth else 0.4, 0.2))),
    "borderline": lambda rng, truth: float(truth if rng.random() < 0.89 else not truth),
    "perfect": lambda rng, truth: float(truth),
    "uninformative": lambda rng, truth: rng.random(),
    "anti-correlated": lambda rng, truth: 1.0 - min(1.0, max(0.0, rng.gauss(0.75 if truth else 0.25, 0.15))),
    "constant": lambda rng, truth: 0.5,
    "wrong at the top": lambda rng, truth: 1.0 if rng.random() < 0.1 else (0.8 if truth else 0.1),
    "failing": lambda rng, truth: None if rng.random() < 0.3 else float(truth if rng.random() < 0.95 else not truth),
}


def weight(rows: list[int], one: list[bool], other: list[bool] | None = None) -> int:
    """Rows of the prompts for which the masks are true."""
    return sum(compress(rows, one if other is None else map(and_, one, other)))


def rate(part: int, whole: int) -> float:
    return part / whole if whole else 1.0


def outcome(rng: random.Random, proxy: Proxy, share: float, size: int) -> tuple[bool, bool, float]:
    """For one data set: whether precision or recall of the result is below the target; whether that of the proxy's
    own decisions is, with the sample's answers left aside (what the bounds are about); the part that the model was
    asked."""
    truth = [rng.random() < share for _ in range(size)]
    rows = rng.choices((1, 1, 1, 2, 5), k=size)
    scores = [proxy(rng, wanted) for wanted in truth]
    draws = rng.choices(range(size), rows, k=sample_draws(QUALITY, share))
    cut = choose_cut(scores, rows, draws, {place: truth[place] for place in draws}, QUALITY)
    drawn = set(draws)
    said = [cut.verdict(score) for score in scores]
    asked = [place in drawn or verdict is None for place, verdict in enumerate(said)]
    kept = [true if model else bool(verdict) for true, model, verdict in zip(truth, asked, said, strict=True)]
    both = weight(rows, kept, truth)
    missed = min(rate(both, weight(rows, kept)), rate(both, weight(rows, truth))) < QUALITY
    accepted, left = [verdict is True for verdict in said], [verdict is not False for verdict in said]
    precision = rate(weight(rows, accepted, truth), weight(rows, accepted))
    recall = rate(weight(rows, left, truth), weight(rows, truth))
    return missed, min(precision, recall) < QUALITY, sum(asked) / size


@pytest.mark.parametrize("name", list(PROXIES))
@pytest.mark.parametrize(("share", "size"), [(0.5, 700), (0.3, 900), (0.1, 1500)])
def test_targets_are_missed_as_seldom_as_promised(name: str, share: float, size: int) -> None:
    rng = random.Random(f"{name} {share}")
    runs = [outcome(rng, PROXIES[name], share, size) for _ in range(300)]
    allowed = 0.05 * len(runs) + 3 * (0.05 * 0.95 * len(runs)) ** 0.5  # three standard deviations
    assert sum(missed for missed, _, _ in runs) <= allowed
    assert sum(missed for _, missed, _ in runs) <= allowed
    asked = sum(part for _, _, part in runs) / len(runs)
    if name in ("good", "perfect"):
        assert asked < 0.6
    if name in ("uninformative", "anti-correlated", "constant"):
        assert asked > 0.85


def test_the_bounds_are_used_to_the_full() -> None:
    """A proxy just below the target is nearly always refused, and is not once the bounds are loosened."""

    def accepted(chance: float) -> int:
        rng, found = random.Random(5), 0
        for _ in range(200):
            truth = [rng.random() < 0.5 for _ in range(800)]
            scores: list[float | None] = [float(true if rng.random() < 0.88 else not true) for true in truth]
            draws = rng.choices(range(800), k=sample_draws(QUALITY, 0.5))
            cut = choose_cut(scores, [1] * 800, draws, {place: truth[place] for place in draws}, QUALITY, chance)
            found += any(cut.verdict(score) is not None for score in (0.0, 1.0))
        return found

    assert accepted(0.05) <= 10
    assert accepted(1.0) > 20


def test_a_proxy_that_is_right_leaves_nothing_to_ask() -> None:
    scores: list[float | None] = [0.9, 0.1] * 500
    draws = list(range(240))
    cut = choose_cut(scores, [1] * 1000, draws, {place: place % 2 == 0 for place in draws}, QUALITY)
    assert cut == Cut(0.9, 0.9)


def test_nothing_is_accepted_or_rejected_without_evidence() -> None:
    scores: list[float | None] = [0.9, 0.1] * 500
    few = list(range(20))
    assert choose_cut(scores, [1] * 1000, few, {place: place % 2 == 0 for place in few}, QUALITY) == NOTHING
    draws = list(range(240))
    assert choose_cut(scores, [1] * 1000, draws, dict.fromkeys(draws, False), QUALITY) == NOTHING
    assert choose_cut([None] * 1000, [1] * 1000, draws, dict.fromkeys(draws, True), QUALITY) == Cut(inf, inf)
