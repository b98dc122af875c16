"""Batches whose statements act: interrupted and run again nothing acts twice, and nothing is left out."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

import halo_sql

from .agents_support import connect, until
from .batch_support import batch
from .test_side_effects import IN_DOUBT, entries

ROWS = 5


class Acting:
    """A connection with ``act``, which keeps what it did, and a model that hangs while it is ``shut``.

    hangs  numbers that ``act`` begins and does not end while it is shut
    """

    def __init__(self, con: halo_sql.Connection) -> None:
        self.con = con
        self.acted: list[int] = []
        self.hangs: set[int] = set()
        self.fails: set[int] = set()
        self.shut = False
        self.hanging = 0

        async def act(n: int) -> int:
            if n in self.fails:
                raise ValueError(f"not {n}")
            if n in self.hangs and self.shut:
                await self._hang()
            self.acted.append(n)
            return 10 * n

        async def model(messages: list[dict[str, str]]) -> str:
            if self.shut:
                await self._hang()
            return messages[-1]["content"]

        con.create_tool("act", act, side_effects=True, egress=False, concurrency=1)
        con.create_model("slow", model)
        con.execute(f"CREATE TABLE t AS SELECT range::INTEGER AS n FROM range({ROWS})")

    async def _hang(self) -> None:
        self.hanging += 1
        await asyncio.sleep(60)

    def interrupted(self, statements: list[str]) -> None:
        """Run a batch and interrupt it when something hangs."""
        self.shut, self.hanging = True, 0
        thread = threading.Thread(target=self._interrupt)
        thread.start()
        with pytest.raises(halo_sql.Error, match="Interrupted"):
            self.con.execute_batch(statements)
        thread.join()
        self.shut = False

    def _interrupt(self) -> None:
        until(lambda: self.hanging)
        self.con.interrupt()

    def counts(self) -> Counter[int]:
        return Counter(self.acted)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "home"
    monkeypatch.setenv("HALO_HOME", str(folder))
    return folder


@pytest.fixture
def acting(home: Path) -> Iterator[Acting]:
    with connect() as con:
        yield Acting(con)


ACT = "SELECT n, TOOL(act, n) AS x FROM t ORDER BY n"
SLOW = "SELECT LLM_MAP('{{ n }}', model => 'slow') AS y FROM t ORDER BY n"
ACTED = [(n, 10 * n) for n in range(ROWS)]


def rows_of(found: list[tuple[object, ...]]) -> list[object]:
    return [rows for _, rows in found]


def test_what_ended_before_an_interrupt_is_not_done_again(acting: Acting, home: Path) -> None:
    statements = [ACT, SLOW, ACT.replace("FROM t", "FROM t WHERE n > 2")]
    acting.interrupted(statements)
    assert acting.counts() == dict.fromkeys(range(ROWS), 1)
    assert {state for state, *_ in entries(home)} == {"done"}
    found = rows_of(batch(acting.con, statements))
    assert found == [ACTED, [(str(n),) for n in range(ROWS)], ACTED[3:]]
    assert acting.counts() == {0: 1, 1: 1, 2: 1, 3: 2, 4: 2}
    assert entries(home) == []
    batch(acting.con, statements)  # it ended well: it acts anew
    assert acting.counts() == {0: 2, 1: 2, 2: 2, 3: 4, 4: 4}


def test_equal_statements_act_each_once(acting: Acting, home: Path) -> None:
    statements = [ACT, ACT, SLOW, ACT]
    acting.interrupted(statements)
    assert acting.counts() == dict.fromkeys(range(ROWS), 2)
    acting.interrupted(statements)
    assert acting.counts() == dict.fromkeys(range(ROWS), 2)
    found = rows_of(batch(acting.con, statements))
    assert [found[place] for place in (0, 1, 3)] == [ACTED] * 3
    assert acting.counts() == dict.fromkeys(range(ROWS), 3)
    assert entries(home) == []


def test_an_interrupt_in_the_midst_of_acting_leaves_what_is_in_doubt_to_be_decided(acting: Acting, home: Path) -> None:
    acting.hangs = {3}
    statements = [ACT, "SELECT n, TOOL(act, n + 100) AS x FROM t ORDER BY n"]
    acting.interrupted(statements)
    assert acting.acted == [0, 1, 2]
    found = batch(acting.con, statements)
    assert found[0][0] == "EngineError"
    assert IN_DOUBT in str(found[0][1])
    assert acting.counts()[3] == 0
    assert rows_of(found)[1] == [(n, 10 * (n + 100)) for n in range(ROWS)]
    with sqlite3.connect(home / "journal.sqlite") as file:  # what the error says: it did not act
        assert file.execute("DELETE FROM calls WHERE state = 'failed'").rowcount == 1
    file.close()
    assert rows_of(batch(acting.con, statements[:1])) == [ACTED]
    assert acting.counts() == dict.fromkeys([*range(ROWS), *range(100, 100 + ROWS)], 1)
    assert entries(home) == []


def test_a_statement_that_fails_goes_on_where_it_was_and_the_others_are_done_with(acting: Acting, home: Path) -> None:
    acting.fails = {3}
    other = "SELECT TOOL(act, n + 100) AS x FROM t ORDER BY n"
    found = batch(acting.con, [other, ACT, "SELECT 1 AS one"])
    assert [rows[0] == "EngineError" for rows in found] == [False, True, False]
    first = acting.counts()
    assert first[3] == 0
    left = {state for state, *_ in entries(home)}
    assert left == {"done", "failed"}
    assert all(int(arguments.strip("{}").split(":")[1]) < 100 for _, arguments, *_ in entries(home))
    with pytest.raises(halo_sql.Error, match=IN_DOUBT):
        acting.con.execute(ACT)
    first |= acting.counts()  # the one behind it may have been under way, or not
    assert max(first.values()) == 1
    batch(acting.con, [other])
    assert acting.counts() - first == Counter(range(100, 100 + ROWS))


def test_rows_written_from_what_acted_are_whole(acting: Acting, home: Path) -> None:
    acting.con.execute("CREATE TABLE kept (x INTEGER)")
    statements = ["INSERT INTO kept SELECT TOOL(act, n) FROM t", SLOW, "SELECT count(*), sum(x) FROM kept"]
    acting.interrupted(statements)
    assert acting.con.execute("SELECT sum(x) FROM kept").fetchall() == [(100,)]
    found = batch(acting.con, ["DELETE FROM kept", *statements])
    assert found[-1][1] == [(ROWS, 100)]
    assert acting.counts() == dict.fromkeys(range(ROWS), 1)
    assert entries(home) == []


def test_agents_that_act_in_several_statements(acting: Acting, home: Path) -> None:
    acting.con.execute("CREATE TEMP AGENT g WITH (tools = [act], egress = [act])")
    script = """'[{"tool": "act", "arguments": {"n": ' || n || '}}, {"answer": "$result"}]'"""
    agents = f"SELECT AGENT(g, {script}) AS x FROM t ORDER BY n"
    statements = [agents, ACT, SLOW, agents]
    acting.interrupted(statements)
    assert acting.counts() == dict.fromkeys(range(ROWS), 2)
    found = rows_of(batch(acting.con, statements))
    assert found[0] == found[3] == [(str(10 * n),) for n in range(ROWS)]
    assert acting.counts() == dict.fromkeys(range(ROWS), 3)
    assert entries(home) == []


@pytest.mark.parametrize("in_transaction", [False, True])
def test_a_text_with_a_batch_is_as_good_as_a_list(acting: Acting, home: Path, in_transaction: bool) -> None:
    script = f"BEGIN BATCH; {ACT}; {SLOW}; {ACT}; END BATCH"
    acting.shut = True
    thread = threading.Thread(target=acting._interrupt)
    thread.start()
    if in_transaction:
        acting.con.execute("BEGIN")
    with pytest.raises(halo_sql.Error, match="Interrupted"):
        acting.con.execute(script)
    thread.join()
    acting.shut = False
    if in_transaction:
        acting.con.execute("ROLLBACK")
    assert acting.counts() == dict.fromkeys(range(ROWS), 1)
    assert acting.con.execute(script).fetchall() == ACTED
    assert acting.counts() == dict.fromkeys(range(ROWS), 2)
    assert entries(home) == []
