"""What a model's message says: calls, an answer, or nothing that can be used. Nothing is called here."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple

from halo_sql.agents.arguments import Arguments
from halo_sql.agents.protocol import AgentSpec, AgentTool
from halo_sql.agents.strict_json import one_line, read_json, write_json
from halo_sql.errors import EngineError
from halo_sql.ir.types import SqlType

FLOOD = 100  # calls in one step beyond those allowed, each answered by an error; with more the step is none
REMEMBERED = 4096  # steps that were read: the same one comes from many rows
REMEMBERED_CHARS = 4096
_HEAD = re.compile(r'\s*\{\s*"answer"\s*:\s*')
_SPACE = " \t\r\n"

Check = Callable[[SqlType, str], EngineError | None]


class Call(NamedTuple):
    """One call that a model asks for.

    tool       as the model wrote it
    arguments  canonical JSON text; as the model wrote them when ``problem`` says why they are refused
    known      the tool; None: there is none of this name
    """

    tool: str
    arguments: str
    known: AgentTool | None
    problem: str


class Step(NamedTuple):
    """A message that was read: calls, or an answer (JSON text), or a ``problem`` to be told to the model."""

    calls: tuple[Call, ...] = ()
    answer: str | None = None
    problem: str = ""


class StepReader:
    """Reads the steps of one agent. ``check`` says what is wrong with an answer of a type."""

    def __init__(self, spec: AgentSpec, check: Check) -> None:
        self._spec = spec
        self._check = check
        self._tools = {tool.name: (tool, Arguments(tool)) for tool in spec.tools}
        self._known: dict[str, Step] = {}

    def read(self, text: str) -> Step:
        """What a message says."""
        step = self._known.get(text)
        if step is None:
            step = self._read(text)
            if len(text) <= REMEMBERED_CHARS:
                if len(self._known) >= REMEMBERED:
                    self._known.clear()
                self._known[text] = step
        return step

    def _read(self, text: str) -> Step:
        try:
            value = read_json(text)
        except ValueError as problem:
            return Step(problem=f"Your message cannot be read: {problem}.")
        if isinstance(value, dict) and len(value) == 1:
            if "answer" in value:
                return self._answer(text, value["answer"])
            if "calls" in value:
                return self._calls(value["calls"])
        return Step(problem='Your message must be one JSON object with the one member "calls" or "answer".')

    def _answer(self, text: str, value: object) -> Step:
        if value is None:
            return Step(answer="null")
        head = _HEAD.match(text)
        # as written: a number with many digits stays what it is
        written = text[head.end() :].rstrip(_SPACE)[:-1].rstrip(_SPACE) if head else write_json(value)
        problem = self._check(self._spec.returns, written)
        if problem is not None:
            return Step(problem=f"The answer is not valid: {one_line(problem.message)}")
        return Step(answer=written)

    def _calls(self, calls: object) -> Step:
        if not isinstance(calls, list) or not calls:
            return Step(problem='"calls" must be a list of one or more calls.')
        most = self._spec.max_parallel
        if len(calls) > most + FLOOD:
            return Step(problem=f"{len(calls)} calls in one message are too many; {most} are allowed.")
        if not all(_is_call(call) for call in calls):
            return Step(problem='Each call must be {"tool": NAME, "arguments": OBJECT}, with these two members only.')
        return Step(tuple(self._call(call["tool"], call["arguments"]) for call in calls))

    def _call(self, name: str, given: object) -> Call:
        found = self._tools.get(name)
        if found is None:
            names = ", ".join(self._tools) or "none"
            problem = f'there is no tool "{one_line(name, 60)}"; the tools are: {names}'
            return Call(one_line(name, 60), write_json(given), None, problem)
        tool, arguments = found
        text, problem = arguments.canonical(given)
        return Call(name, write_json(given) if problem else text, tool, problem)


def _is_call(call: Any) -> bool:
    return isinstance(call, dict) and call.keys() == {"tool", "arguments"} and isinstance(call["tool"], str)
