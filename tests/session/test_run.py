"""A query's life through a connection: streaming, cancelling, storing, transactions."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import halo_sql
from halo_sql import staging


def connect(**settings: object) -> halo_sql.Connection:
    config = {"halo_store": "off", "halo_default_model": "echo"}
    return halo_sql.connect(config={**config, **{f"halo_{name}": value for name, value in settings.items()}})


def test_cancelling_returns_within_a_second_and_the_connection_goes_on() -> None:
    entered, release = threading.Event(), threading.Event()

    def stuck(messages: object) -> str:
        entered.set()
        release.wait(30)
        return "late"

    with connect() as con:
        con.create_model("stuck", stuck)

        def cancel() -> None:
            assert entered.wait(20)
            con.interrupt()

        canceller = threading.Thread(target=cancel)
        canceller.start()
        with pytest.raises(halo_sql.OperationalError, match="Interrupted"):
            con.execute("SELECT LLM_MAP('{{ i }}', model => stuck) FROM range(100) r(i)").fetchall()
        canceller.join()
        began = time.monotonic()
        assert con.execute("SELECT LLM_MAP('{{ 1 + 1 }}')").fetchall() == [("2",)]
        assert time.monotonic() - began < 25
        release.set()


def test_an_interrupt_while_a_statement_is_planned_is_not_lost() -> None:
    with connect() as con:
        con.create_model("stuck", lambda messages: time.sleep(60))
        snapshot = con.session.queries._snapshot
        interrupts = iter([con.interrupt])

        def interrupted_snapshot() -> Any:
            next(interrupts, lambda: None)()
            return snapshot()

        con.session.queries._snapshot = interrupted_snapshot
        with pytest.raises(halo_sql.OperationalError, match="Interrupted"):
            con.execute("SELECT LLM_MAP('{{ i }}', model => stuck) FROM range(10) r(i)").fetchall()
        assert con.execute("SELECT LLM_MAP('{{ 1 + 1 }}')").fetchall() == [("2",)]


def test_an_interrupt_before_a_statement_is_planned_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first statement of a process imports half of HaloSQL before it is looked at."""
    find = staging.find
    with connect() as con:
        con.create_model("stuck", lambda messages: time.sleep(60))
        interrupts = iter([con.interrupt])

        def interrupted_find(*given: Any) -> Any:
            next(interrupts, lambda: None)()
            return find(*given)

        monkeypatch.setattr(staging, "find", interrupted_find)
        with pytest.raises(halo_sql.OperationalError, match="Interrupted"):
            con.execute("SELECT LLM_MAP('{{ i }}', model => stuck) FROM range(10) r(i)").fetchall()
        assert con.execute("SELECT LLM_MAP('{{ 1 + 1 }}')").fetchall() == [("2",)]


def test_closing_a_result_stops_its_calls() -> None:
    asked: list[int] = []

    def slow(messages: object) -> str:
        asked.append(1)
        time.sleep(0.01)
        return "x"

    with connect(max_concurrency=4) as con:
        con.create_model("slow", slow)
        cursor = con.cursor()
        cursor.execute("SELECT LLM_MAP('{{ i }}', model => slow) FROM range(5000) r(i)")
        assert cursor.fetchone() == ("x",)
        cursor.close()
        seen = len(asked)
        time.sleep(0.1)
        assert len(asked) <= seen + 4
        assert seen < 5000


def test_a_rerun_asks_nothing_and_a_changed_prompt_asks_again(tmp_path: Path) -> None:
    asked: list[str] = []

    def answer(messages: list[dict[str, str]]) -> str:
        asked.append(messages[-1]["content"])
        return messages[-1]["content"].upper()

    query = "SELECT LLM_MAP('{{ w }}', model => m) FROM (VALUES ('a'), ('b'), ('a'), (NULL)) v(w)"
    rows = []
    for _ in range(2):
        with connect(store=str(tmp_path / "store.sqlite")) as con:
            con.create_model("m", answer, storable=True)
            rows.append(con.execute(query).fetchall())
            totals = con.last_profile()["totals"]
    assert rows == [[("A",), ("B",), ("A",), (None,)]] * 2
    assert sorted(asked) == ["a", "b"]
    assert totals["llm_calls"] == 0
    assert totals["llm_calls_from_store"] == 2


def test_echo_is_never_stored(tmp_path: Path) -> None:
    with connect(store=str(tmp_path / "store.sqlite")) as con:
        for _ in range(2):
            con.execute("SELECT LLM_MAP('{{ i }}') FROM range(3) r(i)").fetchall()
            assert con.last_profile()["totals"]["llm_calls"] == 3


def test_rollback_undoes_models_and_rows_alike(tmp_path: Path) -> None:
    with halo_sql.connect(str(tmp_path / "d.duckdb"), config={"halo_store": "off"}) as con:
        con.execute("BEGIN")
        con.execute("CREATE MODEL mine FROM 'echo' USING echo")
        con.execute("CREATE TABLE out AS SELECT LLM_MAP('{{ 1 }}', model => mine) AS m")
        assert con.execute("SELECT LLM_MAP('{{ m }}', model => mine) FROM out").fetchall() == [("1",)]
        con.execute("ROLLBACK")
        with pytest.raises(halo_sql.ProgrammingError, match="mine"):
            con.execute("SELECT LLM_MAP('x', model => mine)")
        assert con.execute("SELECT count(*) FROM duckdb_tables() WHERE table_name = 'out'").fetchall() == [(0,)]


def test_models_persist_in_the_database_file(tmp_path: Path) -> None:
    path = str(tmp_path / "d.duckdb")
    with halo_sql.connect(path, config={"halo_store": "off"}) as con:
        con.execute("CREATE MODEL mine FROM 'echo' USING echo")
        con.execute("CREATE PROMPT greet AS 'Hello {{ name }}' WITH (system = 'be kind')")
    with halo_sql.connect(path, read_only=True, config={"halo_store": "off"}) as con:
        query = "SELECT LLM_MAP(greet, model => mine) FROM (VALUES ('Ann')) v(name)"
        assert con.execute(query).fetchall() == [("Hello Ann",)]


def test_batches_stream_before_the_query_is_done() -> None:
    gate = threading.Event()

    def answer(messages: list[dict[str, str]]) -> str:
        if messages[-1]["content"] == "99":
            assert gate.wait(20)
        return messages[-1]["content"]

    with connect(max_concurrency=8) as con:
        con.create_model("m", answer)
        stream = con.stream("SELECT LLM_MAP('{{ i }}', model => m) AS a FROM range(100) r(i)")
        first = next(stream)
        assert first.column(0)[0].as_py() == "0"
        gate.set()
        rest = [value for batch in stream for value in batch.column(0).to_pylist()]
        assert first.column(0).to_pylist() + rest == [str(number) for number in range(100)]


def test_a_script_gives_the_last_result_and_its_errors_point_into_it() -> None:
    with connect() as con:
        script = "CREATE TABLE a AS SELECT 1 AS x; SELECT LLM_MAP('{{ x }}') FROM a; SELECT LLM_MAP('{{ y }}') FROM a"
        with pytest.raises(halo_sql.ProgrammingError) as caught:
            con.execute(script)
        problem = caught.value
        assert script[problem.span.start : problem.span.end] == "y"
        assert con.execute("SELECT x FROM a").fetchall() == [(1,)]


def test_plain_statements_never_touch_our_layers() -> None:
    with connect() as con:
        assert con.execute("SELECT 'llm_map is a word' AS w, 1 AS model").fetchall() == [("llm_map is a word", 1)]
        assert con.last_profile() is None


def test_two_sources_and_a_transaction_see_uncommitted_rows() -> None:
    with connect() as con:
        con.execute(
            "CREATE TABLE a AS SELECT i FROM range(3000) r(i); CREATE TABLE b AS SELECT i FROM range(3000) r(i)"
        )
        con.execute("BEGIN")
        con.execute("INSERT INTO a VALUES (-1)")
        query = """
            SELECT count(*), min(x.m::INT) FROM (SELECT LLM_MAP('{{ i }}') AS m, i FROM a) x
            LEFT JOIN (SELECT LLM_MAP('b{{ i }}') AS m, i FROM b) y ON x.i = y.i
        """
        assert con.execute(query).fetchall() == [(3001, -1)]
        con.execute("ROLLBACK")
        assert con.execute(query).fetchall() == [(3000, 0)]


FORGOTTEN = """
import gc, threading
import halo_sql

def answer(messages):
    return "x"

def forget():
    con = halo_sql.connect(config={"halo_store": "off", "halo_default_model": "echo"})
    con.create_model("m", answer)
    con.execute("SELECT LLM_MAP('{{ i }}', model => m) FROM range(10000) r(i)").fetchone()

forget()
gc.collect()
for thread in threading.enumerate():
    if thread.name == "halo-close":
        thread.join(20)
print("closed" if not any(thread.name == "halo-runtime" for thread in threading.enumerate()) else "still open")
kept = halo_sql.connect(config={"halo_store": "off", "halo_default_model": "echo"})
print(kept.execute("SELECT LLM_MAP('{{ i }}') FROM range(100000) r(i)").fetchone())
"""


def test_connections_nobody_closes_end_quietly() -> None:
    done = subprocess.run([sys.executable, "-c", FORGOTTEN], capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0
    assert done.stdout.splitlines() == ["closed", "('0',)"]
    assert done.stderr == ""
