"""The order in which requests enter an engine: by priority, and depth first through their prompts' trie.

Prompts that begin alike have to be neighbours in time, or the prefix cache forgets what they share. A plain
sorted queue would not keep them so: a new batch whose texts sort first would break off the family being sent. So
the queue is swept as a disk's is: what sorts behind the last prompt sent joins the sweep, what sorts before it
waits for the next one.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import count

from halo_sql.engines.calls import Call

JOINERS = 8192  # calls that may join a sweep under way; later ones wait for the next, so that nobody waits for ever
FEW = 8  # up to this many are put in their place one by one; more are merged by sorting

_Item = tuple[str, str, int, Call]  # system, user, arrival (decides between equal texts), call


class SendQueue:
    """Calls waiting to be sent: lower priority first, in it those in order of arrival, then those in prefix order."""

    def __init__(self) -> None:
        self._levels: dict[int, _Level] = {}
        self._size = 0

    def __len__(self) -> int:
        """Calls in it that somebody waits for."""
        return self._size

    def __iter__(self) -> Iterator[Call]:
        """All of them, in no order to rely on."""
        for level in self._levels.values():
            yield from level.calls()

    def add(self, calls: Sequence[Call], priority: int, system: str | None, ordered: bool) -> None:
        """Put calls of one channel in."""
        level = self._levels.get(priority)
        if level is None:
            self._levels[priority] = level = _Level()
            self._levels = dict(sorted(self._levels.items()))
        self._size += len(calls)
        if ordered:
            level.add_sorted(calls, system or "")
        else:
            level.arrivals.extend(calls)

    def pop_many(self, limit: int) -> list[Call]:
        """Up to ``limit`` calls, in the order in which to send them; none only when the queue is empty."""
        taken: list[Call] = []
        for level in self._levels.values():
            while len(taken) < limit and (calls := level.pop_many(limit - len(taken))):
                taken += [call for call in calls if not call.dropped]
        self._size -= len(taken)
        return taken

    def put_back(self, calls: list[Call]) -> None:
        """These, just popped, cannot be sent yet: they go next, but for more urgent ones."""
        for call in reversed(calls):
            self._levels[call.channel.spec.priority].arrivals.appendleft(call)
        self._size += len(calls)

    def drop(self, call: Call) -> None:
        """Nobody waits for this call (that is in the queue) any more."""
        call.dropped = True
        self._size -= 1


class _Level:
    """The calls of one priority."""

    def __init__(self) -> None:
        self.arrivals: deque[Call] = deque()
        self._sweep: list[_Item] = []  # sorted; sent up to _at
        self._at = 0
        self._last: _Item | None = None  # the last one sent of this sweep
        self._later: list[_Item] = []
        self._joined = 0
        self._numbers = count()

    def calls(self) -> Iterator[Call]:
        yield from self.arrivals
        yield from (item[3] for item in self._sweep[self._at :])
        yield from (item[3] for item in self._later)

    def add_sorted(self, calls: Sequence[Call], system: str) -> None:
        numbers = self._numbers
        items: list[_Item] = [(system, call.user, next(numbers), call) for call in calls]
        if not self._sweep or self._joined > JOINERS:
            self._later += items
            return
        items.sort()
        cut = bisect_left(items, self._last) if self._last is not None else 0
        self._later += items[:cut]
        self._joined += len(items) - cut
        if len(items) - cut <= FEW:
            for item in items[cut:]:
                insort(self._sweep, item, lo=self._at)
        else:
            self._sweep[: self._at] = []
            self._at = 0
            self._sweep += items[cut:]
            self._sweep.sort()  # two sorted runs: a merge

    def pop_many(self, limit: int) -> list[Call]:
        """Some of the next calls, up to ``limit``; none only when there are none."""
        if self.arrivals:
            return [self.arrivals.popleft() for _ in range(min(limit, len(self.arrivals)))]
        if not self._sweep:
            if not self._later:
                return []
            self._sweep, self._later = self._later, []
            self._sweep.sort()
            self._joined = 0
        items = self._sweep[self._at : self._at + limit]
        self._at += len(items)
        self._last = items[-1]
        if self._at == len(self._sweep):  # the sweep is over
            self._sweep, self._at, self._last = [], 0, None
        return [item[3] for item in items]
