"""CREATE TABLE AS and INSERT: what is written, and that a failure writes nothing."""

from __future__ import annotations

from typing import Any

import pytest

from halo_sql.errors import EngineError, Error
from halo_sql.ir.expr import ColumnId
from halo_sql.ir.physical import PhysicalDag, PhysicalNode, SinkExec
from halo_sql.ir.types import BIGINT, VARCHAR

from .plans import columns, llm, relation, source


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


def test_plan_of_nothing_but_a_sink_over_a_query(kit: Any, bench: Any) -> None:
    base = kit.query(0, "SELECT 1::BIGINT, 'a', 'b'", (*columns(kit), kit.column(2)))
    plan = PhysicalDag((base, sink(kit, base, "CREATE TABLE made AS")), 9)
    assert bench.rows(plan) == [(1,)]
    assert bench.duck.rows("FROM made") == [(1, "b")]


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


def test_fragments_use_the_open_transaction(kit: Any, bench: Any) -> None:
    bench.duck.rows("BEGIN")
    bench.duck.rows("CREATE TABLE t AS SELECT 1::BIGINT AS i, 'a' AS s")
    base = kit.query(0, "FROM t", columns(kit))
    mapped = llm(kit, 1, base)
    made = sink(kit, mapped, "CREATE TABLE made AS")
    assert bench.rows(kit.dag(base, mapped, made)) == [(1,)]
    bench.duck.rows("ROLLBACK")
    assert bench.duck.rows("SELECT count(*) FROM duckdb_tables() WHERE NOT internal") == [(0,)]
