"""Shared by the agent tests: real engines behind a real dispatcher, small real tools, an agent desk over both."""

from __future__ import annotations

import asyncio
import functools
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from halo_sql.agents.desk import AgentDesk
from halo_sql.agents.protocol import AgentSpec, AgentTool
from halo_sql.call_log import CallLog, CallRecord, RunLog
from halo_sql.engines.budget import Budget
from halo_sql.engines.dispatch import Dispatcher
from halo_sql.engines.echo import EchoEngine
from halo_sql.engines.protocol import Channel, ChannelSpec, DeliverOutcomes, Engine, EngineInfo, Outcome, Validate
from halo_sql.engines.python import PythonEngine
from halo_sql.errors import EngineError
from halo_sql.ir.prompt import Sampling
from halo_sql.ir.types import SqlType, json_schema
from halo_sql.metrics import NodeMetrics
from halo_sql.virtual_time import VirtualTimeLoop

SAMPLING = Sampling(max_tokens=64)
Messages = list[dict[str, str]]


def on_loop(test: Callable[..., Coroutine[None, None, None]]) -> Callable[..., None]:
    """The test on an event loop of its own, in virtual time: deadlines do not depend on how busy the machine is."""

    @functools.wraps(test)
    def run_test(**arguments: object) -> None:
        with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
            runner.run(test(**arguments))

    return run_test


def check(sql_type: SqlType, text: str) -> EngineError | None:
    """Whether an answer's JSON text is a value of the type's schema."""
    import jsonschema

    try:
        jsonschema.validate(json.loads(text), json_schema(sql_type))
    except jsonschema.ValidationError as problem:
        return EngineError(problem.message, code="invalid_output")
    return None


# --- tools

Function = Callable[[dict[str, Any]], "object | Awaitable[object]"]


def schema(**properties: object) -> str:
    """A closed object of these members, all required but those whose schema says ``"optional": true``."""
    required = [name for name, inner in properties.items() if not (isinstance(inner, dict) and inner.get("optional"))]
    members = {
        name: {key: value for key, value in inner.items() if key != "optional"} if isinstance(inner, dict) else inner
        for name, inner in properties.items()
    }
    return json.dumps({"type": "object", "properties": members, "required": required, "additionalProperties": False})


TEXT = {"type": "string"}
WHOLE = {"type": "integer"}


class ToolChannel:
    """A channel to one function: calls it with the arguments, in tasks when it is a coroutine."""

    room_tok = 0

    def __init__(self, bench: Bench, name: str, deliver: DeliverOutcomes, metrics: NodeMetrics) -> None:
        self.bench = bench
        self.name = name
        self.deliver = deliver
        self.metrics = metrics
        self.tasks: set[asyncio.Task[None]] = set()
        self.puts = 0

    def count_tok(self, prompt: str) -> int:
        return len(prompt) // 4

    def put(self, prompts: Sequence[tuple[int, str]]) -> None:
        self.puts += 1
        done = []
        for number, text in prompts:
            self.bench.calls.append((self.name, text))
            self.metrics.tool_calls += 1
            function = self.bench.functions[self.name]
            if asyncio.iscoroutinefunction(function):
                task = asyncio.get_running_loop().create_task(self._later(number, function, text))
                self.tasks.add(task)
                task.add_done_callback(self.tasks.discard)
            else:
                done.append((number, self._outcome(lambda function=function, text=text: function(json.loads(text)))))
        if done:
            self.deliver(done)

    async def _later(self, number: int, function: Any, text: str) -> None:
        self.bench.running += 1
        self.bench.most = max(self.bench.most, self.bench.running)
        try:
            value = await function(json.loads(text))
            outcome = self._outcome(lambda: value)
        except EngineError as problem:
            outcome = Outcome(error=problem)
        finally:
            self.bench.running -= 1
        self.deliver([(number, outcome)])

    def _outcome(self, work: Callable[[], object]) -> Outcome:
        try:
            value = work()
        except EngineError as problem:
            return Outcome(error=problem)
        return Outcome(value.text if isinstance(value, Raw) else json.dumps(value, ensure_ascii=False))

    async def close(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


@dataclass
class Raw:
    """A result as the text that the tool's channel delivers."""

    text: str


@dataclass
class Bench:
    """The tools of a test, and every call that reached one."""

    functions: Mapping[str, Function] = field(default_factory=dict)
    calls: list[tuple[str, str]] = field(default_factory=list)
    channels: list[ToolChannel] = field(default_factory=list)
    running: int = 0
    most: int = 0


# --- the whole


class Rows:
    """A node of a plan as the desk sees it."""

    def __init__(self) -> None:
        self.metrics = NodeMetrics()
        self.got: dict[int, Outcome] = {}
        self.twice: list[int] = []

    def deliver(self, outcomes: Sequence[tuple[int, Outcome]]) -> None:
        for number, outcome in outcomes:
            if number in self.got:
                self.twice.append(number)
            self.got[number] = outcome

    async def settled(self, count: int, within_s: float = 20.0) -> None:
        for _ in range(int(within_s / 0.002)):
            if len(self.got) >= count:
                return
            await asyncio.sleep(0.002)
        raise AssertionError(f"{len(self.got)} of {count} delivered")

    def texts(self) -> dict[int, str]:
        return {number: outcome.text for number, outcome in self.got.items() if outcome.error is None}

    def code(self, number: int = 0) -> str:
        error = self.got[number].error
        return "" if error is None else error.code


class Stand:
    """A run: models, tools and agents opened by what a spec asks for."""

    def __init__(
        self, engines: Mapping[str, Engine], bench: Bench, agents: Mapping[str, AgentSpec], budget: Budget
    ) -> None:
        self.bench = bench
        self.log = CallLog()
        self.specs: list[ChannelSpec] = []
        run_log = RunLog(self.log, 1, {}, texts=True)

        async def engine_of(model: str) -> tuple[Engine, EngineInfo]:
            return engines[model], await engines[model].start()

        self.dispatcher = Dispatcher(engine_of, None, budget)
        self.desk = AgentDesk(agents, self, run_log, check=check)

    async def open(
        self, spec: ChannelSpec, validate: Validate, metrics: NodeMetrics, deliver: DeliverOutcomes
    ) -> Channel:
        self.specs.append(spec)
        if spec.agent:
            return await self.desk.open(spec, validate, metrics, deliver)
        if not spec.tool:
            return await self.dispatcher.open(spec, validate, metrics, deliver)
        channel = ToolChannel(self.bench, spec.tool, deliver, metrics)
        self.bench.channels.append(channel)
        return channel

    async def node(self, agent: str = "a", **options: Any) -> tuple[Rows, Channel]:
        rows = Rows()
        spec = ChannelSpec("", None, Sampling(), agent=agent, **options)
        return rows, await self.open(spec, lambda text, finish: None, rows.metrics, rows.deliver)

    def records(self) -> list[CallRecord]:
        return self.log.records()


@asynccontextmanager
async def stand(
    *agents: AgentSpec,
    tools: Mapping[str, Function] | None = None,
    models: Mapping[str, Callable[[Messages], Any]] | None = None,
    budget: Budget | None = None,
) -> AsyncIterator[Stand]:
    """A run over these agents. Model 'echo' is the echo engine; ``models`` are functions for the python engine."""
    engines: dict[str, Engine] = {"echo": EchoEngine()}
    engines |= {name: PythonEngine(function, {"concurrency": 64}) for name, function in (models or {}).items()}
    run = Stand(engines, Bench(tools or {}), {agent.name: agent for agent in agents}, budget or Budget())
    try:
        yield run
    finally:
        await run.desk.close()
        await run.dispatcher.close()
        for engine in engines.values():
            await engine.close()


def agent(*tools: AgentTool, **options: Any) -> AgentSpec:
    """The agent 'a' on echo."""
    return AgentSpec(**{"name": "a", "model": "echo", "sampling": SAMPLING, "tools": tools, **options})


def script(*steps: object) -> str:
    """A request that makes echo answer these steps, one after the other."""
    return json.dumps({"task": json.dumps(steps)})


def calls(*asked: tuple[str, dict[str, Any]]) -> dict[str, Any]:
    """A step of calls."""
    return {"calls": [{"tool": tool, "arguments": arguments} for tool, arguments in asked]}


def answer(value: object) -> dict[str, Any]:
    """A step that answers."""
    return {"answer": value}


async def ask(
    spec: AgentSpec,
    *requests: str,
    tools: Mapping[str, Function] | None = None,
    models: Mapping[str, Callable[[Messages], Any]] | None = None,
    **options: Any,
) -> tuple[Rows, Stand]:
    """Ask all at once; the rows and the closed run."""
    async with stand(spec, tools=tools, models=models) as run:
        rows, channel = await run.node(spec.name, **options)
        channel.put(list(enumerate(requests)))
        await rows.settled(len(requests))
    assert rows.twice == []
    return rows, run


class Scripted:
    """A model that answers the n-th step of every conversation with the n-th text (the last one again and again), or
    with what a function makes of the messages. ``prompts`` are the messages it got.
    """

    def __init__(self, *steps: object) -> None:
        self.steps = steps
        self.prompts: list[Messages] = []

    async def __call__(self, messages: Messages) -> str:
        self.prompts.append(messages)
        turn = sum(message["role"] == "assistant" for message in messages)
        step = self.steps[min(turn, len(self.steps) - 1)]
        if callable(step):
            step = step(messages)
            if asyncio.iscoroutine(step):
                step = await step
        return step if isinstance(step, str) else json.dumps(step)
