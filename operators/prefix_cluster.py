"""Rows ordered by the values that lead their prompts, so that equal prefixes meet in the engine's cache."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from halo_sql.ir.physical import PhysicalNode, PrefixClusterExec, batch_name
from halo_sql.operators.context import Batches, RunContext
from halo_sql.operators.sorting import collect, sorted_batches


async def prefix_cluster(node: PhysicalNode, inputs: list[Batches], ctx: RunContext) -> AsyncIterator[Any]:
    """All rows sorted by the key columns, with the BIGINT column ``position``: the row's place in the input."""
    import pyarrow as pa

    op = node.op
    assert isinstance(op, PrefixClusterExec)
    position = batch_name(op.position.id)
    names = [batch_name(column.id) for column in node.columns]
    batches = []
    row = 0
    for batch in await collect(inputs[0], ctx):
        places = pa.array(range(row, row + batch.num_rows), pa.int64())
        row += batch.num_rows
        schema = batch.schema.append(pa.field(position, pa.int64()))
        batches.append(pa.RecordBatch.from_arrays([*batch.columns, places], schema=schema))
    if not batches:
        return
    keys = [pa.chunked_array([batch.column(batch_name(key)) for batch in batches]) for key in op.keys]
    for batch in sorted_batches(batches, keys):
        yield batch.select(names)
