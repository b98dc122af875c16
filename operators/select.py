"""Columns picked and reordered; no value is computed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from halo_sql.ir.physical import PhysicalNode, SelectExec, batch_name
from halo_sql.operators.context import Batches, RunContext


async def select(node: PhysicalNode, inputs: list[Batches], ctx: RunContext) -> AsyncIterator[Any]:
    """The input's rows with the columns of the node, in its order, under its ids; one may stand several times."""
    import pyarrow as pa

    op = node.op
    assert isinstance(op, SelectExec)
    pairs = [(batch_name(column.id), batch_name(source)) for column, source in op.columns]
    async for batch in inputs[0]:
        arrays = [batch.column(source) for _, source in pairs]
        fields = [batch.schema.field(source).with_name(name) for name, source in pairs]
        yield pa.RecordBatch.from_arrays(arrays, schema=pa.schema(fields))
