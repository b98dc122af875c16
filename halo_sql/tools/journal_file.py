"""The journal's SQLite file: its table, and each thing that is done to an entry.

States: 'begun' -> 'done' | 'failed'. What the functions below do happens inside the transaction of whoever calls.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from halo_sql.engines.store_errors import BUSY_S, UnusableError, sqlite_errors
from halo_sql.errors import EngineError

_TABLE = """CREATE TABLE IF NOT EXISTS calls (
    key TEXT NOT NULL PRIMARY KEY, statement TEXT NOT NULL, tool TEXT NOT NULL, arguments BLOB NOT NULL,
    state TEXT NOT NULL, result BLOB, code TEXT, error BLOB, run TEXT NOT NULL, claim TEXT NOT NULL,
    idempotency TEXT NOT NULL, begun REAL NOT NULL, ended REAL, process INTEGER NOT NULL)"""
_INDEX = "CREATE INDEX IF NOT EXISTS calls_of_statement ON calls (statement)"

#: Who stands before the tool, or a server at its door, said no: nothing was done. The call may be made again. What a
#: tool itself reports (code 'tool': an exception, a 500, an answer nobody can read) may have come after it acted.
REFUSALS = ("rejected", "rate_limit", "auth", "denied")
#: The tool acted, only its answer is of no use. Not made again, the error stands.
USELESS = ("too_large", "invalid_output")
_CERTAIN = ", ".join(f"'{code}'" for code in (*REFUSALS, *USELESS))
_IN_DOUBT = f"(state = 'begun' OR (state = 'failed' AND code NOT IN ({_CERTAIN})))"


@dataclass(frozen=True, slots=True)
class Page:
    """A call that is about to be made.

    key        of statement, tool, arguments and the how many-eth equal call it is: the same in every run
    statement  digest of the statement
    run        of the statement; unique
    claim      of this very attempt; unique
    """

    key: str
    statement: str
    tool: str
    arguments: str
    run: str
    claim: str
    path: Path


@dataclass(frozen=True, slots=True)
class Claim:
    """A call that is noted and may be made; ``idempotency`` is the key that goes with it, also when it is repeated."""

    key: str
    tool: str
    claim: str
    idempotency: str


@dataclass(frozen=True, slots=True)
class JournalEntry:
    """An entry as a person reads it.

    state      'begun' | 'done' | 'failed'
    in_doubt   whether nobody knows if the tool acted
    result     of 'done': a JSON value
    error      of 'failed': code and message
    begun, ended  UTC
    process    the id of the process that made the call
    """

    key: str
    tool: str
    arguments: str
    state: str
    in_doubt: bool
    result: str | None
    error: str | None
    begun: datetime
    ended: datetime | None
    process: int


# --- one call


def begin(connection: sqlite3.Connection, page: Page) -> Claim | str:
    """Note the beginning of a call, unless an earlier run did; see ``StatementJournal.begin``."""
    found = connection.execute(
        "SELECT state, result, code, error, idempotency, begun, process FROM calls WHERE key = ?", (page.key,)
    ).fetchone()
    now, process = time.time(), os.getpid()
    if found is None:
        connection.execute(
            "INSERT INTO calls VALUES (?, ?, ?, ?, 'begun', NULL, NULL, NULL, ?, ?, ?, ?, NULL, ?)",
            (
                page.key,
                page.statement,
                page.tool,
                _blob(page.arguments),
                page.run,
                page.claim,
                page.claim,
                now,
                process,
            ),
        )
        return Claim(page.key, page.tool, page.claim, page.claim)
    state, result, code, error, idempotency, begun, by = found
    if state == "done":
        return _text(result)
    if state == "failed" and code in USELESS:
        raise EngineError(_text(error), code=code, remedy=f"It was called before and acted. {_clear(page)}")
    if state == "failed" and code in REFUSALS:
        connection.execute(
            "UPDATE calls SET state = 'begun', code = NULL, error = NULL, run = ?, claim = ?, begun = ?, ended = NULL,"
            " process = ? WHERE key = ?",
            (page.run, page.claim, now, process, page.key),
        )
        return Claim(page.key, page.tool, page.claim, idempotency)
    when = f"{_time(begun):%Y-%m-%d %H:%M:%S} UTC by process {by}"
    ended = f"; it ended with: {_text(error)}" if state == "failed" else ", and its end is not known"
    raise EngineError(
        f'a call of the tool "{page.tool}" was begun {when}{ended}. It may have acted and is not repeated',
        code="in_doubt",
        remedy=f"Check whether it did. {_clear(page)}",
    )


def withdraw(connection: sqlite3.Connection, page: Page) -> None:
    """The call that ``begin`` noted, if it did, is not made after all."""
    connection.execute("DELETE FROM calls WHERE key = ? AND claim = ? AND state = 'begun'", (page.key, page.claim))


def done(connection: sqlite3.Connection, claim: Claim, text: str) -> None:
    """The call came to this value."""
    connection.execute(
        "UPDATE calls SET state = 'done', result = ?, ended = ? WHERE key = ? AND claim = ?",
        (_blob(text), time.time(), claim.key, claim.claim),
    )


def failed(connection: sqlite3.Connection, claim: Claim, error: EngineError) -> None:
    """The call failed; the code says whether it may have acted."""
    connection.execute(
        "UPDATE calls SET state = 'failed', code = ?, error = ?, ended = ? WHERE key = ? AND claim = ?",
        (error.code, _blob(error.message), time.time(), claim.key, claim.claim),
    )


# --- the entries


def entries(connection: sqlite3.Connection) -> list[JournalEntry]:
    """All of them, oldest first."""
    sql = (
        f"SELECT key, tool, arguments, state, {_IN_DOUBT}, result, code, error, begun, ended, process FROM calls "
        "ORDER BY begun, key"
    )
    return [
        JournalEntry(
            key,
            tool,
            _text(arguments),
            state,
            bool(in_doubt),
            None if result is None else _text(result),
            None if code is None else f"{code}: {_text(error)}",
            _time(begun),
            None if ended is None else _time(ended),
            process,
        )
        for key, tool, arguments, state, in_doubt, result, code, error, begun, ended, process in connection.execute(sql)
    ]


def forget(connection: sqlite3.Connection, key: str) -> bool:
    """Take one away."""
    return connection.execute("DELETE FROM calls WHERE key = ?", (key,)).rowcount > 0


def settle(connection: sqlite3.Connection, key: str, text: str) -> bool:
    """A call in doubt did happen."""
    sql = f"UPDATE calls SET state = 'done', result = ?, ended = ? WHERE key = ? AND {_IN_DOUBT}"
    return connection.execute(sql, (_blob(text), time.time(), key)).rowcount > 0


def finish(connection: sqlite3.Connection, statement: str, run: str) -> int:
    """Take the entries of a statement away, except those in doubt since another run."""
    sql = f"DELETE FROM calls WHERE statement = ? AND NOT (run <> ? AND {_IN_DOUBT})"
    return connection.execute(sql, (statement, run)).rowcount


# --- the file


def connect(path: Path) -> sqlite3.Connection:
    """Open or create. Raises DamagedError, UnusableError and BusyError (``store_errors``)."""
    with sqlite_errors():
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with contextlib.suppress(FileExistsError):  # SQLite itself would make it 0644
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        connection = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
        try:
            _prepare(connection)
        except BaseException:
            connection.close()
            raise
    return connection


def _prepare(connection: sqlite3.Connection) -> None:
    for pragma in ("trusted_schema=OFF", "cell_size_check=ON", "mmap_size=0"):
        connection.execute(f"PRAGMA {pragma}").fetchall()
    names = {name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
    if names and "calls" not in names:
        raise UnusableError("it is another program's database")
    for pragma in ("journal_mode=WAL", "synchronous=FULL"):
        connection.execute(f"PRAGMA {pragma}").fetchall()
    connection.execute(_TABLE)
    connection.execute(_INDEX)


@contextlib.contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """All of it or nothing, on disk when it ends."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        with contextlib.suppress(sqlite3.Error):  # a full disk has rolled back already
            connection.execute("ROLLBACK")
        raise


def _clear(page: Page) -> str:
    return (
        "To let it be called again, take its entry out of the journal "
        f"{page.path}: DELETE FROM calls WHERE key = '{page.key}'"
    )


def _blob(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogatepass")


def _time(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC).replace(tzinfo=None)
