"""Functions that fail as tools, through whole statements: each row by its on_error, the rest goes on, nothing twice."""

from __future__ import annotations

import asyncio
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

import halo_sql

from .agents_support import children, connect, rows, totals
from .tool_deeds import DEEDS, deed


@pytest.mark.parametrize(
    ("way", "on_error"),
    [("thread", "struct"), ("loop", "null"), ("loop", "struct"), ("loop", "fail"), ("process", "struct")],
)
def test_functions(way: str, on_error: str, tmp_path: Path) -> None:
    called = tmp_path / "called"

    def note(what: str) -> None:
        with called.open("a") as file:
            file.write(f"{what}\n")

    def in_thread(what: str) -> int:
        note(what)
        if what == "hangs":
            time.sleep(2.5)
        found: int = deed(what)
        return found

    async def on_loop(what: str) -> int:
        note(what)
        if what == "hangs":
            await asyncio.sleep(30)
        found: int = deed(what)
        return found

    with connect() as con:
        if way == "process":
            (tmp_path / "deeds_of_a_child.py").write_text(CHILD.format(called=str(called)))
            sys.path.insert(0, str(tmp_path))
            con.execute(
                "CREATE TOOL t(what VARCHAR) RETURNS INTEGER AS PYTHON 'deeds_of_a_child:act' "
                "WITH (timeout_s = 4, max_retries = 1)"
            )
            con.execute("SELECT TOOL(t, 'ok')").fetchall()  # a process takes its time to start
            called.unlink()
        else:
            con.create_tool("t", in_thread if way == "thread" else on_loop, timeout_s=1, max_retries=1)
        con.execute("CREATE TABLE t AS SELECT unnest(?::VARCHAR[]) AS what", [[*DEEDS, "ok"]])
        statement = f"SELECT what, TOOL(t, what, on_error => '{on_error}') FROM t"
        try:
            if on_error == "fail":
                with pytest.raises(halo_sql.OperationalError, match="TOOL\\("):
                    con.execute(statement).fetchall()
                con.execute("SELECT TOOL(t, 'ok')").fetchall()  # the connection goes on
                return
            found = rows(con, statement)
        finally:
            if way == "process":
                sys.path.remove(str(tmp_path))
        assert [what for what, _ in found] == [*DEEDS, "ok"]
        for what, value in found:
            said = DEEDS[what]
            wanted = 7 if what == "ok" else None
            if on_error == "null":
                assert value == wanted
            elif said is None:
                assert value == {"value": wanted, "error": None}
            else:
                assert value["value"] is None
                assert "\n" not in value["error"]
                if way == "loop" or what != "hangs":
                    assert any(part in value["error"] for part in (*said.split("|"), "SystemExit")), (what, value)
        made = Counter(called.read_text().split("\n")[:-1])
        tried = made.pop("hangs")
        assert tried == 2 if way != "process" else tried <= 2  # a new process may take all of an attempt's time
        assert made == {what: 1 for what in DEEDS if what != "hangs"}
        assert totals(con)["errors"] == sum(said is not None for said in DEEDS.values())
        assert totals(con)["tool_calls"] == len(DEEDS)


CHILD = """
from __future__ import annotations
import time
from typing import Any
from tests.session.tool_deeds import deed

def act(what: str) -> Any:
    with open({called!r}, "a") as file:
        file.write(what + "\\n")
    if what == "hangs":
        time.sleep(30)
    return deed(what)
"""


def test_a_process_that_dies_takes_no_other_row_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mortal.py").write_text(
        "import os, signal, time, ctypes\n"
        "def live(n: int) -> int:\n"
        "    if n % 10 == 3: os._exit(1)\n"
        "    if n % 10 == 5: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    if n % 10 == 7: time.sleep(60)\n"
        "    return n\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    before = children()
    with connect() as con:
        con.execute(
            "CREATE TOOL live(n INTEGER) RETURNS INTEGER AS PYTHON 'mortal:live' WITH (timeout_s = 2, max_retries = 0)"
        )
        found = rows(con, "SELECT range, TOOL(live, range, on_error => 'struct') FROM range(10)")
        for number, item in found:
            if number % 10 in (3, 5, 7):
                assert item["value"] is None
                assert ("timeout_s" if number % 10 == 7 else "ended in the middle of a call") in item["error"]
            else:
                assert item == {"value": number, "error": None}
        assert totals(con)["errors"] == 3
        assert children() <= before
