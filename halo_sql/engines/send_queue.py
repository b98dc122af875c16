"""The order in which requests enter an engine: by priority, and depth first through their prompts' trie.

Prompts that begin alike have to be neighbours in time, or the prefix cache forgets what they share. A plain
sorted queue would not keep them so: a new batch whose texts sort first would break off the family being sent. So
each priority's calls are a ``Sweep``, and calls of other priorities ride along where their own turn would be too late.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence

from halo_sql.engines.calls import Call
from halo_sql.engines.prefix_cache import PrefixCache
from halo_sql.engines.sweep import JOINERS, Sweep

__all__ = ["JOINERS", "SendQueue"]

PATIENCE = 64  # calls that are sent before one of a lower priority that waits
UNEQUAL = 1.5  # answers that are so many times longer than others are begun first, at the end
TAIL_SHARE = 0.5  # of the cache that the last calls may fill together, when their order is of no use to it


class SendQueue:
    """Calls waiting to be sent: lower priority first, in it those in order of arrival, then those in prefix order.

    cache  model of the engine's prefix cache; None: nothing is known of it
    tail   calls that the engine computes at once: when no more are left, long answers are begun first; 0: never

    Where the waiting prompts do not fit the cache together, a call of a lower priority is sent behind one that it
    shares at least half of its tokens with: it delays the others by less than it would cost to compute that again.
    """

    def __init__(self, cache: PrefixCache | None = None, tail: int = 0) -> None:
        self._levels: dict[int, _Level] = {}
        self._size = 0
        self._cache = cache
        self._tail = tail
        self._chars = 0  # of the user messages in it
        self._passed = 0  # calls sent while others of a lower priority waited, since one of these was sent
        self._turn = 0

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
            self._levels[priority] = level = _Level(self._cache)
            self._levels = dict(sorted(self._levels.items()))
        self._size += len(calls)
        if self._cache is not None:
            self._chars += sum(len(call.user) for call in calls)
        if ordered:
            level.sweep.add(calls, system or "")
        else:
            level.arrivals.extend(calls)

    def pop_many(self, limit: int) -> list[Call]:
        """Up to ``limit`` calls, in the order in which to send them; none only when the queue is empty."""
        taken: list[Call] = []
        levels = [level for level in self._levels.values() if level]
        if len(levels) == 1 and 0 < self._size <= self._tail:
            self._order_tail(levels[0])
        riding = self._pressed(1.0)
        while len(taken) < limit and levels:
            if len(levels) == 1:
                calls = levels[0].pop_many(limit - len(taken))
            else:
                calls = self._pop_of(levels, 1 if riding else limit - len(taken), riding)
            taken += [call for call in calls if not call.dropped]
            levels = [level for level in levels if level]
        self._size -= len(taken)
        if self._cache is not None:
            self._chars -= sum(len(call.user) for call in taken)
        return taken

    def _pop_of(self, levels: Sequence[_Level], limit: int, riding: bool) -> list[Call]:
        """Calls of the first level; now and then one of another, so that nobody waits for ever."""
        if self._passed >= PATIENCE:
            self._passed = 0
            self._turn += 1
            return levels[1 + self._turn % (len(levels) - 1)].pop_many(1)
        calls = levels[0].pop_many(min(limit, PATIENCE - self._passed))
        self._passed += len(calls)
        if riding:
            for level in levels[1:]:
                while (rider := level.sweep.rider(calls[0])) is not None:
                    calls.append(rider)
        return calls

    def _pressed(self, share: float) -> bool:
        """Whether the cache does not hold the prompts that wait, or not in this part of it."""
        cache = self._cache
        return cache is not None and self._chars * cache.piece_tok > share * cache.capacity_tok * cache.chars

    def _order_tail(self, level: _Level) -> None:
        """The last calls: the longest answers first, where the order is of no use to the cache."""
        lengths = {id(call.channel): call.channel.expected_tok for call in level.calls()}
        if max(lengths.values()) <= UNEQUAL * min(lengths.values()) or self._pressed(TAIL_SHARE):
            return
        level.arrivals.extend(level.sweep.drain())
        level.arrivals = deque(sorted(level.arrivals, key=lambda call: -lengths[id(call.channel)]))

    def reorder(self) -> None:
        """Channels have got other priorities or workers: every call goes to its level, and is made anew when sent."""
        levels, self._levels = self._levels, {}
        self._size = self._chars = 0
        for level in levels.values():
            for calls, ordered in ((list(level.arrivals), False), (level.sweep.drain(), True)):
                channels: dict[int, list[Call]] = {}
                for call in calls:
                    if not call.dropped:
                        call.request = None
                        channels.setdefault(id(call.channel), []).append(call)
                for own in channels.values():
                    spec = own[0].channel.spec
                    self.add(own, spec.priority, spec.system, ordered)

    def put_back(self, calls: list[Call]) -> None:
        """These, just popped, cannot be sent yet: they go next, but for more urgent ones."""
        for call in reversed(calls):
            self._levels[call.channel.spec.priority].arrivals.appendleft(call)
        self._size += len(calls)
        if self._cache is not None:
            self._chars += sum(len(call.user) for call in calls)

    def drop(self, call: Call) -> None:
        """Nobody waits for this call (that is in the queue) any more."""
        call.dropped = True
        self._size -= 1
        if self._cache is not None:
            self._chars -= len(call.user)


class _Level:
    """The calls of one priority."""

    __slots__ = ("arrivals", "sweep")

    def __init__(self, cache: PrefixCache | None) -> None:
        self.arrivals: deque[Call] = deque()
        self.sweep = Sweep(cache)

    def __bool__(self) -> bool:
        return bool(self.arrivals) or bool(self.sweep)

    def calls(self) -> Iterator[Call]:
        yield from self.arrivals
        yield from self.sweep

    def pop_many(self, limit: int) -> list[Call]:
        """Some of the next calls, up to ``limit``; none only when there are none."""
        if self.arrivals:
            return [self.arrivals.popleft() for _ in range(min(limit, len(self.arrivals)))]
        return self.sweep.pop_many(limit)
