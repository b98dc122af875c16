"""Redirects: where a tool may be sent on to, and what goes along."""

from __future__ import annotations

import re
from collections.abc import Iterable

from halo_sql.errors import CatalogError, EngineError
from halo_sql.tools.http_message import Reply, Sent
from halo_sql.tools.http_url import HttpUrl, parse_url

_ANY = 0  # any port
_TO_GET = frozenset({301, 302, 303})
_SAME = frozenset({307, 308})
#: what another server may see; anything else may be a credential
_HARMLESS = frozenset({"accept", "accept-language", "content-type", "idempotency-key", "user-agent"})
_OF_BODY = frozenset({"content-type", "idempotency-key"})


class Redirects:
    """The rule of one tool.

    most   redirects of a call
    hosts  further hosts, each 'name' (any port) or 'name:port'; the tool's own server is always allowed
    """

    def __init__(self, owner: str, base: HttpUrl, most: int, hosts: Iterable[str]) -> None:
        self.most = most
        self._owner = owner
        self._base = base
        self._hosts: set[tuple[str, int]] = set()
        for host in hosts:
            try:
                url = parse_url(f"http://{host if not set(host) & set('/?#') else ''}")
            except ValueError as problem:
                raise CatalogError(f'{owner} cannot allow the host "{host}": {problem}') from None
            ported = re.search(r":[0-9]+$", host) is not None  # an IPv6 address ends in ]
            self._hosts.add((url.host, url.port if ported else _ANY))

    def next(self, sent: Sent, reply: Reply, followed: int) -> Sent | None:
        """The request that a redirect asks for; None when the answer is none.

        EngineError 'denied' when the tool may not follow it.
        """
        if reply.status not in _TO_GET | _SAME or "location" not in reply.headers:
            return None
        if followed >= self.most:
            raise self._denied(
                f"the server redirects more than {self.most} times" if self.most else "the server redirects",
                "WITH (redirects = …) allows up to 3.",
            )
        location = reply.headers["location"].encode("latin-1").decode("utf-8", "replace").strip(" \t")
        try:
            target = sent.url.joined(location)
        except ValueError as problem:
            raise self._denied(f"the server redirects to a URL that is not usable: {problem}", "") from None
        self._check(sent.url, target)
        method, body, headers = sent.method, sent.body, dict(sent.headers)
        if reply.status in _TO_GET and method != "GET":
            method, body = "GET", None
            headers = {name: value for name, value in headers.items() if name not in _OF_BODY}
        if not _same_server(sent.url, target):
            headers = {name: value for name, value in headers.items() if name in _HARMLESS}
        return Sent(method, target, headers, body)

    def _check(self, source: HttpUrl, target: HttpUrl) -> None:
        if source.scheme == "https" and target.scheme == "http":
            raise self._denied(f"the server redirects from https to {target.server}", "")
        listed = (target.host, _ANY) in self._hosts or (target.host, target.port) in self._hosts
        if not listed and not _same_server(self._base, target):
            raise self._denied(
                f"the server redirects to {target.server}, which the tool does not name",
                f"WITH (hosts = ['{target.host}']) allows it.",
            )

    def _denied(self, what: str, remedy: str) -> EngineError:
        return EngineError(f"{self._owner}: {what}", code="denied", remedy=remedy)


def _same_server(source: HttpUrl, target: HttpUrl) -> bool:
    """The same scheme, host and port, or the step from http to https on the usual ports."""
    upgrade = (source.scheme, source.port, target.scheme, target.port) == ("http", 80, "https", 443)
    return source.origin == target.origin or (source.host == target.host and upgrade)
