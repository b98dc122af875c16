"""The connection to an MCP server that is a command: JSON-RPC, a message a line, over its standard streams.

The SDK's own transport has no limit on a line, keeps no standard error and does not outlive a kill of this process
cleanly; this one does the same job on ``Child``.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any

import anyio
from mcp.shared.message import SessionMessage
from mcp_types import jsonrpc_message_adapter

from halo_sql.errors import EngineError
from halo_sql.tools.child import Child, how_it_ended, tied
from halo_sql.tools.mcp_server import Fate, McpServer

MAX_LINE_BYTES = 16 << 20
MAX_GARBAGE_LINES = 1000
_INHERITED = ("PATH", "HOME", "LANG")
_FLUSH_S = 0.3
_GRACE_S = 1.0


@asynccontextmanager
async def stdio_transport(server: McpServer, fate: Fate) -> AsyncIterator[tuple[Any, Any]]:
    """Start the command, yield the SDK's streams, end the command; ``fate`` tells what became of it."""
    words = server.command()
    env = {name: os.environ[name] for name in _INHERITED if name in os.environ} | dict(server.env)
    program = shutil.which(words[0], path=env.get("PATH"))
    if program is None:
        raise server.unavailable(
            "there is no such program", "AS MCP takes a URL or a command line whose first word is on PATH."
        )
    process = _Process(server, fate, tied(program, words), env)
    await process.open()
    try:
        yield process.to_client, process.from_client
    finally:
        stopping = asyncio.ensure_future(process.stop())
        try:
            await asyncio.shield(stopping)
        except asyncio.CancelledError:
            process.child.kill()
            raise


class _Process:
    """A server's process and the tasks that move messages."""

    def __init__(self, server: McpServer, fate: Fate, command: list[str], env: dict[str, str]) -> None:
        self._server = server
        self._fate = fate
        inputs, outputs, errors = os.pipe(), os.pipe(), os.pipe()
        theirs, self._ours = (inputs[0], outputs[1], errors[1]), [inputs[1], outputs[0], errors[0]]
        try:
            self.child = Child(command, stdin=theirs[0], stdout=theirs[1], stderr=theirs[2], env=env)
        except BaseException:
            for descriptor in self._ours:
                os.close(descriptor)
            raise
        finally:
            for descriptor in theirs:
                os.close(descriptor)
        self._to_session, self.to_client = anyio.create_memory_object_stream[Any](0)
        self.from_client, self._from_session = anyio.create_memory_object_stream[Any](0)
        self._transports: list[asyncio.BaseTransport] = []
        self._tasks: list[asyncio.Task[None]] = []

    async def open(self) -> None:
        """Attach the pipes to the loop."""
        loop = asyncio.get_running_loop()
        files = [
            os.fdopen(descriptor, mode, 0) for descriptor, mode in zip(self._ours, ("wb", "rb", "rb"), strict=True)
        ]
        sending, writing = await loop.connect_write_pipe(asyncio.streams.FlowControlMixin, files[0])
        writer = asyncio.StreamWriter(sending, writing, None, loop)
        readers = []
        self._transports.append(sending)
        for file in files[1:]:
            reader = asyncio.StreamReader()
            protocol = asyncio.StreamReaderProtocol(reader)
            transport, _ = await loop.connect_read_pipe(partial(_same, protocol), file)
            self._transports.append(transport)
            readers.append(reader)
        self._tasks = [
            asyncio.create_task(self._send(writer)),
            asyncio.create_task(self._receive(readers[0])),
            asyncio.create_task(self._listen(readers[1])),
        ]

    async def stop(self) -> None:
        """Close its input, give it a moment, kill it; everything is released."""
        self.to_client.close()
        self.from_client.close()
        await asyncio.wait({self._tasks[0]}, timeout=_FLUSH_S)
        self._tasks[0].cancel()
        await self.child.end(_GRACE_S)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for stream in (self._to_session, self._from_session):
            stream.close()
        for transport in self._transports:
            if not transport.is_closing():
                transport.close()

    async def _send(self, writer: asyncio.StreamWriter) -> None:
        try:
            async for message in self._from_session:
                text = message.message.model_dump_json(by_alias=True, exclude_unset=True)
                writer.write(text.encode("utf-8", "replace") + b"\n")
                await writer.drain()
        except ConnectionError:
            pass  # the server is gone: its output ends too
        finally:
            writer.close()  # the protocol's way to ask for the end

    async def _receive(self, reader: asyncio.StreamReader) -> None:
        with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
            await self._lines(reader)
        with suppress(asyncio.TimeoutError):  # how it ended belongs to the message
            async with asyncio.timeout(_FLUSH_S):
                self._fate.how = how_it_ended(await asyncio.shield(self.child.exited))
                await asyncio.wait({self._tasks[2]})
        self._fate.ended = True
        self._to_session.close()  # whoever waits for an answer learns that none comes

    async def _lines(self, reader: asyncio.StreamReader) -> None:
        buffer = bytearray()
        garbage = 0
        while chunk := await reader.read(1 << 16):
            start = len(buffer)
            buffer += chunk
            if (end := buffer.rfind(b"\n", start)) >= 0:
                for line in bytes(buffer[:end]).split(b"\n"):
                    garbage += not await self._deliver(line.strip())
                del buffer[: end + 1]
            if len(buffer) > MAX_LINE_BYTES:
                self._give_up(f"an answer has more than {MAX_LINE_BYTES} bytes", "too_large")
                return
            if garbage > MAX_GARBAGE_LINES:
                self._give_up("its standard output holds what is no message", "unavailable")
                return

    async def _deliver(self, line: bytes) -> bool:
        if not line:
            return True
        try:
            message = jsonrpc_message_adapter.validate_json(line, by_name=False)
        except ValueError:  # a log line of a careless server: the next one may be a message
            self._fate.garbage = self._fate.garbage or line[:80].decode("utf-8", "replace")
            return False
        await self._to_session.send(SessionMessage(message))
        return True

    def _give_up(self, why: str, code: str) -> None:
        self._fate.problem = EngineError(f"MCP server {self._server.shown!r}: {why}", code=code)
        self.child.kill()

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        while chunk := await reader.read(4096):
            self._fate.heard(chunk.decode("utf-8", "replace"))


def _same(protocol: asyncio.StreamReaderProtocol) -> asyncio.StreamReaderProtocol:
    return protocol
