"""Types as JSON schemas: what constrained decoding lets a model write."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from halo_sql.duck import Duck
from halo_sql.ir.types import check_schema, json_schema, json_schema_text

DAY = r"\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])"
CLOCK = r"([01]\d|2[0-3]):[0-5]\d:[0-5]\d"
SCHEMAS: dict[str, dict[str, Any]] = {
    "BOOLEAN": {"type": "boolean"},
    "TINYINT": {"type": "integer", "minimum": -128, "maximum": 127},
    "UINTEGER": {"type": "integer", "minimum": 0, "maximum": 4294967295},
    "BIGINT": {"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1},
    "UBIGINT": {"type": "integer", "minimum": 0},
    "HUGEINT": {"type": "integer"},
    "BIGNUM": {"type": "integer"},
    "FLOAT": {"type": "number"},
    "DECIMAL(4,2)": {"type": "number"},
    "VARCHAR": {"type": "string"},
    "BLOB": {"type": "string"},
    "INTERVAL": {"type": "string"},
    "BIT": {"type": "string", "pattern": "^[01]+$"},
    "DATE": {"type": "string", "pattern": f"^{DAY}$"},
    "TIME": {"type": "string", "pattern": f"^{CLOCK}$"},
    "TIMETZ": {"type": "string", "pattern": f"^{CLOCK}[+-](0\\d|1[0-4])$"},
    "TIMESTAMP_MS": {"type": "string", "pattern": f"^{DAY} {CLOCK}$"},
    "TIMESTAMPTZ": {"type": "string", "pattern": f"^{DAY} {CLOCK}\\+00$"},
    "ENUM('a','b')": {"type": "string", "enum": ["a", "b"]},
    "JSON": {},
    "TINYINT[]": {"type": "array", "items": {"type": "integer", "minimum": -128, "maximum": 127}},
    "BOOLEAN[2]": {"type": "array", "items": {"type": "boolean"}, "minItems": 2, "maxItems": 2},
    "MAP(VARCHAR, BOOLEAN)": {"type": "object", "additionalProperties": {"type": "boolean"}},
    "MAP(INTEGER, BOOLEAN)": {
        "type": "object",
        "propertyNames": {"type": "string", "pattern": "^-?\\d+$"},
        "additionalProperties": {"type": "boolean"},
    },
    "MAP(ENUM('a','b'), BOOLEAN)": {
        "type": "object",
        "propertyNames": {"type": "string", "enum": ["a", "b"]},
        "additionalProperties": {"type": "boolean"},
    },
    "STRUCT(a BOOLEAN, b STRUCT(c JSON))": {
        "type": "object",
        "properties": {
            "a": {"type": "boolean"},
            "b": {"type": "object", "properties": {"c": {}}, "required": ["c"], "additionalProperties": False},
        },
        "required": ["a", "b"],
        "additionalProperties": False,
    },
}
#: type -> texts a decoder must let through, texts it must not (members of structs may be null)
DECODED: dict[str, tuple[list[str], list[str]]] = {
    "TINYINT": (["-128", "0", "127"], ["128", "1.5", "null"]),
    "UBIGINT": (["0", "18446744073709551615"], ["-1"]),
    "BIGINT": (["9223372036854775807"], ["9223372036854775808"]),
    "DATE": (['"2024-12-31"'], ['"2024-13-01"', '"soon"']),
    "TIMETZ": (['"23:59:59+02"'], ['"25:00:00+02"']),
    "BIT": (['"0101"'], ['"2"', '""']),
    "ENUM('a','b')": (['"a"'], ['"c"']),
    "DOUBLE[2]": (["[1, 2.5]"], ["[1]"]),
    "JSON": (['{"a": [1, null]}', "null"], []),
    "MAP(INTEGER, BOOLEAN)": (['{"5": true}'], ['{"x": true}', '{"5": 1}']),
    "STRUCT(n UTINYINT, e ENUM('a'), d DATE)": (
        ['{"n": 255, "e": "a", "d": "2024-01-31"}', '{"n": null, "e": null, "d": null}'],
        ['{"n": 256, "e": "a", "d": "2024-01-31"}', '{"n": 1}', "null"],
    ),
    "STRUCT(s STRUCT(x VARCHAR), l STRUCT(y BOOLEAN)[])": (
        ['{"s": null, "l": null}', '{"s": {"x": null}, "l": [{"y": null}]}'],
        ['{"s": {}, "l": []}', '{"s": null, "l": [null]}'],
    ),
}


@pytest.fixture(scope="module")
def duck() -> Iterator[Duck]:
    made = Duck.connect(":memory:", False, {})
    yield made
    made.close()


@pytest.mark.parametrize(("text", "schema"), SCHEMAS.items())
def test_schema(duck: Duck, text: str, schema: dict[str, Any]) -> None:
    assert json_schema(duck.sql_type(text)) == schema
    check_schema(duck.sql_type(text))


def test_members_may_be_null(duck: Duck) -> None:
    found = json_schema(duck.sql_type("STRUCT(a TINYINT, e ENUM('x'), j JSON, l INTEGER[])"), optional=True)
    assert found["properties"]["a"]["type"] == ["integer", "null"]
    assert found["properties"]["e"] == {"type": ["string", "null"], "enum": ["x", None]}
    assert found["properties"]["j"] == {}
    assert found["properties"]["l"]["items"]["type"] == "integer"
    assert found["type"] == "object"


@pytest.mark.parametrize("text", ["UNION(a INTEGER)", "VARIANT", "STRUCT(a UNION(x INTEGER))[]", "GEOMETRY"])
def test_types_without_a_schema(duck: Duck, text: str) -> None:
    with pytest.raises(ValueError, match="a model cannot be held to the type"):
        check_schema(duck.sql_type(text))


def test_limits(duck: Duck) -> None:
    check_schema(duck.sql_type("INTEGER" + "[]" * 32))
    with pytest.raises(ValueError, match="33 levels deep, more than 32"):
        check_schema(duck.sql_type("INTEGER" + "[]" * 33))
    with pytest.raises(ValueError, match="bytes, more than 65536"):
        check_schema(duck.sql_type("ENUM(" + ", ".join(f"'{n:060}'" for n in range(1100)) + ")"))


@pytest.mark.parametrize("text", DECODED)
def test_the_decoder_takes_the_schema(duck: Duck, text: str) -> None:
    decoder = pytest.importorskip("xgrammar")
    from xgrammar.testing import _is_grammar_accept_string as accepts

    schema = json_schema_text(duck.sql_type(text), optional=True)
    assert json.loads(schema) == json_schema(duck.sql_type(text), optional=True)
    grammar = decoder.Grammar.from_json_schema(schema, any_whitespace=False)
    good, bad = DECODED[text]
    assert [accepts(grammar, answer) for answer in good] == [True] * len(good)
    assert [accepts(grammar, answer) for answer in bad] == [False] * len(bad)
