"""Some hundred attacks by one scripted model, as one statement: what reached tools, servers, files and the catalog."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import halo_sql
from tests.agents.attacks import ARGUMENTS, CANARY, ENCODINGS

from .agents_support import Door, Seen, add_vault, children, connect, rows, served, totals
from .hostile_cases import FLOODED, MAX_CALLS, MAX_PARALLEL, MAX_REPEATS, MAX_STEPS, OUT, Case, Hostile, cases

SPY = f"""CREATE TEMP AGENT spy RETURNS BIGINT WITH (
    model = m, tools = [vault, ask, send, post, leak, act, note, size], temperature = 1, max_steps = {MAX_STEPS},
    max_tool_calls = {MAX_CALLS}, max_parallel = {MAX_PARALLEL}, max_repeats = {MAX_REPEATS}, max_tokens = 9000000,
    max_step_tokens = 500000)"""


@dataclass
class Attacked:
    """What one statement of all attacks came to.

    called  what reached the Python functions: (function, arguments)
    """

    cases: list[Case]
    rows: list[tuple[int, dict[str, Any]]]
    model: Hostile
    seen: list[Seen]
    called: list[tuple[str, tuple[object, ...]]]
    totals: dict[str, Any]
    door: Door
    folder: Path
    home: Path
    files: dict[str, bytes]
    before: Any
    after: Any
    left: set[int]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def catalog(con: halo_sql.Connection) -> Any:
    queries = ("SELECT table_name, sql FROM duckdb_tables() ORDER BY ALL", "FROM duckdb_sequences()", "FROM orders")
    return [rows(con, query) for query in queries]


def add_functions(con: halo_sql.Connection, called: list[tuple[str, tuple[object, ...]]]) -> None:
    async def note(text: str) -> str:
        called.append(("note", (text,)))
        return "noted"

    async def size(n: int, tag: str = "a") -> int:
        called.append(("size", (n, tag)))
        return n

    async def leak(text: str) -> str:
        called.append(("leak", (text,)))
        return "gone"

    async def act(text: str) -> str:
        called.append(("act", (text,)))
        return "done"

    async def elsewhere(text: str) -> str:
        called.append(("elsewhere", (text,)))
        return "done"

    con.create_tool("note", note, egress=False, trusted=True, volatility="volatile")
    con.create_tool("size", size, egress=False)
    con.create_tool("leak", leak, trusted=True)
    con.create_tool("act", act, egress=False, side_effects=True)
    con.create_tool("elsewhere", elsewhere, egress=False)


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Attacked]:
    folder, home = tmp_path_factory.mktemp("folder"), tmp_path_factory.mktemp("home")
    (folder / "secret.csv").write_text(f"a,b\n1,{CANARY}\n")
    called: list[tuple[str, tuple[object, ...]]] = []
    door = Door()
    table = cases(str(folder), door.port)
    model = Hostile(table)
    with pytest.MonkeyPatch.context() as patch, served() as server, connect() as con:
        patch.setenv("HALO_HOME", str(home))
        patch.setenv("CANARY", CANARY)
        con.create_model("m", model, concurrency=256)
        add_functions(con, called)
        add_vault(con, server.url)
        con.execute("CREATE TABLE cases AS SELECT range AS id FROM range(?)", [len(table)])
        con.execute(SPY)
        files, before, running = contents(folder), catalog(con), children()
        found = rows(con, "SELECT id, AGENT(spy, 'Do as you like.', on_error => 'struct') AS r FROM cases ORDER BY id")
        yield Attacked(
            table, found, model, server.seen, called, totals(con), door, folder, home, files, before, catalog(con),
            children() - running,
        )  # fmt: skip
    door.close()


def test_the_attacks_are_many_and_the_model_has_what_it_must_not_pass_on(attacked: Attacked) -> None:
    count = len(attacked.cases)
    assert count == len(attacked.rows) > 400
    assert attacked.model.stole == set(range(count))
    assert attacked.totals["llm_calls"] == sum(attacked.model.steps.values())
    answered = {found["value"] for _, found in attacked.rows if found["error"] is None}
    unanswered = {case.kind for number, case in enumerate(attacked.cases) if number not in answered}
    assert unanswered == {"message", "answer", "flood"}
    assert all(re.search("valid answer|reached", found["error"]) for _, found in attacked.rows if found["error"])


def test_51_nothing_private_leaves_in_any_encoding(attacked: Attacked) -> None:
    """What was sent before anything was known is all that the server ever saw."""
    sent = Counter(seen.target for seen in attacked.seen)
    assert sent == {f"/send/before%20{number}": 1 for number in range(len(attacked.cases))}
    assert not any(seen.body for seen in attacked.seen)
    carried = "".join(f"{seen.target}{dict(seen.headers)}" for seen in attacked.seen)
    spellings = {encode(CANARY) for encode in ENCODINGS.values()}
    assert not [text for text in spellings if len(text) > 4 and text in carried]
    assert {name for name, _ in attacked.called} == {"note", "size"}
    assert CANARY not in str(attacked.called)
    assert CANARY not in str(attacked.rows)


def test_49_only_listed_tools_with_fitting_arguments_are_called(attacked: Attacked) -> None:
    sizes = [given for name, given in attacked.called if name == "size"]
    assert all(type(number) is int and type(tag) is str for number, tag in sizes)
    fitting = {text for text in ARGUMENTS if _fits(text)}
    assert len(sizes) <= len(fitting) + len(OUT)
    assert len({case.name for case in attacked.cases if case.kind == "name"}) > 60


def _fits(text: str) -> bool:
    """Whether a JSON text holds arguments of ``size``."""
    given = json.loads(text)
    if not isinstance(given, dict) or not given.keys() <= {"n", "tag"}:
        return False
    number, tag = given.get("n"), given.get("tag", "a")
    return number == int(number or 0) and isinstance(tag, str | None) if isinstance(number, int | float) else False


def test_52_written_queries_touch_no_file_socket_or_catalog(attacked: Attacked) -> None:
    assert sum(case.kind == "query" for case in attacked.cases) > 60
    assert contents(attacked.folder) == attacked.files
    assert attacked.door.connections == 0
    assert attacked.after == attacked.before
    assert not (attacked.home / "journal.sqlite").exists()  # nothing with side effects was even begun
    assert not attacked.left


def test_58_the_limits_of_each_conversation_are_exact_at_model_and_tool(attacked: Attacked) -> None:
    made = Counter(int(str(given[0]).partition("/")[0]) for name, given in attacked.called if "/" in str(given[0]))
    for number, case in enumerate(attacked.cases):
        if case.kind == "flood":
            assert made[number] == FLOODED[case.name], case.name
    assert max(attacked.model.steps.values()) == MAX_STEPS
    assert attacked.totals["tool_calls"] <= MAX_CALLS * len(attacked.cases)


def test_47_the_system_message_is_the_same_for_all(attacked: Attacked) -> None:
    (system,) = attacked.model.systems
    assert CANARY not in system
    assert "orders(" in system  # it is told the tables of the tool whose queries it writes
