"""The placement problem: a DAG of work, devices with models on them, tools. Pure data, seconds and bytes.

What is assumed, and an exact solver (``benchmarks/placement_milp.py``) assumes alike:

- A device computes one node at a time: engines that share it share its speed, so their seconds add up.
- A node asks a model that is on the device, beside its own KV cache and the other models there. Bringing a model
  there (``load_s`` the first time, ``wake_s`` later) and putting one to sleep (``sleep_s``) take the device's time, and
  may happen while it would wait. A model that sleeps has lost its prefixes.
- A consumer along a pipelined edge starts when each part of its producer has had its first rows (``first_share`` of its
  seconds), and has its last rows (``last_share`` of its own) still before it when the last producer ends. Along other
  edges it starts when its producers have ended.
- A node split over k devices is k equal parts; none takes less than ``floor_s``.
- The first part with a prefix on a device computes it (``prefix_s`` more) or gets it from a device that has it
  (``prefix_bytes`` ÷ bandwidth more), whichever ends earlier; for parts that start after that one has ended it is warm.
- A tool runs ``slots`` nodes at once; nodes without model and tool hinder nobody.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

#: Differences of seconds below this are none.
EPS_S = 1e-9
STATES = ("cold", "asleep", "resident")


@dataclass(frozen=True, slots=True)
class Work:
    """What a node takes on a kind of device, all its rows together.

    prefill_s  computing prompts, without the shared prefix
    decode_s   generating answers; of a tool or other node: its seconds
    prefix_s   computing the shared prefix once
    floor_s    the least, however few rows: the length of one request
    """

    prefill_s: float = 0.0
    decode_s: float = 0.0
    prefix_s: float = 0.0
    floor_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Node:
    """One node; its id is its place in ``Problem.nodes``.

    model         what it asks; '' none
    tool          what it calls, without a model; '' neither: it hinders nobody
    work          kind of device -> seconds; of nodes without a model the key is ''
    kv_bytes      of its own on a device while it runs, beside what the model has there at any rate
    prefix        what its prompts share with other nodes of the same model; '' nothing
    prefix_bytes  of it in a KV cache
    first_share   part of its seconds until the first rows leave
    last_share    part of its seconds that the last rows take after they have come
    max_parts     devices that it may be split over
    release_s     no start before that
    """

    work: Mapping[str, Work]
    model: str = ""
    tool: str = ""
    kv_bytes: float = 0.0
    prefix: str = ""
    prefix_bytes: float = 0.0
    first_share: float = 1.0
    last_share: float = 1.0
    max_parts: int = 1
    release_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Edge:
    """Rows of ``source`` go to ``target``; pipelined: as they come."""

    source: int
    target: int
    pipelined: bool = True


@dataclass(frozen=True, slots=True)
class Residence:
    """A model as a device may hold it.

    number   of the worker there (``model/number``)
    bytes    weights and KV cache
    load_s   seconds of the first start; wake_s of a later one; sleep_s of making room
    state    at the beginning: one of STATES
    prefixes warm at the beginning
    moves    whether its prefixes may come from other devices
    """

    number: int = 0
    bytes: float = 0.0
    load_s: float = 0.0
    wake_s: float = 0.0
    sleep_s: float = 0.0
    state: str = "cold"
    prefixes: frozenset[str] = frozenset()
    moves: bool = True


@dataclass(frozen=True, slots=True)
class Device:
    """Something that computes.

    kind          what ``Node.work`` is given for; equal kinds compute equally fast
    models        that it may hold
    memory_bytes  0: all of them fit
    link_bytes_per_s  at which prefixes come from other devices; 0: they cannot
    free_s        busy until then
    """

    name: str
    kind: str
    models: Mapping[str, Residence]
    memory_bytes: float = 0.0
    link_bytes_per_s: float = 0.0
    free_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Problem:
    """``tools``: name -> nodes that it runs at once. ``tick_s``: seconds are rounded up to multiples of it; 0: not.

    Raises ValueError for an edge that does not lead forward, a node that no device can run, or models that exceed a
    device by themselves.
    """

    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...] = ()
    devices: tuple[Device, ...] = ()
    tools: Mapping[str, int] = field(default_factory=dict)
    tick_s: float = 0.0

    def __post_init__(self) -> None:
        for edge in self.edges:
            if not 0 <= edge.source < edge.target < len(self.nodes):
                raise ValueError(f"edge {edge.source} → {edge.target} leads to no later node")
        for place, node in enumerate(self.nodes):
            if node.model and not self.devices_of(place):
                raise ValueError(f"node {place} asks {node.model!r}, which fits no device; add memory or a device")

    def devices_of(self, node: int) -> tuple[int, ...]:
        """Places of the devices that can run a node."""
        asked = self.nodes[node]
        return tuple(
            place
            for place, device in enumerate(self.devices)
            if asked.model in device.models
            and device.kind in asked.work
            and (
                not device.memory_bytes
                or device.models[asked.model].bytes + asked.kv_bytes <= device.memory_bytes * (1 + 1e-12)
            )
        )

    def rounded(self, seconds: float) -> float:
        """Seconds in whole ticks."""
        return math.ceil(seconds / self.tick_s - 1e-6) * self.tick_s if self.tick_s else seconds

    def part_s(self, node: int, device: int, parts: int) -> float:
        """Seconds of one of ``parts`` parts, without the prefix. ``device`` -1: it needs none."""
        work = self.nodes[node].work[self.devices[device].kind if device >= 0 else ""]
        return self.rounded(max(work.floor_s, (work.prefill_s + work.decode_s) / parts))

    def prefix_s(self, node: int, device: int) -> float:
        """Seconds of computing its prefix."""
        asked = self.nodes[node]
        return self.rounded(asked.work[self.devices[device].kind].prefix_s) if asked.prefix else 0.0

    def move_s(self, node: int, device: int) -> float:
        """Seconds of getting its prefix from another device; infinite when that cannot be."""
        asked, link = self.nodes[node], self.devices[device].link_bytes_per_s
        here = self.devices[device].models.get(asked.model)
        if here is not None and not here.moves:
            return math.inf
        return self.rounded(asked.prefix_bytes / link) if asked.prefix and link else math.inf

    def first_s(self, node: int, part_s: float, prefix_s: float) -> float:
        """Seconds from a part's start to its first rows; ``prefix_s`` what its prefix took."""
        return prefix_s + self.rounded(self.nodes[node].first_share * part_s)

    def last_s(self, node: int, part_s: float) -> float:
        """Seconds that a part takes after its last rows have come."""
        return self.rounded(self.nodes[node].last_share * part_s)


@dataclass(frozen=True, slots=True)
class Run:
    """A part of a node in a schedule.

    device    place in ``Problem.devices``; -1: none
    prefix    '' | 'computed' | 'warm' | 'moved'
    """

    node: int
    device: int
    start_s: float
    end_s: float
    part: int = 0
    parts: int = 1
    prefix: str = ""


@dataclass(frozen=True, slots=True)
class Change:
    """A model comes to a device or leaves it. kind  'load' | 'wake' | 'sleep'."""

    device: int
    model: str
    kind: str
    start_s: float
    end_s: float


@dataclass(frozen=True, slots=True)
class Schedule:
    """Runs and changes by start.

    bound_s  no schedule is shorter
    method   'dynamic programming' | 'list' | 'list, improved' …; what found it
    exact    no shorter schedule exists
    """

    runs: tuple[Run, ...]
    changes: tuple[Change, ...]
    makespan_s: float
    bound_s: float = 0.0
    method: str = ""
    exact: bool = False

    @property
    def loads(self) -> int:
        """Models that come to devices."""
        return sum(change.kind != "sleep" for change in self.changes)

    def devices_of(self, node: int) -> tuple[int, ...]:
        """Places of the devices that run a node's parts."""
        return tuple(run.device for run in self.runs if run.node == node)
