"""Which MCP server a tool belongs to, and what went wrong with the connection to it."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from halo_sql.errors import EngineError, Error
from halo_sql.tools.protocol import Surroundings

_STDERR_CHARS = 2000
_SHOWN = 200
_LOOPBACK = ("127.0.0.1", "::1", "localhost")


@dataclass(frozen=True, slots=True)
class McpServer:
    """A server and how to reach it.

    target    a URL, a command line, or the name under which ``given`` was registered
    given     an MCPServer, Server or Client of the user's
    env       environment variables of a command, beside PATH, HOME and LANG
    secret    name of the SECRET whose key goes to a URL as a bearer token
    loopback  a URL may lead to this machine
    """

    target: str
    given: Any = field(default=None, compare=False)
    env: tuple[tuple[str, str], ...] = ()
    secret: str = ""
    loopback: bool = False

    @property
    def kind(self) -> str:
        """'given' | 'http' | 'command'."""
        if self.given is not None:
            return "given"
        return "http" if self.target.lower().startswith(("http://", "https://")) else "command"

    @property
    def shown(self) -> str:
        """It in messages: a URL without its query, which may hold a key; a command without its arguments."""
        if self.kind == "http":
            return self.target.partition("?")[0].partition("#")[0][:_SHOWN]
        return self.target.split()[0][:_SHOWN] if self.kind == "command" and self.target.split() else self.target

    def command(self) -> list[str]:
        """The words of the command line. EngineError('unavailable') when it has none; a shell never reads it."""
        try:
            words = shlex.split(self.target)
        except ValueError as problem:
            raise self.unavailable(f"its command line cannot be read: {problem}") from None
        if not words or "\0" in self.target:
            raise self.unavailable("its command line is empty", "AS MCP takes a URL or a command line.")
        return words

    def key(self, surroundings: Surroundings) -> str:
        """The key of its secret, or ''. EngineError('auth') when there is none or it must not be sent."""
        if not self.secret:
            return ""
        if self.kind != "http":
            raise EngineError(
                f"MCP server {self.shown!r} is no URL: a secret cannot be sent to it",
                code="auth",
                remedy="Give a command what it needs with WITH (env = {'NAME': 'value'}).",
            )
        from urllib.parse import urlsplit

        parts = urlsplit(self.target)
        if parts.scheme.lower() == "http" and parts.hostname not in _LOOPBACK:
            raise EngineError(
                f"the key of secret {self.secret!r} is not sent over plain http", code="auth", remedy="Use https."
            )
        try:
            return surroundings.secret(self.secret, self.target)
        except Error as problem:
            raise EngineError(problem.message, code="auth", remedy=problem.remedy) from None

    def unavailable(self, what: str, remedy: str = "", retryable: bool = False) -> EngineError:
        """EngineError('unavailable') that names the server."""
        return EngineError(f"MCP server {self.shown!r}: {what}", code="unavailable", retryable=retryable, remedy=remedy)


def server_of(target: str, options: Mapping[str, object], surroundings: Surroundings, name: str = "") -> McpServer:
    """The server that AS MCP and WITH (…) name; ``name`` is the tool's, under which an object may be registered."""
    given = surroundings.functions.get(target.lower(), surroundings.functions.get(name.lower()) if name else None)
    env = options.get("env") or {}
    if isinstance(env, str):
        try:
            env = json.loads(env)
        except ValueError:
            env = None
    if not isinstance(env, Mapping) or not all(isinstance(key, str) and key for key in env):
        raise EngineError('option "env" is no object', code="rejected", remedy="Write {'NAME': 'value'}.")
    loopback = options.get("loopback", False)
    return McpServer(
        target if given is None or target else name,
        given,
        tuple(sorted((key, str(value)) for key, value in env.items())),
        str(options.get("secret") or ""),
        loopback.lower() == "true" if isinstance(loopback, str) else bool(loopback),
    )


@dataclass(slots=True)
class Fate:
    """What a connection met; written by its transport, read when a call fails.

    problem   the error that calls get for it
    ended     no more answers come
    how       how the process ended
    garbage   the first line on its standard output that was no message
    stderr    the end of its standard error
    status    the last HTTP status of 400 and more, 0: none
    after_s   what Retry-After said with it
    """

    problem: EngineError | None = None
    ended: bool = False
    how: str = ""
    garbage: str = ""
    stderr: str = ""
    status: int = 0
    after_s: float = 0.0

    def heard(self, text: str) -> None:
        """More standard error."""
        self.stderr = (self.stderr + text)[-_STDERR_CHARS:]

    def told(self) -> str:
        """What may explain a failure: the last line of standard error, or what stood where messages should."""
        lines = [line.strip() for line in self.stderr.splitlines() if line.strip()]
        parts = [self.how] if self.how else []
        if lines:
            parts.append("it said: " + lines[-1][:_SHOWN])
        if self.garbage:
            parts.append(f"its standard output holds what is no message: {self.garbage!r}")
        return "; ".join(parts)
