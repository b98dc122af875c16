"""LLM_MAP: one new column per call, rows and order unchanged."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from typing import Any

from halo_sql.ir.physical import Deferral, LlmMapExec, LlmReduceExec, PhysicalNode, batch_name
from halo_sql.ir.prompt import LlmCall
from halo_sql.operators.asking import Asking
from halo_sql.operators.context import Batches, RunContext
from halo_sql.operators.convert import Converter
from halo_sql.operators.llm_rows import AnsweredRows, answered
from halo_sql.operators.settle import marks


def llm_map(node: PhysicalNode, inputs: list[Batches], ctx: RunContext) -> AsyncIterator[Any]:
    """Input columns and one column per call, in the order of ``node.columns``; as many rows as read.

    Raises EngineError for the first failing row of a call with on_error 'fail'; with ``failed`` such rows are marked.
    """
    op = node.op
    assert isinstance(op, LlmMapExec)
    return row_by_row(node, op, op.distinct, inputs[0], ctx)


def row_by_row(
    node: PhysicalNode,
    op: LlmMapExec | LlmReduceExec,
    distinct: bool,
    source: Batches,
    ctx: RunContext,
    kind: type[Asking] = Asking,
) -> AsyncIterator[Any]:
    """The rows of ``source`` with the answers of the operator's calls."""
    metrics, defer = ctx.node_metrics(node.id), op.failed is not None
    rows = answered(op.calls, distinct, op.lookahead, source, metrics, ctx, kind, op.by_turn, defer)
    return _with_answers(node, op.calls, op.failed, rows, ctx)


async def _with_answers(
    node: PhysicalNode,
    calls: Sequence[LlmCall],
    failed: Deferral | None,
    rows: AsyncIterator[AnsweredRows],
    ctx: RunContext,
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
            if failed is not None:
                new[batch_name(failed.column.id)] = marks(piece.failed, piece.batch.num_rows, ctx)
            schema = piece.batch.schema
            arrays = [new[name] if name in new else piece.batch.column(name) for name in names]
            fields = [pa.field(name, new[name].type) if name in new else schema.field(name) for name in names]
            yield pa.RecordBatch.from_arrays(arrays, schema=pa.schema(fields))
