"""The model behind a vLLM engine: its folder and tokenizer, what kind it is, and what a worker said of it."""

from __future__ import annotations

import asyncio
import importlib.util
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from halo_sql.engines import bundled, known
from halo_sql.engines.chat import ChatTokenizer
from halo_sql.engines.kinds import EMBEDDING, GENERATE, check_length, source_dimensions, source_kind
from halo_sql.engines.model_dir import fingerprint, resolve_model_dir
from halo_sql.engines.protocol import EngineInfo
from halo_sql.engines.text_tokenizer import TextTokenizer
from halo_sql.engines.vllm_options import cpu_build, random_weights
from halo_sql.errors import EngineError

Tokenizer = ChatTokenizer | TextTokenizer
#: Tokens worth keeping in flight, at least.
_WINDOW_TOK = {GENERATE: 8_192, EMBEDDING: 65_536}


class VllmModel:
    """One model as ``VllmEngine`` is told of it.

    source     hub id, model folder or ``bundled:name``
    options    checked options (``vllm_options.check_options``)
    kind       'generate' | 'embedding'
    dimensions what vLLM is asked to shorten vectors to; None: their own length
    tokenizer  once loaded
    info       what the worker said, once it ran

    CatalogError when vectors of that length cannot be had.
    """

    def __init__(self, source: str, options: Mapping[str, Any], progress: bundled.Progress) -> None:
        self.source = source
        self.options = options
        self.kind: str = options["kind"] or source_kind(source)
        self.tokenizer: Tokenizer | None = None
        self.info: EngineInfo | None = None
        self._progress = progress
        wanted = options["dimensions"] if self.kind == EMBEDDING else None
        check_length(source, wanted)
        self.dimensions: int | None = None if wanted == source_dimensions(source) else wanted

    def folder(self) -> Path | None:
        """The model's folder, made if it is a bundled one; None for a hub id. Blocking."""
        name = self._bundle()
        return self._given() if name is None else bundled.ensure(name, self._progress)

    def load_tokenizer(self, folder: Path) -> Tokenizer:
        """Blocking; EngineError('unavailable') when it cannot be read."""
        if self.tokenizer is None:
            kind: type[ChatTokenizer | TextTokenizer] = TextTokenizer if self.kind == EMBEDDING else ChatTokenizer
            self.tokenizer = kind.load(folder)
        return self.tokenizer

    def describe(self, ready: Mapping[str, Any], weights: str) -> EngineInfo:
        """The info of a worker that says ``ready``; EngineError when it is another model than before."""
        assert self.tokenizer is not None
        parts = [
            "vllm",
            self.source,
            ready["revision"] or weights,
            ready["dtype"],
            self.options["quantization"] or "",
            self.tokenizer.identity,
        ]
        if self.options["engine_args"]:  # any of them may change answers
            parts.append(json.dumps(self.options["engine_args"], sort_keys=True))
        if self.kind == EMBEDDING:
            cut = f"cut at {ready['context_tok']}" if self.options["truncate"] else ""
            parts += [EMBEDDING, str(self.dimensions or ""), cut]
        identity = "|".join(parts)
        if self.info is not None and self.info.identity != identity:
            raise EngineError(
                f"The model {self.source} changed while it was in use",
                code="unavailable",
                remedy="Run the query again to use the new one.",
            )
        capacity, context = int(ready["kv_capacity_tok"]), int(ready["context_tok"])
        if self.kind == EMBEDDING and capacity < context:
            capacity = 0  # an encoder keeps nothing between its steps
        self.info = EngineInfo(
            identity=identity,
            context_tok=context,
            kv_capacity_tok=capacity,
            window_tok=max(_WINDOW_TOK[self.kind], capacity),
            window_requests=2 * int(ready["max_num_seqs"]),
            device=str(ready["device"]),
            batch_requests=int(ready["max_num_seqs"]),
            block_tok=int(ready["block_tok"]),
            dtype=str(ready["dtype"]),
            weight_bytes=int(ready["weight_bytes"]),
            kv_tok_bytes=int(ready["kv_tok_bytes"]),
            memory_bytes=int(ready["memory_bytes"]),
            step_tok=int(ready["step_tok"]),
        )
        return self.info

    async def remember(self, weights: str) -> None:
        """Keep what the worker said for sessions to come."""
        assert self.tokenizer is not None
        assert self.info is not None
        await asyncio.to_thread(known.remember, self._facts(weights, self.tokenizer), self.info)

    def recall(self) -> EngineInfo | None:
        """What a worker with the same model, options and build said the last time it ran. Blocking."""
        name = self._bundle()
        try:
            folder = self._given() if name is None else bundled.made(name)
            if folder is None or importlib.util.find_spec("vllm") is None:
                return None
            return known.recall(self._facts(fingerprint(folder), self.load_tokenizer(folder)))
        except EngineError:
            return None  # the start says what is wrong

    def _facts(self, weights: str, tokenizer: Tokenizer) -> dict[str, object]:
        return {
            "source": self.source,
            "weights": weights,
            "chat": tokenizer.identity,
            "cpu": cpu_build(),
            **self.options,
            "kind": self.kind,
        }

    def _given(self) -> Path | None:
        return resolve_model_dir(self.source, weights=not random_weights(self.options))

    def _bundle(self) -> str | None:
        scheme, colon, name = self.source.partition(":")
        return name if colon and scheme.lower() == "bundled" else None
