"""Arguments that a model wrote: held to the tool's closed schema, and spelled in one way whatever way it wrote them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from halo_sql.agents.protocol import AgentTool
from halo_sql.agents.strict_json import one_line, read_json, write_json
from halo_sql.errors import EngineError


class Arguments:
    """The arguments of one tool. Raises EngineError('unavailable') when its schema is none."""

    def __init__(self, tool: AgentTool) -> None:
        try:
            schema = read_json(tool.schema)
            self._validator = _validator(schema)
        except ValueError as problem:
            raise EngineError(
                f'the arguments of tool "{tool.name}" have no valid schema: {one_line(str(problem))}',
                code="unavailable",
                remedy="Create the tool again.",
            ) from None
        self._properties: Mapping[str, Any] = schema.get("properties", {})
        self._required = frozenset(schema.get("required", ()))
        self._fill = {name: tool.fill.get(name, "null") for name in self._properties}
        self._heads = {name: write_json(name) + ":" for name in self._properties}

    def canonical(self, given: object) -> tuple[str, str]:
        """(JSON object with a member for every parameter, in order, '') or ('', what is wrong, one line).

        A null for a parameter that may be left out counts as left out.
        """
        if not isinstance(given, dict):
            return "", "the arguments must be a JSON object"
        unknown = [name for name in given if name not in self._properties]
        if unknown:
            known = ", ".join(self._properties) or "none"
            return "", f'there is no argument "{one_line(unknown[0], 60)}"; the arguments are: {known}'
        given = {name: self._plain(name, value) for name, value in given.items() if not self._left_out(name, value)}
        problem = self._problem(given)
        if problem:
            return "", problem
        members = [
            head + (write_json(given[name]) if name in given else self._fill[name])
            for name, head in self._heads.items()
        ]
        return "{" + ",".join(members) + "}", ""

    def _left_out(self, name: str, value: object) -> bool:
        return value is None and name not in self._required

    def _plain(self, name: str, value: object) -> object:
        """1.0 as 1 where a whole number is asked for: equal calls are spelled alike."""
        if isinstance(value, float) and value.is_integer():
            schema = self._properties[name]
            if isinstance(schema, dict) and schema.get("type") == "integer":
                return int(value)
        return value

    def _problem(self, given: dict[str, object]) -> str:
        from referencing.exceptions import Unresolvable

        try:
            error = next(self._validator.iter_errors(given), None)
        except (Unresolvable, RecursionError, re.error):
            return "the arguments cannot be checked"
        if error is None:
            return ""
        place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in error.absolute_path)
        where = f"argument {one_line(place.removeprefix('.'), 60)}: " if place else ""
        return where + one_line(error.message, 200)


def _validator(schema: Any) -> Any:
    """A validator that fetches nothing and reads ``$`` in patterns as the end of the text, not of its last line."""
    import jsonschema  # type: ignore[import-untyped]
    from jsonschema import Draft202012Validator as Draft
    from referencing import Registry

    if not isinstance(schema, dict) or not isinstance(schema.get("properties", {}), dict):
        raise ValueError("it must be an object's")
    types = Draft.TYPE_CHECKER.redefine("integer", _is_integer)
    cls = jsonschema.validators.extend(Draft, {"pattern": _pattern}, type_checker=types)
    try:
        cls.check_schema(schema)
    except jsonschema.SchemaError as problem:
        raise ValueError(problem.message) from None
    return cls(schema, registry=Registry())


def _is_integer(_: Any, value: object) -> bool:
    """3.0, an integer to JSON Schema, is none to a tool."""
    return isinstance(value, int) and not isinstance(value, bool)


def _pattern(validator: Any, pattern: str, instance: object, schema: object) -> Iterator[Any]:
    import jsonschema

    if isinstance(instance, str) and not re.search(re.sub(r"(?<!\\)\$\Z", r"\\Z", pattern), instance, re.ASCII):
        yield jsonschema.ValidationError(f"{write_json(instance[:60])} does not match {pattern!r}")
