"""What sqlglot tells about a text, by position."""

from __future__ import annotations

import logging

import pytest

from halo_sql.errors import Span
from halo_sql.grammar.blanking import for_sqlglot
from halo_sql.grammar.lex import lex
from halo_sql.grammar.source import expression_source
from halo_sql.grammar.syntax import LONGEST_PARSED, analyse

COLUMNS = {
    "SELECT a, t.b, s.t.c FROM t": ["a", "t.b", "s.t.c"],
    'SELECT "A b", "t"."c""d" FROM t': ["A b", 't.c"d'],
    "SELECT f(a) + b::INTEGER FROM t": ["a", "b"],
    "SELECT a AS b, c d FROM t": ["a", "c"],
    "SELECT {'k': a, m: b} FROM t": ["a", "b"],
    "SELECT struct_pack(k := a) FROM t": ["a"],
    "SELECT list_transform(l, lambda x: x + a) FROM t": ["l", "a"],
    "SELECT list_transform(l, x -> x + a) FROM t": ["l", "a"],
    "SELECT extract(year FROM d), CAST(a AS VARCHAR), a[b] FROM t": ["d", "a", "a", "b"],
    "SELECT a FROM t JOIN u ON t.id = u.id WHERE a > 1": ["a", "t.id", "u.id", "a"],
    "SELECT 'a', \"b\" -- c\nFROM t": ["b"],
    "SELECT s.x.y FROM t": ["s.x.y"],
    "SELECT é, a FROM t": ["é", "a"],
    "SELECT range < 1, t.Map <= 2 FROM t": ["range", "t.Map"],
}


@pytest.mark.parametrize(("sql", "columns"), COLUMNS.items())
def test_column_references(sql: str, columns: list[str]) -> None:
    syntax = analyse(sql)
    found = syntax.columns_in(0, len(sql))
    assert found is not None
    assert [".".join(part.name for part in parts) for parts in found] == columns
    for parts in found:
        for part in parts:
            assert sql[part.start : part.end].strip('"').replace('""', '"') == part.name


def test_positions_are_shifted() -> None:
    sql = "INSERT INTO u SELECT a FROM t"
    found = analyse(sql[14:], 14).columns
    assert [sql[parts[0].start : parts[0].end] for parts in found] == ["a"]


@pytest.mark.parametrize(
    "sql", ["SELECT [x + 1 FOR x IN l] FROM t", "SELECT a.upper() FROM t", "SELECT COLUMNS('a') FROM t"]
)
def test_names_that_are_not_known_one_by_one(sql: str) -> None:
    syntax = analyse(sql)
    assert syntax.parsed
    assert syntax.columns_in(0, len(sql)) is None


def test_a_span_without_such_names_stays_known() -> None:
    sql = "SELECT [x + 1 FOR x IN l], a FROM t"
    found = analyse(sql).columns_in(sql.index(", a"), len(sql))
    assert found is not None
    assert [parts[0].name for parts in found] == ["a"]


@pytest.mark.parametrize(
    ("sql", "tables"),
    [
        ("SELECT 1 FROM t, u AS w JOIN s.x ON true", [("t", ""), ("u", "w")]),
        ('FROM "T t"', [("T t", "")]),
        ("SELECT (SELECT 1 FROM c) FROM d", [("c", ""), ("d", "")]),
    ],
)
def test_unqualified_tables(sql: str, tables: list[tuple[str, str]]) -> None:
    assert [(table.name, table.alias) for table in analyse(sql).tables] == tables


def test_the_outermost_select_of_a_span() -> None:
    sql = "SELECT (SELECT max(x) FROM u) AS m, a FROM t"
    node = analyse(sql).select_in(0, len(sql))
    assert node is not None
    assert node.args["from_"].this.name == "t"
    inner = analyse(sql).select_in(8, sql.index(") AS"))
    assert inner is not None
    assert inner.args["from_"].this.name == "u"


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT",
        "SELECT FROM WHERE",
        "SHOW nonsense",
        "SELECT " + "(" * 200 + "1" + ")" * 200,
        "PIVOT t ON",
        "SELECT 'open",
    ],
)
def test_what_sqlglot_cannot_parse_is_unknown(sql: str) -> None:
    syntax = analyse(sql)
    assert syntax.columns_in(0, len(sql)) in (None, [])


def test_long_texts_are_not_parsed() -> None:
    assert not analyse("SELECT 1 /*" + "x" * LONGEST_PARSED + "*/").parsed


def test_sqlglot_stays_silent(caplog: pytest.LogCaptureFixture) -> None:
    before = logging.getLogger("sqlglot").level
    analyse("SHOW MODELS")
    assert not caplog.records
    assert logging.getLogger("sqlglot").level == before


@pytest.mark.parametrize("text", ["body", "t.body", '"A b"', 't . "c"', "a + b", "upper(a)"])
def test_an_expression_maps_back(text: str) -> None:
    source = expression_source(text, lambda span: Span(span.start + 100, span.end + 100))
    found = source.syntax.columns_in(0, len(text))
    assert found
    for parts in found:
        for part in parts:
            assert text[part.start : part.end].strip('"') == part.name
    assert source.origin(Span(0, 1)) == Span(100, 101)


BLANKED = {
    "SELECT LLM_MAP('x {{ a }}', model => 'echo') v FROM t": "SELECT 0 v FROM t",
    "SELECT a FROM t WHERE b AND LLM_FILTER('y', temperature => -1.5) AND c": "SELECT a FROM t WHERE b AND 0 AND c",
    "SELECT LLM_CLASSIFY('{{ a }}', ['x', 'y']) = 'x', CAST(LLM_MAP('y') AS INT)": "SELECT 0 = 'x', CAST(0 AS INT)",
    "SELECT LLM_MAP('x', cache => FALSE) /* c */ + 1": "SELECT 0 /* c */ + 1",
    "SELECT LLM_MAP(named, model => 'echo')": None,  # perhaps a column
    "SELECT LLM_MAP('x' || a)": None,
    "SELECT LLM_MAP('x')[1]": None,
    "SELECT LLM_MAP('x').value": None,
    "SELECT LLM_MAP('x')::INTEGER": None,
    "SELECT s.LLM_MAP('x')": None,
    "SELECT LLM_MAP('x') OVER ()": None,
    "SELECT TOOL(t, 1), LLM_REDUCE('x', a)": None,
}


@pytest.mark.parametrize(("sql", "expected"), BLANKED.items())
def test_calls_of_literals_are_numbers_to_sqlglot(sql: str, expected: str | None) -> None:
    text = for_sqlglot(lex(sql), 0, len(sql))
    assert len(text) == len(sql), "positions stay"
    assert text.split() == (expected or sql).split()
    parsed, whole = analyse(text), analyse(sql)
    assert (parsed.columns, parsed.aliases, parsed.tables) == (whole.columns, whole.aliases, whole.tables)


def test_only_calls_between_the_positions_are_blanked() -> None:
    sql = "SELECT LLM_MAP('x'), LLM_MAP('y'), LLM_MAP('z')"
    start, end = sql.index("LLM_MAP('y')"), sql.index(", LLM_MAP('z')")
    assert for_sqlglot(lex(sql), start, end).strip() == "0"
