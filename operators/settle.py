"""Failures that waited for conditions: kept beside their rows, raised when the rows have passed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any

from halo_sql.errors import EngineError
from halo_sql.ir.physical import PhysicalNode, SettleExec, batch_name
from halo_sql.operators.context import Batches, RunContext


async def settle(node: PhysicalNode, inputs: list[Batches], ctx: RunContext) -> AsyncIterator[Any]:
    """The input's rows without the columns of the deferrals, up to the first row marked there.

    Raises that row's EngineError when the row after the last good one is asked for: under a LIMIT perhaps never.
    """
    op = node.op
    assert isinstance(op, SettleExec)
    names = [batch_name(column.id) for column in node.columns]
    marks = [batch_name(deferral.column.id) for deferral in op.deferrals]
    async for batch in inputs[0]:
        found = [(row, number) for number, name in enumerate(marks) if (row := _first_marked(batch.column(name))) >= 0]
        if not found:
            yield batch.select(names)
            continue
        row, number = min(found)
        if row:
            yield batch.select(names).slice(0, row)
        raise ctx.failures[batch.column(marks[number])[row].as_py()]


def _first_marked(column: Any) -> int:
    """The place of the first value that is not NULL; -1: there is none."""
    if column.null_count == len(column):
        return -1
    return int(column.is_valid().index(True).as_py())


def marks(failed: Mapping[int, EngineError], rows: int, ctx: RunContext) -> Any:
    """A deferral's column for ``rows`` rows: int64, the failure's number in ``ctx.failures``, NULL where none is."""
    import pyarrow as pa

    numbers: list[int | None] = [None] * rows
    for row in sorted(failed):
        numbers[row] = len(ctx.failures)
        ctx.failures.append(failed[row])
    return pa.array(numbers, pa.int64())
