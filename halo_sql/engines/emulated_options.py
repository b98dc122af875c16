"""Options of emulated models, and what they mean in tokens, blocks and bytes of the profile's device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from halo_sql.engines import profiles
from halo_sql.engines.emulated_link import LINK, OFF
from halo_sql.engines.emulated_text import AUTO, BUNDLED, WORDS
from halo_sql.engines.options import Option, resolve
from halo_sql.engines.profiles import Profile
from halo_sql.engines.shares import WORKERS
from halo_sql.errors import CatalogError

OPTIONS: tuple[Option, ...] = (
    WORKERS,
    Option("device", "text", "gpu0", "Its device, or one for each worker: 'gpu0, gpu1'; models on one share it"),
    Option("gpu_memory_utilization", "number", 0.9, "Share of the device's memory for weights and KV cache", 0.01, 1),
    Option("kv_cache_gib", "number", None, "Size of the KV cache in GiB; default what the share leaves", 0.0001),
    Option("max_model_len", "integer", None, "Context in tokens; default the profile's, as far as memory allows", 1),
    Option("block_size", "integer", None, "Tokens per KV block; default the profile's", 1, 4096),
    Option("enable_prefix_caching", "boolean", True, "Share the KV cache of equal prompt beginnings"),
    Option("max_num_seqs", "integer", None, "Requests decoded at the same time; default the profile's", 1),
    Option("max_num_batched_tokens", "integer", None, "Tokens computed in a step; default the profile's", 1),
    Option("sleep_mode", "boolean", True, "Make room by sleeping (weights in host memory) instead of unloading"),
    Option("preloaded", "boolean", False, "The first start takes no time"),
    Option("kv_sharing", "text", OFF, "'link': fetch KV blocks of the model's other workers", choices=(OFF, LINK)),
    Option("link", "text", "nvlink", "What KV blocks of other workers come over, a link of the profile"),
    Option("answers", "text", None, "'module:function' that answers, as of the engine python; default like echo"),
    Option("tokenizer", "text", AUTO, "What splits texts into tokens", choices=(AUTO, BUNDLED, WORDS)),
)
_KV_TOK = 1 << 20  # capacity where a profile tells no sizes
_GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class Size:
    """What a definition means on its device: tokens of a block and of the context, blocks, sequences and tokens in a
    step, bytes of weights and KV cache."""

    block_tok: int
    context_tok: int
    blocks: int
    max_num_seqs: int
    max_num_batched_tokens: int
    bytes: int


def sized(name: str, profile: Profile, options: Mapping[str, Any]) -> Size:
    """The sizes of a model. CatalogError with the remedy when memory does not hold it."""
    block_tok = options["block_size"] or profile.block_tok
    if options["link"] not in profile.link_bytes_per_s and profile.link_bytes_per_s:
        known = ", ".join(profile.link_bytes_per_s)
        raise CatalogError(f'model "{name}": its profile has no link {options["link"]!r}', remedy=f"It has {known}.")
    kv_bytes = -1.0
    if options["kv_cache_gib"] is not None:
        kv_bytes = options["kv_cache_gib"] * _GIB
    elif not profile.kv_capacity_tok and profile.memory_bytes:
        kv_bytes = profile.memory_bytes * options["gpu_memory_utilization"] - profile.weight_bytes
        if kv_bytes <= 0:
            raise CatalogError(
                f'model "{name}" has {profile.weight_bytes / 1e9:.1f} GB of weights and '
                f"{profile.memory_bytes * options['gpu_memory_utilization'] / 1e9:.1f} GB for them and the KV cache",
                remedy="Raise gpu_memory_utilization.",
            )
    capacity_tok = profile.kv_capacity_tok or _KV_TOK
    if kv_bytes >= 0 and profile.kv_tok_bytes:
        capacity_tok = int(kv_bytes // profile.kv_tok_bytes)
    blocks = capacity_tok // block_tok
    room_tok = (blocks - 1) * block_tok  # vLLM uses one block for itself
    context_tok = options["max_model_len"] or min(profile.context_tok, max(room_tok, 0))
    if context_tok < 1 or context_tok > room_tok:
        raise CatalogError(
            f'the KV cache of model "{name}" holds {max(room_tok, 0)} tokens, less than its context of '
            f"{context_tok or 'one token'}",
            remedy="Raise kv_cache_gib or gpu_memory_utilization, or lower max_model_len.",
        )
    return Size(
        block_tok,
        context_tok,
        blocks,
        options["max_num_seqs"] or profile.max_num_seqs,
        options["max_num_batched_tokens"] or profile.max_num_batched_tokens,
        profile.weight_bytes + blocks * block_tok * profile.kv_tok_bytes,
    )


def check(
    name: str, source: str, options: Mapping[str, object], profile: Profile | None = None
) -> tuple[Profile, dict[str, Any], Size]:
    """Profile (the one that ``source`` names, unless it is given), checked options and sizes of a definition;
    CatalogError with a remedy."""
    values = resolve("emulated", options, OPTIONS)
    profile = profile or profiles.find(source)
    return profile, values, sized(name, profile, values)
