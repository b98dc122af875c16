"""The engines by name: what each needs of a model definition, and how one is made. Nothing heavy is imported."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from halo_sql.engines.budget import FREE, Price
from halo_sql.engines.kinds import check_answer, check_options_of_kind, embedding_dimensions, model_kind
from halo_sql.engines.options import resolve
from halo_sql.engines.protocol import Engine
from halo_sql.engines.secret_store import SecretStore
from halo_sql.engines.speed import Speed
from halo_sql.engines.speeds import definition_of
from halo_sql.errors import CatalogError, did_you_mean

__all__ = [
    "ENGINES",
    "Definition",
    "Functions",
    "Kind",
    "Moves",
    "check_answer",
    "check_model",
    "create",
    "embedding_dimensions",
    "model_kind",
    "price",
    "stated_moves",
    "stated_speed",
    "worker_count",
    "worker_places",
    "workers_at_once",
]

Functions = Mapping[str, Callable[..., Any]]  # lower-case model name -> the callable registered for it


class Definition(Protocol):
    """What engines need of a model definition (``catalog.objects.ModelDef`` is one; engines know no catalog)."""

    @property
    def name(self) -> str:
        """As created; lookups ignore case."""
        ...

    @property
    def source(self) -> str:
        """Hub id, directory, URL, 'module:function' or ``bundled:name``."""
        ...

    @property
    def engine(self) -> str:
        """A key of ENGINES."""
        ...

    @property
    def options(self) -> Mapping[str, object]:
        """WITH (…) options."""
        ...

    @property
    def version(self) -> int:
        """Counts replacements."""
        ...


@dataclass(frozen=True, slots=True)
class Kind:
    """One engine: its module and the two things the registry does with a definition."""

    module: str
    check: Callable[[Any, Definition], None]
    make: Callable[[Any, Definition, Functions], Engine]


def check_model(model: Definition) -> None:
    """Check a definition without starting anything; CatalogError names the option (or source) and the remedy."""
    kind = _kind(model)
    kind.check(importlib.import_module(kind.module), model)
    check_options_of_kind(model)


def create(model: Definition, functions: Functions | None = None, secrets: SecretStore | None = None) -> Engine:
    """The engine of a model, not started. CatalogError as ``check_model``, or when a registered callable or a SECRET
    is missing, or the SECRET is for another server."""
    kind = _kind(model)
    if "secret" in model.options and model.engine == "openai":
        model = with_secret(model, secrets)
    return kind.make(importlib.import_module(kind.module), model, functions or {})


def with_secret(model: Definition, secrets: SecretStore | None) -> Definition:
    """The definition with the key (or the name of its variable) in place of ``secret``. Never to be stored or shown."""
    name = str(model.options["secret"])
    if secrets is None:
        raise CatalogError(f'there is no store for the secret "{name}" of model "{model.name}"')
    found = secrets.get(name)
    for source in importlib.import_module(ENGINES["openai"].module).sources(model.source, model.options):
        if not found.covers(source):
            raise CatalogError(
                f'secret "{found.name}" of model "{model.name}" is for {found.base_url}, not for {source}',
                remedy="Use another secret, or change the BASE_URL of this one.",
            )
    options = {key: value for key, value in model.options.items() if key != "secret"}
    if found.api_key is not None:
        options["api_key"] = found.api_key
    else:
        options["api_key_env"] = found.api_key_env
    return _Resolved(model.name, model.source, model.engine, options, model.version)


@dataclass(frozen=True, slots=True)
class _Resolved:
    """A definition with its secret in it."""

    name: str
    source: str
    engine: str
    options: Mapping[str, object] = field(repr=False)
    version: int


def price(model: Definition) -> Price:
    """What the model's calls cost by its options ``price_in`` and ``price_out``; free without them."""
    if model.engine != "openai":
        return FREE
    values = resolve("openai", model.options, importlib.import_module(ENGINES["openai"].module).OPTIONS)
    return Price(values["price_in"], values["price_out"])


def worker_count(model: Definition) -> int:
    """How many workers answer for the model."""
    options = {name.lower(): value for name, value in model.options.items()}
    if model.engine == "openai":
        return 1 + sum(bool(url.strip()) for url in str(options.get("base_urls", "")).split(","))
    return int(str(options.get("workers", 1)))


def workers_at_once(model: Definition) -> int:
    """How many of them work at once: one where all share a device."""
    count = worker_count(model)
    if count == 1 or model.engine != "vllm":
        return count
    from halo_sql.engines.vllm_options import one_place

    return 1 if one_place(model.options) else count


def _kind(model: Definition) -> Kind:
    if model.engine == "ray":
        raise CatalogError(
            f'model "{model.name}" uses the engine ray, which is not available in this version',
            remedy="Run vLLM's OpenAI-compatible server on the cluster and use it: FROM 'http://…/v1' USING openai.",
        )
    kind = ENGINES.get(model.engine)
    if kind is None:
        raise CatalogError(
            f'model "{model.name}" uses an unknown engine "{model.engine}"',
            remedy=did_you_mean(model.engine, list(ENGINES)),
        )
    return kind


def _check_plain(module: Any, model: Definition) -> None:
    """Engines that have a table of options and take any source."""
    resolve(model.engine, model.options, module.OPTIONS)


def _check_replay(module: Any, model: Definition) -> None:
    _check_plain(module, model)
    if not model.source:
        raise CatalogError(
            f'model "{model.name}" names no recording', remedy="USING replay takes the path of a JSONL file."
        )


def _check_python(module: Any, model: Definition) -> None:
    _check_plain(module, model)
    name, colon, path = model.source.partition(":")
    words = [*name.split("."), *path.split(".")] if colon else []
    named = bool(words) and all(word.isidentifier() for word in words)
    if not named and model.source.lower() != model.name.lower():
        raise CatalogError(
            f'model "{model.name}": {model.source!r} does not name a Python function',
            remedy="USING python takes 'module:function', or register a callable with create_model().",
        )


def _check_vllm(module: Any, model: Definition) -> None:
    check = getattr(module, "check_options", None)
    if check is not None:
        check(model.options)
    if not model.source:
        raise CatalogError(
            f'model "{model.name}" names no weights',
            remedy="USING vllm takes a directory, a hub id, 'bundled:smollm2' or 'bundled:minilm'.",
        )


def _make_echo(module: Any, model: Definition, functions: Functions) -> Engine:
    return _several(model, module.OPTIONS, lambda: module.EchoEngine(model.options))


def _make_replay(module: Any, model: Definition, functions: Functions) -> Engine:
    _check_replay(module, model)
    engine: Engine = module.ReplayEngine(model.source, model.options)
    return engine


def _make_openai(module: Any, model: Definition, functions: Functions) -> Engine:
    sources = module.sources(model.source, model.options)
    if len(sources) == 1:
        engine: Engine = module.OpenAIEngine(model.source, model.options)
        return engine
    from halo_sql.engines.workers import WorkerGroup

    return WorkerGroup([module.OpenAIEngine(source, model.options) for source in sources], alike=False)


def _make_python(module: Any, model: Definition, functions: Functions) -> Engine:
    function = functions.get(model.name.lower())
    if function is None and ":" not in model.source:
        raise CatalogError(
            f'model "{model.name}" is a Python callable that this session has not registered',
            remedy=f'Call connection.create_model("{model.name}", function) first.',
        )
    source = model.source if function is None else function
    return _several(model, module.OPTIONS, lambda: module.PythonEngine(source, model.options))


def _make_vllm(module: Any, model: Definition, functions: Functions) -> Engine:
    from halo_sql.engines.shares import Share, Storage

    values = module.check_options(model.options)
    count = values["workers"]
    if count == 1:
        engine: Engine = module.VllmEngine(model.source, model.options)
        return engine
    from halo_sql.engines.workers import WorkerGroup

    one_place = module.one_place(model.options)  # one works: nobody would get what it keeps, and keeping takes time
    storage = Storage() if values["kv_sharing"] == "storage" and not one_place else None
    engines = [
        module.VllmEngine(model.source, model.options, share=Share(number, count, storage)) for number in range(count)
    ]
    return WorkerGroup(engines, storage=storage, one_place=one_place)


def _several(model: Definition, known: Any, make: Callable[[], Engine]) -> Engine:
    """One engine, or as many as the option ``workers`` says as one."""
    count = resolve(model.engine, model.options, known)["workers"]
    if count == 1:
        return make()
    from halo_sql.engines.workers import WorkerGroup

    return WorkerGroup([make() for _ in range(count)])


def _check_emulated(module: Any, model: Definition) -> None:
    module.check(model.name, model.source, model.options)


def _make_emulated(module: Any, model: Definition, functions: Functions) -> Engine:
    function = functions.get(model.name.lower())
    count = worker_count(model)
    engines = [
        module.EmulatedEngine(model.name, model.source, model.options, function, worker=number)
        for number in range(count)
    ]
    if count == 1:
        engine: Engine = engines[0]
        return engine
    from halo_sql.engines.workers import WorkerGroup

    return WorkerGroup(engines)


def worker_places(model: Definition) -> list[int | str]:
    """Where each worker stands: the name of an emulated device, else the number of its (first) device."""
    options = {name.lower(): value for name, value in model.options.items()}
    count = worker_count(model)
    if model.engine == "emulated":
        names = [known for item in str(options.get("device", "")).split(",") if (known := item.strip())] or ["gpu0"]
        return [names[number % len(names)] for number in range(count)]
    from halo_sql.engines.shares import read_devices

    each, devices = options.get("tensor_parallel_size", 1), options.get("devices")
    width = each if isinstance(each, int) else 1
    known_devices = read_devices(devices) if isinstance(devices, str) else []
    firsts = range(0, count * width, width)
    return [known_devices[first] if first < len(known_devices) else first for first in firsts]


class Moves(NamedTuple):
    """What coming and going takes, as a definition tells it: seconds of the first start, of waking, of making room;
    bytes per second at which KV blocks come from other workers, 0: they do not."""

    load_s: float
    wake_s: float
    sleep_s: float
    link_bytes_per_s: float


def stated_moves(model: Definition) -> Moves | None:
    """Of an emulated model; None of others. CatalogError as ``check_model``."""
    if model.engine != "emulated":
        return None
    engine = importlib.import_module(ENGINES["emulated"].module).EmulatedEngine(model.name, model.source, model.options)
    return Moves(*engine.moves())


def stated_speed(model: Definition) -> Speed | None:
    """The speed of a model that its definition tells: of an emulated one. CatalogError as ``check_model``."""
    if model.engine != "emulated":
        return None
    engine = importlib.import_module(ENGINES["emulated"].module).EmulatedEngine(model.name, model.source, model.options)
    speed: Speed = engine.profile.speed(definition_of(model), engine.info())
    return speed


def _check_openai(module: Any, model: Definition) -> None:
    for source in module.sources(model.source, model.options):
        module.check(source, model.options)


ENGINES: Mapping[str, Kind] = {
    "vllm": Kind("halo_sql.engines.vllm", _check_vllm, _make_vllm),
    "openai": Kind("halo_sql.engines.openai", _check_openai, _make_openai),
    "python": Kind("halo_sql.engines.python", _check_python, _make_python),
    "echo": Kind("halo_sql.engines.echo", _check_plain, _make_echo),
    "replay": Kind("halo_sql.engines.replay", _check_replay, _make_replay),
    "emulated": Kind("halo_sql.engines.emulated", _check_emulated, _make_emulated),
}
