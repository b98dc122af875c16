"""Which rows reach a call in a lazy position."""

from __future__ import annotations

import pytest

from halo_sql.grammar.guards import bound_names, guard_terms, split_words
from halo_sql.grammar.lex import Lexed, lex

GUARDS = {
    "LLM": [],
    "upper(LLM)": [],
    "CASE WHEN a THEN LLM END": ["((a) IS TRUE)"],
    "CASE WHEN LLM THEN a END": [],
    "CASE WHEN a THEN b WHEN c THEN LLM END": ["((a) IS NOT TRUE)", "((c) IS TRUE)"],
    "CASE WHEN a THEN b ELSE LLM END": ["((a) IS NOT TRUE)"],
    "CASE WHEN a THEN b WHEN LLM THEN c END": ["((a) IS NOT TRUE)"],
    "CASE x WHEN 1 THEN LLM END": ["(((x) = (1)) IS TRUE)"],
    "CASE x WHEN 1 THEN b WHEN 2 THEN c ELSE LLM END": ["(((x) = (1)) IS NOT TRUE)", "(((x) = (2)) IS NOT TRUE)"],
    "CASE LLM WHEN 1 THEN b END": [],
    "CASE WHEN a THEN CASE WHEN b THEN LLM END END": ["((a) IS TRUE)", "((b) IS TRUE)"],
    "CASE WHEN t.when THEN LLM END": ["((t.when) IS TRUE)"],
    "coalesce(a, LLM)": ["((a) IS NULL)"],
    "coalesce(a, b, LLM)": ["((a) IS NULL)", "((b) IS NULL)"],
    "coalesce(LLM, a)": [],
    "ifnull(a, LLM)": ["((a) IS NULL)"],
    "if(a, LLM, b)": ["((a) IS TRUE)"],
    "if(a, b, LLM)": ["((a) IS NOT TRUE)"],
    "if(LLM, a, b)": [],
    "a AND LLM": ["((a) IS NOT FALSE)"],
    "a OR LLM": ["((a) IS NOT TRUE)"],
    "LLM AND a": [],
    "a AND b AND LLM AND c": ["((a) IS NOT FALSE)", "((b) IS NOT FALSE)"],
    "a OR b AND LLM": ["((a) IS NOT TRUE)", "((b) IS NOT FALSE)"],
    "(a OR b) AND LLM": ["(((a OR b)) IS NOT FALSE)"],
    "a BETWEEN 1 AND LLM": [],
    "a BETWEEN 1 AND 2 AND LLM": ["((a BETWEEN 1 AND 2) IS NOT FALSE)"],
    "a AND (b OR LLM)": ["((a) IS NOT FALSE)", "((b) IS NOT TRUE)"],
    "NOT (a AND LLM)": ["((a) IS NOT FALSE)"],
    "sum(x) FILTER (WHERE a AND LLM)": ["((a) IS NOT FALSE)"],
    "count(DISTINCT a OR LLM)": ["((a) IS NOT TRUE)"],
    "f(a AND b, LLM)": [],
    "CASE WHEN a OR LLM THEN b END": ["((a) IS NOT TRUE)"],
}


def terms(lexed: Lexed, barrier: str = "") -> list[str]:
    call = next(index for index in range(len(lexed.tokens)) if lexed.text(index) == "LLM")
    found = guard_terms(lexed, call, 0, len(lexed.tokens), lambda opening: lexed.word(opening - 1).lower() == barrier)
    return ["".join(piece if isinstance(piece, str) else lexed.slice(*piece) for piece in term) for term in found]


@pytest.mark.parametrize(("sql", "guards"), GUARDS.items())
def test_guards(sql: str, guards: list[str]) -> None:
    assert terms(lex(sql)) == guards


def test_an_aggregates_arguments_are_computed_below_the_group() -> None:
    sql = "CASE WHEN count(*) > 1 THEN sum(CASE WHEN a THEN LLM END) END"
    assert terms(lex(sql), "sum") == ["((a) IS TRUE)"]
    assert terms(lex(sql)) == ["((count(*) > 1) IS TRUE)", "((a) IS TRUE)"]


@pytest.mark.parametrize(
    ("sql", "word", "operands"),
    [
        ("a AND b", "AND", ["a", "b"]),
        ("a OR b AND c", "OR", ["a", "b AND c"]),
        ("a BETWEEN 1 AND 2", "AND", ["a BETWEEN 1 AND 2"]),
        ("a BETWEEN 1 AND 2 AND b BETWEEN c AND d", "AND", ["a BETWEEN 1 AND 2", "b BETWEEN c AND d"]),
        ("f(a AND b) AND (c AND d)", "AND", ["f(a AND b)", "(c AND d)"]),
        ("t.and AND b", "AND", ["t.and", "b"]),
        ("CASE WHEN a AND b THEN c END AND d", "AND", ["CASE WHEN a AND b THEN c END", "d"]),
    ],
)
def test_operands(sql: str, word: str, operands: list[str]) -> None:
    lexed = lex(sql)
    assert [lexed.slice(*piece) for piece in split_words(lexed, 0, len(lexed.tokens), word)] == operands


@pytest.mark.parametrize(
    ("sql", "names"),
    [
        ("f(LLM)", set()),
        ("f(l, lambda x: LLM)", {"x"}),
        ("f(l, lambda x, y: g(LLM))", {"x", "y"}),
        ("f(l, x -> LLM)", {"x"}),
        ("f(l, (x, y) -> LLM)", {"x", "y"}),
        ("[LLM FOR x IN l]", {"x"}),
        ("[g(LLM) FOR x, i IN l]", {"x", "i"}),
        ("f(LLM, lambda x: x)", set()),
        ('f(l, lambda "X y": LLM)', {"x y"}),
        ("f(l, lambda x: h(m, lambda y: LLM))", {"x", "y"}),
    ],
)
def test_names_bound_around_a_call(sql: str, names: set[str]) -> None:
    lexed = lex(sql)
    call = next(index for index in range(len(lexed.tokens)) if lexed.text(index) == "LLM")
    assert bound_names(lexed, call) == names
