"""The order of requests, seen through a connection: with a small KV cache it decides what is computed again."""

from __future__ import annotations

from pathlib import Path

import pytest

import halo_sql

PROFILE = (
    "[toy]\nweight_bytes = 300_000\nblock_tok = 4\ncontext_tok = 4000\nmax_num_seqs = 4\n"
    "max_num_batched_tokens = 1000\nprefill_tok_per_s = 1000.0\ndecode_step_s = 0.01\n"
    "memory_bytes = 1_000_000\nkv_tok_bytes = 10\nkv_capacity_tok = 1_200\nstart_s = 40.0\n"
)
QUERY = "SELECT LLM_MAP('{{ body }} Part {{ part }}?', max_tokens => 4) FROM t"


def computed(home: Path, off: str) -> tuple[list[tuple[str]], int]:
    """Rows, and prompt tokens computed, of 200 rows in which 40 long texts stand by turns."""
    (home / "p.toml").write_text(PROFILE)
    with halo_sql.connect(config={"halo_virtual_time": True, "halo_store": "off"}) as con:
        con.create_model(
            "m",
            lambda messages: " ".join(messages[-1]["content"].split()[-3:]),
            engine="emulated",
            profile=f"{home}/p.toml#toy",
            tokenizer="words",
            preloaded=True,
        )
        con.execute("SET halo_default_model = 'm'")
        con.execute(
            "CREATE TABLE t AS SELECT repeat('text' || i % 40 || ' ', 50) AS body, i // 40 AS part FROM range(200) r(i)"
        )
        con.execute(f"SET halo_disabled_rules = '{off}'")
        rows = con.execute(QUERY).fetchall()
        profile = con.last_profile()
        assert profile is not None
        return rows, profile["totals"]["prompt_tok"] - profile["totals"]["prompt_tok_cached"]


def test_prompts_in_the_order_of_their_trie_are_computed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HALO_HOME", str(tmp_path))
    rows, tok = computed(tmp_path, "")
    assert tok < 40 * 60 + 200 * 12, "each text once, and the end of each prompt"
    assert computed(tmp_path, "prefix_cluster") == (rows, tok), "rows need not be clustered,"
    assert computed(tmp_path, "prefix_order") == (rows, tok), "or else requests need not be ordered"
    same_rows, as_they_come_tok = computed(tmp_path, "prefix_cluster,prefix_order")
    assert same_rows == rows
    assert as_they_come_tok > 3 * tok
