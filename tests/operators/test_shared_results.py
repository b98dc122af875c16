"""Results with several readers, and the spools that hold them."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from halo_sql.errors import OperationalError
from halo_sql.ir.physical import LimitExec, MaterializeExec, PhysicalNode
from halo_sql.ir.types import BIGINT
from halo_sql.operators.spool import Spool

from .plans import llm, relation, source


def test_a_shared_result_is_computed_once(kit: Any, bench: Any) -> None:
    base = source(kit, rows=3000)
    mapped = llm(kit, 1, base)
    shared = PhysicalNode(2, MaterializeExec(), (1,), mapped.columns)
    left = PhysicalNode(3, LimitExec(5), (2,), mapped.columns)
    text = "SELECT a.n0, (SELECT count(*) FROM {} b) FROM {} a ORDER BY ALL"
    both = relation(4, [shared, left], text, (kit.column(5, BIGINT), kit.column(6, BIGINT)))
    channels = kit.LocalChannels(window=700)
    for limit in (0, 1 << 30):
        channels.asked.clear()
        found = bench.rows(kit.dag(base, mapped, shared, left, both), channels, spool_limit_bytes=limit)
        assert found == [(n, 3000) for n in range(5)]
        assert len(channels.asked) == 3000


def test_one_reader_of_a_shared_result_leaving_does_not_stop_the_other(kit: Any, bench: Any) -> None:
    async def main() -> None:
        from halo_sql.operators.materialize import Shared

        table = pa.table({"c0": pa.array(range(100))})
        stream = kit.Source(kit.split(table, [10] * 9))
        ctx = bench.context()
        shared = Shared(stream, ctx)
        first, second = shared.reader(), shared.reader()
        pull = asyncio.create_task(anext(first))
        await asyncio.sleep(0)
        pull.cancel()
        with pytest.raises(asyncio.CancelledError):
            await pull
        await first.aclose()
        assert len(kit.rows(await kit.drain(second))) == 100
        await second.aclose()
        assert stream.closed
        ctx.close()

    asyncio.run(main())


def test_the_furthest_reader_pulls_and_an_error_comes_behind_the_rows_before_it(kit: Any, bench: Any) -> None:
    async def main() -> None:
        from halo_sql.operators.materialize import Shared

        pulled = 0

        async def source() -> Any:
            nonlocal pulled
            for number in range(5):
                pulled += 1
                yield pa.RecordBatch.from_pydict({"c0": [number]})
            raise OperationalError("broken")

        for limit in (0, 1 << 30):
            pulled = 0
            ctx = bench.context(spool_limit_bytes=limit)
            shared = Shared(source(), ctx)
            readers = [shared.reader() for _ in range(3)]
            assert (await anext(readers[0])).column(0).to_pylist() == [0]
            assert (await anext(readers[1])).column(0).to_pylist() == [0]
            assert pulled == 1
            assert [(await anext(readers[1])).column(0)[0].as_py() for _ in range(3)] == [1, 2, 3]
            assert pulled == 4
            await readers[1].aclose()
            for reader, start in ((readers[0], 1), (readers[2], 0)):
                assert [(await anext(reader)).column(0)[0].as_py() for _ in range(start, 5)] == list(range(start, 5))
                for _ in range(2):
                    with pytest.raises(OperationalError, match="broken"):
                        await anext(reader)
                await reader.aclose()
            ctx.close()

    asyncio.run(main())


def test_spools_in_memory_and_in_a_file_read_the_same(tmp_path: Path) -> None:
    table = pa.table({"c0": pa.array(["a", "b"] * 500).dictionary_encode(), "c1": pa.array(range(1000))})
    for limit in (0, 3000, 1 << 20):
        spool = Spool(limit, str(tmp_path))
        for batch in table.to_batches(max_chunksize=100):
            spool.append(batch)
        spool.finish()
        assert spool.in_file == (limit < 1 << 20)
        assert len(list(tmp_path.iterdir())) == spool.in_file
        for _ in range(2):
            assert pa.Table.from_batches(list(spool.batches())).to_pydict() == table.to_pydict()
        spool.close()
        spool.close()
        assert list(tmp_path.iterdir()) == []


def test_a_spool_that_cannot_be_written_says_where(tmp_path: Path) -> None:
    spool = Spool(0, str(tmp_path / "missing"))
    with pytest.raises(OperationalError, match=r"missing.*\n.*TMPDIR"):
        spool.append(pa.RecordBatch.from_pydict({"c0": [1]}))
