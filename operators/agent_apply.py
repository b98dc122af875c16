"""AGENT: one new column per call of an agent, rows and order unchanged."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from halo_sql.ir.physical import AgentApplyExec, PhysicalNode
from halo_sql.operators.context import Batches, RunContext
from halo_sql.operators.llm_map import row_by_row


def agent_apply(node: PhysicalNode, inputs: list[Batches], ctx: RunContext) -> AsyncIterator[Any]:
    """Input columns and one column per call, in the order of ``node.columns``; as many rows as read.

    Conversations of up to ``lookahead`` rows are under way at once. Raises EngineError for the first failing row of a
    call with on_error 'fail'.
    """
    op = node.op
    assert isinstance(op, AgentApplyExec)
    return row_by_row(node, op, op.distinct, inputs[0], ctx)
