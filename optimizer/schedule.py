"""The order in which nodes start, and the workers that run them.

List scheduling by critical path (Graham, 1969; Hu, 1961): of the nodes whose inputs stand already, the one with the
longest way to the root comes next. Where models do not fit their device together, those that need no model to be
started come before: so the nodes of a model are neighbours as far as their inputs allow.

Where a model has several workers, ``placement`` chooses among them, and the nodes stand in the order of its schedule.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from heapq import heapify, heappop, heappush

from halo_sql.ir.physical import (
    LlmFilterCascadeExec,
    LlmFilterExec,
    LlmMapExec,
    LlmReduceExec,
    LlmTopKExec,
    PhysicalNode,
    PhysicalOp,
    calls_by,
)
from halo_sql.optimizer.context import OptimizerContext
from halo_sql.optimizer.placement.plan import has_choice, place

#: Operators that make calls.
CALLERS = (LlmMapExec, LlmFilterExec, LlmFilterCascadeExec, LlmReduceExec, LlmTopKExec)


def schedule(
    nodes: Sequence[PhysicalNode],
    root: int,
    crowded: Mapping[str, Sequence[str]] | None = None,
    options: OptimizerContext | None = None,
) -> tuple[tuple[PhysicalNode, ...], int, tuple[str, ...]]:
    """The nodes in starting order, ids renumbered to places, workers and priorities assigned; the root's new id; and
    what was planned, for EXPLAIN.

    ``nodes`` stand inputs first, ids being places. ``crowded``: device -> models that do not fit it together.
    """
    options = options or OptimizerContext()
    placed = place(nodes, options) if has_choice(nodes, options) else None
    if placed is not None:
        rest_s = [-start_s for start_s in placed.starts_s]
        crowded = None
    else:
        rest_s = _seconds_to_root(nodes)
    waiting = [len(set(node.inputs)) for node in nodes]
    consumers: list[list[int]] = [[] for _ in nodes]
    for node in nodes:
        for source in sorted(set(node.inputs)):
            consumers[source].append(node.id)
    ready = [(-rest_s[node.id], node.id) for node in nodes if not node.inputs]
    heapify(ready)
    device_of = {model: device for device, models in (crowded or {}).items() for model in models}
    there: dict[str, str] = {}  # crowded device -> the model that was asked last
    places: dict[int, int] = {}
    ordered: list[PhysicalNode] = []
    while ready:
        best = min(ready, key=lambda item: (_starts(nodes[item[1]], there, device_of), item)) if device_of else ready[0]
        if best is ready[0]:
            heappop(ready)
        else:
            ready.remove(best)
            heapify(ready)
        chosen = best[1]
        node = nodes[chosen]
        there.update((device_of[model], model) for model in _models(node) if model in device_of)
        inputs = tuple(places[source] for source in node.inputs)
        places[chosen] = len(ordered)
        if placed is None:
            op = _on_all(node.op, options)
        else:
            op = _placed(node.op, placed.workers[chosen], placed.priorities[chosen])
        ordered.append(replace(node, id=len(ordered), inputs=inputs, op=op))
        for consumer in consumers[chosen]:
            waiting[consumer] -= 1
            if not waiting[consumer]:
                heappush(ready, (-rest_s[consumer], consumer))
    return tuple(ordered), places[root], () if placed is None else placed.notes


def _models(node: PhysicalNode) -> tuple[str, ...]:
    return tuple(dict.fromkeys(call.model for call in calls_by(node.op) if call.model))


def _starts(node: PhysicalNode, there: Mapping[str, str], device_of: Mapping[str, str]) -> int:
    """How many models of crowded devices must be started for a node."""
    return sum(there.get(device_of[model]) != model for model in _models(node) if model in device_of)


def _seconds_to_root(nodes: Sequence[PhysicalNode]) -> list[float]:
    """Per node: its own seconds and those of the longest chain of consumers after it."""
    longest = [0.0] * len(nodes)
    for node in reversed(nodes):
        longest[node.id] += node.estimate.cost.gpu_s + node.estimate.cost.cpu_s
        for source in node.inputs:
            longest[source] = max(longest[source], longest[node.id])
    return longest


def _on_all(op: PhysicalOp, options: OptimizerContext) -> PhysicalOp:
    """LLM operators on all workers of their model (of each model, when a node calls several)."""
    if isinstance(op, CALLERS):
        models = dict.fromkeys(call.model for call in calls_by(op) if call.model)
        names = (f"{model}/{worker.number}" for model in models for worker in options.workers_of(model))
        return replace(op, worker=",".join(names))
    return op


def _placed(op: PhysicalOp, worker: str, priority: int) -> PhysicalOp:
    return replace(op, worker=worker, priority=priority) if isinstance(op, CALLERS) else op
