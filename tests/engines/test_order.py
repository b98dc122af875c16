"""In which order requests enter an engine whose prefix cache is small: what has to be computed, and who waits."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise, permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from halo_sql.engines import prefix_cache
from halo_sql.engines.calls import Call
from halo_sql.engines.prefix_cache import PrefixCache, cache_of, flagged, shared
from halo_sql.engines.protocol import ChannelSpec, GenRequest
from halo_sql.engines.send_queue import PATIENCE, SendQueue
from halo_sql.ir.prefix import trie_tokens
from halo_sql.ir.prompt import Sampling

from .helpers import SHORT, on_loop, run
from .lru_engine import LruEngine, by_characters, four_characters

BLOCK = 4  # tokens; of one character each in the engine, of four in the model of its cache


class Channel:
    """What the queue knows of a channel."""

    def __init__(self, system: str = "", priority: int = 0, expected_tok: float = 1.0) -> None:
        self.spec = ChannelSpec("m", system or None, Sampling(), priority=priority)
        self.expected_tok = expected_tok


def calls_of(channel: Channel, users: Sequence[str]) -> list[Call]:
    return [Call(channel, number, user, None) for number, user in enumerate(users)]  # type: ignore[arg-type]


def small_cache(tok: int, block_tok: int = 1) -> PrefixCache:
    """Pieces of four characters per token of a block."""
    return PrefixCache(tok, block_tok)


def computed(cache: PrefixCache, calls: Sequence[Call]) -> int:
    """Pieces computed when calls are sent one by one through a cache (a copy of that of the queue)."""
    total = 0
    for call in calls:
        pieces = cache.pieces(call.channel.spec.system, call.user)
        total += len(pieces) - cache.warm(pieces)
        cache.use(pieces)
    return total


def families(count: int, members: int, chance: random.Random, head: int = 80) -> list[str]:
    """Texts of families with long common beginnings, in no order."""
    texts = [
        f"{family:03}{'x' * head} member {member:03}{'y' * 10}" for family in range(count) for member in range(members)
    ]
    chance.shuffle(texts)
    return texts


# --- the model of the cache


@given(st.lists(st.text("ab", max_size=30), max_size=8), st.text("ab", max_size=9))
def test_prompts_share_as_many_pieces_as_text(users: list[str], system: str) -> None:
    cache = small_cache(100)
    for one in users:
        for other in users:
            left, right = (f"{system}\0{user}" if system else user for user in (one, other))
            common = next((n for n, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), None)
            length = min(len(left), len(right)) if common is None else common
            assert shared(cache.pieces(system, one), cache.pieces(system, other)) == length // cache.chars


@given(st.lists(st.text("ab", max_size=24), min_size=1, max_size=12), st.integers(1, 8))
def test_what_was_unused_longest_goes_first(users: list[str], capacity: int) -> None:
    cache, log = small_cache(capacity), []
    for user in users:
        pieces = cache.pieces(None, user)
        kept = list(dict.fromkeys(piece for used in reversed(log) for piece in used))[:capacity]
        expected = next((n for n, piece in enumerate(pieces) if piece not in kept), len(pieces))
        assert cache.warm(pieces) == expected
        cache.use(pieces)
        log.append(pieces)
        assert len(cache) <= capacity


def test_results_correct_the_model() -> None:
    cache = small_cache(100)
    pieces = cache.pieces(None, "x" * 40)
    cache.use(pieces)
    assert cache.warm(pieces) == 10
    cache.correct(pieces, 10, 10)
    assert (cache.warm(pieces), cache.share) == (10, 1.0)
    cache.correct(pieces, 10, 2)  # others use it, too
    assert cache.share == pytest.approx(0.95)
    cache.correct(pieces, 10, 0)  # it was started again
    assert cache.warm(pieces) == 0
    for _ in range(500):
        cache.correct(pieces, 10, 2)
    assert cache.share == prefix_cache.LEAST_SHARE
    for _ in range(500):
        cache.correct(pieces, 10, 10)
    assert cache.share == 1.0


def test_answers_take_room() -> None:
    cache = small_cache(10)
    pieces = cache.pieces(None, "x" * 12)
    cache.use(pieces, 4.5)
    assert len(cache) == 8
    cache.use(cache.pieces(None, "y" * 36))
    assert cache.warm(pieces) == 1


@given(st.lists(st.tuples(st.text("ab", max_size=12), st.integers(0, 3)), max_size=12))
def test_flagged_keys_are_depth_first_with_what_is_held_in_front(found: list[tuple[str, int]]) -> None:
    cache = small_cache(100)
    for text, warm in found:
        cache.use(cache.pieces(None, text)[:warm])
    roots = {piece: cache.code(piece) for text, warm in found for piece in cache.pieces(None, text)[:warm]}
    pieces = {text: cache.pieces(None, text) for text, _ in found}
    held = {text: next((n for n, p in enumerate(own) if p not in roots), len(own)) for text, own in pieces.items()}
    codes = {text: [roots[piece] for piece in own[: held[text]]] for text, own in pieces.items()}
    order = sorted(pieces, key=lambda text: flagged(text, codes[text], cache.chars))
    for depth in range(4):
        branches = [pieces[text][:depth] for text in order if len(pieces[text]) >= depth]
        assert len(set(branches)) == sum(n == 0 or branches[n - 1] != own for n, own in enumerate(branches))
        for first, second in pairwise(order):
            if shared(pieces[first], pieces[second]) == depth:
                assert held[first] > depth or held[second] <= depth


# --- the queue


steps = st.lists(
    st.tuples(st.integers(0, 2), st.lists(st.text("ab", min_size=1, max_size=40), max_size=6), st.integers(0, 5)),
    max_size=12,
)


@given(steps, st.integers(0, 30), st.booleans(), st.integers(0, 4))
def test_everything_is_sent_once(
    steps: list[tuple[int, list[str], int]], capacity: int, ordered: bool, tail: int
) -> None:
    cache = small_cache(capacity) if capacity else None
    channels = [Channel(), Channel("ab" * 9, 1, 8.0), Channel("ab" * 9, 2, 2.0)]
    queue, put, got = SendQueue(cache, tail), [], []
    for place, users, take in steps:
        calls = calls_of(channels[place], users)
        put += calls
        if calls:
            queue.add(calls, channels[place].spec.priority, channels[place].spec.system, ordered)
        if len(calls) > 4:
            queue.drop(calls[2])
            put.remove(calls[2])
        taken = queue.pop_many(take)
        if len(taken) > 2:
            queue.put_back(taken[2:])
            del taken[2:]
        got += taken
        if cache is not None:
            for call in got[-len(taken) :] if taken else ():
                cache.use(cache.pieces(call.channel.spec.system, call.user))
        assert len(queue) == len(put) - len(got) == sum(not call.dropped for call in queue)
    while left := queue.pop_many(3):
        got += left
    assert len(queue) == 0
    assert sorted(map(id, got)) == sorted(map(id, put))


@pytest.mark.parametrize("seed", range(6))
def test_branches_that_come_late_are_not_torn_apart(seed: int) -> None:
    """Texts arrive in handfuls while others are sent; a cache for two prompts computes little more than the trie."""
    chance = random.Random(seed)
    users = families(12, 12, chance)
    channel, cache, queue = Channel(), small_cache(60), None
    queue = SendQueue(cache)
    sent: list[Call] = []
    waiting = calls_of(channel, users)
    arrival = computed(small_cache(60), waiting)
    while waiting or queue:
        batch, waiting = waiting[:18], waiting[18:]
        if batch:
            queue.add(batch, 0, None, True)
        for call in queue.pop_many(12):
            cache.use(call.pieces or ())
            sent.append(call)
    trie = trie_tokens([cache.pieces(None, user) for user in users])
    ours = computed(small_cache(60), sent)
    assert trie <= ours <= arrival
    assert ours <= 0.5 * arrival


@given(
    st.lists(st.lists(st.sampled_from("ab"), min_size=1, max_size=4), min_size=1, max_size=6),
    st.integers(2, 8),
    st.integers(0, 5),
)
@settings(max_examples=60)
def test_never_far_from_the_best_of_all_orders(words: list[list[str]], capacity: int, warm: int) -> None:
    """All at once, with something in the cache: at most 1.5 times what the best order computes."""
    users = list(dict.fromkeys("".join(4 * letter for letter in word) for word in words))
    channel, cache = Channel(), small_cache(capacity)
    before = calls_of(channel, users[:warm])
    computed(cache, before)
    queue = SendQueue(cache)
    queue.add(calls_of(channel, users), 0, None, True)
    sent = []
    while queue:
        calls = queue.pop_many(2)
        sent += calls

    def cost(calls: Sequence[Call]) -> int:
        through = small_cache(capacity)
        computed(through, before)
        return computed(through, calls)

    best = min(cost(order) for order in permutations(sent))
    assert cost(sent) <= 1.5 * best + 1


def test_what_the_cache_holds_goes_first() -> None:
    cache = small_cache(40)
    channel = Channel("s" * 8)
    held = calls_of(channel, [f"doc 7 {'x' * 20}"])
    computed(cache, held)
    queue = SendQueue(cache)
    users = [f"doc {number} {'x' * 20} question {turn}" for number in range(9) for turn in range(2)]
    queue.add(calls_of(channel, users), 0, channel.spec.system, True)
    first = [call.user[:5] for call in queue.pop_many(18)]
    assert first[:2] == ["doc 7", "doc 7"]
    assert first[2:] == sorted(first[2:])


def test_a_late_call_for_a_warm_prefix_overtakes_cold_ones() -> None:
    cache, channel = small_cache(60), Channel()
    queue = SendQueue(cache)
    queue.add(calls_of(channel, [f"doc {number} {'x' * 30}" for number in range(9)]), 0, None, True)
    for call in queue.pop_many(3):
        cache.use(call.pieces or ())
    late = [f"doc 1 {'x' * 30} and", f"doc 9 {'x' * 30}", f"doc 2 {'x' * 30} and", f"cold {'x' * 30}"]
    queue.add(calls_of(channel, late), 0, None, True)
    got = [call.user for call in queue.pop_many(1) + queue.pop_many(1) + queue.pop_many(20)]
    assert got[:2] == [late[0], late[2]]
    assert got[-1] == late[3]
    assert got[2:-1] == sorted(got[2:-1])


def test_a_late_call_of_the_branch_goes_before_the_next_branch() -> None:
    for cache in (None, small_cache(400)):
        queue, channel = SendQueue(cache), Channel()
        queue.add(calls_of(channel, [f"{'m' * 70} 5", f"{'n' * 70} 1", f"{'n' * 70} 2"]), 0, None, True)
        assert [call.user[-1] for call in queue.pop_many(1)] == ["5"]
        queue.add(
            calls_of(channel, [f"{'m' * 70} 3", f"{'m' * 70} 7", f"{'a' * 70} 0", f"{'m' * 70} 4"]), 0, None, True
        )
        assert [call.user[-1] for call in queue.pop_many(9) + queue.pop_many(9)] == list("743120")


def test_other_priorities_ride_along_only_when_the_cache_is_small() -> None:
    docs = [f"doc {number} {'x' * 60}" for number in range(6)]
    for tok, riding in ((60, True), (10_000, False)):
        queue = SendQueue(small_cache(tok))
        urgent, other, bulky = Channel(priority=0), Channel(priority=1), Channel(priority=2, expected_tok=500.0)
        queue.add(calls_of(urgent, [f"{doc} first" for doc in docs]), 0, None, True)
        queue.add(calls_of(other, [f"{doc} second" for doc in docs]), 1, None, True)
        queue.add(calls_of(bulky, [f"{doc} third" for doc in docs]), 2, None, True)
        got = [call.user for call in queue.pop_many(18)]
        pairs = [f"{doc} {turn}" for doc in docs for turn in ("first", "second")]
        assert got[:12] == (pairs if riding else sorted(pairs, key=lambda text: text[-6:]))
        assert len(set(got)) == 18


def test_a_lower_priority_does_not_wait_for_ever() -> None:
    queue = SendQueue()
    high, lows = Channel(priority=0), [Channel(priority=1), Channel(priority=2)]
    for low in lows:
        queue.add(calls_of(low, ["low"]), low.spec.priority, None, True)
    popped = 0
    while any(call.user == "low" for call in queue):
        queue.add(calls_of(high, ["high"] * 2), 0, None, True)
        popped += len(queue.pop_many(1))
        assert popped <= 3 * (PATIENCE + 1)
    assert popped > PATIENCE


def test_other_priorities_of_channels_reorder_what_waits() -> None:
    for cache in (None, small_cache(40)):
        first, second = Channel(priority=1), Channel("same", priority=2)
        early, late = calls_of(first, families(3, 4, random.Random(1))), calls_of(second, ["b x", "b y", "a z"])
        queue = SendQueue(cache)
        if cache is not None:
            for call in (*early, *late):
                call.pieces = cache.pieces(call.channel.spec.system, call.user)
        queue.add(early, 1, None, ordered=True)
        queue.add(late, 2, "same", ordered=False)
        queue.drop(early[0])
        queue.reorder()
        assert queue.pop_many(1)[0].channel is first, "nothing has changed"
        second.spec = replace(second.spec, priority=0)
        late[0].request = GenRequest(1, "b x")
        queue.reorder()
        assert late[0].request is None, "it is made again, for other workers"
        sent = [call for _ in range(len(queue)) for call in queue.pop_many(1)]
        assert sent[:3] == late
        assert set(sent[3:]) < set(early) - {early[0]}
        assert len(queue) == 0


def test_at_the_end_long_answers_are_begun_first() -> None:
    short, long = Channel("s", expected_tok=2.0), Channel("t", expected_tok=90.0)
    for tok, first in ((10_000, "t"), (8, "s")):
        queue = SendQueue(small_cache(tok), tail=4)
        queue.add(calls_of(short, ["a" * 20, "b" * 20, "c" * 20]), 0, "s", True)
        queue.add(calls_of(long, ["a" * 20, "b" * 20, "c" * 20]), 0, "t", True)
        queue.pop_many(2)
        assert next(call.channel.spec.system for call in queue.pop_many(4)) == first


# --- through channels


async def ask(
    engine: LruEngine, users: Sequence[str], ordered: bool, systems: Sequence[str | None] = (None,), step: int = 500
) -> None:
    async with run(engine) as on:  # type: ignore[arg-type]
        nodes = [await on.node(system=system, sampling=SHORT, ordered=ordered) for system in systems]
        for start in range(0, len(users), step):
            for _, channel in nodes:
                channel.put(list(enumerate(users[start : start + step], start)))
            await asyncio.sleep(0)
        for node, _ in nodes:
            await node.settled(len(users))
            assert not node.errors()


@pytest.mark.parametrize(
    ("systems", "step", "most"), [((None,), 500, 1.05), (("one " * 20, "two " * 20), 500, 1.05), ((None,), 50, 1.25)]
)
@on_loop
async def test_a_quarter_of_the_cache_computes_the_trie(
    systems: tuple[str | None, ...], step: int, most: float
) -> None:
    """Also when the prompts come while the first of them are answered: 50 in each step of the engine."""
    users = families(16, 16, random.Random(1), head=300)
    prompts = [f"<{system}>{user}" for system in systems for user in users]
    trie = trie_tokens(prompts, 16)
    found = {}
    for ordered in (True, False):
        engine = LruEngine(trie // 4, batch=8, tokenize=by_characters)
        await ask(engine, users, ordered, systems, step)
        assert len(engine.seen) == len(prompts)
        found[ordered] = engine.computed
    assert found[True] <= most * trie
    assert found[False] >= 1.5 * found[True]


@on_loop
async def test_the_next_run_begins_with_what_is_warm() -> None:
    users = sorted(families(30, 4, random.Random(2), head=400))
    trie = trie_tokens([four_characters_of(user) for user in users], 16)
    engine = LruEngine(trie // 2, batch=4, tokenize=four_characters)
    await ask(engine, users, True)
    first = engine.computed
    cache = cache_of(engine, engine.info)  # type: ignore[arg-type]
    assert cache is not None
    assert len(cache) > 0
    engine.computed = 0
    await ask(engine, [f"{user}!" for user in users], True)
    assert engine.computed <= 0.8 * first  # what a cache of half of it can keep of families beside their own ends


def four_characters_of(user: str) -> tuple[str, ...]:
    text = f"<None>{user}"
    return tuple(text[place : place + 4] for place in range(0, len(text), 4))


@on_loop
async def test_prefixes_in_flight_are_counted_once() -> None:
    """Forty prompts of 100 tokens that share 90 fit a window of 1,000 tokens together, not ten."""
    head = "h" * 360
    engine = LruEngine(1000, batch=40, output_tok=10, tokenize=four_characters)
    users = [f"{head}{number:03}{'z' * 20}" for number in range(40)]
    most = 0
    async with run(engine) as on:  # type: ignore[arg-type]
        node, channel = await on.node(sampling=SHORT)
        channel.put(list(enumerate(users)))
        for _ in range(400):
            most = max(most, node.metrics.in_flight)
            if len(node.got) == len(users):
                break
            await asyncio.sleep(0)
    assert len(node.got) == 40
    assert most >= 25
