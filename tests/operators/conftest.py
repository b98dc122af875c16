"""Hand-made plans, and a small real ``Channels`` that answers by a Python function."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest

from halo_sql.duck import Duck
from halo_sql.engines.protocol import ChannelSpec, DeliverOutcomes, Outcome, Validate, estimate_tok
from halo_sql.errors import EngineError
from halo_sql.ir.expr import Column, ColumnId
from halo_sql.ir.logical import Fragment
from halo_sql.ir.physical import DuckFragmentExec, PhysicalDag, PhysicalNode
from halo_sql.ir.types import BIGINT, BOOLEAN, VARCHAR, SqlType
from halo_sql.metrics import NodeMetrics
from halo_sql.operators.build import build
from halo_sql.operators.context import RunContext

Answer = Callable[[ChannelSpec, str], str | EngineError]


def echo(spec: ChannelSpec, prompt: str) -> str | EngineError:
    return prompt


class LocalChannels:
    """Answers every prompt by ``answer``, at once (window 0) or ``window`` at a time in shuffled order, turn by turn.

    room_tok  of every channel, in tokens of 4 characters

    asked     every prompt that was put, in order
    opened    specs of opened channels
    open_now  channels not closed yet
    """

    def __init__(self, answer: Answer = echo, window: int = 0, seed: int = 0, room_tok: int = 0) -> None:
        self.answer = answer
        self.window = window
        self.room_tok = room_tok
        self.random = random.Random(seed)
        self.asked: list[str] = []
        self.opened: list[ChannelSpec] = []
        self.open_now = 0

    async def open(
        self, spec: ChannelSpec, validate: Validate, metrics: NodeMetrics, deliver: DeliverOutcomes
    ) -> LocalChannel:
        await asyncio.sleep(0)
        self.opened.append(spec)
        self.open_now += 1
        return LocalChannel(self, spec, validate, metrics, deliver)


class LocalChannel:
    def __init__(
        self,
        owner: LocalChannels,
        spec: ChannelSpec,
        validate: Validate,
        metrics: NodeMetrics,
        deliver: DeliverOutcomes,
    ) -> None:
        self.owner, self.spec, self.validate, self.metrics, self.deliver = owner, spec, validate, metrics, deliver
        self.queue: list[tuple[int, str]] = []
        self.task: asyncio.Task[None] | None = None
        self.closed = False
        self.room_tok = owner.room_tok

    def count_tok(self, prompt: str) -> int:
        return estimate_tok(prompt)

    def outcome(self, prompt: str) -> Outcome:
        found = self.owner.answer(self.spec, prompt)
        problem = found if isinstance(found, EngineError) else self.validate(found, "stop")
        if problem is None:
            assert isinstance(found, str)
            return Outcome(found)
        self.metrics.errors += 1
        return Outcome(error=problem)

    def put(self, prompts: Sequence[tuple[int, str]]) -> None:
        assert not self.closed
        self.owner.asked += [prompt for _, prompt in prompts]
        self.metrics.llm_calls += len(prompts)
        if not self.owner.window:
            self.deliver([(number, self.outcome(prompt)) for number, prompt in prompts])
            return
        self.queue += prompts
        if self.task is None:
            self.task = asyncio.create_task(self.work())

    async def work(self) -> None:
        while self.queue:
            await asyncio.sleep(0)
            self.owner.random.shuffle(self.queue)
            now, self.queue = self.queue[: self.owner.window], self.queue[self.owner.window :]
            self.deliver([(number, self.outcome(prompt)) for number, prompt in now])
        self.task = None

    async def close(self) -> None:
        if not self.closed:
            self.closed = True
            self.owner.open_now -= 1
            if self.task is not None:
                self.task.cancel()
                await asyncio.gather(self.task, return_exceptions=True)


class Source:
    """A stream of given batches; ``read`` counts the rows handed out."""

    def __init__(self, batches: Sequence[Any]) -> None:
        self.batches = list(batches)
        self.read = 0
        self.closed = False

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        await asyncio.sleep(0)
        if self.closed or not self.batches:
            raise StopAsyncIteration
        batch = self.batches.pop(0)
        self.read += batch.num_rows
        return batch

    async def aclose(self) -> None:
        self.closed = True


def column(number: int, kind: SqlType = VARCHAR, name: str = "") -> Column:
    return Column(ColumnId(number), name or f"n{number}", kind)


def query(number: int, sql: str, columns: Sequence[Column]) -> PhysicalNode:
    """A source node."""
    return PhysicalNode(number, DuckFragmentExec(Fragment((sql,), tuple(columns))), (), tuple(columns))


def dag(*nodes: PhysicalNode) -> PhysicalDag:
    return PhysicalDag(nodes, nodes[-1].id)


def split(table: Any, sizes: Sequence[int]) -> list[Any]:
    """A table as batches of these sizes (the last takes what is left), zero-row ones included."""
    batches, start = [], 0
    whole = table.combine_chunks()
    schema = table.schema
    for size in [*sizes, table.num_rows]:
        piece = whole.slice(start, size)
        start += piece.num_rows
        batches += piece.to_batches() or [pa.RecordBatch.from_pylist([], schema=schema)]
    return batches


def rows(batches: Sequence[Any]) -> list[tuple[Any, ...]]:
    return [row for batch in batches for row in zip(*(item.to_pylist() for item in batch.columns), strict=True)]


async def drain(stream: Any) -> list[Any]:
    return [batch async for batch in stream]


class Bench:
    """One DuckDB connection to run plans on."""

    def __init__(self) -> None:
        self.duck = Duck.connect(":memory:", False, {})

    def context(self, channels: Any = None, **options: Any) -> RunContext:
        return RunContext(self.duck, channels or LocalChannels(), **options)

    def run(self, plan: PhysicalDag, channels: Any = None, **options: Any) -> list[Any]:
        """All batches of a plan; afterwards nothing may be left behind."""

        async def main() -> list[Any]:
            ctx = self.context(channels, **options)
            stream = build(plan, ctx)
            try:
                return await drain(stream)
            finally:
                await stream.aclose()
                ctx.close()

        try:
            return asyncio.run(main())
        finally:
            self.assert_clean()

    def rows(self, plan: PhysicalDag, channels: Any = None, **options: Any) -> list[tuple[Any, ...]]:
        return rows(self.run(plan, channels, **options))

    def assert_clean(self) -> None:
        assert self.duck.rows("SELECT table_name FROM duckdb_tables() WHERE table_name LIKE '__halo%'") == []


@pytest.fixture(scope="session")
def kit() -> SimpleNamespace:
    """The helpers of this file."""
    return SimpleNamespace(
        LocalChannels=LocalChannels, Source=Source, column=column, query=query, dag=dag, split=split, rows=rows,
        drain=drain, BIGINT=BIGINT, BOOLEAN=BOOLEAN, VARCHAR=VARCHAR,
    )  # fmt: skip


@pytest.fixture
def bench() -> Any:
    made = Bench()
    yield made
    made.duck.close()
