"""LLM_FILTER in a WHERE: the rows whose call answers yes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

from halo_sql.ir.physical import LlmFilterExec, PhysicalNode, batch_name
from halo_sql.operators.context import Batches, RunContext
from halo_sql.operators.convert import Converter
from halo_sql.operators.llm_rows import answered


async def llm_filter(node: PhysicalNode, inputs: list[Batches], ctx: RunContext) -> AsyncIterator[Any]:
    """The input's rows answered yes, in order; NULL, no and (with on_error other than 'fail') failed rows go.

    Raises EngineError for the first failing row of a call with on_error 'fail'.
    """
    op = node.op
    assert isinstance(op, LlmFilterExec)
    converter = Converter(op.call, ctx.text_cast)
    names = [batch_name(column.id) for column in node.columns]
    rows = answered([op.call], op.distinct, op.lookahead, inputs[0], ctx.node_metrics(node.id), ctx)
    async with aclosing(rows) as pieces:  # type: ignore[type-var]
        async for piece in pieces:
            kept = piece.batch.select(names).filter(converter.verdicts(piece.texts[0]))
            if kept.num_rows:
                yield kept
