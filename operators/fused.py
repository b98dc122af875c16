"""The answer of calls that are asked together: an object, each member read as its call alone reads an answer."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from halo_sql.engines.protocol import Answer
from halo_sql.ir.prompt import LlmCall
from halo_sql.ir.types import SqlType, json_schema
from halo_sql.operators.arrow_types import carried_as_text
from halo_sql.operators.labels import label_form, label_reader
from halo_sql.operators.read_answer import Read, dump_json, load_json, reader
from halo_sql.operators.text_cast import TextCast


def fused_form(call: LlmCall) -> Answer:
    """A closed object: the members in order, each held to the form of its call."""
    members = {name: _schema(part) for name, part in _parts(call)}
    schema = {"type": "object", "properties": members, "required": list(members), "additionalProperties": False}
    return Answer("json", schema=json.dumps(schema, ensure_ascii=False, separators=(",", ":")))


def _parts(call: LlmCall) -> list[tuple[str, LlmCall]]:
    names = (name for name, _ in call.returns.fields)
    return list(zip(names, call.fused, strict=True))


def _schema(part: LlmCall) -> dict[str, Any]:
    if part.kind != "classify":
        return json_schema(part.returns, optional=part.kind == "extract")
    if part.returns.kind == "varchar":
        return {"type": "string", "enum": list(part.labels)}
    schema: dict[str, Any] = json.loads(label_form(part).schema)
    return schema


def fused_reader(call: LlmCall, cast: TextCast) -> Callable[[str], Any]:
    """The function from the object's text to its members' values; ValueError names the member that does not fit.

    Where the whole is carried as text, the members are checked one by one and the text is DuckDB's.
    """
    members = {name: _member(part, cast) for name, part in _parts(call)}
    labels = {name for name, part in _parts(call) if part.kind == "classify"}
    as_text = carried_as_text(call.returns)

    def read(text: str) -> Any:
        given = load_json(text)
        if not isinstance(given, dict):
            raise ValueError("it is not an object")
        if given.keys() != members.keys():
            odd = sorted(given.keys() ^ members.keys())[0]
            raise ValueError(f"field {odd!r} is {'unknown' if odd in given else 'missing'}")
        found = {}
        for name, member in members.items():
            try:
                found[name] = member(given[name])
            except ValueError as problem:
                raise ValueError(f"field {name!r}: {problem}") from None
        if not as_text:
            return found
        spelled = {name: found[name] if name in labels else value for name, value in given.items()}
        spelled = {name: "null" if value is None else value for name, value in spelled.items()}  # JSON's, not SQL's
        return cast.as_text(dump_json(spelled), call.returns.text)

    return read


def _member(part: LlmCall, cast: TextCast) -> Read:
    """Alone a call never answers NULL: only JSON has a null that is a value."""
    read = _labels(part) if part.kind == "classify" else _values(part.returns, cast, part.kind == "extract")

    def member(value: Any) -> Any:
        if value is None and part.returns.kind != "json":
            raise ValueError("it is null")
        return read(value)

    return member


def _labels(part: LlmCall) -> Read:
    read = label_reader(part)
    return read if part.returns.kind == "varchar" else lambda value: read(dump_json(value))


def _values(returns: SqlType, cast: TextCast, absent_is_null: bool) -> Read:
    if not carried_as_text(returns):
        return reader(returns, cast, absent_is_null)
    return lambda value: cast.as_text(value if isinstance(value, str) else dump_json(value), returns.text)
