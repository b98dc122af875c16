"""CALIBRATE MODEL through connections: measured, kept, listed, used by plans, refined by queries, never in the way."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest

import halo_sql
from halo_sql.errors import EngineError, InterruptedQueryError

TOKEN_S = 2e-4  # a sleep is much longer than its error


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HALO_HOME", str(tmp_path))
    return tmp_path


def slow(messages: list[dict[str, str]]) -> str:
    """Takes its time by the length of the prompt."""
    time.sleep(0.001 + TOKEN_S * sum(len(message["content"]) for message in messages) / 4)
    return "yes"


def connect(fn: Any = slow, **options: object) -> halo_sql.Connection:
    con = halo_sql.connect(config={"halo_store": "off", "halo_default_model": "m"})
    con.create_model("m", fn, **{"concurrency": 1, **options})
    con.execute("CREATE TABLE t AS SELECT range AS id, repeat('word ', 40) || range AS body FROM range(50)")
    return con


QUERY = "SELECT LLM_MAP('Say yes to {{ body }}', max_tokens => 4) FROM t"


def costs(con: halo_sql.Connection) -> str:
    return str(con.execute("EXPLAIN (COSTS) " + QUERY).fetchall()[0][1])


def test_measured_kept_listed_and_used(home: Path) -> None:
    con = connect()
    assert con.execute("FROM halo_calibrations()").fetchall() == []
    assert "m: prefill 5,000 tok/s" in costs(con)
    assert costs(con).endswith("; assumed")
    result = con.execute("CALIBRATE MODEL m")
    names = [column[0] for column in result.description]
    [found] = [dict(zip(names, row, strict=True)) for row in result.fetchall()]
    assert (found["model"], found["engine"], found["device"]) == ("m", "python", "cpu")
    assert 0 < found["prefill_tok_per_s"] <= 1.2 / TOKEN_S
    assert found["probes"] >= 7
    assert found["queries"] == 0
    assert len(list((home / "calibrations").glob("*.json"))) == 1
    [kept] = con.execute("SELECT model, prefill_tok_per_s, created <= now() FROM halo_calibrations()").fetchall()
    assert kept == ("m", found["prefill_tok_per_s"], True)
    assert "; calibrated on cpu (±" in costs(con)
    other = connect()  # another session with the same function: nothing has run there yet
    assert "; calibrated on cpu (±" in costs(other)
    changed = connect(lambda messages: "no")
    changed.execute("SELECT LLM_MAP('x')").fetchall()  # now it is known that it is another function
    assert costs(changed).endswith("; assumed")


def test_queries_refine_it(home: Path) -> None:
    factor = 1.0

    def model(messages: list[dict[str, str]]) -> str:
        time.sleep(factor * (0.005 + TOKEN_S / 4 * sum(len(message["content"]) for message in messages)))
        return "yes"

    con = connect(model)
    con.execute("CALIBRATE MODEL m").fetchall()
    factor = 4.0
    con.execute(QUERY).fetchall()
    [(pace, queries)] = con.execute("SELECT pace, queries FROM halo_calibrations()").fetchall()
    assert queries == 1
    assert 1.02 < pace < 1.15  # however much slower, one query moves it by a seventh
    assert "of 1 queries)" in costs(con)
    con.execute("SELECT LLM_MAP('x')").fetchall()  # too little to tell
    assert con.execute("SELECT queries FROM halo_calibrations()").fetchall() == [(1,)]


def test_a_damaged_calibration_is_a_warning_and_nothing_else(home: Path) -> None:
    con = connect()
    con.execute("CALIBRATE MODEL m").fetchall()
    [path] = (home / "calibrations").glob("*.json")
    path.write_text("{")
    fresh = connect()
    assert len(fresh.execute(QUERY).fetchall()) == 50
    assert len(fresh.execute(QUERY).fetchall()) == 50
    assert [warning for warning in fresh.session.warnings if str(path) in warning] == [
        f"the calibration {path} cannot be read: run CALIBRATE MODEL again, or delete it"
    ]
    assert fresh.execute("FROM halo_calibrations()").fetchall() == []
    assert costs(fresh).endswith("; assumed")
    con.execute("CALIBRATE MODEL m").fetchall()
    assert len(fresh.execute("FROM halo_calibrations()").fetchall()) == 1


def test_a_folder_that_cannot_be_written_is_a_warning(home: Path) -> None:
    (home / "calibrations").write_text("in the way")
    con = connect()
    [row] = con.execute("SELECT 1").fetchall()
    assert row == (1,)
    assert len(con.execute("CALIBRATE MODEL m").fetchall()) == 1
    assert any("could not be kept" in warning for warning in con.session.warnings)
    assert len(con.execute(QUERY).fetchall()) == 50


def test_a_failing_model_fails_it(home: Path) -> None:
    def broken(messages: list[dict[str, str]]) -> str:
        raise ValueError("no")

    con = connect(broken)
    with pytest.raises(EngineError, match="ValueError: no"):
        con.execute("CALIBRATE MODEL m")
    assert con.execute("FROM halo_calibrations()").fetchall() == []


def test_limits_hold_for_the_probes(home: Path) -> None:
    con = connect()
    con.execute("SET halo_max_calls = 3")
    with pytest.raises(EngineError, match="halo_max_calls"):
        con.execute("CALIBRATE MODEL m")


def test_it_can_be_interrupted(home: Path) -> None:
    entered = threading.Event()

    async def stuck(messages: list[dict[str, str]]) -> str:
        import asyncio

        entered.set()
        await asyncio.sleep(60)
        return "yes"

    con = connect(stuck)
    timer = threading.Thread(target=lambda: (entered.wait(60), con.interrupt()))
    timer.start()
    began = time.perf_counter()
    with pytest.raises(InterruptedQueryError):
        con.execute("CALIBRATE MODEL m")
    timer.join()
    assert time.perf_counter() - began < 50
    assert con.execute("SELECT 1").fetchall() == [(1,)]


def test_explain_says_when_a_limit_is_not_expected_to_hold(home: Path) -> None:
    con = connect()
    prices = "model = 'x', price_in = 1, price_out = 2"
    con.execute(f"CREATE MODEL hosted FROM 'http://127.0.0.1:9/v1' USING openai WITH ({prices})")
    query = "EXPLAIN SELECT LLM_MAP('Say yes to {{ body }}', model => 'hosted', max_tokens => 4) FROM t"

    def notes() -> list[str]:
        lines = str(con.execute(query).fetchall()[0][1]).splitlines()
        return [line for line in lines if line.startswith("Note: ")]

    assert notes() == []
    con.execute("SET halo_max_usd = 1")
    con.execute("SET halo_max_tokens = 100000")
    assert notes() == []
    con.execute("SET halo_max_usd = 0.0005")
    [note] = notes()
    assert note.startswith("Note: estimated 0.00")
    assert note.endswith(" usd is above halo_max_usd 0.0005")
    con.execute("RESET halo_max_usd")
    con.execute("SET halo_max_tokens = 100")
    [note] = notes()
    assert note.endswith(" tokens is above halo_max_tokens 100")
