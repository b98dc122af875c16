"""Lifting calls out of expressions: holes and guards become columns of a Project, calls an LlmMap above it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from halo_sql.errors import Error, NotSupportedError
from halo_sql.grammar.binding import Binding, label_of
from halo_sql.grammar.call_site import CallSite, HoleField, HoleSite
from halo_sql.grammar.expressions import aggregates, grouping, resolved, typed, verbatim
from halo_sql.grammar.guards import Term, bound_names, guard_terms
from halo_sql.grammar.names import Scope
from halo_sql.grammar.skeleton import starts_query
from halo_sql.grammar.source import Source
from halo_sql.grammar.stars import starred, unique
from halo_sql.ir.expr import Column, ColumnId, ColumnRef, SqlExpr, column_expr, join_text, quote
from halo_sql.ir.logical import APPLIES, LlmFilter, LlmMap, LogicalPlan, Project
from halo_sql.ir.prompt import Hole, LlmCall, ObjectHole, Segment
from halo_sql.ir.types import BOOLEAN, VARCHAR
from halo_sql.ir.walk import call_type, output_columns


@dataclass(slots=True)
class _Layer:
    """Columns to compute, then calls to make on them."""

    exprs: list[tuple[Column, SqlExpr]] = field(default_factory=list)
    calls: list[LlmCall] = field(default_factory=list)


class Hoister:
    """Lifts the calls of one SELECT block onto a plan.

    ``outputs`` maps each lifted call to its column; equal deterministic calls under the same guard share one.
    """

    def __init__(self, binding: Binding, plan: LogicalPlan, scope: Scope, aliases: dict[str, SqlExpr]) -> None:
        self.binding = binding
        self.plan = plan
        self.scope = scope
        self.aliases = aliases
        self.outputs: dict[int, ColumnId] = {}  # id() of the CallSite
        self._sites: list[CallSite] = []  # keeps the keys of ``outputs`` alive
        self._known: dict[object, ColumnId] = {}
        self._ready: dict[object, ColumnId] = {}  # text of an expression -> the plan's column that holds it
        self._level: dict[ColumnId, int] = {}
        self._layers: list[_Layer] = []
        self._types = {column.id: column.type for column in (*output_columns(plan), *scope.columns())}

    def output_of(self, site: CallSite) -> ColumnId:
        """The column of a call lifted before."""
        return self.outputs[id(site)]

    def lift(self, sites: Sequence[CallSite], within: Callable[[CallSite], tuple[int, int]]) -> None:
        """Lift calls of the statement's text; ``within`` gives the token range of the expression around each."""
        for site in sites:
            with _placed(site):
                self._require(site, within(site), [])
        if sites:
            with _placed(sites[0]):
                self._flush()

    def prepare(self, sites: Sequence[CallSite]) -> None:
        """Compute holes of several filters below the first of them, so that the filters are neighbours and may
        change places. Only columns as text: that cannot fail for a row an earlier filter would have dropped.
        """
        layer = _Layer()
        for site in sites:
            for hole in site.holes():
                for item in hole.fields:
                    expr = self._field(site, item) if not item.calls else None
                    column = None if expr is None else expr.as_column()
                    if expr is None or column is None:
                        continue
                    if hole.is_object:
                        self._ready[_as_json(expr).parts] = self._json(layer, item.name, expr)
                    elif self._types.get(column) != VARCHAR:
                        self._ready[_as_text(expr).parts] = self._add(layer, item.name, _as_text(expr), VARCHAR)
        self._project(layer)

    def node_call(self, site: CallSite) -> LlmCall:
        """A call that the caller makes a node of; what it reads is computed on the plan."""
        with _placed(site):
            for nested in site.nested():
                self._require(nested, None, [])
            self._flush()
            layer = _Layer()
            call = self._call(site, None, layer)
            self._project(layer)
            return call

    def filter(self, site: CallSite) -> None:
        """Keep the rows for which a call (a whole WHERE condition) answers yes."""
        call = self.node_call(site)  # puts what it reads onto the plan
        self.plan = LlmFilter(self.plan, call)

    def _require(self, site: CallSite, within: tuple[int, int] | None, outer: list[SqlExpr]) -> ColumnId:
        """The output column of a call, lifting it and what it depends on."""
        if id(site) in self.outputs:
            return self.outputs[id(site)]
        site.check_value()
        if site.inputs:
            raise NotSupportedError(
                "LLM_REDUCE cannot stand here in this version: it has no groups to work on",
                span=site.origin(),
                remedy="Call it in the SELECT list of a sub-query in FROM.",
            )
        guards = [*outer, *self._guards(site, within)]
        for hole in site.holes():
            for item in hole.fields:
                for nested in item.calls:
                    self._require(nested, (0, len(item.source.lexed.tokens)), guards)
        guard = self._guard(guards)
        key = (site.text, site.source.sql if site.source is not self.binding.source else "", guard)
        if site.deterministic and key in self._known:
            self._remember(site, self._known[key])
            return self._known[key]
        reads = [guard] if guard else []
        level = self._level_of(reads)
        for hole in site.holes():
            for item in hole.fields:
                # a nested call lifted earlier is a column of the plan by now: level 0
                level = max([level, *(self._level.get(self.outputs[id(nested)], 0) for nested in item.calls)])
        while len(self._layers) <= level:
            self._layers.append(_Layer())
        call = self._call(site, guard, self._layers[level])
        self._layers[level].calls.append(call)
        self._level[call.output] = level + 1
        self._known[key] = call.output
        self._remember(site, call.output)
        return call.output

    def _remember(self, site: CallSite, column: ColumnId) -> None:
        self.outputs[id(site)] = column
        self._sites.append(site)

    def _level_of(self, exprs: Sequence[SqlExpr]) -> int:
        read = [column for expr in exprs for column in expr.columns()]
        return max((self._level.get(column, 0) for column in read), default=0)

    def _guards(self, site: CallSite, within: tuple[int, int] | None) -> list[SqlExpr]:
        if within is None:
            return []
        source = site.source
        known = aggregates(self.binding.duck)

        def is_barrier(opening: int) -> bool:
            return source.lexed.word(opening - 1).lower() in known

        terms = guard_terms(source.lexed, site.first, *within, is_barrier)
        found = [self._term(source, term) for term in terms]
        return [expr for expr in found if expr is not None]

    def _term(self, source: Source, term: Term) -> SqlExpr | None:
        """A guard term as an expression; None when it cannot be evaluated row by row (then more rows ask)."""
        calls = self.binding.calls_of(source)
        parts: list[str | ColumnRef] = []
        flags: list[SqlExpr] = []
        for piece in term:
            if isinstance(piece, str):
                parts.append(piece)
                continue
            first, end = piece
            if grouping(source, first, end, self.binding.duck):
                return None
            for call in calls:
                if first <= call.first and call.end <= end:
                    _check_own(source, first, call)
                    self._require(call, (first, end), [])
            expr = self._expr(source, first, end, calls)
            flags.append(expr)
            parts += expr.parts
        if any(expr.volatile for expr in flags):
            return None
        scopes = [expr.scope for expr in flags if expr.scope]
        row_wise = all(expr.row_wise for expr in flags)
        return SqlExpr(join_text(parts), BOOLEAN, scopes[0] if scopes else (), False, row_wise)

    def _expr(self, source: Source, first: int, end: int, calls: Sequence[CallSite]) -> SqlExpr:
        found = resolved(source, first, end, self.scope, calls, self.output_of, self.aliases, self.binding.duck)
        return found or verbatim(source, first, end, self.scope, calls, self.output_of)

    def _guard(self, guards: list[SqlExpr]) -> SqlExpr | None:
        if not guards:
            return None
        unique = list(dict.fromkeys(guards))
        parts: list[str | ColumnRef] = []
        for position, guard in enumerate(unique):
            parts += [" AND " if position else "", *guard.parts]
        scopes = [guard.scope for guard in unique if guard.scope]
        return SqlExpr(
            join_text(parts), BOOLEAN, scopes[0] if scopes else (), False, all(guard.row_wise for guard in unique)
        )

    def _call(self, site: CallSite, guard: SqlExpr | None, layer: _Layer) -> LlmCall:
        """The call over columns; its holes and guard are added to the layer's expressions."""
        segments: list[Segment] = []
        for piece in site.pieces:
            segments.append(piece if isinstance(piece, str) else self._segment(site, piece, guard, layer))
        guard_column = None
        if guard is not None:
            guard_column = guard.as_column() or self._add(layer, "guard", guard, BOOLEAN)
        call = self.binding.call(site, segments, guard_column)
        constant = all(isinstance(segment, str) for segment in segments)
        if (
            constant and site.kind not in ("embed", "tool", "agent") and self.scope.tables
        ):  # the vector of a question is one on purpose
            self.binding.warnings.append(
                f"{label_of(site)}: the prompt has no hole, so every row gets the same answer (one call is made)"
            )
        self._types[call.output] = call_type(call)
        return call

    def _segment(self, site: CallSite, hole: HoleSite, guard: SqlExpr | None, layer: _Layer) -> Segment:
        if hole.star:
            columns = starred(self.scope, hole)
            names = unique([column.name for column in columns])
            return ObjectHole(
                tuple(
                    (name, self._json(layer, name, column_expr(column)))
                    for name, column in zip(names, columns, strict=True)
                )
            )
        fields = [(item.name, _reached(self._field(site, item), guard)) for item in hole.fields]
        if hole.is_object:
            names = unique([name for name, _ in fields])
            return ObjectHole(
                tuple((name, self._json(layer, name, expr)) for name, (_, expr) in zip(names, fields, strict=True))
            )
        name, expr = fields[0]
        single = expr.as_column()
        if single is not None and self._types.get(single) == VARCHAR:
            return Hole(single)
        return Hole(self._add(layer, name, _as_text(expr), VARCHAR))

    def _json(self, layer: _Layer, name: str, expr: SqlExpr) -> ColumnId:
        return self._add(layer, name, _as_json(expr), VARCHAR)

    def _field(self, site: CallSite, item: HoleField) -> SqlExpr:
        source = item.source
        where = source.origin(source.lexed.span(0, len(source.lexed.tokens)))
        if any(source.lexed.text(index) == "#" for index in range(len(source.lexed.tokens))):
            raise NotSupportedError("a hole cannot hold a positional reference", span=where, remedy="Name the column.")
        inner = bound_names(site.source.lexed, site.first)
        read = {source.lexed.text(index).strip('"').lower() for index in range(len(source.lexed.tokens))}
        if inner & read:
            raise NotSupportedError(
                f'a hole cannot read "{min(inner & read)}", a parameter of a lambda or list comprehension',
                span=where,
                remedy="Unnest the list in a sub-query in FROM and call it for each element.",
            )
        kind = grouping(source, 0, len(source.lexed.tokens), self.binding.duck)
        if kind:
            noun = "UNNEST" if kind == "unnest" else f"{kind} function"
            raise NotSupportedError(
                f"a hole cannot hold {'a' if kind == 'window' else 'an'} {noun} of its own SELECT in this version",
                span=where,
                remedy="Compute it in a sub-query in FROM and use its column in the hole.",
            )
        return self._expr(source, 0, len(source.lexed.tokens), item.calls)

    def _add(self, layer: _Layer, name: str, expr: SqlExpr, sql_type: object) -> ColumnId:
        if expr.parts in self._ready:
            return self._ready[expr.parts]
        for column, known in layer.exprs:
            if known.parts == expr.parts and known.scope == expr.scope and not expr.volatile:
                return column.id
        column = self.binding.new_column(name, VARCHAR if sql_type == VARCHAR else BOOLEAN)
        layer.exprs.append((column, expr))
        return column.id

    def _flush(self) -> None:
        """Put the collected layers onto the plan."""
        for layer in self._layers:
            self._project(layer)
            for kind in dict.fromkeys(APPLIES.get(call.kind, LlmMap) for call in layer.calls):
                own = tuple(call for call in layer.calls if APPLIES.get(call.kind, LlmMap) is kind)
                self.plan = kind(self.plan, own)
        self._layers = []
        self._level = {}
        self._known = dict(self._known)

    def _project(self, layer: _Layer) -> None:
        if not layer.exprs:
            return
        kept = output_columns(self.plan)
        checked = typed(self.binding.duck, [expr for _, expr in layer.exprs], kept)
        if checked is None:
            layer.exprs = [(column, self._rescue(column, expr)) for column, expr in layer.exprs]
        passed = tuple((column, column_expr(column)) for column in kept)
        self.plan = Project(self.plan, (*passed, *layer.exprs))

    def _rescue(self, column: Column, expr: SqlExpr) -> SqlExpr:
        """An expression that DuckDB takes over the rebuilt tables; an error that says which one it does not."""
        kept = output_columns(self.plan)
        if typed(self.binding.duck, [expr], kept) is not None:
            return expr
        names = {item.id: item.name for item in kept}
        text = expr.text(lambda item: quote(names.get(item, f"c{item}")))
        raise NotSupportedError(
            f"the expression {text[:80]} of a prompt cannot be evaluated for each row here",
            remedy="Compute it in a sub-query in FROM and use its column in the hole.",
        )


@contextmanager
def _placed(site: CallSite) -> Iterator[None]:
    """Errors without a position point to the call."""
    try:
        yield
    except Error as problem:
        if problem.span is None:
            problem.span = site.origin()
        raise


def _check_own(source: Source, first: int, call: CallSite) -> None:
    """Raise NotSupportedError for a call of a sub-query within a guard."""
    opening = source.lexed.parent[call.first]
    while opening >= first:
        if source.lexed.text(opening) == "(" and starts_query(source.lexed, opening + 1):
            raise NotSupportedError(
                "an LLM call in a sub-query cannot decide whether another LLM call is reached in this version",
                span=call.origin(),
                remedy="Compute the condition in a sub-query in FROM and use its column here.",
            )
        opening = source.lexed.parent[opening]


def _reached(expr: SqlExpr, guard: SqlExpr | None) -> SqlExpr:
    """A hole's value where the call is reached: an expression that can fail must not do so elsewhere."""
    if guard is None or expr.as_column() is not None or (guard.scope and expr.scope and guard.scope != expr.scope):
        return expr
    return SqlExpr(
        join_text(("CASE WHEN ", *guard.parts, " THEN (", *expr.parts, ") END")),
        VARCHAR,
        expr.scope or guard.scope,
        expr.volatile,
        expr.row_wise and guard.row_wise,
    )


def _as_text(expr: SqlExpr) -> SqlExpr:
    return _wrap("CAST(", expr, " AS VARCHAR)")


def _as_json(expr: SqlExpr) -> SqlExpr:
    return _wrap("CAST(to_json(", expr, ") AS VARCHAR)")


def _wrap(before: str, expr: SqlExpr, after: str) -> SqlExpr:
    return SqlExpr(join_text((before, *expr.parts, after)), VARCHAR, expr.scope, expr.volatile, expr.row_wise)
