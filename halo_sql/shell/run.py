"""Running scripts: split, execute in a worker thread, write the result, report the error."""

from __future__ import annotations

import resource
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType

from halo_sql.errors import DatabaseError, EngineError, Error, InternalError, InterruptedQueryError
from halo_sql.grammar.classify import Kind, classify, code_tokens
from halo_sql.grammar.split import split
from halo_sql.grammar.statements.redact import redact
from halo_sql.metrics import Profile
from halo_sql.result import Result
from halo_sql.result_counts import only_counts
from halo_sql.shell import commands
from halo_sql.shell.render import JSON_MODES, write
from halo_sql.shell.state import Exit, Shell
from halo_sql.shell.texts import chunks

_HARD_S = 2.0  # a second Ctrl-C within this time stops without waiting for anything


def exit_code(problem: BaseException) -> int:
    """The shell's exit status for an error."""
    if isinstance(problem, InterruptedQueryError | KeyboardInterrupt):
        return 130
    code = getattr(problem, "code", "") if isinstance(problem, EngineError) else ""
    return {"unavailable": 3, "auth": 3, "timeout": 4, "budget": 4, "cancelled": 130}.get(code, 1)


def report(shell: Shell, problem: BaseException) -> None:
    """Show an error and remember the exit status."""
    text = str(problem)
    if isinstance(problem, InterruptedQueryError) and problem.span is None:
        text = "Interrupted"
    elif isinstance(problem, OSError):
        text = f"IO Error: {problem}"
    elif not isinstance(problem, Error):
        text = f"{InternalError.default_kind}: {type(problem).__name__}: {problem}"
    if sys.stderr.isatty():
        kind, colon, rest = text.partition(":")
        text = f"\x1b[1;31m{kind}{colon}\x1b[0m{rest}"
    shell.say(text)
    if shell.status == 0 or exit_code(problem) == 130:
        shell.status = exit_code(problem)


def run_script(shell: Shell, text: str, stop_at_error: bool) -> bool:
    """Run statements and dot commands; False when it stopped at an error. Ctrl-C always stops it.

    A dot command is a line that begins with '.' outside of a statement.
    """
    good = True
    for is_command, piece in pieces(text):
        try:
            if is_command:
                commands.run(shell, piece)
            else:
                run_statement(shell, piece)
        except (Exit, BrokenPipeError):
            raise
        except Exception as problem:
            good = False
            if not isinstance(problem, BatchFailed):  # its errors were shown where they belong
                report(shell, problem)
            if stop_at_error or shell.bail or exit_code(problem) == 130:
                return False
        finally:
            shell.output.flush()
    return good


def pieces(text: str) -> list[tuple[bool, str]]:
    """The statements and dot commands of a script, in order: (is a dot command, text)."""
    found: list[tuple[bool, str]] = []
    held: list[str] = []

    def flush() -> None:
        found.extend((False, statement) for statement in statements("\n".join(held)))
        held.clear()

    for line in text.split("\n"):
        if line.startswith(".") and is_complete("\n".join(held)):
            flush()
            found.append((True, line.strip()))
        else:
            held.append(line)
    flush()
    return found


def statements(text: str) -> list[str]:
    """The statements of a text; one with BEGIN BATCH goes on until its END BATCH, or the end."""
    found: list[str] = []
    start: int | None = None  # of the batch
    last = 0
    for piece in split(text):
        kind = classify(piece.text)
        last = piece.start + len(piece.text)
        if start is None and kind is not Kind.BATCH:
            found.append(piece.text)
        elif start is None and _begins_batch(piece.text):
            start = piece.start
        elif kind is Kind.BATCH and not _begins_batch(piece.text):
            found.append(text[piece.start if start is None else start : last])
            start = None
    return found if start is None else [*found, text[start:last]]


def _begins_batch(text: str) -> bool:
    return classify(text) is Kind.BATCH and code_tokens(text)[0].text.upper() == "BEGIN"


def is_complete(text: str) -> bool:
    """Whether a text is nothing, or ends with a ';' that ends a statement (END BATCH, when there is a BEGIN)."""
    from halo_sql.duck_tokens import tokenize

    tokens = [token for token in tokenize(text) if token.kind != "comment"]
    if not tokens:
        return True
    if tokens[-1].kind != "operator" or not tokens[-1].text.endswith(";"):
        return False
    if "batch" not in text.lower():
        return True
    whole = statements(text)
    if not whole or not _is_batch(whole[-1]):
        return True
    last = split(whole[-1])[-1].text
    return classify(last) is Kind.BATCH and not _begins_batch(last)


def _is_batch(text: str) -> bool:
    """Whether a statement as ``statements`` gives it is a BEGIN BATCH with what follows."""
    return "batch" in text.lower() and _begins_batch(split(text)[0].text)


def run_statement(shell: Shell, sql: str) -> None:
    """Run one statement and write its result; raises its error."""
    if shell.echo:
        shell.output.line(redact(sql) + ";")
    before, started, cpu = shell.session.last_profile(), time.perf_counter(), _cpu()
    shell.last_sql = sql
    try:
        in_worker(shell, lambda: _execute(shell, sql))
    finally:
        shell.output.statement_done()
        shell.output.flush()
        warned, shell.session.warnings[:] = list(shell.session.warnings), []
        for warning in warned:
            shell.say(f"Warning: {warning}")
        profile = shell.session.last_profile()
        if profile is not None and profile is not before and shell.progress.enabled:
            shell.say(summary(profile))
        if shell.timer:
            user, system = (after - was for after, was in zip(_cpu(), cpu, strict=True))
            shell.say(f"Run Time (s): real {time.perf_counter() - started:.3f} user {user:.6f} sys {system:.6f}")


class BatchFailed(Error):  # noqa: N818 - it is no error of its own
    """Statements of a batch failed; their errors have been shown."""


def _execute(shell: Shell, sql: str) -> None:
    if not _is_batch(sql):
        _show(shell, shell.session.execute(sql), sql)
        return
    _execute_batch(shell, sql)


def run_batch(shell: Shell, sql: str) -> None:
    """Run the statements of a text as one batch, and write their results; raises BatchFailed when one has failed."""
    if split(sql):
        in_worker(shell, lambda: _execute_batch(shell, sql))


def _execute_batch(shell: Shell, sql: str) -> None:
    failed = False
    for outcome in shell.session.run_batch(sql):
        if outcome.error is not None:
            failed = True
            report(shell, outcome.error)
        elif outcome.result is not None:
            _show(shell, outcome.result, outcome.sql)
    if failed:
        raise BatchFailed


def _show(shell: Shell, result: Result, sql: str) -> None:
    try:
        if result.description is None or only_counts(result, sql):
            return
        columns = result.columns or ()
        look = shell.look
        rows = chunks(result, look.mode in JSON_MODES)
        if _is_explain(columns):  # a plan is a text, not a table
            for chunk in rows:
                for row in chunk:
                    shell.output.line((row[-1] or "").rstrip("\n"))
            return
        look.maxwidth, given = shell.room(), look.maxwidth
        try:
            for line in write(columns, rows, look):
                shell.output.line(line)
        finally:
            look.maxwidth = given
    finally:
        result.close()


def _is_explain(columns: tuple[tuple[str, object], ...]) -> bool:
    return [name for name, _ in columns] == ["explain_key", "explain_value"]


def _cpu() -> tuple[float, float]:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime, used.ru_stime


def summary(profile: Profile) -> str:
    """What a statement with LLM calls took, in one line."""
    did = profile.totals()
    parts = [
        f"{did['llm_calls']:,.0f} LLM calls",
        f"{did['llm_calls_coalesced']:,.0f} coalesced",
        f"{did['llm_calls_from_store']:,.0f} from store",
        f"{did['prompt_tok']:,.0f} prompt tok ({did['prompt_tok_cached']:,.0f} cached)",
        f"{did['output_tok']:,.0f} output tok",
    ]
    asked = did["tool_calls"] + did["tool_calls_coalesced"] + did["tool_calls_from_store"]
    parts += [f"{did['tool_calls']:,.0f} tool calls of {asked:,.0f} asked"] if asked else []
    parts += [f"{did[key]:,.0f} {key}" for key in ("retries", "errors") if did[key]]
    parts += [f"{did['usd']:.4f} usd"] if did["usd"] else []
    return f"-- {', '.join(parts)}, {did['elapsed_s']:.2f} s"


def in_worker(shell: Shell, job: Callable[[], None]) -> None:
    """Run a job in a thread while this one shows progress and takes Ctrl-C.

    The first Ctrl-C interrupts the session; the job then ends by itself with an error. A second one within two
    seconds interrupts again, a third ends the process. DuckDB ignores signals in the thread it runs in, and
    joining a thread around KeyboardInterrupt can lose the lock: hence a handler and an Event.
    """
    done, problems, presses = threading.Event(), list[BaseException](), list[float]()

    def work() -> None:
        try:
            job()
        except BaseException as problem:
            problems.append(problem)
        finally:
            done.set()

    def pressed(_signal: int, _frame: FrameType | None) -> None:
        presses.append(time.monotonic())
        if len(presses) > 2 and presses[-1] - presses[-3] < _HARD_S * 2:
            shell.progress.stop()
            raise SystemExit(130)
        shell.session.interrupt()

    main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGINT, pressed) if main else None
    shell.progress.start(shell.session.progress)
    try:
        threading.Thread(target=work, name="halo-statement", daemon=True).start()
        while not done.wait(0.1):
            shell.progress.tick()
    finally:
        shell.progress.stop()
        if main and before is not None:
            signal.signal(signal.SIGINT, before)
    if problems:
        problem = problems[0]
        if presses and not isinstance(problem, InterruptedQueryError) and isinstance(problem, DatabaseError):
            raise InterruptedQueryError("Interrupted") from problem
        raise problem
    if presses:  # it finished before the interrupt reached it; a script still stops here
        raise InterruptedQueryError("Interrupted")
