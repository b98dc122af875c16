"""Definitions as JSON texts, as they lie in the database: one object per version, with a format number."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from halo_sql.catalog.objects import AgentDef, Definition, ModelDef, Parameter, PromptDef, ToolDef, kind_of
from halo_sql.errors import CatalogError

FORMAT = 1

#: The definition of a dropped object: the row that ends its history so far.
TOMBSTONE = json.dumps({"format": FORMAT, "dropped": True})


def encode(definition: Definition) -> str:
    """The JSON text of a definition (without version and temp, which are columns).

    CatalogError for option values JSON does not have (a Python object, NaN).
    """
    body: dict[str, object] = {"format": FORMAT, "name": definition.name, **_body(definition)}
    if definition.comment is not None:
        body["comment"] = definition.comment
    try:
        return json.dumps(body, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError):
        raise CatalogError(
            f'the options of {kind_of(definition)} "{definition.name}" cannot be stored',
            remedy="Options are texts, numbers, booleans, lists and maps of these.",
        ) from None


def _body(definition: Definition) -> dict[str, object]:
    if isinstance(definition, PromptDef):
        return {"text": definition.text, "system": definition.system}
    own: dict[str, object] = {"options": dict(definition.options)}
    if isinstance(definition, ModelDef):
        return own | {"source": definition.source, "engine": definition.engine}
    own |= {
        "parameters": [[item.name, item.type, item.default] for item in definition.parameters],
        "returns": definition.returns,
    }
    if isinstance(definition, ToolDef):
        own |= {name: getattr(definition, name) for name in ("kind", "body", "method", "remote", "volatility")}
        own["columns"] = [list(column) for column in definition.columns]
    return own


@lru_cache(maxsize=1024)
def decode(kind: str, name: str, version: int, text: str, temp: bool) -> Definition | None:
    """The definition a row holds; None for a tombstone.

    ``name`` is the row's lower-case name. CatalogError for a row that a newer HaloSQL wrote or that was damaged.
    """
    try:
        body = json.loads(text)
        written = int(body["format"])
        if written > FORMAT:
            raise CatalogError(
                f'{kind} "{name}" was written by a newer HaloSQL (format {written})',
                remedy=f'Update HaloSQL, or DROP {kind.upper()} "{name}".',
            )
        return None if body.get("dropped") else _definition(kind, body, version, temp)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise CatalogError(
            f'the definition of {kind} "{name}" is damaged',
            remedy=f'CREATE OR REPLACE or DROP {kind.upper()} "{name}".',
        ) from None


def _definition(kind: str, body: Mapping[str, Any], version: int, temp: bool) -> Definition:
    name, comment = str(body["name"]), _text(body.get("comment"))
    if kind == "prompt":
        return PromptDef(name, str(body["text"]), _text(body["system"]), version, temp, comment)
    options = dict(body["options"])
    if kind == "model":
        return ModelDef(name, str(body["source"]), str(body["engine"]), options, version, temp, comment)
    parameters = tuple(Parameter(str(item[0]), str(item[1]), _text(item[2])) for item in body["parameters"])
    returns = str(body["returns"])
    if kind == "agent":
        return AgentDef(name, parameters, returns, options, version, temp, comment)
    return ToolDef(
        name,
        str(body["kind"]),
        str(body["body"]),
        parameters,
        returns,
        tuple((str(column), str(type_text)) for column, type_text in body["columns"]),
        str(body["method"]),
        str(body["remote"]),
        str(body["volatility"]),
        options,
        version,
        temp,
        comment,
    )


def _text(value: Any) -> str | None:
    return None if value is None else str(value)
