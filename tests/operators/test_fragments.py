"""DuckDB fragments over calls: row by row, over whole inputs, and the values that pass through."""

from __future__ import annotations

import asyncio
from typing import Any

import pyarrow as pa
import pytest

from halo_sql.errors import DataError
from halo_sql.ir.physical import DuckFragmentExec
from halo_sql.ir.types import BIGINT, SqlType
from halo_sql.operators.build import OPERATORS, must_spool

from .plans import columns, llm, relation, row_wise, source

# --- row by row


def test_row_wise_fragments_between_calls(kit: Any, bench: Any) -> None:
    base = source(kit)
    first = llm(kit, 1, base)
    middle = row_wise(2, first, kit, "upper({})")
    last = llm(kit, 3, middle, 9, 7)
    channels = kit.LocalChannels(window=100)
    assert bench.rows(kit.dag(base, first, middle, last), channels) == [
        (n, f"R{n}", f"R{n}") for n in range(0, 5000, 3)
    ]


def test_row_wise_fragments_see_the_sessions_settings(kit: Any, bench: Any) -> None:
    bench.duck.rows("SET TimeZone = 'America/New_York'")
    bench.duck.rows("SET integer_division = true")
    base = source(kit, rows=1, text="'2024-07-01 00:00:00+00'")
    zoned = row_wise(1, base, kit, "CAST({}::TIMESTAMPTZ AS VARCHAR) || (7 / 2)")
    assert bench.rows(kit.dag(base, zoned)) == [(0, "2024-06-30 20:00:00-043")]


def test_row_wise_fragments_handle_batches_of_any_size_and_none(kit: Any, bench: Any) -> None:
    for rows in (0, 1, 3, 20_000):
        base = source(kit, rows=rows)
        found = bench.rows(kit.dag(base, row_wise(1, base, kit, "{}")))
        assert found == [(n, f"r{n}") for n in range(0, rows, 3)]


def test_rows_do_not_wait_for_more_in_a_row_wise_fragment(kit: Any, bench: Any) -> None:
    """What has arrived leaves while the input is idle."""

    async def main() -> None:
        gate = asyncio.Event()

        class Slow(kit.Source):  # type: ignore[misc]
            async def __anext__(self) -> Any:
                if self.read:
                    await gate.wait()
                return await super().__anext__()

        base = source(kit)
        node = row_wise(1, base, kit, "{}")
        ctx = bench.context()
        ctx.dag = kit.dag(base, node)
        await ctx.prepare()
        table = pa.table({"c0": pa.array(range(6), pa.int64()), "c1": ["x"] * 6})
        stream = OPERATORS[DuckFragmentExec](node, [Slow(kit.split(table, [3]))], ctx)
        assert (await asyncio.wait_for(anext(stream), 60)).num_rows == 1
        gate.set()
        assert (await anext(stream)).num_rows == 1
        await stream.aclose()  # type: ignore[attr-defined]
        ctx.close()

    asyncio.run(main())


# --- over whole inputs


def test_a_join_of_two_branches(kit: Any, bench: Any) -> None:
    left, right = source(kit, 0), kit.query(1, "SELECT i, 's' || i FROM range(0, 5000, 2) t(i)", columns(kit))
    sides = llm(kit, 2, left), llm(kit, 3, right)
    text = "SELECT a.n0, a.n2 || b.n2 FROM {} a JOIN {} b ON a.n0 = b.n0 ORDER BY a.n0"
    joined = relation(4, sides, text, (kit.column(10, BIGINT), kit.column(11)))
    plan = kit.dag(left, right, *sides, joined)
    assert must_spool(plan) == {0, 1}
    found = bench.rows(plan, kit.LocalChannels(window=300))
    assert found == [(n, f"r{n}s{n}") for n in range(0, 5000, 2)]


def test_which_fragments_may_keep_the_connection(kit: Any) -> None:
    base = source(kit, 0)
    mapped = llm(kit, 1, base)
    group = relation(2, [mapped], "SELECT count(*) FROM {}", (kit.column(5, BIGINT),))
    assert must_spool(kit.dag(base, mapped, group)) == frozenset()
    other = source(kit, 3)
    both = relation(4, [group, other], "SELECT 1 FROM {} a, {} b", (kit.column(6, BIGINT),))
    assert must_spool(kit.dag(base, mapped, group, other, both)) == {0, 2, 3}


def test_blocking_over_empty_inputs(kit: Any, bench: Any) -> None:
    base = source(kit, rows=0)
    mapped = llm(kit, 1, base)
    group = relation(2, [mapped], "SELECT count(*), max(n2) FROM {}", (kit.column(5, BIGINT), kit.column(6)))
    assert bench.rows(kit.dag(base, mapped, group)) == [(0, None)]


# --- values and errors


EXACT = {
    "HUGEINT": "170141183460469231731687303715884105727", "UHUGEINT": "340282366920938463463374607431768211455",
    "TIMETZ": "'12:00:00+05'", "BIT": "'0101011'", "INTERVAL": "'3 months 2 days 1 microsecond'", "UUID": "uuid()",
    "BLOB": r"'\xAA\x00'", "TIMESTAMP": "'infinity'", "DATE": "'-infinity'", "TIMESTAMPTZ": "'2020-01-01 00:00:00+05'",
    "TIMESTAMP_NS": "'2020-01-01 00:00:00.123456789'", "DOUBLE": "'nan'", "ENUM('x','y')": "'y'",
    "STRUCT(a UHUGEINT, b BIT[])": "{'a': 340282366920938463463374607431768211455, 'b': ['01']}",
    "MAP(VARCHAR, ENUM('q'))": "MAP{'a': 'q'}", "INTEGER[2]": "[1, 2]", "UNION(a INTEGER, b VARCHAR)": "'x'",
    "JSON": """'{"a": 1.0}'""", "DECIMAL(38,10)": "1234567890123456789012345678.0123456789",
    "TIME_NS": "'12:34:56.123456789'",
}  # fmt: skip


@pytest.mark.parametrize("text_type", sorted(EXACT))
def test_values_survive_the_way_through_operators(kit: Any, bench: Any, text_type: str) -> None:
    value = f"({EXACT[text_type]})::{text_type}"
    bench.duck.rows(f"CREATE TABLE t AS SELECT {value} AS v UNION ALL SELECT NULL")
    kind = bench.duck.describe("SELECT v FROM t")[0][1]
    base = kit.query(0, "SELECT 'p', v FROM t", (kit.column(1), kit.column(3, kind)))
    mapped = llm(kit, 1, base)
    text = "SELECT count(*), count(*) FILTER (n3 IS NOT DISTINCT FROM v AND typeof(n3) = typeof(v)) "
    text += "FROM {} JOIN t ON v IS NOT DISTINCT FROM n3"
    check = relation(2, [mapped], text, (kit.column(5, BIGINT), kit.column(6, BIGINT)))
    assert bench.rows(kit.dag(base, mapped, check), spool_limit_bytes=0) == [(2, 2)]


def test_errors_inside_a_fragment_have_no_position_in_generated_sql(kit: Any, bench: Any) -> None:
    base = source(kit, text="'r' || i")
    mapped = llm(kit, 1, base)
    cast = relation(2, [mapped], "SELECT n2::INTEGER FROM {}", (kit.column(5),))
    streamed = row_wise(2, mapped, kit, "{}::INTEGER", SqlType("INTEGER", "integer"))
    for last in (cast, streamed):
        with pytest.raises(DataError) as problem:
            bench.run(kit.dag(base, mapped, last))
        assert "LINE" not in str(problem.value)
        assert "'r0'" in str(problem.value)
