"""What a SELECT written by a model may be. For the sandbox's child process: the standard library only.

The check reads DuckDB's own syntax tree (``json_serialize_sql``), not the text. It is the first of several walls: the
child has no files, no network and no catalog but the copies.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

MAX_TEXT_BYTES = 16 << 10
STARTS = frozenset({"SELECT", "WITH", "FROM", "VALUES", "TABLE", "("})

_QUERY_NODES = frozenset({"SELECT_NODE", "SET_OPERATION_NODE", "RECURSIVE_CTE_NODE", "CTE_NODE"})
_TABLE_REFS = frozenset({"BASE_TABLE", "SUBQUERY", "JOIN", "TABLE_FUNCTION", "EMPTY", "EXPRESSION_LIST"})
_TABLE_FUNCTIONS = frozenset({"range", "generate_series", "unnest", "json_each", "json_tree", "repeat", "repeat_row"})
#: names of functions that read or change what is not data of the tables, wait, or take raw memory
_FUNCTIONS = frozenset(
    (
        "add_parquet_key", "checkpoint", "combine", "combine_aggr", "currval", "finalize", "force_checkpoint",
        "get_block_size", "getenv", "getvariable", "glob", "in_search_path", "index_key",
        "json_deserialize_sql", "json_execute_serialized_sql", "json_serialize_plan", "json_serialize_sql", "nextval",
        "parse_duckdb_log_message", "query", "query_table", "remap_struct", "session_user", "setseed", "setval",
        "sleep_ms", "sniff_csv", "stats", "to_aggregate_state", "txid_current", "user", "variant_bytes_to_variant",
        "variant_to_parquet_variant", "vector_type", "version", "which_secret", "write_log",
    )
)  # fmt: skip
_PREFIXES = ("__", "arrow_", "current_", "duckdb_", "has_", "inet_", "parquet_", "pg_", "pragma_", "python_", "read_")
_HARMLESS = frozenset(
    ("current_date", "current_time", "current_timestamp", "current_localtime", "current_localtimestamp", "pg_typeof")
)
_TYPES = frozenset({"aggregate_state", "legacy_aggregate_state", "pointer", "validity"})
_POSITIONS = ("query_location", "query_location_length")


class DeniedError(Exception):
    """The text may not run: what is wrong, and what to do."""

    def __init__(self, message: str, remedy: str) -> None:
        super().__init__(message)
        self.remedy = remedy


def check_tree(tree: Mapping[str, Any], tables: Collection[str]) -> None:
    """DeniedError unless the tree is one SELECT that reads these tables (lower-case names) and nothing else."""
    if tree.get("error"):
        if tree.get("error_type") == "not implemented":
            raise DeniedError("only a SELECT may run", "Write one SELECT.")
        message = str(tree.get("error_message", ""))
        raise MemoryError if "allocat" in message else ValueError(message)
    statements = tree["statements"]
    if len(statements) != 1:
        raise DeniedError("only one statement may run", "Write one SELECT.")
    _check(statements[0], tables, frozenset())


def unplaced(tree: Any) -> Any:
    """A tree without the positions in its text."""
    if isinstance(tree, dict):
        return {key: unplaced(member) for key, member in tree.items() if key not in _POSITIONS}
    if isinstance(tree, list):
        return [unplaced(member) for member in tree]
    return tree


def _check(node: Any, tables: Collection[str], ctes: frozenset[str]) -> None:
    if isinstance(node, list):
        for member in node:
            _check(member, tables, ctes)
        return
    if not isinstance(node, dict):
        return
    named = (node.get("cte_map") or {}).get("map") or []
    ctes |= {str(entry["key"]).lower() for entry in named}
    if node.get("type") == "RECURSIVE_CTE_NODE":
        ctes |= {str(node.get("cte_name")).lower()}
    kind = str(node.get("type", ""))
    if kind.endswith("_NODE") and kind not in _QUERY_NODES:
        raise DeniedError(f"{kind.partition('_')[0]} may not run", "Write a SELECT that only reads.")
    if "sample" in node and "class" not in node and kind not in _QUERY_NODES:
        _check_table(node, kind, tables, ctes)
    elif node.get("class") == "PARAMETER":
        raise DeniedError("the query has no parameters", "Write the value.")
    elif node.get("class") in ("FUNCTION", "WINDOW"):
        _check_function(_last(node, "function_name"))
    elif node.get("class") == "TYPE" and str(node.get("type_name", "")).lower() in _TYPES:
        raise DeniedError(f"the type {node['type_name']} may not be used", "Use another type.")
    for key, member in node.items():
        if key == "function" and kind == "TABLE_FUNCTION":  # its name has its own list
            _check({**member, "class": ""}, tables, ctes)
        else:
            _check(member, tables, ctes)


def _check_table(node: Mapping[str, Any], kind: str, tables: Collection[str], ctes: frozenset[str]) -> None:
    if kind not in _TABLE_REFS:
        name = {"SHOW_REF": "DESCRIBE, SHOW and SUMMARIZE"}.get(kind, kind)
        raise DeniedError(f"{name} may not run", "Write a SELECT from the tool's tables.")
    if kind == "TABLE_FUNCTION":
        name = _last(node["function"], "function_name")
        if name not in _TABLE_FUNCTIONS:
            raise DeniedError(f"the table function {name} may not be called", _only(tables))
    elif kind == "BASE_TABLE":
        path = [str(part) for part in (node.get("qualified_name") or {}).get("path") or [node.get("table_name")]]
        lowered = path[-1].lower()
        if len(path) > 1 or (lowered not in tables and lowered not in ctes):
            raise DeniedError(f'the tool has no table "{".".join(path)}"', _only(tables))


def _check_function(name: str) -> None:
    if name not in _HARMLESS and (name in _FUNCTIONS or name.startswith(_PREFIXES)):
        raise DeniedError(f"the function {name} may not be called", "Use functions of values only.")


def _last(node: Mapping[str, Any], key: str) -> str:
    path = (node.get("qualified_name") or {}).get("path") or [node.get(key, "")]
    return str(path[-1]).lower()


def _only(tables: Collection[str]) -> str:
    return f"Its tables: {', '.join(sorted(tables))}." if tables else "The tool has no tables."
