"""Columns nobody reads leave DuckDB's side of the plan, and are not spooled."""

from __future__ import annotations

from typing import Any

from halo_sql.ir.logical import (
    CteScan,
    Distinct,
    Filter,
    Fragment,
    Join,
    Limit,
    LlmTopK,
    LogicalPlan,
    Project,
    Sink,
    Sort,
)
from halo_sql.ir.walk import output_columns
from halo_sql.optimizer.nodes import is_llm, is_over_llm, pick
from halo_sql.optimizer.plan_context import PlanContext
from halo_sql.optimizer.required import Required, rewrite_down


def narrow_inputs(plan: Any, ctx: PlanContext) -> LogicalPlan | None:
    """``LLM(S) => LLM(Project[read](S))`` for a relational S, and ``Sort(LLM(X)) => Sort(Project[read](LLM(X)))``.

    Whole plan, once, after the fixpoint (other rules would take these projections away again). Safe: only
    columns that nothing above reads are left out. Not inside a run of relational nodes (DuckDB prunes there
    itself), not above SQL filters on the answers of an LLM node (rules that reorder must find them as neighbours), and
    not when every column is read::

        SELECT *, LLM_MAP('a {{ b }}') FROM t
    """
    rewritten: LogicalPlan = rewrite_down(plan, lambda node, _: node, _narrow)
    return None if rewritten is plan else rewritten


def _narrow(parent: Any, child: Any, required: Required) -> Any:
    reads_rows = is_llm(parent) or isinstance(parent, LlmTopK) or _joins_answers(parent)
    into_llm = reads_rows and isinstance(child, Fragment | Filter | Join | Sort | Limit | Distinct | CteScan)
    into_llm = into_llm and not is_over_llm(child)  # the filter and the node below it may still change places
    into_spool = isinstance(parent, Sort | Fragment | Sink) and is_llm(child)
    if not (into_llm or into_spool):
        return child
    columns = output_columns(child)
    kept = [column for column in columns if column.id in required] or list(columns[:1])
    return child if len(kept) == len(columns) else Project(child, pick(kept))


def _joins_answers(node: Any) -> bool:
    """Whether an LLM node below a join may come to stand above it."""
    return isinstance(node, Join) and any(is_llm(side) for side in node.inputs)
