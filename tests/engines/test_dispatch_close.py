"""Channels: failures that end everything, and closing at any moment."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from halo_sql.clock import clock_s
from halo_sql.engines.protocol import Channel, Deliver, GenRequest, Outcome, failure

from .helpers import VOLATILE, LocalEngine, on_loop, run


@on_loop
async def test_refused_credentials_end_everything_at_once() -> None:
    engine = LocalEngine("held", lambda request: failure(request.id, "401", "auth"), window_requests=4)
    async with run(engine) as on:
        node, channel = await on.node()
        channel.put([(number, f"p{number}") for number in range(100)])
        engine.release([engine.seen[0].id])
        assert node.errors() == {"auth": 100}
        channel.put([(100, "later")])
        assert node.errors() == {"auth": 101}
    assert len(engine.seen) == 4
    assert not engine.running


@pytest.mark.parametrize("when", ["inside", "soon", "held"])
@on_loop
async def test_close_leaves_nothing_in_flight(when: str) -> None:
    engine = LocalEngine(when, window_requests=8)
    async with run(engine) as on:
        for _ in range(300):
            node, channel = await on.node(sampling=VOLATILE)
            closing: list[asyncio.Task[None]] = []

            def end(
                number: int,
                outcome: Outcome,
                channel: Channel = channel,
                closing: list[asyncio.Task[None]] = closing,
            ) -> None:
                if number == 2:
                    closing.append(asyncio.ensure_future(channel.close()))

            node.then = end
            channel.put([(number, f"p{number}") for number in range(20)])
            channel.put([(20, "more")])
            await asyncio.sleep(0)
            await channel.close()
            await channel.close()
            await asyncio.gather(*closing)
            count = len(node.got)
            channel.put([(21, "after")])
            assert not engine.running
            assert node.metrics.in_flight == 0
            assert len(node.got) == count


class EagerCloser(LocalEngine):
    """Answers the first request inside submit before it has even seen the others."""

    def submit(self, requests: Sequence[GenRequest], deliver: Deliver) -> None:
        super().submit(requests[:1], deliver)
        self.release()
        super().submit(requests[1:], deliver)


@on_loop
async def test_close_inside_submit() -> None:
    engine = EagerCloser("held")
    async with run(engine) as on:
        node, channel = await on.node()

        started: list[asyncio.Task[None]] = []
        node.then = lambda number, outcome: started.append(asyncio.ensure_future(channel.close()))
        channel.put([(number, f"p{number}") for number in range(50)])
        await asyncio.gather(*started)
        assert len(node.got) == 1
    assert not engine.running


@on_loop
async def test_an_engine_that_never_lets_go_is_waited_for_one_second() -> None:
    engine = LocalEngine("held")
    engine.abort = lambda ids: None  # type: ignore[method-assign]
    async with run(engine) as on:
        node, channel = await on.node()
        channel.put([(0, "a")])
        began = clock_s()
        await channel.close()
        assert 0.999 < clock_s() - began < 1.1
    assert node.got == {}
