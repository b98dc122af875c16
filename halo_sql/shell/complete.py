"""Tab completion: keywords, functions, tables, columns, models, prompts, tools, agents, dot commands, file names."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document

from halo_sql.errors import Error
from halo_sql.shell.commands import COMMANDS
from halo_sql.shell.lexer import OPERATORS, WORDS
from halo_sql.shell.render import MODES

_WORD = re.compile(r'[\w."$]*$')
_MOST = 200  # candidates shown at most
Query = Callable[[str], list[tuple[Any, ...]]]

_KEYWORDS = "SELECT DISTINCT keyword_name FROM duckdb_keywords()"
_FUNCTIONS = "SELECT DISTINCT function_name FROM duckdb_functions() WHERE function_name ~ '^[a-z_0-9]+$'"
_TABLES = (
    "SELECT table_name FROM duckdb_tables() WHERE NOT internal "
    "UNION SELECT view_name FROM duckdb_views() WHERE NOT internal"
)
_COLUMNS = "SELECT DISTINCT column_name FROM duckdb_columns() WHERE NOT internal"
_OPTIONS = ("model", "system", "returns", "temperature", "max_tokens", "top_p", "seed", "stop", "on_error", "cache")


class HaloCompleter(Completer):
    """Completes the word before the cursor.

    query  runs a catalog query on a connection of its own (never the one that runs the user's statement)
    """

    def __init__(self, query: Query) -> None:
        self._query = query
        self._fixed: list[tuple[str, str]] | None = None

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        """Candidates that begin with the word, nearest kinds first."""
        line = document.current_line_before_cursor
        if document.text.startswith("."):
            yield from self._command(line)
            return
        found = _WORD.search(line)
        word = (found[0] if found else "").rpartition(".")[2].lstrip('"')
        if not word and not line.endswith("."):
            return
        near = [
            (text, kind)
            for text, kind in [*self._catalog(), *self._words()]
            if text.lower().startswith(word.lower()) and text.lower() != word.lower()
        ]
        for text, kind in list(dict.fromkeys(near))[:_MOST]:
            shown = text.lower() if kind == "keyword" and word.islower() else text
            yield Completion(shown, start_position=-len(word), display_meta=kind)

    def _command(self, line: str) -> Iterable[Completion]:
        name, space, rest = line[1:].partition(" ")
        if not space:
            for command in COMMANDS:
                if command.name.startswith(name):
                    yield Completion(command.name, start_position=-len(name), display_meta=command.help)
        elif name == "mode":
            yield from (Completion(mode, start_position=-len(rest)) for mode in MODES if mode.startswith(rest))
        elif name in ("read", "open", "output", "once", "cd", "import", "profile"):
            folder, _, start = rest.rpartition("/")
            base = Path(folder or ("/" if rest.startswith("/") else ".")).expanduser()
            if base.is_dir():
                for path in sorted(base.iterdir()):
                    if path.name.startswith(start):
                        yield Completion(path.name + "/" * path.is_dir(), start_position=-len(start))

    def _catalog(self) -> list[tuple[str, str]]:
        found: list[tuple[str, str]] = []
        for kind, sql in (
            ("column", _COLUMNS),
            ("table", _TABLES),
            ("model", "SELECT name FROM halo_models()"),
            ("prompt", "SELECT name FROM halo_prompts()"),
            ("tool", "SELECT name FROM halo_tools()"),
            ("agent", "SELECT name FROM halo_agents()"),
        ):
            found += [(str(row[0]), kind) for row in self._rows(sql)]
        return found

    def _words(self) -> list[tuple[str, str]]:
        if self._fixed is None:
            self._fixed = [(name, "operator") for name in OPERATORS]
            self._fixed += [(str(row[0]).upper(), "keyword") for row in self._rows(_KEYWORDS)]
            self._fixed += [(word, "keyword") for word in WORDS]
            self._fixed += [(option, "option") for option in _OPTIONS]
            self._fixed += [(str(row[0]), "function") for row in self._rows(_FUNCTIONS)]
        return self._fixed

    def _rows(self, sql: str) -> list[tuple[Any, ...]]:
        try:
            return self._query(sql)
        except Error:  # a catalog that cannot be read completes nothing
            return []
