"""Frames between the vLLM engine and its worker: a 4-byte big-endian length, then one msgpack map with key ``op``.

To the worker:
    {op: start, args: {engine argument: value}, hub: bool}     first frame, once
    {op: generate, params: [sampling map, …],
     items: [[seq, index into params, priority, token bytes, keep_tok, fetch], …]}
        keep_tok tokens of its beginning are left for other workers, fetch: what they left is looked for
        a sampling map has keys temperature, top_p, max_tokens, seed, stop, json, choice, first ([[id of a token
        that a choice begins with, place of the choice], …]: the first token decides; empty: it does not); or only
        score: [ids of yes, ids of no]; or only embed: dimensions to shorten vectors to, 0 for their own length
    {op: abort, seqs: [seq, …]}
    {op: call, call: n, name: stats | reset_prefix_cache | sleep | wake}
    {op: shutdown}
From the worker:
    {op: ready, context_tok, block_tok, kv_capacity_tok, dtype, device, version, tokenizer_dir, revision, max_num_seqs}
    {op: failed, message}                                        the model could not be loaded; the worker ends
    {op: results, items: [[seq, text, finish, prompt_tok, cached_tok, output_tok, error code or None, message,
        moved_tok], …]}
        moved_tok of the cached tokens were fetched from another worker
        the text of a score is a decimal, that of a vector base64 of little-endian float32; now and then with
        gauges: {kv_used, running, waiting, preemptions, queued_s, queued}, the last three since the start
    {op: reply, call: n, value, error}

Token ids travel as native unsigned 32-bit integers: both ends run on one machine.
"""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import Sequence
from typing import Any

_LENGTH_BYTES = 4
_MAX_FRAME_BYTES = 1 << 30


def pack(frame: dict[str, Any]) -> bytes:
    """A frame as bytes, with its length in front."""
    import msgpack

    body: bytes = msgpack.packb(frame, use_bin_type=True)
    return len(body).to_bytes(_LENGTH_BYTES, "big") + body


async def read(reader: asyncio.StreamReader) -> dict[str, Any] | None:
    """The next frame; None at the end of the stream, also when it ends inside a frame (the peer died)."""
    import msgpack

    try:
        length = int.from_bytes(await reader.readexactly(_LENGTH_BYTES), "big")
        assert length <= _MAX_FRAME_BYTES, length
        body = await reader.readexactly(length)
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
    frame: dict[str, Any] = msgpack.unpackb(body, raw=False, strict_map_key=False)
    return frame


def pack_tokens(ids: Sequence[int]) -> bytes:
    """Token ids as bytes."""
    return array("I", ids).tobytes()


def unpack_tokens(data: bytes) -> list[int]:
    """Token ids from bytes."""
    ids = array("I")
    ids.frombytes(data)
    return ids.tolist()
