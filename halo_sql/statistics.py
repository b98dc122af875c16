"""Statistics of a statement's data: DuckDB's estimates, and what it counts of the rows that calls will read."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from halo_sql.demand_statistics import demand_stats
from halo_sql.duck import Duck
from halo_sql.errors import Error, InterruptedQueryError
from halo_sql.ir.expr import Column, SqlExpr, join_text
from halo_sql.ir.logical import (
    CteScan,
    Demand,
    Filter,
    Fragment,
    Join,
    LlmFilter,
    LlmMap,
    LlmReduce,
    LogicalPlan,
    Project,
    Sink,
    Sort,
)
from halo_sql.ir.sql import render
from halo_sql.ir.types import BOOLEAN
from halo_sql.ir.walk import children, output_columns
from halo_sql.measuring import EXACT_ROWS, SKETCH_ROWS, is_alone, measure, measure_alone
from halo_sql.optimizer.bare_joins import bare_joins
from halo_sql.optimizer.cardinality import input_key
from halo_sql.optimizer.context import FragmentStats, InputKey
from halo_sql.optimizer.nodes import calls_of, is_row_wise, pick, relational_trees, walk_once
from halo_sql.steady import LONGEST, is_steady

MEASURED_COLUMNS = 16  # of a tree
MEASURED_KEYS = 12
MEASURED_TREES = 8  # of a statement
#: Operators of DuckDB's that read nothing but its own tables and values: running them twice changes nothing and asks
#: no file, server or stream.
_READS = frozenset(
    {"SEQ_SCAN", "INDEX_SCAN", "DUMMY_SCAN", "EMPTY_RESULT", "COLUMN_DATA_SCAN", "CTE_SCAN", "DELIM_SCAN",
     "EXPRESSION_SCAN", "RANGE", "GENERATE_SERIES", "PANDAS_SCAN"}
)  # fmt: skip
_FROM = re.compile(r"\bfrom\b", re.IGNORECASE)
#: Nodes that have one place and one way to run.
_PASSING = (LlmMap, LlmFilter, Project, CteScan, Fragment, Demand, Sink)


@dataclass(frozen=True, slots=True)
class Expected:
    """What DuckDB expects of a query: its rows, those that its operators touch; whether it reads its own data only, and
    whether it is the scan of a whole table."""

    rows: float
    touched_rows: float
    own: bool
    is_table: bool


@dataclass(frozen=True, slots=True)
class _Asked:
    """A tree's query, the columns to describe, what calls ask of them, and what DuckDB expects."""

    sql: str
    columns: list[Column]
    keys: list[InputKey]
    expected: Expected


class Surveyor:
    """Takes the statistics of one statement.

    closely  trees below calls are measured; otherwise there are DuckDB's row estimates only
    """

    def __init__(self, duck: Duck, closely: bool) -> None:
        self._duck = duck
        self._closely = closely
        self._expected: dict[str, Expected | None] = {}  # many places of a statement read the same source
        self._steady: dict[str, bool] = {}

    def survey(self, plan: LogicalPlan) -> dict[LogicalPlan, FragmentStats]:
        """Statistics of the plan's sources and, when taken closely, of the trees that its calls read."""
        stats: dict[LogicalPlan, FragmentStats] = {}
        for node in walk_once(plan):
            if isinstance(node, Fragment) and not node.inputs and node not in stats:
                expected = self._expect_source(node)
                if expected is not None:
                    stats[node] = FragmentStats(
                        expected.rows, is_table=expected.is_table, touched=expected.touched_rows
                    )
            if isinstance(node, Demand):
                found = demand_stats(self._duck, node)
                if found is not None:
                    stats[node] = found
        for tree in relational_trees(plan):
            if any(isinstance(node, Join) for node in walk_once(tree)):
                sql = render(tree, [])
                expected = self._expect(sql, sql)
                if expected is not None:
                    stats[tree] = FragmentStats(expected.rows)
        if self._closely:
            with self._connection() as duck:
                trees = [*read_by_calls(plan), *read_above_joins(plan)][:MEASURED_TREES]
                asked = [self._measurable(duck, whole, keys) for _, whole, keys in trees]
                for (tree, _, _), found in zip(trees, _measured(duck, asked), strict=True):
                    if found is not None:
                        before = stats.get(tree)
                        stats[tree] = found if before is None else replace(found, touched=before.touched)
        return stats

    def _measurable(self, duck: Duck, tree: LogicalPlan, keys: list[InputKey]) -> _Asked | None:
        """What is to be counted of a tree; None where that would take long or be an act."""
        sql = render(_one_filter(tree), [])
        if any(isinstance(node, Fragment) and node.volatile for node in walk_once(tree)):
            return None
        expected = self._expect_tree(tree, sql)
        if expected is None or not expected.own or not self._is_steady(duck, tree, sql):
            return None
        read = {column for key in keys for column in key.columns}
        texts = [column for column in output_columns(tree) if column.id in read and _is_text(column)]
        columns = texts[:MEASURED_COLUMNS]
        known = {column.id for column in columns}
        keys = [key for key in keys if key.columns <= known][:MEASURED_KEYS]
        return _Asked(sql, columns, keys, expected)

    def _is_steady(self, duck: Duck, tree: LogicalPlan, sql: str) -> bool:
        """Whether the tree may be run once more: its sources, each asked for once, where the rest is row by row."""
        nodes = list(walk_once(tree))
        sources = [node for node in nodes if isinstance(node, Fragment)]
        plain = all(is_row_wise(expr) and not expr.volatile for node in nodes for expr in _exprs(node))
        if not plain or len(sql) > LONGEST or any(source.inputs for source in sources):
            return is_steady(duck, sql, strict=True)
        for source in sources:
            text = _text(source)
            if text not in self._steady:
                self._steady[text] = is_steady(duck, render(source, []), strict=True)
        return all(self._steady[_text(source)] for source in sources)

    @contextmanager
    def _connection(self) -> Iterator[Duck]:
        """The user's connection, or one beside it while a transaction is open, which an error would end."""
        if not self._duck.in_transaction():
            yield self._duck
            return
        side = self._duck.duplicate()
        try:
            yield side
        finally:
            side.close()

    def _expect_tree(self, tree: LogicalPlan, sql: str) -> Expected | None:
        """From what is expected of its sources where nothing above them reads further data; else DuckDB is asked."""
        sources = [node for node in walk_once(tree) if isinstance(node, Fragment)]
        own = "".join(part for node in walk_once(tree) for part in _texts(node))
        joins = any(isinstance(node, Join) for node in walk_once(tree))
        if joins or any(source.inputs for source in sources) or _FROM.search(own):
            return self._expect(sql, sql)
        found = [self._expect_source(source) for source in sources]
        touched = sum(expected.touched_rows for expected in found if expected is not None)
        if None in found or touched > SKETCH_ROWS:
            return self._expect(sql, sql)
        return Expected(touched, touched, all(expected.own for expected in found if expected is not None), False)

    def _expect_source(self, source: Fragment) -> Expected | None:
        return self._expect(_text(source), render(source, []))

    def _expect(self, key: str, sql: str) -> Expected | None:
        if key not in self._expected:
            self._expected[key] = expected_of(self._duck, sql)
        return self._expected[key]


def _measured(duck: Duck, asked: Sequence[_Asked | None]) -> list[FragmentStats | None]:
    """What was counted of each tree, together where that can be. None where a query fails: that will be raised, with
    its position, when the statement runs."""
    found: dict[int, FragmentStats] = {}
    small = {
        place: one
        for place, one in enumerate(asked)
        if one is not None and one.expected.touched_rows <= EXACT_ROWS and is_alone(one.columns, one.keys)
    }
    if len(small) > 1:
        with _refusals_passed():
            counted = measure_alone(duck, [(one.sql, one.columns[0]) for one in small.values()])
            found.update(zip(small, counted, strict=True))
    for place, one in enumerate(asked):
        if one is not None and place not in found:
            with _refusals_passed():
                rows, touched_rows = one.expected.rows, one.expected.touched_rows
                found[place] = measure(duck, one.sql, one.columns, one.keys, rows, touched_rows)
    return [found.get(place) for place in range(len(asked))]


@contextmanager
def _refusals_passed() -> Iterator[None]:
    """DuckDB's refusals are passed over, interrupts are not."""
    try:
        yield
    except InterruptedQueryError:
        raise
    except Error:
        return


def has_choice(plan: LogicalPlan, approximate: bool = False) -> bool:
    """Whether rows and values decide between plans: not when all there is above the data are maps, or one filter below
    all maps, and what passes rows on, no tables are joined (calls may come before or after that), and no calls may be
    fused. ``approximate``: filters may have a plan that is approximate."""
    trees = {id(tree) for tree in relational_trees(plan)}
    stack: list[tuple[Any, bool]] = [(plan, False)]  # a node, and whether a filter stands above it
    seen: set[tuple[int, bool]] = set()
    filters: set[int] = set()
    while stack:
        node, filtered = stack.pop()
        if (id(node), filtered) in seen:
            continue
        seen.add((id(node), filtered))
        if id(node) in trees:
            if any(isinstance(part, Join) for part in walk_once(node)):
                return True
            continue
        if isinstance(node, LlmReduce) or not isinstance(node, _PASSING):
            return True
        if isinstance(node, LlmMap) and sum(call.fuse for call in node.calls) > 1:
            return True
        if approximate and isinstance(node, LlmFilter) and node.call.quality:
            return True
        if isinstance(node, LlmFilter):
            filters.add(id(node))
        if len(filters) > 1 or (filtered and isinstance(node, LlmMap)):
            return True
        stack += [(child, filtered or isinstance(node, LlmFilter)) for child in children(node)]
    return False


def read_by_calls(plan: LogicalPlan) -> list[tuple[LogicalPlan, LogicalPlan, list[InputKey]]]:
    """The largest relational trees that calls read: each as it is and with what is computed of its columns further up,
    and what calls ask of it."""
    nodes = list(walk_once(plan))
    callers = [node for node in nodes if calls_of(node)]
    asked = dict.fromkeys(input_key(call) for node in callers for call in calls_of(node))
    inputs = {id(node.input) for node in callers}
    items = [item for node in reversed(nodes) if isinstance(node, Project) for item in node.exprs]
    found = []
    for tree in relational_trees(plan):
        own = output_columns(tree)
        columns = {column.id for column in own}
        above = []
        for column, expr in items:
            if column.id not in columns and is_row_wise(expr) and not expr.volatile and expr.columns() <= columns:
                above.append((column, expr))
                columns.add(column.id)
        keys = [key for key in asked if key.read <= columns]
        if id(tree) in inputs or any(key.read for key in keys):
            found.append((tree, _with(tree, own, above), keys))
    return found


def read_above_joins(plan: LogicalPlan) -> list[tuple[LogicalPlan, LogicalPlan, list[InputKey]]]:
    """The same of joins that calls on their sides may move above."""
    joins = [bare for _, bare, _ in bare_joins(plan)]
    asked = dict.fromkeys(input_key(call) for node in walk_once(plan) for call in calls_of(node)) if joins else {}
    columns = [{column.id for column in output_columns(bare)} for bare in joins]
    return [(bare, bare, [key for key in asked if key.read <= own]) for bare, own in zip(joins, columns, strict=True)]


def _with(tree: LogicalPlan, own: tuple[Column, ...], above: list[tuple[Column, SqlExpr]]) -> LogicalPlan:
    """The tree with further columns; those computed of others of them come in steps."""
    while above:
        known = {column.id for column in own}
        step = [(column, expr) for column, expr in above if expr.columns() <= known]
        tree = Project(tree, (*pick(own), *step))
        own = output_columns(tree)
        above = [item for item in above if item not in step]
    return tree


def _one_filter(tree: LogicalPlan) -> LogicalPlan:
    """The tree with filters right above each other as one: DuckDB is slow to plan many levels of sub-queries."""
    chain: list[Any] = []
    below: Any = tree
    while isinstance(below, Filter | Project | Sort):
        chain.append(below)
        below = below.input
    waiting: list[SqlExpr] = []
    for node in reversed(chain):
        if isinstance(node, Filter) and not node.predicate.scope:
            waiting.append(node.predicate)
            continue
        below = replace(node, input=_filtered(below, waiting))
        waiting = []
    return _filtered(below, waiting)


def _filtered(plan: LogicalPlan, predicates: list[SqlExpr]) -> LogicalPlan:
    if not predicates:
        return plan
    parts = [part for predicate in predicates for part in (" AND (", *predicate.parts, ")")]
    return Filter(plan, SqlExpr(join_text(["true", *parts]), BOOLEAN))


def _text(source: Fragment) -> str:
    """What tells a source from others, whatever its columns are called in the plan."""
    return "".join(part for part in source.parts if isinstance(part, str))


def _exprs(node: Any) -> list[SqlExpr]:
    """The expressions of a relational node."""
    if isinstance(node, Filter):
        return [node.predicate]
    if isinstance(node, Project):
        return [expr for _, expr in node.exprs]
    if isinstance(node, Sort):
        return [key.expr for key in node.keys]
    return list(node.on) if isinstance(node, Join) else []


def _texts(node: Any) -> Iterator[str]:
    """The user's text in the expressions of a relational node."""
    for expr in _exprs(node):
        yield from (part if isinstance(part, str) else " " for part in expr.parts)
        yield " "


def _is_text(column: Column) -> bool:
    return column.type.kind == "varchar" or column.type.text == "VARCHAR[]"


def expected_of(duck: Duck, sql: str) -> Expected | None:
    """What DuckDB's EXPLAIN says of a query; None when it says nothing."""
    try:
        plan = json.loads(duck.rows(f"EXPLAIN (FORMAT json) {sql}")[0][1])
    except InterruptedQueryError:
        raise
    except (Error, ValueError, IndexError):
        return None
    waiting: list[Any] = list(plan) if isinstance(plan, list) else [plan]
    is_table = len(waiting) == 1 and _is_table_scan(waiting[0])
    rows: float | None = None
    touched, own = 0.0, True
    while waiting:
        node = waiting.pop(0)
        below = node.get("children", [])
        waiting[:0] = below
        name, told = str(node.get("name", "")).strip(), node.get("extra_info", {})
        own = own and (bool(below) or name in _READS)
        try:
            known = 0.0 if name == "EMPTY_RESULT" else float(told.get("Estimated Cardinality"))
        except (TypeError, ValueError):
            continue
        touched += known
        rows = known if rows is None else rows
    return None if rows is None else Expected(rows, touched, own, is_table)


def _is_table_scan(node: Any) -> bool:
    told = node.get("extra_info", {})
    return str(node.get("name", "")).strip() == "SEQ_SCAN" and "Table" in told and "Sample Method" not in told
