"""The steps of an agent on the wire of /chat/completions: native tool calling, in and out. Pure functions."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from halo_sql.engines import json_slices
from halo_sql.engines.protocol import Answer, ToolSchema
from halo_sql.engines.steps import StepShape, answered, answered_text, calls_of, is_step, results_of, shape_of

NO_TOOLS_REMEDY = (
    "Start the server with tool calling, or make the model WITH (tool_calling = 'json'): its steps are then plain JSON."
)
#: Servers (``owned_by`` of a model) that hold the whole answer to a response_format: with one, no tool is ever called.
EXCLUSIVE_SERVERS = frozenset({"vllm", "sglang"})

_TOOLS = re.compile(r"tool[ _-]?(choice|call)|tools? (param|is|are|use)|support (for )?tools?", re.IGNORECASE)
_NAME_CHARACTERS = 64
_OTHER = re.compile(r"[^A-Za-z0-9_-]")
_FENCED = re.compile(r"\s*```(?:json)?\s*\n(.*)\n\s*```\s*", re.DOTALL)


def messages_of(turns: Sequence[str], tools: tuple[ToolSchema, ...]) -> list[dict[str, Any]]:
    """A conversation as messages: turns of calls and of their results in their own form, others as plain texts."""
    names = _wire_names(tools)
    found: list[dict[str, Any]] = []
    open_ids: list[str] = []
    for number, turn in enumerate(turns):
        if number % 2:
            calls = calls_of(turn)
            results = results_of(turns[number + 1]) if number + 1 < len(turns) else None
            if calls is not None and results is not None and len(results) == len(calls):
                open_ids = [f"call_{number}_{index}" for index in range(len(calls))]
                entries = [
                    {"id": ident, "type": "function", "function": {"name": names.get(name, name), "arguments": text}}
                    for ident, (name, text) in zip(open_ids, calls, strict=True)
                ]
                found.append({"role": "assistant", "content": None, "tool_calls": entries})
            else:
                found.append({"role": "assistant", "content": turn})
        elif open_ids:
            items = results_of(turn) or ()
            pairs = zip(open_ids, items, strict=True)
            found.extend({"role": "tool", "tool_call_id": ident, "content": item} for ident, item in pairs)
            open_ids = []
        else:
            found.append({"role": "user", "content": turn})
    return found


@lru_cache(maxsize=64)  # asked once per step, of few agents
def fields(answer: Answer, exclusive: bool) -> Mapping[str, Any]:
    """Fields of a request's body for native tool calling.

    ``exclusive``: the server holds the whole answer to a constraint, so there is none while calls are allowed.
    ``answer_format`` is among them where the answer is to be constrained: the schema of its object.
    """
    shape = shape_of(answer.schema)
    found: dict[str, Any] = {}
    if answer.tools:
        names = _wire_names(answer.tools)
        found["tools"] = [{"type": "function", "function": _function(tool, names[tool.name])} for tool in answer.tools]
        found["tool_choice"] = "auto" if shape.calls else "none"
        if shape.calls:
            found["parallel_tool_calls"] = True
    # A free text needs no form: what the model says when it calls nothing is the answer.
    if not (shape.calls and (exclusive or shape.is_free_text)):
        found["answer_format"] = {
            "type": "object",
            "properties": {"answer": shape.answer},
            "required": ["answer"],
            "additionalProperties": False,
        }
    return found


def step_text(message: Mapping[str, Any], answer: Answer) -> str | None:
    """The step that a reply's message is; None when it is incomplete."""
    calls = message.get("tool_calls")
    content = message.get("content")
    if isinstance(calls, list) and calls:
        names = {wire: name for name, wire in _wire_names(answer.tools).items()}
        texts = [_call(call, names) for call in calls]
        return None if None in texts else f'{{"calls": [{", ".join(filter(None, texts))}]}}'
    return _answer(content, shape_of(answer.schema)) if isinstance(content, str) else None


def is_about_tools(text: str) -> bool:
    """Whether a refusal says that the server or its model takes no tools."""
    return _TOOLS.search(text) is not None


def _answer(content: str, shape: StepShape) -> str:
    fenced = _FENCED.fullmatch(content)
    inner = content if fenced is None else fenced[1]
    if is_step(inner):
        return inner.strip()
    if not shape.is_text:
        return answered_text(inner, shape)
    value = None if shape.is_free_text else json_slices.value_of(content)
    return answered(content) if value is not None and isinstance(value[0], str) else answered_text(content, shape)


def _call(call: object, names: Mapping[str, str]) -> str | None:
    """A call of a reply as one of the step; arguments that are no JSON object stay the text that they are."""
    function = call.get("function") if isinstance(call, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(function, dict) or not isinstance(name, str):
        return None
    arguments = function.get("arguments")
    if isinstance(arguments, dict):  # some servers do not spell them
        text = json.dumps(arguments, ensure_ascii=False)
    elif arguments is None or (isinstance(arguments, str) and not arguments.strip()):
        text = "{}"
    else:
        text = arguments if isinstance(arguments, str) else json.dumps(arguments)
    if json_slices.members(text) is None:
        text = json.dumps(text, ensure_ascii=False)
    return f'{{"tool": {json.dumps(names.get(name, name), ensure_ascii=False)}, "arguments": {text.strip()}}}'


@lru_cache(maxsize=64)
def _wire_names(tools: tuple[ToolSchema, ...]) -> dict[str, str]:
    """The names of tools as servers take them (letters, digits, _ and -; at most 64), each another one."""
    found: dict[str, str] = {}
    for tool in tools:
        name = base = _OTHER.sub("_", tool.name)[:_NAME_CHARACTERS] or "_"
        number = 1
        while name in found.values() or (name != tool.name and any(name == other.name for other in tools)):
            number += 1
            name = f"{base[: _NAME_CHARACTERS - 4]}_{number}"
        found[tool.name] = name
    return found


def _function(tool: ToolSchema, name: str) -> dict[str, Any]:
    parameters = json.loads(tool.parameters)
    found = {"name": name, "description": tool.description, "parameters": parameters}
    return found | ({"strict": True} if is_strict(parameters) else {})


def is_strict(schema: Any) -> bool:
    """Whether a server's strict mode can take the schema: every value typed, every object closed, all required."""
    if not isinstance(schema, dict) or not schema.keys() & {"type", "enum", "const", "anyOf"}:
        return False
    properties = schema.get("properties", {})
    closed = schema.get("additionalProperties") is False and properties.keys() <= set(schema.get("required", ()))
    if schema.get("type") == "object" and not closed:
        return False
    inner = [*schema.get("anyOf", ()), *properties.values(), *([schema["items"]] if "items" in schema else [])]
    return all(is_strict(member) for member in inner)
