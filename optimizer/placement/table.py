"""A problem as arrays by place: seconds of every choice, what comes before and after, and bounds on the makespan."""

from __future__ import annotations

import math
from collections.abc import Sequence

from halo_sql.optimizer.placement.problem import Problem, Residence

#: With more devices than this a node is split over one or all of them only.
MANY_DEVICES = 4


class Table:
    """What the solvers read of a problem. Lists are by node, then device, then number of parts.

    options   devices of a node; () it needs none
    ways      (device, number of parts) that a part of it may be put down with
    comings   (model, device): models that may come to devices
    beside    nodes that hinder nobody (mask)
    from_start, from_end  seconds that pass at least from a node's start, or end, to the end of everything
    groups    sets of devices whose nodes have no others
    """

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        nodes, devices = problem.nodes, problem.devices
        count = self.count = len(nodes)
        every, kinds = range(count), range(len(devices))
        self.models = sorted({name for device in devices for name in device.models})
        model = {name: place for place, name in enumerate(self.models)}
        self.model = [model.get(node.model, -1) if node.model else -1 for node in nodes]
        known = sorted({(node.model, node.prefix) for node in nodes if node.prefix and node.model})
        prefix = {key: place for place, key in enumerate(known)}
        self.prefixes = known
        self.prefix = [prefix.get((node.model, node.prefix), -1) for node in nodes]
        self.tools = sorted({node.tool for node in nodes if node.tool and not node.model})
        tool = {name: place for place, name in enumerate(self.tools)}
        self.tool = [-1 if node.model else tool.get(node.tool, -1) for node in nodes]
        self.slots = [problem.tools.get(name, 1) for name in self.tools]
        self.options = [problem.devices_of(place) if nodes[place].model else () for place in every]
        self.parts = [max(1, min(nodes[i].max_parts, len(self.options[i]))) for i in every]
        self.ways = [[(d, parts) for parts in self._sizes(i) for d in self.options[i]] for i in every]
        self.beside = sum(1 << i for i in every if not self.options[i] and self.tool[i] < 0)
        self.part_s: list[dict[int, list[float]]] = []
        self.first_s: list[dict[int, list[float]]] = []
        self.last_s: list[dict[int, list[float]]] = []
        for i in every:
            places = self.options[i] or (-1,)
            sizes = range(1, self.parts[i] + 1)
            part_s = {d: [0.0, *(problem.part_s(i, d, k) for k in sizes)] for d in places}
            self.part_s.append(part_s)
            self.first_s.append({d: [problem.first_s(i, s, 0.0) for s in part_s[d]] for d in places})
            self.last_s.append({d: [problem.last_s(i, s) for s in part_s[d]] for d in places})
        self.compute_s = [{d: problem.prefix_s(i, d) for d in self.options[i]} for i in every]
        self.move_s = [{d: problem.move_s(i, d) for d in self.options[i]} for i in every]
        self.kv = [node.kv_bytes for node in nodes]
        self.release_s = [problem.rounded(node.release_s) for node in nodes]
        self.free_s = [problem.rounded(device.free_s) for device in devices]
        self.memory = [device.memory_bytes * (1 + 1e-12) or math.inf for device in devices]
        held = [[device.models.get(name) for name in self.models] for device in devices]
        self.bytes = [[one.bytes if one else 0.0 for one in row] for row in held]
        self.load_s = [[problem.rounded(one.load_s) if one else 0.0 for one in row] for row in held]
        self.wake_s = [[problem.rounded(one.wake_s) if one else 0.0 for one in row] for row in held]
        self.sleep_s = [[problem.rounded(one.sleep_s) if one else 0.0 for one in row] for row in held]
        self.there = [sum(1 << m for m, one in enumerate(row) if one and one.state == "resident") for row in held]
        self.been = [sum(1 << m for m, one in enumerate(row) if one and one.state != "cold") for row in held]
        self.warm = [
            sum(
                1 << place
                for (name, text), place in prefix.items()
                if name in device.models
                and device.models[name].state == "resident"
                and text in device.models[name].prefixes
            )
            for device in devices
        ]
        self.comings = sorted({(self.model[i], d) for i in every for d in self.options[i] if not self._stays(i, d)})
        self.consumers: list[list[tuple[int, bool]]] = [[] for _ in every]
        self.sources: list[list[tuple[int, bool]]] = [[] for _ in every]
        self.before = [0] * count
        for edge in problem.edges:
            self.consumers[edge.source].append((edge.target, edge.pipelined))
            self.sources[edge.target].append((edge.source, edge.pipelined))
            self.before[edge.target] |= 1 << edge.source
        self.least_s = [min(min(row[1:]) for row in self.part_s[i].values()) for i in every]
        self.least_first_s = [min(min(row[1:]) for row in self.first_s[i].values()) for i in every]
        self.least_last_s = [min(min(row[1:]) for row in self.last_s[i].values()) for i in every]
        self.total_s = [
            min(k * row[k] for row in self.part_s[i].values() for k in range(1, self.parts[i] + 1)) for i in every
        ]
        self._longest_ways()
        self.groups = self._groups()
        self.in_groups = [
            [g for g, group in enumerate(self.groups) if self.options[i] and set(self.options[i]) <= set(group)]
            for i in every
        ]
        self.twin = self._twins()
        self.alike = self._alike(kinds, held)

    def _stays(self, node: int, d: int) -> bool:
        """Whether a node's model is on a device from the beginning to the end."""
        return bool(self.there[d] >> self.model[node] & 1) and sum(self.bytes[d]) <= self.memory[d]

    def _sizes(self, node: int) -> list[int]:
        most = self.parts[node]
        return list(range(1, most + 1)) if most <= MANY_DEVICES else [1, most]

    def _longest_ways(self) -> None:
        self.from_start = [0.0] * self.count
        self.from_end = [0.0] * self.count
        for i in reversed(range(self.count)):
            end_s = start_s = 0.0
            for target, pipelined in self.consumers[i]:
                last_s = self.least_last_s[target] if pipelined else self.least_s[target]
                end_s = max(end_s, last_s + self.from_end[target])
                if pipelined:
                    start_s = max(start_s, self.least_first_s[i] + self.from_start[target])
                else:
                    end_s = max(end_s, self.from_start[target])
            self.from_end[i] = end_s
            self.from_start[i] = max(start_s, self.least_s[i] + end_s)

    def _groups(self) -> list[tuple[int, ...]]:
        found = {options for options in self.options if options}
        found.add(tuple(sorted({device for options in found for device in options})))
        return sorted(group for group in found if group)

    def _twins(self) -> list[int]:
        """Per node an earlier one that is equal in everything, -1 without: it may always come first."""
        targets = [frozenset(self.consumers[i]) for i in range(self.count)]
        sources: list[set[tuple[int, bool]]] = [set() for _ in range(self.count)]
        for edge in self.problem.edges:
            sources[edge.target].add((edge.source, edge.pipelined))
        known: list[int] = []
        found = [-1] * self.count
        for i in range(self.count):
            for other in reversed(known):
                same = targets[other] == targets[i] and sources[other] == sources[i]
                if same and self.problem.nodes[other] == self.problem.nodes[i]:
                    found[i] = other
                    break
            known.append(i)
        return found

    def _alike(self, places: range, held: Sequence[Sequence[Residence | None]]) -> list[int]:
        """Per device the first one that is equal in everything but its name and its workers' numbers."""

        def shape(d: int) -> tuple[object, ...]:
            device = self.problem.devices[d]
            moves = tuple(one is None or one.moves for one in held[d])
            rows = (self.bytes[d], self.load_s[d], self.wake_s[d], self.sleep_s[d])
            asked = tuple(d in options for options in self.options)
            return device.kind, device.memory_bytes, device.link_bytes_per_s, moves, asked, *map(tuple, rows)

        shapes = [shape(d) for d in places]
        return [shapes.index(one) for one in shapes]


def bound_s(table: Table) -> float:
    """Seconds that no schedule is shorter than: the longest way through the DAG; and per group of devices, the work of
    its nodes that come after a time and have a time after them (Carlier, 1982), with the fewest loads and prefixes."""
    head = earliest(table)
    best = max((head[i] + table.from_start[i] for i in range(table.count)), default=0.0)
    for group in table.groups:
        inside = [i for i in range(table.count) if table.options[i] and set(table.options[i]) <= set(group)]
        free_s = [table.free_s[d] for d in group]
        for tail_s in sorted({table.from_end[i] for i in inside}):
            late = sorted((i for i in inside if table.from_end[i] >= tail_s), key=lambda i: -head[i])
            work_s = 0.0
            for place, i in enumerate(late):
                work_s += table.total_s[i]
                if place + 1 < len(late) and head[late[place + 1]] == head[i]:
                    continue
                begin_s = head[i]
                load_s = setup_s(table, late[: place + 1], group) if begin_s <= 0.0 else 0.0
                starts_s = sum(max(begin_s, each) for each in free_s)
                best = max(best, _ceil(table, (starts_s + work_s + load_s) / len(group)) + tail_s)
    return best


def earliest(table: Table) -> list[float]:
    """Per node the seconds before which it cannot start: its producers, and its model's first load."""
    head = list(table.release_s)
    ends = [0.0] * table.count
    for i in range(table.count):
        m = table.model[i]
        if m >= 0:
            head[i] = max(
                head[i],
                min(
                    table.free_s[d]
                    + (
                        0.0
                        if table.there[d] >> m & 1
                        else (table.wake_s if table.been[d] >> m & 1 else table.load_s)[d][m]
                    )
                    for d in table.options[i]
                ),
            )
        head[i] = max(head[i], ends[i] + table.least_last_s[i] - longest_s(table, i))
        end_s = max(head[i] + table.least_s[i], ends[i] + table.least_last_s[i])
        for target, pipelined in table.consumers[i]:
            head[target] = max(head[target], head[i] + table.least_first_s[i] if pipelined else end_s)
            ends[target] = max(ends[target], end_s)
    return head


def longest_s(table: Table, node: int) -> float:
    """The most seconds that a part of a node may take."""
    return max(
        max(row) + (max(table.compute_s[node][d], 0.0) if d in table.compute_s[node] else 0.0)
        for d, row in table.part_s[node].items()
    )


def setup_s(table: Table, nodes: list[int], group: tuple[int, ...]) -> float:
    """Seconds of loads and prefixes without which these nodes cannot run on these devices."""
    found = 0.0
    for m in {table.model[i] for i in nodes}:
        if not any(table.there[d] >> m & 1 for d in group):
            able = [d for d in group if table.models[m] in table.problem.devices[d].models]
            costs = [(table.wake_s if table.been[d] >> m & 1 else table.load_s)[d][m] for d in able]
            found += min(costs, default=0.0)
    least: dict[int, float] = {}
    for i in nodes:
        p = table.prefix[i]
        if p >= 0 and not any(warm >> p & 1 for warm in table.warm):
            least[p] = min(least.get(p, math.inf), *table.compute_s[i].values(), *table.move_s[i].values())
    return found + sum(least.values())


def _ceil(table: Table, seconds: float) -> float:
    return table.problem.rounded(seconds)
