"""Arguments and types of TOOL and AGENT, checked against DuckDB when the object is made."""

from __future__ import annotations

import re
from collections.abc import Sequence

from halo_sql.duck import Duck, tokenize
from halo_sql.errors import BinderError, Error, NotSupportedError, Span, did_you_mean
from halo_sql.grammar.classify import operator_calls
from halo_sql.grammar.statements.nodes import Argument
from halo_sql.ir.types import SqlType

_MISSING = re.compile(r"Type with name (.+) does not exist")
_TYPES = (
    "BIGINT", "BLOB", "BOOLEAN", "DATE", "DECIMAL", "DOUBLE", "FLOAT", "HUGEINT", "INTEGER", "INTERVAL", "JSON", "MAP",
    "SMALLINT", "STRUCT", "TEXT", "TIME", "TIMESTAMP", "TIMESTAMPTZ", "TINYINT", "UBIGINT", "UINTEGER", "UUID",
    "VARCHAR",
)  # fmt: skip


def check_type(duck: Duck, text: str, span: Span) -> SqlType:
    """The type a text names; BinderError with position and the nearest type."""
    try:
        return duck.sql_type(text)
    except Error as problem:
        missing = _MISSING.search(problem.message)
        if missing is None:
            first = problem.message.split("\n")[0]
            message = f"{text} is not a type" if first.startswith("Value ") else f"{text} is not a type: {first}"
            raise BinderError(message, span=span, remedy="Write one type, like INTEGER or STRUCT(a VARCHAR).") from None
        name = missing[1].strip('"')
        own = [row[0] for row in duck.rows("SELECT type_name FROM duckdb_types() WHERE NOT internal")]
        raise BinderError(
            f'type "{name}" does not exist', span=span, remedy=did_you_mean(name, [*_TYPES, *own])
        ) from None


def check_names(items: Sequence[Argument], what: str) -> None:
    """BinderError for a name that is there twice; ``what`` is 'argument' | 'column'."""
    seen: set[str] = set()
    for item in items:
        if item.name.lower() in seen:
            raise BinderError(
                f'{what} "{item.name}" is there twice', span=item.name_span, remedy="Give each its own name."
            )
        seen.add(item.name.lower())


def check_arguments(duck: Duck, arguments: Sequence[Argument]) -> None:
    """Names are unique, types exist, defaults can be cast, none without a default follows one with it."""
    check_names(arguments, "argument")
    optional = ""
    for item in arguments:
        check_type(duck, item.type, item.type_span)
        if item.default is None:
            if optional:
                raise BinderError(
                    f'argument "{item.name}" without a default follows "{optional}", which has one',
                    span=item.name_span,
                    remedy="Put it in front, or give it a default.",
                )
            continue
        optional = item.name
        if operator_calls(tokenize(item.default)):
            raise NotSupportedError(
                "a default holds no LLM, TOOL or AGENT call", span=item.default_span, remedy="Write a constant."
            )
        try:
            duck.rows(f"SELECT CAST(({item.default}) AS {item.type})")
        except Error as problem:
            raise BinderError(
                f'the default of argument "{item.name}" is no {item.type}: {problem.message.splitlines()[0]}',
                span=item.default_span,
                remedy="Write a constant of its type.",
            ) from None
