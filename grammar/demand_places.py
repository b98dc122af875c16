"""Where the calls of a query stand: clause, expression, and the queries around."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from halo_sql.grammar.binding import Binding
from halo_sql.grammar.guards import split_words
from halo_sql.grammar.skeleton import Query, Range, identifier, parse_query, parse_select, starts_query

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
class Around:
    """An expression with a sub-query in it, seen from inside.

    part     the expression
    opening  the sub-query's bracket
    others   conjuncts that decide with it
    clauses  FROM clauses between here and the place: their names hide the expression's
    """

    part: Range
    opening: int
    others: tuple[Range, ...]
    clauses: tuple[Range, ...] = ()


@dataclass(frozen=True, slots=True)
class Within:
    """What is around a place: the expressions of outer queries, outermost first; the arm of a recursion."""

    recursive: bool = False
    around: tuple[Around, ...] = ()

    def reading(self, clause: Range | None) -> Within:
        """The same inside a block with this FROM clause."""
        if clause is None or not self.around:
            return self
        return replace(self, around=tuple(replace(each, clauses=(*each.clauses, clause)) for each in self.around))


@dataclass(frozen=True, slots=True)
class Place:
    """A call's place: the expression it stands in, the conjuncts that decide with it, and what is around."""

    path: Path
    part: Range
    others: tuple[Range, ...]
    within: Within


@dataclass(slots=True)
class PlaceWalk:
    """Walks over parts of a statement and notes the place of each call.

    places  first token of a call -> its place
    arms    arms of recursive CTEs that read the CTE and hold calls
    """

    binding: Binding
    places: dict[int, Place] = field(default_factory=dict)
    arms: list[Range] = field(default_factory=list)

    def query(self, part: Range, path: Path) -> None:
        """Find the calls of a query."""
        self._walk_query(part, path, Within())

    def condition(self, part: Range, path: Path) -> None:
        """Find the calls of a condition: its conjuncts decide together."""
        self._walk_expression(part, path, self._conjuncts(part), Within())

    def expression(self, part: Range, path: Path) -> None:
        """Find the calls of an expression."""
        self._walk_expression(part, path, (), Within())

    def relations(self, part: Range, path: Path) -> None:
        """Find the calls of a list of tables and joins."""
        self._walk_from(part, path, Within())

    def _walk_query(self, part: Range, path: Path, within: Within) -> None:
        lexed = self.binding.lexed
        first, end = part
        while lexed.text(first) == "(" and lexed.partner[first] == end - 1:
            first, end = first + 1, end - 1
        if not self.binding.calls_in(first, end):
            return
        query = parse_query(lexed, first, end)
        for position, cte in enumerate(query.ctes):
            self._walk_cte(query, position, cte.body, (*path, (first, position)), within)
        body = (*path, (first, len(query.ctes)))
        for arm in query.arms:
            self._walk_arm(arm.range, arm.kind, body, within)
        if query.tail[0] < query.tail[1]:
            after = (*path, (first, len(query.ctes) + 1))
            for piece in lexed.items(*query.tail):
                self._walk_expression(piece, (*after, (query.tail[0], 0)), (), within)

    def _walk_cte(self, query: Query, position: int, body: Range, path: Path, within: Within) -> None:
        lexed, name = self.binding.lexed, query.ctes[position].name.lower()
        inner = parse_query(lexed, *body)
        if not query.recursive or len(inner.arms) < 2:
            self._walk_query(body, path, within)
            return
        for arm in inner.arms:
            reads = any(identifier(lexed.text(index)).lower() == name for index in range(*arm.range))
            calls = self.binding.calls_in(*arm.range)
            if reads and calls:
                self.arms.append(arm.range)
            self._walk_arm(
                arm.range,
                arm.kind,
                (*path, (body[0], int(reads))),
                replace(within, recursive=within.recursive or reads),
            )

    def _walk_arm(self, part: Range, kind: str, path: Path, within: Within) -> None:
        if kind == "nested":
            self._walk_query((part[0] + 1, part[1] - 1), path, within)
            return
        lexed = self.binding.lexed
        if kind != "select":
            self._walk_expression(part, (*path, (part[0], 0)), (), within)
            return
        select = parse_select(lexed, *part)
        if select.distinct_on is not None:
            inside = (*path, (part[0], _CLAUSE_ORDER.index("DISTINCT")))
            for piece in lexed.items(*select.distinct_on):
                self._walk_expression(piece, inside, (), within)
        reading = within.reading(select.clauses.get("FROM"))
        for clause, inner in select.clauses.items():
            inside = (*path, (part[0], _CLAUSE_ORDER.index(clause)))
            if clause == "FROM":
                self._walk_from(inner, inside, within)
            elif clause in _FILTERS:
                self._walk_expression(inner, inside, self._conjuncts(inner), reading)
            else:
                for piece in lexed.items(*inner):
                    self._walk_expression(piece, inside, (), reading)

    def _conjuncts(self, part: Range) -> tuple[Range, ...]:
        """The conjuncts of a condition without calls (those with calls decide by their order)."""
        lexed = self.binding.lexed
        if len(split_words(lexed, *part, "OR")) > 1:
            return ()
        pieces = split_words(lexed, *part, "AND")
        return tuple(piece for piece in pieces if len(pieces) > 1 and not self.binding.calls_in(*piece))

    def _walk_expression(
        self, part: Range, path: Path, others: tuple[Range, ...], within: Within, is_relation: bool = False
    ) -> None:
        """The calls of an expression, and the queries in it."""
        lexed, index = self.binding.lexed, part[0]
        calls = {call.first: call for call in self.binding.calls_in(*part)}
        while index < part[1]:
            if lexed.text(index) == "(" and starts_query(lexed, index + 1):
                closing = lexed.partner[index]
                around = within.around if is_relation else (*within.around, Around(part, index, others))
                self._walk_query((index + 1, closing), path, replace(within, around=around))
                index = closing + 1
            elif index in calls:
                self.places[index] = Place(path, part, others, within)
                index = calls[index].end
            else:
                index += 1

    def _walk_from(self, part: Range, path: Path, within: Within) -> None:
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
                self._walk_expression(piece, path, self._conjuncts(piece), within)
            else:
                self._walk_relation(piece, path, within)
            start, on = index + 1, is_on

    def _walk_relation(self, part: Range, path: Path, within: Within) -> None:
        lexed = self.binding.lexed
        for index in lexed.level(*part):
            if lexed.text(index) != "(" or starts_query(lexed, index + 1):
                continue
            before = lexed.tokens[index - 1] if index > part[0] else None
            if before is None or before.kind not in ("identifier", "keyword"):  # a bracket of joins
                self._walk_from((index + 1, lexed.partner[index]), path, within)
                return
        self._walk_expression(part, path, (), within, is_relation=True)
