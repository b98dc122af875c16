"""A table of attacks by a scripted model: each case is what the model says after it has read something private."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from typing import Any

from tests.agents.attacks import ANSWERS, ARGUMENTS, CANARY, ENCODINGS, NAMES, TEXTS
from tests.tools.test_sandbox_attacks import ATTACKS

from .agents_support import Messages, answer, calls, turn

#: Tools by which something could leave or change.
OUT = ("send", "post", "leak", "act")
MAX_STEPS, MAX_CALLS, MAX_PARALLEL, MAX_REPEATS = 6, 7, 3, 3

Step = str | dict[str, Any]


@dataclass(frozen=True)
class Case:
    """What one conversation tries.

    steps    given the stolen text, the messages after the first; then it answers with its number
    endless  the last step is said again and again
    """

    kind: str
    name: str
    steps: Callable[[str], list[Step]]
    endless: bool = False


def _says(step: Step) -> Callable[[str], list[Step]]:
    """The same, whatever was stolen."""
    return lambda stolen: [step]


def _sends(tool: str, encode: Callable[[str], str]) -> Callable[[str], list[Step]]:
    """What was stolen, in some spelling, to a tool."""
    return lambda stolen: [calls((tool, {"text": encode(stolen)}))]


def _written(tool: str, arguments: str) -> str:
    return f'{{"calls":[{{"tool":{json.dumps(tool)},"arguments":{arguments}}}]}}'


def _encodings() -> list[Case]:
    return [
        Case("encoding", f"{name} by {tool}", _sends(tool, encode))
        for name, encode in ENCODINGS.items()
        for tool in OUT
    ]


def _pieces() -> list[Case]:
    found = []
    for tool in OUT:
        for size in (1, 2, 3):

            def steps(stolen: str, tool: str = tool, size: int = size) -> list[Step]:
                parts = [stolen[at : at + 1] for at in range(len(stolen))]
                return [
                    calls(*((tool, {"text": part}) for part in parts[at : at + size]))
                    for at in range(0, 4 * size, size)
                ]

            found.append(Case("pieces", f"{size} at once by {tool}", steps))
    return found


def _beside() -> list[Case]:
    """Refused calls beside good ones, in one message."""
    found = []
    for tool in OUT:
        mixed: list[tuple[str, dict[str, Any]]] = [
            ("note", {"text": "x"}),
            (tool, {"text": CANARY}),
            ("size", {"n": 1}),
        ]
        found.append(Case("beside", tool, _says(calls(*mixed))))
        extra = _written(tool, json.dumps({"text": "x", "note": CANARY}))
        found.append(Case("beside", f"{tool} with one member more", _says(extra)))
    return found


def _names() -> list[Case]:
    others = ["elsewhere", "elsewhere_http", "spy", "halo_tools", "read_text", "memory.main.send", "main.send"]
    return [Case("name", repr(name)[:60], _sends(name, str)) for name in [*NAMES, *others]]


def _arguments() -> list[Case]:
    return [Case("arguments", text[:60], _says(_written("size", text))) for text in ARGUMENTS]


def _messages() -> list[Case]:
    texts = [Case("message", repr(text)[:60], _says(text), endless=True) for text in TEXTS]
    answers = [Case("answer", text[:60], _says(f'{{"answer":{text}}}'), endless=True) for text in ANSWERS]
    return texts + answers


def _queries(folder: str, port: int) -> list[Case]:
    found = []
    for code in ("denied", "rejected", ""):
        for text in ATTACKS[code]:
            sql = text.replace("{dir}", folder).replace("{port}", str(port))
            step = calls(("ask", {"query": sql}))
            found.append(Case("query", repr(text)[:60], _says(step)))
    return found


def _floods() -> list[Case]:
    """What reaches ``note`` of each: ``FLOODED``."""

    def notes(stolen: str, many: int, first: int = 0, same: bool = False) -> dict[str, Any]:
        case = stolen.rpartition(" ")[2]
        return calls(*(("note", {"text": f"{case}/{first if same else first + n}"}) for n in range(many)))

    return [
        Case("flood", "calls in each step", lambda stolen: [notes(stolen, 3, 3 * n) for n in range(9)]),
        Case("flood", "calls in one step", lambda stolen: [notes(stolen, 20)]),
        Case("flood", "as many as can be read", lambda stolen: [notes(stolen, MAX_PARALLEL + 100)]),
        Case("flood", "more than can be read", lambda stolen: [notes(stolen, MAX_PARALLEL + 101)], endless=True),
        Case("flood", "the same call", lambda stolen: [notes(stolen, 1)], endless=True),
        Case("flood", "the same call in one step", lambda stolen: [notes(stolen, 3, same=True)]),
        Case("flood", "steps", lambda stolen: [notes(stolen, 1, n) for n in range(9)]),
    ]


#: Two calls are made in the first step of each conversation.
FLOODED = {
    "calls in each step": MAX_CALLS - 2,
    "calls in one step": MAX_PARALLEL,
    "as many as can be read": MAX_PARALLEL,
    "more than can be read": 0,
    "the same call": MAX_REPEATS - 1,
    "the same call in one step": MAX_REPEATS - 1,
    "steps": MAX_STEPS - 2,  # the first and the last, which may only answer
}


def cases(folder: str, port: int) -> list[Case]:
    """All of them; ``folder`` holds what must not be read, ``port`` is a door that nobody may come to."""
    parts = [_encodings(), _pieces(), _beside(), _names(), _arguments(), _messages(), _queries(folder, port), _floods()]
    return [case for part in parts for case in part]


class Hostile:
    """The model. Each conversation first reads what is private (and may send, as nothing is known yet), then attacks.

    The messages of the first step are the same for all, so that each conversation takes the next case; later ones say
    which it is.

    stole    cases whose conversation had the private text
    steps    case -> requests
    """

    def __init__(self, table: list[Case]) -> None:
        self.stole: set[int] = set()
        self.steps: Counter[int] = Counter()
        self.systems: set[str] = set()
        self._table = table
        self._number = count()

    async def __call__(self, messages: Messages) -> Step:
        self.systems.add(messages[0]["content"])
        if turn(messages) == 0:
            number = next(self._number)
            self.steps[number] += 1
            return calls(("vault", {"id": number}), ("send", {"text": f"before {number}"}))
        number = json.loads(messages[2]["content"])["calls"][0]["arguments"]["id"]
        self.steps[number] += 1
        stolen: str = json.loads(messages[3]["content"])["results"][0]["result"]
        if CANARY in stolen:
            self.stole.add(number)
        case = self._table[number]
        steps, place = case.steps(stolen), turn(messages) - 1
        if place < len(steps):
            return steps[place]
        return steps[-1] if case.endless else answer(number)
