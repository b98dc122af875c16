"""Taking calls of LLM_REDUCE apart: inputs, DISTINCT, ORDER BY, FILTER, OVER, and the text that sqlglot reads."""

from __future__ import annotations

import pytest

from halo_sql.errors import BinderError
from halo_sql.grammar.blanking import for_sqlglot
from halo_sql.grammar.group_inputs import GroupInputs, read_group_inputs
from halo_sql.grammar.lex import lex
from halo_sql.grammar.source import Source
from halo_sql.grammar.syntax import Syntax, analyse


def read(sql: str) -> tuple[GroupInputs, Source]:
    source = Source(lex(sql), Syntax(False), lambda span: span)
    return read_group_inputs(source, 0, source.lexed.partner[1]), source


def spelled(sql: str) -> str:
    """The list of the group's inputs, in one line."""
    group, source = read(sql)
    parts = (part if isinstance(part, str) else source.lexed.slice(*part) for part in group.text)
    return " ".join("".join(parts).split())


NOT_NULL = ", lambda halo_item: halo_item IS NOT NULL)"


@pytest.mark.parametrize(
    ("sql", "text"),
    [
        ("LLM_REDUCE('p', a)", "list_filter(list(CAST((a ) AS VARCHAR) )"),
        ("LLM_REDUCE('p', a ORDER BY b DESC, c)", "list_filter(list(CAST((a ) AS VARCHAR) ORDER BY b DESC, c )"),
        ("LLM_REDUCE('p', a ORDER BY b, model => 'm')", "list_filter(list(CAST((a ) AS VARCHAR) ORDER BY b )"),
        ("LLM_REDUCE('p', model => 'm', a ORDER BY b)", "list_filter(list(CAST((a ) AS VARCHAR) ORDER BY b )"),
        ("LLM_REDUCE('p', a, model => 'm' ORDER BY b)", "list_filter(list(CAST((a ) AS VARCHAR) ORDER BY b )"),
        ("LLM_REDUCE('p', DISTINCT a ORDER BY a)", "list_filter(CAST(list(DISTINCT a ORDER BY a ) AS VARCHAR[])"),
        ("LLM_REDUCE(DISTINCT 'p', a)", "list_filter(CAST(list(DISTINCT a ) AS VARCHAR[])"),
        (
            "LLM_REDUCE('p', a) FILTER (WHERE b OR c) OVER w",
            "list_filter(list(CAST((a ) AS VARCHAR) ) FILTER (WHERE b OR c ) OVER w",
        ),
        (
            "LLM_REDUCE('p', f(a, b ORDER BY c) -- why\n ORDER BY d)",
            "list_filter(list(CAST((f(a, b ORDER BY c) ) AS VARCHAR) ORDER BY d )",
        ),
    ],
)
def test_one_input_is_a_list_of_texts(sql: str, text: str) -> None:
    assert spelled(sql) == text + NOT_NULL


def test_several_inputs_are_objects_named_by_their_columns() -> None:
    text = spelled('LLM_REDUCE(\'p\', t.a, "b ""c", x + 1)')
    for name in ("'{\"a\": '", '\', "b \\"c": \'', "', \"x + 1\": '"):
        assert name in text
    assert "nullif(concat(" in text


@pytest.mark.parametrize(
    ("sql", "shown"),
    [
        (
            "LLM_REDUCE('p', DISTINCT a ORDER BY a, model => 'm')",
            "LLM_REDUCE(DISTINCT 'p', a, model => 'm' ORDER BY a)",
        ),
        ("LLM_REDUCE('p', a) FILTER (WHERE b)", "LLM_REDUCE('p', a) FILTER (WHERE b)"),
        ("llm_reduce('p', a, b)", "llm_reduce('p', a, b)"),
    ],
)
def test_a_call_is_shown_as_duckdb_writes_it(sql: str, shown: str) -> None:
    group, source = read(sql)
    assert group.shown == shown
    assert group.end == len(source.lexed.tokens)


@pytest.mark.parametrize(
    ("sql", "message", "under"),
    [
        ("LLM_REDUCE()", "needs an input", "LLM_REDUCE()"),
        ("LLM_REDUCE('p')", "needs an input", "LLM_REDUCE('p')"),
        ("LLM_REDUCE('p', model => 'm')", "needs an input", "LLM_REDUCE('p', model => 'm')"),
        ("LLM_REDUCE('p', *)", "a star as an input", "*"),
        ("LLM_REDUCE('p', t.*)", "a star as an input", "t.*"),
        ("LLM_REDUCE('p', COLUMNS('a'))", "a star as an input", "COLUMNS('a')"),
        ("LLM_REDUCE('p', a, )", "an argument is missing", ")"),
        ("LLM_REDUCE('p', a ORDER BY b, model => 'm', c)", "an input behind ORDER BY", "c"),
        ("LLM_REDUCE('p', a ORDER BY b, model => 'm' ORDER BY c)", "ORDER BY twice", "ORDER BY"),
    ],
)
def test_what_cannot_be_is_said_with_its_place(sql: str, message: str, under: str) -> None:
    with pytest.raises(BinderError, match=message) as caught:
        read(sql)
    assert caught.value.span is not None
    assert sql[caught.value.span.start : caught.value.span.end] == under


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT g, LLM_REDUCE('x', DISTINCT b ORDER BY id DESC NULLS LAST, top_p => 1) FILTER (WHERE a > 3) z FROM t",
        "SELECT LLM_REDUCE(DISTINCT 'x', body ORDER BY f(id ORDER BY a), b ASC) OVER (ORDER BY c) FROM t",
        "WITH q AS (SELECT llm_reduce('ORDER BY', \"ORDER\" ORDER BY id) FROM t ORDER BY a) FROM q ORDER BY x DESC",
    ],
)
def test_sqlglot_reads_the_blanked_text_at_the_same_places(sql: str) -> None:
    text = for_sqlglot(lex(sql), 0, len(sql))
    assert len(text) == len(sql)
    found = analyse(text)
    assert found.parsed
    for parts in found.columns:
        for part in parts:
            assert sql[part.start : part.end].strip('"') == part.name
    assert for_sqlglot(lex("SELECT a ORDER BY DISTINCT"), 0, 26) == "SELECT a ORDER BY DISTINCT"
