"""How a model's workers share a machine: CPU cores, GPUs, and the storage through which they pass KV blocks."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from halo_sql.engines.options import Option
from halo_sql.errors import CatalogError

MAX_WORKERS = 64
WORKERS = Option("workers", "integer", 1, "Workers that answer side by side", 1, MAX_WORKERS)
_PROBE_BYTES = 8 << 20


class Storage:
    """A folder of KV blocks that a model's workers share; removed when it is closed or forgotten.

    limit_bytes  what they may leave there together: a quarter of what is free
    """

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="halo-kv-", dir=_memory_folder()))
        self._end = weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)
        self.limit_bytes = shutil.disk_usage(self.folder).free // 4
        self._bytes_per_s = 0.0

    def bytes_per_s(self) -> float:
        """At which one worker gets what another wrote, measured once: written and read."""
        if not self._bytes_per_s:
            probe, data = self.folder / "probe", os.urandom(1 << 20) * (_PROBE_BYTES >> 20)
            began = time.perf_counter()
            probe.write_bytes(data)
            probe.read_bytes()
            self._bytes_per_s = _PROBE_BYTES / max(1e-6, time.perf_counter() - began)
            probe.unlink()
        return self._bytes_per_s

    def close(self) -> None:
        """Remove it."""
        self._end()


@dataclass(frozen=True, slots=True)
class Share:
    """One worker's part of the machine.

    number, count  which of how many
    storage        where it leaves KV blocks for the others; None: it does not
    """

    number: int = 0
    count: int = 1
    storage: Storage | None = None

    def of(self, units: Sequence[int], each: int | None = None) -> list[int]:
        """Its part of some units (cores, GPUs): ``each`` of them, else an even part. The parts are disjoint where there
        are enough, else they are dealt out again from the beginning."""
        if not units:
            return []
        if each is None:
            each = max(1, len(units) // self.count)
        start = self.number * each
        return list(dict.fromkeys(units[place % len(units)] for place in range(start, start + min(each, len(units)))))


ALONE = Share()
_NODES = Path("/sys/devices/system/node")


def memory_nodes(cores: Sequence[int], folder: Path = _NODES) -> list[list[int]]:
    """The cores by the memory that is near them (NUMA nodes); one node where the system does not tell."""
    found: list[list[int]] = []
    for path in sorted(folder.glob("node*/cpulist")):
        try:
            near = set(read_devices(path.read_text(encoding="utf-8").strip()))
        except (OSError, CatalogError):
            continue
        if own := [core for core in cores if core in near]:
            found.append(own)
    return found if sum(map(len, found)) == len(cores) else [list(cores)]


def shares_cores(values: Mapping[str, Any]) -> bool:
    """Whether workers on a CPU all get the same cores: where they are more than the memories, and nothing divides the
    cores. Each step reads the weights: two workers with half of the cores each read them twice as often as one with
    all, and both through the same memory. So one works, and the others stand by."""
    if values["workers"] == 1 or values["devices"] or values["threads"] or values["tensor_parallel_size"] > 1:
        return False
    workers: int = values["workers"]
    return len(memory_nodes(sorted(os.sched_getaffinity(0)))) < workers


def read_devices(text: str | None) -> list[int]:
    """The numbers in '0,2' or '0-3'; CatalogError for anything else."""
    found: list[int] = []
    for part in (text or "").split(",") if text else ():
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not (last.isdecimal() and int(first) <= int(last) < int(first) + 4096)):
            raise CatalogError(
                f'option "devices" of engine vllm has a wrong value: {part.strip()!r}',
                remedy="It takes numbers of GPUs (on a CPU: of cores), e.g. '0,1' or '0-3'.",
            )
        found += range(int(first), int(last if dash else first) + 1)
    if len(set(found)) < len(found):
        raise CatalogError('option "devices" of engine vllm names a device twice', remedy="Name each once.")
    return found


def check_devices(values: Mapping[str, Any], cpu: bool) -> None:
    """CatalogError when the devices that are named are too few for the workers."""
    devices, needed = read_devices(values["devices"]), values["workers"] * values["tensor_parallel_size"]
    if devices and not cpu and len(devices) < needed:
        raise CatalogError(
            f"{needed} GPUs are needed for workers = {values['workers']}, tensor_parallel_size = "
            f'{values["tensor_parallel_size"]}; option "devices" names {len(devices)}',
            remedy="Name more devices, or take fewer workers.",
        )


def visible_gpus(devices: Sequence[int], count: int) -> list[str]:
    """What CUDA calls them: ``devices`` count within what this process may see; without any, its first ``count``."""
    seen = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    wanted = list(devices) or list(range(count))
    return [seen[device] if device < len(seen) else str(device) for device in wanted]


def _memory_folder() -> str | None:
    """Shared memory where there is much of it free, else the folder for temporary files."""
    shared = Path("/dev/shm")
    try:
        free = shutil.disk_usage(shared).free
    except OSError:
        return None
    return str(shared) if free > 4 << 30 and os.access(shared, os.W_OK) else None
