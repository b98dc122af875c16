"""Where the calls of a demand stand: what decides whether they are reached, and which are to be answered first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

from halo_sql.errors import Error, NotSupportedError, Span
from halo_sql.grammar.binding import Binding, CteContext, plain
from halo_sql.grammar.call_site import CallSite
from halo_sql.grammar.called import contains_query
from halo_sql.grammar.demand_places import Path, PlaceWalk
from halo_sql.grammar.expressions import aggregates, grouping
from halo_sql.grammar.guards import Term, guard_terms
from halo_sql.grammar.lex import Lexed
from halo_sql.grammar.skeleton import Range, identifier, parse_query, parse_select, starts_query
from halo_sql.grammar.source import Source


@dataclass(slots=True)
class Places:
    """The calls of one token range of the statement."""

    binding: Binding
    part: Range
    context: CteContext
    walk: PlaceWalk
    _ranks: dict[int, int] = field(default_factory=dict)
    _outer: dict[int, CallSite] = field(default_factory=dict)  # id of a nested call -> the call of the statement

    @classmethod
    def of_query(cls, binding: Binding, part: Range, context: CteContext) -> Places:
        """The places of the calls of a query."""
        walk = PlaceWalk(binding)
        walk.query(part, ())
        return cls(binding, part, context, walk)

    def __post_init__(self) -> None:
        for call in self.binding.calls_in(*self.part):
            self._nest(call, call)

    def _nest(self, site: CallSite, outer: CallSite) -> None:
        self._outer[id(site)] = outer
        for nested in site.nested():
            self._nest(nested, outer)

    # --- what decides whether a call is reached

    def guard_terms(self, source: Source, site: CallSite) -> list[Term]:
        """Conditions that hold for every row (or pair, or group) that reaches the call."""
        lexed = source.lexed
        if source is not self.binding.source:
            return guard_terms(lexed, site.first, 0, len(lexed.tokens), partial(self._closes_row, lexed))
        place = self.walk.places.get(site.first)
        if place is None:
            return []
        terms = self._terms(site.first, place.part, place.others)
        for outer in reversed(place.within.around):
            found = self._terms(outer.opening, outer.part, outer.others)
            terms = [*(term for term in found if self._means_the_same(term, outer.clauses)), *terms]
        return terms

    def _terms(self, inside: int, part: Range, others: Sequence[Range]) -> list[Term]:
        lexed = self.binding.lexed
        terms = guard_terms(lexed, inside, *part, partial(self._closes_row, lexed))
        known = {piece for term in terms for piece in term if not isinstance(piece, str)}
        return [*terms, *(("((", other, ") IS NOT FALSE)") for other in others if other not in known)]

    def _means_the_same(self, term: Term, clauses: Sequence[Range]) -> bool:
        """Whether a condition of an outer query can be written inside the sub-query: it holds no query or aggregate
        of its own, and none of its names is hidden by a table or column between."""
        source = self.binding.source
        names: set[str] = set()
        for piece in term:
            if isinstance(piece, str):
                continue
            span = source.lexed.span(*piece)
            found = source.syntax.columns_in(span.start, span.end)
            if found is None or contains_query(source, *piece) or grouping(source, *piece, self.binding.duck):
                return False
            names |= {parts[0].name.lower() for parts in found}
        for clause in clauses:
            inner = self._names_of(clause)
            if inner is None or inner & names:
                return False
        return True

    def _names_of(self, clause: Range) -> set[str] | None:
        """Lower-case names that a FROM clause makes visible; None when they cannot be told."""
        lexed = self.binding.lexed
        try:
            shadow = [plain("SELECT * FROM "), *self.binding.shadow(*clause)]
            columns = {name.lower() for name, _ in self.binding.describe(shadow, self.context)}
        except Error:
            return None
        words = (lexed.tokens[index] for index in lexed.level(*clause))
        tables = {identifier(token.text).lower() for token in words if token.kind in ("identifier", "keyword")}
        return columns | tables

    def _closes_row(self, lexed: Lexed, opening: int) -> bool:
        """Whether the bracket holds the arguments of an aggregate or window function, or a lambda's body: what is
        outside of it means another row."""
        name = lexed.text(opening - 1).strip('"').lower()
        if name in aggregates(self.binding.duck):
            return True
        if lexed.word(lexed.partner[opening] + 1) in ("OVER", "FILTER", "WITHIN"):
            return True
        return starts_query(lexed, opening + 1)

    # --- which come first

    def rank(self, site: CallSite) -> int:
        """One more than the highest rank of the calls whose answers may decide whether, or what, this one asks."""
        known = self._ranks.get(id(site))
        if known is not None:
            return known
        self._ranks[id(site)] = 0  # a cycle ends here
        found = 1 + max((self.rank(other) for other in self._before(site)), default=-1)
        self._ranks[id(site)] = found
        return found

    def _before(self, site: CallSite) -> Iterator[CallSite]:
        yield from site.nested()
        source = site.source
        for term in self.guard_terms(source, site):
            for piece in term:
                if not isinstance(piece, str):
                    first, end = piece
                    calls = self.binding.calls_of(source)
                    yield from (call for call in calls if first <= call.first and call.end <= end)
        outer = self._outer[id(site)]
        own = self.walk.places.get(outer.first)
        if own is None:
            return
        for other in self.binding.calls_in(*self.part):
            place = self.walk.places.get(other.first)
            if other is not outer and place is not None and _earlier(place.path, own.path):
                yield other
        yield from self._read_aliases(outer)

    def _read_aliases(self, site: CallSite) -> Iterator[CallSite]:
        """Calls of items to the left whose alias the call's text names."""
        own = self.walk.places[site.first]
        lexed = self.binding.lexed
        words = {identifier(lexed.text(index)).lower() for index in range(site.first, site.end)}
        words |= {
            identifier(token.text).lower()
            for hole in site.holes()
            for item in hole.fields
            for token in item.source.lexed.tokens
        }
        for other in self.binding.calls_in(*self.part):
            place = self.walk.places.get(other.first)
            if place is None or other.first >= site.first or place.path != own.path or place.part == own.part:
                continue
            alias = lexed.text(place.part[1] - 1)
            if identifier(alias).lower() in words:
                yield other

    # --- recursion

    def is_recursive(self, site: CallSite) -> bool:
        """Whether the call stands in the arm of a recursive CTE that reads the CTE."""
        place = self.walk.places.get(self._outer[id(site)].first)
        return place is not None and place.within.recursive

    def recursive_arms(self) -> list[tuple[Span, Span]]:
        """For each such arm with calls: the empty spans in front of it and behind it."""
        spans = [self.binding.lexed.span(*arm) for arm in self.walk.arms]
        return [(Span(span.start, span.start), Span(span.end, span.end)) for span in spans]

    # --- {{ * }}

    def star(self, site: CallSite, text: str) -> list[str]:
        """The columns that a star (``*``, ``t.*``) stands for in scope of a call, by name."""
        lexed = self.binding.lexed
        opening = lexed.parent[self._outer[id(site)].first]
        while opening >= self.part[0] and not (lexed.text(opening) == "(" and starts_query(lexed, opening + 1)):
            opening = lexed.parent[opening]
        block = (opening + 1, lexed.partner[opening]) if opening >= self.part[0] else self.part
        arm = next(
            arm for arm in parse_query(lexed, *block).arms if arm.range[0] <= self._outer[id(site)].first < arm.range[1]
        )
        clause = parse_select(lexed, *arm.range).clauses.get("FROM")
        names: list[str] = []
        if clause is not None:
            try:
                shadow = [plain(f"SELECT {text} FROM "), *self.binding.shadow(*clause)]
                names = [name for name, _ in self.binding.describe(shadow, self.context)]
            except Error:
                names = []
        if not names or len({name.lower() for name in names}) < len(names):
            raise NotSupportedError(
                f"{{{{ {text} }}}} is not available in this place",
                span=site.origin(),
                remedy="Name the columns: {{ a, b }}.",
            )
        return names


def _earlier(first: Path, second: Path) -> bool:
    """Whether what stands at the first place is evaluated before what stands at the second can be known."""
    for (block, part), (other, own) in zip(first, second, strict=False):
        if block != other:
            return False
        if part != own:
            return part < own
    return False
