"""What a tool's calls are held to: WITH (…) over the defaults of its kind."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal

from halo_sql.tools.protocol import BoundTool, Limits

#: kind of tool -> its defaults
DEFAULTS: Mapping[str, Limits] = {
    "sql": Limits(timeout_s=30.0, concurrency=4, max_result_bytes=8 << 20),
    "http": Limits(timeout_s=10.0, concurrency=64),
    "python": Limits(timeout_s=30.0, concurrency=16),
    "mcp": Limits(timeout_s=30.0, concurrency=16),
}
#: of a query that comes with the call
GIVEN_SQL = Limits(timeout_s=10.0, max_retries=0, concurrency=2, max_result_bytes=64 << 10, max_rows=1_000)
PROCESSES = 4  # worker processes of a function, at most, when the tool does not say ``concurrency``
_ONE_ARGUMENT = re.compile(r'\s*\$("[^"]+"|\w+)\s*;?\s*')


def limits_of(tool: BoundTool) -> Limits:
    """The limits of a tool. Its options have been checked when it was created."""
    limits = GIVEN_SQL if takes_sql(tool) else DEFAULTS[tool.tool.kind]
    given = {key: value for key, value in tool.options.items() if isinstance(value, int | float | Decimal)}
    return replace(
        limits,
        timeout_s=float(given.get("timeout_s", limits.timeout_s)),
        max_retries=0 if acts(tool) else int(given.get("max_retries", limits.max_retries)),
        concurrency=int(given.get("concurrency", limits.concurrency)),
        rate_per_s=float(given.get("rate_per_s", limits.rate_per_s)),
        max_result_bytes=int(given.get("max_bytes", limits.max_result_bytes)),
        max_rows=int(given.get("max_rows", limits.max_rows)),
    )


def takes_sql(tool: BoundTool) -> bool:
    """Whether the query itself is an argument (``AS SQL $$ $query $$``): whoever calls it, a model say, writes it."""
    return tool.tool.kind == "sql" and _ONE_ARGUMENT.fullmatch(tool.tool.body) is not None


def acts(tool: BoundTool) -> bool:
    """Whether its calls have side effects: ``WITH (side_effects = true)``."""
    given = tool.options.get("side_effects", False)
    return given.lower() == "true" if isinstance(given, str) else bool(given)
