"""The steps of an agent as texts: what a step's schema allows, and what stands in a conversation's turns."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from halo_sql.engines import json_slices


@dataclass(frozen=True, slots=True)
class StepShape:
    """What the schema of a step allows.

    calls   whether it may call tools
    answer  the schema of the answer's value
    """

    calls: bool
    answer: dict[str, Any]

    @property
    def is_text(self) -> bool:
        """Whether the answer's value is a string, whatever it has to look like."""
        kind = self.answer.get("type")
        return kind == "string" or (isinstance(kind, list) and "string" in kind)

    @property
    def is_free_text(self) -> bool:
        """Whether any string is an answer."""
        return self.answer.get("type") == "string" and not self.answer.keys() - {"type", "description", "title"}


@lru_cache(maxsize=256)  # asked once per request, of few agents
def shape_of(schema: str) -> StepShape:
    """What a step's schema (a text) allows: an object with ``calls``, one with ``answer``, or any of the two."""
    root = json.loads(schema) if schema else {}
    branches = [branch.get("properties", {}) for branch in root.get("anyOf", [root])]
    answer: Any = next((branch["answer"] for branch in branches if "answer" in branch), {})
    return StepShape(any("calls" in branch for branch in branches), answer if isinstance(answer, dict) else {})


def is_step(text: str) -> bool:
    """Whether the text is a step as it stands: an object of ``calls`` or ``answer`` and nothing else."""
    found = json_slices.members(text)
    return found is not None and (found.keys() == {"answer"} or found.keys() == {"calls"})


def calls_of(turn: str) -> list[tuple[str, str]] | None:
    """The calls in an assistant's turn: name and arguments (an object, as it is spelled); None for any other turn."""
    calls = (json_slices.members(turn) or {}).get("calls")
    listed = None if calls is None else json_slices.elements(calls)
    found: list[tuple[str, str]] = []
    for element in listed or ():
        call = json_slices.members(element) or {}
        name = json_slices.value_of(call.get("tool", ""))
        arguments = call.get("arguments", "")
        if name is None or not isinstance(name[0], str) or not arguments.startswith("{"):
            return None
        found.append((name[0], arguments))
    return found or None


def results_of(turn: str) -> list[str] | None:
    """The items of a user's turn of results, each as it is spelled; None for any other turn."""
    found = json_slices.members(turn)
    return json_slices.elements(found["results"]) if found is not None and found.keys() == {"results"} else None


def answered(value: str) -> str:
    """The step that gives this answer, a JSON value as it is spelled."""
    return f'{{"answer": {value.strip()}}}'


def answered_text(text: str, shape: StepShape) -> str:
    """The step that gives what the text says: the JSON value that it is where no string is wanted, else a string."""
    if not shape.is_text and json_slices.is_json(text):
        return answered(text)
    return answered(json.dumps(text, ensure_ascii=False))
