"""The memo: groups of equal logical expressions whose children are groups.

Expressions are interned structurally: children are group references, calls are numbered when first met, so comparing
is shallow. When an
expression turns out to belong to two groups the groups are one: a union-find merges them, and the expressions
that refer to them are interned again, which may merge further groups (congruence closure). Groups only grow.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from halo_sql.ir.expr import Column
from halo_sql.ir.logical import LlmFilter, LlmMap
from halo_sql.ir.prompt import LlmCall
from halo_sql.ir.walk import children, output_columns, with_children
from halo_sql.optimizer.cardinality import Profile, derive, measured
from halo_sql.optimizer.context import FragmentStats, OptimizerContext
from halo_sql.optimizer.nodes import calls_of


@dataclass(frozen=True, slots=True)
class GroupRef:
    """A group in the place of a plan node. Equal by id; ``columns`` is what the group produces."""

    id: int
    columns: tuple[Column, ...] = field(compare=False, repr=False)


@dataclass(slots=True)
class Group:
    """Equal logical expressions.

    expressions  in the order of their discovery; the first is the normalized plan's or the rule's
    parents      expressions that have this group as a child, with their groups
    profile      estimated rows and columns, from the first expression
    tick         grows when an expression is added
    """

    id: int
    columns: tuple[Column, ...]
    profile: Profile
    expressions: list[Any] = field(default_factory=list)
    parents: list[tuple[int, Any]] = field(default_factory=list)
    tick: int = 0


class Memo:
    """All groups of one statement. Group ids stay valid after merges (``find``)."""

    def __init__(self, options: OptimizerContext) -> None:
        self.options = options
        self.groups: dict[int, Group] = {}  # live groups only
        self.merges = 0
        self.expression_count = 0
        self._redirect: list[int] = []  # union-find
        self._interned: dict[Any, tuple[int, Any]] = {}  # key -> (group, the expression)
        self._calls: dict[LlmCall, int] = {}
        self._call_numbers: dict[int, tuple[LlmCall, int]] = {}  # by identity of the call, kept alive here

    def find(self, group_id: int) -> int:
        """The id under which a group lives now."""
        root = group_id
        while self._redirect[root] != root:
            root = self._redirect[root]
        while self._redirect[group_id] != root:
            self._redirect[group_id], group_id = root, self._redirect[group_id]
        return root

    def group(self, group: Any) -> Group:
        """The live group of an id or a GroupRef (``Any``: an expression's input is typed as a plan node)."""
        return self.groups[self.find(group if isinstance(group, int) else group.id)]

    def expressions(self, group: Any) -> list[Any]:
        """The group's expressions, children as GroupRefs."""
        return list(self.group(group).expressions)

    def ref(self, group_id: int) -> GroupRef:
        """The group as a plan node."""
        group = self.group(group_id)
        return GroupRef(group.id, group.columns)

    def insert(self, plan: Any, target: int | None = None, stats: Mapping[int, FragmentStats] | None = None) -> int:
        """Interns a plan (nodes over nodes or GroupRefs) and returns its group.

        With ``target``, the plan is declared equal to that group: new expressions join it, and a known one merges
        its group with it. ``stats`` has what was measured of nodes of the plan, by their identity. Works without
        recursion.
        """
        done: dict[int, GroupRef] = {}  # by identity of the plan's nodes, which are alive here
        stack = [plan]
        while stack:
            node = stack[-1]
            if isinstance(node, GroupRef):
                done[id(node)] = self.ref(node.id)
                stack.pop()
                continue
            waiting = [child for child in children(node) if id(child) not in done]
            if waiting:
                stack += reversed(waiting)
                continue
            stack.pop()
            if id(node) in done:
                continue
            expression = with_children(node, tuple(done[id(child)] for child in children(node)))
            group = self._intern(expression, target if node is plan else None)
            if stats is not None and id(node) in stats:
                own = self.group(group)
                own.profile = measured(stats[id(node)], output_columns(node), own.profile)
            done[id(node)] = self.ref(group)
        return self.find(done[id(plan)].id)

    def _intern(self, expression: Any, target: int | None) -> int:
        expression = self._canonical(expression)
        key = self._key(expression)
        interned = self._interned.get(key)
        if interned is not None:
            known = self.find(interned[0])
            if target is not None and self.find(target) != known:
                self._merge(self.find(target), known)
            return self.find(known)
        group = self._new_group(expression) if target is None else self.group(target)
        self._interned[key] = (group.id, expression)
        group.expressions.append(expression)
        group.tick += 1
        self.expression_count += 1
        for child in children(expression):
            self.group(child).parents.append((group.id, expression))
        return group.id

    def _new_group(self, expression: Any) -> Group:
        inputs = [self.group(child).profile for child in children(expression)]
        profile = derive(expression, inputs, self.options)
        group = Group(len(self._redirect), output_columns(expression), profile)
        self._redirect.append(group.id)
        self.groups[group.id] = group
        return group

    def _key(self, expression: Any) -> Any:
        """What makes an expression equal to another: class, child groups, and everything else it holds."""
        if not isinstance(expression, LlmMap | LlmFilter):
            return expression
        calls = tuple(self._call_number(call) for call in calls_of(expression))
        child: Any = expression.input
        return type(expression), child.id, calls, expression.distinct

    def _call_number(self, call: LlmCall) -> int:
        known = self._call_numbers.get(id(call))
        if known is None:
            number = self._calls.setdefault(call, len(self._calls))
            known = self._call_numbers[id(call)] = (call, number)
        return known[1]

    def _canonical(self, expression: Any) -> Any:
        """The expression with every child reference at its live group."""
        refs = children(expression)
        if all(self._redirect[ref.id] == ref.id for ref in refs):
            return expression
        return with_children(expression, tuple(self.ref(ref.id) for ref in refs))

    def _merge(self, keep_id: int, drop_id: int) -> None:
        """Union of two groups and everything that becomes equal by it."""
        pending = [(keep_id, drop_id)]
        while pending:
            keep_id, drop_id = (self.find(group_id) for group_id in pending.pop())
            if keep_id == drop_id:
                continue
            if drop_id < keep_id:
                keep_id, drop_id = drop_id, keep_id
            keep, drop = self.groups[keep_id], self.groups.pop(drop_id)
            self._redirect[drop_id] = keep_id
            self.merges += 1
            keep.expressions += drop.expressions
            keep.tick += drop.tick + 1
            for parent_id, old in drop.parents:
                new = self._canonical(old)
                owner = self.groups[self.find(parent_id)]
                self._interned.pop(self._key(old), None)
                key = self._key(new)
                other = self._interned.get(key)
                if other is None:
                    self._interned[key] = (owner.id, new)
                    keep.parents.append((owner.id, new))
                else:  # this copy goes; its group and that of the other are equal
                    pending.append((owner.id, other[0]))
                place = next((index for index, item in enumerate(owner.expressions) if item is old), None)
                if place is not None:
                    owner.expressions[place : place + 1] = [new] if other is None else []
                owner.tick += 1
