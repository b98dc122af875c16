"""Queries: WITH, set operations, VALUES; SELECT blocks are bound by ``bind_select``."""

from __future__ import annotations

from dataclasses import replace

from halo_sql.errors import NotSupportedError
from halo_sql.grammar.bind_select import bind_select
from halo_sql.grammar.binding import Binding, BoundCte, BoundQuery, CteContext
from halo_sql.grammar.hoist import Hoister
from halo_sql.grammar.names import Scope
from halo_sql.grammar.skeleton import Arm, Query, identifier, parse_query
from halo_sql.grammar.texts import FragmentText, Part, alias, by_id, merged
from halo_sql.ir.logical import Fragment
from halo_sql.ir.types import BIGINT, SqlType
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
        inner = self._with(query, context)
        if not self.binding.tainted(first, end, inner):
            return self._own(query, context)
        if len(query.arms) > 1:
            return self._set_operation(query, inner, context)
        return self._arm(query.arms[0], inner)

    def _with(self, query: Query, context: CteContext) -> CteContext:
        """The context with the query's own CTEs; those with LLM calls are bound."""
        for cte in query.ctes:
            bound = {name: known for name, known in context.bound.items() if name != cte.name.lower()}
            visible = tuple(known for known in context.ctes if known.name.lower() != cte.name.lower())
            within = CteContext((*visible, cte), bound, context.recursive or query.recursive)
            if self.binding.tainted(*cte.body, CteContext(visible, bound, within.recursive)):
                if query.recursive and self._reads_itself(cte.body, cte.name):
                    calls = self.binding.calls_in(*cte.body)
                    raise NotSupportedError(
                        f'an LLM call in the recursive CTE "{cte.name}" is not available in this version',
                        span=calls[0].origin() if calls else self.binding.lexed.span(*cte.whole),
                        remedy="Call it outside the recursion.",
                    )
                bound_query = self.bind(*cte.body, CteContext(visible, bound, within.recursive))
                if cte.column_list is not None:
                    bound_query = self._named(bound_query, *cte.column_list)
                bound[cte.name.lower()] = BoundCte(self.binding.new_cte(), cte.name, bound_query)
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
        described = binding.describe(binding.shadow(first, end), context)
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

    def _values(self, arm: Arm, context: CteContext, described: list[tuple[str, SqlType]]) -> BoundQuery:
        """VALUES with calls: one row of call results, then one SELECT for each row of the list."""
        binding, lexed = self.binding, self.binding.lexed
        one = Fragment(("SELECT 1",), (binding.new_column("one", BIGINT),), label="One row")
        hoister = Hoister(binding, one, Scope(), {})
        calls = binding.calls_in(*arm.range)
        hoister.lift(calls, lambda _: arm.range)
        text = FragmentText()
        for call in calls:
            text.cut(call.span, f"c{hoister.output_of(call)}")
        source = text.relation(hoister.plan, by_id(output_columns(hoister.plan)))
        parts: list[Part] = []
        for first, end in lexed.split(arm.range[0] + 1, arm.range[1]):
            span = lexed.span(first + 1, end - 1)
            parts += [" UNION ALL " if parts else "", "SELECT ", *text.parts(lexed.sql, span.start, span.end)]
            parts += [" FROM ", source, alias("__halo_calls")]
        columns = tuple(binding.new_column(name, kind) for name, kind in described)
        prefix = binding.cte_prefix(lexed.slice(*arm.range), context)
        return BoundQuery(Fragment(merged([prefix, *parts]), columns, tuple(text.inputs), "Values"), columns)

    def _set_operation(self, query: Query, context: CteContext, outer: CteContext) -> BoundQuery:
        """Arms with LLM calls become relations in the text of the whole."""
        binding, lexed = self.binding, self.binding.lexed
        described = binding.describe(binding.shadow(*query.range), outer)
        text = FragmentText()
        names = [name for name, _ in described]
        for position, arm in enumerate(query.arms):
            if binding.tainted(*arm.range, context):
                bound = self._arm(arm, context)
                text.cut(lexed.span(*arm.range), "(SELECT * FROM ", text.query(bound), ")")
                if position == 0:
                    names = [column.name for column in bound.columns]
        start = lexed.span(*query.arms[0].range).start
        end = lexed.span(*query.range).end
        parts = text.parts(lexed.sql, start, end)
        columns = tuple(binding.new_column(name, kind) for name, (_, kind) in zip(names, described, strict=True))
        prefix = binding.cte_prefix(" ".join(part for part in parts if isinstance(part, str)), context)
        ordered = any(lexed.word(index) == "ORDER" for index in range(*query.tail))
        return BoundQuery(
            Fragment(merged([prefix, *parts]), columns, tuple(text.inputs), "Set operation"), columns, ordered
        )
