"""The interactive editor: several lines until ``;``, history, completion, colours.

Ctrl-C clears the text, or cancels the statement that runs; Ctrl-D leaves.
"""

from __future__ import annotations

from typing import Any

from prompt_toolkit import PromptSession
from prompt_toolkit.auto_suggest import AutoSuggestFromHistory
from prompt_toolkit.filters import Condition
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.lexers import PygmentsLexer

from halo_sql import __version__
from halo_sql.config import home
from halo_sql.grammar.statements.redact import redact
from halo_sql.shell.complete import HaloCompleter
from halo_sql.shell.lexer import HaloLexer
from halo_sql.shell.run import is_complete, run_script
from halo_sql.shell.state import Shell


def repl(shell: Shell) -> None:
    """Read and run statements until Ctrl-D or .exit."""
    where = "an in-memory database" if shell.database == ":memory:" else shell.database
    shell.say(f'HaloSQL {__version__}, {where}. Enter ".help" for help.')
    session = _editor(shell)
    while True:
        try:
            text = session.prompt(shell.prompt)
        except KeyboardInterrupt:
            continue  # Ctrl-C: the text is gone, nothing else
        except EOFError:
            return
        if not text.strip():
            continue
        run_script(shell, text, stop_at_error=True)
        shell.status = 0  # seen and answered by the user


def _editor(shell: Shell) -> PromptSession[str]:
    return PromptSession(
        history=_history(shell),
        multiline=True,
        prompt_continuation=lambda width, line, wrapped: shell.continuation.rjust(width),
        lexer=PygmentsLexer(HaloLexer),
        completer=HaloCompleter(lambda sql: _catalog_rows(shell, sql)),
        complete_while_typing=False,
        complete_in_thread=False,
        auto_suggest=AutoSuggestFromHistory(),
        key_bindings=_keys(),
        enable_open_in_editor=True,
    )


class RedactedHistory(FileHistory):
    """A history file without the secrets written in statements."""

    def store_string(self, string: str) -> None:
        """Append a text."""
        super().store_string(redact(string))


def _history(shell: Shell) -> History:
    path = home() / "history"
    try:
        path.touch(mode=0o600)
        return RedactedHistory(str(path))
    except OSError as problem:
        shell.say(f"Warning: no history is kept: {problem}")
        return InMemoryHistory()


def _catalog_rows(shell: Shell, sql: str) -> list[tuple[Any, ...]]:
    session = shell.session.duplicate()
    try:
        return session.execute(sql).fetchall()
    finally:
        session.close()


def _keys() -> KeyBindings:
    """Enter runs the text when it is a whole statement or a dot command, and begins a new line otherwise."""
    keys = KeyBindings()

    @Condition
    def whole() -> bool:
        from prompt_toolkit.application import get_app

        text = get_app().current_buffer.text
        return text.startswith(".") or not text.strip() or is_complete(text)

    @keys.add("enter", filter=whole)
    def _submit(event: KeyPressEvent) -> None:
        event.current_buffer.validate_and_handle()

    return keys
