"""A vLLM KV connector that shares whole prompt blocks between workers through a folder. Runs in vLLM's processes.

vLLM's ExampleConnector keeps a prompt as one piece, found by the same prompt only; here every block is found by the
tokens up to its end, so prompts share what they share. Which beginnings are kept, and when to look, is asked per
request (``kv_transfer_params``: ``keep_tok``, ``fetch``); what was fetched is told when it ends (``moved_tok``).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorBase_V1, KVConnectorMetadata

from halo_sql.engines.kv_blocks import BlockFolder, block_names


@dataclass
class Blocks(KVConnectorMetadata):  # type: ignore[misc]
    """Names and places of the blocks to load before a step, and to keep after it."""

    load: list[tuple[str, int]] = field(default_factory=list)
    keep: list[tuple[str, int]] = field(default_factory=list)


class BlockStorageConnector(KVConnectorBase_V1):  # type: ignore[misc]
    """See the module. ``kv_connector_extra_config``: ``folder``, ``limit_bytes``."""

    def __init__(self, vllm_config: Any, role: Any, kv_cache_config: Any) -> None:
        super().__init__(vllm_config=vllm_config, role=role, kv_cache_config=kv_cache_config)
        extra = self._kv_transfer_config.kv_connector_extra_config
        self._block_tok = int(vllm_config.cache_config.block_size)
        rank = int(vllm_config.parallel_config.rank)
        self._folder = BlockFolder(Path(extra["folder"]), rank, int(extra.get("limit_bytes", 1 << 30)))
        self._simple = len(getattr(kv_cache_config, "kv_cache_groups", ())) == 1  # else blocks are not what they seem
        # of the scheduler
        self._keeping: dict[str, Any] = {}  # requests with blocks to keep
        self._kept: set[str] = set()
        self._found: dict[str, tuple[int, int]] = {}  # request -> first and last + 1 of the blocks to load
        self._loads: list[tuple[str, int]] = []
        self._moved: dict[str, int] = {}
        # of the worker
        self._layers: list[Any] = []
        self._failed: set[int] = set()

    @property
    def requires_kv_delivery(self) -> bool:
        """A block that was not kept is computed again, no more."""
        return False

    # --- the scheduler's side

    def on_new_request(self, request: Any) -> None:
        """Note what is to be kept of it."""
        asked = request.kv_transfer_params or {}
        if self._simple and asked.get("keep_tok", 0) >= self._block_tok:
            self._keeping[request.request_id] = request

    def get_num_new_matched_tokens(self, request: Any, num_computed_tokens: int) -> tuple[int, bool]:
        """Tokens in the folder behind those that the own cache has; the last token is always computed."""
        asked = request.kv_transfer_params or {}
        if not self._simple or not asked.get("fetch"):
            return 0, False
        tokens = request.prompt_token_ids or []
        names = block_names(tokens, self._block_tok, len(tokens) - 1)
        first = num_computed_tokens // self._block_tok
        count = self._folder.held(names[first:])
        self._found[request.request_id] = (first, first + count)
        return count * self._block_tok, False

    def update_state_after_alloc(self, request: Any, blocks: Any, num_external_tokens: int) -> None:
        """Its blocks have places."""
        first, end = self._found.pop(request.request_id, (0, 0))
        if num_external_tokens <= 0 or first == end:
            return
        names = block_names(request.prompt_token_ids, self._block_tok)
        places = blocks.get_block_ids()[0]
        self._loads += [(names[number], places[number]) for number in range(first, end)]
        self._moved[request.request_id] = num_external_tokens

    def build_connector_meta(self, scheduler_output: Any) -> Blocks:
        """What this step's forward pass loads and keeps."""
        meta = Blocks(load=self._loads)
        self._loads = []
        state = scheduler_output.kv_connector_block_state
        for request_id, scheduled in scheduler_output.num_scheduled_tokens.items():
            request = self._keeping.get(request_id)
            if request is None:
                continue
            keep_tok = int(request.kv_transfer_params["keep_tok"])
            names = block_names(request.prompt_token_ids, self._block_tok, keep_tok)
            if request.num_computed_tokens + scheduled < len(names) * self._block_tok:
                continue  # not all computed by the end of this step
            del self._keeping[request_id]
            places = state.get_block_ids(request_id) if state is not None else None
            if not places:
                continue
            for name, place in zip(names, places[0], strict=False):
                if name not in self._kept:
                    self._kept.add(name)
                    if not self._folder.has(name):
                        meta.keep.append((name, place))
        return meta

    def request_finished(self, request: Any, block_ids: Any) -> tuple[bool, dict[str, Any] | None]:
        """Nothing holds its blocks; how many of its tokens were loaded."""
        self._keeping.pop(request.request_id, None)
        self._found.pop(request.request_id, None)
        moved = self._moved.pop(request.request_id, 0)
        return False, {"moved_tok": moved} if moved else None

    # --- the worker's side

    def start_load_kv(self, forward_context: Any, **kwargs: Any) -> None:
        """Copy the blocks that were found into their places; one that is gone is computed after all."""
        layers = forward_context.no_compile_layers
        caches = [getattr(layers[name], "kv_cache", None) for name in sorted(layers)]
        self._layers = [cache for cache in caches if isinstance(cache, torch.Tensor) and cache.numel()]
        meta = self._get_connector_metadata()
        for name, place in meta.load:
            parts = [layer[place] for layer in self._layers]
            data = self._folder.read(name, sum(part.numel() * part.element_size() for part in parts))
            if data is None:
                self._failed.add(place)
                continue
            whole, start = torch.frombuffer(bytearray(data), dtype=torch.uint8), 0
            for part in parts:
                size = part.numel() * part.element_size()
                part.copy_(whole[start : start + size].view(part.dtype).reshape(part.shape))
                start += size

    def wait_for_layer_load(self, layer_name: str) -> None:
        """All is loaded when the pass begins."""

    def save_kv_layer(self, layer_name: str, kv_layer: Any, attn_metadata: Any, **kwargs: Any) -> None:
        """All layers are kept together when the pass has ended."""

    def wait_for_save(self) -> None:
        """Write the blocks that are to be kept."""
        for name, place in self._get_connector_metadata().keep:
            parts = [layer[place].contiguous().cpu().flatten().view(torch.uint8) for layer in self._layers]
            self._folder.write(name, [part.numpy().tobytes() for part in parts])

    def get_block_ids_with_load_errors(self) -> set[int]:
        """Blocks that had gone when they were to be loaded."""
        failed, self._failed = self._failed, set()
        return failed
