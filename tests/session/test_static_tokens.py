"""Plans of a model that has run know its tokens: what EXPLAIN expects is what the engine reports."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import halo_sql
from halo_sql.engines.emulated import EmulatedEngine
from halo_sql.replay import dump, load, replay

SETUP = """
CREATE TABLE t AS SELECT i AS id, 'thing' || i AS word, 'kind' || i % 3 AS kind, i % 2 = 0 AS even FROM range(12) r(i)
"""
OPTIONS = {"tokenizer": "words", "preloaded": True}
STATEMENTS = (
    "SELECT LLM_MAP('Now tell a long story of {{ word }}', max_tokens => 8) FROM t",
    "SELECT LLM_MAP('{{ word }}, tell a long story of it', system => 'You know of many things and of more') FROM t",
    "SELECT LLM_MAP('Of {{ kind }} tell this: {{ word }}, but be quick', max_tokens => 8) FROM t",
    "SELECT id FROM t WHERE LLM_FILTER('Is {{ word }} a word that one may say?')",
    "SELECT LLM_MAP('Say something of this object: {{ kind, word }}', max_tokens => 8) FROM t",
    "SELECT LLM_MAP('One and the same for all of them', max_tokens => 8) FROM t",
)


@pytest.fixture
def con(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("HALO_HOME", str(tmp_path))
    (tmp_path / "p.toml").write_text(
        "[toy]\nblock_tok = 4\ncontext_tok = 4000\nmax_num_seqs = 4\nmax_num_batched_tokens = 1000\n"
        "prefill_tok_per_s = 1000.0\ndecode_step_s = 0.01\nmemory_bytes = 1_000_000\nkv_tok_bytes = 10\n"
        "weight_bytes = 100_000\nwake_bytes_per_s = 100_000.0\nstart_s = 40.0\nload_bytes_per_s = 50_000.0\n"
    )
    config = {"halo_virtual_time": True, "halo_store": "off", "halo_learn": False}
    with halo_sql.connect(config=config) as connection:
        made = {"engine": "emulated", "profile": f"{tmp_path}/p.toml#toy", **OPTIONS}
        connection.create_model("toy", lambda messages: "yes", **made)
        connection.execute("SET halo_default_model = 'toy'")
        connection.execute(SETUP)
        yield connection


def run(con: Any, statement: str) -> tuple[float, float]:
    """Prompt tokens and those of them in the cache, as the engine reports them."""
    con.execute(statement).fetchall()
    totals = con.session.last_profile().totals()
    return totals["prompt_tok"], totals["prompt_tok_cached"]


@pytest.mark.parametrize("statement", STATEMENTS)
def test_tokens_in_the_cache_are_foreseen(con: Any, statement: str) -> None:
    con.execute("SELECT LLM_MAP('warm {{ word }}') FROM t LIMIT 1").fetchall()
    guesses = [node.estimate for node in con.session.compile(statement).dag.nodes]
    calls = sum(guess.llm_calls for guess in guesses)
    prompt_tok, cached_tok = run(con, statement)
    assert sum(guess.prompt_tok_cached for guess in guesses) == pytest.approx(cached_tok, abs=4 * calls)
    assert sum(guess.prompt_tok for guess in guesses) == pytest.approx(prompt_tok, rel=0.2)


def test_a_model_that_has_not_run_is_not_asked(con: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    usual = EmulatedEngine.prompt_ids
    monkeypatch.setattr(EmulatedEngine, "prompt_ids", lambda self, requests: asked.append(requests))
    con.session.compile(STATEMENTS[0])
    assert asked == []
    assert con.session.compile(STATEMENTS[0]).problem.surveyed.static == {}
    monkeypatch.setattr(EmulatedEngine, "prompt_ids", usual)
    run(con, STATEMENTS[0])
    assert con.session.compile(STATEMENTS[0]).problem.surveyed.static


def test_other_definitions_of_a_model_are_other_engines(con: Any, tmp_path: Path) -> None:
    run(con, STATEMENTS[0])
    made = {"engine": "emulated", "profile": f"{tmp_path}/p.toml#toy", "device": "d", **OPTIONS}
    con.create_model("toy", lambda messages: "no", **made)
    assert not con.session.compile(STATEMENTS[0]).problem.surveyed.static


def test_a_dump_repeats_it_without_the_engine(con: Any) -> None:
    statement = STATEMENTS[2]
    run(con, statement)
    text = dump(con.session.compile(statement), statement)
    assert dump(con.session.compile(statement), statement) == text
    (minidump,) = load(text)
    assert minidump.problem.surveyed.static
    assert replay(minidump).differences == ()


def test_fused_and_reordered_prompts_are_counted_as_they_are_sent(con: Any) -> None:
    run(con, STATEMENTS[0])
    values = "repeat('thing ' || i, 40) AS word, repeat('kind ' || i % 3, 40) AS kind"
    con.execute(f"CREATE TABLE u AS SELECT {values} FROM range(60) r(i)")
    call = "LLM_MAP('Say the {} of {{{{ word, kind }}}}', fuse => true)"
    statement = f"SELECT {call.format('colour')}, {call.format('size')} FROM u"
    assert "fused 2 calls" in con.explain(statement)
    heads = [head for _, _, head, _ in con.session.compile(statement).problem.surveyed.static]
    assert any("size" in head and head.endswith('{"kind": ') for head in heads)
    assert not any(head.endswith('{"word": ') for head in heads)
