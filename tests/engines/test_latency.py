"""Quantiles of a decaying sketch."""

from __future__ import annotations

import random

import pytest

from halo_sql.engines.experience import MEMORY, Experience
from halo_sql.engines.latency import GROWTH, bucket, quantile


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.99])
def test_quantiles_are_within_the_sketchs_error(share: float) -> None:
    rng = random.Random(7)
    seconds = sorted(rng.lognormvariate(-3, 1.5) for _ in range(5000))
    seen = Experience()
    for each in seconds:
        seen.took(1, each)
    true = seconds[int(share * len(seconds))]
    assert quantile(seen.latencies, share) == pytest.approx(true, rel=(GROWTH - 1) / (GROWTH + 1) + 0.02)


def test_nothing_seen_has_no_quantile_and_no_time_is_no_error() -> None:
    assert quantile({}, 0.5) is None
    assert quantile({bucket(0.0): 1.0}, 0.5) == pytest.approx(1e-6, rel=0.1)


def test_sketches_add_up_and_old_calls_fade() -> None:
    slow, fast = Experience(requests=MEMORY), Experience(requests=MEMORY)
    for _ in range(int(MEMORY)):
        slow.took(1, 1.0)
        fast.took(1, 0.001)
    half = Experience(requests=MEMORY / 2, timed=MEMORY / 2, latencies={bucket(0.001): MEMORY / 2})
    both = slow.merged(half)
    assert sum(both.latencies.values()) == pytest.approx(MEMORY)
    assert (quantile(both.latencies, 0.4) or 0) < 0.01 < (quantile(both.latencies, 0.6) or 0)
    assert quantile(slow.merged(fast).latencies, 0.99) == pytest.approx(0.001, rel=0.1), "MEMORY calls are newer"


def test_what_is_stored_is_read_back() -> None:
    seen = Experience(requests=3, listed=3, listed_rows=12)
    seen.took(1, 0.5)
    seen.took(40, 0.25)
    assert Experience.read(seen.text()) == seen
    for text in (
        '{"latencies": {"x": 1}}',
        '{"latencies": {"3": -1}}',
        '{"latencies": [1]}',
        '{"latencies": {"999": 1}}',
    ):
        assert Experience.read(text) is None
