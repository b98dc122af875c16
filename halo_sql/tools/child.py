"""A child process in its own session: nothing of it outlives its end or ours, and nothing stays unreaped.

A child is tied to this process by its lifeline, a pipe in which nothing is ever written: when this process is gone,
however it ended, the kernel kills the child's group (Linux: SIGIO of a pipe, with SIGKILL for SIGIO). That needs no
help of the child, which may hang anywhere.
"""

from __future__ import annotations

import asyncio
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import IO, Any

from halo_sql.errors import EngineError

LIFELINE = "{lifeline}"  # stands in a command for the number of the lifeline
_LAUNCH = """
import fcntl, os, select, sys
line = int(sys.argv[1])
try:
    fcntl.fcntl(line, fcntl.F_SETOWN, -os.getpgrp())
    fcntl.fcntl(line, fcntl.F_SETSIG, 9)
    fcntl.fcntl(line, fcntl.F_SETFL, os.O_ASYNC)
except OSError:
    pass
if not select.select([line], [], [], 0)[0]:
    os.execv(sys.argv[2], sys.argv[3:])
"""


def tie(lifeline: int) -> None:
    """In the child: die, with the whole group, when the parent is gone. Elsewhere than on Linux does nothing."""
    if sys.platform == "linux":
        import fcntl

        os.set_inheritable(lifeline, False)
        with suppress(OSError):  # sandboxes that know no such signals: the end of its input tells it too
            fcntl.fcntl(lifeline, fcntl.F_SETOWN, -os.getpgrp())
            fcntl.fcntl(lifeline, fcntl.F_SETSIG, signal.SIGKILL)
            fcntl.fcntl(lifeline, fcntl.F_SETFL, os.O_ASYNC)
        if select.select([lifeline], [], [], 0)[0]:  # it was gone before
            os.killpg(0, signal.SIGKILL)


def tied(program: str, arguments: Sequence[str]) -> list[str]:
    """The command of a program (a path) that knows nothing of ``tie``; ``arguments`` begin with its name."""
    if sys.platform != "linux":
        return [program, *arguments[1:]]
    return [sys.executable, "-I", "-S", "-c", _LAUNCH, LIFELINE, program, *arguments]


class Child:
    """A started process; made on the loop that waits for it.

    command  LIFELINE in it becomes the number of the lifeline
    exited   its exit status, negative for a signal

    When the process ends, by itself too, whatever it started and left in its group is killed.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        stdin: int | IO[Any],
        stdout: int | IO[Any],
        stderr: int | IO[Any] | None,
        env: Mapping[str, str] | None = None,
        pass_fds: Sequence[int] = (),
    ) -> None:
        theirs, self._lifeline = os.pipe()
        try:
            self._process = subprocess.Popen(
                [str(theirs) if part == LIFELINE else part for part in command],
                stdin=stdin,
                stdout=stdout,
                stderr=stderr,
                env=None if env is None else dict(env),
                pass_fds=(*pass_fds, theirs),
                start_new_session=True,  # Ctrl-C is the session's to handle, and the group is ours to end
            )
        except BaseException as problem:
            os.close(self._lifeline)
            if not isinstance(problem, OSError):
                raise
            raise EngineError(
                f"cannot start {command[0]!r}: {problem.strerror or problem}",
                code="unavailable",
                remedy="Check that the program exists and the machine's process limits.",
            ) from None
        finally:
            os.close(theirs)
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        self._reaped = False
        self.exited: asyncio.Future[int] = self._loop.create_future()
        threading.Thread(target=self._wait, name="halo-tool-wait", daemon=True).start()

    @property
    def pid(self) -> int:
        """Its process id, which is its group's too."""
        return self._process.pid

    def kill(self) -> None:
        """End the whole group now; idempotent."""
        with self._lock:
            if not self._reaped:
                self._kill_group()

    async def end(self, grace_s: float) -> None:
        """Wait ``grace_s`` for it to end by itself, then kill it; returns when it is gone."""
        try:
            await asyncio.wait({self.exited}, timeout=grace_s)
        finally:
            self.kill()
        await asyncio.shield(self.exited)

    def _wait(self) -> None:
        # As long as the leader is not reaped its number belongs to the group: nobody else can be hit.
        os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
        with self._lock:
            self._kill_group()
            status = self._process.wait()
            self._reaped = True
            os.close(self._lifeline)
        with suppress(RuntimeError):  # the loop is closed: nobody is interested any more
            self._loop.call_soon_threadsafe(self._set_exited, status)

    def _kill_group(self) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)

    def _set_exited(self, status: int) -> None:
        if not self.exited.done():
            self.exited.set_result(status)


def how_it_ended(status: int) -> str:
    """An exit status in words."""
    if status >= 0:
        return f"exit code {status}"
    with suppress(ValueError):
        return signal.Signals(-status).name
    return f"signal {-status}"
