"""The openai engine finds how many requests its server takes, and says so."""

from __future__ import annotations

import asyncio
import functools
import json
from collections.abc import Callable, Coroutine, Sequence
from statistics import median
from typing import Any

import halo_sql
from halo_sql.engines.openai import OpenAIEngine
from halo_sql.engines.protocol import GenResult, Limit
from halo_sql.virtual_time import VirtualTimeLoop

from .helpers import engine, prompts


def in_virtual_time(test: Callable[..., Coroutine[None, None, None]]) -> Callable[[Any], None]:
    """The test on a virtual clock, which goes on by 20 ms at most before sockets are looked at again."""

    @functools.wraps(test)
    def run_test(fault_server: Any) -> None:
        async def ticking() -> None:
            loop = asyncio.get_running_loop()

            def tick() -> None:
                loop.call_later(0.02, tick)

            tick()
            await test(fault_server)

        with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
            runner.run(ticking())

    return run_test


async def limits_of(chosen: OpenAIEngine, server: Any, count: int) -> list[int]:
    """The engine's limit after each of so many answers; the server runs on the same loop."""
    limits: list[int] = []
    ended = asyncio.Event()

    def deliver(results: Sequence[GenResult]) -> None:
        assert [result.error for result in results] == [None] * len(results)
        limits.extend(chosen.limit().requests for _ in results)
        if len(limits) == count:
            ended.set()

    try:
        await chosen.start()
        chosen.submit(prompts(count), deliver)
        await ended.wait()
    finally:
        await chosen.close()
    assert set(server.counts()) == {f"prompt {number}" for number in range(count)}
    return limits


@in_virtual_time
async def test_a_server_with_two_slots_is_not_flooded(fault_server: Any) -> None:
    async with fault_server.FaultServer(slots=(2, 1.0)).on_this_loop() as server:
        chosen = engine(server, concurrency=16)
        assert chosen.limit() == Limit(16, 16, 0, 0)
        limits = await limits_of(chosen, server, 800)
    assert server.most_in_flight == 16
    assert median(limits[-300:]) <= 4
    assert len(server.calls) == 800


@in_virtual_time
async def test_a_server_that_takes_all_gets_all(fault_server: Any) -> None:
    loop = asyncio.get_running_loop()
    async with fault_server.FaultServer(slots=(1000, 1.0)).on_this_loop() as server:
        began_s = loop.time()
        limits = await limits_of(engine(server, concurrency=32), server, 600)
        took_s = loop.time() - began_s
    assert median(limits) == 32
    assert min(limits) >= 32 / 1.5 - 1
    assert took_s <= 1.2 * 600 / 32


@in_virtual_time
async def test_a_server_that_refuses_from_six_on_answers_all(fault_server: Any) -> None:
    async with fault_server.FaultServer(slots=(6, 1.0), most=6).on_this_loop() as server:
        chosen = engine(server, concurrency=32, backoff_s=0.5)
        limits = await limits_of(chosen, server, 400)
    assert chosen.limit().cuts >= 2
    assert chosen.limit().again == 0
    assert max(limits[100:]) <= 12
    assert len(server.calls) <= 1.5 * 400


def test_the_profile_says_what_the_window_was(fault_server: Any) -> None:
    with (
        fault_server.FaultServer([fault_server.Fault("status", status=503, times=1)], most=40) as server,
        fault_server.FaultServer() as other,
        halo_sql.connect(config={"halo_store": "off"}) as con,
    ):
        con.execute("CREATE TABLE t AS SELECT range AS a FROM range(30)")
        con.execute(f"CREATE MODEL one FROM '{server.url}' USING openai WITH (concurrency = 8, backoff_s = 0.01)")
        con.execute(
            f"CREATE MODEL two FROM '{server.url}' USING openai WITH (concurrency = 4, base_urls = '{other.url}')"
        )
        query = "SELECT LLM_MAP('{{ a }}', model => 'one') FROM t"
        [(_, text)] = con.execute(f"EXPLAIN ANALYZE {query}").fetchall()
        assert "\nWindow one: " in text
        assert " of at most 8 requests at once, cut once" in text
        assert server.most_in_flight <= 8
        [(_, text)] = con.execute(f"EXPLAIN (ANALYZE, FORMAT json) {query.replace('one', 'two')}").fetchall()
        windows = json.loads(text)["windows"]
        assert windows == {f"two/{number}": {"requests": 4, "most": 4, "cuts": 0} for number in (0, 1)}
        text = con.explain_batch([query, query.replace("one", "two")], analyze=True)
        assert text.count("Window one: 8 of at most 8 requests at once") >= 1
        con.execute_batch([query, query.replace("one", "two")])
        assert [sorted(each.windows) for each in con.session.profiles()[-2:]] == [["one"], ["two/0", "two/1"]]
        [(_, text)] = con.execute(f"EXPLAIN ANALYZE {query.replace('one', 'echo')}").fetchall()
        assert "Window" not in text
