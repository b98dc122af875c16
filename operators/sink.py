"""CREATE TABLE AS and INSERT: the input is computed whole, then one DuckDB statement consumes it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial
from typing import Any

from halo_sql.duck import Duck
from halo_sql.ir.expr import quote
from halo_sql.ir.physical import PhysicalNode, SinkExec, batch_name
from halo_sql.operators.context import Batches, RunContext
from halo_sql.operators.spool import fill, new_spool
from halo_sql.operators.temp_table import drop_all, load


async def sink(node: PhysicalNode, inputs: list[Batches], ctx: RunContext) -> AsyncIterator[Any]:
    """One batch with one BIGINT: the rows written (named as the node's column, else ``Count``).

    All or nothing: no row is written before every row of the input is there, and one statement writes them.
    """
    import pyarrow as pa

    op = node.op
    assert isinstance(op, SinkExec)
    main, duck, metrics = ctx.main, ctx.duck, ctx.node_metrics(node.id)
    (columns,) = ctx.input_columns(node)
    name = ctx.temp_name()
    items = ", ".join(f"{batch_name(column)} AS {quote(shown)}" for shown, column in op.names)
    statement = f"{op.prefix} (SELECT {items} FROM temp.{quote(name)}) {op.suffix}"
    spool = await fill(new_spool(ctx), inputs[0])
    async with main.gate:
        try:
            await main.call(partial(load, duck, name, columns, spool.batches(), spool.schema), metrics)
            spool.close()
            written = await main.call(partial(_write, duck, statement), metrics)
        finally:
            await main.call(partial(drop_all, duck, [name]))
    shown = batch_name(node.columns[0].id) if node.columns else "Count"
    yield pa.RecordBatch.from_arrays([pa.array([written], pa.int64())], names=[shown])


def _write(duck: Duck, statement: str) -> int:
    rows = duck.rows(statement)
    return int(rows[0][0]) if rows and rows[0] else 0
