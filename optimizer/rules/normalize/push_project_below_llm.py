"""What prompts are made of is computed below the first LLM node, so that LLM nodes become neighbours."""

from __future__ import annotations

from collections.abc import Set
from typing import Any

from halo_sql.ir.expr import Column, ColumnId, SqlExpr, column_expr, substitute
from halo_sql.ir.logical import Filter, Limit, LlmFilter, LlmMap, LogicalPlan, Project
from halo_sql.ir.walk import output_columns, with_children
from halo_sql.optimizer.nodes import cannot_fail, is_llm, is_row_wise, outputs, pick
from halo_sql.optimizer.plan_context import PlanContext
from halo_sql.optimizer.required import rewrite_down

Item = tuple[Column, SqlExpr]
CHAIN = Project | LlmMap | LlmFilter | Filter | Limit


def push_project_below_llm(plan: Any, ctx: PlanContext) -> LogicalPlan | None:
    """``Project[f(a)](LLM(X)) => Project[v](LLM(Project[v := f(a)](X)))``. Over the whole plan.

    Safe below an LlmMap for any row-wise expression that reads none of its answers: the rows are the same.
    Safe below an LlmFilter or a limit (more rows) only for expressions that cannot fail, or a row that the
    filter takes out could raise an error::

        SELECT LLM_MAP('double {{ x::INTEGER }}') FROM t WHERE LLM_FILTER('is {{ x }} a number?')

    Not for volatile expressions and expressions over rebuilt names, and not for a column that has another value below:
    they stay where they are.
    """
    finished: set[int] = set()
    kept: list[Any] = []  # keeps the nodes in ``finished`` alive, so that identities stay unique

    def change(node: Any, required: Any) -> Any:
        if id(node) in finished or not isinstance(node, CHAIN):
            return node
        changed = _Chain(node).rewritten()
        current = changed
        while isinstance(current, CHAIN):
            finished.add(id(current))
            current = current.input
        kept.append(changed)
        return changed

    rewritten: LogicalPlan = rewrite_down(plan, change)
    return None if rewritten is plan else rewritten


class _Chain:
    """A row of LLM nodes, projections, relational filters and limits, top first."""

    def __init__(self, top: Any) -> None:
        self.nodes: list[Any] = []
        while isinstance(top, CHAIN):
            self.nodes.append(top)
            top = top.input
        self.bottom = top
        # per place: what a projection there defines, a map there answers
        self.defined: list[dict[ColumnId, SqlExpr]] = [
            {column.id: expr for column, expr in node.exprs} if isinstance(node, Project) else {} for node in self.nodes
        ]
        self.answers = [outputs(node) if isinstance(node, LlmMap) else frozenset() for node in self.nodes]
        # per place, and one for the bottom: the columns there
        self.columns: list[Set[ColumnId]] = [{column.id for column in output_columns(self.bottom)}]
        for node, defined, answers in zip(self.nodes[::-1], self.defined[::-1], self.answers[::-1], strict=True):
            self.columns.append(defined.keys() if isinstance(node, Project) else self.columns[-1] | answers)
        self.columns.reverse()

        self.types = {column.id: column.type for column in output_columns(self.bottom)}
        for node in self.nodes:
            if isinstance(node, Project):
                self.types.update((column.id, column.type) for column, _ in node.exprs)

    def rewritten(self) -> Any:
        """The chain with each expression as deep as it may go; the same object when nothing moves."""
        count = len(self.nodes)
        added: list[list[Item]] = [[] for _ in range(count + 1)]  # per place: what is computed just above that node
        through: list[list[Column]] = [[] for _ in range(count)]  # per place: what a projection there passes on
        moved: list[set[ColumnId]] = [set() for _ in range(count)]  # per place: what a projection there had computed
        for origin, node in enumerate(self.nodes):
            for column, expr in node.exprs if isinstance(node, Project) else ():
                landing = self._landing(origin, column, expr)
                if landing is not None:
                    place, lowered = landing
                    added[place].append((column, lowered))
                    moved[origin].add(column.id)
                    for between in range(origin + 1, place):
                        through[between].append(column)
        if not any(moved):
            return self.nodes[0]
        current = self._place(self.bottom, added[count])
        for index in range(count - 1, -1, -1):
            node = self.nodes[index]
            if isinstance(node, Project):
                kept = (
                    (column, column_expr(column) if column.id in moved[index] else expr) for column, expr in node.exprs
                )
                current = Project(current, (*kept, *pick(through[index])))
            else:
                current = with_children(node, (current,))
            current = self._place(current, added[index])
        return current

    def _landing(self, origin: int, column: Column, expr: SqlExpr) -> tuple[int, SqlExpr] | None:
        """The place above which the expression is computed at best and how it reads there; None: it stays."""
        if expr.as_column() is not None or not is_row_wise(expr) or expr.volatile:
            return None
        found: tuple[int, SqlExpr] | None = None
        harmless = cannot_fail(expr, self.types)
        for place in range(origin + 1, len(self.nodes)):
            node = self.nodes[place]
            if isinstance(node, Project):
                lowered = self._through(expr, place)
                if lowered is None or column.id in self.defined[place]:
                    return found
                expr, harmless = lowered, harmless and cannot_fail(lowered, self.types)
                if found is not None and found[0] == place and column.id not in self.columns[place + 1]:
                    found = (place + 1, expr)  # as a part of this projection, not above it
                continue
            if isinstance(node, LlmMap):
                if expr.columns() & self.answers[place]:
                    return found
            elif not harmless:
                return found
            if is_llm(node) and column.id not in self.columns[place + 1]:
                found = (place + 1, expr)
        return found

    def _through(self, expr: SqlExpr, place: int) -> SqlExpr | None:
        defined = self.defined[place]
        read = [defined[column] for column in expr.columns()]
        if any(value.volatile or (value.scope and value.as_column() is None) for value in read):
            return None
        return substitute(expr, defined)

    def _place(self, source: Any, items: list[Item]) -> Any:
        """``source`` with the items computed beside its columns."""
        return Project(source, (*pick(output_columns(source)), *items)) if items else source
