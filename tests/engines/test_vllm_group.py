"""Several vLLM engines as one, with their worker processes replaced by stand-ins that answer frames."""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

import pytest

from halo_sql.engines import frames, vllm, vllm_model
from halo_sql.engines.protocol import GenRequest
from halo_sql.engines.shares import Share, Storage
from halo_sql.engines.vllm import VllmEngine
from halo_sql.engines.workers import WorkerGroup

from .helpers import on_loop
from .test_workers import Inbox, asking, left_over, until

pytestmark = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("vllm", "tokenizers", "msgpack", "jinja2")),
    reason="the parent's part of the extra is not installed",
)

READY = {
    "context_tok": 1000,
    "block_tok": 4,
    "kv_capacity_tok": 4000,
    "dtype": "float32",
    "device": "cpu",
    "version": "0",
    "max_num_seqs": 4,
    "step_tok": 2048,
    "tokenizer_dir": "",
    "revision": "r",
    "kv_tok_bytes": 10,
    "memory_bytes": 1 << 34,
    "weight_bytes": 1 << 20,
}


class Tokenizer:
    """A token per character."""

    identity = "characters"
    yes_no = ([1], [2])

    def render_batch(self, requests: list[GenRequest]) -> list[list[int]]:
        return [[*map(ord, (request.system or "") + request.user)] for request in requests]

    def count(self, request: GenRequest) -> int:
        return len(self.render_batch([request])[0])


class StandIn:
    """``vllm_process.WorkerProcess`` without a process: answers each item after a turn of the loop."""

    made: list[StandIn]

    def __init__(
        self, environment: Mapping[str, str], start: dict[str, Any], on_results: Any, on_lost: Callable[[], None]
    ) -> None:
        self.environment, self.arguments = environment, start["args"]
        self.ready, self.lost, self.log, self.pid = READY, False, Path("log"), 1
        self.items: list[list[Any]] = []
        self.open: dict[int, list[Any]] = {}
        self.silent = False
        self._on_results, self._on_lost = on_results, on_lost

    @classmethod
    async def spawn(
        cls, python: str, environment: Mapping[str, str], start: dict[str, Any], on_results: Any, on_lost: Any
    ) -> Self:
        made = cls(environment, start, on_results, on_lost)
        cls.made.append(made)  # type: ignore[arg-type]
        return made

    def send(self, frame: dict[str, Any]) -> None:
        if frame["op"] != "generate":
            return
        for item in frame["items"]:
            self.items.append(item)
            self.open[item[0]] = item
            asyncio.get_running_loop().call_soon(self._answer, item[0])

    def _answer(self, number: int) -> None:
        if self.silent or number not in self.open:
            return
        _, _, _, data, _, fetch = self.open.pop(number)
        tokens = frames.unpack_tokens(data)
        text = "".join(map(chr, tokens)).upper()
        self._on_results([[number, text, "stop", len(tokens), 8 if fetch else 0, 2, None, "", 8 if fetch else 0]])

    async def drain(self) -> None:
        await asyncio.sleep(0)

    def trouble(self) -> str:
        return "it was killed"

    def die(self) -> None:
        self.silent = self.lost = True
        self._on_lost()

    async def close(self) -> None:
        self.silent = True


@pytest.fixture(autouse=True)
def _stand_ins(monkeypatch: pytest.MonkeyPatch) -> None:
    StandIn.made = []
    monkeypatch.setattr(vllm, "WorkerProcess", StandIn)
    monkeypatch.setattr(vllm_model.VllmModel, "folder", lambda self: None)
    monkeypatch.setattr(vllm_model.VllmModel, "load_tokenizer", _load)


def _load(self: Any, folder: Path) -> Tokenizer:
    self.tokenizer = Tokenizer()
    return self.tokenizer


def group_of(count: int, storage: Storage | None = None) -> WorkerGroup:
    options = {"workers": count, "kind": "generate"}
    engines = [VllmEngine("org/model", options, share=Share(number, count, storage)) for number in range(count)]
    return WorkerGroup(engines, storage=storage)


@on_loop
async def test_workers_answer_together() -> None:
    group, inbox = group_of(2), Inbox()
    info = await group.start()
    await group.all_ready()
    assert (info.kv_capacity_tok, info.batch_requests, info.memory_bytes) == (8000, 8, 1 << 34)
    group.submit(asking(30), inbox)
    await inbox.holds(30)
    assert inbox.results[3].text == "ROW 3 OF MANY"
    assert all(len(worker.items) >= 8 for worker in StandIn.made)
    assert [item[4:] for worker in StandIn.made for item in worker.items] == [[0, False]] * 30  # nothing is shared
    await group.close()
    await left_over()


@on_loop
async def test_a_dead_process_is_replaced_by_the_group_and_its_rows_go_to_the_other() -> None:
    group, inbox = group_of(2), Inbox()
    await group.start()
    await group.all_ready()
    first = StandIn.made[0]
    first.silent = True
    group.submit(asking(8), inbox)
    await until(lambda: len(first.open) > 0 and len(inbox.results) == 8 - len(first.open))
    lost = len(first.open)
    first.die()
    await inbox.holds(8)
    assert not inbox.errors()
    assert sum(result.retries for result in inbox.results.values()) == lost
    await group.all_ready()
    assert len(StandIn.made) == 3
    assert group.restarts == 1
    await group.close()
    await left_over()


@on_loop
async def test_shared_prompts_are_kept_and_fetched() -> None:
    storage = Storage()
    group, inbox, system = group_of(2, storage), Inbox(), "the rules of the house " * 30
    await group.start()
    await group.all_ready()
    folder = StandIn.made[0].arguments["kv_transfer_config"]["kv_connector_extra_config"]["folder"]
    assert folder == str(storage.folder)
    group.submit([GenRequest(0, "first", system)], inbox)
    await inbox.holds(1)
    group.submit([GenRequest(n, f"row {n}", system) for n in range(1, 9)], inbox)
    await inbox.holds(9)
    kept = [item[4] for worker in StandIn.made for item in worker.items]
    assert all(abs(tok - len(system)) <= 2 for tok in kept)
    assert sum(item[5] for worker in StandIn.made for item in worker.items) >= 8
    assert sum(counts["prompt_tok_moved"] for counts in group.worker_stats()) >= 8
    await group.close()
    assert not storage.folder.exists()
