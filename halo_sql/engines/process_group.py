"""Ending a worker's process group at once, without leaving its shared memory behind."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from pathlib import Path

_PROCESSES = Path("/proc")
_SHARED = Path("/dev/shm")
_ROUNDS = 50


def end_group(group: int) -> None:
    """Kill every process of the group, the caller last if it is a member.

    vLLM's orderly shutdown takes seconds and cannot be had when its front process is dead already. Python's resource
    trackers are left alone: they unlink the dead's shared memory and semaphores and then end by themselves.
    """
    own = os.getpid()
    assert group == own or group != os.getpgrp(), "the group is not the worker's own"
    _forget_openmp(group)
    for _ in range(_ROUNDS):
        doomed = [process for process in members(group) if process != own and not _is_tracker(process)]
        for process in doomed:
            _forget_openmp(process)
            with suppress(ProcessLookupError, PermissionError):
                os.kill(process, signal.SIGKILL)
        if not doomed:
            break
        time.sleep(0.002)  # until they are gone, with what they started meanwhile
    if group == own:
        os.kill(own, signal.SIGKILL)


def members(group: int) -> list[int]:
    """Process ids of the group's living members."""
    found = []
    for entry in _PROCESSES.glob("[0-9]*/stat"):
        with suppress(OSError, ValueError, IndexError):
            fields = entry.read_text().rpartition(")")[2].split()  # state, parent, process group, …
            if int(fields[2]) == group and fields[0] not in "ZX":
                found.append(int(entry.parent.name))
    return found


def _is_tracker(process: int) -> bool:
    with suppress(OSError):
        return b"multiprocessing.resource_tracker" in (_PROCESSES / str(process) / "cmdline").read_bytes()
    return False


def _forget_openmp(process: int) -> None:
    """Unlink what the OpenMP runtime of a process unlinks only at an orderly exit."""
    for path in _SHARED.glob(f"__KMP_REGISTERED_LIB_{process}_*"):
        path.unlink(missing_ok=True)
