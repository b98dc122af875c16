"""The operators HaloSQL adds to SQL: the one list of their names."""

from __future__ import annotations

from collections.abc import Mapping

#: Upper-case name -> the places it may stand in: 'scalar' | 'aggregate' | 'sort_key' | 'table'.
OPERATORS: Mapping[str, tuple[str, ...]] = {
    "LLM_MAP": ("scalar",),
    "LLM_FILTER": ("scalar",),
    "LLM_CLASSIFY": ("scalar",),
    "LLM_EXTRACT": ("scalar",),
    "LLM_SCORE": ("scalar",),
    "LLM_EMBED": ("scalar",),
    "LLM_REDUCE": ("aggregate",),
    "LLM_RANK": ("sort_key",),
    "TOOL": ("scalar", "table"),
    "AGENT": ("scalar", "table"),
}

#: Operators whose names are everyday words: tables, columns and aliases are called so, too.
EVERYDAY_WORDS = frozenset({"TOOL", "AGENT"})

#: Names that calls have where they stand in FROM, once that is written out (``row_calls``) -> the operator.
ROW_OPERATORS: Mapping[str, str] = {"__HALO_TOOL_ROWS": "TOOL", "__HALO_AGENT_ROWS": "AGENT"}
