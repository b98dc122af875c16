"""Running statements both ways and comparing what they give."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import halo_sql

from .queries import Query
from .tables import SETUP


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a statement gave: names, types (as text), rows as text, LLM requests; or the error's text."""

    names: tuple[str, ...]
    types: tuple[str, ...]
    rows: tuple[str, ...]
    calls: int = 0
    error: str = ""


def connect(model: str = "echo", **settings: object) -> halo_sql.Connection:
    """A connection with the tables, verification on."""
    config = {"halo_store": "off", "halo_default_model": model, "halo_verify": True}
    con = halo_sql.connect(config={**config, **{f"halo_{name}": value for name, value in settings.items()}})
    con.execute(SETUP)
    return con


def run(con: halo_sql.Connection, sql: str) -> Outcome:
    """The statement's outcome. NotSupportedError is raised; other errors of a statement are an outcome."""
    try:
        cursor = con.execute(sql)
        rows = tuple(map(repr, cursor.fetchall()))
    except halo_sql.NotSupportedError:
        raise
    except Exception as problem:  # anything: a statement must give rows or a typed error
        return Outcome((), (), (), error=f"{type(problem).__name__}: {problem}")
    profile = con.last_profile()
    return Outcome(
        tuple(item[0] for item in cursor.description),
        tuple(str(item[1]) for item in cursor.description),
        rows,
        0 if profile is None else profile["totals"]["llm_calls"],
    )


def difference(found: Outcome, expected: Outcome, ordered: bool) -> str:
    """What differs, in a sentence; '' when nothing does."""
    if found.error or expected.error:
        return f"{found.error or 'rows'} instead of {expected.error or 'rows'}"
    if found.types != expected.types:
        return f"types {found.types} instead of {expected.types}"
    if Counter(found.rows) != Counter(expected.rows):
        surplus, missing = Counter(found.rows) - Counter(expected.rows), Counter(expected.rows) - Counter(found.rows)
        return f"{len(found.rows)} rows: too many {_some(surplus)}, missing {_some(missing)}"
    if ordered and found.rows != expected.rows:
        return f"order {found.rows[:20]} instead of {expected.rows[:20]}"
    return ""


def _some(rows: Counter[str]) -> Sequence[Any]:
    return list(rows.elements())[:5]


def name_difference(query: Query, found: Outcome, expected: Outcome) -> str:
    """Whether the names that do not stem from calls are DuckDB's."""
    if len(found.names) != len(expected.names) or len(found.names) != len(query.columns):
        return f"names {found.names} instead of {expected.names}"
    for column, name, wanted in zip(query.columns, found.names, expected.names, strict=True):
        if (column.name or "llm_" not in name.lower()) and name != wanted:
            return f"name {name!r} instead of {wanted!r}"
    return ""
