"""Texts for an embedding model as token ids: the tokenizer's own beginning and end around text that is only text."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from halo_sql.engines.plain_text import PlainText
from halo_sql.engines.protocol import GenRequest
from halo_sql.errors import EngineError

_SAMPLE = "hello world"


class TextTokenizer:
    """The tokenizer of one embedding model; thread-safe. A control token spelled in a text stays text.

    identity  hash of the tokenizer: equal identities give equal ids
    """

    def __init__(self, tokenizer_json: str) -> None:
        self._plain = PlainText(tokenizer_json)
        self._before, self._after = _frame(tokenizer_json, self._plain.encode([_SAMPLE])[0])
        self.identity = hashlib.sha256(tokenizer_json.encode()).hexdigest()[:32]

    @classmethod
    def load(cls, folder: Path) -> TextTokenizer:
        """From tokenizer.json of a model folder; EngineError('unavailable') when it cannot be used."""
        try:
            return cls((folder / "tokenizer.json").read_text(encoding="utf-8"))
        except Exception as error:  # the tokenizers library raises bare Exception
            raise EngineError(
                f'The tokenizer in "{folder}" cannot be read: {error}',
                code="unavailable",
                remedy="The folder needs a valid tokenizer.json (a fast tokenizer).",
            ) from error

    @property
    def yes_no(self) -> tuple[list[int], list[int]]:
        """No answers are read off an embedding model."""
        return [], []

    def render_batch(self, requests: Sequence[GenRequest]) -> list[list[int]]:
        """Token ids of the user messages, in order, uncut. CPU-bound (releases the interpreter lock)."""
        return [
            [*self._before, *ids, *self._after] for ids in self._plain.encode([request.user for request in requests])
        ]

    def cut(self, ids: list[int], length_tok: int) -> list[int]:
        """At most ``length_tok`` ids: text is taken from its end, the tokenizer's own end stays."""
        if len(ids) <= length_tok:
            return ids
        end = len(self._after)
        return ids[: length_tok - end] + ids[len(ids) - end :]

    def count(self, request: GenRequest) -> int:
        """Tokens of the text, exact."""
        return len(self.render_batch([request])[0])


def _frame(tokenizer_json: str, sample: list[int]) -> tuple[list[int], list[int]]:
    """What the tokenizer puts before and behind every text."""
    from tokenizers import Tokenizer

    data: dict[str, Any] = json.loads(tokenizer_json)
    data["truncation"] = data["padding"] = None
    whole: list[int] = Tokenizer.from_str(json.dumps(data)).encode(_SAMPLE).ids
    for start in range(len(whole) - len(sample) + 1):
        if whole[start : start + len(sample)] == sample:
            return whole[:start], whole[start + len(sample) :]
    raise ValueError("its post-processor changes the text's own tokens")
