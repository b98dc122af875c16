"""LLM_MAP: one new column per call, rows and order unchanged."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from typing import Any

from halo_sql.ir.physical import LlmMapExec, PhysicalNode, batch_name
from halo_sql.ir.prompt import LlmCall
from halo_sql.operators.context import Batches, RunContext
from halo_sql.operators.convert import Converter
from halo_sql.operators.llm_rows import AnsweredRows, answered


def llm_map(node: PhysicalNode, inputs: list[Batches], ctx: RunContext) -> AsyncIterator[Any]:
    """Input columns and one column per call, in the order of ``node.columns``; as many rows as read.

    Raises EngineError for the first failing row of a call with on_error 'fail'.
    """
    op = node.op
    assert isinstance(op, LlmMapExec)
    rows = answered(op.calls, op.distinct, op.lookahead, inputs[0], ctx.node_metrics(node.id), ctx)
    return with_answers(node, op.calls, rows, ctx)


async def with_answers(
    node: PhysicalNode, calls: Sequence[LlmCall], rows: AsyncIterator[AnsweredRows], ctx: RunContext
) -> AsyncIterator[Any]:
    """The answered rows as batches with the columns of ``node``; ``rows`` is closed at the end."""
    import pyarrow as pa

    converters = [Converter(call, ctx.text_cast) for call in calls]
    names = [batch_name(column.id) for column in node.columns]
    async with aclosing(rows) as pieces:  # type: ignore[type-var]
        async for piece in pieces:
            new = {
                batch_name(call.output): converter.to_arrow(texts, errors)
                for call, converter, texts, errors in zip(calls, converters, piece.texts, piece.errors, strict=True)
            }
            schema = piece.batch.schema
            arrays = [new[name] if name in new else piece.batch.column(name) for name in names]
            fields = [pa.field(name, new[name].type) if name in new else schema.field(name) for name in names]
            yield pa.RecordBatch.from_arrays(arrays, schema=pa.schema(fields))
