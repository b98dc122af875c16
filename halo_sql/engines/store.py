"""The response store: answers that were paid for, durable, shared by processes, and never an obstacle.

Writes go to one writer thread, which commits what has gathered after at most 16 rows or 50 ms (whole groups
under load); reads run on one reader thread and are batched. Whatever is wrong with the file, a run goes on: a bad row
is quarantined, a damaged file put aside and begun anew, an unusable one left out, each with a warning.
"""

from __future__ import annotations

import asyncio
import atexit
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from halo_sql.engines.experience import CallKind, Experience
from halo_sql.engines.store_errors import DamagedError, UnusableError, patiently
from halo_sql.engines.store_file import Entry, StoreFile, inode_of, put_aside

__all__ = ["Entry", "ResponseStore", "StoreStats"]

GATHER_ROWS = 16  # a group of this many is committed at once
GATHER_S = 0.05  # a smaller one after this time: with the commit itself within the promised 100 ms
GROUP_ROWS = 4096  # the largest group of one commit
WAITING_ROWS = 16_384  # more than this and put_many waits for the writer: memory stays bounded
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class StoreStats:
    """The store as it is: durable rows, rows in quarantine, bytes on disk; hits and misses of this object's reads."""

    path: Path
    usable: bool
    entries: int
    quarantined: int
    size_bytes: int
    hits: int
    misses: int


class ResponseStore:
    """Answers by request key (``keys.RequestKeys``). Thread-safe; no method raises for what the disk does.

    warnings   what went wrong so far, a sentence each
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.warnings: list[str] = []
        self._hits = self._misses = 0
        self._files: dict[str, StoreFile] = {}  # 'reader' and 'writer'; one that failed for good is missing
        self._locks = {"writer": threading.Lock(), "reader": threading.Lock()}  # taken in this order
        self._generation = 0  # counts the files used; a thread that met damage in an older one just tries again
        self._changed = threading.Condition()  # guards the four below
        self._waiting: dict[bytes, Entry] = {}
        self._committing: dict[bytes, Entry] = {}
        self._hurry = False  # somebody waits for the rows to be durable
        self._closed = False
        self._thread: threading.Thread | None = None
        self._executor: ThreadPoolExecutor | None = None
        self._learning: Future[None] | None = None
        self._open(inode_of(path))
        atexit.register(self.close)  # rows of the last milliseconds reach the disk

    # --- reads

    def get_many(self, keys: Sequence[bytes]) -> dict[bytes, Entry]:
        """The answers known for these keys (also those not yet durable)."""
        found: dict[bytes, Entry] = {}
        with self._changed:
            for source in (self._committing, self._waiting):
                if source:
                    found.update((key, source[key]) for key in keys if key in source)
        rest = [key for key in keys if key not in found] if found else keys
        sound, bad = self._guarded("reader", lambda file: file.read(rest)) or ({}, [])
        if bad:
            self._warn(f"damaged rows of the response store {self.path} were put into quarantine")
            self._guarded("writer", lambda file: file.quarantine(bad))
        found |= sound
        self._hits += len(found)
        self._misses += len(keys) - len(found)
        return found

    async def lookup(self, keys: Sequence[bytes]) -> dict[bytes, Entry]:
        """``get_many`` beside the event loop."""
        if self._closed:
            return {}
        return await asyncio.get_running_loop().run_in_executor(self._beside(), self.get_many, keys)

    def _beside(self) -> ThreadPoolExecutor:
        if self._executor is None:
            self._executor = ThreadPoolExecutor(1, "halo-store-reader")
        return self._executor

    # --- writes

    def put_many(self, rows: Sequence[tuple[bytes, Entry]]) -> None:
        """Hand rows to the writer; durable within 100 ms. Returns at once unless the disk is far behind."""
        with self._changed:
            if "writer" not in self._files or self._closed:
                return
            if len(self._waiting) > WAITING_ROWS:
                self._changed.wait_for(lambda: len(self._waiting) <= WAITING_ROWS // 2, 1.0)
            had = len(self._waiting)
            self._waiting.update(rows)
            if self._thread is None:
                self._thread = threading.Thread(target=self._write_groups, name="halo-store-writer", daemon=True)
                self._thread.start()
            if had == 0 or had < GATHER_ROWS <= len(self._waiting):
                self._changed.notify_all()

    def flush(self, timeout_s: float = 30.0) -> bool:
        """Wait until everything handed over so far is durable (or given up); False at the time limit."""
        with self._changed:
            self._hurry = bool(self._waiting)
            self._changed.notify_all()
            return self._changed.wait_for(lambda: not self._waiting and not self._committing, timeout_s)

    def clear(self) -> int:
        """Delete every answer, also those in quarantine; how many there were."""
        self.flush()
        rows = self.stats().entries
        self._guarded("writer", lambda file: file.clear())
        return rows

    # --- what was learnt

    def learn(self, lessons: Sequence[tuple[CallKind, str, Experience]]) -> None:
        """Add to the experience in the file; returns at once."""
        if lessons and not self._closed:
            work = partial(self._guarded, "writer", partial(StoreFile.learn, lessons=list(lessons)))
            self._learning = self._beside().submit(work)

    def experience(self, kinds: Sequence[CallKind] | None) -> list[tuple[CallKind, str, Experience]]:
        """What is known of these, or of all, once everything learnt so far is in the file."""
        if self._learning is not None:
            self._learning.result()
        return self._guarded("reader", lambda file: file.experience(kinds)) or []

    def forget(self) -> None:
        """Delete what was learnt."""
        if self._learning is not None:
            self._learning.result()
        self._guarded("writer", StoreFile.forget)

    def _write_groups(self) -> None:
        """The writer thread."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closed)
                if not self._waiting:
                    return
                if len(self._waiting) < GATHER_ROWS:
                    self._changed.wait_for(
                        lambda: len(self._waiting) >= GATHER_ROWS or self._hurry or self._closed, GATHER_S
                    )
                rows = list(self._waiting.items())
                group, rest = rows[:GROUP_ROWS], rows[GROUP_ROWS:]
                self._committing, self._waiting = dict(group), dict(rest)
            self._guarded("writer", partial(StoreFile.write, rows=group))
            with self._changed:
                self._committing = {}
                self._hurry = self._hurry and bool(self._waiting)
                self._changed.notify_all()

    # --- the file

    def stats(self) -> StoreStats:
        """Counts what is durable (scans an index: 0.1 s for a million rows)."""
        counted = self._guarded("reader", lambda file: file.counts())
        entries, quarantined = counted or (0, 0)
        files = [self.path.with_name(self.path.name + suffix) for suffix in ("", "-wal")]
        size_bytes = sum(file.stat().st_size for file in files if file.is_file())
        return StoreStats(self.path, counted is not None, entries, quarantined, size_bytes, self._hits, self._misses)

    def close(self) -> None:
        """Make everything durable and let go of the file; idempotent. Reads then find nothing, writes do nothing."""
        with self._changed:
            if self._closed:
                return
            self._closed = True
            self._changed.notify_all()
        atexit.unregister(self.close)
        if self._thread is not None:
            self._thread.join()
        if self._executor is not None:
            self._executor.shutdown()
        with self._locks["writer"], self._locks["reader"]:
            self._let_go()

    def _guarded(self, side: str, work: Callable[[StoreFile], T]) -> T | None:
        """``work`` on one of the two connections; None when there is none (any more)."""
        for _ in range(2):  # a second time on the file that replaced a damaged one
            with self._locks[side]:
                file, generation = self._files.get(side), self._generation
                if file is None:
                    return None
                try:
                    return patiently(partial(work, file))
                except UnusableError as problem:
                    self._files.pop(side).close()
                    does = "answers nothing" if side == "reader" else "keeps nothing"
                    self._warn(f"the response store {self.path} {does} any more: {problem}")
                    return None
                except DamagedError as problem:
                    reason = problem
            self._replace(reason, generation)
        return None

    def _replace(self, reason: DamagedError, generation: int) -> None:
        """Begin a new file in place of a damaged one, unless the other thread just did."""
        with self._locks["writer"], self._locks["reader"]:
            if generation != self._generation:
                return
            inode = inode_of(self.path)
            self._let_go()
            self._put_aside(reason, inode)
            self._open(0)

    def _open(self, inode: int) -> None:
        try:
            try:
                self._files["writer"] = StoreFile(self.path)
            except DamagedError as problem:
                self._put_aside(problem, inode)
                self._files["writer"] = StoreFile(self.path)
            self._files["reader"] = StoreFile(self.path)
        except (DamagedError, UnusableError) as problem:
            self._let_go()
            self._warn(f"the response store {self.path} is not used: {problem}")

    def _put_aside(self, reason: DamagedError, inode: int) -> None:
        try:
            target = put_aside(self.path, inode)
        except UnusableError as problem:
            self._warn(f"the response store {self.path} is damaged ({reason}) and cannot be replaced: {problem}")
            return
        if target is not None:
            self._warn(f"the response store was damaged ({reason}): it is kept as {target}, a new one begins")

    def _let_go(self) -> None:
        self._generation += 1
        for file in self._files.values():
            file.close()
        self._files.clear()

    def _warn(self, sentence: str) -> None:
        if sentence not in self.warnings:
            self.warnings.append(sentence)
