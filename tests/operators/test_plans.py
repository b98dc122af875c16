"""Whole plans: DuckDB fragments, sharing, sinks, order, limits, and what is left behind."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from halo_sql.errors import DataError, EngineError, Error, OperationalError
from halo_sql.ir.expr import Column, ColumnId, ColumnRef, SqlExpr
from halo_sql.ir.logical import Filter, Fragment, InputRef, Project
from halo_sql.ir.physical import (
    DuckFragmentExec,
    Input,
    LimitExec,
    LlmFilterExec,
    LlmMapExec,
    MaterializeExec,
    PhysicalDag,
    PhysicalNode,
    PrefixClusterExec,
    RestoreOrderExec,
    SelectExec,
    SinkExec,
)
from halo_sql.ir.prompt import Hole, LlmCall, Prompt
from halo_sql.ir.types import BIGINT, BOOLEAN, VARCHAR, SqlType
from halo_sql.operators.build import OPERATORS, build, must_spool
from halo_sql.operators.spool import Spool

Run = Callable[..., Any]


def columns(kit: Any) -> tuple[Column, Column]:
    return kit.column(0, BIGINT), kit.column(1)


def source(kit: Any, number: int = 0, rows: int = 5000, text: str = "'r' || i") -> PhysicalNode:
    return kit.query(number, f"SELECT i, {text} FROM range({rows}) t(i)", columns(kit))


def llm(kit: Any, number: int, below: PhysicalNode, output: int = 2, hole: int = 1, **options: Any) -> PhysicalNode:
    call = LlmCall(ColumnId(output), "map", Prompt((Hole(ColumnId(hole)),)), "echo")
    return PhysicalNode(number, LlmMapExec((call,), **options), (below.id,), (*below.columns, kit.column(output)))


def relation(
    number: int, inputs: Sequence[PhysicalNode], text: str, outputs: Sequence[Column], streaming: bool = False
) -> PhysicalNode:
    """A fragment over inputs; ``{0}`` in the text is the first."""
    leaves = tuple(Input(index, node.columns) for index, node in enumerate(inputs))
    parts: list[str | InputRef] = []
    for index, piece in enumerate(text.split("{}")):
        if index:
            names = tuple((f"n{column.id}", column.id) for column in inputs[index - 1].columns)
            parts.append(InputRef(index - 1, names))
        parts.append(piece)
    tree = Fragment(tuple(parts), tuple(outputs), leaves)  # type: ignore[arg-type]  # Input stands for a plan
    return PhysicalNode(number, DuckFragmentExec(tree, streaming), tuple(node.id for node in inputs), tuple(outputs))


def row_wise(number: int, below: PhysicalNode, kit: Any, text: str, kind: SqlType = VARCHAR) -> PhysicalNode:
    """A streaming fragment: columns 0 and 7, the latter computed from column 1; rows with c0 % 3 = 0 only."""
    leaf: Any = Input(0, below.columns)
    keep = Filter(leaf, SqlExpr((ColumnRef(ColumnId(0)), " % 3 = 0"), BOOLEAN, row_wise=True))
    first, new = below.columns[0], kit.column(7, kind)
    before, _, after = text.partition("{}")
    parts = tuple(part for part in (before, ColumnRef(ColumnId(1)), after) if part != "")
    tree = Project(keep, ((first, SqlExpr((ColumnRef(first.id),), first.type)), (new, SqlExpr(parts, kind))))
    return PhysicalNode(number, DuckFragmentExec(tree, True), (below.id,), (first, new))


def test_every_operator_is_registered() -> None:
    import halo_sql.ir.physical as physical

    assert {op.__name__ for op in OPERATORS} == {name for name in vars(physical) if name.endswith("Exec")}


def test_a_source_streams_in_order(kit: Any, bench: Any) -> None:
    batches = bench.run(kit.dag(source(kit)))
    assert [batch.num_rows for batch in batches] == [2048, 2048, 904]
    assert batches[0].schema.names == ["c0", "c1"]
    assert kit.rows(batches) == [(row, f"r{row}") for row in range(5000)]


def test_llm_map_over_a_source(kit: Any, bench: Any) -> None:
    base = source(kit)
    channels = kit.LocalChannels(window=500)
    assert bench.rows(kit.dag(base, llm(kit, 1, base)), channels) == [(n, f"r{n}", f"r{n}") for n in range(5000)]


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
        assert (await asyncio.wait_for(anext(stream), 10)).num_rows == 1
        gate.set()
        assert (await anext(stream)).num_rows == 1
        await stream.aclose()  # type: ignore[attr-defined]
        ctx.close()

    asyncio.run(main())


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


def test_select_limit_and_offset(kit: Any, bench: Any) -> None:
    base = source(kit)
    swapped = (kit.column(20), kit.column(21, BIGINT), kit.column(22))
    picks = tuple(zip(swapped, (ColumnId(1), ColumnId(0), ColumnId(1)), strict=True))
    chosen = PhysicalNode(1, SelectExec(picks), (0,), swapped)
    for count, offset in ((3, 0), (0, 0), (2050, 2040), (10, 4995), (None, 4990), (1, 9999)):
        cut = PhysicalNode(2, LimitExec(count, offset), (1,), swapped)
        end = 5000 if count is None else min(5000, offset + count)
        assert bench.rows(kit.dag(base, chosen, cut)) == [(f"r{n}", n, f"r{n}") for n in range(offset, end)]


def test_a_limit_ends_the_calls_before_its_last_row_is_handed_on(kit: Any, bench: Any) -> None:
    async def main() -> None:
        base = source(kit, rows=100_000)
        mapped = llm(kit, 1, base, lookahead=16)
        cut = PhysicalNode(2, LimitExec(10), (1,), mapped.columns)
        channels = kit.LocalChannels(window=4)
        ctx = bench.context(channels)
        stream = build(kit.dag(base, mapped, cut), ctx)
        seen = 0
        async for batch in stream:
            seen += batch.num_rows
            assert (channels.open_now == 0) == (seen == 10)
        assert seen == 10
        assert len(channels.asked) <= 26
        ctx.close()

    asyncio.run(main())
    assert bench.duck.rows("SELECT 1") == [(1,)]


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


def sink(kit: Any, below: PhysicalNode, prefix: str, suffix: str = "", kind: str = "insert") -> PhysicalNode:
    names = (("id", ColumnId(0)), ('the "text"', ColumnId(2)))
    return PhysicalNode(9, SinkExec(prefix, suffix, names, kind), (below.id,), (kit.column(40, BIGINT, "Count"),))


def test_create_table_as_and_insert(kit: Any, bench: Any) -> None:
    base = source(kit, rows=3000)
    mapped = llm(kit, 1, base)
    made = sink(kit, mapped, "CREATE TABLE made AS", kind="ctas")
    assert bench.rows(kit.dag(base, mapped, made)) == [(3000,)]
    assert bench.duck.describe("FROM made") == [("id", BIGINT), ('the "text"', VARCHAR)]
    bench.duck.rows("CREATE UNIQUE INDEX made_id ON made (id); DELETE FROM made WHERE id < 10")
    more = sink(kit, mapped, "INSERT INTO made", "ON CONFLICT DO NOTHING")
    assert bench.rows(kit.dag(base, mapped, more)) == [(10,)]
    assert bench.duck.rows("SELECT count(*), count(DISTINCT id) FROM made") == [(3000, 3000)]


@pytest.mark.parametrize("bad", [0, 1500, 2999])
def test_a_failing_row_writes_nothing(kit: Any, bench: Any, bad: int) -> None:
    bench.duck.rows("CREATE TABLE made (id BIGINT, t VARCHAR)")
    base = source(kit, rows=3000)
    mapped = llm(kit, 1, base)

    def answer(spec: Any, prompt: str) -> str | EngineError:
        return EngineError("no", code="rejected") if prompt == f"r{bad}" else prompt

    plan = kit.dag(base, mapped, sink(kit, mapped, "INSERT INTO made"))
    with pytest.raises(EngineError, match=f'prompt "r{bad}"'):
        bench.run(plan, kit.LocalChannels(answer, window=100))
    assert bench.duck.rows("SELECT count(*) FROM made") == [(0,)]


def test_a_failing_statement_leaves_nothing_behind(kit: Any, bench: Any) -> None:
    bench.duck.rows("CREATE TABLE made (id BIGINT PRIMARY KEY, t VARCHAR)")
    base = source(kit, rows=10, text="'x'")
    mapped = llm(kit, 1, base)
    double = relation(2, [mapped], "FROM {} UNION ALL SELECT 1, 'a', 'b'", mapped.columns)
    with pytest.raises(Error, match="duplicate key"):
        bench.run(kit.dag(base, mapped, double, sink(kit, double, "INSERT INTO made")))
    assert bench.duck.rows("SELECT count(*) FROM made") == [(0,)]


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


def test_fragments_use_the_open_transaction(kit: Any, bench: Any) -> None:
    bench.duck.rows("BEGIN")
    bench.duck.rows("CREATE TABLE t AS SELECT 1::BIGINT AS i, 'a' AS s")
    base = kit.query(0, "FROM t", columns(kit))
    mapped = llm(kit, 1, base)
    made = sink(kit, mapped, "CREATE TABLE made AS")
    assert bench.rows(kit.dag(base, mapped, made)) == [(1,)]
    bench.duck.rows("ROLLBACK")
    assert bench.duck.rows("SELECT count(*) FROM duckdb_tables() WHERE NOT internal") == [(0,)]


HEAVY = "SELECT sum(hash(a.i + b.i)), 'x' FROM range(10000000) a(i), range(100000) b(i)"


@pytest.mark.parametrize("where", ["source", "row_wise", "blocking"])
def test_cancelling_inside_duckdb_takes_less_than_a_second(kit: Any, bench: Any, where: str) -> None:
    base = kit.query(0, HEAVY, columns(kit)) if where == "source" else source(kit, rows=1)
    plan = kit.dag(base)
    heavy_sum = "(SELECT sum(hash(a.i + b.i)) FROM range(10000000) a(i), range(100000) b(i))::VARCHAR"
    if where == "row_wise":
        plan = kit.dag(base, row_wise(1, base, kit, heavy_sum + " || {}"))
    if where == "blocking":
        plan = kit.dag(base, relation(1, [base], f"SELECT n0, {heavy_sum} FROM {{}}", columns(kit)))

    async def main() -> float:
        ctx = bench.context()
        stream = build(plan, ctx)
        task = asyncio.create_task(kit.drain(stream))
        await asyncio.wait([task], timeout=0.5)
        started = time.perf_counter()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        spent = time.perf_counter() - started
        await stream.aclose()
        ctx.close()
        return spent

    assert asyncio.run(main()) < 1
    bench.assert_clean()


def test_closing_a_plan_that_never_ran(kit: Any, bench: Any) -> None:
    async def main() -> None:
        base = source(kit)
        shared = PhysicalNode(1, MaterializeExec(), (0,), base.columns)
        both = relation(2, [shared, shared], "SELECT 1 FROM {} a, {} b", (kit.column(5, BIGINT),))
        ctx = bench.context()
        stream = build(kit.dag(base, shared, both), ctx)
        await stream.aclose()
        with pytest.raises(StopAsyncIteration):
            await anext(stream)
        ctx.close()

    asyncio.run(main())


def test_leaving_a_stream_early_frees_the_connection(kit: Any, bench: Any) -> None:
    async def main() -> None:
        base = source(kit, rows=100_000)
        first = llm(kit, 1, base)
        middle = row_wise(2, first, kit, "upper({})")
        ctx = bench.context(kit.LocalChannels(window=50))
        stream = build(kit.dag(base, first, middle, llm(kit, 3, middle, 9, 7)), ctx)
        await anext(stream)
        await stream.aclose()
        assert ctx.channels.open_now == 0  # type: ignore[attr-defined]
        ctx.close()

    asyncio.run(main())
    bench.assert_clean()


def test_metrics_count_rows_batches_and_seconds(kit: Any, bench: Any) -> None:
    base = source(kit)
    mapped = llm(kit, 1, base)
    yes = LlmCall(ColumnId(8), "filter", Prompt((Hole(ColumnId(1)),)), "echo", on_error="null")
    kept = PhysicalNode(2, LlmFilterExec(yes), (1,), mapped.columns)
    metrics: dict[int, Any] = {}
    started = time.perf_counter()
    bench.run(kit.dag(base, mapped, kept), kit.LocalChannels(window=100), metrics=metrics)
    elapsed = time.perf_counter() - started
    assert [metrics[number].rows for number in range(3)] == [5000, 5000, 0]
    assert metrics[0].batches == 3
    assert metrics[2].errors == 5000
    for found in metrics.values():
        assert found.self_s > 0
        assert found.self_s + found.wait_s <= elapsed + 0.01
    assert sum(found.self_s for found in metrics.values()) <= elapsed * 2  # DuckDB's thread runs beside the loop


def test_plan_of_nothing_but_a_sink_over_a_query(kit: Any, bench: Any) -> None:
    base = kit.query(0, "SELECT 1::BIGINT, 'a', 'b'", (*columns(kit), kit.column(2)))
    plan = PhysicalDag((base, sink(kit, base, "CREATE TABLE made AS")), 9)
    assert bench.rows(plan) == [(1,)]
    assert bench.duck.rows("FROM made") == [(1, "b")]


def test_a_source_is_computed_as_it_is_read(kit: Any, bench: Any) -> None:
    base = kit.query(0, "SELECT i, 'x' || i FROM range(1000000000000) t(i)", columns(kit))
    cut = PhysicalNode(1, LimitExec(3), (0,), base.columns)
    assert bench.rows(kit.dag(base, cut)) == [(0, "x0"), (1, "x1"), (2, "x2")]
