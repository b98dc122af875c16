"""Queries: WITH, set operations, VALUES; SELECT blocks are bound by ``bind_select``."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

from halo_sql.errors import NotSupportedError, Span
from halo_sql.grammar.bind_select import bind_select
from halo_sql.grammar.bind_tail import CALLS_TABLE
from halo_sql.grammar.binding import SHADOW_MARK, Binding, BoundCte, BoundQuery, CteContext
from halo_sql.grammar.block import Described
from halo_sql.grammar.call_site import CallSite
from halo_sql.grammar.checked import checked_fragment, fragment_columns
from halo_sql.grammar.demand import bind_demand
from halo_sql.grammar.hoist import Hoister
from halo_sql.grammar.learn import learn_arms, learn_ctes, learn_subqueries, union_of_picks
from halo_sql.grammar.names import Scope, Table
from halo_sql.grammar.skeleton import Arm, Query, Range, identifier, parse_query
from halo_sql.grammar.subqueries import bound_subqueries
from halo_sql.grammar.texts import FragmentText, Part, alias, by_id, hidden, merged, visible
from halo_sql.ir.expr import quote
from halo_sql.ir.logical import Fragment
from halo_sql.ir.types import BIGINT
from halo_sql.ir.walk import output_columns


class QueryBinder:
    """Binds the queries of one statement."""

    def __init__(self, binding: Binding) -> None:
        self.binding = binding

    def bind(self, first: int, end: int, context: CteContext) -> BoundQuery:
        """The query in a token range."""
        while self.binding.lexed.text(first) == "(" and self.binding.lexed.partner[first] == end - 1:
            first, end = first + 1, end - 1
        query = parse_query(self.binding.lexed, first, end)
        warned = len(self.binding.warnings)
        try:
            if self.binding.whole:
                raise NotSupportedError("an LLM call over columns with a collation cannot stand here")
            inner = self._with(query, context)
            if not self.binding.tainted(first, end, inner):
                return self._own(query, context)
            if len(query.arms) > 1:
                return self._set_operation(query, inner, context)
        except NotSupportedError as problem:
            del self.binding.warnings[warned:]
            described = self.binding.describe(self.binding.shadow(first, end), context)
            return bind_demand(self.binding, (first, end), context, described, problem)
        return self._arm(query.arms[0], inner)

    def _with(self, query: Query, context: CteContext) -> CteContext:
        """The context with the query's own CTEs; those with LLM calls are bound."""
        seen = {cte.name.lower() for cte in context.ctes}
        for place, cte in enumerate(query.ctes):
            bound, others = dict(context.bound), context.ctes
            if cte.name.lower() in seen:
                bound.pop(cte.name.lower(), None)
                others = tuple(known for known in others if known.name.lower() != cte.name.lower())
            seen.add(cte.name.lower())
            within = CteContext((*others, cte), bound, context.recursive or query.recursive)
            if self.binding.tainted(*cte.body, CteContext(others, bound, within.recursive)):
                if query.recursive and self._reads_itself(cte.body, cte.name):
                    calls = self.binding.calls_in(*cte.body)
                    raise NotSupportedError(
                        f'an LLM call in the recursive CTE "{cte.name}" is not available in this version',
                        span=calls[0].origin() if calls else self.binding.lexed.span(*cte.whole),
                        remedy="Call it outside the recursion.",
                    )
                if not query.recursive:
                    learn_ctes(self.binding, query.ctes[place:], context)
                bound_query = self.bind(*cte.body, CteContext(others, bound, within.recursive))
                if cte.column_list is not None:
                    bound_query = self._named(bound_query, *cte.column_list)
                bound[cte.name.lower()] = BoundCte(self.binding.new_cte(), cte.name, bound_query)
                kinds = {column.id: column.type for column in bound_query.columns}
                self.binding.learn(cte, [(name, kinds[column]) for name, column in visible(bound_query.columns)])
            context = CteContext(within.ctes, bound, within.recursive)
        return context

    def _reads_itself(self, body: tuple[int, int], name: str) -> bool:
        lexed = self.binding.lexed
        return any(lexed.text(index).strip('"').lower() == name.lower() for index in range(*body))

    def _named(self, query: BoundQuery, first: int, end: int) -> BoundQuery:
        """Columns renamed by the list behind a CTE's name."""
        lexed = self.binding.lexed
        names = [identifier(lexed.text(left)) for left, _ in lexed.split(first + 1, end - 1)]
        columns = tuple(
            replace(column, name=names[index]) if index < len(names) else column
            for index, column in enumerate(query.columns)
        )
        return BoundQuery(query.plan, columns, query.ordered)

    def _own(self, query: Query, context: CteContext) -> BoundQuery:
        """A query without LLM calls: its text as it stands."""
        binding = self.binding
        described = binding.describe(binding.shadow(*query.range), context)
        columns = tuple(binding.new_column(name, kind) for name, kind in described)
        text = binding.lexed.slice(*query.range)
        prefix = binding.cte_prefix(text, context)
        body = f"{prefix}SELECT * FROM ({text}\n)" if prefix and query.ctes else prefix + text
        return BoundQuery(Fragment((body,), columns, label="Query"), columns)

    def _arm(self, arm: Arm, context: CteContext) -> BoundQuery:
        binding = self.binding
        first, end = arm.range
        if arm.kind == "nested":
            return self.bind(first + 1, end - 1, context)
        if not binding.tainted(first, end, context):
            return self._own(parse_query(binding.lexed, first, end), context)
        if arm.range not in binding.learned:
            learn_subqueries(binding, arm.range, context)
        described = binding.learned.get(arm.range) or binding.describe(binding.shadow(first, end), context)
        warned = len(binding.warnings)
        try:
            return self._lifted(arm, context, described)
        except NotSupportedError as problem:
            del binding.warnings[warned:]
            return bind_demand(binding, arm.range, context, described, problem)

    def _lifted(self, arm: Arm, context: CteContext, described: Described) -> BoundQuery:
        """An arm with its calls lifted out of its expressions; NotSupportedError where that cannot be."""
        binding, (first, end) = self.binding, arm.range
        if arm.kind == "select":
            return bind_select(binding, arm.range, context, self.bind, described)
        if arm.kind == "values":
            return self._values(arm, context, described)
        calls = binding.calls_in(first, end)
        raise NotSupportedError(
            "an LLM call cannot stand in this kind of query",
            span=calls[0].origin() if calls else binding.lexed.span(first, end),
            remedy="Use SELECT.",
        )

    def _values(self, arm: Arm, context: CteContext, described: Described) -> BoundQuery:
        """VALUES with calls: the list beside one row of the calls' results."""
        binding, lexed = self.binding, self.binding.lexed
        one = Fragment(("SELECT 1",), (binding.new_column("one", BIGINT),), label="One row")
        hoister = Hoister(binding, one, Scope(), {})
        subqueries = bound_subqueries(binding, arm.range, context, self.bind)
        calls = [
            call for call in binding.calls_in(*arm.range) if not any(_within(call, inner) for inner, _ in subqueries)
        ]
        hoister.lift(calls, lambda _: arm.range)
        text = FragmentText()
        for call in calls:
            text.cut(call.span, hidden(hoister.output_of(call)))
        for inner, query in subqueries:
            text.cut(lexed.span(*inner), text.query(query))
        source = text.relation(hoister.plan, by_id(output_columns(hoister.plan)))
        span = lexed.span(*arm.range)
        rows = text.parts(lexed.sql, span.start, span.end)
        parts: list[Part] = ["SELECT v.* FROM ", source, alias(CALLS_TABLE), ", LATERAL (", *rows, ") AS v"]
        columns = tuple(binding.new_column(name, kind) for name, kind in described)
        prefix = binding.cte_prefix(lexed.slice(*arm.range), context)
        where = binding.calls_in(*arm.range)[0].origin() if binding.calls_in(*arm.range) else span
        fragment = checked_fragment(binding, [prefix, *parts], columns, text.inputs, "Values", where)
        return BoundQuery(fragment, columns)

    def _set_operation(self, query: Query, context: CteContext, outer: CteContext) -> BoundQuery:
        """Arms with LLM calls become relations in the text of the whole."""
        binding, lexed = self.binding, self.binding.lexed
        text = FragmentText()
        known = union_of_picks(binding, query, context)
        if known is None:
            learn_arms(binding, query.arms, context)
        for arm in query.arms:
            if binding.tainted(*arm.range, context):
                text.cut(lexed.span(*arm.range), "(SELECT * FROM ", text.query(self._arm(arm, context)), ")")
        in_tail = bool(binding.calls_in(*query.tail))
        part = (query.range[0], query.tail[0]) if in_tail else query.range
        described = known or binding.describe(binding.shadow(*part), outer)
        span = Span(lexed.span(*query.arms[0].range).start, lexed.span(*part).end)
        parts = text.parts(lexed.sql, span.start, span.end)
        prefix = binding.cte_prefix(" ".join(piece for piece in parts if isinstance(piece, str)), context)
        whole = [prefix, *parts]
        if any(SHADOW_MARK in name for name, _ in described):
            found = fragment_columns(binding, merged(whole), text.inputs)
            described = [(name, kind) for (name, _), (_, kind) in zip(found, described, strict=True)]
        columns = tuple(binding.new_column(name, kind) for name, kind in described)
        calls = binding.calls_in(*query.range)
        where = calls[0].origin() if calls else span
        if known is not None and all(binding.tainted(*arm.range, context) for arm in query.arms):
            fragment = Fragment(merged(whole), columns, tuple(text.inputs), "Set operation")  # nothing to doubt
        else:
            fragment = checked_fragment(binding, whole, columns, text.inputs, "Set operation", where)
        fragment = replace(fragment, by_position=self._by_position(query))
        ordered = any(lexed.word(index) == "ORDER" for index in range(*query.tail))
        bound = BoundQuery(fragment, columns, ordered)
        return self._ordered(query, bound, context) if in_tail else bound

    def _by_position(self, query: Query) -> bool:
        """Whether a set operation puts the arms' columns one under the other, and gives all the rows it makes."""
        lexed = self.binding.lexed
        between = (range(one.range[1], other.range[0]) for one, other in pairwise(query.arms))
        named = any(lexed.word(index) == "NAME" for gap in between for index in gap)
        return not named and not any(lexed.word(index) in ("LIMIT", "OFFSET", "FETCH") for index in range(*query.tail))

    def _ordered(self, query: Query, bound: BoundQuery, context: CteContext) -> BoundQuery:
        """ORDER BY … LIMIT with calls over the rows of a set operation."""
        binding, lexed = self.binding, self.binding.lexed
        names = visible(bound.columns)
        table = tuple(replace(column, name=name) for column, (name, _) in zip(bound.columns, names, strict=True))
        hoister = Hoister(binding, bound.plan, Scope((Table("__halo_table", table),)), {})
        calls = binding.calls_in(*query.tail)
        hoister.lift(calls, lambda _: query.tail)
        text = FragmentText()
        for call in calls:
            text.cut(call.span, hidden(hoister.output_of(call)))
        extra = [column for column in output_columns(hoister.plan) if column not in bound.columns]
        source = text.relation(hoister.plan, (*names, *by_id(extra)))
        span = lexed.span(*query.tail)
        items = ", ".join(quote(name) for name, _ in names)
        parts = [
            f"SELECT {items} FROM ",
            source,
            alias("__halo_table"),
            " ",
            *text.parts(lexed.sql, span.start, span.end),
        ]
        prefix = binding.cte_prefix(lexed.slice(*query.tail), context)
        columns = tuple(binding.new_column(column.name, column.type) for column in bound.columns)
        fragment = checked_fragment(binding, [prefix, *parts], columns, text.inputs, "Sort", calls[0].origin())
        return BoundQuery(fragment, columns, bound.ordered)


def _within(call: CallSite, part: Range) -> bool:
    return part[0] <= call.first < part[1]
