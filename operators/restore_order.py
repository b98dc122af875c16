"""Rows back in the order they had before PrefixCluster."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from halo_sql.ir.physical import PhysicalNode, RestoreOrderExec, batch_name
from halo_sql.operators.context import Batches, RunContext
from halo_sql.operators.sorting import collect, sorted_batches


async def restore_order(node: PhysicalNode, inputs: list[Batches], ctx: RunContext) -> AsyncIterator[Any]:
    """All rows sorted by the position column, without it."""
    import pyarrow as pa

    op = node.op
    assert isinstance(op, RestoreOrderExec)
    names = [batch_name(column.id) for column in node.columns]
    batches = await collect(inputs[0], ctx)
    if not batches:
        return
    places = pa.chunked_array([batch.column(batch_name(op.position)) for batch in batches])
    for batch in sorted_batches([batch.select(names) for batch in batches], [places]):
        yield batch
