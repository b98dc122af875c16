"""The physical DAG: operators by id, edges by id, estimates beside them. Frozen; run-time state lives elsewhere.

Between operators flow Arrow RecordBatches whose columns are named ``c<id>`` (``batch_name``).
"""

from __future__ import annotations

from dataclasses import dataclass

from halo_sql.ir.estimate import NOTHING_EXPECTED, Estimate
from halo_sql.ir.expr import Column, ColumnId, SqlExpr
from halo_sql.ir.logical import Ask, DemandPart, LogicalPlan
from halo_sql.ir.prompt import LlmCall
from halo_sql.quick import quick_init


def batch_name(column: ColumnId) -> str:
    """The name of a column in the batches between operators and in generated SQL."""
    return f"c{column}"


@dataclass(frozen=True, slots=True)
class Input:
    """Leaf of a fragment's tree: the rows of the operator's ``index``-th input."""

    index: int
    columns: tuple[Column, ...]


@dataclass(frozen=True, slots=True)
class DuckFragmentExec:
    """A run of relational nodes as one DuckDB query.

    tree       relational logical nodes over ``Input`` leaves (``halo_sql.ir.sql`` renders it)
    streaming  row-wise (filters and projections of built-in functions over one input): runs batch by batch;
               otherwise its inputs are spooled first
    """

    tree: LogicalPlan | Input
    streaming: bool = False


@dataclass(frozen=True, slots=True)
class SelectExec:
    """Columns picked and reordered without computing anything (no DuckDB involved)."""

    columns: tuple[tuple[Column, ColumnId], ...]  # (output column, input column)


@dataclass(frozen=True, slots=True)
class Deferral:
    """What the failures of an operator's calls wait for: conditions that, as written, come before the calls.

    column   BIGINT column that the operator adds: the number of the row's failure in the run; NULL where none failed
    filters  calls of LLM filters above the operator
    conditions  predicates of relational filters and joins above it
    """

    column: Column
    filters: tuple[LlmCall, ...] = ()
    conditions: tuple[SqlExpr, ...] = ()


@quick_init
@dataclass(frozen=True, slots=True)
class LlmMapExec:
    """Streams batches through LLM calls: one request per distinct rendered prompt, rows leave in input order.

    distinct    rows with equal arguments are grouped before prompts are rendered
    lookahead   rows that may be read ahead of the first unfinished one (bounds the calls under a LIMIT)
    worker      engine workers, as placed by the schedule: ``model/number``, separated by commas
    priority    of its calls among those that have the same one of the user, by the schedule: lower is earlier
    by_turn     a failing row ends the query when all rows before it have been handed on (under a LIMIT), not at once
    failed      rows whose call with on_error 'fail' failed are passed on, marked; None: they end the query
    """

    calls: tuple[LlmCall, ...]
    distinct: bool = False
    lookahead: int = 4096
    worker: str = ""
    priority: int = 0
    by_turn: bool = False
    failed: Deferral | None = None


@dataclass(frozen=True, slots=True)
class ToolApplyExec(LlmMapExec):
    """Streams batches through calls of tools: one call per distinct arguments unless the tool is volatile.

    join_from  per call: how many calls of a query that are there together are run as one join; 0: it is no query, or
               nothing is known of it
    joined     per call: whether so many are expected
    """

    join_from: tuple[int, ...] = ()
    joined: tuple[bool, ...] = ()


@dataclass(frozen=True, slots=True)
class AgentApplyExec(LlmMapExec):
    """Streams batches through agents: all rows' conversations advance together, finished rows leave in order."""


@dataclass(frozen=True, slots=True)
class RowGraphExec:
    """Runs the ``depth`` nodes below it, one on top of the other, as one graph: each row advances on its own.

    A call of a row is made as soon as the values that it reads are there and the row has passed the filters below it;
    rows overtake one another inside and leave in order. The nodes stay in the DAG for their estimates and counters.

    lookahead  rows that may be read ahead of the first unfinished one
    by_turn    as in LlmMapExec; equal in all nodes
    made       calls of one row
    longest    of these, those on the longest path: each reads what the one before gave
    seconds    expected of the nodes on the slowest path; the nodes' own costs add up to more where calls overlap
    """

    depth: int
    lookahead: int = 4096
    by_turn: bool = False
    made: int = 0
    longest: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class LlmReduceExec:
    """Streams groups through their calls: one request per group, or a tree of requests for a group too large for one.

    variant    'one shot' | 'tree fold': what the plan expects; the model's context decides for each group
    items      inputs expected per group
    fan_in     items expected per request
    levels     levels of requests expected
    lookahead  groups that may be read ahead of the first unfinished one
    by_turn, failed  as in LlmMapExec
    """

    calls: tuple[LlmCall, ...]
    variant: str = "one shot"
    items: float = 1.0
    fan_in: float = 1.0
    levels: int = 1
    lookahead: int = 4096
    worker: str = ""
    priority: int = 0
    by_turn: bool = False
    failed: Deferral | None = None


@dataclass(frozen=True, slots=True)
class LlmTopKExec:
    """The rows that meet a criterion best (or least), in order; rows of equal rank in input order.

    method       'score' (one grade per row) | 'tournament' (comparisons of ``fan_in`` rows each)
    descending   best first
    nulls_first  rows without a rank come before the others
    """

    call: LlmCall
    method: str
    descending: bool
    nulls_first: bool = False
    count: int | None = None
    offset: int = 0
    fan_in: int = 2
    lookahead: int = 4096
    worker: str = ""
    priority: int = 0


@dataclass(frozen=True, slots=True)
class LlmFilterExec:
    """Streams batches through one yes/no call and keeps the rows answered yes.

    by_turn, failed  as in LlmMapExec
    passing          columns of deferrals: rows marked there stay, whatever is answered
    """

    call: LlmCall
    distinct: bool = False
    lookahead: int = 4096
    worker: str = ""
    priority: int = 0
    by_turn: bool = False
    failed: Deferral | None = None
    passing: tuple[ColumnId, ...] = ()


@dataclass(frozen=True, slots=True)
class SettleExec:
    """The rows before the first whose failure waited; then that failure ends the query. Drops the columns.

    deferrals  those whose conditions have all been tested, the earliest operator first
    calls      whose failures they hold
    """

    deferrals: tuple[Deferral, ...]
    calls: tuple[LlmCall, ...] = ()


@dataclass(frozen=True, slots=True)
class LlmFilterCascadeExec:
    """Reads all its rows, lets a proxy decide where a sample of the call's answers shows that it may be trusted, and
    asks the call for the others. Precision and recall are at least ``call.quality``, with 95 % confidence together.

    proxy  the proxy's call: kind 'score' (the same prompt), or 'classify' (the prompt without ``label``, once for all
           labels; which, is seen in the rows)
    label  of kind 'classify': the hole that is left open
    draws  rows expected to be drawn for the sample
    """

    call: LlmCall
    proxy: LlmCall
    label: ColumnId | None = None
    draws: int = 0
    worker: str = ""
    priority: int = 0


@dataclass(frozen=True, slots=True)
class DemandExec:
    """Rounds of a query with calls in its text: run it, ask what it missed, until nothing is missing.

    columns  its output
    write    statement run at the end in its place
    pinned   all rounds are one transaction
    unsteady two rounds come before the first call, which must miss the same
    """

    parts: tuple[DemandPart, ...]
    columns: tuple[Column, ...]
    asks: tuple[Ask, ...]
    label: str = "Demand"
    write: tuple[DemandPart, ...] = ()
    pinned: bool = False
    unsteady: bool = False


@dataclass(frozen=True, slots=True)
class PrefixClusterExec:
    """Rows ordered so that equal leading prompt values are neighbours; remembers the old place in ``position``.

    keys      columns in the order in which they appear in the prompt
    position  BIGINT column added: the row's place before
    """

    keys: tuple[ColumnId, ...]
    position: Column


@dataclass(frozen=True, slots=True)
class RestoreOrderExec:
    """Rows sorted back by ``position``, which is dropped."""

    position: ColumnId


@dataclass(frozen=True, slots=True)
class LimitExec:
    """At most ``count`` rows after ``offset``; closes its input when it has them."""

    count: int | None
    offset: int = 0


@dataclass(frozen=True, slots=True)
class MaterializeExec:
    """The input's rows kept (spooled to disk past a limit) for several consumers."""


@dataclass(frozen=True, slots=True)
class SinkExec:
    """CREATE TABLE AS or INSERT: the input is spooled whole, then one DuckDB statement consumes it."""

    prefix: str
    suffix: str
    names: tuple[tuple[str, ColumnId], ...]
    kind: str


@dataclass(frozen=True, slots=True)
class BatchExec:
    """The statements of a batch side by side; the n-th input is the result of the n-th. Only as the root.

    statements  their numbers in the batch, for EXPLAIN
    """

    statements: tuple[int, ...]


PhysicalOp = (
    DuckFragmentExec
    | SelectExec
    | LlmMapExec
    | ToolApplyExec
    | AgentApplyExec
    | RowGraphExec
    | LlmFilterExec
    | LlmFilterCascadeExec
    | SettleExec
    | LlmReduceExec
    | LlmTopKExec
    | DemandExec
    | PrefixClusterExec
    | RestoreOrderExec
    | LimitExec
    | MaterializeExec
    | SinkExec
    | BatchExec
)


def calls_by(op: PhysicalOp) -> tuple[LlmCall, ...]:
    """The calls of models, tools and agents that an operator makes."""
    if isinstance(op, LlmMapExec | LlmReduceExec):
        return op.calls
    if isinstance(op, DemandExec):
        return tuple(ask.call for ask in op.asks)
    if isinstance(op, LlmFilterCascadeExec):
        return (op.call, op.proxy)
    return (op.call,) if isinstance(op, LlmFilterExec | LlmTopKExec) else ()


@quick_init
@dataclass(frozen=True, slots=True)
class PhysicalNode:
    """One operator of the DAG. ``inputs`` are ids of nodes that stand earlier in ``PhysicalDag.nodes``."""

    id: int
    op: PhysicalOp
    inputs: tuple[int, ...]
    columns: tuple[Column, ...]
    estimate: Estimate = NOTHING_EXPECTED


@dataclass(frozen=True, slots=True)
class PhysicalDag:
    """Nodes in a topological order (inputs first).

    root       id of the node whose rows are the result
    notes      sentences about the planning itself (a limit reached, rules disabled), for EXPLAIN
    prefixes   shared prompt prefixes planned over all LLM nodes: (text, expected calls)
    """

    nodes: tuple[PhysicalNode, ...]
    root: int
    notes: tuple[str, ...] = ()
    prefixes: tuple[tuple[str, float], ...] = ()

    def node(self, node_id: int) -> PhysicalNode:
        """The node with this id."""
        if node_id < len(self.nodes) and self.nodes[node_id].id == node_id:  # ids are places, but for parts of a DAG
            return self.nodes[node_id]
        return next(node for node in self.nodes if node.id == node_id)
