"""The context of one statement: options, what was read off its plan once, caches that live as long as planning."""

from __future__ import annotations

from typing import Any

from halo_sql.ir.expr import ColumnId
from halo_sql.ir.logical import CteScan, Fragment, LogicalPlan, Project
from halo_sql.ir.walk import output_columns
from halo_sql.optimizer.context import OptimizerContext
from halo_sql.optimizer.nodes import calls_of, string_constant, walk_once
from halo_sql.optimizer.trace import Recorder
from halo_sql.optimizer.values import Values


class PlanContext:
    """What rules are given besides a node or group.

    options     the caller's context
    recorder    counters and notes
    cte_reads   CTE number -> different places that read it
    first_free  the smallest column id the plan does not use
    values      which columns hold equal values (cached by node)
    has_string_constants  whether a projection defines a column as a string literal (rewrites make no new ones)
    settled     (call, input) pairs that fold_constant_prompts has looked at in vain, by identity and kept alive
    """

    def __init__(self, options: OptimizerContext, plan: LogicalPlan) -> None:
        self.options = options
        self.recorder = Recorder()
        self.cte_reads: dict[int, int] = {}
        self.first_free = 0
        self.values = Values()
        self.has_string_constants = True
        self.settled: dict[tuple[int, int], tuple[Any, Any]] = {}
        self.refresh(plan)

    def refresh(self, plan: LogicalPlan) -> None:
        """Read again what depends on the plan."""
        readers: dict[int, set[tuple[Any, ...]]] = {}
        highest = self.first_free - 1
        constants, wanted = False, self.has_string_constants
        for node in walk_once(plan):
            if isinstance(node, CteScan):
                readers.setdefault(node.cte, set()).add(node.columns)
            if isinstance(node, CteScan | Fragment) or hasattr(node, "exprs"):
                highest = max([highest, *[column.id for column in output_columns(node)]])
            if wanted and not constants and isinstance(node, Project):
                constants = any(string_constant(expr) is not None for _, expr in node.exprs)
            for call in calls_of(node):
                highest = max(highest, call.output)
        self.cte_reads = {cte: len(columns) for cte, columns in readers.items()}
        self.first_free = highest + 1
        self.has_string_constants = constants

    def fresh(self, number: int) -> ColumnId:
        """The ``number``-th column id that the plan does not use."""
        return ColumnId(self.first_free + number)

    def take(self, number: int) -> list[ColumnId]:
        """So many column ids that the plan does not use; the next ones asked for are others."""
        first, self.first_free = self.first_free, self.first_free + number
        return [ColumnId(first + place) for place in range(number)]

    def allows(self, rule: str) -> bool:
        """Whether the user left this rule on."""
        return rule not in self.options.disabled_rules
