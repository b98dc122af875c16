"""Tools called by their own names: which names there are, and statements with them written ``TOOL(name, …)``."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from halo_sql.catalog.objects import Snapshot
from halo_sql.duck import Duck
from halo_sql.errors import Error

if TYPE_CHECKING:
    from halo_sql.grammar.expanded import Expanded

#: Statements after which the names may be others: they undo, or lead to another database.
_CHANGES = re.compile(r"\s*(?:rollback|abort|use|attach|detach|set\s+(?:search_path|schema))\b", re.IGNORECASE)
#: Those that may make or drop a function of a tool's name.
_TAKES = re.compile(r"\s*(?:create|drop)\b", re.IGNORECASE)
#: What every call has; without it the names are not asked for, which would be the query that DuckDB profiled last.
_CALL = re.compile(r"[\w$\"]\s*\(")


class ToolNames:
    """The names of the tools that a connection sees, read when they may have changed.

    A function of DuckDB's, or a macro of the user's, of the same name goes first: such a tool is called by TOOL only.

    shared  a number that grows with every change of any connection; the list is shared by all of them
    empty   nothing is stored in the database yet
    """

    def __init__(self, duck: Duck, snapshot: Callable[[], Snapshot], shared: list[int], empty: bool = False) -> None:
        self._duck = duck
        self._snapshot = snapshot
        self._shared = shared
        self._seen = shared[0] if empty else -1
        self._names: tuple[str, ...] = ()
        self._pattern: re.Pattern[str] | None = None

    def changed(self) -> None:
        """A statement of this connection made, changed or dropped a tool."""
        self._shared[0] += 1

    def note(self, sql: str) -> None:
        """A plain statement has run."""
        if _CHANGES.match(sql) or (self._names and _TAKES.match(sql)):
            self._seen = -1

    def expand(self, sql: str) -> Expanded | None:
        """The statement with tools' names written as calls of TOOL; None when it names none."""
        if self._seen != self._shared[0] and _CALL.search(sql):
            self._read()
        if self._pattern is None or self._pattern.search(sql) is None:
            return None
        from halo_sql.grammar.row_calls import with_tool_names

        try:
            return with_tool_names(sql, self._names, self._duck.expression_name)
        except Error:  # a broken statement: whoever runs it says so
            return None

    def _read(self) -> None:
        try:
            names = list(self._snapshot().tools)
            if names:
                taken = self._duck.rows(
                    "SELECT DISTINCT lower(function_name) FROM duckdb_functions() "
                    "WHERE list_contains(?, lower(function_name))",
                    [names],
                )
                names = [name for name in names if (name,) not in taken]
        except Error:  # an aborted transaction, a definition that cannot be read
            return
        self._seen = self._shared[0]
        self._names = tuple(names)
        listed = "|".join(re.escape(name) for name in sorted(names))
        self._pattern = re.compile(rf'(?<![\w$])"?(?:{listed})"?\s*\(', re.IGNORECASE) if names else None
