"""Runs of relational nodes as DuckDB queries: sources, row-wise steps, and everything that needs its whole input."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from functools import partial
from typing import Any

from halo_sql.duck import Duck, batches
from halo_sql.ir.expr import Column
from halo_sql.ir.physical import DuckFragmentExec, PhysicalNode, batch_name
from halo_sql.ir.sql import render
from halo_sql.operators.arrow_types import carried_as_text
from halo_sql.operators.context import Batches, RunContext
from halo_sql.operators.readahead import ReadAhead, gather_all
from halo_sql.operators.spool import Spool, fill, new_spool
from halo_sql.operators.temp_table import drop_all, load

ROWS_AT_ONCE = 8192  # of a row-wise step: a query costs 2 ms, 8192 rows of 1 KB another 6


def duck_fragment(node: PhysicalNode, inputs: list[Batches], ctx: RunContext) -> AsyncIterator[Any]:
    """The rows of the node's query over its inputs.

    Row-wise fragments run on a side connection, batch by batch, in order. All others run on the user's connection,
    after their inputs have ended. Raises DuckDB's errors as ours.
    """
    assert isinstance(node.op, DuckFragmentExec)
    if node.op.streaming and len(inputs) == 1:
        return _row_wise(node, inputs[0], ctx)
    return _query(node, inputs, ctx)


def _sql(node: PhysicalNode, names: Sequence[str]) -> str:
    op = node.op
    assert isinstance(op, DuckFragmentExec)
    return fragment_sql(op.tree, node.columns, names)


def fragment_sql(tree: Any, columns: Sequence[Column], names: Sequence[str]) -> str:
    """The query of a relational tree over the relations ``names``, in types that batches can hold."""
    text = render(tree, names)
    if not any(carried_as_text(column.type) for column in columns):
        return text
    items = ", ".join(_carried(column) for column in columns)
    return f"SELECT {items} FROM ({text}\n) AS q"


def _carried(column: Column) -> str:
    name = batch_name(column.id)
    return f"CAST({name} AS VARCHAR) AS {name}" if carried_as_text(column.type) else name


async def _query(node: PhysicalNode, inputs: list[Batches], ctx: RunContext) -> AsyncIterator[Any]:
    main, duck, metrics = ctx.main, ctx.duck, ctx.node_metrics(node.id)
    names = [ctx.temp_name() for _ in inputs]
    spools = await gather_all([fill(new_spool(ctx), source) for source in inputs])
    async with main.gate:
        try:
            for name, columns, spool in zip(names, ctx.input_columns(node), spools, strict=True):
                await main.call(partial(load, duck, name, columns, spool.batches(), spool.schema), metrics)
                spool.close()
            pull = await main.call(partial(_open, duck, _sql(node, names)), metrics)
            if node.id not in ctx.spooled:
                while (batch := await main.call(pull, metrics)) is not None:
                    if batch.num_rows:
                        yield batch
                return
            result = new_spool(ctx)
            await main.call(partial(_drain, pull, result), metrics)
        finally:
            await main.call(partial(drop_all, duck, names))
    for batch in result.batches():  # the connection is free for the others
        yield batch
    result.close()


def _open(duck: Duck, sql: str) -> Callable[[], Any]:
    """Run a query; the function gives its next batch, None at the end."""
    rows: Iterator[Any] = batches(duck.stream(sql))
    return lambda: next(rows, None)


def _drain(pull: Callable[[], Any], result: Spool) -> None:
    while (batch := pull()) is not None:
        if batch.num_rows:
            result.append(batch)
    result.finish()


async def _row_wise(node: PhysicalNode, source: Batches, ctx: RunContext) -> AsyncIterator[Any]:
    side, metrics = await ctx.side(), ctx.node_metrics(node.id)
    (columns,) = ctx.input_columns(node)
    name = ctx.temp_name()
    sql = _sql(node, [name])
    reader = ReadAhead(source)
    try:
        while taken := await reader.take_some(ROWS_AT_ONCE):
            reader.start()
            for batch in await side.call(partial(run_rows, side.duck, name, columns, taken, sql), metrics):
                if batch.num_rows:
                    yield batch
    finally:
        await reader.close()
        await side.call(partial(drop_all, side.duck, [name]))


def run_rows(duck: Duck, name: str, columns: Sequence[Column], taken: list[Any], sql: str) -> list[Any]:
    """The batches of a row-wise query over these batches, which become the temporary table ``name``."""
    duck.drop(name)
    load(duck, name, columns, taken, taken[0].schema)
    try:
        return list(batches(duck.stream(sql, batch_rows=ROWS_AT_ONCE)))
    finally:
        duck.release()
