"""Top-k by grades: one call per row, the best rows kept while the grades come in."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

from halo_sql.engines.ranking import order_key
from halo_sql.ir.physical import LlmTopKExec, PhysicalNode, batch_name
from halo_sql.operators.context import Batches, RunContext
from halo_sql.operators.convert import Converter
from halo_sql.operators.llm_rows import answered
from halo_sql.operators.sorting import take_rows

SLACK_ROWS = 8192  # rows held beyond those wanted before the others are let go

Key = tuple[int, tuple[int, float], int]  # (NULLs' side, the grade's place, the row's number)


async def graded(node: PhysicalNode, op: LlmTopKExec, source: Batches, ctx: RunContext) -> AsyncIterator[Any]:
    """See ``llm_top_k``. Holds at most the rows wanted and ``SLACK_ROWS`` more (or a batch)."""
    if op.count == 0:
        return
    names = [batch_name(column.id) for column in node.columns]
    converter = Converter(op.call, ctx.text_cast)
    held = _Held(op)
    rows = answered([op.call], True, op.lookahead, source, ctx.node_metrics(node.id), ctx)
    async with aclosing(rows) as pieces:  # type: ignore[type-var]
        async for piece in pieces:
            grades = converter.to_arrow(piece.texts[0]).to_pylist()
            held.add(piece.batch.select(names), grades)
    for batch in held.result():
        yield batch


class _Held:
    """The best rows so far, as batches with a key for each row."""

    def __init__(self, op: LlmTopKExec) -> None:
        self._op = op
        self._wanted = None if op.count is None else op.count + op.offset
        self._batches: list[Any] = []
        self._keys: list[Key] = []
        self._read = 0

    def add(self, batch: Any, grades: list[float | None]) -> None:
        op = self._op
        for grade in grades:
            if grade is None:
                self._keys.append((-1 if op.nulls_first else 1, (0, 0.0), self._read))
            else:
                infinite, value = order_key(grade)
                place = (-infinite, -value) if op.descending else (infinite, value)
                self._keys.append((0, place, self._read))
            self._read += 1
        self._batches.append(batch)
        if self._wanted is not None and len(self._keys) > self._wanted + SLACK_ROWS:
            self._shrink(self._wanted)

    def _shrink(self, rows: int) -> None:
        best = sorted(range(len(self._keys)), key=self._keys.__getitem__)[:rows]
        self._batches = list(take_rows(self._batches, best))
        self._keys = [self._keys[row] for row in best]

    def result(self) -> list[Any]:
        """The rows asked for, in order."""
        order = sorted(range(len(self._keys)), key=self._keys.__getitem__)
        return list(take_rows(self._batches, order[self._op.offset : self._wanted]))
