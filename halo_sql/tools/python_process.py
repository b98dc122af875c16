"""Worker processes of a Python tool: a call that hangs is killed, a crash ends only its own call."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from halo_sql.errors import EngineError
from halo_sql.tools.child import LIFELINE, Child, how_it_ended
from halo_sql.tools.protocol import BoundTool
from halo_sql.tools.python_worker import LENGTH_BYTES, pack, type_to_list

_MAX_FRAME_BYTES = 256 << 20
_END_S = 0.5
# As ``python -m``, from where this package lies, which need not be on the path of a new process.
_PACKAGES = str(Path(__file__).resolve().parents[2])
_MAIN = "import sys; sys.path.insert(0, sys.argv[3]); from halo_sql.tools.python_worker import main; main()"


class WorkerPool:
    """At most ``size`` workers of one tool, started when calls need them and kept for the next calls."""

    def __init__(self, tool: BoundTool, size: int, max_items: int) -> None:
        self._tool = tool
        self._places = asyncio.Semaphore(size)
        self._max_items = max_items
        self._idle: list[_Worker] = []
        self._all: set[_Worker] = set()
        self._closed = False

    async def start(self) -> None:
        """Start one worker if there is none: EngineError('unavailable' | 'rejected') tells of a wrong function."""
        async with self._places:
            self._idle.append(await self._free())

    async def call(self, arguments: str) -> str:
        """The result as JSON text; cancelling kills the worker."""
        async with self._places:
            worker = await self._free()
            try:
                answer = await worker.ask({"arguments": arguments})
            except BaseException:
                self._discard(worker)
                raise
            self._idle.append(worker)
            if self._closed:
                self._discard(worker)
            if "value" in answer:
                return str(answer["value"])
            raise _error(answer)

    async def close(self) -> None:
        """Kill the workers; returns when they are gone."""
        self._closed = True
        workers, self._idle = list(self._all), []
        for worker in workers:
            self._discard(worker)
        for worker in workers:
            await worker.child.end(_END_S)

    async def _free(self) -> _Worker:
        while self._idle:
            worker = self._idle.pop()
            if not worker.child.exited.done():
                return worker
            self._discard(worker)
        if self._closed:
            raise EngineError(f'tool "{self._tool.name}" is closed', code="cancelled")
        worker = _Worker(self._tool.name)
        self._all.add(worker)
        try:
            await worker.start(self._tool, self._max_items)
        except BaseException:
            self._discard(worker)
            raise
        return worker

    def _discard(self, worker: _Worker) -> None:
        worker.stop()
        worker.child.exited.add_done_callback(lambda _: self._all.discard(worker))


class _Worker:
    """One process and the socket to it."""

    def __init__(self, tool: str) -> None:
        self._tool = tool
        self._writer: asyncio.StreamWriter | None = None
        self._reader: asyncio.StreamReader | None = None
        self._link, theirs = socket.socketpair()
        try:
            with theirs:
                self.child = Child(
                    (sys.executable, "-P", "-c", _MAIN, str(theirs.fileno()), LIFELINE, _PACKAGES),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=None,
                    pass_fds=(theirs.fileno(),),
                )
        except BaseException:
            self._link.close()
            raise

    async def start(self, tool: BoundTool, max_items: int) -> None:
        opening = asyncio.ensure_future(asyncio.open_connection(sock=self._link))
        try:
            self._reader, self._writer = await asyncio.shield(opening)
        except asyncio.CancelledError:
            self._reader, self._writer = await opening  # takes no time; else nobody would close it
            raise
        start = {
            "tool": tool.name,
            "function": tool.tool.body,
            "parameters": [[name, type_to_list(kind)] for name, kind in tool.parameters],
            "returns": type_to_list(tool.returns),
            "max_items": max_items,
            "sys_path": [path or os.getcwd() for path in sys.path],  # noqa: PTH109 - a text, as in sys.path
        }
        answer = await self.ask(start)
        if not answer.get("ready"):
            raise _error(answer)

    async def ask(self, frame: dict[str, Any]) -> dict[str, Any]:
        """Send a frame, take its answer; EngineError('tool') when the process ends instead."""
        assert self._reader is not None, "started"
        assert self._writer is not None, "started"
        try:
            self._writer.write(pack(frame))
            await self._writer.drain()
            head = await self._reader.readexactly(LENGTH_BYTES)
            length = int.from_bytes(head, "big")
            if length > _MAX_FRAME_BYTES:
                raise EngineError(f'the result of tool "{self._tool}" is too large', code="too_large")
            answer: dict[str, Any] = json.loads(await self._reader.readexactly(length))
        except (asyncio.IncompleteReadError, ConnectionError, ValueError):
            self.child.kill()  # it may live on without its socket
            status = await asyncio.shield(self.child.exited)
            raise EngineError(
                f'the process of tool "{self._tool}" ended in the middle of a call ({how_it_ended(status)})',
                code="tool",
                remedy="Its standard error may tell why; the next call gets a new process.",
            ) from None
        return answer

    def stop(self) -> None:
        """Kill it and let go of the socket; idempotent."""
        self.child.kill()
        if self._writer is None:
            self._link.close()
        else:
            with suppress(RuntimeError):  # the loop is closed
                self._writer.transport.abort()


def _error(answer: dict[str, Any]) -> EngineError:
    return EngineError(answer["message"], code=answer["code"], retryable=answer["retryable"], remedy=answer["remedy"])
