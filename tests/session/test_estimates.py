"""EXPLAIN's estimates against what runs: calls counted beforehand, tokens learnt from earlier statements."""

from __future__ import annotations

import importlib.util
import json
import re
import sqlite3
import sys
from pathlib import Path
from typing import Any

import pytest

import halo_sql

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def load(name: str) -> Any:
    """A script of the benchmarks folder as a module."""
    spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


load("report")
estimates = load("estimates")
QUERY = "SELECT LLM_MAP('Summarise {{ body }}') FROM t WHERE LLM_FILTER('{{ good }}')"
TABLE = (
    "CREATE TABLE t AS SELECT i, repeat('text ' || (i % 3) || ' ', 20) AS body, i % 10 = 0 AS good FROM range(100) r(i)"
)


def connect(path: str = ":memory:", **config: object) -> halo_sql.Connection:
    return halo_sql.connect(path, config={"halo_default_model": "echo"} | config)


def estimated(con: Any, query: str) -> dict[str, float]:
    """The totals of EXPLAIN."""
    text = con.execute(f"EXPLAIN (FORMAT json) {query}").fetchone()[1]
    found: dict[str, float] = json.loads(text)["totals"]
    return found


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HALO_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def con() -> Any:
    with connect(halo_store="off") as connection:
        connection.execute(TABLE)
        yield connection


@pytest.mark.parametrize("name", list(estimates.STATEMENTS))
def test_calls_are_exact_and_tokens_close_once_learnt(name: str) -> None:
    first, second = estimates.measured(name, estimates.STATEMENTS[name])
    calls = "tool_calls" if name == "tool" else "llm_calls"
    if name in estimates.ABOVE_FILTERS:
        assert second[calls] <= 1.2
    else:
        assert (first[calls], second[calls]) == (1, 1)
    assert second["prompt_tok"] <= 1.2
    assert second["output_tok"] <= 1.2


@pytest.mark.parametrize(
    ("query", "calls"),
    [
        ("SELECT LLM_MAP('x {{ a }}') FROM v", 3),  # two of five rows are equal, one is NULL
        ("SELECT LLM_MAP('x {{ a, b }}') FROM v", 4),  # an object is asked with its NULLs
        ("SELECT LLM_MAP('x {{ a }}', temperature => 1) FROM v", 4),  # each row by itself
        ("SELECT LLM_MAP('constant') FROM v", 1),
        ("SELECT LLM_MAP('x {{ a }}') FROM v WHERE false", 0),
        ("SELECT CASE WHEN b THEN LLM_MAP('x {{ a }}') END FROM v", 2),
        ("SELECT LLM_MAP('x {{ a }}') FROM v LIMIT 2", 1),
        ("SELECT LLM_MAP('x {{ a }}') FROM (FROM v UNION ALL FROM v)", 3),
        ("SELECT LLM_REDUCE('x', a) FROM v GROUP BY b", 2),  # a group of NULLs asks nothing
        ("SELECT LLM_REDUCE('x', a) FROM v WHERE false GROUP BY b", 0),
    ],
)
def test_who_asks_is_counted_by_the_rules_of_the_operator(query: str, calls: int, con: halo_sql.Connection) -> None:
    con.execute(
        "CREATE VIEW v AS FROM (VALUES ('p', true), ('p', true), ('q', true), ('r', false), (NULL, NULL)) v(a, b)"
    )
    assert estimated(con, query)["llm_calls_estimated"] == calls
    con.execute(query).fetchall()
    assert con.last_profile()["totals"]["llm_calls"] == calls


def test_large_tables_are_sketched_and_larger_ones_sampled(con: halo_sql.Connection) -> None:
    con.execute("CREATE TABLE big AS SELECT 'v' || (i % 5000) AS few, 'w' || i AS many FROM range(300_000) r(i)")
    few = estimated(con, "SELECT LLM_MAP('{{ few }}') FROM big")["llm_calls_estimated"]
    assert few == pytest.approx(5_000, rel=0.1)
    many = estimated(con, "SELECT LLM_MAP('{{ many }}') FROM big")["llm_calls_estimated"]
    assert many == pytest.approx(300_000, rel=0.1)
    con.execute("CREATE TABLE huge AS SELECT i % 20 AS few FROM range(5_000_000) r(i)")
    assert estimated(con, "SELECT LLM_MAP('{{ few }}') FROM huge")["llm_calls_estimated"] == 20


def test_what_is_not_duckdbs_own_is_not_read_for_estimates(con: halo_sql.Connection, tmp_path: Path) -> None:
    calls = []

    def spy(text: str) -> str:
        calls.append(text)
        return text

    con.create_function("spy", spy, ["VARCHAR"], "VARCHAR")
    con.execute("CREATE SEQUENCE s")
    con.explain("SELECT LLM_MAP('{{ spy(body) }}') FROM t")
    con.explain("SELECT LLM_MAP('{{ nextval('s') }}') FROM t".replace("'s'", "$$s$$"))
    assert calls == []
    assert con.execute("SELECT nextval('s')").fetchone() == (1,)
    csv = tmp_path / "rows.csv"
    csv.write_text("a\n1\n2\n")
    assert "~" in con.explain(f"SELECT LLM_MAP('{{{{ a }}}}') FROM read_csv($${csv}$$)")


def test_a_failing_expression_leaves_an_open_transaction_alone(con: halo_sql.Connection) -> None:
    con.execute("BEGIN")
    con.execute("CREATE TABLE mine AS SELECT 'x' AS a")
    con.explain("SELECT LLM_MAP('{{ CAST(body AS INTEGER) }}') FROM t")
    con.explain("SELECT LLM_MAP('{{ CAST(a AS INTEGER) }}') FROM mine")
    assert con.execute("SELECT count(*) FROM mine").fetchone() == (1,)
    con.execute("ROLLBACK")


def test_selectivity_and_output_length_are_learnt(con: halo_sql.Connection) -> None:
    con.execute(QUERY).fetchall()
    after, did = estimated(con, QUERY), con.last_profile()["totals"]
    assert after["output_tok_estimated"] == pytest.approx(did["output_tok"], rel=0.2)
    rows = json.loads(con.explain(QUERY, format="json"))["plan"]["rows_estimated"]
    assert rows == pytest.approx(10, rel=0.1)


def test_the_plan_is_the_same_until_something_is_learnt_and_after_that(con: halo_sql.Connection) -> None:
    assert con.explain(QUERY) == con.explain(QUERY)
    con.execute(QUERY).fetchall()
    assert con.explain(QUERY) == con.explain(QUERY)


def test_a_learnt_selectivity_decides_the_order_of_filters(con: halo_sql.Connection) -> None:
    both = "SELECT i FROM t WHERE LLM_FILTER('{{ i >= 0 }}', system => 'A') AND LLM_FILTER('{{ good }}', system => 'B')"
    first = re.compile(r'LlmFilter [^\n]*"([AB])"[^\n]*\n[^\n]*\n?[^\n]*LlmFilter|LlmFilter')
    assert first.search(con.explain(both))
    for asked in ("'{{ i >= 0 }}', system => 'A'", "'{{ good }}', system => 'B'"):
        con.execute(f"SELECT i FROM t WHERE LLM_FILTER({asked})").fetchall()
    plan = con.explain(both)
    assert plan.index('system="A"') < plan.index('system="B"'), "the one that keeps a tenth runs first, so stands below"


def test_what_was_learnt_survives_the_connection_and_is_shared(home: Path, tmp_path: Path) -> None:
    path = str(tmp_path / "a.duckdb")
    with connect(path) as con:
        con.execute(TABLE)
    with connect() as con:
        con.execute(TABLE)
        con.execute(QUERY).fetchall()
        learnt = estimated(con, QUERY)
        assert estimated(con.cursor(), QUERY) == learnt
    with connect(path) as con:
        assert estimated(con, QUERY) == learnt
    with halo_sql.connect(path, read_only=True, config={"halo_default_model": "echo"}) as con:
        assert estimated(con, QUERY) == learnt
        before = con.execute("SELECT sum(requests) FROM halo_statistics()").fetchone()
        con.execute(QUERY).fetchall()
        assert con.execute("SELECT sum(requests) FROM halo_statistics()").fetchone() == (2 * before[0],)


def test_two_sessions_add_up(home: Path) -> None:
    with connect() as one, connect() as two:
        for con in (one, two):
            con.execute(TABLE)
            con.execute("SELECT LLM_MAP('Add {{ i }}') FROM t").fetchall()
        seen = "SELECT requests FROM halo_statistics() WHERE call LIKE '%Add%'"
        one.execute(seen).fetchall()  # what it has learnt is in the file now
        assert two.execute(seen).fetchall() == one.execute(seen).fetchall() == [(200,)]


def test_rows_that_make_no_sense_are_ignored(home: Path) -> None:
    with connect() as con:
        con.execute(TABLE)
        unlearnt = estimated(con, QUERY)
        con.execute(QUERY).fetchall()
        assert estimated(con, QUERY) != unlearnt
    file = sqlite3.connect(home / "responses.sqlite")
    rows = file.execute("SELECT count(*) FROM experience").fetchone()[0]
    for number, nonsense in enumerate(
        ["", "{", '{"requests": -1}', '{"requests": "NaN"}', "[1]", '{"other": 1}'][:rows]
    ):
        file.execute(
            "UPDATE experience SET sums = ? WHERE rowid = (SELECT rowid FROM experience LIMIT 1 OFFSET ?)",
            (nonsense, number),
        )
    file.commit()
    file.close()
    with connect() as con:
        con.execute(TABLE)
        assert estimated(con, QUERY) == unlearnt
        con.execute(QUERY).fetchall()
        assert con.execute("SELECT count(*) FROM halo_statistics()").fetchone() == (rows,)


def test_learning_can_be_turned_off(con: halo_sql.Connection) -> None:
    before = con.explain(QUERY)
    con.execute("SET halo_learn = false")
    con.execute(QUERY).fetchall()
    assert con.execute("FROM halo_statistics()").fetchall() == []
    con.execute("RESET halo_learn")
    assert con.explain(QUERY) == before


def test_nothing_is_written_while_the_store_is_off(home: Path, con: halo_sql.Connection) -> None:
    con.execute(QUERY).fetchall()
    assert con.execute("SELECT count(*) FROM halo_statistics()").fetchone() == (3,)
    assert not list(home.glob("*.sqlite"))


def test_failed_and_cancelled_statements_teach_nothing(con: halo_sql.Connection) -> None:
    with pytest.raises(halo_sql.Error):
        con.execute("SELECT LLM_FILTER('{{ body }}') FROM t").fetchall()  # echo cannot read a yes or no from it
    rows = con.execute("SELECT LLM_MAP('Cut {{ i }}') FROM t")
    rows.fetchone()
    con.execute("SELECT 1")
    assert con.execute("SELECT count(*) FROM halo_statistics() WHERE call LIKE '%FILTER%'").fetchone() == (0,)


def test_agents_are_learnt_by_the_conversation(con: halo_sql.Connection) -> None:
    con.execute("CREATE TOOL twice(x INTEGER) RETURNS INTEGER AS SQL $$ SELECT 2 * $x $$")
    con.execute("CREATE AGENT helper RETURNS VARCHAR WITH (model = echo, tools = [twice])")
    query = "SELECT AGENT(helper, 'Answer {{ i }}') FROM t"
    con.execute(query).fetchall()
    did, told = con.last_profile()["totals"], estimated(con, query)
    assert told["llm_calls_estimated"] == did["llm_calls"]
    assert told["tool_calls_estimated"] == did["tool_calls"]
    assert told["prompt_tok_estimated"] == pytest.approx(did["prompt_tok"], abs=1)


def test_analyze_shows_estimates_beside_what_happened(con: halo_sql.Connection) -> None:
    con.execute(QUERY).fetchall()
    text = con.explain(QUERY, analyze=True)
    line = next(line for line in text.splitlines() if "LlmMap" in line)
    assert re.search(r"rows ~10/10 · ~3/3 calls \+ 7 coalesced \+ 0 from store · ~\d+/\d+ prompt tok", line), line
    assert re.search(r"q-error 1\.\d+ rows, 1(\.\d+)? llm calls, 1(\.\d+)? prompt tok, 1(\.\d+)? output tok$", line), (
        line
    )
    found = json.loads(con.explain(QUERY, analyze=True, format="json"))
    assert found["plan"]["q_error"]["rows"] == pytest.approx(1, abs=0.1)
    assert set(found["totals"]["q_error"]) == {"llm_calls", "prompt_tok", "output_tok"}
    assert "q_error" in con.explain(QUERY, analyze=True, format="html")


def test_calls_from_the_store_count_as_expected(home: Path) -> None:
    with connect() as con:
        con.create_model("upper", lambda messages: messages[-1]["content"].upper(), storable=True)
        con.execute(TABLE)
        query = "SELECT LLM_MAP('{{ body }}', model => 'upper') FROM t"
        con.execute(query).fetchall()
        totals = json.loads(con.explain(query, analyze=True, format="json"))["totals"]
        assert (totals["llm_calls"], totals["llm_calls_from_store"]) == (0, 3)
        assert totals["q_error"] == {"llm_calls": 1, "prompt_tok": 1, "output_tok": 1}


def test_analyze_learns_from_a_few_rows(con: halo_sql.Connection) -> None:
    query = "SELECT i, LLM_MAP('Few {{ i }}') FROM t WHERE LLM_FILTER('{{ i % 2 = 0 }}') ORDER BY 2"
    found = con.execute(f"ANALYZE (SAMPLE 10) {query}").fetchall()
    assert con.last_profile()["totals"]["llm_calls"] == 2 + 5
    assert [(row[0], row[1]) for row in sorted(found)] == [
        ("LLM_FILTER('{{ i % 2 = 0 }}')", 2),
        ("LLM_MAP('Few {{ i }}')", 5),
    ]
    told = estimated(con, query)
    con.execute(query).fetchall()
    did = con.last_profile()["totals"]
    assert told["llm_calls_estimated"] == pytest.approx(did["llm_calls"], rel=0.2)
    assert told["output_tok_estimated"] == pytest.approx(did["output_tok"], rel=0.2)


def test_analyze_sees_through_views_and_says_what_it_cannot(con: halo_sql.Connection) -> None:
    con.execute("CREATE VIEW w AS SELECT LLM_MAP('View {{ i }}') AS s FROM t")
    assert con.execute("ANALYZE FROM w").fetchall()[0][1] == 20
    con.execute("ANALYZE t")  # DuckDB's own
    con.execute("SET halo_learn = false")
    with pytest.raises(halo_sql.NotSupportedError, match="halo_learn"):
        con.execute("ANALYZE FROM w")


def test_drop_statistics_forgets(home: Path) -> None:
    with connect() as con:
        con.execute(TABLE)
        before = con.explain(QUERY)
        con.execute(QUERY).fetchall()
        assert con.explain(QUERY) != before
        con.execute("DROP STATISTICS")
        assert con.explain(QUERY) == before
    with connect() as con:
        assert con.execute("FROM halo_statistics()").fetchall() == []


def test_what_was_learnt_never_changes_how_rows_are_ranked(con: halo_sql.Connection) -> None:
    """The two methods of a top-k may rank differently; with a filter known to keep two rows the other costs less."""
    query = "SELECT i FROM t WHERE LLM_FILTER('{{ i < 2 }}') ORDER BY LLM_RANK('{{ i }}') DESC LIMIT 3"
    assert "method=score" in con.explain(query)
    con.execute("SELECT i FROM t WHERE LLM_FILTER('{{ i < 2 }}')").fetchall()
    plan = con.explain(query)
    assert re.search(r"LLM_FILTER.*~2 rows", plan)
    assert "method=score" in plan


def test_explain_makes_no_store(home: Path) -> None:
    with connect() as con:
        con.execute(TABLE)
        con.explain(QUERY)
        assert con.execute("FROM halo_statistics()").fetchall() == []
    assert not list(home.glob("*.sqlite"))
