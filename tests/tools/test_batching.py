"""The size of the queries that a tool's calls become."""

from __future__ import annotations

import pytest

from halo_sql.tools.batching import AT_ONCE, BATCH_S, FIRST, BatchSize


def rounds(calls: int, query_s: float, call_s: float) -> list[tuple[int, float]]:
    """Calls and seconds of each query until all are made."""
    size, left, found = BatchSize(), calls, []
    while left:
        count = min(left, size.most)
        found.append((count, query_s + count * call_s))
        size.took(*found[-1])
        size.ended()
        left -= count
    return found


@pytest.mark.parametrize(("query_s", "call_s"), [(0.0005, 1e-6), (0.001, 1e-4)])
def test_quick_look_ups_are_one_query_nearly(query_s: float, call_s: float) -> None:
    made = rounds(2_000, query_s, call_s)
    assert made[0][0] == FIRST
    assert len(made) <= 5
    assert made[-1][1] < 2 * BATCH_S


def test_dear_calls_give_their_first_values_soon() -> None:
    """25 ms a call, 100 ms to read the tables: 185 calls as one query take 4.7 s before the first value."""
    made = rounds(185, 0.1, 0.025)
    assert made[0][1] < 0.31
    assert max(seconds for _, seconds in made) < 0.7
    assert sum(seconds for _, seconds in made) < 1.35 * (0.1 + 185 * 0.025)


def test_a_query_whose_own_part_is_dear_is_made_few_times() -> None:
    made = rounds(1_000, 1.0, 1e-4)
    assert len(made) == 3
    assert made[-1][0] == 1_000 - FIRST - 2 * FIRST


def test_what_changes_is_followed() -> None:
    size = BatchSize()
    for _ in range(12):
        size.took(size.most, 0.05 + 0.01 * size.most)
    before = size.most
    for _ in range(12):
        size.took(size.most, 0.05 + 0.04 * size.most)
    assert 0.15 * before < size.most < 0.5 * before


def test_calls_made_one_by_one_do_not_pile_up() -> None:
    size = BatchSize()
    for _ in range(FIRST):
        size.took(1, 0.3)
    size.ended()
    assert size.most == 2


def test_nothing_told_doubles_and_time_outs_divide() -> None:
    size = BatchSize()
    for _ in range(20):
        size.ended()
    assert size.most == AT_ONCE
    size.timed_out(AT_ONCE)
    assert size.most == AT_ONCE // 64
