"""Least squares with coefficients that cannot be negative, for the few measurements of a calibration."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from math import inf, log

ROUNDS = 6  # of reweighting
LEAST_ERROR = 0.02  # relative errors below this count alike
SLOW_SHARE = 0.5  # weight of measurements that were slower than the fit: what disturbs one only ever adds time
EXACT = 1e-5  # relative error below which no further coefficient is worth having


def nonnegative(rows: Sequence[Sequence[float]], targets: Sequence[float]) -> list[float]:
    """Coefficients c >= 0 for which the relative errors (rows · c) / targets - 1 are least in sum.

    Each row has a quantity per coefficient, each target is above 0. Weighted least squares, reweighted so that the sum
    of absolute errors is what gets small (a measurement that something else disturbed hardly counts); among all
    subsets of coefficients without a negative the one that explains most for its size (Schwarz's criterion), others
    are 0. With this few coefficients that is exact. Lawson and Hanson, "Solving Least Squares Problems", 1974, state
    the problem; Schwarz, "Estimating the Dimension of a Model", 1978.
    """
    scaled = [[value / target for value in row] for row, target in zip(rows, targets, strict=True)]
    weights = [1.0] * len(scaled)
    found = [0.0] * len(scaled[0])
    for _ in range(ROUNDS):
        found = _best(scaled, weights)
        errors = [_dot(row, found) - 1.0 for row in scaled]
        weights = [(1.0 if error > 0 else SLOW_SHARE) / max(LEAST_ERROR, abs(error)) for error in errors]
    return found


def _best(rows: Sequence[Sequence[float]], weights: Sequence[float]) -> list[float]:
    """The subset of coefficients that explains most for its size, without a negative."""
    width, total = len(rows[0]), sum(weights)
    best, least = [0.0] * width, inf
    for size in range(1, width + 1):
        for chosen in combinations(range(width), size):
            part = _solve([[row[place] for place in chosen] for row in rows], weights)
            if part is None or min(part) < 0.0:
                continue
            found = [0.0] * width
            for place, value in zip(chosen, part, strict=True):
                found[place] = value
            squares = sum(weight * (_dot(row, found) - 1.0) ** 2 for row, weight in zip(rows, weights, strict=True))
            score = len(rows) * log(max(EXACT**2, squares / total)) + size * log(len(rows))
            if score < least:
                best, least = found, score
    return best


def _solve(rows: Sequence[Sequence[float]], weights: Sequence[float]) -> list[float] | None:
    """Coefficients with rows · c ≈ 1 by the normal equations; None when the columns do not tell them apart."""
    width = len(rows[0])
    sizes = [max(abs(row[place]) for row in rows) or 1.0 for place in range(width)]
    even = [[row[place] / sizes[place] for place in range(width)] for row in rows]
    weighted = list(zip(even, weights, strict=True))
    system = [
        [sum(weight * row[first] * row[second] for row, weight in weighted) for second in range(width)]
        + [sum(weight * row[first] for row, weight in weighted)]
        for first in range(width)
    ]
    for column in range(width):
        pivot = max(range(column, width), key=lambda line: abs(system[line][column]))
        if abs(system[pivot][column]) < 1e-12:
            return None
        system[column], system[pivot] = system[pivot], system[column]
        for line in range(width):
            if line != column:
                factor = system[line][column] / system[column][column]
                system[line] = [left - factor * right for left, right in zip(system[line], system[column], strict=True)]
    return [system[place][width] / system[place][place] / sizes[place] for place in range(width)]


def _dot(left: Sequence[float], right: Sequence[float]) -> float:
    return sum(one * other for one, other in zip(left, right, strict=True))
