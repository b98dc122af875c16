"""Calls that are joined give, call for call, what they give one by one: random rows and arguments, many shapes."""

import asyncio
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from halo_sql.catalog.objects import Parameter, ToolDef
from halo_sql.duck import Duck
from halo_sql.errors import EngineError
from halo_sql.ir.types import SqlType
from halo_sql.tools.protocol import BoundTool, ToolRequest
from halo_sql.tools.sql import SqlRunner

A, B = ("a", "INTEGER"), ("b", "VARCHAR")
ONE = "VARCHAR"
#: query, parameters, RETURNS (a type or the types of columns), whether it is joined
SHAPES = [
    ("SELECT count(*) FROM t WHERE k = $a", [A], ONE, True),
    ("SELECT sum(m) FROM t WHERE k = $a", [A], ONE, True),
    ("SELECT i FROM t WHERE i = $a", [A], ONE, True),
    ("SELECT i, s FROM t WHERE k = $a AND s = $b", [A, B], ["BIGINT", "VARCHAR"], True),
    ("SELECT s, count(*), max(i) FROM t WHERE k <= $a GROUP BY s", [A], ["VARCHAR"] * 3, True),
    ("SELECT DISTINCT s FROM t WHERE k = $a OR s = $b", [A, B], ["VARCHAR"], True),
    ("SELECT t.i, u.name FROM t JOIN u ON u.k = t.k WHERE u.name = $b", [B], ["BIGINT", "VARCHAR"], True),
    ("SELECT t.i, u.name FROM t LEFT JOIN u ON u.k = t.k AND u.name = $b", [B], ["BIGINT", "VARCHAR"], True),
    ("SELECT i FROM t WHERE EXISTS (SELECT 1 FROM u WHERE u.k = t.k AND u.name = $b)", [B], ["BIGINT"], True),
    ("SELECT i FROM t WHERE i IN (SELECT k FROM u WHERE name = $b)", [B], ["BIGINT"], True),
    ("SELECT i FROM t WHERE k = $a UNION SELECT k FROM u WHERE name = $b", [A, B], ["BIGINT"], True),
    ("SELECT i FROM t WHERE k = $a UNION ALL SELECT k FROM u", [A], ["BIGINT"], True),
    ("WITH x AS (SELECT * FROM t WHERE k = $a) SELECT p.i, q.i FROM x p, x q", [A], ["BIGINT"] * 2, True),
    ("SELECT $a, $b || 'x', $a IS NULL", [A, B], ["INTEGER", "VARCHAR", "BOOLEAN"], True),
    ("SELECT count(*) FROM t WHERE i IN (SELECT unnest($l))", [("l", "INTEGER[]")], ONE, True),
    ("SELECT i FROM t WHERE m > $d", [("d", "DOUBLE")], ["BIGINT"], True),
    ("SELECT avg(i) FROM t WHERE k = $a HAVING count(*) > 1", [A], ONE, True),
    ("SELECT i FROM t WHERE CASE WHEN $a IS NULL THEN k IS NULL ELSE k = $a END", [A], ["BIGINT"], True),
    ("SELECT i FROM t WHERE k = $a", [A], ONE, True),
    ("SELECT 10 // $a FROM u", [A], ONE, True),
    ("SELECT i, s FROM t WHERE k = $a ORDER BY s DESC, i LIMIT 2", [A], ["BIGINT", "VARCHAR"], False),
    ("SELECT i FROM t WHERE k = $a QUALIFY row_number() OVER (PARTITION BY s ORDER BY i) = 1", [A], ["BIGINT"], False),
    ("SELECT sum(f) FROM t WHERE k = $a", [A], ONE, False),
    ("SELECT list(i ORDER BY i) FROM t WHERE k = $a", [A], "BIGINT[]", False),
    ("SELECT sum($a) FROM t", [A], ONE, None),
    ("SELECT (SELECT max(i) FROM t WHERE t.k = u.k AND s = $b) FROM u", [B], ["BIGINT"], None),
    ("SELECT $d", [("d", "DOUBLE")], "DOUBLE", None),
]


def bound(duck, body, parameters, returns):
    if isinstance(returns, str):
        value, columns = duck.sql_type(returns), ()
    else:
        columns = tuple((f"c{place}", kind) for place, kind in enumerate(returns))
        row = SqlType("STRUCT(…)", "struct", tuple((name, duck.sql_type(kind)) for name, kind in columns))
        value = SqlType("STRUCT(…)[]", "list", (("", row),))
    definition = ToolDef("look", "sql", body, tuple(Parameter(*item) for item in parameters), columns=columns)
    return BoundTool(definition, tuple((name, duck.sql_type(kind)) for name, kind in parameters), value)


def told(outcome):
    return (outcome.code, outcome.message) if isinstance(outcome, EngineError) else outcome


def both(duck, tool, requests):
    """The outcomes at once, and one by one."""

    async def on_connection(work):
        return work(duck)

    async def run():
        runner = SqlRunner(tool, on_connection)
        together = await runner.call_many(requests)
        single = [(await runner.call_many([request]))[0] for request in requests]
        return [told(item) for item in together], [told(item) for item in single], runner._joins

    return asyncio.run(run())


ints = st.none() | st.integers(-2, 4)
words = st.none() | st.sampled_from(["x", "y", "", "NaN", "é"])
VALUES = {
    "INTEGER": ints,
    "VARCHAR": words,
    "INTEGER[]": st.none() | st.lists(ints, max_size=3),
    "DOUBLE": st.none() | st.sampled_from([0.0, -0.0, 1.5, -0.5, "nan", "inf", 1e300]),
}


@pytest.mark.parametrize(("body", "parameters", "returns", "joined"), SHAPES, ids=[shape[0] for shape in SHAPES])
def test_joined_calls_give_what_single_calls_give(body, parameters, returns, joined):
    duck = Duck.connect(":memory:", False, {"threads": 2})
    duck.execute("CREATE TABLE t(i BIGINT, k INTEGER, s VARCHAR, m DECIMAL(10,2), f DOUBLE)")
    duck.execute("CREATE TABLE u(k INTEGER, name VARCHAR)")
    tool = bound(duck, body, parameters, returns)
    call = st.fixed_dictionaries({name: VALUES[kind] for name, kind in parameters})

    @settings(max_examples=15)
    @given(
        st.lists(st.tuples(ints, ints, words, ints), max_size=8),
        st.lists(st.tuples(ints, words), max_size=4),
        st.lists(call, min_size=2, max_size=8),
    )
    def same(rows, names, calls):
        duck.execute("DELETE FROM t")
        duck.execute("DELETE FROM u")
        for i, k, s, m in rows:
            duck.execute("INSERT INTO t VALUES ($1, $2, $3, $4 / 4, $4 / 10)", [i, k, s, m])
        for name in names:
            duck.execute("INSERT INTO u VALUES ($1, $2)", list(name))
        together, single, decided = both(duck, tool, [ToolRequest(json.dumps(item)) for item in calls])
        assert together == single
        assert joined is None or decided is joined

    same()
    duck.close()


def test_a_thousand_calls_are_one_query(monkeypatch):
    duck = Duck.connect(":memory:", False, {})
    duck.execute("CREATE TABLE t AS SELECT i, i % 1000 AS k FROM range(200_000) r(i)")
    tool = bound(duck, "SELECT sum(i) FROM t WHERE k = $a", [A], "HUGEINT")
    requests = [ToolRequest(json.dumps({"a": place})) for place in range(1020)]
    seen = []
    execute = duck.execute
    monkeypatch.setattr(duck, "execute", lambda sql, params=None: (seen.append(sql), execute(sql, params))[1])

    async def on_connection(work):
        return work(duck)

    found = asyncio.run(SqlRunner(tool, on_connection).call_many(requests))
    assert [int(text) for text in found[:1000]] == [sum(range(k, 200_000, 1000)) for k in range(1000)]
    assert found[1000:] == ["null"] * 20
    assert len([text for text in seen if "LATERAL" in text]) == 1
    assert len(seen) < 10
    duck.close()
