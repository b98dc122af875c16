"""Rows read ahead while the next one to leave waits for its answer: requests are sent in the prompts' order."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pytest

from halo_sql.engines.protocol import ChannelSpec, DeliverOutcomes, Outcome, Validate
from halo_sql.ir.expr import ColumnId
from halo_sql.ir.physical import LlmMapExec, PhysicalNode
from halo_sql.ir.prompt import Hole, LlmCall, Prompt
from halo_sql.metrics import NodeMetrics
from halo_sql.operators.llm_map import llm_map
from halo_sql.operators.llm_rows import HELD

ROWS, BATCH = 12_000, 256


class Holding:
    """Channels that answer at once, but for the rows in ``holds``, which wait for ``release``."""

    def __init__(self, holds: range) -> None:
        self.holds = holds
        self.asked = 0
        self.held: list[tuple[int, str]] = []
        self.room_tok = 0

    async def open(
        self, spec: ChannelSpec, validate: Validate, metrics: NodeMetrics, deliver: DeliverOutcomes
    ) -> Holding:
        self.deliver = deliver
        return self

    def put(self, prompts: Sequence[tuple[int, str]]) -> None:
        self.asked += len(prompts)
        self.held += [prompt for prompt in prompts if prompt[0] in self.holds]
        self.deliver([(row, Outcome(text)) for row, text in prompts if row not in self.holds])

    def release(self) -> None:
        held, self.held, self.holds = self.held, [], range(0)
        self.deliver([(row, Outcome(text)) for row, text in held])

    def count_tok(self, prompt: str) -> int:
        return len(prompt)

    async def close(self) -> None:
        pass


@pytest.mark.parametrize(
    ("lookahead", "holds", "most"),
    [
        (2048, range(1), HELD * 2048),  # all behind it are answered: the engine has nothing to do
        (2048, range(ROWS), 2048),  # it has
        (512, range(1), 512),  # a LIMIT waits for the rows
    ],
)
def test_rows_are_read_behind_one_that_waits(kit: Any, bench: Any, lookahead: int, holds: range, most: int) -> None:
    channels = Holding(holds)
    names = [kit.column(0), kit.column(1), kit.column(9)]
    call = LlmCall(ColumnId(9), "map", Prompt((Hole(ColumnId(1)),)), "m")
    node = PhysicalNode(1, LlmMapExec((call,), False, lookahead), (0,), tuple(names))
    table = pa.table({"c0": pa.array(range(ROWS), pa.int64()), "c1": [str(row) for row in range(ROWS)]})

    async def main() -> list[Any]:
        ctx = bench.context(channels)
        source = kit.Source(kit.split(table, [BATCH] * (ROWS // BATCH)))
        stream = llm_map(node, [source], ctx)
        first = asyncio.ensure_future(anext(stream))
        for _ in range(2_000):
            await asyncio.sleep(0)
        assert not first.done()
        assert most - BATCH < channels.asked <= most
        assert channels.asked <= source.read <= most
        channels.release()
        found = [await first]
        for _ in range(50):
            await asyncio.sleep(0)
        assert source.read <= found[0].num_rows + max(most, lookahead)  # a consumer that waits stops the reading
        found += [batch async for batch in stream]
        ctx.close()
        return found

    rows = kit.rows(asyncio.run(main()))
    assert [(row, text) for row, _, text in rows] == [(row, str(row)) for row in range(ROWS)]
