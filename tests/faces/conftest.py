"""Fixtures: the shell as a user meets it, with pipes or on a terminal whose screen is modelled by pyte."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pexpect
import pyte
import pytest


def environment(home: Path) -> dict[str, str]:
    return {
        **os.environ,
        "HALO_HOME": str(home),
        "HOME": str(home),
        "HALO_STORE": "off",
        "TERM": "xterm",
        "PROMPT_TOOLKIT_NO_CPR": "1",
    }


@pytest.fixture
def shell_environment(tmp_path: Path) -> dict[str, str]:
    return environment(tmp_path)


@pytest.fixture
def halo(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs the shell with pipes in an empty folder: ``halo(*arguments, stdin='')``."""

    def run(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "halo_sql", *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            cwd=tmp_path,
            env=environment(tmp_path),
        )

    return run


@pytest.fixture
def terminal(tmp_path: Path) -> Callable[..., Terminal]:
    """Starts the shell on a terminal: ``with terminal(*arguments) as screen``."""
    return lambda *arguments: Terminal(tmp_path, *arguments)


class Terminal:
    """The shell on a terminal of 100 × 40."""

    def __init__(self, home: Path, *arguments: str) -> None:
        self.screen = pyte.Screen(100, 40)
        self._stream = pyte.Stream(self.screen)
        self._child = pexpect.spawn(
            sys.executable,
            ["-m", "halo_sql", *arguments],
            env=environment(home),
            dimensions=(40, 100),
            encoding="utf-8",
            cwd=str(home),
        )

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *problem: object) -> None:
        self._child.close(force=True)

    def text(self) -> str:
        """What the screen shows."""
        return "\n".join(line.rstrip() for line in self.screen.display).rstrip()

    def send(self, keys: str) -> None:
        self._child.send(keys)

    def wait(self, wanted: str, seconds: float = 60.0) -> str:
        """Read until the screen shows a text."""
        end = time.monotonic() + seconds
        while wanted not in self.text():
            assert time.monotonic() < end, f"{wanted!r} did not appear on:\n{self.text()}"
            self._read()
        return self.text()

    def wait_exit(self, seconds: float = 60.0) -> int:
        """Read until the process has ended; its status."""
        end = time.monotonic() + seconds
        while self._child.isalive():
            assert time.monotonic() < end, f"still running:\n{self.text()}"
            self._read()
        assert self._child.exitstatus is not None
        return int(self._child.exitstatus)

    def _read(self) -> None:
        try:
            self._stream.feed(self._child.read_nonblocking(65536, 0.05))
        except (pexpect.TIMEOUT, pexpect.EOF):
            return
