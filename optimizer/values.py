"""Which columns hold equal values: value numbering over a plan.

Two columns of a node with the same key are equal in every row. A key is a small integer, given to the
column's definition (text over keys, or a deterministic call over keys). Texts are compared written out, as they are
where one expression has been put into another: ``p.year`` over ``p := f(c)`` is ``(f(c)).year``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from halo_sql.ir.expr import ColumnId, SqlExpr
from halo_sql.ir.logical import Join, LlmMap, LogicalPlan, Project
from halo_sql.ir.prompt import LlmCall
from halo_sql.ir.walk import children, output_columns
from halo_sql.optimizer.nodes import produces_own_columns, remap_call

Keys = dict[ColumnId, int]
#: Pieces of a text that is written out; a longer one is compared as it stands.
WRITTEN_OUT = 64


class Values:
    """Value keys per node, cached by node identity (nodes are kept, so that identities stay unique)."""

    def __init__(self) -> None:
        self._cache: dict[int, tuple[Any, Keys]] = {}
        self._numbers: dict[Any, int] = {}
        self._texts: dict[int, tuple[str | int, ...]] = {}  # value key -> the text it stands for, over keys
        self._call_keys: dict[tuple[int, int], tuple[LlmCall, Keys, int]] = {}  # by identities, kept alive
        self._holders: dict[int, tuple[Keys, dict[int, ColumnId]]] = {}  # by identity of the keys, kept alive

    def keys(self, plan: LogicalPlan) -> Keys:
        """Column id -> value key, for each of the plan's columns in order."""
        pending = [plan]
        while pending:
            node = pending[-1]
            missing = [child for child in children(node) if id(child) not in self._cache]
            if missing and id(node) not in self._cache:
                pending += missing
                continue
            pending.pop()
            if id(node) not in self._cache:
                self._cache[id(node)] = (node, self._own(node))
        return self._cache[id(plan)][1]

    def holders(self, plan: LogicalPlan) -> dict[int, ColumnId]:
        """Value key -> the first of the plan's columns that holds it."""
        keys = self.keys(plan)
        known = self._holders.get(id(keys))
        if known is None:
            found: dict[int, ColumnId] = {}
            for column, key in keys.items():
                found.setdefault(key, column)
            known = self._holders[id(keys)] = (keys, found)
        return known[1]

    def call_key(self, call: LlmCall, keys: Keys) -> int | None:
        """The key of a call's answer over an input with these keys; None for a volatile call."""
        if not call.deterministic:
            return None
        cached = self._call_keys.get((id(call), id(keys)))
        if cached is not None:
            return cached[2]
        renamed = {column: ColumnId(keys[column]) for column in call.columns()}
        definition = remap_call(call, renamed)
        number = self._number(
            ("call", definition.prompt, definition.guard, call.kind, call.model, call.returns, call.sampling,
             call.on_error, call.cache, call.target, call.row_form, call.fuse)
        )  # fmt: skip

        self._call_keys[id(call), id(keys)] = (call, keys, number)
        return number

    def _own(self, node: Any) -> Keys:
        inputs = [self._cache[id(child)][1] for child in children(node)]
        if isinstance(node, Project):
            return {column.id: self._expr(column.id, expr, inputs[0]) for column, expr in node.exprs}
        if produces_own_columns(node):
            return {column.id: self._number(("column", column.id)) for column in output_columns(node)}
        keys = inputs[0]
        if isinstance(node, Join):
            return self._joined(node, inputs)
        if isinstance(node, LlmMap):
            keys = dict(keys)
            for call in node.calls:
                key = self.call_key(call, inputs[0])
                keys[call.output] = self._number(("column", call.output)) if key is None else key
        return keys

    def _joined(self, node: Join, inputs: list[Keys]) -> Keys:
        """Values stay, but on the right of a left join: there a row may have NULLs instead."""
        first, *others = inputs
        found = dict(first)
        for keys in others if not node.reduces else ():
            for column, key in keys.items():
                found[column] = self._number(("column", column)) if node.kind == "left" else key
        return found

    def _expr(self, column: ColumnId, expr: SqlExpr, keys: Keys) -> int:
        source = expr.as_column()
        if source is not None:
            return keys[source]
        if expr.volatile or expr.scope:
            return self._number(("column", column))
        whole: list[str | int] = []
        for part in expr.parts:
            key = part if isinstance(part, str) else keys[part.id]
            text = None if isinstance(key, str) else self._texts.get(key)
            whole += (key,) if text is None else ("(", *text, ")")
        if len(whole) > WRITTEN_OUT:
            whole = [part if isinstance(part, str) else keys[part.id] for part in expr.parts]
        text = _merged(whole)
        number = self._number(("expr", text, expr.type))
        if not all(isinstance(part, str) for part in text):  # a literal in a text is not of its column's type
            self._texts.setdefault(number, text)
        return number

    def _number(self, definition: Any) -> int:
        return self._numbers.setdefault(definition, len(self._numbers))


def _merged(parts: Sequence[str | int]) -> tuple[str | int, ...]:
    """Neighbouring pieces of text as one."""
    found: list[str | int] = []
    for part in parts:
        last = found[-1] if found else None
        if isinstance(part, str) and isinstance(last, str):
            found[-1] = last + part
        else:
            found.append(part)
    return tuple(found)
