"""A depth-first walk through the trie of waiting prompts, which goes on while prompts come in.

Depth first is the order that computes every prefix once with a cache that holds no more than a path of the trie
(L. Zheng et al., "SGLang: Efficient Execution of Structured Language Model Programs", NeurIPS 2024, theorem 3.1).
Sorted prompts are in that order; the walk is a sweep over them as a disk's: what sorts behind the last prompt sent
joins it, what sorts before it waits for the next one, unless the prefix it shares is still warm.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import count

from halo_sql.engines.calls import Call
from halo_sql.engines.prefix_cache import PrefixCache, flagged, shared
from halo_sql.ir.prefix import common_prefix_len

JOINERS = 8192  # calls that may join a sweep under way; later ones wait for the next, so that nobody waits for ever
FEW = 8  # up to this many are put in their place one by one; more are merged by sorting
NEAR_CHARS = 64  # equal beginnings that count, of an engine of which nothing else is known

_Item = tuple[str, str, int, Call]  # key: system and user, or a flagged text; arrival (decides between equal), call


class Sweep:
    """Calls in the order in which to send them; new ones may be added at any time.

    cache  model of the engine's prefix cache; None: nothing is known of it

    At every place where the walk leaves a branch it takes the nearest waiting one: of two neighbours of the last
    prompt sent the one that shares more with it. So a branch is finished before the next, also when its calls come
    late. A sweep begins with what the cache holds: children that were warm when it began go before their siblings,
    the latest used first. A call that comes during it goes at once when most of its prompt is warm and would not
    stay so.
    """

    def __init__(self, cache: PrefixCache | None) -> None:
        self._cache = cache
        self._warm: deque[_Item] = deque()  # go before the sweep
        self._left: list[_Item] = []  # sorted, before the last one sent
        self._right: list[_Item] = []  # sorted, behind it, from _at on
        self._at = 0
        self._last: _Item | None = None  # the last one sent of this sweep
        self._later: list[tuple[str, Call]] = []  # system, call
        self._near = False  # what is left of the last one may share something with it
        self._joined = 0
        self._roots: dict[int, str] = {}  # pieces that were warm when the sweep began, and their codes
        self._numbers = count()

    def __len__(self) -> int:
        return len(self._warm) + len(self._left) + len(self._right) - self._at + len(self._later)

    def __iter__(self) -> Iterator[Call]:
        """All calls, in no order to rely on."""
        for items in (self._warm, self._left, self._right[self._at :]):
            for item in items:
                yield item[3]
        for _, call in self._later:
            yield call

    def add(self, calls: Sequence[Call], system: str) -> None:
        """Put calls with one system message in."""
        cache = self._cache
        if cache is not None:
            for call in calls:
                call.pieces = cache.pieces(system, call.user)
        if self._last is None or self._joined > JOINERS:
            self._later += [(system, call) for call in calls]
            return
        items = sorted(map(self._item, [system] * len(calls), calls))
        self._joined += len(items)
        if cache is not None:
            warm = [item for item in items if self._at_risk(item[3], self._last[3], cache)]
            if warm:
                self._warm += reversed(warm)  # what the sweep used last is farthest from being dropped
                numbers = {item[2] for item in warm}
                items = [item for item in items if item[2] not in numbers]
        cut = bisect_left(items, self._last)
        if cut:
            _merge(self._left, items[:cut], 0)
            self._near = True
        if self._at and len(items) - cut > FEW:
            del self._right[: self._at]
            self._at = 0
        _merge(self._right, items[cut:], self._at)

    def _at_risk(self, call: Call, last: Call, cache: PrefixCache) -> bool:
        """Whether most of a prompt is held that the sweep does not use just now."""
        pieces = call.pieces or ()
        held = cache.warm(pieces)
        return 2 * held >= len(pieces) > 0 and held > shared(pieces, last.pieces or ())

    def pop_many(self, limit: int) -> list[Call]:
        """Some of the next calls, up to ``limit``; none only when there are none."""
        if self._warm and (overtaking := self._overtaking(limit)):
            return overtaking
        if self._at == len(self._right) and not self._left_is_near():
            self._begin()
        if not self._right and not self._left:
            return []
        found: list[Call] = []
        while len(found) < limit and self._near and self._left_is_near():
            item = self._nearest()
            self._last = item
            found.append(item[3])
        end = min(len(self._right), self._at + limit - len(found))
        if end > self._at:
            items = self._right[self._at : end]
            self._at, self._last = end, items[-1]
            found += [item[3] for item in items]
        if self._at == len(self._right) and not self._left and not self._later and not self._warm:
            self._end()
        return found

    def _overtaking(self, limit: int) -> list[Call]:
        """Calls whose prompts are still warm; the others wait for the next sweep."""
        found: list[Call] = []
        while self._warm and len(found) < limit:
            call = self._warm.popleft()[3]
            pieces = call.pieces or ()
            assert self._cache is not None
            if 2 * self._cache.warm(pieces) >= len(pieces):
                found.append(call)
            else:
                self._later.append((call.channel.spec.system or "", call))
        return found

    def _left_is_near(self) -> bool:
        """Whether the neighbour to the left shares anything with the last one sent."""
        if self._near and self._left and self._last is not None:
            self._near = self._common(self._left[-1], self._last) > 0
        else:
            self._near = False
        return self._near

    def _nearest(self) -> _Item:
        """Of the neighbours of the last one sent, of which the left one is near, the one that shares more with it."""
        assert self._last is not None
        if self._at < len(self._right):
            right = self._right[self._at]
            if self._common(right, self._last) >= self._common(self._left[-1], self._last):
                self._at += 1
                return right
        return self._left.pop()

    def _common(self, one: _Item, other: _Item) -> int:
        """What two prompts share: pieces, or where no cache is known such lengths of text."""
        left, right = one[3], other[3]
        if left.pieces is not None and right.pieces is not None:
            return shared(left.pieces, right.pieces)
        return common_prefix_len(left.user, right.user) // NEAR_CHARS if one[0] == other[0] else 0

    def _begin(self) -> None:
        """Begin the next sweep, over all that waits."""
        waiting = self._later
        old = [item[3] for item in (*self._left, *self._right[self._at :])]
        self._later = []
        self._end()
        cache = self._cache
        waiting += [(call.channel.spec.system or "" if call.channel else "", call) for call in old]
        if cache is not None:
            roots = self._roots
            for _, call in waiting:
                pieces = call.pieces or ()
                for place in range(cache.warm(pieces) - 1, -1, -1):
                    if pieces[place] in roots:
                        break
                    roots[pieces[place]] = cache.code(pieces[place])
        self._right = sorted(self._item(system, call) for system, call in waiting)

    def _end(self) -> None:
        self._left, self._right, self._at, self._last = [], [], 0, None
        self._near, self._joined, self._roots = False, 0, {}

    def _item(self, system: str, call: Call) -> _Item:
        roots, cache = self._roots, self._cache
        if not roots or cache is None:
            return system, call.user, next(self._numbers), call
        codes = []
        for piece in call.pieces or ():
            code = roots.get(piece)
            if code is None:
                break
            codes.append(code)
        text = f"{system}\0{call.user}" if system else call.user
        return flagged(text, codes, cache.chars), "", next(self._numbers), call

    def rider(self, last: Call) -> Call | None:
        """A call to send behind one of another sweep, taken out: its own tokens are no more than those shared."""
        cache = self._cache
        if cache is None or not last.pieces:
            return None
        if self._at == len(self._right) and not self._left:
            self._begin()
        key = self._item(last.channel.spec.system or "", last)
        for items, low in ((self._right, self._at), (self._left, 0)):
            place = bisect_left(items, key, lo=low)
            for near in (place, place - 1):
                if low <= near < len(items):
                    call = items[near][3]
                    pieces = call.pieces or ()
                    common = shared(pieces, last.pieces)
                    own = len(pieces) - common + call.channel.expected_tok / cache.piece_tok
                    if common and common >= own:
                        del items[near]
                        return call
        return None

    def drain(self) -> list[Call]:
        """Take all calls out, in the order in which they would be sent."""
        found: list[Call] = []
        while calls := self.pop_many(len(self)):
            found += calls
        return found


def _merge(items: list[_Item], new: list[_Item], low: int) -> None:
    """Put sorted items into a list that is sorted from ``low`` on."""
    if len(new) <= FEW:
        for item in new:
            insort(items, item, lo=low)
    else:
        items += new  # low is 0
        items.sort()  # two sorted runs: a merge
