"""Checks after a rule: the same columns out, and every column read is there."""

from __future__ import annotations

from typing import Any

from halo_sql.errors import InternalError
from halo_sql.ir.expr import Column
from halo_sql.ir.logical import CteScan, Sink
from halo_sql.ir.walk import children, output_columns
from halo_sql.optimizer.nodes import column_ids, label, reads, walk_once


def signature(columns: tuple[Column, ...]) -> tuple[tuple[int, str], ...]:
    """What a rule must keep: column ids and types in order (names are for display)."""
    return tuple((column.id, column.type.text) for column in columns)


def check_same_columns(rule: str, before: Any, after: Any) -> None:
    """Raises InternalError when a rule's result has other columns than what it replaces.

    A Sink has none of its own: it consumes the columns it names, whatever else its input holds.
    """
    if isinstance(before, Sink) and isinstance(after, Sink):
        return
    old, new = signature(output_columns(before)), signature(output_columns(after))
    if old != new:
        raise InternalError(
            f'optimizer rule "{rule}" changed the columns of {label(before)} from {_list(old)} to {_list(new)}',
            remedy=f"SET halo_disabled_rules = '{rule}' goes around it; please report the statement.",
        )


def check_same_set(rule: str, before: tuple[Column, ...], after: Any) -> None:
    """The same for a memo group, whose expressions may order their columns differently."""
    old, new = set(signature(before)), set(signature(output_columns(after)))
    if old != new:
        raise InternalError(
            f'optimizer rule "{rule}" added {label(after)} with columns {_list(sorted(new))} '
            f"to a group with {_list(sorted(old))}",
            remedy=f"SET halo_disabled_rules = '{rule}' goes around it; please report the statement.",
        )


def check_tree(rule: str, plan: Any) -> None:
    """Raises InternalError when a node reads a column that its input does not produce, or produces one twice."""
    for node in walk_once(plan):
        check_node(rule, node)


def check_node(rule: str, node: Any) -> None:
    """The same for one node."""
    for index, child in enumerate(children(node)):
        missing = reads(node, index) - column_ids(child)
        if missing:
            raise InternalError(
                f'after optimizer rule "{rule}" {label(node)} reads columns its input does not have: '
                + ", ".join(f"#{column}" for column in sorted(missing)),
                remedy=f"SET halo_disabled_rules = '{rule}' goes around it; please report the statement.",
            )
    columns = output_columns(node)
    if len({column.id for column in columns}) != len(columns):
        raise InternalError(f'after optimizer rule "{rule}" {label(node)} produces a column twice')
    if isinstance(node, CteScan) and len(columns) != len(output_columns(node.input)):
        raise InternalError(f'after optimizer rule "{rule}" {label(node)} does not fit its plan')


def _list(columns: object) -> str:
    assert isinstance(columns, tuple | list)
    return "(" + ", ".join(f"#{column} {type_text}" for column, type_text in columns) + ")"
