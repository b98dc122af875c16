"""Arguments and types of TOOL and AGENT, checked against DuckDB when the object is made."""

from __future__ import annotations

import re
from collections.abc import Sequence

from halo_sql.duck import Duck
from halo_sql.duck_tokens import tokenize
from halo_sql.errors import BinderError, DataError, Error, NotSupportedError, Span, did_you_mean
from halo_sql.grammar.classify import operator_calls
from halo_sql.grammar.statements.nodes import Argument
from halo_sql.ir.expr import literal
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


#: A value of each kind that casts to other kinds; DuckDB refuses a cast only when it meets a value.
_SAMPLES = {
    **dict.fromkeys(("date", "timestamp", "timestamp_s", "timestamp_ms", "timestamp_ns"), "'2000-01-01'"),
    **dict.fromkeys(("time", "time_ns", "time with time zone"), "'00:00:00'"),
    "timestamp with time zone": "'2000-01-01'",
    "boolean": "true",
    "interval": "'1 day'",
    "uuid": "'00000000-0000-0000-0000-000000000001'",
    "blob": "'1'",
    "bit": "'1'",
    "json": "'1'",
    "varchar": "'1'",
}


def castable(duck: Duck, given: SqlType, wanted: SqlType) -> bool:
    """Whether DuckDB has a cast from one type to the other (single values may still fail)."""
    if given.text == wanted.text or given.kind in ("varchar", "json") or wanted.kind == "varchar":
        return True
    probe = duck.duplicate()  # an error would end the user's transaction
    try:
        probe.rows(f"SELECT CAST(CAST({_sample(given)} AS {given.text}) AS {wanted.text})")
    except DataError as problem:
        return "Unimplemented" not in problem.message
    except Error:
        return False
    finally:
        probe.close()
    return True


def _sample(sql_type: SqlType) -> str:
    members = [_sample(member) for _, member in sql_type.fields]
    if sql_type.kind == "struct":
        return (
            "{"
            + ", ".join(f"{literal(name)}: {item}" for (name, _), item in zip(sql_type.fields, members, strict=True))
            + "}"
        )
    if sql_type.kind in ("list", "array"):
        return "[" + ", ".join(members * max(1, sql_type.size)) + "]"
    if sql_type.kind == "map":
        return "MAP {" + f"{members[0]}: {members[1]}" + "}"
    if sql_type.kind == "union":
        return members[0]
    if sql_type.kind == "enum":
        return literal(sql_type.labels[0])
    return _SAMPLES.get(sql_type.kind, "1")
