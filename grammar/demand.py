"""Queries whose calls stand where no column can be put beside their rows: bound as one text with the calls inside.

The structured binder (``bind_select`` and its parts) lifts calls out of expressions. Some places have no rows to put
a column beside: an outer join's condition, a correlated sub-query, LATERAL, the arm of a recursion, a lambda, a hole
over aggregates or windows. There the query stays as the user wrote it, each call becomes a function of its guard and
holes, and DuckDB itself says for which values it needs answers (``ir.logical.Demand``, ``operators/demand.py``).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from halo_sql.errors import BinderError, Error, NotSupportedError
from halo_sql.grammar.binding import SHADOW_MARK, Binding, BoundQuery, CteContext, sample
from halo_sql.grammar.block import Described, output_names, select_items
from halo_sql.grammar.call_site import CallSite, HoleSite
from halo_sql.grammar.called import functions_in
from halo_sql.grammar.demand_order import Places
from halo_sql.grammar.guards import Term
from halo_sql.grammar.skeleton import Range, parse_query, parse_select
from halo_sql.grammar.source import Source
from halo_sql.grammar.texts import FragmentText, alias, merged
from halo_sql.grammar.user_functions import are_volatile
from halo_sql.ir.expr import Column, quote
from halo_sql.ir.logical import Ask, CallText, CteScan, Demand, DemandPart, GoOn, InputRef
from halo_sql.ir.prompt import Hole, ItemsHole, ObjectHole, Segment
from halo_sql.ir.types import BOOLEAN, VARCHAR, VARCHAR_LIST
from halo_sql.ir.walk import call_type, output_columns

#: Functions of which every evaluation counts: a text with them cannot be run in rounds.
_COUNTING = frozenset({"nextval", "setval"})
#: Functions and words whose value is that of the moment.
_MOMENT = frozenset(
    [
        *("now", "current_timestamp", "current_date", "current_time", "get_current_time", "get_current_timestamp"),
        *("transaction_timestamp", "current_localtime", "current_localtimestamp", "localtime", "localtimestamp"),
        *("today", "age", "txid_current"),
    ]
)


def bind_demand(
    binding: Binding, part: Range, context: CteContext, described: Described, problem: NotSupportedError
) -> BoundQuery:
    """The query in a token range as a Demand; ``problem`` (why it could not be lifted) when that is impossible too."""
    for guarded in (True, False):
        text = DemandText(binding, part, context, guarded, Places.of_query(binding, part, context))
        demand = text.bind(described)
        if demand is not None:
            columns = demand.columns
            ordered = "ORDER" in {binding.lexed.word(index) for index in binding.lexed.level(*part)}
            return BoundQuery(demand, columns, ordered)
    raise problem


@dataclass(slots=True)
class DemandText:
    """One attempt at a range of the statement; ``guarded``: calls are told by a guard whether they are reached."""

    binding: Binding
    part: Range
    context: CteContext
    guarded: bool
    places: Places
    text: FragmentText = field(default_factory=FragmentText)
    asks: list[Ask] = field(default_factory=list)
    _known: dict[object, int] = field(default_factory=dict)

    def bind(self, described: Described) -> Demand | None:
        """The range as a query; None when DuckDB does not take the text with guards in it."""
        self.cut()
        whole = self.with_ctes(self.pieces(*self.part))
        found = self.columns(whole)
        if found is None:
            return None
        names = self._names(described)
        columns = tuple(self.binding.new_column(name, kind) for (name, _), (_, kind) in zip(names, found, strict=True))
        return Demand(
            whole,
            columns,
            tuple(self.text.inputs),
            tuple(self.asks),
            pinned=self.is_pinned(),
            unsteady=self.is_unsteady(),
        )

    def cut(self) -> None:
        """Put functions in the places of the calls, relations in those of CTEs with calls."""
        binding, lexed = self.binding, self.binding.lexed
        self._check()
        for index, name, given_alias in binding.bound_tables(*self.part, self.context):
            cte = self.context.bound[name]
            columns = tuple(binding.new_column(column.name, column.type) for column in cte.query.columns)
            query = BoundQuery(CteScan(cte.query.plan, cte.number, cte.name, columns), columns)
            self.text.cut(lexed.span(index, index + 1), self.text.query(query), "" if given_alias else alias(cte.name))
        for call in binding.calls_in(*self.part):
            self.text.cut(call.span, self._call(binding.source, call, ()))  # type: ignore[arg-type]  # a demand's part
        for before, after in self.places.recursive_arms():
            self.text.cut(before, "SELECT * FROM (")
            self.text.cut(after, "\n) WHERE ", GoOn())  # type: ignore[arg-type]

    def pieces(self, first: int, end: int) -> tuple[DemandPart, ...]:
        """The text of a token range."""
        span = self.binding.lexed.span(first, end)
        return self.text.parts(self.binding.lexed.sql, span.start, span.end)

    def with_ctes(self, body: tuple[DemandPart, ...]) -> tuple[DemandPart, ...]:
        """A query's text behind the CTEs of outer queries that it reads."""
        prefix = self.binding.cte_prefix(" ".join(_words(body)), self.context)
        return merged([f"{prefix}SELECT * FROM (", *body, "\n)"]) if prefix else body

    def is_pinned(self) -> bool:
        """Whether the text asks for the time."""
        tokens = self.binding.lexed.tokens[self.part[0] : self.part[1]]
        if any(token.text.lower() in _MOMENT for token in tokens):
            return True
        holes = (item for call in self.binding.calls_in(*self.part) for hole in call.holes() for item in hole.fields)
        return any(token.text.lower() in _MOMENT for item in holes for token in item.source.lexed.tokens)

    def is_unsteady(self) -> bool:
        """Whether running the text twice may show other rows or values."""
        lexed = self.binding.lexed
        if are_volatile(functions_in(self.binding.source, *self.part), self.binding.duck):
            return True
        return any(lexed.word(index) in ("SAMPLE", "TABLESAMPLE") for index in range(*self.part))

    def _check(self) -> None:
        binding = self.binding
        for site in self._all_sites(binding.calls_in(*self.part)):
            for hole in site.holes():
                for item in hole.fields:
                    tokens = len(item.source.lexed.tokens)
                    if are_volatile(functions_in(item.source, 0, tokens), binding.duck):
                        raise BinderError(
                            "a prompt in this place cannot hold a value that is another each time",
                            span=item.source.origin(item.source.lexed.span(0, tokens)),
                            remedy="Compute it in a table first, and read it from there.",
                        )
        found = functions_in(binding.source, *self.part) & _COUNTING
        if found:
            call = binding.calls_in(*self.part)[0]
            raise NotSupportedError(
                f"{min(found)}() cannot stand in one query with an LLM call in this place",
                span=call.origin(),
                remedy="Compute the numbers in a statement of their own.",
            )

    def _all_sites(self, sites: Sequence[CallSite]) -> Iterator[CallSite]:
        for site in sites:
            yield site
            yield from self._all_sites(list(site.nested()))

    def columns(self, parts: Sequence[DemandPart]) -> Described | None:
        """Names and types of a query's text, stubs in the places of calls and inputs; None when DuckDB refuses it."""
        try:
            return self.binding.probe("".join(self._stub(part) for part in parts))
        except Error:
            return None

    def _stub(self, part: DemandPart) -> str:
        if isinstance(part, str):
            return part
        if isinstance(part, GoOn):
            return "TRUE"
        if isinstance(part, InputRef):
            types = {column.id: column.type for column in output_columns(self.text.inputs[part.index])}
            items = [f"CAST(NULL AS {types[column].text}) AS {quote(name)}" for name, column in part.names]
            return f"(SELECT * FROM (SELECT {', '.join(items) or 'NULL'}))"
        wanted = sample(call_type(self.asks[part.index].call))
        tests = [SHADOW_MARK, *("".join(self._stub(piece) for piece in each) for each in part.arguments)]
        return (
            "(CASE WHEN " + " OR ".join(f"({test}\n) IS NULL" for test in tests) + f" THEN {wanted} ELSE {wanted} END)"
        )

    def _names(self, described: Described) -> Described:
        """Output names: an item that is a call is named by its own text."""
        if not any(SHADOW_MARK in name for name, _ in described):
            return described
        binding, (first, end) = self.binding, self.part
        while True:
            query = parse_query(binding.lexed, first, end)
            arm = query.arms[0]
            if arm.kind != "nested":
                break
            first, end = arm.range[0] + 1, arm.range[1] - 1
        if arm.kind != "select":
            return described
        items = select_items(binding, parse_select(binding.lexed, *arm.range))
        return output_names(binding, items, described)

    # --- calls

    def _call(self, source: Source, site: CallSite, outer: tuple[DemandPart, ...]) -> CallText:
        """A call as a function of its guard and holes. ``outer`` is the guard of the call around it."""
        site.check_value()
        guard = (*outer, *self._guard(source, site, bool(outer))) if self.guarded else ()
        arguments: list[tuple[DemandPart, ...]] = [guard] if guard else []
        columns = [self.binding.new_column("guard", BOOLEAN)] if guard else []
        segments: list[Segment] = []
        for piece in site.pieces:
            if isinstance(piece, str):
                segments.append(piece)
                continue
            fields = []
            for name, expr in self._fields(source, site, piece, guard):
                column = self.binding.new_column(name, VARCHAR)
                columns.append(column)
                arguments.append(expr)
                fields.append((name, column.id))
            segments.append(ObjectHole(tuple(fields)) if piece.is_object else Hole(fields[0][1]))
        if site.inputs:
            column = self.binding.new_column("inputs", VARCHAR_LIST)
            columns.append(column)
            arguments.append(self._inputs(source, site, guard))
            segments.append(ItemsHole(column.id, site.separator))
        index = self._ask(site, tuple(segments), tuple(columns), arguments, guard)
        return CallText(index, tuple(arguments))

    def _fields(
        self, source: Source, site: CallSite, hole: HoleSite, guard: tuple[DemandPart, ...]
    ) -> list[tuple[str, tuple[DemandPart, ...]]]:
        """The names and texts of a hole's expressions, cast to VARCHAR."""
        before, after = ("CAST(to_json(", "\n) AS VARCHAR)") if hole.is_object else ("CAST((", "\n) AS VARCHAR)")
        if hole.star:
            table = f"{quote(hole.star.table)}." if hole.star.table else ""
            names = self.places.star(site, hole.star.text)
            return [(name, (f"{before}{table}{quote(name)}{after}",)) for name in names]
        found = []
        for item in hole.fields:
            whole = self._with_calls(item.source, (0, len(item.source.lexed.tokens)), item.calls, guard)
            found.append((item.name, _merge((before, *whole, after))))
        return found

    def _inputs(self, source: Source, site: CallSite, guard: tuple[DemandPart, ...]) -> tuple[DemandPart, ...]:
        """The list of a group's inputs. The guard says nothing about a single row: calls among them have their own."""
        parts: list[DemandPart] = []
        for part in site.inputs:
            parts += [part] if isinstance(part, str) else self._with_calls(source, part, site.inner, ())
        return _merge(parts)

    def _with_calls(
        self, source: Source, part: Range, calls: Sequence[CallSite], guard: tuple[DemandPart, ...]
    ) -> tuple[DemandPart, ...]:
        """A token range with its calls replaced."""
        span = source.lexed.span(*part)
        pieces: list[DemandPart] = []
        at = span.start
        for call in calls:
            if not (part[0] <= call.first and call.end <= part[1]):
                continue
            pieces += [source.sql[at : call.span.start], self._call(source, call, guard)]
            at = call.span.end
        pieces.append(source.sql[at : span.end])
        return _merge(pieces)

    def _guard(self, source: Source, site: CallSite, more: bool) -> tuple[DemandPart, ...]:
        """The condition under which a call is reached, as text; empty when always. ``more``: it follows another."""
        found: list[DemandPart] = []
        for term in self.places.guard_terms(source, site):
            text = self._term(source, term)
            if text:
                found += [" AND " if found or more else "", *text]
        return _merge(found)

    def _term(self, source: Source, term: Term) -> tuple[DemandPart, ...]:
        ranges = [piece for piece in term if not isinstance(piece, str)]
        if any(are_volatile(functions_in(source, *piece), self.binding.duck) for piece in ranges):
            return ()  # evaluated twice it would say two things
        pieces: list[DemandPart] = []
        for piece in term:
            if isinstance(piece, str):
                pieces.append(piece)
            else:
                calls = self.binding.calls_of(source)
                pieces += self._with_calls(source, piece, calls, ())
        return _merge(pieces)

    def _ask(
        self,
        site: CallSite,
        segments: tuple[Segment, ...],
        columns: tuple[Column, ...],
        arguments: Sequence[tuple[DemandPart, ...]],
        guard: tuple[DemandPart, ...],
    ) -> int:
        """The number of the call's function: equal calls are one, so that DuckDB sees equal expressions."""
        shape = tuple(
            segment
            if isinstance(segment, str)
            else tuple(name for name, _ in segment.fields)
            if isinstance(segment, ObjectHole)
            else None
            for segment in segments
        )
        words = tuple(_folded(argument) for argument in arguments)
        options = (site.kind, site.model.name, site.system, site.returns, site.sampling, site.on_error, site.labels)
        more = (
            site.target,
            site.volatile,
            site.row_form,
            site.cache,
            site.priority,
            site.fan_in,
            site.separator,
            site.fuse,
            bool(guard),
        )
        key = (options, more, shape, words)
        rank, recursive = self.places.rank(site), self.places.is_recursive(site)
        known = self._known.get(key)
        if known is not None and self.asks[known].recursive == recursive:
            ask = self.asks[known]
            self.asks[known] = replace(ask, rank=min(ask.rank, rank))
            return known
        call = self.binding.call(site, segments, columns[0].id if guard else None)
        self._known[key] = len(self.asks)
        self.asks.append(Ask(call, columns, rank, recursive))
        return len(self.asks) - 1


def _merge(parts: Sequence[DemandPart]) -> tuple[DemandPart, ...]:
    return merged(parts)


def _words(parts: Sequence[DemandPart]) -> list[str]:
    """All text of some parts."""
    found: list[str] = []
    for part in parts:
        if isinstance(part, str):
            found.append(part)
        elif isinstance(part, CallText):
            found += [word for argument in part.arguments for word in _words(argument)]
    return found


def _folded(parts: Sequence[DemandPart]) -> tuple[object, ...]:
    """Parts for comparison: case and white space outside of quotes do not count."""
    from halo_sql.duck_tokens import tokenize

    found: list[object] = []
    for part in parts:
        if isinstance(part, str):
            found += [token.text if token.text[:1] in "'$" else token.text.lower() for token in tokenize(part)]
        elif isinstance(part, CallText):
            found += [part.index, *(_folded(argument) for argument in part.arguments)]
        else:
            found.append(part)
    return tuple(found)
