"""The workflows run: exact rows, types and calls without a model of any size, typed answers with the bundled one.

Calls of LLM_MAP and its like are answered by ``echo``. An agent with a typed answer needs a model that gives one: each
is played by a function, put in its place when the file has created it. That leaves the SQL of the files as it is.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import halo_sql

WORKFLOWS = Path(__file__).parents[2] / "examples" / "workflows"
FILES = sorted(WORKFLOWS.glob("*.sql"))
COUNTS = ("llm_calls", "tool_calls")
CREATED_AGENT = re.compile(r"CREATE OR REPLACE TEMP AGENT (\w+)")

Messages = list[dict[str, str]]
Step = Callable[[dict[str, Any]], object]


class Shown(NamedTuple):
    """What a query of a file gave: column names, rows, DuckDB's types, and what it called (``COUNTS``)."""

    columns: list[str]
    rows: list[tuple[Any, ...]]
    types: list[str]
    calls: tuple[int, ...]


def statements(path: Path) -> list[str]:
    """The statements of a file, without the comments between them."""
    lines = path.read_text(encoding="utf-8").splitlines()
    text = "\n".join(line for line in lines if not line.startswith("--"))
    return [statement.strip().rstrip(";") for statement in text.split(";\n") if statement.strip()]


def player(*steps: Step) -> Callable[[Messages], str]:
    """A model whose n-th step is the n-th of these, applied to the row's data; the last one answers."""

    def play(messages: Messages) -> str:
        turn = sum(message["role"] == "assistant" for message in messages)
        step = steps[min(turn, len(steps) - 1)](json.loads(messages[1]["content"]))
        return json.dumps(step if turn < len(steps) - 1 else {"answer": step})

    return play


def calls(*wanted: tuple[str, dict[str, object]]) -> object:
    """The step that calls these tools."""
    return {"calls": [{"tool": name, "arguments": arguments} for name, arguments in wanted]}


AGENTS: dict[str, Callable[[Messages], str]] = {
    "planner": player(lambda row: ["place", "room"] if "location" in row["review"] else ["room", "price"]),
    "worker": player(lambda row: "bad" if row["aspect"] == "room" else "good"),
    "advocate": player(lambda row: "health" if row["side"] == "for" else "freedom"),
    "judge": player(lambda row: {"winner": "against" if row["said"].count("freedom") == 2 else "for", "close": True}),
    "clerk": player(lambda row: calls(("order_state", {"order_no": row["order_no"]})), lambda row: "refund"),
    "accountant": player(
        lambda row: calls(("owed", {"customer": row["name"]})), lambda row: "wait" if row["name"] == "Bo" else "remind"
    ),
    "critic": player(lambda row: "clear"),
    "speaker": player(lambda row: calls(("is_simple", {"word": "bread"})), lambda row: True),
    "editor": player(
        lambda row: calls(("critic", {"task": row["slogan"]}), ("speaker", {"task": row["slogan"]})),
        lambda row: "print" if "bread" in row["slogan"] else "drop",
    ),
    "dispatcher": player(lambda row: "now" if row["label"] == "outage" else "this week"),
}


def shown(connection: halo_sql.Connection, path: Path, played: bool) -> list[Shown]:
    """Run a file; what each of its queries gave."""
    found = []
    for statement in statements(path):
        before = connection.last_profile()
        cursor = connection.execute(statement)
        created = CREATED_AGENT.match(statement)
        if created is not None and played:
            connection.create_model(f"plays_{created[1]}", AGENTS[created[1]])
            connection.execute(f"ALTER AGENT {created[1]} SET (model = plays_{created[1]})")
        if not statement.startswith(("SELECT", "WITH")):
            continue
        rows = cursor.fetchall()
        profile = connection.last_profile()
        totals = profile["totals"] if profile and profile != before else {}
        found.append(
            Shown(
                [column[0] for column in cursor.description or ()],
                rows,
                [str(column[1]) for column in cursor.description or ()],
                tuple(totals.get(name, 0) for name in COUNTS),
            )
        )
    return found


def hermetic(path: Path, optimizer: str = "on") -> list[Shown]:
    """Run a file without a model of any size."""
    config = {"halo_store": "off", "halo_default_model": "echo", "halo_optimizer": optimizer}
    with halo_sql.connect(":memory:", config=config) as connection:
        return shown(connection, path, played=True)


#: file -> for each query: its rows (None: see the test of the file), calls of models, calls of tools
EXPECTED: dict[str, list[tuple[list[tuple[Any, ...]] | None, int, int]]] = {
    # 2 + 2 conversations, one for equal slogans: 2 steps of the editor, 1 of the critic, 2 of the speaker
    "agents_calling_agents": [
        (
            [
                (1, "Fresh bread all day", "print", 2, ["critic", "speaker"]),
                (2, "Cheap and cheerful", "drop", 2, ["critic", "speaker"]),
                (3, "Fresh bread all day", "print", 2, ["critic", "speaker"]),
            ],
            10,
            1,  # both speakers ask for the same word
        )
    ],
    # 2 claims: 2 sides in 2 rounds, and a judge
    "debate": [
        (
            [
                (id_, claim, "For: health. Against: freedom. For: health. Against: freedom.", "against", True)
                for id_, claim in ((1, "Cities should ban cars."), (2, "Homework helps children."))
            ],
            10,
            0,
        )
    ],
    # 13 parts, 5 of them different; 3 groups of four and one over them for the log, 1 for the mail
    "map_reduce": [([("log", 10, 2, "disk"), ("mail", 3, 2, "login")], 10, 0)],
    # 3 different reviews: 3 plans, though they are read twice, and 6 parts; 2 different lists of verdicts to merge
    "planner_workers_merge": [
        (
            [
                (1, 2, ["room: bad", "price: good"], "bad"),
                (2, 2, ["room: bad", "price: good"], "bad"),
                (3, 2, ["room: bad", "place: good"], "bad"),
                (4, 2, ["room: bad", "place: good"], "bad"),
            ],
            11,
            0,
        )
    ],
    # 2 drafts, 2 verdicts; a critique and a revision for the one that needs them
    "reflect": [(None, 6, 0)],
    "reusable_workflow": [
        (
            [(1, "outage", "ops", "now"), (2, "account", "desk", "this week"), (3, "billing", "finance", "this week")],
            6,
            3,
        ),
        ([("account", 1), ("billing", 1)], 2, 0),  # no tool, no agent: nobody reads their columns
        ([("desk", 1, 1), ("finance", 1, 1), ("ops", 1, 0)], 3, 3),  # the labels of both calls, once
    ],
    # 4 labels, 2 steps of the clerk, 1 word of thanks; the order of tickets 1 and 4 is looked up once
    "router": [
        (
            [
                (1, "question", "on its way"),
                (2, "complaint", "refund"),
                (3, "praise", "Thank for this in five words: Nothing but praise for your shop!"),
                (4, "question", "on its way"),
            ],
            7,
            2,
        )
    ],
    "tools_and_agents": [
        ([("Ann", 44, True), ("Bo", 16, True), ("Cy", 72, False)], 0, 5),  # two customers, the same day
        ([("Ann", "remind", 2, 2), ("Bo", "wait", 2, 2), ("Cy", "remind", 2, 2)], 6, 3),
        (
            [
                (row, step, kind, asked, "done")
                for row in range(3)
                for step, kind, asked in (
                    (1, "llm", "plays_accountant"),
                    (1, "tool", "owed"),
                    (2, "llm", "plays_accountant"),
                )
            ],
            0,
            0,
        ),
    ],
    # 3 different messages by 3 voters; 3 by 3 seeds
    "vote": [
        (
            [
                (1, "Urgent: my parcel never arrived! This is urgent.", "urgent", 3, 3),
                (2, "Thank you!", "wait", 1, 3),
                (3, "Where is my invoice? I can wait.", "wait", 1, 3),
                (4, "Thank you!", "wait", 1, 3),
            ],
            9,
            0,
        ),
        ([(id_, "wait", True, 3) for id_ in (1, 2, 3, 4)], 9, 0),
    ],
}


def test_each_workflow_is_tested_and_listed() -> None:
    assert [path.stem for path in FILES] == sorted(EXPECTED)
    listed = (WORKFLOWS.parent / "README.md").read_text(encoding="utf-8")
    assert [path.name for path in FILES if f"`{path.name}`" not in listed] == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_rows_and_calls(path: Path) -> None:
    found = hermetic(path)
    expected = EXPECTED[path.stem]
    assert [query.calls for query in found] == [(llm, tool) for _, llm, tool in expected]
    for query, (rows, _, _) in zip(found, expected, strict=True):
        if rows is not None:
            assert query.rows == rows


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_same_rows_without_the_optimizer(path: Path) -> None:
    on, off = hermetic(path), hermetic(path, optimizer="off")
    assert [query[:3] for query in on] == [query[:3] for query in off]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_plain_echo_fails_at_most_by_its_answers(path: Path) -> None:
    """What HALO_DEFAULT_MODEL=echo halo -f … does: an agent's answer that is its data may not fit, all else runs."""
    config = {"halo_store": "off", "halo_default_model": "echo"}
    with halo_sql.connect(":memory:", config=config) as connection:
        for statement in statements(path):
            if statement.startswith(("SELECT", "WITH")) and "halo_calls" not in statement:
                plan = connection.explain(statement)
                assert re.search("LLM_|AGENT|TOOL", plan), plan
            try:
                connection.execute(statement).fetchall()
            except halo_sql.EngineError as problem:
                if problem.code != "invalid_output":
                    raise


def test_only_the_draft_that_needs_it_is_revised() -> None:
    (query,) = hermetic(WORKFLOWS / "reflect.sql")
    (_, first, revised, final), (_, second, kept, draft) = query.rows
    assert (first, revised, second, kept) == ("unclear", True, "fine", False)
    assert "Mind: This sentence is unclear" in final  # the critique is in the prompt of the revision
    assert "Mind:" not in draft


def test_a_file_can_be_run_again_in_a_session() -> None:
    config = {"halo_store": "off", "halo_default_model": "echo"}
    with halo_sql.connect(":memory:", config=config) as connection:
        first, again = (shown(connection, WORKFLOWS / "vote.sql", played=False) for _ in range(2))
    assert first == again


# --- the bundled model


@pytest.fixture(scope="module")
def bundled(bundled_model: Path) -> Iterator[halo_sql.Connection]:
    """A connection whose engine, the bundled model, runs for all files."""
    assert bundled_model.is_dir()
    with halo_sql.connect(":memory:", config={"halo_store": "off"}) as connection:
        yield connection


@pytest.mark.vllm
def test_bundled_model_plans_works_and_merges(bundled: halo_sql.Connection) -> None:
    (query,) = shown(bundled, WORKFLOWS / "planner_workers_merge.sql", played=False)
    assert [row[:2] for row in query.rows] == [(1, 2), (2, 2), (3, 2), (4, 2)]
    for _, _, said, stay in query.rows:
        assert stay in ("bad", "unclear", "good")
        assert 1 <= len(said) <= 2  # a plan may name the same aspect twice
        for part in said:
            assert re.fullmatch("(room|food|staff|price|place): (good|bad|unclear)", part)
    assert query.rows[2][2:] == query.rows[3][2:]  # equal reviews


@pytest.mark.vllm
def test_bundled_model_debates(bundled: halo_sql.Connection) -> None:
    (query,) = shown(bundled, WORKFLOWS / "debate.sql", played=False)
    assert query.calls == (10, 0)
    ground = "(cost|health|freedom|fairness|evidence)"
    for _, _, said, winner, close in query.rows:
        assert re.fullmatch(rf"(For: {ground}\. Against: {ground}\. ?){{2}}", said)
        assert winner in ("for", "against")
        assert isinstance(close, bool)
    profile = bundled.last_profile()
    assert profile is not None
    assert profile["totals"]["prompt_tok_cached"] > 0.4 * profile["totals"]["prompt_tok"]


@pytest.mark.vllm
def test_bundled_model_votes(bundled: halo_sql.Connection) -> None:
    by_voter, by_seed = shown(bundled, WORKFLOWS / "vote.sql", played=False)
    assert by_voter.calls == by_seed.calls == (9, 0)
    for query in (by_voter, by_seed):
        assert {row[-1] for row in query.rows} == {3}
        assert query.rows[1][1:] == query.rows[3][1:]  # equal messages
    assert {row[2] for row in by_voter.rows} | {row[1] for row in by_seed.rows} <= {"urgent", "wait"}


@pytest.mark.vllm
def test_bundled_model_uses_tools(bundled: halo_sql.Connection) -> None:
    plain, decided, steps = shown(bundled, WORKFLOWS / "tools_and_agents.sql", played=False)
    assert plain.rows == [("Ann", 44, True), ("Bo", 16, True), ("Cy", 72, False)]
    assert [row[0] for row in decided.rows] == ["Ann", "Bo", "Cy"]
    for _, answer, taken, events in decided.rows:
        assert answer in ("remind", "wait")
        assert 1 <= taken <= 3
        assert events >= taken
    assert {row[2] for row in steps.rows} <= {"llm", "tool"}
    assert sum(row[2] == "llm" for row in steps.rows) == decided.calls[0]
    assert {row[3] for row in steps.rows if row[2] == "tool"} <= {"owed", "weekday_of"}
