"""Connections to checked addresses, kept open between calls.

Host header, TLS server name and certificate check stay the name's; only the TCP connection goes to the address. No
proxy is ever used. The protocol is httpcore's; its pool is not used, as each request walks over all of its connections.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Any

import httpcore

from halo_sql.tools.http_address import AddressGuard
from halo_sql.tools.http_url import HttpUrl

KEEP_ALIVE_S = 5.0
#: (address, port, seconds) -> a connection; httpcore.ConnectError, httpcore.ConnectTimeout
Dial = Callable[[str, int, float | None], Awaitable[httpcore.AsyncNetworkStream]]


async def dial_tcp(address: str, port: int, timeout_s: float | None) -> httpcore.AsyncNetworkStream:
    """Connect to an address (never to a name)."""
    return await httpcore.AnyIOBackend().connect_tcp(address, port, timeout_s)


class _Quiet(logging.Filter):
    """Drops what httpcore logs of the exchanges of tools: answers as they came, which may echo a key."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record is kept."""
        return not _QUIET.get()


_QUIET: ContextVar[bool] = ContextVar("http_tool_quiet", default=False)
_FILTER = _Quiet()


class Connections:
    """The connections of one tool.

    guard        says to which addresses they go
    tls          the context of https
    timeout_s    limit of resolving and connecting, and again of the TLS handshake
    concurrency  exchanges at once; others wait
    """

    def __init__(
        self, guard: AddressGuard, dial: Dial, tls: ssl.SSLContext, *, timeout_s: float, concurrency: int
    ) -> None:
        self._guard = guard
        self._dial = dial
        self._tls = tls
        self._timeout_s = timeout_s
        self._places = asyncio.Semaphore(concurrency)
        self._idle: dict[tuple[str, str, int], list[httpcore.AsyncHTTP11Connection]] = {}
        self._closed = False
        logging.getLogger("httpcore.http11").addFilter(_FILTER)  # once, however often it is asked for

    @asynccontextmanager
    async def send(self, url: HttpUrl, request: httpcore.Request) -> AsyncIterator[httpcore.Response]:
        """Send a request to the server of ``url``; the connection is kept if the answer was read to its end.

        EngineError 'denied' by the guard; httpcore's exceptions.
        """
        async with self._places:
            connection = await self._take(url) or await self._connect(url)
            quiet = _QUIET.set(True)
            try:
                response = await connection.handle_async_request(request)
                try:
                    yield response
                finally:
                    await response.aclose()
            finally:
                await self._put_back(url, connection)
                _QUIET.reset(quiet)

    async def close(self) -> None:
        """Close those that are idle now, and the others when their exchange ends."""
        self._closed = True
        idle, self._idle = self._idle, {}
        for connections in idle.values():
            for connection in connections:
                await connection.aclose()

    async def _take(self, url: HttpUrl) -> httpcore.AsyncHTTP11Connection | None:
        """The connection used last: those that are not needed grow old."""
        idle = self._idle.get(url.origin, [])
        while idle:
            connection = idle.pop()
            if not connection.has_expired():
                return connection
            await connection.aclose()
        return None

    async def _put_back(self, url: HttpUrl, connection: httpcore.AsyncHTTP11Connection) -> None:
        if not connection.is_idle() or self._closed:
            await connection.aclose()
            return
        idle = self._idle.setdefault(url.origin, [])
        idle.append(connection)
        if idle[0].has_expired():
            await idle.pop(0).aclose()

    async def _connect(self, url: HttpUrl) -> httpcore.AsyncHTTP11Connection:
        stream: httpcore.AsyncNetworkStream = await self._reach(url.host, url.port)
        if url.scheme == "https":
            try:
                stream = await stream.start_tls(self._tls, url.host, self._timeout_s)
            except BaseException:
                await stream.aclose()
                raise
        origin = httpcore.Origin(url.scheme.encode(), url.host.encode(), url.port)
        return httpcore.AsyncHTTP11Connection(origin, WatchedStream(stream), KEEP_ALIVE_S)

    async def _reach(self, host: str, port: int) -> httpcore.AsyncNetworkStream:
        """A connection to the first of the host's checked addresses that takes it."""
        clock = asyncio.get_running_loop().time
        end = clock() + self._timeout_s
        try:
            async with asyncio.timeout_at(end):
                addresses = await self._guard.addresses(host, port)
        except TimeoutError:
            raise httpcore.ConnectTimeout(f"the name {host} was not resolved in time") from None
        except OSError as problem:
            raise httpcore.ConnectError(f"the name {host} cannot be resolved: {problem.strerror or problem}") from None
        last: Exception | None = None
        for index, address in enumerate(addresses):
            try:
                return await self._dial(address, port, max(0.0, end - clock()) / (len(addresses) - index))
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as problem:
                last = problem
        assert last is not None, "the guard gives at least one address"
        raise last


class WatchedStream(httpcore.AsyncNetworkStream):
    """A connection that knows whether anything was read since the last request went out.

    An answer without a read was made of what an earlier answer had too much: it belongs to no request.
    """

    def __init__(self, inner: httpcore.AsyncNetworkStream) -> None:
        self._inner = inner
        self.heard = False

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109 - httpcore's signature
        """The next bytes; empty at the end."""
        self.heard = True
        return await self._inner.read(max_bytes, timeout)

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109 - httpcore's signature
        """Send."""
        self.heard = False
        await self._inner.write(buffer, timeout)

    async def aclose(self) -> None:
        """Close."""
        await self._inner.aclose()

    def get_extra_info(self, info: str) -> Any:
        """What the connection below says."""
        return self._inner.get_extra_info(info)
