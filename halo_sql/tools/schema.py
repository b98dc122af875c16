"""JSON schemas of tools: a tool's arguments for a model to fill, and a server's schemas as SQL types."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from halo_sql.errors import EngineError
from halo_sql.ir.expr import literal, quote
from halo_sql.ir.types import SqlType, json_schema

MAX_SCHEMA_BYTES = 64 << 10
MAX_SCHEMA_DEPTH = 32
MAX_TYPE_NODES = 4096
_SCALARS = {"string": "VARCHAR", "integer": "BIGINT", "number": "DOUBLE", "boolean": "BOOLEAN"}
#: what says no more than its ``type``, and can be left out of a SQL type
_COMBINED = ("oneOf", "allOf", "not", "if", "patternProperties", "dependentSchemas", "$dynamicRef")


def arguments_schema(
    parameters: Sequence[tuple[str, SqlType, bool]], descriptions: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """The closed schema of a tool's arguments object.

    parameters    name, type, and whether it may be left out (or null)
    descriptions  parameter -> what it is, for the model

    EngineError('rejected') for a type no model can be held to, or a schema that is too large.
    """
    properties = {}
    for name, sql_type, optional in parameters:
        try:
            found = json_schema(sql_type)
        except ValueError as problem:
            reason, _, remedy = str(problem).partition("\n")
            raise EngineError(f'argument "{name}": {reason}', code="rejected", remedy=remedy) from None
        if optional:
            found = _or_null(found)
        said = (descriptions or {}).get(name)
        properties[name] = {**found, "description": said} if said else found
    schema = {
        "type": "object",
        "properties": properties,
        "required": [name for name, _, optional in parameters if not optional],
        "additionalProperties": False,
    }
    check_limits(schema, "of the arguments")
    return schema


def _or_null(schema: dict[str, Any]) -> dict[str, Any]:
    if "type" not in schema:
        return schema  # any JSON value: null is one
    widened = {**schema, "type": [schema["type"], "null"]}
    if "enum" in schema:
        widened["enum"] = [*schema["enum"], None]
    return widened


def check_limits(schema: Any, what: str) -> None:
    """EngineError('rejected') for a schema of more than 64 KB or 32 levels, or one that refers elsewhere.

    what  whose it is, as in 'the schema … is too large'
    """
    too_deep = EngineError(
        f"the schema {what} is nested more than {MAX_SCHEMA_DEPTH} levels deep",
        code="rejected",
        remedy="Use JSON for a part of it.",
    )
    pending: list[tuple[Any, int]] = [(schema, 0)]
    while pending:
        node, depth = pending.pop()
        if depth > 2 * MAX_SCHEMA_DEPTH + 2:  # a level of values is two of JSON: "properties" and the member
            raise too_deep
        if isinstance(node, dict):
            reference = node.get("$ref", node.get("$dynamicRef", "#"))
            if isinstance(reference, str) and not reference.startswith("#"):
                raise EngineError(
                    f"the schema {what} refers to {reference[:80]!r}, which is elsewhere",
                    code="rejected",
                    remedy="Put the definition under $defs and refer to it with #/$defs/….",
                )
            pending += [(member, depth + 1) for member in node.values()]
        elif isinstance(node, list):
            pending += [(member, depth + 1) for member in node]
    size = len(json.dumps(schema, ensure_ascii=False).encode("utf-8", "replace"))
    if size > MAX_SCHEMA_BYTES:
        raise EngineError(
            f"the schema {what} has {size} bytes, more than {MAX_SCHEMA_BYTES}",
            code="rejected",
            remedy="Use fewer fields or labels, or JSON for a part of it.",
        )


def sql_type_text(schema: Any, root: Any = None) -> str:
    """The DuckDB type of a JSON schema's values; JSON for what has none (oneOf, recursion, open objects).

    root  the schema that references like #/$defs/… lead into; not given: ``schema``

    EngineError('rejected') as ``check_limits``.
    """
    check_limits(schema, "of a tool")
    return _Reader(schema if root is None else root).type_of(schema, frozenset(), 0)


class _Reader:
    """Reads a schema as a type; ``root`` is where its references lead into."""

    def __init__(self, root: Any) -> None:
        self._root = root
        self._left = MAX_TYPE_NODES

    def type_of(self, schema: Any, seen: frozenset[str], depth: int) -> str:
        """The type; ``seen`` are the references that led here."""
        self._left -= 1
        if self._left < 0:  # definitions that refer to each other can be exponentially more when written out
            raise EngineError(
                f"the schema of a tool is too large: written out it has more than {MAX_TYPE_NODES} parts",
                code="rejected",
                remedy="Use JSON for a part of it.",
            )
        if not isinstance(schema, dict) or depth > MAX_SCHEMA_DEPTH:
            return "JSON"
        reference = schema.get("$ref")
        if reference is not None:
            if not isinstance(reference, str) or reference in seen:
                return "JSON"  # it holds itself
            return self.type_of(resolve(reference, self._root), seen | {reference}, depth + 1)
        whole = schema.get("allOf")
        if isinstance(whole, list) and len(whole) == 1 and "properties" not in schema:
            return self.type_of(whole[0], seen, depth + 1)
        if any(key in schema for key in _COMBINED):
            return "JSON"
        arms = schema.get("anyOf")
        if isinstance(arms, list):
            found = {self.type_of(arm, seen, depth + 1) for arm in arms if not _is_null(arm)}
            if found == {"BIGINT", "DOUBLE"}:
                return "DOUBLE"
            return found.pop() if len(found) == 1 else "JSON"
        return self._simple(schema, _kind(schema.get("type")), seen, depth)

    def _simple(self, schema: dict[str, Any], kind: str, seen: frozenset[str], depth: int) -> str:
        values = schema.get("enum", [schema["const"]] if "const" in schema else None)
        if isinstance(values, list):
            return _values_type(values, kind)
        if kind == "array":
            return self.type_of(schema.get("items"), seen, depth + 1) + "[]"
        if kind != "object":
            return _SCALARS.get(kind, "JSON")
        members = schema.get("properties")
        rest = schema.get("additionalProperties")
        if isinstance(members, dict) and members:
            names = {str(name).lower() for name in members}
            if len(names) < len(members) or "" in names:
                return "JSON"  # a STRUCT's fields ignore case and have names
            inner = (f"{quote(name)} {self.type_of(member, seen, depth + 1)}" for name, member in members.items())
            return f"STRUCT({', '.join(inner)})"
        if isinstance(rest, dict) and rest:
            return f"MAP(VARCHAR, {self.type_of(rest, seen, depth + 1)})"
        return "JSON"


def _kind(given: Any) -> str:
    """The one type that ``type`` names, null aside; '' when it names none or several."""
    kinds = {name for name in given if name != "null"} if isinstance(given, list) else {given}
    if kinds == {"integer", "number"}:
        return "number"
    found = kinds.pop() if len(kinds) == 1 else ""
    return found if isinstance(found, str) else ""


def _values_type(values: list[Any], kind: str) -> str:
    given = [value for value in values if value is not None]
    if given and all(isinstance(value, str) and value for value in given):
        return f"ENUM({', '.join(literal(value) for value in dict.fromkeys(given))})"
    kinds = {_kind_of(value) for value in given}
    if len(kinds) == 1:
        return kinds.pop()
    return _SCALARS.get(kind, "JSON")


def _kind_of(value: Any) -> str:
    if isinstance(value, bool):
        return "BOOLEAN"
    if isinstance(value, int):
        return "BIGINT"
    return "DOUBLE" if isinstance(value, float) else "VARCHAR" if isinstance(value, str) else "JSON"


def _is_null(schema: Any) -> bool:
    return isinstance(schema, dict) and schema.get("type") == "null"


def resolve(reference: str, root: Any) -> Any:
    """What a reference like #/$defs/Order leads to in ``root``; None when to nothing."""
    found = root
    for part in reference.removeprefix("#").split("/")[1:]:
        key = part.replace("~1", "/").replace("~0", "~")
        if not isinstance(found, dict):
            return None
        found = found.get(key)
    return found


def members_of_object(schema: Any, root: Any, of_items: bool = False) -> dict[str, Any] | None:
    """The properties of an object's schema, or of the objects in an array; None when it is no such schema."""
    for _ in range(MAX_SCHEMA_DEPTH):
        if not isinstance(schema, dict) or not isinstance(schema.get("$ref"), str):
            break
        schema = resolve(schema["$ref"], root)
    if not isinstance(schema, dict):
        return None
    if of_items:
        return members_of_object(schema.get("items"), root) if schema.get("type") == "array" else None
    members = schema.get("properties")
    return members if schema.get("type") == "object" and isinstance(members, dict) and members else None
