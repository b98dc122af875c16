"""A schedule in the making: nodes are put down one after the other, each as early as devices and producers allow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any

from halo_sql.optimizer.placement.problem import EPS_S, Change, Run, Schedule
from halo_sql.optimizer.placement.table import Table

#: start, end, prefix, seconds of the prefix, models put to sleep (mask), when those are begun, gap used, source device
Place = tuple[float, float, str, float, int, float, int, int]


class State:
    """What is decided, as far as what comes depends on it. ``copy`` before ``put`` keeps a state.

    done     nodes put down (mask); ready: nodes whose producers are (mask)
    last_s   start of the last one
    rows_s, ends_s  per node: when it has rows of all producers; when the last producer ends
    free_s   per device, the end of what it does; there, been: models on it, and those that have been (masks)
    warm, warm_s    per device: prefixes (mask); since when
    open     nodes of which some parts are put down -> how many parts, devices of those (mask)
    gaps     per device: when it waited since it last put a model to sleep
    kept_s   per device: no model sleeps before that, as a prefix is read from it
    steps, place  the whole order and where it stands, if known: the model that is asked last makes room (Belady, 1966)
    """

    __slots__ = (
        *("table", "done", "ready", "last_s", "rows_s", "ends_s", "free_s", "there", "been", "warm", "warm_s"),
        *("gaps", "kept_s", "open", "peak", "slots_s", "left", "work_s", "makespan_s", "path_s", "loads", "log"),
        *("steps", "place"),
    )

    def __init__(self, table: Table) -> None:
        self.table = table
        devices = len(table.free_s)
        self.done, self.ready = 0, 0
        self.last_s = self.makespan_s = 0.0
        self.rows_s, self.ends_s = list(table.release_s), [0.0] * table.count
        self.free_s = list(table.free_s)
        self.there, self.been, self.warm = list(table.there), list(table.been), list(table.warm)
        self.warm_s: dict[tuple[int, int], float] = {
            (p, d): 0.0 for d in range(devices) for p in range(len(table.prefixes)) if table.warm[d] >> p & 1
        }
        self.gaps: list[tuple[tuple[float, float], ...]] = [()] * devices
        self.kept_s, self.peak = [0.0] * devices, [0.0] * devices
        self.slots_s = [(0.0,) * slots for slots in table.slots]
        self.left = [table.model.count(m) for m in range(len(table.models))]
        self.work_s = [0.0] * len(table.groups)
        for i in range(table.count):
            for g in table.in_groups[i]:
                self.work_s[g] += table.total_s[i]
        self.path_s, self.loads = 0.0, 0
        self.open: dict[int, tuple[int, int]] = {}
        self.log: Any = None
        self.steps: Sequence[tuple[int, int, int]] = ()
        self.place = 0
        for i in range(table.count):
            if not table.before[i]:
                self.ready |= 1 << i
        self._settle()

    def copy(self) -> State:
        """The same state, to go on from in another way."""
        made: State = State.__new__(State)
        made.table, made.done, made.ready, made.last_s = self.table, self.done, self.ready, self.last_s
        made.rows_s, made.ends_s, made.free_s = self.rows_s[:], self.ends_s[:], self.free_s[:]
        made.there, made.been, made.warm, made.warm_s = self.there[:], self.been[:], self.warm[:], self.warm_s
        made.gaps, made.kept_s, made.peak, made.slots_s = self.gaps[:], self.kept_s[:], self.peak[:], self.slots_s[:]
        made.left, made.work_s, made.makespan_s = self.left[:], self.work_s[:], self.makespan_s
        made.path_s, made.loads, made.log, made.open = self.path_s, self.loads, self.log, self.open
        made.steps, made.place = self.steps, self.place
        return made

    def ways(self, node: int) -> list[tuple[int, int]]:
        """Devices and numbers of parts that a part of a ready node can be put down with; (-1, 1): it needs none."""
        table = self.table
        if not table.options[node]:
            return [(-1, 1)]
        begun = self.open.get(node)
        if begun is None:
            return table.ways[node]
        parts, used = begun
        return [(d, parts) for d in table.options[node] if not used >> d & 1]

    def nodes(self) -> list[int]:
        """Nodes that can be put down now."""
        ready, found = self.ready, []
        while ready:
            low = ready & -ready
            found.append(low.bit_length() - 1)
            ready ^= low
        return found

    def bound_s(self) -> float:
        """Seconds that no schedule which goes on from here is shorter than, if nodes start in order."""
        best, last_s = max(self.makespan_s, self.path_s), self.last_s
        for group, work_s in zip(self.table.groups, self.work_s, strict=True):
            if work_s > EPS_S:
                taken_s = work_s
                for d in group:
                    taken_s += max(self.free_s[d], last_s)
                best = max(best, taken_s / len(group))
        return best

    # --- one part on one device

    def look(self, node: int, d: int, parts: int) -> Place:
        """Where a part would come on a device."""
        table = self.table
        m, there, memory = table.model[node], self.there[d], table.memory[d]
        ready_s, sleeping, since_s, gap = self.free_s[d], 0, 0.0, -1
        kv = table.kv[node]
        here = there >> m & 1
        if not here or kv:
            used = self._used(d, there | 1 << m)
            if used + kv > memory:
                sleeping = self._sleepers(d, there & ~(1 << m), used + kv - memory)
                since_s = ready_s = max(ready_s, self.kept_s[d])
                for other in _members(sleeping):
                    ready_s += table.sleep_s[d][other]
            if not here:
                load_s = (table.wake_s if self.been[d] >> m & 1 else table.load_s)[d][m]
                if not sleeping and used + max(kv, self.peak[d]) <= memory:
                    gap = next(
                        (place for place, (from_s, to_s) in enumerate(self.gaps[d]) if to_s - from_s >= load_s - EPS_S),
                        -1,
                    )
                if gap < 0:
                    ready_s += load_s
        part_s, last_s = table.part_s[node][d][parts], table.last_s[node][d][parts]
        rows_s, after_s = max(ready_s, self.rows_s[node]), self.ends_s[node] + last_s
        p = table.prefix[node]
        if p < 0 or self.warm[d] >> p & 1:
            start_s = max(rows_s, after_s - part_s)
            return start_s, start_s + part_s, "" if p < 0 else "warm", 0.0, sleeping, since_s, gap, -1
        extra_s = table.compute_s[node][d]
        start_s = max(rows_s, after_s - part_s - extra_s)
        found: Place = (start_s, start_s + part_s + extra_s, "computed", extra_s, sleeping, since_s, gap, -1)
        move_s = table.move_s[node][d]
        if move_s < extra_s:
            sources = [(self.warm_s[p, o], o) for o in range(len(self.free_s)) if o != d and self.warm[o] >> p & 1]
            if sources:
                warm_s, source = min(sources)
                start_s = max(rows_s, warm_s, after_s - part_s - move_s)
                if start_s + part_s + move_s < found[1] - EPS_S:
                    end_s = start_s + part_s + move_s
                    found = (start_s, end_s, "moved", move_s, sleeping, since_s, gap, source)
        return found

    def _used(self, d: int, models: int) -> float:
        row, used, m = self.table.bytes[d], 0.0, 0
        while models:
            if models & 1:
                used += row[m]
            models >>= 1
            m += 1
        return used

    def _sleepers(self, d: int, models: int, excess: float) -> int:
        """The models that make room: those that nobody needs again, then those that are soonest back."""
        row, names = self.table.bytes[d], _members(models)
        left = self._later(d, names) if self.steps else self.left

        def loss(chosen: tuple[int, ...]) -> tuple[float, float, tuple[int, ...]]:
            back_s = sum(self.table.wake_s[d][m] + left[m] * 1e-6 for m in chosen if left[m])
            return back_s, sum(self.table.sleep_s[d][m] for m in chosen), chosen

        if len(names) <= 6:
            sets = (chosen for k in range(1, len(names) + 1) for chosen in combinations(names, k))
            best = min((loss(chosen), chosen) for chosen in sets if sum(row[m] for m in chosen) >= excess - 1e-6)[1]
            return sum(1 << m for m in best)
        mask = 0
        for m in sorted(names, key=lambda m: loss((m,))):
            if excess > 1e-6:
                mask |= 1 << m
                excess -= row[m]
        return mask

    def _later(self, d: int, models: Sequence[int]) -> dict[int, int]:
        """Per model how soon the steps that follow ask it on this device; 0: none does."""
        left, count, model = dict.fromkeys(models, 0), len(self.steps), self.table.model
        for place in range(self.place + 1, count):
            node, device, _ = self.steps[place]
            if device == d and node >= 0:
                m = model[node]
                if left.get(m) == 0:
                    left[m] = count - place
        return left

    # --- deciding

    def bring(self, m: int, d: int) -> None:
        """A model comes to a device now, before a node asks it."""
        table, there = self.table, self.there[d]
        if there >> m & 1:
            return
        used, ready_s, sleeping, since_s = self._used(d, there | 1 << m), self.free_s[d], 0, 0.0
        if used > table.memory[d]:
            sleeping = self._sleepers(d, there, used - table.memory[d])
            since_s = ready_s = max(ready_s, self.kept_s[d])
            ready_s += sum(table.sleep_s[d][other] for other in _members(sleeping))
        ready_s += (table.wake_s if self.been[d] >> m & 1 else table.load_s)[d][m]
        changes = self._make_room(d, m, (ready_s, ready_s, "", 0.0, sleeping, since_s, -1, -1))
        self.free_s[d] = ready_s
        self.log = (self.log, None, changes)

    def put(self, node: int, d: int = -1, parts: int = 1) -> None:
        """Put one of ``parts`` parts of a ready node on a device, or a node that needs none down; and then all that
        waits for nothing but rows. ``node`` below 0: the model -1 - ``node`` comes to the device."""
        if node < 0:
            self.bring(-1 - node, d)
            return
        table = self.table
        whole = True
        if d >= 0:
            m, p = table.model[node], table.prefix[node]
            look = self.look(node, d, parts)
            start_s, end_s, prefix, extra_s, _, _, _, source = look
            changes = self._make_room(d, m, look)
            self.log = (self.log, (node, d, start_s, end_s, parts, prefix), changes)
            self.free_s[d] = end_s
            self.peak[d] = max(self.peak[d], table.kv[node])
            if source >= 0:
                self.kept_s[source] = max(self.kept_s[source], start_s)
            if p >= 0 and not self.warm[d] >> p & 1:
                self.warm[d] |= 1 << p
                self.warm_s = {**self.warm_s, (p, d): end_s}
            self._hand_on(node, start_s, end_s, extra_s + table.first_s[node][d][parts])
            taken_s = table.total_s[node]
            if parts > 1:
                _, used = self.open.get(node, (parts, 0))
                used |= 1 << d
                whole = used.bit_count() == parts
                self.open = {**self.open, node: (parts, used)}
                part_s = min(row[parts] for row in table.part_s[node].values())
                taken_s = part_s if used != 1 << d else taken_s - (parts - 1) * part_s
                if whole:
                    del self.open[node]
            for g in table.in_groups[node]:
                self.work_s[g] -= taken_s
            self.left[m] -= whole
            self.last_s = max(self.last_s, start_s)
        else:
            start_s, end_s, slot = self._look_beside(node)
            self.log = (self.log, (node, -1, start_s, end_s, 1, ""), ())
            if slot >= 0:
                tool = table.tool[node]
                times = list(self.slots_s[tool])
                times[slot] = end_s
                self.slots_s[tool] = tuple(times)
            self._hand_on(node, start_s, end_s, table.first_s[node][-1][1])
        if not whole:
            return
        self.done |= 1 << node
        self.ready &= ~(1 << node)
        for target, _ in table.consumers[node]:
            if not table.before[target] & ~self.done:
                self.ready |= 1 << target
        if self.ready & table.beside:
            self._settle()

    def start_beside_s(self, node: int) -> float:
        """When a node that needs no device would start."""
        return self._look_beside(node)[0]

    def _look_beside(self, node: int) -> tuple[float, float, int]:
        table = self.table
        part_s = table.part_s[node][-1][1]
        start_s = max(self.rows_s[node], self.ends_s[node] + table.last_s[node][-1][1] - part_s)
        tool = table.tool[node]
        if tool < 0:
            return start_s, start_s + part_s, -1
        slots_s = self.slots_s[tool]
        open_slots = [place for place, free_s in enumerate(slots_s) if free_s <= start_s]
        if open_slots:
            slot = max(open_slots, key=lambda place: (slots_s[place], -place))
        else:
            slot = min(range(len(slots_s)), key=lambda place: slots_s[place])
        start_s = max(start_s, slots_s[slot])
        return start_s, start_s + part_s, slot

    def _settle(self) -> None:
        """Nodes that hinder nobody run as soon as they can."""
        while self.ready & self.table.beside:
            waiting = self.ready & self.table.beside
            self.put((waiting & -waiting).bit_length() - 1)

    def _make_room(self, d: int, m: int, look: Place) -> list[tuple[int, int, str, float, float]]:
        changes: list[tuple[int, int, str, float, float]] = []
        table, (start_s, _, _, _, sleeping, since_s, gap, _) = self.table, look
        free_s = self.free_s[d]
        if sleeping:
            free_s = since_s
            for other in _members(sleeping):
                end_s = free_s + table.sleep_s[d][other]
                changes.append((d, other, "sleep", free_s, end_s))
                free_s = end_s
                for place, (name, _) in enumerate(table.prefixes):
                    if name == table.models[other]:
                        self.warm[d] &= ~(1 << place)
            self.there[d] &= ~sleeping
            self.gaps[d], self.peak[d] = (), 0.0
        if not self.there[d] >> m & 1:
            again = self.been[d] >> m & 1
            load_s, kind = (table.wake_s[d][m], "wake") if again else (table.load_s[d][m], "load")
            if gap >= 0:
                from_s, to_s = self.gaps[d][gap]
                changes.append((d, m, kind, from_s, from_s + load_s))
                rest = ((from_s + load_s, to_s),) if to_s - from_s - load_s > EPS_S else ()
                self.gaps[d] = (*self.gaps[d][:gap], *rest, *self.gaps[d][gap + 1 :])
            else:
                changes.append((d, m, kind, free_s, free_s + load_s))
                free_s += load_s
            self.there[d] |= 1 << m
            self.been[d] |= 1 << m
            self.loads += 1
        if start_s - free_s > EPS_S:
            self.gaps[d] = (*self.gaps[d], (free_s, start_s))
        return changes

    def _hand_on(self, node: int, start_s: float, end_s: float, first_s: float) -> None:
        """Consumers get rows; the bound by ways to the end."""
        table, path_s = self.table, max(self.path_s, end_s + self.table.from_end[node])
        for target, pipelined in table.consumers[node]:
            rows_s = start_s + first_s if pipelined else end_s
            if rows_s > self.rows_s[target]:
                self.rows_s[target] = rows_s
                path_s = max(path_s, rows_s + table.from_start[target])
            if end_s > self.ends_s[target]:
                self.ends_s[target] = end_s
        self.path_s = path_s
        self.makespan_s = max(self.makespan_s, end_s)

    def schedule(self, bound_s: float, method: str, exact: bool) -> Schedule:
        """What was decided; the state is whole."""
        runs: list[Run] = []
        changes: list[Change] = []
        log, models = self.log, self.table.models
        while log is not None:
            log, run, some = log
            if run is not None:
                node, d, start_s, end_s, parts, prefix = run
                runs.append(Run(node, d, start_s, end_s, 0, parts, prefix))
            changes += [Change(place, models[m], kind, from_s, to_s) for place, m, kind, from_s, to_s in some]
        by_node: dict[int, int] = {}
        for place, each in enumerate(sorted(runs, key=lambda each: (each.start_s, each.device))):
            runs[place] = replace(each, part=by_node.get(each.node, 0))
            by_node[each.node] = runs[place].part + 1
        runs.sort(key=lambda each: (each.start_s, each.node, each.part))
        changes.sort(key=lambda change: (change.start_s, change.device, change.end_s))
        return Schedule(tuple(runs), tuple(changes), self.makespan_s, min(bound_s, self.makespan_s), method, exact)


def _members(mask: int) -> list[int]:
    return [place for place in range(mask.bit_length()) if mask >> place & 1]
