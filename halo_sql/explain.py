"""Plans as text and JSON: what EXPLAIN and EXPLAIN ANALYZE show.

One node per line, properties in a fixed order, no clock readings unless there is a profile: the same plan is
the same text. A node with several consumers is written once, as ``#3``; later lines point to it: ``→ #3``.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from halo_sql.errors import ProgrammingError, did_you_mean
from halo_sql.explain_ops import operator_name, properties, render_logical
from halo_sql.ir.estimate import Estimate
from halo_sql.ir.physical import BatchExec, PhysicalDag, PhysicalNode, ToolApplyExec, calls_by
from halo_sql.metrics import NodeMetrics, Profile, as_dict
from halo_sql.q_error import call_q_errors, node_q_errors

#: Counters of a node that only LLM nodes show.
_LLM_KEYS = ("llm_calls", "prompt_tok", "prompt_tok_cached", "output_tok", "tool_calls")
#: Counters that only progress and learning read.
_LIVE_KEYS = ("in_flight", "rows_total", "conversations")


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a plan: the tree drawing, the node, and whether it was written before.

    statement  number of the batch's statement whose result the node is; 0: of none
    """

    drawing: str
    node: PhysicalNode
    shared: bool
    again: bool
    statement: int = 0


def lines(dag: PhysicalDag) -> Iterator[Line]:
    """The DAG as the lines of a tree, root first; a shared node's inputs follow its first line only."""
    nodes = {node.id: node for node in dag.nodes}
    consumers = Counter(source for node in dag.nodes for source in node.inputs)
    seen: set[int] = set()
    stack: list[tuple[int, str, str, int]] = [(dag.root, "", "", 0)]
    while stack:
        node_id, drawing, indent, statement = stack.pop()
        node, again = nodes[node_id], node_id in seen
        seen.add(node_id)
        yield Line(drawing, node, consumers[node_id] > 1, again, statement)
        if not again:
            last = len(node.inputs) - 1
            numbers = node.op.statements if isinstance(node.op, BatchExec) else (0,) * len(node.inputs)
            for place in range(last, -1, -1):
                corner, below = ("└─ ", "   ") if place == last else ("├─ ", "│  ")
                stack.append((node.inputs[place], indent + corner, indent + below, numbers[place]))


def render_text(dag: PhysicalDag, profile: Profile | None = None, full: bool = False) -> str:
    """The plan as a tree; with a profile also what each node did. ``full`` texts are not shortened."""
    found = []
    for line in lines(dag):
        head = operator_name(line.node.op)
        number = f"{line.statement}: " if line.statement else ""
        if line.again:
            found.append(f"{line.drawing}{number}→ #{line.node.id} {head}")
            continue
        mark = f"{number}#{line.node.id} " if line.shared else number
        shown = [f"{key}={value}" if key else value for key, value in properties(line.node, dag, full)]
        counters = profile.nodes.get(line.node.id) if profile is not None else None
        shown += _estimates(line.node) if counters is None else _actuals(line.node, counters)
        found.append(f"{line.drawing}{mark}{head}  {' · '.join(shown)}".rstrip())
    return "\n".join([*found, "", *_foot(dag, profile)])


def llm_label(node: PhysicalNode) -> str:
    """What progress calls an LLM node: its calls as the user wrote them; '' for other nodes."""
    calls = calls_by(node.op)
    return ", ".join(call.label or call.operator for call in calls)


def _is_llm(node: PhysicalNode) -> bool:
    return bool(calls_by(node.op))


def _estimates(node: PhysicalNode) -> list[str]:
    estimate = node.estimate
    if isinstance(node.op, BatchExec):
        return []
    shown = [f"~{_count(estimate.rows)} rows"]
    if _is_llm(node):
        shown += _llm_estimates(estimate, only_tools=isinstance(node.op, ToolApplyExec))
    return shown


def _llm_estimates(estimate: Estimate, only_tools: bool = False) -> list[str]:
    tools = [f"~{_count(estimate.tool_calls)} tool calls"] if estimate.tool_calls or only_tools else []
    if only_tools:
        return tools
    cached = f" (~{_count(estimate.prompt_tok_cached)} cached)"
    return [
        f"~{_count(estimate.llm_calls)} calls",
        f"~{_count(estimate.prompt_tok)} prompt tok{cached}",
        f"~{_count(estimate.output_tok)} output tok",
        *tools,
    ]


def _actuals(node: PhysicalNode, did: NodeMetrics) -> list[str]:
    if isinstance(node.op, BatchExec):
        return []
    shown = [f"rows ~{_count(node.estimate.rows)}/{did.rows}"]
    if _is_llm(node):
        shown += _llm_actuals(as_dict(did), node.estimate, only_tools=isinstance(node.op, ToolApplyExec))
    if did.workers:
        shown.append("answered by " + ", ".join(f"{name}: {calls:,}" for name, calls in sorted(did.workers.items())))
    shown += [", ".join(f"{words} {number:g}" for words, number in did.details.items())] if did.details else []
    shown += [f"self {did.self_s:.3f} s", f"wait {did.wait_s:.3f} s"]
    return [*shown, *_shown_errors(node_q_errors(node, did))]


def _shown_errors(errors: dict[str, float]) -> list[str]:
    worst = [f"{value:.3g} {key.replace('_', ' ')}" for key, value in errors.items()]
    return [f"q-error {', '.join(worst)}"] if worst else []


def _llm_actuals(did: dict[str, float], expected: Estimate, only_tools: bool = False) -> list[str]:
    tools = [
        f"~{_count(expected.tool_calls)}/{_count(did['tool_calls'])} tool calls"
        f" + {_count(did['tool_calls_coalesced'])} coalesced"
    ]
    if did["tool_calls_from_store"]:
        tools[0] += f" + {_count(did['tool_calls_from_store'])} from store"
    troubles = [f"{_count(did[key])} {key.replace('_', ' ')}" for key in ("retries", "errors") if did[key]]
    if only_tools:
        return tools + troubles
    shown = [
        f"~{_count(expected.llm_calls)}/{_count(did['llm_calls'])} calls"
        f" + {_count(did['llm_calls_coalesced'])} coalesced + {_count(did['llm_calls_from_store'])} from store",
        f"~{_count(expected.prompt_tok)}/{_count(did['prompt_tok'])} prompt tok"
        f" ({_count(did['prompt_tok_cached'])} cached)",
        f"~{_count(expected.output_tok)}/{_count(did['output_tok'])} output tok",
    ]
    used = any(did[key] for key in ("tool_calls", "tool_calls_coalesced", "tool_calls_from_store"))
    return shown + (tools if used else []) + troubles


def _clock(profile: Profile) -> str:
    return f"virtual; {profile.cpu_s:.3f} s of processor time; " if profile.virtual else ""


def _foot(dag: PhysicalDag, profile: Profile | None) -> list[str]:
    if profile is None:
        total = _total(dag)
        found = [f"Total: {' · '.join(_llm_estimates(total))} · ~{total.cost.gpu_s:.1f} s of engine time"]
        if total.cost.usd:
            found[0] += f" · ~{total.cost.usd:.4f} usd"
    else:
        did, total = profile.totals(), _total(dag)
        found = [
            f"Total: {' · '.join(_llm_actuals(did, total))} · {did['elapsed_s']:.3f} s"
            f" ({_clock(profile)}planning {profile.planning_s:.3f} s)"
        ]
        found[0] += "".join(f" · {shown}" for shown in _shown_errors(call_q_errors(total, did)))
        if did["usd"]:
            found[0] += f" · {did['usd']:.4f} usd"
        if profile.status not in ("done", "running"):
            found.append(f"Status: {profile.status}")
        found += [f"Engine {name}: {said}" for name, said in sorted(profile.engines.items())]
        found += [f"Worker {name}: {_worker(did)}" for name, did in sorted(profile.workers.items())]
        found += [f"Window {name}: {_window(did)}" for name, did in sorted(profile.windows.items())]
    for prefix, calls in dag.prefixes:
        text = prefix if len(prefix) <= 60 else prefix[:59] + "…"
        found.append(
            f"Shared prefix: {json.dumps(text, ensure_ascii=False)} ({len(prefix)} characters) × ~{_count(calls)} calls"
        )
    replans = [] if profile is None else profile.replans
    return found + [f"Note: {note}" for note in (*dag.notes, *replans)]


def _worker(did: dict[str, float]) -> str:
    moved = f", {_count(did['prompt_tok_moved'])} from another worker" if did["prompt_tok_moved"] else ""
    again = f", ~{_count(did['prompt_tok_again'])} computed that another worker has" if did["prompt_tok_again"] else ""
    return (
        f"{_count(did['requests'])} calls · {_count(did['prompt_tok'])} prompt tok "
        f"({_count(did['prompt_tok_cached'])} cached{moved}{again}) · {_count(did['output_tok'])} output tok · "
        f"busy {did['busy_s']:.3f} s"
    )


def _window(did: dict[str, float]) -> str:
    cuts = "" if not did["cuts"] else ", cut once" if did["cuts"] == 1 else f", cut {_count(did['cuts'])} times"
    return f"{_count(did['requests'])} of at most {_count(did['most'])} requests at once{cuts}"


def _total(dag: PhysicalDag) -> Estimate:
    nodes = [node.estimate for node in dag.nodes]
    cost = sum((estimate.cost for estimate in nodes[1:]), nodes[0].cost) if nodes else Estimate().cost
    sums = {key: sum(getattr(estimate, key) for estimate in nodes) for key in _LLM_KEYS}
    return Estimate(cost=cost, **sums)


def _count(number: float) -> str:
    return f"{number:,.0f}"


def _rounded(errors: dict[str, float]) -> dict[str, float]:
    return {key: round(value, 3) for key, value in errors.items()}


def _number(value: float) -> float:
    """Whole numbers as integers, others to the microsecond."""
    return int(value) if value == int(value) else round(value, 6)


def to_json(dag: PhysicalDag, profile: Profile | None = None, query: str = "") -> dict[str, Any]:
    """The object of LANGUAGE.md section 5: ``{"query", "plan": node, "totals", "notes", "prefixes"}``.

    Without a profile nodes and totals hold ``<counter>_estimated`` only. A shared node is written whole once;
    its other places hold ``"shared": true`` and no children.
    """
    seen: set[int] = set()
    nodes = {node.id: node for node in dag.nodes}

    def build(node_id: int) -> dict[str, Any]:
        node = nodes[node_id]
        made: dict[str, Any] = {"id": node.id, "operator_name": operator_name(node.op)}
        if node_id in seen:
            return {**made, "extra_info": {}, "shared": True, "children": []}
        seen.add(node_id)
        made["extra_info"] = {}
        for key, value in properties(node, dag, full=True):
            told = made["extra_info"].get(key or "what")
            made["extra_info"][key or "what"] = value if told is None else f"{told} · {value}"
        made["extra_info"]["columns"] = [f"{column.name} {column.type}" for column in node.columns]
        made["rows_estimated"] = _number(node.estimate.rows)
        if _is_llm(node):
            made |= {f"{key}_estimated": _number(getattr(node.estimate, key)) for key in _LLM_KEYS}
        if profile is not None:
            did = profile.nodes.get(node_id, NodeMetrics())
            made |= {key: _number(value) for key, value in as_dict(did).items() if key not in _LIVE_KEYS}
            if did.workers:
                made["workers"] = dict(sorted(did.workers.items()))
            if did.details:
                made["details"] = {words: _number(number) for words, number in did.details.items()}
            made["q_error"] = _rounded(node_q_errors(node, did))
        made["children"] = [build(source) for source in node.inputs]
        return made

    total = _total(dag)
    sums = {f"{key}_estimated": _number(getattr(total, key)) for key in _LLM_KEYS}
    sums |= {"gpu_s_estimated": _number(total.cost.gpu_s), "usd_estimated": _number(total.cost.usd)}
    found: dict[str, Any] = {"query": query, "plan": build(dag.root), "totals": sums}
    if profile is not None:
        found["query"] = profile.statement
        found["status"] = profile.status
        found["engines"] = dict(profile.engines)
        if profile.workers:
            found["workers"] = {
                name: {key: _number(value) for key, value in counters.items()}
                for name, counters in sorted(profile.workers.items())
            }
        if profile.windows:
            found["windows"] = {name: dict(did) for name, did in sorted(profile.windows.items())}
        found["totals"] = {key: _number(value) for key, value in profile.totals().items()} | sums
        if profile.replans:
            found["replans"] = list(profile.replans)
        found["totals"]["planning_s"] = _number(profile.planning_s)
        if profile.virtual:
            found["totals"] |= {"virtual_time": True, "cpu_s": round(profile.cpu_s, 6)}
        found["totals"]["q_error"] = _rounded(call_q_errors(total, profile.totals()))
    found["prefixes"] = [{"text": text, "calls_estimated": _number(calls)} for text, calls in dag.prefixes]
    found["notes"] = list(dag.notes)
    return found


def _json_text(dag: PhysicalDag, profile: Profile | None, query: str) -> str:
    return json.dumps(to_json(dag, profile, query), ensure_ascii=False, indent=2)


def _drawn(format_name: str) -> Callable[[PhysicalDag, Profile | None, str], str]:
    def draw(dag: PhysicalDag, profile: Profile | None, query: str) -> str:
        from halo_sql import explain_graph

        found: str = getattr(explain_graph, format_name)(to_json(dag, profile, query))
        return found

    return draw


#: format name -> (dag, profile, query) -> text
FORMATS: dict[str, Callable[[PhysicalDag, Profile | None, str], str]] = {
    "text": lambda dag, profile, query: render_text(dag, profile),
    "json": _json_text,
    "mermaid": _drawn("mermaid"),
    "graphviz": _drawn("graphviz"),
    "html": _drawn("html"),
}


def render(dag: PhysicalDag, profile: Profile | None = None, format: str = "text", query: str = "") -> str:
    """The plan in one of ``FORMATS``; ProgrammingError for another name."""
    draw = FORMATS.get(format.lower())
    if draw is None:
        raise ProgrammingError(
            f'"{format}" is not an EXPLAIN format',
            kind="Invalid Input Error",
            remedy=did_you_mean(format, list(FORMATS)),
        )
    return draw(dag, profile, query)


__all__ = ["FORMATS", "lines", "llm_label", "render", "render_logical", "render_text", "to_json"]
