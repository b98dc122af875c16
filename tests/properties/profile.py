"""How many statements a test draws, and what counts as a pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, event, settings

import halo_sql

from .properties import InvalidError

SLOW = (HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example)


def sometimes(examples: int) -> Callable[[Any], Any]:
    """The same statements in every run; ``benchmarks/norec.py`` draws thousands of others."""
    return settings(
        max_examples=examples, deadline=None, derandomize=True, database=None, suppress_health_check=list(SLOW)
    )


def holds(check: Callable[..., str], *arguments: Any) -> str:
    """The property's problem; '' also for a statement that is refused or means nothing."""
    try:
        return check(*arguments)
    except halo_sql.NotSupportedError:
        event("refused")
    except InvalidError:
        event("means nothing to DuckDB")
    return ""
