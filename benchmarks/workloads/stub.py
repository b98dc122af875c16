"""The pack's slow HTTP service in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from typing import Any, Self

import pack


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
