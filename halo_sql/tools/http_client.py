"""Exchanges over HTTP/1.1 on guarded connections, with a limit on what is read.

httpcore is what httpx stands on. Below httpx there are no cookies between calls, no proxies and no netrc of the
environment, no redirects and no second parser of the URL.
"""

from __future__ import annotations

import os
import ssl
import zlib
from functools import lru_cache

import httpcore
import httpx

from halo_sql.errors import EngineError
from halo_sql.tools.http_address import AddressGuard
from halo_sql.tools.http_message import Reply, Sent
from halo_sql.tools.http_network import Connections, Dial, WatchedStream
from halo_sql.tools.http_url import HttpUrl

MAX_ERROR_BYTES = 65_536  # read of a body that is no value
_BROKEN = "sent a broken answer"


class HttpClient:
    """The connections of one tool.

    owner        the tool as errors name it
    timeout_s    limit of connecting, of each read and of each write
    concurrency  connections at once
    max_bytes    a longer answer is refused
    """

    def __init__(
        self, owner: str, guard: AddressGuard, dial: Dial, *, timeout_s: float, concurrency: int, max_bytes: int
    ) -> None:
        self._owner = owner
        self._max_bytes = max_bytes
        self._timeouts = dict.fromkeys(("read", "write"), timeout_s)
        tls = _tls(os.environ.get("SSL_CERT_FILE", ""), os.environ.get("SSL_CERT_DIR", ""))
        self._connections = Connections(guard, dial, tls, timeout_s=timeout_s, concurrency=concurrency)

    async def close(self) -> None:
        """Close the connections."""
        await self._connections.close()

    async def exchange(self, sent: Sent) -> Reply:
        """Send a request and read the answer; no redirect is followed.

        EngineError: 'denied' (by the guard), 'unavailable' (not reached), 'timeout', 'tool' (broken HTTP),
        'too_large', 'rejected' (a request that HTTP cannot carry). The body of anything but 2xx is cut, not refused.
        """
        url = sent.url
        headers = {"host": url.authority, "accept-encoding": "gzip", **sent.headers}
        if sent.body is not None:
            headers["content-length"] = str(len(sent.body))
        request = httpcore.Request(
            sent.method,
            httpcore.URL(scheme=url.scheme, host=url.host, port=url.port, target=url.target),
            headers=[(name.encode(), value.encode("latin-1")) for name, value in headers.items()],
            content=sent.body,
            extensions={"timeout": self._timeouts},
        )
        try:
            async with self._connections.send(url, request) as response:
                stream = response.extensions.get("network_stream")
                if isinstance(stream, WatchedStream) and not stream.heard:
                    raise self._broken(url, "it belongs to no request")
                return await self._read(url, response)
        except httpcore.TimeoutException as problem:
            what = "cannot be reached" if isinstance(problem, httpcore.ConnectTimeout) else "does not answer"
            raise self._error(url, f"{what} in time", "timeout") from None
        except httpcore.NetworkError as problem:
            raise self._unreached(url, problem) from None
        except httpcore.LocalProtocolError:
            raise EngineError("the request cannot be sent over HTTP", code="rejected") from None
        except httpcore.ProtocolError as problem:
            if "without sending a response" in str(problem):
                raise self._error(url, "closed the connection without an answer", "unavailable") from None
            raise self._broken(url, str(problem).partition(": bytearray")[0]) from None  # without what was sent

    async def _read(self, url: HttpUrl, response: httpcore.Response) -> Reply:
        headers: dict[str, str] = {}
        for name, value in response.headers:
            headers.setdefault(name.decode("ascii", "replace").lower(), value.decode("latin-1"))
        status = response.status
        good = 200 <= status < 300
        most = self._max_bytes if good else MAX_ERROR_BYTES
        coding = headers.get("content-encoding", "identity").strip().lower()
        inflate = _Inflate() if coding in ("gzip", "x-gzip") else None
        if inflate is None and coding not in ("identity", ""):
            if not good:
                return Reply(status, headers, b"")  # the status says enough
            raise self._error(url, "sent a content-encoding other than gzip", "tool", retry=False)
        declared = headers.get("content-length", "")
        if good and inflate is None and declared.isdecimal() and int(declared[:20]) > most:
            raise self._too_large(url)
        body, raw_bytes = bytearray(), 0
        async for chunk in response.aiter_stream():
            raw_bytes += len(chunk)
            try:
                body += chunk if inflate is None else inflate.feed(chunk, most - len(body))
            except zlib.error:
                if not good:
                    return Reply(status, headers, b"")
                raise self._broken(url, "its gzip data is damaged") from None
            if len(body) > most or raw_bytes > most + MAX_ERROR_BYTES:
                if good:
                    raise self._too_large(url)
                return Reply(status, headers, bytes(body[:most]))
        if good and inflate is not None and raw_bytes and not inflate.complete:
            raise self._broken(url, "its gzip data ends early")
        return Reply(status, headers, bytes(body))

    def _too_large(self, url: HttpUrl) -> EngineError:
        return EngineError(
            f"{self._owner}: the server {url.server} sent more than {self._max_bytes} bytes",
            code="too_large",
            remedy="Ask for less, or raise WITH (max_bytes = …).",
        )

    def _broken(self, url: HttpUrl, detail: str) -> EngineError:
        return self._error(url, f"{_BROKEN} ({detail[:200]})", "tool")

    def _unreached(self, url: HttpUrl, problem: Exception) -> EngineError:
        cause: BaseException | None = problem
        while cause is not None and not isinstance(cause, ssl.SSLError):
            cause = cause.__cause__ or cause.__context__
        if isinstance(cause, ssl.SSLCertVerificationError):
            return self._error(url, f"has no valid certificate ({cause.verify_message})", "unavailable", retry=False)
        detail = str(problem) or type(problem).__name__
        return self._error(url, f"cannot be reached ({detail[:200]})", "unavailable")

    def _error(self, url: HttpUrl, what: str, code: str, retry: bool = True) -> EngineError:
        return EngineError(f"{self._owner}: the server {url.server} {what}", code=code, retryable=retry)


class _Inflate:
    """Decompresses gzip, never more than is asked for: a bomb costs what the limit allows."""

    def __init__(self) -> None:
        self._member = zlib.decompressobj(31)

    def feed(self, data: bytes, room: int) -> bytearray:
        """What a piece unpacks to, at most ``room`` + 1 bytes."""
        out = bytearray()
        while data and len(out) <= room:
            if self._member.eof:
                if not data.strip(b"\0"):  # padding
                    break
                self._member = zlib.decompressobj(31)
            out += self._member.decompress(data, room + 1 - len(out))
            data = self._member.unconsumed_tail or self._member.unused_data
        return out

    @property
    def complete(self) -> bool:
        """Whether the data ended where it should."""
        return self._member.eof


@lru_cache(maxsize=4)
def _tls(cert_file: str, cert_dir: str) -> ssl.SSLContext:
    """The context for https; reading the certificates takes tens of milliseconds, so once for each source of them."""
    context = httpx.create_ssl_context()
    context.set_alpn_protocols(["http/1.1"])
    return context
