"""Answers to values: every type, JSON and bare texts, what is refused, and round trips."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from halo_sql.duck import Duck
from halo_sql.engines.protocol import YES_NO
from halo_sql.ir.expr import ColumnId
from halo_sql.ir.prompt import LlmCall, Prompt
from halo_sql.ir.types import BOOLEAN, VARCHAR, SqlType
from halo_sql.operators.arrow_types import arrow_type, carried_as_text
from halo_sql.operators.convert import Converter, answer_form, to_arrow, validator
from halo_sql.operators.text_cast import TextCast


@pytest.fixture(scope="module")
def duck() -> Iterator[Duck]:
    made = Duck.connect(":memory:", False, {})
    yield made
    made.close()


@pytest.fixture(scope="module")
def cast() -> Iterator[TextCast]:
    made = TextCast()
    yield made
    made.close()


def call(returns: SqlType, **options: Any) -> LlmCall:
    return LlmCall(ColumnId(1), options.pop("kind", "map"), Prompt(("x",)), "echo", returns=returns, **options)


UTC = dt.UTC
ACCEPTED: list[tuple[str, str, Any]] = [
    ("VARCHAR", "any text é", "any text é"),
    ("VARCHAR", '"quoted"', '"quoted"'),
    ("BOOLEAN", "true", True), ("BOOLEAN", "T", True), ("BOOLEAN", "yes", True), ("BOOLEAN", '"no"', False),
    ("BOOLEAN", "0", False),
    ("TINYINT", "-128", -128), ("SMALLINT", "7", 7), ("INTEGER", "42", 42), ("INTEGER", '"42"', 42),
    ("INTEGER", " +42 ", 42), ("INTEGER", "2.5", 3), ("INTEGER", "-2.5", -3), ("INTEGER", "1e3", 1000),
    ("INTEGER", "0x1F", 31), ("INTEGER", "1_000", 1000),
    ("BIGINT", str(2**63 - 1), 2**63 - 1), ("UBIGINT", str(2**64 - 1), 2**64 - 1), ("UTINYINT", "255", 255),
    ("HUGEINT", "-" + "9" * 38, Decimal("-" + "9" * 38)), ("UHUGEINT", str(2**128 - 1), str(2**128 - 1)),
    ("FLOAT", "0.5", 0.5), ("DOUBLE", "1e400", float("inf")), ("DOUBLE", '"-inf"', float("-inf")),
    ("DECIMAL(4,2)", "2.675", Decimal("2.68")), ("DECIMAL(4,2)", "-1e1", Decimal("-10.00")),
    ("DECIMAL(38,10)", "1234567890123456789012345678.0123456789", Decimal("1234567890123456789012345678.0123456789")),
    ("DATE", "2024-01-31", dt.date(2024, 1, 31)), ("DATE", '"2024-01-31"', dt.date(2024, 1, 31)),
    ("DATE", "2024-1-2", dt.date(2024, 1, 2)), ("DATE", "1582-10-04", dt.date(1582, 10, 4)),
    ("TIME", "12:34:56.5", dt.time(12, 34, 56, 500000)), ("TIME", "12:34", dt.time(12, 34)),
    ("TIMESTAMP", "2024-01-31 10:00:00", dt.datetime(2024, 1, 31, 10)),
    ("TIMESTAMP", "2024-01-31T10:00:00.25", dt.datetime(2024, 1, 31, 10, 0, 0, 250000)),
    ("TIMESTAMP", "2024-01-31", dt.datetime(2024, 1, 31)),
    ("TIMESTAMP_S", "2024-01-31 10:00:00", dt.datetime(2024, 1, 31, 10)),
    ("TIMESTAMP_S", "2024-01-31 10:00:00.6", dt.datetime(2024, 1, 31, 10, 0, 1)),
    ("TIMESTAMP_MS", "2024-01-31 10:00:00.123", dt.datetime(2024, 1, 31, 10, 0, 0, 123000)),
    ("TIMESTAMPTZ", "2024-01-31 10:00:00+02", dt.datetime(2024, 1, 31, 8, tzinfo=UTC)),
    ("TIMESTAMPTZ", "2024-01-31 10:00:00", dt.datetime(2024, 1, 31, 10, tzinfo=UTC)),
    ("TIMETZ", "10:00:00+02", "10:00:00+02"),
    ("INTERVAL", "3 days 2 hours", pa.MonthDayNano([0, 3, 2 * 3600 * 10**9])),
    ("UUID", "00000000-0000-0000-0000-0000000000FF", "00000000-0000-0000-0000-0000000000ff"),
    ("BLOB", "abc", b"abc"), ("BLOB", r"\xAA\x00", b"\xaa\x00"), ("BIT", "0101", "0101"),
    ("JSON", ' {"a": 1.50} ', ' {"a": 1.50} '),
    ("ENUM('x','y z')", "y z", "y z"), ("ENUM('x','y z')", '"x"', "x"), ("""ENUM('"q"')""", '"q"', '"q"'),
    ("INTEGER[]", "[1, null, 3]", [1, None, 3]), ("VARCHAR[]", "[a, b]", ["a", "b"]),
    ("VARCHAR[]", '["a", 5, true]', ["a", "5", "true"]),
    ("DOUBLE[2]", "[1, 2.5]", [1.0, 2.5]), ("DATE[]", '["2024-01-31"]', [dt.date(2024, 1, 31)]),
    ("STRUCT(a INTEGER, b VARCHAR)", '{"b": "x", "a": 1}', {"a": 1, "b": "x"}),
    ("STRUCT(a INTEGER, b VARCHAR)", "{'a': 1, 'b': x}", {"a": 1, "b": "x"}),
    ("STRUCT(a STRUCT(b DECIMAL(5,1))[])", '{"a": [{"b": 0.1}]}', {"a": [{"b": Decimal("0.1")}]}),
    ("STRUCT(a JSON)", '{"a": {"k": [1, 2.5]}}', {"a": '{"k":[1,2.5]}'}),
    ("STRUCT(a BIT)", '{"a": "01"}', "{'a': 01}"),
    ("MAP(VARCHAR, INTEGER)", '{"k": 1}', [("k", 1)]), ("MAP(INTEGER, DATE)", '{"5": "2024-01-31"}',
                                                        [(5, dt.date(2024, 1, 31))]),
]  # fmt: skip
REFUSED: list[tuple[str, str, str]] = [
    ("BOOLEAN", "maybe", "neither true nor false"),
    ("INTEGER", "abc", "Could not convert"), ("INTEGER", "", "Could not convert"), ("INTEGER", "true", "convert"),
    ("INTEGER", "2147483648", "out of range"), ("INTEGER", "1e999999999", "out of range"), ("TINYINT", "128", "range"),
    ("INTEGER", "9" * 5000, "out of range"), ("UTINYINT", "-1", "out of range"), ("HUGEINT", "9" * 39, "range"),
    ("INTEGER", "null", "convert"), ("INTEGER", "[1]", "convert"),
    ("DOUBLE", "x", "not a number"), ("DECIMAL(4,2)", "100", "out of range"), ("DECIMAL(4,2)", "nan", "finite"),
    ("DECIMAL(4,2)", "1e999999999", "out of range"), ("DECIMAL(4,2)", "x", "not a number"),
    ("DATE", "2024-02-30", "date"), ("DATE", "soon", "date"), ("TIMESTAMP", "x", "timestamp"),
    ("UUID", "x", "not a UUID"), ("BLOB", "é", "BLOB"), ("ENUM('x')", "z", "none of 'x'"),
    ("JSON", "{", "not JSON"), ("JSON", "abc", "not JSON"), ("VARCHAR", "\ud83d", "surrogate"),
    ("JSON", "[" * 101 + "]" * 101, "deeper than 100"), ("JSON", '"' + "x" * (8 << 20) + '"', "longer than 8 MB"),
    ("INTEGER[]", "[1, 'x']", "not JSON"), ("INTEGER[]", "{}", "not a list"), ("INTEGER[]", '["x"]', "convert"),
    ("DOUBLE[2]", "[1]", "1 elements, not 2"),
    ("STRUCT(a INTEGER)", "{}", "'a' is missing"), ("STRUCT(a INTEGER)", '{"a":1,"b":2}', "'b' is unknown"),
    ("STRUCT(a INTEGER)", '{"a":"x"}', "field 'a'"), ("STRUCT(a INTEGER)", "[]", "not an object"),
    ("STRUCT(a VARCHAR)", r'{"a":"\ud83d"}', "surrogate"), ("MAP(VARCHAR, INTEGER)", "[]", "not an object"),
]  # fmt: skip


@pytest.mark.parametrize(("text_type", "text", "value"), ACCEPTED)
def test_accepted(duck: Duck, cast: TextCast, text_type: str, text: str, value: Any) -> None:
    converter = Converter(call(duck.sql_type(text_type)), cast)
    assert converter.validate(text, "stop") is None
    found = converter.to_arrow([text, None])
    assert found.type == arrow_type(converter.type)
    assert found.to_pylist() == [value, None]


@pytest.mark.parametrize(("text_type", "text", "reason"), REFUSED)
def test_refused(duck: Duck, cast: TextCast, text_type: str, text: str, reason: str) -> None:
    kind = duck.sql_type(text_type)
    problem = validator(call(kind), cast)(text, "stop")
    assert problem is not None
    assert problem.code == "invalid_output"
    assert f"does not fit {kind.text}" in problem.message
    assert reason in problem.message
    assert len(problem.message) < 400


@pytest.mark.parametrize("text_type", ["BOOLEAN", "INTEGER", "DECIMAL(9,2)", "DATE", "TIME", "TIMESTAMP", "DOUBLE[]",
                                       "TIMESTAMP_S", "TIMESTAMP_MS", "TIMESTAMP_NS", "TIMESTAMPTZ", "INTERVAL", "UUID",
                                       "BLOB", "HUGEINT", "MAP(VARCHAR, INTEGER)", "STRUCT(a INTEGER, b VARCHAR[])",
                                       "JSON", "FLOAT", "UBIGINT", "VARCHAR", "DATE[2]"])  # fmt: skip
def test_types_are_those_duckdb_exports(duck: Duck, text_type: str) -> None:
    kind = duck.sql_type(text_type)
    exported = duck.stream(f"SELECT NULL::{text_type} AS c").schema.field(0).type
    duck.release()
    assert arrow_type(kind, "Etc/UTC") == exported


def test_lossy_types_travel_as_text(duck: Duck) -> None:
    for text_type in ("BIT", "TIMETZ", "UHUGEINT", "STRUCT(a BIT[])", "ENUM('a')[2]", "STRUCT(a ENUM('a'))[1][]"):
        assert carried_as_text(duck.sql_type(text_type))
    for text_type in ("STRUCT(a INTEGER)", "ENUM('a')[]", "INTEGER[2]"):
        assert not carried_as_text(duck.sql_type(text_type))


def test_unconvertible_type_names_itself() -> None:
    with pytest.raises(ValueError, match="UNION"):
        arrow_type(SqlType("UNION(a INTEGER)", "union"))


def test_an_answer_cut_by_max_tokens(duck: Duck) -> None:
    assert validator(call(VARCHAR))("half a sent", "length") is None
    problem = validator(call(duck.sql_type("INTEGER")))("12", "length")
    assert problem is not None
    assert problem.code == "truncated"
    assert "max_tokens" in problem.remedy
    assert validator(call(duck.sql_type("ENUM('no','none')")))("no", "length") is None
    cut = validator(call(duck.sql_type("ENUM('no','none')")))("non", "length")
    assert cut is not None
    assert cut.code == "truncated"


def test_answer_forms(duck: Duck) -> None:
    assert answer_form(call(BOOLEAN, kind="filter")) == YES_NO
    assert answer_form(call(VARCHAR)).kind == "text"
    assert answer_form(call(duck.sql_type("ENUM('b','a')"))).choices == ("b", "a")
    assert json.loads(answer_form(call(BOOLEAN)).schema) == {"type": "boolean"}


def test_infinite_dates_keep_their_value(duck: Duck, cast: TextCast) -> None:
    found = to_arrow(call(duck.sql_type("DATE")), ["infinity", "2024-01-01"], cast)
    expected = duck.stream("SELECT unnest(['infinity'::DATE, '2024-01-01'])").read_all().column(0).combine_chunks()
    duck.release()
    assert found.equals(expected)


def test_time_zone_of_the_session_counts(duck: Duck) -> None:
    cast = TextCast("America/New_York")
    found = to_arrow(call(duck.sql_type("TIMESTAMPTZ")), ["2024-01-31 10:00:00"], cast)
    assert found.to_pylist()[0].astimezone(UTC) == dt.datetime(2024, 1, 31, 15, tzinfo=UTC)
    assert found.type == pa.timestamp("us", "America/New_York")
    cast.close()


VALUES: dict[str, Any] = {
    "BOOLEAN": st.booleans(),
    "INTEGER": st.integers(-(2**31), 2**31 - 1),
    "HUGEINT": st.integers(-(10**38) + 1, 10**38 - 1).map(Decimal),
    "DOUBLE": st.floats(allow_nan=False),
    "DECIMAL(12,3)": st.decimals(-999_999_999, 999_999_999, places=3),
    "VARCHAR": st.text(),
    "DATE": st.dates(),
    "TIME": st.times(),
    "TIMESTAMP": st.datetimes(),
    "UUID": st.uuids().map(str),
    "ENUM('a','b')": st.sampled_from(["a", "b"]),
    "BLOB": st.binary(max_size=20).filter(lambda value: value.isascii() and b"\\" not in value),
}


def as_json(value: Any) -> Any:
    if isinstance(value, Decimal):
        return int(value) if value == int(value) else str(value)
    if isinstance(value, dt.date | dt.time):
        return str(value)
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, float) and value in (float("inf"), float("-inf")):
        return str(value)
    return value


@settings(deadline=None, max_examples=200)
@given(st.data(), st.sampled_from(sorted(VALUES)))
def test_value_to_json_to_arrow_is_the_value(data: st.DataObject, text_type: str) -> None:
    with_types = Duck.connect(":memory:", False, {})
    kind = with_types.sql_type(text_type)
    nested = with_types.sql_type(f"STRUCT(a {text_type}, l {text_type}[], m MAP(VARCHAR, {text_type}))")
    with_types.close()
    value = data.draw(VALUES[text_type])
    cast = TextCast()
    if text_type != "VARCHAR":
        assert to_arrow(call(kind), [json.dumps(as_json(value))], cast).to_pylist() == [value]
    item = {"a": value, "l": [value, None], "m": {"k": value}}
    text = json.dumps({"a": as_json(value), "l": [as_json(value), None], "m": {"k": as_json(value)}})
    assert validator(call(nested), cast)(text, "stop") is None
    found = to_arrow(call(nested), [text], cast).to_pylist()[0]
    assert {**found, "m": dict(found["m"])} == item
    cast.close()


@settings(deadline=None, max_examples=300)
@given(
    st.text(max_size=30), st.sampled_from(["INTEGER", "DATE", "DECIMAL(4,1)", "BOOLEAN", "STRUCT(a INTEGER)", "JSON"])
)
def test_any_text_is_a_value_or_a_typed_error(cast: TextCast, text: str, text_type: str) -> None:
    fields = (("a", SqlType("INTEGER", "integer")),)
    kind = SqlType(text_type, text_type.split("(")[0].lower(), fields if "STRUCT" in text_type else ())
    problem = validator(call(kind), cast)(text, "stop")
    if problem is None:
        assert len(to_arrow(call(kind), [text], cast)) == 1
    else:
        assert problem.code == "invalid_output"
