"""LLM_FILTER in a WHERE: the rows whose call answers yes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

from halo_sql.ir.physical import LlmFilterExec, PhysicalNode, batch_name
from halo_sql.operators.context import Batches, RunContext
from halo_sql.operators.convert import Converter
from halo_sql.operators.llm_rows import answered
from halo_sql.operators.settle import marks


async def llm_filter(node: PhysicalNode, inputs: list[Batches], ctx: RunContext) -> AsyncIterator[Any]:
    """The input's rows answered yes, in order; NULL, no and (with on_error other than 'fail') failed rows go.

    Raises EngineError for the first failing row of a call with on_error 'fail'; with ``failed`` such rows stay, marked.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    op = node.op
    assert isinstance(op, LlmFilterExec)
    converter = Converter(op.call, ctx.text_cast)
    failed = None if op.failed is None else batch_name(op.failed.column.id)
    names = [name for column in node.columns if (name := batch_name(column.id)) != failed]
    passing = [batch_name(column) for column in op.passing]
    metrics, defer = ctx.node_metrics(node.id), op.failed is not None
    rows = answered([op.call], op.distinct, op.lookahead, inputs[0], metrics, ctx, by_turn=op.by_turn, pass_on=defer)
    async with aclosing(rows) as pieces:  # type: ignore[type-var]
        async for piece in pieces:
            batch, keep = piece.batch.select(names), converter.verdicts(piece.texts[0])
            stays = [piece.batch.column(name) for name in passing]
            if failed is not None:
                stays.append(marks(piece.failed, batch.num_rows, ctx))
                schema = batch.schema.append(pa.field(failed, pa.int64()))
                batch = pa.RecordBatch.from_arrays([*batch.columns, stays[-1]], schema=schema)
            for column in stays:
                keep = pc.or_kleene(keep, pc.is_valid(column))
            kept = batch.filter(keep)
            if kept.num_rows:
                yield kept
