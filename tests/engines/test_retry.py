"""The breaker, the gate and the waiting times between attempts."""

from __future__ import annotations

import asyncio

from halo_sql.engines.hosted_window import HostedWindow
from halo_sql.engines.retry import Breaker, Gate, OutageError, backoff_s, retry_after_s

from .helpers import in_virtual_time


def test_breaker() -> None:
    async def main() -> None:
        breaker = Breaker(give_up_s=0.4, failures=3, probe_s=0.1)
        for _ in range(2):
            breaker.failure()
        breaker.success()
        for _ in range(2):
            breaker.failure()
        assert await breaker.enter() is False  # never three in a row
        breaker.failure()
        waiting = [asyncio.create_task(breaker.enter()) for _ in range(5)]
        await asyncio.sleep(0.15)
        assert [task.result() for task in waiting if task.done()] == [True]  # one probe
        breaker.success()
        assert sorted(await asyncio.gather(*waiting)) == [False] * 4 + [True]
        for _ in range(3):
            breaker.failure()
        waiting = [asyncio.create_task(breaker.enter()) for _ in range(8)]
        ends = await asyncio.gather(*waiting, return_exceptions=True)
        assert 1 <= ends.count(True) <= 5
        assert all(end is True or isinstance(end, OutageError) for end in ends)

    in_virtual_time(main())


def test_gate() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        window = HostedWindow(4)
        gate = Gate(window, give_up_s=1)
        assert [await gate.enter(0, None) for _ in range(4)] == [True] * 4
        start = loop.time()
        window.limit = 2
        gate.pause(0.05)
        gate.pause(0.01)  # of the same moment: the longer one holds
        for _ in range(4):
            gate.leave()
        order: list[str] = []

        async def wait(name: str, attempts: int) -> None:
            assert await gate.enter(attempts, start + 1)
            order.append(name)

        waiting = [asyncio.create_task(wait(*item)) for item in (("new", 0), ("second", 1), ("third", 2), ("new 2", 0))]
        cancelled = waiting.pop()
        await asyncio.sleep(0)
        cancelled.cancel()
        await asyncio.sleep(0.1)
        assert order == ["third", "second"]  # two places
        window.limit = 4
        gate.leave()
        await asyncio.gather(*waiting)
        assert order == ["third", "second", "new"]
        late = asyncio.create_task(gate.enter(0, None))
        assert await late
        hopeless = [asyncio.create_task(gate.enter(0, deadline)) for deadline in (None, loop.time() + 5)]
        await asyncio.sleep(0)
        gate.pause(10)
        assert await asyncio.gather(*hopeless) == [True, False]  # the first one took the last place
        assert not await gate.enter(0, None)
        gate.close()

    in_virtual_time(main())


def test_waiting_times() -> None:
    assert all(0 <= backoff_s(0.5, attempt) <= min(60, 0.5 * 2 ** (attempt - 1)) for attempt in range(1, 200))
    assert max(backoff_s(1, 50) for _ in range(50)) > 30
    assert [retry_after_s(text) for text in (None, "2", "-1", "soon", "nan", "inf")] == [
        None,
        2.0,
        0.0,
        None,
        None,
        None,
    ]
    assert retry_after_s("Wed, 21 Oct 2015 07:28:00 GMT") == 0.0
