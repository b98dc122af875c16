"""Definitions as JSON texts, as they lie in the database: one object per version, with a format number."""

from __future__ import annotations

import json
from functools import lru_cache

from halo_sql.catalog.objects import ModelDef, PromptDef
from halo_sql.errors import CatalogError

FORMAT = 1
Definition = ModelDef | PromptDef

#: The definition of a dropped object: the row that ends its history so far.
TOMBSTONE = json.dumps({"format": FORMAT, "dropped": True})


def encode(definition: Definition) -> str:
    """The JSON text of a definition (without version and temp, which are columns).

    CatalogError for option values JSON does not have (a Python object, NaN).
    """
    body: dict[str, object] = {"format": FORMAT, "name": definition.name}
    if isinstance(definition, ModelDef):
        body |= {"source": definition.source, "engine": definition.engine, "options": dict(definition.options)}
    else:
        body |= {"text": definition.text, "system": definition.system}
    try:
        return json.dumps(body, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError):
        raise CatalogError(
            f'the options of model "{definition.name}" cannot be stored',
            remedy="Options are texts, numbers, booleans, lists and maps of these.",
        ) from None


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
        if body.get("dropped"):
            return None
        if kind == "model":
            return ModelDef(
                str(body["name"]), str(body["source"]), str(body["engine"]), dict(body["options"]), version, temp
            )
        system = body["system"]
        return PromptDef(str(body["name"]), str(body["text"]), None if system is None else str(system), version, temp)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise CatalogError(
            f'the definition of {kind} "{name}" is damaged',
            remedy=f'CREATE OR REPLACE or DROP {kind.upper()} "{name}".',
        ) from None
