"""What SHOW, DESCRIBE and the ``halo_models()`` family give: columns with their DuckDB types, and rows."""

from __future__ import annotations

import json
from typing import Any

from halo_sql.catalog.objects import BUILT_IN_MODELS, AgentDef, Definition, ModelDef, Parameter, PromptDef, ToolDef
from halo_sql.catalog.store import Catalog
from halo_sql.ir.expr import quote

Columns = list[tuple[str, str]]
Listing = tuple[Columns, list[tuple[Any, ...]]]  # ([(name, DuckDB type)], rows)


def _texts(*names: str) -> Columns:
    return [(name, "VARCHAR") for name in names]


_OWN: dict[str, Columns] = {
    "model": _texts("engine", "source", "options"),
    "prompt": _texts("text", "system"),
    "tool": _texts("kind", "body", "arguments", "returns", "volatility", "options"),
    "agent": _texts("arguments", "returns", "model", "tools", "options"),
}


def columns(kind: str) -> Columns:
    """The columns of the list of a kind."""
    return [*_texts("name"), *_OWN[kind], ("version", "INTEGER"), *_texts("scope", "comment")]


def show(catalog: Catalog, kind: str) -> Listing:
    """The visible objects of a kind (a key of KINDS) by name, one row each."""
    objects = catalog.objects(kind)
    return columns(kind), [_row(objects[name]) for name in sorted(objects)]


def versions(catalog: Catalog, kind: str) -> Listing:
    """All versions there ever were, with their time (UTC) and whether they are what the name means now."""
    rows = [(*_row(entry.definition), entry.created, entry.current) for entry in catalog.history(kind)]
    return [*columns(kind), ("created", "TIMESTAMP"), ("current", "BOOLEAN")], rows


def describe(catalog: Catalog, kind: str, name: str) -> Listing:
    """One object as (property, value) rows, each argument and option on its own; CatalogError when it is missing."""
    found = catalog.objects(kind).get(name.lower())
    if found is None:
        raise catalog.missing(kind, name)
    created = catalog.created(kind, found)
    rows: list[tuple[str, str | None]] = []
    for (column, _), value in zip(columns(kind), _row(found), strict=True):
        if column == "arguments":
            rows += [(f"argument {item.name}", argument(item)) for item in _parameters(found)]
        elif column != "options":
            rows.append((column, None if value is None else str(value)))
    rows.append(("created", None if created is None else f"{created:%Y-%m-%d %H:%M:%S} UTC"))
    if not isinstance(found, PromptDef):
        rows += [(f"option {key}", _text(value)) for key, value in sorted(found.options.items())]
    return _texts("property", "value"), list(rows)


def argument(parameter: Parameter) -> str:
    """``INTEGER DEFAULT 1``."""
    return parameter.type if parameter.default is None else f"{parameter.type} DEFAULT {parameter.default}"


def returns(tool: ToolDef) -> str:
    """A tool's type, or ``TABLE (a INTEGER, …)``."""
    if not tool.columns:
        return tool.returns
    return "TABLE (" + ", ".join(f"{quote(name)} {kind}" for name, kind in tool.columns) + ")"


def _parameters(definition: Definition) -> tuple[Parameter, ...]:
    return definition.parameters if isinstance(definition, ToolDef | AgentDef) else ()


def _row(definition: Definition) -> tuple[Any, ...]:
    scope = "temporary" if definition.temp else "persistent"
    if BUILT_IN_MODELS.get(definition.name) is definition:
        scope = "built-in"
    return (definition.name, *_own(definition), definition.version, scope, definition.comment)


def _own(definition: Definition) -> tuple[Any, ...]:
    if isinstance(definition, PromptDef):
        return definition.text, definition.system
    options = json.dumps(dict(definition.options), ensure_ascii=False)
    if isinstance(definition, ModelDef):
        return definition.engine, definition.source, options
    arguments = ", ".join(f"{item.name} {argument(item)}" for item in definition.parameters)
    if isinstance(definition, AgentDef):
        return arguments, definition.returns, definition.model, ", ".join(definition.tools), options
    kind = " ".join(filter(None, [definition.kind, definition.method.lower()]))
    return kind, definition.body, arguments, returns(definition), definition.volatility, options


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
