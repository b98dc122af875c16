"""How operators, calls, expressions and logical nodes are spelled in plans. Stable: golden plans hold it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from halo_sql.engines.ranking import GRADE_SYSTEM
from halo_sql.ir import sql
from halo_sql.ir.expr import ColumnId, SqlExpr
from halo_sql.ir.logical import (
    Ask,
    CteScan,
    Demand,
    Distinct,
    Filter,
    Fragment,
    Join,
    Limit,
    LlmFilter,
    LlmMap,
    LlmTopK,
    LogicalPlan,
    Project,
    Sink,
    Sort,
)
from halo_sql.ir.physical import (
    BatchExec,
    DemandExec,
    DuckFragmentExec,
    LimitExec,
    LlmFilterCascadeExec,
    LlmFilterExec,
    LlmMapExec,
    LlmReduceExec,
    LlmTopKExec,
    MaterializeExec,
    PhysicalDag,
    PhysicalNode,
    PhysicalOp,
    PrefixClusterExec,
    RestoreOrderExec,
    RowGraphExec,
    SelectExec,
    SettleExec,
    SinkExec,
    ToolApplyExec,
    calls_by,
)
from halo_sql.ir.prompt import Hole, ItemsHole, LlmCall, ObjectHole, Prompt, Sampling
from halo_sql.ir.walk import children, output_columns
from halo_sql.optimizer.context import NEVER
from halo_sql.optimizer.nodes import walk_once

Names = Callable[[ColumnId], str]
Properties = list[tuple[str, str]]  # (key, value); an empty key: the value speaks for itself


def operator_name(op: PhysicalOp) -> str:
    """The class name without its suffix: ``LlmMap``, ``DuckFragment``, …"""
    return type(op).__name__.removesuffix("Exec")


def one_line(text: str, width: int) -> str:
    """White space collapsed, cut to ``width`` characters (0: not cut)."""
    flat = " ".join(text.split())
    return flat if not width or len(flat) <= width else flat[: width - 1] + "…"


def _names(plans: list[Any]) -> Names:
    """``name#id`` for every column of these trees or nodes; ``llm#id`` for the answers of calls (their names are
    whole call texts)."""
    known: dict[ColumnId, str] = {}
    for node in (node for plan in plans for node in walk_once(plan)):
        known.update((column.id, str(column)) for column in output_columns(node))
    for node in (node for plan in plans for node in walk_once(plan)):
        known.update((call.output, f"llm#{call.output}") for call in getattr(node, "calls", ()))
    return lambda column: known.get(column, f"#{column}")


def _dag_names(dag: PhysicalDag) -> Names:
    known: dict[ColumnId, str] = {}
    for node in dag.nodes:
        known.update((column.id, str(column)) for column in node.columns)
    for node in dag.nodes:
        known.update((call.output, f"llm#{call.output}") for call in getattr(node.op, "calls", ()))
    return lambda column: known.get(column, f"#{column}")


def properties(node: PhysicalNode, dag: PhysicalDag, full: bool = False) -> Properties:
    """What a physical node does, in a fixed order; ``full`` texts are not shortened."""
    name_of = _dag_names(dag)
    op, width = node.op, 0 if full else 100
    if isinstance(op, LlmMapExec | LlmFilterExec):
        texts = llm_texts(op, name_of)
        found: Properties = [("", one_line(text, 0 if full else 160)) for text in texts]
        found += [("", "distinct")] if op.distinct else []
        found += [("", f"fused {len(call.fused)} calls") for call in calls_by(op) if call.fused]
        found += [("", text) for text in _ways(op)] if isinstance(op, ToolApplyExec) else []
        return found + _waits(op, name_of) + _where(op)
    if isinstance(op, RowGraphExec):
        return [("", f"{op.depth} nodes below, row by row"), ("longest path", f"{op.longest} of {op.made} calls")]
    if isinstance(op, LlmFilterCascadeExec):
        exact = replace(op.call, quality=0.0, proxy="")
        how = f"approximate: quality >= {op.call.quality:g}, proxy={op.proxy.model}"
        found = [("", one_line(call_text(exact, name_of), 0 if full else 160)), ("", how)]
        found += [] if op.label is None else [("", f"classifies by {name_of(op.label)}")]
        return [*found, ("sample", f"~{op.draws}"), *_where(op)]
    if isinstance(op, LlmReduceExec):
        found = [("", one_line(text, 0 if full else 160)) for text in llm_texts(op, name_of)]
        found += [("", op.variant), ("fan_in", f"~{op.fan_in:.0f} of ~{op.items:.0f}"), ("levels", f"~{op.levels}")]
        return found + _waits(op, name_of) + _where(op)
    if isinstance(op, LlmTopKExec):
        found = [("", one_line(llm_texts(op, name_of)[0], 0 if full else 160)), ("", top_k_text(op))]
        found += [("method", op.method + (f" of {op.fan_in}" if op.method == "tournament" else ""))]
        return found + _where(op)
    if isinstance(op, DuckFragmentExec):
        text, label = "", op.tree.label if isinstance(op.tree, Fragment) else ""
        if isinstance(op.tree, Fragment) and not op.tree.inputs:  # the user's own text says it best
            text = "".join(part for part in op.tree.parts if isinstance(part, str))
        text = text or sql.render(op.tree, [f"#{source}" for source in node.inputs])
        found = [("", label)] if label and label != "Fragment" else []
        return [*found, *([("", "streaming")] if op.streaming else []), ("sql", one_line(text, width))]
    if isinstance(op, SelectExec):
        items = [str(new) if new.id == old else f"{new} = {name_of(old)}" for new, old in op.columns]
        return [("", one_line(", ".join(items), width))]
    if isinstance(op, SettleExec):
        return [("", f"failures of {', '.join(map(_called, op.calls))}")]
    if isinstance(op, PrefixClusterExec):
        return [("by", ", ".join(name_of(key) for key in op.keys)), ("position", str(op.position))]
    if isinstance(op, RestoreOrderExec):
        return [("by", name_of(op.position))]
    if isinstance(op, DemandExec):
        return [("", one_line(call_text(ask.call, _argument_names(ask)), 0 if full else 160)) for ask in op.asks]
    if isinstance(op, LimitExec):
        return [("", _limit(op))]
    if isinstance(op, SinkExec):
        return [("kind", op.kind), ("sql", one_line(f"{op.prefix} … {op.suffix}", width))]
    if isinstance(op, BatchExec):
        return [("", f"{len(op.statements)} statements")]
    assert isinstance(op, MaterializeExec), op
    return []


def _where(op: Any) -> Properties:
    """The workers, and the priority of the schedule where it gives one."""
    found = [("worker", op.worker)] if op.worker else []
    return [*found, ("priority", str(op.priority))] if op.priority else found


def _ways(op: ToolApplyExec) -> list[str]:
    """How calls of queries are run, if they come as expected, and from how many on they are joined."""
    found = []
    for start, joined in zip(op.join_from, op.joined, strict=False):
        if start == NEVER:
            found.append("per call")
        elif start:
            found.append(f"set-oriented (from {start})" if joined else f"per call (set-oriented from {start})")
    return list(dict.fromkeys(found))


def _waits(op: LlmMapExec | LlmFilterExec | LlmReduceExec, name_of: Names) -> Properties:
    if op.failed is None:
        return []
    waits = [
        *map(_called, op.failed.filters),
        *(one_line(expr_text(each, name_of), 60) for each in op.failed.conditions),
    ]
    return [("", f"failures wait for {', '.join(waits)}")]


def _called(call: LlmCall) -> str:
    """A call as the user wrote it, shortened."""
    return one_line(call.label or call.operator, 60)


def _argument_names(ask: Ask) -> Names:
    """Columns of a demand's call by the hole they stand for: they exist only while DuckDB runs the text."""
    known = {column.id: column.name for column in ask.arguments}
    return lambda column: known.get(column, f"#{column}")


def _limit(limit: Any) -> str:
    count = "all" if limit.count is None else str(limit.count)
    return count + (f" offset {limit.offset}" if limit.offset else "")


def top_k_text(node: Any) -> str:
    """``3 offset 1 descending, nulls first``"""
    direction = "descending" if node.descending else "ascending"
    return f"{_limit(node)} {direction}" + (", nulls first" if node.nulls_first else "")


def prompt_text(prompt: Prompt, name_of: Names) -> str:
    """The segments one after the other; holes as ``{name#id}``, objects as ``{a: name#id, …}``."""
    parts = []
    for segment in prompt.user:
        if isinstance(segment, Hole):
            parts.append("{" + name_of(segment.column) + "}")
        elif isinstance(segment, ItemsHole):
            parts.append("{" + name_of(segment.column) + " …}")
        elif isinstance(segment, ObjectHole):
            fields = ", ".join(f"{name}: {name_of(column)}" for name, column in segment.fields)
            parts.append("{" + fields + "}")
        else:
            parts.append(segment)
    return json.dumps("".join(parts), ensure_ascii=False)


def call_text(call: LlmCall, name_of: Names) -> str:
    """``LLM_MAP(model, "Summarise: {body#2}")`` with the options that are not the defaults."""
    who = [call.target] if call.target else []
    said = [*who, *([call.model] if call.model else []), prompt_text(call.prompt, name_of)]
    said += [f"labels={json.dumps(call.labels, ensure_ascii=False)}"] if call.labels else []
    if call.kind == "extract" or (call.kind == "classify" and call.returns.kind != "varchar"):
        said.append(f"returns={call.returns}")
    system = call.prompt.system
    if call.kind == "rank":
        system = (system or "").removesuffix(GRADE_SYSTEM).rstrip() or None  # every call of LLM_RANK has that
    if system is not None:
        said.append(f"system={json.dumps(system, ensure_ascii=False)}")
    returns = call.returns.fields[0][1] if call.row_form else call.returns
    if call.kind in ("map", "reduce", "tool", "agent") and returns.kind != "varchar":
        said.append(f"returns={returns}")
    plain = Sampling()
    for option in (
        ()
        if call.kind in ("score", "embed", "tool", "agent")
        else ("temperature", "top_p", "max_tokens", "seed", "stop")
    ):
        value = getattr(call.sampling, option)
        if value != getattr(plain, option) and (call.kind, option) != ("rank", "max_tokens"):
            said.append(f"{option}={value}")
    said += [f"on_error={call.on_error}"] if call.on_error != "fail" else []
    said += [] if call.cache else ["cache=false"]
    said += ["volatile"] if call.volatile else []
    said += [f"fan_in={call.fan_in}"] if call.fan_in else []
    said += [f"priority={call.priority}"] if call.priority else []
    said += [f"quality={call.quality:g}"] if call.quality else []
    said += [f"proxy={call.proxy}"] if call.proxy else []
    said += ["fuse=true"] if call.fuse else []
    said += [f"guard={name_of(call.guard)}"] if call.guard is not None else []
    return f"{call.operator}({', '.join(said)})"


def llm_texts(node: Any, name_of: Names) -> list[str]:
    """The calls of an LlmMap or LlmReduce (with their output columns), LlmFilter or LlmTopK, logical or physical."""
    if isinstance(node, LlmFilter | LlmFilterExec | LlmTopK | LlmTopKExec):
        return [call_text(node.call, name_of)]
    return [f"llm#{call.output} = {call_text(call, name_of)}" for call in node.calls]


def expr_text(expr: SqlExpr, name_of: Names) -> str:
    """The user's text with columns as ``name#id``; a scope as ``over alias``."""
    text = one_line(expr.text(name_of), 0)
    return text + (f" over {', '.join(table.alias for table in expr.scope)}" if expr.scope else "")


def render_logical(plan: LogicalPlan) -> str:
    """A logical plan as a tree, one node per line, columns as ``name#id``.

    A CTE's plan is written below its first reading; later readings point to it.
    """
    found: list[str] = []
    name_of, seen = _names([plan]), set[int]()
    stack: list[tuple[Any, str, str]] = [(plan, "", "")]
    while stack:
        node, drawing, indent = stack.pop()
        inputs = children(node)
        again = isinstance(node, CteScan) and node.cte in seen
        if isinstance(node, CteScan):
            seen.add(node.cte)
        found.append(f"{drawing}{'→ ' if again else ''}{type(node).__name__} {_logical(node, name_of)}".rstrip())
        if not again:
            for place in range(len(inputs) - 1, -1, -1):
                corner, below = ("└─ ", "   ") if place == len(inputs) - 1 else ("├─ ", "│  ")
                stack.append((inputs[place], indent + corner, indent + below))
    return "\n".join(found)


def _logical(node: Any, name_of: Names) -> str:
    if isinstance(node, Fragment):
        text = "".join(part if isinstance(part, str) else f"<{part.index}>" for part in node.parts)
        volatile = " volatile" if node.volatile else ""
        return f"[{', '.join(map(str, node.columns))}]{volatile} {one_line(text, 0)}"
    if isinstance(node, Filter):
        return expr_text(node.predicate, name_of)
    if isinstance(node, Project):
        return ", ".join(
            str(column) if expr.as_column() == column.id else f"{column} = {expr_text(expr, name_of)}"
            for column, expr in node.exprs
        )
    if isinstance(node, Join):
        return f"{node.kind} {' AND '.join(expr_text(condition, name_of) for condition in node.on)}".rstrip()
    if isinstance(node, Sort):
        return ", ".join(f"{expr_text(key.expr, name_of)} {key.modifiers}".rstrip() for key in node.keys)
    if isinstance(node, Limit):
        return _limit(node)
    if isinstance(node, CteScan):
        return f"{node.name} cte={node.cte} [{', '.join(map(str, node.columns))}]"
    if isinstance(node, LlmMap | LlmFilter):
        return ("distinct " if node.distinct else "") + ", ".join(llm_texts(node, name_of))
    if isinstance(node, LlmTopK):
        method = f" method={node.method}" if node.method else ""
        return f"{top_k_text(node)}{method} {llm_texts(node, name_of)[0]}"
    if isinstance(node, Sink):
        return f"{node.kind} {one_line(f'{node.prefix} … {node.suffix}', 0)}"
    if isinstance(node, Demand):
        calls = (call_text(ask.call, _argument_names(ask)) for ask in node.asks)
        return f"[{', '.join(map(str, node.columns))}] {', '.join(calls)}"
    assert isinstance(node, Distinct), node
    return ""
