"""The arguments a model wrote for a tool, checked against the tool's closed schema."""

from __future__ import annotations

import functools
import json
import math
from typing import Any

MAX_ARGUMENTS_BYTES = 64 << 10
MAX_ARGUMENTS_DEPTH = 100


def check_arguments(text: str, schema: str) -> str | None:
    """Why the arguments a model wrote do not fit a tool's schema (``ToolSchema.parameters``); None when they do.

    One line that names the member. At most 64 KB and 100 levels; nothing is ever fetched.
    """
    if len(text.encode("utf-8", "replace")) > MAX_ARGUMENTS_BYTES:
        return f"the arguments have more than {MAX_ARGUMENTS_BYTES} bytes"
    if _depth(text) > MAX_ARGUMENTS_DEPTH:
        return f"the arguments are nested more than {MAX_ARGUMENTS_DEPTH} levels deep"
    try:
        given = json.loads(text, parse_constant=_no_constant, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as problem:
        return "the arguments are no JSON: " + " ".join(str(problem).split())[:200]
    error = min(_validator(schema).iter_errors(given), key=_order, default=None)
    return None if error is None else _reason(error)


def _depth(text: str) -> int:
    """How deep a JSON text is nested, without parsing it; not counted where it cannot be too deep."""
    if text.count("{") + text.count("[") <= MAX_ARGUMENTS_DEPTH:
        return 0
    deepest = depth = 0
    quoted = escaped = False
    for character in text:
        if quoted:
            if escaped:
                escaped = False
            elif character == "\\":
                escaped = True
            elif character == '"':
                quoted = False
        elif character == '"':
            quoted = True
        elif character in "[{":
            depth += 1
            deepest = max(deepest, depth)
        elif character in "]}":
            depth -= 1
    return deepest


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON number")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f'the member "{next(name for name in names if names.count(name) > 1)}" is there twice')
    return found


@functools.lru_cache(maxsize=256)
def _validator(schema: str) -> Any:
    from jsonschema import Draft202012Validator  # type: ignore[import-untyped]
    from jsonschema.validators import extend  # type: ignore[import-untyped]
    from referencing import Registry

    def is_integer(_: Any, value: object) -> bool:
        """3.0 is written like a DOUBLE, but is an integer for JSON Schema; it is not for us."""
        return isinstance(value, int) and not isinstance(value, bool)

    checker = Draft202012Validator.TYPE_CHECKER.redefine("integer", is_integer)
    registry: Registry[Any] = Registry()  # resolves nothing but the schema itself
    return extend(Draft202012Validator, type_checker=checker)(json.loads(schema), registry=registry)


def _order(error: Any) -> tuple[int, list[str]]:
    return len(error.absolute_path), [str(part) for part in error.absolute_path]


def _reason(error: Any) -> str:
    """What is wrong, without the value: it may be long."""
    path = _path(error.absolute_path)
    where = f'the argument "{path}"' if path else "the arguments"
    rule, wanted = error.validator, error.validator_value
    if rule == "required":
        missing = next(name for name in wanted if name not in error.instance)
        return f'the argument "{path}.{missing}" is missing' if path else f'the argument "{missing}" is missing'
    if rule == "additionalProperties" and wanted is False:
        known = error.schema.get("properties", {})
        extra = next(name for name in error.instance if name not in known)
        return f'there is no argument "{f"{path}." if path else ""}{str(extra)[:80]}"; known: {", ".join(known)}'[:500]
    if rule == "type":
        kinds = wanted if isinstance(wanted, list) else [wanted]
        return f"{where} is {_json_kind(error.instance)}, not {' or '.join(kinds)}"
    if rule == "enum":
        return f"{where} is none of {json.dumps(wanted, ensure_ascii=False)}"[:500]
    return f"{where} does not fit {rule} {json.dumps(wanted, ensure_ascii=False)}"[:500]


def _path(parts: Any) -> str:
    text = ""
    for part in parts:
        text += f"[{part}]" if isinstance(part, int) else f".{part}"
    return text.lstrip(".")[:200]


def _json_kind(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, float):
        return "a number" if math.isfinite(value) else "no number"
    names = {str: "a string", int: "an integer", list: "an array", dict: "an object"}
    return names.get(type(value), type(value).__name__)
