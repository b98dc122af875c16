"""What the shell knows: the session, how results look, where they go."""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from halo_sql.session import Session
from halo_sql.shell.progress import Progress
from halo_sql.shell.render import Look


class Exit(Exception):  # noqa: N818 - not an error
    """Leave the shell with this status."""

    def __init__(self, code: int | None = None) -> None:
        super().__init__(code)
        self.code = code


class Output:
    """Where results go: standard output, or a file for the next or all statements."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._file: TextIO | None = None
        self._once = False

    def redirect(self, path: str, once: bool = False) -> None:
        """Send results to a file; '' or 'stdout' brings them back."""
        self.restore()
        if path and path != "stdout":
            self._file = Path(path).expanduser().open("w", encoding="utf-8")
            self._once = once

    def restore(self) -> None:
        """Back to standard output."""
        if self._file is not None:
            self._file.close()
        self._file, self._once = None, False

    def statement_done(self) -> None:
        """End of a statement: a file for one statement is closed."""
        if self._once:
            self.restore()

    def line(self, text: str) -> None:
        """Write one line of data."""
        with self._progress.hidden():
            stream = self._file or sys.stdout
            stream.write(text + "\n")

    def flush(self) -> None:
        """Make everything written visible."""
        (self._file or sys.stdout).flush()

    @property
    def is_terminal(self) -> bool:
        """Whether a person reads it."""
        return self._file is None and sys.stdout.isatty()


@dataclass(slots=True)
class Shell:
    """The state of one shell.

    status     exit status so far: the first error's
    last_sql   the last statement that ran, for .plan
    """

    session: Session
    database: str
    read_only: bool
    progress: Progress
    output: Output
    look: Look = field(default_factory=Look)
    bail: bool = False
    echo: bool = False
    timer: bool = False
    interactive: bool = False
    prompt: str = "halo> "
    continuation: str = "  ... "
    status: int = 0
    last_sql: str = ""

    def say(self, text: str) -> None:
        """A notice: standard error, so that data stays data."""
        with self.progress.hidden():
            sys.stdout.flush()
            print(text, file=sys.stderr, flush=True)

    def room(self) -> int:
        """Columns a table may take; 0: any."""
        if self.look.maxwidth:
            return self.look.maxwidth
        return shutil.get_terminal_size().columns if self.output.is_terminal else 0
