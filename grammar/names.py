"""Name resolution: what a column reference in the user's text means in the plan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from halo_sql.errors import did_you_mean
from halo_sql.grammar.syntax import Name
from halo_sql.ir.expr import Column, ScopeTable


@dataclass(frozen=True, slots=True)
class Table:
    """A FROM item: alias ('' when it has none) and its columns in order."""

    alias: str
    columns: tuple[Column, ...]


@dataclass(frozen=True, slots=True)
class Scope:
    """The FROM clause of one SELECT.

    tables  its items in order
    merged  columns of JOIN … USING: lower-case name -> the merged column
    """

    tables: tuple[Table, ...] = ()
    merged: dict[str, Column] = field(default_factory=dict)

    def resolve(self, parts: Sequence[Name]) -> tuple[Column, int] | None:
        """The column a reference names and how many of its parts do so (the rest are struct fields).

        None when the name is unknown or ambiguous here; DuckDB's order: table.column before column.field.
        """
        first = parts[0].name.lower()
        if len(parts) > 1:
            second = parts[1].name.lower()
            for table in self.tables:
                if table.alias.lower() == first:
                    found = [column for column in table.columns if column.name.lower() == second]
                    if len(found) == 1:
                        return found[0], 2
        if first in self.merged:
            return self.merged[first], 1
        found = [column for table in self.tables for column in table.columns if column.name.lower() == first]
        if len(found) == 1:
            return found[0], 1
        return self._qualified(parts) if not found else None

    def _qualified(self, parts: Sequence[Name]) -> tuple[Column, int] | None:
        """A table behind its schema, or behind database and schema: ``schema.table.column``."""
        for skipped in (1, 2):
            if len(parts) > skipped + 1:
                names = [part.name.lower() for part in parts[skipped : skipped + 2]]
                for table in self.tables:
                    found = [column for column in table.columns if column.name.lower() == names[1]]
                    if table.alias.lower() == names[0] and len(found) == 1:
                        return found[0], skipped + 2
        return None

    def row(self, name: str) -> tuple[Column, ...]:
        """The columns of the table that a bare name stands for as a whole (``SELECT t FROM t``); else none."""
        matching = [table for table in self.tables if table.alias.lower() == name.lower()]
        return matching[0].columns if len(matching) == 1 and not self.merged else ()

    def columns(self) -> tuple[Column, ...]:
        """All columns, merged ones that are no table's last."""
        if len(self.tables) == 1 and not self.merged:
            return self.tables[0].columns
        found = (*(column for table in self.tables for column in table.columns), *self.merged.values())
        return tuple(dict.fromkeys(found))

    def star(self, alias: str | None = None) -> tuple[Column, ...] | None:
        """What ``*`` or ``alias.*`` stands for; None when there is no such table."""
        if alias is not None:
            matching = [table for table in self.tables if table.alias.lower() == alias.lower()]
            return matching[0].columns if len(matching) == 1 else None
        seen: set[str] = set()
        columns = []
        for table in self.tables:
            for column in table.columns:
                name = column.name.lower()
                if name in self.merged:
                    if name in seen:
                        continue
                    seen.add(name)
                    column = self.merged[name]
                columns.append(column)
        return tuple(columns)

    def as_ir(self) -> tuple[ScopeTable, ...]:
        """The tables as an expression over the user's own text needs them."""
        return tuple(
            ScopeTable(table.alias or "__halo_table", tuple((column.name, column.id) for column in table.columns))
            for table in self.tables
        )

    def nearest(self, name: str) -> str:
        """``Did you mean …?`` over all visible names."""
        return did_you_mean(name, [column.name for column in self.columns()])
