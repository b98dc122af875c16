"""What the optimizer did: rules that fired, the memo, notes. For EXPLAIN (RULES, MEMO, COSTS)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class RuleFiring:
    """One rule's part in a statement.

    tried  times it was offered a node
    fired  times it changed or added something
    where  labels of the first nodes it fired on
    """

    name: str
    stage: str
    tried: int
    fired: int
    where: tuple[str, ...]
    seconds: float


@dataclass(frozen=True, slots=True)
class WinnerInfo:
    """The best plan of a group for some required properties.

    cost  in the objective's unit, inputs included
    rule  the rule that made it
    """

    properties: str
    plan: str
    cost: float
    rule: str


@dataclass(frozen=True, slots=True)
class GroupInfo:
    """One memo group: equal logical expressions (children as ``G<id>``) and their winners."""

    id: int
    rows: float
    expressions: tuple[str, ...]
    winners: tuple[WinnerInfo, ...]


@dataclass(frozen=True, slots=True)
class Trace:
    """The whole of it.

    groups    gives the memo's groups (a function: the texts are made only when somebody asks)
    counters  groups, expressions, merges, tasks, pruned, contexts
    """

    rules: tuple[RuleFiring, ...] = ()
    groups: Callable[[], tuple[GroupInfo, ...]] = tuple
    counters: tuple[tuple[str, int], ...] = ()
    notes: tuple[str, ...] = ()
    seconds: float = 0.0

    def fired(self, rule: str) -> int:
        """How often a rule fired."""
        return sum(firing.fired for firing in self.rules if firing.name == rule)

    def counter(self, name: str) -> int:
        """A counter of the search by name; 0 when it did not run."""
        return dict(self.counters).get(name, 0)


@dataclass(slots=True)
class RuleCounter:
    """Mutable counters of one rule while a statement is planned."""

    stage: str
    tried: int = 0
    fired: int = 0
    where: list[str] = field(default_factory=list)
    seconds: float = 0.0


class Recorder:
    """Collects what rules do; one per statement."""

    WHERE_LIMIT = 8

    def __init__(self) -> None:
        self.counters: dict[str, RuleCounter] = {}
        self.notes: list[str] = []

    def record(self, name: str, stage: str, seconds: float, fired: int, where: Callable[[], str]) -> None:
        """One application of a rule that made so many changes; ``where`` gives the label of the node."""
        counter = self.counters.get(name)
        if counter is None:
            counter = self.counters[name] = RuleCounter(stage)
        counter.tried += 1
        counter.seconds += seconds
        if fired:
            counter.fired += fired
            room = self.WHERE_LIMIT - len(counter.where)
            if room > 0:
                counter.where += [where()] * min(fired, room)

    def note(self, sentence: str) -> None:
        """A sentence for EXPLAIN; said once."""
        if sentence not in self.notes:
            self.notes.append(sentence)

    def firings(self) -> tuple[RuleFiring, ...]:
        """All rules that were offered something, in the order of their first offer."""
        return tuple(
            RuleFiring(name, counter.stage, counter.tried, counter.fired, tuple(counter.where), counter.seconds)
            for name, counter in self.counters.items()
        )
