"""Runs PYTHON tools: a callable that the user registered, or a function that 'module:function' names."""

from __future__ import annotations

import asyncio
import inspect
import os
from collections.abc import Coroutine
from typing import Any

from halo_sql.engines.python import code_digest
from halo_sql.errors import EngineError
from halo_sql.tools.limits import PROCESSES, limits_of
from halo_sql.tools.protocol import BoundTool, Surroundings, ToolRequest
from halo_sql.tools.python_call import Callee, check_name, load, source_digest
from halo_sql.tools.python_process import WorkerPool
from halo_sql.tools.python_results import MAX_ITEMS
from halo_sql.tools.threads import Threads

MOST_PROCESSES = 32
_END_S = 1.0


class PythonRunner:
    """Calls one Python function.

    A registered callable (``surroundings.functions``) runs in this process: async ones on the loop, others in
    threads. A named function runs in worker processes, or with ``isolation = 'thread'`` as a registered one does.

    A call in a process that is cancelled is killed; a thread cannot be: it is left to itself and its place is free.
    Only functions the user named or registered are called, and nothing is ever compiled from text.
    """

    def __init__(self, tool: BoundTool, surroundings: Surroundings) -> None:
        self._tool = tool
        self._given = surroundings.functions.get(tool.name.lower())
        limits = limits_of(tool)
        self._max_items = limits.max_rows + 1 if limits.max_rows else MAX_ITEMS  # the desk tells of one too many
        in_process = self._given is None and str(tool.options.get("isolation", "process")).lower() == "process"
        self._concurrency = _processes(tool, limits.concurrency) if in_process else limits.concurrency
        self._pool = WorkerPool(tool, self._concurrency, self._max_items) if in_process else None
        self._threads = Threads(self._concurrency, f"halo-tool-{tool.name}")
        self._places = asyncio.Semaphore(self._concurrency)
        self._callee: Callee | None = None
        self._left: set[asyncio.Task[str]] = set()  # async calls that were given up and have not ended
        self._starting: asyncio.Lock = asyncio.Lock()
        self._started = False
        self._identity = ""

    @property
    def identity(self) -> str:
        """What stands for the function's code once it is started: an edited one has other values."""
        return self._identity

    @property
    def beside(self) -> bool:
        """Whether its calls are made outside this process: a virtual clock stands meanwhile."""
        return self._pool is not None

    @property
    def concurrency(self) -> int:
        """Calls it makes at once; more would wait here, within their deadline."""
        return self._concurrency

    async def start(self) -> None:
        """See ``Runner.start``: imports the function and compares its arguments with the tool's."""
        async with self._starting:
            if self._started:
                return
            if self._pool is not None:
                check_name(self._tool.tool.body)
                await self._pool.start()
                self._identity = await asyncio.to_thread(source_digest, self._tool.tool.body)
            else:
                function = self._given
                if function is None:
                    function = await asyncio.to_thread(load, self._tool.tool.body)
                if not callable(function):
                    raise EngineError(
                        f'what is registered for tool "{self._tool.name}" is {type(function).__name__}, not a function',
                        code="unavailable",
                        remedy="Register a callable with con.create_tool.",
                    )
                self._callee = Callee(
                    self._tool.name, function, self._tool.parameters, self._tool.returns, self._max_items
                )
                self._callee.check()
                self._identity = code_digest(function)
            self._started = True

    async def call(self, request: ToolRequest) -> str:
        """See ``Runner.call``."""
        if not self._started:
            await self.start()
        if self._pool is not None:
            return await self._pool.call(request.arguments)
        callee = self._callee
        assert callee is not None, "started"
        if callee.is_async:
            async with self._places:
                return await self._on_loop(self._direct(callee, request.arguments))
        value = await self._threads.run(lambda: callee.call(request.arguments))
        # A sync function may hand out an awaitable, which belongs to the loop.
        return str(await self._on_loop(value) if inspect.iscoroutine(value) else value)

    async def close(self) -> None:
        """See ``Runner.close``: workers are killed, threads end with the calls they run."""
        self._threads.close()
        for task in self._left:
            task.cancel()
        if self._left:
            await asyncio.wait(self._left, timeout=_END_S)
        if self._pool is not None:
            await self._pool.close()

    @staticmethod
    async def _direct(callee: Callee, arguments: str) -> str:
        value = callee.call(arguments)
        return str(await value if inspect.iscoroutine(value) else value)

    async def _on_loop(self, call: Coroutine[Any, Any, str]) -> str:
        """Run in a task of its own: one that ignores its cancellation holds nobody up."""
        task = asyncio.ensure_future(call)
        self._left.add(task)
        task.add_done_callback(self._ended)
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError:
            task.cancel()
            raise
        if task.cancelled():
            raise EngineError("CancelledError", code="tool")
        return task.result()

    def _ended(self, task: asyncio.Task[str]) -> None:
        self._left.discard(task)
        if not task.cancelled():
            task.exception()  # told to whoever waits; nobody does when the call was given up


def _processes(tool: BoundTool, concurrency: int) -> int:
    if "concurrency" in tool.options:
        return min(concurrency, MOST_PROCESSES)
    return min(concurrency, os.cpu_count() or 1, PROCESSES)
