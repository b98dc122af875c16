"""Shared by the tests of the desk: runners of tools that live in the test, a node that asks, a desk around them."""

from __future__ import annotations

import asyncio
import functools
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any

from halo_sql.call_log import RunLog
from halo_sql.catalog.objects import ToolDef
from halo_sql.clock import clock_s
from halo_sql.engines.budget import Budget
from halo_sql.engines.protocol import ChannelSpec, Outcome
from halo_sql.errors import EngineError
from halo_sql.ir.prompt import Sampling
from halo_sql.ir.types import BIGINT, VARCHAR, SqlType
from halo_sql.metrics import NodeMetrics
from halo_sql.tools.desk import ToolChannel, ToolDesk
from halo_sql.tools.journal import Journal
from halo_sql.tools.memory import ToolCache
from halo_sql.tools.protocol import BoundTool, Runner, ToolRequest
from halo_sql.virtual_time import VirtualTimeLoop


def on_loop(test: Callable[..., Coroutine[None, None, None]]) -> Callable[..., None]:
    """The test on an event loop of its own, in virtual time; no task may be left behind."""

    async def whole(**arguments: object) -> None:
        await test(**arguments)
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left, left

    @functools.wraps(test)
    def run_test(**arguments: object) -> None:
        with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
            runner.run(whole(**arguments))

    return run_test


def a_tool(name: str = "look", *, kind: str = "http", returns: SqlType = VARCHAR, **fields: Any) -> BoundTool:
    """A tool of one argument; the fields that are not of ToolDef are options."""
    of_tool = {key: fields.pop(key) for key in list(fields) if key in ToolDef.__dataclass_fields__}
    of_tool.setdefault("body", "https://127.0.0.1/{{n}}")
    return BoundTool(ToolDef(name, kind, options=fields, **of_tool), (("n", BIGINT),), returns)


class Called(Runner):
    """Calls an async function of the test; counts what a tool would see.

    most     calls at once
    begins   when each began (clock_s)
    """

    def __init__(self, answer: Callable[[ToolRequest], Coroutine[Any, Any, str]], start: EngineError | None = None):
        self.answer = answer
        self.problem = start
        self.starts = 0
        self.seen: list[ToolRequest] = []
        self.begins: list[float] = []
        self.running = self.most = self.cancelled = 0

    async def start(self) -> None:
        self.starts += 1
        await asyncio.sleep(0)
        if self.problem is not None:
            raise self.problem

    async def call(self, request: ToolRequest) -> str:
        self.seen.append(request)
        self.begins.append(clock_s())
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            return await self.answer(request)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.running -= 1

    async def close(self) -> None:
        pass


class Together(Called):
    """Takes many calls at once; ``sizes`` of its batches."""

    def __init__(self, answer: Callable[[ToolRequest], Coroutine[Any, Any, str]]):
        super().__init__(answer)
        self.sizes: list[int] = []

    async def call_many(self, requests: Sequence[ToolRequest]) -> list[str | EngineError]:
        self.sizes.append(len(requests))
        answers: list[str | EngineError] = []
        for request in requests:
            try:
                answers.append(await self.call(request))
            except EngineError as problem:
                answers.append(problem)
        return answers


async def echo(request: ToolRequest) -> str:
    """The arguments as the value."""
    return request.arguments


async def hang(request: ToolRequest) -> str:
    """Never."""
    await asyncio.Event().wait()
    return ""


def failing(times: int, error: Callable[[], EngineError]) -> Callable[[ToolRequest], Coroutine[Any, Any, str]]:
    """Fails so often for each arguments, then echoes."""
    failed: Counter[str] = Counter()

    async def answer(request: ToolRequest) -> str:
        failed[request.arguments] += 1
        if failed[request.arguments] <= times:
            raise error()
        return request.arguments

    return answer


async def until(condition: Callable[[], bool], within_s: float = 20.0) -> None:
    """Wait for something that the other tasks of the loop bring about."""
    end = clock_s() + within_s
    while not condition():
        assert clock_s() < end, "it did not come about"
        await asyncio.sleep(0.001)


def arguments_of(number: object) -> str:
    return json.dumps({"n": number})


def is_json(tool: BoundTool, text: str) -> EngineError | None:
    """The check of a value's type, as far as these tests need one."""
    try:
        json.loads(text)
    except ValueError:
        return EngineError(f"{tool.name} gave no JSON", code="invalid_output")
    return None


class Node:
    """An operator as a channel sees it."""

    def __init__(self, refuses: str = "nothing") -> None:
        self.metrics = NodeMetrics()
        self.got: dict[int, Outcome] = {}
        self.refuses = refuses
        self.then: Callable[[int], None] = lambda number: None

    def deliver(self, outcomes: Sequence[tuple[int, Outcome]]) -> None:
        for number, outcome in outcomes:
            assert number not in self.got, "delivered twice"
            self.got[number] = outcome
        for number, _ in outcomes:
            self.then(number)

    def validate(self, text: str, finish: str) -> EngineError | None:
        assert finish == "stop"
        return EngineError("not this one", code="invalid_output") if text == self.refuses else None

    async def settled(self, count: int, within_s: float = 20.0) -> None:
        await until(lambda: len(self.got) >= count, within_s)

    def texts(self) -> list[str]:
        assert not self.codes(), self.got
        return [self.got[number].text for number in sorted(self.got)]

    def codes(self) -> Counter[str]:
        return Counter(outcome.error.code for outcome in self.got.values() if outcome.error is not None)


class Run:
    """A desk of one tool, and channels to it."""

    def __init__(self, desk: ToolDesk, tool: BoundTool) -> None:
        self.desk = desk
        self.tool = tool

    async def node(self, refuses: str = "nothing", **spec: Any) -> tuple[Node, ToolChannel]:
        node = Node(refuses)
        asked = ChannelSpec(model="", system=None, sampling=Sampling(), tool=self.tool.name, **spec)
        return node, await self.desk.open(asked, node.validate, node.metrics, node.deliver)

    async def ask(self, numbers: Sequence[object], **spec: Any) -> Node:
        """Ask for these on a channel of their own and wait for all."""
        node, channel = await self.node(**spec)
        channel.put([(place, arguments_of(number)) for place, number in enumerate(numbers)])
        await node.settled(len(numbers))
        await channel.close()
        return node


@asynccontextmanager
async def a_desk(
    tool: BoundTool,
    runner: Runner | Callable[[BoundTool], Runner],
    *,
    cache: ToolCache | None = None,
    journal: Journal | None = None,
    budget: Budget | None = None,
    log: RunLog | None = None,
    statement: str = "SELECT 1",
    kept_bytes: int = 1 << 20,
) -> AsyncIterator[Run]:
    """A desk, closed at the end."""
    desk = ToolDesk(
        {tool.name: tool},
        runner if not hasattr(runner, "call") else lambda bound: runner,  # type: ignore[arg-type,return-value]
        cache=cache,
        journal=journal,
        budget=budget or Budget(),
        log=log,
        check=is_json,
        statement=statement,
        kept_bytes=kept_bytes,
    )
    try:
        yield Run(desk, tool)
    finally:
        await desk.close()
