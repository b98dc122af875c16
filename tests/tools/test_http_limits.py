"""HTTP tools: what an answer becomes, good ones and all the others."""

from __future__ import annotations

import asyncio
import gzip
import json
import tracemalloc
import zlib
from typing import Any

import pytest

from halo_sql.tools.protocol import ToolRequest

from .http_server import Answer, HttpServer, answered, ask, run, runner, tool

JSON = {"content-type": "application/json"}
TEXT = {"content-type": "text/plain"}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("declared", [False, True])
def test_the_limit_of_bytes(packed: bool, declared: bool) -> None:
    def sized(size: int) -> Answer:
        body = json.dumps("x" * (size - 2)).encode()
        coding = {"content-encoding": "gzip"} if packed else {}
        body = gzip.compress(body, mtime=0) if packed else body
        head = "".join(f"{name}: {value}\r\n" for name, value in {**JSON, **coding}.items())
        return (
            Answer(body, headers={**JSON, **coding})
            if declared
            else Answer(raw=f"HTTP/1.1 200 OK\r\n{head}\r\n".encode() + body)
        )

    assert len(answered(sized(5000), max_bytes=5000)) == 4998
    assert answered(sized(5001), max_bytes=5000).code == "too_large"
    assert len(answered(sized(1 << 20))) == (1 << 20) - 2
    found = answered(sized((1 << 20) + 1))
    assert (found.code, found.retryable) == ("too_large", False)
    assert "max_bytes" in found.remedy


def test_bombs_cost_no_more_than_the_limit() -> None:
    bomb = zlib.compressobj(9, wbits=31)
    zeros = bytes(1 << 20)
    packed = b"".join(bomb.compress(zeros) for _ in range(100)) + bomb.flush()  # 100 MB in 100 kB
    empties = gzip.compress(b"", mtime=0) * 60_000
    tracemalloc.start()
    try:
        for body in (packed, empties):
            assert answered(Answer(body, headers={"content-encoding": "gzip"})).code == "too_large"
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()
    members = gzip.compress(b"[1,", mtime=0) + gzip.compress(b"2]") + bytes(100)
    assert answered(Answer(members, headers={"content-encoding": "gzip", **JSON})) == [1, 2]


def test_an_endless_answer_is_cut() -> None:
    async def work() -> Any:
        async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
            try:
                while True:
                    writer.write(b"x" * 65_536)
                    await writer.drain()
            except OSError:
                writer.close()

        server = await asyncio.start_server(endless, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        async with server:
            return await ask(runner(tool(f"http://127.0.0.1:{port}/", loopback=True)))

    assert run(work()).code == "too_large"


def test_cancelling_ends_the_exchange() -> None:
    async def work() -> tuple[int, int, Any]:
        async with HttpServer(lambda seen: Answer("1", delay_s=30 if seen.path == "/slow" else 0)) as server:
            made = runner(tool(server.url + "/{{a}}", parameters=["a"], loopback=True, concurrency=2))
            calls = [asyncio.create_task(made.call(ToolRequest('{"a": "slow"}'))) for _ in range(2)]
            while len(server.seen) < 2:  # noqa: ASYNC110 - the server has no event
                await asyncio.sleep(0.01)
            before = server.open
            for call in calls:
                call.cancel()
            await asyncio.gather(*calls, return_exceptions=True)
            found = await made.call(ToolRequest('{"a": "quick"}'))  # a place in the pool is free again
            await made.close()
            return before, len(server.seen), found

    assert run(work()) == (2, 3, "1")


def test_a_thousand_calls() -> None:
    """1,000 calls of 200 ms, 100 at once: the runner is not what they wait for."""

    async def work() -> tuple[float, int, set[str]]:
        body = json.dumps([{"id": index, "name": f"order {index}"} for index in range(10)])

        async with HttpServer(lambda seen: Answer(body, headers=JSON, delay_s=0.2)) as server:
            made = runner(
                tool(server.url + "/{{a}}?q={{a}}", parameters=["a"], columns=["id"], concurrency=100, loopback=True)
            )
            free = asyncio.Semaphore(100)

            async def one(index: int) -> str:
                async with free:
                    return await made.call(ToolRequest(json.dumps({"a": f"value {index}"})))

            await made.start()
            start = asyncio.get_running_loop().time()
            found = await asyncio.gather(*(one(index) for index in range(1000)))
            seconds = asyncio.get_running_loop().time() - start
            await made.close()
            return seconds, server.connections, set(found)

    seconds, connections, found = run(work())
    assert len(found) == 1
    assert connections == 100
    assert seconds < 60  # 2 s of waiting, 200 one after the other; the bound is for busy machines
    print(f"{seconds:.2f} s")
