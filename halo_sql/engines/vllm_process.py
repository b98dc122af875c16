"""One worker process of the vLLM engine: started, spoken to over a Unix socket, ended without a trace."""

from __future__ import annotations

import asyncio
import itertools
import os
import re
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from halo_sql import config
from halo_sql.engines import frames
from halo_sql.engines.process_group import end_group
from halo_sql.engines.vllm_options import not_installed
from halo_sql.engines.vllm_worker import EXIT_NOT_INSTALLED
from halo_sql.errors import EngineError

_LOGS_KEPT = 10
_END_S = 6.0
_LONGEST_SOCKET_PATH = 100  # sun_path holds 108 bytes
_TROUBLE = re.compile(r"error|exception|killed|memory|died", re.IGNORECASE)
_CHATTER = re.compile(r"\b(INFO|WARNING|DEBUG)\b")
_numbers = itertools.count(1)

Results = Callable[[list[list[Any]]], None]


class WorkerProcess:
    """A running worker. Made by ``spawn``; all methods on one loop.

    ready   the worker's ``ready`` frame (see ``frames``)
    gauges  what it told last of its scheduler (``frames``); None: nothing
    lost    the worker ended by itself after it was ready
    log     the file with everything the worker and vLLM print
    """

    def __init__(self, process: subprocess.Popen[bytes], log: Path, folder: Path, exited: asyncio.Future[int]) -> None:
        self.ready: dict[str, Any] = {}
        self.gauges: dict[str, float] | None = None
        self.lost = False
        self.log = log
        self.pid = process.pid
        self._folder = folder
        self._ended = False
        self._exited = exited
        self._writer: asyncio.StreamWriter | None = None
        self._calls: dict[int, asyncio.Future[Any]] = {}
        self._reading: asyncio.Task[None] | None = None

    @classmethod
    async def spawn(
        cls,
        python: str,
        environment: Mapping[str, str],
        start: dict[str, Any],
        on_results: Results,
        on_lost: Callable[[], None],
    ) -> WorkerProcess:
        """Start a worker and wait until its model is loaded.

        ``on_results`` gets the items of each ``results`` frame; ``on_lost`` is called once if the worker ends by
        itself afterwards. Raises EngineError('unavailable') that quotes the log when it does not come up.
        """
        loop = asyncio.get_running_loop()
        connected: asyncio.Future[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = loop.create_future()

        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            if connected.done():
                writer.close()  # one worker, one connection
            else:
                connected.set_result((reader, writer))

        folder = _socket_folder()  # vLLM's own sockets and temporary files go there, and away, with ours
        path = folder / "worker"
        try:
            server = await asyncio.start_unix_server(accept, path)
            path.chmod(0o600)
            worker = cls._launch(python, environment, path)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        try:
            await worker._connect(connected, start)
        except BaseException:
            await worker._end(connected)
            raise
        finally:
            server.close()
        # vLLM's processes may hold copies of the socket: it ends when they do.
        worker._exited.add_done_callback(lambda _: worker.kill())
        reader, _ = connected.result()
        worker._reading = loop.create_task(worker._read(reader, on_results, on_lost))
        return worker

    @classmethod
    def _launch(cls, python: str, environment: Mapping[str, str], path: Path) -> WorkerProcess:
        log = _new_log()
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            process = subprocess.Popen(
                [python, "-P", "-m", "halo_sql.engines.vllm_worker", "--socket", str(path)],
                env=dict(environment) | {"TMPDIR": str(path.parent), "VLLM_RPC_BASE_PATH": str(path.parent)},
                stdin=subprocess.DEVNULL,
                stdout=descriptor,
                stderr=descriptor,
                start_new_session=True,  # Ctrl-C is the session's to handle, and the group is ours to end
            )
        except OSError as error:
            raise EngineError(
                f"The vLLM worker cannot be started: {error}",
                code="unavailable",
                remedy="Check the Python interpreter and the machine's process limits.",
            ) from error
        finally:
            os.close(descriptor)
        loop = asyncio.get_running_loop()
        exited: asyncio.Future[int] = loop.create_future()

        def set_exited(status: int) -> None:
            if not exited.done():
                exited.set_result(status)

        def wait() -> None:
            status = process.wait()
            with suppress(RuntimeError):  # the loop is closed: nobody is interested any more
                loop.call_soon_threadsafe(set_exited, status)

        threading.Thread(target=wait, name="halo-vllm-wait", daemon=True).start()
        return cls(process, log, path.parent, exited)

    async def _connect(self, connected: asyncio.Future[Any], start: dict[str, Any]) -> None:
        await asyncio.wait({connected, self._exited}, return_when=asyncio.FIRST_COMPLETED)
        if not connected.done():
            raise self._did_not_start("")
        reader, self._writer = connected.result()
        self.send({"op": "start"} | start)
        frame = await frames.read(reader)
        if frame is None or frame["op"] != "ready":
            raise self._did_not_start(frame["message"] if frame else "")
        self.ready = frame

    def _did_not_start(self, message: str) -> EngineError:
        if self._exited.done() and self._exited.result() == EXIT_NOT_INSTALLED:
            return not_installed("".join(self._lines()[-1:]).partition(": ")[2] or "vllm")
        unknown = None if message else re.search(r"No module named '([\w.]+)'", " ".join(self._lines()[-3:]))
        if unknown:
            return not_installed(unknown.group(1))
        what = message or self.trouble()
        return EngineError(
            f"vLLM could not load the model: {what}",
            code="unavailable",
            remedy=f"The whole log is in {self.log}. {_hint(what)}".strip(),
        )

    def send(self, frame: dict[str, Any]) -> None:
        """Queue a frame; what cannot be delivered any more shows as the loss of the worker."""
        if self._writer is not None and not self._writer.is_closing():
            self._writer.write(frames.pack(frame))

    async def drain(self) -> None:
        """Wait while the worker is slower at reading than we at writing."""
        if self._writer is not None:
            with suppress(ConnectionError):
                await self._writer.drain()

    async def call(self, name: str) -> Any:
        """Run ``stats``, ``reset_prefix_cache``, ``sleep`` or ``wake`` in the worker."""
        number = next(_numbers)
        reply: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._calls[number] = reply
        try:
            self.send({"op": "call", "call": number, "name": name})
            return await reply
        finally:
            self._calls.pop(number, None)

    async def close(self) -> None:
        """End the worker and vLLM's processes; returns when the worker is gone."""
        if self._reading is not None:
            self._reading.cancel()
            with suppress(asyncio.CancelledError):
                await self._reading
        self.send({"op": "shutdown"})
        await self._end(None)

    async def _read(self, reader: asyncio.StreamReader, on_results: Results, on_lost: Callable[[], None]) -> None:
        while (frame := await frames.read(reader)) is not None:
            if frame["op"] == "results":
                self.gauges = frame.get("gauges") or self.gauges
                on_results(frame["items"])
            elif frame["op"] == "reply" and frame["call"] in self._calls:  # else its caller was cancelled
                reply = self._calls.pop(frame["call"])
                if frame["error"] is None:
                    reply.set_result(frame["value"])
                else:
                    reply.set_exception(EngineError(frame["error"], code="engine"))
        self.lost = True
        self.kill()  # vLLM's processes may have survived the worker
        self._fail_calls()
        if self._writer is not None:
            self._writer.close()
        on_lost()

    async def _end(self, connected: asyncio.Future[Any] | None) -> None:
        """Close the socket, which makes the worker end itself; kill its group if it does not."""
        if self._writer is None and connected is not None and connected.done() and not connected.cancelled():
            _, self._writer = connected.result()
        self._fail_calls()
        if self._writer is not None:
            self._writer.close()
            with suppress(OSError):
                await self._writer.wait_closed()
        if not self.ready:
            self.kill()  # still loading: nothing to end in order
        await asyncio.wait({self._exited}, timeout=_END_S)
        self.kill()

    def _fail_calls(self) -> None:
        calls, self._calls = self._calls, {}
        for reply in calls.values():
            if not reply.done():
                reply.set_exception(EngineError("the worker is gone", code="unavailable"))

    def kill(self) -> None:
        """End the whole process group at once (vLLM's engine processes are in it)."""
        if not self._ended:  # later the number may belong to somebody else
            self._ended = True
            end_group(self.pid)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _lines(self) -> list[str]:
        try:
            text = self.log.read_text(errors="replace")[-65_536:]
        except OSError:
            return []
        return [line.strip() for line in text.splitlines() if line.strip()]

    def trouble(self) -> str:
        """The last lines of the log that tell of an error, for messages."""
        told = [line for line in self._lines() if _TROUBLE.search(line) and not _CHATTER.search(line)]
        return " | ".join(told[-3:])[-800:] or "its log tells of no error (killed, perhaps for memory)"


def _hint(message: str) -> str:
    lowered = message.lower()
    if "needs the package" in lowered:
        return "Install it into the worker's environment, or use kv_sharing = 'storage', which needs none."
    if "memory" in lowered or "kv cache" in lowered:
        return "Lower kv_cache_gib, gpu_memory_utilization or max_model_len, or free memory."
    if "offline" in lowered or "connect" in lowered or "resolve" in lowered:
        return "Check the model's name and the network, or use a local folder."
    return ""


def _socket_folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="halo-"))
    if len(os.fsencode(folder)) > _LONGEST_SOCKET_PATH - len("/worker"):
        folder.rmdir()
        folder = Path(tempfile.mkdtemp(prefix="halo-", dir="/tmp"))
    return folder


def _new_log() -> Path:
    folder = config.home() / "logs"
    folder.mkdir(mode=0o700, exist_ok=True)
    known: Sequence[Path] = sorted(folder.glob("vllm-*.log"), key=_age)
    for old in known[: max(0, len(known) - _LOGS_KEPT + 1)]:
        old.unlink(missing_ok=True)
    return folder / f"vllm-{os.getpid()}-{next(_numbers)}.log"


def _age(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
