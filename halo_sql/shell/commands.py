"""Dot commands. One explicit tuple; names may be abbreviated as long as they stay unique."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from halo_sql import __version__, batch
from halo_sql.config import store_path
from halo_sql.errors import InterfaceError, did_you_mean
from halo_sql.ir.expr import literal, quote
from halo_sql.shell.render import MODES
from halo_sql.shell.state import Exit, Shell

Words = list[str]


class CommandError(InterfaceError):
    """A dot command is unknown or was given the wrong arguments."""

    default_kind = "Command Error"


@dataclass(frozen=True, slots=True)
class Command:
    """``.name usage``: what it does, and the function that does it (shell, arguments, rest of the line as written)."""

    name: str
    usage: str
    help: str
    run: Callable[[Shell, Words, str], None]


def find(name: str) -> Command:
    """The command of this name or unique abbreviation; CommandError with the nearest name otherwise."""
    exact = next((command for command in COMMANDS if command.name == name), None)
    near = [command for command in COMMANDS if command.name.startswith(name)]
    if exact is None and len(near) == 1:
        return near[0]
    if exact is None:
        known = [command.name for command in near or COMMANDS]
        what = "is ambiguous" if near else "is not a command"
        remedy = "Known: " + ", ".join(known) if near else did_you_mean(name, known)
        raise CommandError(f'".{name}" {what}', remedy=f'{remedy} Enter ".help" for all.'.lstrip())
    return exact


def run(shell: Shell, line: str) -> None:
    """Run a line that begins with a dot."""
    name, _, rest = line[1:].strip().partition(" ")
    command, rest = find(name.lower()), rest.strip()
    try:
        words = shlex.split(rest)
    except ValueError as problem:
        raise CommandError(f".{command.name}: {problem}") from None
    try:
        command.run(shell, words, rest)
    except IndexError:
        raise CommandError(
            f".{command.name} needs an argument", remedy=f"Usage: .{command.name} {command.usage}"
        ) from None


def _show_query(text: Callable[[Words], str]) -> Callable[[Shell, Words, str], None]:
    """A command that shows a query's rows."""

    def show(shell: Shell, words: Words, rest: str) -> None:
        from halo_sql.shell.run import run_statement

        kept, echo = shell.last_sql, shell.echo
        shell.echo = False
        try:
            run_statement(shell, text(words))
        finally:
            shell.last_sql, shell.echo = kept, echo

    return show


def _flag(name: str) -> Callable[[Shell, Words, str], None]:
    def change(shell: Shell, words: Words, rest: str) -> None:
        setattr(shell, name, _switch(words[0]))

    return change


def _switch(word: str) -> bool:
    if word.lower() in ("on", "true", "yes", "1"):
        return True
    if word.lower() in ("off", "false", "no", "0"):
        return False
    raise CommandError(f'"{word}" is neither on nor off')


def _number(word: str) -> int:
    if not word.isdigit():
        raise CommandError(f'"{word}" is not a number')
    return int(word)


def _help(shell: Shell, words: Words, rest: str) -> None:
    shown = [command for command in COMMANDS if not words or command.name.startswith(words[0].lstrip("."))]
    for command in shown:
        shell.output.line(f".{command.name} {command.usage}".ljust(28) + command.help)


def _exit(shell: Shell, words: Words, rest: str) -> None:
    raise Exit(_number(words[0]) if words else None)


def _mode(shell: Shell, words: Words, rest: str) -> None:
    if not words:
        shell.output.line(f"current output mode: {shell.look.mode}")
    elif words[0] in MODES:
        shell.look.mode = words[0]
    else:
        raise CommandError(f'"{words[0]}" is not an output mode', remedy=did_you_mean(words[0], list(MODES)))


def _headers(shell: Shell, words: Words, rest: str) -> None:
    shell.look.headers = _switch(words[0])


def _nullvalue(shell: Shell, words: Words, rest: str) -> None:
    shell.look.null = words[0]


def _separator(shell: Shell, words: Words, rest: str) -> None:
    shell.look.separator = words[0].encode().decode("unicode_escape")


def _maxrows(shell: Shell, words: Words, rest: str) -> None:
    shell.look.maxrows = _number(words[0])


def _maxwidth(shell: Shell, words: Words, rest: str) -> None:
    shell.look.maxwidth = _number(words[0])


def _output(shell: Shell, words: Words, rest: str) -> None:
    shell.output.redirect(words[0] if words else "")


def _once(shell: Shell, words: Words, rest: str) -> None:
    shell.output.redirect(words[0], once=True)


def _read(shell: Shell, words: Words, rest: str) -> None:
    from halo_sql.shell.run import run_script

    run_script(shell, Path(words[0]).expanduser().read_text(encoding="utf-8"), stop_at_error=not shell.interactive)


def _batch(shell: Shell, words: Words, rest: str) -> None:
    from halo_sql.shell.run import run_batch

    explained = words[0] in ("-explain", "--explain")
    text = Path(words[1 if explained else 0]).expanduser().read_text(encoding="utf-8")
    if explained:
        statements = [piece.text for piece in batch.statements(text)]
        shell.output.line(shell.session.explain_batch(statements))
    else:
        run_batch(shell, text)


def _open(shell: Shell, words: Words, rest: str) -> None:
    from halo_sql.session import Session

    read_only = bool(words) and words[0] in ("-readonly", "--readonly")
    names = words[1:] if read_only else words
    database = names[0] if names else ":memory:"
    opened = Session.open(database, read_only, {})
    shell.session.close()
    shell.session, shell.database, shell.read_only = opened, database, read_only


def _import(shell: Shell, words: Words, rest: str) -> None:
    file, table = literal(words[0]), words[1]
    exists = f"SELECT 1 FROM duckdb_tables() WHERE table_name = {literal(table)} AND schema_name = current_schema()"
    verb = (
        f"INSERT INTO {quote(table)}" if shell.session.execute(exists).fetchall() else f"CREATE TABLE {quote(table)} AS"
    )
    shell.session.execute(f"{verb} FROM {file}").close()


def _print(shell: Shell, words: Words, rest: str) -> None:
    shell.output.line(" ".join(words))


def _prompt(shell: Shell, words: Words, rest: str) -> None:
    shell.prompt = words[0]
    shell.continuation = words[1] if len(words) > 1 else shell.continuation


def _cd(shell: Shell, words: Words, rest: str) -> None:
    os.chdir(Path(words[0]).expanduser())


def _system(shell: Shell, words: Words, rest: str) -> None:
    if not rest:
        raise IndexError
    shell.output.flush()
    code = subprocess.run(rest, shell=True, check=False).returncode
    if code:
        raise CommandError(f"the command ended with status {code}")


def _show(shell: Shell, words: Words, rest: str) -> None:
    look = shell.look
    values = {
        "database": shell.database + (" (read-only)" if shell.read_only else ""),
        "mode": look.mode,
        "headers": {None: "as the mode has it", True: "on", False: "off"}[look.headers],
        "nullvalue": "as the mode has it" if look.null is None else repr(look.null),
        "separator": "as the mode has it" if look.separator is None else repr(look.separator),
        "maxrows": look.maxrows,
        "maxwidth": look.maxwidth,
        "bail": "on" if shell.bail else "off",
        "echo": "on" if shell.echo else "off",
        "timer": "on" if shell.timer else "off",
    }
    for name, value in values.items():
        shell.output.line(f"{name:>10}: {value}")


def _version(shell: Shell, words: Words, rest: str) -> None:
    (duckdb,) = shell.session.execute("SELECT version()").fetchall()[0]
    shell.output.line(f"HaloSQL {__version__}, DuckDB {duckdb}")


def _schema(words: Words) -> str:
    where = f"AND name = {literal(words[0])}" if words else ""
    return (
        "SELECT sql FROM (SELECT table_name AS name, sql FROM duckdb_tables() WHERE NOT internal UNION ALL "
        "SELECT view_name, sql FROM duckdb_views() WHERE NOT internal UNION ALL "
        f"SELECT table_name, sql FROM duckdb_indexes()) WHERE sql IS NOT NULL {where} ORDER BY name"
    )


def _show_schema(shell: Shell, words: Words, rest: str) -> None:
    for (sql,) in shell.session.execute(_schema(words)).fetchall():
        shell.output.line(sql)


def _dump(shell: Shell, words: Words, rest: str) -> None:
    for (sql,) in shell.session.execute("SELECT sql FROM halo_export() ORDER BY position").fetchall():
        shell.output.line(sql + ";")


def _tables(words: Words) -> str:
    like = f"AND name LIKE {literal(words[0])}" if words else ""
    return (
        "SELECT schema_name AS schema, name, kind FROM ("
        "SELECT database_name, schema_name, table_name AS name, 'table' AS kind, internal FROM duckdb_tables() "
        "UNION ALL SELECT database_name, schema_name, view_name, 'view', internal FROM duckdb_views()) "
        f"WHERE NOT internal AND database_name IN (current_database(), 'temp') {like} ORDER BY ALL"
    )


def _plan(shell: Shell, words: Words, rest: str) -> None:
    from halo_sql.explain import FORMATS

    form = words[0].lower() if words and words[0].lower() in FORMATS else "text"
    sql = rest[len(words[0]) :].strip() if words and words[0].lower() in FORMATS else rest
    if not (sql or shell.last_sql):
        raise CommandError("there is no last statement", remedy="Usage: .plan [FORMAT] [SQL]")
    shell.output.line(shell.session.explain((sql or shell.last_sql).rstrip("; \n"), format=form))


def _profile(shell: Shell, words: Words, rest: str) -> None:
    from halo_sql.explain import render

    profile = shell.session.last_profile()
    if profile is None:
        raise CommandError("no statement with LLM calls has run yet")
    if not words:
        shell.output.line(render(profile.dag, profile, "text", profile.statement))
        return
    path = Path(words[0]).expanduser()
    form = {".html": "html", ".json": "json", ".dot": "graphviz", ".mmd": "mermaid"}.get(path.suffix, "text")
    path.write_text(render(profile.dag, profile, form, profile.statement) + "\n", encoding="utf-8")
    shell.say(f"{form} profile written to {path}")


def _cost(shell: Shell, words: Words, rest: str) -> None:
    from halo_sql.shell.run import summary

    profile = shell.session.last_profile()
    if profile is None:
        raise CommandError("no statement with LLM calls has run yet")
    shell.output.line(summary(profile))


def _cache(shell: Shell, words: Words, rest: str) -> None:
    path = store_path(shell.session.settings)
    if path is None:
        shell.output.line("the response store is off")
        return
    size = sum(file.stat().st_size for file in path.parent.glob(path.name + "*")) if path.exists() else 0
    shell.output.line(f"{path}: {size:,} bytes")


def _budget(shell: Shell, words: Words, rest: str) -> None:
    for name in ("halo_max_calls", "halo_max_tokens", "halo_max_usd", "halo_max_seconds"):
        shell.output.line(f"{name} = {shell.session.settings.get(name)}")


def _trace(words: Words) -> str:
    row = f" AND row_key = {_number(words[0])}" if words else ""
    return (
        "SELECT node, row_key AS row, agent, step, kind, model, status, error, prompt_tok, output_tok, seconds, "
        f"prompt, answer FROM halo_calls() WHERE query = (SELECT max(id) FROM halo_queries()){row} "
        "ORDER BY node, row_key, step, started"
    )


COMMANDS: tuple[Command, ...] = (
    Command("agents", "", "agents", _show_query(lambda words: "SHOW AGENTS")),
    Command("bail", "on|off", "stop at the first error", _flag("bail")),
    Command("batch", "[-explain] FILE", "run the statements of a file as one batch, or show its plans", _batch),
    Command("budget", "", "limits of one statement (SET halo_max_… changes them)", _budget),
    Command("cache", "", "where the response store is, and its size", _cache),
    Command("cd", "FOLDER", "change the working folder", _cd),
    Command("cost", "", "calls and tokens of the last statement with LLM calls", _cost),
    Command("databases", "", "attached databases", _show_query(lambda words: "SHOW DATABASES")),
    Command("dump", "", "statements that make all models, prompts, tools and agents again", _dump),
    Command("echo", "on|off", "print statements before running them", _flag("echo")),
    Command("exit", "[STATUS]", "leave", _exit),
    Command("headers", "on|off", "show column names", _headers),
    Command("help", "[COMMAND]", "this list", _help),
    Command("import", "FILE TABLE", "load a CSV, JSON or Parquet file into a table", _import),
    Command(
        "indexes",
        "",
        "indexes",
        _show_query(lambda words: "SELECT table_name, index_name, sql FROM duckdb_indexes() ORDER BY ALL"),
    ),
    Command("maxrows", "N", "rows a duckbox shows, 0 for all", _maxrows),
    Command("maxwidth", "N", "columns of text a duckbox may take, 0 for the terminal's", _maxwidth),
    Command("mode", "[MODE]", "output mode: " + " ".join(MODES), _mode),
    Command("models", "", "models", _show_query(lambda words: "SHOW MODELS")),
    Command("nullvalue", "TEXT", "what NULL is shown as", _nullvalue),
    Command("once", "FILE", "the next result goes to a file", _once),
    Command("open", "[-readonly] [FILE]", "close this database and open another", _open),
    Command("output", "[FILE]", "results go to a file, or back to standard output", _output),
    Command("plan", "[FORMAT] [SQL]", "plan of a statement or the last one: text json mermaid graphviz html", _plan),
    Command("print", "TEXT", "print a text", _print),
    Command("profile", "[FILE]", "what the last statement with LLM calls did (.html .json .dot .mmd)", _profile),
    Command("prompt", "MAIN [CONTINUE]", "change the prompts", _prompt),
    Command("prompts", "", "prompts", _show_query(lambda words: "SHOW PROMPTS")),
    Command("quit", "", "leave", _exit),
    Command("read", "FILE", "run the statements of a file", _read),
    Command("schema", "[TABLE]", "CREATE statements", _show_schema),
    Command("separator", "TEXT", "between values in the modes csv, list and tabs", _separator),
    Command("shell", "COMMAND", "run a command of the operating system", _system),
    Command("show", "", "the shell's settings", _show),
    Command("system", "COMMAND", "run a command of the operating system", _system),
    Command("tables", "[PATTERN]", "tables and views", _show_query(_tables)),
    Command("timer", "on|off", "time of each statement", _flag("timer")),
    Command("tools", "", "tools", _show_query(lambda words: "SHOW TOOLS")),
    Command("trace", "[ROW]", "calls of the last statement that made some, or of one row", _show_query(_trace)),
    Command("version", "", "versions", _version),
)
