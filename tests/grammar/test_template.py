"""Prompt templates."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from halo_sql.errors import Error, Span
from halo_sql.grammar.source import read_literal
from halo_sql.grammar.template import MAX_HOLES, HoleText, Star, parse_template

TEMPLATES: dict[str, list[str | list[str]]] = {
    "": [],
    "no hole": ["no hole"],
    "{{ a }}": [["a"]],
    "{{a}}": [["a"]],
    "x {{ a }} y {{ b }}": ["x ", ["a"], " y ", ["b"]],
    "{{ a, b + 1, f(c, d) }}": [["a", "b + 1", "f(c, d)"]],
    "{{{{ a }}": ["{{ a }}"],
    "{{{{{{ a }}": ["{{", ["a"]],
    "a { b } c": ["a { b } c"],
    "a }} b": ["a }} b"],
    "{{ {'k': a} }}": [["{'k': a}"]],
    "{{ {'k': {'m': a}}}}": [["{'k': {'m': a}}"]],
    "{{ '}}' || a }}": [["'}}' || a"]],
    '{{ "}}" }}': [['"}}"']],
    "{{ LLM_MAP('{{ a }}') }}": [["LLM_MAP('{{ a }}')"]],
    "{{ [x for x in l][1] }}": [["[x for x in l][1]"]],
    "é {{ ü }}": ["é ", ["ü"]],
    "{{ $$}}$$ || a }}": [["$$}}$$ || a"]],
    "{{ $q$ }} $$ $q$ }} b": [["$q$ }} $$ $q$"], " b"],
    "{{ a$b }} {{ $1 }}": [["a$b"], " ", ["$1"]],
    "{{ a /* }} */ }}": [["a"]],
    "{{ a -- }}\n}}": [["a"]],
    "{{ a -- b }}": [["a"]],
    r"{{ E'\'}}' }}": [[r"E'\'}}'"]],
    "{{ 'it''s }}' }}": [["'it''s }}'"]],
    "{{ ['}}', '{{'][1] }}": [["['}}', '{{'][1]"]],
    "{{ a['k'] }}{{ b::DATE }}": [["a['k']"], ["b::DATE"]],
}


@pytest.mark.parametrize(("text", "pieces"), TEMPLATES.items())
def test_pieces(text: str, pieces: list[str | list[str]]) -> None:
    found = parse_template(text)
    assert [piece if isinstance(piece, str) else [expr for expr, _ in piece.exprs] for piece in found] == pieces
    for piece in found:
        for expr, offset in piece.exprs if isinstance(piece, HoleText) else ():
            assert text[offset : offset + len(expr)] == expr


STARS = {
    "*": Star(),
    "t.*": Star("t.*", "t"),
    '"A b" . *': Star('"A b" . *', "A b"),
    "* EXCLUDE (a, B)": Star("* EXCLUDE (a, B)", "", ("a", "b")),
    "t.* EXCLUDE a": Star("t.* EXCLUDE a", "t", ("a",)),
}


@pytest.mark.parametrize(("text", "star"), STARS.items())
def test_star_holes(text: str, star: Star) -> None:
    assert parse_template(f"a {{{{ {text} }}}}") == ("a ", HoleText((), star, Span(2, len(text) + 8)))


@pytest.mark.parametrize("text", ["a * b", "count(*)", "* REPLACE (1 AS a)", "* EXCLUDE (a.b)"])
def test_what_is_no_star_is_an_expression(text: str) -> None:
    (hole,) = parse_template(f"{{{{ {text} }}}}")
    assert isinstance(hole, HoleText)
    assert [expr for expr, _ in hole.exprs] == [text]


@given(st.lists(st.tuples(st.text(st.characters(exclude_characters="{}"), max_size=8), st.sampled_from("abc"))))
def test_templates_round_trip(parts: list[tuple[str, str]]) -> None:
    text = "".join(f"{static}{{{{ {hole} }}}}" for static, hole in parts)
    pieces = parse_template(text)
    rebuilt = "".join(piece if isinstance(piece, str) else f"{{{{ {piece.exprs[0][0]} }}}}" for piece in pieces)
    assert rebuilt == text


def parsed_or_error(text: str) -> tuple[tuple[str | HoleText, ...], Error | None]:
    try:
        return parse_template(text), None
    except Error as problem:
        return (), problem


@given(st.text(st.sampled_from("a{}'\"(), *"), max_size=200))
def test_any_text_is_a_template_or_an_error_inside_it(text: str) -> None:
    pieces, problem = parsed_or_error(text)
    if problem is not None:
        assert problem.span is not None
        assert 0 <= problem.span.start <= problem.span.end <= len(text)
        assert problem.remedy or "unterminated" in problem.message
        return
    assert all(pieces)


@pytest.mark.parametrize(
    ("text", "message", "span"),
    [
        ("a {{ b", "a hole of the prompt is never closed", Span(2, 4)),
        ("a {{  }}", "a hole of the prompt is empty", Span(2, 8)),
        ("a {{ b,, c }}", "a hole of the prompt has an empty field", Span(2, 13)),
        ("a {{ (b }}", '"(" is never closed', Span(5, 6)),
        ("a {{ b, t.* }}", "t.* stands beside other fields of a hole", Span(8, 11)),
    ],
)
def test_malformed_holes_are_shown(text: str, message: str, span: Span) -> None:
    with pytest.raises(Error) as caught:
        parse_template(text)
    assert (caught.value.message, caught.value.span) == (message, span)
    assert caught.value.remedy


def test_holes_have_a_limit() -> None:
    assert len(parse_template("{{ a }}" * MAX_HOLES)) == MAX_HOLES
    with pytest.raises(Error, match="more than 1000 holes"):
        parse_template("{{ a }}" * (MAX_HOLES + 1))


LITERALS = {
    "'a'": "a",
    "'it''s'": "it's",
    "''''": "'",
    "''": "",
    "$$it's$$": "it's",
    "$q$a $$ b$q$": "a $$ b",
    r"E'a\n\t\\\''": "a\n\t\\'",
    r"e'it''s'": "it's",
}


@pytest.mark.parametrize(("token", "value"), LITERALS.items())
def test_literals(token: str, value: str) -> None:
    literal = read_literal(token)
    assert literal.value == value
    assert len(literal.offsets) == len(value) + 1


@given(st.text(st.sampled_from("ab'é\n"), max_size=30))
def test_every_character_of_a_literal_knows_its_place(value: str) -> None:
    token = "'" + value.replace("'", "''") + "'"
    literal = read_literal(token)
    assert literal.value == value
    assert [token[offset] for offset in literal.offsets] == [*value, "'"]
