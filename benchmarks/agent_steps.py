"""What the loop of an agent costs beside its model and its tools: processor time per step and row, calls of tools.

    python benchmarks/agent_steps.py [rows]

Every row asks the echo engine for three calls of a tool with one of 20 arguments, then for an answer: four steps. The
tool answers at once. Engine, dispatcher and tool are part of the time.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Sequence

from report import finish, show, verdict

from halo_sql.agents.desk import AgentDesk
from halo_sql.agents.protocol import AgentSpec, AgentTool
from halo_sql.engines.budget import Budget
from halo_sql.engines.dispatch import Dispatcher
from halo_sql.engines.echo import EchoEngine
from halo_sql.engines.protocol import Channel, ChannelSpec, DeliverOutcomes, Engine, EngineInfo, Outcome, Validate
from halo_sql.ir.prompt import Sampling
from halo_sql.metrics import NodeMetrics

TURNS = 3
STEPS = 4
DISTINCT = 20
GOAL_MS = 1.0
SCHEMA = '{"type":"object","properties":{"n":{"type":"integer"}},"required":["n"],"additionalProperties":false}'


class LookUp:
    """A channel to a tool that answers equal arguments once."""

    room_tok = 0

    def __init__(self, deliver: DeliverOutcomes) -> None:
        self.deliver = deliver
        self.known: dict[str, Outcome] = {}
        self.asked = 0

    def count_tok(self, prompt: str) -> int:
        return len(prompt) // 4

    def put(self, prompts: Sequence[tuple[int, str]]) -> None:
        self.asked += len(prompts)
        outcomes = []
        for number, text in prompts:
            if text not in self.known:
                self.known[text] = Outcome(json.dumps({"orders": [{"id": n, "text": text} for n in range(10)]}))
            outcomes.append((number, self.known[text]))
        self.deliver(outcomes)

    async def close(self) -> None:
        pass


class Run:
    """Opens models at a dispatcher, tools as ``LookUp``."""

    def __init__(self) -> None:
        engine = EchoEngine()

        async def engine_of(model: str) -> tuple[Engine, EngineInfo]:
            return engine, await engine.start()

        self.dispatcher = Dispatcher(engine_of, None, Budget())
        self.look_up: LookUp | None = None

    async def open(
        self, spec: ChannelSpec, validate: Validate, metrics: NodeMetrics, deliver: DeliverOutcomes
    ) -> Channel:
        if spec.tool:
            self.look_up = LookUp(deliver)
            return self.look_up
        return await self.dispatcher.open(spec, validate, metrics, deliver)


def request(row: int, distinct: int) -> str:
    asked = [{"tool": "look_up", "arguments": {"n": (row + step * 7) % distinct}} for step in range(STEPS - 1)]
    return json.dumps({"task": json.dumps([*asked, {"answer": f"row {row}"}])})


async def measure(rows: int, distinct: int) -> tuple[float, int, int]:
    """Milliseconds of processor time per step and row; calls that were asked for, and distinct ones."""
    tool = AgentTool("look_up", "The orders of a customer", SCHEMA)
    agent = AgentSpec("a", "echo", "Be brief.", "Judge the customer.", tools=(tool,), sampling=Sampling(max_tokens=64))
    run = Run()
    desk = AgentDesk({"a": agent}, run, check=lambda sql_type, text: None)
    done = asyncio.Event()
    got: dict[int, Outcome] = {}

    def deliver(outcomes: Sequence[tuple[int, Outcome]]) -> None:
        got.update(outcomes)
        if len(got) == rows:
            done.set()

    asked = [(row, request(row, distinct)) for row in range(rows)]
    metrics = NodeMetrics()
    channel = await desk.open(ChannelSpec("", None, Sampling(), agent="a"), lambda text, end: None, metrics, deliver)
    began = time.process_time()
    channel.put(asked)
    await done.wait()
    spent_s = time.process_time() - began
    await desk.close()
    await run.dispatcher.close()
    assert all(outcome.text == json.dumps(f"row {row}") for row, outcome in got.items())
    assert metrics.llm_calls == rows * STEPS
    assert run.look_up is not None
    return 1000 * spent_s / (rows * STEPS), run.look_up.asked, len(run.look_up.known)


def main(arguments: Sequence[str]) -> None:
    rows = int(arguments[0]) if arguments else 1_000
    table = []
    all_reached = True
    for count in (rows // 10, rows, rows * 10):
        runs = [asyncio.run(measure(count, DISTINCT)) for _ in range(TURNS)]
        cost_ms = min(run[0] for run in runs)
        reached = cost_ms <= GOAL_MS
        all_reached &= reached
        line = [f"{cost_ms:.3f}", f"{GOAL_MS:g}", f"{runs[0][1]:,}", f"{runs[0][2]:,}", verdict(reached)]
        table.append([f"{count:,} rows × {STEPS} steps", *line])
    show("agents on echo", ["", "cpu ms per step and row", "goal", "tool calls", "distinct", ""], table)
    finish(all_reached)


if __name__ == "__main__":
    main(sys.argv[1:])
