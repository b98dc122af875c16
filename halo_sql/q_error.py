"""How far estimates were from what happened."""

from __future__ import annotations

from collections.abc import Mapping

from halo_sql.ir.estimate import Estimate
from halo_sql.ir.physical import PhysicalNode, ToolApplyExec, calls_by
from halo_sql.metrics import NodeMetrics, as_dict


def q_error(estimated: float, actual: float) -> float:
    """max(estimated / actual, actual / estimated), both taken as at least 1: 1 is exact (Moerkotte, Neumann and
    Steidl, VLDB 2009)."""
    low, high = sorted((max(1.0, estimated), max(1.0, actual)))
    return high / low


def node_q_errors(node: PhysicalNode, did: NodeMetrics) -> dict[str, float]:
    """Of the rows of a node and, when it makes calls, of ``call_q_errors``."""
    errors = {"rows": q_error(node.estimate.rows, did.rows)}
    if calls_by(node.op):
        tools = isinstance(node.op, ToolApplyExec)
        errors |= call_q_errors(node.estimate, as_dict(did), ("tool_calls",) if tools else ())
    return errors


def call_q_errors(expected: Estimate, did: Mapping[str, float], only: tuple[str, ...] = ()) -> dict[str, float]:
    """Of calls, prompt and output tokens. Calls answered by the store were expected too, but took no tokens: these are
    compared with the part of the estimate that the others were."""
    made, stored = did["llm_calls"], did["llm_calls_from_store"]
    sent = made / (made + stored) if made + stored else 1.0
    errors = {}
    if not only:
        errors["llm_calls"] = q_error(expected.llm_calls, made + stored)
        errors["prompt_tok"] = q_error(expected.prompt_tok * sent, did["prompt_tok"])
        errors["output_tok"] = q_error(expected.output_tok * sent, did["output_tok"])
    called = did["tool_calls"] + did["tool_calls_from_store"]
    if only or expected.tool_calls or called:
        errors["tool_calls"] = q_error(expected.tool_calls, called)
    return errors
