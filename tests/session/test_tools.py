"""Tools in whole statements: values of every type, transactions, counters, streaming."""

from __future__ import annotations

import json
import re
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import halo_sql

from .agents_support import add_model, answer, calls, connect, json_answer, rows, served, totals


def test_tables_with_nested_columns_beside_each_row() -> None:
    """The same rows from a query, a function and a server: structs, lists, NULLs, empty tables."""
    columns = (
        "id INTEGER, tags VARCHAR[], info STRUCT(k VARCHAR, n DECIMAL(9, 2)), seen DATE, more MAP(VARCHAR, INTEGER)"
    )

    def found(n: int) -> list[dict[str, Any]]:
        return [
            {
                "id": number,
                "tags": None if number == 1 else [f"t{number}", None],
                "info": {"k": f"it's {number}", "n": 1.25},
                "seen": None if number == 2 else "2024-02-29",
                "more": {"a": number},
            }
            for number in range(n)
        ]

    with served(lambda seen: json_answer({"items": found(int(seen.path[1:]))})) as server, connect() as con:
        con.execute("CREATE TABLE t AS SELECT unnest([0, 1, 3, NULL]) AS n")
        con.execute(
            f"CREATE TOOL asked(n INTEGER) RETURNS TABLE ({columns}) AS HTTP GET '{server.url}/{{{{ n }}}}' "
            "WITH (loopback = true, path = '$.items')"
        )
        con.execute(
            f"""CREATE TOOL queried(n INTEGER) RETURNS TABLE ({columns}) AS SQL $$
            SELECT range, CASE WHEN range <> 1 THEN ['t' || range, NULL] END, {{'k': 'it''s ' || range, 'n': 1.25}},
            CASE WHEN range <> 2 THEN DATE '2024-02-29' END, MAP {{'a': range}} FROM range($n) ORDER BY 1 $$"""
        )
        given = [
            rows(con, f"SELECT t.n, o.* FROM t, LATERAL TOOL({tool}, t.n) o ORDER BY ALL")
            for tool in ("asked", "queried")
        ]
        assert given[0] == given[1]
        assert len(given[0]) == 4
        assert str(given[0][-1]) == ("(3, 2, ['t2', None], {'k': \"it's 2\", 'n': Decimal('1.25')}, None, {'a': 2})")
        left = rows(
            con, "SELECT t.n, count(o.id) FROM t LEFT JOIN LATERAL TOOL(asked, t.n) o ON true GROUP BY ALL ORDER BY 1"
        )
        assert left == [(0, 0), (1, 1), (3, 3), (None, 0)]
        kinds = [kind for _, kind, *_ in rows(con, "DESCRIBE SELECT o.* FROM t, LATERAL queried(t.n) o")]
        assert kinds == ["INTEGER", "VARCHAR[]", "STRUCT(k VARCHAR, n DECIMAL(9,2))", "DATE", "MAP(VARCHAR, INTEGER)"]


TYPES = [
    ("BOOLEAN", "true"), ("TINYINT", "-128"), ("UBIGINT", "18446744073709551615"),
    ("HUGEINT", "-12345678901234567890123456789012345678"), ("DOUBLE", "0.1"), ("DOUBLE", "'nan'::DOUBLE"),
    ("DOUBLE", "'-inf'::DOUBLE"), ("FLOAT", "1e-45"), ("DECIMAL(38, 10)", "1234567890123456789012345678.0123456789"),
    ("DATE", "DATE '0001-01-01'"), ("TIMESTAMP", "TIMESTAMP '2024-02-29 23:59:59.999999'"),
    ("TIME", "TIME '23:59:59.999999'"), ("TIMESTAMPTZ", "TIMESTAMPTZ '2024-02-29 12:00:00+05'"),
    ("INTERVAL", "INTERVAL '1 month 2 days 3 hours'"), ("UUID", "'00000000-0000-0000-0000-0000000000ff'::UUID"),
    ("BLOB", "'\\x00\\xFF'::BLOB"), ("VARCHAR", "'it''s \"x\" \\ 🦆'"), ("VARCHAR", "''"),
    ("ENUM('a', 'it''s')", "'it''s'"), ("JSON", "'{\"a\":[1.5,null]}'::JSON"), ("INTEGER[]", "[1, NULL]"),
    ("INTEGER[3]", "[1, 2, 3]::INTEGER[3]"), ("STRUCT(a INTEGER, b VARCHAR[])", "{'a': NULL, 'b': ['x']}"),
    ("MAP(VARCHAR, DOUBLE)", "MAP {'k': 0.5}"),
    ("STRUCT(x STRUCT(y DATE)[])", "{'x': [{'y': DATE '2024-01-01'}, NULL]}"), ("VARCHAR", "NULL"),
    ("INTEGER[]", "[]"), ("BIT", "'0101'::BIT"),
]  # fmt: skip


@pytest.mark.parametrize("optimizer", ["on", "off"])
def test_values_of_every_type_come_back_unchanged(optimizer: str) -> None:
    with connect(optimizer=optimizer) as con:
        for number, (kind, value) in enumerate(TYPES):
            con.execute(f"CREATE TOOL same{number}(v {kind} DEFAULT NULL) RETURNS {kind} AS SQL 'SELECT $v'")
            given = f"(SELECT CAST({value} AS {kind}) AS v FROM range(2))"
            wanted = rows(con, f"SELECT v, typeof(v) FROM {given}")
            assert str(rows(con, f"SELECT TOOL(same{number}, v) AS r, typeof(r) FROM {given}")) == str(wanted), (
                kind,
                value,
            )


def test_numbers_inside_json_arguments_keep_their_digits() -> None:
    digits = "[12345678901234567890.123456789, 1.50]"
    with served() as server, connect() as con:
        con.execute("CREATE TOOL same(v JSON) RETURNS JSON AS SQL 'SELECT $v'")
        con.execute(
            "CREATE TOOL sent(v STRUCT(j JSON, k JSON[])) RETURNS VARCHAR AS HTTP "
            f"POST '{server.url}/x' WITH (loopback = true)"
        )
        (found,) = rows(
            con,
            "SELECT TOOL(same, v), TOOL(same, ?), length(TOOL(sent, {'j': v, 'k': [v, NULL]})) "
            "FROM (SELECT ?::JSON AS v)",
            [digits, digits],
        )
        compact = digits.replace(" ", "")
        assert found[:2] == (compact, compact)
        assert json.loads(server.seen[0].body, parse_float=str) == {
            "v": {"j": json.loads(digits, parse_float=str), "k": [json.loads(digits, parse_float=str), None]}
        }


@pytest.mark.parametrize("read", ["fetchall", "df"])
def test_the_error_of_a_later_row_is_the_error_whatever_the_types_of_the_columns(read: str) -> None:
    """A failure behind the first batch, with a column that is read through DuckDB (a struct, here)."""

    async def look(n: int) -> int:
        if n == 5000:
            raise ValueError("five thousand")
        return n

    with connect() as con:
        con.create_tool("look", look, egress=False)
        result = con.execute("SELECT {'a': range} AS s, TOOL(look, range::INTEGER) AS x FROM range(6000)")
        with pytest.raises(halo_sql.OperationalError, match=r"^Engine Error: TOOL\(look.*five thousand"):
            getattr(result, read)()


def test_tools_see_the_open_transaction_and_rollback_takes_all_back() -> None:
    with connect() as con:
        con.execute("CREATE TABLE t AS SELECT range AS id FROM range(3)")
        con.execute(
            "CREATE TOOL counted(least BIGINT) RETURNS BIGINT AS SQL 'SELECT count(*) FROM t WHERE id >= $least'"
        )
        con.execute("CREATE TOOL asked(query VARCHAR) RETURNS JSON AS SQL '$query' WITH (tables = [t])")
        model = add_model(
            con,
            calls(("counted", {"least": 0}), ("asked", {"query": "SELECT count(*) AS n FROM t"})),
            lambda messages: answer(str([item["result"] for item in json.loads(messages[-1]["content"])["results"]])),
        )
        con.execute("CREATE AGENT g WITH (tools = [counted, asked])")
        con.execute("BEGIN")
        con.execute("INSERT INTO t SELECT range + 10 FROM range(5)")
        con.execute("CREATE TOOL late(n BIGINT) RETURNS BIGINT AS SQL 'SELECT max(id) + $n FROM t'")
        assert rows(con, "SELECT TOOL(counted, 0), TOOL(counted, 10), late(1)") == [(8, 5, 15)]
        assert rows(con, "SELECT TOOL(asked, 'SELECT max(id) AS m FROM t')") == [('[{"m":14}]',)]
        assert rows(con, "SELECT AGENT(g, 'count')") == [("[8, [{'n': 8}]]",)]
        con.execute("INSERT INTO t SELECT TOOL(counted, id) + 100 FROM t WHERE id < 2")
        assert rows(con, "SELECT count(*), max(id) FROM t") == [(10, 108)]
        con.execute("ROLLBACK")
        assert rows(con, "SELECT TOOL(counted, 0)") == [(3,)]
        assert rows(con, "SELECT AGENT(g, 'count')") == [("[3, [{'n': 3}]]",)]
        with pytest.raises(halo_sql.ProgrammingError):
            con.execute("SELECT late(1)").fetchall()
        assert len(model.prompts) == 4


def test_an_error_of_a_query_ends_a_transaction_and_says_so() -> None:
    with connect() as con:
        con.execute("CREATE TABLE t AS SELECT range AS id FROM range(3)")
        con.execute("CREATE TOOL parsed(v VARCHAR) RETURNS INTEGER AS SQL 'SELECT CAST($v AS INTEGER)'")
        found = rows(con, "SELECT TOOL(parsed, v, on_error => 'null') FROM (VALUES ('1'), ('x'), ('3')) q(v)")
        assert found == [(1,), (None,), (3,)]
        con.execute("BEGIN")
        with pytest.raises(halo_sql.Error, match="this ended the transaction"):
            con.execute("SELECT TOOL(parsed, 'x', on_error => 'null')").fetchall()
        con.execute("ROLLBACK")
        assert rows(con, "SELECT TOOL(parsed, '7')") == [(7,)]


def test_twenty_distinct_arguments_are_twenty_calls_whatever_a_thousand_agents_do() -> None:
    """1,000 rows of 4 steps, 20 distinct arguments: 20 calls reach the tool."""
    reached: Counter[int] = Counter()

    def look(n: int) -> int:
        reached[n] += 1
        return n * n

    with connect() as con:
        con.create_tool("look", look, egress=False)
        con.execute("CREATE TEMP AGENT g WITH (tools = [look])")
        step = """{"tool": "look", "arguments": {"n": ' || (id + $n) % 20 || '}}"""
        steps = ", ".join(step.replace("$n", str(n)) for n in (0, 7, 11))
        script = f"""'[{steps}, {{"answer": "$result"}}]'"""
        found = rows(con, f"SELECT id, AGENT(g, {script} || repeat(' ', id::INTEGER)) FROM range(1000) t(id)")
        assert found == [(number, str(((number + 11) % 20) ** 2)) for number in range(1000)]
        assert reached == dict.fromkeys(range(20), 1)
        seen = totals(con)
        assert (seen["llm_calls"], seen["llm_calls_coalesced"]) == (4000, 0)
        assert (seen["tool_calls"], seen["tool_calls_coalesced"]) == (20, 2980)
        assert (seen["errors"], seen["retries"], seen["tool_calls_from_store"]) == (0, 0, 0)
        per_row = rows(
            con, "SELECT kind, count(*), count(DISTINCT row_key), max(step) FROM halo_calls() GROUP BY 1 ORDER BY 1"
        )
        assert per_row == [("llm", 4000, 1000, 4), ("tool", 3000, 1000, 3)]
        (listed,) = rows(con, "SELECT llm_calls, tool_calls, tool_calls_coalesced, errors FROM halo_queries()")
        assert listed == (4000, 20, 2980, 0)


def test_what_explain_analyze_says_of_tools_and_agents() -> None:
    with connect() as con:
        con.execute("CREATE TABLE t AS SELECT range AS id FROM range(10)")
        con.execute("CREATE TOOL half(n BIGINT) RETURNS BIGINT AS SQL 'SELECT $n // 2'")
        con.execute("CREATE AGENT g WITH (tools = [half])")
        text = con.explain("SELECT TOOL(half, id) FROM t", analyze=True)
        assert "ToolApply" in text
        assert re.search(r"tool calls?\D{0,10}10|10 (tool )?calls", text, re.IGNORECASE), text
        profile = json.loads(con.explain("SELECT AGENT(g, 'x ' || TOOL(half, id)) FROM t", analyze=True, format="json"))
        nodes = {node["operator_name"]: node for node in walk(profile["plan"])}
        assert {"ToolApply", "AgentApply"} <= nodes.keys()
        assert nodes["ToolApply"]["tool_calls"] == 10
        assert nodes["AgentApply"]["llm_calls"] == 5
        assert nodes["AgentApply"]["rows"] == nodes["ToolApply"]["rows"] == 10
        assert profile["totals"]["tool_calls"] == 10
        assert profile["totals"]["llm_calls"] == 5
        plain = rows(con, "EXPLAIN SELECT AGENT(g, 'x ' || TOOL(half, id)) FROM t")
        assert "AgentApply" in str(plain)


def walk(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A node of a profile and all below it."""
    yield node
    for below in node.get("children", ()):
        yield from walk(below)


def test_immutable_values_outlive_the_run_and_stable_ones_do_not(tmp_path: Path) -> None:
    with served(lambda seen: json_answer(len(seen.target))) as server:
        for run, status in enumerate(("done", "store")):
            with connect(store=str(tmp_path / "store.sqlite")) as con:
                for volatility in ("STABLE", "IMMUTABLE"):
                    con.execute(
                        f"CREATE TOOL {volatility}_t(n INTEGER) RETURNS INTEGER {volatility} AS HTTP GET "
                        f"'{server.url}/{volatility}/{{{{ n }}}}' WITH (loopback = true)"
                    )
                    rows(con, f"SELECT TOOL({volatility}_t, range % 3) FROM range(9)")
                    reached = sum(seen.path.startswith(f"/{volatility}") for seen in server.seen)
                    assert reached == (3 if volatility == "IMMUTABLE" else 3 + 3 * run)
                assert rows(con, "SELECT DISTINCT status FROM halo_calls() WHERE query = 2") == [(status,)]
                assert totals(con)["tool_calls_from_store"] == (3 if run else 0)


def test_rows_leave_as_soon_as_those_before_them_are_there() -> None:
    gate = threading.Event()

    def look(n: int) -> int:
        if n == 99:
            assert gate.wait(20)
        return n

    with connect() as con:
        con.create_tool("look", look, egress=False)
        stream = con.stream("SELECT TOOL(look, range::INTEGER) AS a FROM range(100)")
        first = next(stream).column(0).to_pylist()
        assert first
        assert 99 not in first
        gate.set()
        assert first + [value for batch in stream for value in batch.column(0).to_pylist()] == list(range(100))
