"""Clustering by prefix, and restoring the order."""

from __future__ import annotations

import asyncio
from typing import Any

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from halo_sql.ir.expr import ColumnId
from halo_sql.ir.physical import PhysicalNode, PrefixClusterExec, RestoreOrderExec
from halo_sql.ir.types import BIGINT

from .plans import columns, llm, source


@settings(deadline=None, max_examples=40)
@given(st.lists(st.one_of(st.none(), st.text("ab", max_size=3)), max_size=25), st.lists(st.integers(0, 5), max_size=6))
def test_clustering_is_a_permutation_that_restore_undoes(kit: Any, values: list[str | None], sizes: list[int]) -> None:
    from halo_sql.duck import Duck
    from halo_sql.operators.context import RunContext
    from halo_sql.operators.prefix_cluster import prefix_cluster
    from halo_sql.operators.restore_order import restore_order

    async def main() -> None:
        table = pa.table({"c0": pa.array(range(len(values)), pa.int64()), "c1": pa.array(values, pa.string())})
        place = kit.column(30, BIGINT)
        duck = Duck.connect(":memory:", False, {})
        ctx = RunContext(duck, kit.LocalChannels())
        cluster = PhysicalNode(1, PrefixClusterExec((ColumnId(1),), place), (0,), (*columns(kit), place))
        clustered = await kit.drain(prefix_cluster(cluster, [kit.Source(kit.split(table, sizes))], ctx))
        keys = [key or "~" if key is None else key for _, key, _ in kit.rows(clustered)]
        assert keys == sorted(keys)
        assert all(row == position for row, _, position in kit.rows(clustered))
        restore = PhysicalNode(2, RestoreOrderExec(ColumnId(30)), (1,), columns(kit))
        restored = kit.rows(await kit.drain(restore_order(restore, [kit.Source(clustered)], ctx)))
        assert restored == list(enumerate(values))
        ctx.close()
        duck.close()

    asyncio.run(main())


def test_clustering_many_batches(kit: Any, bench: Any) -> None:
    base = source(kit, rows=30_000, text="'k' || (i * 7919 % 100)")
    place = kit.column(30, BIGINT)
    cluster = PhysicalNode(1, PrefixClusterExec((ColumnId(1),), place), (0,), (*columns(kit), place))
    mapped = llm(kit, 2, cluster)
    restore = PhysicalNode(3, RestoreOrderExec(ColumnId(30)), (2,), (*columns(kit), kit.column(2)))
    for limit in (0, 1 << 30):
        channels = kit.LocalChannels()
        found = bench.rows(kit.dag(base, cluster, mapped, restore), channels, spool_limit_bytes=limit)
        assert found == [(n, f"k{n * 7919 % 100}", f"k{n * 7919 % 100}") for n in range(30_000)]
        assert channels.asked == sorted(channels.asked)
