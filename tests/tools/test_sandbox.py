"""The sandbox at work: results, types, copies, limits, and that nothing is left of it."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

import halo_sql.tools.sandbox as sandbox_module
from halo_sql.catalog.objects import Parameter, ToolDef
from halo_sql.duck import Duck
from halo_sql.errors import EngineError
from halo_sql.ir.types import SqlType
from halo_sql.tools.protocol import BoundTool, ToolRequest
from halo_sql.tools.sandbox import SandboxRunner
from halo_sql.tools.sandbox_copy import describe_tables, name_parts

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def duck():
    opened = Duck.connect(":memory:", False, {})
    opened.execute("CREATE TABLE orders AS SELECT i AS id, 's' || i % 3 AS status FROM range(10) t(i)")
    yield opened
    opened.close()


def tool(duck, returns="JSON", columns=(), tables=("orders",), **options):
    if columns:
        row = SqlType("STRUCT(…)", "struct", tuple((name, duck.sql_type(kind)) for name, kind in columns))
        value = SqlType("STRUCT(…)[]", "list", (("", row),))
    else:
        value = duck.sql_type(returns)
    definition = ToolDef(
        "ask",
        "sql",
        "$query",
        (Parameter("query", "VARCHAR"),),
        columns=tuple(columns),
        options={"tables": list(tables), **options},
    )
    return BoundTool(definition, (("query", duck.sql_type("VARCHAR")),), value)


def runner_of(duck, bound):
    async def on_connection(work):
        return await asyncio.to_thread(work, duck)

    return SandboxRunner(bound, on_connection)


def request(sql):
    return ToolRequest(json.dumps({"query": sql}))


def ask(duck, bound, *queries):
    """The outcomes of queries at once."""

    async def run():
        runner = runner_of(duck, bound)
        try:
            return await runner.call_many([request(sql) for sql in queries])
        finally:
            await runner.close()

    return asyncio.run(run())


def one(duck, bound, sql):
    (outcome,) = ask(duck, bound, sql)
    if isinstance(outcome, EngineError):
        raise outcome
    return outcome


def children():
    """Process ids of this process's children that are there, dead ones that nobody has waited for among them."""
    found = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(os.getpid())], capture_output=True, text=True, check=False
    )
    return {int(word) for word in found.stdout.split()}


@contextmanager
def own_temp(folder, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    assert list(folder.iterdir()) == [], "nothing is left"


def test_rows_come_as_objects_with_the_querys_columns(duck):
    assert one(duck, tool(duck), "SELECT * FROM orders WHERE id < 2 ORDER BY id DESC") == (
        '[{"id":1,"status":"s1"},{"id":0,"status":"s0"}]'
    )
    assert one(duck, tool(duck), 'SELECT 1 AS a, 2 AS a, NULL AS "it\'s"') == '[{"a":1,"a_1":2,"it\'s":null}]'
    assert one(duck, tool(duck), "SELECT * FROM orders WHERE false") == "[]"
    assert json.loads(json.loads(one(duck, tool(duck, "VARCHAR"), "SELECT 'é\"' AS x"))) == [{"x": 'é"'}]


def test_declared_columns_are_matched_by_name_or_by_position_and_cast(duck):
    bound = tool(duck, columns=[("n", "BIGINT"), ("what", "VARCHAR")])
    assert one(duck, bound, "SELECT 'a' AS WHAT, 7 AS N, 1 AS more") == '[{"n":7,"what":"a"}]'
    assert one(duck, bound, "SELECT '7', 8") == '[{"n":7,"what":"8"}]'
    (problem,) = ask(duck, bound, "SELECT 1 AS x")
    assert problem.code == "rejected"
    assert "the query gives the columns x; the tool returns n, what" in problem.message
    (problem,) = ask(duck, bound, "SELECT 'many', 1")
    assert problem.code == "tool"


def test_another_type_is_the_first_column_of_the_first_row(duck):
    assert ask(duck, tool(duck, "DECIMAL(18,2)"), "SELECT 1234567890123456.78, 2", "SELECT 1 WHERE false") == [
        "1234567890123456.78",
        "null",
    ]
    assert one(duck, tool(duck, "DOUBLE"), "SELECT 'inf'::DOUBLE") == '"inf"'


def test_types_of_the_copies_are_those_of_the_tables(duck):
    duck.execute("SET TimeZone = 'Asia/Tokyo'")
    duck.execute("CREATE TYPE mood AS ENUM ('low', 'high')")
    duck.execute(
        """CREATE TABLE every AS SELECT 170141183460469231731687303715884105727::HUGEINT AS h, 'high'::mood AS e,
        uuid() AS u, '101'::BIT AS b, INTERVAL '1 month 2 days' AS v, '12:00:00+02'::TIMETZ AS z,
        MAP {'a': 1.50::DECIMAL(5,2)} AS m, '{"a":1.00}'::JSON AS j, [1, NULL]::INTEGER[2] AS a,
        {'x': [now()], 'y': '\\xAA'::BLOB} AS s, '2020-01-01 00:00:00.123456789'::TIMESTAMP_NS AS n,
        union_value(k := 5) AS o, 1.5::FLOAT AS f, 'nan'::DOUBLE AS d, DATE '2020-02-29' AS y, NULL::VARCHAR AS nil,
        '2020-01-01 00:00:00+00'::TIMESTAMPTZ AS t, 12345678901234567.89::DECIMAL(19,2) AS c"""
    )
    names = [name for name, _ in duck.describe("FROM every")]
    listed = ", ".join(f"typeof({name}) AS t_{name}, {name}::VARCHAR AS v_{name}" for name in names)
    query = f"SELECT {listed} FROM every"
    (here,) = duck.rows(query)
    (there,) = json.loads(one(duck, tool(duck, tables=["every"]), query))
    assert tuple(there.values()) == here
    assert there["v_t"] == "2020-01-01 09:00:00+09"


def test_it_sees_the_open_transaction_temporary_tables_and_views(duck):
    duck.execute("CREATE SCHEMA shop")
    duck.execute('CREATE TABLE shop."My Orders" AS SELECT 1 AS a')
    duck.execute("BEGIN")
    duck.execute("DELETE FROM orders WHERE id > 3")
    duck.execute("CREATE TEMP TABLE mine AS SELECT 42 AS x")
    duck.execute("CREATE VIEW few AS SELECT * FROM orders WHERE id < 2")
    bound = tool(duck, tables=["orders", "mine", 'shop."My Orders"', "few"])
    query = 'SELECT (SELECT count(*) FROM orders), x, a, (SELECT count(*) FROM few) FROM mine, "my orders"'
    assert list(json.loads(one(duck, bound, query))[0].values()) == [4, 42, 1, 2]
    assert duck.in_transaction()
    duck.execute("ROLLBACK")


def test_a_table_that_is_not_there_is_named_and_ends_no_transaction(duck):
    duck.execute("BEGIN")
    for tables in (["orders", "nope"], ["orders", "main.orders"], ["a..b"]):
        (problem,) = ask(duck, tool(duck, tables=tables), "SELECT 1")
        assert problem.code == "unavailable"
        assert f'table "{tables[-1]}"' in problem.message
    assert duck.in_transaction()
    duck.execute("ROLLBACK")


def test_tables_are_described_for_the_model(duck):
    duck.execute('CREATE TABLE "My t"("a B" DECIMAL(4,1))')
    assert describe_tables(duck, ["main.orders", '"My t"']) == (
        'orders(id BIGINT, status VARCHAR)\n"My t"("a B" DECIMAL(4,1))'
    )
    with pytest.raises(EngineError, match='table "nope"'):
        describe_tables(duck, ["nope"])


def test_names_of_tables_are_read_as_sql_reads_them():
    assert name_parts("orders") == ("orders",)
    assert name_parts('a."b.""c"."d"') == ("a", 'b."c', "d")
    for wrong in ("", ".", "a.", ".a", 'a"b', '"a'):
        with pytest.raises(ValueError, match="does not name a table"):
            name_parts(wrong)


def test_many_queries_share_at_most_two_children(duck):
    async def run():
        runner = runner_of(duck, tool(duck))
        seen = set()
        before = children()

        async def watch():
            while True:
                seen.update(children() - before)
                await asyncio.sleep(0.02)

        watcher = asyncio.create_task(watch())
        outcomes = await runner.call_many([request(f"SELECT {n} AS n, count(*) FROM orders") for n in range(60)])
        watcher.cancel()
        pids = {child.pid for child in runner._idle}
        await runner.close()
        return outcomes, pids, children() - before

    outcomes, pids, left = asyncio.run(run())
    assert [json.loads(text)[0]["n"] for text in outcomes] == list(range(60))
    assert len(pids) <= 2
    assert not pids & left, "no child, living or dead, is left"


def test_a_query_that_ends_its_child_harms_no_other(duck):
    bomb = "SELECT length(string_agg(repeat('x', 1000000), '')) FROM range(4000)"
    outcomes = ask(duck, tool(duck), *["SELECT 1 AS a", bomb, "SELECT 2 AS a", bomb, "SELECT 3 AS a", "SELECT 4 AS a"])
    assert [outcome if isinstance(outcome, str) else outcome.code for outcome in outcomes] == [
        '[{"a":1}]', "tool", '[{"a":2}]', "tool", '[{"a":3}]', '[{"a":4}]',
    ]  # fmt: skip


def test_a_child_that_is_killed_between_queries_is_replaced(duck):
    async def run():
        runner = runner_of(duck, tool(duck))
        await runner.call(request("SELECT 1"))
        os.kill(runner._idle[0].pid, signal.SIGKILL)
        try:
            return await runner.call(request("SELECT 2 AS a"))
        finally:
            await runner.close()

    assert asyncio.run(run()) == '[{"a":2}]'


def test_rows_and_bytes_are_limited_as_the_tool_says(duck):
    for limits in ({"max_rows": 3}, {"max_bytes": 40}):
        few, many = ask(duck, tool(duck, **limits), "FROM range(3)", "FROM range(4)")
        assert few == '[{"range":0},{"range":1},{"range":2}]'
        assert many.code == "too_large"
    assert one(duck, tool(duck, "DOUBLE", max_rows=1), "FROM range(1, 5)") == "1.0"


ENDLESS = "SELECT sum(a.range * b.range) FROM range(1000000) a, range(1000000) b"


def test_a_query_that_takes_too_long_is_ended(duck):
    started = time.monotonic()
    (problem,) = ask(duck, tool(duck, timeout_s=0.5), ENDLESS)
    assert problem.code == "timeout"
    assert "0.5 s" in problem.message
    assert time.monotonic() - started < 30


def test_processor_time_is_limited_too(duck, monkeypatch):
    monkeypatch.setattr(sandbox_module, "PROCESSOR_S", 0)
    (problem,) = ask(duck, tool(duck), ENDLESS)
    assert problem.code == "timeout"
    assert "processor" in problem.message


def test_cancelling_ends_the_child_at_once(duck):
    async def run():
        runner = runner_of(duck, tool(duck))
        await runner.call(request("SELECT 1"))
        pid = runner._idle[0].pid
        call = asyncio.create_task(runner.call(request(ENDLESS)))
        await asyncio.sleep(0.2)
        started = time.monotonic()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        took_s = time.monotonic() - started
        after = await runner.call(request("SELECT 2 AS a"))
        await runner.close()
        return pid, took_s, after

    pid, took_s, after = asyncio.run(run())
    assert took_s < 30  # the bound leaves room for a busy machine
    assert after == '[{"a":2}]'
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def look(process):
    return (process / "environ").read_bytes(), str((process / "cwd").readlink())


def test_no_folder_is_left_even_while_it_runs(duck, tmp_path, monkeypatch):
    async def run():
        runner = runner_of(duck, tool(duck))
        await runner.call(request("SELECT 1"))
        pid = runner._idle[0].pid
        status = look(Path(f"/proc/{pid}")), os.getsid(pid)
        assert list(tmp_path.iterdir()) == []
        await runner.close()
        await runner.close()
        with pytest.raises(EngineError, match="closed"):
            await runner.call(request("SELECT 1"))
        return pid, status

    with own_temp(tmp_path, monkeypatch):
        pid, ((environment, folder), session) = asyncio.run(run())
    assert environment == b""
    assert folder.startswith(str(tmp_path))
    assert folder.endswith("(deleted)")
    assert session == pid != os.getsid(0)


PARENT = """
import asyncio, json, sys
sys.path.insert(0, {root!r})
from tests.tools.test_sandbox import ENDLESS, Duck, request, runner_of, tool
async def main():
    duck = Duck.connect(":memory:", False, {{}})
    duck.execute("CREATE TABLE orders AS SELECT 1 AS id")
    runner = runner_of(duck, tool(duck))
    await runner.call_many([request("SELECT 1"), request("SELECT 2")])
    print(*[child.pid for child in runner._idle], flush=True)
    await runner.call_many([request(ENDLESS)])
asyncio.run(main())
"""


def test_children_end_with_a_parent_that_is_killed(tmp_path):
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT.format(root=str(ROOT))],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    with parent:
        pids = [int(word) for word in parent.stdout.readline().split()]
        assert pids
        assert all(Path(f"/proc/{pid}").exists() for pid in pids)
        parent.kill()
    deadline = time.monotonic() + 60
    while any(_alive(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not any(_alive(pid) for pid in pids)
    assert [path.name for path in tmp_path.iterdir() if "halo" in path.name] == []


def _alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False
