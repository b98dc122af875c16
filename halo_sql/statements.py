"""HaloSQL's own statements, executed: CREATE, DROP, SHOW, DESCRIBE of objects; SET and RESET of settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from halo_sql.catalog.listing import describe, show
from halo_sql.catalog.store import Catalog
from halo_sql.config import Settings
from halo_sql.engines.registry import check_model
from halo_sql.grammar.statements.nodes import (
    CreateModel,
    CreatePrompt,
    Describe,
    Drop,
    ResetSetting,
    SetSetting,
    Show,
)
from halo_sql.ir.expr import Column, ColumnId
from halo_sql.ir.types import SqlType
from halo_sql.result import BatchResult, Result

ARROW = {"VARCHAR": "string", "INTEGER": "int32", "BOOLEAN": "bool", "BIGINT": "int64"}


def run(statement: Any, catalog: Catalog, settings: Settings, functions: Mapping[str, Callable[..., Any]]) -> Result:
    """Run a statement; SHOW and DESCRIBE give rows, the others ``Success``-less empty results as DuckDB's DDL does."""
    if isinstance(statement, CreateModel):
        definition = statement.definition()
        check_model(definition)
        catalog.create_model(definition, or_replace=statement.or_replace, if_not_exists=statement.if_not_exists)
    elif isinstance(statement, CreatePrompt):
        from halo_sql.grammar.template import parse_template

        parse_template(statement.text)
        catalog.create_prompt(
            statement.definition(), or_replace=statement.or_replace, if_not_exists=statement.if_not_exists
        )
    elif isinstance(statement, Drop):
        catalog.drop(statement.kind, statement.name, if_exists=statement.if_exists)
    elif isinstance(statement, Show):
        return text_result(*show(catalog, statement.kind))
    elif isinstance(statement, Describe):
        return text_result(*describe(catalog, statement.kind, statement.name))
    elif isinstance(statement, SetSetting):
        settings.set(statement.name, statement.value)
    elif isinstance(statement, ResetSetting):
        settings.reset(statement.name)
    else:
        raise AssertionError(type(statement).__name__)
    return text_result([("Count", "BIGINT")], [], rowcount=0)


def text_result(columns: Sequence[tuple[str, str]], rows: Sequence[tuple[Any, ...]], rowcount: int = -1) -> Result:
    """Rows of Python values as a result."""
    import pyarrow

    named = tuple(
        Column(ColumnId(index), name, SqlType(kind, kind.lower())) for index, (name, kind) in enumerate(columns)
    )
    arrays = [
        pyarrow.array([row[index] for row in rows], type=getattr(pyarrow, _arrow(kind))())
        for index, (_, kind) in enumerate(columns)
    ]
    batch = pyarrow.RecordBatch.from_arrays(arrays, names=[f"c{index}" for index in range(len(columns))])
    return BatchResult(named, [batch] if rows else [], rowcount=rowcount)


def _arrow(kind: str) -> str:
    return {"BOOLEAN": "bool_"}.get(kind, ARROW[kind])
