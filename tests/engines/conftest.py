"""Shared by the engine tests: running requests on an engine."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from halo_sql.engines.protocol import Engine, GenRequest, GenResult


async def ask(engine: Engine, requests: Sequence[GenRequest]) -> list[GenResult]:
    """Start the engine, submit all at once, the results in the order of the requests; each exactly once."""
    await engine.start()
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()
    found: dict[int, GenResult] = {}

    def deliver(results: Sequence[GenResult]) -> None:
        for result in results:
            assert result.id not in found, "delivered once"
            found[result.id] = result
        if len(found) == len(requests) and not done.done():
            done.set_result(None)

    engine.submit(requests, deliver)
    await done
    return [found[request.id] for request in requests]


@pytest.fixture(scope="session")
def run_engine() -> Callable[[Engine, Sequence[GenRequest]], list[GenResult]]:
    """``run_engine(engine, requests)``: start, ask, close, on a loop of its own."""

    def run(engine: Engine, requests: Sequence[GenRequest]) -> list[GenResult]:
        async def main() -> list[GenResult]:
            try:
                return await ask(engine, requests)
            finally:
                await engine.close()

        return asyncio.run(main())

    return run


@pytest.fixture(scope="session")
def ask_engine() -> Any:
    """``await ask_engine(engine, requests)``: start and ask."""
    return ask
