"""The queue before an engine and the window in flight on it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from halo_sql.engines.calls import Call
from halo_sql.engines.dispatch import output_bound
from halo_sql.engines.protocol import YES_NO, ChannelSpec, Gauges, GenResult, Limit
from halo_sql.engines.send_queue import SendQueue
from halo_sql.engines.window import Window
from halo_sql.ir.prompt import Sampling

from .helpers import LocalEngine


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


# --- following an engine's reports


def full(window: Window, tok: int = 100) -> None:
    """Send until nothing more fits."""
    window.usual_tok = tok
    while window.fits(tok):
        window.used_tok += tok
        window.used_requests += 1


def test_a_preemption_shrinks_the_room_and_reports_of_room_bring_it_back() -> None:
    window = Window(10_000, 64, 10_000, 32, shares=False)
    full(window)
    assert window.used_requests == 64
    window.on_gauges(Gauges(0.99, 32, 0, 5), 100)  # the first report: what was before is nobody's fault
    assert window.limit_tok >= 10_000
    window.on_gauges(Gauges(0.99, 32, 0, 6), 100)
    shrunk = window.limit_tok
    assert shrunk == int(0.75 * 6_400)
    report = Gauges(0.99, 32, 0, 6)
    for _ in range(9):
        window.on_gauges(report, 100)  # the cache is full: it stays as it is
    assert window.limit_tok == shrunk
    full(window)
    for _ in range(40):
        window.on_gauges(Gauges(0.5, 20, 0, 6), 100)
        full(window)
    assert shrunk < window.limit_tok <= 40_000


def test_room_grows_only_while_calls_wait_for_it() -> None:
    for backlog, grows in ((0, False), (50, True)):
        window = Window(1_000, 64, 1_000, 32, shares=False)
        full(window)
        assert window.used_requests == 10
        for _ in range(30):
            window.on_gauges(Gauges(0.3, 10, 0, 0), backlog)
            full(window)
        assert (window.used_requests > 10) is grows
        assert window.limit_tok <= 4_000


def test_what_waits_in_the_engine_is_kept_small_and_the_engine_busy() -> None:
    window = Window(1_000_000, 512, 1_000_000, 256, shares=False)
    full(window)
    assert window.used_requests == 512
    window.on_gauges(Gauges(0.4, 256, 256, 0), 1_000)
    assert window.limit_requests == 320  # a batch and a quarter
    for _ in range(5):
        window.on_gauges(Gauges(0.4, 40, 200, 0), 1_000)  # however few run just now
    assert window.limit_requests == 256
    window.used_requests = 256
    for _ in range(9):
        window.on_gauges(Gauges(0.4, 256, 0, 0), 1_000)
        window.used_requests = window.limit_requests
    assert window.limit_requests == 512


def test_an_engine_that_finds_out_its_limit_is_sent_no_more() -> None:
    engine = LocalEngine()
    window = Window(1_000_000, 64)
    for limit, allowed in ((Limit(9, 64, 0, 0), 9), (Limit(9, 64, 3, 1), 12), (Limit(100, 100, 0, 1), 64)):
        engine.limit = lambda limit=limit: limit  # type: ignore[attr-defined]
        window.follow(engine, 100)
        window.used_tok = window.used_requests = 0
        full(window)
        assert window.used_requests == allowed


@given(
    st.lists(
        st.tuples(st.floats(0, 1), st.integers(0, 64), st.integers(0, 200), st.integers(0, 9), st.integers(0, 50)),
        max_size=40,
    ),
    st.integers(1, 400),
)
def test_something_may_always_be_sent(reports: list[tuple[float, int, int, int, int]], tok: int) -> None:
    window = Window(2_000, 64, 2_000, 32, shares=False)
    for kv_used, running, waiting, preempted, backlog in reports:
        full(window, tok)
        window.on_gauges(Gauges(kv_used, running, waiting, preempted), backlog)
        assert tok <= window.limit_tok <= 8_000 or window.limit_tok == tok
        assert 32 <= window.limit_requests <= 64
        window.used_tok = window.used_requests = 0
        assert window.fits(tok)


@given(st.integers(1, 400), st.integers(1, 64))
def test_the_room_finds_what_the_engine_takes(tok: int, batch: int) -> None:
    """An engine that computes ``batch`` requests, whose answers are a quarter of what they may be, is kept full."""
    capacity = 8_000
    window = Window(capacity, 2 * batch, capacity, batch, shares=False)
    most = min(batch, 4 * capacity // tok)  # by what they may take, a quarter of it is taken
    for _ in range(60):
        full(window, tok)
        running = min(most, window.used_requests)
        window.on_gauges(Gauges(running * tok / 4 / capacity, running, window.used_requests - running, 0), 1_000)
    full(window, tok)
    assert window.used_requests >= 0.7 * most
