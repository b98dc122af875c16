"""A SELECT block on its way to a plan: its items, its aliases, its calls."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from halo_sql.errors import Error, Span
from halo_sql.grammar.bind_from import BoundFrom
from halo_sql.grammar.binding import SHADOW_MARK, Binding, BoundQuery, CteContext
from halo_sql.grammar.call_site import CallSite
from halo_sql.grammar.called import Placed
from halo_sql.grammar.expressions import grouping, resolved
from halo_sql.grammar.hoist import Hoister
from halo_sql.grammar.skeleton import Range, Select, identifier
from halo_sql.grammar.source import Source
from halo_sql.grammar.splice import Piece, assemble, pieces_of
from halo_sql.grammar.standalone import standalone_queries
from halo_sql.grammar.syntax import Name
from halo_sql.ir.expr import ColumnId, SqlExpr
from halo_sql.ir.logical import APPLIES, LlmMap
from halo_sql.ir.types import SqlType

Described = Sequence[tuple[str, SqlType]]


@dataclass(frozen=True, slots=True)
class Item:
    """A SELECT item: the expression's token range, its alias ('' when none), whether it is ``*`` or ``t.*``."""

    range: Range
    alias: str
    star: str | None = None  # '' for *, 't' for t.*


@dataclass(frozen=True, slots=True)
class StandIn:
    """A token range of the block that is a column of its plan by now: an aggregate, a group key, an answer."""

    first: int
    end: int
    span: Span
    column: ColumnId


@dataclass(slots=True)
class Block:
    """A SELECT block on its way to a plan.

    subqueries  those with LLM calls outside FROM, by token range (brackets included)
    waiting     lower-case alias -> item with calls that no expression has asked for yet
    stand_ins   parts that are columns already, in order of position
    grouped     the block as written, when its groups are computed and ``select`` is what is left
    """

    binding: Binding
    select: Select
    context: CteContext
    items: list[Item]
    bound_from: BoundFrom
    hoister: Hoister
    subqueries: list[tuple[Range, BoundQuery]]
    waiting: dict[str, Item] = field(default_factory=dict)
    stand_ins: tuple[StandIn, ...] = ()
    grouped: Select | None = None


def select_items(binding: Binding, select: Select) -> list[Item]:
    """The items of the SELECT clause; ``*`` for a query that has none (FROM t)."""
    lexed = binding.lexed
    if "SELECT" not in select.clauses:
        return [Item((0, 0), "", star="")]
    return [_item(binding, *piece) for piece in lexed.items(*select.clauses["SELECT"])]


def _item(binding: Binding, first: int, end: int) -> Item:
    lexed = binding.lexed
    if lexed.text(end - 1) == "*" and end - first == 1:
        return Item((first, end), "", star="")
    if lexed.text(end - 1) == "*" and end - first == 3 and lexed.text(first + 1) == ".":
        return Item((first, end), "", star=identifier(lexed.text(first)))
    if lexed.text(first + 1) == ":" and lexed.tokens[first].kind in ("identifier", "keyword", "string_const"):
        return Item((first + 2, end), identifier(lexed.text(first)).strip("'"))
    aliases = binding.source.syntax.aliases
    if end - first > 1 and (lexed.word(end - 2) == "AS" or lexed.tokens[end - 1].start in aliases):
        stop = end - 2 if lexed.word(end - 2) == "AS" else end - 1
        return Item((first, stop), identifier(lexed.text(end - 1)).strip("'"))
    return Item((first, end), "")


def output_names(binding: Binding, items: Sequence[Item], described: Described) -> Described:
    """Output names: an unnamed item with a call is called by its own text, not by its shadow's."""
    unnamed = [item for item in items if not item.alias and item.star is None and binding.calls_in(*item.range)]
    marked = [index for index, (name, _) in enumerate(described) if SHADOW_MARK in name]
    names = list(described)
    pairs = list(zip(marked, unnamed, strict=False))
    texts = [_as_duckdb(binding, item.range) for _, item in pairs]
    try:
        found = binding.duck.expression_names(texts)
    except Error:
        found = texts  # OVER w: the window is no part of the item
    for (index, _), name in zip(pairs, found, strict=True):
        names[index] = (name, described[index][1])
    return names


def _as_duckdb(binding: Binding, part: Range) -> str:
    """The text of a range with calls spelled as DuckDB's parser takes them."""
    span = binding.lexed.span(*part)
    calls = [(call.span, [Piece(call.shown, call.span)]) for call in binding.calls_in(*part) if call.shown]
    return assemble(pieces_of(binding.lexed.sql, span.start, span.end, calls)).text


def learn_aliases(block: Block) -> None:
    """What the aliases of SELECT items mean to other expressions of the block; those with calls wait for a reader."""
    found: dict[str, SqlExpr] = {}
    for item in block.items:
        name = item.alias.lower()
        if (
            not name
            or item.star is not None
            or name in found
            or name in block.waiting
            or has_grouping(block, item.range)
        ):
            continue
        if row_calls(block, item.range):
            block.waiting[name] = item
        elif not any(name in block.waiting for name in _words(block.binding.source, *item.range)):
            expr = resolve(block, item.range, found)
            if expr is not None:
                found[name] = expr
        else:
            block.waiting[name] = item
    block.hoister.aliases = found


def lift(block: Block, part: Range) -> None:
    """Lift the calls of a range, and before them those of the aliases it reads."""
    lift_calls(block, part, row_calls(block, part))


def lift_alike(block: Block, place: int) -> None:
    """Lift the calls of the items from ``place`` on together, as long as each is one call of the same kind that waits
    for no other: they are one node then, which is what rules would make of them."""
    found: dict[int, tuple[CallSite, Range]] = {}
    kind: object = None
    for item in block.items[place:]:
        calls = row_calls(block, item.range)
        if len(calls) != 1 or id(calls[0]) in block.hoister.outputs or any(calls[0].nested()):
            break
        if reads_waiting(block, item.range, calls) or kind not in (None, _kind_of(calls[0])):
            break
        kind = _kind_of(calls[0])
        found[id(calls[0])] = calls[0], item.range
    if len(found) > 1:
        block.hoister.lift([call for call, _ in found.values()], lambda call: found[id(call)][1])


def _kind_of(call: CallSite) -> object:
    return APPLIES.get(call.kind, LlmMap), call.deterministic


def lift_calls(block: Block, part: Range, calls: Sequence[CallSite]) -> None:
    """The same for some of its calls."""
    reads_waiting(block, part, calls, take=True)
    block.hoister.lift(calls, lambda _: part)


def reads_waiting(block: Block, part: Range, calls: Sequence[CallSite], take: bool = False) -> bool:
    """Whether a range reads aliases of items with calls; with ``take`` these are lifted and become known."""
    names = set(_words(block.binding.source, *part))
    stack = list(calls)
    while stack:
        call = stack.pop()
        for hole in call.holes():
            for item in hole.fields:
                names |= set(_words(item.source, 0, len(item.source.lexed.tokens)))
                stack += item.calls
    wanted = [name for name in names & block.waiting.keys() if not _is_column(block, name)]
    if take:
        for name in sorted(wanted):
            waiting = block.waiting.pop(name, None)
            if waiting is None:
                continue
            lift(block, waiting.range)
            expr = resolve(block, waiting.range)
            if expr is not None:
                block.hoister.aliases[name] = expr
    return bool(wanted)


def _words(source: Source, first: int, end: int) -> Iterator[str]:
    """Lower-case identifiers of a range that stand for themselves (not behind a dot)."""
    lexed = source.lexed
    for index in range(first, end):
        if lexed.tokens[index].kind in ("identifier", "keyword") and lexed.text(index - 1) != ".":
            yield identifier(lexed.text(index)).lower()


def _is_column(block: Block, name: str) -> bool:
    columns = block.hoister.scope.columns()
    return any(column.name.lower() == name for column in columns) or (
        block.hoister.scope.resolve((Name(name, 0, 0),)) is not None
    )


def resolve(block: Block, part: Range, aliases: dict[str, SqlExpr] | None = None) -> SqlExpr | None:
    """A range as an expression over column ids; None when it can only be evaluated as text."""
    binding, hoister = block.binding, block.hoister
    inside: list[Placed] = [*row_calls(block, part)]
    inside += [one for one in block.stand_ins if part[0] <= one.first and one.end <= part[1]]
    return resolved(
        binding.source,
        *part,
        hoister.scope,
        inside,
        lambda site: site.column if isinstance(site, StandIn) else hoister.output_of(site),
        hoister.aliases if aliases is None else aliases,
        binding.duck,
        standalone_queries(binding, part, block.context),
    )


def has_grouping(block: Block, part: Range) -> bool:
    """Whether a range holds an aggregate or window function, or UNNEST, of this block."""
    at = part[0]
    for one in block.stand_ins:
        if part[0] <= one.first and one.end <= part[1]:
            if grouping(block.binding.source, at, one.first, block.binding.duck):
                return True
            at = one.end
    return bool(grouping(block.binding.source, at, part[1], block.binding.duck))


def row_calls(block: Block, part: Range) -> list[CallSite]:
    """The calls of a range that this block evaluates (those of sub-queries are theirs)."""
    return [
        call
        for call in block.binding.calls_in(*part)
        if not any(inner[0] <= call.first < inner[1] for inner, _ in block.subqueries)
        and not any(one.first <= call.first < one.end for one in block.stand_ins)
    ]
