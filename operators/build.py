"""From the physical DAG to one stream: every node an operator, wrapped by ``measured``."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

from halo_sql.ir.physical import (
    AgentApplyExec,
    BatchExec,
    DemandExec,
    DuckFragmentExec,
    LimitExec,
    LlmFilterCascadeExec,
    LlmFilterExec,
    LlmMapExec,
    LlmReduceExec,
    LlmTopKExec,
    MaterializeExec,
    PhysicalDag,
    PrefixClusterExec,
    RestoreOrderExec,
    RowGraphExec,
    SelectExec,
    SettleExec,
    SinkExec,
    ToolApplyExec,
    calls_by,
)
from halo_sql.ir.row_graph import members
from halo_sql.operators.agent_apply import agent_apply
from halo_sql.operators.batch import batch
from halo_sql.operators.context import Batches, RunContext
from halo_sql.operators.demand import demand
from halo_sql.operators.duck_fragment import duck_fragment
from halo_sql.operators.limit import limit
from halo_sql.operators.llm_filter import llm_filter
from halo_sql.operators.llm_filter_cascade import llm_filter_cascade
from halo_sql.operators.llm_map import llm_map
from halo_sql.operators.llm_reduce import llm_reduce
from halo_sql.operators.llm_top_k import llm_top_k
from halo_sql.operators.materialize import Shared, materialize
from halo_sql.operators.measured import Clock, Measured
from halo_sql.operators.prefix_cluster import prefix_cluster
from halo_sql.operators.priorities import scheduled
from halo_sql.operators.restore_order import restore_order
from halo_sql.operators.row_graph import row_graph
from halo_sql.operators.select import select
from halo_sql.operators.settle import settle
from halo_sql.operators.sink import sink
from halo_sql.operators.tool_apply import tool_apply

Operator = Callable[[Any, list[Batches], RunContext], AsyncIterator[Any]]

OPERATORS: Mapping[type, Operator] = {
    DuckFragmentExec: duck_fragment,
    SelectExec: select,
    LlmMapExec: llm_map,
    ToolApplyExec: tool_apply,
    AgentApplyExec: agent_apply,
    RowGraphExec: row_graph,
    LlmFilterExec: llm_filter,
    LlmFilterCascadeExec: llm_filter_cascade,
    SettleExec: settle,
    LlmReduceExec: llm_reduce,
    LlmTopKExec: llm_top_k,
    DemandExec: demand,
    PrefixClusterExec: prefix_cluster,
    RestoreOrderExec: restore_order,
    LimitExec: limit,
    MaterializeExec: materialize,
    SinkExec: sink,
    BatchExec: batch,
}


def build(dag: PhysicalDag, ctx: RunContext) -> Batches:
    """The result of ``dag`` as a stream of RecordBatches with columns ``c<id>``; nothing runs before the first pull.
    Of a batch it is a stream of ``operators.batch.Event``.

    Closing the stream (or its end, or an error) closes every operator; ``ctx.close()`` afterwards is the caller's.
    """
    ctx.dag = dag
    ctx.spooled = must_spool(dag, ctx.querying)
    clock = Clock()
    consumers: dict[int, int] = {}
    for node in dag.nodes:
        for number in node.inputs:
            consumers[number] = consumers.get(number, 0) + 1
    streams: dict[int, Batches] = {}
    shared: dict[int, Shared] = {}

    def output(number: int) -> Batches:
        return shared[number].reader() if number in shared else streams[number]

    stacked = {node.id: members(dag, node) for node in dag.nodes if isinstance(node.op, RowGraphExec)}
    inside = {each.id for stack in stacked.values() for each in stack}
    for node in dag.nodes:
        if node.id in inside:
            ctx.node_metrics(node.id)
            continue
        read = node.inputs if node.id not in stacked else stacked[node.id][0].inputs
        inputs = [output(number) for number in read]
        if isinstance(node.op, BatchExec):
            streams[node.id] = batch(node, inputs, ctx)
            continue
        metrics = ctx.node_metrics(node.id)
        if consumers.get(node.id, 0) > 1:
            assert isinstance(node.op, MaterializeExec), f"node {node.id} has several consumers and is not materialized"
            shared[node.id] = Shared(Measured(_pass_on(inputs[0]), inputs, metrics, clock), ctx)
            continue
        streams[node.id] = Measured(OPERATORS[type(node.op)](scheduled(node), inputs, ctx), inputs, metrics, clock)
    return _Run(output(dag.root), ctx, any(_needs_settings(node.op) for node in dag.nodes))


async def _pass_on(source: Batches) -> AsyncIterator[Any]:
    """A shared node's rows on their way to the spool."""
    async for rows in source:
        yield rows


def _needs_settings(op: object) -> bool:
    if isinstance(op, LlmMapExec | LlmReduceExec):
        return any("time zone" in call.returns.text.lower() for call in op.calls)
    return isinstance(op, DuckFragmentExec) and op.streaming


def must_spool(dag: PhysicalDag, querying: frozenset[str] = frozenset()) -> frozenset[int]:
    """The fragments whose rows are drained to a spool instead of streamed from the user's connection.

    ``querying``: names of tools and agents that run queries on it; what calls them needs it while its input comes.

    DuckDB allows one open result per connection. Of two nodes that use it, one may stream if the other comes
    strictly before or after it (a node that reads waits for the end of its inputs); nodes side by side may not, as the
    statements of a batch are, nor one below a shared node, whose readers may be at different places.
    """
    users = [node for node in dag.nodes if _uses_connection(node.op)]
    if any(call.target.lower() in querying for node in dag.nodes for call in calls_by(node.op) if call.target):
        return frozenset(node.id for node in users)
    if isinstance(dag.node(dag.root).op, BatchExec):
        return frozenset(node.id for node in users)
    below: dict[int, set[int]] = {}
    shared: set[int] = set()
    for node in dag.nodes:
        below[node.id] = set(node.inputs).union(*(below[number] for number in node.inputs))
        if isinstance(node.op, MaterializeExec):
            shared |= below[node.id]
    return frozenset(
        node.id
        for node in users
        if node.id in shared
        or any(
            other.id != node.id and other.id not in below[node.id] and node.id not in below[other.id] for other in users
        )
    )


def _uses_connection(op: object) -> bool:
    return isinstance(op, SinkExec | DemandExec) or (isinstance(op, DuckFragmentExec) and not op.streaming)


class _Run:
    """The root's stream; reads the connection's settings first where an operator will need them."""

    def __init__(self, root: Batches, ctx: RunContext, needs_settings: bool) -> None:
        self._root = root
        self._ctx = ctx
        self._needs_settings = needs_settings

    def __aiter__(self) -> _Run:
        return self

    async def __anext__(self) -> Any:
        if self._needs_settings:
            await self._ctx.prepare()
            self._needs_settings = False
        return await self._root.__anext__()

    async def aclose(self) -> None:
        """Close every operator; idempotent."""
        await self._root.aclose()
