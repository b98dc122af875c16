"""Blocks and batches of an emulated engine, against brute force and by hand."""

from __future__ import annotations

import random
from collections.abc import Sequence as Many

from hypothesis import given, settings
from hypothesis import strategies as st

from halo_sql.engines.emulated_batch import Batch, Sequence
from halo_sql.engines.emulated_cache import BlockCache, chained
from halo_sql.engines.emulated_text import packed

BLOCK = 4
PLENTY = 10_000


def sequence(prompt: Many[int], output_tok: int = 1, priority: int = 0, name: object = None) -> Sequence:
    answer = [900 + number for number in range(output_tok)]
    return Sequence(chained(packed([*prompt, *answer]), 4 * BLOCK), len(prompt), output_tok, priority, name)


def batch(blocks: int = PLENTY, seqs: int = 256, tok: int = 8192, shared: bool = True) -> Batch:
    return Batch(BlockCache(blocks, shared), BLOCK, seqs, tok)


def run(engine: Batch, alone: bool = True) -> list[tuple[int, Sequence]]:
    """(step at whose end it was answered, request), until nothing is left."""
    ended = []
    while (turn := engine.plan(alone)) is not None:
        ended += [(engine.steps, one) for one in engine.finish(turn)]
    return ended


def trie_cached(prompts: Many[Many[int]]) -> list[int]:
    """Prompt tokens that a cache without limits has of each, when they come one after the other."""
    known: set[tuple[int, ...]] = set()
    found = []
    for prompt in prompts:
        blocks = 0
        while (blocks + 1) * BLOCK < len(prompt) and tuple(prompt[: (blocks + 1) * BLOCK]) in known:
            blocks += 1
        found.append(blocks * BLOCK)
        known |= {tuple(prompt[:end]) for end in range(BLOCK, len(prompt) + 1, BLOCK)}
    return found


prompts_strategy = st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=18), min_size=1, max_size=30)


@given(prompts_strategy, st.integers(1, 40))
def test_the_prefix_cache_is_a_trie_of_whole_blocks(prompts: list[list[int]], budget: int) -> None:
    engine = batch(seqs=1, tok=budget)
    asked = [sequence(prompt, 1 + len(prompt) % 3) for prompt in prompts]
    for one in asked:
        engine.add(one)
    assert len(run(engine)) == len(asked)
    assert [one.cached_tok for one in asked] == trie_cached(prompts)
    assert engine.prefilled_tok + sum(one.cached_tok for one in asked) == sum(map(len, prompts))
    assert engine.cache.free == engine.cache.total


@given(prompts_strategy, st.integers(1, 8), st.integers(1, 40))
def test_requests_in_flight_share_what_is_computed(prompts: list[list[int]], seqs: int, budget: int) -> None:
    engine = batch(seqs=seqs, tok=budget)
    asked = [sequence(prompt, 1 + sum(prompt)) for prompt in prompts]
    for one in asked:
        engine.add(one)
    assert len(run(engine)) == len(asked)
    tokens = sum(one.cached_tok for one in asked) + engine.prefilled_tok
    assert tokens == sum(map(len, prompts))
    if budget > 18 * seqs:  # every prompt is whole in the step that begins it: arrival order, as if one by one
        assert [one.cached_tok for one in asked] == trie_cached(prompts)


@settings(max_examples=60)
@given(st.integers(0, 10_000), st.integers(8, 20), st.integers(1, 6), st.booleans(), st.booleans())
def test_turns_of_many_steps_are_what_single_steps_are(
    seed: int, blocks: int, seqs: int, shared: bool, cut: bool
) -> None:
    dice = random.Random(seed)
    cases = [
        ([dice.randrange(2) for _ in range(dice.randrange(1, 16))], dice.randrange(1, 14), dice.randrange(3))
        for _ in range(25)
    ]
    outcomes = []
    for alone in (False, True):
        engine = batch(blocks, seqs, 9, shared)
        asked = [sequence(prompt, output, priority) for prompt, output, priority in cases]
        for one in asked:
            engine.add(one)
        ended: list[tuple[int, int]] = []
        coins = random.Random(seed)
        while (turn := engine.plan(alone)) is not None:
            if cut:  # as the device does for a newcomer
                turn.steps = coins.randint(1, turn.steps)
            ended += [(engine.steps, one.arrival) for one in engine.finish(turn)]
        cached = [one.cached_tok for one in asked]
        order = [number for _, number in ended]
        outcomes.append((order, cached, engine.preemptions, engine.prefilled_tok, engine.cache.evictions, engine.steps))
        assert len(ended) == len(asked)
        assert engine.cache.free == engine.cache.total
        assert all(one.produced == one.output_tok for one in asked)
    assert outcomes[0] == outcomes[1]
    assert sorted(outcomes[0][0]) == list(range(25))


def test_the_least_recently_used_blocks_are_forgotten_and_tails_before_heads() -> None:
    engine = batch(blocks=4, seqs=1)
    first, second = list(range(12)), list(range(100, 108))
    for prompt, cached_tok in [
        (first, 0),  # three blocks, and a fourth for nothing: its answer is one token
        (second, 0),  # one free, one of the first is forgotten: the last
        (first[:9], 8),  # its first two are still there; its third block pushes out one of the second
        ([*second, 1], 4),  # the last of it; now the second block of the first one goes
        (first, 4),
    ]:
        one = sequence(prompt)
        engine.add(one)
        run(engine)
        assert one.cached_tok == cached_tok, prompt


def test_blocks_of_running_requests_are_not_forgotten() -> None:
    engine = batch(blocks=5)
    long = sequence(list(range(8)), 8)  # 2 blocks, 4 at its end
    engine.add(long)
    turn = engine.plan(True)
    assert turn is not None
    engine.finish(turn)
    for number in range(6):
        other = sequence([50 + number] * 3)
        engine.add(other)
    again = sequence([*range(8), 77])
    engine.add(again)
    run(engine)
    assert again.cached_tok == 8
    assert engine.preemptions == 0


def test_the_last_token_of_a_prompt_is_always_computed() -> None:
    engine = batch()
    prompt = list(range(2 * BLOCK))
    cached = []
    for _ in range(2):
        one = sequence(prompt)
        engine.add(one)
        run(engine)
        cached.append(one.cached_tok)
    assert cached == [0, BLOCK]


def test_equal_requests_at_once_have_blocks_of_their_own_for_the_end() -> None:
    engine = batch(blocks=6, seqs=2)
    pair = [sequence(list(range(8)), 5) for _ in range(2)]
    for one in pair:
        engine.add(one)
    run(engine)
    assert [one.cached_tok for one in pair] == [0, 4]
    more = [sequence([*range(8), *range(900, 904), 5]), sequence([9] * 24), sequence([*range(8), 1])]
    cached = []
    for one in more:
        engine.add(one)
        run(engine)
        cached.append(one.cached_tok)
    assert cached == [12, 0, 0]  # the answer of the pair is known, too; the long one needs all six blocks


def test_a_step_has_so_many_tokens_and_a_long_prompt_goes_on_first() -> None:
    engine = batch(tok=10, seqs=3)
    a, b, c = (sequence([number] * length, 2) for number, length in enumerate((4, 13, 5)))
    for one in (a, b, c):
        engine.add(one)
    turns = []
    while (turn := engine.plan(True)) is not None:
        engine.finish(turn)
        turns.append((turn.prefill_tok, turn.sequences, turn.admitted))
    # a whole and 6 of b | a's second token and 7 of b, 2 of c | b, and 3 of c | c
    assert turns == [(10, 1, 2), (9, 2, 1), (3, 2, 0), (0, 1, 0)]


def test_so_many_sequences_run_at_once() -> None:
    engine = batch(seqs=2)
    asked = [sequence([number], output) for number, output in enumerate((2, 4, 1, 1))]
    for one in asked:
        engine.add(one)
    ended = [(step, one.arrival) for step, one in run(engine)]
    assert ended == [(2, 0), (3, 2), (4, 1), (4, 3)]


def test_urgent_requests_go_first_and_the_late_unimportant_one_is_preempted() -> None:
    engine = batch(blocks=4, seqs=4)
    a, b, c = sequence([1] * 3, 6, 1, "a"), sequence([2] * 3, 6, 0, "b"), sequence([3] * 3, 6, 2, "c")
    for one in (a, b, c):
        engine.add(one)
    ended = run(engine)
    # three blocks at first; each needs two at its second token, so c goes, and begins again when b has ended
    assert [one.tag for _, one in ended] == ["b", "a", "c"]
    assert engine.preemptions == 1
    assert [one.cached_tok for one in (a, b, c)] == [0, 0, 0]
    assert engine.prefilled_tok == 9 + c.prompt_tok + 2  # its prompt and its answer so far, again
    assert [one.produced for one in (a, b, c)] == [6, 6, 6]


def test_without_sharing_everything_is_computed() -> None:
    engine = batch(shared=False)
    asked = [sequence(list(range(9))) for _ in range(3)]
    for one in asked:
        engine.add(one)
    run(engine)
    assert engine.prefilled_tok == 27
    assert [one.cached_tok for one in asked] == [0, 0, 0]


def test_what_is_not_wanted_leaves_its_blocks() -> None:
    engine = batch(seqs=1)
    running, waiting = sequence([1] * 9, 50), sequence([2] * 9)
    engine.add(running)
    engine.add(waiting)
    turn = engine.plan(True)
    assert turn is not None
    engine.finish(turn)
    engine.remove(running)
    engine.remove(waiting)
    assert engine.plan(True) is None
    assert (engine.running, engine.waiting, engine.cache.free) == (0, 0, PLENTY)
    assert list(engine.sequences()) == []


def test_decoding_is_one_turn() -> None:
    engine = batch()
    engine.add(sequence([1] * 5, 1000))
    turns = []
    while (turn := engine.plan(True)) is not None:
        engine.finish(turn)
        turns.append((turn.steps, turn.read_tok))
    assert turns == [(1, 5), (999, 6)]


def test_blocks_that_came_from_elsewhere_are_found() -> None:
    cache = BlockCache(3)
    keys = chained(packed(list(range(16))), 4 * BLOCK)
    assert cache.add(keys) == 3  # as many as there is room for
    assert len(cache.find(keys)) == 3
    assert cache.free == 3
    assert cache.reset()
    assert cache.find(keys) == []
