"""Calls with a ``quality`` that a plan answers exactly, and why: for EXPLAIN."""

from __future__ import annotations

from collections.abc import Sequence

from halo_sql.ir.physical import LlmFilterCascadeExec, LlmFilterExec, PhysicalNode, calls_by
from halo_sql.ir.prompt import LlmCall
from halo_sql.optimizer.context import OptimizerContext


def exact_notes(nodes: Sequence[PhysicalNode], options: OptimizerContext) -> list[str]:
    """A sentence for each such call, in the order of the plan."""
    found = []
    for node in nodes:
        if isinstance(node.op, LlmFilterCascadeExec):
            continue
        for call in calls_by(node.op):
            if call.quality:
                filters = isinstance(node.op, LlmFilterExec)
                found.append(f"{call.label or call.operator} is answered exactly: {_why(call, filters, options)}")
    return found


def _why(call: LlmCall, filters: bool, options: OptimizerContext) -> str:
    if not options.enabled:
        return "the optimizer is off"
    if not options.approximate:
        return "halo_approximate is false"
    if not filters:
        return "it is not a whole condition of WHERE or of an inner join's ON"
    return f"no approximate plan is allowed and known to be cheaper than asking {call.model}"
