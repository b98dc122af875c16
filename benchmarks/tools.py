"""What tools cost beside what they do: HTTP calls at once, queries joined, a sandbox for a model's SQL, agents.

    python benchmarks/tools.py

Whole statements through a connection. The HTTP server, on the loopback interface, takes 200 ms for each call; it runs
in a process of its own.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager

from report import finish, show, verdict

import halo_sql

CALLS, CONCURRENCY, CALL_S = 1_000, 100, 0.2
ROWS, STEPS, DISTINCT = 1_000, 4, 20
QUERIES = 100


async def serve() -> None:
    """Answer GET /n with n doubled, after CALL_S."""

    async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                number = int(head.split(b" ")[1].rpartition(b"/")[2])
                await asyncio.sleep(CALL_S)
                body = b"%d" % (2 * number)
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: ")
                writer.write(b"%d\r\n\r\n%s" % (len(body), body))
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    server = await asyncio.start_server(client, "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


@contextmanager
def server() -> Iterator[int]:
    process = subprocess.Popen([sys.executable, __file__, "serve"], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield int(process.stdout.readline())
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def timed(con: halo_sql.Connection, sql: str) -> tuple[float, float, dict[str, float]]:
    """Wall seconds, CPU seconds of this process, and the totals of a statement."""
    wall, cpu = time.perf_counter(), time.process_time()
    con.execute(sql).fetchall()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return wall, cpu, con.last_profile()["totals"]


def main() -> None:
    rows: list[list[str]] = []
    reached = []

    def note(what: str, figure: str, goal: str, good: bool) -> None:
        rows.append([what, figure, goal, verdict(good)])
        reached.append(good)

    with tempfile.TemporaryDirectory() as home, server() as port:
        os.environ["HALO_HOME"] = home
        con = halo_sql.connect(config={"halo_store": "off", "halo_default_model": "echo"})
        con.execute(f"""
            CREATE TABLE t AS SELECT range AS id FROM range({CALLS});
            CREATE TABLE big AS SELECT range AS id, range % 1000 AS k FROM range(300000);
            CREATE TOOL twice(n BIGINT) RETURNS BIGINT AS HTTP GET 'http://127.0.0.1:{port}/{{{{ n }}}}'
                WITH (loopback = true, concurrency = {CONCURRENCY});
            CREATE TOOL counted(k BIGINT) RETURNS BIGINT AS SQL 'SELECT count(*) FROM big WHERE k = $k';
            CREATE TOOL single(k BIGINT) RETURNS BIGINT AS SQL 'SELECT count(*) FROM big WHERE k = $k AND random() < 2';
            CREATE TOOL ask(q VARCHAR) RETURNS JSON AS SQL '$q' WITH (tables = [big]);
            CREATE TOOL plus(n BIGINT) RETURNS BIGINT AS SQL 'SELECT $n + 1';
            CREATE AGENT adder WITH (tools = [plus]);
        """)
        timed(con, "SELECT twice(0)")  # what the first call imports
        wall, _, did = timed(con, "SELECT sum(twice(id)) FROM t")
        note(f"{CALLS:,} HTTP calls of {CALL_S:g} s, {CONCURRENCY} at once", f"{wall:.2f} s", "<= 3 s", wall <= 3.0)
        assert did["tool_calls"] == CALLS

        joined, _, _ = timed(con, "SELECT sum(counted(id)) FROM t")
        alone, _, _ = timed(con, "SELECT sum(single(id)) FROM t WHERE id < 100")
        ratio = alone * CALLS / 100 / joined
        note(f"{CALLS:,} arguments of a query: one by one / one join", f"{ratio:.0f} x", ">= 5 x", ratio >= 5)

        first, _, _ = timed(con, "SELECT ask('SELECT 1')")
        query = "'SELECT ' || range || ' + count(*) FROM big WHERE k = ' || range"
        many, _, _ = timed(con, f"SELECT count(ask({query})) FROM range({QUERIES})")
        note("a query that a model wrote: the first, with copies and child", f"{first:.2f} s", "", True)
        each_ms = many / QUERIES * 1e3
        note(
            f"  each of {QUERIES} in one statement, all of it shared", f"{each_ms:.1f} ms", "<= 250 ms", each_ms <= 250
        )

        calls = [{"tool": "plus", "arguments": {"n": 0}}] * (STEPS - 1)
        script = json.dumps([*calls, {"answer": "$result"}]).replace('"n": 0', '"n": #')
        task = f"replace($${script}$$, '#', (id % {DISTINCT})::VARCHAR)"
        con.execute("CREATE OR REPLACE AGENT adder WITH (tools = [plus], max_repeats = 10)")
        _, cpu, did = timed(
            con, f"SELECT count(AGENT(adder, {task} || repeat(' ', id // {DISTINCT}))) FROM t LIMIT {ROWS}"
        )
        each_ms = cpu / (ROWS * STEPS) * 1e3
        note(
            f"agents, {ROWS:,} rows x {STEPS} steps: CPU per step and row",
            f"{each_ms:.2f} ms",
            "<= 1 ms",
            each_ms <= 1.0,
        )
        exact = did["tool_calls"] == DISTINCT and did["llm_calls"] == ROWS * STEPS
        made = f"{did['tool_calls']:,.0f} / {DISTINCT}"
        note("  calls of the tool / distinct arguments", made, "equal", exact)
        con.close()
    show("Tools", ("", "", "goal", ""), rows)
    finish(all(reached))


if __name__ == "__main__":
    if sys.argv[1:] == ["serve"]:
        asyncio.run(serve())
    else:
        main()
