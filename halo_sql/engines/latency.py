"""How long calls took, as a sketch that quantiles can be asked of.

Counts in buckets that grow by a constant factor: a quantile is within 9 % of the true one, whatever the distribution,
and sketches are merged by adding counts (DDSketch: Masson, Rim and Lee, PVLDB 12(12), 2019). Counts that are scaled
down as newer ones come make the quantiles moving ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil, log

GROWTH = 1.2
LEAST_S = 1e-6
_LOG = log(GROWTH)


def bucket(seconds: float) -> int:
    """The bucket of a duration: the i with ``GROWTH ** (i - 1) < seconds <= GROWTH ** i``."""
    return ceil(log(max(seconds, LEAST_S)) / _LOG)


def quantile(counts: Mapping[int, float], share: float) -> float | None:
    """Seconds that the given share (0 … 1) of the calls stay below; None without calls."""
    total = sum(counts.values())
    if not total:
        return None
    left = share * total
    place = min(counts)
    for place in sorted(counts):
        left -= counts[place]
        if left <= 0:
            break
    return float(2 * GROWTH**place / (GROWTH + 1))
