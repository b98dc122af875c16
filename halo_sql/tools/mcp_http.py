"""HTTP for MCP servers: checked addresses, bounded answers, no proxies; the SDK speaks through httpx2."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Iterable
from typing import Any

import httpcore2
import httpx2

from halo_sql.errors import EngineError
from halo_sql.tools.http_address import AddressGuard
from halo_sql.tools.mcp_server import Fate, McpServer

MAX_ANSWER_BYTES = 16 << 20
_CONNECT_S = 10.0


def http_client(server: McpServer, key: str, fate: Fate) -> httpx2.AsyncClient:
    """A client for one connection to a server; failures are noted in ``fate``."""
    headers = {"authorization": f"Bearer {key}"} if key else {}
    return httpx2.AsyncClient(
        headers=headers,
        timeout=httpx2.Timeout(_CONNECT_S, read=None),  # an answer may take long: the deadline is the desk's
        transport=_Transport(server, fate),
        trust_env=False,
        follow_redirects=False,
    )


class _Network(httpcore2.AsyncNetworkBackend):
    """Connects to addresses that were checked, never to a name."""

    def __init__(self, guard: AddressGuard, fate: Fate) -> None:
        self._guard = guard
        self._fate = fate
        self._inner = httpcore2.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's signature
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        try:
            addresses = await self._guard.addresses(host, port)
        except EngineError as problem:
            self._fate.problem = problem
            raise httpcore2.ConnectError(problem.message) from None
        except OSError as problem:
            raise httpcore2.ConnectError(f"the name {host} cannot be resolved: {problem.strerror}") from None
        last: Exception = httpcore2.ConnectError(f"{host} has no address")
        for address in addresses:
            try:
                return await self._inner.connect_tcp(address, port, timeout, local_address, socket_options)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as problem:
                last = problem
        raise last

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class _Transport(httpx2.AsyncHTTPTransport):
    """Notes statuses of 400 and more, and ends answers that are too long."""

    def __init__(self, server: McpServer, fate: Fate) -> None:
        super().__init__(trust_env=False)
        self._fate = fate
        self._server = server
        self._pool = httpcore2.AsyncConnectionPool(
            ssl_context=ssl.create_default_context(),
            max_connections=None,
            max_keepalive_connections=16,
            keepalive_expiry=5.0,
            network_backend=_Network(AddressGuard(f"MCP server {server.shown!r}", server.loopback), fate),
        )

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        response = await super().handle_async_request(request)
        if response.status_code >= 400 and request.method == "POST":
            self._fate.status = response.status_code
            told = response.headers.get("retry-after", "")
            self._fate.after_s = min(float(told), 3600.0) if told.isdecimal() else 0.0
        if not response.headers.get("content-type", "").lower().startswith("text/event-stream"):
            assert isinstance(response.stream, httpx2.AsyncByteStream)
            response.stream = _Bounded(response.stream, self._server, self._fate)
        return response


class TooLongError(httpx2.StreamError):
    """An answer has too many bytes; the SDK fails the one call for it."""


class _Bounded(httpx2.AsyncByteStream):
    def __init__(self, inner: httpx2.AsyncByteStream, server: McpServer, fate: Fate) -> None:
        self._inner = inner
        self._server = server
        self._fate = fate

    async def __aiter__(self) -> AsyncIterator[bytes]:
        size = 0
        async for chunk in self._inner:
            size += len(chunk)
            if size > MAX_ANSWER_BYTES:
                why = f"MCP server {self._server.shown!r}: an answer has more than {MAX_ANSWER_BYTES} bytes"
                self._fate.problem = EngineError(why, code="too_large")
                raise TooLongError(why)
            yield chunk

    async def aclose(self) -> None:
        await self._inner.aclose()
