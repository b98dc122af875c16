"""Hand-built plans for the tests: what the binder would make, in few words, and texts to compare plans by."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from halo_sql.ir.expr import Column, ColumnId, ColumnRef, SqlExpr, column_expr, join_text
from halo_sql.ir.logical import (
    CteScan,
    Filter,
    Fragment,
    InputRef,
    Join,
    Limit,
    LlmFilter,
    LlmMap,
    LlmReduce,
    LlmTopK,
    Project,
    Sort,
    SortKey,
    ToolApply,
)
from halo_sql.ir.physical import (
    DuckFragmentExec,
    Input,
    LimitExec,
    LlmFilterCascadeExec,
    LlmFilterExec,
    LlmMapExec,
    LlmReduceExec,
    LlmTopKExec,
    PhysicalDag,
    PrefixClusterExec,
    RestoreOrderExec,
)
from halo_sql.ir.prompt import Hole, ItemsHole, LlmCall, ObjectHole, Prompt, Sampling, Segment
from halo_sql.ir.types import BOOLEAN, DOUBLE, VARCHAR, VARCHAR_LIST, SqlType
from halo_sql.ir.walk import children, output_columns
from halo_sql.optimizer.context import ColumnStats, EngineProfile, FragmentStats, OptimizerContext
from halo_sql.optimizer.nodes import label
from halo_sql.optimizer.normalize import normalize
from halo_sql.optimizer.optimize import Optimized, optimize
from halo_sql.optimizer.plan_context import PlanContext
from halo_sql.optimizer.rules import RULES
from halo_sql.optimizer.samples import ObjectSample, Values

INTEGER = SqlType("INTEGER", "integer")
TYPES = {"id": INTEGER, "a": INTEGER, "n": INTEGER}

#: The table t(id INTEGER, a INTEGER, body VARCHAR, title VARCHAR): columns 1 to 4.
ID, A, BODY, TITLE = (
    Column(ColumnId(1), "id", INTEGER),
    Column(ColumnId(2), "a", INTEGER),
    Column(ColumnId(3), "body", VARCHAR),
    Column(ColumnId(4), "title", VARCHAR),
)
T = Fragment(("SELECT * FROM t",), (ID, A, BODY, TITLE), label="Scan t")
#: The table u(k INTEGER, word VARCHAR): columns 5 and 6.
K, WORD = Column(ColumnId(5), "k", INTEGER), Column(ColumnId(6), "word", VARCHAR)
U = Fragment(("SELECT * FROM u",), (K, WORD), label="Scan u")


def col(number: int, name: str = "", sql_type: SqlType = VARCHAR) -> Column:
    return Column(ColumnId(number), name or f"x{number}", sql_type)


def sql(text: str, sql_type: SqlType = VARCHAR, *, volatile: bool = False, row_wise: bool = True) -> SqlExpr:
    """An expression: ``#3`` in the text is column 3."""
    parts: list[str | ColumnRef] = []
    for piece in re.split(r"(#\d+)", text):
        parts.append(ColumnRef(ColumnId(int(piece[1:]))) if piece.startswith("#") else piece)
    return SqlExpr(join_text(parts), sql_type, (), volatile, row_wise and not volatile)


def template(text: str) -> Prompt:
    """A prompt: ``{3}`` in the text is a hole over column 3, ``{3, 4}`` an object of columns 3 and 4."""
    pieces: list[Segment] = []
    for piece in re.split(r"(\{\d+(?:, \d+)*\})", text):
        columns = [ColumnId(int(number)) for number in piece[1:-1].split(", ")] if piece.startswith("{") else []
        if len(columns) > 1:
            pieces.append(ObjectHole(tuple((f"c{column}", column) for column in columns)))
        elif piece:
            pieces.append(Hole(columns[0]) if columns else piece)
    return Prompt(tuple(pieces))


def call(
    output: int, text: str, *, kind: str = "map", volatile: bool = False, model: str = "m", **rest: Any
) -> LlmCall:
    sampling = rest.pop("sampling", Sampling(temperature=1.0 if volatile else 0.0))
    returns = {"filter": BOOLEAN, "rank": DOUBLE}.get(kind, VARCHAR)
    return LlmCall(ColumnId(output), kind, template(text), model, returns, sampling, label=f"{text!r}", **rest)


def where(plan: Any, predicate: str, **flags: bool) -> Filter:
    return Filter(plan, sql(predicate, BOOLEAN, **flags))


def project(plan: Any, *items: Column | tuple[Column, str | SqlExpr]) -> Project:
    """Columns as they are, or (column, expression)."""
    exprs: list[tuple[Column, SqlExpr]] = []
    for item in items:
        if isinstance(item, Column):
            exprs.append((item, column_expr(item)))
        else:
            exprs.append((item[0], sql(item[1]) if isinstance(item[1], str) else item[1]))
    return Project(plan, tuple(exprs))


def join(*inputs: Any, on: Iterable[str] = ("#2 = #5",), kind: str = "inner") -> Join:
    """The inputs joined; by default t.a = u.k."""
    return Join(inputs, tuple(sql(condition, BOOLEAN) for condition in on), kind)


def holes(plan: Any, *items: tuple[Column, str | SqlExpr]) -> Project:
    """All columns of the plan and some computed ones, as the binder puts below an LLM node."""
    return project(plan, *output_columns(plan), *items)


def llm_map(plan: Any, *calls: LlmCall) -> LlmMap:
    return LlmMap(plan, calls)


def tool_apply(plan: Any, output: int, text: str, tool: str, **rest: Any) -> ToolApply:
    return ToolApply(plan, (call(output, text, kind="tool", model="", target=tool, **rest),))


def llm_filter(plan: Any, output: int, text: str, **rest: Any) -> LlmFilter:
    return LlmFilter(plan, call(output, text, kind="filter", **rest))


def groups(plan: Any, number: int, by: Column = A, keys: int = 1) -> Fragment:
    """``by`` and the list of bodies for each of its values: columns ``number`` and ``number + 1``."""
    body = next(column for column in output_columns(plan) if column.name == "body")
    columns = (col(number, by.name, by.type), col(number + 1, "inputs", VARCHAR_LIST))
    ref = InputRef(0, ((by.name, by.id), ("body", body.id), ("id", ID.id)))
    text = f"SELECT {by.name}, list(body ORDER BY id) FILTER (WHERE body IS NOT NULL) FROM "
    tail = f" AS t GROUP BY {by.name} ORDER BY {by.name}"
    return Fragment((text, ref, tail), columns, (plan,), "Aggregate", keys=keys)


def reduced(plan: Any, output: int, text: str, items: int, **rest: Any) -> LlmReduce:
    """A call over the list in column ``items``."""
    one = call(output, text, kind="reduce", **rest)
    return LlmReduce(plan, (replace(one, prompt=Prompt((*one.prompt.user, ItemsHole(ColumnId(items))))),))


def top_k(plan: Any, output: int, text: str, count: int | None, method: str = "", **rest: Any) -> LlmTopK:
    """The rows that ``text`` fits best."""
    one = call(output, text, kind="rank", **rest)
    graded = replace(one, prompt=replace(one.prompt, system="Grade how much this applies. " * 4))
    return LlmTopK(plan, graded, True, False, count, 0, method)


def order_by(plan: Any, *keys: str, modifiers: str = "") -> Sort:
    return Sort(plan, tuple(SortKey(sql(key), modifiers) for key in keys))


def limit(plan: Any, count: int | None, offset: int = 0) -> Limit:
    return Limit(plan, count, offset)


def cte(plan: Any, number: int, first: int) -> CteScan:
    """A reading of a CTE, its columns numbered from ``first``."""
    columns = tuple(
        Column(ColumnId(first + index), column.name, column.type) for index, column in enumerate(output_columns(plan))
    )
    return CteScan(plan, number, f"cte{number}", columns)


def context(
    *,
    rows: float | None = None,
    distinct: dict[int, float] | None = None,
    chars: dict[int, float] | None = None,
    **rest: Any,
) -> OptimizerContext:
    """A context that verifies; statistics for the tables."""
    rest.setdefault("verify", True)
    if rows is not None:
        ids = set(distinct or {}) | set(chars or {})
        columns = {
            ColumnId(number): ColumnStats((distinct or {}).get(number), (chars or {}).get(number)) for number in ids
        }
        rest["stats"] = {T: FragmentStats(rows, columns, is_table=True), U: FragmentStats(rows, columns, is_table=True)}
    return OptimizerContext(**rest)


def values(*texts: str | None) -> Values:
    """A column that holds these texts."""
    keys = tuple(
        -1 if text is None else sum(ord(letter) << 8 * place for place, letter in enumerate(text)) for text in texts
    )
    chars = tuple(4 if text is None else len(text) for text in texts)
    return Values(keys, chars, float(len(set(keys))), float(len(texts)))


def sample(after_chars: float = 0.0, before: Values | None = None, **fields: Values | None) -> ObjectSample:
    """What an object hole holds: field -> values (None: unknown)."""
    rows = max(len(column.keys) for column in fields.values() if column is not None)
    return ObjectSample(fields, [0] * rows if before is None else before.keys, after_chars)


#: 96 rows of t: bodies differ, four long titles repeat.
BODIES = values(*(f"body number {number}" for number in range(96)))
TITLES = values(*(f"title {number % 4} " * 9 for number in range(96)))


#: An engine with a KV cache too small for a table of long prompts.
SMALL_ENGINE = EngineProfile(window_requests=64, kv_capacity_tok=20_000)


def plan_of(plan: Any, ctx: OptimizerContext | None = None, columns: tuple[Column, ...] | None = None) -> Optimized:
    return optimize(plan, output_columns(plan) if columns is None else columns, ctx or context())


def normalized(plan: Any, *names: str, ctx: OptimizerContext | None = None) -> tuple[Any, PlanContext]:
    """The plan after the named normalize rules only (all of them when none is named)."""
    state = PlanContext(ctx or context(), plan)
    rules = [rule for rule in RULES if not names or rule.name in names]
    return normalize(plan, rules, state), state


def shape(plan: Any) -> str:
    """A plan in one line, top first: ``Limit > LlmMap('x {3}') > Fragment``."""
    name = type(plan).__name__
    if isinstance(plan, LlmMap | LlmFilter | LlmTopK):
        calls = plan.calls if isinstance(plan, LlmMap) else (plan.call,)
        name += "(" + ", ".join(item.label for item in calls) + ")"
    elif isinstance(plan, Filter):
        name = "Filter(" + plan.predicate.text(lambda column: f"#{column}") + ")"
    elif isinstance(plan, Join):
        name = f"Join {plan.kind}({' AND '.join(item.text(lambda column: f'#{column}') for item in plan.on)})"
    below = children(plan)
    if len(below) > 1:
        return f"{name} > [" + " | ".join(shape(child) for child in below) + "]"
    return name + "".join(f" > {shape(child)}" for child in below)


def operators(dag: PhysicalDag) -> list[str]:
    """The operators in starting order, with what matters of them."""
    found = []
    for node in dag.nodes:
        op = node.op
        name = type(op).__name__.removesuffix("Exec")
        if isinstance(op, LlmMapExec):
            name += "(" + ", ".join(item.label for item in op.calls) + ")"
        elif isinstance(op, LlmFilterExec):
            name += f"({op.call.label})"
        elif isinstance(op, LlmFilterCascadeExec):
            name += f"({op.proxy.kind})"
        elif isinstance(op, LlmReduceExec):
            name += f"({op.variant})"
        elif isinstance(op, LlmTopKExec):
            name += f"({op.method})"
        elif isinstance(op, DuckFragmentExec):
            name += f"({_tree(op.tree)}{' streaming' if op.streaming else ''})"
        elif isinstance(op, LimitExec):
            name += f"({op.count})"
        elif isinstance(op, PrefixClusterExec):
            name += "(" + ", ".join(f"#{key}" for key in op.keys) + ")"
        found.append(name)
    return found


def _tree(tree: Any) -> str:
    if isinstance(tree, Input):
        return f"${tree.index}"
    below = children(tree)
    return type(tree).__name__ + ("(" + ", ".join(_tree(child) for child in below) + ")" if below else "")


def well_formed(dag: PhysicalDag) -> None:
    """Inputs stand earlier, ids are places, and every operator finds the columns it reads."""
    assert [node.id for node in dag.nodes] == list(range(len(dag.nodes)))
    used = {dag.root}
    for node in dag.nodes:
        assert all(source < node.id for source in node.inputs)
        used.update(node.inputs)
        names = [column.id for column in node.columns]
        assert len(set(names)) == len(names), node
        below = [{column.id for column in dag.node(source).columns} for source in node.inputs]
        op = node.op
        if isinstance(op, LlmMapExec | LlmReduceExec):
            assert all(item.columns() <= below[0] for item in op.calls)
        elif isinstance(op, LlmFilterExec | LlmFilterCascadeExec | LlmTopKExec):
            assert op.call.columns() <= below[0]
        elif isinstance(op, PrefixClusterExec):
            assert set(op.keys) <= below[0]
        elif isinstance(op, RestoreOrderExec):
            assert op.position in below[0]
    assert used == set(range(len(dag.nodes))), "every node has a consumer"


def names(items: Iterable[Any]) -> list[str]:
    return [label(item) for item in items]


def first_rows(plan: Any, *carried: int, order: int = 1) -> Fragment:
    """One row per ``a``: the first in the order of a column; ``carried`` columns of the plan come out untouched."""
    columns = {column.id: column for column in output_columns(plan)}
    ref = InputRef(0, tuple((f"c{column}", column) for column in (order, *carried)))
    items = ", ".join(f"c{column}" for column in carried)
    text = f"SELECT {items or '1'} FROM "
    out = tuple(replace(columns[ColumnId(column)], id=ColumnId(60 + at)) for at, column in enumerate(carried))
    places = tuple((place, ColumnId(column)) for place, column in enumerate(carried) if column != order)
    tail = f" QUALIFY row_number() OVER (ORDER BY c{order}) = 1"
    return Fragment((text, ref, tail), out or (col(60, "one"),), (plan,), "Select", carried=places)


def union(plan: Any) -> Fragment:
    """The plan's rows and a row of text: columns 60, 61, …"""
    columns = output_columns(plan)
    ref = InputRef(0, tuple((f"c{column.id}", column.id) for column in columns))
    row = ", ".join(f"CAST(NULL AS {column.type.text})" for column in columns)
    out = tuple(replace(column, id=ColumnId(60 + at)) for at, column in enumerate(columns))
    return Fragment(("(SELECT * FROM ", ref, f") UNION ALL SELECT {row}"), out, (plan,), by_position=True)
