"""Cutting texts into statements."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from halo_sql.duck_tokens import tokenize
from halo_sql.grammar.split import split

CASES = {
    "select 1": ["select 1"],
    "select 1;": ["select 1"],
    "  select 1 ;\n": ["select 1"],
    "": [],
    " \n\t": [],
    ";": [],
    ";;;": [],
    "-- only a comment": [],
    "/* one */ ; -- two": [],
    "a;b": ["a", "b"],
    "a;;b;": ["a", "b"],
    "select ';'": ["select ';'"],
    "select ';'; select 2": ["select ';'", "select 2"],
    "select 'it''s;' ;": ["select 'it''s;'"],
    "select E'\\';' ; x": ["select E'\\';'", "x"],
    "select 'a\\'; b": ["select 'a\\'", "b"],
    'select "a;b";c': ['select "a;b"', "c"],
    "select $$a;b$$; c": ["select $$a;b$$", "c"],
    "select $t$ $$;$$ $t$; c": ["select $t$ $$;$$ $t$", "c"],
    "select 1 -- no; split\n; b": ["select 1 -- no; split", "b"],
    "select /* a; /* nested; */ ; */ 1; b": ["select /* a; /* nested; */ ; */ 1", "b"],
    "-- head\nselect 1; -- between\nselect 2": ["-- head\nselect 1", "-- between\nselect 2"],
    "select 'open; select 2": ["select 'open; select 2"],
    "select $$open; select 2": ["select $$open; select 2"],
    "select /* open; select 2": ["select /* open; select 2"],
    'select "open; select 2': ['select "open; select 2'],
    "select 1 -- c;": ["select 1 -- c;"],
    "select $1; select $name": ["select $1", "select $name"],
    "select a-b, a/b;": ["select a-b, a/b"],
    "insert into t values ('é;'); select 'ü'": ["insert into t values ('é;')", "select 'ü'"],
    "select\u00a01;select\u30002": ["select\u00a01", "select\u30002"],
    "\ufeffselect 1; b": ["select 1", "b"],
    "BEGIN BATCH; a; b; END BATCH": ["BEGIN BATCH", "a", "b", "END BATCH"],
    "a \ud800; b": ["a \ud800", "b"],
    "$;a": ["$", "a"],
}


@pytest.mark.parametrize(("sql", "statements"), CASES.items())
def test_statements(sql: str, statements: list[str]) -> None:
    found = split(sql)
    assert [statement.text for statement in found] == statements
    for statement in found:
        assert sql[statement.start : statement.start + len(statement.text)] == statement.text


PIECES = st.sampled_from(
    [
        "select 1",
        "select 'a;b'",
        "select $$;$$",
        'select ";"',
        "x /* ; */ y",
        "é + 'ü'",
        "a - b / c",
        "$t$;$t$",
        "E'\\';'",
    ]
)
SEPARATORS = st.sampled_from([";", " ; ", ";\n", ";;", "; -- note;\n", "; /* ; */ ;\n"])


@given(st.lists(st.tuples(PIECES, SEPARATORS), min_size=1, max_size=6))
def test_pieces_come_back_in_order(pairs: list[tuple[str, str]]) -> None:
    sql = "".join(piece + separator for piece, separator in pairs)
    found = [statement.text.split("\n")[-1].removeprefix("/* ; */ ") for statement in split(sql)]
    assert found == [piece for piece, _ in pairs]


@given(st.text(st.sampled_from("ab é'\"$;-/*\\\n`.1E(){}\u00a0\u200b\ud800"), max_size=30))
def test_statements_and_what_lies_between_rebuild_the_text(sql: str) -> None:
    position = 0
    for statement in split(sql):
        assert position <= statement.start
        assert_no_code(sql[position : statement.start])
        assert statement.text == sql[statement.start : statement.start + len(statement.text)]
        assert statement.text.strip()
        position = statement.start + len(statement.text)
    assert_no_code(sql[position:])


def assert_no_code(gap: str) -> None:
    assert all(token.kind == "comment" or set(token.text) <= {";"} for token in tokenize(gap)), gap


def test_a_long_statement_is_one() -> None:
    sql = "insert into t values " + ",".join(f"({i}, 'it''s {i}')" for i in range(20_000)) + ";"
    assert [statement.text for statement in split(sql)] == [sql[:-1]]
