"""What HaloSQL knows of itself, as tables: ``FROM halo_models()``, ``halo_settings()``, ``halo_queries()``, …

Each is a temporary table macro of the connection, written anew before a statement that names it. The statement
itself reaches DuckDB as it stands.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from halo_sql.call_log import CallLog
from halo_sql.catalog.listing import columns, versions
from halo_sql.catalog.objects import KINDS
from halo_sql.config import SETTINGS, Settings
from halo_sql.duck import Duck
from halo_sql.engines.experience import Experience
from halo_sql.engines.knowledge import Knowledge
from halo_sql.engines.latency import quantile
from halo_sql.engines.secret_store import COLUMNS as SECRET_COLUMNS
from halo_sql.engines.secret_store import SecretStore
from halo_sql.engines.speed import Speed
from halo_sql.engines.speeds import COLUMNS, row
from halo_sql.engines.store import StoreStats
from halo_sql.grammar.parameters import sql_literal
from halo_sql.ir.expr import literal, quote
from halo_sql.metrics import Profile

Columns = tuple[tuple[str, str], ...]  # (name, DuckDB type)
Rows = list[tuple[Any, ...]]
VALUES_ROWS = 100
_NAMED = re.compile(r"\bhalo_(\w+)\s*\(", re.IGNORECASE)


class Session(Protocol):
    """What the listings read of a session."""

    duck: Duck
    settings: Settings

    @property
    def calls(self) -> CallLog:
        """The latest LLM calls."""
        ...

    @property
    def catalog(self) -> Any:
        """The catalog as the connection sees it."""
        ...

    @property
    def secrets(self) -> SecretStore:
        """The secrets."""
        ...

    def profiles(self) -> list[Profile]:
        """What the latest LLM queries did, oldest first."""
        ...

    def speeds(self) -> Sequence[Speed]:
        """The calibrations that are kept."""
        ...

    def store_stats(self) -> StoreStats | None:
        """The response store; None when it is off."""
        ...

    @property
    def knowledge(self) -> Knowledge | None:
        """What was learnt from finished calls; None when it is not to be used."""
        ...


@dataclass(frozen=True, slots=True)
class Listing:
    """One of the functions.

    all_versions  it has a parameter of this name; rows whose last column is not TRUE are only shown with it
    """

    columns: Columns
    rows: Callable[[Session], Rows]
    all_versions: bool = False


def prepare(session: Session, sql: str) -> None:
    """Write the macros of the listings that a statement names."""
    for name in dict.fromkeys(found.lower() for found in _NAMED.findall(sql)):
        if name in LISTINGS:
            session.duck.execute(_macro(name, LISTINGS[name], LISTINGS[name].rows(session)))


def _macro(name: str, listing: Listing, rows: Rows) -> str:
    shown = ", ".join(f"{quote(column)}::{kind} AS {quote(column)}" for column, kind in listing.columns)
    source, condition = _source(listing, rows), "" if rows else " WHERE false"
    if listing.all_versions and rows:
        condition = f" WHERE all_versions OR {quote(listing.columns[-1][0])}"
    parameter = "all_versions := false" if listing.all_versions else ""
    return f"CREATE OR REPLACE TEMP MACRO halo_{name}({parameter}) AS TABLE SELECT {shown} FROM {source}{condition}"


def _source(listing: Listing, rows: Rows) -> str:
    """The rows as something to select from: VALUES, or, as DuckDB is slow to bind thousands of these, a JSON text."""
    if len(rows) <= VALUES_ROWS:
        nothing = (None,) * len(listing.columns)
        values = ", ".join(f"({', '.join(sql_literal(value) for value in row)})" for row in rows or [nothing])
        return f"(VALUES {values}) AS t({', '.join(quote(column) for column, _ in listing.columns)})"
    names = [column for column, _ in listing.columns]
    text = json.dumps([dict(zip(names, row, strict=True)) for row in rows], ensure_ascii=False, default=str)
    text = text.encode("utf-8", "replace").decode()  # an answer may hold half a surrogate pair
    structure = json.dumps([dict(listing.columns)])
    return f"(SELECT unnest(from_json({literal(text)}, {literal(structure)}), recursive := true))"


def _objects(kind: str) -> Listing:
    def rows(session: Session) -> Rows:
        return versions(session.catalog, kind)[1]

    shown = (*columns(kind), ("created", "TIMESTAMP"), ("current", "BOOLEAN"))
    return Listing(shown, rows, all_versions=True)


def _secrets(session: Session) -> Rows:
    from halo_sql.engines.secret_store import rows

    return rows(session.secrets)


def _export(session: Session) -> Rows:
    from halo_sql.catalog.script import script

    return [(place, *row) for place, row in enumerate(script(session.catalog.snapshot()), 1)]


def _settings(session: Session) -> Rows:
    settings = session.settings
    return [
        (
            item.name,
            _text(settings.get(item.name)),
            _text(item.default),
            item.kind,
            item.range,
            item.help,
            settings.source(item.name),
        )
        for item in SETTINGS
    ]


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _calls(session: Session) -> Rows:
    return [tuple(record) for record in session.calls.records()]


def _operators(session: Session) -> Rows:
    from halo_sql.grammar.operators_table import OPERATORS

    return [(name, ", ".join(places)) for name, places in OPERATORS.items()]


def _rules(session: Session) -> Rows:
    from halo_sql.optimizer.optimize import BESIDE
    from halo_sql.optimizer.rules import RULES

    disabled = session.settings.names("halo_disabled_rules")
    found = [(rule.name, rule.stage.name.lower()) for rule in RULES]
    return [(name, stage, name not in disabled) for name, stage in [*found, *BESIDE.items()]]


def _queries(session: Session) -> Rows:
    found = []
    for profile in session.profiles():
        totals = profile.totals()
        found.append((profile.number, profile.statement, profile.status, *(totals[key] for key, _ in _TOTALS)))
    return found


def _calibrations(session: Session) -> Rows:
    return [row(speed) for speed in session.speeds()]


def _cache(session: Session) -> Rows:
    stats = session.store_stats()
    if stats is None:
        return []
    return [(str(stats.path), stats.entries, stats.size_bytes, stats.hits, stats.misses)]


def _statistics(session: Session) -> Rows:
    from halo_sql.learning import model_identity

    knowledge = session.knowledge
    if knowledge is None:
        return []
    names: dict[str, str] = {}
    for name, model in sorted(session.catalog.snapshot().models.items()):
        names.setdefault(model_identity(model), name)
    return [
        (names.get(kind.model), label if kind.call else None, *_averages(experience))
        for kind, label, experience in knowledge.everything()
    ]


def _averages(seen: Experience) -> tuple[Any, ...]:
    """Requests; prompt and output tokens and answer characters of one; kept share; steps and tool calls of one; of a
    tool seconds of a call, its quantiles among calls made by themselves, rows of a value."""

    def average(total: float, count: float) -> float | None:
        return round(total / count, 3) if count else None

    tokens = 0.0 if seen.timed or seen.joins else seen.requests  # tools have none
    told = ((seen.prompt_tok, tokens), (seen.output_tok, tokens), (seen.answer_chars, seen.requests))
    steps, tool_calls = (average(total, seen.requests if seen.steps else 0) for total in (seen.steps, seen.tool_calls))
    p50_s, p90_s = (quantile(seen.latencies, share) for share in (0.5, 0.9))
    return (
        round(seen.requests),
        *(average(total, count) for total, count in told),
        average(seen.kept, seen.rows),
        steps,
        tool_calls,
        _precise(seen.seconds + seen.join_s, seen.timed + seen.joined),
        *(None if seconds is None else float(f"{seconds:.3g}") for seconds in (p50_s, p90_s)),
        average(seen.listed_rows, seen.listed),
    )


def _precise(total: float, count: float) -> float | None:
    return float(f"{total / count:.3g}") if count else None


_TOTALS = (
    ("llm_calls", "BIGINT"),
    ("llm_calls_coalesced", "BIGINT"),
    ("llm_calls_from_store", "BIGINT"),
    ("prompt_tok", "BIGINT"),
    ("prompt_tok_cached", "BIGINT"),
    ("output_tok", "BIGINT"),
    ("tool_calls", "BIGINT"),
    ("tool_calls_coalesced", "BIGINT"),
    ("tool_calls_from_store", "BIGINT"),
    ("retries", "BIGINT"),
    ("errors", "BIGINT"),
    ("usd", "DOUBLE"),
    ("elapsed_s", "DOUBLE"),
)


def _texts(*names: str) -> Columns:
    return tuple((name, "VARCHAR") for name in names)


_CALLS = (
    ("query", "BIGINT"),
    ("node", "INTEGER"),
    ("row_key", "BIGINT"),
    *_texts("kind", "agent"),
    ("step", "INTEGER"),
    *_texts("model", "prompt_hash"),
    ("prompt_tok", "BIGINT"),
    ("output_tok", "BIGINT"),
    *_texts("status", "error"),
    ("started", "TIMESTAMP"),
    ("seconds", "DOUBLE"),
    *_texts("prompt", "answer"),
    ("worker", "INTEGER"),
)

_STATISTICS = (
    *_texts("model", "call"),
    ("requests", "BIGINT"),
    *((name, "DOUBLE") for name in ("prompt_tok", "output_tok", "answer_chars", "true_share", "steps", "tool_calls")),
    *((name, "DOUBLE") for name in ("seconds", "seconds_p50", "seconds_p90", "result_rows")),
)

#: name behind ``halo_`` -> what it lists
LISTINGS: Mapping[str, Listing] = {
    **{kind + "s": _objects(kind) for kind in KINDS},
    "secrets": Listing(_texts(*SECRET_COLUMNS), _secrets),
    "export": Listing((("position", "INTEGER"), *_texts("kind", "name", "sql")), _export),
    "settings": Listing(_texts("name", "value", "default", "type", "range", "description", "source"), _settings),
    "operators": Listing(_texts("name", "places"), _operators),
    "rules": Listing((*_texts("name", "stage"), ("enabled", "BOOLEAN")), _rules),
    "queries": Listing((("id", "BIGINT"), *_texts("statement", "status"), *_TOTALS), _queries),
    "calls": Listing(_CALLS, _calls),
    "statistics": Listing(_STATISTICS, _statistics),
    "calibrations": Listing(COLUMNS, _calibrations),
    "cache": Listing((*_texts("path"), *((name, "BIGINT") for name in ("entries", "bytes", "hits", "misses"))), _cache),
}
