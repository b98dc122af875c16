"""LIMIT and OFFSET."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from halo_sql.ir.physical import LimitExec, PhysicalNode
from halo_sql.operators.context import Batches, RunContext


async def limit(node: PhysicalNode, inputs: list[Batches], ctx: RunContext) -> AsyncIterator[Any]:
    """At most ``count`` rows after ``offset``. The input is closed before the last batch is handed on.

    What the input has in flight (LLM requests) is so given up at once, not when the consumer asks again.
    """
    op = node.op
    assert isinstance(op, LimitExec)
    skip, left = op.offset, op.count
    if left == 0:
        return
    async for batch in inputs[0]:
        if skip >= batch.num_rows:
            skip -= batch.num_rows
            continue
        rows = batch.slice(skip)
        skip = 0
        if left is not None:
            rows = rows.slice(0, left)
            left -= rows.num_rows
            if left == 0:
                await inputs[0].aclose()
        if rows.num_rows:
            yield rows
        if left == 0:
            return
