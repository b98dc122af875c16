"""``returns`` for every type: an answer is what DuckDB's cast makes of its text, with the exact type, wherever it goes.

The right-hand side is always DuckDB's own, asked over the same connection in a statement without a call.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

import halo_sql
from halo_sql.ir.expr import literal

SETUP = (
    "CREATE TYPE mood AS ENUM ('sad', 'ok')",
    "CREATE TYPE point AS STRUCT(x INTEGER, m mood)",
)
#: (type, a text of it, a text that is none)
TYPES: list[tuple[str, str, str]] = [
    ("BOOLEAN", "true", "maybe"), ("BOOLEAN", "no", "2"),
    ("TINYINT", "-128", "128"), ("SMALLINT", "32767", "32768"), ("INTEGER", "-2147483648", "2147483648"),
    ("BIGINT", "9223372036854775807", "9223372036854775808"), ("HUGEINT", "9" * 38, str(2**127)),
    ("UTINYINT", "255", "256"), ("USMALLINT", "65535", "-1"), ("UINTEGER", "4294967295", "4294967296"),
    ("UBIGINT", "18446744073709551615", "18446744073709551616"), ("UHUGEINT", str(2**128 - 1), str(2**128)),
    ("INTEGER", "2.5", "two"), ("INTEGER", "1e3", ""), ("INTEGER", "-0", "1,000"), ("BIGNUM", "9" * 60, "abc"),
    ("FLOAT", "0.1", "x"), ("DOUBLE", "1e-7", "1,5"), ("DOUBLE", "-inf", "infinit"),
    ("DOUBLE", "0.30000000000000004", ""),
    ("DECIMAL", "1.5", "x"), ("DECIMAL(18,3)", "12345.6785", "1e20"), ("DECIMAL(4,1)", "-999.9", "1000"),
    ("DECIMAL(38,10)", "1234567890123456789012345678.0123456789", "1e40"), ("DECIMAL(38,0)", "9" * 38, "1e38"),
    ("DECIMAL(38,38)", "0." + "1" * 38, "1"), ("DECIMAL(2,2)", "0.1", "nan"),
    ("BLOB", "abc", "é"), ("BLOB", r"\xAA\x00", r"\x"), ("BIT", "010101", "012"),
    ("DATE", "2024-02-29", "2023-02-29"), ("DATE", "infinity", "soon"), ("DATE", "0044-03-15 (BC)", "2024"),
    ("TIME", "23:59:59.999999", "25:00:00"), ("TIME_NS", "23:59:59.123456789", "25:00:00"),
    ("TIMETZ", "10:00:00+02", "10:00:00+99"), ("TIMETZ", "10:00:00.123456-03:30", "noon"),
    ("TIMESTAMP", "2024-01-31 10:00:00.123456", "2024-13-01"), ("TIMESTAMP", "-infinity", "now-ish"),
    ("TIMESTAMP", "290000-01-01 00:00:00", "999999-01-01"), ("TIMESTAMP", "2024-01-31T10:00", "31.1.2024"),
    ("TIMESTAMP_S", "2024-01-31 10:00:00", "x"), ("TIMESTAMP_MS", "2024-01-31 10:00:00.123", "x"),
    ("TIMESTAMP_NS", "2024-01-31 10:00:00.123456789", "x"), ("TIMESTAMPTZ", "2024-01-31 10:00:00+02", "x"),
    ("TIMESTAMPTZ", "2024-07-31 10:00:00", "2024-07-32 10:00:00"),
    ("INTERVAL", "1 year 2 months 3 days 04:05:06.789", "3 moons"), ("INTERVAL", "-00:00:01", "x"),
    ("UUID", "123e4567-e89b-12d3-a456-426614174000", "123e4567"),
    ("ENUM('a','b c')", "b c", "c"), ("mood", "sad", "mad"), ("ENUM('it''s')", "it's", "its"),
    ("JSON", '{"a":[1,2.50,null]}', "{"), ("JSON", "1", "abc"), ("JSON", '"x"', ""),
    ("INTEGER[]", "[1, NULL, 3]", "[a]"), ("INTEGER[]", "[]", "{}"), ("INTEGER[3]", "[1, 2, 3]", "[1, 2]"),
    ("VARCHAR[][]", "[[a, b], []]", "x"), ("DECIMAL(5,2)[]", "[1.25, 2]", "[1000]"), ("mood[]", "[ok, sad]", "[mad]"),
    ("mood[2]", "[ok, NULL]", "[ok, mad]"), ("point[1][]", "[[{'x': 1, 'm': sad}]]", "[[{'x': 1, 'm': mad}]]"),
    ("BLOB[]", "[abc]", "[é]"), ("DOUBLE[2][]", "[[1, 2], [3, 4]]", "[[1]]"),
    ("STRUCT(a INTEGER, b VARCHAR)", "{'a': 1, 'b': x}", "{'a': x}"), ('STRUCT("a b" INTEGER)', "{'a b': 1}", "[1]"),
    ("MAP(VARCHAR, INTEGER)", "{k=1, l=NULL}", "[1]"), ("MAP(INTEGER, DATE)", "{5=2024-01-31}", "{x=2024-01-31}"),
    ("MAP(mood, point)", "{sad={'x': 1, 'm': ok}}", "{mad={'x': 1, 'm': ok}}"),
    ("MAP(DATE, VARCHAR[])", "{2024-01-31=[a, b]}", "x"), ("MAP(DOUBLE, BOOLEAN)", "{1.5=true}", "{one=true}"),
    ("point", "{'x': 1, 'm': sad}", "{'x': 1, 'm': mad}"), ("point[]", "[{'x': 1, 'm': sad}]", "[1]"),
    ("STRUCT(a STRUCT(b STRUCT(c INTEGER[])[]))", "{'a': {'b': [{'c': [1, 2]}]}}", "x"),
    ("STRUCT(d DECIMAL(38,20), h HUGEINT, u UBIGINT)",
     "{'d': 123456789012345678.12345678901234567890, 'h': 12345678901234567890123456789, 'u': 18446744073709551615}",
     "{'d': 1, 'h': 1, 'u': -1}"),
    ("STRUCT(b BLOB, t TIMETZ, i INTERVAL, bits BIT)", "{'b': abc, 't': '10:00:00+02', 'i': 3 days, 'bits': 0101}",
     "{'b': abc, 't': '10:00:00+02', 'i': 3 days, 'bits': 2}"),
]  # fmt: skip


REFUSED = re.compile("does not fit|echo finds none of")  # of an ENUM's labels, echo wants one in the text


@pytest.fixture(scope="module")
def con() -> Iterator[halo_sql.Connection]:
    with halo_sql.connect(config={"halo_store": "off", "halo_default_model": "echo"}) as made:
        for statement in SETUP:
            made.execute(statement)
        yield made


def rows_of(con: halo_sql.Connection, sql: str) -> list[tuple[object, ...]]:
    return con.execute(sql).fetchall()


def call(type_text: str, hole: str = "x", operator: str = "LLM_MAP") -> str:
    """A call that returns the type, with the echo of ``hole``."""
    inner = hole.replace("'", "''")
    return f"{operator}('{{{{ {inner} }}}}', returns => {literal(type_text)})"


IDS = [f"{kind} {text}"[:50] for kind, text, _ in TYPES]
valid = pytest.mark.parametrize(("kind", "text"), [(kind, text) for kind, text, _ in TYPES], ids=IDS)


@valid
def test_select(con: halo_sql.Connection, kind: str, text: str) -> None:
    source = f"FROM (VALUES ({literal(text)}), (NULL)) v(x)"
    found = rows_of(con, f"SELECT {call(kind)} AS a, typeof({call(kind)}), CAST({call(kind)} AS VARCHAR) {source}")
    wanted = rows_of(con, f"SELECT CAST(x AS {kind}) AS a, typeof(CAST(x AS {kind})), CAST(a AS VARCHAR) {source}")
    assert found == wanted


@valid
def test_create_table(con: halo_sql.Connection, kind: str, text: str) -> None:
    source = f"FROM (VALUES ({literal(text)}), (NULL)) v(x)"
    rows_of(con, f"CREATE OR REPLACE TABLE made AS SELECT {call(kind)} AS v {source}")
    rows_of(con, f"CREATE OR REPLACE TABLE wanted AS SELECT CAST(x AS {kind}) AS v {source}")
    rows_of(con, f"INSERT INTO made SELECT {call(kind)} {source}")
    rows_of(con, f"INSERT INTO wanted SELECT CAST(x AS {kind}) {source}")
    assert rows_of(con, "DESCRIBE made") == rows_of(con, "DESCRIBE wanted")
    assert rows_of(con, "SELECT v FROM made") == rows_of(con, "SELECT v FROM wanted")
    assert rows_of(con, "SELECT CAST(v AS VARCHAR) FROM made") == rows_of(con, "SELECT CAST(v AS VARCHAR) FROM wanted")


@valid
@pytest.mark.parametrize("operator", ["LLM_MAP", "LLM_EXTRACT"])
def test_nested(con: halo_sql.Connection, operator: str, kind: str, text: str) -> None:
    """In a struct and a list, as JSON (which has its own way with a JSON value's numbers)."""
    whole = f"STRUCT(v {kind}, l {kind}[])"
    pack = f"{{'v': CAST(x AS {kind}), 'l': [CAST(x AS {kind}), NULL]}}"
    source = f"FROM (VALUES ({literal(text)}), (NULL)) v(x)"
    value = f"CAST(to_json({pack}) AS {whole})" if kind == "JSON" else pack
    wanted = rows_of(con, f"SELECT CAST({value} AS VARCHAR) {source}")
    asked = call(whole, f"CAST({pack} AS JSON)", operator)
    assert rows_of(con, f"SELECT CAST({asked} AS VARCHAR) {source}") == wanted
    rows_of(con, f"CREATE OR REPLACE TABLE made AS SELECT {asked} AS v {source}")
    assert rows_of(con, "SELECT CAST(v AS VARCHAR) FROM made") == wanted
    assert rows_of(con, "SELECT DISTINCT typeof(v) FROM made") == rows_of(con, f"SELECT typeof(CAST(NULL AS {whole}))")


@pytest.mark.parametrize(("kind", "text"), [(kind, bad) for kind, _, bad in TYPES])
def test_what_is_not_of_the_type_is_an_error_of_its_row(con: halo_sql.Connection, kind: str, text: str) -> None:
    source = f"FROM (VALUES ({literal(text)})) v(x)"
    with pytest.raises(halo_sql.EngineError) as caught:
        rows_of(con, f"SELECT {call(kind)} {source}")
    assert caught.value.code == "invalid_output"
    assert REFUSED.search(caught.value.message)
    null = call(kind)[:-1] + ", on_error => 'null')"
    assert rows_of(con, f"SELECT {null} {source}") == [(None,)]
    struct = call(kind)[:-1] + ", on_error => 'struct')"
    rows_of(con, f"CREATE OR REPLACE TABLE made AS SELECT {struct} AS r {source}")
    assert rows_of(con, "SELECT r.value FROM made") == [(None,)]
    assert REFUSED.search(str(rows_of(con, "SELECT r.error FROM made")[0][0]))


def test_types_of_the_user_may_change(con: halo_sql.Connection) -> None:
    rows_of(con, "CREATE TYPE tint AS ENUM ('red')")
    assert rows_of(con, "SELECT LLM_MAP('red', returns => 'tint')") == [("red",)]
    rows_of(con, "DROP TYPE tint")
    rows_of(con, "CREATE TYPE tint AS ENUM ('blue')")
    assert rows_of(con, "SELECT LLM_MAP('blue', returns => 'tint')") == [("blue",)]


def test_numbers_keep_their_digits_in_json(con: halo_sql.Connection) -> None:
    asked = call("STRUCT(j JSON, t VARCHAR)")
    text = '{"j": {"n": 2.50, "big": 12345678901234567890.123456789012345678901}, "t": [1.10]}'
    wanted = '{"n":2.50,"big":12345678901234567890.123456789012345678901}'
    assert rows_of(con, f"SELECT ({asked}).j, ({asked}).t FROM (VALUES ({literal(text)})) v(x)") == [(wanted, "[1.10]")]
