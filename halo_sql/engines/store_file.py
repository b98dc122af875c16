"""The response store's SQLite file: opening it, reading and writing groups of rows, putting a damaged one aside.

A row carries a checksum over its key and its payload, so whatever happens to the file, a read gives the answer
that was written under this very key, or nothing. Statements handle hundreds of rows each: Python's sqlite3
lets go of the interpreter lock at every step of a statement, and taking it back from a busy loop costs
milliseconds, so the number of steps is what counts.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

from halo_sql.engines.experience import CallKind, Experience
from halo_sql.engines.store_errors import BUSY_S, BusyError, UnusableError, patiently, sqlite_errors

APPLICATION_ID = 0x48414C4F  # "HALO": tells a damaged store from somebody else's database
GROUP = 256  # rows per statement
_TABLES = (
    """CREATE TABLE IF NOT EXISTS responses (
    key BLOB NOT NULL PRIMARY KEY, text BLOB NOT NULL, finish TEXT NOT NULL, prompt_tok INTEGER NOT NULL,
    output_tok INTEGER NOT NULL, checksum BLOB NOT NULL, created REAL NOT NULL)""",
    "CREATE TABLE IF NOT EXISTS quarantine (key BLOB, text BLOB, finish TEXT, found REAL NOT NULL)",
    """CREATE TABLE IF NOT EXISTS experience (model TEXT NOT NULL, call TEXT NOT NULL, label TEXT NOT NULL,
    sums TEXT NOT NULL, learnt REAL NOT NULL, PRIMARY KEY (model, call))""",
)


@dataclass(frozen=True, slots=True)
class Entry:
    """One stored answer: the text, how it ended, and what it took."""

    text: str
    finish: str = "stop"
    prompt_tok: int = 0
    output_tok: int = 0


def checksum(key: bytes, text: bytes, finish: str, prompt_tok: int, output_tok: int) -> bytes:
    """16 bytes over everything a read gives back, bound to the key it was written under."""
    head = f"{finish}\0{prompt_tok}\0{output_tok}\0".encode("utf-8", "surrogatepass")
    return blake2b(key + head + text, digest_size=16).digest()


class StoreFile:
    """One connection to the store. Not thread-safe; raises DamagedError, UnusableError and BusyError."""

    def __init__(self, path: Path) -> None:
        self._lock = _FileLock(path)
        try:
            # One process at a time: SQLite does not wait for its lock when a new file becomes a WAL one.
            with _FileLock(path, exclusive=True, suffix=".open", wait_s=BUSY_S):
                self._connection = patiently(lambda: _connect(path))
        except BaseException:
            self._lock.release()
            raise

    def close(self) -> None:
        """Close the connection; idempotent."""
        with contextlib.suppress(sqlite3.Error):
            self._connection.close()
        self._lock.release()

    def read(self, keys: Sequence[bytes]) -> tuple[dict[bytes, Entry], list[bytes]]:
        """The sound entries among these keys, and the keys whose rows are damaged."""
        sound: dict[bytes, Entry] = {}
        bad: list[bytes] = []
        for start in range(0, len(keys), GROUP):
            with sqlite_errors():
                for row in self._select(keys[start : start + GROUP]):
                    key, entry = _parse(row)
                    if entry is None:
                        bad.append(key)
                    else:
                        sound[key] = entry
        return sound, bad

    def _select(self, keys: Sequence[bytes]) -> list[str]:
        """The rows of these keys, each as ``hex(key) hex(text) hex(finish) prompt_tok output_tok hex(checksum)``."""
        size = 1 << (len(keys) - 1).bit_length()  # few sizes: few statements to prepare
        sql = (
            "SELECT group_concat(hex(key) || ' ' || hex(text) || ' ' || hex(finish) || ' ' || prompt_tok || ' ' "
            f"|| output_tok || ' ' || hex(checksum), '/') FROM responses WHERE key IN ({','.join('?' * size)})"
        )
        try:
            (found,) = self._connection.execute(sql, [*keys, *[keys[-1]] * (size - len(keys))]).fetchone()
        except sqlite3.DataError:  # over SQLite's limit for one value
            if len(keys) == 1:
                return []
            return self._select(keys[: len(keys) // 2]) + self._select(keys[len(keys) // 2 :])
        return str(found).split("/") if found else []

    def write(self, rows: Sequence[tuple[bytes, Entry]]) -> None:
        """One durable transaction; a key that is there already gets the new row."""
        now = time.time()
        values: list[object] = []
        for key, entry in rows:
            text = entry.text.encode("utf-8", "surrogatepass")
            values += (key, text, entry.finish, entry.prompt_tok, entry.output_tok)
            values += (checksum(key, text, entry.finish, entry.prompt_tok, entry.output_tok), now)
        with self._transaction():
            start, left, size = 0, len(rows), GROUP
            while left:
                while size > left:
                    size //= 2
                rows_sql = ",".join(["(?,?,?,?,?,?,?)"] * size)
                self._connection.execute(
                    f"INSERT OR REPLACE INTO responses VALUES {rows_sql}", values[start : start + 7 * size]
                )
                start, left = start + 7 * size, left - size

    def quarantine(self, keys: Sequence[bytes]) -> None:
        """Move these rows out of reach of reads."""
        now = time.time()
        with self._transaction():
            for key in keys:
                self._connection.execute(
                    "INSERT INTO quarantine SELECT key, text, finish, ? FROM responses WHERE key = ?", (now, key)
                )
                self._connection.execute("DELETE FROM responses WHERE key = ?", (key,))

    def counts(self) -> tuple[int, int]:
        """Rows in the store and in quarantine."""
        with sqlite_errors():
            sql = "SELECT (SELECT count(*) FROM responses), (SELECT count(*) FROM quarantine)"
            rows, quarantined = self._connection.execute(sql).fetchone()
        return rows, quarantined

    def clear(self) -> None:
        """Delete everything and give the room back (not while another process reads)."""
        with self._transaction():
            self._connection.execute("DELETE FROM responses")
            self._connection.execute("DELETE FROM quarantine")
        with contextlib.suppress(BusyError, UnusableError), sqlite_errors():
            self._connection.execute("VACUUM")
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def experience(self, kinds: Sequence[CallKind] | None) -> list[tuple[CallKind, str, Experience]]:
        """What was learnt of these, or of all; rows that make no sense are left out."""
        columns = "SELECT model, call, label, sums FROM experience"
        with sqlite_errors():
            if kinds is None:
                rows = self._connection.execute(columns).fetchall()
            else:
                sql = f"{columns} WHERE model = ? AND call = ?"
                rows = [row for kind in kinds for row in self._connection.execute(sql, kind).fetchall()]
        found = [(CallKind(str(row[0]), str(row[1])), str(row[2]), Experience.read(str(row[3]))) for row in rows]
        return [(kind, label, experience) for kind, label, experience in found if experience is not None]

    def learn(self, lessons: Sequence[tuple[CallKind, str, Experience]]) -> None:
        """Add to what was learnt, in one transaction: processes do not overwrite each other."""
        now = time.time()
        with self._transaction():
            known = {kind: experience for kind, _, experience in self.experience([lesson[0] for lesson in lessons])}
            for kind, label, experience in lessons:
                known[kind] = whole = known[kind].merged(experience) if kind in known else experience
                self._connection.execute(
                    "INSERT OR REPLACE INTO experience VALUES (?, ?, ?, ?, ?)", (*kind, label, whole.text(), now)
                )

    def forget(self) -> None:
        """Delete what was learnt."""
        with self._transaction():
            self._connection.execute("DELETE FROM experience")

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        """All of it or nothing, on disk when it returns."""
        with sqlite_errors():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):  # a full disk has rolled back already
                    self._connection.execute("ROLLBACK")
                raise


def _parse(row: str) -> tuple[bytes, Entry | None]:
    """A row as ``read`` selects it; None when its checksum fails."""
    key_hex, _, payload = row.partition(" ")
    key = bytes.fromhex(key_hex)
    try:
        text_hex, finish_hex, prompt_tok, output_tok, sum_hex = payload.split(" ")
        text, finish = bytes.fromhex(text_hex), bytes.fromhex(finish_hex).decode()
        entry = Entry(text.decode("utf-8", "surrogatepass"), finish, int(prompt_tok), int(output_tok))
    except ValueError:
        return key, None
    expected = checksum(key, text, finish, entry.prompt_tok, entry.output_tok)
    return key, entry if expected == bytes.fromhex(sum_hex) else None


def _connect(path: Path) -> sqlite3.Connection:
    """Open or create; nothing here looks at more than a few pages, whatever the size of the file."""
    with sqlite_errors():
        # SQLite itself would make it 0644. Only a new file is ever opened here: closing a descriptor of a file drops
        # every lock this process has on it, those of its other connection too, and another process that ends would
        # then take the write-ahead log away from under it.
        with contextlib.suppress(FileExistsError):
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
    (owner,) = connection.execute("PRAGMA application_id").fetchone()
    names = {name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
    if owner != APPLICATION_ID and names and "responses" not in names:
        raise UnusableError("it is another program's database")
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "wal_autocheckpoint=1000"):
        connection.execute(f"PRAGMA {pragma}").fetchall()
    if owner != APPLICATION_ID or not {"responses", "quarantine", "experience"} <= names:
        connection.execute(f"PRAGMA application_id={APPLICATION_ID}")
        for statement in _TABLES:
            connection.execute(statement)
    for check in (
        "key, text, finish, prompt_tok, output_tok, checksum, created FROM responses",
        "* FROM quarantine",
        "model, call, label, sums, learnt FROM experience",
    ):
        connection.execute(f"SELECT {check} LIMIT 0").fetchall()


def put_aside(path: Path, inode: int) -> Path | None:
    """Rename the damaged store with this inode to ``<name>.damaged-<n>``; None when it is not there any more.

    Its connections must be closed. UnusableError while another process has it open: renamed under that process,
    its side files would in the end be deleted in place of the new store's. Whoever opens it alone next can do it.
    """
    with _FileLock(path, exclusive=True), sqlite_errors():
        if inode_of(path) != inode:
            return None
        number = 1
        while (target := path.with_name(f"{path.name}.damaged-{number}")).exists():
            number += 1
        for suffix in ("-shm", "-wal", ""):  # the log first: a new store must never find an old one's
            with contextlib.suppress(FileNotFoundError):
                path.with_name(path.name + suffix).rename(target.with_name(target.name + suffix))
        return target


def inode_of(path: Path) -> int:
    """The file's identity on its disk; 0 when there is none."""
    try:
        return path.stat().st_ino
    except OSError:
        return 0


class _FileLock:
    """A lock on ``<name>.lock``: shared while the store is open, exclusive to replace the file; on ``<name>.open``:
    exclusive while a connection is being made."""

    def __init__(self, path: Path, exclusive: bool = False, suffix: str = ".lock", wait_s: float | None = None) -> None:
        with sqlite_errors():
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            lock = path.with_name(path.name + suffix)
            self._descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        deadline = time.monotonic() + (wait_s or (1.0 if exclusive else BUSY_S))
        while True:
            try:
                fcntl.flock(self._descriptor, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
                return
            except OSError as problem:
                if not isinstance(problem, BlockingIOError) or time.monotonic() > deadline:
                    os.close(self._descriptor)
                    reason = "another process has it open" if isinstance(problem, BlockingIOError) else str(problem)
                    raise UnusableError(reason) from None
                time.sleep(0.01)

    def release(self) -> None:
        """Let go; idempotent."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> _FileLock:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()
