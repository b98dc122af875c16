"""The window of servers that tell nothing of their queues, against simulated ones on a virtual clock."""

from __future__ import annotations

import random
from collections.abc import Callable
from statistics import median

import pytest
from hypothesis import given
from hypothesis import strategies as st

from halo_sql.engines.hosted_window import HostedWindow, Sent

MOST = 64
FIRST_TOK = 10  # of work before the first token of an answer

#: (requests in flight) -> work of each that is done per second, in the order in which they were sent
Serve = Callable[[int], list[float]]
Lengths = Callable[[random.Random], int]

LENGTHS: dict[str, Lengths] = {
    "equal": lambda chance: 50,
    "any": lambda chance: chance.randint(1, 200),
    "few long": lambda chance: int(chance.lognormvariate(4, 1)) + 1,
    "of two kinds": lambda chance: chance.choice((1, 1, 1, 400)),
}


def slots(count: int) -> Serve:
    """One after the other at each of ``count`` slots, in order."""
    return lambda requests: [float(place < count) for place in range(requests)]


def sharing(count: int) -> Serve:
    """Up to ``count`` at full speed, more share it."""
    return lambda requests: [min(1.0, count / requests)] * requests


def batching(half: int) -> Serve:
    """Steps of one batch that take twice as long with ``half`` requests as with none."""
    return lambda requests: [1 / (1 + requests / half)] * requests


class Simulation:
    """A server that always has more to be asked, and the window before it.

    limits  after each answer, with its second
    jitter  standard deviation of the logarithm of an answer's seconds, whatever its length
    refuse  (second, requests in flight) -> whether the next one is refused; the server then asks for a pause
    """

    def __init__(
        self,
        window: HostedWindow,
        serve: Serve,
        lengths: Lengths = LENGTHS["any"],
        refuse: Callable[[float, int], bool] = lambda now_s, requests: False,
        tells_tok: bool = True,
        jitter: float = 0.0,
    ) -> None:
        self.window = window
        self.serve = serve
        self.lengths = lengths
        self.refuse = refuse
        self.tells_tok = tells_tok
        self.jitter = jitter
        self.now_s = self.paused_s = 0.0
        self.limits: list[tuple[float, int]] = []
        self.refusals = 0
        self._chance = random.Random(5)
        self._flight: list[tuple[list[float], Sent, int]] = []  # work left, as sent, tokens

    def run(self, answers: int) -> float:
        """Answers per second."""
        began_s, wanted = self.now_s, len(self.limits) + answers
        while len(self.limits) < wanted:
            self._send()
            rates = self.serve(len(self._flight))
            step_s = min(
                (left[0] / rate for (left, _, _), rate in zip(self._flight, rates, strict=True) if rate), default=9
            )
            if self.now_s < self.paused_s:
                step_s = min(step_s, self.paused_s - self.now_s)
            self.now_s += step_s
            for (left, _, _), rate in zip(self._flight, rates, strict=True):
                left[0] -= rate * step_s
            done = [item for item in self._flight if item[0][0] <= 1e-9]
            self._flight = [item for item in self._flight if item[0][0] > 1e-9]
            for _, sent, tok in done:
                self.window.answered(sent, self.now_s, *((100, tok) if self.tells_tok else ()))
                self.limits.append((self.now_s, self.window.limit))
        return answers / (self.now_s - began_s)

    def _send(self) -> None:
        while self.now_s >= self.paused_s and len(self._flight) < self.window.limit:
            sent = self.window.sent(self.now_s)
            if self.refuse(self.now_s, len(self._flight)):
                self.refusals += 1
                self.window.refused(sent, self.now_s)
                self.paused_s = self.now_s + 20
                return
            tok = self.lengths(self._chance)
            work = (FIRST_TOK + tok) * self._chance.lognormvariate(0, self.jitter)
            self._flight.append(([work], sent, tok))

    def usual(self, since: int = 3000) -> float:
        """The median of the limits from the ``since``-th answer on."""
        return median(limit for _, limit in self.limits[since:])


class Fixed(HostedWindow):
    """A window that stays as it is."""

    def _judge(self, sample: object) -> None:
        pass


@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("server", [slots, sharing])
@pytest.mark.parametrize("count", [1, 8, 30])
def test_a_server_that_queues_is_not_flooded(server: Callable[[int], Serve], count: int, lengths: str) -> None:
    flooded = Simulation(Fixed(MOST), server(count), LENGTHS[lengths]).run(6000)
    found = Simulation(HostedWindow(MOST), server(count), LENGTHS[lengths])
    assert found.run(6000) >= 0.9 * flooded
    assert 0.6 * count <= found.usual() <= 1.5 * count + 3


@pytest.mark.parametrize("lengths", LENGTHS)
def test_a_server_that_scales_has_the_whole_window(lengths: str) -> None:
    most = Simulation(Fixed(MOST), sharing(1000), LENGTHS[lengths]).run(6000)
    found = Simulation(HostedWindow(MOST), sharing(1000), LENGTHS[lengths])
    assert found.run(6000) >= 0.96 * most
    assert found.usual() == MOST
    assert min(limit for _, limit in found.limits) >= MOST / 1.5


def test_latencies_that_jump_do_not_starve_a_server_that_scales() -> None:
    for jitter, share in ((0.3, 0.95), (0.7, 0.75)):
        most = Simulation(Fixed(MOST), sharing(1000), jitter=jitter).run(8000)
        found = Simulation(HostedWindow(MOST), sharing(1000), jitter=jitter)
        assert found.run(8000) >= share * most
        assert found.usual() == MOST
    found = Simulation(HostedWindow(MOST), slots(8), jitter=0.7)
    found.run(8000)
    assert 5 <= found.usual() <= 19


def test_more_are_sent_while_throughput_rises_with_them() -> None:
    most = Simulation(Fixed(MOST), batching(16)).run(6000)  # four times as slow at the limit, and still gaining
    found = Simulation(HostedWindow(MOST), batching(16))
    assert found.run(6000) >= 0.85 * most
    assert found.usual() >= 20
    found = Simulation(HostedWindow(MOST), batching(4))  # where a half of the throughput is had with four
    assert found.run(6000) >= 0.65 * Simulation(Fixed(MOST), batching(4)).run(6000)
    assert 4 <= found.usual() <= 20


def test_a_server_that_gets_more_slots_gets_more_requests_within_few_round_trips() -> None:
    found = Simulation(HostedWindow(MOST), slots(4))
    found.run(3000)
    assert found.limits[-1][1] <= 9
    found.serve = slots(1000)
    answers = 1500
    found.run(answers)
    assert max(limit for _, limit in found.limits[-answers:]) == MOST
    found.serve = slots(4)
    found.run(3000)
    assert found.usual(len(found.limits) - 1000) <= 9


def test_without_token_counts_requests_are_compared() -> None:
    found = Simulation(HostedWindow(MOST), slots(8), tells_tok=False)
    found.run(6000)
    assert 5 <= found.usual() <= 13


def test_a_statement_with_longer_answers_is_no_slower_server() -> None:
    found = Simulation(HostedWindow(MOST), sharing(1000), lambda chance: 1)
    found.run(1000)
    found.lengths = lambda chance: 900
    found.run(1000)
    found.lengths = lambda chance: 30
    found.run(1000)
    assert min(limit for _, limit in found.limits) >= MOST / 1.5
    assert found.usual(0) == MOST


def test_a_burst_of_refusals_is_recovered_from() -> None:
    found = Simulation(HostedWindow(MOST), sharing(1000), refuse=lambda now_s, requests: 1000 <= now_s < 1100)
    found.run(6000)
    assert found.refusals == found.window.cuts >= 2
    least_s, least = min(found.limits, key=lambda item: item[1])
    assert least <= MOST / 4
    back_s = next(now_s for now_s, limit in found.limits if now_s > least_s and limit == MOST)
    assert back_s - least_s < 20 * 200  # at most twenty of the longest answers
    assert found.usual(len(found.limits) - 500) == MOST


def test_a_server_that_refuses_from_a_number_on_is_kept_busy_below_it() -> None:
    most = Simulation(Fixed(16), sharing(1000)).run(4000)
    found = Simulation(HostedWindow(MOST), sharing(1000), refuse=lambda now_s, requests: requests >= 16)
    assert found.run(4000) >= 0.5 * most
    assert found.refusals <= 0.02 * 4000


def test_an_overload_costs_less_than_a_refusal_and_one_round_one_cut() -> None:
    window = HostedWindow(MOST)
    sent = [window.sent(0.0) for _ in range(MOST)]
    window.overloaded(sent[0], 1.0)
    assert (window.limit, window.cuts) == (48, 1)
    for each in sent[1:30]:
        window.overloaded(each, 1.5)  # they were on their way when it was cut
    assert (window.limit, window.cuts, window.in_flight) == (48, 1, 34)
    window.overloaded(window.sent(2.0), 3.0)
    assert (window.limit, window.cuts) == (int(0.75 * 35), 2)
    for each in sent[30:]:
        window.answered(each, 4.0)
    window.refused(window.sent(5.0), 6.0)
    assert (window.limit, window.cuts) == (1, 3)  # there was but one


@given(
    st.lists(
        st.tuples(st.sampled_from(["answered", "ended", "refused", "overloaded"]), st.integers(0, 99), st.floats(0, 9))
    ),
    st.integers(1, 9),
)
def test_the_limit_is_never_below_one_nor_above_the_bound(ends: list[tuple[str, int, float]], most: int) -> None:
    window = HostedWindow(most)
    flight: list[Sent] = []
    now_s = 0.0
    for way, place, seconds in ends:
        flight += [window.sent(now_s) for _ in range(window.limit - len(flight))]
        now_s += seconds
        sent = flight.pop(place % len(flight))
        if way == "ended":
            window.ended(now_s)
        else:
            getattr(window, way)(sent, now_s)
        assert 1 <= window.limit <= most
        assert window.in_flight == len(flight)
