"""Where the models run. HaloSQL and the baselines get the same engines, on the same loop, through an adapter.

A new kind of engine is one class: it says which models a connection gets and what the three classes are called there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import pack

import halo_sql
from halo_sql.engines import registry
from halo_sql.engines.pool import EnginePool
from halo_sql.engines.protocol import Deliver, Engine, EngineInfo, GenRequest, GenResult

T = TypeVar("T")
CLASSES = ("small", "medium", "large")


@dataclass(frozen=True, slots=True)
class Call:
    """One request as it reached an engine; times in seconds of the engines' loop."""

    model: str
    system: str
    user: str
    max_tokens: int
    began: float
    ended: float
    result: GenResult


class RecordedEngine:
    """An engine that writes down what passes through it."""

    def __init__(self, model: str, engine: Engine, log: list[Call]) -> None:
        self._model, self.engine, self._log = model, engine, log
        self._open: dict[int, tuple[GenRequest, float]] = {}

    async def start(self) -> EngineInfo:
        return await self.engine.start()

    async def describe(self) -> EngineInfo | None:
        return await self.engine.describe()

    def submit(self, requests: Sequence[GenRequest], deliver: Deliver) -> None:
        now = asyncio.get_running_loop().time()
        self._open.update((request.id, (request, now)) for request in requests)

        def note(results: Sequence[GenResult]) -> None:
            ended = asyncio.get_running_loop().time()
            for result in results:
                request, began = self._open.pop(result.id)
                limit = request.sampling.max_tokens
                self._log.append(Call(self._model, request.system or "", request.user, limit, began, ended, result))
            deliver(results)

        self.engine.submit(requests, note)

    def abort(self, ids: Sequence[int]) -> None:
        self.engine.abort(ids)

    def count_tok(self, request: GenRequest) -> int:
        return self.engine.count_tok(request)

    async def close(self) -> None:
        await self.engine.close()

    def __getattr__(self, name: str) -> Any:  # what only some engines have: stats, reset_prefix_cache
        return getattr(self.engine, name)


class Adapter(Protocol):
    """A kind of engine.

    name     as given on the command line
    exact    whether answers are those of the ledger (the stand-in's are)
    virtual  whether time is virtual, that of HTTP services, too
    models   model class -> name of its MODEL
    """

    name: str
    exact: bool
    virtual: bool
    models: Mapping[str, str]

    def make_models(self, con: halo_sql.Connection) -> None:
        """Let the connection know the models."""
        ...


class StandIn:
    """The pack's model that costs nothing, as a ``python`` engine. Prompts that are no workload's are an error."""

    name, exact, virtual = "standin", True, False
    models: Mapping[str, str] = {name: name for name in CLASSES}

    def __init__(self, scale: str) -> None:
        self._spec = pack.module("spec")
        self._scale = scale
        self._keywords = pack.keywords()
        self._nodes = {
            (node.model, self._spec.system_text(workload, node, scale)): node
            for workload in self._spec.load_all(pack.FOLDER)
            for node in workload.nodes
            if node.kind == "llm"
        }

    def make_models(self, con: halo_sql.Connection) -> None:
        for name in CLASSES:
            con.create_model(name, _asynchronous(self._answering(name)), concurrency=1024, storable=False)

    def _answering(self, model: str) -> Callable[[list[dict[str, str]]], str]:
        def answer(messages: list[dict[str, str]]) -> str:
            system, user = (message["content"] for message in messages)
            node = self._nodes.get((model, system))
            if node is None:
                raise LookupError(f"no step of a workload asks {model} with the system message {system[:60]!r}")
            text: str = self._spec.fake_reply(node, system, user, node.max_tokens[self._scale], self._keywords)
            return text

        return answer


def _asynchronous(answer: Callable[[list[dict[str, str]]], str]) -> Callable[..., Coroutine[Any, Any, str]]:
    async def on_loop(messages: list[dict[str, str]]) -> str:
        return answer(messages)

    return on_loop


class Emulated(StandIn):
    """The stand-in's answers in the time of three models on three emulated H200. All models are on all devices, side by
    side: their KV caches share what the weights leave."""

    name, virtual, devices = "emulated", True, 3
    profiles: Mapping[str, str] = {"small": "dense-14b", "medium": "sparse-20b", "large": "dense-32b"}
    options: Mapping[str, Any] = {"workers": 3, "device": "gpu0, gpu1, gpu2", "kv_cache_gib": 9, "max_model_len": 8192}

    def make_models(self, con: halo_sql.Connection) -> None:
        for number, name in enumerate(CLASSES):
            options = {"profile": self.profiles[name], "preloaded": True, "device": f"gpu{number}", **self.options}
            con.create_model(name, self._answering(name), engine="emulated", **options)


class Divided(Emulated):
    """The same with a device for each model."""

    name = "divided"
    options: Mapping[str, Any] = {"max_model_len": 8192}


class Swapped(Emulated):
    """The same with a device's whole memory for each model, on all devices: every switch loads a model again."""

    name = "swapped"
    options: Mapping[str, Any] = {
        "workers": 3,
        "device": "gpu0, gpu1, gpu2",
        "max_model_len": 8192,
        "sleep_mode": False,
    }


class Bundled:
    """The bundled model on vLLM for all three classes: one engine, one prefix cache."""

    name, exact, virtual = "bundled", False, False
    models: Mapping[str, str] = dict.fromkeys(CLASSES, "smollm2")

    def __init__(self, scale: str) -> None:
        if scale != "cpu":
            raise SystemExit("the bundled model has a context of 2,048 tokens: use --scale cpu")

    def make_models(self, con: halo_sql.Connection) -> None:
        """It exists without a CREATE."""


ADAPTERS: Mapping[str, Callable[[str], Adapter]] = {
    "standin": StandIn,
    "bundled": Bundled,
    "emulated": Emulated,
    "divided": Divided,
    "swapped": Swapped,
}


class Bench:
    """A connection with the adapter's models, whose engines are recorded and open to the baselines, too."""

    def __init__(self, adapter: Adapter) -> None:
        self.adapter = adapter
        self.log: list[Call] = []
        self._engines: dict[str, RecordedEngine] = {}
        config = {"halo_store": "off", "halo_progress": False, "halo_virtual_time": adapter.virtual}
        self.con = halo_sql.connect(":memory:", config=config)
        runtime = self._runtime = self.con._link.open()._runtime
        runtime._pool = EnginePool(runtime.loop, runtime.functions, self._create, runtime.secrets)
        adapter.make_models(self.con)
        for model in dict.fromkeys(adapter.models.values()):  # started before anything is measured
            catalog = self.con._link.open().catalog.snapshot()
            definition = runtime.models.get(model) or catalog.models[model]
            self.run(self._held(definition))
        self.con.execute("SELECT LLM_MAP('ready', model => 'echo')").fetchall()  # imports what planning needs

    async def _held(self, definition: Any) -> None:
        await self._runtime.pool.get(definition).start()

    def _create(self, model: registry.Definition, functions: registry.Functions) -> Engine:
        made = RecordedEngine(model.name, registry.create(model, functions), self.log)
        self._engines[model.name] = made
        return made

    def engine(self, model_class: str) -> RecordedEngine:
        """The engine of a model class."""
        return self._engines[self.adapter.models[model_class]]

    @property
    def engines(self) -> list[RecordedEngine]:
        """All engines, each once."""
        return list(self._engines.values())

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """A coroutine on the engines' loop; its result."""
        return self._runtime.wait(self._runtime.begin(work))

    def clock(self) -> float:
        """Seconds of the engines' loop."""
        return float(self._runtime.loop.time())

    def reset(self) -> None:
        """Empty prefix caches, nothing learnt, an empty log."""
        for engine in self.engines:
            if hasattr(engine.engine, "reset_prefix_cache"):
                self.run(engine.engine.reset_prefix_cache())
        self.con.execute("DROP STATISTICS")
        self.log.clear()

    def close(self) -> None:
        """End everything."""
        self.con.close()
