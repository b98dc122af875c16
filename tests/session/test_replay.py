"""EXPLAIN (DUMP): a planning as a file, repeated without its tables, and what is not in it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import halo_sql
from halo_sql.replay import dump, load, main, replay

SETUP = """
CREATE TABLE shops AS
SELECT range AS id, 'hush' || range AS word, 'quiet' || range % 3 AS place FROM range(60)
"""
QUERY = """
SELECT LLM_MAP('Say {{ word, place }}') AS said FROM shops
WHERE LLM_FILTER('Is {{ place }} far?', on_error => 'null') AND id > 3
""".strip()


@pytest.fixture
def con() -> Iterator[halo_sql.Connection]:
    with halo_sql.connect(config={"halo_store": "off", "halo_default_model": "echo"}) as connection:
        connection.execute(SETUP)
        yield connection


def dumped(con: halo_sql.Connection, statement: str = QUERY, params: Any = None) -> str:
    ((key, text),) = con.execute(f"EXPLAIN (DUMP) {statement}", params).fetchall()
    assert key == "dump"
    return str(text)


def test_the_same_plan_without_the_tables(con: halo_sql.Connection) -> None:
    text = dumped(con)
    plan = con.session.compile(QUERY).dag
    con.close()
    (minidump,) = load(text)
    assert (minidump.version, minidump.statement) == (halo_sql.__version__, QUERY)
    repeated = replay(minidump)
    assert repeated.differences == ()
    assert [type(node.op) for node in repeated.optimized.dag.nodes] == [type(node.op) for node in plan.nodes]
    assert dump(repeated.optimized, QUERY) == text


def test_a_dump_is_the_same_each_time(con: halo_sql.Connection) -> None:
    assert dumped(con) == dumped(con)


def test_settings_statistics_and_lessons_are_in_it(con: halo_sql.Connection) -> None:
    con.execute("SET halo_objective = 'usd'; SET halo_disabled_rules = 'prune_columns'; SET halo_max_usd = 3")
    con.execute(QUERY).fetchall()
    (minidump,) = load(dumped(con))
    ctx = minidump.problem.surveyed
    assert (ctx.objective, ctx.disabled_rules, ctx.max_usd) == ("usd", {"prune_columns"}, 3.0)
    assert 60.0 in {stats.rows for stats in ctx.stats.values()}
    assert any(profile.true_share is not None for profile in ctx.calls.values())
    assert all(known is not None for known in ctx.objects.values())
    assert replay(minidump).differences == ()


def test_no_value_of_a_table_and_no_secret_is_in_it(con: halo_sql.Connection) -> None:
    con.execute("CREATE SECRET mine (TYPE llm, api_key 'sk-verysecret')")
    con.execute("CREATE MODEL far FROM 'http://127.0.0.1:9/v1' USING openai WITH (secret = mine)")
    hashes = {
        str(number) for row in con.execute("SELECT hash(word), hash(place) FROM shops").fetchall() for number in row
    }
    text = dumped(con, QUERY.replace("far?'", "far?', model => 'far'"))
    for unwanted in ("hush", "quiet", "sk-verysecret", "127.0.0.1", *hashes):
        assert unwanted not in text


def test_parameters_views_and_stages(con: halo_sql.Connection) -> None:
    con.execute("CREATE VIEW said AS SELECT id, LLM_MAP('{{ word }}') AS m FROM shops")
    con.execute("PREPARE p AS SELECT LLM_MAP('{{ word }}') FROM shops WHERE id < $1")
    for statement, params in (
        ("SELECT m FROM said WHERE id > $least", {"least": 7}),
        ("EXECUTE p(5)", None),
        ("SELECT DISTINCT m FROM said s JOIN (SELECT m AS n FROM said) t ON s.m = t.n", None),
        ("CREATE TABLE kept AS SELECT * FROM said ORDER BY m LIMIT 3", None),
        ("SUMMARIZE SELECT LLM_MAP('{{ word }}') AS m FROM shops", None),
        ("SELECT id FROM shops WHERE EXISTS (SELECT LLM_MAP('{{ word }}'))", None),
    ):
        dumps = load(dumped(con, statement, params))
        assert len(dumps) == 1
        assert replay(dumps[0]).differences == ()
    assert con.execute("SELECT count(*) FROM duckdb_tables() WHERE table_name = 'kept'").fetchall() == [(0,)]


def test_a_statement_of_several_stages_is_an_array(con: halo_sql.Connection) -> None:
    summaries = (
        f"SELECT * FROM (SUMMARIZE SELECT LLM_MAP('{{{{ {name} }}}}') AS m FROM shops)" for name in ("word", "place")
    )
    dumps = load(dumped(con, " UNION ALL ".join(summaries)))
    assert len(dumps) == 2
    assert [replay(each).differences for each in dumps] == [(), ()]


def test_deep_statements(con: halo_sql.Connection) -> None:
    query = "SELECT id, word AS v0 FROM shops"
    for level in range(1, 60):
        query = (
            f"SELECT *, LLM_MAP('{{{{ v{level - 1} }}}}') AS v{level} FROM ({query}) AS s{level} WHERE id <> {level}"
        )
    (minidump,) = load(dumped(con, query))
    assert replay(minidump).differences == ()


def test_differences_say_where(con: halo_sql.Connection) -> None:
    (minidump,) = load(dumped(con))
    problem = minidump.problem
    dearer = replace(problem.surveyed, disabled_rules=frozenset({"distinct_before_llm"}), stats={})
    again = replay(replace(minidump, problem=replace(problem, ctx=dearer, surveyed=dearer)))
    assert [difference.split(":")[0].split(",")[0] for difference in again.differences] == [
        "normalized",
        "rules",
        "counters",
        "plan",
        "costs",
    ]
    assert "LlmMap distinct" in again.differences[0]
    fewer = replay(replace(minidump, result={**minidump.result, "winners": minidump.result["winners"][:2]}))
    (difference,) = fewer.differences
    assert difference.startswith("winners: ")
    assert difference.endswith(" lines instead of 2")


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("EXPLAIN (DUMP, MEMO) " + QUERY, "one JSON text"),
        ("EXPLAIN ANALYZE (DUMP) " + QUERY, "not run"),
        ("EXPLAIN (DUMP) SELECT 1", "without calls"),
    ],
)
def test_what_has_no_dump(con: halo_sql.Connection, statement: str, message: str) -> None:
    with pytest.raises(halo_sql.Error, match=message) as problem:
        con.execute(statement)
    assert problem.value.remedy


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not JSON"),
        ("{}", 'no "halo_sql_dump"'),
        ("7", 'no "halo_sql_dump"'),
        ("[" * 100_000, "not JSON"),
        ('{"halo_sql_dump": 1}', "which version"),
        ('{"halo_sql_dump": 2, "version": "9.1", "statement": ""}', "its format is 2, not 1"),
        ('{"halo_sql_dump": 1, "version": "9.1", "statement": ""}', "'objects' is missing"),
        ('{"halo_sql_dump": 1, "version": "9.1", "statement": "", "objects": [["New", {}]]}', "no class 'New'"),
    ],
)
def test_foreign_files_are_refused(text: str, message: str) -> None:
    with pytest.raises(halo_sql.ProgrammingError, match=message) as problem:
        load(text)
    assert problem.value.remedy.startswith("It was made by HaloSQL 9.1" if "9.1" in text else "EXPLAIN (DUMP)")


WHOLE: list[str] = []


@given(st.data())
@settings(max_examples=150, deadline=None, derandomize=True, database=None)
def test_damaged_files_are_refused_or_read(data: st.DataObject) -> None:
    if not WHOLE:
        with halo_sql.connect(config={"halo_store": "off", "halo_default_model": "echo"}) as connection:
            connection.execute(SETUP)
            WHOLE.append(dumped(connection))
    text = WHOLE[0]
    place = data.draw(st.integers(0, len(text) - 1))
    end = place + data.draw(st.sampled_from([0, 1, 2, 10, 200]))
    text = (
        text[:place]
        + data.draw(st.sampled_from(["", "0", "1", "-1", "null", '"', "{}", "[]", "}", ",", "é"]))
        + text[end:]
    )
    try:
        outcome = str(len(load(text)))
    except halo_sql.ProgrammingError as problem:
        outcome = str(problem)
    assert outcome == "1" or "no dump of a planning" in outcome


def test_from_the_command_line(con: halo_sql.Connection, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = dumped(con)
    same, other, older, foreign = (
        tmp_path / name for name in ("same.json", "other.json", "older.json", "foreign.json")
    )
    same.write_text(text, encoding="utf-8")
    other.write_text(text.replace('"groups ', '"groups 1'), encoding="utf-8")
    older.write_text(text.replace(f'"version": "{halo_sql.__version__}"', '"version": "0.0.1"'), encoding="utf-8")
    foreign.write_text(json.dumps({"plan": 1}), encoding="utf-8")
    assert main([str(same)]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith(QUERY)
    assert shown.endswith("The same plan at the same costs.\n")
    assert main([str(other)]) == 1
    assert "counters, line 1: 'groups " in capsys.readouterr().out
    assert main([str(older)]) == 0
    assert "Made by HaloSQL 0.0.1" in capsys.readouterr().out
    assert main([str(foreign)]) == 2
    assert "no dump of a planning" in capsys.readouterr().err
    assert main([str(tmp_path / "none.json")]) == 2
    assert main([]) == 2
    assert "usage" in capsys.readouterr().err
    done = subprocess.run(
        [sys.executable, "-m", "halo_sql.replay", str(same)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
