"""Statements over models with several workers: the plan chooses among them, and calls go where it says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import halo_sql

PROFILE = (
    "block_tok = 4\ncontext_tok = 4000\nmax_num_seqs = 8\nmax_num_batched_tokens = 1000\nprefill_tok_per_s = 1000.0\n"
    "decode_step_s = 0.01\nmemory_bytes = 1_000_000\nkv_tok_bytes = 10\nkv_capacity_tok = 10_000\nstart_s = 40.0\n"
)
QUERY = (
    "SELECT LLM_MAP('{{ x }} and {{ y }}', model => 'judge') FROM (SELECT LLM_MAP('say {{ body }}', model => 'left') "
    "AS x, LLM_MAP('tell {{ body }}', model => 'right') AS y FROM t)"
)


@pytest.fixture
def con(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[halo_sql.Connection]:
    """Three models, each with a worker on each of two devices, which hold two of them at a time."""
    monkeypatch.setenv("HALO_HOME", str(tmp_path))
    (tmp_path / "p.toml").write_text(f"[toy]\nweight_bytes = 300_000\n{PROFILE}")
    with halo_sql.connect(config={"halo_virtual_time": True, "halo_store": "off"}) as connection:
        for name in ("left", "right", "judge"):
            connection.execute(
                f"CREATE MODEL {name} FROM '{tmp_path}/p.toml#toy' USING emulated WITH (tokenizer = 'words', "
                "workers = 2, device = 'gpu0, gpu1', preloaded = true)"
            )
        connection.execute("CREATE TABLE t AS SELECT 'row number ' || i AS body FROM range(40) r(i)")
        yield connection


def chosen(text: str) -> dict[str, set[int]]:
    """Model -> the numbers of its workers in an EXPLAIN text."""
    found: dict[str, set[int]] = {}
    for part in text.replace(" · ", "\n").split("\n"):
        if part.startswith("worker="):
            for name in part.removeprefix("worker=").split(","):
                model, _, number = name.partition("/")
                found.setdefault(model, set()).add(int(number))
    return found


def test_models_of_one_node_are_put_on_devices_of_their_own(con: halo_sql.Connection) -> None:
    text = con.explain(QUERY)
    placed = chosen(text)
    assert set(placed) == {"left", "right", "judge"}
    assert placed["left"] | placed["right"] == {0, 1}, "side by side"
    assert "Note: placed on 2 devices" in text
    assert text == con.explain(QUERY), "the same plan each time"


def test_calls_go_where_the_plan_says(con: halo_sql.Connection) -> None:
    placed = chosen(con.explain(QUERY))
    assert len(con.execute(QUERY).fetchall()) == 40
    profile = con.last_profile()
    assert profile is not None
    asked = {name: did["requests"] for name, did in profile["workers"].items()}
    for model, numbers in placed.items():
        assert sum(asked[f"{model}/{number}"] for number in numbers) == 40, asked
        assert all(asked[f"{model}/{number}"] == 0 for number in {0, 1} - numbers), asked


def test_without_placement_all_workers_may_answer(con: halo_sql.Connection) -> None:
    rows = con.execute(QUERY).fetchall()
    con.execute("SET halo_disabled_rules = 'placement'")
    text = con.explain(QUERY)
    assert "placed on" not in text
    assert "Note: rule disabled: placement" in text
    assert chosen(text) == {"left": {0, 1}, "right": {0, 1}, "judge": {0, 1}}
    assert con.execute(QUERY).fetchall() == rows
    profile = con.last_profile()
    assert profile is not None
    assert "replans" not in profile
    assert all(did["requests"] for did in profile["workers"].values())


def test_a_calibration_is_of_one_worker(con: halo_sql.Connection, tmp_path: Path) -> None:
    con.create_model(
        "pair",
        lambda messages: "yes " * 50,
        engine="emulated",
        profile=f"{tmp_path}/p.toml#toy",
        tokenizer="words",
        workers=2,
        device="gpu2, gpu3",
        preloaded=True,
    )
    con.execute("CALIBRATE MODEL pair")
    query = "SELECT prefill_tok_per_s, batch_requests, kv_capacity_tok FROM halo_calibrations()"
    prefill_tok_per_s, batch, capacity_tok = con.execute(query).fetchall()[0]
    assert 900 < prefill_tok_per_s < 1100
    assert (batch, capacity_tok) == (8, 10_000)
    con.execute("SELECT LLM_MAP('{{ body }}', model => 'pair') FROM t").fetchall()
    asked = con.execute("SELECT worker, count(*) FROM halo_calls() GROUP BY ALL").fetchall()
    assert sum(count for _, count in asked) == 40


def test_workers_come_to_their_devices_one_by_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Two models of which a device holds one: each works on a device of its own, at the same time."""
    monkeypatch.setenv("HALO_HOME", str(tmp_path))
    (tmp_path / "p.toml").write_text(f"[toy]\nweight_bytes = 800_000\n{PROFILE}")
    with halo_sql.connect(config={"halo_virtual_time": True, "halo_store": "off"}) as con:
        for name in ("left", "right"):
            con.create_model(
                name,
                lambda messages: "yes " * 100,
                engine="emulated",
                profile=f"{tmp_path}/p.toml#toy",
                tokenizer="words",
                workers=2,
                device="gpu0, gpu1",
                preloaded=True,
            )
        query = (
            "SELECT LLM_MAP('say {{ body }}', model => 'left'), LLM_MAP('tell {{ body }}', model => 'right') FROM "
            "(SELECT 'row ' || i AS body FROM range(400) r(i))"
        )
        con.execute(query).fetchall()
        busy_s = {
            (tenant.name, device.name): sum(end_s - begin_s for begin_s, end_s in tenant.times.busy)
            for device in con._link.open().devices()
            for tenant in device.tenants()
        }
        profile = con.last_profile()
        assert profile is not None
        assert sum(busy_s.values()) > 1.6 * profile["totals"]["elapsed_s"], "side by side"
        assert all(min(busy_s["left", at], busy_s["right", at]) == 0 for at in ("gpu0", "gpu1")), busy_s
