"""A block of plain clauses as nodes that rules can move: Project over Limit over Sort over the calls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from halo_sql.grammar.bind_rank import ranked_first, top_k
from halo_sql.grammar.binding import BoundQuery
from halo_sql.grammar.block import Block, Described, has_grouping, lift, lift_alike, reads_waiting, resolve
from halo_sql.grammar.expressions import typed
from halo_sql.grammar.skeleton import Range, identifier
from halo_sql.ir.expr import SqlExpr, column_expr
from halo_sql.ir.logical import Limit, LogicalPlan, Project, Sort, SortKey
from halo_sql.ir.walk import output_columns

_TAIL_ONLY = frozenset({"GROUP", "HAVING", "QUALIFY", "WINDOW", "SAMPLE", "FETCH"})


def is_plain(block: Block) -> bool:
    """Whether the block has nothing but FROM, WHERE, ORDER BY, LIMIT and items computed row by row."""
    select, lexed = block.select, block.binding.lexed
    if select.distinct or select.clauses.keys() & _TAIL_ONLY:
        return False
    where = select.clauses.get("WHERE", (0, 0))
    if any(not (where[0] <= inner[0] and inner[1] <= where[1]) for inner, _ in block.subqueries):
        return False
    for clause in ("SELECT", "ORDER"):
        if clause in select.clauses and has_grouping(block, select.clauses[clause]):
            return False
    for clause in ("LIMIT", "OFFSET"):
        part = select.clauses.get(clause)
        if part is not None and not (part[1] - part[0] == 1 and lexed.text(part[0]).isdigit()):
            return False
    return True


def bind_plain(block: Block, described: Described) -> BoundQuery | None:
    """The plan of a plain block; None when one of its expressions can only be evaluated as text."""
    binding, hoister, select = block.binding, block.hoister, block.select
    sort_keys = _sort_keys(block)
    ranked = ranked_first(block, sort_keys)
    direction = sort_keys.pop(0)[1] if ranked is not None else ""
    outputs = _outputs(block)
    if ranked is not None:
        reads_waiting(block, (ranked.first, ranked.end), [ranked], take=True)
    for part, _ in sort_keys:
        lift(block, part)
    if outputs is None or len(outputs) != len(described):
        return None
    keys: list[SortKey] = []
    for part, modifiers in sort_keys:
        expr = _sort_expr(block, part, outputs, described)
        if expr is None or expr.volatile:
            return None
        if expr.columns():  # a constant orders nothing, and DuckDB would read a number as a position
            keys.append(SortKey(expr, modifiers))
    available = output_columns(hoister.plan)
    checked = typed(binding.duck, [*outputs, *(key.expr for key in keys)], available)
    if checked is None:
        return None
    exprs = [
        expr if expr.type == kind else replace(expr, type=kind)
        for expr, (_, kind) in zip(checked, described, strict=False)
    ]
    keys = [replace(key, expr=expr) for key, expr in zip(keys, checked[len(exprs) :], strict=True)]
    count, offset = _number(block, "LIMIT"), _number(block, "OFFSET")
    plan: LogicalPlan = hoister.plan
    if ranked is not None:
        plan = top_k(block, ranked, direction, keys, count, offset or 0)
    elif keys:
        plan = Sort(plan, tuple(keys))
    if ranked is None and (count is not None or offset):
        plan = Limit(plan, count, offset or 0)
    columns = tuple(binding.new_column(name, kind) for name, kind in described)
    return BoundQuery(Project(plan, tuple(zip(columns, exprs, strict=True))), columns, "ORDER" in select.clauses)


def _outputs(block: Block) -> list[SqlExpr] | None:
    """The items' expressions, their calls lifted; an item may read the aliases of earlier ones."""
    exprs: list[SqlExpr] = []
    complete = True
    for place, item in enumerate(block.items):
        if item.star is not None:
            columns = block.hoister.scope.star(item.star or None)
            complete = complete and columns is not None
            exprs += [column_expr(column) for column in columns or ()]
            continue
        lift_alike(block, place)
        lift(block, item.range)
        expr = resolve(block, item.range)
        if expr is None:
            complete = False
            continue
        exprs.append(expr)
        if item.alias and block.waiting.pop(item.alias.lower(), None) is not None:
            block.hoister.aliases.setdefault(item.alias.lower(), expr)
    return exprs if complete else None


def _sort_keys(block: Block) -> list[tuple[Range, str]]:
    """Each ORDER BY key's expression and the words behind it (ASC, DESC, NULLS FIRST, NULLS LAST)."""
    part = block.select.clauses.get("ORDER")
    if part is None:
        return []
    lexed, keys = block.binding.lexed, []
    for first, end in lexed.items(*part):
        stop = end
        while stop > first + 1 and lexed.word(stop - 1) in ("ASC", "DESC", "NULLS", "FIRST", "LAST"):
            stop -= 1
        keys.append(((first, stop), lexed.slice(stop, end) if stop < end else ""))
    return keys


def _sort_expr(block: Block, part: Range, outputs: Sequence[SqlExpr], described: Described) -> SqlExpr | None:
    lexed = block.binding.lexed
    text = lexed.text(part[0])
    if part[1] - part[0] == 1:
        if text.isdigit():
            position = int(text)
            return outputs[position - 1] if 0 < position <= len(outputs) else None
        named = {
            outputs[index] for index, (name, _) in enumerate(described) if name.lower() == identifier(text).lower()
        }
        if named:  # an output column comes first; of several DuckDB takes the one it likes
            return named.pop() if len(named) == 1 else None
        if lexed.word(part[0]) == "ALL" or lexed.tokens[part[0]].kind not in ("identifier", "keyword"):
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
    return resolve(block, part, aliases)


def _number(block: Block, clause: str) -> int | None:
    part = block.select.clauses.get(clause)
    return None if part is None else int(block.binding.lexed.text(part[0]))
