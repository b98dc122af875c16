"""Prefix clustering through SQL: chosen when the KV cache is too small for the prompts; the same rows either way."""

from __future__ import annotations

import pytest

import halo_sql
from halo_sql.engines.protocol import EngineInfo

QUERY = "SELECT i, LLM_MAP('{{ doc }} and {{ q }}') AS m FROM t"
SMALL = EngineInfo("echo", kv_capacity_tok=4_000, window_requests=32)
LARGE = EngineInfo("echo", kv_capacity_tok=4_000_000, window_requests=32)


@pytest.fixture
def con() -> halo_sql.Connection:
    with halo_sql.connect(config={"halo_store": "off", "halo_default_model": "echo"}) as connection:
        connection.execute(
            "CREATE TABLE t AS SELECT i, repeat('shared text ' || (hash(i) % 40) || ' ', 40) AS doc, "
            "'question ' || (i % 7) AS q FROM range(4000) r(i)"
        )
        yield connection


def explain(con: halo_sql.Connection, query: str, info: EngineInfo | None) -> str:
    """The plan as it is once the engine has said what it is."""
    con.session.engine_infos.clear()
    if info is not None:
        con.session.engine_infos["echo"] = info
    return con.explain(query)


def test_rows_are_clustered_by_the_long_value_when_the_cache_is_small(con: halo_sql.Connection) -> None:
    plan = explain(con, QUERY, SMALL)
    assert "PrefixCluster  by=doc" in plan
    assert "RestoreOrder" in plan
    assert "~280 calls" in plan  # 40 documents, 7 questions: from a sample of the columns


def test_not_when_the_cache_holds_everything_or_nothing_is_known(con: halo_sql.Connection) -> None:
    assert "PrefixCluster" not in explain(con, QUERY, LARGE)
    assert "PrefixCluster" not in explain(con, QUERY, None)


def test_not_when_a_limit_reads_the_first_rows_only(con: halo_sql.Connection) -> None:
    assert "PrefixCluster" not in explain(con, QUERY + " LIMIT 20", SMALL)


def test_the_rule_can_be_disabled(con: halo_sql.Connection) -> None:
    con.execute("SET halo_disabled_rules = 'prefix_cluster'")
    assert "PrefixCluster" not in explain(con, QUERY, SMALL)


def test_the_same_rows_in_the_same_order(con: halo_sql.Connection) -> None:
    assert "PrefixCluster" in explain(con, QUERY, SMALL)
    clustered = con.execute(QUERY).fetchall()
    assert con.last_profile()["totals"]["llm_calls"] == 280
    con.execute("SET halo_optimizer = 'off'")
    assert con.execute(QUERY).fetchall() == clustered
    assert [row[0] for row in clustered] == list(range(4000))
