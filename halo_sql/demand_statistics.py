"""What DuckDB expects of a query with calls in its text: its rows, and the rows that reach each call.

DuckDB plans the text with an expression in the place of each call that reads the call's arguments and holds a mark. The
operator that evaluates the mark is in the plan, with the rows that come to it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from halo_sql.duck import Duck
from halo_sql.errors import Error, InterruptedQueryError
from halo_sql.ir.logical import Ask, CallText, Demand, DemandPart, GoOn, InputRef
from halo_sql.ir.walk import call_type
from halo_sql.optimizer.cardinality import DEFAULT_CHARS, input_key
from halo_sql.optimizer.context import FragmentStats, InputKey, InputStats

#: A scan's estimate holds its filters, and DuckDB takes a filter it knows nothing of to keep a fifth of the rows.
UNKNOWN_FILTER = 0.2


def demand_stats(duck: Duck, node: Demand) -> FragmentStats | None:
    """Rows of the result and, by ``input_key``, rows that ask; None where DuckDB says nothing: of texts over inputs of
    ours, of those it cannot plan with other expressions, and within a transaction, which an error would end."""
    if node.inputs or duck.in_transaction():
        return None
    marks = _marks(node)
    try:
        text = "".join(_spelled(part, node, marks) for part in node.parts)
        plan = json.loads(duck.rows(f"EXPLAIN (FORMAT json) {text}")[0][1])
    except InterruptedQueryError:
        raise
    except (Error, ValueError, IndexError):
        return None
    operators = list(_operators(plan))
    rows = next((known for known in (_rows(item) for _, item in operators) if known is not None), None)
    if rows is None:
        return None
    found: dict[InputKey, InputStats] = {}
    for ask, mark in zip(node.asks, marks, strict=True):
        reaching = _reaching(operators, mark)
        if reaching is not None:
            chars = DEFAULT_CHARS * len(ask.call.prompt.columns())
            found[input_key(ask.call)] = InputStats(reaching, reaching, chars)
    return FragmentStats(rows, {}, found)


def _marks(node: Demand) -> list[str]:
    number = 0
    while any(isinstance(part, str) and f"halo_ask_{number}_" in part for part in node.parts):
        number += 1
    return [f"halo_ask_{number}_{index}_" for index in range(len(node.asks))]


def _spelled(part: DemandPart, node: Demand, marks: list[str]) -> str:
    if isinstance(part, CallText):
        arguments = ["".join(_spelled(piece, node, marks) for piece in argument) for argument in part.arguments]
        return _stand_in(node.asks[part.index], marks[part.index], arguments)
    assert not isinstance(part, InputRef), "there are no inputs"
    return "true" if isinstance(part, GoOn) else part


def _stand_in(ask: Ask, mark: str, arguments: list[str]) -> str:
    """An expression of the call's type over its arguments."""
    text = f"concat('{mark}', {', '.join(f'({argument})' for argument in arguments)})" if arguments else f"'{mark}'"
    kind = call_type(ask.call)
    if kind.kind == "varchar":
        return text
    if kind.kind == "boolean":
        return f"(length({text}) % 2 = 0)"
    return f"TRY_CAST({text} AS {kind.text})"


def _operators(plan: Any) -> Iterator[tuple[int, dict[str, Any]]]:
    """(depth, operator), from the top."""
    waiting = [(0, item) for item in reversed(plan if isinstance(plan, list) else [plan])]
    while waiting:
        depth, item = waiting.pop()
        yield depth, item
        waiting += [(depth + 1, child) for child in reversed(item.get("children", []))]


def _rows(item: dict[str, Any]) -> float | None:
    try:
        return float(item.get("extra_info", {}).get("Estimated Cardinality"))
    except (TypeError, ValueError):
        return None


def _reaching(operators: list[tuple[int, dict[str, Any]]], mark: str) -> float | None:
    """The rows that come to the lowest operator with the mark; operators above it show what it gave."""
    holding = [(depth, item) for depth, item in operators if mark in json.dumps(item.get("extra_info", {}))]
    if not holding:
        return None
    _, lowest = max(holding, key=lambda each: each[0])
    below = [rows for rows in map(_rows, lowest.get("children", [])) if rows is not None]
    if below:
        return max(below)
    rows = _rows(lowest)
    filters = json.dumps(lowest.get("extra_info", {}).get("Filters", ""))
    return rows / UNKNOWN_FILTER if rows is not None and mark in filters else rows
