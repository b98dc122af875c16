"""The KV cache of an emulated engine: blocks, who uses them, which are shared and which are forgotten first.

It behaves as vLLM's block pool: a block is known by a hash chained over all tokens before it, blocks that no request
uses stay known until their place is needed, least recently used first and of one request the last block first. Blocks
that hold nothing worth knowing are used up before any known one is forgotten.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence


class Block:
    """A block: the chained hash of its tokens (0: not known by one), and how many requests use it."""

    __slots__ = ("key", "users")

    def __init__(self) -> None:
        self.key = 0
        self.users = 1


_STRETCH = 32  # blocks hashed in one go, and remembered
_STRETCHES = 8192  # that are remembered
_stretches: dict[tuple[int, bytes], list[int]] = {}


def chained(tokens: bytes, block_bytes: int) -> list[int]:
    """The hash of each whole block of some token ids, chained over those before it."""
    keys: list[int] = []
    head, end = block_bytes, len(tokens) - len(tokens) % block_bytes
    for start in range(0, end, _STRETCH * block_bytes):
        part = tokens[start : min(start + _STRETCH * block_bytes, end)]
        found = _stretches.get((head, part))
        if found is None:
            found, at = [], head
            for place in range(0, len(part), block_bytes):
                at = hash((at, part[place : place + block_bytes])) or 1
                found.append(at)
            if len(_stretches) >= _STRETCHES:
                _stretches.clear()
            _stretches[head, part] = found
        keys += found
        head = found[-1]
    return keys


class BlockCache:
    """``total`` blocks; ``shared`` False: none is ever found again."""

    def __init__(self, total: int, shared: bool = True) -> None:
        self.total = total
        self.shared = shared
        self.evictions = 0
        self._blank = total  # free ones that hold nothing
        self._idle: OrderedDict[Block, None] = OrderedDict()  # free ones that are known, in the order of their end
        self._known: dict[int, Block] = {}
        self._twins: dict[int, list[Block]] = {}  # further blocks with the same tokens, computed at the same time

    @property
    def free(self) -> int:
        """Blocks that no request uses."""
        return self._blank + len(self._idle)

    def find(self, keys: Iterable[int]) -> list[Block]:
        """The known blocks with which this chain begins."""
        found = []
        known = self._known
        for key in keys:
            block = known.get(key)
            if block is None:
                break
            found.append(block)
        return found

    def has(self, key: int) -> bool:
        """Whether such a block is known."""
        return key in self._known

    def idle(self, blocks: Iterable[Block]) -> int:
        """How many of them no request uses."""
        return sum(not block.users for block in blocks)

    def use(self, blocks: Iterable[Block]) -> None:
        """One more request uses these."""
        idle = self._idle
        for block in blocks:
            if not block.users:
                del idle[block]
            block.users += 1

    def take(self, count: int) -> list[Block]:
        """Blocks for tokens to be computed; there are as many ``free``. The least recently used ones are forgotten."""
        assert count <= self.free, "asked before"
        blank = min(count, self._blank)
        self._blank -= blank
        for _ in range(count - blank):
            self._forget(self._idle.popitem(last=False)[0])
            self.evictions += 1
        return [Block() for _ in range(count)]

    def seal(self, block: Block, key: int) -> None:
        """All tokens of a block are computed: from now on others find it."""
        if not self.shared:
            return
        block.key = key
        if key in self._known:
            self._twins.setdefault(key, []).append(block)
        else:
            self._known[key] = block

    def release(self, blocks: Sequence[Block]) -> None:
        """A request does not use its blocks any more."""
        idle = self._idle
        for block in reversed(blocks):
            block.users -= 1
            if block.users:
                continue
            if block.key:
                idle[block] = None
            else:
                self._blank += 1

    def add(self, keys: Sequence[int]) -> int:
        """Blocks that came from elsewhere, as used last; as many as there is room for. How many that were."""
        missing = [key for key in keys if key not in self._known][: self.free]
        blocks = self.take(len(missing))
        for block, key in zip(blocks, missing, strict=True):
            self.seal(block, key)
        self.release(blocks)
        return len(missing)

    def reset(self) -> bool:
        """Forget everything; False while requests use blocks."""
        if self.free < self.total:
            return False
        self._blank = self.total
        self._idle.clear()
        self._known.clear()
        self._twins.clear()
        return True

    def _forget(self, block: Block) -> None:
        twins = self._twins.get(block.key)
        if self._known[block.key] is not block:
            assert twins is not None
            twins.remove(block)
        elif twins:
            self._known[block.key] = twins.pop(0)
        else:
            del self._known[block.key]
        if twins is not None and not twins:
            del self._twins[block.key]
