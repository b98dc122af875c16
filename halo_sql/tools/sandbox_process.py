"""A child process of the sandbox, as its parent holds it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import struct
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from halo_sql.errors import EngineError

_CHILD = Path(__file__).with_name("sandbox_child.py")
_LENGTH = struct.Struct(">I")
_MAX_FRAME_BYTES = 1 << 30
_VIOLATION = 97  # ``sandbox_limits.VIOLATION``
START_S = 30.0


class ChildEndedError(Exception):
    """The child has ended without an answer; ``status`` is its exit status, negative for a signal."""

    def __init__(self, status: int) -> None:
        super().__init__(f"the process ended with status {status}")
        self.status = status

    @property
    def decided(self) -> bool:
        """Whether the query itself is why: it took too long, or reached out."""
        return self.status in (-signal.SIGXCPU, _VIOLATION)


class SandboxProcess:
    """One child; one question at a time.

    Its environment is empty, its folder is its own and gone as soon as it runs there, its session and process group
    are its own.
    """

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @classmethod
    async def start(cls, descriptor: int, setup: Mapping[str, Any]) -> Self:
        """A child that is ready. Raises EngineError('unavailable')."""
        folder = tempfile.mkdtemp(prefix="halo-sandbox-")  # mode 0700
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-I", str(_CHILD), str(os.getpid()), str(descriptor),
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
                pass_fds=(descriptor,), cwd=folder, env={}, start_new_session=True,
            )  # fmt: skip
        except OSError as problem:
            raise EngineError(f"the sandbox cannot be started: {problem}", code="unavailable") from None
        finally:
            os.rmdir(folder)  # noqa: PTH106 - at once; the child stands in it already; it stays empty
        child = cls(process)
        try:
            answer = await child._ask(setup, START_S)
        except (ChildEndedError, TimeoutError) as problem:
            raise EngineError(f"the sandbox did not start: {problem}", code="unavailable") from None
        except asyncio.CancelledError:
            await child.end()
            raise
        if "ready" not in answer:
            await child.end()
            raise EngineError(f"the sandbox did not start: {answer['error'][1]}", code="unavailable")
        return child

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    async def ask(self, sql: str, timeout_s: float) -> dict[str, Any]:
        """The answer to a query. Raises ChildEndedError or TimeoutError, after either the child is gone; cancelling
        ends it too."""
        try:
            return await self._ask({"sql": sql}, timeout_s)
        except asyncio.CancelledError:
            await self.end()
            raise

    async def _ask(self, frame: Mapping[str, Any], timeout_s: float) -> dict[str, Any]:
        data = json.dumps(frame).encode()
        assert self._process.stdin is not None
        try:
            async with asyncio.timeout(timeout_s):
                self._process.stdin.write(_LENGTH.pack(len(data)) + data)
                await self._process.stdin.drain()
                return await self._answer()
        except (ConnectionError, asyncio.IncompleteReadError):
            await self.end()
            assert self._process.returncode is not None
            raise ChildEndedError(self._process.returncode) from None
        except TimeoutError:
            await self.end()
            raise

    async def _answer(self) -> dict[str, Any]:
        reader = self._process.stdout
        assert reader is not None
        (size,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
        if size > _MAX_FRAME_BYTES:
            raise ConnectionError("the child does not keep to its frames")
        answer: dict[str, Any] = json.loads(await reader.readexactly(size))
        return answer

    async def end(self) -> None:
        """Kill it and everything it started; idempotent."""
        process = self._process
        if process.returncode is None:
            ended = asyncio.ensure_future(process.wait())
            if process.stdout is not None and process.stdout.at_eof():  # it ends by itself; its own status tells more
                await asyncio.wait([ended], timeout=0.2)
            if process.returncode is None:
                with suppress(ProcessLookupError, PermissionError):
                    os.killpg(process.pid, signal.SIGKILL)
            await ended
        if process.stdin is not None:
            process.stdin.close()


def ended_error(status: int, tool: str, processor_s: int) -> EngineError:
    """What the end of a child says of its query."""
    if status == -signal.SIGXCPU:
        return EngineError(
            f'the query of tool "{tool}" takes more than {processor_s} s of processor time',
            code="timeout",
            remedy="Read fewer rows.",
        )
    if status == _VIOLATION:
        return EngineError(f'the query of tool "{tool}" reached for what it may not have', code="denied")
    return EngineError(
        f'the query of tool "{tool}" ended its process (status {status}): it needs more memory than it may have',
        code="tool",
        remedy="Read fewer rows, or shorter values.",
    )
