"""EXPLAIN of LLM_REDUCE and LLM_RANK: variants, estimates, what ANALYZE counts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

import halo_sql


@pytest.fixture
def connection() -> Iterator[halo_sql.Connection]:
    with halo_sql.connect(config={"halo_store": "off", "halo_default_model": "echo"}) as made:
        made.execute(
            "CREATE TABLE t AS SELECT range AS id, range % 3 AS g, 'text ' || range % 4 AS body FROM range(12)"
        )
        yield made


def nodes(found: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The nodes of a JSON plan by operator."""
    stack, named = [found["plan"]], {}
    while stack:
        node = stack.pop()
        named[node["operator_name"]] = node
        stack += node["children"]
    return named


def test_a_reduction_shows_its_variant_and_levels(connection: halo_sql.Connection) -> None:
    text = connection.explain("SELECT LLM_REDUCE('Sum', body, fan_in => 4) FROM t")
    assert "tree fold · fan_in=~4 of ~12 · levels=~2" in text
    assert "one shot · fan_in=~12 of ~12 · levels=~1" in connection.explain("SELECT LLM_REDUCE('Sum', body) FROM t")
    sql = "EXPLAIN (FORMAT json) SELECT LLM_REDUCE('Sum', body, fan_in => 4) FROM t"
    info = nodes(json.loads(connection.execute(sql).fetchall()[0][1]))["LlmReduce"]
    assert info["extra_info"]["fan_in"] == "~4 of ~12"
    assert info["llm_calls_estimated"] == 4


def test_analyze_counts_the_requests_of_all_levels(connection: halo_sql.Connection) -> None:
    found = connection.explain(
        "SELECT g, LLM_REDUCE('', body, fan_in => 2) FROM t GROUP BY g", analyze=True, format="json"
    )
    node = nodes(json.loads(found))["LlmReduce"]
    # 4 items in each of 3 groups: two parts, then their answers; equal parts are asked once
    assert node["rows"] == 3
    assert (node["llm_calls"], node["llm_calls_coalesced"]) == (7, 2)
    assert node["prompt_tok"] > 0
    assert node["errors"] == 0


def test_equal_groups_share_a_request(connection: halo_sql.Connection) -> None:
    connection.execute("SELECT id, LLM_REDUCE('', g) FROM t GROUP BY id").fetchall()
    totals = connection.last_profile()["totals"]
    assert (totals["llm_calls"], totals["llm_calls_coalesced"]) == (3, 9)


@pytest.mark.parametrize(("method", "calls"), [("score", 4), ("tournament", 3)])
def test_a_top_k_shows_its_method_and_counts_its_calls(
    connection: halo_sql.Connection, method: str, calls: int
) -> None:
    sql = f"SELECT id FROM t ORDER BY LLM_RANK('{{{{ body }}}}', method => '{method}') DESC, id LIMIT 2"
    assert f'LlmTopK  LLM_RANK(echo, "{{body#3}}") · 2 descending · method={method}' in connection.explain(sql)
    node = nodes(json.loads(connection.explain(sql, analyze=True, format="json")))["LlmTopK"]
    assert (node["rows"], node["llm_calls"]) == (2, calls)


def test_progress_and_queries_know_the_operators(connection: halo_sql.Connection) -> None:
    listed = dict(connection.execute("SELECT name, places FROM halo_operators()").fetchall())
    assert listed["LLM_REDUCE"] == "aggregate"
    assert listed["LLM_RANK"] == "sort_key"
    assert listed["TOOL"] == listed["AGENT"] == "scalar, table"
    rules = {name for (name,) in connection.execute("SELECT name FROM halo_rules()").fetchall()}
    assert {"llm_reduce_one_shot", "llm_reduce_tree_fold", "llm_top_k_score", "top_k_below_llm"} <= rules
