"""MCP tools against real servers over HTTP, good ones and broken ones."""

from __future__ import annotations

import asyncio
import shlex
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from halo_sql.errors import CatalogError, EngineError
from halo_sql.tools.mcp import McpRunner
from halo_sql.tools.mcp_server import server_of
from halo_sql.tools.mcp_sessions import McpSessions
from halo_sql.tools.protocol import RetryLaterError, Surroundings, ToolRequest

from .mcp_calls import failed
from .mcp_server import make_server

SCRIPT = Path(__file__).with_name("mcp_server.py")
COMMAND = shlex.join([sys.executable, str(SCRIPT)])


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
def test_over_http(make_mcp: Callable[..., McpRunner], stateless: bool) -> None:
    async def go() -> list[str]:
        async with serving(make_server().streamable_http_app(stateless_http=stateless)) as url:
            runner = make_mcp(url, "add", {"a": "BIGINT"}, "BIGINT", loopback=True)
            found = await asyncio.gather(*(runner.call(ToolRequest(f'{{"a": {n}}}')) for n in range(10)))
            await runner.close()
            return found

    assert asyncio.run(go()) == [str(number + 1) for number in range(10)]


def test_loopback_must_be_allowed(make_mcp: Callable[..., McpRunner]) -> None:
    problem = failed(make_mcp("http://127.0.0.1:9/mcp", "add", {"a": "BIGINT"}, "BIGINT"), '{"a": 1}')
    assert problem.code == "denied"
    assert "loopback = true" in problem.remedy
    problem = failed(
        make_mcp("http://169.254.169.254/mcp", "add", {"a": "BIGINT"}, "BIGINT", loopback=True), '{"a": 1}'
    )
    assert problem.code == "denied"


def test_nobody_listens(make_mcp: Callable[..., McpRunner]) -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{held.getsockname()[1]}/mcp"
        problem = failed(make_mcp(url, "add", {"a": "BIGINT"}, "BIGINT", loopback=True), '{"a": 1}')
    assert (problem.code, problem.retryable) == ("unavailable", True)


def test_keys_go_as_bearer_tokens(make_mcp: Callable[..., McpRunner]) -> None:
    seen: list[str] = []

    async def go() -> tuple[str, EngineError]:
        async with serving(guarded(make_server().streamable_http_app(), "key-of-the-test", seen)) as url:
            good = make_mcp(
                url, "add", {"a": "BIGINT"}, "BIGINT", loopback=True, secret="s", secret_of=lambda *_: "key-of-the-test"
            )
            found = await good.call(ToolRequest('{"a": 1}'))
            await good.close()
            echo = make_mcp(
                url, "words", {"text": "VARCHAR"}, "VARCHAR",
                loopback=True, secret="s", secret_of=lambda *_: "key-of-the-test",
            )  # fmt: skip
            assert await echo.call(ToolRequest('{"text": "key-of-the-test"}')) == '"you said ***"'
            await echo.close()
            bad = make_mcp(url, "add", {"a": "BIGINT"}, "BIGINT", loopback=True)
            with pytest.raises(EngineError) as told:
                await bad.call(ToolRequest('{"a": 1}'))
            await bad.close()
            return found, told.value

    found, problem = asyncio.run(go())
    assert found == "2"
    assert problem.code == "auth"
    assert "Bearer key-of-the-test" in seen


def test_keys_never_go_over_plain_http_or_to_commands(make_mcp: Callable[..., McpRunner]) -> None:
    asked: list[str] = []

    def secret_of(name: str, url: str) -> str:
        asked.append(url)
        return "k"

    for server in ("http://example.org/mcp", COMMAND):
        assert failed(make_mcp(server, "add", {}, "BIGINT", secret="s", secret_of=secret_of)).code == "auth"
    assert not asked

    def none(name: str, url: str) -> str:
        raise CatalogError("there is no secret s", remedy="Create it.")

    problem = failed(make_mcp("https://127.0.0.1/mcp", "add", {}, "BIGINT", secret="s", secret_of=none))
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
    make_mcp: Callable[..., McpRunner], status: int, headers: list[tuple[bytes, bytes]], body: bytes, code: str
) -> None:
    async def go() -> EngineError:
        async with serving(answering(status, headers, body)) as url:
            runner = make_mcp(url, "add", {"a": "BIGINT"}, "BIGINT", loopback=True)
            with pytest.raises(EngineError) as told:
                async with asyncio.timeout(20):
                    await runner.call(ToolRequest('{"a": 1}'))
            await runner.close()
            return told.value

    problem = asyncio.run(go())
    assert problem.code == code, problem
    assert not isinstance(problem, RetryLaterError) or problem.after_s == 7


def test_a_huge_answer_fails_only_its_own_call(make_mcp: Callable[..., McpRunner]) -> None:
    async def go() -> list[Any]:
        async with serving(make_server().streamable_http_app(json_response=True)) as url:
            sessions = McpSessions()
            huge = make_mcp(url, "huge", {"size": "BIGINT"}, "VARCHAR", sessions, loopback=True)
            slow = make_mcp(url, "slow", {"seconds": "DOUBLE"}, "VARCHAR", sessions, loopback=True)
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
