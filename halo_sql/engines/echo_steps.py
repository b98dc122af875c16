"""The steps of an agent that asks echo: a script that the task spells, or the task itself as the answer."""

from __future__ import annotations

import json
from collections.abc import Sequence

from halo_sql.engines import json_slices
from halo_sql.engines.steps import answered, answered_text, results_of, shape_of

_CALLING = {"calls", "tool"}
_KEYS = {"answer", *_CALLING}
_RESULT = '"$result"'


def echo_step(turns: Sequence[str], schema: str) -> str:
    """The next step of a conversation.

    The task is the member ``task`` of the first turn, if that is its only one, else the whole turn. A task that is a
    JSON list of objects with ``calls``, ``tool`` or ``answer`` is a script: its element number n (n assistant's turns
    went before; the last one when there are fewer) is the step. ``{"tool": t, "arguments": a}`` is short for
    one call, and the answer "$result" for what the last call gave. Where no call is allowed, the last answer in the
    script (null if it has none) stands for one. Any other task is the answer.
    """
    shape = shape_of(schema)
    fields = json_slices.members(turns[0])
    task = turns[0]
    if fields is not None and fields.keys() == {"task"}:
        value = json_slices.value_of(fields["task"])
        assert value is not None
        if not isinstance(value[0], str):
            return answered(fields["task"])
        task = value[0]
    script = _script(task)
    if script is None:
        return answered_text(task, shape)
    step = script[min(len(turns) // 2, len(script) - 1)]
    if not shape.calls and step.keys() & _CALLING:
        step = next((other for other in reversed(script) if not other.keys() & _CALLING), {"answer": "null"})
    if "tool" in step:
        return f'{{"calls": [{{"tool": {step["tool"]}, "arguments": {step.get("arguments", "{}")}}}]}}'
    if step.get("answer") == _RESULT and (results := results_of(turns[-1])):
        item = json_slices.members(results[-1]) or {}
        return answered(item.get("result", item.get("error", "null")))
    return "{" + ", ".join(f"{json.dumps(name)}: {value}" for name, value in step.items()) + "}"


def _script(task: str) -> list[dict[str, str]] | None:
    """The elements of a script, as the spelled members of each; None for any other text."""
    if not task.lstrip().startswith("["):
        return None
    steps: list[dict[str, str]] = []
    for element in json_slices.elements(task) or ():
        step = json_slices.members(element)
        if step is None or not step.keys() & _KEYS:
            return None
        steps.append(step)
    return steps or None
