"""Where the calls of a demand stand: what decides whether they are reached, and which are to be answered first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from halo_sql.errors import Error, NotSupportedError, Span
from halo_sql.grammar.binding import Binding, CteContext, plain
from halo_sql.grammar.calls import CallSite
from halo_sql.grammar.guards import Term, guard_terms, split_words
from halo_sql.grammar.lex import Lexed
from halo_sql.grammar.skeleton import Query, Range, identifier, parse_query, parse_select, starts_query
from halo_sql.grammar.source import Source

#: The order in which SQL evaluates the clauses of a SELECT.
_CLAUSE_ORDER = (
    "WITH", "FROM", "SAMPLE", "WHERE", "GROUP", "HAVING", "WINDOW", "SELECT", "QUALIFY", "DISTINCT", "ORDER",
    "LIMIT", "OFFSET", "FETCH",
)  # fmt: skip
_FILTERS = frozenset({"WHERE", "HAVING", "QUALIFY"})
_BESIDE_ON = frozenset(
    {"JOIN", "INNER", "CROSS", "LEFT", "RIGHT", "FULL", "SEMI", "ANTI", "ASOF", "NATURAL", "POSITIONAL"}
)

Path = tuple[tuple[int, int], ...]  # (first token of a query or block, its part) from outside to inside


@dataclass(frozen=True, slots=True)
class _Place:
    """A call's place. ``around``: the expression it stands in; ``others``: conjuncts that decide with it."""

    path: Path
    around: Range
    others: tuple[Range, ...]
    recursive: bool


@dataclass(slots=True)
class Places:
    """The calls of one token range of the statement."""

    binding: Binding
    part: Range
    _places: dict[int, _Place] = field(default_factory=dict)
    _ranks: dict[int, int] = field(default_factory=dict)
    _arms: list[Range] = field(default_factory=list)
    _outer: dict[int, CallSite] = field(default_factory=dict)  # id of a nested call -> the call of the statement

    @classmethod
    def of_query(cls, binding: Binding, part: Range) -> Places:
        """The places of the calls of a query."""
        places = cls(binding, part)
        places.query(part, ())
        return places

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
            return guard_terms(
                lexed, site.first, 0, len(lexed.tokens), lambda opening: self._closes_row(lexed, opening)
            )
        place = self._places.get(site.first)
        if place is None:
            return []
        terms = guard_terms(lexed, site.first, *place.around, lambda opening: self._closes_row(lexed, opening))
        known = {piece for term in terms for piece in term if not isinstance(piece, str)}
        return [*terms, *(("((", other, ") IS NOT FALSE)") for other in place.others if other not in known)]

    def _closes_row(self, lexed: Lexed, opening: int) -> bool:
        """Whether the bracket holds the arguments of an aggregate or window function, or a lambda's body: what is
        outside of it means another row."""
        name = lexed.text(opening - 1).strip('"').lower()
        if name in self.binding.duck.aggregate_functions():
            return True
        if lexed.word(lexed.partner[opening] + 1) in ("OVER", "FILTER", "WITHIN"):
            return True
        return starts_query(lexed, opening + 1)

    def calls_of(self, source: Source) -> Sequence[CallSite]:
        """The calls of a text."""
        if source is self.binding.source:
            return self.binding.calls
        stack = list(self.binding.calls)
        while stack:
            call = stack.pop()
            for hole in call.holes():
                for item in hole.fields:
                    if item.source is source:
                        return item.calls
                    stack += item.calls
        return ()

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
                    yield from (
                        call for call in self.calls_of(source) if piece[0] <= call.first and call.end <= piece[1]
                    )
        outer = self._outer[id(site)]
        own = self._places.get(outer.first)
        if own is None:
            return
        for other in self.binding.calls_in(*self.part):
            place = self._places.get(other.first)
            if other is not outer and place is not None and _earlier(place.path, own.path):
                yield other
        yield from self._read_aliases(outer)

    def _read_aliases(self, site: CallSite) -> Iterator[CallSite]:
        """Calls of items to the left whose alias the call's text names."""
        own = self._places[site.first]
        lexed = self.binding.lexed
        words = {identifier(lexed.text(index)).lower() for index in range(site.first, site.end)}
        words |= {
            identifier(token.text).lower()
            for hole in site.holes()
            for item in hole.fields
            for token in item.source.lexed.tokens
        }
        for other in self.binding.calls_in(*self.part):
            place = self._places.get(other.first)
            if place is None or other.first >= site.first or place.path != own.path or place.around == own.around:
                continue
            alias = lexed.text(place.around[1] - 1)
            if identifier(alias).lower() in words:
                yield other

    # --- recursion

    def is_recursive(self, site: CallSite) -> bool:
        """Whether the call stands in the arm of a recursive CTE that reads the CTE."""
        place = self._places.get(self._outer[id(site)].first)
        return place is not None and place.recursive

    def recursive_arms(self) -> list[tuple[Span, Span]]:
        """For each such arm with calls: the empty spans in front of it and behind it."""
        spans = [self.binding.lexed.span(*arm) for arm in self._arms]
        return [(Span(span.start, span.start), Span(span.end, span.end)) for span in spans]

    # --- walking queries

    def query(self, part: Range, path: Path) -> None:
        """Find the calls of a query."""
        self._walk_query(part, path, False)

    def condition(self, part: Range, path: Path) -> None:
        """Find the calls of a condition: its conjuncts decide together."""
        self._walk_expression(part, path, self._conjuncts(part), False)

    def expression(self, part: Range, path: Path) -> None:
        """Find the calls of an expression."""
        self._walk_expression(part, path, (), False)

    def relations(self, part: Range, path: Path) -> None:
        """Find the calls of a list of tables and joins."""
        self._walk_from(part, path, False)

    def _walk_query(self, part: Range, path: Path, recursive: bool) -> None:
        lexed = self.binding.lexed
        first, end = part
        while lexed.text(first) == "(" and lexed.partner[first] == end - 1:
            first, end = first + 1, end - 1
        if not self.binding.calls_in(first, end):
            return
        query = parse_query(lexed, first, end)
        for position, cte in enumerate(query.ctes):
            self._walk_cte(query, position, cte.body, (*path, (first, position)), recursive)
        body = (*path, (first, len(query.ctes)))
        for arm in query.arms:
            self._walk_arm(arm.range, arm.kind, body, recursive)
        if query.tail[0] < query.tail[1]:
            after = (*path, (first, len(query.ctes) + 1))
            for piece in lexed.items(*query.tail):
                self._walk_expression(piece, (*after, (query.tail[0], 0)), (), recursive)

    def _walk_cte(self, query: Query, position: int, body: Range, path: Path, recursive: bool) -> None:
        lexed, name = self.binding.lexed, query.ctes[position].name.lower()
        inner = parse_query(lexed, *body)
        if not query.recursive or len(inner.arms) < 2:
            self._walk_query(body, path, recursive)
            return
        for arm in inner.arms:
            reads = any(identifier(lexed.text(index)).lower() == name for index in range(*arm.range))
            calls = self.binding.calls_in(*arm.range)
            if reads and calls:
                self._arms.append(arm.range)
            self._walk_arm(arm.range, arm.kind, (*path, (body[0], int(reads))), recursive or reads)

    def _walk_arm(self, part: Range, kind: str, path: Path, recursive: bool) -> None:
        if kind == "nested":
            self._walk_query((part[0] + 1, part[1] - 1), path, recursive)
            return
        lexed = self.binding.lexed
        if kind != "select":
            self._walk_expression(part, (*path, (part[0], 0)), (), recursive)
            return
        select = parse_select(lexed, *part)
        if select.distinct_on is not None:
            inside = (*path, (part[0], _CLAUSE_ORDER.index("DISTINCT")))
            for piece in lexed.items(*select.distinct_on):
                self._walk_expression(piece, inside, (), recursive)
        for clause, within in select.clauses.items():
            inside = (*path, (part[0], _CLAUSE_ORDER.index(clause)))
            if clause == "FROM":
                self._walk_from(within, inside, recursive)
            elif clause in _FILTERS:
                self._walk_expression(within, inside, self._conjuncts(within), recursive)
            else:
                for piece in lexed.items(*within):
                    self._walk_expression(piece, inside, (), recursive)

    def _conjuncts(self, part: Range) -> tuple[Range, ...]:
        """The conjuncts of a condition without calls (those with calls decide by their order)."""
        lexed = self.binding.lexed
        if len(split_words(lexed, *part, "OR")) > 1:
            return ()
        pieces = split_words(lexed, *part, "AND")
        return tuple(piece for piece in pieces if len(pieces) > 1 and not self.binding.calls_in(*piece))

    def _walk_expression(self, part: Range, path: Path, others: tuple[Range, ...], recursive: bool) -> None:
        """The calls of an expression, and the queries in it."""
        lexed, index = self.binding.lexed, part[0]
        calls = {call.first: call for call in self.binding.calls_in(*part)}
        while index < part[1]:
            if lexed.text(index) == "(" and starts_query(lexed, index + 1):
                closing = lexed.partner[index]
                self._walk_query((index + 1, closing), path, recursive)
                index = closing + 1
            elif index in calls:
                self._places[index] = _Place(path, part, others, recursive)
                index = calls[index].end
            else:
                index += 1

    def _walk_from(self, part: Range, path: Path, recursive: bool) -> None:
        """A FROM clause or a bracket of joins: conditions behind ON, and everything else."""
        lexed, start, on = self.binding.lexed, part[0], False
        for index in [*lexed.level(*part), part[1]]:
            word = lexed.word(index) if index < part[1] else ""
            is_on = word == "ON" and not lexed.column_label(index)
            ends = index == part[1] or lexed.text(index) == "," or (word in _BESIDE_ON and lexed.text(index + 1) != "(")
            if not (is_on or ends):
                continue
            piece = (start, index)
            if on:
                self._walk_expression(piece, path, self._conjuncts(piece), recursive)
            else:
                self._walk_relation(piece, path, recursive)
            start, on = index + 1, is_on

    def _walk_relation(self, part: Range, path: Path, recursive: bool) -> None:
        lexed = self.binding.lexed
        for index in lexed.level(*part):
            if lexed.text(index) != "(" or starts_query(lexed, index + 1):
                continue
            before = lexed.tokens[index - 1] if index > part[0] else None
            if before is None or before.kind not in ("identifier", "keyword"):  # a bracket of joins
                self._walk_from((index + 1, lexed.partner[index]), path, recursive)
                return
        self._walk_expression(part, path, (), recursive)

    # --- {{ * }}

    def star(self, site: CallSite, context: CteContext) -> list[str]:
        """The columns in scope of a call, by name."""
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
                shadow = [plain("SELECT * FROM "), *self.binding.shadow(*clause)]
                names = [name for name, _ in self.binding.describe(shadow, context)]
            except Error:
                names = []
        if not names or len({name.lower() for name in names}) < len(names):
            raise NotSupportedError(
                "{{ * }} is not available in this place",
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
