"""Plans as graphs: Mermaid, Graphviz (DOT) and one self-contained HTML page, all drawn from the JSON object."""

from __future__ import annotations

import html as escaping
import json
from collections.abc import Iterator
from typing import Any

#: Counters shown in a box: (key, text after the number).
_SHOWN = (
    ("rows_estimated", "rows estimated"),
    ("rows", "rows"),
    ("llm_calls_estimated", "calls estimated"),
    ("llm_calls", "calls"),
    ("llm_calls_coalesced", "coalesced"),
    ("llm_calls_from_store", "from store"),
    ("prompt_tok", "prompt tok"),
    ("prompt_tok_cached", "cached"),
    ("output_tok", "output tok"),
    ("tool_calls_estimated", "tool calls estimated"),
    ("tool_calls", "tool calls"),
    ("tool_calls_coalesced", "tool calls coalesced"),
)


def _nodes(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if not node.get("shared"):
        yield node
        for child in node["children"]:
            yield from _nodes(child)


def _edges(plan: dict[str, Any]) -> list[tuple[int, int]]:
    return [(child["id"], node["id"]) for node in _nodes(plan) for child in node["children"]]


def _box(node: dict[str, Any]) -> list[str]:
    """The lines of a node's box: name, what it does (shortened), counters."""
    about = [value for key, value in node["extra_info"].items() if key != "columns" and isinstance(value, str)]
    counters = [f"{node[key]:,} {text}" for key, text in _SHOWN if node.get(key)]
    what = [text if len(text) <= 60 else text[:59] + "…" for text in about]
    return [node["operator_name"], *what, *([", ".join(counters)] if counters else [])]


def mermaid(found: dict[str, Any]) -> str:
    """A Mermaid flowchart, data flowing up to the result."""
    rows = ["flowchart BT"]
    for node in _nodes(found["plan"]):
        text = "<br/>".join(escaping.escape(line, quote=True).replace("&quot;", "#quot;") for line in _box(node))
        rows.append(f'    n{node["id"]}["{text}"]')
    rows += [f"    n{source} --> n{target}" for source, target in _edges(found["plan"])]
    return "\n".join(rows)


def graphviz(found: dict[str, Any]) -> str:
    """A DOT digraph, data flowing up to the result."""
    rows = ["digraph plan {", "    rankdir=BT;", "    node [shape=box, fontname=monospace];"]
    rows += [
        f"    n{node['id']} [label={json.dumps(chr(10).join(_box(node)), ensure_ascii=False)}];"
        for node in _nodes(found["plan"])
    ]
    rows += [f"    n{source} -> n{target};" for source, target in _edges(found["plan"])]
    return "\n".join([*rows, "}"])


_STYLE = """
body { font: 14px/1.4 system-ui, sans-serif; margin: 2rem; color: #222; background: #fff }
pre { background: #f4f4f4; padding: .8rem; white-space: pre-wrap; border-radius: 6px }
ul { list-style: none; padding-left: 1.4rem; border-left: 1px solid #bbb }
li > details { border: 1px solid #bbb; border-radius: 6px; padding: .3rem .7rem; margin: .4rem 0; max-width: 60rem }
summary { cursor: pointer } summary b { margin-right: .6rem } summary i { color: #666 }
table { border-collapse: collapse } td { padding: .1rem .9rem .1rem 0; vertical-align: top; font: 12px monospace }
@media (prefers-color-scheme: dark) { body { color: #ddd; background: #1b1b1b } pre { background: #2a2a2a } }
"""


def html(found: dict[str, Any]) -> str:
    """One page without any outside resource: the query, the totals, the plan as a tree that opens and closes."""
    query = f"<pre>{escaping.escape(found['query'])}</pre>" if found["query"] else ""
    notes = "".join(f"<p>{escaping.escape(note)}</p>" for note in found["notes"])
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>HaloSQL plan</title>'
        f"<style>{_STYLE}</style></head><body>\n{query}\n<ul>{_item(found['plan'])}</ul>\n"
        f"<h3>Totals</h3>{_table(found['totals'])}\n{notes}</body></html>"
    )


def _item(node: dict[str, Any]) -> str:
    name = escaping.escape(node["operator_name"])
    if node.get("shared"):
        return f"<li><i>→ #{node['id']} {name}</i></li>"
    box = [escaping.escape(line) for line in _box(node)[1:]]
    details = {key: value for key, value in node.items() if key not in ("children", "extra_info", "operator_name")}
    below = "".join(_item(child) for child in node["children"])
    return (
        f"<li><details><summary><b>{name}</b><i>{' · '.join(box)}</i></summary>"
        f"{_table(node['extra_info'] | details)}</details>{f'<ul>{below}</ul>' if below else ''}</li>"
    )


def _table(values: dict[str, Any]) -> str:
    rows = [
        f"<tr><td>{escaping.escape(key)}</td><td>{escaping.escape(_cell(value))}</td></tr>"
        for key, value in values.items()
    ]
    return f"<table>{''.join(rows)}</table>"


def _cell(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {item}" for key, item in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
