"""One SELECT block with LLM calls as a plan.

Calls are evaluated on the rows of FROM and WHERE. A block of plain clauses becomes Filter, LlmMap, Sort, Limit
and Project nodes that rules can move; one with aggregates, windows or anything unusual keeps its text as the
block's *tail*, a fragment over those rows with the calls' columns in the calls' places.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from halo_sql.errors import BinderError, Error, NotSupportedError
from halo_sql.grammar.bind_from import BindQuery, BoundFrom, Relations, bind_from, bind_relations, is_whole
from halo_sql.grammar.bind_tail import bind_tail
from halo_sql.grammar.binding import Binding, BoundQuery, CteContext
from halo_sql.grammar.calls import CallSite
from halo_sql.grammar.expressions import grouping, resolved, typed
from halo_sql.grammar.guards import split_words
from halo_sql.grammar.hoist import Hoister
from halo_sql.grammar.skeleton import Range, Select, identifier, parse_select, starts_query
from halo_sql.grammar.texts import merged, narrowed
from halo_sql.ir.expr import SqlExpr, column_expr
from halo_sql.ir.logical import Filter, Fragment, Limit, LogicalPlan, Project, Sort, SortKey
from halo_sql.ir.types import SqlType
from halo_sql.ir.walk import output_columns

Described = Sequence[tuple[str, SqlType]]
SHADOW_MARK = "CAST(NULL AS"


@dataclass(frozen=True, slots=True)
class Item:
    """A SELECT item: the expression's token range, its alias ('' when none), whether it is ``*`` or ``t.*``."""

    range: Range
    alias: str
    star: str | None = None  # '' for *, 't' for t.*


@dataclass(slots=True)
class Block:
    """A SELECT block on its way to a plan."""

    binding: Binding
    select: Select
    context: CteContext
    items: list[Item]
    bound_from: BoundFrom
    hoister: Hoister
    subqueries: list[tuple[Range, BoundQuery]]


def bind_select(
    binding: Binding, block_range: Range, context: CteContext, bind_query: BindQuery, described: Described
) -> BoundQuery:
    """Bind a block; ``described`` are the names and types of its output as DuckDB tells them."""
    select = parse_select(binding.lexed, *block_range)
    subqueries = _subqueries(binding, select, context, bind_query)
    relations = bind_relations(binding, select.clauses.get("FROM"), context, bind_query)
    composed = _composed(binding, select, context, relations, subqueries, described)
    if composed is not None:
        return composed
    bound_from = bind_from(binding, select.clauses.get("FROM"), block_range, context, relations)
    items = _items(binding, select)
    described = _named(binding, items, described)
    hoister = Hoister(binding, bound_from.plan_with(()), bound_from.scope, {})
    block = Block(binding, select, context, items, bound_from, hoister, subqueries)
    hoister.aliases = _aliases(block)
    _where(block)
    return _plain(block, described) if _is_plain(block) else _tail(block, described)


def _composed(
    binding: Binding,
    select: Select,
    context: CteContext,
    relations: Relations,
    subqueries: Sequence[tuple[Range, BoundQuery]],
    described: Described,
) -> BoundQuery | None:
    """A block without calls of its own over several relations: its text with the relations that have calls put in."""
    lexed, clause = binding.lexed, select.clauses.get("FROM")
    text, found = relations.text, relations.found
    if clause is not None and len(found) == 1 and not subqueries and is_whole(binding, clause, found[0][0]):
        return None
    bound = [*(span for span, _ in found), *(lexed.span(*inner) for inner, _ in subqueries)]
    for call in binding.calls_in(*select.range):
        if not any(span.start <= call.span.start < span.end for span in bound):
            return None
    for inner, query in subqueries:
        text.cut(lexed.span(*inner), text.query(query))
    span = lexed.span(*select.range)
    parts = text.parts(lexed.sql, span.start, span.end)
    prefix = binding.cte_prefix(" ".join(part for part in parts if isinstance(part, str)), context)
    columns = tuple(binding.new_column(name, kind) for name, kind in described)
    fragment = Fragment(narrowed(merged([prefix, *parts])), columns, tuple(text.inputs), "Query")
    return BoundQuery(fragment, columns, "ORDER" in select.clauses)


def _subqueries(
    binding: Binding, select: Select, context: CteContext, bind_query: BindQuery
) -> list[tuple[Range, BoundQuery]]:
    """Sub-queries with LLM calls outside FROM, bound on their own (they must not read the outer query)."""
    lexed, found = binding.lexed, []
    from_range = select.clauses.get("FROM", (0, 0))
    index = select.range[0]
    while index < select.range[1]:
        if index == from_range[0] and from_range[1] > index:
            index = from_range[1]
            continue
        if lexed.text(index) == "(" and starts_query(lexed, index + 1):
            closing = lexed.partner[index]
            if binding.tainted(index, closing + 1, context):
                try:
                    found.append(((index, closing + 1), bind_query(index + 1, closing, context)))
                except BinderError as problem:
                    if "not found" not in problem.message:
                        raise
                    raise NotSupportedError(
                        "a sub-query with an LLM call that reads columns of the outer query is not available "
                        "in this version",
                        span=problem.span or lexed.span(index, closing + 1),
                        remedy="Write it as a join.",
                    ) from None
            index = closing + 1
            continue
        index += 1
    return found


def _items(binding: Binding, select: Select) -> list[Item]:
    lexed = binding.lexed
    if "SELECT" not in select.clauses:
        return [Item((0, 0), "", star="")]
    first, end = select.clauses["SELECT"]
    pieces = lexed.split(first, end)
    if pieces and pieces[-1][0] == pieces[-1][1]:
        pieces.pop()  # a trailing comma, which DuckDB allows
    return [_item(binding, *piece) for piece in pieces]


def _item(binding: Binding, first: int, end: int) -> Item:
    lexed = binding.lexed
    if lexed.text(end - 1) == "*" and end - first == 1:
        return Item((first, end), "", star="")
    if lexed.text(end - 1) == "*" and end - first == 3 and lexed.text(first + 1) == ".":
        return Item((first, end), "", star=identifier(lexed.text(first)))
    if lexed.text(first + 1) == ":" and lexed.tokens[first].kind in ("identifier", "keyword", "string_const"):
        return Item((first + 2, end), identifier(lexed.text(first)))
    aliases = binding.source.syntax.aliases
    if end - first > 1 and (lexed.word(end - 2) == "AS" or lexed.tokens[end - 1].start in aliases):
        stop = end - 2 if lexed.word(end - 2) == "AS" else end - 1
        return Item((first, stop), identifier(lexed.text(end - 1)).strip("'"))
    return Item((first, end), "")


def _named(binding: Binding, items: Sequence[Item], described: Described) -> Described:
    """Output names: an unnamed item with a call is called by its own text, not by its shadow's."""
    unnamed = [item for item in items if not item.alias and item.star is None and binding.calls_in(*item.range)]
    marked = [index for index, (name, _) in enumerate(described) if SHADOW_MARK in name]
    names = list(described)
    for index, item in zip(marked, unnamed, strict=False):
        names[index] = (binding.duck.expression_name(binding.lexed.slice(*item.range)), described[index][1])
    return names


def _aliases(block: Block) -> dict[str, SqlExpr]:
    """Aliases of SELECT items that other expressions of the block may read (items without calls)."""
    found: dict[str, SqlExpr] = {}
    for item in block.items:
        if item.alias and item.star is None and not block.binding.calls_in(*item.range):
            expr = _resolve(block, item.range, found)
            if expr is not None and not _grouping(block, item.range):
                found.setdefault(item.alias.lower(), expr)
    return found


def _resolve(block: Block, part: Range, aliases: dict[str, SqlExpr] | None = None) -> SqlExpr | None:
    binding, hoister = block.binding, block.hoister
    return resolved(
        binding.source,
        *part,
        hoister.scope,
        binding.calls_in(*part),
        hoister.output_of,
        hoister.aliases if aliases is None else aliases,
        binding.duck,
    )


def _grouping(block: Block, part: Range) -> bool:
    """Whether a range holds an aggregate or window function of this block."""
    return bool(grouping(block.binding.source, *part, block.binding.duck))


# --- WHERE ---


def _where(block: Block) -> None:
    """Conditions in the order written; those of the user's own SQL that cannot be opened run with FROM."""
    clause = block.select.clauses.get("WHERE")
    if clause is None:
        return
    binding, hoister = block.binding, block.hoister
    conditions = _conjuncts(block, clause)
    own: list[Range] = []
    opened: list[tuple[Range, SqlExpr | None]] = []
    for condition in conditions:
        if not binding.tainted(*condition, block.context):
            expr = _resolve(block, condition)
            checked = None if expr is None else typed(binding.duck, [expr], hoister.scope.columns())
            if checked:
                opened.append((condition, checked[0]))
            else:
                own.append(condition)
        else:
            opened.append((condition, None))
    if own:
        hoister.plan = block.bound_from.plan_with(own)
    for condition, expr in opened:
        if expr is not None:
            hoister.plan = Filter(hoister.plan, expr)
        else:
            _llm_condition(block, condition)


def _conjuncts(block: Block, part: Range) -> list[Range]:
    lexed = block.binding.lexed
    first, end = part
    while lexed.text(first) == "(" and lexed.partner[first] == end - 1 and not starts_query(lexed, first + 1):
        first, end = first + 1, end - 1
    if len(split_words(lexed, first, end, "OR")) > 1:
        return [(first, end)]
    pieces = split_words(lexed, first, end, "AND")
    if len(pieces) == 1:
        return [(first, end)]
    return [conjunct for piece in pieces for conjunct in _conjuncts(block, piece)]


def _llm_condition(block: Block, condition: Range) -> None:
    binding, hoister = block.binding, block.hoister
    calls = _row_calls(block, condition)
    if len(calls) == 1 and (calls[0].first, calls[0].end) == condition and calls[0].kind == "filter":
        hoister.filter(calls[0])
        return
    hoister.lift(calls, lambda _: condition)
    if any(condition[0] <= inner[0] and inner[1] <= condition[1] for inner, _ in block.subqueries):
        _filter_by_text(block, condition)
        return
    expr = _resolve(block, condition)
    checked = None if expr is None else typed(binding.duck, [expr], output_columns(hoister.plan))
    if checked:
        hoister.plan = Filter(hoister.plan, checked[0])
    else:
        _filter_by_text(block, condition)


def _filter_by_text(block: Block, condition: Range) -> None:
    """A condition that only DuckDB can take apart, over the rows so far under the user's names."""
    binding, hoister = block.binding, block.hoister
    kept = output_columns(hoister.plan)
    plan, columns = bind_tail(
        binding,
        hoister,
        block.context,
        block.subqueries,
        select_text=("all", kept),
        where=condition,
    )
    hoister.plan = Project(plan, tuple((old, column_expr(new)) for old, new in zip(kept, columns, strict=True)))


def _row_calls(block: Block, part: Range) -> list[CallSite]:
    """The calls of a range that this block evaluates (those of sub-queries are theirs)."""
    return [
        call
        for call in block.binding.calls_in(*part)
        if not any(inner[0] <= call.first < inner[1] for inner, _ in block.subqueries)
    ]


# --- the block as nodes ---


def _is_plain(block: Block) -> bool:
    select, lexed = block.select, block.binding.lexed
    if select.distinct or select.clauses.keys() & {"GROUP", "HAVING", "QUALIFY", "WINDOW", "SAMPLE", "FETCH"}:
        return False
    if block.subqueries and any(
        not _inside(inner, select.clauses.get("WHERE", (0, 0))) for inner, _ in block.subqueries
    ):
        return False
    for clause in ("SELECT", "ORDER"):
        if clause in select.clauses and _grouping(block, select.clauses[clause]):
            return False
    for clause in ("LIMIT", "OFFSET"):
        part = select.clauses.get(clause)
        if part is not None and not (part[1] - part[0] == 1 and lexed.text(part[0]).isdigit()):
            return False
    return True


def _inside(inner: Range, outer: Range) -> bool:
    return outer[0] <= inner[0] and inner[1] <= outer[1]


def _plain(block: Block, described: Described) -> BoundQuery:
    """Project over Limit over Sort over the calls."""
    binding, hoister, select = block.binding, block.hoister, block.select
    sort_keys = _sort_keys(block)
    _lift_outputs(block)
    outputs = _outputs(block)
    if outputs is None or len(outputs) != len(described):
        return _tail(block, described)
    keys: list[SortKey] = []
    for part, modifiers in sort_keys:
        expr = _sort_expr(block, part, outputs)
        if expr is None or expr.volatile:
            return _tail(block, described)
        keys.append(SortKey(expr, modifiers))
    available = output_columns(hoister.plan)
    checked = typed(binding.duck, [*outputs, *(key.expr for key in keys)], available)
    if checked is None:
        return _tail(block, described)
    exprs = [replace(expr, type=kind) for expr, (_, kind) in zip(checked, described, strict=False)]
    keys = [replace(key, expr=expr) for key, expr in zip(keys, checked[len(exprs) :], strict=True)]
    plan: LogicalPlan = hoister.plan
    if keys:
        plan = Sort(plan, tuple(keys))
    count, offset = _number(block, "LIMIT"), _number(block, "OFFSET")
    if count is not None or offset:
        plan = Limit(plan, count, offset or 0)
    columns = tuple(binding.new_column(name, kind) for name, kind in described)
    return BoundQuery(
        Project(plan, tuple(zip(columns, exprs, strict=True))), columns, bool(select.clauses.get("ORDER"))
    )


def _lift_outputs(block: Block) -> None:
    for item in block.items:
        if item.star is None:
            block.hoister.lift(_row_calls(block, item.range), lambda _, part=item.range: part)  # type: ignore[misc]
    for part, _ in _sort_keys(block):
        block.hoister.lift(_row_calls(block, part), lambda _, part=part: part)  # type: ignore[misc]


def _outputs(block: Block) -> list[SqlExpr] | None:
    exprs: list[SqlExpr] = []
    aliases = dict(block.hoister.aliases)
    for item in block.items:
        if item.star is not None:
            columns = block.hoister.scope.star(item.star or None)
            if columns is None:
                return None
            exprs += [column_expr(column) for column in columns]
            continue
        expr = _resolve(block, item.range, aliases)
        if expr is None:
            return None
        exprs.append(expr)
        if item.alias:
            aliases.setdefault(item.alias.lower(), expr)
    return exprs


def _sort_keys(block: Block) -> list[tuple[Range, str]]:
    """Each ORDER BY key's expression and the words behind it (ASC, DESC, NULLS FIRST, NULLS LAST)."""
    part = block.select.clauses.get("ORDER")
    if part is None:
        return []
    lexed, keys = block.binding.lexed, []
    for first, end in lexed.split(*part):
        stop = end
        while stop > first + 1 and lexed.word(stop - 1) in ("ASC", "DESC", "NULLS", "FIRST", "LAST"):
            stop -= 1
        keys.append(((first, stop), lexed.slice(stop, end) if stop < end else ""))
    return keys


def _sort_expr(block: Block, part: Range, outputs: Sequence[SqlExpr]) -> SqlExpr | None:
    lexed = block.binding.lexed
    text = lexed.text(part[0])
    if part[1] - part[0] == 1:
        if text.isdigit():
            position = int(text)
            return outputs[position - 1] if 0 < position <= len(outputs) else None
        named = [index for index, item in enumerate(block.items) if item.alias.lower() == identifier(text).lower()]
        if len(named) == 1 and not any(item.star is not None for item in block.items[: named[0]]):
            return outputs[named[0]]
        if lexed.word(part[0]) == "ALL":
            return None
    aliases = dict(block.hoister.aliases)
    position = 0
    for item in block.items:
        if item.star is not None:
            position += len(block.hoister.scope.star(item.star or None) or ())
            continue
        if item.alias:
            aliases.setdefault(item.alias.lower(), outputs[position])
        position += 1
    return _resolve(block, part, aliases)


def _number(block: Block, clause: str) -> int | None:
    part = block.select.clauses.get(clause)
    return None if part is None else int(block.binding.lexed.text(part[0]))


# --- the block as text ---


def _tail(block: Block, described: Described) -> BoundQuery:
    select, hoister = block.select, block.hoister
    for clause, part in select.clauses.items():
        if clause in ("FROM", "WHERE"):
            continue
        pieces = block.binding.lexed.split(*part) if clause in ("SELECT", "ORDER", "GROUP") else [part]
        for piece in pieces:
            calls = _row_calls(block, piece)
            try:
                hoister.lift(calls, lambda _, piece=piece: piece)  # type: ignore[misc]
            except Error as problem:
                if problem.span is None and calls:
                    problem.span = calls[0].origin()
                raise
    start = block.select.range[0]
    before = block.select.clauses.get("SELECT", (start, start))[0]
    for call in block.binding.calls_in(start, before):  # DISTINCT ON (…)
        hoister.lift([call], lambda _: (start, before))
    plan, columns = bind_tail(
        block.binding,
        hoister,
        block.context,
        block.subqueries,
        select_text=("block", described),
        block=select,
    )
    return BoundQuery(plan, columns, "ORDER" in select.clauses)
