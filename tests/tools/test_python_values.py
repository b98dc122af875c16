"""Values of SQL in Python functions and back: both ways against DuckDB itself."""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import json
import uuid
from decimal import Decimal
from typing import Any, Literal, NamedTuple, TypedDict

import numpy
import pandas
import polars
import pyarrow
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from halo_sql.duck import Duck
from halo_sql.tools.python_arguments import WrongArgumentError, bind, fit, from_json, read_arguments, shape_of
from halo_sql.tools.python_results import MAX_DEPTH, TooLargeError, WrongResultError, write_json

UTC = datetime.UTC
DUCK = Duck.connect(":memory:", False, {})


def kind(text: str) -> Any:
    return DUCK.sql_type(text)


def there_and_back(value: Any, text: str) -> Any:
    """A result in DuckDB's hands, then an argument again."""
    written = write_json(value, kind(text))
    whole = '{"v":' + written + "}"  # JSON that is a text alone is cast to VARCHAR with its quotes
    (found,) = DUCK.rows(f"SELECT to_json(CAST(CAST(? AS JSON) AS STRUCT(v {text})).v)::VARCHAR", [whole])[0]
    return from_json(json.loads(found or "null", parse_float=Decimal), kind(text))


NAIVE = st.datetimes(datetime.datetime(1, 1, 1), datetime.datetime(9999, 12, 31))
VALUES = [
    ("BIGINT", st.integers(-(2**63), 2**63 - 1)),
    ("UTINYINT", st.integers(0, 255)),
    ("HUGEINT", st.integers(-(2**127), 2**127 - 1)),
    ("DOUBLE", st.floats(allow_nan=False)),
    ("VARCHAR", st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))),
    ("BLOB", st.binary()),
    ("BOOLEAN", st.booleans()),
    ("DECIMAL(20,5)", st.decimals(-(10**14), 10**14, places=5)),
    ("DATE", st.dates()),
    ("TIME", st.times()),
    ("TIMESTAMP", NAIVE),
    ("TIMESTAMPTZ", NAIVE.map(lambda found: found.replace(tzinfo=UTC))),
    ("INTERVAL", st.timedeltas(datetime.timedelta(days=-100_000), datetime.timedelta(days=100_000))),
    ("UUID", st.uuids()),
    ("BIGINT[]", st.lists(st.none() | st.integers(-(2**63), 2**63 - 1))),
    ('STRUCT(a BIGINT, "it\'s" VARCHAR[])', st.fixed_dictionaries({"a": st.none(), "it's": st.just(["x"])})),
    ("MAP(INTEGER, DATE)", st.dictionaries(st.integers(-100, 100), st.dates())),
    ("ENUM('a', 'it''s')", st.sampled_from(["a", "it's"])),
    ("JSON", st.recursive(st.none() | st.booleans() | st.integers(-9, 9) | st.just("é"), st.lists, max_leaves=5)),
]


@pytest.mark.parametrize(("text", "values"), VALUES, ids=[text for text, _ in VALUES])
def test_values_survive_duckdb(text: str, values: st.SearchStrategy[Any]) -> None:
    @settings(max_examples=40, deadline=None)
    @given(values)
    def check(value: Any) -> None:
        assert there_and_back(value, text) == value

    check()


def test_blobs_and_numbers_are_spelled_as_duckdb_does() -> None:
    data = bytes(range(256))
    assert json.loads(write_json(data, kind("BLOB"))) == DUCK.rows("SELECT ?::VARCHAR", [data])[0][0]
    assert write_json(Decimal("1.10"), kind("DECIMAL(5,2)")) == "1.10"
    assert write_json(float("nan"), kind("DOUBLE")) == "NaN"
    assert write_json(None, kind("BIGINT")) == "null"
    assert write_json("\ud800", kind("VARCHAR")) == '"\ufffd"'


class Colour(enum.Enum):
    RED = "red"


class Pair(NamedTuple):
    a: int
    b: str


@dataclasses.dataclass
class Data:
    a: int
    b: str


class Model(BaseModel):
    a: int
    b: str


STRUCT = "STRUCT(a BIGINT, b VARCHAR)"
ROWS = '[{"a":1,"b":"x"},{"a":2,"b":null}]'


@pytest.mark.parametrize(
    ("value", "text", "written"),
    [
        (numpy.int64(3), "BIGINT", "3"),
        (numpy.float32(0.5), "DOUBLE", "0.5"),
        (numpy.bool_(True), "BOOLEAN", "true"),
        (numpy.str_("x"), "VARCHAR", '"x"'),
        (numpy.datetime64("2024-02-29T01:02:03.123456789"), "TIMESTAMP", '"2024-02-29 01:02:03.123456"'),
        (numpy.datetime64("2024-02-29"), "DATE", '"2024-02-29 00:00:00"'),
        (numpy.array([[1, 2], [3, 4]]), "BIGINT[][]", "[[1,2],[3,4]]"),
        (3.0, "BIGINT", "3"),
        (Colour.RED, "VARCHAR", '"red"'),
        (Colour.RED, "ENUM('red')", '"red"'),
        (Pair(1, "x"), STRUCT, '{"a":1,"b":"x"}'),
        (Data(1, "x"), STRUCT, '{"a":1,"b":"x"}'),
        (Model(a=1, b="x"), STRUCT, '{"a":1,"b":"x"}'),
        ({"A": 1, "b": "x", "more": 2}, STRUCT, '{"a":1,"b":"x"}'),
        ((1, "x"), STRUCT, '{"a":1,"b":"x"}'),
        ({1, 2}, "BIGINT[]", "[1,2]"),
        ((number for number in range(3)), "BIGINT[]", "[0,1,2]"),
        (range(2), "BIGINT[]", "[0,1]"),
        ({1: True}, "MAP(INTEGER, BOOLEAN)", '{"1":true}'),
        (Data(1, "x"), "JSON", '{"a":1,"b":"x"}'),
        ({"d": datetime.date(2024, 1, 2), "n": [Decimal("1.5"), b"a"]}, "JSON", '{"d":"2024-01-02","n":[1.5,"a"]}'),
        (pandas.DataFrame({"a": [1, 2], "b": ["x", None]}), f"{STRUCT}[]", ROWS),
        (pandas.DataFrame({"a": [1, None], "b": ["x", None]}), f"{STRUCT}[]", ROWS.replace("2", "null")),
        (polars.DataFrame({"a": [1, 2], "b": ["x", None]}), f"{STRUCT}[]", ROWS),
        (pyarrow.table({"a": [1, 2], "b": ["x", None]}), f"{STRUCT}[]", ROWS),
        (pyarrow.scalar(3), "BIGINT", "3"),
        (pandas.Series([1, 2]), "BIGINT[]", "[1,2]"),
        (pandas.NaT, "TIMESTAMP", "null"),
        (pandas.Timestamp("2024-01-02 03:04:05"), "TIMESTAMP", '"2024-01-02 03:04:05"'),
        ([[1, 2]], "BIGINT[2][]", "[[1,2]]"),
    ],
)
def test_what_libraries_give(value: Any, text: str, written: str) -> None:
    assert write_json(value, kind(text)) == written


@pytest.mark.parametrize(
    ("value", "text", "said"),
    [
        ("3", "BIGINT", "wanted BIGINT, got str"),
        (True, "BIGINT", "wanted BIGINT, got bool"),
        (2.5, "BIGINT", "wanted BIGINT, got float"),
        (300, "UTINYINT", "wanted UTINYINT, got int (out of range?)"),
        (1, "VARCHAR", "wanted VARCHAR, got int"),
        (1, "BOOLEAN", "wanted BOOLEAN, got int"),
        ("x", "BLOB", "wanted BLOB, got str"),
        ("x", "BIGINT[]", "wanted BIGINT[], got str"),
        ({"a": 1}, "BIGINT[]", "wanted BIGINT[], got dict"),
        ([1, "x"], "BIGINT[]", "at [1]: wanted BIGINT, got str"),
        ({"a": 1}, STRUCT, 'the field "b" is not there (None stands for NULL)'),
        ([{"a": 1, "b": 2}], f"{STRUCT}[]", "at [0].b: wanted VARCHAR, got int"),
        ("c", "ENUM('a')", "wanted ENUM('a'), got str"),
        ([1], "BIGINT[2]", "wanted 2 items (BIGINT[2]), got 1"),
        (Decimal("nan"), "DECIMAL(5,2)", "wanted DECIMAL(5,2), got Decimal"),
        (object(), "JSON", "wanted JSON, got object"),
    ],
)
def test_wrong_results_say_where_what_and_what_came(value: Any, text: str, said: str) -> None:
    with pytest.raises(WrongResultError) as told:
        write_json(value, kind(text))
    assert str(told.value) == said


def test_servers_may_be_less_exact() -> None:
    assert write_json({"a": "12"}, kind(STRUCT), lenient=True) == '{"a":12,"b":null}'
    assert write_json("1.5", kind("DECIMAL(5,2)"), lenient=True) == "1.5"
    with pytest.raises(WrongResultError):
        write_json("x", kind("DOUBLE"), lenient=True)


def test_limits() -> None:
    def numbers() -> Any:
        number = 0
        while True:
            yield (number := number + 1)

    with pytest.raises(TooLargeError):
        write_json(numbers(), kind("BIGINT[]"), max_items=10)
    deep: list[Any] = []
    deep.append(deep)
    with pytest.raises(WrongResultError, match=str(MAX_DEPTH)):
        write_json(deep, kind("JSON"))


# --- arguments


class Fields(TypedDict):
    day: datetime.date


@pytest.mark.parametrize(
    ("value", "hint", "wanted"),
    [
        (1, float, 1.0),
        (Decimal("1.5"), float, 1.5),
        (Decimal(2), int, 2),
        (2.5, Decimal, Decimal("2.5")),
        (datetime.date(2024, 1, 2), str, "2024-01-02"),
        (datetime.date(2024, 1, 2), datetime.datetime, datetime.datetime(2024, 1, 2)),
        ("2024-01-02", datetime.date, datetime.date(2024, 1, 2)),
        (uuid.UUID(int=1), str, str(uuid.UUID(int=1))),
        ("red", Colour, Colour.RED),
        ("a", Literal["a", "b"], "a"),
        ({"a": 1, "b": "x"}, Data, Data(1, "x")),
        ({"a": 1, "b": "x"}, Pair, Pair(1, "x")),
        ({"a": 1, "b": "x"}, Model, Model(a=1, b="x")),
        ({"day": "2024-01-02"}, Fields, {"day": datetime.date(2024, 1, 2)}),
        ([{"a": 1, "b": "x"}], list[Data], [Data(1, "x")]),
        ({"k": [1, 2]}, dict[str, tuple[float, ...]], {"k": (1.0, 2.0)}),
        ([1, 2], set[int], {1, 2}),
        ([1, "x"], tuple[float, str], (1.0, "x")),
        ("x", int | str, "x"),
        ({"a": 1, "b": "x"}, Data | None, Data(1, "x")),
        ([1], Any, [1]),
        (3, "no hint at all", 3),
    ],
)
def test_arguments_become_what_the_hint_wants(value: Any, hint: Any, wanted: Any) -> None:
    found = fit(value, hint)
    assert found == wanted
    assert type(found) is type(wanted)


@pytest.mark.parametrize(
    ("value", "hint"),
    [("x", int), (1.5, int), ("c", Literal["a"]), ("c", Colour), ({"a": "x", "b": "x"}, Model), ([1], list[str])],
)
def test_arguments_that_cannot_be_it(value: Any, hint: Any) -> None:
    with pytest.raises((ValueError, decimal.InvalidOperation)):
        fit(value, hint)


def test_errors_name_the_argument_and_not_its_value() -> None:
    with pytest.raises(WrongArgumentError) as told:
        read_arguments('{"m": {"a": "canary", "b": "x"}}', [("m", kind("JSON"))], {"m": Model})
    assert 'argument "m"' in str(told.value)
    assert "canary" not in str(told.value)
    with pytest.raises(WrongArgumentError, match="no JSON object"):
        read_arguments("[" * 100_000, [("m", kind("JSON"))], {})


@pytest.mark.parametrize("text", ["290309-12-22 (BC)", "infinity"])
def test_dates_that_python_has_not_stay_texts(text: str) -> None:
    assert from_json(text, kind("DATE")) == text
    with pytest.raises(ValueError):
        fit(text, datetime.date)


def test_calls_are_bound_by_name() -> None:
    def f(a: int, /, Bee: int, *, c: int = 3) -> None: ...  # noqa: N803

    def rest(**more: int) -> None: ...

    assert bind(shape_of(f), {"bee": 2, "a": 1}) == ([1], {"Bee": 2})
    assert bind(shape_of(rest), {"x": 1}) == ([], {"x": 1})
    assert bind(None, {"x": 1, "y": 2}) == ([1, 2], {})
    with pytest.raises(WrongArgumentError, match='takes no argument "d"'):
        bind(shape_of(f), {"a": 1, "bee": 2, "d": 4})
    with pytest.raises(WrongArgumentError, match='needs the argument "Bee"'):
        bind(shape_of(f), {"a": 1})
