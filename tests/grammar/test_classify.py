"""Which statements are ours."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from halo_sql.duck_tokens import tokenize
from halo_sql.grammar.classify import Kind, classify, operator_calls

PLAIN = [
    "",
    "select 1",
    "SELECT model FROM prompt",
    "CREATE TABLE model(id INTEGER, prompt VARCHAR)",
    "CREATE TABLE IF NOT EXISTS agent (id INTEGER)",
    "CREATE TEMP TABLE prompt AS SELECT 1 AS model",
    "CREATE VIEW agent(a) AS SELECT 1",
    "CREATE MACRO tool(a) AS a + 1",
    "CREATE OR REPLACE TEMP MACRO llm_map(a) AS a",
    "CREATE FUNCTION llm_filter(a) AS a",
    "CREATE INDEX i ON tool (a)",
    "CREATE SECRET agent (TYPE s3, KEY_ID 'a')",
    "CREATE TABLE t (tool INTEGER REFERENCES tool (id))",
    "CREATE TYPE model AS ENUM ('a')",
    "INSERT INTO tool (a, b) VALUES (1, 2)",
    "INSERT INTO db.agent (a) SELECT 1",
    "COPY tool (a) TO 'f.csv'",
    "PREPARE agent (INTEGER) AS SELECT 1",
    "EXECUTE tool(a)",
    "DROP TABLE model",
    "DROP MACRO tool",
    "ALTER TABLE model ADD COLUMN prompt INTEGER",
    "SHOW TABLES",
    "SHOW model",
    "SELECT 1 AS calibrate, 2 AS model",
    "calibrate table model",
    "SHOW models.t",
    'SHOW "models"',
    "DESCRIBE model",
    "DESCRIBE model.t",
    "DESC prompt",
    "DESCRIBE SELECT 1 AS model",
    "SUMMARIZE model",
    "SELECT * FROM x tool(a, b)",
    "SELECT * FROM x AS agent(a, b)",
    "SELECT * FROM (SELECT 1, 2) tool(a, b)",
    "WITH tool(a) AS (SELECT 1) SELECT * FROM tool",
    "WITH x AS (SELECT 1), agent(a) AS MATERIALIZED (SELECT 2) SELECT * FROM agent",
    "WITH RECURSIVE tool(a) USING KEY (a) AS (SELECT 1) FROM tool",
    "SELECT tool (1)",
    "SELECT my_tool('x'), toolx('x'), llm_mapper('x')",
    "SELECT main.llm_map('x'), s.tool(a)",
    'SELECT "llm_map"(1)',
    "SELECT 'LLM_MAP(x)' -- LLM_MAP('y')",
    "SELECT /* TOOL('x') */ tool FROM t",
    "SELECT $$ LLM_MAP('x') $$",
    "SELECT llm_map, llm_filter FROM t",
    "SET threads = 1",
    "SET VARIABLE halo_x = 1",
    "SELECT current_setting('halo_x')",
    "PRAGMA version",
    "EXPLAIN SELECT 1",
    "EXPLAIN ANALYZE SELECT model FROM tool",
    "EXPLAIN (FORMAT json) SELECT 1",
    "EXPLAIN (ANALYZE, FORMAT text) SELECT 1",
    "EXPLAIN (SELECT 1 AS memo)",
    "EXPLAIN (FROM costs)",
    "explain",
    "UPDATE agent SET tool = 1",
    "SELECT * FROM halo_models()",
    "BEGIN",
    "BEGIN TRANSACTION",
    "END",
    "COMMENT ON TABLE model IS 'x'",
    "COMMENT ON COLUMN agent.tool IS 'x'",
    "SELECT batch FROM batch",
    "EXPLAIN DROP SECRET s",
    "CREATE SECRET tools (TYPE s3)",
    "SHOW tool",
    "ANALYZE",
    "ANALYZE model",
    "ANALYZE t (a)",
    "VACUUM ANALYZE t",
    "SELECT statistics FROM statistics",
    "DROP TABLE statistics",
    "DROP STATISTICS s",
    "EXPLAIN ANALYZE FROM t",
]
DDL = [
    "CREATE MODEL m FROM 'x'",
    "create or replace temp model if not exists m from 'x'",
    "-- mine\n/* and */ CREATE /* a */ MODEL m FROM 'x'",
    "CREATE\u00a0MODEL m FROM 'x'",
    "CREATE MODEL",
    "CREATE TEMPORARY PROMPT p AS 'x'",
    "CREATE PROMPT p AS $$ LLM_MAP('x') $$",
    "CREATE TOOL t() RETURNS INTEGER AS SQL $$ SELECT 1 $$",
    "CREATE AGENT a WITH (model = m)",
    "CREATE SECRET s (TYPE llm, API_KEY 'k')",
    "CREATE OR REPLACE SECRET s (TYPE 'llm')",
    "DROP MODEL m",
    "DROP PROMPT IF EXISTS p;",
    "ALTER MODEL m RENAME TO n",
    "SHOW MODELS",
    "show prompts;",
    "SHOW MODEL m",
    "DESCRIBE MODEL m",
    'desc prompt "P"',
    "DESCRIBE MODEL 'm'",
    "ANALYZE SELECT LLM_MAP('x')",
    "analyze (sample 3) FROM v",
    "ANALYZE WITH c AS (SELECT 1) FROM c",
    "DROP STATISTICS",
    "ALTER PROMPT p AS 'x'",
    "ALTER AGENT a SET (max_steps = 1)",
    "COMMENT ON TOOL t IS 'x'",
    "comment on model m is null",
    "SHOW TOOLS",
    "SHOW AGENTS",
    "SHOW SECRETS",
    "DESCRIBE TOOL t",
    "DESC AGENT a",
    "DESCRIBE SECRET s",
    "CREATE PERSISTENT SECRET s (TYPE llm, API_KEY 'k')",
    "CREATE TEMP AGENT a WITH (model = m)",
    "DROP TOOL t CASCADE",
    "CALIBRATE MODEL m",
    'calibrate /* now */ model "My Model";',
    "CALIBRATE MODEL",
]
SECRET = ["DROP SECRET s", "drop persistent secret if exists s", "DROP TEMPORARY SECRET s"]
BATCH = ["BEGIN BATCH", "begin batch;", "END BATCH", "-- now\nend /* it */ batch"]
SETTING = [
    "SET halo_store = 'off'",
    "set session HALO_store TO off",
    "SET GLOBAL halo_max_calls = 1",
    'SET "halo_max_calls" = 1',
    "RESET halo_store",
    "RESET LOCAL halo_store",
    "PRAGMA halo_max_calls = 4;",
    "SET halo_nonsense = 1",
]
EXPLAIN = [
    "EXPLAIN SELECT LLM_MAP('x')",
    "EXPLAIN ANALYZE SELECT LLM_MAP('x')",
    "explain (format json) select llm_filter('x')",
    "EXPLAIN (SELECT LLM_MAP('x'))",
    "EXPLAIN (MEMO) SELECT 1",
    "EXPLAIN (ANALYZE, FORMAT json, costs) SELECT 1",
    "EXPLAIN ANALYZE (rules true) SELECT 1",
    "EXPLAIN EXPLAIN SELECT LLM_MAP('x')",
    "EXPLAIN CREATE MODEL m FROM 'x'",
    "EXPLAIN (LOGICAL",
]
LLM = [
    "SELECT LLM_MAP('x')",
    "select llm_map ('x') from t",
    "SELECT llm_map\n-- comment\n('x')",
    "SELECT llm_map/* c */('x')",
    "SELECT\u00a0LLM_MAP\u00a0('x')",
    "(SELECT LLM_SCORE('x'))",
    "FROM t SELECT LLM_EMBED(x)",
    "SELECT * FROM t WHERE LLM_FILTER('x')",
    "SELECT * FROM a JOIN b ON LLM_FILTER('x')",
    "SELECT * FROM t ORDER BY LLM_RANK('x') LIMIT 3",
    "SELECT upper(LLM_CLASSIFY(x, ['a'])) FROM t",
    "SELECT a, LLM_REDUCE('x', b) AS s FROM t GROUP BY a",
    "SELECT LLM_EXTRACT(x, 'STRUCT(a INTEGER)').a",
    "CREATE TABLE model AS SELECT LLM_MAP('x')",
    "CREATE VIEW v AS SELECT LLM_MAP('x')",
    "CREATE MACRO f(a) AS LLM_MAP('{{ a }}')",
    "CREATE MACRO f(a) AS TABLE SELECT LLM_MAP('{{ a }}')",
    "INSERT INTO model SELECT LLM_MAP('x')",
    "COPY (SELECT LLM_MAP('x')) TO 'f.csv'",
    "UPDATE t SET a = LLM_MAP('x')",
    "PREPARE p AS SELECT LLM_MAP($1)",
    "WITH c AS (SELECT LLM_MAP('x')) FROM c",
    "SELECT DISTINCT ON (a) TOOL('lookup') FROM t",
    "SELECT TOOL(lookup, id => a) AS y FROM t",
    "SELECT 1, TOOL('lookup') AS y",
    "FROM t, LATERAL TOOL(orders, customer => t.id) o",
    "SELECT * FROM AGENT(helper, 'task')",
    "SELECT 'é', LLM_MAP('x')",
]


@pytest.mark.parametrize(
    ("sql", "kind"),
    [
        (sql, kind)
        for kind, texts in (
            (Kind.PLAIN, PLAIN),
            (Kind.HALO_DDL, DDL),
            (Kind.HALO_SETTING, SETTING),
            (Kind.HALO_SECRET, SECRET),
            (Kind.BATCH, BATCH),
            (Kind.EXPLAIN, EXPLAIN),
            (Kind.LLM, LLM),
        )
        for sql in texts
    ],
)
def test_kind(sql: str, kind: Kind) -> None:
    assert classify(sql) is kind


@pytest.mark.parametrize("sql", [text for text in PLAIN + DDL + SETTING + SECRET + BATCH + EXPLAIN + LLM if text])
def test_case_comments_and_length_change_nothing(sql: str) -> None:
    kind = classify(sql)
    assert classify("/* head */ " + sql) is kind
    assert classify("\n\t" + sql + "\n") is kind
    assert classify("-- " + "x" * 3_000 + "\n" + sql) is kind
    if "\u00a0" not in sql:
        assert classify(sql.replace(" ", "  /* gap */ ")) is kind or "$$" in sql or "'" in sql


def test_calls_are_found_where_they_stand() -> None:
    sql = "SELECT llm_map('a'), tool FROM t JOIN tool(x, y) ON LLM_FILTER('b') AND 'LLM_MAP(' = c"
    found = operator_calls(tokenize(sql))
    assert [(token.start, token.text) for token in found] == [
        (sql.index("llm_map"), "llm_map"),
        (sql.index("tool(x"), "tool"),
        (sql.index("LLM_FILTER"), "LLM_FILTER"),
    ]


VOCABULARY = """
    CREATE OR REPLACE TEMP MODEL PROMPT TOOL AGENT LLM_MAP SECRET TYPE llm SET halo_x PRAGMA EXPLAIN ANALYZE ( ) , ; . =
    FORMAT MEMO SHOW MODELS DESCRIBE AS WITH ON 'x' "y" $$ -- /* */ 1 $ é SELECT DISTINCT INTO MACRO
"""
WORDS = st.sampled_from(VOCABULARY.split())


@given(st.one_of(st.text(max_size=60), st.lists(WORDS, max_size=14).map(" ".join)))
def test_classify_never_raises(text: str) -> None:
    assert classify(text) in Kind


def test_deep_and_long_texts_are_no_problem() -> None:
    assert classify("EXPLAIN " * 2_000 + "SELECT LLM_MAP('x')") is Kind.EXPLAIN
    assert classify("SELECT " + "(" * 5_000 + "LLM_MAP('x')") is Kind.LLM
    assert classify("INSERT INTO model VALUES " + ",".join(["('a model, a prompt, a tool (x)')"] * 2_000)) is Kind.PLAIN
