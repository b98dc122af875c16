"""The queue before an engine and the window in flight on it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from halo_sql.engines.calls import Call
from halo_sql.engines.dispatch import output_bound
from halo_sql.engines.protocol import YES_NO, ChannelSpec, GenResult
from halo_sql.engines.send_queue import SendQueue
from halo_sql.engines.window import Window
from halo_sql.ir.prompt import Sampling


def queued(users: Sequence[str]) -> list[Call]:
    return [Call(None, number, user, None) for number, user in enumerate(users)]  # type: ignore[arg-type]


@given(st.lists(st.tuples(st.lists(st.text("ab", max_size=4)), st.integers(0, 20))), st.booleans())
def test_queue_gives_everything_once_in_sweeps(steps: list[tuple[list[str], int]], drop: bool) -> None:
    queue, put, got = SendQueue(), [], []
    for users, take in steps:
        calls = queued(users)
        put += calls
        queue.add(calls, 0, None, True)
        if drop and calls:
            queue.drop(calls[0])
            put.remove(calls[0])
        got += queue.pop_many(take)
        assert len(queue) == len(put) - len(got)
    got += queue.pop_many(len(queue))
    assert sorted(map(id, got)) == sorted(map(id, put))
    sweeps = 1 + sum(left.user > right.user for left, right in pairwise(got))
    assert sweeps <= len(steps) + 1


def test_a_sweep_is_not_broken_off_and_not_endless() -> None:
    queue = SendQueue()
    queue.add(queued(["m1", "m2", "m3", "m4"]), 0, None, True)
    assert [call.user for call in queue.pop_many(2)] == ["m1", "m2"]
    queue.add(queued(["a", "m25", "z"]), 0, None, True)
    assert [call.user for call in queue.pop_many(9)] == ["m25", "m3", "m4", "z", "a"]
    queue.add(queued(["b", "c", "d"]), 0, None, True)
    queue.pop_many(1)
    queue.add(queued(["a"]), 0, None, True)
    taken = 0
    while queue.pop_many(1)[0].user != "a":
        queue.add(queued([f"n{taken:09}"]), 0, None, True)
        taken += 1
    assert 8000 < taken < 9000


def test_window_learns_from_results() -> None:
    window = Window(1000, 10, 3000)
    assert window.estimate(400) == 101
    for _ in range(200):
        window.on_result(400, GenResult(1, "x", "stop", 200, 0, 1))
    assert 190 <= window.estimate(400) <= 202
    assert window.limit_tok == 1000
    for _ in range(500):
        window.on_result(400, GenResult(1, "x", "stop", 200, 190, 1))
    assert window.limit_tok == 3000
    for _ in range(500):
        window.on_result(400, GenResult(1, "x", "stop", 200, 0, 1))
    assert window.limit_tok in range(1000, 1010)
    assert output_bound(ChannelSpec("m", None, Sampling(), YES_NO)) == 4
    assert output_bound(ChannelSpec("m", None, Sampling(max_tokens=7))) == 7
