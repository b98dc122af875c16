"""The named options of LLM operators: names, types, ranges, defaults."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from halo_sql.grammar.labels import read_labels

ON_ERROR = ("fail", "null", "struct")


@dataclass(frozen=True, slots=True)
class Option:
    """One option.

    takes  what a value must be, in words
    check  value -> the value in its final form; ValueError when it is not allowed
    hint   how to give a value that is no constant
    """

    takes: str
    check: Callable[[Any], Any]
    hint: str = ""


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError
    return value


def _number(low: float, high: float) -> Callable[[Any], float]:
    def check(value: Any) -> float:
        if isinstance(value, bool) or not low <= float(value) <= high:
            raise ValueError
        return float(value)

    return check


def _share(value: Any) -> float:
    if isinstance(value, bool) or not 0.0 < float(value) < 1.0:
        raise ValueError
    return float(value)


def _integer(low: int, high: int) -> Callable[[Any], int]:
    def check(value: Any) -> int:
        if isinstance(value, bool) or int(value) != value or not low <= value <= high:
            raise ValueError
        return int(value)

    return check


def _boolean(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError
    return value


def _stops(value: Any) -> tuple[str, ...]:
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, list) or not all(isinstance(item, str) and item for item in values):
        raise ValueError
    return tuple(values)


def _on_error(value: Any) -> str:
    if not isinstance(value, str) or value.lower() not in ON_ERROR:
        raise ValueError
    return value.lower()


def _method(value: Any) -> str:
    if not isinstance(value, str) or value.lower() not in ("score", "tournament"):
        raise ValueError
    return value.lower()


def _examples(value: Any) -> tuple[tuple[str, str], ...]:
    if not isinstance(value, list) or not all(isinstance(item, dict) and len(item) == 2 for item in value):
        raise ValueError
    return tuple((str(first), str(second)) for first, second in (item.values() for item in value))


OPTIONS: Mapping[str, Option] = {
    "model": Option("the name of a model", _text),
    "system": Option("a text", _text),
    "returns": Option("a DuckDB type as text, like 'INTEGER' or 'STRUCT(a VARCHAR)'", _text),
    "temperature": Option("a number from 0 to 2", _number(0, 2)),
    "top_p": Option("a number above 0, up to 1", _number(1e-9, 1)),
    "max_tokens": Option("an integer from 1 to 1000000", _integer(1, 1_000_000)),
    "seed": Option("an integer", _integer(-(2**63), 2**63 - 1)),
    "stop": Option("a text or a list of texts", _stops),
    "examples": Option("a list of structs like {'input': 'good', 'output': 'yes'}", _examples),
    "on_error": Option("'fail', 'null' or 'struct'", _on_error),
    "cache": Option("true or false", _boolean),
    "priority": Option("an integer from -1000 to 1000", _integer(-1000, 1000)),
    "labels": Option(
        "a list of texts, or of structs like {'label': 'bug', 'description': 'something is broken'}",
        read_labels,
        "Labels from a table: SET VARIABLE labels = (SELECT list(label) FROM t), then getvariable('labels').",
    ),
    "separator": Option("a text", _text),
    "fan_in": Option("an integer from 2 to 1000000", _integer(2, 1_000_000)),
    "method": Option("'score' or 'tournament'", _method),
    "multi": Option("true or false", _boolean),
    "quality": Option("a number above 0 and below 1", _share),
    "proxy": Option("the name of a model", _text),
    "fuse": Option("true or false", _boolean),
}
