"""Sorting rows that are held as many batches, without ever joining them into one."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any

from halo_sql.duck import BATCH_ROWS
from halo_sql.operators.context import Batches, RunContext
from halo_sql.operators.spool import fill, new_spool


def sorted_batches(batches: Sequence[Any], keys: Sequence[Any]) -> Iterator[Any]:
    """The rows of ``batches`` in the order of ``keys`` (ChunkedArrays, ascending, NULLs last, ties as they stood).

    pyarrow copies whole columns to take a few rows of a chunked one: rows are taken batch by batch instead.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    rows = sum(batch.num_rows for batch in batches)
    names = [f"key{number}" for number in range(len(keys))]
    place = pa.chunked_array([pa.array(range(rows), pa.int64())])
    table = pa.table([*keys, place], names=[*names, "place"])
    order = pc.sort_indices(table, sort_keys=[(name, "ascending") for name in [*names, "place"]])
    starts = [0, *accumulate(batch.num_rows for batch in batches)]
    for start in range(0, rows, BATCH_ROWS):
        yield _take(batches, starts, order.slice(start, BATCH_ROWS).to_pylist())


def take_rows(batches: Sequence[Any], rows: Sequence[int]) -> Iterator[Any]:
    """These rows of ``batches`` (numbered through), in this order."""
    starts = [0, *accumulate(batch.num_rows for batch in batches)]
    for start in range(0, len(rows), BATCH_ROWS):
        yield _take(batches, starts, rows[start : start + BATCH_ROWS])


def _take(batches: Sequence[Any], starts: Sequence[int], rows: Sequence[int]) -> Any:
    import pyarrow as pa

    ascending = sorted(range(len(rows)), key=rows.__getitem__)
    pieces = []
    at = 0
    while at < len(ascending):
        number = bisect_right(starts, rows[ascending[at]]) - 1
        inside = []
        while at < len(ascending) and rows[ascending[at]] < starts[number + 1]:
            inside.append(rows[ascending[at]] - starts[number])
            at += 1
        pieces.append(batches[number].take(pa.array(inside, pa.int64())))
    back = [0] * len(rows)
    for place, row in enumerate(ascending):
        back[row] = place
    table = pa.Table.from_batches(pieces).combine_chunks().take(pa.array(back, pa.int64()))
    return table.combine_chunks().to_batches()[0]


async def collect(source: Batches, ctx: RunContext) -> list[Any]:
    """All batches of a stream that have rows; past the spool's limit they lie in a mapped file."""
    spool = await fill(new_spool(ctx), source)
    return list(spool.batches())
