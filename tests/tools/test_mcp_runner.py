"""MCP tools against real servers: in memory, over stdio, and broken ones."""

from __future__ import annotations

import asyncio
import json
import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from halo_sql.errors import EngineError
from halo_sql.tools.mcp import McpRunner
from halo_sql.tools.mcp_sessions import McpSessions
from halo_sql.tools.protocol import ToolRequest

from .mcp_calls import failed, run
from .mcp_server import make_server
from .processes import children

SCRIPT = Path(__file__).with_name("mcp_server.py")
COMMAND = shlex.join([sys.executable, str(SCRIPT)])


# --- values


@pytest.mark.parametrize(
    ("remote", "parameters", "returns", "arguments", "value"),
    [
        ("add", {"a": "BIGINT", "b": "BIGINT?"}, "BIGINT", '{"a": 2, "b": 5}', "7"),
        ("add", {"a": "BIGINT", "b": "BIGINT?"}, "BIGINT", '{"a": 2, "b": null}', "3"),
        ("add", {"a": "BIGINT"}, "VARCHAR", '{"a": 2}', '"3"'),
        ("add", {"a": "BIGINT"}, "JSON", '{"a": 2}', "3"),
        (
            "orders",
            {"customer": "VARCHAR"},
            "STRUCT(id BIGINT, total DOUBLE)[]",
            '{"customer": "c"}',
            '[{"id":0,"total":0.0},{"id":1,"total":1.5}]',
        ),
        (
            "order",
            {"id": "BIGINT"},
            "STRUCT(id BIGINT, total DOUBLE, note VARCHAR)",
            '{"id": 3}',
            '{"id":3,"total":2.5,"note":"for it\'s 3"}',
        ),
        ("words", {"text": "VARCHAR"}, "VARCHAR", '{"text": "hé"}', '"you said hé"'),
        ("plain_json", {"text": "VARCHAR"}, "DATE", '{"text": "2024-02-29"}', '"2024-02-29"'),
        ("plain_json", {"text": "VARCHAR"}, "BIGINT[]", '{"text": "[1, 2]"}', "[1,2]"),
        ("plain_json", {"text": "VARCHAR"}, "BIGINT", '{"text": "12"}', "12"),
        ("plain_json", {"text": "VARCHAR"}, "VARCHAR", '{"text": "12"}', '"12"'),
        ("plain_json", {"text": "VARCHAR"}, "JSON", '{"text": "no json"}', '"no json"'),
        (
            "plain_json",
            {"text": "VARCHAR"},
            "STRUCT(a BIGINT, b BIGINT)",
            '{"text": "{\\"a\\": 1}"}',
            '{"a":1,"b":null}',
        ),
    ],
)
def test_results_fit_the_declared_type(
    make_mcp: Callable[..., McpRunner],
    remote: str,
    parameters: dict[str, str],
    returns: str,
    arguments: str,
    value: str,
) -> None:
    assert run(make_mcp(make_server(), remote, parameters, returns), arguments) == [value]


def test_errors_of_a_tool(make_mcp: Callable[..., McpRunner]) -> None:
    problem = failed(make_mcp(make_server(), "fail", {"message": "VARCHAR"}, "VARCHAR"), '{"message": "no\\nway"}')
    assert problem.code == "tool"
    assert "no way" in problem.message
    problem = failed(make_mcp(make_server(), "picture", {}, "VARCHAR"))
    assert (problem.code, "an image" in problem.message) == ("invalid_output", True)
    problem = failed(make_mcp(make_server(), "words", {"text": "VARCHAR"}, "BIGINT"), '{"text": "x"}')
    assert problem.code == "invalid_output"
    assert problem.message == 'tool "my_tool" returned a wrong value: wanted BIGINT, got str'
    assert failed(make_mcp(make_server(), "add", {"a": "VARCHAR"}, "BIGINT"), '{"a": "x"}').code == "tool"


def test_a_tool_that_is_not_there(make_mcp: Callable[..., McpRunner]) -> None:
    problem = failed(make_mcp(make_server(), "ad", {}, "VARCHAR"))
    assert (problem.code, problem.remedy) == ("unavailable", 'Did you mean "add"?')


def test_a_client_of_the_users_is_used_again_and_again(make_mcp: Callable[..., McpRunner]) -> None:
    from mcp import Client

    client = Client(make_server())
    for _ in range(2):
        assert run(make_mcp(client, "add", {"a": "BIGINT"}, "BIGINT"), '{"a": 2}') == ["3"]


# --- over stdio


def test_over_stdio(make_mcp: Callable[..., McpRunner], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CANARY", "secret of the parent")
    before = children()
    runner = make_mcp(COMMAND, "environment", {}, "MAP(VARCHAR, VARCHAR)", env={"OWN": "given"})
    (value,) = run(runner, "{}")
    found = json.loads(str(value))
    assert found["OWN"] == "given"
    assert "CANARY" not in found
    assert {"PATH"} <= set(found)
    assert children() <= before


def test_tools_of_a_server_share_one_process_and_calls_run_side_by_side(make_mcp: Callable[..., McpRunner]) -> None:
    async def go() -> tuple[set[str], float]:
        sessions = McpSessions()
        runners = [make_mcp(COMMAND, "pid", {}, "BIGINT", sessions) for _ in range(2)]
        slow = make_mcp(COMMAND, "slow", {"seconds": "DOUBLE"}, "VARCHAR", sessions)
        await slow.start()
        begun = time.monotonic()
        await asyncio.gather(*(slow.call(ToolRequest('{"seconds": 2}')) for _ in range(20)))
        took = time.monotonic() - begun
        found = {await runner.call(ToolRequest("{}")) for runner in runners}
        for runner in (*runners, slow):
            await runner.close()
        assert await runners[0].call(ToolRequest("{}")) in found  # the session outlives the runners
        await sessions.close()
        return found, took

    found, took = asyncio.run(go())
    assert len(found) == 1
    assert took < 20  # one after the other they would take 40


def test_a_session_that_died_is_begun_again(make_mcp: Callable[..., McpRunner]) -> None:
    async def go() -> tuple[EngineError, str, str]:
        sessions = McpSessions()
        pid = make_mcp(COMMAND, "pid", {}, "BIGINT", sessions)
        leave = make_mcp(COMMAND, "leave", {}, "BIGINT", sessions)
        first = await pid.call(ToolRequest("{}"))
        with pytest.raises(EngineError) as told:
            await leave.call(ToolRequest("{}"))
        second = await pid.call(ToolRequest("{}"))
        await sessions.close()
        return told.value, first, second

    problem, first, second = asyncio.run(go())
    assert (problem.code, problem.retryable) == ("unavailable", True)
    assert "exit code 7" in problem.message
    assert first != second


def test_cancelling_ends_a_call_and_not_the_session(make_mcp: Callable[..., McpRunner]) -> None:
    async def go() -> tuple[str, str]:
        sessions = McpSessions()
        pid = make_mcp(COMMAND, "pid", {}, "BIGINT", sessions)
        slow = make_mcp(COMMAND, "slow", {"seconds": "DOUBLE"}, "VARCHAR", sessions)
        first = await pid.call(ToolRequest("{}"))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await slow.call(ToolRequest('{"seconds": 60}'))
        second = await pid.call(ToolRequest("{}"))
        await sessions.close()
        return first, second

    first, second = asyncio.run(go())
    assert first == second


BROKEN = [
    ("closes", ("unavailable",), "cannot find its settings"),
    ("garbage", ("unavailable",), "no message"),
    ("silent", ("timeout",), "did not answer within 1.5 s"),
    ("ids", ("timeout",), "did not answer"),
    ("version", ("unavailable",), "ersion"),
    ("dies", ("unavailable",), "out of luck"),
    ("shapeless", ("invalid_output",), "content"),
    ("endless line", ("too_large",), "16777216 bytes"),
    ("error", ("rejected",), "no such thing"),
]


@pytest.mark.parametrize(("way", "codes", "word"), BROKEN)
def test_broken_servers_give_typed_errors_and_leave_nothing(
    make_mcp: Callable[..., McpRunner], way: str, codes: tuple[str, ...], word: str
) -> None:
    before = children()

    async def go() -> EngineError:
        sessions = McpSessions(connect_s=1.5 if way in ("silent", "ids") else 30)
        runner = make_mcp(f"{COMMAND} {way}", "t", {}, "VARCHAR", sessions)
        try:
            with pytest.raises(EngineError) as told:
                await runner.call(ToolRequest("{}"))
        finally:
            await sessions.close()
        return told.value

    begun = time.monotonic()
    problem = asyncio.run(go())
    assert problem.code in codes, problem
    assert word in problem.message
    assert "\n" not in problem.message
    assert time.monotonic() - begun < 20
    assert children() <= before


def test_log_lines_between_messages_are_skipped(make_mcp: Callable[..., McpRunner]) -> None:
    assert run(make_mcp(f"{COMMAND} chatty", "t", {}, "VARCHAR"), "{}", "{}") == ['"ok"', '"ok"']


def test_a_deadline_while_the_server_starts_does_not_start_it_again(make_mcp: Callable[..., McpRunner]) -> None:
    async def go() -> str:
        sessions = McpSessions()
        runner = make_mcp(COMMAND, "pid", {}, "BIGINT", sessions)
        for _ in range(3):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.02):
                    await runner.start()
        seen = children()
        found = await runner.call(ToolRequest("{}"))
        assert int(found) in seen
        await sessions.close()
        return found

    asyncio.run(go())


@pytest.mark.parametrize(
    ("command", "word"),
    [("no-such-program --x", "no such program"), ("'unclosed", "cannot be read"), (" ", "empty")],
)
def test_commands_that_cannot_run(make_mcp: Callable[..., McpRunner], command: str, word: str) -> None:
    problem = failed(make_mcp(command, "t", {}, "VARCHAR"))
    assert problem.code == "unavailable"
    assert word in problem.message


def test_no_shell_reads_the_command(make_mcp: Callable[..., McpRunner], tmp_path: Path) -> None:
    note = tmp_path / "note"
    failed(make_mcp(f"true; touch {note}", "t", {}, "VARCHAR"))
    failed(make_mcp(f"true $(touch {note}) && touch {note}", "t", {}, "VARCHAR"))
    assert not note.exists()


def test_a_server_dies_with_its_parent(tmp_path: Path) -> None:
    import signal
    import subprocess

    note = tmp_path / "pid"
    script = f"""
import asyncio, pathlib
from halo_sql.tools.mcp_server import McpServer
from halo_sql.tools.mcp_sessions import McpSession
async def go():
    session = McpSession(McpServer({COMMAND!r}))
    found = await session.call("pid", {{}})
    pathlib.Path({str(note)!r}).write_text(str(found.structured_content["result"]))
    await session.call("slow", {{"seconds": 600}})
asyncio.run(go())
"""
    parent = subprocess.Popen([sys.executable, "-c", script])
    deadline = time.monotonic() + 90
    while (not note.exists() or not note.read_text()) and time.monotonic() < deadline:
        time.sleep(0.02)
    stat = Path(f"/proc/{note.read_text()}/stat")
    assert stat.exists()
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    while stat.exists() and stat.read_text().rpartition(")")[2].split()[0] not in "ZX":
        assert time.monotonic() < deadline
        time.sleep(0.02)
