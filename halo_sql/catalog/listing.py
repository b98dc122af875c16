"""What SHOW and DESCRIBE give: columns with their DuckDB types, and rows."""

from __future__ import annotations

import json
from typing import Any

from halo_sql.catalog.definitions import Definition
from halo_sql.catalog.objects import BUILT_IN_MODELS, ModelDef
from halo_sql.catalog.store import Catalog

Listing = tuple[list[tuple[str, str]], list[tuple[Any, ...]]]  # ([(name, DuckDB type)], rows)

_SHARED = [("version", "INTEGER"), ("scope", "VARCHAR")]
MODEL_COLUMNS = [
    ("name", "VARCHAR"),
    ("engine", "VARCHAR"),
    ("source", "VARCHAR"),
    ("options", "VARCHAR"),
    *_SHARED,
]
PROMPT_COLUMNS = [("name", "VARCHAR"), ("text", "VARCHAR"), ("system", "VARCHAR"), *_SHARED]


def show(catalog: Catalog, kind: str) -> Listing:
    """The visible objects of a kind ('model' | 'prompt') by name, one row each."""
    objects = catalog.objects(kind)
    columns = MODEL_COLUMNS if kind == "model" else PROMPT_COLUMNS
    return list(columns), [_row(objects[name]) for name in sorted(objects)]


def describe(catalog: Catalog, kind: str, name: str) -> Listing:
    """One object as (property, value) rows, each option of a model on its own; CatalogError when it is missing."""
    found = catalog.objects(kind).get(name.lower())
    if found is None:
        raise catalog.missing(kind, name)
    columns = MODEL_COLUMNS if kind == "model" else PROMPT_COLUMNS
    given = {column: value for (column, _), value in zip(columns, _row(found), strict=True) if column != "options"}
    created = catalog.created(kind, found)
    rows = [(column, None if value is None else str(value)) for column, value in given.items()]
    rows.append(("created", None if created is None else f"{created:%Y-%m-%d %H:%M:%S} UTC"))
    if isinstance(found, ModelDef):
        rows += [(f"option {key}", _text(value)) for key, value in sorted(found.options.items())]
    return [("property", "VARCHAR"), ("value", "VARCHAR")], list(rows)


def _row(definition: Definition) -> tuple[Any, ...]:
    scope = "temporary" if definition.temp else "persistent"
    if BUILT_IN_MODELS.get(definition.name) is definition:
        scope = "built-in"
    if isinstance(definition, ModelDef):
        options = json.dumps(dict(definition.options), ensure_ascii=False)
        own: tuple[Any, ...] = (definition.engine, definition.source, options)
    else:
        own = (definition.text, definition.system)
    return (definition.name, *own, definition.version, scope)


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
