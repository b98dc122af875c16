"""LLM_REDUCE: one new column per call over groups, rows and order unchanged."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from halo_sql.ir.physical import LlmReduceExec, PhysicalNode
from halo_sql.operators.context import Batches, RunContext
from halo_sql.operators.folding import Folding
from halo_sql.operators.llm_map import row_by_row


def llm_reduce(node: PhysicalNode, inputs: list[Batches], ctx: RunContext) -> AsyncIterator[Any]:
    """Input columns and one column per call, in the order of ``node.columns``; as many rows (groups) as read.

    A NULL or empty list of items gives NULL. Raises EngineError for the first failing group of a call with on_error
    'fail'; a group fails when one of its requests does, or when one of its items does not fit the model's context.
    """
    op = node.op
    assert isinstance(op, LlmReduceExec)
    return row_by_row(node, op, False, inputs[0], ctx, Folding)
