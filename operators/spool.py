"""RecordBatches kept for later: in memory, past a limit in a temporary Arrow IPC file. Read any number of times."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from halo_sql.errors import OperationalError
from halo_sql.operators.context import Batches, RunContext


class Spool:
    """Append batches of one schema, read them any number of times, also while more are appended. ``close`` deletes
    the file.

    rows, schema  of what was appended; schema is None while nothing was
    """

    def __init__(self, limit_bytes: int, folder: str) -> None:
        self.rows = 0
        self.schema: Any = None
        self._limit_bytes = limit_bytes
        self._folder = folder
        self._bytes = 0
        self._kept: list[Any] = []
        self._places: list[tuple[int, int]] = []  # offset and length in the file of each batch
        self._path: Path | None = None
        self._file: Any = None

    def append(self, batch: Any) -> None:
        """Add a batch; OperationalError when the disk refuses."""
        if self.schema is None:
            self.schema = batch.schema
        self.rows += batch.num_rows
        if self._path is None:
            self._kept.append(batch)
            self._bytes += batch.nbytes
            if self._bytes > self._limit_bytes:
                self._guard(self._move_to_file)
        else:
            self._guard(lambda: self._write(batch))

    def _guard(self, write: Callable[[], None]) -> None:
        try:
            write()
        except OSError as problem:
            self.close()
            raise OperationalError(
                f"Cannot spool rows to {self._folder}: {problem}",
                kind="IO Error",
                remedy="Free space there, or set TMPDIR to another folder.",
            ) from None

    def _move_to_file(self) -> None:
        import pyarrow as pa

        handle, path = tempfile.mkstemp(prefix="halo_spool_", suffix=".arrows", dir=self._folder)
        os.close(handle)
        self._path = Path(path)
        self._file = pa.OSFile(path, "wb")
        kept, self._kept = self._kept, []
        for batch in kept:
            self._write(batch)

    def _write(self, batch: Any) -> None:
        """Each batch is a stream of its own: it can be read while the next one is written."""
        import pyarrow as pa

        start = self._file.tell()
        with pa.ipc.new_stream(self._file, self.schema) as writer:
            writer.write_batch(batch)
        self._places.append((start, self._file.tell() - start))

    def finish(self) -> None:
        """No more batches will come."""
        if self._file is not None:
            self._guard(self._end_file)

    def _end_file(self) -> None:
        if not self._file.closed:
            self._file.close()

    @property
    def in_file(self) -> bool:
        """Whether the rows are on disk."""
        return self._path is not None

    def __len__(self) -> int:
        """Batches appended."""
        return len(self._kept) if self._path is None else len(self._places)

    def batch(self, place: int) -> Any:
        """The batch at a place, from 0."""
        if self._path is None:
            return self._kept[place]
        import pyarrow as pa

        start, length = self._places[place]
        with pa.OSFile(str(self._path)) as source:
            source.seek(start)
            return pa.ipc.open_stream(source.read_buffer(length)).read_next_batch()

    def batches(self) -> Iterator[Any]:
        """The batches that there are, in order; every call is a pass of its own."""
        for place in range(len(self)):
            yield self.batch(place)

    def close(self) -> None:
        """Forget the rows, delete the file; idempotent."""
        self._kept = []
        if self._path is None:
            return
        with contextlib.suppress(OSError):
            self._end_file()
        self._path.unlink(missing_ok=True)


def new_spool(ctx: RunContext) -> Spool:
    """An empty spool that is deleted when the run ends, at the latest."""
    spool = Spool(ctx.spool_limit_bytes, ctx.folder)
    ctx.cleanups.append(spool.close)
    return spool


async def fill(spool: Spool, source: Batches) -> Spool:
    """Append everything a stream gives and finish."""
    async for batch in source:
        if batch.num_rows:
            spool.append(batch)
    spool.finish()
    return spool
