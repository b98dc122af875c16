"""Bracket-matched tokens."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from halo_sql.errors import ParserError, Span
from halo_sql.grammar.lex import MAX_DEPTH, Lexed, lex

TEXTS = st.text(st.sampled_from("ab()[]{}'\"$,.;-/*\n CASEWHENDé\u00a0\U0001f600"), max_size=5000)


def test_comments_are_no_tokens() -> None:
    lexed = lex("SELECT /* ( */ a -- )\n, b")
    assert [token.text for token in lexed.tokens] == ["SELECT", "a", ",", "b"]


@pytest.mark.parametrize(
    ("sql", "pieces"),
    [
        ("a, b", ["a", "b"]),
        ("f(a, b), [c, d], {'e': 1, 'g': 2}", ["f(a, b)", "[c, d]", "{'e': 1, 'g': 2}"]),
        ("CASE WHEN a THEN b, c END, d", ["CASE WHEN a THEN b, c END", "d"]),
        ("'a, b', \"c, d\", $$e, f$$", ["'a, b'", '"c, d"', "$$e, f$$"]),
        ("a,", ["a", ""]),
        ("t.case, t.end, x AS end, b", ["t.case", "t.end", "x AS end", "b"]),
    ],
)
def test_a_split_ignores_commas_in_brackets_and_quotes(sql: str, pieces: list[str]) -> None:
    lexed = lex(sql)
    assert [lexed.slice(*piece) for piece in lexed.split(0, len(lexed.tokens))] == pieces


@given(st.lists(st.sampled_from(["a", "f(x, y)", "'p, q'", '"r, s"', "[1, 2]", "CASE WHEN a THEN b END"]), min_size=1))
def test_joined_pieces_split_again(pieces: list[str]) -> None:
    lexed = lex(", ".join(pieces))
    assert [lexed.slice(*piece) for piece in lexed.split(0, len(lexed.tokens))] == pieces


def lexed_or_error(sql: str) -> tuple[Lexed | None, ParserError | None]:
    try:
        return lex(sql), None
    except ParserError as problem:
        return None, problem


@given(TEXTS)
def test_any_text_gives_matched_brackets_or_a_parser_error(sql: str) -> None:
    lexed, problem = lexed_or_error(sql)
    if lexed is None:
        assert problem is not None
        assert problem.span is not None
        assert 0 <= problem.span.start < problem.span.end <= len(sql)
        assert problem.remedy
        return
    for index, partner in lexed.partner.items():
        assert lexed.partner[partner] == index
        assert lexed.parent[index] == lexed.parent[partner]
    for index, opening in enumerate(lexed.parent):
        assert opening < index
        assert opening == -1 or index <= lexed.partner.get(opening, index)


@pytest.mark.parametrize(
    ("sql", "message", "span"),
    [
        ("SELECT (a", '"(" is never closed', Span(7, 8)),
        ("SELECT a)", 'unmatched ")"', Span(8, 9)),
        ("SELECT (a]", 'unmatched "]"', Span(9, 10)),
        ("SELECT {a: [1}", 'unmatched "}"', Span(13, 14)),
        ("SELECT ')' || (a", '"(" is never closed', Span(14, 15)),
    ],
)
def test_unmatched_brackets_are_shown(sql: str, message: str, span: Span) -> None:
    with pytest.raises(ParserError) as caught:
        lex(sql)
    assert (caught.value.message, caught.value.span) == (message, span)


@pytest.mark.parametrize(("opening", "closing"), [("(", ")"), ("[", "]"), ("CASE ", " END")])
def test_nesting_has_a_limit(opening: str, closing: str) -> None:
    inside = opening * MAX_DEPTH + "1" + closing * MAX_DEPTH
    assert lex(inside).partner[0] == len(lex(inside).tokens) - 1
    with pytest.raises(ParserError, match="nested deeper than 900 levels"):
        lex(opening + inside + closing)


@given(st.text(st.sampled_from("ab (),é\n'"), max_size=40), st.integers(0, 45))
def test_at_finds_the_token_at_or_behind_a_position(sql: str, position: int) -> None:
    try:
        lexed = lex(sql)
    except ParserError:
        return
    found = lexed.at(position)
    assert all(token.start < position for token in lexed.tokens[:found])
    assert all(token.start >= position for token in lexed.tokens[found:])


@pytest.mark.parametrize(
    ("sql", "names"), [("f(x)", False), ("f(lambda x: x)", True), ("f(x -> x)", True), ("[x for x in l]", True)]
)
def test_lambdas_and_comprehensions_are_noticed(sql: str, names: bool) -> None:
    assert lex(sql).binds_names is names


@pytest.mark.parametrize(
    ("sql", "pieces"), [("a, b", ["a", "b"]), ("a, b,", ["a", "b"]), ("a", ["a"]), ("a,, b", ["a", "", "b"])]
)
def test_a_list_may_end_in_a_comma(sql: str, pieces: list[str]) -> None:
    lexed = lex(sql)
    assert [lexed.slice(*piece) for piece in lexed.items(0, len(lexed.tokens))] == pieces
