"""Where the models run. HaloSQL and the baselines get the same engines, on the same loop, through an adapter.

A new kind of engine is one class: it says which models a connection gets and what the three classes are called there.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

import pack
import shapes

import halo_sql
from halo_sql.engines import registry
from halo_sql.engines.pool import EnginePool
from halo_sql.engines.protocol import TEXT, Deliver, Engine, EngineInfo, GenRequest, GenResult, failure
from halo_sql.engines.python import messages_of

T = TypeVar("T")
CLASSES = ("small", "medium", "large")
READY = "Are you ready?"


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


class Wrapped:
    """An engine around another one."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    async def start(self) -> EngineInfo:
        return await self.engine.start()

    async def describe(self) -> EngineInfo | None:
        return await self.engine.describe()

    def abort(self, ids: Sequence[int]) -> None:
        self.engine.abort(ids)

    def count_tok(self, request: GenRequest) -> int:
        return self.engine.count_tok(request)

    async def close(self) -> None:
        await self.engine.close()

    def __getattr__(self, name: str) -> Any:  # what only some engines have: stats, reset_prefix_cache
        return getattr(self.engine, name)


class RecordedEngine(Wrapped):
    """An engine that writes down what passes through it."""

    def __init__(self, model: str, engine: Engine, log: list[Call]) -> None:
        super().__init__(engine)
        self._model, self._log = model, log
        self._open: dict[int, tuple[GenRequest, float]] = {}

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


class PaidEngine(Wrapped):
    """Another's answers, paid for: the model computes each prompt and as many tokens as the answer has.

    answer  from messages; LookupError: a request that is passed on as it is
    """

    def __init__(self, engine: Engine, answer: Callable[[list[dict[str, str]]], str]) -> None:
        super().__init__(engine)
        self._answer = answer
        self._tokens = pack.tokens_of_bundled()

    def submit(self, requests: Sequence[GenRequest], deliver: Deliver) -> None:
        answers: dict[int, tuple[str, int]] = {}
        asked: list[GenRequest] = []
        for request in requests:
            try:
                text = self._answer(messages_of(request))
            except (LookupError, ValueError):  # of a calibration
                asked.append(request)
                continue
            length = len(self._tokens.pack([text])[0]) // self._tokens.WIDTH + 1  # and the end
            answers[request.id] = text, length
            asked.append(replace(request, sampling=replace(request.sampling, max_tokens=length), answer=TEXT))

        def answered(results: Sequence[GenResult]) -> None:
            deliver([self._answered(result, answers.pop(result.id, None)) for result in results])

        self.engine.submit(asked, answered)

    def _answered(self, result: GenResult, answer: tuple[str, int] | None) -> GenResult:
        if answer is None or result.error is not None:
            return result
        text, length = answer
        if result.output_tok != length:
            return failure(result.id, f"the model wrote {result.output_tok} tokens instead of {length}", "engine")
        return replace(result, text=text, finish="stop")


class Adapter(Protocol):
    """A kind of engine.

    name     as given on the command line
    exact    whether answers are those of the ledger (the stand-in's are)
    virtual  whether time is virtual, that of HTTP services, too
    models   model class -> name of its MODEL
    profiles, devices  of what is emulated or was calibrated: model class -> profile, and how many devices; else empty
    """

    name: str
    exact: bool
    virtual: bool
    models: Mapping[str, str]
    profiles: Mapping[str, str]
    devices: int

    def make_models(self, con: halo_sql.Connection) -> None:
        """Let the connection know the models."""
        ...

    def engine(self, model: str, made: Engine) -> Engine:
        """What is run in the place of a model's engine."""
        ...

    def started(self, con: halo_sql.Connection) -> None:
        """The models run."""
        ...

    async def begin(self, engines: Mapping[str, RecordedEngine]) -> None:
        """A run begins."""


class StandIn:
    """The pack's model that costs nothing, as a ``python`` engine. Prompts that are no workload's are an error."""

    name, exact, virtual, devices = "standin", True, False, 0
    models: Mapping[str, str] = {name: name for name in CLASSES}
    profiles: Mapping[str, str] = {}

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

    def engine(self, model: str, made: Engine) -> Engine:
        return made

    def started(self, con: halo_sql.Connection) -> None:
        """Nothing is to be done."""

    async def begin(self, engines: Mapping[str, RecordedEngine]) -> None:
        """Nothing is to be done."""

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

    def _answering(self, model: str) -> Callable[[list[dict[str, str]]], str]:
        answer = super()._answering(model)
        return lambda messages: READY if messages[-1]["content"] == READY else answer(messages)

    async def begin(self, engines: Mapping[str, RecordedEngine]) -> None:
        """Every run finds the same model on all devices, whatever the run before left there."""
        done, count = asyncio.Event(), int(self.options["workers"])
        left = set(range(count))

        def ready(results: Sequence[GenResult]) -> None:
            left.difference_update(result.worker for result in results)
            if not left:
                done.set()

        requests = [GenRequest((1 << 41) + worker, READY, workers=(worker,)) for worker in range(count)]
        engines[CLASSES[0]].submit(requests, ready)
        await done.wait()


class Gpu(StandIn):
    """The stand-in's answers paid for on a GPU: three models of random weights on vLLM, side by side on one device.
    They are calibrated before anything is measured, so that ``Twin`` can repeat the runs."""

    name, devices = "gpu", 1
    profiles: Mapping[str, str] = {name: f"calibrated:{name}" for name in CLASSES}
    shapes: Mapping[str, Mapping[str, object]] = shapes.SHAPES
    options: str = "kv_cache_gib = 9, gpu_memory_utilization = 0.3, max_num_seqs = 256"
    #: CUDA graphs of decoding steps, but no compilation, which takes minutes at the start.
    engine_args: Mapping[str, object] = {
        "load_format": "dummy",
        "compilation_config": {"mode": 0, "cudagraph_mode": "FULL_DECODE_ONLY"},
        "max_num_batched_tokens": 8192,
    }

    def __init__(self, scale: str) -> None:
        super().__init__(scale)
        self._folder = tempfile.TemporaryDirectory()

    def make_models(self, con: halo_sql.Connection) -> None:
        for name in CLASSES:
            folder = shapes.write(self.shapes[name], Path(self._folder.name) / name)
            options = f"{self.options}, max_model_len = 8192, engine_args = '{json.dumps(self.engine_args)}'"
            con.execute(f"CREATE TEMP MODEL {name} FROM '{folder}' USING vllm WITH ({options})")

    def engine(self, model: str, made: Engine) -> Engine:
        return PaidEngine(made, self._answering(model))

    def started(self, con: halo_sql.Connection) -> None:
        for name in CLASSES:
            con.execute(f"CALIBRATE MODEL {name}")


class Twin(Emulated):
    """The emulated counterpart of ``Gpu``, with what its calibrations found."""

    name, devices = "gpu-emulated", 1
    profiles = Gpu.profiles
    options: Mapping[str, Any] = {"device": "gpu0", "max_model_len": 8192}


class Bundled:
    """The bundled model on vLLM for all three classes: one engine, one prefix cache."""

    name, exact, virtual, devices = "bundled", False, False, 0
    models: Mapping[str, str] = dict.fromkeys(CLASSES, "smollm2")
    profiles: Mapping[str, str] = {}

    def __init__(self, scale: str) -> None:
        if scale != "cpu":
            raise SystemExit("the bundled model has a context of 2,048 tokens: use --scale cpu")

    def make_models(self, con: halo_sql.Connection) -> None:
        """It exists without a CREATE."""

    def engine(self, model: str, made: Engine) -> Engine:
        return made

    def started(self, con: halo_sql.Connection) -> None:
        """Nothing is to be done."""

    async def begin(self, engines: Mapping[str, RecordedEngine]) -> None:
        """Nothing is to be done."""


ADAPTERS: Mapping[str, Callable[[str], Adapter]] = {
    "standin": StandIn,
    "bundled": Bundled,
    "emulated": Emulated,
    "divided": Divided,
    "swapped": Swapped,
    "gpu": Gpu,
    "gpu-emulated": Twin,
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
        catalog = self.con._link.open().catalog.snapshot()
        wanted = dict.fromkeys(adapter.models.values())
        self.run(self._held([runtime.models.get(model) or catalog.models[model] for model in wanted]))
        adapter.started(self.con)
        self.con.execute("SELECT LLM_MAP('ready', model => 'echo')").fetchall()  # imports what planning needs

    async def _held(self, definitions: Sequence[Any]) -> None:
        """Started before anything is measured."""
        await asyncio.gather(*(self._runtime.pool.get(definition).start() for definition in definitions))

    def _create(self, model: registry.Definition, functions: registry.Functions) -> Engine:
        engine = self.adapter.engine(model.name, registry.create(model, functions))
        made = RecordedEngine(model.name, engine, self.log)
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
        self.run(self.adapter.begin(self._engines))
        for engine in self.engines:
            if hasattr(engine.engine, "reset_prefix_cache"):
                self.run(engine.engine.reset_prefix_cache())
        self.con.execute("DROP STATISTICS")
        self.log.clear()

    def close(self) -> None:
        """End everything."""
        self.con.close()
