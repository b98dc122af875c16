"""Operators overlap: what reads the first rows of a tool or an agent begins while the last ones are under way."""

from __future__ import annotations

import threading
from typing import TypedDict

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
