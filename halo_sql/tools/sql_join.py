"""The texts that a developer's query becomes: for one call, and for many calls as one join.

Arguments are never part of a text. A call binds the texts of its arguments as one parameter, a list; a join binds the
list of these. The query casts each to its type.

Whether calls may be joined is decided by DuckDB's own plan of the query, not by its text: views and macros are in it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from halo_sql.duck import Duck
from halo_sql.duck_tokens import tokenize
from halo_sql.errors import Error, InterruptedQueryError
from halo_sql.ir.expr import quote
from halo_sql.ir.types import SqlType
from halo_sql.tools.protocol import BoundTool
from halo_sql.tools.sql_values import holds, row, spelled, typed

#: operators whose rows depend neither on an order nor on other calls
_OPERATORS = frozenset(
    "LOGICAL_" + name
    for name in (
        "PROJECTION", "FILTER", "GET", "AGGREGATE_AND_GROUP_BY", "COMPARISON_JOIN", "ANY_JOIN", "CROSS_PRODUCT",
        "DELIM_JOIN", "DELIM_GET", "DUMMY_SCAN", "EMPTY_RESULT", "EXPRESSION_GET", "UNION", "DISTINCT", "UNNEST",
        "MATERIALIZED_CTE", "CTE_REF",
    )
)  # fmt: skip
#: aggregates that give the same in whatever order the rows come, for values whose equals are identical
_AGGREGATES = frozenset(
    (
        "count", "count_star", "count_if", "countif", "sum", "sum_no_overflow", "avg", "mean", "min", "max",
        "bool_and", "bool_or", "bit_and", "bit_or", "bit_xor",
    )
)  # fmt: skip
#: types with equal values that are spelled differently (0.0 and -0.0; 1 month and 30 days), or whose sums round
_INEXACT = frozenset(("FLOAT", "DOUBLE", "INTERVAL", "TIME WITH TIME ZONE", "UNION", "VARIANT", "GEOMETRY"))
_TEXTS = frozenset(("VARCHAR", "BLOB", "BIT", "NULL"))
_MINUS_ZERO = re.compile(r"-\.?0|[eE]-\d{3}")


class QueryTexts:
    """The texts of one tool.

    single    of one call: ``$1`` is the list of its arguments' texts. Scalar: a row (number of rows, JSON text of
              one); table: a JSON text for every row
    lateral   of many calls: ``$1`` is the list of such lists. Scalar: (place from 1, number of rows, JSON text of
              one) of each call that has rows; table: (place, JSON text) ordered by place
    check     casts all arguments of ``$1``, the list of lists
    binds     whether the text of one call has a ``$1``: a query may leave its arguments alone
    by_name   argument -> the same of one argument
    plain     the query with NULLs for arguments, for what DuckDB plans
    probe     the lateral form with NULLs, for what DuckDB accepts

    ``ordered`` sorts the rows of a table by their columns: a query without ORDER BY leaves their order open, and
    calls that are joined must give what they give alone.
    """

    def __init__(self, tool: BoundTool, max_rows: int) -> None:
        self.tool = tool
        self.table = bool(tool.tool.columns)
        self._max_rows = max_rows
        self._body = tool.tool.body
        marker = 0
        while f"halo_call_{marker}" in self._body.lower():
            marker += 1
        self._calls = quote(f"halo_call_{marker}")
        self._of_query = quote(f"halo_query_{marker}")
        kinds = [kind for _, kind in tool.parameters]
        listed = "".join(f", {typed(f'a[{place + 1}]', kind)} AS c{place}" for place, kind in enumerate(kinds))
        self._arguments = (
            f"SELECT n{listed} FROM (SELECT unnest(CAST($1 AS VARCHAR[][])) AS a, "
            "generate_subscripts(CAST($1 AS VARCHAR[][]), 1) AS n)"
        )
        counts = ", ".join(f"count(c{place})" for place in range(len(kinds))) or "0"
        self.check = f"SELECT {counts} FROM ({self._arguments})"
        texts = [f"CAST($1 AS VARCHAR[])[{place + 1}]" for place in range(len(kinds))]
        single = {name: typed(text, kind) for text, (name, kind) in zip(texts, tool.parameters, strict=True)}
        self.by_name = {name: f"SELECT {expression}" for name, expression in single.items()}
        nulls = {name: f"CAST(NULL AS {kind.text})" for name, kind in tool.parameters}
        columns = {name: f"{self._calls}.c{place}" for place, (name, _) in enumerate(tool.parameters)}
        self.plain = self._with(nulls)
        self._single_body = self._with(single)
        self.binds = self._single_body != self._with({})
        self._lateral_body = self._with(columns)
        listed = ", ".join(f"{null} AS c{place}" for place, null in enumerate(nulls.values())) or "0 AS c0"
        self.probe = self._lateral(f"SELECT 1 AS n, {listed}")
        self.lateral = self._lateral(self._arguments)

    def single(self, ordered: bool) -> str:
        """The text of one call."""
        of_query = f"FROM (\n{self._single_body}\n) AS {self._of_query}({self._names()})"
        if not self.table:
            return f"SELECT count(*), any_value({self._value()}) {of_query}"
        limit = f" LIMIT {self._max_rows + 1}" if self._max_rows else ""
        order = f" ORDER BY {self._order()}" if ordered else ""
        return f"SELECT {self._value()} {of_query}{order}{limit}"

    def _lateral(self, arguments: str) -> str:
        of_query = f"FROM {self._calls}, LATERAL (\n{self._lateral_body}\n) AS {self._of_query}({self._names()})"
        head = f"WITH {self._calls} AS MATERIALIZED ({arguments}) "
        if not self.table:
            return f"{head}SELECT {self._calls}.n, count(*), any_value({self._value()}) {of_query} GROUP BY ALL"
        rows = (
            f"SELECT {self._calls}.n AS n, {self._value()} AS r, "
            f"row_number() OVER (PARTITION BY {self._calls}.n ORDER BY {self._order()}) AS k {of_query}"
        )
        limit = f" WHERE k <= {self._max_rows + 1}" if self._max_rows else ""
        return f"{head}SELECT n, r FROM ({rows}){limit} ORDER BY n, k"

    def _types(self) -> list[tuple[str, SqlType]]:
        if not self.table:
            return [("", self.tool.returns)]
        return list(self.tool.returns.fields[0][1].fields)  # a LIST of STRUCT

    def _names(self) -> str:
        return ", ".join(f"v{place}" for place in range(len(self._types())))

    def _casts(self) -> list[str]:
        return [f"CAST({self._of_query}.v{place} AS {kind.text})" for place, (_, kind) in enumerate(self._types())]

    def _value(self) -> str:
        casts = self._casts()
        if not self.table:
            return spelled(casts[0], self.tool.returns)
        return row([(name, cast, kind) for (name, kind), cast in zip(self._types(), casts, strict=True)])

    def _order(self) -> str:
        return ", ".join(f"{item} ASC NULLS LAST" for item in [*self._casts(), self._value()])

    def _with(self, given: dict[str, str]) -> str:
        """The query with expressions for ``$argument``; comments go, as the last one might swallow what follows."""
        by_name = {name.lower(): text for name, text in given.items()}
        pieces: list[str] = []
        at = 0
        tokens = tokenize(self._body)
        for index, token in enumerate(tokens):
            if token.kind == "comment" or (token.text == ";" and token.kind == "operator"):
                pieces += [self._body[at : token.start], " "]
                at = token.end
            following = tokens[index + 1] if index + 1 < len(tokens) else None
            if token.text != "$" or following is None or following.start != token.end:
                continue
            name = following.text
            if name.startswith('"'):
                name = name[1:-1].replace('""', '"')
            if name.lower() in by_name:
                pieces += [self._body[at : token.start], by_name[name.lower()]]
                at = following.end
        return "".join([*pieces, self._body[at:]])


def joinable(duck: Duck, texts: QueryTexts) -> bool:
    """Whether many calls as one join give what they give one by one. Runs nothing of the query, and asks DuckDB in
    ways that leave an open transaction alone."""
    parameters = [kind for _, kind in texts.tool.parameters]
    if any(holds(kind, "interval", "time with time zone", "union", "variant") for kind in parameters):
        return False
    try:
        (answer,) = duck.rows("SELECT json_serialize_plan($1)", [texts.plain])[0]
        plan = json.loads(answer)
        if plan.get("error") or not all(_fits(duck, node) for node in _nodes(plan)):
            return False
        duck.probe(texts.probe)
    except InterruptedQueryError:
        raise
    except (Error, ValueError, RecursionError):
        return False
    return True


def joins(texts: QueryTexts, arguments: str) -> bool:
    """Whether a call may be part of a join: 0.0 and -0.0 are equal to a join, but not the same argument."""
    floats = any(holds(kind, "float", "double") for _, kind in texts.tool.parameters)
    return not (floats and _MINUS_ZERO.search(arguments))


def _nodes(tree: Any) -> Iterator[dict[str, Any]]:
    if isinstance(tree, dict):
        yield tree
        for member in tree.values():
            yield from _nodes(member)
    elif isinstance(tree, list):
        for member in tree:
            yield from _nodes(member)


def _fits(duck: Duck, node: dict[str, Any]) -> bool:
    kind = str(node.get("type", ""))
    if kind.startswith("LOGICAL_"):
        return kind in _OPERATORS and _operator_fits(node, kind)
    path = (node.get("qname") or {}).get("path") or [""]
    name = str(path[-1]).lower()
    if node.get("expression_class") == "BOUND_AGGREGATE":
        given = node.get("arguments", [])
        return name in _AGGREGATES and not node.get("order_bys") and not any(map(_inexact, given))
    if node.get("expression_class") == "BOUND_FUNCTION":
        if name == "__cast":
            return _cast_fits(node)
        known = name in duck.built_in_functions() or not name.replace("_", "").isalnum()
        return known and name not in duck.volatile_functions()
    return True


def _operator_fits(node: dict[str, Any], kind: str) -> bool:
    if kind == "LOGICAL_GET":
        extra = node.get("extra_info") or {}
        return (node.get("qname") or {}).get("path") == ["seq_scan"] and not extra.get("sample_options")
    if kind == "LOGICAL_AGGREGATE_AND_GROUP_BY":
        return not any(_inexact(group.get("return_type")) for group in node.get("groups") or ())
    if kind == "LOGICAL_DISTINCT":
        targets = node.get("distinct_targets") or ()
        return node.get("distinct_type") == "DISTINCT" and not any(
            _inexact(item.get("return_type")) for item in targets
        )
    return True


def _inexact(found: Any) -> bool:
    return any(
        node.get("id") in _INEXACT or bool(node.get("collation")) for node in _nodes(found) if isinstance(node, dict)
    )


def _cast_fits(node: dict[str, Any]) -> bool:
    """A cast that may fail is evaluated for other rows in a join: not one from texts, unless they are constants."""
    if (node.get("function_data") or {}).get("try_cast"):
        return True
    child = (node.get("children") or [{}])[0]
    given, wanted = child.get("return_type") or {}, node.get("return_type") or {}
    if given.get("id") not in _TEXTS or wanted.get("id") == "VARCHAR":
        return True
    return (
        not any(
            str(inner.get("expression_class", "")).endswith("REF") or inner.get("is_null") for inner in _nodes(child)
        )
        or given.get("id") == "NULL"
    )
