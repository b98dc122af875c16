"""Shared by the engine tests: channels over a small local engine, and the openai engine at a fault server."""

from __future__ import annotations

import asyncio
import functools
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from halo_sql.engines.budget import Budget
from halo_sql.engines.dispatch import Dispatcher
from halo_sql.engines.openai import OpenAIEngine
from halo_sql.engines.protocol import (
    TEXT,
    Answer,
    Channel,
    ChannelSpec,
    Deliver,
    Engine,
    EngineInfo,
    GenRequest,
    GenResult,
    Outcome,
    estimate_tok,
    failure,
)
from halo_sql.engines.store import ResponseStore
from halo_sql.errors import EngineError
from halo_sql.ir.prompt import Sampling
from halo_sql.metrics import NodeMetrics
from halo_sql.virtual_time import VirtualTimeLoop

T = TypeVar("T")
VOLATILE = Sampling(temperature=0.7)
SHORT = Sampling(max_tokens=8)

#: The fixture ``run_engine``.
RunEngine = Callable[[Engine, Sequence[GenRequest]], list[GenResult]]


def on_loop(test: Callable[..., Coroutine[None, None, None]]) -> Callable[..., None]:
    """The test on an event loop of its own, in virtual time: deadlines do not depend on how busy the machine is."""

    @functools.wraps(test)
    def run_test(**arguments: object) -> None:
        in_virtual_time(test(**arguments))

    return run_test


def in_virtual_time(work: Coroutine[Any, Any, T]) -> T:
    """What it gives, on an event loop of its own whose clock jumps to the next timer."""
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(work)


# --- channels over a local engine


def shout(request: GenRequest) -> GenResult:
    return GenResult(request.id, request.user.upper(), "stop", estimate_tok(request.user), 0, 2)


class LocalEngine:
    """A small engine. 'inside': answers within submit; 'soon': one per turn of the loop; 'held': when told to."""

    def __init__(self, when: str = "inside", answer: Callable[[GenRequest], GenResult] = shout, **info: object) -> None:
        self.info = EngineInfo("local", **info)  # type: ignore[arg-type]
        self.when = when
        self.answer = answer
        self.seen: list[GenRequest] = []
        self.running: dict[int, tuple[GenRequest, Deliver]] = {}
        self.most = self.most_tok = 0
        self.asked = asyncio.Event()

    async def start(self) -> EngineInfo:
        return self.info

    def submit(self, requests: Sequence[GenRequest], deliver: Deliver) -> None:
        self.seen += requests
        self.asked.set()
        self.running |= {request.id: (request, deliver) for request in requests}
        self.most = max(self.most, len(self.running))
        sizes = (self.count_tok(request) + request.sampling.max_tokens for request, _ in self.running.values())
        self.most_tok = max(self.most_tok, sum(sizes))
        if self.when == "inside":
            self.release([request.id for request in requests])
        elif self.when == "soon":
            for request in requests:
                asyncio.get_running_loop().call_soon(self.release, [request.id])

    def release(self, ids: Sequence[int] | None = None) -> None:
        """Answer these, or everything that runs, in one delivery per receiver."""
        done: dict[Deliver, list[GenResult]] = {}
        for number in list(self.running) if ids is None else ids:
            if number in self.running:
                request, deliver = self.running.pop(number)
                done.setdefault(deliver, []).append(self.answer(request))
        for deliver, results in done.items():
            deliver(results)

    def abort(self, ids: Sequence[int]) -> None:
        for number in ids:
            if number in self.running:
                _, deliver = self.running.pop(number)
                deliver([failure(number, "aborted", "cancelled")])

    def count_tok(self, request: GenRequest) -> int:
        return estimate_tok(request.user)

    async def close(self) -> None:
        self.abort(list(self.running))


class Node:
    """An operator as a channel sees it."""

    def __init__(self, invalid: Sequence[str] = ()) -> None:
        self.metrics = NodeMetrics()
        self.got: dict[int, Outcome] = {}
        self.invalid = invalid
        self.then: Callable[[int, Outcome], None] = lambda number, outcome: None

    def deliver(self, outcomes: Sequence[tuple[int, Outcome]]) -> None:
        for number, outcome in outcomes:
            assert number not in self.got, "delivered twice"
            self.got[number] = outcome
        for number, outcome in outcomes:
            self.then(number, outcome)

    def validate(self, text: str, finish: str) -> EngineError | None:
        if finish == "length":
            return EngineError("cut", code="truncated")
        return EngineError("no good", code="invalid_output") if text in self.invalid else None

    async def settled(self, count: int) -> None:
        for _ in range(20_000):
            if len(self.got) >= count:
                return
            await asyncio.sleep(0.001)
        raise AssertionError(f"{len(self.got)} of {count} delivered")

    def errors(self) -> Counter[str]:
        return Counter(outcome.error.code for outcome in self.got.values() if outcome.error is not None)


class Run:
    """A dispatcher over one engine, and the channels opened on it."""

    def __init__(self, engine: LocalEngine, dispatcher: Dispatcher) -> None:
        self.engine = engine
        self.dispatcher = dispatcher

    async def node(
        self,
        system: str | None = None,
        sampling: Sampling = SHORT,
        answer: Answer = TEXT,
        cache: bool = True,
        priority: int = 0,
        ordered: bool = True,
        invalid: Sequence[str] = (),
    ) -> tuple[Node, Channel]:
        node = Node(invalid)
        spec = ChannelSpec("m", system, sampling, answer, cache, priority, ordered)
        return node, await self.dispatcher.open(spec, node.validate, node.metrics, node.deliver)


@asynccontextmanager
async def run(
    engine: LocalEngine,
    store: ResponseStore | None = None,
    budget: Budget | None = None,
    max_concurrency: int = 0,
    **options: object,
) -> AsyncIterator[Run]:
    async def engine_of(model: str) -> tuple[Engine, EngineInfo]:
        return engine, await engine.start()

    dispatcher = Dispatcher(engine_of, store, budget or Budget(), max_concurrency, **options)  # type: ignore[arg-type]
    yield Run(engine, dispatcher)
    await dispatcher.close()


def texts(node: Node) -> dict[int, str]:
    return {number: outcome.text for number, outcome in node.got.items()}


# --- the openai engine at a fault server


def engine(server: Any, **options: object) -> OpenAIEngine:
    return OpenAIEngine(server.url, {"backoff_s": 0.01, **options})


def prompts(number: int) -> list[GenRequest]:
    return [GenRequest(n, f"prompt {n}") for n in range(number)]


def error(result: GenResult) -> EngineError:
    assert result.error is not None
    return result.error
