"""Channels: how much runs at a time, and in which order."""

from __future__ import annotations

import random

from .helpers import VOLATILE, LocalEngine, on_loop, run


@on_loop
async def test_window_is_never_exceeded() -> None:
    for sizes, limit_tok, limit, concurrency in (
        ((1, 4000), 3000, 10_000, 0),
        ((1, 40), 100_000, 32, 0),
        ((1, 40), 100_000, 32, 5),
    ):
        engine = LocalEngine("soon", window_tok=limit_tok, window_requests=limit)
        chance = random.Random(3)
        async with run(engine, max_concurrency=concurrency) as on:
            nodes = [await on.node(), await on.node(system="other"), await on.node(sampling=VOLATILE)]
            for start in range(0, 300, 100):
                for _, channel in nodes:
                    numbers = range(start, start + 100)
                    channel.put([(number, f"{number} " + "x" * chance.randrange(*sizes)) for number in numbers])
            for node, _ in nodes:
                await node.settled(300)
        assert engine.most <= (concurrency or limit)
        assert engine.most_tok <= limit_tok
        assert engine.most > 1
        assert len(engine.seen) == 900


@on_loop
async def test_a_prompt_larger_than_the_window_goes_alone() -> None:
    engine = LocalEngine("soon", window_tok=100)
    async with run(engine) as on:
        node, channel = await on.node()
        channel.put([(0, "x" * 4000), (1, "y" * 4000), (2, "z")])
        await node.settled(3)
    assert engine.most == 1


@on_loop
async def test_requests_enter_in_prefix_order() -> None:
    chance = random.Random(4)
    prompts = [f"family {family} member {member}" for family in range(20) for member in range(10)]
    chance.shuffle(prompts)
    for ordered in (True, False):
        engine = LocalEngine("held", window_requests=4)
        async with run(engine) as on:
            node, channel = await on.node(ordered=ordered)
            channel.put(list(enumerate(prompts)))
            while engine.running:
                engine.release()
            await node.settled(len(prompts))
        assert [request.user for request in engine.seen] == (sorted(prompts) if ordered else prompts)


@on_loop
async def test_priority_comes_first() -> None:
    engine = LocalEngine("held", window_requests=1)
    async with run(engine) as on:
        _, low = await on.node(priority=5)
        _, high = await on.node(system="s", priority=1)
        low.put([(0, "a"), (1, "b"), (2, "c")])
        high.put([(0, "z")])
        while engine.running:
            engine.release()
    assert [request.user for request in engine.seen] == ["a", "z", "b", "c"]
