"""``halo``: the command line."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from halo_sql import __version__
from halo_sql.errors import Error
from halo_sql.shell.args import MODE_FLAGS, Arguments, parse, usage
from halo_sql.shell.state import Exit, Shell

USAGE, UNAVAILABLE = 2, 3


def main(argv: list[str] | None = None) -> int:
    """Run the shell; returns the exit status (see ``halo -help``)."""
    try:
        arguments = parse(sys.argv[1:] if argv is None else argv)
    except Error as problem:
        print(f'{problem}\nEnter "halo -help" for the options.', file=sys.stderr)
        return USAGE
    if arguments.has("help"):
        print(usage())
        return 0
    if arguments.has("version"):
        print(f"HaloSQL {__version__}")
        return 0
    try:
        shell = _open(arguments)
    except Error as problem:
        print(problem, file=sys.stderr)
        return USAGE if problem.kind == "Setting Error" else UNAVAILABLE
    try:
        code = _run(shell, arguments)
        shell.output.flush()
    except Exit as leave:
        code = shell.status if leave.code is None else leave.code
    except BrokenPipeError:  # the reader has gone, e.g. head: nothing is left to say
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = shell.status
    except KeyboardInterrupt:
        code = 130
    finally:
        shell.output.restore()
        shell.session.close()
    return code


def _open(arguments: Arguments) -> Shell:
    from halo_sql.session import Session
    from halo_sql.shell.progress import Progress
    from halo_sql.shell.state import Output

    read_only = arguments.has("readonly")
    session = Session.open(arguments.database, read_only, {})
    progress = Progress(session.settings.flag("halo_progress") and not arguments.has("no-progress"))
    shell = Shell(session, arguments.database, read_only, progress, Output(progress))
    terminal = sys.stdin.isatty() and sys.stdout.isatty() and not arguments.has("batch")
    ends = any(name in ("c", "f") for name, _ in arguments.steps)
    shell.interactive = arguments.has("interactive") or (terminal and not ends)
    return shell


def _run(shell: Shell, arguments: Arguments) -> int:
    from halo_sql.shell.run import run_script

    ran = False
    if not arguments.has("no-init") and not _init(shell, arguments.last("init")):
        return shell.status
    for name, value in arguments.steps:
        if name == "cmd" and not run_script(shell, value, stop_at_error=shell.bail):
            return shell.status or 1
        if name in ("c", "f"):
            ran = True
            if not _step(shell, name, value):
                return shell.status
        _option(shell, name, value)
    if shell.interactive:
        from halo_sql.shell.repl import repl

        shell.status = 0  # errors were seen
        repl(shell)
    elif not ran:
        text = sys.stdin.buffer.read().decode("utf-8", "replace")
        run_script(shell, text, stop_at_error=shell.bail)
    return shell.status


def _option(shell: Shell, name: str, value: str) -> None:
    look = shell.look
    if name in MODE_FLAGS:
        look.mode = name
    elif name == "nullvalue":
        look.null = value
    elif name == "separator":
        look.separator = value.encode().decode("unicode_escape")
    elif name in ("header", "noheader"):
        look.headers = name == "header"
    elif name in ("bail", "echo"):
        setattr(shell, name, True)


def _step(shell: Shell, name: str, value: str) -> bool:
    """A -c or -f; False when the shell should end."""
    from halo_sql.shell.run import report, run_script

    if name == "c":
        return run_script(shell, value, stop_at_error=True)
    try:
        text = sys.stdin.read() if value == "-" else Path(value).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as problem:
        report(shell, OSError(f"cannot read {value}: {problem}"))
        return False
    return run_script(shell, text, stop_at_error=True)


def _init(shell: Shell, given: str | None) -> bool:
    """Run the file of -init, or ~/.halorc when there is one."""
    from halo_sql.shell.run import report, run_script

    path = Path(given or "~/.halorc").expanduser()
    if given is None and not path.exists():
        return True
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as problem:
        report(shell, OSError(f"cannot read {path}: {problem}"))
        return False
    shell.say(f"-- Loading resources from {path}")
    run_script(shell, text, stop_at_error=False)
    return True


if __name__ == "__main__":
    sys.exit(main())
