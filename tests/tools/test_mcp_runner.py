"""MCP tools against real servers: in memory, over stdio, over HTTP, and broken ones."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import socket
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from halo_sql.catalog.objects import Parameter, ToolDef
from halo_sql.duck import Duck
from halo_sql.errors import CatalogError, EngineError
from halo_sql.tools.mcp import McpRunner
from halo_sql.tools.mcp_server import server_of
from halo_sql.tools.mcp_sessions import McpSessions
from halo_sql.tools.protocol import BoundTool, RetryLaterError, Surroundings, ToolRequest

from .mcp_server import make_server

SCRIPT = Path(__file__).with_name("mcp_server.py")
COMMAND = shlex.join([sys.executable, str(SCRIPT)])


@pytest.fixture(scope="module")
def duck() -> Any:
    found = Duck.connect(":memory:", False, {})
    yield found
    found.close()


@pytest.fixture
def make(duck: Duck) -> Callable[..., McpRunner]:
    def runner(
        server: Any, remote: str, parameters: dict[str, str], returns: str, sessions: Any = None, **options: Any
    ) -> McpRunner:
        body, functions = (server, {}) if isinstance(server, str) else ("orders", {"orders": server})
        secret = options.pop("secret_of", None)
        declared = tuple(
            Parameter(name, kind.removesuffix("?"), "NULL" if kind.endswith("?") else None)
            for name, kind in parameters.items()
        )
        tool = ToolDef("my_tool", "mcp", body, declared, returns, remote=remote, options=options)
        types = tuple((item.name, duck.sql_type(item.type)) for item in declared)
        bound = BoundTool(tool, types, duck.sql_type(returns))
        return McpRunner(bound, Surroundings(secret or (lambda *_: ""), functions), sessions)

    return runner


def run(runner: McpRunner, *arguments: str) -> list[str | EngineError]:
    async def go() -> list[str | EngineError]:
        found: list[str | EngineError] = []
        try:
            for text in arguments:
                try:
                    found.append(await runner.call(ToolRequest(text)))
                except EngineError as problem:
                    found.append(problem)
        finally:
            await runner.close()
        return found

    return asyncio.run(go())


def failed(runner: McpRunner, arguments: str = "{}") -> EngineError:
    (problem,) = run(runner, arguments)
    assert isinstance(problem, EngineError), problem
    return problem


def children() -> set[int]:
    found = set()
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            if int(entry.read_text().rpartition(")")[2].split()[1]) == os.getpid():
                found.add(int(entry.parent.name))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


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
    make: Callable[..., McpRunner], remote: str, parameters: dict[str, str], returns: str, arguments: str, value: str
) -> None:
    assert run(make(make_server(), remote, parameters, returns), arguments) == [value]


def test_errors_of_a_tool(make: Callable[..., McpRunner]) -> None:
    problem = failed(make(make_server(), "fail", {"message": "VARCHAR"}, "VARCHAR"), '{"message": "no\\nway"}')
    assert problem.code == "tool"
    assert "no way" in problem.message
    problem = failed(make(make_server(), "picture", {}, "VARCHAR"))
    assert (problem.code, "an image" in problem.message) == ("invalid_output", True)
    problem = failed(make(make_server(), "words", {"text": "VARCHAR"}, "BIGINT"), '{"text": "x"}')
    assert problem.code == "invalid_output"
    assert problem.message == 'tool "my_tool" returned a wrong value: wanted BIGINT, got str'
    assert failed(make(make_server(), "add", {"a": "VARCHAR"}, "BIGINT"), '{"a": "x"}').code == "tool"


def test_a_tool_that_is_not_there(make: Callable[..., McpRunner]) -> None:
    problem = failed(make(make_server(), "ad", {}, "VARCHAR"))
    assert (problem.code, problem.remedy) == ("unavailable", 'Did you mean "add"?')


def test_a_client_of_the_users_is_used_again_and_again(make: Callable[..., McpRunner]) -> None:
    from mcp import Client

    client = Client(make_server())
    for _ in range(2):
        assert run(make(client, "add", {"a": "BIGINT"}, "BIGINT"), '{"a": 2}') == ["3"]


# --- over stdio


def test_over_stdio(make: Callable[..., McpRunner], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CANARY", "secret of the parent")
    before = children()
    runner = make(COMMAND, "environment", {}, "MAP(VARCHAR, VARCHAR)", env={"OWN": "given"})
    (value,) = run(runner, "{}")
    found = json.loads(str(value))
    assert found["OWN"] == "given"
    assert "CANARY" not in found
    assert {"PATH"} <= set(found)
    assert children() <= before


def test_tools_of_a_server_share_one_process_and_calls_run_side_by_side(make: Callable[..., McpRunner]) -> None:
    async def go() -> tuple[set[str], float]:
        sessions = McpSessions()
        runners = [make(COMMAND, "pid", {}, "BIGINT", sessions) for _ in range(2)]
        slow = make(COMMAND, "slow", {"seconds": "DOUBLE"}, "VARCHAR", sessions)
        await slow.start()
        begun = time.monotonic()
        await asyncio.gather(*(slow.call(ToolRequest('{"seconds": 0.3}')) for _ in range(20)))
        took = time.monotonic() - begun
        found = {await runner.call(ToolRequest("{}")) for runner in runners}
        for runner in (*runners, slow):
            await runner.close()
        assert await runners[0].call(ToolRequest("{}")) in found  # the session outlives the runners
        await sessions.close()
        return found, took

    found, took = asyncio.run(go())
    assert len(found) == 1
    assert took < 3  # one after the other would take 6


def test_a_session_that_died_is_begun_again(make: Callable[..., McpRunner]) -> None:
    async def go() -> tuple[EngineError, str, str]:
        sessions = McpSessions()
        pid = make(COMMAND, "pid", {}, "BIGINT", sessions)
        leave = make(COMMAND, "leave", {}, "BIGINT", sessions)
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


def test_cancelling_ends_a_call_and_not_the_session(make: Callable[..., McpRunner]) -> None:
    async def go() -> tuple[str, str]:
        sessions = McpSessions()
        pid = make(COMMAND, "pid", {}, "BIGINT", sessions)
        slow = make(COMMAND, "slow", {"seconds": "DOUBLE"}, "VARCHAR", sessions)
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
    make: Callable[..., McpRunner], way: str, codes: tuple[str, ...], word: str
) -> None:
    before = children()

    async def go() -> EngineError:
        sessions = McpSessions(connect_s=1.5 if way in ("silent", "ids") else 30)
        runner = make(f"{COMMAND} {way}", "t", {}, "VARCHAR", sessions)
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


def test_log_lines_between_messages_are_skipped(make: Callable[..., McpRunner]) -> None:
    assert run(make(f"{COMMAND} chatty", "t", {}, "VARCHAR"), "{}", "{}") == ['"ok"', '"ok"']


def test_a_deadline_while_the_server_starts_does_not_start_it_again(make: Callable[..., McpRunner]) -> None:
    async def go() -> str:
        sessions = McpSessions()
        runner = make(COMMAND, "pid", {}, "BIGINT", sessions)
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
def test_commands_that_cannot_run(make: Callable[..., McpRunner], command: str, word: str) -> None:
    problem = failed(make(command, "t", {}, "VARCHAR"))
    assert problem.code == "unavailable"
    assert word in problem.message


def test_no_shell_reads_the_command(make: Callable[..., McpRunner], tmp_path: Path) -> None:
    note = tmp_path / "note"
    failed(make(f"true; touch {note}", "t", {}, "VARCHAR"))
    failed(make(f"true $(touch {note}) && touch {note}", "t", {}, "VARCHAR"))
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
    deadline = time.monotonic() + 30
    while (not note.exists() or not note.read_text()) and time.monotonic() < deadline:
        time.sleep(0.02)
    stat = Path(f"/proc/{note.read_text()}/stat")
    assert stat.exists()
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    while stat.exists() and stat.read_text().rpartition(")")[2].split()[0] not in "ZX":
        assert time.monotonic() < deadline
        time.sleep(0.02)


# --- over HTTP


@asynccontextmanager
async def serving(app: Any) -> AsyncIterator[str]:
    """A uvicorn server on 127.0.0.1."""
    uvicorn = pytest.importorskip("uvicorn", reason="needs uvicorn, which the vllm extra brings")
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="critical", ws="none"))
    task = asyncio.create_task(server.serve(sockets=[listening]))
    while not server.started:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/mcp"
    finally:
        server.should_exit = True
        server.force_exit = True
        await task
        listening.close()


Receive = Callable[[], Awaitable[Any]]


def guarded(app: Any, key: str, seen: list[str]) -> Any:
    """The app behind a bearer token."""

    async def call(scope: Any, receive: Receive, send: Any) -> None:
        if scope["type"] == "http":
            sent = dict(scope["headers"]).get(b"authorization", b"").decode()
            seen.append(sent)
            if sent != f"Bearer {key}":
                await send({"type": "http.response.start", "status": 401, "headers": []})
                await send({"type": "http.response.body", "body": b""})
                return
        await app(scope, receive, send)

    return call


@pytest.mark.parametrize("stateless", [False, True])
def test_over_http(make: Callable[..., McpRunner], stateless: bool) -> None:
    async def go() -> list[str]:
        async with serving(make_server().streamable_http_app(stateless_http=stateless)) as url:
            runner = make(url, "add", {"a": "BIGINT"}, "BIGINT", loopback=True)
            found = await asyncio.gather(*(runner.call(ToolRequest(f'{{"a": {n}}}')) for n in range(10)))
            await runner.close()
            return found

    assert asyncio.run(go()) == [str(number + 1) for number in range(10)]


def test_loopback_must_be_allowed(make: Callable[..., McpRunner]) -> None:
    problem = failed(make("http://127.0.0.1:9/mcp", "add", {"a": "BIGINT"}, "BIGINT"), '{"a": 1}')
    assert problem.code == "denied"
    assert "loopback = true" in problem.remedy
    problem = failed(make("http://169.254.169.254/mcp", "add", {"a": "BIGINT"}, "BIGINT", loopback=True), '{"a": 1}')
    assert problem.code == "denied"


def test_nobody_listens(make: Callable[..., McpRunner]) -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{held.getsockname()[1]}/mcp"
        problem = failed(make(url, "add", {"a": "BIGINT"}, "BIGINT", loopback=True), '{"a": 1}')
    assert (problem.code, problem.retryable) == ("unavailable", True)


def test_keys_go_as_bearer_tokens(make: Callable[..., McpRunner]) -> None:
    seen: list[str] = []

    async def go() -> tuple[str, EngineError]:
        async with serving(guarded(make_server().streamable_http_app(), "key-of-the-test", seen)) as url:
            good = make(
                url, "add", {"a": "BIGINT"}, "BIGINT", loopback=True, secret="s", secret_of=lambda *_: "key-of-the-test"
            )
            found = await good.call(ToolRequest('{"a": 1}'))
            await good.close()
            echo = make(
                url, "words", {"text": "VARCHAR"}, "VARCHAR",
                loopback=True, secret="s", secret_of=lambda *_: "key-of-the-test",
            )  # fmt: skip
            assert await echo.call(ToolRequest('{"text": "key-of-the-test"}')) == '"you said ***"'
            await echo.close()
            bad = make(url, "add", {"a": "BIGINT"}, "BIGINT", loopback=True)
            with pytest.raises(EngineError) as told:
                await bad.call(ToolRequest('{"a": 1}'))
            await bad.close()
            return found, told.value

    found, problem = asyncio.run(go())
    assert found == "2"
    assert problem.code == "auth"
    assert "Bearer key-of-the-test" in seen


def test_keys_never_go_over_plain_http_or_to_commands(make: Callable[..., McpRunner]) -> None:
    asked: list[str] = []

    def secret_of(name: str, url: str) -> str:
        asked.append(url)
        return "k"

    for server in ("http://example.org/mcp", COMMAND):
        assert failed(make(server, "add", {}, "BIGINT", secret="s", secret_of=secret_of)).code == "auth"
    assert not asked

    def none(name: str, url: str) -> str:
        raise CatalogError("there is no secret s", remedy="Create it.")

    problem = failed(make("https://127.0.0.1/mcp", "add", {}, "BIGINT", secret="s", secret_of=none))
    assert (problem.code, problem.remedy) == ("auth", "Create it.")


def answering(status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> Any:
    async def call(scope: Any, receive: Receive, send: Any) -> None:
        if scope["type"] != "http":
            return
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    return call


@pytest.mark.parametrize(
    ("status", "headers", "body", "code"),
    [
        (429, [(b"retry-after", b"7")], b"", "rate_limit"),
        (503, [], b"", "unavailable"),
        (404, [], b"", "unavailable"),
        (302, [(b"location", b"http://169.254.169.254/")], b"", "unavailable"),
        (200, [(b"content-type", b"text/html")], b"<html>", "unavailable"),
        (200, [(b"content-type", b"application/json")], b"{", "unavailable"),
    ],
)
def test_http_servers_that_are_no_mcp_servers(
    make: Callable[..., McpRunner], status: int, headers: list[tuple[bytes, bytes]], body: bytes, code: str
) -> None:
    async def go() -> EngineError:
        async with serving(answering(status, headers, body)) as url:
            runner = make(url, "add", {"a": "BIGINT"}, "BIGINT", loopback=True)
            with pytest.raises(EngineError) as told:
                async with asyncio.timeout(20):
                    await runner.call(ToolRequest('{"a": 1}'))
            await runner.close()
            return told.value

    problem = asyncio.run(go())
    assert problem.code == code, problem
    assert not isinstance(problem, RetryLaterError) or problem.after_s == 7


def test_a_huge_answer_fails_only_its_own_call(make: Callable[..., McpRunner]) -> None:
    async def go() -> list[Any]:
        async with serving(make_server().streamable_http_app(json_response=True)) as url:
            sessions = McpSessions()
            huge = make(url, "huge", {"size": "BIGINT"}, "VARCHAR", sessions, loopback=True)
            slow = make(url, "slow", {"seconds": "DOUBLE"}, "VARCHAR", sessions, loopback=True)
            found = await asyncio.gather(
                slow.call(ToolRequest('{"seconds": 1}')),
                huge.call(ToolRequest('{"size": 20000000}')),
                return_exceptions=True,
            )
            await sessions.close()
            return found

    fine, problem = asyncio.run(go())
    assert fine == '"awake"'
    assert isinstance(problem, EngineError)
    assert problem.code == "too_large"


def test_messages_hold_no_keys() -> None:
    surroundings = Surroundings(lambda *_: "")
    assert "k1" not in server_of("https://example.org/mcp?key=k1", {}, surroundings).shown
    assert "k1" not in server_of("server --key k1", {}, surroundings).shown
