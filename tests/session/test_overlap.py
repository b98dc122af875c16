"""Operators overlap: what reads the first rows of a tool or an agent begins while the last ones are under way."""

from __future__ import annotations

import threading
import time
from typing import Any, TypedDict

import pytest

from .agents_support import connect, rows


class N(TypedDict):
    n: int


class M(TypedDict):
    m: int


def tool(name: str, argument: str) -> str:
    return f"TOOL({name}, ({argument})::INTEGER)"


def agent(name: str, argument: str) -> str:
    """An agent's call that has the tool's value as its answer, in two steps."""
    script = f"""'[{{"tool": "{name}", "arguments": {{"n": ' || {argument} || '}}}}, {{"answer": "$result"}}]'"""
    return f"AGENT(with_{name}, {script})"


@pytest.mark.parametrize(
    "statement",
    [
        f"SELECT {tool('second', tool('first', 'n'))} FROM t",
        f"SELECT {tool('second', agent('first', 'n'))} FROM t",
        f"SELECT {agent('second', tool('first', 'n'))} FROM t",
        f"SELECT {agent('second', 'x')} FROM (SELECT {agent('first', 'n')} AS x FROM t)",
        f"SELECT {tool('second', 'x')} FROM (SELECT {tool('first', 'n')} + 0 AS x FROM t) WHERE x >= 0",
        f"SELECT {tool('second', 'LLM_MAP(x::VARCHAR)')} FROM (SELECT {tool('first', 'n')} AS x FROM t)",
        f"SELECT {tool('second', 'x')} FROM (SELECT unnest([{agent('first', 'n')}]) AS x FROM t)",
        f"SELECT CASE WHEN n > 0 THEN {tool('first', 'n')} ELSE {tool('second', 'n')} END FROM t",
        "SELECT o.m FROM t, LATERAL TOOL(rows_of, t.n) f, LATERAL TOOL(rows_of_second, f.n) o",
    ],
)
def test_the_second_begins_before_the_first_has_ended(statement: str) -> None:
    begun = threading.Event()

    def first(n: int) -> int:
        if n == 99:
            assert begun.wait(20), "nobody began to read"
        return n

    def second(n: int) -> int:
        begun.set()
        return n

    def rows_of(n: int) -> list[N]:
        return [N(n=first(n))]

    def rows_of_second(n: int) -> list[M]:
        return [M(m=second(n))]

    with connect() as con:
        for function in (first, second, rows_of, rows_of_second):
            con.create_tool(function.__name__, function, egress=False)
        con.execute("CREATE TEMP AGENT with_first WITH (tools = [first])")
        con.execute("CREATE TEMP AGENT with_second WITH (tools = [second])")
        con.execute("CREATE TABLE t AS SELECT range::INTEGER AS n FROM range(100)")
        assert [int(value) for (value,) in rows(con, statement)] == list(range(100))


class Log:
    """Which calls of tools are under way."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.begun: list[str] = []
        self.now: set[str] = set()
        self.most = 0
        self.together = threading.Event()  # two tools were under way at once

    def tool(self, name: str, waits_for: threading.Event | None = None, joins: bool = False) -> Any:
        """A function that takes 30 ms, or waits for an event; one that ``joins`` stays until two were under way."""

        def function(n: int) -> int:
            with self.lock:
                self.begun.append(f"{name}{n}")
                self.now.add(f"{name}{n}")
                self.most = max(self.most, len({each[0] for each in self.now}))
                if self.most >= 2:
                    self.together.set()
            if joins:
                self.together.wait(20)
            elif waits_for is None:
                time.sleep(0.03)
            elif n == 0:
                assert waits_for.wait(20), "nobody overtook row 0"
            with self.lock:
                self.now.discard(f"{name}{n}")
            return n

        return function


def test_independent_calls_of_a_row_run_together() -> None:
    """Tools that stand above one another and read nothing of each other are under way at once."""
    log = Log()
    with connect() as con:
        for name in "abc":
            con.create_tool(name, log.tool(name, joins=True), egress=False)
        con.execute("CREATE TABLE t AS SELECT range::INTEGER AS n FROM range(4)")
        first, second, third = tool("a", "LLM_MAP(n::VARCHAR)"), tool("b", tool("a", "n")), tool("c", "n")
        statement = f"SELECT {first}, {second}, {third} FROM t"
        assert len(rows(con, statement)) == 4
        assert log.most >= 2
        assert "RowGraph" in con.execute("EXPLAIN " + statement).fetchall()[0][1]


@pytest.mark.parametrize("graph", [True, False])
def test_a_slow_row_does_not_hold_up_the_calls_above(graph: bool) -> None:
    """Row 0 has its first answer when row 9 is through the second tool; stacked nodes keep the order of rows."""
    overtaken = threading.Event()
    log = Log()

    def second(n: int) -> int:
        log.begun.append(f"second{n}")
        if n == 9:
            overtaken.set()
        return n

    with connect() as con:
        con.create_tool("first", log.tool("first", overtaken if graph else None), egress=False)
        con.create_tool("second", second, egress=False)
        con.execute("CREATE TABLE t AS SELECT range::INTEGER AS n FROM range(10)")
        if not graph:
            con.execute("SET halo_disabled_rules = 'row_graph'")
        statement = f"SELECT {tool('second', tool('first', 'n') + ' + 0')} FROM t"
        assert ("RowGraph" in con.execute("EXPLAIN " + statement).fetchall()[0][1]) == graph
        assert [value for (value,) in rows(con, statement)] == list(range(10))
        if graph:
            assert log.begun.index("second9") < log.begun.index("second0")


def test_every_node_of_a_graph_has_its_own_counters() -> None:
    log = Log()
    with connect() as con:
        con.create_tool("a", log.tool("a"), egress=False)
        con.create_tool("b", log.tool("b"), egress=False)
        con.execute("CREATE TABLE t AS SELECT range::INTEGER AS n FROM range(5)")
        text = con.execute(f"EXPLAIN ANALYZE SELECT {tool('b', tool('a', 'n'))} FROM t").fetchall()[0][1]
    lines = [line for line in text.splitlines() if "ToolApply" in line]
    assert len(lines) == 2
    for line in lines:
        assert "rows ~5/5 " in line, line
        assert "~5/5 tool calls" in line, line
