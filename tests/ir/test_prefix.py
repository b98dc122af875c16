"""Prefix tries: sizes, sharing, and the order that makes a cache of one prompt enough."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from halo_sql.ir.prefix import PrefixTrie, common_prefix_len, prefix_order, trie_tokens

PROMPTS = st.lists(st.lists(st.integers(0, 2), max_size=12).map(tuple), max_size=20)
BLOCKS = st.integers(1, 5)


def test_sizes_and_shared_lengths() -> None:
    trie = PrefixTrie()
    assert [trie.insert(text) for text in ("abcd", "abef", "ab", "x", "abcd", "")] == [4, 2, 0, 1, 0, 0]
    assert trie.size() == 7
    # blocks of two: ab, cd, ef are whole; "x" is a block begun
    assert trie.size(2) == 7
    # blocks of three: abc and abe are whole, d, f, ab and x are begun
    assert trie.size(3) == 6 + 1 + 1 + 2 + 1
    assert [trie.shared(text) for text in ("abcz", "abe", "abefg", "z", "")] == [3, 3, 4, 0, 0]


def test_any_hashable_token_will_do() -> None:
    assert trie_tokens([["system", ("hole", 1)], ["system", ("hole", 2)]]) == 3
    assert trie_tokens(["x" * 100_000 + "a", "x" * 100_000 + "b"]) == 100_002


def test_order_keeps_relatives_together() -> None:
    assert prefix_order(["b2", "a1", "b1", "a1", "a"]) == [4, 1, 3, 2, 0]


@given(PROMPTS, BLOCKS)
def test_size_is_the_number_of_distinct_prefixes(prompts: list[tuple[int, ...]], block: int) -> None:
    trie = PrefixTrie(prompts)
    assert trie.size() == len({prompt[:end] for prompt in prompts for end in range(1, len(prompt) + 1)})
    whole = {prompt[:end] for prompt in prompts for end in range(block, len(prompt) + 1, block)}
    assert trie.size(block) == len(whole) * block + sum(len(prompt) % block for prompt in set(prompts))
    assert trie.size() <= trie.size(block) <= sum(map(len, prompts))


@given(PROMPTS, BLOCKS, st.randoms(use_true_random=False))
def test_size_does_not_depend_on_order(prompts: list[tuple[int, ...]], block: int, chance: random.Random) -> None:
    shuffled = prompts[:]
    chance.shuffle(shuffled)
    assert trie_tokens(shuffled, block) == trie_tokens(prompts, block)
    trie = PrefixTrie()
    assert sum(trie.insert(prompt) for prompt in shuffled) == trie.size()


@given(PROMPTS)
def test_order_is_a_stable_sorting_permutation(prompts: list[tuple[int, ...]]) -> None:
    order = prefix_order(prompts)
    assert sorted(order) == list(range(len(prompts)))
    assert [(prompts[index], index) for index in order] == sorted(zip(prompts, range(len(prompts)), strict=True))


@given(PROMPTS, BLOCKS)
def test_unbounded_cache_computes_the_trie(prompts: list[tuple[int, ...]], block: int) -> None:
    cache: set[tuple[int, ...]] = set()
    computed = 0
    for index in prefix_order(sorted(set(prompts), reverse=True)):
        prompt = sorted(set(prompts), reverse=True)[index]
        blocks = [prompt[:end] for end in range(block, len(prompt) + 1, block)]
        computed += sum(block for begun in blocks if begun not in cache) + len(prompt) % block
        cache.update(blocks)
    assert computed == trie_tokens(prompts, block)


@given(PROMPTS, BLOCKS)
def test_in_order_a_cache_of_the_last_prompt_is_enough(prompts: list[tuple[int, ...]], block: int) -> None:
    distinct = list(dict.fromkeys(prompts))
    computed, last = 0, ()
    for index in prefix_order(distinct):
        shared = common_prefix_len(last, distinct[index])
        computed += len(distinct[index]) - shared // block * block
        last = distinct[index]
    assert computed == trie_tokens(prompts, block)


@given(PROMPTS, st.lists(st.integers(0, 2), max_size=12).map(tuple))
def test_shared_is_the_longest_common_beginning(prompts: list[tuple[int, ...]], probe: tuple[int, ...]) -> None:
    expected = max((common_prefix_len(prompt, probe) for prompt in prompts), default=0)
    assert PrefixTrie(prompts).shared(probe) == expected
