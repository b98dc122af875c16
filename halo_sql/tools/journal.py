"""The journal of calls with side effects: written before the tool is called, so that none acts twice.

A statement that failed or died and is run again finds here what its calls came to: an answer is given again without
calling, a refusal by the tool may be tried again, and a call of which only the beginning is known is in doubt and
never repeated by itself. A statement that ended well takes its entries away: run again, it acts anew. In a batch it
does so when all statements have had their turn: one that died or was interrupted is run again as a whole.

All work on the file is done by one thread; what has gathered meanwhile shares one durable transaction.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import uuid
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any, TypeVar

from halo_sql.engines.store_errors import patiently, sqlite_errors
from halo_sql.errors import EngineError
from halo_sql.tools import journal_file
from halo_sql.tools.journal_file import Claim, JournalEntry, Page
from halo_sql.tools.protocol import BoundTool
from halo_sql.virtual_time import outside

__all__ = ["BatchJournal", "Claim", "Journal", "JournalEntry", "StatementJournal"]

T = TypeVar("T")
Work = Callable[[sqlite3.Connection], Any]


class Journal:
    """The file. Thread-safe, and other processes may use it too; nothing is opened before it is needed.

    warnings   what could not be noted after a call, a sentence each
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.warnings: list[str] = []
        self._lock = threading.Lock()
        self._waiting: list[tuple[Work, Future[Any]]] = []
        self._executor = ThreadPoolExecutor(1, "halo-journal")
        self._connection: sqlite3.Connection | None = None

    def entries(self) -> list[JournalEntry]:
        """What is noted, oldest first. Raises EngineError('unavailable') when the file cannot be read."""
        return self.submit(journal_file.entries).result() if self.path.exists() else []

    def forget(self, key: str) -> bool:
        """Take an entry away, so that its call may be made (again); whether there was one."""
        return self.path.exists() and self.submit(partial(journal_file.forget, key=key)).result()

    def settle(self, key: str, text: str) -> bool:
        """Note that a call in doubt did happen and came to this JSON value; whether there was such an entry."""
        return self.path.exists() and self.submit(partial(journal_file.settle, key=key, text=text)).result()

    def finish(self, statement: str, run: str = "") -> int:
        """A run of the statement ended well: take its entries away; how many there were.

        Those in doubt since another run stay. ``run`` is the run that ended (``StatementJournal.run``).
        """
        if not self.path.exists():
            return 0
        return self.submit(partial(journal_file.finish, statement=digest(statement), run=run)).result()

    def of(self, statement: str) -> StatementJournal:
        """For one run of a statement."""
        return StatementJournal(self, statement)

    def close(self) -> None:
        """Write what is waiting and let go of the file; idempotent. Calls are refused from now on."""
        self._executor.shutdown()
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def submit(self, work: Callable[[sqlite3.Connection], T]) -> Future[T]:
        """Do this on the journal's thread, durably when the future is done; in order.

        The future raises EngineError('unavailable') when that is not possible. Cancelled before its turn, the work
        is not done.
        """
        future: Future[T] = Future()
        with self._lock:
            self._waiting.append((work, future))
            gathering = len(self._waiting) > 1
        if not gathering:
            try:
                self._executor.submit(self._drain)
            except RuntimeError:  # closed, or Python ends
                with self._lock:
                    self._waiting.remove((work, future))
                future.set_exception(self._refusal("it is closed"))
        return future

    def _drain(self) -> None:
        with self._lock:
            taken, self._waiting = self._waiting, []
        taken = [(work, future) for work, future in taken if future.set_running_or_notify_cancel()]
        try:
            results = patiently(lambda: self._transaction([work for work, _ in taken]))
        except Exception as problem:  # whatever it is, nobody may wait for ever
            if self._connection is not None:  # opened again by the next: there may be room by then
                self._connection.close()
                self._connection = None
            results = [self._refusal(str(problem))] * len(taken)
        for (_, future), result in zip(taken, results, strict=True):
            if isinstance(result, Exception):
                future.set_exception(result)
            else:
                future.set_result(result)

    def _transaction(self, works: list[Work]) -> list[Any]:
        results: list[Any] = []
        if self._connection is None:
            self._connection = journal_file.connect(self.path)
        with sqlite_errors(), journal_file.transaction(self._connection):
            for work in works:
                try:
                    results.append(work(self._connection))
                except EngineError as problem:  # it says no and has written nothing
                    results.append(problem)
        return results

    def _refusal(self, reason: str) -> EngineError:
        return EngineError(
            f"the journal of calls with side effects, {self.path}, cannot be used: {reason}",
            code="unavailable",
            remedy="No call was made. Make room for it or let it be written, then run the statement again.",
        )


class BatchJournal:
    """The journal as the statements of one run of a batch use it."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._named: Counter[str] = Counter()
        self._ended: list[tuple[str, str]] = []

    def named(self, statement: str) -> str:
        """The statement, told from equal ones of the batch that were named before."""
        self._named[statement] += 1
        number = self._named[statement]
        return statement if number == 1 else f"{statement}\n{number}"

    def of(self, statement: str) -> StatementJournal:
        """For one run of a statement."""
        return StatementJournal(self._journal, statement, self._ended)

    def finish(self) -> None:
        """All statements have had their turn: those that ended well take their entries away, all at once."""
        ended, self._ended = self._ended, []

        def work(connection: sqlite3.Connection) -> None:
            for statement, run in ended:
                journal_file.finish(connection, statement, run)

        if ended:
            try:
                self._journal.submit(work).result()
            except EngineError as problem:
                self._journal.warnings.append(f"the batch's calls will not be made again: {problem.message}")


class StatementJournal:
    """What one run of a statement does with the journal; lives on the run's loop.

    statement  its text and its parameters: what makes two runs the same
    ended      of a batch: gets the statement (its digest) and its run when it ended well, and nothing is taken away yet
    """

    def __init__(self, journal: Journal, statement: str, ended: list[tuple[str, str]] | None = None) -> None:
        self.run = uuid.uuid4().hex
        self._ended = ended
        self._journal = journal
        self._statement = digest(statement)
        self._begun: Counter[bytes] = Counter()  # numbers given to equal calls of this run
        self._free: dict[bytes, list[int]] = {}  # those of calls that were not made after all
        self._unwritten: list[tuple[Claim, Future[None]]] = []  # of calls that were cancelled

    async def begin(self, tool: BoundTool, arguments: str) -> Claim | str:
        """Before a call: it is noted and may be made (a Claim), or its value is known from an earlier run (a text).

        Raises EngineError: 'in_doubt', what the tool said when it had acted, or 'unavailable': it must not be made.
        """
        equal = self._digest(tool, arguments)
        number = self._number(equal)
        page = self._page(tool, arguments, equal, number)
        future = self._journal.submit(partial(journal_file.begin, page=page))
        try:
            return await outside(future)
        except asyncio.CancelledError:  # not called: if it was noted all the same, that is taken back
            self._journal.submit(partial(journal_file.withdraw, page=page))
            self._free.setdefault(equal, []).append(number)
            raise
        except EngineError as problem:
            if problem.code == "unavailable":
                self._free.setdefault(equal, []).append(number)
            raise

    async def done(self, claim: Claim, text: str) -> None:
        """Behind a call: its value (JSON)."""
        await self._noted(claim, self._journal.submit(partial(journal_file.done, claim=claim, text=text)))

    async def failed(self, claim: Claim, error: EngineError) -> None:
        """Behind a call: how it failed."""
        await self._noted(claim, self._journal.submit(partial(journal_file.failed, claim=claim, error=error)))

    def cancelled(self, claim: Claim) -> None:
        """The call was cancelled under way; returns at once, see ``written``."""
        error = EngineError("the call was cancelled", code="cancelled")
        future = self._journal.submit(partial(journal_file.failed, claim=claim, error=error))
        self._unwritten.append((claim, future))

    async def written(self) -> None:
        """Wait until what was noted of cancelled calls is on disk."""
        unwritten, self._unwritten = self._unwritten, []
        for claim, future in unwritten:
            await self._noted(claim, future)

    async def finish(self) -> None:
        """The statement ended well, see ``Journal.finish``."""
        if not self._begun:
            return
        if self._ended is not None:
            self._ended.append((self._statement, self.run))
            return
        work = partial(journal_file.finish, statement=self._statement, run=self.run)
        try:
            await outside(self._journal.submit(work))
        except EngineError as problem:
            self._journal.warnings.append(f"the statement's calls will not be made again: {problem.message}")

    def _digest(self, tool: BoundTool, arguments: str) -> bytes:
        """The same for equal calls."""
        equal = blake2b(digest_size=16)
        for part in (self._statement, tool.name.lower(), str(tool.tool.version), arguments):
            data = part.encode("utf-8", "surrogatepass")
            equal.update(len(data).to_bytes(8, "big") + data)
        return equal.digest()

    def _number(self, equal: bytes) -> int:
        """The how many-eth equal call it is: without gaps, so that a rerun meets all that were made."""
        free = self._free.get(equal)
        if free:
            free.sort(reverse=True)
            return free.pop()
        self._begun[equal] += 1
        return self._begun[equal]

    def _page(self, tool: BoundTool, arguments: str, equal: bytes, number: int) -> Page:
        key = blake2b(equal + number.to_bytes(8, "big"), digest_size=16).hexdigest()
        return Page(key, self._statement, tool.name, arguments, self.run, uuid.uuid4().hex, self._journal.path)

    async def _noted(self, claim: Claim, future: Future[None]) -> None:
        """Wait until it is on disk. That it cannot be noted does not undo the call: its answer stands."""
        try:
            await asyncio.shield(outside(future))
        except EngineError as problem:
            self._journal.warnings.append(
                f"a call of {claim.tool} stays in doubt in the journal (key {claim.key}): {problem.message}"
            )


def digest(statement: str) -> str:
    """What stands for a statement in the file."""
    return blake2b(statement.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
