"""Tools that are a developer's query: bound arguments, values as JSON, errors, transactions, joins."""

import asyncio
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from halo_sql.catalog.objects import Parameter, ToolDef
from halo_sql.duck import Duck
from halo_sql.errors import EngineError
from halo_sql.ir.types import SqlType
from halo_sql.tools.protocol import BoundTool, ToolRequest
from halo_sql.tools.sql import SqlRunner
from halo_sql.tools.sql_values import members


@pytest.fixture
def duck():
    opened = Duck.connect(":memory:", False, {})
    opened.execute(
        "CREATE TABLE orders AS SELECT i AS id, i % 7 AS customer, 's' || i % 5 AS status FROM range(100) t(i)"
    )
    yield opened
    opened.close()


def tool(duck, body, parameters=(), returns="", columns=()):
    """A bound tool; parameters and columns are (name, type as written)."""
    if columns:
        members = tuple((name, duck.sql_type(kind)) for name, kind in columns)
        struct = SqlType("STRUCT(…)", "struct", members)
        value = SqlType("STRUCT(…)[]", "list", (("", struct),))
    else:
        value = duck.sql_type(returns)
    definition = ToolDef(
        "look", "sql", body, tuple(Parameter(*item) for item in parameters), returns=returns, columns=tuple(columns)
    )
    return BoundTool(definition, tuple((name, duck.sql_type(kind)) for name, kind in parameters), value)


class Watched:
    """A connection's thread, and the statements that ran."""

    def __init__(self, duck):
        self.duck = duck

    async def __call__(self, work):
        return await asyncio.to_thread(work, self.duck)


def ask(duck, bound, *arguments, **limits):
    """The outcomes of calls at once: JSON values or EngineErrors."""
    runner = SqlRunner(bound, Watched(duck), **limits)
    requests = [ToolRequest(item if isinstance(item, str) else json.dumps(item)) for item in arguments]
    found = asyncio.run(runner.call_many(requests))
    return [item if isinstance(item, EngineError) else json.loads(item) for item in found]


def alone(duck, bound, argument):
    async def call():
        runner = SqlRunner(bound, Watched(duck))
        await runner.start()
        try:
            return await runner.call(ToolRequest(json.dumps(argument)))
        finally:
            await runner.close()

    return asyncio.run(call())


def queries_of(duck, monkeypatch):
    """The texts that run on the connection from now on."""
    seen = []
    execute = duck.execute
    monkeypatch.setattr(duck, "execute", lambda sql, params=None: (seen.append(sql), execute(sql, params))[1])
    return seen


def test_a_scalar_tool_gives_its_one_value(duck):
    bound = tool(duck, "SELECT count(*) FROM orders WHERE customer = $c", [("c", "INTEGER")], "BIGINT")
    assert alone(duck, bound, {"c": 3}) == "14"


def test_no_row_is_null_and_a_null_row_is_null(duck):
    bound = tool(duck, "SELECT id FROM orders WHERE id = $c", [("c", "INTEGER")], "BIGINT")
    assert ask(duck, bound, {"c": 1000}, {"c": 5}, {"c": None}) == [None, 5, None]
    assert alone(duck, tool(duck, "SELECT NULL", [], "BIGINT"), {}) == "null"


def test_more_than_one_row_for_one_value_is_an_error_that_says_how_many(duck):
    bound = tool(duck, "SELECT id FROM orders WHERE customer = $c", [("c", "INTEGER")], "BIGINT")
    for problem in [*ask(duck, bound, {"c": 3}), *ask(duck, bound, {"c": 3}, {"c": 4})]:
        assert problem.code == "invalid_output"
        assert 'the query of tool "look" gives 14 rows, RETURNS names one value' in problem.message
        assert "LIMIT 1" in problem.remedy


def test_a_table_tool_gives_objects_with_the_declared_names(duck):
    bound = tool(
        duck,
        "SELECT id, status FROM orders WHERE customer = $c AND id < 20 ORDER BY id DESC",
        [("c", "INTEGER")],
        columns=[("number", "BIGINT"), ("state", "VARCHAR")],
    )
    expected = [{"number": 17, "state": "s2"}, {"number": 10, "state": "s0"}, {"number": 3, "state": "s3"}]
    assert ask(duck, bound, {"c": 3}, {"c": 99}) == [expected, []], "in the query's order, also beside others"


def test_many_calls_are_one_query(duck, monkeypatch):
    bound = tool(duck, "SELECT sum(id) FROM orders WHERE customer = $c", [("c", "INTEGER")], "HUGEINT")
    seen = queries_of(duck, monkeypatch)
    values = ask(duck, bound, *({"c": c} for c in range(7)))
    assert values == [sum(range(c, 100, 7)) for c in range(7)]
    assert len([text for text in seen if "orders" in text and "serialize" not in text]) == 1
    assert duck.rows("SELECT count(*) FROM duckdb_tables() WHERE temporary") == [(0,)]


@pytest.mark.parametrize(
    "body",
    [
        "SELECT id FROM orders WHERE customer = $c ORDER BY id LIMIT 1",
        "SELECT id + CAST(0 * random() AS BIGINT) FROM orders WHERE id = $c",
        "SELECT first(id) FROM orders WHERE customer = $c",
        "SELECT sum(id * 0.1::DOUBLE) FROM orders WHERE customer = $c",
        "SELECT any_value(x) FROM (SELECT row_number() OVER () AS x FROM orders WHERE customer = $c)",
        "SELECT count(*) FROM range($c)",
        "SELECT count(*) FROM (FROM orders LIMIT $c)",
        "SELECT count(*) FROM orders TABLESAMPLE 100% WHERE customer = $c",
        "SELECT max(CAST(status[2:] AS INTEGER)) FROM orders WHERE customer = $c",
        "WITH RECURSIVE r AS (SELECT $c AS x UNION ALL SELECT x + 1 FROM r WHERE x < 9) SELECT max(x) FROM r",
    ],
)
def test_what_may_differ_in_a_join_runs_one_by_one(duck, monkeypatch, body):
    bound = tool(duck, body, [("c", "INTEGER")], "VARCHAR")
    seen = queries_of(duck, monkeypatch)
    values = ask(duck, bound, {"c": 1}, {"c": 2})
    assert not any(isinstance(value, EngineError) for value in values)
    assert not any("LATERAL" in text for text in seen)


def test_a_view_with_limit_is_seen_through(duck, monkeypatch):
    duck.execute("CREATE VIEW part AS SELECT * FROM orders LIMIT 10")
    bound = tool(duck, "SELECT count(*) FROM part WHERE customer = $c", [("c", "INTEGER")], "BIGINT")
    seen = queries_of(duck, monkeypatch)
    assert ask(duck, bound, {"c": 1}, {"c": 5}) == [2, 1]
    assert not any("LATERAL" in text for text in seen)


def test_arguments_are_values_never_text(duck):
    bound = tool(duck, "SELECT $a || '!' -- $a\n", [("a", "VARCHAR")], "VARCHAR")
    hostile = ["'; DROP TABLE orders; --", '"', "$a", "\\", "\u0000x", "{{a}}", "💥", "NaN Infinity"]
    found = ask(duck, bound, *({"a": text} for text in hostile))
    assert found == [text + "!" for text in hostile]
    assert [json.loads(alone(duck, bound, {"a": text})) for text in hostile] == found
    assert duck.rows("SELECT count(*) FROM orders") == [(100,)]


def test_only_arguments_are_replaced(duck):
    bound = tool(duck, "SELECT '$a $1' || $$ $a $$ || $a /* $a */ AS \"$a\"; -- $a", [("a", "VARCHAR")], "VARCHAR")
    assert ask(duck, bound, {"a": "x"}, {"a": "y"}) == ["$a $1 $a x", "$a $1 $a y"]
    assert alone(duck, tool(duck, "SELECT '$1'", [("a", "VARCHAR")], "VARCHAR"), {"a": "x"}) == '"$1"'
    assert alone(duck, tool(duck, "SELECT '$1'", [], "VARCHAR"), {}) == '"$1"'


def test_names_of_arguments_neither_collide_nor_capture(duck):
    duck.execute("CREATE TABLE halo_call_0 AS SELECT 5 AS c0, 6 AS n")
    names = ["id", "n", 'we"ird/~*', "c0"]
    bound = tool(
        duck,
        'SELECT id + $id + $N + $"we""ird/~*" + $c0 + n FROM orders, halo_call_0 AS q WHERE id = $id',
        [(name, "INTEGER") for name in names],
        "INTEGER",
    )
    arguments = [dict(zip(names, (k, 1, 10, 100), strict=True)) for k in (2, 4)]
    assert ask(duck, bound, *arguments) == [121, 125] == [int(alone(duck, bound, item)) for item in arguments]


def test_one_bad_argument_leaves_the_others_alone(duck):
    bound = tool(duck, "SELECT id FROM orders WHERE id = $c", [("c", "INTEGER")], "BIGINT")
    first, second, third = ask(duck, bound, {"c": 1}, {"c": "many"}, {"c": 3})
    assert (first, third) == (1, 3)
    assert second.code == "rejected"
    assert 'argument "c" of tool "look" is no INTEGER' in second.message


@pytest.mark.parametrize("text", ["[]", "{", '{"c":}', '{"c":1} x', '{"c" 1}', '{"c":"\\ud800"}', "[" * 100_000])
def test_arguments_that_cannot_be_read_are_refused(duck, text):
    bound = tool(duck, "SELECT $c", [("c", "VARCHAR")], "VARCHAR")
    first, second = ask(duck, bound, text, {"c": "x"})
    assert first.code == "rejected"
    assert second == "x"


trees = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(st.dictionaries(st.text(), trees), st.sampled_from([None, 1]), st.booleans())
def test_members_of_an_object_are_taken_as_they_are_written(value, indent, ascii_only):
    found = members(json.dumps(value, indent=indent, ensure_ascii=ascii_only))
    assert {name: json.loads(text) for name, text in found.items()} == value
    assert members(' {"a" : 1.00 , "b":[ 1e5 ]}\n') == {"a": "1.00", "b": "[ 1e5 ]"}


def test_one_failing_call_leaves_the_others_alone(duck):
    bound = tool(duck, "SELECT 100 % CAST($c AS TINYINT) FROM orders WHERE id = 1", [("c", "INTEGER")], "BIGINT")
    first, second, third = ask(duck, bound, {"c": 7}, {"c": 1000}, {"c": 30})
    assert (first, third) == (2, 10)
    assert second.code == "tool"
    assert not second.fatal
    assert "Conversion Error" in second.message


def test_it_sees_the_open_transaction_and_temporary_tables(duck):
    duck.execute("BEGIN")
    duck.execute("CREATE TEMP TABLE mine AS SELECT 42 AS x")
    duck.execute("DELETE FROM orders WHERE id > 9")
    bound = tool(duck, "SELECT x + count(*) FROM mine, orders WHERE id <> $c GROUP BY x", [("c", "INTEGER")], "BIGINT")
    assert ask(duck, bound, {"c": 1}, {"c": 99}) == [51, 52]
    assert ask(duck, bound, {"c": "no"})[0].code == "rejected"
    assert duck.in_transaction(), "a refused argument does not end it"
    duck.execute("ROLLBACK")


def test_rows_come_the_same_within_a_transaction(duck):
    duck.execute("INSERT INTO orders VALUES (-1, 3, 'late')")
    body = "SELECT id, status FROM orders WHERE customer = $c"
    bound = tool(duck, body, [("c", "INTEGER")], columns=[("id", "BIGINT"), ("status", "VARCHAR")])
    outside = ask(duck, bound, {"c": 3}, {"c": 4})
    duck.execute("BEGIN")
    assert ask(duck, bound, {"c": 3}, {"c": 4}) == outside
    duck.execute("COMMIT")
    assert outside[0][0] == {"id": -1, "status": "late"}, "sorted: without ORDER BY their order is open"


def test_an_error_that_ends_the_transaction_says_so(duck):
    duck.execute("BEGIN")
    bound = tool(duck, "SELECT CAST($c AS TINYINT)", [("c", "INTEGER")], "BIGINT")
    (problem,) = ask(duck, bound, {"c": 1000})
    assert problem.fatal
    assert "this ended the transaction" in problem.message
    assert "ROLLBACK" in problem.remedy
    duck.execute("ROLLBACK")


def test_more_rows_or_bytes_than_there_may_be_are_too_large(duck):
    bound = tool(duck, "SELECT id FROM orders WHERE customer < $c", [("c", "INTEGER")], columns=[("id", "BIGINT")])
    for found in (
        ask(duck, bound, {"c": 1}, {"c": 7}, max_rows=15),
        ask(duck, bound, {"c": 1}, {"c": 7}, max_bytes=200),
    ):
        assert len(found[0]) == 15
        assert found[1].code == "too_large"
    (long,) = ask(duck, tool(duck, "SELECT repeat('é', $c)", [("c", "INTEGER")], "VARCHAR"), {"c": 60}, max_bytes=100)
    assert long.code == "too_large"
    endless = tool(duck, "SELECT range FROM range($c)", [("c", "BIGINT")], columns=[("n", "BIGINT")])
    assert ask(duck, endless, {"c": 10**12})[0].code == "too_large"


VALUES = [
    ("DOUBLE", ["0.30000000000000004", "1e300", '"nan"', '"inf"', '"-inf"', "-0.0"]),
    ("FLOAT", ["0.5", '"nan"']),
    ("HUGEINT", ["170141183460469231731687303715884105727"]),
    ("DECIMAL(38,11)", ["123456789012345678901234567.00000000001"]),
    ("DECIMAL(18,2)", ["1234567890123456.78", "1.10", "-0.05"]),
    ("BLOB", ['"\\\\xAA\\\\x00a"']),
    ("INTERVAL", ['"1 month 2 days 00:00:03.5"', '"30 days"', '"1 month"']),
    ("TIMESTAMPTZ", ['"2020-01-01 00:00:00+00"']),
    ("TIMESTAMP_NS", ['"2020-01-01 00:00:00.123456789"']),
    ("ENUM('a', 'b')", ['"b"']),
    ("UUID", ['"e971da66-6106-45c1-bbb6-08027dd85961"']),
    ("MAP(VARCHAR, DOUBLE[])", ['{"a":[1.0,"inf",null],"NaN":[]}']),
    ("STRUCT(a INTEGER, b BLOB[], c STRUCT(d DECIMAL(4,2)))", ['{"a":null,"b":["\\\\xFF",null],"c":{"d":1.50}}']),
    ("JSON", ['{"a":[1.00,"x",null]}', "0.12345678901234567890123", '"text"', "12345678901234567890123"]),
    ("JSON[]", ['[{"a":1},2,"x"]']),
    ("MAP(VARCHAR, DECIMAL(18,2)[])", ['{"q\\"":[1234567890123456.78,null],"b":[],"c":null}']),
    ("STRUCT(j JSON, l STRUCT(d DECIMAL(18,2))[])", ['{"j":{"a":[1.0]},"l":[{"d":1234567890123456.78},null]}']),
    ("BIT", ['"0101"']),
    ("VARCHAR", ['"null"', '"NaN"', '""']),
    ("BOOLEAN", ["true"]),
    ("INTEGER[2]", ["[1,2]"]),
    ("BIGNUM", ["123456789012345678901234567890123456789012345678901234567890"]),
]


@pytest.mark.parametrize(("kind", "texts"), VALUES, ids=[kind for kind, _ in VALUES])
def test_values_of_every_type_go_in_and_out_exactly(duck, kind, texts):
    duck.execute("SET TimeZone = 'UTC'")
    bound = tool(duck, "SELECT $v", [("v", kind)], kind)
    runner = SqlRunner(bound, Watched(duck))
    requests = [ToolRequest(f'{{"v":{text}}}') for text in [*texts, "null"]]
    for found in (
        asyncio.run(runner.call_many(requests)),
        [asyncio.run(runner.call_many([request]))[0] for request in requests],
    ):
        assert found == [*texts, "null"]
        for text in found:
            assert json.loads(text) is not ..., "JSON as others read it"
