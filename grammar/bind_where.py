"""WHERE conditions, in the order written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from halo_sql.grammar.bind_tail import filter_by_text
from halo_sql.grammar.block import Block, lift, reads_waiting, resolve, row_calls
from halo_sql.grammar.call_site import CallSite
from halo_sql.grammar.expressions import typed
from halo_sql.grammar.guards import conjuncts
from halo_sql.grammar.skeleton import Range
from halo_sql.ir.expr import SqlExpr
from halo_sql.ir.logical import Filter
from halo_sql.ir.walk import output_columns


def bind_where(block: Block, moved: Sequence[Range]) -> None:
    """Conditions in the order written, those ``moved`` from ON first; those of the user's own SQL that cannot be
    opened run with FROM."""
    clause = block.select.clauses.get("WHERE")
    binding, hoister = block.binding, block.hoister
    conditions: list[Range] = [*moved, *(conjuncts(binding.lexed, clause) if clause is not None else ())]
    plain: dict[Range, SqlExpr | None] = {}  # without calls; None: cannot be opened
    for condition in conditions:
        calls = row_calls(block, condition)
        if not binding.tainted(*condition, block.context) and not reads_waiting(block, condition, calls):
            plain[condition] = resolve(block, condition)
    checked = _checked(block, plain)
    own = [condition for condition in plain if condition not in checked]
    opened = [(condition, checked.get(condition)) for condition in conditions if condition not in own]
    if own:
        hoister.plan = block.bound_from.plan_with(own)
    filters = [call for condition, expr in opened if expr is None for call in _whole_filter(block, condition)]
    if len(filters) > 1:
        hoister.prepare(filters)
    for condition, expr in opened:
        if expr is not None:
            hoister.plan = Filter(hoister.plan, expr)
        else:
            _llm_condition(block, condition)


def _checked(block: Block, plain: Mapping[Range, SqlExpr | None]) -> dict[Range, SqlExpr]:
    """The conditions that DuckDB takes over the columns in scope, with their types: asked for at once, one by one only
    when one of them is refused."""
    found = {condition: expr for condition, expr in plain.items() if expr is not None}
    duck, columns = block.binding.duck, block.hoister.scope.columns()
    whole = typed(duck, list(found.values()), columns)
    if whole is not None:
        return dict(zip(found, whole, strict=True))
    single = {condition: typed(duck, [expr], columns) for condition, expr in found.items()}
    return {condition: exprs[0] for condition, exprs in single.items() if exprs}


def _whole_filter(block: Block, condition: Range) -> list[CallSite]:
    """The LLM_FILTER call that is the whole condition; empty when it is something else."""
    calls = row_calls(block, condition)
    whole = len(calls) == 1 and (calls[0].first, calls[0].end) == condition and calls[0].kind == "filter"
    return calls if whole else []


def _llm_condition(block: Block, condition: Range) -> None:
    binding, hoister = block.binding, block.hoister
    calls = _whole_filter(block, condition)
    if calls:
        reads_waiting(block, condition, calls, take=True)
        hoister.filter(calls[0])
        return
    lift(block, condition)
    if any(condition[0] <= inner[0] and inner[1] <= condition[1] for inner, _ in block.subqueries):
        hoister.plan = filter_by_text(block, condition)
        return
    expr = resolve(block, condition)
    checked = None if expr is None else typed(binding.duck, [expr], output_columns(hoister.plan))
    if checked:
        hoister.plan = Filter(hoister.plan, checked[0])
    else:
        hoister.plan = filter_by_text(block, condition)
