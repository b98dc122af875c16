"""Runs physical DAGs on small tables with a model that is a function of the prompt: an oracle for the optimizer."""

from __future__ import annotations

import functools
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import duckdb

from halo_sql.ir.expr import ColumnId
from halo_sql.ir.physical import (
    DuckFragmentExec,
    LimitExec,
    LlmFilterExec,
    LlmMapExec,
    LlmReduceExec,
    LlmTopKExec,
    MaterializeExec,
    PhysicalDag,
    PhysicalNode,
    PrefixClusterExec,
    RestoreOrderExec,
    RowGraphExec,
    SelectExec,
    SettleExec,
    batch_name,
)
from halo_sql.ir.prompt import ItemsHole, LlmCall
from halo_sql.ir.sql import render

Row = dict[ColumnId, Any]


@dataclass
class Outcome:
    """``rows`` in order; ``prompts`` that were rendered (kind, text), once per row that reached a call.

    fails   whether the model fails for a prompt
    failed  the prompts it failed for, numbered as in the columns of deferrals
    """

    rows: list[tuple[Any, ...]] = field(default_factory=list)
    prompts: list[tuple[str, str]] = field(default_factory=list)
    fails: Callable[[str], bool] = lambda text: False
    failed: list[str] = field(default_factory=list)


class FailedError(Exception):
    """A failure ends the query; the prompt."""


def run_dag(dag: PhysicalDag, setup: Sequence[str], fails: Callable[[str], bool] = lambda text: False) -> Outcome:
    """The rows of the DAG's root over a database made by ``setup``. Raises FailedError with the prompt that the model
    fails for."""
    outcome = Outcome(fails=fails)
    results: dict[int, list[Row]] = {}
    connection = database(tuple(setup))
    for node in dag.nodes:
        inputs = [results[source] for source in node.inputs]
        results[node.id] = _run(node, dag, inputs, connection, outcome)
    root = dag.node(dag.root)
    outcome.rows = [tuple(row[column.id] for column in root.columns) for row in results[dag.root]]
    return outcome


@functools.cache
def database(setup: tuple[str, ...]) -> Any:
    """A connection to what these statements make. A DAG changes none of it, so it is made once: a new DuckDB costs more
    than most DAGs."""
    connection = duckdb.connect()
    for statement in setup:
        connection.execute(statement)
    return connection


def answer(call: LlmCall, row: Row, outcome: Outcome) -> Any:
    """The model: a map echoes its prompt in brackets, a filter decides by checksum."""
    if call.guard is not None and row[call.guard] is not True:
        return None
    pieces = [piece if isinstance(piece, str) else row[piece.column] for piece in call.prompt.user]  # type: ignore[union-attr]
    if any(piece is None for piece in pieces):
        return None
    if isinstance(call.prompt.user[-1], ItemsHole):
        pieces[-1] = "\n".join(pieces[-1])
    text = "".join(pieces)
    outcome.prompts.append((call.kind, text))
    if outcome.fails(text):
        raise FailedError(text)
    if call.kind == "rank":
        return zlib.crc32(text.encode()) % 5
    return zlib.crc32(text.encode()) % 3 > 0 if call.kind == "filter" else f"<{text}>"


def _run(node: PhysicalNode, dag: PhysicalDag, inputs: list[list[Row]], connection: Any, outcome: Outcome) -> list[Row]:
    op: Any = node.op
    rows = inputs[0] if inputs else []
    if isinstance(op, DuckFragmentExec):
        return _query(op, node, dag, inputs, connection)
    if isinstance(op, SelectExec):
        return [{column.id: row[source] for column, source in op.columns} for row in rows]
    if isinstance(op, LlmTopKExec):
        ranks = [answer(op.call, row, outcome) for row in rows]
        found = sorted((row for row, rank in enumerate(ranks) if rank is not None), key=lambda row: -ranks[row])
        found += [row for row, rank in enumerate(ranks) if rank is None]
        end = None if op.count is None else op.offset + op.count
        return [rows[place] for place in found[op.offset : end]]
    if isinstance(op, LlmMapExec | LlmReduceExec):
        return [{**row, **_answers(op, op.calls, row, outcome)} for row in rows]
    if isinstance(op, LlmFilterExec):
        return _kept(op, rows, outcome)
    if isinstance(op, SettleExec):
        marks = [deferral.column.id for deferral in op.deferrals]
        for row in rows:
            for mark in marks:
                if row[mark] is not None:
                    raise FailedError(outcome.failed[row[mark]])
        return [{column: value for column, value in row.items() if column not in marks} for row in rows]
    if isinstance(op, LimitExec):
        return rows[op.offset :] if op.count is None else rows[op.offset : op.offset + op.count]
    if isinstance(op, PrefixClusterExec):
        placed = [{**row, op.position.id: place} for place, row in enumerate(rows)]
        return sorted(placed, key=lambda row: tuple(str(row[key]) for key in op.keys))
    if isinstance(op, RestoreOrderExec):
        ordered = sorted(rows, key=lambda row: row[op.position])
        return [{column: value for column, value in row.items() if column != op.position} for row in ordered]
    assert isinstance(op, MaterializeExec | RowGraphExec), op
    return rows


def _answers(op: Any, calls: Sequence[LlmCall], row: Row, outcome: Outcome) -> Row:
    """The answers by column; with a deferral the failure's number, too."""
    found: Row = {} if op.failed is None else {op.failed.column.id: None}
    for call in calls:
        try:
            found[call.output] = answer(call, row, outcome)
        except FailedError as problem:
            if op.failed is None:
                raise
            found[call.output] = None
            if found[op.failed.column.id] is None:
                found[op.failed.column.id] = len(outcome.failed)
                outcome.failed.append(str(problem))
    return found


def _kept(op: LlmFilterExec, rows: list[Row], outcome: Outcome) -> list[Row]:
    kept = []
    for row in rows:
        found = _answers(op, (op.call,), row, outcome)
        verdict = found.pop(op.call.output)
        marked = [*found.values(), *(row[column] for column in op.passing)]
        if verdict is True or any(mark is not None for mark in marked):
            kept.append({**row, **found})
    return kept


def _query(
    op: DuckFragmentExec, node: PhysicalNode, dag: PhysicalDag, inputs: list[list[Row]], connection: Any
) -> list[Row]:
    names = []
    for index, (source, rows) in enumerate(zip(node.inputs, inputs, strict=True)):
        columns = dag.node(source).columns
        declared = ", ".join(f"{batch_name(column.id)} {column.type.text}" for column in columns)
        connection.execute(f"CREATE OR REPLACE TEMP TABLE in{index} ({declared})")
        if rows:
            lists = ", ".join(f"unnest(?::{column.type.text}[])" for column in columns)
            values = [[row[column.id] for row in rows] for column in columns]
            connection.execute(f"INSERT INTO in{index} SELECT {lists}", values)
        names.append(f"in{index}")
    found = connection.execute(render(op.tree, names)).fetchall()
    ids = [column.id for column in node.columns]
    return [dict(zip(ids, row, strict=True)) for row in found]
