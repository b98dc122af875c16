"""From Python's type hints to SQL: the arguments, defaults and result of a tool that is a Python function."""

from __future__ import annotations

import collections.abc
import dataclasses
import datetime
import enum
import functools
import inspect
import json
import math
import types
import typing
import uuid
from collections.abc import Callable
from decimal import Decimal
from typing import Any, NamedTuple

from halo_sql.catalog.objects import Parameter
from halo_sql.errors import InterfaceError
from halo_sql.ir.expr import literal, quote

MAX_DEPTH = 32

#: hint -> DuckDB type
SCALARS: dict[Any, str] = {
    bool: "BOOLEAN",
    int: "BIGINT",
    float: "DOUBLE",
    str: "VARCHAR",
    bytes: "BLOB",
    bytearray: "BLOB",
    Decimal: "DECIMAL(38,10)",
    datetime.datetime: "TIMESTAMP",
    datetime.date: "DATE",
    datetime.time: "TIME",
    datetime.timedelta: "INTERVAL",
    uuid.UUID: "UUID",
    Any: "JSON",
    object: "JSON",
    None: "JSON",
    type(None): "JSON",
    dict: "JSON",
    list: "JSON",
    tuple: "JSON",
    set: "JSON",
}
SEQUENCES = (
    list, set, frozenset, collections.abc.Sequence, collections.abc.Set, collections.abc.Collection,
    collections.abc.Iterable, collections.abc.MutableSequence,
)  # fmt: skip
ITERATORS = (
    collections.abc.Iterator, collections.abc.Generator,
    collections.abc.AsyncIterator, collections.abc.AsyncIterable, collections.abc.AsyncGenerator,
)  # fmt: skip
MAPPINGS = (dict, collections.abc.Mapping, collections.abc.MutableMapping)
_KNOWN = (
    "Known: bool, int, float, str, bytes, Decimal, date, datetime, time, timedelta, UUID, Literal, Enum, list[T], "
    "dict[str, T], T | None, dataclass, TypedDict, NamedTuple, a pydantic model, Any."
)


class ToolSignature(NamedTuple):
    """What a function's hints say of the tool it makes; the fields of ``ToolDef`` with these names."""

    parameters: tuple[Parameter, ...]
    returns: str
    columns: tuple[tuple[str, str], ...]


def signature_of(function: Callable[..., Any]) -> ToolSignature:
    """The arguments and the result of a function as SQL; InterfaceError names the argument and the remedy.

    A result that is a list or iterator of dataclasses, TypedDicts, NamedTuples or pydantic models is a table.
    """
    name = getattr(function, "__name__", type(function).__name__)
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        raise InterfaceError(
            f'"{name}" does not say which arguments it takes', remedy="Wrap it in a function with type hints."
        ) from None
    hints = resolved_hints(function)
    found = []
    for parameter in parameters:
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise InterfaceError(
                f'function "{name}" takes any number of arguments (*{parameter.name})',
                remedy="Give every argument a name and a type hint.",
            )
        if parameter.name not in hints:
            raise InterfaceError(
                f'argument "{parameter.name}" of function "{name}" has no type hint',
                remedy=f"Write one, like {parameter.name}: str.",
            )
        text = type_text(hints[parameter.name], f'argument "{parameter.name}" of function "{name}"')
        default = None
        if parameter.default is not parameter.empty:
            default = _default(parameter.default, text, f'argument "{parameter.name}" of function "{name}"')
        found.append(Parameter(parameter.name, text, default))
    found.sort(key=lambda item: item.default is not None)  # keyword-only ones may stand in any order
    if "return" not in hints:
        raise InterfaceError(f'function "{name}" has no return type hint', remedy="Write one, like -> str.")
    where = f'the result of function "{name}"'
    hint = _awaited(hints["return"])
    item = item_of(hint)
    columns = None if item is None else members_of(item)
    if columns:
        return ToolSignature(
            tuple(found),
            "",
            tuple((column, type_text(member, f'column "{column}" of {where}')) for column, member in columns.items()),
        )
    return ToolSignature(tuple(found), type_text(hint, where), ())


def resolved_hints(function: Callable[..., Any], strict: bool = True) -> dict[str, Any]:
    """Argument name (and 'return') -> hint. ``strict``: InterfaceError for one that cannot be resolved, else {}."""
    found: Any = function
    while isinstance(found, functools.partial):
        found = found.func
    found = inspect.unwrap(found)
    if not (inspect.isfunction(found) or inspect.ismethod(found) or inspect.isbuiltin(found)):
        found = getattr(found, "__call__", found)  # noqa: B004 - an object that can be called
    try:
        local = dict(inspect.getclosurevars(found).nonlocals)
    except (TypeError, ValueError):
        local = {}
    try:
        return typing.get_type_hints(found, localns=local or None, include_extras=False)
    except Exception as problem:  # evaluating a hint runs the user's text
        if not strict:
            return {}
        raise InterfaceError(
            f'the type hints of function "{getattr(function, "__name__", function)}" cannot be resolved: {problem}',
            remedy="Define the types they name at the top of the module.",
        ) from None


def type_text(hint: Any, where: str, depth: int = 0) -> str:
    """The DuckDB type of a hint; InterfaceError that begins with ``where`` for a hint that has none."""
    if depth > MAX_DEPTH:
        raise InterfaceError(f"{where} is nested more than {MAX_DEPTH} levels deep", remedy="Use Any for a part of it.")
    hint = plain(hint)
    try:
        if hint in SCALARS:
            return SCALARS[hint]
    except TypeError:  # not hashable
        raise _unknown(hint, where) from None
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if isinstance(hint, typing.TypeVar):
        return "JSON"
    if origin is typing.Literal:
        return _values_type(arguments)
    if origin in (typing.Union, types.UnionType):
        return _union_type([arm for arm in arguments if arm is not type(None)], where, depth)
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return _values_type([member.value for member in hint])
    members = members_of(hint)
    if members is not None:
        if not members:
            return "JSON"
        inner = (f"{quote(name)} {type_text(member, where, depth + 1)}" for name, member in members.items())
        return f"STRUCT({', '.join(inner)})"
    item = item_of(hint)
    if item is not None:
        return type_text(item, where, depth + 1) + "[]"
    if origin in MAPPINGS and len(arguments) == 2:
        key = type_text(arguments[0], where, depth + 1)
        return f"MAP({key}, {type_text(arguments[1], where, depth + 1)})"
    if origin is tuple or hint in MAPPINGS or hint in SEQUENCES or hint in ITERATORS:
        return "JSON"
    raise _unknown(hint, where)


def plain(hint: Any) -> Any:
    """A hint without Annotated, Required, NotRequired, NewType and aliases."""
    while True:
        if typing.get_origin(hint) in (typing.Annotated, typing.Required, typing.NotRequired, typing.Final):
            hint = typing.get_args(hint)[0]
        elif isinstance(hint, typing.NewType):
            hint = hint.__supertype__
        elif type(hint).__name__ == "TypeAliasType":
            hint = hint.__value__
        else:
            return hint


def members_of(hint: Any) -> dict[str, Any] | None:
    """Field -> hint of a dataclass, TypedDict, NamedTuple or pydantic model; None for anything else."""
    hint = plain(hint)
    if not isinstance(hint, type):
        return None
    fields = getattr(hint, "model_fields", None)
    if isinstance(fields, dict):
        return {name: field.annotation for name, field in fields.items()}
    if dataclasses.is_dataclass(hint):
        names = [field.name for field in dataclasses.fields(hint) if field.init]
    elif typing.is_typeddict(hint):
        names = list(hint.__annotations__)
    elif issubclass(hint, tuple) and hasattr(hint, "_fields"):
        names = list(hint._fields)
    else:
        return None
    try:
        hints = typing.get_type_hints(hint)
    except Exception:  # a name that cannot be resolved: its fields hold anything
        hints = {}
    return {name: hints.get(name, Any) for name in names}


def item_of(hint: Any) -> Any:
    """The hint of the items of a list, set, tuple[T, ...] or iterator; None for anything else."""
    hint = plain(hint)
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is tuple:
        return arguments[0] if len(arguments) == 2 and arguments[1] is Ellipsis else None
    return arguments[0] if origin in (*SEQUENCES, *ITERATORS) and arguments else None


def _awaited(hint: Any) -> Any:
    hint = plain(hint)
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    return arguments[-1] if origin in (collections.abc.Awaitable, collections.abc.Coroutine) and arguments else hint


def _values_type(values: Any) -> str:
    kinds = {type(value) for value in values if value is not None}
    if kinds == {str}:
        return f"ENUM({', '.join(literal(value) for value in dict.fromkeys(values) if value is not None)})"
    return SCALARS.get(next(iter(kinds)), "JSON") if len(kinds) == 1 else "JSON"


def _union_type(arms: list[Any], where: str, depth: int) -> str:
    found = list(dict.fromkeys(type_text(arm, where, depth + 1) for arm in arms))
    if len(found) == 1:
        return found[0]
    return "DOUBLE" if set(found) == {"BIGINT", "DOUBLE"} else "JSON"


def _unknown(hint: Any, where: str) -> InterfaceError:
    return InterfaceError(f"{where} has the type hint {hint!r}, for which there is no SQL type", remedy=_KNOWN)


def _default(value: Any, text: str, where: str) -> str:
    """A default as a SQL expression."""
    if isinstance(value, enum.Enum):
        value = value.value
    if value is None:
        return "NULL"
    if text == "JSON" or isinstance(value, list | tuple | dict) or dataclasses.is_dataclass(value):
        return f"CAST({literal(_json(value, where))}::JSON AS {text})"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | Decimal) or (isinstance(value, float) and math.isfinite(value)):
        return str(value)
    if isinstance(value, bytes):
        return literal("".join(f"\\x{byte:02X}" for byte in value)) + "::BLOB"
    if isinstance(value, datetime.timedelta):
        return f"INTERVAL {literal(interval_text(value))}"
    if isinstance(value, str | float | datetime.date | datetime.time | uuid.UUID):
        return literal(str(value)) + ("" if isinstance(value, str) else f"::{text}")
    raise _bad_default(where)


def _json(value: Any, where: str) -> str:
    try:
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            known = members_of(type(value)) or {}
            value = {name: item for name, item in dataclasses.asdict(value).items() if name in known}
        return json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        raise _bad_default(where) from None


def _bad_default(where: str) -> InterfaceError:
    return InterfaceError(f"the default of {where} cannot be written in SQL", remedy="Use None, or a plain constant.")


def interval_text(value: datetime.timedelta) -> str:
    """A timedelta as DuckDB writes an INTERVAL: '2 days 03:00:00.5'."""
    total = value // datetime.timedelta(microseconds=1)
    sign, total = ("-", -total) if total < 0 else ("", total)
    seconds, micros = divmod(total, 1_000_000)
    days, seconds = divmod(seconds, 86_400)
    clock = f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"
    clock += f".{micros:06}".rstrip("0") if micros else ""
    parts = [f"{sign}{days} day{'' if days == 1 else 's'}"] if days else []
    if seconds or micros or not days:
        parts.append(sign + clock)
    return " ".join(parts)
