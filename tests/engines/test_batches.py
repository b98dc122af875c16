"""Requests in batches: what goes together, in which order, and that each is delivered once."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from halo_sql.engines.batches import BatchQueue, halved
from halo_sql.engines.protocol import GenRequest, GenResult

from .helpers import error, on_loop


class Runner:
    """Echoes batches when told to; keeps what it saw."""

    def __init__(self, limit: int, size: int) -> None:
        self.seen: list[list[str]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.queue = BatchQueue(self.run, limit, size)
        self.got: dict[int, GenResult] = {}

    async def run(self, requests: Sequence[GenRequest]) -> list[GenResult]:
        self.seen.append([request.user for request in requests])
        await self.gate.wait()
        if any(request.user == "bug" for request in requests):
            raise KeyError("bug")
        return [GenResult(request.id, request.user) for request in reversed(requests) if request.user != "lost"]

    def submit(self, texts: Sequence[str], first: int = 0, priority: int = 0) -> None:
        requests = [GenRequest(number, text, priority=priority) for number, text in enumerate(texts, first)]
        self.queue.submit(requests, self.deliver)

    def deliver(self, results: Sequence[GenResult]) -> None:
        for result in results:
            assert result.id not in self.got, "delivered once"
            self.got[result.id] = result

    async def delivered(self, count: int) -> None:
        async with asyncio.timeout(60):
            while len(self.got) < count:  # noqa: ASYNC110 - nothing here has an event for it
                await asyncio.sleep(0)


@on_loop
async def test_what_is_submitted_in_one_step_shares_batches() -> None:
    runner = Runner(limit=1, size=3)
    for number, text in enumerate("abcde"):
        runner.submit([text], number)
    await runner.delivered(5)
    assert runner.seen == [["a", "b", "c"], ["d", "e"]]
    assert [runner.got[number].text for number in range(5)] == list("abcde")
    await runner.queue.close()


@on_loop
async def test_lower_priorities_go_first_and_no_more_than_the_limit_run() -> None:
    runner = Runner(limit=2, size=2)
    runner.gate.clear()
    runner.submit("abcdef", priority=5)
    await asyncio.sleep(0.01)
    assert runner.seen == [["a", "b"], ["c", "d"]]
    runner.submit("xyz", 10, priority=1)
    runner.gate.set()
    await runner.delivered(9)
    assert runner.seen[2:] == [["x", "y"], ["z", "e"], ["f"]]
    await runner.queue.close()


@on_loop
async def test_a_batch_is_bounded_by_its_tokens_too() -> None:
    runner = Runner(limit=1, size=100)
    runner.submit(["a" * 150_000, "b" * 200_000, "c" * 300_000, "d" * 900_000, "e"])
    await runner.delivered(5)
    assert [[text[0] for text in batch] for batch in runner.seen] == [["a", "b"], ["c"], ["d"], ["e"]]
    await runner.queue.close()


@on_loop
async def test_no_request_is_lost() -> None:
    runner = Runner(limit=1, size=2)
    runner.submit(["bug", "a", "lost", "b"])
    await runner.delivered(4)
    assert "KeyError" in error(runner.got[0]).message
    assert [error(runner.got[number]).code for number in (0, 1, 2)] == ["engine"] * 3
    assert runner.got[3].text == "b"
    await runner.queue.close()


@on_loop
async def test_an_aborted_request_does_not_stop_its_batch() -> None:
    runner = Runner(limit=1, size=2)
    runner.gate.clear()
    runner.submit("abcd")
    await asyncio.sleep(0.01)
    runner.queue.abort([0, 2, 99])
    assert runner.got == {}  # never inside abort
    await asyncio.sleep(0.01)
    assert {number: error(result).code for number, result in runner.got.items()} == {0: "cancelled", 2: "cancelled"}
    again: list[GenResult] = []
    runner.queue.submit([GenRequest(0, "A")], again.extend)  # the id of one that was aborted, whose batch still runs
    runner.gate.set()
    await asyncio.sleep(0.05)
    assert runner.seen == [["a", "b"], ["d", "A"]]
    assert (runner.got[1].text, [result.text for result in again]) == ("b", ["A"])
    await runner.queue.close()


@on_loop
async def test_halves() -> None:
    runner = Runner(limit=1, size=9)
    requests = [GenRequest(number, text) for number, text in enumerate("abc")]
    results = await halved(requests, runner.run)
    assert runner.seen == [["a"], ["b", "c"]]
    assert {result.text for result in results} == set("abc")
