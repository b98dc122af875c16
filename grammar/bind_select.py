"""One SELECT block with LLM calls as a plan.

Calls are evaluated on the rows of FROM and WHERE. A block of plain clauses becomes Filter, LlmMap, Sort, Limit
and Project nodes that rules can move; one with aggregates, windows or anything unusual keeps its text as the
block's *tail*, a fragment over those rows with the calls' columns in the calls' places.
"""

from __future__ import annotations

from collections.abc import Sequence

from halo_sql.errors import NotSupportedError
from halo_sql.grammar.bind_from import Relations, bind_from, bind_relations, is_whole
from halo_sql.grammar.bind_groups import bind_groups, has_reduce
from halo_sql.grammar.bind_lateral import trailing_calls, with_laterals
from halo_sql.grammar.bind_plain import bind_plain, is_plain
from halo_sql.grammar.bind_tail import bind_tail
from halo_sql.grammar.bind_where import bind_where
from halo_sql.grammar.binding import Binding, BoundQuery, CteContext
from halo_sql.grammar.block import Block, Described, learn_aliases, lift, output_names, select_items
from halo_sql.grammar.called import contains_query
from halo_sql.grammar.checked import checked_fragment
from halo_sql.grammar.guards import conjuncts
from halo_sql.grammar.hoist import Hoister
from halo_sql.grammar.skeleton import Range, Select, parse_select
from halo_sql.grammar.subqueries import BindQuery, bound_subqueries


def bind_select(
    binding: Binding, block_range: Range, context: CteContext, bind_query: BindQuery, described: Described
) -> BoundQuery:
    """Bind a block; ``described`` are the names and types of its output as DuckDB tells them."""
    select = parse_select(binding.lexed, *block_range)
    clause = select.clauses.get("FROM")
    subqueries = bound_subqueries(binding, select.range, context, bind_query, clause or (0, 0))
    laterals = trailing_calls(binding, clause)
    if clause is not None and laterals:
        clause = (clause[0], laterals[0].start)
    relations = bind_relations(binding, clause, context, bind_query)
    items = select_items(binding, select)
    described = output_names(binding, items, described)
    composable = _composable(binding, select, relations, subqueries)
    if composable and (subqueries or not relations.found or _asks_below(binding, select)):
        return _composed(binding, select, context, relations, subqueries, described)
    bound_from = bind_from(binding, clause, block_range, context, relations, [lateral.alias for lateral in laterals])
    if composable and not bound_from.opened:
        return _composed(binding, select, context, relations, subqueries, described)
    if laterals:
        where = select.clauses.get("WHERE")
        conditions = [] if where is None else conjuncts(binding.lexed, where)
        bound_from = with_laterals(binding, bound_from, laterals, conditions)
    hoister = Hoister(binding, bound_from.plan_with(()), bound_from.scope, {})
    block = Block(binding, select, context, items, bound_from, hoister, subqueries)
    warned = len(binding.warnings)
    try:
        return _by_nodes(block, relations.moved, described)
    except NotSupportedError:
        if not composable:
            raise
        del binding.warnings[warned:]
        return _composed(binding, select, context, relations, subqueries, described)


def _by_nodes(block: Block, moved: Sequence[Range], described: Described) -> BoundQuery:
    """The block as nodes over the rows of FROM."""
    learn_aliases(block)
    bind_where(block, moved)
    if has_reduce(block):
        return bind_groups(block, described)
    bound = bind_plain(block, described) if is_plain(block) else None
    return bound or _tail(block, described)


def _composable(
    binding: Binding, select: Select, relations: Relations, subqueries: Sequence[tuple[Range, BoundQuery]]
) -> bool:
    """Whether a block over several relations makes no call itself: its text with the relations put in would do."""
    lexed, clause = binding.lexed, select.clauses.get("FROM")
    alone = clause is not None and len(relations.found) == 1 and not subqueries
    if alone and clause is not None and is_whole(binding, clause, relations.found[0][0]):
        return False
    bound = [*(span for span, _ in relations.found), *(lexed.span(*inner) for inner, _ in subqueries)]
    return all(
        any(span.start <= call.span.start < span.end for span in bound) for call in binding.calls_in(*select.range)
    )


def _asks_below(binding: Binding, select: Select) -> bool:
    """Whether a sub-query stands outside FROM: such an expression is best left in the user's text."""
    clauses = (part for clause, part in select.clauses.items() if clause != "FROM")
    return any(contains_query(binding.source, *part) for part in clauses)


def _composed(
    binding: Binding,
    select: Select,
    context: CteContext,
    relations: Relations,
    subqueries: Sequence[tuple[Range, BoundQuery]],
    described: Described,
) -> BoundQuery:
    """A block without calls of its own over several relations: its text with the relations that have calls put in."""
    lexed, text = binding.lexed, relations.text
    bound = [*(span for span, _ in relations.found), *(lexed.span(*inner) for inner, _ in subqueries)]
    for inner, query in subqueries:
        text.cut(lexed.span(*inner), text.query(query))
    span = lexed.span(*select.range)
    parts = text.parts(lexed.sql, span.start, span.end)
    prefix = binding.cte_prefix(" ".join(part for part in parts if isinstance(part, str)), context)
    columns = tuple(binding.new_column(name, kind) for name, kind in described)
    where = next(iter(bound), None)
    fragment = checked_fragment(binding, [prefix, *parts], columns, text.inputs, "Query", where)
    return BoundQuery(fragment, columns, "ORDER" in select.clauses)


def _tail(block: Block, described: Described) -> BoundQuery:
    select = block.select
    for clause, part in select.clauses.items():
        if clause in ("FROM", "WHERE"):
            continue
        if clause == "SELECT":
            pieces = [item.range for item in block.items]
        else:
            pieces = block.binding.lexed.items(*part) if clause in ("ORDER", "GROUP") else [part]
        for piece in pieces:
            lift(block, piece)
    if select.distinct_on is not None:
        for piece in block.binding.lexed.items(*select.distinct_on):
            lift(block, piece)
    return bind_tail(block, described)
