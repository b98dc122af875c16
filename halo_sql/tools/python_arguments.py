"""From the JSON of a tool's arguments to the Python values a function takes: by SQL type, then by type hint."""

from __future__ import annotations

import collections.abc
import datetime
import enum
import inspect
import json
import re
import types
import typing
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from decimal import Decimal, InvalidOperation
from typing import Any

from halo_sql.ir.types import INTEGER_RANGES, SqlType
from halo_sql.tools.hints import MAPPINGS, item_of, members_of, plain

_CLOCKS: dict[str, Callable[[str], Any]] = {
    "date": datetime.date.fromisoformat,
    "time": datetime.time.fromisoformat,
    "time_ns": datetime.time.fromisoformat,
    "time with time zone": datetime.time.fromisoformat,
    **dict.fromkeys(
        ("timestamp", "timestamp_s", "timestamp_ms", "timestamp_ns", "timestamp with time zone"),
        datetime.datetime.fromisoformat,
    ),
    "uuid": uuid.UUID,
}
_INTERVAL = re.compile(
    r"(?:(-?\d+) years? ?)?(?:(-?\d+) months? ?)?(?:(-?\d+) days? ?)?(?:(-?)(\d+):(\d\d):(\d\d)(?:\.(\d{1,6}))?)?"
)
_BLOB = re.compile(r"\\x([0-9A-Fa-f]{2})")


class WrongArgumentError(ValueError):
    """An argument that a function cannot take; the text names it, not its value."""


def read_arguments(text: str, parameters: Sequence[tuple[str, SqlType]], hints: Mapping[str, Any]) -> dict[str, Any]:
    """Parameter name -> Python value, for every parameter."""
    try:
        given = json.loads(text, parse_float=Decimal)
    except (ValueError, RecursionError):
        given = None
    if not isinstance(given, dict):
        raise WrongArgumentError("the arguments are no JSON object")
    lowered = {name.lower(): hint for name, hint in hints.items()}
    found = {}
    for name, sql_type in parameters:
        try:
            value = from_json(given.get(name), sql_type)
            hint = hints.get(name, lowered.get(name.lower(), Any))
            found[name] = value if value is None else fit(value, hint)
        except (ValueError, TypeError, InvalidOperation, OverflowError) as problem:
            raise WrongArgumentError(f'argument "{name}": {problem}') from None
    return found


def from_json(value: Any, sql_type: SqlType) -> Any:
    """The natural Python value of a JSON value (read with ``parse_float=Decimal``) of a SQL type."""
    kind = sql_type.kind
    if value is None:
        return None
    if kind in INTEGER_RANGES or kind == "bignum":
        return int(value)
    if kind in ("float", "double"):
        return float(value)
    if kind == "decimal":
        return Decimal(value)
    if kind in _CLOCKS:
        with suppress(ValueError, TypeError, AttributeError):  # years Python has not, infinity: stays a text
            return _CLOCKS[kind](value)
        return value
    if kind == "interval" and isinstance(value, str):
        return _interval(value)
    if kind == "blob" and isinstance(value, str):
        return _BLOB.sub(lambda found: chr(int(found[1], 16)), value).encode("latin-1")
    if kind == "struct" and isinstance(value, dict):
        return {name: from_json(value.get(name), member) for name, member in sql_type.fields}
    if kind in ("list", "array") and isinstance(value, list):
        return [from_json(item, sql_type.fields[0][1]) for item in value]
    if kind == "map" and isinstance(value, dict):
        (_, key_type), (_, value_type) = sql_type.fields
        return {_key(key, key_type): from_json(item, value_type) for key, item in value.items()}
    return _plain_json(value)


def _key(text: str, sql_type: SqlType) -> Any:
    return text.lower() == "true" if sql_type.kind == "boolean" else from_json(text, sql_type)


def _plain_json(value: Any) -> Any:
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, list):
        return [_plain_json(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain_json(item) for key, item in value.items()}
    return value


def _interval(text: str) -> Any:
    found = _INTERVAL.fullmatch(text)
    if found is None:
        return text
    years, months, days = (int(part or 0) for part in found.groups()[:3])
    sign, hours, minutes, seconds, fraction = found.groups()[3:]
    clock = datetime.timedelta(
        hours=int(hours or 0), minutes=int(minutes or 0), seconds=int(seconds or 0),
        microseconds=int((fraction or "0").ljust(6, "0")),
    )  # fmt: skip
    whole = datetime.timedelta(days=360 * years + 30 * months + days)  # a month has 30 days, as for DuckDB
    return whole - clock if sign else whole + clock


def fit(value: Any, hint: Any) -> Any:
    """The value as a hint wants it; ValueError when it cannot be that. Hints that say nothing change nothing."""
    hint = plain(hint)
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return _fit_union(value, arguments)
    if value is None or hint in (Any, object, inspect.Parameter.empty):
        return value
    if origin is typing.Literal:
        if value not in arguments:
            raise ValueError("it is none of the values of its Literal hint")
        return value
    item = item_of(hint)
    if item is not None and isinstance(value, list):
        items = [fit(element, item) for element in value]
        kept = {set: set, frozenset: frozenset, tuple: tuple, collections.abc.Set: set}.get(origin)
        return items if kept is None else kept(items)
    if origin is tuple and isinstance(value, list) and len(arguments) == len(value):
        return tuple(fit(element, wanted) for element, wanted in zip(value, arguments, strict=True))
    if origin in MAPPINGS and len(arguments) == 2 and isinstance(value, dict):
        return {fit(key, arguments[0]): fit(element, arguments[1]) for key, element in value.items()}
    if not isinstance(hint, type) or origin is not None:
        return value
    if hint in (tuple, set, frozenset) and isinstance(value, list):
        return hint(value)
    return _fit_class(value, hint)


def _fit_union(value: Any, arms: Sequence[Any]) -> Any:
    arms = [plain(arm) for arm in arms if arm is not type(None)]
    if value is None:
        return None
    for arm in arms:
        if isinstance(arm, type) and typing.get_origin(arm) is None and type(value) is arm:
            return value
    for arm in arms:
        with suppress(ValueError, TypeError, InvalidOperation, OverflowError):
            return fit(value, arm)
    raise ValueError(f"a {type(value).__name__} fits none of its hints")


def _fit_class(value: Any, wanted: type[Any]) -> Any:
    if typing.is_typeddict(wanted):
        known = members_of(wanted) or {}
        return {name: fit(item, known.get(name, Any)) for name, item in value.items()} if known else value
    if issubclass(wanted, enum.Enum):
        return wanted(value)
    if isinstance(value, dict) and hasattr(wanted, "model_validate"):
        return _validated(value, wanted)
    members = members_of(wanted)
    if members is not None and isinstance(value, dict):
        return wanted(**{name: fit(item, members.get(name, Any)) for name, item in value.items()})
    if wanted is datetime.datetime and type(value) is datetime.date:
        return datetime.datetime.combine(value, datetime.time())
    if isinstance(value, wanted):
        return value
    convert = _CONVERSIONS.get((type(value), wanted))
    if convert is not None:
        return convert(value)
    if wanted in _SCALARS:
        raise ValueError(f"the function takes {wanted.__name__}, the tool gives {type(value).__name__}")
    return value  # a class of the user's that nothing is known of


def _validated(value: dict[str, Any], model: Any) -> Any:
    try:
        return model.model_validate(value)
    except ValueError as problem:
        found = getattr(problem, "errors", None)
        told = found(include_input=False, include_url=False) if callable(found) else []
        said = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in told)
        raise ValueError(said or "it does not fit its model") from None


def _whole(value: Any) -> int:
    if value != int(value):
        raise ValueError("the function takes int, the value has a fraction")
    return int(value)


def _iso(value: Any) -> str:
    return value.isoformat(sep=" ") if isinstance(value, datetime.datetime) else str(value)


_SCALARS = (
    bool, int, float, str, bytes, Decimal,
    datetime.date, datetime.datetime, datetime.time, datetime.timedelta, uuid.UUID,
)  # fmt: skip
_CONVERSIONS: dict[tuple[type, type], Callable[[Any], Any]] = {
    (int, float): float,
    (Decimal, float): float,
    (Decimal, int): _whole,
    (float, int): _whole,
    (int, Decimal): Decimal,
    (float, Decimal): lambda value: Decimal(str(value)),
    (str, bytes): str.encode,
    (bytes, bytearray): bytearray,
    (str, uuid.UUID): uuid.UUID,
    (str, Decimal): Decimal,
    (str, datetime.date): datetime.date.fromisoformat,
    (str, datetime.datetime): datetime.datetime.fromisoformat,
    (str, datetime.time): datetime.time.fromisoformat,
    (uuid.UUID, str): str,
    (Decimal, str): str,
    (datetime.date, str): _iso,
    (datetime.datetime, str): _iso,
    (datetime.time, str): _iso,
}


Shape = Sequence[inspect.Parameter]


def shape_of(function: Callable[..., Any]) -> Shape | None:
    """The arguments that a function takes; None when it does not tell, as some builtins."""
    try:
        return tuple(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        return None


def bind(parameters: Shape | None, values: Mapping[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """Positional and named arguments of a call; names ignore case. WrongArgumentError for one it does not take."""
    if parameters is None:
        return list(values.values()), {}
    left = dict(values)
    positional: list[Any] = []
    named: dict[str, Any] = {}
    open_ended = False
    for parameter in parameters:
        if parameter.kind is parameter.VAR_KEYWORD:
            open_ended = True
            continue
        if parameter.kind is parameter.VAR_POSITIONAL:
            continue
        key = parameter.name if parameter.name in left else _same_name(parameter.name, left)
        if key is None:
            if parameter.default is parameter.empty:
                raise WrongArgumentError(f'the function needs the argument "{parameter.name}", which the tool has not')
        elif parameter.kind is parameter.POSITIONAL_ONLY:
            positional.append(left.pop(key))
        else:
            named[parameter.name] = left.pop(key)
    if left and not open_ended:
        raise WrongArgumentError(f'the function takes no argument "{next(iter(left))}"')
    return positional, named | left


def _same_name(name: str, known: Mapping[str, Any]) -> str | None:
    return next((key for key in known if key.lower() == name.lower()), None)
