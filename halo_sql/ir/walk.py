"""Reading and rebuilding plan trees, generic over the node classes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields
from functools import cache
from operator import attrgetter, is_
from typing import Any

from halo_sql.ir.expr import Column
from halo_sql.ir.logical import Demand, Join, LlmFilter, LlmMap, LlmTopK, LogicalPlan, Project
from halo_sql.ir.prompt import LlmCall
from halo_sql.ir.types import SqlType


def children(node: Any) -> tuple[Any, ...]:
    """The node's inputs, in order."""
    kind = type(node)
    field = _INPUTS.get(kind)
    if field is None:
        names = [name for name in ("input", "inputs") if hasattr(node, name)]
        field = _INPUTS[kind] = names[0] if names else ""
    if field == "input":
        return (node.input,)
    return tuple(node.inputs) if field else ()


_INPUTS: dict[type, str] = {}  # class of a node -> the field that holds its inputs; '': none


def with_children(node: Any, inputs: tuple[Any, ...]) -> Any:
    """The same node over other inputs (itself when they are the same objects)."""
    old = children(node)
    assert len(old) == len(inputs), node
    if all(map(is_, old, inputs)):
        return node
    kind: Any = type(node)
    names, values_of = _fields(kind)
    values = list(values_of(node)) if len(names) > 1 else [values_of(node)]
    if "inputs" in names:
        values[names.index("inputs")] = inputs
    else:
        values[names.index("input")] = inputs[0]
    return kind(*values)


@cache
def _fields(kind: Any) -> tuple[tuple[str, ...], Callable[[Any], Any]]:
    """A node class's fields in the order of its constructor, and what reads them (``dataclasses.replace`` is slow)."""
    names = tuple(each.name for each in fields(kind))
    return names, attrgetter(*names)


def walk(node: Any) -> Iterator[Any]:
    """The node and everything below it, parents first; a shared sub-tree is met once per parent."""
    stack = [node]
    while stack:
        current = stack.pop()
        yield current
        stack.extend(reversed(children(current)))


def transform_up(node: Any, change: Callable[[Any], Any]) -> Any:
    """``change`` applied to every node, children first."""
    inputs = tuple(transform_up(child, change) for child in children(node))
    return change(with_children(node, inputs))


def output_columns(node: LogicalPlan) -> tuple[Column, ...]:
    """The columns a node produces, in order. Anything with a ``columns`` field answers for itself."""
    added: tuple[Column, ...] = ()
    current: Any = node
    while True:  # recursion at joins only: plans may be deep
        if isinstance(current, Project):
            return tuple(column for column, _ in current.exprs) + added
        if isinstance(current, Join):
            sides = current.inputs[:1] if current.reduces else current.inputs
            return tuple(column for side in sides for column in output_columns(side)) + added
        if isinstance(current, LlmMap):
            added = (
                tuple(Column(call.output, call.label or call.kind, call_type(call)) for call in current.calls) + added
            )
        else:
            own = getattr(current, "columns", None)
            if own is not None:
                return tuple(own) + added
        current = children(current)[0]


def call_type(call: Any) -> SqlType:
    """The type of a call's output column (STRUCT(value, error) under on_error 'struct')."""
    if call.on_error != "struct":
        returns: SqlType = call.returns
        return returns
    from halo_sql.ir.types import VARCHAR

    text = f'STRUCT("value" {call.returns.text}, "error" VARCHAR)'
    return SqlType(text, "struct", (("value", call.returns), ("error", VARCHAR)))


def calls_made(node: Any) -> tuple[LlmCall, ...]:
    """The LLM calls that a logical node makes itself, wherever it keeps them."""
    if isinstance(node, LlmMap):
        return node.calls
    if isinstance(node, Demand):
        return tuple(ask.call for ask in node.asks)
    return (node.call,) if isinstance(node, LlmFilter | LlmTopK) else ()
