"""A worker without weights: a prefix cache, a pace, a size, and a death whenever a test wants one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from halo_sql.engines.protocol import Deliver, EngineInfo, GenRequest, GenResult, estimate_prompt_tok, failure
from halo_sql.engines.router import Router
from halo_sql.errors import EngineError


class FakeWorker:
    """Answers after ``delay_s`` with the prompt in capitals, while it lives. Its cache never forgets.

    fail_starts  so many of its first starts fail
    poison       a request with this in it kills it
    storage      chunks that workers leave to each other; None: nothing is shared
    """

    def __init__(
        self,
        delay_s: float = 0.0,
        *,
        fail_starts: int = 0,
        start_s: float = 0.0,
        poison: str = "\0",
        storage: set[int] | None = None,
        info: EngineInfo | None = None,
        can_sleep: bool = False,
    ) -> None:
        self.info = info or EngineInfo("fake", window_requests=8, device="cpu")
        self.delay_s, self.start_s, self.fail_starts, self.poison = delay_s, start_s, fail_starts, poison
        self.can_sleep = can_sleep
        self.alive = self.asleep = self.closed = False
        self.starts = self.deaths = self.sleeps = self.wakes = self.closes = 0
        self.seen: list[GenRequest] = []
        self.running: dict[int, tuple[GenRequest, Deliver, asyncio.TimerHandle]] = {}
        self.cache: set[int] = set()
        self.on_lost: Callable[[EngineError], None] | None = None
        self._storage = storage
        self._chain = Router(1).chain

    async def start(self) -> EngineInfo:
        self.starts += 1
        await asyncio.sleep(self.start_s)
        if self.starts <= self.fail_starts:
            raise EngineError(f"start {self.starts} failed", code="unavailable")
        self.alive = True
        return self.info

    async def describe(self) -> EngineInfo | None:
        return None

    def submit(self, requests: Sequence[GenRequest], deliver: Deliver) -> None:
        assert not self.asleep, "nobody asks a sleeper"
        if not self.alive:
            deliver([failure(request.id, "the worker is dead", "unavailable") for request in requests])
            return
        self.seen += requests
        loop = asyncio.get_running_loop()
        for request in requests:
            assert request.id not in self.running
            timer = loop.call_later(self.delay_s, self._answer, request.id)
            self.running[request.id] = (request, deliver, timer)
        if any(self.poison in request.user for request in requests):
            loop.call_soon(self.die)

    def _answer(self, number: int) -> None:
        request, deliver, _ = self.running.pop(number)
        cached = moved = 0
        for chunk, tok in self._chain(request):
            if chunk in self.cache:
                cached += tok
            elif request.fetch and self._storage is not None and chunk in self._storage:
                cached += tok
                moved += tok
            self.cache.add(chunk)
            if request.keep_chars and self._storage is not None:
                self._storage.add(chunk)
        prompt_tok = estimate_prompt_tok(request)
        answer = GenResult(number, request.user.upper(), "stop", prompt_tok, cached, 2, prompt_tok_moved=moved)
        deliver([answer])

    def die(self) -> None:
        """As a crash: everything in flight fails, the cache is gone."""
        if not self.alive:
            return
        self.alive = False
        self.deaths += 1
        self.cache.clear()
        self._fail("unavailable")
        if self.on_lost is not None:
            self.on_lost(EngineError("the worker died", code="unavailable"))

    def _fail(self, code: str) -> None:
        running, self.running = self.running, {}
        for number, (_, deliver, timer) in running.items():
            timer.cancel()
            deliver([failure(number, "the worker died", code)])

    def abort(self, ids: Sequence[int]) -> None:
        for number in ids:
            if number in self.running:
                _, deliver, timer = self.running.pop(number)
                timer.cancel()
                deliver([failure(number, "aborted", "cancelled")])

    def count_tok(self, request: GenRequest) -> int:
        return estimate_prompt_tok(request)

    async def sleep(self) -> None:
        assert not self.running
        self.asleep = True
        self.sleeps += 1
        self.cache.clear()

    async def wake(self) -> None:
        self.asleep = False
        self.wakes += 1

    async def close(self) -> None:
        self.closes += 1
        self.alive, self.closed = False, True
        self._fail("cancelled")
