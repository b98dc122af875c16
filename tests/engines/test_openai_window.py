"""The openai engine finds how many requests its server takes, and says so."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import halo_sql
from halo_sql.engines.protocol import GenResult, Limit

from .helpers import engine, on_loop, prompts


@on_loop
async def test_a_server_with_two_slots_is_not_flooded(fault_server: Any, ask_engine: Any) -> None:
    with fault_server.FaultServer(slots=(2, 0.004)) as server:
        chosen = engine(server, concurrency=32)
        limits: list[int] = []
        ended = asyncio.Event()

        def deliver(results: list[GenResult]) -> None:
            limits.extend(chosen.limit().requests for _ in results)
            if len(limits) == 900:
                ended.set()

        try:
            await chosen.start()
            assert chosen.limit() == Limit(32, 32, 0, 0)
            chosen.submit(prompts(900), deliver)
            await ended.wait()
        finally:
            await chosen.close()
    assert server.most_in_flight <= 32
    assert sorted(limits[-300:])[150] <= 14
    assert set(server.counts().values()) == {1}


@on_loop
async def test_a_server_that_refuses_from_six_on_answers_all(fault_server: Any, ask_engine: Any) -> None:
    with fault_server.FaultServer(most=6, slots=(6, 0.002)) as server:
        chosen = engine(server, concurrency=32, backoff_s=0.005)
        try:
            results = await ask_engine(chosen, prompts(300))
            limit = chosen.limit()
        finally:
            await chosen.close()
    assert [result.text for result in results] == [f"prompt {n}" for n in range(300)]
    assert limit.cuts >= 1
    assert 1 <= limit.requests <= 32
    assert limit.again == 0


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
        [(_, text)] = con.execute(f"EXPLAIN ANALYZE {query.replace('one', 'echo')}").fetchall()
        assert "Window" not in text
