"""A SELECT block with LLM_REDUCE: groups, the answers over them, and the block's clauses over both.

Stage one is a fragment: the block's FROM and GROUP BY with the keys, the ordinary aggregates, the holes of the prompts
and, for each LLM_REDUCE, the list of the group's inputs, which DuckDB makes as it makes any ``list(…)``. Above it
stands an LlmReduce; HAVING, windows, ORDER BY and the items then see its columns in the places of what they stand for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from halo_sql.errors import Error, NotSupportedError
from halo_sql.grammar.bind_plain import bind_plain, is_plain
from halo_sql.grammar.bind_tail import bind_tail, cut_names, filter_by_text, source_text
from halo_sql.grammar.binding import BoundQuery
from halo_sql.grammar.block import Block, Described, StandIn, learn_aliases, lift_calls, resolve, row_calls
from halo_sql.grammar.call_site import CallSite, HoleSite
from halo_sql.grammar.checked import checked_fragment, fragment_columns
from halo_sql.grammar.expressions import typed
from halo_sql.grammar.group_parts import GroupPart, Keys, group_keys, group_parts
from halo_sql.grammar.grouped import call_text
from halo_sql.grammar.guards import conjuncts
from halo_sql.grammar.hoist import Hoister
from halo_sql.grammar.names import Scope, Table
from halo_sql.grammar.skeleton import Range, Select, starts_query
from halo_sql.grammar.texts import FragmentText, Part, hidden, merged
from halo_sql.ir.expr import Column, ColumnId
from halo_sql.ir.logical import Filter, LlmReduce
from halo_sql.ir.prompt import Hole, ItemsHole, LlmCall, ObjectHole, Segment
from halo_sql.ir.walk import output_columns

_GROUPED_AWAY = frozenset({"FROM", "WHERE", "GROUP", "HAVING", "SAMPLE"})


def has_reduce(block: Block) -> bool:
    """Whether the block itself calls LLM_REDUCE."""
    return any(call.kind == "reduce" for call in _own_calls(block))


def _own_calls(block: Block) -> list[CallSite]:
    """The calls of the block behind FROM and WHERE."""
    (at, stop), calls = block.select.range, list[CallSite]()
    for first, end in sorted(part for clause, part in block.select.clauses.items() if clause in ("FROM", "WHERE")):
        calls += row_calls(block, (at, first))
        at = end
    return calls + row_calls(block, (at, stop))


def bind_groups(block: Block, described: Described) -> BoundQuery:
    """The plan of such a block; NotSupportedError where only its text as a whole says what it means."""
    keys = group_keys(block)
    parts = group_parts(block, keys)
    _check(block, parts)
    _lift_rows(block, keys, parts)
    stage = _Stage(block, keys)
    for part in parts:
        stage.add(part)
    return _over_groups(stage.bind(), stage, block, described)


def _check(block: Block, parts: Sequence[GroupPart]) -> None:
    for part in parts:
        if part.call is None:
            continue
        refused = [call for call in _all(part.call) if call.kind == "reduce" and call is not part.call]
        if part.kind == "reduce":
            holes = (call for hole in part.call.holes() for item in hole.fields for call in item.calls)
            over = any(
                not isinstance(piece, str) and block.binding.lexed.word(piece[0]) == "OVER"
                for piece in part.call.inputs
            )
            queries = [call for call in part.call.inner if _in_query(block, part.call, call)]
            refused += [*holes, *queries, *([part.call] if over else [])]
        if refused:
            raise NotSupportedError(
                "an LLM call over groups inside another call is not available in this version",
                span=refused[0].origin(),
                remedy="Compute the inner one in a sub-query in FROM.",
            )


def _all(call: CallSite) -> list[CallSite]:
    found = [call]
    for nested in call.nested():
        found += _all(nested)
    return found


def _in_query(block: Block, outer: CallSite, inner: CallSite) -> bool:
    lexed, opening = block.binding.lexed, block.binding.lexed.parent[inner.first]
    while opening > outer.first:
        if lexed.text(opening) == "(" and starts_query(lexed, opening + 1):
            return True
        opening = lexed.parent[opening]
    return False


def _lift_rows(block: Block, keys: Keys, parts: Sequence[GroupPart]) -> None:
    """Calls on the rows: in keys, in aggregates, among the inputs of LLM_REDUCE, and on keys beside them."""
    for key in keys.exprs:
        lift_calls(block, key, [call for call in row_calls(block, key) if call.kind != "reduce"])
    for part in parts:
        if part.kind == "reduce":
            assert part.call is not None
            for piece in part.call.inputs:
                if not isinstance(piece, str):
                    inner = [call for call in part.call.inner if piece[0] <= call.first < piece[1]]
                    lift_calls(block, piece, inner)
        elif part.kind != "key":
            lift_calls(block, part.range, row_calls(block, part.range))


class _Stage:
    """The fragment of the groups on its way: its SELECT list, and what stands where in the block."""

    def __init__(self, block: Block, keys: Keys) -> None:
        self.block = block
        self.keys = keys
        self.stand_ins: list[StandIn] = []
        self.sites: list[tuple[CallSite, ColumnId, tuple[Segment, ...]]] = []
        self._text = FragmentText()
        self._items: list[tuple[str, tuple[Part, ...]]] = []
        self._ids: list[ColumnId] = []
        self._known: dict[object, ColumnId] = {}
        self._cut_calls()
        self.key_columns = [self._item(block.binding.lexed.slice(*part), self._range(part)) for part in keys.exprs]

    def _cut_calls(self) -> None:
        block = self.block
        own = _own_calls(block)
        calls = [*(inner for call in own if call.kind == "reduce" for inner in call.inner), *own]
        self._shown: set[ColumnId] = set()
        for call in calls:
            if id(call) in block.hoister.outputs:
                column = block.hoister.output_of(call)
                self._shown.add(column)
                self._text.cut(call.span, hidden(column))
        lexed = block.binding.lexed
        cut_names(block, lexed.span(*block.select.range), self._text, block.binding.source)

    def _range(self, part: Range) -> tuple[Part, ...]:
        span = self.block.binding.lexed.span(*part)
        return self._text.parts(self.block.binding.lexed.sql, span.start, span.end)

    def _item(self, name: str, parts: Sequence[Part]) -> ColumnId:
        """The column of an expression, computed once however often it is written."""
        whole = merged(parts)
        if whole not in self._known:
            self._known[whole] = self.block.binding.new_id()
            self._items.append((name, whole))
            self._ids.append(self._known[whole])
        return self._known[whole]

    def add(self, part: GroupPart) -> None:
        """Take a part of the block's tail in."""
        lexed = self.block.binding.lexed
        if part.kind == "key":
            column = self.key_columns[part.place]
        elif part.kind == "reduce":
            assert part.call is not None
            column = self._reduce(part.call)
        elif part.kind == "call":
            assert part.call is not None
            name = hidden(self.block.hoister.output_of(part.call))
            column = self._item(lexed.slice(*part.range), (call_text(self.block, part.call, name),))
        else:
            column = self._item(lexed.slice(*part.range), self._range(part.range))
        self.stand_ins.append(StandIn(*part.range, lexed.span(*part.range), column))

    def _reduce(self, site: CallSite) -> ColumnId:
        segments: list[Segment] = []
        for piece in site.pieces:
            segments.append(piece if isinstance(piece, str) else self._hole(piece))
        parts: list[Part] = []
        for item in site.inputs:
            parts += [item] if isinstance(item, str) else self._range(item)
        segments.append(ItemsHole(self._item("inputs", parts), site.separator))
        what = (tuple(segments), site.model.name, site.system, site.returns, site.sampling, site.on_error, site.cache,
                site.priority, site.fan_in)  # fmt: skip
        if site.deterministic and what in self._known:
            return self._known[what]
        column = self._known[what] = self.block.binding.new_id()
        self.sites.append((site, column, tuple(segments)))
        return column

    def _hole(self, hole: HoleSite) -> Segment:
        """A hole over the group: its keys and aggregates, as DuckDB computes them beside it."""
        fields: list[tuple[str, ColumnId]] = []
        for field in hole.fields:
            text = FragmentText()
            size = len(field.source.sql)
            cut_names(self.block, field.source.lexed.span(0, len(field.source.lexed.tokens)), text, field.source)
            inside = text.parts(field.source.sql, 0, size)
            before = "CAST(to_json(" if hole.is_object else "CAST(("
            fields.append((field.name, self._item(field.name, (before, *inside, "\n) AS VARCHAR)"))))
        return ObjectHole(tuple(fields)) if hole.is_object else Hole(fields[0][1])

    def bind(self) -> LlmReduce:
        """The groups with their answers."""
        block = self.block
        binding, clauses = block.binding, block.select.clauses
        if not self._items:
            self._item("rows", ("count(*)",))
        shown = [column for column in output_columns(block.hoister.plan) if column.id in self._shown]
        shown += [column for column in block.hoister.scope.merged.values() if column not in shown]
        parts: list[Part] = ["SELECT "]
        for position, (_, item) in enumerate(self._items):
            parts += [", " if position else "", *item]
        parts += [" FROM ", *source_text(self._text, block.hoister, shown)]
        if self.keys.clause:
            parts.append(" GROUP BY ")
            for piece in self.keys.clause:
                parts += [piece] if isinstance(piece, str) else self._range(piece)
        if "SAMPLE" in clauses:
            parts.append(f" USING SAMPLE {binding.lexed.slice(*clauses['SAMPLE'])}")
        words = " ".join(part for part in parts if isinstance(part, str))
        parts = [binding.cte_prefix(words, block.context), *parts]
        where = self.sites[0][0].origin()
        try:
            found = fragment_columns(binding, merged(parts), self._text.inputs)
        except Error as problem:
            raise NotSupportedError(
                f"LLM_REDUCE cannot stand here in this version: {problem.message.splitlines()[0]}",
                span=where,
                remedy="Group in a sub-query in FROM, and use its columns here.",
            ) from None
        columns = tuple(
            Column(column, name, kind)
            for column, (name, _), (_, kind) in zip(self._ids, self._items, found, strict=True)
        )
        fragment = checked_fragment(binding, parts, columns, self._text.inputs, "Aggregate", where)
        fragment = replace(fragment, keys=len(self.keys.exprs))
        return LlmReduce(fragment, tuple(self._call(*site) for site in self.sites))

    def _call(self, site: CallSite, output: ColumnId, segments: tuple[Segment, ...]) -> LlmCall:
        return self.block.binding.call(site, segments, output=output)

    def scope(self, plan: LlmReduce) -> Scope:
        """The tables of FROM with the columns that are keys, as the groups have them."""
        block = self.block
        columns = {column.id: column for column in output_columns(plan)}
        new: dict[ColumnId, Column] = {}
        for part, column in zip(self.keys.exprs, self.key_columns, strict=True):
            expr = resolve(block, part)
            old = None if expr is None else expr.as_column()
            if old is not None:
                new[old] = columns[column]
        scope = block.hoister.scope
        tables = tuple(
            Table(table.alias, tuple(replace(new[old.id], name=old.name) for old in table.columns if old.id in new))
            for table in scope.tables
        )
        merged_columns = {
            name: replace(new[old.id], name=old.name) for name, old in scope.merged.items() if old.id in new
        }
        return Scope(tables, merged_columns)


def _over_groups(plan: LlmReduce, stage: _Stage, block: Block, described: Described) -> BoundQuery:
    """HAVING, items, windows, order and limit over the groups."""
    select = block.select
    clauses = {name: part for name, part in select.clauses.items() if name not in _GROUPED_AWAY}
    dropped = [part for name, part in select.clauses.items() if name in _GROUPED_AWAY - {"HAVING"}]
    above = Block(
        block.binding,
        Select(select.range, clauses, select.distinct, select.distinct_on),
        block.context,
        block.items,
        block.bound_from,
        Hoister(block.binding, plan, stage.scope(plan), {}),
        [(inner, query) for inner, query in block.subqueries if not any(a <= inner[0] < b for a, b in dropped)],
        stand_ins=tuple(stage.stand_ins),
        grouped=select,
    )
    learn_aliases(above)
    if "HAVING" in select.clauses:
        for condition in conjuncts(above.binding.lexed, select.clauses["HAVING"]):
            _having(above, condition)
    bound = bind_plain(above, described) if is_plain(above) else None
    return bound or bind_tail(above, described)


def _having(block: Block, condition: Range) -> None:
    hoister = block.hoister
    expr = resolve(block, condition)
    checked = None if expr is None else typed(block.binding.duck, [expr], output_columns(hoister.plan))
    hoister.plan = Filter(hoister.plan, checked[0]) if checked else filter_by_text(block, condition)
