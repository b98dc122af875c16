"""Ending a worker's process group without leaving its shared memory behind."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path

_SHARED = "/dev/shm/"
#: Python's shared memory and semaphores and the OpenMP runtime, which unlink theirs only in an orderly end.
_OWN_PREFIXES = ("psm_", "sem.mp-", "__KMP_REGISTERED_LIB_")


def end_group(group: int) -> None:
    """Kill every process of the group at once (also the caller, if it is a member) and unlink its shared memory.

    vLLM's orderly shutdown takes seconds and cannot be had when its front process is dead already.
    """
    if group == os.getpgrp() and group != os.getpid():
        raise AssertionError("the group is not the worker's own")
    for path in shared_memory(group):
        with suppress(OSError):
            path.unlink()  # those who still map it are not disturbed
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)


def members(group: int) -> list[int]:
    """Process ids of the group's living members."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError, ValueError, IndexError):
            fields = entry.read_text().rpartition(")")[2].split()  # state, parent, process group, …
            if int(fields[2]) == group and fields[0] != "Z":
                found.append(int(entry.parent.name))
    return found


def shared_memory(group: int) -> set[Path]:
    """The shared memory files that members of the group map."""
    found: set[Path] = set()
    for process in members(group):
        found |= set(Path(_SHARED).glob(f"__KMP_REGISTERED_LIB_{process}_*"))
        with suppress(OSError):
            for line in Path(f"/proc/{process}/maps").read_text().splitlines():
                name = line.partition(_SHARED)[2]
                if name.startswith(_OWN_PREFIXES) and "/" not in name and not name.endswith("(deleted)"):
                    found.add(Path(_SHARED) / name)
    return found
