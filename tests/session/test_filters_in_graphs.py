"""Filters between calls: rows pass them on their own, so that chains end sooner with the same rows and calls."""

from __future__ import annotations

import random
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import halo_sql

OFF = "SET halo_disabled_rules = 'row_graph'"
PROFILE = (
    "[toy]\nweight_bytes = 300_000\nblock_tok = 4\ncontext_tok = 4000\nmax_num_seqs = 8\n"
    "max_num_batched_tokens = 1000\nprefill_tok_per_s = 1000.0\ndecode_step_s = 0.01\nmemory_bytes = 1_000_000\n"
    "kv_tok_bytes = 10\nkv_capacity_tok = 10_000\nstart_s = 40.0\n"
)
SAY = "(SELECT i, body, LLM_MAP('say {{ body }}', model => 'a', max_tokens => 1000) AS x FROM t)"
TELL = "SELECT i, LLM_MAP('tell {{ x }}', model => 'b', max_tokens => 1000) AS y FROM "
CHAINS = {
    "filter": f"{TELL}{SAY} WHERE LLM_FILTER('good {{{{ x }}}}?', model => 'c')",
    "two filters": (
        f"{TELL}{SAY} WHERE LLM_FILTER('good {{{{ x }}}}?', model => 'c') AND LLM_FILTER('nice {{{{ x }}}}?')"
    ),
    "condition": f"{TELL}{SAY} WHERE (length(x) + i) % 3 > 0",
    "filter below": f"{TELL}(SELECT i, x FROM {SAY[:-1]} WHERE LLM_FILTER('good {{{{ body }}}}?', model => 'c')))",
}


ASKED: list[str] = []


def unequal(text: str) -> str:
    """Every eighth answer is thirty times as long as the others; questions are answered yes for two of three rows."""
    ASKED.append(text)
    number = zlib.crc32(text.encode())
    if "?" in text:
        return "yes" if number % 3 else "no"
    return " ".join([*text.split()[:3], *["word"] * (300 if number % 8 == 0 else 10)])


Connect = Callable[[bool, int], halo_sql.Connection]


@pytest.fixture
def connect(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Connect]:
    """Connections with three models, a device each, and a table; row graphs on or off."""
    monkeypatch.setenv("HALO_HOME", str(tmp_path))
    (tmp_path / "p.toml").write_text(PROFILE)
    made: list[halo_sql.Connection] = []

    def opened(graph: bool, rows: int = 100) -> halo_sql.Connection:
        con = halo_sql.connect(
            config={"halo_virtual_time": True, "halo_store": "off", "halo_learn": False, "halo_default_model": "a"}
        )
        made.append(con)
        for name, device in (("a", "gpu0"), ("b", "gpu1"), ("c", "gpu2")):
            con.create_model(
                name,
                lambda messages: unequal(messages[-1]["content"]),
                engine="emulated",
                profile=f"{tmp_path}/p.toml#toy",
                tokenizer="words",
                device=device,
                preloaded=True,
            )
        con.execute(f"CREATE TABLE t AS SELECT i, 'row ' || i AS body FROM range({rows}) r(i)")
        if not graph:
            con.execute(OFF)
        return con

    yield opened
    for con in made:
        con.close()


def ran(con: halo_sql.Connection, sql: str) -> tuple[list[Any], dict[str, Any]]:
    rows = con.execute(sql).fetchall()
    profile = con.last_profile()
    assert profile is not None
    return rows, profile["totals"]


@pytest.mark.parametrize(
    ("chain", "least"), [("filter", 1.7), ("two filters", 1.3), ("condition", 1.3), ("filter below", 1.3)]
)
def test_a_chain_with_a_filter_ends_sooner_with_the_same_rows_and_calls(
    connect: Connect, chain: str, least: float
) -> None:
    sql = CHAINS[chain]
    (found, with_graph), (rows, without) = ran(connect(True, 100), sql), ran(connect(False, 100), sql)
    assert found == rows
    assert 20 < len(rows) < 100
    assert with_graph["llm_calls"] == without["llm_calls"]
    assert with_graph["output_tok"] == without["output_tok"]
    assert without["elapsed_s"] / with_graph["elapsed_s"] > least
    assert ran(connect(True, 100), sql)[1]["elapsed_s"] == with_graph["elapsed_s"], "the same each time"


@pytest.mark.parametrize("limit", [1, 7])
@pytest.mark.parametrize("chain", CHAINS)
def test_under_a_limit_rows_are_read_ahead_as_far_as_ever(connect: Connect, chain: str, limit: int) -> None:
    """Each call: for the rows that leave, and at most 16 more."""
    con = connect(True, 100)
    before = len(ASKED)
    rows = ran(con, f"{CHAINS[chain]} LIMIT {limit}")[0]
    asked = Counter(text.split()[0] for text in ASKED[before:])
    assert rows == ran(connect(False, 100), CHAINS[chain])[0][:limit]
    last = rows[-1][0]
    assert max(asked.values()) <= last + 1 + 16
    assert asked["tell"] <= limit + 16


def test_explain_analyze_counts_the_rows_of_each_node(connect: Connect) -> None:
    sql = f"{TELL}{SAY} WHERE LLM_FILTER('good {{{{ x }}}}?', model => 'c') AND length(x) % 2 = 0"
    counted = []
    for graph in (True, False):
        text = connect(graph, 60).explain(sql, analyze=True)
        assert ("RowGraph" in text) is graph
        lines = [line.lstrip(" └─├│") for line in text.splitlines() if re.search(r"(LlmMap|LlmFilter|streaming)", line)]
        counted.append([(line.split()[0], re.findall(r"rows ~\d+/(\d+)|~\d+/(\d+) calls", line)) for line in lines])
    assert counted[0] == counted[1]
    names = [name for name, _ in counted[0]]
    assert sorted(names) == ["DuckFragment", "LlmFilter", "LlmMap", "LlmMap"]
    assert all(found for _, found in counted[0])


# --- the rule on = the rule off


STEPS = ("map", "number", "llm filter", "filter answer", "guarded", "condition", "null condition", "cast", "volatile")


def statement(steps: list[tuple[str, int]], limit: int) -> str:
    """Sub-queries over one another; ``v`` is what the last call gave."""
    query = "SELECT id, body, body AS v FROM t"
    for step, number in steps:
        more = "id, body"
        if step == "map":
            query = f"SELECT {more}, LLM_MAP('{number}{{{{ v }}}}') AS v FROM ({query})"
        elif step == "volatile":
            query = f"SELECT {more}, LLM_MAP('{{{{ v }}}}', temperature => 1) AS v FROM ({query})"
        elif step == "number":
            value = f"LLM_MAP('{{{{ id % {number + 2} }}}}', returns => 'INTEGER')::VARCHAR || v"
            query = f"SELECT {more}, {value} AS v FROM ({query})"
        elif step == "guarded":
            value = f"CASE WHEN id % 3 > {number % 3} THEN LLM_MAP('({{{{ v }}}})') ELSE v END"
            query = f"SELECT {more}, {value} AS v FROM ({query})"
        elif step == "llm filter":
            query = f"SELECT {more}, v FROM ({query}) WHERE LLM_FILTER('{{{{ id % {number + 2} > 0 }}}}')"
        elif step == "filter answer":
            query = f"SELECT {more}, v FROM ({query}) WHERE LLM_FILTER('{{{{ length(v) % 4 <> {number % 4} }}}}')"
        elif step == "condition":
            query = f"SELECT {more}, v FROM ({query}) WHERE length(v) % 3 <> {number % 3} AND id <> {number}"
        elif step == "null condition":
            query = f"SELECT {more}, v FROM ({query}) WHERE v IS NULL OR id % 5 > {number % 5}"
        else:  # fails for bodies that are no numbers
            query = f"SELECT {more}, LLM_MAP('{{{{ body }}}}', returns => 'INTEGER')::VARCHAR || v AS v FROM ({query})"
    return query + (f" LIMIT {limit}" if limit else "")


@pytest.fixture(scope="module")
def echo() -> Iterator[halo_sql.Connection]:
    with halo_sql.connect(config={"halo_store": "off", "halo_default_model": "echo", "halo_learn": False}) as con:
        chance = random.Random(7)
        values = [(row, chance.choice(["7", "12", "x", None, f"{row % 9}"])) for row in range(80)]
        con.execute("CREATE TABLE t (id INTEGER, body VARCHAR)")
        for row, body in values:
            con.execute("INSERT INTO t VALUES (?, ?)", [row, body])
        yield con


def outcome(con: halo_sql.Connection, sql: str) -> tuple[Any, ...]:
    try:
        rows = con.execute(sql).fetchall()
    except halo_sql.Error as problem:
        return (type(problem).__name__,)
    profile = con.last_profile()
    assert profile is not None
    return rows, profile["totals"]["llm_calls"]


@given(
    st.lists(st.tuples(st.sampled_from(STEPS), st.integers(0, 9)), min_size=2, max_size=6), st.sampled_from([0, 0, 3])
)
@settings(max_examples=60, deadline=None)
def test_the_rule_changes_neither_rows_nor_calls_nor_failures(
    echo: halo_sql.Connection, steps: list[tuple[str, int]], limit: int
) -> None:
    sql = statement(steps, limit)
    echo.execute("SET halo_disabled_rules = ''")
    found = outcome(echo, sql)
    echo.execute(OFF)
    expected = outcome(echo, sql)
    assert found[0] == expected[0], sql
    if not limit:
        assert found == expected, sql


def test_such_statements_have_graphs_with_filters_and_some_fail(echo: halo_sql.Connection) -> None:
    echo.execute("SET halo_disabled_rules = ''")
    chance = random.Random(1)
    plans, failed = [], 0
    for _ in range(30):
        sql = statement([(chance.choice(STEPS), chance.randint(0, 9)) for _ in range(5)], 0)
        plans.append(echo.explain(sql))
        failed += len(outcome(echo, sql)) == 1
    inside = [plan for plan in plans if re.search(r"RowGraph(?:(?!DuckFragment  (?:sql|Scan)).)*LlmFilter", plan, re.S)]
    assert len(inside) > 8
    assert 3 < failed < 27
