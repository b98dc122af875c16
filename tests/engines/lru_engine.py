"""An engine that does nothing but cache prefixes: blocks of tokens, the longest unused dropped, exact counters."""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from halo_sql.engines.protocol import Deliver, EngineInfo, Gauges, GenRequest, GenResult, failure

Tokenize = Callable[[GenRequest], Sequence[object]]


def by_characters(request: GenRequest) -> str:
    """A token per character, the system message in front."""
    return f"<{request.system}>{request.user}"


def four_characters(request: GenRequest) -> tuple[str, ...]:
    """A token per four characters."""
    text = f"<{request.system}>{request.user}"
    return tuple(text[place : place + 4] for place in range(0, len(text), 4))


@dataclass(slots=True)
class _Running:
    request: GenRequest
    deliver: Deliver
    blocks: list[object]
    prompt_tok: int
    cached_tok: int
    output_tok: int
    left: int


class LruEngine:
    """Computes ``batch`` requests at once, one output token of each per turn of the loop, first come first served.

    Blocks are hashed when a request is taken, as vLLM does: prompts in flight share them. A request is taken when
    its prompt and answer fit beside those running; blocks of finished ones are dropped when room is needed, the
    longest unused first, of one request the last block first.

    kv_tok      tokens that the cache holds, in blocks of ``block_tok``
    output_tok  of every answer, or a function of the request
    computed    prompt tokens computed so far, ``prompted`` prompt tokens in all
    seen        requests in the order in which they came
    idle        turns with a free place, and none waiting, since the first request
    """

    def __init__(
        self,
        kv_tok: int,
        block_tok: int = 16,
        batch: int = 8,
        output_tok: int | Callable[[GenRequest], int] = 1,
        tokenize: Tokenize = by_characters,
        window_tok: int = 0,
        identity: str = "lru",
    ) -> None:
        self.info = EngineInfo(
            identity,
            kv_capacity_tok=kv_tok // block_tok * block_tok,
            window_tok=window_tok or kv_tok,
            window_requests=2 * batch,
            batch_requests=batch,
            block_tok=block_tok,
            device="emulated",
            timed=False,
        )
        self.computed = self.prompted = self.turns = self.idle = 0
        self.seen: list[GenRequest] = []
        self._output_tok = output_tok
        self._tokenize = tokenize
        self._blocks = self.info.kv_capacity_tok // block_tok
        self._used: dict[object, int] = {}  # block -> requests that have it
        self._held: OrderedDict[object, None] = OrderedDict()  # unused, the longest first
        self._waiting: deque[tuple[GenRequest, Deliver]] = deque()
        self._running: list[_Running] = []
        self._turning = False

    async def start(self) -> EngineInfo:
        return self.info

    async def describe(self) -> EngineInfo | None:
        return self.info

    def submit(self, requests: Sequence[GenRequest], deliver: Deliver) -> None:
        self.seen += requests
        self._waiting.extend((request, deliver) for request in requests)
        if not self._turning:
            self._turning = True
            asyncio.get_running_loop().call_soon(self._turn)

    def gauges(self) -> Gauges:
        return Gauges(len(self._used) / self._blocks, len(self._running), len(self._waiting), 0)

    def abort(self, ids: Sequence[int]) -> None:
        gone = set(ids)
        waiting, self._waiting = self._waiting, deque()
        for request, deliver in waiting:
            if request.id in gone:
                deliver([failure(request.id, "aborted", "cancelled")])
            else:
                self._waiting.append((request, deliver))
        for running in [running for running in self._running if running.request.id in gone]:
            self._running.remove(running)
            self._free(running)
            running.deliver([failure(running.request.id, "aborted", "cancelled")])

    def count_tok(self, request: GenRequest) -> int:
        return len(self._tokenize(request))

    async def close(self) -> None:
        self.abort([request.id for request, _ in self._waiting] + [running.request.id for running in self._running])

    def _turn(self) -> None:
        self.turns += 1
        while self._waiting and len(self._running) < self.info.batch_requests and self._take():
            pass
        self.idle += len(self._running) < self.info.batch_requests and not self._waiting
        done: list[_Running] = []
        for running in self._running:
            running.left -= 1
            if running.left <= 0:
                done.append(running)
        self._running = [running for running in self._running if running.left > 0]
        for running in done:
            self._free(running)
        if self._running or self._waiting or done:
            asyncio.get_running_loop().call_soon(self._turn)
        else:
            self._turning = False
        for running in done:
            request = running.request
            running.deliver(
                [
                    GenResult(
                        request.id, request.user, "stop", running.prompt_tok, running.cached_tok, running.output_tok
                    )
                ]
            )

    def _take(self) -> bool:
        """Begin the first waiting request, if its blocks fit."""
        request, deliver = self._waiting[0]
        tokens, size = tuple(self._tokenize(request)), self.info.block_tok
        keys = [hash(tokens[:end]) for end in range(size, len(tokens) + 1, size)]
        wanted = self._output_tok if isinstance(self._output_tok, int) else self._output_tok(request)
        own = -(-(len(tokens) + wanted) // size) - len(keys)
        blocks: list[object] = [*keys, *(object() for _ in range(own))]
        new = sum(block not in self._used for block in blocks)
        if self._running and len(self._used) + new > self._blocks:
            return False
        self._waiting.popleft()
        # the whole prompt is never taken from the cache: the last token has to be computed
        most = (len(tokens) - 1) // size
        found = next((place for place, key in enumerate(keys) if key not in self._used and key not in self._held), None)
        cached = min(most, len(keys) if found is None else found) * size
        for block in blocks:
            self._held.pop(block, None)
            self._used[block] = self._used.get(block, 0) + 1
        while self._held and len(self._used) + len(self._held) > self._blocks:
            self._held.popitem(last=False)
        self.computed += len(tokens) - cached
        self.prompted += len(tokens)
        self._running.append(_Running(request, deliver, blocks, len(tokens), cached, wanted, wanted))
        return True

    def _free(self, running: _Running) -> None:
        for block in reversed(running.blocks):
            self._used[block] -= 1
            if not self._used[block]:
                del self._used[block]
                self._held[block] = None
