"""The values of the rows inside a row graph: of the input, of expressions, of calls."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from halo_sql.ir.physical import batch_name
from halo_sql.ir.row_graph import SOURCE, Reads, Slot
from halo_sql.operators.row_call import RowCall

Place = tuple[Any, int]  # a batch, and a row in it


class RowValues:
    """Rows by their number; those that have left are forgotten.

    calls  step -> the call whose answers it holds
    """

    def __init__(self, calls: Mapping[int, RowCall]) -> None:
        self._calls = calls
        self._firsts: list[int] = []
        self._blocks: list[Any] = []
        self._computed: dict[int, dict[int, Place]] = {}

    def add(self, batch: Any, first: int) -> None:
        """Rows of the input, the first of which has this number."""
        self._firsts.append(first)
        self._blocks.append(batch)

    def computed(self, step: int, rows: Sequence[int], batches: Sequence[Any]) -> None:
        """What expressions gave for rows, in their order."""
        places = ((batch, index) for batch in batches for index in range(batch.num_rows))
        self._computed.setdefault(step, {}).update(zip(rows, places, strict=True))

    def batch(self, reads: Reads, rows: Sequence[int], more: Mapping[str, Any] | None = None) -> Any:
        """Columns of rows (numbers in ascending order), under the readers' names; ``more``: columns that are there."""
        import pyarrow as pa

        found: dict[int, list[tuple[Any, Any]]] = {}
        arrays, fields = [], []
        for column, slot in reads:
            name = batch_name(column.id)
            if more and name in more:
                array = more[name]
                field = pa.field(name, array.type)
            else:
                array, field = self._column(slot, rows, found)
            arrays.append(array)
            fields.append(field.with_name(name))
        return pa.RecordBatch.from_arrays(arrays, schema=pa.schema(fields))

    def _column(self, slot: Slot, rows: Sequence[int], found: dict[int, list[tuple[Any, Any]]]) -> tuple[Any, Any]:
        import pyarrow as pa

        call = self._calls.get(slot.step)
        if call is not None:
            array = call.column(rows)
            return array, pa.field(slot.name, array.type)
        pieces = found.get(slot.step)
        if pieces is None:
            pieces = found[slot.step] = self._pieces(slot.step, rows)
        parts = []
        for batch, indices in pieces:
            column = batch.column(slot.name)
            parts.append(column.slice(*indices) if isinstance(indices, tuple) else column.take(indices))
        array = parts[0] if len(parts) == 1 else pa.concat_arrays(parts)
        return array, pieces[0][0].schema.field(slot.name)

    def _pieces(self, step: int, rows: Sequence[int]) -> list[tuple[Any, Any]]:
        """Batches, and which of their rows: (offset, length) or an array of indices."""
        import pyarrow as pa

        pieces: list[tuple[Any, list[int]]] = []
        for row in rows:
            batch, index = self._place(step, row)
            if not pieces or pieces[-1][0] is not batch:
                pieces.append((batch, []))
            pieces[-1][1].append(index)
        return [
            (batch, (indices[0], len(indices)) if _run(indices) else pa.array(indices, pa.int64()))
            for batch, indices in pieces
        ]

    def _place(self, step: int, row: int) -> Place:
        if step != SOURCE:
            return self._computed[step][row]
        block = bisect_right(self._firsts, row) - 1
        return self._blocks[block], row - self._firsts[block]

    def forget(self, rows: range) -> None:
        """These rows, the next in their order, have left."""
        for values in self._computed.values():
            for row in rows:
                values.pop(row, None)
        gone = 0
        while gone < len(self._blocks) and self._firsts[gone] + self._blocks[gone].num_rows <= rows.stop:
            gone += 1
        del self._blocks[:gone], self._firsts[:gone]


def numbered(batch: Any, name: str) -> Any:
    """The batch with a column more: 0, 1, …"""
    import pyarrow as pa

    places = pa.array(range(batch.num_rows), pa.int64())
    schema = batch.schema.append(pa.field(name, places.type))
    return pa.RecordBatch.from_arrays([*batch.columns, places], schema=schema)


def _run(indices: Sequence[int]) -> bool:
    return indices[-1] - indices[0] + 1 == len(indices) and all(
        after == before + 1 for before, after in pairwise(indices)
    )
