"""How many requests a server takes at once, by what comes of them: for servers that tell nothing of their queues.

Pure: whoever uses it tells the seconds of a clock.
"""

from __future__ import annotations

import math
from typing import NamedTuple

STEP = 1.5  # between two limits that are compared
WORTH = 0.3  # share of a proportional gain in throughput from which on more in flight are worth it
FEWEST = 32  # answers that tell how fast a server is at a limit, at least
FULL = 0.8  # of the limit: an answer with fewer in flight on the average tells nothing of it
ALIKE = 0.5  # share of two samples' answers that must be of equal sizes, to be compared
CHANGED = 1.5  # times as slow, or as fast, from which on the server is another one
SURE = 1.0  # standard errors by which a trial's outcome is clear
MOST_SAMPLES = 6  # in one, where it is not
LEAST_S = 1e-6  # of a sample
LEAST_REST, MOST_REST = 4, 16  # samples between trials
REST_AT_MOST = 64  # where the limit is the largest there may be: only a trial of fewer is left, which costs throughput
REFUSED, OVERLOADED = 0.5, 0.75  # what is left of the limit at a refusal (429), an overload (5xx, no answer in time)

Size = tuple[int, int]


class Sent(NamedTuple):
    """A request as it was sent: when, and what ``HostedWindow`` had counted by then, requests in flight × seconds."""

    at_s: float
    flight_s: float


class Sample:
    """Latencies of answers at one limit, by the size of prompt and answer.

    count      of the answers
    in_flight  requests beside them, themselves included, on the average
    """

    def __init__(self) -> None:
        self.count = 0
        self._in_flight = 0.0
        self._by_size: dict[Size, tuple[int, float, float]] = {}  # size -> answers, their seconds, squares of these

    @property
    def in_flight(self) -> float:
        """See above."""
        return self._in_flight / self.count

    def add(self, size: Size, seconds: float, in_flight: float) -> None:
        """An answer."""
        count, total, squares = self._by_size.get(size, (0, 0.0, 0.0))
        self._by_size[size] = count + 1, total + seconds, squares + seconds * seconds
        self.count += 1
        self._in_flight += in_flight

    def merge(self, other: Sample) -> None:
        """Answers at the same limit."""
        for size, theirs in other._by_size.items():
            mine = self._by_size.get(size, (0, 0.0, 0.0))
            self._by_size[size] = mine[0] + theirs[0], mine[1] + theirs[1], mine[2] + theirs[2]
        self.count += other.count
        self._in_flight += other._in_flight

    def times(self, other: Sample) -> tuple[float, float] | None:
        """How many times as long as there the same mix of answers takes here, of the sizes that both have, and the
        relative standard error of that; None when they have too little in common."""
        shared, seconds, other_seconds = 0, LEAST_S, LEAST_S
        for size, (count, total, _) in self._by_size.items():
            if size in other._by_size:
                other_count, other_total, _ = other._by_size[size]
                weight = min(count, other_count)
                shared += weight
                seconds += weight * total / count
                other_seconds += weight * other_total / other_count
        if shared < ALIKE * min(self.count, other.count):
            return None
        return seconds / other_seconds, math.sqrt(self._spread() / self.count + other._spread() / other.count)

    def _spread(self) -> float:
        """Variance of the seconds of answers of a size ÷ square of their mean."""
        found, free = 0.0, 0
        for count, total, squares in self._by_size.values():
            if count > 1 and total > 0:
                found += max(0.0, squares * count / total - total) * count / total
                free += count - 1
        return found / free if free else 0.0


class HostedWindow:
    """The limit of requests in flight at one server, between 1 and ``most``, where it begins.

    Two things move it.

    **Trials.** A sample of answers at the limit is compared with one at a limit 1.5 times as small or as large. Of
    requests in flight and seconds of an answer of equal size follows the throughput (J. Little, 1961), so lengths that
    vary are nothing that counts. The larger limit is kept when its throughput is higher by at least 30 % of what
    would be proportional; where the standard error leaves that in doubt, the sample grows to six times its size, and
    the smaller limit is kept only if it is clear by then. After a step that is kept the next one in that direction is
    tried; after one that is not, it rests for 4, 8, … 64 samples and tries the other. It rests no longer when answers
    come 1.5 times as slow or fast as when it began to.

    This is hill climbing (as in J. Hellerstein, V. Morrison, E. Eilebrecht, "Applying Control Theory in the Real World:
    Experience with Building a Controller for the .NET Thread Pool", 2010) on the measure of TCP Vegas (L. Brakmo, L.
    Peterson, 1994): the throughput that more in flight should give, and does give. Nothing is compared with the least
    latency ever seen: what a statement asks next may take longer by nature.

    **Refusals.** A 429 halves it, or what the server took since the refusal before; an overload (502, 503, 504, a time
    out, no connection) leaves three quarters. Only requests sent after a cut can cause the next one. Then it grows with
    each round of answers, by 1, 2, 3, … until it is where it was (D. Chiu and R. Jain, 1989; growth that speeds up with
    the time since the last loss: D. Leith and R. Shorten, "H-TCP", 2004).

    cuts       so far
    in_flight  requests now
    """

    def __init__(self, most: int) -> None:
        self.most = self.limit = most
        self.cuts = 0
        self.in_flight = 0
        self._flight_s = 0.0  # requests in flight × seconds
        self._now_s = 0.0  # of its last change
        self._passed = 0  # answers since the last cut
        self._since_s: float | None = (
            None  # requests sent before tell of another limit; None: no answer since the change
        )
        self._cut_s = -math.inf
        self._until = 0  # limit at which the growth after a cut ends
        self._rounds = 0  # of this growth
        self._round = 0  # answers of its round so far
        self._sample = Sample()  # at this limit
        self._reference = Sample()  # of the limit that a trial left, or at which it rests
        self._left: int | None = None  # the limit that a trial left; None: none is under way
        self._up = False  # the direction of trials
        self._rest = 0  # samples to the next one
        self._patience = LEAST_REST

    def sent(self, now_s: float) -> Sent:
        """A request is sent; each ends with one of the calls below."""
        self._change(+1, now_s)
        return Sent(now_s, self._flight_s)

    def answered(self, sent: Sent, now_s: float, prompt_tok: int = 0, output_tok: int = 0) -> None:
        """It has its answer; 0 tokens: not told."""
        self._change(-1, now_s)
        self._passed += 1
        if self._since_s is None:
            self._since_s = now_s  # what was sent at once when there was more room did not find it taken
        seconds = now_s - sent.at_s
        if sent.at_s < self._since_s or self._flight_s - sent.flight_s < FULL * self.limit * seconds:
            return
        if self.limit < self._until:
            self._round += 1
            if self._round >= self.limit:
                self._rounds += 1
                self._set(min(self._until, self.limit + self._rounds))
            return
        in_flight = (self._flight_s - sent.flight_s) / seconds if seconds else float(self.limit)
        self._sample.add((prompt_tok.bit_length() // 2, output_tok.bit_length()), seconds, in_flight)
        if self._sample.count % self._size() == 0:
            sample, self._sample = self._sample, Sample()
            self._judge(sample)

    def ended(self, now_s: float) -> None:
        """It ends without an answer, for a reason that tells nothing of the limit."""
        self._change(-1, now_s)

    def refused(self, sent: Sent, now_s: float) -> None:
        """The server takes no more at the moment (429)."""
        self._cut(REFUSED * min(self.limit, self.in_flight, self._passed), sent, now_s)

    def overloaded(self, sent: Sent, now_s: float) -> None:
        """The server, or what stands before it, cannot keep up."""
        self._cut(OVERLOADED * min(self.limit, self.in_flight), sent, now_s)

    def _cut(self, limit: float, sent: Sent, now_s: float) -> None:
        self._change(-1, now_s)
        if sent.at_s < self._cut_s:
            return
        self.cuts += 1
        self._until = max(self._until if self.limit < self._until else 0, self.limit)
        self._cut_s, self._passed, self._rounds = now_s, 0, 0
        self._left, self._rest, self._patience, self._up = None, 0, LEAST_REST, False
        self._set(max(1, int(limit)))

    def _change(self, requests: int, now_s: float) -> None:
        self._flight_s += self.in_flight * (now_s - self._now_s)
        self._now_s = now_s
        self.in_flight += requests

    def _set(self, limit: int) -> None:
        self.limit, self._since_s, self._round = limit, None, 0
        self._sample = Sample()

    # --- trials

    def _judge(self, sample: Sample) -> None:
        """A sample is complete: end a trial, rest, or begin one."""
        if self._left is not None:
            keeps = self._keeps(sample)
            if keeps is None:  # in doubt: more of it
                self._sample = sample
            elif keeps:
                self._patience = LEAST_REST
                self._try(sample)
            else:
                self._up = not self._up
                self._settle(self._reference)
                self._set(self._left)
                self._left = None
            return
        if self._rest:
            self._rest -= 1
            found = sample.times(self._reference)
            if found is not None and max(found[0], 1 / found[0]) > CHANGED * (1 + found[1]):
                self._rest, self._patience, self._up = 0, LEAST_REST, found[0] < 1
            elif self._reference.count < MOST_SAMPLES * self._size():
                self._reference.merge(sample)
                sample = self._reference
        if not self._rest:
            self._try(sample)

    def _size(self) -> int:
        return max(FEWEST, self.limit)

    def _keeps(self, sample: Sample) -> bool | None:
        """Whether the limit that is tried is better than the one that was left; None: more answers may tell."""
        larger, smaller = (sample, self._reference) if self._up else (self._reference, sample)
        found = larger.times(smaller)
        if found is None:
            return False
        step = larger.in_flight / smaller.in_flight
        gain = math.log(step / found[0]) - WORTH * math.log(step)
        if abs(gain) < SURE * found[1]:
            if sample.count < MOST_SAMPLES * self._size():
                return None
            return self._up and gain >= 0
        return (gain >= 0) is self._up

    def _try(self, sample: Sample) -> None:
        """Go a step on; where there is no further one, rest."""
        there = min(self.most, max(self.limit + 1, int(STEP * self.limit))) if self._up else round(self.limit / STEP)
        if there in (0, self.limit):
            self._up = not self._up
            self._left = None
            if self.most > 1:
                self._settle(sample)
            return
        self._left, self._reference = self.limit, sample
        self._set(there)

    def _settle(self, reference: Sample) -> None:
        self._reference, self._rest = reference, self._patience
        longest = MOST_REST if self.limit < self.most else REST_AT_MOST
        self._patience = min(longest, 2 * self._patience)
