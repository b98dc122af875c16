"""KV blocks on their way from one worker of an emulated model to another."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from halo_sql.engines.emulated_cache import BlockCache

OFF, LINK = "off", "link"


class KvLink:
    """What one worker fetches, one transfer after the other.

    cache      of the worker
    block_s    seconds that a block takes over the link
    compute_s  seconds in which the worker computes one: what is fetched instead is cheaper
    """

    def __init__(self, cache: BlockCache, block_s: float, compute_s: float) -> None:
        self.blocks = 0  # that came
        self._cache = cache
        self._block_s = block_s
        self._worth = block_s < compute_s
        self._free_s = 0.0  # when the last transfer ends
        self._coming: dict[int, float] = {}  # key -> when it is there

    def fetch(self, keys: Sequence[int], others: Iterable[BlockCache], now_s: float) -> tuple[float, int]:
        """Begin to fetch the beginning of this chain that another one has: when it is there (now, for nothing), and
        blocks that come for it."""
        if not self._worth:
            return now_s, 0
        theirs = max((len(other.find(keys)) for other in others), default=0)
        wanted = keys[len(self._cache.find(keys)) : theirs]
        fresh = [key for key in wanted if key not in self._coming]
        if fresh:
            self._free_s = max(self._free_s, now_s) + len(fresh) * self._block_s
            self._coming.update(dict.fromkeys(fresh, self._free_s))
        return max((self._coming[key] for key in wanted), default=now_s), len(fresh)

    def arrived(self, now_s: float) -> None:
        """Put what has come by now into the cache."""
        come = [key for key, at_s in self._coming.items() if at_s <= now_s]
        for key in come:
            del self._coming[key]
        self.blocks += self._cache.add(come)
