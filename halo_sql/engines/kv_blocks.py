"""KV blocks as files: what one worker has computed of a prompt, for the others to find. Needs no vLLM.

A block is named by a digest of all tokens up to its end, so that equal names are equal contents (of one model in one
process layout); the folder belongs to one model's workers.
"""

from __future__ import annotations

import os
from array import array
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path


def block_names(tokens: Sequence[int], block_tok: int, limit_tok: int | None = None) -> list[str]:
    """The names of a prompt's whole blocks, of its first ``limit_tok`` tokens."""
    end = len(tokens) if limit_tok is None else min(len(tokens), limit_tok)
    found: list[str] = []
    digest = b""
    for start in range(0, end - block_tok + 1, block_tok):
        digest = blake2b(digest + array("I", tokens[start : start + block_tok]).tobytes(), digest_size=16).digest()
        found.append(digest.hex())
    return found


class BlockFolder:
    """The folder of one process (``rank`` of those that hold parts of the model).

    limit_bytes  what this process leaves there, at most; its oldest blocks go first

    Files appear whole or not at all; one may go at any time.
    """

    def __init__(self, folder: Path, rank: int = 0, limit_bytes: int = 1 << 30) -> None:
        self._folder = folder
        self._rank = rank
        self._limit_bytes = limit_bytes
        self._bytes = 0
        self._own: OrderedDict[str, int] = OrderedDict()

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.{self._rank}"

    def has(self, name: str) -> bool:
        """Whether it is there."""
        return self._path(name).exists()

    def held(self, names: Sequence[str]) -> int:
        """How many of these, from the first on, are there."""
        return next((count for count, name in enumerate(names) if not self.has(name)), len(names))

    def write(self, name: str, parts: Sequence[bytes]) -> bool:
        """Leave a block there; False when the file system does not take it."""
        part = self._folder / f".{name}.{self._rank}.{os.getpid()}"
        try:
            with part.open("wb") as file:
                file.writelines(parts)
            part.replace(self._path(name))
        except OSError:  # full, or gone with its owner: others compute for themselves
            with suppress(OSError):
                part.unlink(missing_ok=True)
            return False
        size = sum(map(len, parts))
        self._own[name] = size
        self._bytes += size
        while self._bytes > self._limit_bytes and len(self._own) > 1:
            oldest, freed = self._own.popitem(last=False)
            self._bytes -= freed
            with suppress(OSError):
                self._path(oldest).unlink(missing_ok=True)
        return True

    def read(self, name: str, size: int) -> bytes | None:
        """A block's bytes; None when it is gone, or not of this size."""
        try:
            data = self._path(name).read_bytes()
        except OSError:
            return None
        return data if len(data) == size else None
