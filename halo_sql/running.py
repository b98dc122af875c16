"""One run of a physical plan: operators on the runtime's loop, batches handed to the caller's thread."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import suppress
from typing import Any

from halo_sql.duck import Duck
from halo_sql.errors import EngineError, Error, InternalError, InterruptedQueryError
from halo_sql.metrics import Profile
from halo_sql.runtime import Runtime

CLOSE_S = 5.0  # a run that does not end by then is left to its cancelled tasks

Closer = Callable[[bool], Awaitable[None]]  # told whether the run ended well
Start = Callable[[], Awaitable[tuple[AsyncIterator[Any], Closer]]]


class QueryRun:
    """Pulls batches from a plan's root, one ahead of the consumer. Ends by itself at the last batch or error.

    start    makes the root iterator and a closer, on the loop
    profile  gets elapsed seconds and status
    """

    def __init__(self, runtime: Runtime, duck: Duck, start: Start, profile: Profile) -> None:
        self.profile = profile
        self._runtime = runtime
        self._duck = duck
        self._start = start
        self._root: AsyncIterator[Any] | None = None
        self._closer: Closer | None = None
        self._next: concurrent.futures.Future[Any] | None = None
        self._began_s, self._cpu_s = runtime.now_s(), time.process_time()
        self._lock = threading.Lock()
        self._interrupted = False
        self._closed = False

    def batches(self) -> Iterator[Any]:
        """The RecordBatches of the root. InterruptedQueryError when the run was cancelled."""
        try:
            while True:
                batch = self._pull()
                if batch is None:
                    self._finish("done")
                    return
                yield batch
        except BaseException as problem:
            if isinstance(problem, GeneratorExit):
                self._finish("cancelled")
            elif isinstance(problem, KeyboardInterrupt | InterruptedQueryError):
                self._interrupted = True
                self._finish("cancelled")
            else:
                self._finish("failed")
            raise

    def prefetch(self) -> None:
        """Begin to work on the next batch."""
        with self._lock:
            if self._next is None and not self._closed:
                self._next = self._runtime.begin(self._advance())

    def interrupt(self) -> None:
        """Cancel the run (from any thread); the consumer gets InterruptedQueryError."""
        self._interrupted = True
        with self._lock:
            pending = self._next
        if pending is not None:
            pending.cancel()
        self._duck.interrupt()

    def close(self) -> None:
        """Stop, whatever is in flight; idempotent."""
        self._finish("cancelled")

    def _pull(self) -> Any:
        if self._interrupted:
            raise InterruptedQueryError("Interrupted!")
        self.prefetch()
        future = self._next
        assert future is not None
        try:
            batch = self._runtime.wait(future)
        except concurrent.futures.CancelledError:
            raise InterruptedQueryError("Interrupted!") from None
        except Error as problem:
            if problem.span is not None and problem.sql is None:
                problem.sql = self.profile.statement
            if self._interrupted or (isinstance(problem, EngineError) and problem.code == "cancelled"):
                raise InterruptedQueryError("Interrupted!") from None
            raise
        except (KeyboardInterrupt, SystemExit):
            raise
        except Exception as problem:
            if self._interrupted:
                raise InterruptedQueryError("Interrupted!") from None
            raise unexpected(problem) from problem
        self._next = None
        if batch is not None:
            self.prefetch()
        return batch

    async def _advance(self) -> Any:
        if self._root is None:
            self._root, self._closer = await self._start()
        try:
            return await anext(self._root)
        except StopAsyncIteration:
            return None

    def _finish(self, status: str) -> None:
        with self._lock:
            if self._closed:
                return
            self._closed = True
            pending = self._next
        self.profile.elapsed_s = self._runtime.now_s() - self._began_s
        self.profile.cpu_s = time.process_time() - self._cpu_s
        self.profile.status = status
        if pending is not None and not pending.done():
            pending.cancel()
            self._duck.interrupt()
        ended = self._runtime.begin(self._shut(pending))
        try:
            self._runtime.wait(ended, CLOSE_S)
        except concurrent.futures.TimeoutError:
            ended.cancel()
        self._duck.release()

    async def _shut(self, pending: concurrent.futures.Future[Any] | None) -> None:
        root, closer = self._root, self._closer
        if root is not None:
            for _ in range(200):  # a cancelled step may still be unwinding
                try:
                    await root.aclose()  # type: ignore[attr-defined]
                    break
                except RuntimeError:
                    await asyncio.sleep(0.01)
        if closer is not None:
            await closer(self.profile.status == "done")


def unexpected(problem: Exception) -> InternalError:
    """The error that stands for an exception which is none of ours."""
    return InternalError(f"{type(problem).__name__}: {problem}", remedy="Please report this.")


def primed(batches: Iterator[Any]) -> Iterator[Any]:
    """The batches with the first one fetched, so that errors before it are raised by ``execute``."""
    first = next(batches, None)

    def rest() -> Iterator[Any]:
        try:
            if first is not None:
                yield first
                yield from batches
        finally:
            with suppress(Exception):
                batches.close()  # type: ignore[attr-defined]

    return rest()
