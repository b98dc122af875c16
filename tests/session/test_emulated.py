"""Connections on a virtual clock: seconds by hand, the same in each run, deadlines, threads, what is refused."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import halo_sql
from halo_sql.errors import CatalogError, EngineError, InterfaceError, InterruptedQueryError, SettingError

OPTIONS = "tokenizer = 'words', preloaded = true"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HALO_HOME", str(tmp_path))
    (tmp_path / "p.toml").write_text(
        "[toy]\nblock_tok = 4\ncontext_tok = 4000\nmax_num_seqs = 4\nmax_num_batched_tokens = 1000\n"
        "prefill_tok_per_s = 1000.0\ndecode_step_s = 0.01\nmemory_bytes = 1_000_000\nkv_tok_bytes = 10\n"
        "weight_bytes = 100_000\nwake_bytes_per_s = 100_000.0\nstart_s = 40.0\nload_bytes_per_s = 50_000.0\n"
    )
    return tmp_path


def connect(home: Path, **config: object) -> halo_sql.Connection:
    con = halo_sql.connect(config={"halo_virtual_time": True, "halo_store": "off", **config})
    con.execute(f"CREATE MODEL toy FROM '{home}/p.toml#toy' USING emulated WITH ({OPTIONS})")
    con.execute("SET halo_default_model = 'toy'")
    return con


def elapsed_s(con: halo_sql.Connection) -> float:
    profile = con.last_profile()
    assert profile is not None
    return float(profile["totals"]["elapsed_s"])


def test_one_call_by_hand(home: Path) -> None:
    con = connect(home)
    # begin, 3 words, end, begin of the answer: 6 tokens; the answer has 3 and its end
    assert con.execute("SELECT LLM_MAP('{{ w }}') FROM (VALUES ('a b c')) t(w)").fetchall() == [("a b c",)]
    assert elapsed_s(con) == 0.006 + 4 * 0.01
    profile = con.last_profile()
    assert profile is not None
    assert profile["totals"]["virtual_time"]
    assert profile["totals"]["cpu_s"] > 0
    text = con.explain("SELECT LLM_MAP('{{ w }}') FROM (VALUES ('a b c')) t(w)", analyze=True)
    assert "0.042 s (virtual; " in text  # one block is known: two tokens are left, and four steps
    con.close()


def test_a_start_and_a_switch_are_part_of_it(home: Path) -> None:
    con = connect(home)
    con.execute(f"CREATE MODEL a FROM '{home}/p.toml#toy' USING emulated WITH (tokenizer = 'words')")
    con.execute("SELECT LLM_MAP('{{ w }}', model => a) FROM (VALUES ('a b c')) t(w)").fetchall()
    assert elapsed_s(con) == 40 + 2 + 0.046
    con.execute("SELECT LLM_MAP('{{ w }}') FROM (VALUES ('a b c')) t(w)").fetchall()
    assert elapsed_s(con) == 1.046  # a goes to sleep first
    [device] = con._link.open().devices()
    assert (device.name, device.switches) == ("gpu0", 1)
    assert [tenant.name for tenant in device.tenants()] == ["a", "toy"]
    con.close()


def test_nodes_wait_in_virtual_time(home: Path) -> None:
    con = connect(home)

    async def slow(q: str) -> str:
        await asyncio.sleep(1000.0)
        return q

    con.create_tool("slow", slow, timeout_s=2000)
    con.execute("CREATE TABLE t AS SELECT 'x' || i AS q FROM range(3) r(i)")
    began = time.perf_counter()
    con.execute("SELECT slow(q) FROM t").fetchall()
    assert time.perf_counter() - began < 30
    assert elapsed_s(con) == 1000.0
    profile = con._link.open().last_profile()
    assert profile is not None
    assert max(node.wait_s for node in profile.nodes.values()) == 1000.0
    assert all(node.self_s < 30 for node in profile.nodes.values())
    [(seconds,)] = con.execute("SELECT max(seconds) FROM halo_calls()").fetchall()
    assert seconds == 1000.0
    con.close()


def workflow(home: Path, rows: int, model_rows: int = 64) -> tuple[list[Any], float, dict[str, Any], list[Any]]:
    """Three models on two devices, an async tool, one in threads, one in SQL."""
    con = halo_sql.connect(config={"halo_virtual_time": True, "halo_store": "off", "halo_learn": False})
    con.execute(
        f"""CREATE MODEL small FROM 'dense-14b' USING emulated
                WITH ({OPTIONS}, device = 'gpu0', gpu_memory_utilization = 0.4);
            CREATE MODEL medium FROM 'sparse-20b' USING emulated
                WITH ({OPTIONS}, device = 'gpu0', gpu_memory_utilization = 0.4);
            CREATE MODEL large FROM 'dense-32b' USING emulated WITH ({OPTIONS}, device = 'gpu1');
            CREATE TABLE t AS SELECT i AS id, 'question ' || (i % {model_rows}) AS q FROM range({rows}) r(i);
            CREATE TABLE facts AS SELECT i AS n, 'fact ' || i AS fact FROM range(100) r(i);
            CREATE TOOL fact_of(n INTEGER) RETURNS VARCHAR STABLE AS SQL 'SELECT fact FROM facts WHERE n = $n'"""
    )

    async def search(q: str) -> str:
        await asyncio.sleep(3.0 + len(q) % 3)
        return "found " + q

    def count(text: str) -> int:
        time.sleep(0.0001 * (len(text) % 7))  # threads end in any order
        return len(text)

    con.create_tool("search", search)
    con.create_tool("count_letters", count)
    system = "You are careful. " * 50
    sql = f"""
        WITH a AS (SELECT id, q, LLM_MAP('plan {{{{ q }}}}', model => medium, system => '{system}') AS p FROM t),
             b AS (SELECT id, q, p, search(q) AS hits, count_letters(p) AS n, fact_of(id % 100) AS fact FROM a),
             c AS (SELECT id, n, hits, LLM_MAP('{{{{ hits }}}} {{{{ fact }}}}', model => small) AS s FROM b)
        SELECT id, LLM_MAP('{{{{ s }}}} {{{{ n }}}}', model => large, system => '{system}') AS x FROM c ORDER BY id"""
    found = con.execute(sql).fetchall()
    profile = con.last_profile()
    assert profile is not None
    totals = {key: value for key, value in profile["totals"].items() if key not in ("cpu_s", "planning_s")}
    busy = [(tenant.name, tenant.times.busy) for device in con._link.open().devices() for tenant in device.tenants()]
    con.close()
    return found, profile["totals"]["elapsed_s"], totals, busy


def test_the_same_run_takes_the_same_virtual_time(home: Path) -> None:
    first, *others = (workflow(home, 100) for _ in range(3))
    assert first[1] > 3.0
    assert len(first[3]) == 3
    for other in others:
        assert other == first


def test_thousands_of_calls_take_seconds(home: Path) -> None:
    began = time.perf_counter()
    rows, virtual_s, totals, _ = workflow(home, 1200, 1200)
    assert len(rows) == 1200
    assert totals["llm_calls"] == 3600
    assert virtual_s > 60
    assert time.perf_counter() - began < 120


def test_deadlines_are_virtual(home: Path) -> None:
    con = connect(home)

    async def never(q: str) -> str:
        await asyncio.sleep(1e9)
        return q

    con.create_tool("never", never, timeout_s=7, max_retries=0)
    with pytest.raises(EngineError, match="timeout_s = 7"):
        con.execute("SELECT never('x')").fetchall()
    assert elapsed_s(con) == 7.0
    con.execute("SET halo_max_seconds = 1")
    with pytest.raises(EngineError, match="halo_max_seconds"):
        con.execute("SELECT LLM_MAP('{{ w }}') FROM (SELECT 'a ' || i || repeat(' b', 300) FROM range(99) r(i)) t(w)")
    assert elapsed_s(con) < 1.1
    con.close()


def test_processes_and_threads_take_no_virtual_time(home: Path) -> None:
    con = connect(home)
    con.execute("CREATE TOOL up(s VARCHAR) RETURNS VARCHAR AS PYTHON 'string:capwords'")

    def nap(q: str) -> str:
        time.sleep(0.05)
        return q

    con.create_tool("nap", nap, timeout_s=0.01)
    assert con.execute("SELECT up('a b'), nap('x')").fetchall() == [("A B", "x")]
    assert elapsed_s(con) == 0.0
    con.close()


def test_open_results_do_not_hold_others_up(home: Path) -> None:
    con = connect(home)
    con.execute("CREATE TABLE t AS SELECT 'x' || i AS q FROM range(5000) r(i)")
    one, other = con.cursor(), con.cursor()
    one.execute("SELECT LLM_MAP('{{ q }}') FROM t")
    assert one.fetchone() is not None
    assert len(other.execute("SELECT LLM_MAP('again {{ q }}') FROM t LIMIT 100").fetchall()) == 100
    assert len(one.fetchall()) == 4999
    con.close()


def test_an_interrupt_reaches_duckdb(home: Path) -> None:
    con = connect(home)
    slow_join = "(SELECT count(*) AS n FROM range(1000000) a, range(1000000) b WHERE a.range + b.range = 7)"
    timer = threading.Timer(0.5, con.interrupt)
    timer.start()
    began = time.perf_counter()
    with pytest.raises(InterruptedQueryError):
        con.execute(f"SELECT LLM_MAP('{{{{ n }}}}') FROM {slow_join}").fetchall()
    assert time.perf_counter() - began < 20
    timer.join()
    assert con.execute("SELECT LLM_MAP('{{ 1 }}')").fetchall() == [("1",)]
    con.close()


def test_callables_of_the_session(home: Path) -> None:
    con = connect(home)
    con.create_model("mine", lambda messages: "a b", engine="emulated", profile=f"{home}/p.toml#toy", preloaded=True)
    assert con.execute("SELECT LLM_MAP('{{ 1 }}', model => mine)").fetchall() == [("a b",)]
    for options, message in [
        ({"engine": "vllm"}, "cannot make a callable"),
        ({"engine": "emulated"}, "needs the profile"),
        ({"profile": "dense-14b"}, "needs the profile"),
    ]:
        with pytest.raises(InterfaceError, match=message):
            con.create_model("m", lambda messages: "x", **options)
    with pytest.raises(CatalogError, match="no profile"):
        con.create_model("m", lambda messages: "x", engine="emulated", profile="dense")
    con.close()


def test_calibration_takes_virtual_time(home: Path) -> None:
    con = connect(home)
    con.create_model(
        "m", lambda messages: "a " * 40, engine="emulated", profile=f"{home}/p.toml#toy", tokenizer="words"
    )
    [row] = con.execute("CALIBRATE MODEL m").fetchall()
    assert row[1:3] == ("emulated", "gpu0")
    assert row[4] == pytest.approx(1000, rel=0.1)
    con.close()


def test_plans_know_the_profile_s_speed(home: Path) -> None:
    con = connect(home)
    [(_, text)] = con.execute("EXPLAIN (COSTS) SELECT LLM_MAP('{{ w }}') FROM (VALUES ('a')) t(w)").fetchall()
    assert "prefill 1,000 tok/s" in text
    con.close()


def test_what_is_refused(home: Path) -> None:
    con = connect(home)
    for statement in ("SET halo_virtual_time = false", "RESET halo_virtual_time"):
        with pytest.raises(SettingError, match="cannot be changed while connected"):
            con.execute(statement)
    with pytest.raises(CatalogError, match="no profile"):
        con.execute("CREATE MODEL x FROM 'dense-99b' USING emulated")
    con.execute("CREATE MODEL real FROM 'http://127.0.0.1:1/v1' USING openai WITH (model = 'x')")
    with pytest.raises(EngineError, match="virtual clock"):
        con.execute("SELECT LLM_MAP('{{ 1 }}', model => real)").fetchall()
    con.close()
