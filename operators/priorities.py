"""The priorities of calls: the user's, and among equal ones the schedule's."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from halo_sql.ir.physical import (
    LlmFilterCascadeExec,
    LlmFilterExec,
    LlmMapExec,
    LlmReduceExec,
    LlmTopKExec,
    PhysicalNode,
)
from halo_sql.ir.prompt import LlmCall

#: Between two priorities of the user: room for those of a schedule.
PRIORITY_STEP = 10_000


def scheduled(node: PhysicalNode) -> PhysicalNode:
    """The node, its calls with the priority of the schedule: it counts among calls that the user has put equally."""
    op = node.op
    planned: int = getattr(op, "priority", 0)
    if not planned:
        return node

    def ranked(call: LlmCall) -> LlmCall:
        return replace(call, priority=call.priority * PRIORITY_STEP + planned)

    changed: Any
    if isinstance(op, LlmMapExec | LlmReduceExec):
        changed = replace(op, calls=tuple(map(ranked, op.calls)))
    elif isinstance(op, LlmFilterCascadeExec):
        changed = replace(op, call=ranked(op.call), proxy=ranked(op.proxy))
    else:
        assert isinstance(op, LlmFilterExec | LlmTopKExec), op
        changed = replace(op, call=ranked(op.call))
    return replace(node, op=changed)
