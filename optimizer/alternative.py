"""Physical alternatives: an operator, what it requires of its inputs, and what it costs by itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from halo_sql.ir.estimate import Estimate
from halo_sql.ir.physical import PhysicalOp
from halo_sql.optimizer.properties import Properties
from halo_sql.quick import quick_init


@dataclass(frozen=True, slots=True)
class Tree:
    """A relational expression as part of a fragment's tree; its inputs are trees too."""

    node: Any


@dataclass(frozen=True, slots=True)
class Leaf:
    """The input's rows as a leaf of a fragment's tree."""


@dataclass(frozen=True, slots=True)
class Same:
    """The input as it is, in another form."""


@dataclass(frozen=True, slots=True)
class Run:
    """The input's tree, run by DuckDB as one fragment."""


@quick_init
@dataclass(frozen=True, slots=True)
class Requirement:
    """A group and the properties it must have."""

    group: int
    properties: Properties


@quick_init
@dataclass(frozen=True, slots=True)
class Alternative:
    """One way to deliver a group.

    op        a physical operator, or a marker for pieces of fragments
    inputs    what is required of the inputs, in order
    estimate  of this operator alone
    rule      the rule that made it
    """

    op: PhysicalOp | Tree | Leaf | Same | Run
    inputs: tuple[Requirement, ...]
    estimate: Estimate
    rule: str
