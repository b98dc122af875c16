"""Whatever is done to a valid statement, it is bound or refused with an error of ours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from halo_sql.duck_tokens import tokenize
from halo_sql.errors import Error
from halo_sql.grammar.split import split

STATEMENTS = [piece.text for piece in split(Path(__file__).with_name("equation.sql").read_text(encoding="utf-8"))] + [
    "CREATE TABLE n AS SELECT LLM_MAP('{{ body }}', returns => 'INTEGER') m FROM t",
    "INSERT INTO u SELECT id, LLM_MAP('{{ * }}', temperature => 0.5, seed => 1) FROM t",
    "COPY (SELECT LLM_MAP('{{ id, body }}') m FROM t) TO 'x.csv'",
    "SELECT LLM_FILTER(good, on_error => 'null', stop => ['a', 'b']) FROM t WHERE LLM_FILTER($$ {{ a }} $$)",
]
# fmt: off
WORDS = st.sampled_from([
    "SELECT", "FROM", "WHERE", "(", ")", "[", "]", "{{", "}}", "'", '"', ",", "*", ".", ";", "CASE", "END", "AND",
    "OVER", "LLM_MAP('{{ a }}')", "LLM_FILTER(", "{{ zz }}", "=>", "AS", "UNION", "ORDER BY", "t", "é", "$$", "--",
    "/*", "NULL", "GROUP BY", "LIMIT", "lambda x:", "FOR", "#1", "?", "$1", "\x00", "\n", "USING", "WITH", "VALUES",
    "COLUMNS(*)", "::",
])
# fmt: on
EDITS = st.lists(
    st.tuples(st.sampled_from(["drop", "put", "swap", "double"]), st.integers(0, 200), WORDS), min_size=1, max_size=3
)
FAST = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def edited(sql: str, edits: list[tuple[str, int, str]]) -> str:
    """Tokens dropped, exchanged, doubled, or words put between them."""
    pieces = [token.text for token in tokenize(sql) if token.kind != "comment"]
    for kind, position, word in edits:
        at = position % (len(pieces) or 1)
        if kind == "put":
            pieces.insert(at, word)
        elif kind == "drop":
            del pieces[at : at + 1]
        elif kind == "double":
            pieces[at:at] = pieces[at : at + 1]
        elif len(pieces) > 1:
            pieces[at - 1], pieces[at] = pieces[at], pieces[at - 1]
    return " ".join(pieces)


def outcome(bound: Any, sql: str) -> Error | None:
    try:
        bound(sql)
    except Error as problem:
        return problem
    return None


@FAST
@given(st.sampled_from(STATEMENTS), EDITS)
@example("SELECT LLM_MAP('x')", [("put", 0, ";")])
@example("x", [("drop", 0, "t")])
def test_edited_statements(bound: Any, sql: str, edits: list[tuple[str, int, str]]) -> None:
    text = edited(sql, edits)
    problem = outcome(bound, text)
    if problem is not None:
        assert problem.message
        assert problem.span is None or 0 <= problem.span.start <= len(text)
        assert str(problem).startswith(problem.kind)


@FAST
@given(
    st.sampled_from(STATEMENTS), st.integers(0, 300), st.text(st.sampled_from("'\"{}()[]$;,.*é\\\n #?:-/"), max_size=3)
)
def test_characters_put_anywhere(bound: Any, sql: str, position: int, text: str) -> None:
    at = position % (len(sql) + 1)
    problem = outcome(bound, sql[:at] + text + sql[at:])
    assert problem is None or problem.message


@FAST
@given(st.text(st.sampled_from("ab'\"{}(),. *+|1"), max_size=40))
def test_any_hole(bound: Any, hole: str) -> None:
    literal = "'x {{ " + hole.replace("'", "''") + " }}'"
    problem = outcome(bound, f"SELECT LLM_MAP({literal}) FROM t")
    assert problem is None or problem.message


@FAST
@given(st.text(max_size=60))
def test_any_prompt_text(bound: Any, text: str) -> None:
    sql = "SELECT LLM_MAP('" + text.replace("'", "''") + "') FROM t"
    problem = outcome(bound, sql)
    if "{{" not in text:
        assert problem is None or not text.isprintable()


@FAST
@given(st.text(max_size=60))
def test_any_text_behind_a_call(bound: Any, text: str) -> None:
    problem = outcome(bound, "SELECT LLM_MAP('a') " + text)
    assert problem is None or problem.message
