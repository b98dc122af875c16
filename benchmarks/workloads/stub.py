"""The pack's slow HTTP service: in a process of its own, or on a virtual clock."""

from __future__ import annotations

import asyncio
import inspect
import json
import subprocess
import sys
import urllib.request
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Self

import pack


class VirtualStub:
    """The same answers and latencies without a server, on the clock of the loop that asks."""

    url = ""

    def __init__(self, time_scale: float) -> None:
        self.time_scale = time_scale
        self._stub = pack.module("http_stub")
        self.reset()

    async def get(self, path: str, params: Mapping[str, Any]) -> str:
        """The body of an answer, in the time that it takes."""
        self._calls += 1
        self._in_flight += 1
        self._most = max(self._most, self._in_flight)
        try:
            await asyncio.sleep(self._stub.latency(path, params) * self.time_scale)
        finally:
            self._in_flight -= 1
        text: str = self._stub.body(path, params)
        return text

    def tool(self, path: str, fixed: Mapping[str, str], types: Mapping[str, type]) -> Callable[..., Awaitable[str]]:
        """The service as a function with arguments of these types, beside ``fixed`` ones."""

        async def call(*values: Any, **named: Any) -> str:
            return await self.get(path, {**dict(zip(types, values, strict=False)), **named, **fixed})

        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        parameters = [inspect.Parameter(name, kind, annotation=known) for name, known in types.items()]
        call.__signature__ = inspect.Signature(parameters, return_annotation=str)  # type: ignore[attr-defined]
        call.__annotations__ = {**types, "return": str}
        return call

    def stats(self) -> Any:
        """As ``HttpStub.stats``, in part."""
        return {"calls": self._calls, "max_inflight": self._most}

    def reset(self) -> None:
        """All counters to zero."""
        self._calls = self._in_flight = self._most = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing was started."""


class HttpStub:
    """Runs ``http_stub.py`` on a free port of the loopback interface.

    time_scale  factor on every latency, 0 for none
    """

    def __init__(self, time_scale: float) -> None:
        self.time_scale = time_scale
        command = [
            sys.executable,
            "-u",
            str(pack.FOLDER / "http_stub.py"),
            "--port",
            "0",
            "--time-scale",
            str(time_scale),
        ]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.url = self._process.stdout.readline().split()[-1]

    def stats(self) -> Any:
        """Counters since the last reset: calls, distinct, max_inflight, latency_s, by_path."""
        with urllib.request.urlopen(f"{self.url}/stats", timeout=10) as answer:
            return json.load(answer)

    def reset(self) -> None:
        """All counters to zero."""
        request = urllib.request.Request(f"{self.url}/reset", method="POST", data=b"{}")
        urllib.request.urlopen(request, timeout=10).close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(10)
        assert self._process.stdout is not None
        self._process.stdout.close()
