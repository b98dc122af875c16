"""A small JSON path: ``$.items[0].name``, ``$['a b']``, ``$[-1]``, ``$.items[*].id``, ``$.*``."""

from __future__ import annotations

import re
from typing import Any

from halo_sql.errors import CatalogError, Span

_WILD = object()
_STEP = re.compile(
    r"""\.(?P<name>[^\W\d][\w$-]*|\d+)|\.(?P<wild>\*)|\."(?P<quoted>(?:[^"\\]|\\.)*)"
    |\[\s*(?:(?P<index>-?\d{1,9})|(?P<all>\*)|'(?P<single>(?:[^'\\]|\\.)*)'|"(?P<double>(?:[^"\\]|\\.)*)")\s*\]""",
    re.VERBOSE | re.DOTALL,
)
MAX_STEPS = 100


class JsonPath:
    """A path into a JSON value. What is not there is None.

    With ``*`` the result is a list of all that is found, in order: elements of an array, members of an object.
    """

    def __init__(self, text: str) -> None:
        """CatalogError, with the position in the path, when it cannot be read."""
        self.text = text
        self._steps: list[Any] = []  # a member's name, an index, or _WILD
        written = text.strip()
        if not written.startswith("$"):
            raise _unreadable(text, 0, "does not begin with $")
        at = 1
        while at < len(written):
            step = _STEP.match(written, at)
            if step is None:
                raise _unreadable(written, at, f"cannot be read from {written[at : at + 20]!r} on")
            self._steps.append(_step(step))
            at = step.end()
        if len(self._steps) > MAX_STEPS:
            raise _unreadable(written, 0, f"has more than {MAX_STEPS} steps")
        self._many = any(step is _WILD for step in self._steps)

    def pick(self, value: Any) -> Any:
        """What the path leads to in a parsed JSON value."""
        found = [value]
        for step in self._steps:
            if step is _WILD:
                found = [member for node in found for member in _members(node)]
            else:
                found = [node[step] for node in found if _has(node, step)]
        if self._many:
            return found
        return found[0] if found else None


def _step(found: re.Match[str]) -> Any:
    if found["wild"] or found["all"]:
        return _WILD
    if found["index"] is not None:
        return int(found["index"])
    if found["name"] is not None:
        return found["name"]
    quoted = next(text for text in (found["quoted"], found["single"], found["double"]) if text is not None)
    return re.sub(r"\\(.)", r"\1", quoted, flags=re.DOTALL)


def _members(node: Any) -> list[Any]:
    if isinstance(node, dict):
        return list(node.values())
    return node if isinstance(node, list) else []


def _has(node: Any, step: str | int) -> bool:
    if isinstance(step, str):
        return isinstance(node, dict) and step in node
    return isinstance(node, list) and -len(node) <= step < len(node)


def _unreadable(text: str, at: int, what: str) -> CatalogError:
    return CatalogError(
        f"the JSON path {what}",
        sql=text,
        span=Span(at, at + 1),
        remedy="Write a path like '$.items[0].name', '$[''a b'']' or '$.items[*].id'.",
    )
