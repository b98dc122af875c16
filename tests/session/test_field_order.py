"""The order of object holes' fields through SQL: fewer tokens to compute, the same rows, the same order every time."""

from __future__ import annotations

import json
import re
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import halo_sql
from halo_sql import sampling
from halo_sql.engines.protocol import EngineInfo
from halo_sql.ir.prefix import trie_tokens

SETUP = """
CREATE TABLE films AS SELECT i AS film, 'Film ' || i AS title, 'director ' || (i % 9) AS director,
    repeat('what happens in film ' || i || ' ', 6) AS plot FROM range(20) r(i);
CREATE TABLE reviews AS SELECT i AS id, (i * 7) % 23 AS film,
    CASE WHEN i % 10 = 3 THEN NULL ELSE 'paper ' || (i % 5) END AS paper,
    'what I thought, number ' || hash(i) AS review FROM range(600) r(i)
"""
JOINED = "reviews r JOIN films f USING (film)"
TEMPLATE = "{{ r.review, f.title, f.plot, f.director }}"


@pytest.fixture
def con() -> halo_sql.Connection:
    with halo_sql.connect(
        config={"halo_store": "off", "halo_default_model": "echo", "halo_verify": True}
    ) as connection:
        connection.execute(SETUP)
        yield connection


def keys_of(con: halo_sql.Connection, query: str) -> list[str]:
    """The names of the fields in the first row's prompt."""
    return list(json.loads(con.execute(query).fetchone()[0]))


def test_prompts_of_a_join_begin_with_what_rows_share(con: halo_sql.Connection) -> None:
    asked: dict[str, list[str]] = {"on": [], "off": []}
    lock = threading.Lock()
    for optimizer, prompts in asked.items():

        def answer(messages: list[dict[str, str]], prompts: list[str] = prompts) -> str:
            with lock:
                prompts.append(messages[-1]["content"])
            return "good"

        con.create_model(f"critic_{optimizer}", answer)
        con.execute(f"SET halo_optimizer = '{optimizer}'")
        con.execute(f"SELECT LLM_MAP('{TEMPLATE}', model => 'critic_{optimizer}') FROM {JOINED}").fetchall()
    same = [Counter(json.dumps(json.loads(text), sort_keys=True) for text in prompts) for prompts in asked.values()]
    assert same[0] == same[1]
    assert len(asked["on"]) > 500
    computed = {optimizer: trie_tokens(prompts, 64) for optimizer, prompts in asked.items()}  # blocks of 16 tokens
    assert computed["on"] <= 0.6 * computed["off"]


STATEMENTS = [
    f"SELECT LLM_MAP('About {TEMPLATE}!') AS m FROM {JOINED}",
    "SELECT LLM_MAP('About {{ * }}!') AS m FROM reviews",
    f"SELECT LLM_MAP('About {{{{ r.* }}}}!') AS m FROM {JOINED}",
    f"SELECT CASE WHEN id % 3 = 0 THEN LLM_MAP('About {TEMPLATE}!') END AS m FROM {JOINED}",
    f"SELECT LLM_MAP('About {TEMPLATE}!') AS m FROM {JOINED} WHERE LLM_FILTER('{{{{ id % 2 = 0 }}}}') ORDER BY id DESC",
    f"WITH c AS (SELECT id, LLM_MAP('About {TEMPLATE}!') AS m FROM {JOINED}) SELECT a.m FROM c a JOIN c b USING (id)",
    "SELECT LLM_MAP('About {{ paper, plus }}!') AS m FROM (SELECT paper, LLM_MAP('{{ review }}') AS plus FROM reviews)",
    "SELECT LLM_MAP('About {{ review, paper }}!') AS m FROM reviews UNION ALL "
    "SELECT LLM_MAP('About {{ review, paper }}!') FROM (SELECT * FROM reviews WHERE id < 50)",
    "SELECT LLM_REDUCE('About {{ paper, film }}!', review ORDER BY id) AS m FROM reviews GROUP BY paper, film",
]


@pytest.mark.parametrize("query", STATEMENTS)
def test_the_same_rows_but_for_the_order_of_fields(con: halo_sql.Connection, query: str) -> None:
    def rows() -> tuple[list[Any], int]:
        found = [row[0] for row in con.execute(query).fetchall()]
        values = []
        for text in found:
            body, mark, rest = (text or "About null!").removeprefix("About ").partition("!")
            values.append(json.dumps([json.loads(body), mark, rest], sort_keys=True))
        return values, con.last_profile()["totals"]["llm_calls"]

    optimized, calls = rows()
    con.execute("SET halo_optimizer = 'off'")
    written, most = rows()
    assert len(optimized) > 100
    assert Counter(optimized) == Counter(written)
    assert calls <= most
    con.execute("SET halo_optimizer = 'on'; SET halo_disabled_rules = 'order_object_fields'")
    assert Counter(rows()[0]) == Counter(written)


def test_explain_shows_order_and_reason(con: halo_sql.Connection) -> None:
    query = f"SELECT LLM_MAP('{TEMPLATE}') FROM {JOINED}"
    plan = con.explain(query)
    assert '"{title: title#' in plan
    assert "Note: fields of LLM_MAP(" in plan
    assert " in the order title, plot, director, review: " in plan
    assert "fewer prompt tokens in a sample of 522 rows" in plan
    con.execute("SET halo_disabled_rules = 'order_object_fields'")
    assert '"{review: review#' in con.explain(query)
    con.execute("RESET halo_disabled_rules; SET halo_optimizer = 'off'")
    assert '"{review: review#' in con.explain(query)


def test_the_example_of_the_docs(con: halo_sql.Connection) -> None:
    text = (Path(__file__).parents[2] / "docs" / "optimizer.md").read_text(encoding="utf-8")
    found = re.search(r"```sql\n(CREATE TABLE talks.*?;)\nEXPLAIN (.*?);\n```\n\n```text\n(.*?)\n```", text, re.DOTALL)
    assert found is not None
    con.execute(found[1])
    plan = con.explain(found[2])
    assert [line for line in found[3].splitlines() if line not in plan] == []


def test_the_order_is_the_same_whatever_the_statement_adds(con: halo_sql.Connection) -> None:
    call = f"SELECT LLM_MAP('{TEMPLATE}') AS m FROM {JOINED}"
    order = keys_of(con, call)
    assert order == ["title", "plot", "director", "review"]
    for tail in ("", " LIMIT 3", " WHERE id < 40", " WHERE paper = 'paper 2' ORDER BY id DESC", " WHERE film = 4"):
        assert keys_of(con, call + tail) == order
    con.execute("INSERT INTO reviews SELECT 1000 + i, i % 20, 'paper', 'more ' || i FROM range(60) r(i)")
    assert keys_of(con, call) == order
    con.execute("UPDATE reviews SET paper = NULL WHERE id % 4 = 0; DELETE FROM reviews WHERE id % 9 = 1")
    assert keys_of(con, call) == order


def test_the_order_does_not_depend_on_threads(con: halo_sql.Connection) -> None:
    con.execute(
        "CREATE TABLE many AS SELECT i AS id, hash(i) % 5000 AS film, hash(i)::TEXT AS review FROM range(300000) r(i)"
    )
    con.execute("CREATE TABLE more AS SELECT i AS film, 'title ' || i AS title, hash(i) % 9 AS x FROM range(4000) r(i)")
    query = "SELECT LLM_MAP('{{ * }}') FROM many JOIN more USING (film)"
    plans = set()
    for threads in (1, 2, 8, 8):
        con.execute(f"SET threads = {threads}")
        plans.add(con.explain(query))
    assert len(plans) == 1
    assert "in the order film, title, x, id, review" in plans.pop()


def test_sources_that_must_not_be_read_twice_keep_the_written_order(con: halo_sql.Connection) -> None:
    con.execute("CREATE SEQUENCE s; CREATE VIEW v AS SELECT nextval('s') AS n, title FROM films, reviews")
    con.create_function("mine", lambda number: number, ["BIGINT"], "BIGINT")
    for source in (
        "v",
        "(SELECT mine(id) AS n, title FROM reviews JOIN films USING (film))",
        "(FROM v USING SAMPLE 50%)",
    ):
        assert "Note: fields" not in con.explain(f"SELECT LLM_MAP('{{{{ n, title }}}}') FROM {source}")
    assert con.execute("SELECT nextval('s')").fetchone()[0] == 1
    assert "Note: fields" in con.explain("SELECT LLM_MAP('{{ id, title }}') FROM reviews JOIN films USING (film)")


def test_of_large_sources_only_tables_are_read(con: halo_sql.Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "MOST_ROWS", 200)
    assert "Note: fields" not in con.explain(f"SELECT LLM_MAP('{TEMPLATE}') FROM {JOINED}")
    assert "Note: fields" not in con.explain("SELECT LLM_MAP('{{ id, paper }}') FROM (FROM reviews ORDER BY review)")
    con.execute("CREATE TABLE seen AS SELECT review, repeat(title, 9) AS title FROM reviews JOIN films USING (film)")
    assert "in the order title, review" in con.explain("SELECT LLM_MAP('{{ review, title }}') FROM seen")


def test_arms_that_are_not_sampled_follow_those_that_are(con: halo_sql.Connection) -> None:
    arm = f"SELECT LLM_MAP('{TEMPLATE}') AS m FROM {JOINED} WHERE id ="
    rows = con.execute(" UNION ALL ".join(f"{arm} {number}" for number in range(20, 40))).fetchall()
    assert {tuple(json.loads(text)) for (text,) in rows} == {("title", "plot", "director", "review")}


def test_a_source_that_fails_fails_when_it_runs(con: halo_sql.Connection) -> None:
    query = "SELECT LLM_MAP('{{ id, n }}') FROM (SELECT id, review::INTEGER AS n FROM reviews)"
    assert "LlmMap" in con.explain(query)
    with pytest.raises(halo_sql.Error, match="Could not convert"):
        con.execute(query).fetchall()


def test_rows_are_clustered_by_the_leading_fields_when_the_cache_is_small(con: halo_sql.Connection) -> None:
    query = f"SELECT id, LLM_MAP('{TEMPLATE}') AS m FROM {JOINED} ORDER BY id"
    con.session.engine_infos["echo"] = EngineInfo("echo", kv_capacity_tok=4_000, window_requests=32)
    assert "PrefixCluster  by=title" in con.explain(query)
    rows = [(number, json.loads(text)) for number, text in con.execute(query).fetchall()]
    con.execute("SET halo_optimizer = 'off'")
    assert rows == [(number, json.loads(text)) for number, text in con.execute(query).fetchall()]


def test_answers_are_found_again(tmp_path: Path) -> None:
    asked: list[str] = []

    def answer(messages: list[dict[str, str]]) -> str:
        asked.append(messages[-1]["content"])
        return "good"

    with halo_sql.connect(config={"halo_store": str(tmp_path / "store")}) as connection:
        connection.execute(SETUP)
        connection.create_model("critic", answer, storable=True)
        query = f"SELECT LLM_MAP('{TEMPLATE}', model => 'critic') FROM {JOINED}"
        connection.execute(f"{query} WHERE id < 90").fetchall()
        first = len(asked)
        connection.execute(query).fetchall()
        assert len(asked) == len(set(asked)) == connection.execute(f"SELECT count(*) FROM {JOINED}").fetchone()[0]
        assert first > 0
