"""Valid statements and what a fuzzer does to them; shared by the tests and ``fuzz_statements.py``."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from halo_sql.duck_tokens import tokenize
from halo_sql.errors import Error
from halo_sql.grammar.classify import Kind, classify
from halo_sql.grammar.split import split
from halo_sql.grammar.statements.parse import parse_statement
from halo_sql.grammar.template import parse_template
from halo_sql.session import Session

ROOT = Path(__file__).parents[2]
OWN = [
    "CREATE OR REPLACE MODEL m FROM 'http://127.0.0.1:9/v1' USING openai WITH (model = 'x', n = [1, {'a': true}])",
    "CREATE TEMP PROMPT IF NOT EXISTS p AS $$ a {{ id }} {{{{ b }} $$ WITH (system = 's')",
    "DROP MODEL IF EXISTS m",
    "SHOW MODELS",
    "SET halo_disabled_rules = 'merge_projects'",
    "RESET halo_store",
    "EXPLAIN ANALYZE (FORMAT json, COSTS) SELECT LLM_MAP('{{ id }}') FROM t",
    "PREPARE q AS SELECT LLM_MAP('{{ id }}', model => 'echo') FROM t WHERE id = $1",
    "CREATE VIEW w AS SELECT LLM_MAP('{{ body }}') AS m FROM t",
    "CREATE TOOL look(id INTEGER, note VARCHAR DEFAULT 'x') RETURNS TABLE (a INTEGER) STABLE AS SQL $$ SELECT $id $$",
    "CREATE TOOL w(c VARCHAR) RETURNS JSON AS HTTP GET 'https://h/{{ c }}' WITH (path = '$.a[0]', hosts = [b])",
    "CREATE TOOL * AS MCP 'server --flag' WITH (env = {'A': 'b'})",
    "CREATE AGENT g(a VARCHAR) RETURNS STRUCT(x INTEGER) WITH (tools = [one, rows_of], egress = [], max_steps = 3)",
    "SELECT TOOL(one, n => id), TOOL('one', a) FROM t WHERE TOOL(one, id) > 1",
    "SELECT t.id, r.a FROM t, LATERAL TOOL(rows_of, n => t.id) AS r(a) WHERE r.a > 1",
    "SELECT x.a FROM t LEFT JOIN LATERAL TOOL(rows_of, t.id) x ON true ORDER BY 1",
    "SELECT AGENT(helper, 'Say {{ body }} and {{ a, d }}', word => body, on_error => 'null') FROM t",
    "SELECT t.id, a.answer, a.steps FROM t CROSS JOIN LATERAL AGENT(helper, t.body, word => 'x') a",
    "SELECT LLM_MAP('{{ TOOL(one, id) }}'), (SELECT max(a) FROM TOOL(rows_of, t.id)) FROM t",
    "SELECT 1",
]
TABLES = (
    "CREATE TABLE t(id INTEGER, body VARCHAR, a INTEGER, s STRUCT(x INTEGER, y VARCHAR), l INTEGER[], d DATE)",
    "CREATE TABLE u(id INTEGER, x VARCHAR)",
    "CREATE TOOL one(n INTEGER) RETURNS INTEGER AS SQL 'SELECT $n'",
    "CREATE TOOL rows_of(n INTEGER) RETURNS TABLE (a INTEGER) AS SQL 'SELECT $n'",
    "CREATE AGENT helper(word VARCHAR) WITH (tools = [one, rows_of])",
)
# fmt: off
#: what is put into a statement
WORDS = [
    "SELECT", "FROM", "WHERE", "(", ")", "[", "]", "{", "}", "{{", "}}", "'", '"', ",", "*", ".", ";", "CASE", "END",
    "AND", "OVER ()", "LLM_MAP('{{ a }}')", "LLM_FILTER(", "=>", ":=", "AS", "UNION ALL", "ORDER BY", "é",
    "\U0001f600", "$$", "$x$", "--", "/*", "*/", "NULL", "lambda x:", "FOR", "#1", "?", "$1", "$name", "\x00",
    "\ud800", "\xa0", "\u202e", "\ufeff", "\n", "\r", "USING", "WITH", "RECURSIVE", "VALUES", "COLUMNS(*)", "::",
    "E'\\'", "1e999", "9" * 400, "x" * 2000, "'" + "y" * 5000 + "'", "(" * 50, "-" * 40, "MODEL", "PROMPT", "halo_",
    "TOOL(one, ", "LATERAL", "AGENT(helper, ", "TOOL", "RETURNS TABLE (", "LATERAL TOOL(rows_of, 1) x",
]
# fmt: on


def statements() -> list[str]:
    """Statements of all kinds."""
    text = (ROOT / "tests" / "grammar" / "equation.sql").read_text(encoding="utf-8")
    return [*OWN, *(piece.text for piece in split(text))]


def edited(sql: str, edits: list[tuple[str, int, str]]) -> str:
    """Tokens dropped, exchanged, doubled, moved; words put between tokens or into them."""
    pieces = [token.text for token in tokenize(sql)]
    for kind, position, word in edits:
        at = position % (len(pieces) or 1)
        if kind == "put" or not pieces:
            pieces.insert(at, word)
        elif kind == "drop":
            del pieces[at]
        elif kind == "double":
            pieces[at:at] = pieces[at : at + 1]
        elif kind == "repeat":
            pieces[at:at] = pieces[at : at + 8] * 5
        elif kind == "cut":
            pieces[at] = pieces[at][: position % (len(pieces[at]) + 1)]
        elif kind == "into":
            middle = position % (len(pieces[at]) + 1)
            pieces[at] = pieces[at][:middle] + word + pieces[at][middle:]
        else:
            pieces[at - 1], pieces[at] = pieces[at], pieces[at - 1]
    return " ".join(pieces)


KINDS = ("put", "drop", "double", "repeat", "cut", "into", "swap")


def session() -> Session:
    """A session over the tables the statements read."""
    found = Session.open(":memory:", False, {"halo_store": "off", "halo_default_model": "echo", "threads": 1})
    for sql in TABLES:
        found.execute(sql).close()
    return found


def check(planner: Session, text: str) -> str:
    """What becomes of a text in every stage in front of execution: 'planned', 'parsed', 'plain' or 'refused'.

    Anything but an error of ours is what the fuzzer looks for.
    """
    with suppress(Error):
        parse_template(text)
    outcome = "refused"
    try:
        pieces = split(text)
        for piece in pieces:
            kind = classify(piece.text)
            if kind is Kind.LLM:
                planner.compile(piece.text)
                outcome = "planned"
            elif kind is Kind.PLAIN:
                outcome = "plain"
            else:
                parse_statement(piece.text)
                outcome = "parsed"
    except Error as refused:
        _check_error(refused, text)
    return outcome


def _check_error(problem: Error, text: str) -> None:
    assert problem.message
    assert str(problem).startswith(problem.kind)
    assert problem.span is None or 0 <= problem.span.start <= problem.span.end <= len(text) + 1
