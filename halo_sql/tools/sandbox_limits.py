"""Walls around the sandbox's child process. For the child only: the standard library, in a process of its own.

Each wall that the system has is put up; none depends on another. What every Linux has: limits of memory, processor
time, files and processes. Landlock (Linux 5.13) takes the file system and, from 6.7, TCP away as well.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
import time
from contextlib import suppress
from typing import Any

VIOLATION = 97  # exit status of a child that Python's own hook has stopped

_SET_DEATH_SIGNAL, _SET_NO_NEW_PRIVILEGES = 1, 38  # <linux/prctl.h>
_CREATE_RULESET, _RESTRICT_SELF, _VERSION = 444, 446, 1  # <linux/landlock.h>: the same numbers on every architecture
_FILE_RIGHTS = (0, 13, 14, 15, 15, 16)  # bits of file rights that ABI 0 … 5 of Landlock knows
_FORBIDDEN = ("open", "socket.", "subprocess.", "os.", "shutil.", "ctypes.", "import", "exec", "compile", "mmap.")
_ALLOWED = frozenset({"os.read", "os.write"})


def die_with(parent: int) -> None:
    """End when the parent does, whatever ends it; take no more rights than there are."""
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        libc.prctl(_SET_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)
        libc.prctl(_SET_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    if os.getppid() != parent:  # it ended before it could be asked for
        os._exit(0)


def wall_in(memory_bytes: int) -> None:
    """Take away files, network, processes, and memory beyond ``memory_bytes``, for good."""
    _landlock()
    for limit, most in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NPROC, 0),
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_NOFILE, _first_free()),  # no descriptor can be made; those that are open stay
    ):
        with suppress(ValueError, OSError):
            resource.setrlimit(limit, (most, most))
    sys.addaudithook(_stop)


def allow_processor(seconds: int) -> None:
    """From now on so many seconds of processor time, then the end by SIGXCPU."""
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    until = int(time.process_time()) + 1 + seconds
    resource.setrlimit(resource.RLIMIT_CPU, (until if hard == resource.RLIM_INFINITY else min(until, hard), hard))


def _first_free() -> int:
    number = os.dup(0)
    os.close(number)
    return number


def _landlock() -> None:
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None, use_errno=True)
    abi = int(libc.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), _VERSION))
    if abi < 1:
        return
    rights = (ctypes.c_uint64 * 3)(
        (1 << _FILE_RIGHTS[min(abi, len(_FILE_RIGHTS) - 1)]) - 1,
        3 if abi >= 4 else 0,  # bind and connect TCP
        3 if abi >= 6 else 0,  # abstract sockets and signals to others
    )
    size = 8 * (1 if abi < 4 else 2 if abi < 6 else 3)
    rules = int(libc.syscall(_CREATE_RULESET, ctypes.byref(rights), ctypes.c_size_t(size), 0))
    if rules >= 0:
        libc.syscall(_RESTRICT_SELF, rules, 0)
        os.close(rules)


def _stop(event: str, _: Any) -> None:
    if event.startswith(_FORBIDDEN) and event not in _ALLOWED:
        os._exit(VIOLATION)
