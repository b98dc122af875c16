"""Values as SQL text of exactly their type."""

from __future__ import annotations

from typing import Any

from halo_sql.duck import Duck
from halo_sql.ir.expr import literal


def parameter(duck: Duck, value: Any) -> str:
    """A parameter's value, of the type DuckDB gives it. DuckDB's error for what it cannot take."""
    [(kind, text)] = duck.rows("SELECT typeof($1), CAST($1 AS VARCHAR)", [value])
    return constant(kind, text)


def variable(duck: Duck, name: str) -> str:
    """The value of a session variable; NULL when it is not set."""
    [(kind, text)] = duck.rows("SELECT typeof(getvariable($1)), CAST(getvariable($1) AS VARCHAR)", [name])
    return constant(kind, text)


def constant(kind: str, text: str | None) -> str:
    """A value given as its type and its text."""
    return "NULL" if text is None else f"CAST({literal(text)} AS {kind})"
