"""The logical algebra: frozen nodes over column ids.

Children sit in the field ``input`` or ``inputs``; ``halo_sql.ir.walk`` reads and replaces them. No node
holds run-time state, names of tables it does not print, or anything of the optimizer's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from halo_sql.ir.expr import Column, ColumnId, SqlExpr
from halo_sql.ir.prompt import LlmCall
from halo_sql.quick import quick_init


@dataclass(frozen=True, slots=True)
class InputRef:
    """In a fragment's text: the relation produced by ``inputs[index]``, with the visible names it has there.

    Rendered as ``(SELECT <column> AS "<name>", … FROM <input>)``.
    """

    index: int
    names: tuple[tuple[str, ColumnId], ...]


@dataclass(frozen=True, slots=True)
class Fragment:
    """An opaque piece of the user's SQL: a query text, run by DuckDB as it stands.

    parts    text and references to inputs; the text is a complete query (``SELECT … FROM t``)
    columns  its output columns, by position
    inputs   plans whose results the text reads
    label    as shown by EXPLAIN (``Scan t``, ``Aggregate``)
    keys     how many columns the text groups its input by (0: the result is one row); None: it does not group
    row_wise  each row of its one input gives its own rows, whatever the others are (unnest): it runs batch by batch
    carried   (position of an output column, input column): the value is that of one of the input rows that the row is
              made of, an input row is in one row at most, and the text reads the column nowhere else
    by_position  a set operation of the inputs, column under column: a row's fate depends on its own values only
    filtered  predicates over its columns that the inputs are filtered by already
    unnested  the list of its one input whose items become its rows; None: it is not known to be that simple
    """

    parts: tuple[str | InputRef, ...]
    columns: tuple[Column, ...]
    inputs: tuple[LogicalPlan, ...] = ()
    label: str = "Fragment"
    volatile: bool = False
    keys: int | None = None
    row_wise: bool = False
    carried: tuple[tuple[int, ColumnId], ...] = ()
    by_position: bool = False
    filtered: tuple[SqlExpr, ...] = ()
    unnested: ColumnId | None = None


@dataclass(frozen=True, slots=True)
class Filter:
    """Rows of the input for which ``predicate`` is TRUE."""

    input: LogicalPlan
    predicate: SqlExpr


@quick_init
@dataclass(frozen=True, slots=True)
class Project:
    """Exactly these columns, each computed from the input's."""

    input: LogicalPlan
    exprs: tuple[tuple[Column, SqlExpr], ...]


@dataclass(frozen=True, slots=True)
class Join:
    """The combinations of the inputs' rows for which every condition is TRUE, with the columns of all inputs in order.

    kind  'inner': any number of inputs, whose order means nothing | 'left': two; a row of the first without a
          partner comes once, with NULLs | 'semi': the rows of the first that have partners, 'anti': those that have
          none, both with its columns only
    """

    inputs: tuple[LogicalPlan, ...]
    on: tuple[SqlExpr, ...] = ()
    kind: str = "inner"

    @property
    def reduces(self) -> bool:
        """Whether only the first input's columns are left."""
        return self.kind in ("semi", "anti")


@dataclass(frozen=True, slots=True)
class SortKey:
    """``modifiers`` is the user's text behind the key: '', 'DESC', 'ASC NULLS FIRST', …"""

    expr: SqlExpr
    modifiers: str = ""


@dataclass(frozen=True, slots=True)
class Sort:
    """The input's rows in the order of the keys."""

    input: LogicalPlan
    keys: tuple[SortKey, ...]


@dataclass(frozen=True, slots=True)
class Limit:
    """At most ``count`` rows after the first ``offset``, in the input's order; count None: no limit."""

    input: LogicalPlan
    count: int | None
    offset: int = 0


@dataclass(frozen=True, slots=True)
class Distinct:
    """The input without duplicate rows."""

    input: LogicalPlan


@dataclass(frozen=True, slots=True)
class CteScan:
    """One reading of a common table expression: the plan's columns under new ids.

    Equal ``cte`` numbers are one computation, however often they are read.
    """

    input: LogicalPlan
    cte: int
    name: str
    columns: tuple[Column, ...]  # by position of the plan's output


@quick_init
@dataclass(frozen=True, slots=True)
class LlmMap:
    """The input's rows with one new column per call, rows and order unchanged.

    distinct  evaluate once per distinct combination of the calls' columns (set by a rule)
    """

    input: LogicalPlan
    calls: tuple[LlmCall, ...]
    distinct: bool = False


@dataclass(frozen=True, slots=True)
class LlmReduce(LlmMap):
    """Groups, one per row, with one new column per call (kind 'reduce'): the answer over the group's inputs.

    What holds of an LlmMap holds of it: rows and their order stay, a call reads columns of its row. The prompt of
    such a call ends with an ``ItemsHole``; a group too large for one call is folded, part by part, level by level.
    """


@dataclass(frozen=True, slots=True)
class ToolApply(LlmMap):
    """The input's rows with one new column per call of a TOOL (kind 'tool'); what holds of an LlmMap holds of it."""


@dataclass(frozen=True, slots=True)
class AgentApply(LlmMap):
    """The input's rows with one new column per call of an AGENT (kind 'agent'); what holds of an LlmMap holds of it."""


#: kind of a call -> the node that makes such calls row by row; LlmMap for all others
APPLIES: Mapping[str, type[LlmMap]] = {"tool": ToolApply, "agent": AgentApply}


@dataclass(frozen=True, slots=True)
class LlmFilter:
    """The rows for which the call (kind 'filter') answers TRUE; the call's column is not kept."""

    input: LogicalPlan
    call: LlmCall
    distinct: bool = False


@dataclass(frozen=True, slots=True)
class LlmTopK:
    """The input's rows by how well they meet a criterion, ``count`` of them after the first ``offset``.

    Rows of equal rank stay in the input's order; rows without a rank (NULL hole, failed) come first or last.

    call    kind 'rank', its prompt the criterion; the call's column is not kept
    count   None: all rows, sorted
    method  'score' (a grade per row) | 'tournament' (comparisons) | '' (by cost)
    """

    input: LogicalPlan
    call: LlmCall
    descending: bool
    nulls_first: bool = False
    count: int | None = None
    offset: int = 0
    method: str = ""


@dataclass(frozen=True, slots=True)
class Sink:
    """A statement that consumes the input whole: CREATE TABLE AS, INSERT … SELECT.

    prefix, suffix  the user's text around the query; the query's place is taken by the input's rows
    """

    input: LogicalPlan
    prefix: str
    suffix: str
    names: tuple[tuple[str, ColumnId], ...]
    kind: str  # 'ctas' | 'insert'


@dataclass(frozen=True, slots=True)
class CallText:
    """In a demand's text: a call as a function of these arguments (texts; the guard first, then the holes)."""

    index: int  # of the demand's ``asks``
    arguments: tuple[tuple[DemandPart, ...], ...]


@dataclass(frozen=True, slots=True)
class GoOn:
    """In a demand's text: a condition that ends a recursion while an answer it needs is missing."""


DemandPart = str | InputRef | CallText | GoOn


@dataclass(frozen=True, slots=True)
class Ask:
    """A call whose rows only DuckDB can find, because it stands where no column can be put beside its rows.

    call       prompt and guard over the columns ``arguments``
    arguments  the function's arguments in order: the guard (BOOLEAN) if there is one, then the holes (VARCHAR)
    rank       asked when no call of a lower rank misses an answer: only then its rows are sure to be reached
    recursive  its answers decide what it is asked next
    """

    call: LlmCall
    arguments: tuple[Column, ...]
    rank: int = 0
    recursive: bool = False


@dataclass(frozen=True, slots=True)
class Demand:
    """An opaque query text with calls inside, evaluated by demand: DuckDB runs it with what answers there are and
    says which are missing; these are asked; until none is missing.

    parts    the query's text
    columns  its output columns, by position
    inputs   plans whose results the text reads
    asks     the calls in the text
    write    the text of a statement that is run once every answer is there, and gives the rows instead
    pinned   the text's value depends on the moment: all rounds see one (they are one transaction)
    counts   what ``write`` gives is the number of rows it changed
    unsteady the text holds something random: whether its prompts settle is seen before any is asked
    """

    parts: tuple[DemandPart, ...]
    columns: tuple[Column, ...]
    inputs: tuple[LogicalPlan, ...]
    asks: tuple[Ask, ...]
    label: str = "Demand"
    write: tuple[DemandPart, ...] = ()
    pinned: bool = False
    counts: bool = False
    unsteady: bool = False


LogicalPlan = (
    Fragment
    | Filter
    | Project
    | Join
    | Sort
    | Limit
    | Distinct
    | CteScan
    | LlmMap
    | LlmFilter
    | LlmTopK
    | Demand
    | Sink
)


@dataclass(frozen=True, slots=True)
class BoundStatement:
    """What the binder hands over: a plan and the result's columns in order.

    columns   output columns (name as DuckDB would give it, exact type)
    order     whether the user asked for a row order (ORDER BY at the top)
    warnings  sentences to show the user
    """

    plan: LogicalPlan
    columns: tuple[Column, ...]
    ordered: bool = False
    warnings: tuple[str, ...] = ()
