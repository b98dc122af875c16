"""Command-line arguments, as DuckDB's shell takes them: in order, with one dash or two."""

from __future__ import annotations

from dataclasses import dataclass, field

from halo_sql.errors import InterfaceError, did_you_mean

MODE_FLAGS = ("csv", "json", "jsonlines", "markdown", "line", "box", "table", "list", "html", "duckbox", "tabs")

#: option -> (name of its value, or '' when it takes none; help)
OPTIONS: dict[str, tuple[str, str]] = {
    "c": ("SQL", "run this and exit; may be given several times"),
    "f": ("FILE", "run the statements of a file and exit"),
    "cmd": ("SQL", "run this before reading standard input"),
    "init": ("FILE", "run this file at the start instead of ~/.halorc"),
    "no-init": ("", "do not run ~/.halorc"),
    "bail": ("", "stop at the first error"),
    "echo": ("", "print statements before running them"),
    "batch": ("", "never interactive"),
    "interactive": ("", "interactive even when input or output is no terminal"),
    "readonly": ("", "open the database read-only"),
    **{mode: ("", f"output mode {mode}") for mode in MODE_FLAGS},
    "nullvalue": ("TEXT", "what NULL is shown as"),
    "separator": ("TEXT", "between values in the modes list and csv"),
    "header": ("", "show column names"),
    "noheader": ("", "do not show column names"),
    "no-progress": ("", "no progress of LLM operators on standard error"),
    "version": ("", "print the version and exit"),
    "help": ("", "print this and exit"),
}
_SAME = {"s": "c", "h": "help", "?": "help", "noinit": "no-init"}


@dataclass(slots=True)
class Arguments:
    """What was asked for.

    database  the file, or ':memory:'
    steps     (option, value) in the order given; positional SQL texts arrive as ('c', sql)
    """

    database: str = ":memory:"
    steps: list[tuple[str, str]] = field(default_factory=list)

    def has(self, option: str) -> bool:
        """Whether an option was given."""
        return any(name == option for name, _ in self.steps)

    def last(self, option: str) -> str | None:
        """The value of the last such option."""
        return next((value for name, value in reversed(self.steps) if name == option), None)


def parse(argv: list[str]) -> Arguments:
    """Read the arguments (without the program's name); InterfaceError for an unknown option or a missing value."""
    found, positional = Arguments(), 0
    words = iter(argv)
    for word in words:
        if word == "--":
            continue
        if not word.startswith("-") or word == "-":
            if positional:
                found.steps.append(("c", word))
            else:
                found.database = word
            positional += 1
            continue
        given, equals, value = word.lstrip("-").partition("=")
        name = _SAME.get(given.lower(), given.lower())
        if name not in OPTIONS:
            raise InterfaceError(f"unknown option {word}", kind="Usage Error", remedy=did_you_mean(name, list(OPTIONS)))
        if OPTIONS[name][0] and not equals:
            try:
                value = next(words)
            except StopIteration:
                raise InterfaceError(f"-{name} needs a value ({OPTIONS[name][0]})", kind="Usage Error") from None
        found.steps.append((name, value))
    return found


def usage() -> str:
    """The text of -help."""
    rows = [f"  -{name} {value}".ljust(22) + about for name, (value, about) in OPTIONS.items()]
    return "\n".join(
        [
            "usage: halo [OPTIONS] [FILENAME] [SQL ...]",
            "",
            "Runs DuckDB SQL with LLM operators. FILENAME is a DuckDB database, created if it does not exist.",
            "Without SQL and on a terminal it is interactive; options are taken in the order given.",
            "",
            *rows,
            "",
            "exit status: 0 done, 1 SQL error, 2 usage, 3 model, engine or database unavailable,",
            "4 time or budget exhausted, 130 interrupted",
        ]
    )
