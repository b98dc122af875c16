"""Physical properties a parent may require of a group: form, row order, clustering, row goal.

A group has one winner per required ``Properties``. The forms step strictly downwards
(rows → llm → the child's rows; rows → run → the children's source → rows), so no plan contains itself.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

from halo_sql.ir.expr import Column, ColumnId
from halo_sql.quick import quick_init


class Form(StrEnum):
    """How a group's rows are delivered."""

    __hash__ = str.__hash__  # an enum's own is slow, and contexts are found by their properties

    ROWS = "rows"  # by an operator, as batches
    LLM = "llm"  # by an LLM operator over clustered rows; the position column is still there
    RUN = "run"  # as a relational tree, to be run by DuckDB as part of one fragment
    SOURCE = "source"  # as a relational tree, or as the input leaf of one


class Order(StrEnum):
    """Which row order is wanted."""

    __hash__ = str.__hash__

    ANY = "any"
    INPUT = "input"  # the order the logical plan defines


@dataclass(frozen=True, slots=True)
class Clustering:
    """Rows with equal leading prompt values are neighbours; ``position`` remembers their place before."""

    keys: tuple[ColumnId, ...]
    position: Column


@quick_init
@dataclass(frozen=True, slots=True)
class Properties:
    """What is required.

    row_goal  rows after which the consumer stops reading (a LIMIT above); None: reads all
    """

    form: Form = Form.ROWS
    order: Order = Order.INPUT
    clustered: Clustering | None = None
    row_goal: float | None = None

    def rows(self, row_goal: float | None = None) -> Properties:
        """The same order as plain rows, with another goal."""
        return Properties(Form.ROWS, self.order, None, row_goal)

    def as_form(self, form: Form) -> Properties:
        """The same in another form."""
        return replace(self, form=form)

    def __str__(self) -> str:
        words = [self.form.value, f"order={self.order.value}"]
        if self.clustered is not None:
            words.append("clustered(" + ", ".join(f"#{key}" for key in self.clustered.keys) + ")")
        if self.row_goal is not None:
            words.append(f"first {self.row_goal:g} rows")
        return " ".join(words)
