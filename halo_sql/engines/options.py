"""WITH (…) options of engines: names, types and ranges, checked when a model is created."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from halo_sql.errors import CatalogError, did_you_mean


@dataclass(frozen=True, slots=True)
class Option:
    """One option of an engine.

    kind     'text' | 'integer' | 'number' | 'boolean' | 'object' (a mapping, or a JSON text of one)
    default  value when the option is not given; None: not set
    minimum, maximum  allowed range of numbers, ends included
    choices  allowed texts; empty: any
    """

    name: str
    kind: str
    default: Any
    help: str
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] = ()


def resolve(engine: str, options: Mapping[str, object], known: Sequence[Option]) -> dict[str, Any]:
    """All options of an engine with their checked values, defaults filled in.

    Raises CatalogError that names the option, what it takes and, for an unknown one, the nearest known name.
    Values are never quoted in errors: they may be secrets.
    """
    by_name = {option.name: option for option in known}
    for name in options:
        if name.lower() not in by_name:
            remedy = did_you_mean(name, list(by_name)) or "It takes no options."
            raise CatalogError(f'engine {engine} has no option "{name}"', remedy=remedy)
    given = {name.lower(): value for name, value in options.items()}
    return {
        option.name: _checked(engine, option, given[option.name]) if option.name in given else option.default
        for option in known
    }


def _checked(engine: str, option: Option, value: object) -> Any:
    try:
        return checked(option, value)
    except ValueError:
        raise CatalogError(
            f'option "{option.name}" of engine {engine} has a wrong value', remedy=takes(option)
        ) from None


def checked(option: Option, value: object) -> Any:
    """The value in its final form; ValueError when it is not one of the option's."""
    if option.kind == "text" and isinstance(value, str):
        if not option.choices or value.lower() in option.choices:
            return value.lower() if option.choices else value
    elif option.kind == "boolean":
        if isinstance(value, bool):
            return value
        if isinstance(value, str) and value.lower() in ("true", "false"):
            return value.lower() == "true"
    elif option.kind == "object":
        found = _mapping(value)
        if found is not None:
            return found
    elif option.kind in ("integer", "number"):
        number = _number(value, option.kind)
        low = -math.inf if option.minimum is None else option.minimum
        if number is not None and low <= number <= (math.inf if option.maximum is None else option.maximum):
            return number
    raise ValueError(option.name)


def _number(value: object, kind: str) -> float | int | None:
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    if not math.isfinite(number):
        return None
    if kind == "number":
        return number
    return int(value) if value == int(value) else None


def _mapping(value: Any) -> dict[str, Any] | None:
    try:
        found = json.loads(value if isinstance(value, str) else json.dumps(value, default=float, allow_nan=False))
    except (ValueError, TypeError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def takes(option: Option) -> str:
    """What it takes, a sentence."""
    if option.choices:
        return "It takes " + " or ".join(f"'{choice}'" for choice in option.choices) + "."
    if option.kind == "object":
        return "It takes an object, e.g. {'key': 'value'}, or its JSON text."
    if option.kind in ("text", "boolean"):
        return "It takes a text." if option.kind == "text" else "It takes true or false."
    noun = "an integer" if option.kind == "integer" else "a number"
    low = "" if option.minimum is None else f" of at least {option.minimum:g}"
    high = "" if option.maximum is None else f"{' and' if low else ' of'} at most {option.maximum:g}"
    return f"It takes {noun}{low}{high}."
