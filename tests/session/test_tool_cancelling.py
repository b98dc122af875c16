"""Statements that are interrupted, closed or limited while tools of every kind are in flight."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import halo_sql

from .agents_support import MCP_SERVER, Seen, children, connect, json_answer, rows, served, until


@pytest.mark.parametrize(
    ("kind", "way"),
    [
        (kind, way)
        for kind in ("loop", "thread", "process", "http", "mcp", "sql", "sandbox")
        for way in ("interrupt", "close", "limit")
        if (kind, way) not in (("sql", "limit"), ("sandbox", "limit"))  # there a sub-query is computed for all rows
    ],
)
def test_cancelling_while_tools_are_in_flight(
    kind: str, way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Returns at once, no process stays, no call is made any more."""
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "slow_tool.py").write_text(
        "import time\ndef wait(n):\n    time.sleep(0 if n < 1 else 60)\n    return n\n"
    )
    before = children()
    begun: list[int] = []
    release = threading.Event()

    async def on_loop(n: int) -> int:
        begun.append(n)
        await asyncio.sleep(0 if n < 1 else 60)
        return n

    def in_thread(n: int) -> int:
        begun.append(n)
        if n >= 1:
            release.wait(60)
        return n

    async def handler(seen: Seen) -> Any:
        begun.append(1)
        await asyncio.sleep(0 if seen.path == "/0" else 60)
        return json_answer(0)

    heavy = "(SELECT coalesce(sum(a.range * b.range), 0)::DOUBLE FROM range({n} * 9000000) a, range(9000000) b)"
    with served(handler) as server, connect() as con:
        called = "TOOL(t, range::INTEGER)"
        con.execute("CREATE TABLE nothing AS SELECT 1 AS x")
        if kind in ("loop", "thread"):
            con.create_tool(
                "t", on_loop if kind == "loop" else in_thread, concurrency=4, egress=False, volatility="volatile"
            )
        elif kind == "process":
            con.execute("CREATE TOOL t(n INTEGER) RETURNS INTEGER AS PYTHON 'slow_tool:wait'")
        elif kind == "http":
            con.execute(
                f"CREATE TOOL t(n INTEGER) RETURNS INTEGER AS HTTP GET '{server.url}/{{{{ n }}}}' "
                "WITH (loopback = true, concurrency = 4)"
            )
        elif kind == "mcp":
            con.execute(f"CREATE TOOL t(seconds DOUBLE) RETURNS VARCHAR AS MCP '{MCP_SERVER}' 'slow'")
            called = "TOOL(t, CASE WHEN range < 1 THEN 0 ELSE 60 + range END)"
        elif kind == "sql":
            con.execute(f"CREATE TOOL t(n INTEGER) RETURNS DOUBLE VOLATILE AS SQL $$ SELECT {heavy.format(n='$n')} $$")
        else:
            con.execute(
                "CREATE TOOL t(query VARCHAR) RETURNS JSON AS SQL '$query' WITH (tables = [nothing], timeout_s = 60)"
            )
            called = "TOOL(t, 'SELECT " + heavy.replace("{n}", "' || range || '") + "')"
        if way == "limit":  # the first row is there at once, those that were read ahead never come
            began = time.monotonic()
            assert (
                len(rows(con, f"SELECT x FROM (SELECT {called} AS x FROM range(50)) WHERE x IS NOT NULL LIMIT 1")) == 1
            )
            assert time.monotonic() - began < 40  # servers and processes take their time to start
        else:
            statement = f"SELECT {called} FROM range(1, 200)"
            failed: list[BaseException] = []
            thread = threading.Thread(target=_run, args=(con, statement, failed))
            thread.start()
            until(lambda: con.session.progress() if kind == "sql" else begun or children() - before)
            time.sleep(1.5 if kind in ("mcp", "process", "sandbox") else 0.5)
            began = time.monotonic()
            con.interrupt() if way == "interrupt" else con.close()
            thread.join(50)
            assert time.monotonic() - began < 50, "it does not wait for them"
            assert failed
        seen = len(begun)
        until(lambda: children() <= before)
        time.sleep(0.1)
        assert len(begun) == seen
        release.set()


def _run(con: halo_sql.Connection, statement: str, failed: list[BaseException]) -> None:
    try:
        con.execute(statement).fetchall()
    except BaseException as problem:
        failed.append(problem)
