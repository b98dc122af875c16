"""Counters of a run: one set per physical node, summed into the totals of LANGUAGE.md section 5."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING

from halo_sql.call_log import RunLog

if TYPE_CHECKING:
    from halo_sql.ir.physical import PhysicalDag


@dataclass(slots=True)
class NodeMetrics:
    """What one node did. Written by the operator that runs it, read by progress and EXPLAIN ANALYZE.

    rows, batches         produced
    self_s                time spent computing in the node itself (real, also on a virtual clock)
    wait_s                time spent waiting for inputs, engines or the consumer
    llm_calls             requests that reached an engine
    llm_calls_coalesced   answered by an equal request of this run
    llm_calls_from_store  answered by the response store
    tool_calls, tool_calls_coalesced, tool_calls_from_store  the same of tools
    rows_total            rows expected by progress so far (rows read by an LLM node)
    conversations         begun by an agent of the statement
    ended                 no more rows come
    workers               ``model/number`` -> calls that this worker answered, of models with several
    details               what else the operator tells of itself, for EXPLAIN ANALYZE: words -> number
    """

    rows: int = 0
    batches: int = 0
    self_s: float = 0.0
    wait_s: float = 0.0
    llm_calls: int = 0
    llm_calls_coalesced: int = 0
    llm_calls_from_store: int = 0
    prompt_tok: int = 0
    prompt_tok_cached: int = 0
    output_tok: int = 0
    tool_calls: int = 0
    tool_calls_coalesced: int = 0
    tool_calls_from_store: int = 0
    model_loads: int = 0
    retries: int = 0
    errors: int = 0
    usd: float = 0.0
    rows_total: int = 0
    in_flight: int = 0
    conversations: int = 0
    ended: bool = False
    workers: dict[str, int] = field(default_factory=dict)
    details: dict[str, float] = field(default_factory=dict)


#: Keys of the totals, in the order in which they are shown.
TOTAL_KEYS = (
    "llm_calls",
    "llm_calls_coalesced",
    "llm_calls_from_store",
    "prompt_tok",
    "prompt_tok_cached",
    "output_tok",
    "tool_calls",
    "tool_calls_coalesced",
    "tool_calls_from_store",
    "model_loads",
    "retries",
    "errors",
    "usd",
)


def totals(nodes: list[NodeMetrics], elapsed_s: float) -> dict[str, float]:
    """The sums over all nodes, with the query's elapsed seconds."""
    result: dict[str, float] = {key: sum(getattr(node, key) for node in nodes) for key in TOTAL_KEYS}
    result["elapsed_s"] = round(elapsed_s, 6)
    return result


def as_dict(node: NodeMetrics) -> dict[str, float]:
    """All counters of a node by name (``workers``, ``details`` and ``ended`` are none)."""
    others = ("workers", "details", "ended")
    return {item.name: getattr(node, item.name) for item in fields(node) if item.name not in others}


@dataclass(slots=True)
class Profile:
    """A finished (or failed) run: the plan, what each node did, how long it took.

    statement  the SQL text
    nodes      physical node id -> counters
    planning_s, elapsed_s  seconds from text to plan (real), and from the call to the last row
    cpu_s      processor seconds of this process in that time, whatever it did
    virtual    whether ``elapsed_s``, ``engine_s`` and the nodes' ``wait_s`` are those of a virtual clock
    engines    model name -> what the engine said of itself (identity, device)
    engine_s   model name -> seconds in which it had requests of this run
    workers    ``model/number`` -> what this worker did meanwhile, for models with several, see ``WorkerGroup``
    windows    model, or ``model/number``, of servers that tell nothing -> ``requests`` sent at once when it ended,
               ``most``, ``cuts`` meanwhile (``protocol.Limit``)
    number     1, 2, … in its connection
    replans    a sentence for each time that its placement was changed while it ran
    log        where the calls are noted for ``halo_calls()``
    """

    statement: str
    dag: PhysicalDag
    nodes: dict[int, NodeMetrics]
    planning_s: float = 0.0
    elapsed_s: float = 0.0
    status: str = "running"  # 'running' | 'done' | 'failed' | 'cancelled'
    engines: dict[str, str] = field(default_factory=dict)
    engine_s: dict[str, float] = field(default_factory=dict)
    workers: dict[str, dict[str, float]] = field(default_factory=dict)
    windows: dict[str, dict[str, float]] = field(default_factory=dict)
    number: int = 0
    log: RunLog | None = None
    cpu_s: float = 0.0
    virtual: bool = False
    replans: list[str] = field(default_factory=list)

    def totals(self) -> dict[str, float]:
        """The totals of LANGUAGE.md section 5."""
        return totals(list(self.nodes.values()), self.elapsed_s)
