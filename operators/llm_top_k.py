"""ORDER BY LLM_RANK: the rows that meet a criterion best or least, in order."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from halo_sql.ir.physical import LlmTopKExec, PhysicalNode
from halo_sql.operators.context import Batches, RunContext
from halo_sql.operators.graded import graded
from halo_sql.operators.tournament import tournament


def llm_top_k(node: PhysicalNode, inputs: list[Batches], ctx: RunContext) -> AsyncIterator[Any]:
    """``count`` rows after ``offset`` in the order of their ranks, columns as ``node.columns``.

    Rows of equal rank stay in input order; rows without a rank (a NULL hole; with on_error 'null' a failed call) stand
    together at the end ``nulls_first`` says. Reads its whole input. Raises EngineError for the first failing row or
    comparison of a call with on_error 'fail'.
    """
    op = node.op
    assert isinstance(op, LlmTopKExec)
    return (graded if op.method == "score" else tournament)(node, op, inputs[0], ctx)
