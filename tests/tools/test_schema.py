"""JSON schemas of tools: of arguments for a model, of servers as SQL types."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from halo_sql.duck import Duck
from halo_sql.errors import EngineError
from halo_sql.tools.schema import arguments_schema, sql_type_text

DUCK = Duck.connect(":memory:", False, {})


def schema_of(optional: bool = False, **types: str) -> str:
    return json.dumps(arguments_schema([(name, DUCK.sql_type(text), optional) for name, text in types.items()]))


# --- arguments_schema


def test_the_schema_is_closed_and_says_what_is_required() -> None:
    found = arguments_schema(
        [("id", DUCK.sql_type("INTEGER"), False), ("kind", DUCK.sql_type("ENUM('a','b')"), True)],
        {"id": "the customer"},
    )
    assert found == {
        "type": "object",
        "properties": {
            "id": {"type": "integer", "minimum": -(2**31), "maximum": 2**31 - 1, "description": "the customer"},
            "kind": {"type": ["string", "null"], "enum": ["a", "b", None]},
        },
        "required": ["id"],
        "additionalProperties": False,
    }


def test_arguments_that_no_model_can_fill() -> None:
    with pytest.raises(EngineError) as told:
        schema_of(x="UNION(a INTEGER, b VARCHAR)")
    assert (told.value.code, told.value.remedy) == ("rejected", "Use a STRUCT with a field for each member.")
    assert told.value.message.startswith('argument "x"')
    labels = ", ".join(f"'label number {number}'" for number in range(5000))
    with pytest.raises(EngineError, match="65536"):
        schema_of(x=f"ENUM({labels})")


# --- sql_type_text


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        ({"type": "string"}, "VARCHAR"),
        ({"type": "string", "format": "date-time"}, "VARCHAR"),
        ({"type": "integer"}, "BIGINT"),
        ({"type": "number"}, "DOUBLE"),
        ({"type": "boolean"}, "BOOLEAN"),
        ({"type": ["integer", "null"]}, "BIGINT"),
        ({"type": ["integer", "number"]}, "DOUBLE"),
        ({"type": ["integer", "string"]}, "JSON"),
        ({"anyOf": [{"type": "integer"}, {"type": "null"}]}, "BIGINT"),
        ({"anyOf": [{"type": "integer"}, {"type": "string"}]}, "JSON"),
        ({"oneOf": [{"type": "integer"}]}, "JSON"),
        ({"allOf": [{"type": "integer"}]}, "BIGINT"),
        ({"enum": ["a", "it's", "a", None]}, "ENUM('a', 'it''s')"),
        ({"enum": [1, 2]}, "BIGINT"),
        ({"const": "only"}, "ENUM('only')"),
        ({"enum": [""], "type": "string"}, "VARCHAR"),
        ({"type": "array", "items": {"type": "number"}}, "DOUBLE[]"),
        ({"type": "array"}, "JSON[]"),
        ({"type": "object"}, "JSON"),
        ({"type": "object", "additionalProperties": {"type": "integer"}}, "MAP(VARCHAR, BIGINT)"),
        ({"type": "object", "properties": {}, "additionalProperties": False}, "JSON"),
        (
            {"type": "object", "properties": {'a "b"': {"type": "string"}, "c, d INT": {"type": "integer"}}},
            'STRUCT("a ""b""" VARCHAR, "c, d INT" BIGINT)',
        ),
        ({"type": "object", "properties": {"a": {}, "A": {}}}, "JSON"),
        ({}, "JSON"),
        (True, "JSON"),
        (
            {"$ref": "#/$defs/O", "$defs": {"O": {"type": "object", "properties": {"x": {"$ref": "#/$defs/N"}}},
                                            "N": {"type": "number"}}},
            'STRUCT("x" DOUBLE)',
        ),
        (
            {"$ref": "#/$defs/T", "$defs": {"T": {"type": "object", "properties": {"next": {"$ref": "#/$defs/T"}}}}},
            'STRUCT("next" JSON)',
        ),
        ({"$ref": "#/$defs/absent"}, "JSON"),
    ],
)  # fmt: skip
def test_each_schema_is_a_type_that_duckdb_reads(schema: Any, text: str) -> None:
    assert sql_type_text(schema) == text
    assert DUCK.sql_type(text)


@pytest.mark.parametrize(
    ("schema", "word"),
    [
        ({"$ref": "https://example.org/s.json"}, "elsewhere"),
        ({"properties": {"a": {"$ref": "other.json#/a"}}}, "elsewhere"),
        ({"type": "string", "description": "x" * 70_000}, "65536"),
    ],
)
def test_schemas_that_are_refused(schema: Any, word: str) -> None:
    with pytest.raises(EngineError, match=word) as told:
        sql_type_text(schema)
    assert told.value.code == "rejected"
    assert told.value.remedy


def test_schemas_that_are_nested_too_deep() -> None:
    schema: Any = {"type": "string"}
    for _ in range(20):
        schema = {"type": "object", "properties": {"a": schema}}
    assert sql_type_text(schema).count("STRUCT") == 20
    for _ in range(20):
        schema = {"type": "object", "properties": {"a": schema}}
    with pytest.raises(EngineError, match="32 levels"):
        sql_type_text(schema)


def test_references_cannot_blow_up() -> None:
    """Each definition names the next one twice: 2^40 leaves, were it all written out."""
    defs: Any = {
        f"d{number}": {
            "type": "object",
            "properties": {side: {"$ref": f"#/$defs/d{number + 1}"} for side in ("a", "b")},
        }
        for number in range(40)
    }
    begun = time.process_time()
    with pytest.raises(EngineError, match="too large"):
        sql_type_text({"$ref": "#/$defs/d0", "$defs": defs})
    assert time.process_time() - begun < 5
