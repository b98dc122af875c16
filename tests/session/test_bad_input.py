"""Bad input through SQL: a typed error with position and remedy, nothing paid before it, no row lost, no half table."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

import halo_sql
from halo_sql.errors import Error

TABLE = "CREATE TABLE t AS SELECT i AS id, 'text ' || i AS body FROM range(20) r(i)"


@pytest.fixture
def con() -> halo_sql.Connection:
    with halo_sql.connect(config={"halo_store": "off", "halo_default_model": "echo"}) as connection:
        connection.execute(TABLE)
        yield connection


def caret_text(problem: Error) -> str:
    """The text above the carets of an error."""
    line, carets = str(problem).split("\n")[-2:]
    start = carets.index("^")
    return line[start : start + carets.count("^")]


def run_all(con: halo_sql.Connection, *statements: str) -> None:
    """Run statements one after the other, each to its last row."""
    for statement in statements:
        con.execute(statement).fetchall()


BINDING = [
    ("SELECT LLM_MAP('{{ body }}', model => 'eco') FROM t", halo_sql.ProgrammingError, "'eco'", 'Did you mean "echo"?'),
    ("SELECT LLM_MAP('{{ body }}', tempereture => 1) FROM t", halo_sql.ProgrammingError, "tempereture", "temperature"),
    ("SELECT LLM_MAP('{{ body }}', temperature => 'x') FROM t", halo_sql.ProgrammingError, "'x'", "from 0 to 2"),
    ("SELECT LLM_MAP('{{ boddy }}') FROM t", halo_sql.ProgrammingError, "boddy", 'Candidate bindings: "body"'),
    (
        "SELECT LLM_MAP('{{ body }}', returns => 'INTEGR') FROM t",
        halo_sql.ProgrammingError,
        "'INTEGR'",
        "Write a DuckDB",
    ),
    ("SELECT LLM_MAP('{{ body') FROM t", halo_sql.ProgrammingError, "{{", "End it with }}"),
    ("SELECT LLM_FILTER('{{ body }}', returns => 'INTEGER') FROM t", halo_sql.ProgrammingError, "returns", "LLM_MAP"),
    ("SELECT LLM_MAP() FROM t", halo_sql.ProgrammingError, "LLM_MAP()", "For example"),
    ("SELECT LLM_MAP('{{ id }}') FROM nowhere", halo_sql.ProgrammingError, "nowhere", ""),
    ("INSERT INTO nowhere SELECT LLM_MAP('{{ id }}') FROM t", halo_sql.ProgrammingError, "nowhere", ""),
    ("CREATE TABLE t AS SELECT LLM_MAP('{{ id }}') AS m FROM t", halo_sql.ProgrammingError, "t", "CREATE OR REPLACE"),
]


@pytest.mark.parametrize(("sql", "kind", "marked", "remedy"), BINDING, ids=lambda value: str(value)[:40])
def test_found_before_anything_runs(
    con: halo_sql.Connection, sql: str, kind: type[Error], marked: str, remedy: str
) -> None:
    calls: list[object] = []
    con.create_model("counting", lambda messages: calls.append(messages) or "x")
    con.execute("SET halo_default_model = 'counting'")
    with pytest.raises(kind) as caught:
        con.execute(sql)
    assert caret_text(caught.value) == marked
    assert remedy in str(caught.value)
    assert calls == []


def test_a_position_counts_in_the_text_with_parameters(con: halo_sql.Connection) -> None:
    with pytest.raises(halo_sql.ProgrammingError) as caught:
        con.execute("SELECT LLM_MAP('{{ nope }}') FROM t WHERE id = ? AND body = ?", [1, "a longer text"])
    assert caret_text(caught.value) == "nope"


@pytest.mark.parametrize(
    ("create", "said"),
    [
        ("CREATE MODEL m FROM '/no/such/folder' USING vllm", "/no/such/folder"),
        ("CREATE MODEL m FROM 'http://127.0.0.1:9/v1' USING openai WITH (model = 'x', max_retries = 1)", "127.0.0.1:9"),
        ("CREATE MODEL m FROM 'no_such_module:answer' USING python", "no_such_module"),
        ("CREATE MODEL m FROM '/no/such/file.jsonl' USING replay", "/no/such/file.jsonl"),
    ],
    ids=["vllm", "openai", "python", "replay"],
)
def test_an_engine_that_cannot_answer(con: halo_sql.Connection, create: str, said: str) -> None:
    with pytest.raises(Error) as caught:
        run_all(con, create, "CREATE TABLE out AS SELECT LLM_MAP('{{ body }}', model => m) AS a FROM t")
    assert said in str(caught.value)
    assert caught.value.remedy
    assert con.execute("SELECT count(*) FROM duckdb_tables() WHERE table_name = 'out'").fetchall() == [(0,)]


def test_a_model_folder_without_safetensors(con: halo_sql.Connection, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(b"pickle")
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(Error, match="safetensors"):
        run_all(con, f"CREATE MODEL m FROM '{tmp_path}' USING vllm", "SELECT LLM_MAP('{{ body }}', model => m) FROM t")


@pytest.mark.parametrize("optimizer", ["on", "off"])
def test_an_answer_that_does_not_fit(con: halo_sql.Connection, optimizer: str) -> None:
    con.execute(f"SET halo_optimizer = '{optimizer}'")
    call = "LLM_MAP('{{ CASE WHEN id = 7 THEN body ELSE id::VARCHAR END }}', returns => 'INTEGER'"
    with pytest.raises(halo_sql.OperationalError) as caught:
        con.execute(f"SELECT {call}) FROM t").fetchall()
    assert "text 7" in str(caught.value)
    assert caret_text(caught.value).startswith("LLM_MAP(")
    assert "on_error => 'null'" in caught.value.remedy
    rows = con.execute(f"SELECT id, {call}, on_error => 'null') FROM t ORDER BY id").fetchall()
    assert rows == [(number, None if number == 7 else number) for number in range(20)]
    rows = con.execute(f"SELECT {call}, on_error => 'struct') FROM t WHERE id IN (6, 7) ORDER BY id").fetchall()
    assert rows[0] == ({"value": 6, "error": None},)
    assert rows[1][0]["value"] is None
    assert "text 7" in rows[1][0]["error"]


@pytest.mark.parametrize("failing", [0, 9, 19])
def test_a_failure_leaves_no_half_table(con: halo_sql.Connection, failing: int) -> None:
    con.execute("CREATE TABLE kept (n INTEGER)")
    call = f"LLM_MAP('{{{{ CASE WHEN id = {failing} THEN body ELSE id::VARCHAR END }}}}', returns => 'INTEGER')"
    for statement in (f"CREATE TABLE fresh AS SELECT {call} AS n FROM t", f"INSERT INTO kept SELECT {call} FROM t"):
        with pytest.raises(halo_sql.OperationalError):
            con.execute(statement)
    assert con.execute("SELECT count(*) FROM kept").fetchall() == [(0,)]
    assert con.execute("SELECT count(*) FROM duckdb_tables() WHERE table_name = 'fresh'").fetchall() == [(0,)]
    assert con.execute(
        "SELECT count(*) FROM duckdb_tables() WHERE table_name LIKE '\\_\\_halo%' ESCAPE '\\'"
    ).fetchall() == [(0,)]


def test_a_function_that_raises_is_an_error_of_its_row(con: halo_sql.Connection) -> None:
    def answer(messages: list[dict[str, str]]) -> str:
        number = int(re.search(r"\d+", messages[-1]["content"])[0])
        if number == 3:
            raise ValueError("three")
        return str(number)

    con.create_model("picky", answer)
    rows = con.execute(
        "SELECT id, LLM_MAP('{{ body }}', model => picky, on_error => 'null') FROM t ORDER BY id"
    ).fetchall()
    assert rows == [(number, None if number == 3 else str(number)) for number in range(20)]
    profile = con.last_profile()
    assert profile["totals"]["errors"] == 1
    assert json.dumps(profile)


def test_limits_are_checked_before_a_call_is_sent(con: halo_sql.Connection) -> None:
    asked: list[object] = []
    con.create_model("counting", lambda messages: asked.append(1) or "x")
    con.execute("SET halo_max_calls = 5")
    with pytest.raises(halo_sql.OperationalError, match="halo_max_calls"):
        con.execute("SELECT LLM_MAP('{{ body }}', model => counting) FROM t").fetchall()
    assert len(asked) <= 5
