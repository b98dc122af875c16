"""Stacks of calls and expressions, made by hand or by chance."""

from __future__ import annotations

import asyncio
import random
import zlib
from collections import Counter
from dataclasses import replace
from typing import Any

from halo_sql.ir.expr import Column, ColumnId, ColumnRef, SqlExpr
from halo_sql.ir.logical import Filter, Fragment, Project
from halo_sql.ir.physical import (
    DuckFragmentExec,
    Input,
    LlmFilterExec,
    LlmMapExec,
    PhysicalDag,
    PhysicalNode,
    RowGraphExec,
    SelectExec,
)
from halo_sql.ir.prompt import Hole, LlmCall, Prompt
from halo_sql.ir.types import BIGINT, BOOLEAN, VARCHAR
from halo_sql.metrics import NodeMetrics
from halo_sql.operators.build import build
from halo_sql.optimizer.pipeline import row_graphs

from .conftest import Bench, LocalChannels, echo, rows


def source(count: int, text: str = "'r' || i") -> PhysicalNode:
    found = (Column(ColumnId(0), "i", BIGINT), Column(ColumnId(1), "t", VARCHAR))
    return PhysicalNode(
        0, DuckFragmentExec(Fragment((f"SELECT i, {text} FROM range({count}) t(i)",), found)), (), found
    )


def call(output: int, *holes: int, guard: int | None = None, **options: Any) -> LlmCall:
    pieces: list[Any] = [f"{output}("]
    for hole in holes:
        pieces += [Hole(ColumnId(hole)), ","]
    own = None if guard is None else ColumnId(guard)
    return LlmCall(ColumnId(output), "map", Prompt((*pieces, ")")), "echo", guard=own, **options)


def parts_of(text: str) -> tuple[Any, ...]:
    """A text with ``{n}`` for column n, as the parts of an expression."""
    pieces = enumerate(text.replace("}", "{").split("{"))
    parts = (ColumnRef(ColumnId(int(piece))) if index % 2 else piece for index, piece in pieces)
    return tuple(part for part in parts if part != "")


class Stack:
    """Nodes one on top of the other."""

    def __init__(self, below: PhysicalNode) -> None:
        self.nodes = [below]

    @property
    def columns(self) -> tuple[Column, ...]:
        return self.nodes[-1].columns

    def put(self, op: Any, columns: tuple[Column, ...]) -> None:
        self.nodes.append(PhysicalNode(len(self.nodes), op, (len(self.nodes) - 1,), columns))

    def ask(self, *calls: LlmCall, **options: Any) -> None:
        added = tuple(Column(each.output, f"n{each.output}", VARCHAR) for each in calls)
        failed = options.get("failed")
        more = () if failed is None else (failed.column,)
        self.put(LlmMapExec(calls, **options), (*self.columns, *added, *more))

    def judge(self, output: int, *holes: int, **options: Any) -> None:
        """An LLM filter; prompts begin with ``<output>?(``."""
        given = {key: options.pop(key) for key in ("guard", "on_error") if key in options}
        asked = call(output, *holes, **given)
        prompt = Prompt((f"{output}?(", *asked.prompt.user[1:]))
        asked = replace(asked, kind="filter", prompt=prompt, returns=BOOLEAN)
        self.put(LlmFilterExec(asked, **options), self.columns)

    def keep(self, *texts: str) -> None:
        """A fragment of filters, the first lowest, over what there is."""
        tree: Any = Input(0, self.columns)
        for text in texts:
            tree = Filter(tree, SqlExpr(parts_of(text), BOOLEAN, row_wise=True))
        self.put(DuckFragmentExec(tree, True), self.columns)

    def compute(self, *items: tuple[int, str, Any]) -> None:
        """(new column, text with ``{n}`` for column n, type) beside the columns there are."""
        leaf: Any = Input(0, self.columns)
        exprs = [(column, SqlExpr((ColumnRef(column.id),), column.type, row_wise=True)) for column in self.columns]
        for new, text, kind in items:
            expr = SqlExpr(parts_of(text), kind, row_wise=True)
            exprs.append((Column(ColumnId(new), f"n{new}", kind), expr))
        self.put(DuckFragmentExec(Project(leaf, tuple(exprs)), True), tuple(column for column, _ in exprs))

    def pick(self, *columns: int) -> None:
        known = {column.id: column for column in self.columns}
        found = [known[ColumnId(column)] for column in columns]
        self.put(SelectExec(tuple((column, column.id) for column in found)), tuple(found))

    def dag(self, graph: bool) -> PhysicalDag:
        nodes, root = row_graphs(self.nodes, len(self.nodes) - 1) if graph else (self.nodes, len(self.nodes) - 1)
        assert any(isinstance(node.op, RowGraphExec) for node in nodes) == graph
        return PhysicalDag(tuple(nodes), root)


def random_stack(seed: int, filters: bool = False, **options: Any) -> Stack:
    """Calls over calls and expressions; with ``filters`` these, too. ``options``: of all nodes with calls."""
    chance = random.Random(seed)
    stack = Stack(source(chance.choice([0, 1, 7, 60]), "CASE WHEN i % 5 > 0 THEN 't' || (i % 9) END"))
    distinct = seed % 3 == 0
    texts, guards, new = [1], [], 10
    for _ in range(chance.randint(3, 7)):
        if chance.random() < 0.5 or new == 10:
            calls = []
            for _ in range(chance.randint(1, 3)):
                holes = chance.sample(texts, min(len(texts), chance.randint(1, 2)))
                guard = chance.choice(guards) if guards and chance.random() < 0.4 else None
                calls.append(call(new, *holes, guard=guard, on_error=chance.choice(["null", "fail"])))
                new += 1
            stack.ask(*calls, distinct=distinct, **options)
            texts += [int(each.output) for each in calls]
        else:
            one, other = chance.choice(texts), chance.choice(texts)
            stack.compute(
                (new, f"{{{one}}} || '/' || length({{{other}}})", VARCHAR),
                (new + 1, f"length({{{one}}}) % 2 = 0", BOOLEAN),
                (new + 2, "'constant'", VARCHAR),
                (new + 3, "{0} + 1", BIGINT),
            )
            texts += [new, new + 2]
            guards.append(new + 1)
            new += 4
        if filters and chance.random() < 0.5:
            guard = chance.choice(guards) if guards and chance.random() < 0.3 else None
            on_error = chance.choice(["null", "fail"])
            stack.judge(new, chance.choice(texts), guard=guard, on_error=on_error, distinct=distinct, **options)
            new += 1
        if filters and chance.random() < 0.3:
            one = chance.choice(texts)
            stack.keep(*chance.sample([f"length({{{one}}}) % 4 > 0", "{0} % 7 <> 3", f"{{{one}}} IS NOT NULL"], 2))
    stack.ask(call(new, texts[-1]), **options)
    stack.ask(call(new + 1, new), **options)
    stack.pick(new + 1, 0, *texts[2:])
    return stack


def deciding(spec: Any, prompt: str) -> str:
    """Filters are answered by checksum, three of four with yes; all else is an echo."""
    if "?(" not in prompt[:5]:
        return prompt
    return "yes" if zlib.crc32(prompt.encode()) % 4 else "no"


def both(bench: Bench, stack: Stack, answer: Any = echo, seed: int = 0, window: int = 3) -> list[tuple[Any, ...]]:
    """The rows, which are those of the stack run node by node, made with the same calls."""
    outcomes = []
    for graph in (False, True):
        channels = LocalChannels(answer, window, seed)
        found = bench.rows(stack.dag(graph), channels, spool_limit_bytes=1 << 20)
        assert channels.open_now == 0
        outcomes.append((found, channels.asked))
    assert outcomes[0][0] == outcomes[1][0]
    assert set(outcomes[0][1]) == set(outcomes[1][1])
    if not any(getattr(node.op, "distinct", False) for node in stack.nodes):  # how many rows ask together is open
        assert Counter(outcomes[0][1]) == Counter(outcomes[1][1])
    return outcomes[1][0]


class Gated(LocalChannels):
    """Answers at once, except prompts that contain a word: they wait for ``gate``."""

    async def reached(self, met: Any) -> None:
        """Wait until ``met()`` holds, looking after each put."""
        self.news = asyncio.Event()
        while not met():
            self.news.clear()
            await self.news.wait()

    def __init__(self, word: str, answer: Any = echo) -> None:
        super().__init__(answer)
        self.word = word
        self.gate, self.news = asyncio.Event(), asyncio.Event()
        self.held: list[str] = []

    async def open(self, spec: Any, validate: Any, metrics: NodeMetrics, deliver: Any) -> Any:
        channel = await super().open(spec, validate, metrics, deliver)
        put = channel.put

        async def later(held: list[tuple[int, str]]) -> None:
            await self.gate.wait()
            put(held)

        def gated(prompts: Any) -> None:
            held = [pair for pair in prompts if self.word in pair[1]]
            self.held += [prompt for _, prompt in held]
            put([pair for pair in prompts if self.word not in pair[1]])
            self.news.set()
            if held:
                self.tasks.append(asyncio.create_task(later(held)))

        self.tasks: list[Any] = []
        channel.put = gated  # type: ignore[method-assign]
        return channel


def until(bench: Bench, stack: Stack, channels: Gated, met: Any) -> list[tuple[Any, ...]]:
    """The rows; the gate is opened when ``met()`` holds, which is waited for."""

    async def main() -> list[tuple[Any, ...]]:
        channels.gate = asyncio.Event()
        ctx = bench.context(channels)
        stream = build(stack.dag(True), ctx)

        async def drain() -> list[tuple[Any, ...]]:
            return rows([batch async for batch in stream])

        task = asyncio.create_task(drain())
        try:
            async with asyncio.timeout(20):
                await channels.reached(met)
                channels.gate.set()
                return await task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await stream.aclose()
            ctx.close()

    return asyncio.run(main())
