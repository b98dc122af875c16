"""What prompts share: a trie of their common beginnings, and the order that visits it depth first.

An engine's prefix cache holds the beginnings of earlier prompts, in whole blocks of ``block_tok`` tokens. The
size of the trie is therefore the fewest prompt tokens that any order and any cache can compute; visiting the
prompts depth first reaches it even with a cache that holds no more than the prompt before.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from typing import Any, TypeVar

T = TypeVar("T", bound=Any)  # comparable: texts, tuples of token ids, tuples of segments


class _Node:
    """The end of an edge: ``label`` leads here from the parent; ``ends`` when a sequence stops here."""

    __slots__ = ("children", "ends", "label")

    def __init__(self, label: Sequence[Hashable], ends: bool) -> None:
        self.label = label
        self.ends = ends
        self.children: dict[Hashable, _Node] = {}


class PrefixTrie:
    """A trie over sequences of tokens (token ids, characters or whole segments), edges compressed.

    Memory grows with the number of sequences, not with their length.
    """

    def __init__(self, sequences: Iterable[Sequence[Hashable]] = ()) -> None:
        self._root = _Node((), False)
        for sequence in sequences:
            self.insert(sequence)

    def insert(self, sequence: Sequence[Hashable]) -> int:
        """Add a sequence; the number of its tokens that no earlier one shares."""
        rest = _sliceable(sequence)
        node = self._root
        while len(rest):
            child = node.children.get(rest[0])
            if child is None:
                node.children[rest[0]] = _Node(rest, True)
                return len(rest)
            shared = common_prefix_len(child.label, rest)
            if shared < len(child.label):
                upper = _Node(child.label[:shared], False)
                child.label = child.label[shared:]
                upper.children[child.label[0]] = child
                node.children[rest[0]] = upper
                child = upper
            node, rest = child, rest[shared:]
        node.ends = True
        return 0

    def shared(self, sequence: Sequence[Hashable]) -> int:
        """Length of the longest beginning of ``sequence`` that some inserted sequence begins with, too."""
        rest = _sliceable(sequence)
        node, found = self._root, 0
        while len(rest):
            child = node.children.get(rest[0])
            if child is None:
                break
            shared = common_prefix_len(child.label, rest)
            found += shared
            if shared < len(child.label):
                break
            node, rest = child, rest[shared:]
        return found

    def size(self, block_tok: int = 1) -> int:
        """Tokens a cache of whole blocks must compute: distinct beginnings, and each sequence's last, partial block.

        With ``block_tok`` 1 it is the number of nodes of the uncompressed trie. Equal sequences count once.
        """
        total = 0
        stack = [(child, 0) for child in self._root.children.values()]
        while stack:
            node, above = stack.pop()
            depth = above + len(node.label)
            total += (depth // block_tok - above // block_tok) * block_tok
            if node.ends:
                total += depth % block_tok
            stack.extend((child, depth) for child in node.children.values())
        return total


def trie_tokens(prompts: Iterable[Sequence[Hashable]], block_tok: int = 1) -> int:
    """The fewest prompt tokens that have to be computed for these prompts (equal ones asked once)."""
    return PrefixTrie(prompts).size(block_tok)


def prefix_order(keys: Sequence[T]) -> list[int]:
    """The depth-first order of the keys' trie as a permutation of their indices; equal keys keep their order.

    Sorting is that order: all keys with a common beginning are neighbours, at every depth.
    """
    return sorted(range(len(keys)), key=keys.__getitem__)


def common_prefix_len(left: Sequence[Hashable], right: Sequence[Hashable]) -> int:
    """Length of the common beginning of two sequences of one type (bisection over slices: compared in C)."""
    low, high = 0, min(len(left), len(right))
    if left[:high] == right[:high]:
        return high
    while low + 1 < high:  # equal up to low, not up to high
        middle = (low + high) // 2
        if left[low:middle] == right[low:middle]:
            low = middle
        else:
            high = middle
    return low


def _sliceable(sequence: Sequence[Hashable]) -> Sequence[Hashable]:
    return sequence if isinstance(sequence, str | bytes | tuple) else tuple(sequence)
