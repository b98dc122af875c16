"""The workflows in examples/workflows: each with a scripted model, so that rows and calls are known to the letter, with
and without the optimizer; and all of them with the bundled model, which answers in the right types whatever it says.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import halo_sql

FOLDER = Path(__file__).parents[2] / "examples" / "workflows"
FILES = sorted(FOLDER.glob("*.sql"))

Script = Callable[[str, dict[str, Any], list[str]], Any]  # (system, data, later turns) -> a step or a text


def agent(word: str, answer: Script) -> tuple[str, Script]:
    """Steps of the agent whose instructions hold a word."""
    return word, answer


def planner(system: str, data: dict[str, Any], turns: list[str]) -> Any:
    aspects = {"hotel": ["room", "food"], "staff": ["staff", "price"], "noise": ["place", "place"]}
    return {"answer": next(found for word, found in aspects.items() if word in data["review"])}


def worker(system: str, data: dict[str, Any], turns: list[str]) -> Any:
    return {"answer": "good" if data["aspect"] in ("staff", "place") else "bad"}


def judge(system: str, data: dict[str, Any], turns: list[str]) -> Any:
    assert (data["pro_1"], data["contra_1"]) == ("yes, as it is right", "no, as it is wrong")
    return {"answer": "for" if "cars" in data["claim"] else "against"}


def clerk(system: str, data: dict[str, Any], turns: list[str]) -> Any:
    if not turns:
        return {"calls": [{"tool": "order_state", "arguments": {"order_id": data["order_id"]}}]}
    return {"answer": "refund" if result(turns) == "delivered" else "refuse"}


def accountant(system: str, data: dict[str, Any], turns: list[str]) -> Any:
    if not turns:
        return {"calls": [{"tool": "owed", "arguments": {"customer": data["id"]}}]}
    return {"answer": "remind" if result(turns) > 20 else "wait"}


def editor(system: str, data: dict[str, Any], turns: list[str]) -> Any:
    if not turns:
        return {"calls": [{"tool": tool, "arguments": {"task": data["slogan"]}} for tool in ("critic", "speaker")]}
    found = [item["result"] for item in json.loads(turns[-1])["results"]]
    return {"answer": "print" if found == ["clear", True] else "drop"}


def speaker(system: str, data: dict[str, Any], turns: list[str]) -> Any:
    if not turns:
        return {"calls": [{"tool": "known_word", "arguments": {"word": data["task"].split()[0]}}]}
    return {"answer": result(turns)}


def result(turns: list[str]) -> Any:
    """What the last call gave."""
    return json.loads(turns[-1])["results"][-1]["result"]


AGENTS: dict[str, Script] = {
    "plan the reading": planner,
    "read one aspect": worker,
    "judge debates": judge,
    "decide about complaints": clerk,
    "whether to remind": accountant,
    "decide about slogans": editor,
    "whether a slogan is clear": lambda system, data, turns: {
        "answer": "clear" if "Fresh" in data["task"] else "vague"
    },
    "uses simple words": speaker,
}


def most(text: str, words: tuple[str, ...]) -> str:
    """The word that a text holds most often, the first of equals."""
    found = Counter({word: text.count(word) for word in words})
    return max(words, key=lambda word: found[word])


def label(text: str) -> str:
    """A topic, a route, a team's label by what stands in a text."""
    words = {
        "disk": "storage", "login": "access", "invoice": "billing", "Where": "question", "broken": "complaint",
        "lovely": "praise", "down": "outage", "charged": "billing", "address": "account",
    }  # fmt: skip
    return next((found for word, found in words.items() if word in text), "other")


PROMPTS: dict[str, Callable[[str], str]] = {
    "Argue for it": lambda text: "yes, as it is right",
    "Argue against it": lambda text: "no, as it is wrong",
    "They said: no": lambda text: "still yes",
    "They said: yes": lambda text: "still no",
    "Was the stay good": lambda text: "good" if "good" in text.partition("\n\n")[2] else "bad",
    "need an answer?": lambda text: "yes" if "lawyer" in text or text.endswith("?") or "never" in text else "no",
    "Write one polite sentence for customers: server": lambda text: "Sorry." if "Mind:" in text else "Down.",
    "Write one polite sentence for customers: meeting": lambda text: "Please come on Friday.",
    "polite and complete?": lambda text: "yes" if "Please" in text else "no",
    "What is missing": lambda text: "an excuse",
    "What is this about?": label,
    "mostly about?": lambda text: most(text.partition("\n\n")[2], ("storage", "access", "billing", "other")),
    "Thank for this": lambda text: "thanks",
    "Is this urgent?": lambda text: "0.9" if "down" in text else "0.6" if "charged" in text else "0.1",
}


def scripted(messages: list[dict[str, str]]) -> Any:
    """The model of these tests."""
    system = messages[0]["content"] if messages[0]["role"] == "system" else ""
    user, *turns = [message["content"] for message in messages if message["role"] != "system"]
    for word, answer in AGENTS.items():
        if word in system:
            return answer(system, json.loads(user), turns)
    for word, reply in PROMPTS.items():
        if word in user:
            return reply(user)
    return label(user)


#: file -> the rows of its queries, and LLM calls and tool calls of each
EXPECTED: dict[str, list[tuple[list[tuple[Any, ...]], int, int]]] = {
    "planner_workers_merge": [
        (
            [
                (1, ["room: bad", "food: bad"], "bad"),
                (2, ["staff: good", "price: bad"], "good"),
                (3, ["place: good"], "good"),
            ],
            3 + 5 + 3,
            0,
        )
    ],
    "debate": [
        (
            [
                (1, "Cities should ban cars.", "still yes", "still no", "for"),
                (2, "Homework helps children.", "still yes", "still no", "against"),
            ],
            2 * 5,
            0,
        )
    ],
    "vote": [
        (
            [
                (1, "My parcel never arrived.", "yes", 3, 3),
                (2, "Thank you!", "no", 1, 3),
                (3, "Where is my invoice?", "yes", 3, 3),
                (4, "Thank you!", "no", 1, 3),
            ],
            3 * 3,
            0,
        )
    ],
    "reflect": [([(1, False, "Sorry."), (2, True, "Please come on Friday.")], 4 + 2, 0)],
    "map_reduce": [([("log", 4, "storage"), ("mail", 2, "billing")], 6 + 2, 0)],
    "router": [([(1, "question", "on its way"), (2, "complaint", "refund"), (3, "praise", "thanks")], 3 + 2 + 1, 2)],
    "tools_and_agents": [
        ([("Ann", 44, 6), ("Bo", 16, 4), ("Cy", 72, 8)], 0, 6),
        ([("Ann", "remind", 2), ("Bo", "wait", 2), ("Cy", "remind", 2)], 6, 3),
        ([], -1, -1),
    ],
    "agents_calling_agents": [
        (
            [
                (1, "Fresh bread all day", "print", 2),
                (2, "Cheap and cheerful", "drop", 2),
                (3, "Fresh bread all day", "print", 2),
            ],
            2 * (2 + 1 + 2),
            2,
        )
    ],
    "reusable_workflow": [
        ([(1, "outage", "ops"), (2, "account", "desk"), (3, "billing", "finance")], 6, 3),
        ([("desk", 1, 0), ("finance", 1, 1), ("ops", 1, 1)], 6, 3),
    ],
}


def statements(path: Path) -> list[str]:
    """The statements of a file; of two queries at its end, both."""
    lines = path.read_text(encoding="utf-8").splitlines()
    text = "\n".join(line for line in lines if not line.startswith("--"))
    return [part.strip() for part in text.split(";\n") if part.strip()]


def is_query(statement: str) -> bool:
    return statement.startswith(("SELECT", "WITH"))


def test_every_workflow_is_known() -> None:
    assert {path.stem for path in FILES} == set(EXPECTED)


@pytest.mark.parametrize("optimizer", ["on", "off"])
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_workflow_gives_these_rows_by_these_calls(path: Path, optimizer: str) -> None:
    config = {"halo_store": "off", "halo_default_model": "scripted", "halo_optimizer": optimizer}
    with halo_sql.connect(config=config) as con:
        con.create_model("scripted", scripted)
        expected = iter(EXPECTED[path.stem])
        for statement in statements(path):
            cursor = con.execute(statement)
            if not is_query(statement):
                continue
            found = cursor.fetchall()
            rows, llm_calls, tool_calls = next(expected)
            if llm_calls < 0:  # the listing of calls
                assert [row[2] for row in found] == ["llm", "tool", "llm"] * 3
                continue
            assert [row[: len(rows[0])] for row in found] == rows
            totals = con.last_profile()["totals"]
            if optimizer == "on":
                assert (totals["llm_calls"], totals["tool_calls"]) == (llm_calls, tool_calls)
            assert totals["errors"] == 0
        assert next(expected, None) is None


@pytest.mark.vllm
def test_all_workflows_run_with_the_bundled_model(bundled_model: Path, tmp_path: Path) -> None:
    """Types hold, whatever so small a model says; one engine for all."""
    kept: dict[str, list[tuple[Any, ...]]] = {}
    with halo_sql.connect(config={"halo_store": str(tmp_path / "answers.sqlite")}) as con:
        for path in FILES:
            for statement in statements(path):
                cursor = con.execute(statement.replace("CREATE TEMP", "CREATE OR REPLACE TEMP", 1))
                if is_query(statement):
                    kept.setdefault(path.stem, []).extend(cursor.fetchall())
        assert con.last_profile()["totals"]["errors"] == 0
    assert all(stay in ("good", "bad") for _, _, stay in kept["planner_workers_merge"])
    assert all(row[4] in ("for", "against") for row in kept["debate"])
    assert all(row[2] in ("yes", "no") and row[4] == 3 for row in kept["vote"])
    assert all(isinstance(row[1], bool) and isinstance(row[2], str) for row in kept["reflect"])
    assert [row[0] for row in kept["map_reduce"]] == ["log", "mail"]
    assert all(route in ("question", "complaint", "praise") for _, route, _ in kept["router"])
    answers = [row for row in kept["tools_and_agents"] if row[1] in ("remind", "wait")]
    assert len(answers) == 3
    assert all(1 <= row[2] <= 3 for row in answers)
    assert all(row[2] in ("print", "drop") for row in kept["agents_calling_agents"])
    assert [row[0] for row in kept["reusable_workflow"][:3]] == [1, 2, 3]
