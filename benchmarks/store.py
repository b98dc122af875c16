"""Throughput of the response store: durable writes, reads (alone and beside a busy event loop), opening a large one.

python benchmarks/store.py [rows]      (100,000 rows of 1 KB unless said otherwise)
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from hashlib import blake2b
from pathlib import Path

from halo_sql.engines.store import Entry, ResponseStore

BATCH = 2048


def key(number: int) -> bytes:
    return blake2b(number.to_bytes(8, "big"), digest_size=32).digest()


def writes(store: ResponseStore, count: int) -> float:
    text = "x" * 1000
    began = time.perf_counter()
    for start in range(0, count, BATCH):
        store.put_many(
            [(key(number), Entry(text, "stop", 300, 60)) for number in range(start, min(count, start + BATCH))]
        )
    assert store.flush(600)
    return count / (time.perf_counter() - began)


def small_groups(store: ResponseStore, seconds: float) -> tuple[float, float]:
    """64 rows at a time, each group awaited: rows/s, and the slowest group in ms."""
    began, done, slowest = time.perf_counter(), 0, 0.0
    while time.perf_counter() - began < seconds:
        start = time.perf_counter()
        store.put_many([(key(10**9 + done + number), Entry("short", "stop", 1, 1)) for number in range(64)])
        store.flush()
        done, slowest = done + 64, max(slowest, time.perf_counter() - start)
    return done / seconds, slowest * 1000


def reads(store: ResponseStore, count: int) -> float:
    began, found = time.perf_counter(), 0
    for start in range(0, count, BATCH):
        found += len(store.get_many([key(number) for number in range(start, min(count, start + BATCH))]))
    assert found == count
    return count / (time.perf_counter() - began)


async def reads_beside(store: ResponseStore, count: int) -> float:
    """The loop computes all the time, so the reader thread has to fight for the interpreter lock."""
    stop = False

    async def busy() -> None:
        while not stop:
            sum(range(20_000))
            await asyncio.sleep(0)

    task = asyncio.create_task(busy())
    began, found = time.perf_counter(), 0
    for start in range(0, count, BATCH):
        found += len(await store.lookup([key(number) for number in range(start, min(count, start + BATCH))]))
    rate = count / (time.perf_counter() - began)
    stop = True
    await task
    assert found == count
    return rate


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "responses.sqlite"
        store = ResponseStore(path)
        print(f"durable writes of 1 KB      {writes(store, count):>12,.0f} rows/s")
        store.close()
        began = time.perf_counter()
        store = ResponseStore(path)
        store.get_many([key(1)])
        opened_ms = (time.perf_counter() - began) * 1000
        print(f"open {count:>10,} rows        {opened_ms:>12,.1f} ms (first read included)")
        print(f"reads                       {reads(store, count):>12,.0f} rows/s")
        print(f"reads beside a busy loop    {asyncio.run(reads_beside(store, count)):>12,.0f} rows/s")
        rate, slowest_ms = small_groups(store, 2.0)
        print(f"writes, 64 awaited at a time{rate:>12,.0f} rows/s, slowest group {slowest_ms:,.0f} ms")
        store.close()
        assert not store.warnings, store.warnings


if __name__ == "__main__":
    main()
