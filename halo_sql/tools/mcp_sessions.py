"""Sessions with MCP servers, one for each server of a run, shared by all tools that it offers."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib import metadata
from typing import TYPE_CHECKING, Any

from halo_sql.errors import EngineError
from halo_sql.tools.mcp_server import Fate, McpServer
from halo_sql.tools.protocol import RetryLaterError

if TYPE_CHECKING:
    from httpx2 import AsyncClient
    from mcp import Client
    from mcp_types import CallToolResult, Tool

CONNECT_S = 30.0
MAX_PAGES = 100
LEAST_MASKED = 8
_CLOSED = -32000  # JSON-RPC codes: of the SDK, and of the specification
_NOT_FOUND, _INVALID, _PARSE, _TIMEOUT = -32601, -32602, -32700, -32001
_BROKEN = ("BrokenResourceError", "ClosedResourceError")  # of anyio
#: what the SDK says when an HTTP answer of 400 and more holds no JSON-RPC error
_STAND_INS = ("Server returned an error response", "Not Found", "Session terminated")
_SHOWN = 500
_CLOSE_S = 10.0

#: (server, key, fate) -> the HTTP client of one connection
HttpClientFactory = Callable[[McpServer, str, Fate], "AsyncClient"]


class McpSessions:
    """The sessions of one run; made and closed on its loop.

    connect_s    limit of starting a server and greeting it
    http_client  makes the HTTP client of a connection; None: checked addresses, no proxies (``mcp_http``)
    """

    def __init__(self, connect_s: float = CONNECT_S, http_client: HttpClientFactory | None = None) -> None:
        self._connect_s = connect_s
        self._http_client = http_client
        self._known: dict[tuple[McpServer, int, str], McpSession] = {}

    def get(self, server: McpServer, key: str = "") -> McpSession:
        """The session with a server; it connects when it is first used. ``key`` is the bearer token."""
        place = (server, id(server.given), key)
        if place not in self._known:
            self._known[place] = McpSession(server, key, self._connect_s, self._http_client)
        return self._known[place]

    async def close(self) -> None:
        """End all sessions and the processes behind them; idempotent."""
        known, self._known = self._known, {}
        await asyncio.gather(*(session.close() for session in known.values()))


class McpSession:
    """One server: connected when needed, and again when the connection was lost."""

    def __init__(
        self,
        server: McpServer,
        key: str = "",
        connect_s: float = CONNECT_S,
        http_client: HttpClientFactory | None = None,
    ) -> None:
        self.server = server
        self._key = key
        self._connect_s = connect_s
        self._http_client = http_client
        self._link: _Link | None = None
        self._connecting: asyncio.Task[_Link] | None = None
        self._tools: Mapping[str, Tool] = {}
        self._closed = False

    async def tools(self) -> Mapping[str, Tool]:
        """Name -> what the server says of each of its tools. EngineError as ``call``."""
        await self._connected()
        return self._tools

    async def call(self, name: str, arguments: dict[str, Any]) -> CallToolResult:
        """Call a tool. Cancelling tells the server. EngineError for everything but a result."""
        for attempt in (0, 1):
            link = await self._connected()
            try:
                return await link.client.call_tool(name, arguments)
            except Exception as problem:
                if attempt == 0 and str(problem) == "Session terminated":
                    link.fate.ended = True  # the server forgot the session and did nothing: greet it again
                    continue
                raise self._translated(link, problem) from None
        raise AssertionError("returned or raised")

    def masked(self, text: str) -> str:
        """A text without the key; short keys are words that values may hold by chance."""
        return text if len(self._key) < LEAST_MASKED else text.replace(self._key, "***")

    async def close(self) -> None:
        """End the connection; idempotent."""
        self._closed = True
        connecting, self._connecting = self._connecting, None
        if connecting is not None and not connecting.done():
            connecting.cancel()
            await asyncio.wait({connecting})
        link, self._link = self._link, None
        if link is not None:
            await link.close()

    async def _connected(self) -> _Link:
        """The connection; all who need it wait for one attempt, which goes on when one of them is given up."""
        if self._closed:
            raise EngineError(f"the session with {self.server.shown!r} is closed", code="cancelled")
        if self._link is not None and not self._link.lost:
            return self._link
        if self._connecting is None or self._connecting.done():
            self._connecting = asyncio.create_task(self._reconnect())
            self._connecting.add_done_callback(_seen)
        connecting, own = self._connecting, asyncio.current_task()
        try:
            return await asyncio.shield(connecting)
        except asyncio.CancelledError:
            if connecting.cancelled() and (own is None or not own.cancelling()):  # by ``close``
                raise EngineError(f"the session with {self.server.shown!r} is closed", code="cancelled") from None
            raise

    async def _reconnect(self) -> _Link:
        link, self._link = self._link, None
        if link is not None:
            await link.close()
        self._link = await self._connect("auto")
        return self._link

    async def _connect(self, mode: str) -> _Link:
        try:
            import mcp  # noqa: F401
        except ImportError:
            raise EngineError(
                "MCP tools need the package mcp", code="unavailable", remedy="pip install 'mcp>=2.3,<3'"
            ) from None
        fate = Fate()
        link = _Link(self._client(mode, fate), fate)
        try:
            async with asyncio.timeout(self._connect_s):
                await link.ready()
                self._tools = await _listed(link.client)
        except TimeoutError:
            told = fate.told()
            await link.close()
            raise EngineError(
                f"MCP server {self.server.shown!r} did not answer within {self._connect_s:g} s"
                + (f" ({told})" if told else ""),
                code="timeout",
                retryable=True,
                remedy="Check that it is an MCP server.",
            ) from None
        except Exception as problem:
            await link.close()
            closed = getattr(problem, "code", 0) == _CLOSED and fate.problem is None
            if mode == "auto" and closed and self.server.kind == "command":
                return await self._connect("legacy")  # old servers may die of the question for the new protocol
            raise self._translated(link, problem, connecting=True) from None
        except BaseException:
            await link.close()
            raise
        return link

    def _client(self, mode: str, fate: Fate) -> Client:
        from mcp import Client, Implementation

        server = self.server
        if server.kind == "given":
            if isinstance(server.given, Client):
                return dataclasses.replace(server.given)  # a client is used once: each connection gets its own
            return Client(server.given, cache=None)
        if server.kind == "http":
            from mcp.client.streamable_http import streamable_http_client

            from halo_sql.tools.http_url import parse_url
            from halo_sql.tools.mcp_http import MAX_ANSWER_BYTES, http_client

            try:
                parse_url(server.target)
            except ValueError as reason:
                raise server.unavailable(f"its URL cannot be used: {reason}") from None
            http = (self._http_client or http_client)(server, self._key, fate)
            transport: Any = streamable_http_client(
                server.target, http_client=http, max_sse_event_size=MAX_ANSWER_BYTES
            )
            transport = _Both(http, transport)
        else:
            from halo_sql.tools.mcp_stdio import stdio_transport

            transport = stdio_transport(server, fate)
        _quiet()
        ours = Implementation(name="halo-sql", version=_version())
        return Client(transport, mode=mode, cache=None, client_info=ours)

    def _translated(self, link: _Link, problem: BaseException, connecting: bool = False) -> EngineError:
        """What a failure is for a tool's caller."""
        fate, shown = link.fate, self.server.shown
        problem = _first(problem)
        known, fate.problem = fate.problem, None
        if known is not None:
            return known
        if isinstance(problem, EngineError):
            return problem
        code, said = getattr(problem, "code", None), " ".join(str(problem).split())[:_SHOWN]
        status, fate.status = fate.status, 0
        if status and said in _STAND_INS:
            return self._refused(status, fate)
        if code == _CLOSED or type(problem).__name__ in _BROKEN or (link.lost and not connecting):
            cause = None if link.problem is None else _first(link.problem)
            if isinstance(cause, EngineError):
                return cause
            told = fate.told() or ("" if cause is None else f"{type(cause).__name__}: {_first_line(cause)}")
            return self.server.unavailable(
                "it ended the connection" + (f" ({told})" if told else ""),
                "Check that it is an MCP server and runs by itself." if connecting else "",
                retryable=True,
            )
        if code is not None and not connecting:
            kind = {_NOT_FOUND: "rejected", _INVALID: "rejected", _PARSE: "invalid_output", _TIMEOUT: "timeout"}
            return EngineError(said or f"error {code}", code=kind.get(code, "tool"), retryable=code == _TIMEOUT)
        if isinstance(problem, RuntimeError | ValueError) and not connecting:  # it does not fit the protocol or schema
            return EngineError(f"MCP server {shown!r}: {_first_line(problem)}", code="invalid_output")
        return self.server.unavailable(
            f"{type(problem).__name__}: {_first_line(problem)}", "Check that it is an MCP server.", retryable=True
        )

    def _refused(self, status: int, fate: Fate) -> EngineError:
        """What an HTTP status of 400 and more is."""
        shown = self.server.shown
        if status in (401, 403):
            return EngineError(
                f"MCP server {shown!r} refused the credentials (HTTP {status})",
                code="auth",
                remedy="Check the key: WITH (secret = s).",
            )
        if status == 429:
            return RetryLaterError(f"MCP server {shown!r}: too many calls", after_s=fate.after_s or 1.0)
        return self.server.unavailable(f"it answered with HTTP {status}", retryable=status >= 500)


class _Link:
    """One connection. The SDK wants it left by the task that entered it, so it has a task of its own."""

    def __init__(self, client: Client, fate: Fate) -> None:
        self.client = client
        self.fate = fate
        self.problem: BaseException | None = None
        self._over = asyncio.Event()
        self._ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._keep())

    @property
    def lost(self) -> bool:
        """Whether no more answers come."""
        return self.fate.ended or self._task.done()

    async def ready(self) -> None:
        """Wait until calls can be made; raises what came instead."""
        await asyncio.shield(self._ready)

    async def close(self) -> None:
        """Leave the connection; returns when all is released, processes too."""
        self._over.set()
        if not self._ready.done():
            self._task.cancel()  # still connecting
        done, _ = await asyncio.wait({self._task}, timeout=_CLOSE_S)
        if not done:
            self._task.cancel()
            await asyncio.wait({self._task}, timeout=_CLOSE_S)
        if self._ready.done() and not self._ready.cancelled():
            self._ready.exception()

    async def _keep(self) -> None:
        try:
            async with self.client:
                self._ready.set_result(None)
                await self._over.wait()
        except asyncio.CancelledError as problem:
            self.problem = problem
            if not self._ready.done():
                self._ready.set_exception(ConnectionError("given up"))
        except BaseException as problem:  # ExceptionGroups of the SDK's tasks
            self.problem = problem
            if not self._ready.done():
                self._ready.set_exception(_first(problem))


class _Both:
    """A transport that also closes its HTTP client."""

    def __init__(self, http: AsyncClient, transport: Any) -> None:
        self._http = http
        self._transport = transport

    async def __aenter__(self) -> Any:
        await self._http.__aenter__()
        try:
            return await self._transport.__aenter__()
        except BaseException:
            await self._http.aclose()
            raise

    async def __aexit__(self, *problem: Any) -> bool | None:
        try:
            ended: bool | None = await self._transport.__aexit__(*problem)
            return ended
        finally:
            await self._http.aclose()


async def _listed(client: Client) -> dict[str, Tool]:
    """All tools; listing them also tells the SDK the schemas that it checks results with."""
    found: dict[str, Tool] = {}
    cursor: str | None = None
    for _ in range(MAX_PAGES):
        page = await client.list_tools(cursor=cursor)
        found |= {tool.name: tool for tool in page.tools}
        cursor = page.next_cursor
        if cursor is None:
            break
    return found


def _first(problem: BaseException) -> BaseException:
    """The first exception of a group that is no cancellation."""
    while isinstance(problem, BaseExceptionGroup):
        inner = [item for item in problem.exceptions if not isinstance(item, asyncio.CancelledError)]
        problem = inner[0] if inner else problem.exceptions[0]
    return problem


def _version() -> str:
    try:
        return metadata.version("halo-sql")
    except metadata.PackageNotFoundError:  # run from its sources
        return "0"


def _seen(task: asyncio.Task[_Link]) -> None:
    if not task.cancelled():
        task.exception()  # told to whoever waits; nobody may


def _first_line(problem: BaseException) -> str:
    with suppress(Exception):
        errors = getattr(problem, "errors", None)  # of pydantic: without the values
        if callable(errors):
            found = errors(include_input=False, include_url=False, include_context=False)
            return "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in found[:3])[:_SHOWN]
        return (str(problem).strip().splitlines() or [""])[0][:_SHOWN]
    return ""


def _quiet() -> None:
    """The SDK logs, with traceback, what becomes an error of a call; without a handler that lands on the terminal."""
    logger = logging.getLogger("mcp")
    if not logger.handlers:
        logger.addHandler(logging.NullHandler())
