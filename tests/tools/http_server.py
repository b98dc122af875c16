"""A real HTTP/1.1 server on 127.0.0.1 that counts what reaches it, and makers of HTTP tools for it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import httpcore

from halo_sql.catalog.objects import ToolDef
from halo_sql.errors import EngineError
from halo_sql.ir.types import BIGINT, DOUBLE, VARCHAR, SqlType
from halo_sql.tools.http import HttpRunner
from halo_sql.tools.http_network import dial_tcp
from halo_sql.tools.protocol import BoundTool, Surroundings, ToolRequest

PUBLIC = "93.184.216.34"
JSON_TYPE = SqlType("JSON", "json")
TYPES = {"VARCHAR": VARCHAR, "BIGINT": BIGINT, "DOUBLE": DOUBLE, "JSON": JSON_TYPE}


@dataclass(frozen=True)
class Seen:
    """A request as it came: ``target`` is the text of the request line, header names are in lower case."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]


@dataclass(frozen=True)
class Answer:
    """What to answer. ``raw`` is sent as it is, then the connection is closed."""

    body: bytes | str = b""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    delay_s: float = 0.0
    raw: bytes | None = None


def json_answer(value: object, status: int = 200, **headers: str) -> Answer:
    """A JSON body."""
    return Answer(json.dumps(value), status, {"content-type": "application/json", **headers})


def redirect(location: str, status: int = 302) -> Answer:
    """A redirect."""
    return Answer("", status, {"location": location})


Handler = Callable[[Seen], Answer | Awaitable[Answer]]


def echo(seen: Seen) -> Answer:
    """What was asked, as JSON."""
    return json_answer({"method": seen.method, "target": seen.target, "body": seen.body.decode("latin-1")})


class HttpServer:
    """``async with HttpServer(handler) as server``; ``seen`` are the requests, ``connections`` how often it was met."""

    def __init__(self, handler: Handler = echo, tls: ssl.SSLContext | None = None) -> None:
        self.seen: list[Seen] = []
        self.connections = 0
        self.open = 0
        self.port = 0
        self._handler = handler
        self._tls = tls
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[Any]] = set()

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._tls, backlog=1024)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *details: object) -> None:
        assert self._server is not None
        self._server.close()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        self.open += 1
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
                while await self._exchange(reader, writer):
                    pass
        finally:
            self.open -= 1
            self._tasks.discard(task)
            writer.close()
            with contextlib.suppress(OSError, asyncio.CancelledError):
                await writer.wait_closed()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head.rstrip("\r\n").split("\r\n")
        method, target, _ = first.split(" ")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        seen = Seen(method, target, headers, body)
        self.seen.append(seen)
        found = self._handler(seen)
        answer = found if isinstance(found, Answer) else await found
        if answer.delay_s:
            await asyncio.sleep(answer.delay_s)
        if answer.raw is not None:
            writer.write(answer.raw)
            await writer.drain()
            return False
        content = answer.body.encode() if isinstance(answer.body, str) else answer.body
        headers = {"content-length": str(len(content)), **answer.headers}
        lines = [f"HTTP/1.1 {answer.status} Reason", *(f"{name}: {value}" for name, value in headers.items())]
        writer.write("\r\n".join([*lines, "", ""]).encode("latin-1") + content)
        await writer.drain()
        return True


class Names:
    """A name server whose answers are a script: the last one stays."""

    def __init__(self, *answers: list[str]) -> None:
        self.asked: list[str] = []
        self._answers = list(answers)

    async def __call__(self, host: str, port: int) -> list[str]:
        self.asked.append(host)
        return self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]


class Wire:
    """A network on which PUBLIC is a local server; says which addresses were dialled.

    ports  its port for ports of PUBLIC; others go to ``port``
    """

    def __init__(self, port: int, **ports: int) -> None:
        self.dialled: list[tuple[str, int]] = []
        self._port = port
        self._ports = ports

    async def __call__(self, address: str, port: int, timeout_s: float | None) -> httpcore.AsyncNetworkStream:
        self.dialled.append((address, port))
        if address != PUBLIC:
            return await dial_tcp(address, port, timeout_s)
        return await dial_tcp("127.0.0.1", self._ports.get(f"p{port}", self._port), timeout_s)


def tool(
    url: str,
    *,
    method: str = "GET",
    parameters: Sequence[str] = (),
    returns: str = "JSON",
    columns: Sequence[str] = (),
    **options: object,
) -> BoundTool:
    """An HTTP tool; its arguments are VARCHAR, its columns too."""
    rows = SqlType("ROWS", "list", (("", SqlType("ROW", "struct", tuple((name, VARCHAR) for name in columns))),))
    definition = ToolDef(
        "orders",
        "http",
        url,
        method=method,
        returns="" if columns else returns,
        columns=tuple((name, "VARCHAR") for name in columns),
        options=options,
    )
    return BoundTool(definition, tuple((name, VARCHAR) for name in parameters), rows if columns else TYPES[returns])


def no_secret(name: str, url: str) -> str:
    """There are no secrets."""
    raise AssertionError(f"asked for {name}, {url}")


def runner(bound: BoundTool, secret: Callable[[str, str], str] = no_secret, **parts: Any) -> HttpRunner:
    """A runner of it."""
    return HttpRunner(bound, Surroundings(secret), **parts)


async def ask(made: HttpRunner, key: str = "", /, **arguments: object) -> Any:
    """One call on a runner of its own: the parsed value, or the EngineError."""
    try:
        return json.loads(await made.call(ToolRequest(json.dumps(arguments), key)))
    except EngineError as problem:
        return problem
    finally:
        await made.close()


def run(work: Coroutine[Any, Any, Any]) -> Any:
    """Run it on a loop of its own."""
    return asyncio.run(work)


def exchanged(
    handler: Handler, at: str = "/", /, *, arguments: Mapping[str, object] | None = None, key: str = "", **given: Any
) -> tuple[Any, list[Seen]]:
    """One call of a tool at a server of its own: the value or the error, and what the server saw."""

    async def work() -> tuple[Any, list[Seen]]:
        async with HttpServer(handler) as server:
            names = tuple(arguments or ())
            made = runner(tool(server.url + at, parameters=names, **{"loopback": True, **given}))
            value = await ask(made, key, **(arguments or {}))
        return value, server.seen

    found: tuple[Any, list[Seen]] = run(work())
    return found


def answered(answer: Answer, **given: Any) -> Any:
    """The value of one call that is answered like this."""
    return exchanged(lambda seen: answer, **given)[0]


def text_answered(answer: Answer, **given: Any) -> str:
    """The value's JSON text as the runner gives it."""

    async def work() -> str:
        async with HttpServer(lambda seen: answer) as server:
            made = runner(tool(server.url, loopback=True, **given))
            try:
                return await made.call(ToolRequest("{}"))
            finally:
                await made.close()

    found: str = run(work())
    return found
