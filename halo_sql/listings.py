"""What HaloSQL knows of itself, as tables: ``FROM halo_models()``, ``halo_settings()``, ``halo_queries()``, …

Each is a temporary table macro of the connection, written anew before a statement that names it. The statement
itself reaches DuckDB as it stands.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from halo_sql.config import SETTINGS, Settings
from halo_sql.duck import Duck
from halo_sql.engines.store import StoreStats
from halo_sql.grammar.parameters import sql_literal
from halo_sql.ir.expr import quote
from halo_sql.metrics import Profile

Columns = tuple[tuple[str, str], ...]  # (name, DuckDB type)
Rows = list[tuple[Any, ...]]
_NAMED = re.compile(r"\bhalo_(\w+)\s*\(", re.IGNORECASE)


class Session(Protocol):
    """What the listings read of a session."""

    duck: Duck
    settings: Settings

    @property
    def catalog(self) -> Any:
        """The catalog as the connection sees it."""
        ...

    def profiles(self) -> list[Profile]:
        """What the latest LLM queries did, oldest first."""
        ...

    def store_stats(self) -> StoreStats | None:
        """The response store; None when it is off."""
        ...


def prepare(session: Session, sql: str) -> None:
    """Write the macros of the listings that a statement names."""
    for name in dict.fromkeys(found.lower() for found in _NAMED.findall(sql)):
        if name in LISTINGS:
            columns, rows_of = LISTINGS[name]
            session.duck.execute(_macro(f"halo_{name}", columns, rows_of(session)))


def _macro(name: str, columns: Columns, rows: Rows) -> str:
    shown = ", ".join(f"{quote(column)}::{kind} AS {quote(column)}" for column, kind in columns)
    if not rows:
        empty = ", ".join(f"NULL::{kind} AS {quote(column)}" for column, kind in columns)
        return f"CREATE OR REPLACE TEMP MACRO {name}() AS TABLE SELECT {empty} WHERE false"
    values = ", ".join("(" + ", ".join(sql_literal(value) for value in row) + ")" for row in rows)
    names = ", ".join(quote(column) for column, _ in columns)
    return f"CREATE OR REPLACE TEMP MACRO {name}() AS TABLE SELECT {shown} FROM (VALUES {values}) AS t({names})"


def _objects(kind: str) -> Callable[[Session], Rows]:
    def rows(session: Session) -> Rows:
        from halo_sql.catalog.listing import show

        return show(session.catalog, kind)[1]

    return rows


def _settings(session: Session) -> Rows:
    return [
        (item.name, str(session.settings.get(item.name)), str(item.default), item.kind, item.help) for item in SETTINGS
    ]


def _operators(session: Session) -> Rows:
    from halo_sql.grammar.calls import CALL_KINDS
    from halo_sql.grammar.operators_table import OPERATORS

    return [(name, ", ".join(places), name in CALL_KINDS) for name, places in OPERATORS.items()]


def _rules(session: Session) -> Rows:
    from halo_sql.optimizer.rules import RULES

    disabled = session.settings.names("halo_disabled_rules")
    return [(rule.name, rule.stage.name.lower(), rule.name not in disabled) for rule in RULES]


def _queries(session: Session) -> Rows:
    found = []
    for number, profile in enumerate(session.profiles(), 1):
        totals = profile.totals()
        found.append((number, profile.statement, profile.status, *(totals[key] for key, _ in _TOTALS)))
    return found


def _cache(session: Session) -> Rows:
    stats = session.store_stats()
    if stats is None:
        return []
    return [(str(stats.path), stats.entries, stats.size_bytes, stats.hits, stats.misses)]


_TOTALS = (
    ("llm_calls", "BIGINT"),
    ("llm_calls_coalesced", "BIGINT"),
    ("llm_calls_from_store", "BIGINT"),
    ("prompt_tok", "BIGINT"),
    ("prompt_tok_cached", "BIGINT"),
    ("output_tok", "BIGINT"),
    ("retries", "BIGINT"),
    ("errors", "BIGINT"),
    ("usd", "DOUBLE"),
    ("elapsed_s", "DOUBLE"),
)
_MODEL = ("name", "engine", "source", "options")
_PROMPT = ("name", "text", "system")

#: name behind ``halo_`` -> columns and where their rows come from
LISTINGS: Mapping[str, tuple[Columns, Callable[[Session], Rows]]] = {
    "models": (
        (*((name, "VARCHAR") for name in _MODEL), ("version", "INTEGER"), ("scope", "VARCHAR")),
        _objects("model"),
    ),
    "prompts": (
        (*((name, "VARCHAR") for name in _PROMPT), ("version", "INTEGER"), ("scope", "VARCHAR")),
        _objects("prompt"),
    ),
    "settings": (tuple((name, "VARCHAR") for name in ("name", "value", "default", "type", "description")), _settings),
    "operators": ((("name", "VARCHAR"), ("places", "VARCHAR"), ("available", "BOOLEAN")), _operators),
    "rules": ((("name", "VARCHAR"), ("stage", "VARCHAR"), ("enabled", "BOOLEAN")), _rules),
    "queries": ((("id", "BIGINT"), ("statement", "VARCHAR"), ("status", "VARCHAR"), *_TOTALS), _queries),
    "cache": (
        (("path", "VARCHAR"), *((name, "BIGINT") for name in ("entries", "bytes", "hits", "misses"))),
        _cache,
    ),
}
