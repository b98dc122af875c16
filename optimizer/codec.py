"""Plans and optimizer contexts as text, and back: a table of one object per line, parts before wholes.

Values are JSON: tuples are arrays, ``{"at": n}`` is the object on line n, ``{"map": [[key, value], …]}`` a mapping in
its order, ``{"set": […]}`` a frozen set, ``{"float": "inf"}`` what JSON has no number for. An object that several hold
is written once and is one object again when it is read. Only the classes of ``CLASSES`` are made, with values of their
fields' types; nothing is executed. Neither direction recurses along the plan.
"""

from __future__ import annotations

import json
import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING, fields
from functools import cache
from types import NoneType, UnionType
from typing import Any, NewType, Union, get_args, get_origin, get_type_hints

from halo_sql.errors import Span
from halo_sql.ir import expr, logical, prompt, static_tok, types
from halo_sql.optimizer import context
from halo_sql.optimizer.samples import ObjectSample, Values

#: Nodes that hold plans: their identity is kept, since two readings of one plan are one computation.
PLANS: tuple[type[Any], ...] = (
    *(logical.Fragment, logical.Filter, logical.Project, logical.Join, logical.Sort, logical.Limit),
    *(logical.Distinct, logical.CteScan, logical.LlmMap, logical.LlmReduce, logical.ToolApply, logical.AgentApply),
    *(logical.LlmFilter, logical.LlmTopK, logical.Demand, logical.Sink),
)
#: Objects without an identity: equal ones are written once.
PARTS: tuple[type[Any], ...] = (
    *(Span, types.SqlType, expr.Column, expr.ColumnRef, expr.ScopeTable, expr.SqlExpr),
    *(prompt.Hole, prompt.ObjectHole, prompt.ItemsHole, prompt.Prompt, prompt.Sampling, prompt.LlmCall),
    *(logical.InputRef, logical.SortKey, logical.CallText, logical.GoOn, logical.Ask),
    *(context.ColumnStats, context.InputKey, context.InputStats, context.FragmentStats, context.EngineProfile),
    *(
        context.WorkerProfile,
        context.CallProfile,
        context.ToolProfile,
        context.Limits,
        context.OptimizerContext,
        static_tok.StaticTok,
        Values,
        ObjectSample,
    ),
)
CLASSES: Mapping[str, type[Any]] = {known.__name__: known for known in (*PLANS, *PARTS)}


class DamagedError(ValueError):
    """The text is no table of ours, or one of another version."""


def json_text(value: object) -> str:
    """JSON in one line; characters that UTF-8 has no form for as ``\\udxxx``."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(value, allow_nan=False)
    return text


def encode(*roots: object) -> tuple[list[str], list[int]]:
    """The table's lines, and on which lines the roots are. Equal roots of equal sharing give equal lines."""
    lines: list[str] = []
    places: dict[int, int] = {}  # by identity
    texts: dict[str, int] = {}
    stack: list[object] = list(reversed(roots))
    while stack:
        top = stack[-1]
        waiting = [part for part in _parts(top) if id(part) not in places]
        if id(top) in places or not waiting:
            stack.pop()
            if id(top) not in places:
                line = _line(top, places)
                place = texts.get(line) if isinstance(top, PARTS) else None
                if place is None:
                    place = len(lines)
                    lines.append(line)
                    texts.setdefault(line, place)
                places[id(top)] = place
        stack += reversed(waiting)
    return lines, [places[id(root)] for root in roots]


def _parts(whole: object) -> list[object]:
    """The objects that an object's fields hold, in order."""
    found: list[object] = []
    values = deque(value for _, value in _held(whole))
    while values:
        value = values.popleft()
        if isinstance(value, tuple):
            values.extendleft(reversed(value))
        elif isinstance(value, Mapping):
            values.extendleft(part for pair in reversed(list(value.items())) for part in reversed(pair))
        elif type(value).__name__ in CLASSES:
            found.append(value)
    return found


def _held(whole: object) -> Iterator[tuple[str, Any]]:
    name = type(whole).__name__
    assert CLASSES.get(name) is type(whole), f"{name} is not in CLASSES"
    return ((field, getattr(whole, field)) for field in _hints(name))


def _line(whole: object, places: Mapping[int, int]) -> str:
    return json_text([type(whole).__name__, {name: _value(value, places) for name, value in _held(whole)}])


def _value(value: Any, places: Mapping[int, int]) -> object:
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": repr(value)}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, tuple):
        return [_value(item, places) for item in value]
    if isinstance(value, frozenset):
        return {"set": sorted(value)}
    if isinstance(value, Mapping):
        return {"map": [[_value(key, places), _value(item, places)] for key, item in value.items()]}
    return {"at": places[id(value)]}


def decode(lines: Sequence[Any]) -> list[Any]:
    """The objects of a table, given as parsed lines; DamagedError says which line is wrong."""
    made: list[Any] = []
    for number, line in enumerate(lines):
        try:
            name, given = line
            made.append(_object(name, given, made))
        except DamagedError as problem:
            raise DamagedError(f"object {number}: {problem}") from None
        except (AssertionError, IndexError, KeyError, OverflowError, TypeError, ValueError) as problem:
            raise DamagedError(f"object {number}: {problem or type(problem).__name__}") from None
    return made


def _object(name: str, given: Mapping[str, Any], made: Sequence[Any]) -> Any:
    known = CLASSES.get(name)
    if known is None:
        raise DamagedError(f"no class {name!r}")
    hints, defaults = _hints(name), _defaults(name)
    for unknown in given.keys() - hints.keys():
        raise DamagedError(f"{name} has no field {unknown!r}")
    for missing in hints.keys() - given.keys() - defaults:
        raise DamagedError(f"{name} without its field {missing!r}")
    values = {field: _read(value, made) for field, value in given.items()}
    for field, value in values.items():
        if not fits(value, hints[field]):
            raise DamagedError(f"{name}.{field} cannot be {type(value).__name__} {str(given[field])[:80]}")
    if known is ObjectSample:
        own = dict(zip(values["names"], values["values"], strict=True))
        return ObjectSample(own, values["before"], values["after_chars"])
    return known(**values)


def _read(value: Any, made: Sequence[Any]) -> Any:
    if isinstance(value, list):
        return tuple(_read(item, made) for item in value)
    if not isinstance(value, dict):
        return value
    (kind, held), *rest = value.items()
    if not rest and kind == "at" and 0 <= held < len(made):
        return made[held]
    if not rest and kind == "map":
        return {_read(key, made): _read(item, made) for key, item in held}
    if not rest and kind == "set":
        return frozenset(_read(item, made) for item in held)
    if not rest and kind == "float":
        return float(held)
    raise DamagedError(f"cannot read {str(value)[:80]}")


@cache
def _hints(name: str) -> dict[str, Any]:
    """Field -> type, in order."""
    known = CLASSES[name]
    if known is ObjectSample:
        values = tuple[Values | None, ...]
        return {"names": tuple[str, ...], "values": values, "before": tuple[int, ...], "after_chars": float}
    hints = get_type_hints(known)
    return {field.name: hints[field.name] for field in fields(known)}


@cache
def _defaults(name: str) -> frozenset[str]:
    """Fields that an older version may not have written."""
    known = CLASSES[name]
    if known is ObjectSample:
        return frozenset()
    own = fields(known)
    return frozenset(
        field.name for field in own if field.default is not MISSING or field.default_factory is not MISSING
    )


def fits(value: Any, hint: Any) -> bool:
    """Whether a value is of an annotated type; whole numbers are floats, too."""
    return _checker(hint)(value)


@cache
def _checker(hint: Any) -> Callable[[Any], bool]:
    if isinstance(hint, NewType):
        return _checker(hint.__supertype__)
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return lambda value: any(fits(value, one) for one in inner)
    if origin is tuple and inner[-1] is ...:
        return lambda value: isinstance(value, tuple) and all(fits(item, inner[0]) for item in value)
    if origin is tuple:
        return lambda value: isinstance(value, tuple) and len(value) == len(inner) and all(map(fits, value, inner))
    if origin is frozenset:
        return lambda value: isinstance(value, frozenset) and all(fits(item, inner[0]) for item in value)
    if origin is not None and issubclass(origin, Mapping):
        return lambda value: (
            isinstance(value, Mapping)
            and all(fits(key, inner[0]) and fits(own, inner[1]) for key, own in value.items())
        )
    if hint in (None, NoneType):
        return lambda value: value is None
    if hint is int:
        return lambda value: isinstance(value, int) and not isinstance(value, bool)
    if hint is float:
        return lambda value: isinstance(value, int | float) and not isinstance(value, bool)
    return lambda value: isinstance(value, hint)
