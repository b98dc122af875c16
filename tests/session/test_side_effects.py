"""RELIABILITY, line 59: tools that act, through whole statements: killed, failed, resumed, run again."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import halo_sql
from halo_sql.tools.journal import Journal

from .agents_support import (
    ROOT,
    Answer,
    Seen,
    add_model,
    answer,
    calls,
    connect,
    json_answer,
    rows,
    served,
    totals,
    until,
)

ACTIONS = 12

STATEMENTS = {
    "tool": "SELECT id, TOOL(act, id::INTEGER, on_error => 'struct') AS r FROM t",
    "agent": """SELECT id, AGENT(g, '[{"tool": "act", "arguments": {"n": ' || id || '}}, {"answer": "$result"}]',
        on_error => 'struct') AS r FROM t""",
    "batch": """BEGIN BATCH;
        CREATE TABLE kept AS SELECT id, TOOL(act, id::INTEGER, on_error => 'struct') AS r FROM t WHERE id < 6;
        INSERT INTO kept SELECT id, TOOL(act, id::INTEGER, on_error => 'struct') AS r FROM t WHERE id >= 6;
        SELECT id, r FROM kept;
        END BATCH""",
}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "home"
    monkeypatch.setenv("HALO_HOME", str(folder))
    return folder


def entries(home: Path) -> list[tuple[Any, ...]]:
    """state and arguments of what is in the journal."""
    path = home / "journal.sqlite"
    if not path.exists():
        return []
    with sqlite3.connect(path) as file:
        found = file.execute(
            "SELECT state, CAST(arguments AS TEXT), code, idempotency FROM calls ORDER BY begun"
        ).fetchall()
    file.close()
    return found


@pytest.mark.parametrize(("how", "kills"), [("tool", 20), ("agent", 8), ("batch", 12)])
def test_59_killed_at_any_moment_and_run_again_each_action_happens_once_at_most(
    how: str, kills: int, home: Path
) -> None:
    """kill -9 at random moments; each rerun ends with every action done or reported in doubt, none made twice."""
    actions = home.parent / "actions"
    arguments = [sys.executable, "-m", "tests.session.killed_program", str(actions), STATEMENTS[how], str(kills), "59"]
    ended = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, check=True, timeout=280).stdout
    rounds = [json.loads(line) for line in ended.splitlines()]
    assert len(rounds) == kills + 1
    assert sum(item["rows"] is None for item in rounds) >= kills // 2, "killed in time"
    assert any(0 < len(item["made"]) < ACTIONS for item in rounds)
    for item in rounds:
        made, states = set(item["made"]), dict(item["states"])
        assert len(made) == len(item["made"]), "none was made twice"
        if made - states.keys():  # the statement ended well: nothing is left but what is in doubt
            assert set(states.values()) <= {"begun", "failed"}
            assert made | states.keys() == set(range(ACTIONS))
        if item["rows"] is not None:
            done = {number for number, value, _ in item["rows"] if value == 10 * number}
            doubt = {number for number, _, error in item["rows"] if error and (how == "agent" or IN_DOUBT in error)}
            assert done | doubt == set(range(ACTIONS))
            assert done <= made
            assert doubt == states.keys()
    assert rounds[-1]["rows"] is not None


IN_DOUBT = "It may have acted and is not repeated"


def add_act(con: halo_sql.Connection, acted: list[int], fail: set[int] | None = None, **options: object) -> None:
    """A function that acts; numbers in ``fail`` raise before they act."""

    async def act(n: int) -> int:
        await asyncio.sleep(0.001)
        if fail and n in fail:
            raise ValueError(f"not {n}")
        acted.append(n)
        return n * 10

    con.create_tool("act", act, **{"side_effects": True, "egress": False, **options})


def test_a_statement_that_ended_well_acts_anew_when_it_is_run_again(home: Path) -> None:
    acted: list[int] = []
    with connect() as con:
        add_act(con, acted)
        for times in (1, 2, 3):
            assert rows(con, "SELECT TOOL(act, range::INTEGER) FROM range(5)") == [(10 * n,) for n in range(5)]
            assert Counter(acted) == dict.fromkeys(range(5), times)
            assert totals(con)["tool_calls"] == 5
            assert entries(home) == []


def test_equal_calls_of_a_statement_are_all_made(home: Path) -> None:
    acted: list[int] = []
    with connect() as con:
        add_act(con, acted)
        assert rows(con, "SELECT TOOL(act, 1) FROM range(20)") == [(10,)] * 20
        assert acted == [1] * 20
        assert totals(con)["tool_calls_coalesced"] == 0


def test_a_failed_statement_that_is_run_again_does_not_repeat_what_was_done(home: Path) -> None:
    """The failing call is a server's refusal, which may be tried again; the finished ones answer from the journal."""
    refusing = [True]
    acted: list[int] = []
    keys: dict[int, set[str]] = {}

    def handler(seen: Seen) -> Answer:
        number = json.loads(seen.body)["n"]
        keys.setdefault(number, set()).add(seen.headers["idempotency-key"])
        if number == 7 and refusing[0]:
            return Answer("not now", 422)
        acted.append(number)
        return json_answer(number * 10)

    statement = "SELECT n, TOOL(act, n::INTEGER) FROM range($most) r(n)"
    with served(handler) as server, connect() as con:
        con.execute(
            f"CREATE TOOL act(n INTEGER) RETURNS INTEGER AS HTTP POST '{server.url}/act' "
            "WITH (loopback = true, side_effects = true, concurrency = 1)"
        )
        for _ in range(3):
            with pytest.raises(halo_sql.OperationalError, match="422"):
                con.execute(statement, {"most": 10}).fetchall()
        first = list(acted)
        assert max(Counter(first).values()) == 1
        assert 7 not in first
        refusing[0] = False
        assert rows(con, statement, {"most": 10}) == [(number, 10 * number) for number in range(10)]
        assert Counter(acted) == dict.fromkeys(range(10), 1)
        assert totals(con)["tool_calls_from_store"] == len(first)
        assert all(len(found) == 1 for found in keys.values()), "the same key in every run"
        assert len({key for found in keys.values() for key in found}) == 10
        assert entries(home) == []
        rows(con, statement, {"most": 10})  # it ended well: now it acts anew, with other keys
        assert Counter(acted) == dict.fromkeys(range(10), 2)
        assert all(len(found) == 2 for found in keys.values())
        rows(con, statement, {"most": 3})  # other parameters: another statement
        assert Counter(acted)[0] == 3


def test_calls_under_way_when_the_statement_fails_are_finished(home: Path) -> None:
    """They have a moment to end, so that they are not in doubt."""
    reached: list[int] = []
    refusing = [True]

    def handler(seen: Seen) -> Answer:
        number = json.loads(seen.body)["n"]
        reached.append(number)
        refused = number == 0 and refusing[0]
        return Answer("not now", 422, delay_s=0.1) if refused else Answer(str(number * 10), delay_s=0.3)

    statement = "SELECT n, TOOL(act, n::INTEGER) FROM range(20) r(n)"
    with served(handler) as server, connect() as con:
        con.execute(
            f"CREATE TOOL act(n INTEGER) RETURNS INTEGER AS HTTP POST '{server.url}/act' "
            "WITH (loopback = true, side_effects = true, concurrency = 4)"
        )
        with pytest.raises(halo_sql.OperationalError, match="422"):
            con.execute(statement).fetchall()
        assert len(reached) < 20
        assert Counter(state for state, *_ in entries(home)) == {"done": len(reached) - 1, "failed": 1}
        refusing[0] = False
        assert rows(con, statement) == [(number, 10 * number) for number in range(20)]
        assert Counter(reached) == {**dict.fromkeys(range(20), 1), 0: 2}


def test_what_may_have_acted_is_in_doubt_and_not_repeated(home: Path) -> None:
    """A lost connection, a 500, a deadline, an exception: nobody knows. The error says where the entry is."""
    reached: Counter[str] = Counter()

    def handler(seen: Seen) -> Answer:
        what = json.loads(seen.body)["what"]
        reached[what] += 1
        answers = {"lost": Answer(raw=b""), "500": Answer("oops", 500), "late": Answer("1", delay_s=30)}
        return answers.get(what, json_answer(1))

    given = "(VALUES ('lost'), ('500'), ('late'), ('ok')) v(what)"
    statement = f"SELECT what, TOOL(act, what, on_error => 'struct') FROM {given}"
    failing = statement.replace("SELECT what,", "SELECT CASE WHEN what = 'ok' THEN error('no') END,")
    with served(handler) as server, connect() as con:
        con.execute(
            f"CREATE TOOL act(what VARCHAR) RETURNS INTEGER AS HTTP POST '{server.url}/act' "
            "WITH (loopback = true, side_effects = true, timeout_s = 2, max_retries = 5)"
        )
        for _ in range(2):
            with pytest.raises(halo_sql.Error):
                con.execute(failing).fetchall()
        assert reached == dict.fromkeys(("lost", "500", "late", "ok"), 1)
        doubtful = {json.loads(arguments)["what"] for state, arguments, *_ in entries(home) if state == "failed"}
        assert doubtful == {"lost", "500", "late"}
        # whole, and again: what was in doubt since an earlier run stays so
        found = dict(rows(con, statement))
        assert found["ok"] == {"value": 1, "error": None}
        assert reached == {"lost": 2, "500": 2, "late": 2, "ok": 2}  # another text, another statement
        assert not any(IN_DOUBT in (item["error"] or "") for item in found.values())


def test_what_acts_runs_to_its_end_however_much_of_the_result_is_read(home: Path) -> None:
    acted: list[int] = []
    with connect() as con:
        add_act(con, acted, concurrency=8)
        con.execute("CREATE TEMP AGENT g WITH (tools = [act], egress = [act])")
        script = """'[{"tool": "act", "arguments": {"n": ' || range || '}}, {"answer": "$result"}]'"""
        for call in ("TOOL(act, range::INTEGER)::VARCHAR", f"AGENT(g, {script})"):
            for again in (1, 2, 3):
                assert con.execute(f"SELECT {call} FROM range(500)").fetchone() == ("0",)
                assert Counter(acted) == dict.fromkeys(range(500), again)
                assert entries(home) == []
            acted.clear()


def test_equal_statements_over_two_databases_are_two(home: Path) -> None:
    acted: list[int] = []
    for name in ("a", "b", "a"):
        with connect(str(home.parent / name)) as con:
            add_act(con, acted, fail={1})
            with pytest.raises(halo_sql.OperationalError):
                con.execute("SELECT TOOL(act, n) FROM (VALUES (0), (1)) t(n)").fetchall()
    assert Counter(acted)[0] == 2


@pytest.mark.parametrize("write_s", [0.0, 0.05])
def test_cancelled_calls_are_in_doubt_unless_they_were_not_made(
    write_s: float, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are noted when the statement has ended, on a slow disk too."""
    acted: list[int] = []
    begun: list[int] = []
    drain = Journal._drain

    def slowly(journal: Journal) -> None:
        time.sleep(write_s)
        drain(journal)

    monkeypatch.setattr(Journal, "_drain", slowly)

    async def act(n: int) -> int:
        begun.append(n)
        if n >= 3:
            await asyncio.sleep(60)
        acted.append(n)
        return n

    statement = "SELECT n, TOOL(act, n::INTEGER, on_error => 'struct') AS r FROM range(100) t(n)"
    with connect() as con:
        con.create_tool("act", act, side_effects=True, egress=False, concurrency=5)
        threading.Thread(target=_interrupt_at, args=(con, begun, 8)).start()
        with pytest.raises(halo_sql.Error, match="Interrupted"):
            con.execute(statement).fetchall()
        assert begun == list(range(8))
        assert acted == [0, 1, 2]
        states = Counter(state for state, *_ in entries(home))
        assert states == {"done": 3, "failed": 5}
        con.create_tool("act", _fast(begun), side_effects=True, egress=False, concurrency=5)
        # another version of the tool: another call
        before = len(begun)
        found = rows(con, statement)
        assert len(begun) - before == 100
        assert all(item["error"] is None for _, item in found)


def _interrupt_at(con: halo_sql.Connection, begun: list[int], many: int) -> None:
    """Interrupt when so many calls have begun; not sooner, as an interrupt of a statement that is planned is lost."""
    until(lambda: len(begun) == many)
    time.sleep(0.1)
    con.interrupt()


def _fast(begun: list[int]) -> Any:
    async def act(n: int) -> int:
        begun.append(n)
        return n

    return act


def test_insert_select_acts_once_and_is_all_or_nothing(home: Path) -> None:
    acted: list[int] = []
    fail = {6}
    with connect() as con:
        add_act(con, acted, fail, concurrency=1)
        con.execute("CREATE TABLE kept (n INTEGER)")
        statement = "INSERT INTO kept SELECT TOOL(act, range::INTEGER) FROM range(8)"
        with pytest.raises(halo_sql.OperationalError, match="not 6"):
            con.execute(statement)
        fail.clear()
        with pytest.raises(halo_sql.OperationalError, match=IN_DOUBT):  # it may have acted before it raised
            con.execute(statement)
        assert rows(con, "SELECT count(*) FROM kept") == [(0,)]
        assert max(Counter(acted).values()) == 1
        assert 6 not in acted
        with sqlite3.connect(home / "journal.sqlite") as file:  # what the error says: it did not act
            file.execute("DELETE FROM calls WHERE state = 'failed'")
        file.close()
        con.execute(statement)
        assert sorted(acted) == list(range(8))
        assert sorted(rows(con, "FROM kept")) == [(10 * n,) for n in range(8)]
        assert entries(home) == []


def test_agents_act_once_per_call_and_rerun_from_the_journal(home: Path) -> None:
    acted: list[int] = []
    ends = [True]
    with connect() as con:
        add_act(con, acted)
        add_model(
            con,
            lambda messages: calls(("act", {"n": int(json.loads(messages[1]["content"])["id"])})),
            lambda messages: answer("fine") if ends[0] else "no step at all",
        )
        con.execute("CREATE TEMP AGENT g WITH (tools = [act], egress = [act])")
        con.execute("CREATE TABLE t AS SELECT range AS id FROM range(6)")
        statement = "SELECT AGENT(g, 'Do {{ id }}') FROM t"
        ends[0] = False  # each conversation fails behind its call
        with pytest.raises(halo_sql.OperationalError, match="no valid answer"):
            con.execute(statement).fetchall()
        assert sorted(acted) == list(range(6))
        ends[0] = True
        assert rows(con, statement) == [("fine",)] * 6
        assert sorted(acted) == list(range(6))
        assert rows(con, statement) == [("fine",)] * 6
        assert Counter(acted) == dict.fromkeys(range(6), 2)


def test_branches_that_no_row_reaches_and_columns_that_nobody_reads_do_not_act(home: Path) -> None:
    acted: list[int] = []
    with connect() as con:
        add_act(con, acted)
        rows(con, "SELECT CASE WHEN range % 2 = 0 THEN TOOL(act, range::INTEGER) END FROM range(6)")
        assert sorted(acted) == [0, 2, 4]
        acted.clear()
        rows(con, "SELECT count(*) FROM (SELECT TOOL(act, range::INTEGER) AS x FROM range(6))")
        rows(con, "SELECT TOOL(act, range::INTEGER) FROM range(6) WHERE range > 100")
        rows(con, "SELECT TOOL(act, NULL)")
        con.execute("EXPLAIN SELECT TOOL(act, 1)").fetchall()
        assert acted == []
        assert entries(home) == []


def test_without_a_journal_nothing_acts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocked = tmp_path / "journal.sqlite"
    blocked.mkdir()
    monkeypatch.setenv("HALO_HOME", str(tmp_path))
    acted: list[int] = []
    with connect() as con:
        add_act(con, acted)
        with pytest.raises(halo_sql.OperationalError, match="journal"):
            con.execute("SELECT TOOL(act, 1)").fetchall()
        found = rows(con, "SELECT TOOL(act, range::INTEGER, on_error => 'null') FROM range(5)")
        assert found == [(None,)] * 5
        assert acted == []


def test_the_journal_is_for_its_owner_only_and_holds_no_secret(home: Path) -> None:
    with served(lambda seen: Answer("no", 422)) as server, connect() as con:
        con.execute(f"CREATE SECRET k (TYPE llm, API_KEY 'key-in-no-journal', BASE_URL '{server.url}/')")
        con.execute(
            f"CREATE TOOL act(n INTEGER) RETURNS INTEGER AS HTTP POST '{server.url}/a' "
            "WITH (loopback = true, side_effects = true, secret = k)"
        )
        with pytest.raises(halo_sql.OperationalError):
            con.execute("SELECT TOOL(act, 1)").fetchall()
        files = list(home.glob("journal.sqlite*"))
        assert files
        for path in files:
            assert path.stat().st_mode & 0o077 == 0
            assert b"key-in-no-journal" not in path.read_bytes()
        assert home.stat().st_mode & 0o077 == 0
