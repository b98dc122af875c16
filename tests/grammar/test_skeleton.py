"""Clauses, arms and common table expressions as token ranges."""

from __future__ import annotations

import pytest

from halo_sql.grammar.lex import lex
from halo_sql.grammar.skeleton import identifier, parse_query, parse_select, starts_query

SELECTS = {
    "SELECT a": {"SELECT": "a"},
    "SELECT DISTINCT a, b FROM t": {"SELECT": "a, b", "FROM": "t"},
    "SELECT ALL a FROM t": {"SELECT": "a", "FROM": "t"},
    "SELECT DISTINCT ON (a, b) c FROM t": {"SELECT": "c", "FROM": "t"},
    "FROM t": {"FROM": "t"},
    "FROM t SELECT a WHERE b": {"FROM": "t", "SELECT": "a", "WHERE": "b"},
    "SELECT a FROM t WHERE b GROUP BY c HAVING d WINDOW w AS (ORDER BY e) QUALIFY f ORDER BY g LIMIT 1 OFFSET 2": {
        "SELECT": "a",
        "FROM": "t",
        "WHERE": "b",
        "GROUP": "c",
        "HAVING": "d",
        "WINDOW": "w AS (ORDER BY e)",
        "QUALIFY": "f",
        "ORDER": "g",
        "LIMIT": "1",
        "OFFSET": "2",
    },
    "SELECT a IS DISTINCT FROM b FROM t": {"SELECT": "a IS DISTINCT FROM b", "FROM": "t"},
    "SELECT a IS NOT DISTINCT FROM b": {"SELECT": "a IS NOT DISTINCT FROM b"},
    "SELECT (SELECT x FROM y WHERE z) FROM t": {"SELECT": "(SELECT x FROM y WHERE z)", "FROM": "t"},
    "SELECT extract(year FROM d) FROM t": {"SELECT": "extract(year FROM d)", "FROM": "t"},
    "SELECT sum(a) OVER (ORDER BY b) FROM t": {"SELECT": "sum(a) OVER (ORDER BY b)", "FROM": "t"},
    "SELECT 'FROM x', \"where\" FROM t": {"SELECT": "'FROM x', \"where\"", "FROM": "t"},
    "SELECT a FROM t USING SAMPLE 10%": {"SELECT": "a", "FROM": "t", "SAMPLE": "10%"},
    "SELECT a AS limit FROM t": {"SELECT": "a AS limit", "FROM": "t"},
}


@pytest.mark.parametrize(("sql", "clauses"), SELECTS.items())
def test_clauses(sql: str, clauses: dict[str, str]) -> None:
    lexed = lex(sql)
    select = parse_select(lexed, 0, len(lexed.tokens))
    assert {word: lexed.slice(*part) for word, part in select.clauses.items()} == clauses
    assert select.distinct is sql.startswith("SELECT DISTINCT")


def test_distinct_on_has_its_expressions() -> None:
    lexed = lex("SELECT DISTINCT ON (a, f(b)) c FROM t")
    select = parse_select(lexed, 0, len(lexed.tokens))
    assert select.distinct_on is not None
    assert lexed.slice(*select.distinct_on) == "a, f(b)"


@pytest.mark.parametrize(
    ("sql", "arms", "tail"),
    [
        ("SELECT 1", ["SELECT 1"], ""),
        ("SELECT 1 UNION SELECT 2", ["SELECT 1", "SELECT 2"], ""),
        ("SELECT 1 UNION ALL BY NAME SELECT 2 EXCEPT (SELECT 3)", ["SELECT 1", "SELECT 2", "(SELECT 3)"], ""),
        ("SELECT 1 INTERSECT ALL VALUES (1) ORDER BY 1 LIMIT 2", ["SELECT 1", "VALUES (1)"], "ORDER BY 1 LIMIT 2"),
        ("SELECT 1 ORDER BY 1", ["SELECT 1 ORDER BY 1"], ""),
        ("FROM t UNION TABLE u", ["FROM t", "TABLE u"], ""),
    ],
)
def test_arms(sql: str, arms: list[str], tail: str) -> None:
    lexed = lex(sql)
    query = parse_query(lexed, 0, len(lexed.tokens))
    assert [lexed.slice(*arm.range) for arm in query.arms] == arms
    assert lexed.slice(*query.tail) == tail


@pytest.mark.parametrize(
    ("sql", "ctes", "recursive", "arm"),
    [
        ("WITH a AS (SELECT 1) FROM a", [("a", "SELECT 1")], False, "FROM a"),
        ("WITH RECURSIVE a(x) AS (SELECT 1) FROM a", [("a", "SELECT 1")], True, "FROM a"),
        (
            'WITH "A b" AS MATERIALIZED (VALUES (1)), c AS NOT MATERIALIZED (FROM "A b") SELECT 2',
            [("A b", "VALUES (1)"), ("c", 'FROM "A b"')],
            False,
            "SELECT 2",
        ),
        ("WITH a AS (WITH b AS (SELECT 1) FROM b) FROM a", [("a", "WITH b AS (SELECT 1) FROM b")], False, "FROM a"),
    ],
)
def test_common_table_expressions(sql: str, ctes: list[tuple[str, str]], recursive: bool, arm: str) -> None:
    lexed = lex(sql)
    query = parse_query(lexed, 0, len(lexed.tokens))
    assert [(cte.name, lexed.slice(*cte.body)) for cte in query.ctes] == ctes
    assert query.recursive is recursive
    assert lexed.slice(*query.arms[0].range) == arm


@pytest.mark.parametrize(
    ("inside", "is_query"),
    [
        ("(SELECT 1)", True),
        ("((SELECT 1))", True),
        ("((SELECT 1) UNION (SELECT 2))", True),
        ("((SELECT 1) ORDER BY 1)", True),
        ("(VALUES (1))", True),
        ("(FROM t)", True),
        ("((SELECT 1) + 2)", False),
        ("((SELECT 1), 2)", False),
        ("(a)", False),
        ('("select")', False),
        ("(t.values)", False),
    ],
)
def test_queries_in_brackets(inside: str, is_query: bool) -> None:
    assert starts_query(lex(inside), 1) is is_query


@pytest.mark.parametrize(("token", "name"), [("a", "a"), ("Ab", "Ab"), ('"A ""b"""', 'A "b"'), ('""', "")])
def test_identifiers(token: str, name: str) -> None:
    assert identifier(token) == name
