"""Parameters as literals, and positions through spliced texts."""

from __future__ import annotations

import datetime
import decimal
import uuid
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from halo_sql.duck import Duck
from halo_sql.errors import DatabaseError, Span
from halo_sql.grammar.parameters import splice_parameters, sql_literal
from halo_sql.grammar.splice import Piece, assemble, pieces_of

STATEMENTS: list[tuple[str, Any, str]] = [
    ("SELECT ?", [1], "SELECT 1"),
    ("SELECT ?, ?", [1, "a'b"], "SELECT 1, 'a''b'"),
    ("SELECT $1, $2, $1", [1, None], "SELECT 1, NULL, 1"),
    ("SELECT $name, $other", {"name": True, "other": -3}, "SELECT TRUE, (-3)"),
    ("SELECT '?', \"$1\", $$ ? $$, 1 -- ?", None, "SELECT '?', \"$1\", $$ ? $$, 1 -- ?"),
    ("SELECT 'é', ?", (2,), "SELECT 'é', 2"),
    ("SELECT 1", {}, "SELECT 1"),
    ("SELECT $Name", {"name": 1}, "SELECT 1"),
    ("SELECT ?, ?1, $1", [7], "SELECT 7, 7, 7"),
    (
        "SELECT LLM_MAP('$1 {{ $1 }} ? {{ b || $1 }}'), $1",
        ["it's"],
        "SELECT LLM_MAP('$1 {{ ''it''''s'' }} ? {{ b || ''it''''s'' }}'), 'it''s'",
    ),
    ("SELECT LLM_MAP('{{ ? }}'), ?, LLM_MAP('{{ ? }}')", [1, 2, 3], "SELECT LLM_MAP('{{ 1 }}'), 2, LLM_MAP('{{ 3 }}')"),
    ("SELECT LLM_MAP($$ it's {{ $x }} $$)", {"x": "a"}, "SELECT LLM_MAP($$ it's {{ 'a' }} $$)"),
    ("SELECT LLM_MAP($$ it's {{ $x }} $$)", {"x": "$$"}, "SELECT LLM_MAP(' it''s {{ ''$$'' }} ')"),
    (r"SELECT LLM_MAP(E'a\n{{ $x }}')", {"x": "\\'"}, r"SELECT LLM_MAP(E'a\n{{ ''\\'''''' }}')"),
    ("SELECT LLM_MAP('{{ $x, b }}')", {"x": 1}, """SELECT LLM_MAP('{{ 1 AS "x", b }}')"""),
    ("SELECT LLM_MAP('{{ LLM_MAP(''{{ $x }}'') }}')", {"x": 1}, "SELECT LLM_MAP('{{ LLM_MAP(''{{ 1 }}'') }}')"),
    ("SELECT f('{{ $x }}')", None, "SELECT f('{{ $x }}')"),
]


@pytest.mark.parametrize(("sql", "params", "expected"), STATEMENTS)
def test_parameters_become_literals(sql: str, params: Any, expected: str) -> None:
    assert splice_parameters(sql, params).text == expected


@pytest.mark.parametrize(
    ("sql", "params", "message", "span"),
    [
        ("SELECT ?", None, "Values were not provided for the following parameters: 1", Span(7, 8)),
        ("SELECT ?, ?", [1], "Values were not provided for the following parameters: 2", Span(10, 11)),
        ("SELECT $2", [1], "Parameter argument/count mismatch, identifiers of the excess parameters: 1", None),
        (
            "SELECT $lim",
            {"lmi": 1},
            "Parameter argument/count mismatch, identifiers of the excess parameters: lmi",
            None,
        ),
        ("SELECT ?", [object()], "a parameter cannot be of the Python type object", Span(7, 8)),
        ("SELECT ?", [1, 2], "Parameter argument/count mismatch, identifiers of the excess parameters: 2", None),
        ("SELECT 1", [1], "Parameter/argument count mismatch for prepared statement. Expected 0, got 1", None),
        ("SELECT ?", 5, "Prepared parameters can only be passed as a list or a dictionary", None),
        ("SELECT ?, $x", {"y": 1}, "Mixing named and positional parameters is not supported yet", Span(10, 12)),
    ],
)
def test_wrong_parameters_are_named(sql: str, params: Any, message: str, span: Span | None) -> None:
    with pytest.raises(DatabaseError) as caught:
        splice_parameters(sql, params)
    assert (caught.value.message, caught.value.span) == (message, span)
    assert caught.value.kind in ("Invalid Input Error", "Not implemented Error")


VALUES: list[Any] = [
    None,
    True,
    0,
    -5,
    2**63,
    1.5,
    float("inf"),
    "",
    "it's $1 ?",
    b"\x00\xff'",
    decimal.Decimal("12.50"),
    decimal.Decimal("-0.001"),
    datetime.date(2020, 2, 29),
    datetime.time(1, 2, 3),
    datetime.datetime(2020, 1, 2, 3, 4, 5, 678),
    datetime.timedelta(days=1, microseconds=5),
    uuid.UUID(int=7),
    [1, 2, None],
    {"a": 1, "b": [True]},
    {"key": [1, 2], "value": ["a", None]},
    {},
]


@pytest.fixture(scope="module")
def plain() -> Any:
    found = Duck.connect(":memory:", False, {})
    yield found
    found.close()


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_a_literal_is_what_duckdb_makes_of_the_parameter(plain: Duck, value: Any) -> None:
    by_literal = plain.rows(f"SELECT {sql_literal(value)}")
    assert by_literal == plain.rows("SELECT ?", [value])


@pytest.mark.parametrize("value", [1, True, 1.5, "a", datetime.date(2020, 1, 1), decimal.Decimal("1.25"), [1], b"x"])
def test_a_literal_has_the_parameters_type(plain: Duck, value: Any) -> None:
    assert plain.rows(f"SELECT typeof({sql_literal(value)})") == plain.rows("SELECT typeof(?)", [value])


@given(st.text(max_size=30))
def test_texts_survive(value: str) -> None:
    assert sql_literal(value)[1:-1].replace("''", "'") == value


PIECES = st.lists(st.tuples(st.text("abc", min_size=1, max_size=5), st.booleans()), min_size=1, max_size=6)


@given(PIECES)
def test_positions_of_a_spliced_text_map_back(parts: list[tuple[str, bool]]) -> None:
    sql = "".join(text for text, _ in parts)
    cuts, at, replaced = [], 0, []
    for text, cut in parts:
        span = Span(at, at + len(text))
        if cut:
            cuts.append((span, [Piece("<" + text + ">", span)]))
            replaced.append(span)
        at = span.end
    spliced = assemble(pieces_of(sql, 0, len(sql), cuts))
    position = 0
    for text, cut in parts:
        shown = f"<{text}>" if cut else text
        for offset in range(len(shown)):
            origin = spliced.origin(Span(position + offset, position + offset + 1))
            if cut:
                assert origin in replaced
            else:
                assert sql[origin.start : origin.end] == text[offset]
        position += len(shown)
    assert position == len(spliced.text)


def test_a_splice_keeps_its_range() -> None:
    pieces = pieces_of(
        "0123456789", 2, 8, [(Span(4, 6), [Piece("ab", Span(4, 6))]), (Span(7, 9), [Piece("x", Span(7, 9))])]
    )
    assert assemble(pieces).text == "23ab67"
    assert assemble([]).origin(Span(0, 1)) == Span(0, 1)
