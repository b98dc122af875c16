"""The runner of HTTP tools: one request per call, to public addresses only.

Options of WITH (…): ``headers`` (object of templates), ``body`` (template of a POST), ``path`` (where in a JSON answer
the value lies), ``secret`` (its key is sent as a bearer token), ``timeout_s``, ``concurrency``, ``max_bytes`` (size of
an answer, unpacked), ``redirects`` (0 … 3), ``hosts`` (further hosts that redirects may lead to), ``loopback`` (this
machine is allowed; other private addresses never are).

A NULL that is the whole value of a query component, form field or header leaves that out; in JSON it is null;
anywhere else the call is rejected.
"""

from __future__ import annotations

import asyncio
import json
import re
from typing import TYPE_CHECKING, Any

from halo_sql.engines.openai_wire import clean, error_text
from halo_sql.engines.options import Option, checked, takes
from halo_sql.engines.retry import retry_after_s
from halo_sql.errors import CatalogError, EngineError, Error
from halo_sql.tools.http_address import AddressGuard, Resolver, literal, system_resolver
from halo_sql.tools.http_content import BodyTemplate, HeaderTemplates
from halo_sql.tools.http_message import Reply, Sent
from halo_sql.tools.http_redirect import Redirects
from halo_sql.tools.http_target import UrlTemplate
from halo_sql.tools.http_template import read_arguments
from halo_sql.tools.http_url import HttpUrl
from halo_sql.tools.http_value import ValueReader
from halo_sql.tools.json_path import JsonPath
from halo_sql.tools.limits import limits_of
from halo_sql.tools.protocol import BoundTool, RetryLaterError, Surroundings, ToolRequest

if TYPE_CHECKING:
    from halo_sql.tools.http_client import HttpClient
    from halo_sql.tools.http_network import Dial

_OPTIONS = {
    option.name: option
    for option in (
        Option("headers", "object", {}, ""),
        Option("body", "text", None, ""),
        Option("path", "text", None, ""),
        Option("secret", "text", None, ""),
        Option("loopback", "boolean", False, ""),
        Option("redirects", "integer", 3, "", 0, 3),
        Option("max_bytes", "integer", 1 << 20, "", 1, 1 << 30),
    )
}
_KEY = re.compile(r"[\x21-\x7e]+")
_SHOWN = 300  # characters of an error body
_SHORTEST = 4  # shorter keys are no secrets
_LEAST_MASKED = 8  # shorter ones are words that values may hold by chance
_UNAVAILABLE = frozenset({502, 503, 504})


class HttpRunner:
    """Makes the calls of one HTTP tool.

    resolver  names to addresses; called once for each new connection at most
    dial      opens a connection to a checked address; None: over TCP

    CatalogError for a definition that cannot work.
    """

    beside = True  # its calls are made outside this process: a virtual clock stands meanwhile

    def __init__(
        self,
        tool: BoundTool,
        surroundings: Surroundings,
        *,
        resolver: Resolver = system_resolver,
        dial: Dial | None = None,
    ) -> None:
        definition, names = tool.tool, [name for name, _ in tool.parameters]
        owner = self._owner = f'tool "{tool.name}"'
        self._names = [name.lower() for name in names]
        self._method = definition.method.upper() or "GET"
        if self._method not in ("GET", "POST"):
            raise CatalogError(f"{owner} has the method {self._method}", remedy="Use GET or POST.")
        self._url = UrlTemplate(definition.body, names, owner)
        self._headers = HeaderTemplates(self._option(tool, "headers"), names, owner)
        body = self._option(tool, "body")
        if body is not None and self._method == "GET":
            raise CatalogError(f"{owner}: a GET has no body", remedy="Use AS HTTP POST.")
        posts = self._method == "POST"
        self._body = BodyTemplate(body, self._headers.content_type, names, owner) if posts else None
        path = self._option(tool, "path")
        self._value = ValueReader(tool, None if path is None else JsonPath(path), owner)
        self._loopback = self._option(tool, "loopback")
        self._secret: str | None = self._option(tool, "secret")
        self._secret_of = surroundings.secret
        hosts = tool.options.get("hosts", [])
        if not isinstance(hosts, list | tuple):
            raise CatalogError(f'option "hosts" of {owner} has a wrong value', remedy="It takes a list of host names.")
        self._redirects = Redirects(owner, self._url.base, self._option(tool, "redirects"), map(str, hosts))
        self._guard = AddressGuard(owner, self._loopback, resolver)
        self._dial = dial
        limits = limits_of(tool)
        self._limits: dict[str, Any] = {
            "timeout_s": limits.timeout_s,
            "concurrency": limits.concurrency,
            "max_bytes": self._option(tool, "max_bytes"),
        }
        self._lock = asyncio.Lock()
        self._client: HttpClient | None = None

    def _option(self, tool: BoundTool, name: str) -> Any:
        known, given = _OPTIONS[name], tool.options.get(name)
        try:
            return known.default if given is None else checked(known, given)
        except ValueError:
            raise CatalogError(f'option "{name}" of {self._owner} has a wrong value', remedy=takes(known)) from None

    async def start(self) -> None:
        """Make ready; connects to nothing."""
        async with self._lock:
            if self._client is None:
                self._client = await asyncio.to_thread(self._open)  # imports, certificates

    def _open(self) -> HttpClient:
        from halo_sql.tools.http_client import HttpClient
        from halo_sql.tools.http_network import dial_tcp

        return HttpClient(self._owner, self._guard, self._dial or dial_tcp, **self._limits)

    async def close(self) -> None:
        """Close the connections."""
        async with self._lock:
            client, self._client = self._client, None
            if client is not None:
                await client.close()

    async def call(self, request: ToolRequest) -> str:
        """The value as JSON text. Errors as ``Runner.call``; a 429 or 503 that says when is a RetryLaterError."""
        if self._client is None:
            await self.start()
        assert self._client is not None, "started"
        sent, key = self._request(request)
        try:
            value = await self._exchange(self._client, sent, key)
        except EngineError as problem:  # some servers echo their requests
            problem.message = self._masked(problem.message, key)
            problem.args = (problem.message,)
            raise
        return value if len(key) < _LEAST_MASKED else _without(value, key)

    async def _exchange(self, client: HttpClient, sent: Sent, key: str) -> str:
        followed = 0
        reply = await client.exchange(sent)
        while (further := self._redirects.next(sent, reply, followed)) is not None:
            sent, followed = further, followed + 1
            reply = await client.exchange(sent)
        if not 200 <= reply.status < 300:
            raise self._refused(sent.url, reply, key)
        return self._value.read(reply)

    def _request(self, request: ToolRequest) -> tuple[Sent, str]:
        """The first request of a call, and the key in it ('': none)."""
        arguments = dict.fromkeys(self._names, "null") | read_arguments(request.arguments)
        url = self._url.render(arguments)
        headers = {"accept": "application/json, */*;q=0.5", "user-agent": "halo-sql", **self._headers.render(arguments)}
        if request.key:
            headers["idempotency-key"] = request.key
        body = None
        if self._body is not None:
            body = self._body.render(arguments, request.arguments)
            headers["content-type"] = self._body.content_type
        key = self._key(url)
        if key:
            headers["authorization"] = f"Bearer {key}"
        return Sent(self._method, url, headers, body), key

    def _key(self, url: HttpUrl) -> str:
        if self._secret is None:
            return ""
        address = literal(url.host)
        here = self._loopback and (url.host == "localhost" or (address is not None and address.is_loopback))
        if url.scheme != "https" and not here:
            raise EngineError(
                f'{self._owner}: the key of secret "{self._secret}" is not sent over plain http',
                code="denied",
                remedy="Use an https:// URL.",
            )
        try:
            key = self._secret_of(self._secret, url.bare)
        except EngineError:
            raise
        except Error as problem:
            raise EngineError(problem.message, code="auth", remedy=problem.remedy) from None
        if not _KEY.fullmatch(key):
            raise EngineError(
                f'{self._owner}: the key of secret "{self._secret}" holds characters that no header can hold',
                code="auth",
                remedy="CREATE OR REPLACE SECRET with the key alone, without blanks or line breaks.",
            )
        return key

    def _masked(self, text: str, key: str) -> str:
        """An error's text without the key and without what looks like one among the headers."""
        for hidden in self._headers.keys:
            text = text if len(hidden) < _LEAST_MASKED else _without(text, hidden)
        return text if len(key) < _SHORTEST else _without(text, key)

    def _refused(self, url: HttpUrl, reply: Reply, key: str) -> EngineError:
        status = reply.status
        said = self._masked(clean(" ".join(error_text(reply.body).split())), key)
        said = said if len(said) <= _SHOWN else said[: _SHOWN - 3] + "..."
        text = f"{self._owner}: the server {url.server} answered {status}" + (f": {said}" if said else "")
        if status in (401, 403):
            return EngineError(text, code="auth", remedy="Check WITH (secret = …) and what its key may use.")
        if status in (408, 429) or status >= 500:
            code = {429: "rate_limit", 408: "timeout"}.get(status, "unavailable" if status in _UNAVAILABLE else "tool")
            after_s = retry_after_s(reply.headers.get("retry-after")) if status in (429, 503) else None
            if after_s is not None:
                return RetryLaterError(text, after_s=after_s, code=code)
            return EngineError(text, code=code, retryable=True)
        return EngineError(text, code="rejected" if status >= 400 else "tool")


def _without(text: str, key: str) -> str:
    """The text without a key, in any case, also where it is spelled as a JSON string, or as one in a JSON text."""
    lowered = text.lower()
    quoted = json.dumps(key)[1:-1]
    for spelling in {key, quoted, json.dumps(quoted)[1:-1]}:
        if spelling.lower() in lowered:
            text = re.sub(re.escape(spelling), "***", text, flags=re.IGNORECASE)
    return text
